"""The reviews study: is a film review positive, learned from few labels?

Methods without steps: the commoner class (`majority`); words, with naive
Bayes (`bayes`); a logistic regression on words counted or weighted by TF-IDF
(`counts`, `tf-idf`), on the mean of MiniLM's token embeddings (`embeddings`)
or of its representations (`frozen`). With steps: MiniLM fine-tuned
(`minilm`); a BERT of two blocks, fine-tuned from scratch (`scratch`) or
after less than a minute of masked language modeling on the training
sentences (`minute`). All that is not on words reads MiniLM's word pieces.

Every setting is tried with every number of labels; only of MiniLM's learning
rates, the one that is best in validation with 128 or 512 labels, whichever
is nearer, goes on to the other numbers.
"""

import copy
import dataclasses
import functools
import itertools
import math
import time

import torch
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB

import corpora
import utils
from corpora.batches import Examples
from finetuning import Finetuned, text_loss, text_scores
from published import load_official, load_tokenizer, packaged

from . import runner

LABELS = (16, 32, 64, 128, 512, 2048)
TITLES = {
    'majority': 'always the commoner class',
    'bayes': 'words, naive Bayes',
    'counts': 'words, counted',
    'tf-idf': 'words, TF-IDF',
    'embeddings': "MiniLM's embeddings",
    'frozen': 'MiniLM, frozen',
    'minilm': 'MiniLM, fine-tuned',
    'scratch': 'small, from scratch',
    'minute': 'small, a minute old',
}
TRIED = 128, 512  # labels with which all rates of MiniLM are tried
SETTINGS = {'majority': (1.0,), 'bayes': (0.1, 1.0, 10.0)}
for method in ('counts', 'tf-idf', 'embeddings', 'frozen'):
    SETTINGS[method] = 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0
SMALL = 'minute', 'scratch'
RATES = {'minilm': (2e-5, 1e-4, 5e-4)}
RATES |= dict.fromkeys(SMALL, (2e-4, 5e-4, 2e-3, 5e-3))
STEPS = {'minilm': (24, 24, 24, 56, 64, 128)}
STEPS |= dict.fromkeys(SMALL, (100, 100, 100, 100, 200, 512))
OTHER_STEPS = ((1e-4, 24),)  # rates and steps of MiniLM with 128 labels
BATCH_SIZE, MAX_LEN = 16, 48
PRETRAINING_STEPS = 600
ADDED = 0.3  # to each count of the unigram model
IDS = {'mask_id': 103, 'num_special': 999}  # of BERT's WordPiece vocabulary


@dataclasses.dataclass(frozen=True)
class Run:
    """One method with some labels; ValueError for what is no run.

    `setting` is the learning rate; of the methods with 0 steps C of the
    logistic regression, alpha of naive Bayes, or 1. `num_valid` and
    `num_test` are the sentences it is scored on.
    """

    method: str
    labels: int
    setting: float
    steps: int
    num_valid: int
    num_test: int
    seed: int

    def __post_init__(self):
        if self.method not in (*SETTINGS, *RATES):
            raise ValueError(f'method is {self.method!r}, which is none')
        for name in ('labels', 'setting', 'num_valid', 'num_test'):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name} is {getattr(self, name)}, not > 0')
        if (self.steps == 0) != (self.method in SETTINGS) or self.seed < 0:
            raise ValueError(f'{self.steps} steps, seed {self.seed}')

    @property
    def cost(self):
        return self.steps


@dataclasses.dataclass(frozen=True)
class Measured:
    """Accuracies; ValueError outside [0, 1]. `seconds` are of the CPU.

    `masked_loss` (nats) is that of the minute-old model on hidden word
    pieces of the test sentences, before fine-tuning; of `majority` that of
    the unigram model; else not a number.
    """

    valid_accuracy: float
    test_accuracy: float
    masked_loss: float
    seconds: float

    def __post_init__(self):
        for name in ('valid_accuracy', 'test_accuracy'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'{name} is {getattr(self, name)}')
        if self.masked_loss <= 0:
            raise ValueError(f'masked_loss is {self.masked_loss}, not > 0')


# ---- Texts ----


@functools.cache
def read():
    """The reviews of each part, MiniLM's tokenizer; ValueError if none."""
    reviews, folder = corpora.film_reviews(1), packaged('minilm')
    if reviews is None or folder is None:
        raise ValueError('the study needs the film reviews and MiniLM')
    tokenizer = load_tokenizer(folder)
    tokenizer.enable_truncation(MAX_LEN)
    tokenizer.enable_padding()
    return reviews, tokenizer


