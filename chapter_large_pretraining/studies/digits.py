"""The digits study: how many pictures a ViT needs beside its rivals.

Trains Vision Transformers, convolutional networks and Swin Transformers on
100 to 4,000 digits of MNIST, as they are or distorted anew at every step,
fits a support vector machine and asks the nearest neighbors; and the same
with the patches of all pictures in another order.
"""

import dataclasses
import functools
import math
import time

import torch
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

import corpora
import pictures
import utils

from . import runner

NUM_STEPS = 1500
FEW_STEPS = 20  # of a run that is there to be repeated by a test
BATCH_SIZE = 32
SIZE = 7  # pixels on each side of a patch
AMOUNTS = (100, 400, 1600, 4000)
COPIES, IN_ALL = 4, 6400  # the least distorted ones, for what has no steps
FITTED = ('svm', 'nearest')
RATES = {'vit': 0.01, 'cnn': 0.006, 'swin': 0.01}
CHANGES = {
    'ViT': {},
    'CNN': {'model': 'cnn'},
    'SVM': {'model': 'svm'},
    'nearest': {'model': 'nearest'},
    'mean of patches': {'pool': 'mean'},
    'no positions': {'positions': 0},
    'Swin': {'model': 'swin'},
    'windows that stay': {'model': 'swin', 'shifted': 0},
    'all pairs': {'model': 'swin', 'window': 8},
    'ViT, higher rate': {'lr': 3 * RATES['vit']},
    'CNN, higher rate': {'model': 'cnn', 'lr': 3 * RATES['cnn']},
}
AMOUNT = 'ViT', 'CNN', 'SVM', 'nearest'
VARIANTS = [name for name in CHANGES if name not in AMOUNT]


@dataclasses.dataclass(frozen=True)
class Run:
    """One training; ValueError for a value that is none of a setting.

    `change` names what differs from the defaults. With `distorted` 1 every
    picture is turned, stretched and moved anew whenever it is trained on,
    with `shuffled` 1 the patches of all pictures stand in one other order.
    Scores are those of the part `scored`; 'validation' is the last 500 of
    the training part. Swin has `window` x `window` patches in a window; a
    `positions` of 0 leaves out the position embedding of a ViT. What is
    fitted without steps has 0 of them.
    """

    change: str
    seed: int
    num_pictures: int = 4000
    num_steps: int = NUM_STEPS
    model: str = 'vit'
    lr: float = RATES['vit']
    distorted: int = 0
    shuffled: int = 0
    pool: str = 'class'
    positions: int = 1
    shifted: int = 1
    window: int = 4
    scored: str = 'test'

    def __post_init__(self):
        runner.check_values(
            self,
            model=('vit', 'cnn', 'swin', *FITTED),
            distorted=(0, 1),
            shuffled=(0, 1),
            pool=('class', 'mean'),
            positions=(0, 1),
            shifted=(0, 1),
            window=(2, 4, 8),
            scored=('test', 'validation'),
        )
        fitted = self.model in FITTED
        least = 10 if fitted else BATCH_SIZE
        runner.check_least(
            self, seed=0, num_steps=int(not fitted), num_pictures=least
        )
        most = 4000 if self.scored == 'test' else 3500
        if self.num_pictures > most:
            raise ValueError(f'num_pictures is {self.num_pictures}, > {most}')
        if not 0 < self.lr < math.inf:
            raise ValueError(f'lr is {self.lr}, not above 0')

    @property
    def cost(self):
        """Steps of training."""
        return max(1, self.num_steps)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out of a run; ValueError for a number below 0.

    `accuracy` is the share of pictures that are recognized. A model has
    `parameters`, and does so many `products` of two numbers for one picture;
    both are 0 for what is fitted without steps. After divergence the
    accuracy is 0.
    """

    accuracy: float
    parameters: int
    products: int
    seconds: float

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f'{name} is {value}, below 0')


# ---- Data ----


@functools.cache
def load():
    """The parts of the digits, pixels from 0 to 1, as (X, y)."""
    parts = {
        part: (digits.pictures / 255.0, digits.labels)
        for part, digits in corpora.mnist().items()
    }
    X, y = parts['train']
    return parts | {
        'fewer': (X[:3500], y[:3500]),
        'last': (X[3500:], y[3500:]),
    }


def shuffle(X, seed=0):
    """All pictures with their patches in one other order."""
    P = pictures.patches(X, SIZE)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(P.shape[1], generator=generator)
    return pictures.from_patches(P[:, order], X.shape[1])


def data_of(run):
    """Pictures and labels to train on, and those to score.

    A Swin Transformer gets the middle, 24 x 24 pixels. Of fewer pictures
    than there are the seed draws which, equally many of each digit.
    """
    names = ('train', 'test') if run.scored == 'test' else ('fewer', 'last')
    (X, y), (Z, z) = (load()[name] for name in names)
    rows = corpora.in_turns(y, run.seed)[: run.num_pictures]
    X, y = X[rows], y[rows]
    if run.shuffled:
        X, Z = shuffle(X), shuffle(Z)
    if run.model == 'swin':
        X, Z = X[:, 2:26, 2:26], Z[:, 2:26, 2:26]
    return X, y, Z, z


# ---- Models ----


def build(run):
    """The model of a run, its weights drawn from the run's seed."""
    torch.manual_seed(run.seed)
    if run.model == 'cnn':
        return pictures.CNN()
    if run.model == 'swin':
        first, second = (
            utils.Config(
                10, num_hiddens=width, num_heads=heads, num_blks=2, max_len=1
            )
            for width, heads in ((32, 2), (64, 4))
        )
        return pictures.Swin(
            (first, second), 3, 8, run.window, run.shifted == 1
        )
    num_steps = 17 if run.pool == 'class' else 16
    config = utils.Config(
        10, num_hiddens=64, num_heads=4, num_blks=3, max_len=num_steps
    )
    model = pictures.ViT(config, SIZE, run.pool == 'class')
    if not run.positions:
        model.pos_embedding.weight.data.zero_()
        model.pos_embedding.weight.requires_grad_(False)
    return model


