"""The reviews study: is a film review positive, learned from few labels?

Methods: words counted or weighted by TF-IDF, then a logistic regression
(`counts`, `tf-idf`); the same on the mean representation of all-MiniLM-L6-v2
(`frozen`); that model fine-tuned (`minilm`); a BERT of two blocks, fine-tuned
from scratch (`scratch`) or after about a minute of masked language modeling
on the training sentences (`minute`). All but the first two read MiniLM's
WordPiece ids. Of several learning rates, the one that is best in validation
with 128 labels goes on to the other numbers of labels.
"""

import copy
import dataclasses
import functools
import time

import torch
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression

import corpora
import utils
from corpora.batches import Examples
from finetuning import Finetuned, text_loss, text_scores
from published import load_official, load_tokenizer, packaged

from . import runner

LABELS = (16, 32, 64, 128, 512, 2048)
TRIED = 128  # the number of labels with which all rates are tried
RATES = {'minilm': (2e-5, 1e-4, 5e-4), 'minute': (5e-4, 2e-3)}
RATES['scratch'] = RATES['minute']
STEPS = {'minilm': (24, 24, 24, 56, 64, 128)}
STEPS['minute'] = STEPS['scratch'] = (100, 100, 100, 100, 200, 512)
BAGS = {'counts': CountVectorizer, 'tf-idf': TfidfVectorizer}
LINEAR = (*BAGS, 'frozen')
C = 0.1, 1.0, 10.0  # of the logistic regressions
BATCH_SIZE, MAX_LEN = 16, 48
PRETRAINING_STEPS = 600
IDS = {'mask_id': 103, 'num_special': 999}  # of BERT's WordPiece vocabulary


@dataclasses.dataclass(frozen=True)
class Run:
    """One method with some labels; ValueError for what is no run.

    `setting` is the learning rate, or C of a logistic regression, which has
    0 steps. `num_valid` and `num_test` are the sentences it is scored on.
    """

    method: str
    labels: int
    setting: float
    steps: int
    num_valid: int
    num_test: int
    seed: int

    def __post_init__(self):
        if self.method not in (*LINEAR, *RATES):
            raise ValueError(f'method is {self.method!r}, which is none')
        for name in ('labels', 'setting', 'num_valid', 'num_test'):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name} is {getattr(self, name)}, not > 0')
        if (self.steps == 0) != (self.method in LINEAR) or self.seed < 0:
            raise ValueError(f'{self.steps} steps, seed {self.seed}')

    @property
    def cost(self):
        return self.steps


@dataclasses.dataclass(frozen=True)
class Measured:
    """Accuracies; ValueError outside [0, 1]. `seconds` are of the CPU."""

    valid_accuracy: float
    test_accuracy: float
    seconds: float

    def __post_init__(self):
        for name in ('valid_accuracy', 'test_accuracy'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'{name} is {getattr(self, name)}')


# ---- Texts ----


@functools.cache
def read():
    """The reviews of each part, MiniLM, its tokenizer; ValueError if none."""
    reviews, folder = corpora.film_reviews(1), packaged('minilm')
    if reviews is None or folder is None:
        raise ValueError('the study needs the film reviews and MiniLM')
    tokenizer = load_tokenizer(folder)
    tokenizer.enable_truncation(MAX_LEN)
    tokenizer.enable_padding()
    return reviews, load_official(folder), tokenizer


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
    rows = read()[2].encode_batch(texts)
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


# ---- One run ----


def small_bert():
    """The BERT of two blocks, with the settings of the notebook on BERT."""
    vocab_size = read()[1].config.vocab_size
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


@functools.cache
def minute_old():
    """The small BERT after pretraining on all training sentences."""
    texts = read()[0]['train'].texts
    data = word_pieces(texts, torch.zeros(len(texts)))
    torch.manual_seed(0)
    model = small_bert()
    runner.train(
        model,
        corpora.masked_batches(data, 32, model.config.vocab_size, 0.3, **IDS),
        utils.mlm_loss,
        PRETRAINING_STEPS,
        0.01,
        betas=(0.9, 0.99),
        warmup=20,
    )
    return model