@functools.cache
def minilm():
    """The published model."""
    return load_official(packaged('minilm'))


def draw(part, number, seed=None):
    """Texts of a part and their classes, 1 if positive.

    The first `number` of them, or those of a shuffle that `seed` chooses, so
    that more labels include the fewer. Raises ValueError for too few.
    """
    texts, ratings = read()[0][part]
    if number > len(texts):
        raise ValueError(f'{part} has {len(texts)} sentences, not {number}')
    order = torch.arange(len(texts))
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(texts), generator=generator)
    order = order[:number]
    return [texts[i] for i in order], (ratings[order] > 0).long()


def word_pieces(texts, labels):
    """The ids of texts as `Examples`, padded, cut to MAX_LEN."""
    rows = read()[1].encode_batch(texts)
    X = torch.tensor([row.ids for row in rows])
    lens = torch.tensor([sum(row.attention_mask) for row in rows])
    return Examples(X, torch.zeros_like(X), lens, labels)


@torch.no_grad()
def outputs(model, data):
    """The mean of what a model gives for the tokens, a row for each text."""
    found = None
    for i in data.valid_lens.argsort().split(64):
        X, segments, lens, _ = data[i]
        width = lens.max()
        rows = text_scores(model, X[:, :width], segments[:, :width], lens)
        if found is None:
            found = rows.new_empty(len(data), rows.shape[1])
        found[i] = rows
    return found


# ---- Masked language modeling ----


def small_bert():
    """The BERT of two blocks, with the settings of the notebook on BERT."""
    vocab_size = read()[1].get_vocab_size()
    return utils.BERT(
        utils.Config(
            vocab_size,
            num_hiddens=64,
            num_blks=2,
            max_len=MAX_LEN,
            init_std=0.07,
            mlm_transform=False,
        )
    )


def unlabeled(part):
    """All sentences of a part as `Examples` without classes."""
    texts = read()[0][part].texts
    return word_pieces(texts, torch.zeros(len(texts)))


@functools.cache
def minute_old():
    """The small BERT after pretraining on all training sentences."""
    torch.manual_seed(0)
    model = small_bert()
    data, size = unlabeled('train'), model.config.vocab_size
    runner.train(
        model,
        corpora.masked_batches(data, 32, size, 0.3, **IDS),
        utils.mlm_loss,
        PRETRAINING_STEPS,
        0.01,
        betas=(0.9, 0.99),
        warmup=20,
    )
    return model


@functools.cache
def hidden(num_test):
    """Batches of the first test sentences, 15 % of their pieces hidden."""
    data, size = unlabeled('test')[:num_test], read()[1].get_vocab_size()
    batches = corpora.masked_batches(data, 32, size, 0.15, **IDS)
    return list(itertools.islice(batches, math.ceil(len(data) / 32)))


def unigram_loss(batches):
    """That of the shares of word pieces in the training sentences.

    Each piece of the vocabulary counts ADDED times more than it was seen.
    """
    X, size = unlabeled('train').X, read()[1].get_vocab_size()
    counts = X.flatten().bincount(minlength=size) + ADDED
    counts[: IDS['num_special']] = 0  # these are never hidden
    labels = torch.cat([labels[labels != -100] for *_, labels in batches])
    return -(counts / counts.sum()).log()[labels].mean().item()


def masked_loss(run):
    """The loss on hidden pieces, where the method has one."""
    if run.method == 'majority':
        return unigram_loss(hidden(run.num_test))
    if run.method == 'minute':
        batches = hidden(run.num_test)
        return utils.evaluate(minute_old(), batches, utils.mlm_loss)
    return math.nan


# ---- One run ----


def tune(model, run, data):
    """Train a model on labeled texts."""
    runner.train(
        model,
        corpora.by_length(data, BATCH_SIZE, run.seed),
        text_loss,
        run.steps,
        run.setting,
        'adamw',
        warmup=run.steps // 10,
        schedule='linear',
    )


def fine_tuned(run, data):
    """A pretrained or new BERT with a new layer, trained on labeled texts."""
    if run.method == 'minilm':
        encoder = copy.deepcopy(minilm())
    elif run.method == 'minute':
        encoder = copy.deepcopy(minute_old())
    torch.manual_seed(run.seed)
    if run.method == 'scratch':
        encoder = small_bert()
    model = Finetuned(encoder, 2)
    tune(model, run, data)
    return model


@functools.cache
def represented(method, drawn, model=None):
    """A model's means, of embeddings or of representations, of drawn texts."""
    model = model or minilm()
    states = {
        'frozen': model.encode,
        'embeddings': lambda X, segments, lens: model.token_embedding(X),
    }[method]
    return outputs(states, word_pieces(*draw(*drawn)))


