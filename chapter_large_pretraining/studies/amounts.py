"""The amounts study: loss against the amount of text, equal for all.

The GPT of the chapter, interpolated n-grams and xz read the same beginning
of the documentation, its documents in a random order, and are measured in
bits per byte of all validation documents. A GPT may read it several times.
"""

import dataclasses
import functools
import time

import ngrams
import numpy as np
import torch
from torch.nn import functional as F

import corpora
import utils

from . import runner

PASSES = {  # of a GPT, for each number of tokens: one, and more steps
    2**15: (1, 4, 16),
    2**17: (1, 8),
    2**19: (1, 2),
    2**20: (1, 2),
    9 * 2**18: (1, 2),
}
VOCAB_SIZE, BATCH_SIZE, WINDOW = 1024, 16, 64
ORDERS = {'unigram': 1, 'bigram': 2, 'trigram': 3, '5-gram': 5}
MODELS = 'GPT', *ORDERS, 'xz'


def small_config():
    """The GPT of the chapter: three blocks of width 96."""
    return utils.Config(VOCAB_SIZE, 96, 3, 3, max_len=WINDOW)


@dataclasses.dataclass(frozen=True)
class Run:
    """One model and how much it reads; ValueError for values out of range.

    `num_tokens` is a whole number of batches. Only a GPT reads its text in
    more than one of the `passes`. `seed` orders the documents, and draws
    the GPT's weights and batches.
    """

    model: str
    num_tokens: int
    passes: int
    seed: int
    corpus_digest: str

    def __post_init__(self):
        runner.check_values(self, model=MODELS)
        runner.check_least(self, num_tokens=2**13, passes=1, seed=0)
        if self.num_tokens % (BATCH_SIZE * WINDOW):
            raise ValueError(
                f'num_tokens is {self.num_tokens}, not a multiple of '
                f'{BATCH_SIZE * WINDOW}'
            )
        if self.passes > 1 and self.model != 'GPT':
            raise ValueError(f'passes is {self.passes} for {self.model}')

    @property
    def num_steps(self):
        return self.num_tokens * self.passes // (BATCH_SIZE * WINDOW)

    @property
    def cost(self):
        """Steps of a GPT, and a few for the others."""
        return self.num_steps if self.model == 'GPT' else 10


@dataclasses.dataclass(frozen=True)
class Measured:
    """Bits per byte of the validation text; ValueError below 0."""

    bits_per_byte: float
    seconds: float

    def __post_init__(self):
        runner.check_least(self, bits_per_byte=0)


# ---- The text, and how it is read ----


@functools.cache
def load():
    """Tokens of each training document, of all others, texts and digest."""
    corpus = corpora.documentation()
    train, valid = corpora.documentation_tokens(corpus)
    starts = train.eq(corpora.BOS).nonzero().flatten()
    train = train.tensor_split(starts[1:])
    texts = corpus.train, '\n'.join(corpus.valid)
    return train, valid, texts, corpora.fingerprint(corpus)


def beginning(num_tokens, seed):
    """The first tokens of the documents in a random order, and their text.

    The text holds the documents that have a token among them, the last one
    whole. Raises ValueError if there are not so many tokens.
    """
    documents, _, (texts, _), _ = load()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(documents), generator=generator).tolist()
    tokens = torch.cat([documents[i] for i in order])
    if len(tokens) < num_tokens:
        raise ValueError(f'{len(tokens)} tokens, fewer than {num_tokens}')
    ends = torch.tensor([len(documents[i]) for i in order]).cumsum(0)
    used = int((ends < num_tokens).sum()) + 1
    return tokens[:num_tokens], '\n'.join(texts[i] for i in order[:used])


def passes_over(tokens, num_passes, seed=0):
    """Batches that hold each token once a pass, cut anew for every pass.

    Yields `num_passes` times the whole number of batches in `tokens`, each
    (BATCH_SIZE, WINDOW + 1). The text counts as a circle.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_passes):
        offset = int(torch.randint(WINDOW, (), generator=generator))
        circle = torch.cat((tokens.roll(-offset), tokens[offset][None]))
        rows = corpora.blocks(circle, WINDOW)
        yield from rows[torch.randperm(len(rows), generator=generator)].split(
            BATCH_SIZE
        )


@torch.no_grad()
def log_probs(model, tokens, num_steps=WINDOW):
    """Log-probabilities of tokens 1, 2, ... given those before, in nats.

    The window slides by half its length, so that all but the first tokens
    are predicted from at least half a window. The last tokens, which fill
    no half window, are left out. Returns (num_tokens - 1 or fewer,).
    """
    half = num_steps // 2
    rows = tokens.unfold(0, num_steps + 1, half)  # overlapping
    log_p = torch.empty(len(rows), num_steps)
    for X, part in zip(rows.split(50), log_p.split(50), strict=True):
        logits, labels = model(X[:, :-1]), X[:, 1:]
        part.copy_(-F.cross_entropy(logits.mT, labels, reduction='none'))
    return torch.cat((log_p[0, :half], log_p[:, half:].flatten()))


def train_gpt(run, tokens, options, checkpoint):
    torch.manual_seed(run.seed)
    model = utils.GPT(small_config()).to(runner.device_of(options))
    runner.train(
        model,
        passes_over(tokens, run.passes, run.seed),
        utils.lm_loss,
        run.num_steps,
        0.015,
        betas=(0.9, 0.99),
        warmup=min(20, run.num_steps // 5),
        checkpoint=checkpoint,
        shard=options.shard,
    )
    return model


def execute(run, options, checkpoint):
    """Train or count, and measure; ValueError for another text."""
    _, valid, (_, text), digest = load()
    if digest != run.corpus_digest:
        raise ValueError(f'the text is {digest}, not that of {run}')
    began = time.process_time()
    tokens, read = beginning(run.num_tokens, run.seed)
    if run.model == 'xz':
        bits = ngrams.xz_bits(read, text) / len(text.encode())
    else:
        if run.model == 'GPT':
            model = train_gpt(run, tokens, options, checkpoint)
            device = next(model.parameters()).device
            log_p = log_probs(model, valid.to(device)).double().cpu().numpy()
        else:
            model = ngrams.NGrams(tokens, VOCAB_SIZE, ORDERS[run.model])
            log_p = np.log(model.probs(valid))
        bits = ngrams.bits_per_byte(log_p, len(valid), text)
    return Measured(bits, time.process_time() - began)


# ---- The plan ----


def add_options(add):
    add('--seeds', type=runner.whole, default=3)


def plan(rows, options):
    """Seed by seed, from the smallest amount: the first is the cheapest."""
    digest = load()[-1]
    found = []
    for seed in range(options.seeds):
        for num_tokens, several in PASSES.items():
            found += [
                Run('GPT', num_tokens, passes, seed, digest)
                for passes in several
            ]
            found += [
                Run(name, num_tokens, 1, seed, digest) for name in MODELS[1:]
            ]
    return found


STUDY = runner.study_of(
    __name__,
    describe=lambda run: f'{run.model}, {run.num_tokens} x {run.passes}',
    unit='steps',
)
read_runs = STUDY.read_runs
