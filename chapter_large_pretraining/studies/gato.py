"""The Gato study: one model for three kinds of data, beside specialists.

Trains a GPT on facts, pictures of digits and games in one stream, in three
sizes; and for each kind a specialist, as large as the middle one and with
about a third of its parameters; and one for all on games of a player who
knows more than is shown. In each step as many rows of a kind are read,
whoever reads them.
"""

import copy
import dataclasses
import functools
import math
import time

import torch

import corpora
import multimodal
import utils

from . import runner

NUM_STEPS = 500
FEW_STEPS = 10  # of a run that is there to be repeated by a test
ROWS = dict.fromkeys(multimodal.Stream.kinds, 16)  # read in a step
RATE = 0.015
NUM_GAMES = 1000
KINDS = multimodal.Stream.kinds
SIZES = {
    'small': {'num_hiddens': 24},
    'middle': {'num_hiddens': 48},
    'large': {'num_hiddens': 96},
}
MODELS = {
    **{f'all, {size}': {'kinds': 'all', **SIZES[size]} for size in SIZES},
    **{
        f'{kind}, {size}': {'kinds': kind, 'num_hiddens': width}
        for size, width in (('a third', 28), ('middle', 48))
        for kind in KINDS
    },
    'all, of one who knows': {'player': 'knows'},
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training; ValueError for a value that is none of a setting.

    `kinds` is 'all' or the one kind that a specialist reads. The `player` of
    the games that are read 'sees' what is shown, or 'knows' more.
    """

    model: str
    seed: int
    num_steps: int = NUM_STEPS
    kinds: str = 'all'
    num_hiddens: int = 48
    player: str = 'sees'
    lr: float = RATE

    def __post_init__(self):
        runner.check_values(
            self, kinds=('all', *KINDS), player=('sees', 'knows')
        )
        runner.check_least(self, seed=0, num_steps=1, num_hiddens=4)
        if not 0 < self.lr < math.inf:
            raise ValueError(f'lr is {self.lr}, not above 0')

    @property
    def cost(self):
        """Rows that are read."""
        return self.num_steps * sum(self.rows.values())

    @property
    def rows(self):
        """How many rows of each kind are read in a step."""
        if self.kinds == 'all':
            return ROWS
        return {self.kinds: ROWS[self.kinds]}

    def config(self, vocab_size):
        return utils.Config(
            vocab_size,
            num_hiddens=self.num_hiddens,
            num_heads=4,
            num_blks=2,
            max_len=multimodal.GAME_LEN,
            init_std=0.1,
        )


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out of a run; ValueError for a number below 0.

    `in_blocks` are parameters. `text` is the share of facts told in training
    whose answer comes first, `picture` that of test pictures named rightly,
    `game` that of balls caught in new games. `moves` is the share of moves
    foretold in new games of the player whose games were read.
    """

    in_blocks: int
    text: float
    picture: float
    game: float
    moves: float
    seconds: float

    def __post_init__(self):
        runner.check_least(self, **dict.fromkeys(vars(self), 0))


@functools.cache
def load():
    """The stream of training and that of the test pictures."""
    digits, facts = corpora.small_digits(), corpora.FactWorld()
    return [
        multimodal.Stream(facts, *digits[part]) for part in ('train', 'test')
    ]


@torch.no_grad()
def scores(model, test, seed=1):
    """Shares of facts, test pictures, games and moves that come out right."""
    generator = torch.Generator().manual_seed(seed)
    game = multimodal.Catch(NUM_GAMES, generator)
    X, labels = test.play(NUM_GAMES, generator)
    at = torch.arange(len(test.labels))
    with utils.evaluation_mode(model):
        multimodal.play(model, test, game)
        best = [model(x).argmax(-1) for x in X[:, :-1].split(100)]
        foretold = torch.cat(best) == labels[:, 1:]
        named = multimodal.name_pictures(model, test, at) == test.labels
        return {
            'text': multimodal.recall(model, test),
            'picture': named.float().mean().item(),
            'game': game.caught().float().mean().item(),
            'moves': foretold.sum().item() / (labels >= 0).sum().item(),
        }


def execute(run, options, checkpoint):
    """Train and score one model, on the CPU."""
    start, (stream, test) = time.process_time(), load()
    if run.player == 'knows':
        stream, test = copy.copy(stream), copy.copy(test)
        stream.player = test.player = multimodal.all_knowing
    torch.manual_seed(run.seed)
    model = utils.GPT(run.config(len(stream.vocab)))
    runner.train(
        model,
        stream.batches(run.rows, run.seed),
        multimodal.stream_loss,
        run.num_steps,
        run.lr,
        betas=(0.9, 0.99),
        warmup=20,
        checkpoint=checkpoint,
        shard=options.shard,
    )
    return Measured(
        in_blocks=sum(p.numel() for p in model.blks.parameters()),
        **scores(model, test),
        seconds=time.process_time() - start,
    )


# ---- The plan ----


def add_options(add):
    names = ';'.join(MODELS)
    add('--models', default=names, help='names, separated by semicolons')
    add('--steps', type=runner.whole, default=NUM_STEPS)
    add('--seeds', type=runner.whole, default=3)


def plan(rows, options):
    """A short run first, then every model with every seed."""
    names = options.models.split(';')
    for name in names:
        if name not in MODELS:
            raise ValueError(f'{name!r} is not one of {"; ".join(MODELS)}')
    return [
        Run('all, small', 0, FEW_STEPS, **MODELS['all, small']),
        *(
            Run(name, seed, options.steps, **MODELS[name])
            for seed in range(options.seeds)
            for name in names
        ),
    ]


STUDY = runner.study_of(
    __name__,
    describe=lambda run: f'{run.model}, {run.num_steps} steps, {run.seed}',
    unit='rows',
)
read_runs = STUDY.read_runs
