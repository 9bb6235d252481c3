"""The norms study: pre-norm and post-norm at five learning rates.

Trains GPTs of eight blocks to predict the next character of documentation,
with AdamW at a rate that is constant, or constant after a warm-up over the
first half of training.
"""

import dataclasses
import functools
import math

import ngrams
import numpy as np
import torch

import corpora
import utils

from . import runner

NUM_STEPS = 200
FEW_STEPS = 10  # of a run that is there to be repeated by a test
RATES = 5e-4, 1e-3, 2e-3, 4e-3, 8e-3
VOCAB_SIZE, WINDOW = 128, 32  # characters
ROWS = 500  # windows of validation text


@dataclasses.dataclass(frozen=True)
class Run:
    """One training; ValueError for a value that is none of a setting.

    `warmup` is a number of steps, at most all.
    """

    norm: str
    warmup: int
    lr: float
    seed: int
    num_steps: int
    corpus_digest: str

    def __post_init__(self):
        runner.check_values(self, norm=('pre', 'post'))
        runner.check_least(self, warmup=0, seed=0, num_steps=1)
        if self.warmup > self.num_steps:
            raise ValueError(
                f'warmup is {self.warmup}, more than num_steps, '
                f'{self.num_steps}'
            )
        if not 0 < self.lr < math.inf:
            raise ValueError(f'lr is {self.lr}, not in (0, inf)')

    @property
    def cost(self):
        return self.num_steps


@dataclasses.dataclass(frozen=True)
class Measured:
    """Nats per character of validation text, infinite if it diverged."""

    loss: float
    seconds: float

    def __post_init__(self):
        runner.check_least(self, loss=0)


@functools.cache
def load():
    """Characters to train on, rows of validation text, and the digest."""
    corpus = corpora.documentation()
    train, valid = (
        torch.tensor(list('\n'.join(part[:1000]).encode('ascii', 'replace')))
        for part in (corpus.train, corpus.valid)
    )
    rows = corpora.blocks(valid, WINDOW)[:ROWS]  # (ROWS, WINDOW + 1)
    return train, rows, corpora.fingerprint(corpus)


def new_gpt(norm, seed):
    """A GPT of eight blocks of width 64, untrained."""
    torch.manual_seed(seed)
    return utils.GPT(
        utils.Config(
            VOCAB_SIZE,
            num_hiddens=64,
            num_blks=8,
            max_len=WINDOW,
            pre_norm=norm == 'pre',
        )
    )


def table_loss(order):
    """Nats per character of an n-gram table that read as much as a model."""
    characters, rows, _ = load()
    read = characters[: 200 * 8 * WINDOW].numpy()
    table = ngrams.NGrams(read, VOCAB_SIZE, order)
    return -np.mean([np.log(table.probs(row)) for row in rows.numpy()])


def execute(run, options, checkpoint):
    """Train one model; ValueError for another text."""
    characters, rows, digest = load()
    if digest != run.corpus_digest:
        raise ValueError(f'the text is {digest}, not that of {run}')
    model = new_gpt(run.norm, run.seed).to(runner.device_of(options))
    history = runner.train(
        model,
        corpora.windows(characters, 8, WINDOW, run.seed),
        utils.lm_loss,
        run.num_steps,
        run.lr,
        'adamw',
        warmup=run.warmup,
        schedule='constant',
        eval_fn=lambda model: utils.evaluate(model, [rows], utils.lm_loss),
        checkpoint=checkpoint,
        shard=options.shard,
    )
    return Measured(history.eval_loss[-1], history.seconds[-1])


# ---- The plan ----


def add_options(add):
    several = runner.listed(runner.positive)
    add('--rates', type=several, default=','.join(map(str, RATES)))
    add('--seeds', type=runner.whole, default=3)


def plan(rows, options):
    """A short run first, then all rates of each design, seed by seed."""
    digest = load()[-1]
    return [
        Run('post', 0, RATES[2], 0, FEW_STEPS, digest),
        *(
            Run(norm, warmup, lr, seed, NUM_STEPS, digest)
            for seed in range(options.seeds)
            for norm in ('pre', 'post')
            for warmup in (0, NUM_STEPS // 2)
            for lr in options.rates
        ),
    ]


STUDY = runner.study_of(__name__, unit='steps')
read_runs = STUDY.read_runs
