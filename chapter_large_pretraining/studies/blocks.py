"""The blocks study: what has changed in decoders since GPT-3, one at a time.

Pretrains a GPT of three blocks on the documentation, and again with other
positions, another norm, a gated feed-forward network or fewer heads of keys
and values, and with all four. What is predicted with a context longer than
any in training is measured, too.
"""

import dataclasses
import functools
import math
import time

import torch
from torch import nn

import corpora
import utils

from . import runner

NUM_STEPS = 800
FEW_STEPS = 20  # of a run that is there to be repeated by a test
LENGTH, LONG = 64, 512  # tokens in a window of training, and the longest
NUM_LATE = 32  # tokens at the end of a long window, all predicted alike
CONTEXTS = (64, 128, 256, 512)
RATE = 0.015
TODAY = {
    'positions': 'rotary',
    'norm': 'rms',
    'activation': 'gated_silu',
    'num_kv_heads': 2,
}
CHANGES = {  # gated networks are so wide that parameters stay the same
    'none': {},
    'rotary positions': {'positions': 'rotary'},
    'linear biases': {'positions': 'linear'},
    'no positions': {'positions': 'none'},
    'RMS norm': {'norm': 'rms'},
    'gated SiLU': {'activation': 'gated_silu', 'ffn_num_hiddens': 171},
    'two key heads': {'num_kv_heads': 2},
    'one key head': {'num_kv_heads': 1},
    'all four': {**TODAY, 'ffn_num_hiddens': 192},
    'rotary on long windows': {'positions': 'rotary', 'length': LONG},
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One pretraining; ValueError for a value that is none of a setting.

    `change` is the name of what differs from the defaults. `length` is the
    number of tokens that a window of training predicts; all runs read equally
    many in a step.
    """

    change: str
    seed: int
    corpus_digest: str
    num_steps: int = NUM_STEPS
    lr: float = RATE
    length: int = LENGTH
    positions: str = 'learned'
    norm: str = 'layer'
    activation: str = 'gelu'
    ffn_num_hiddens: int = 256
    num_kv_heads: int = 4

    def __post_init__(self):
        runner.check_values(
            self,
            length=(LENGTH, LONG),
            positions=('learned', 'rotary', 'linear', 'none'),
            norm=('layer', 'rms'),
            activation=('gelu', 'gated_silu'),
            num_kv_heads=(1, 2, 4),
        )
        runner.check_least(self, seed=0, num_steps=1, ffn_num_hiddens=1)
        if not 0 < self.lr < math.inf:
            raise ValueError(f'lr is {self.lr}, not above 0')

    @property
    def cost(self):
        """Steps of training."""
        return self.num_steps

    @property
    def config(self):
        return utils.Config(
            1024,
            num_hiddens=64,
            num_heads=4,
            num_blks=3,
            max_len=LONG,
            ffn_num_hiddens=self.ffn_num_hiddens,
            num_kv_heads=self.num_kv_heads,
            rotary_base=1e4 if self.positions == 'rotary' else None,
            rms_norm=self.norm == 'rms',
            activation=self.activation,
        )


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out of a run; ValueError for a number below 0.

    `in_blocks` are parameters, `cached` the numbers that a cache holds for
    each token. `loss` is that of all validation text in windows of 64
    tokens, in nats per token; `at_64` and so on are losses of one and the
    same tokens, given contexts of so many, and `banded` is `at_512` when
    every token attends to the last 64 only. All losses of a run that
    diverged are infinite.
    """

    in_blocks: int
    cached: int
    loss: float
    at_64: float
    at_128: float
    at_256: float
    at_512: float
    banded: float
    seconds: float

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f'{name} is {value}, below 0')


# ---- Models ----


class LinearBias(nn.Module):
    """Scores fall with distance, in each head at its own rate.

    (1, num_heads, num_queries, num_keys). Nothing is learned. (Press et al.,
    2022, section 3)
    """

    def __init__(self, config):
        super().__init__()
        heads = torch.arange(1, config.num_heads + 1)
        self.register_buffer('slopes', 2.0 ** (-8 * heads / config.num_heads))

    def forward(self, num_queries, num_keys):
        keys = torch.arange(num_keys, device=self.slopes.device)
        offsets = keys - keys[num_keys - num_queries :, None]
        return (self.slopes[:, None, None] * offsets)[None]


