"""The plateau study: what gets a small BERT to use its context, and when.

Pretrains the BERT of the chapter in its small world with the chapter's
settings, and again with one of them changed to what was published, or all;
and a twin of it that may only look to the left.
"""

import dataclasses
import functools
import math

import torch

import corpora
import utils

from . import runner

NUM_STEPS = 1600
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
    'causal twin': {'mask': 'causal'},
}


def small_config(vocab_size):
    """The BERT of the chapter: three blocks of width 64."""
    return utils.Config(
        vocab_size,
        num_hiddens=64,
        num_blks=3,
        max_len=128,
        init_std=0.07,
        mlm_transform=False,
    )


@dataclasses.dataclass(frozen=True)
class Run:
    """One pretraining; ValueError for a value that is none of a setting.

    `change` is the name of what differs from the defaults, which are the
    chapter's settings. `head_layers` is 2 with the hidden layer of the
    published head, `scaled_init` is 1 if layers that write to the residual
    stream start smaller, `mask_rate` is the share of tokens to predict. With
    `mask` 'causal' no token attends to those on its right.
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
    mask: str = 'padding'

    def __post_init__(self):
        runner.check_values(
            self,
            norm=('pre', 'post'),
            scaled_init=(0, 1),
            head_layers=(1, 2),
            optimizer=('muon', 'adamw'),
            mask=('padding', 'causal'),
        )
        runner.check_least(self, num_steps=1)
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
        return dataclasses.replace(
            small_config(vocab_size),
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
    0 if there was none. At the end, `right` and `left` are the shares of
    probes with the evidence on that side, `binding` is the share of facts
    held more likely than a rival's, and `loss` that of the fresh
    documents in nats per hidden token, infinite for a run that diverged.
    """

    reached: int
    right: float
    left: float
    binding: float
    loss: float
    seconds: float

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f'{name} is {value}, below 0')


# ---- Texts and probes ----


def texts(world, number, seed=0):
    """Texts A and B of documents, `number` of them with rivals.

    There are about as many others.
    """
    return [
        corpora.stack(halves)
        for halves in zip(
            world.documents(4 * number, seed).halves(),
            world.competing(number, seed=seed),
            strict=True,
        )
    ]


@functools.cache
def load():
    """The world, its texts for training, fresh ones with masks, probes."""
    world = corpora.SmallWorld()
    pairs = corpora.join(*texts(world, 9000))
    first, second = texts(world, 200, seed=1)
    generator = torch.Generator().manual_seed(0)
    inputs, hidden = utils.mask_tokens(
        first, len(world.words), generator=generator
    )
    X, segments, lens = corpora.join(inputs, second)
    labels = torch.full_like(X, -100)
    labels[:, 1 : 1 + hidden.shape[1]] = hidden
    fresh = X, segments, lens, labels
    probes = {side: world.evidence(500, side) for side in ('right', 'left')}
    return world, pairs, fresh, probes | {'binding': world.binding(500)}


def mask_of(run, X):
    """What hides tokens beside the padding: a mask, or None."""
    if run.mask == 'causal':
        return utils.causal_mask(X.shape[1], device=X.device)
    return None


def loss(run, model, batch):
    """`utils.mlm_loss`, under the mask of the run."""
    X, segments, lens, labels = batch
    chosen = labels != -100
    H = model.encode(X, segments, lens, mask_of(run, X))[chosen]
    return utils.token_loss(model.mlm(H), labels[chosen])


@torch.no_grad()
def read_probes(run, model, world, probes):
    """Shares guessed right: polarities, and facts against their rivals."""
    device, shares = next(model.parameters()).device, {}
    for name, data in probes.items():
        X, segments, lens, labels = utils.to_device(tuple(data), device)
        H = model.encode(X, segments, lens, mask_of(run, X))
        scores = model.mlm(H[range(len(X)), labels[:, 0]]).softmax(-1).cpu()
        _, truth, *other = labels.T.cpu()
        if name == 'binding':
            right, wrong = (
                scores.gather(1, words[:, None]) for words in (truth, *other)
            )
            guessed = (right > wrong)[:, 0]
        else:
            guessed = world.prefers_praise(scores) == truth
        shares[name] = guessed.float().mean().item()
    return shares


def pretrain(run, options, checkpoint=None, batches=None, every=EVERY):
    """A model and its `History`, with a look at it every so many steps.

    A look is the share of the probes with the evidence to the right, and the
    loss. `batches` are those of the chapter's texts if none are given.
    """
    world, pairs, fresh, probes = load()
    vocab_size, rate = len(world.words), run.mask_rate
    torch.manual_seed(run.seed)
    model = utils.BERT(run.config(vocab_size)).to(runner.device_of(options))
    if batches is None:
        batches = corpora.masked_batches(pairs, 32, vocab_size, rate, run.seed)
    loss_fn = functools.partial(loss, run)
    right = {'right': probes['right']}
    history = runner.train(
        model,
        batches,
        loss_fn,
        run.num_steps,
        run.lr,
        run.optimizer,
        (0.9, 0.99),
        warmup=20,
        eval_fn=lambda model: (
            read_probes(run, model, world, right)['right'],
            utils.evaluate(model, [fresh], loss_fn),
        ),
        eval_every=every,
        checkpoint=checkpoint,
        shard=options.shard,
    )
    return model, history


def execute(run, options, checkpoint):
    """Pretrain one model and look at it every 50 steps."""
    model, history = pretrain(run, options, checkpoint)
    looks = list(zip(history.eval_step, history.eval_loss, strict=True))
    world, _, _, probes = load()
    shares = dict.fromkeys(probes, 0.0)
    if math.inf in history.eval_loss:  # it diverged
        looks = [(looks[-1][0], (0.0, math.inf))]
    else:
        shares = read_probes(run, model, world, probes)
    reached = [step for step, (share, _) in looks if share >= THRESHOLD]
    return Measured(
        reached=min(reached, default=0),
        **shares,
        loss=looks[-1][1][1],
        seconds=history.seconds[-1],
    )


# ---- The plan ----


def add_options(add):
    names = ','.join(CHANGES)
    add('--changes', type=runner.listed(runner.one_of(CHANGES)), default=names)
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


STUDY = runner.study_of(
    __name__,
    describe=lambda run: f'{run.change}, {run.num_steps} steps, {run.seed}',
    unit='steps',
)
read_runs = STUDY.read_runs
