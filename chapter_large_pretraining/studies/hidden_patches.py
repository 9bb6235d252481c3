"""The study of hidden patches: what MAE's pretraining is worth.

Pretrains masked autoencoders on digits without labels, measures how well they
paint hidden patches, and lets their encoders learn from a few labels, beside
encoders that start from nothing.
"""

import dataclasses
import functools
import math
import time

import torch
from sklearn.linear_model import LogisticRegression

import corpora
import pictures
import utils

from . import runner
from .digits import load

SIZE, NUM_PATCHES, NUM_KEPT = 4, 36, 9  # of 24 x 24 pixels
FEW_STEPS = 10  # of a run that is there to be repeated by a test
NUM_STEPS = 3500
TUNING = 300  # steps with labels
RATES = (0.002, 0.006)  # of these the better on validation is taken
FEW, MORE = 100, 400  # labels
CHANGES = {
    'from scratch': {'num_steps': 0},
    'from scratch, twice the steps': {
        'num_steps': 0,
        'tuning_steps': 2 * TUNING,
    },
    'from scratch, five times the steps': {
        'num_steps': 0,
        'tuning_steps': 5 * TUNING,
    },
    'MAE': {'num_steps': NUM_STEPS},
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One pretraining and its uses; ValueError for steps below 0.

    `num_steps` are those without labels, `tuning_steps` those with labels.
    """

    change: str
    seed: int
    num_steps: int
    tuning_steps: int = TUNING

    def __post_init__(self):
        runner.check_least(self, seed=0, num_steps=0, tuning_steps=1)

    @property
    def cost(self):
        """Steps of training, with labels and without."""
        return self.num_steps + len(RATES) * self.tuning_steps


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out of a run; ValueError for a number below 0.

    `error` is the mean squared error of hidden pixels of the test pictures,
    infinite after divergence. The others are accuracies on the test pictures,
    after 100 or 400 labels: `frozen` of a logistic regression on the mean of
    the patches, `tuned` of the whole encoder at the better of the rates.
    """

    error: float
    frozen_100: float
    frozen_400: float
    tuned_100: float
    seconds: float

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f'{name} is {value}, below 0')


# ---- Data and models ----


@functools.cache
def middles():
    """The middle of the pictures of each part, as (X, y)."""
    return {name: (X[:, 2:26, 2:26], y) for name, (X, y) in load().items()}


def hide_most(X, generator, turned=True):
    """A batch: pictures, distorted or not, and the patches that stay."""
    kept = pictures.choose_patches(len(X), NUM_PATCHES, NUM_KEPT, generator)
    return pictures.distort(X, generator) if turned else X, kept


def test_batch():
    """The test pictures, and the patches of each that stay."""
    generator = torch.Generator().manual_seed(0)
    return hide_most(middles()['test'][0], generator, turned=False)


def build(seed):
    """An MAE, its weights drawn from the seed."""
    torch.manual_seed(seed)
    shape = {'num_heads': 4, 'max_len': NUM_PATCHES, 'init_std': 0.1}
    wide = utils.Config(10, num_hiddens=64, num_blks=3, **shape)
    narrow = utils.Config(10, num_hiddens=32, num_blks=2, **shape)
    return pictures.MAE(pictures.ViT(wide, SIZE, False), narrow)


@torch.no_grad()
def features(encoder, X):
    """The mean of all patches as the encoder leaves them."""
    with utils.evaluation_mode(encoder):
        return torch.cat(
            [encoder.encode(part).mean(1) for part in X.split(250)]
        )


def labeled(number, seed):
    """So many pictures with labels, equally many of each digit."""
    X, y = middles()['fewer']
    rows = corpora.in_turns(y, seed)[:number]
    return X[rows], y[rows]


def frozen(encoder, number, seed):
    """Accuracy of a logistic regression on frozen features."""
    X, y = labeled(number, seed)
    Z, z = middles()['test']
    inputs, asked = features(encoder, X), features(encoder, Z)
    mean, std = inputs.mean(0), inputs.std(0) + 1e-6
    model = LogisticRegression(max_iter=2000, C=0.1)
    model.fit((inputs - mean) / std, y)
    return float(model.score((asked - mean) / std, z))


def tuned(run, start, number):
    """Test accuracy after fine-tuning at the rate that validation prefers."""
    X, y = labeled(number, run.seed)
    found = []
    for lr in RATES:
        model = build(run.seed).encoder
        model.load_state_dict(start)
        utils.train(
            model,
            corpora.random_rows(
                X,
                y,
                batch_size=32,
                seed=run.seed,
                batch_fn=pictures.distorted,
            ),
            pictures.class_loss,
            run.tuning_steps,
            lr,
            warmup=min(20, run.tuning_steps // 2),
        )
        found.append(
            [
                pictures.share_right(model, *middles()[part])
                for part in ('last', 'test')
            ]
        )
    return max(found)[1]


def execute(run, options, checkpoint):
    """Pretrain one model and use it."""
    began = time.process_time()
    model, error = build(run.seed), math.inf
    if run.num_steps:
        history = runner.train(
            model,
            corpora.random_rows(
                middles()['fewer'][0],
                batch_size=64,
                seed=run.seed,
                batch_fn=hide_most,
            ),
            pictures.mae_loss,
            run.num_steps,
            0.01,
            warmup=min(50, run.num_steps // 2),
            checkpoint=checkpoint,
            shard=options.shard,
        )
        if history.loss[-1] == math.inf:
            return Measured(math.inf, 0.0, 0.0, 0.0, history.seconds[-1])
    error = utils.evaluate(model, [test_batch()], pictures.mae_loss)
    start = model.encoder.state_dict()
    return Measured(
        error,
        *(frozen(model.encoder, n, run.seed) for n in (FEW, MORE)),
        tuned(run, start, FEW),
        seconds=time.process_time() - began,
    )


# ---- The plan ----


def add_options(add):
    names = ';'.join(CHANGES)
    kind = runner.one_of(CHANGES, '; ')
    split = lambda text: [kind(part) for part in text.split(';')]
    add('--changes', type=split, default=names)
    add('--seeds', type=runner.whole, default=3)


def plan(rows, options):
    """A short run first, then every change with every seed."""
    return [
        Run('MAE', 0, FEW_STEPS, FEW_STEPS),
        *(
            Run(name, seed, **CHANGES[name])
            for seed in range(options.seeds)
            for name in options.changes
        ),
    ]


STUDY = runner.study_of(
    __name__,
    describe=lambda run: f'{run.change}, {run.num_steps} steps, {run.seed}',
    unit='steps',
)
read_runs = STUDY.read_runs
