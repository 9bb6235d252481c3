"""The experts study: what eight experts gain, and what balances them.

Trains small GPTs whose feed-forward networks are dense or have experts, on
the documentation. Dense models are of equal active parameters, of equal
compute with the router's, and of equal parameters.
"""

import dataclasses
import functools
import time

import torch

import corpora
import successors
import utils

from . import runner

STEPS = 150, 600, 1200
BATCH_SIZE, MAX_LEN, NUM_TEST = 40, 16, 40000  # rows, tokens, tokens
VOCAB_SIZE, NUM_HIDDENS = 1024, 32
WIDTH = 16  # of a feed-forward network: narrow, so that parameters are scarce
KINDS = {  # width, number of experts, weight of the auxiliary loss
    'dense': (WIDTH, 0, 0.0),
    'dense, equal compute': (WIDTH + 4, 0, 0.0),
    'dense, equal parameters': (8 * WIDTH + 7, 0, 0.0),
    '8 experts': (WIDTH, 8, 0.01),
    'no auxiliary loss': (WIDTH, 8, 0.0),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training; ValueError for what is none."""

    kind: str
    num_steps: int
    seed: int

    def __post_init__(self):
        runner.check_values(self, kind=[*KINDS])
        runner.check_least(self, num_steps=1, seed=0)

    @property
    def cost(self):
        """Steps of training."""
        return self.num_steps


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out; ValueError for a number below 0.

    `active` are the parameters of feed-forward networks and routers that a
    token passes, of `parameters` in all of them. `loss` is in nats on
    documents not trained on; `dropped` is the share of tokens that are turned
    away there, the mean of the blocks, and `most` the largest share that one
    expert is wanted by. Both are 0 for dense networks.
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
def documents():
    """Token ids of the documents to train on, and of others to test on."""
    corpus = corpora.documentation()
    train, test = corpora.documentation_tokens(corpus, VOCAB_SIZE)
    return train, test[:NUM_TEST]


def batches(seed):
    return corpora.windows(documents()[0], BATCH_SIZE, MAX_LEN, seed)


def new_gpt(seed, width=WIDTH, num_experts=0, activation='gelu'):
    """A small GPT of two blocks, dense or with experts."""
    config = utils.Config(
        VOCAB_SIZE,
        num_hiddens=NUM_HIDDENS,
        num_blks=2,
        max_len=MAX_LEN,
        ffn_num_hiddens=width,
        activation=activation,
        init_std=0.05,
    )
    torch.manual_seed(seed)
    gpt = utils.GPT(config)
    if num_experts:
        successors.use_experts(gpt, num_experts)
    return gpt


def count(gpt):
    """Parameters of feed-forward networks, and those that a token passes."""
    layers = [blk.ffn.layer for blk in gpt.blks]
    total = sum(p.numel() for m in layers for p in m.parameters())
    idle = [m for layer in successors.switches(gpt) for m in layer.experts[1:]]
    return total, total - sum(p.numel() for m in idle for p in m.parameters())


def score(gpt):
    """The loss on the test documents; `dropped` and `most` of `Measured`.

    Batches are as large as in training, as what is turned away depends on
    it.
    """
    dropped, shares = [], []

    def loss_fn(model, X):
        found = utils.lm_loss(model, X)
        layers = successors.switches(model)
        dropped.append([layer.dropped for layer in layers])
        shares.append([layer.share.tolist() for layer in layers])
        return found

    rows = corpora.blocks(documents()[1], MAX_LEN)
    loss = utils.evaluate(gpt, rows.split(BATCH_SIZE), loss_fn)
    if not dropped[0]:
        return loss, 0.0, 0.0
    most = torch.tensor(shares).mean(0).max().item()
    return loss, torch.tensor(dropped).mean().item(), most


def execute(run, options, checkpoint):
    """Train one model and score it, on the CPU."""
    began = time.process_time()
    width, num_experts, alpha = KINDS[run.kind]
    gpt = new_gpt(run.seed, width, num_experts)
    runner.train(
        gpt,
        batches(run.seed),
        functools.partial(successors.balanced_loss, alpha=alpha),
        run.num_steps,
        0.02,
        warmup=20,
    )
    found = *count(gpt), *score(gpt)
    return Measured(*found, time.process_time() - began)


def add_options(add):
    add('--seeds', type=runner.whole, default=3)


def plan(rows, options):
    """Seed by seed, short runs first."""
    return [
        Run(kind, num_steps, seed)
        for seed in range(options.seeds)
        for num_steps in STEPS
        for kind in KINDS
    ]


STUDY = runner.study_of(__name__, unit='steps')
read_runs = STUDY.read_runs
