"""The plateau study: what gets a small BERT to use its context, and when.

Pretrains the BERT of the chapter in its small world with the chapter's
settings, and again with one of them changed to what was published, or all.
"""

import argparse
import dataclasses
import functools
import math

import torch

import corpora
import utils

from . import runner

NUM_STEPS = 1100
FEW_STEPS = 100  # of a run that is there to be repeated by a test
EVERY = 50  # steps from one look at the probe to the next
THRESHOLD = 0.9  # share of probes; half of them are right by chance
PUBLISHED = {
    'head': {'head_layers': 2},
    'optimizer': {'optimizer': 'adamw', 'lr': 0.003},
    'initialization': {'init_std': 0.02, 'scaled_init': 0},
    'masks': {'mask_rate': 0.15},
    'norm': {'norm': 'post'},
}
CHANGES = {
    'none': {},
    **PUBLISHED,
    'all': {k: v for part in PUBLISHED.values() for k, v in part.items()},
    'rate doubled': {'lr': 0.02},
    'rate halved': {'lr': 0.005},
    'AdamW at 0.001': {'optimizer': 'adamw', 'lr': 0.001},
    'AdamW at 0.01': {'optimizer': 'adamw', 'lr': 0.01},
    'head at half the rate': {'head_layers': 2, 'lr': 0.005},
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One pretraining; ValueError for a value that is none of a setting.

    `change` is the name of what differs from the defaults, which are the
    chapter's settings. `head_layers` is 2 with the hidden layer of the
    published head, `scaled_init` is 1 if layers that write to the residual
    stream start smaller, `mask_rate` is the share of tokens to predict.
    """

    change: str
    seed: int
    num_steps: int = NUM_STEPS
    norm: str = 'pre'
    init_std: float = 0.07
    scaled_init: int = 1
    head_layers: int = 1
    mask_rate: float = 0.3
    optimizer: str = 'muon'
    lr: float = 0.01

    def __post_init__(self):
        for name, values in {
            'norm': ('pre', 'post'),
            'scaled_init': (0, 1),
            'head_layers': (1, 2),
            'optimizer': ('muon', 'adamw'),
        }.items():
            value = getattr(self, name)
            if value not in values:
                raise ValueError(f'{name} is {value!r}, not one of {values}')
        if self.num_steps < 1:
            raise ValueError(f'num_steps is {self.num_steps}, below 1')
        if not 0 < self.mask_rate <= 1:
            raise ValueError(f'mask_rate is {self.mask_rate}, outside (0, 1]')
        for name in ('init_std', 'lr'):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name} is {getattr(self, name)}, not > 0')

    @property
    def cost(self):
        """Steps of training."""
        return self.num_steps

    def config(self, vocab_size):
        return utils.Config(
            vocab_size,
            num_hiddens=64,
            num_blks=2,
            max_len=96,
            pre_norm=self.norm == 'pre',
            init_std=self.init_std,
            scaled_init=self.scaled_init == 1,
            mlm_transform=self.head_layers == 2,
        )


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out of a run; ValueError for a number below 0.

    `reached` is the first of the steps looked at, every 50th and the last,
    with the evidence to the right read in at least nine probes of ten, and
    0 if there was none. `probe` is the share of probes at the end, `loss`
    that of the fresh documents in nats per hidden token, infinite for a run
    that diverged.
    """

    reached: int
    probe: float
    loss: float
    seconds: float

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f'{name} is {value}, below 0')


@functools.cache
def load():
    """The world, its texts for training, fresh ones with masks, the probe."""
    world = corpora.SmallWorld()
    pairs = corpora.join(*world.documents(100_000).halves())
    first, second = world.documents(1000, seed=1).halves()
    generator = torch.Generator().manual_seed(0)
    inputs, hidden = utils.mask_tokens(
        first, len(world.words), generator=generator
    )
    X, segments, lens = corpora.join(inputs, second)
    labels = torch.full_like(X, -100)
    labels[:, 1 : 1 + hidden.shape[1]] = hidden
    fresh = X, segments, lens, labels
    return world, pairs, fresh, world.evidence(500, 'right')


@torch.no_grad()
def probe(model, world, evidence):
    """The share of adjectives whose polarity the model guesses right."""
    device = next(model.parameters()).device
    X, segments, lens, labels = utils.to_device(tuple(evidence), device)
    at, polarity = labels.T
    H = model.encode(X, segments, lens)[range(len(X)), at]
    scores = model.mlm(H).softmax(-1).cpu()  # (num_probes, vocab_size)
    positive = scores[:, world.polarity > 0].sum(1)
    negative = scores[:, world.polarity < 0].sum(1)
    return ((positive > negative) == polarity.cpu()).float().mean().item()


def execute(run, options, checkpoint):
    """Pretrain one model and look at it every 50 steps."""
    world, pairs, fresh, evidence = load()
    vocab_size = len(world.words)
    torch.manual_seed(run.seed)
    model = utils.BERT(run.config(vocab_size)).to(runner.device_of(options))
    history = runner.train(
        model,
        corpora.masked_batches(pairs, 32, vocab_size, run.mask_rate, run.seed),
        utils.mlm_loss,
        run.num_steps,
        run.lr,
        run.optimizer,
        (0.9, 0.99),
        warmup=20,
        eval_fn=lambda model: (
            probe(model, world, evidence),
            utils.evaluate(model, [fresh], utils.mlm_loss),
        ),
        eval_every=EVERY,
        checkpoint=checkpoint,
        shard=options.shard,
    )
    looks = list(zip(history.eval_step, history.eval_loss, strict=True))
    if math.inf in history.eval_loss:  # it diverged
        looks = [(looks[-1][0], (0.0, math.inf))]
    reached = [step for step, (share, _) in looks if share >= THRESHOLD]
    share, loss = looks[-1][1]
    return Measured(
        reached=min(reached, default=0),
        probe=share,
        loss=loss,
        seconds=history.seconds[-1],
    )


# ---- The plan ----


def change(text):
    """One of CHANGES, for argparse."""
    if text not in CHANGES:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not one of {", ".join(CHANGES)}'
        )
    return text


def add_options(add):
    names = ','.join(CHANGES)
    add('--changes', type=runner.listed(change), default=names)
    add('--steps', type=runner.whole, default=NUM_STEPS)
    add('--seeds', type=runner.whole, default=3)


def plan(rows, options):
    """A short run first, then every change with every seed."""
    return [
        Run('none', 0, FEW_STEPS),
        *(
            Run(name, seed, options.steps, **CHANGES[name])
            for name in options.changes
            for seed in range(options.seeds)
        ),
    ]


STUDY = runner.Study(
    name='plateau',
    about=__doc__,
    Run=Run,
    Measured=Measured,
    add_options=add_options,
    plan=plan,
    execute=execute,
    describe=lambda run: f'{run.change}, {run.num_steps} steps, {run.seed}',
    unit='steps',
)
read_runs = STUDY.read_runs
