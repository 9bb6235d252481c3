"""The pixels study: what it takes to predict digits pixel by pixel.

Trains GPTs on the pixels of digits of 8 x 8 pixels, row by row or in another
order, measures bits per pixel on pictures that were held out, and asks each
block what digit it is.
"""

import dataclasses
import functools
import math
import time

import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

import corpora
import utils

from . import runner

NUM_STEPS = 900
FEW_STEPS = 20  # of a run that is there to be repeated by a test
BATCH_SIZE = 32
LEVELS, START = 17, 17  # pixels are 0 to 16; a picture begins with one more
NUM_PIXELS, NUM_BLKS = 64, 4
RATE = 0.01
CHANGES = {
    'row by row': {},
    'random order': {'order': 'random'},
    'no dropout': {'dropout': 0.0},
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training; ValueError for a value that is none of a setting.

    `change` names what differs from the defaults. In the `order` 'random' one
    and the same random order of the pixels is that of all pictures.
    """

    change: str
    seed: int
    num_steps: int = NUM_STEPS
    num_hiddens: int = 32
    order: str = 'rows'
    dropout: float = 0.1
    lr: float = RATE

    def __post_init__(self):
        runner.check_values(
            self, order=('rows', 'random'), num_hiddens=(16, 32, 64)
        )
        runner.check_least(self, seed=0, num_steps=1)
        if not 0 < self.lr < math.inf:
            raise ValueError(f'lr is {self.lr}, not above 0')
        if not 0 <= self.dropout < 1:
            raise ValueError(f'dropout is {self.dropout}, outside [0, 1)')

    @property
    def cost(self):
        """Steps of training."""
        return self.num_steps

    @property
    def config(self):
        return utils.Config(
            LEVELS + 1,
            num_hiddens=self.num_hiddens,
            num_heads=4,
            num_blks=NUM_BLKS,
            max_len=NUM_PIXELS + 1,
            dropout=self.dropout,
        )


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out of a run; ValueError for a number below 0.

    `bits` are those per pixel of the test pictures, infinite after
    divergence, `trained` those of the training pictures. `probe_0` to
    `probe_4` are accuracies of a logistic regression on the mean over the
    pixels, before the first block and after each.
    """

    parameters: int
    bits: float
    trained: float
    probe_0: float
    probe_1: float
    probe_2: float
    probe_3: float
    probe_4: float
    seconds: float

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f'{name} is {value}, below 0')


@functools.cache
def load():
    """Sequences of 65 ids and labels of each part."""
    return {
        part: (
            F.pad(
                corpora.to_levels(digits.pictures, LEVELS, 16),
                (1, 0),
                value=START,
            ),
            digits.labels,
        )
        for part, digits in corpora.small_digits().items()
    }


def order_of(run):
    """The order in which the ids of a picture are read, the start first."""
    if run.order == 'rows':
        return torch.arange(NUM_PIXELS + 1)
    generator = torch.Generator().manual_seed(0)
    order = 1 + torch.randperm(NUM_PIXELS, generator=generator)
    return F.pad(order, (1, 0))


def bits(model, X):
    """Mean bits per pixel."""
    return utils.evaluate(model, X.split(128), utils.lm_loss) / math.log(2)


@torch.no_grad()
def states(model, X):
    """The mean over the pixels, before the first block and after each.

    `X` is (n, num_steps) ids; the result has num_blks + 1 tensors, (n,
    num_hiddens).
    """
    found = []
    with utils.evaluation_mode(model):
        H = model.token_embedding(X) + model.pos_embedding.weight[: X.shape[1]]
        found.append(H.mean(1))
        mask = utils.causal_mask(X.shape[1], device=X.device)
        for blk in model.blks:
            H = blk(H, mask)
            found.append(H.mean(1))
    return found


def probe(inputs, labels, asked, truth):
    """Accuracy of a logistic regression on standardized inputs."""
    mean, std = inputs.mean(0), inputs.std(0) + 1e-6
    model = LogisticRegression(max_iter=2000, C=0.1)
    model.fit((inputs - mean) / std, labels)
    return float(model.score((asked - mean) / std, truth))


def execute(run, options, checkpoint):
    """Train one model, measure bits and probe its blocks."""
    began = time.process_time()
    order = order_of(run)
    (X, y), (Z, z) = ((X[:, order], y) for X, y in load().values())
    torch.manual_seed(run.seed)
    model = utils.GPT(run.config).to(runner.device_of(options))
    history = runner.train(
        model,
        corpora.random_rows(X, batch_size=BATCH_SIZE, seed=run.seed),
        utils.lm_loss,
        run.num_steps,
        run.lr,
        betas=(0.9, 0.99),
        warmup=min(20, run.num_steps // 2),
        checkpoint=checkpoint,
        shard=options.shard,
    )
    parameters = sum(p.numel() for p in model.parameters())
    if history.loss[-1] == math.inf:
        return Measured(
            parameters, math.inf, math.inf, *5 * [0.0], history.seconds[-1]
        )
    model = model.cpu()
    return Measured(
        parameters,
        bits(model, Z),
        bits(model, X),
        *(
            probe(a, y, b, z)
            for a, b in zip(states(model, X), states(model, Z), strict=True)
        ),
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
        Run('row by row', 0, FEW_STEPS),
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
