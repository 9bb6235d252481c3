"""The mixtures study: tasks one after another, together, and in what shares.

Trains T5s of the small world on four tasks of very unequal size with one
number of steps for each strategy (Raffel et al., 2020, section 3.5): first
unlabelled texts and then each task, all at once, or all at once and then
each task; and, after the unlabelled texts, all tasks at once in four shares.
"""

import copy
import dataclasses
import functools
import time

import text_to_text as ways
import torch

import corpora
import utils

from . import runner, text_to_text

SIZES = {'translation': 8000, 'sentiment': 4000, 'question': 1000}
SIZES['summary'] = 256
BATCH_SIZE = 32
FIRST_STEPS, TASK_STEPS = 800, 300  # before fine-tuning, and for each task
LIMIT = 1000
STRATEGIES = {  # what comes first, and whether each task is fine-tuned
    'each task alone': (None, True),
    'pretrained, fine-tuned': ('unlabelled', True),
    'all at once': ('everything', False),
    'all at once, fine-tuned': ('everything', True),
    'all but one, fine-tuned': ('others', True),
    'supervised, fine-tuned': ('tasks', True),
    'pretrained, then all tasks': ('unlabelled', False),
}
SHARES = {  # of the tasks: arguments of `mixing_rates`
    'limited': {'limit': LIMIT},
    'proportional': {},
    'temperature 2': {'temperature': 2},
    'equal': {'limit': 1},
}
LAST = 'pretrained, then all tasks'


@dataclasses.dataclass(frozen=True)
class Run:
    """One strategy; ValueError for a strategy or shares that are none.

    `quick` is 1 for a tenth of the steps, a run to be repeated by a test.
    """

    strategy: str
    shares: str
    seed: int
    quick: int = 0

    def __post_init__(self):
        for name, values in {
            'strategy': tuple(STRATEGIES),
            'shares': tuple(SHARES),
            'quick': (0, 1),
        }.items():
            value = getattr(self, name)
            if value not in values:
                raise ValueError(f'{name} is {value!r}, not one of {values}')
        if self.seed < 0:
            raise ValueError(f'seed is {self.seed}, below 0')

    def steps(self, number):
        return number // 10 if self.quick else number

    @property
    def cost(self):
        """Steps of training."""
        first, _ = STRATEGIES[self.strategy]
        rounds = {None: 0, 'others': len(SIZES)}.get(first, 1)
        return self.steps(rounds * FIRST_STEPS + len(SIZES) * TASK_STEPS)


@dataclasses.dataclass(frozen=True)
class Measured:
    """Exact match of each task on test texts; ValueError outside [0, 1]."""

    translation: float
    summary: float
    sentiment: float
    question: float
    seconds: float

    def __post_init__(self):
        for name in text_to_text.makers():
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f'{name} is {value}, outside [0, 1]')


# ---- What is trained on ----


def new_t5(seed):
    return text_to_text.build('encoder-decoder', seed)


def task_batches(tasks, seed):
    """Endless batches of each of some tasks, a list."""
    makers = text_to_text.makers()
    return [
        corpora.by_length(
            makers[task](SIZES[task], 'train', seed), BATCH_SIZE, seed
        )
        for task in tasks
    ]


def rates_of(tasks, shares):
    return ways.mixing_rates([SIZES[task] for task in tasks], **SHARES[shares])


def train(model, batches, num_steps):
    runner.train(
        model, batches, utils.seq2seq_loss, num_steps, 0.01, warmup=10
    )


def batches_of(first, shares, seed, without=None, unlabelled=None):
    """Endless batches of what comes first.

    `unlabelled` is the share of steps on unlabelled texts among tasks.
    """
    texts = text_to_text.batches('spans', seed)
    if first == 'unlabelled':
        return texts
    tasks = [task for task in SIZES if task != without]
    streams, rates = task_batches(tasks, seed), rates_of(tasks, shares)
    if first != 'tasks':
        streams.append(texts)
        rates = torch.cat(
            ((1 - unlabelled) * rates, torch.tensor([unlabelled]))
        )
    return ways.mixed(streams, rates, seed)


@functools.lru_cache(maxsize=1)
def prepared(first, shares, seed, num_steps, without=None):
    """A model after what comes first, half of it unlabelled if it is mixed."""
    model = new_t5(seed)
    if first:
        batches = batches_of(first, shares, seed, without, 0.5)
        train(model, batches, num_steps)
    return model


def score(task, model):
    return ways.exact_match(*text_to_text.written(task, model))


# ---- One run ----


def fine_tuned(run, first, task):
    """The score of a task, learned alone after what comes first."""
    without = task if first == 'others' else None
    steps = run.steps(FIRST_STEPS)
    start = prepared(first, run.shares, run.seed, steps, without)
    model = copy.deepcopy(start)
    (batches,) = task_batches([task], run.seed)
    train(model, batches, run.steps(TASK_STEPS))
    return score(task, model)


def together(run, first):
    """The model of which all tasks are asked."""
    first_steps = run.steps(FIRST_STEPS)
    more_steps = run.steps(len(SIZES) * TASK_STEPS)
    if first == 'everything':
        total = first_steps + more_steps
        model = new_t5(run.seed)
        share = first_steps / total
        batches = batches_of(first, run.shares, run.seed, unlabelled=share)
        train(model, batches, total)
        return model
    model = copy.deepcopy(prepared(first, run.shares, run.seed, first_steps))
    train(model, batches_of('tasks', run.shares, run.seed), more_steps)
    return model


def execute(run, options, checkpoint):
    """Train by one strategy and score all tasks, on the CPU."""
    began = time.process_time()
    first, each = STRATEGIES[run.strategy]
    if each:
        scores = {task: fine_tuned(run, first, task) for task in SIZES}
    else:
        model = together(run, first)
        scores = {task: score(task, model) for task in SIZES}
    return Measured(**scores, seconds=time.process_time() - began)


# ---- The plan ----


def add_options(add):
    add('--seeds', type=runner.whole, default=3)


def plan(rows, options):
    """A quick run first; then seed by seed."""
    found = [Run('all at once', 'limited', 0, 1)]
    for seed in range(options.seeds):
        found += [Run(name, 'limited', seed) for name in STRATEGIES]
        found += [
            Run(LAST, shares, seed) for shares in SHARES if shares != 'limited'
        ]
    return found


STUDY = runner.Study(
    name='mixtures',
    about=__doc__,
    Run=Run,
    Measured=Measured,
    add_options=add_options,
    plan=plan,
    execute=execute,
    unit='steps',
)
read_runs = STUDY.read_runs