def fine_tuned(run, data):
    """A pretrained or new BERT with a new layer, trained on labeled texts."""
    if run.method == 'minilm':
        encoder = copy.deepcopy(read()[1])
    elif run.method == 'minute':
        encoder = copy.deepcopy(minute_old())
    torch.manual_seed(run.seed)
    if run.method == 'scratch':
        encoder = small_bert()
    model = Finetuned(encoder, 2)
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
    return model


@functools.cache
def represented(*drawn):
    """MiniLM's mean representations of the texts that `draw` draws."""
    return outputs(read()[1].encode, word_pieces(*draw(*drawn)))


def guesses(run, drawn):
    """The classes that a trained method gives to the texts of two parts."""
    (texts, labels), *others = (draw(*part) for part in drawn)
    if run.method not in LINEAR:
        model = fine_tuned(run, word_pieces(texts, labels))
        data = [word_pieces(*part) for part in others]
        return [outputs(model, part).argmax(1) for part in data]
    if run.method in BAGS:
        bag = BAGS[run.method]().fit(texts)
        features = [bag.transform(texts)]
        features += [bag.transform(part) for part, _ in others]
    else:
        features = [represented(*part) for part in drawn]
    linear = LogisticRegression(C=run.setting, max_iter=2000)
    linear.fit(features[0], labels)
    return [torch.tensor(linear.predict(part)) for part in features[1:]]


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
    return Measured(valid, test, time.process_time() - began)


# ---- The plan ----


def add_options(add):
    add('--seeds', type=runner.whole, default=3)
    add('--num-valid', type=runner.whole, default=200)
    add('--num-test', type=runner.whole, default=800)


def best_setting(rows, method, labels):
    """The setting with the best mean accuracy in validation; 0 if none."""
    tried = {}
    for run, measured, _ in rows:
        if (run.method, run.labels) == (method, labels):
            tried.setdefault(run.setting, []).append(measured.valid_accuracy)
    return max(tried, key=lambda s: sum(tried[s]) / len(tried[s]), default=0)


def plan(rows, options):
    """Logistic regressions, then all rates, then the best ones."""

    def runs(method, labels, settings):
        steps = 0
        if method in STEPS:
            steps = STEPS[method][LABELS.index(labels)]
        sizes = options.num_valid, options.num_test
        return [
            Run(method, labels, setting, steps, *sizes, seed)
            for seed in range(options.seeds)
            for setting in settings
        ]

    linear = [run for n in LABELS for m in LINEAR for run in runs(m, n, C)]
    tried = [run for m in RATES for run in runs(m, TRIED, RATES[m])]
    if set(tried) - {row.run for row in rows}:
        return linear + tried
    others = []
    for method in RATES:
        rate = best_setting(rows, method, TRIED)
        for labels in sorted(set(LABELS) - {TRIED}):
            others += runs(method, labels, [rate])
    long = max(LABELS)
    others.sort(key=lambda run: (run.labels == long, run.seed))
    return linear + tried + others


def chosen(data):
    """The rows of the setting that is best in validation.

    Takes the table of `read_runs`; for each method and number of labels, the
    setting of the highest mean over the seeds, which the test had no part
    in.
    """
    mean = data.groupby(['method', 'labels', 'setting']).valid_accuracy.mean()
    best = set(mean.groupby(['method', 'labels']).idxmax())
    keys = zip(data.method, data.labels, data.setting, strict=True)
    return data[[key in best for key in keys]]


STUDY = runner.Study(
    name='reviews',
    about=__doc__,
    Run=Run,
    Measured=Measured,
    add_options=add_options,
    plan=plan,
    execute=execute,
    unit='steps',
)
read_runs = STUDY.read_runs
