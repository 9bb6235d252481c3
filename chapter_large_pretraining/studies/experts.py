"""The experts study: what eight experts gain, and what balances them.

Trains small GPTs whose feed-forward networks are dense or have experts, on
the unlabelled texts of the small world. Dense models are of equal active
parameters, of equal compute with the router's, and of equal parameters.
"""

import dataclasses
import functools
import time

import torch

import corpora
import successors
import utils

from . import runner

NUM_STEPS, FEW_STEPS = 1500, 150
BATCH_SIZE, ROW = 40, 17  # texts are one stream, cut into rows
WIDTH = 16  # of a feed-forward network
KINDS = {  # width, number of experts, weight of the auxiliary loss
    'dense': (WIDTH, 0, 0.0),
    'dense, equal compute': (WIDTH + 4, 0, 0.0),
    'dense, equal parameters': (8 * WIDTH + 4, 0, 0.0),
    '8 experts': (WIDTH, 8, 0.01),
    'no auxiliary loss': (WIDTH, 8, 0.0),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training; ValueError for a kind that is none of KINDS."""

    kind: str
    seed: int
    num_steps: int = NUM_STEPS

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f'kind is {self.kind!r}, not one of {[*KINDS]}')
        for name, least in {'num_steps': 1, 'seed': 0}.items():
            value = getattr(self, name)
            if value < least:
                raise ValueError(f'{name} is {value}, below {least}')

    @property
    def cost(self):
        """Steps of training."""
        return self.num_steps


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out; ValueError for a number below 0.

    `active` are the parameters of feed-forward networks and routers that a
    token passes, of `parameters` in all of them; `loss` is in nats on texts
    not trained on; `dropped` is the share of tokens turned away there, the
    mean of the blocks, and `most` the largest share that one expert was
    wanted by. Both are 0 for dense networks.
    """

    parameters: int
    active: int
    loss: float
    dropped: float
    most: float
    seconds: float

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f'{name} is {value}, not at least 0')


@functools.cache
def rows(split):
    """Texts of a split as one stream of tokens, cut into rows of ROW."""
    number = 32000 if split == 'train' else 2000
    X, _ = corpora.TextTasks().unlabelled(number, split)
    stream = X[X > 0]
    return stream[: len(stream) // ROW * ROW].view(-1, ROW)


def build(kind, seed):
    """A small GPT of two blocks, narrow where experts are to help."""
    width, num_experts, _ = KINDS[kind]
    config = utils.Config(
        len(corpora.TextTasks().words),
        num_hiddens=32,
        num_blks=2,
        max_len=ROW - 1,
        ffn_num_hiddens=width,
        init_std=0.05,
    )
    torch.manual_seed(seed)
    gpt = utils.GPT(config)
    if num_experts:
        successors.use_experts(gpt, num_experts)
    return gpt


def execute(run, options, checkpoint):
    """Train one model and score it, on the CPU."""
    began = time.process_time()
    gpt, alpha = build(run.kind, run.seed), KINDS[run.kind][2]
    runner.train(
        gpt,
        corpora.random_rows(
            rows('train'), batch_size=BATCH_SIZE, seed=run.seed
        ),
        functools.partial(successors.balanced_loss, alpha=alpha),
        run.num_steps,
        0.02,
        warmup=20,
    )
    loss = utils.evaluate(gpt, [rows('test')], utils.lm_loss)
    layers = successors.switches(gpt)
    dropped = sum(layer.dropped for layer in layers) / max(1, len(layers))
    most = max((layer.share.max().item() for layer in layers), default=0.0)
    total = sum(
        p.numel() for blk in gpt.blks for p in blk.ffn.layer.parameters()
    )
    idle = sum(
        p.numel() for layer in layers for p in layer.experts[1:].parameters()
    )
    seconds = time.process_time() - began
    return Measured(total, total - idle, loss, dropped, most, seconds)


def add_options(add):
    add('--steps', type=runner.whole, default=NUM_STEPS)
    add('--seeds', type=runner.whole, default=3)


def plan(rows, options):
    """A short run first, then every kind, seed by seed."""
    return [
        Run('8 experts', 0, FEW_STEPS),
        *(
            Run(kind, seed, options.steps)
            for seed in range(options.seeds)
            for kind in KINDS
        ),
    ]


STUDY = runner.Study(
    name='experts',
    about=__doc__,
    Run=Run,
    Measured=Measured,
    add_options=add_options,
    plan=plan,
    execute=execute,
    unit='steps',
)
read_runs = STUDY.read_runs