def equal_steps(run):
    """The steps in which a run computes as much as the ViT in its own."""
    ours, plain = (
        pictures.count_products(build(each)) for each in (run, Run('ViT', 0))
    )
    return round(NUM_STEPS * plain / ours)


def fit(run, X, y):
    """A support vector machine or the three nearest neighbors."""
    model = SVC(C=5.0)
    if run.model == 'nearest':
        model = KNeighborsClassifier(3)
    if run.distorted:
        generator = torch.Generator().manual_seed(run.seed)
        number = max(COPIES, IN_ALL // len(X))
        copies = [pictures.distort(X, generator) for _ in range(number)]
        X, y = torch.cat((X, *copies)), y.repeat(1 + number)
    return model.fit(X.flatten(1), y)


def execute(run, options, checkpoint):
    """Train or fit one model and score it."""
    began = time.process_time()
    X, y, Z, z = data_of(run)
    if run.model in FITTED:
        share = float(fit(run, X, y).score(Z.flatten(1), z))
        return Measured(share, 0, 0, time.process_time() - began)
    model = build(run)
    device = runner.device_of(options)
    model = model.to(device)
    history = runner.train(
        model,
        corpora.random_rows(
            X,
            y,
            batch_size=BATCH_SIZE,
            seed=run.seed,
            batch_fn=pictures.distorted if run.distorted else None,
        ),
        pictures.class_loss,
        run.num_steps,
        run.lr,
        'adamw' if run.model == 'cnn' else 'muon',
        warmup=min(20, run.num_steps // 2),
        checkpoint=checkpoint,
        shard=options.shard,
    )
    share = 0.0
    if history.loss[-1] < math.inf:
        share = pictures.share_right(model, Z.to(device), z.to(device))
    return Measured(
        accuracy=share,
        parameters=sum(
            p.numel() for p in model.parameters() if p.requires_grad
        ),
        products=pictures.count_products(model),
        seconds=time.process_time() - began,
    )


# ---- The plan ----


def add_options(add):
    add('--steps', type=runner.whole, default=NUM_STEPS)
    add('--seeds', type=runner.whole, default=3)


def run_of(change, seed, steps=NUM_STEPS, **more):
    """A run by the name of its change, with the rate of its model."""
    settings = CHANGES[change] | more
    model = settings.get('model', 'vit')
    steps = 0 if model in FITTED else steps
    lr = settings.pop('lr', RATES.get(model, 1.0))
    return Run(change, seed, num_steps=steps, lr=lr, **settings)


def plan(rows, options):
    """A short run first, then rates on other pictures, then all seeds."""
    steps, seeds = options.steps, range(options.seeds)
    runs = [run_of('ViT', 0, FEW_STEPS, num_pictures=100)]
    for change, few in (('ViT', 500), ('CNN', 500), ('Swin', 400)):
        rate = RATES[CHANGES[change].get('model', 'vit')]
        aside = {'num_pictures': 3500, 'scored': 'validation'}
        runs += [
            run_of(change, 0, few, lr=lr, **aside)
            for lr in (rate / 3, rate, 3 * rate)
        ]
    for seed in seeds:
        runs += [
            run_of(change, seed, steps, num_pictures=n, distorted=distorted)
            for distorted in (0, 1)
            for n in AMOUNTS
            for change in AMOUNT
        ]
    for seed in seeds:
        runs += [run_of(change, seed, steps, shuffled=1) for change in AMOUNT]
        for change in VARIANTS:
            run = run_of(change, seed, steps)
            if run.model == 'swin':
                run = dataclasses.replace(run, num_steps=equal_steps(run))
            runs.append(run)
    return runs


STUDY = runner.study_of(
    __name__,
    describe=lambda run: (
        f'{run.change}, {run.num_pictures} pictures, {run.num_steps} steps, '
        f'{run.seed}'
    ),
    unit='steps',
)
read_runs = STUDY.read_runs