class BiasedGPT(utils.GPT):
    """A GPT whose positions are biases of attention scores, or nothing."""

    def __init__(self, config, positions):
        super().__init__(config)
        self.pos_embedding = None
        self.bias = LinearBias(config) if positions == 'linear' else None

    def encode(self, X, mask=None, caches=None):
        """The output of the blocks: (batch, num_steps, num_hiddens)."""
        utils.check_ids(X, self.config)
        if caches is not None:
            raise ValueError('a model with biases takes no caches')
        n = X.shape[1]
        mask = utils.causal_mask(n, device=X.device) if mask is None else mask
        bias = None if self.bias is None else self.bias(n, n)
        H = self.dropout(self.token_embedding(X))
        for blk in self.blks:
            H = blk(H, mask, bias)
        return self.norm(H)


def build(run):
    """The model of a run, its weights drawn from the run's seed."""
    torch.manual_seed(run.seed)
    if run.positions in ('learned', 'rotary'):
        return utils.GPT(run.config)
    return BiasedGPT(run.config, run.positions)


# ---- One run ----


@functools.cache
def load():
    """The digest of the documentation, and the token ids of its two parts."""
    corpus = corpora.documentation()
    train, valid = corpora.documentation_tokens(corpus)
    return corpora.fingerprint(corpus), train, valid


def late_loss(model, X, context, mask=None):
    """The loss of the last 32 tokens of windows, given a context.

    `X` is (batch, at least context + 1) ids; the last `context` tokens before
    the end are read, so that the first of the 32 has `context` - 32 tokens
    behind it. Returns the mean in nats and the number of labels.
    """
    X = X[:, -context - 1 :]
    scores = model(X[:, :-1], mask, last=NUM_LATE)
    return utils.token_loss(scores, X[:, -NUM_LATE:])


def late_losses(model, rows):
    """`late_loss` for all contexts, and for the longest under a band."""
    batches = rows.split(16)

    def mean(context, mask=None):
        loss_fn = functools.partial(late_loss, context=context, mask=mask)
        return utils.evaluate(model, batches, loss_fn)

    device = next(model.parameters()).device
    band = utils.causal_mask(LONG, device=device).triu(1 - LENGTH)
    losses = {f'at_{context}': mean(context) for context in CONTEXTS}
    return losses | {'banded': mean(LONG, band)}


def pretrain(model, run, checkpoint=None, shard=False):
    """Train a model as a run does, and return the `History`."""
    _, tokens, _ = load()
    return runner.train(
        model,
        corpora.windows(
            tokens, 16 * LENGTH // run.length, run.length, run.seed
        ),
        utils.lm_loss,
        run.num_steps,
        run.lr,
        betas=(0.9, 0.99),
        warmup=20,
        checkpoint=checkpoint,
        shard=shard,
    )


def valid_losses(model):
    """The losses of `Measured` by name, in validation."""
    _, _, tokens = load()
    rows = corpora.blocks(tokens, LENGTH).split(64)
    losses = {'loss': utils.evaluate(model, rows, utils.lm_loss)}
    return losses | late_losses(model, corpora.blocks(tokens, LONG))


def execute(run, options, checkpoint):
    """Train and score one model; ValueError for another text."""
    digest, _, _ = load()
    if digest != run.corpus_digest:
        raise ValueError(
            f'the documentation is {digest}, not {run.corpus_digest}'
        )
    start, config = time.process_time(), run.config
    model = build(run).to(runner.device_of(options))
    history = pretrain(model, run, checkpoint, options.shard)
    if history.loss[-1] < math.inf:
        losses = valid_losses(model)
    else:
        names = *(f'at_{context}' for context in CONTEXTS), 'banded'
        losses = dict.fromkeys(('loss', *names), math.inf)
    wide = config.num_kv_heads * config.head_width
    return Measured(
        in_blocks=sum(p.numel() for p in model.blks.parameters()),
        cached=2 * config.num_blks * wide,
        **losses,
        seconds=time.process_time() - start,
    )


# ---- The plan ----


def add_options(add):
    names = ','.join(CHANGES)
    add('--changes', type=runner.listed(runner.one_of(CHANGES)), default=names)
    add('--steps', type=runner.whole, default=NUM_STEPS)
    add('--seeds', type=runner.whole, default=3)


def plan(rows, options):
    """A short run first, then every change with every seed."""
    digest, _, _ = load()
    return [
        Run('all four', 0, digest, FEW_STEPS, **CHANGES['all four']),
        *(
            Run(name, seed, digest, options.steps, **CHANGES[name])
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