def features(method, drawn, model=None):
    """What a method without steps learns from: rows for each part drawn.

    `drawn` are arguments of `draw`, first those of what is learned from;
    `model` is MiniLM, loaded if it is not given.
    """
    if method in ('embeddings', 'frozen'):
        return [represented(method, part, model) for part in drawn]
    texts = [draw(*part)[0] for part in drawn]
    bag = TfidfVectorizer() if method == 'tf-idf' else CountVectorizer()
    bag.fit(texts[0])
    return [bag.transform(part) for part in texts]


def classifier(method, setting):
    """What a method without steps learns with, of scikit-learn."""
    if method == 'majority':
        return DummyClassifier()
    if method == 'bayes':
        return MultinomialNB(alpha=setting)
    return LogisticRegression(C=setting, max_iter=5000)


def guesses(run, drawn):
    """The classes that a trained method gives to the texts of two parts."""
    labels = draw(*drawn[0])[1]
    if run.method in SETTINGS:
        known, *others = features(run.method, drawn)
        learned = classifier(run.method, run.setting).fit(known, labels)
        return [torch.tensor(learned.predict(part)) for part in others]
    known, *others = (word_pieces(*draw(*part)) for part in drawn)
    model = fine_tuned(run, known)
    return [outputs(model, part).argmax(1) for part in others]


def accuracies(run):
    """The accuracies in validation and test of one run."""
    drawn = [
        ('train', run.labels, run.seed),
        ('validation', run.num_valid),
        ('test', run.num_test),
    ]
    return [
        (guessed == draw(*part)[1]).double().mean().item()
        for guessed, part in zip(guesses(run, drawn), drawn[1:], strict=True)
    ]


def execute(run, options, checkpoint):
    """Train and score one classifier, on the CPU."""
    began = time.process_time()
    valid, test = accuracies(run)
    loss = masked_loss(run)
    return Measured(valid, test, loss, time.process_time() - began)


# ---- The plan ----


def add_options(add):
    add('--seeds', type=runner.whole, default=3)
    add('--num-valid', type=runner.whole, default=200)
    add('--num-test', type=runner.whole, default=800)


def usual_steps(method, labels):
    """Those of a method with this number of labels, but for OTHER_STEPS."""
    return STEPS[method][LABELS.index(labels)] if method in STEPS else 0


def best_setting(rows, method, labels):
    """The setting with the best mean accuracy in validation; 0 if none."""
    tried, steps = {}, usual_steps(method, labels)
    for run, measured, _ in rows:
        if (run.method, run.labels, run.steps) == (method, labels, steps):
            tried.setdefault(run.setting, []).append(measured.valid_accuracy)
    return max(tried, key=lambda s: sum(tried[s]) / len(tried[s]), default=0)


def plan(rows, options):
    """All settings, then MiniLM's best rates with other numbers of labels."""

    def runs(method, labels, settings, steps=None):
        steps = steps or usual_steps(method, labels)
        sizes = options.num_valid, options.num_test
        return [
            Run(method, labels, setting, steps, *sizes, seed)
            for seed in range(options.seeds)
            for setting in settings
        ]

    every = SETTINGS | {method: RATES[method] for method in SMALL}
    first = [
        run
        for labels in LABELS
        for method, settings in every.items()
        for run in runs(method, labels, settings)
    ]
    rates = RATES['minilm']
    for labels in TRIED:
        first += runs('minilm', labels, rates)
    for rate, steps in OTHER_STEPS:
        first += runs('minilm', TRIED[0], [rate], steps)
    if set(first) - {row.run for row in rows}:
        return first
    others = []
    for labels in sorted(set(LABELS) - set(TRIED)):
        nearest = min(TRIED, key=lambda tried: abs(tried - labels))
        rate = best_setting(rows, 'minilm', nearest)
        others += runs('minilm', labels, [rate])
    return first + others


def chosen(data):
    """The rows of the setting that is best in validation.

    Takes the table of `read_runs`; for each method and number of labels, the
    setting of the highest mean over the seeds, which the test had no part
    in. Runs with OTHER_STEPS are left out.
    """
    usual = map(usual_steps, data.method, data.labels)
    data = data[data.steps == list(usual)]
    mean = data.groupby(['method', 'labels', 'setting']).valid_accuracy.mean()
    best = set(mean.groupby(['method', 'labels']).idxmax())
    keys = zip(data.method, data.labels, data.setting, strict=True)
    return data[[key in best for key in keys]]


STUDY = runner.study_of(__name__, unit='steps')
read_runs = STUDY.read_runs
