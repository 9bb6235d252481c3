"""How well SmolLM2 predicts the documentation, in bits per byte.

The text is the beginning of the validation documents. SmolLM2 is used as it
was published, and may have read what it is tested on. Its rivals, n-grams and
xz, have read the training documents.
"""

import dataclasses
import math
import time

import ngrams
import numpy as np
import torch
from torch.nn import functional as F

import corpora
import published

from . import runner

LENGTHS = '2000,10000,60000'
ORDERS = {'trigram': 3, '5-gram': 5}
MODELS = 'smollm2', *ORDERS, 'xz'


@dataclasses.dataclass(frozen=True)
class Run:
    """A model and a text; ValueError for another model and sizes below 1.

    `sha256` is that of the model's weights, if it has any. Texts are cut into
    windows of `num_steps` tokens; n-grams and xz are not cut.
    """

    model: str
    sha256: str
    corpus: str
    corpus_digest: str
    characters: int
    num_steps: int

    def __post_init__(self):
        runner.check_values(self, model=MODELS)
        runner.check_least(self, characters=1, num_steps=1)

    @property
    def cost(self):
        return self.characters


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out of a run."""

    num_tokens: int
    num_bytes: int
    bits_per_byte: float
    seconds: float


@torch.no_grad()
def text_bits(model, tokenizer, text, num_steps=512):
    """Bits that `model` needs for `text`, and how many tokens it has.

    Windows of `num_steps` tokens follow each other, each after the id 0,
    which ends a document. Scores are computed for 64 positions at a time: a
    large vocabulary makes them large.
    """
    device, nats = next(model.parameters()).device, 0.0
    ids = torch.tensor(tokenizer.encode(text).ids, device=device)
    for labels in ids.split(num_steps):
        X = F.pad(labels[:-1], (1, 0))[None]  # (1, num_steps)
        parts = model.encode(X)[0].split(64)
        for H, Y in zip(parts, labels.split(64), strict=True):
            nats += F.cross_entropy(model.head(H), Y, reduction='sum').item()
    return nats / math.log(2), len(ids)


def validation_text(characters):
    """The first `characters` of the validation documents, and the corpus."""
    corpus = corpora.documentation()
    return '\n'.join(corpus.valid)[:characters], corpus


def rival_bits(model, corpus, text):
    """Bits for `text` after the training documents, and how many tokens."""
    tokenizer = corpora.documentation_tokenizer(corpus)
    tokens = corpora.encode(tokenizer, [text])
    if model == 'xz':
        known = '\n'.join(corpus.train) + '\n'
        return ngrams.xz_bits(known, text), len(tokens)
    train = corpora.encode(tokenizer, corpus.train)
    ngram = ngrams.NGrams(train, tokenizer.get_vocab_size(), ORDERS[model])
    log_p = np.log(ngram.probs(tokens))  # of all but the first ones
    per_byte = ngrams.bits_per_byte(log_p, len(tokens), text)
    return per_byte * len(text.encode()), len(tokens)


def add_options(add):
    several = runner.listed(runner.whole)
    add('--characters', type=several, default=LENGTHS, help='of the text')
    add('--num-steps', type=runner.whole, default=512, help='of a window')
    names = runner.listed(runner.one_of(MODELS))
    add('--models', type=names, default=','.join(MODELS), help='to measure')


def plan(rows, options):
    """One run for each length and model; ValueError without SmolLM2."""
    if 'smollm2' in options.models and published.packaged('smollm2') is None:
        raise ValueError('this study needs SmolLM2')
    corpus = corpora.documentation()
    return [
        Run(
            model=model,
            sha256=sha256_of(model),
            corpus=corpus.name,
            corpus_digest=corpora.fingerprint(corpus),
            characters=characters,
            num_steps=options.num_steps,
        )
        for characters in sorted(options.characters)
        for model in options.models
    ]


def sha256_of(model):
    return published.PACKAGED[model].sha256 if model == 'smollm2' else ''


def execute(run, options, checkpoint):
    """Score the text; ValueError for another text or model."""
    text, corpus = validation_text(run.characters)
    found = corpora.fingerprint(corpus), sha256_of(run.model)
    if found != (run.corpus_digest, run.sha256):
        raise ValueError(f'text or model are not those of {run}')
    if run.model == 'smollm2':
        path = published.packaged('smollm2')
        if path is None:
            raise ValueError('this study needs SmolLM2')
        model = published.load_official(path).to(runner.device_of(options))
        tokenizer = published.load_tokenizer(path)
        start = time.process_time()
        bits, num_tokens = text_bits(model, tokenizer, text, run.num_steps)
    else:
        start = time.process_time()
        bits, num_tokens = rival_bits(run.model, corpus, text)
    num_bytes = len(text.encode())
    seconds = time.process_time() - start
    return Measured(num_tokens, num_bytes, bits / num_bytes, seconds)


STUDY = runner.study_of(__name__, unit='characters')
read_runs = STUDY.read_runs
