"""The mixtures study: tasks one after another, together, and in what shares.

Trains T5s of the small world on four tasks of very unequal size (Raffel et
al., 2020, section 3.5): first unlabelled texts and then each task, all at
once, or all at once and then each task; and, after the unlabelled texts, all
tasks at once in four shares. A model for one task takes as many steps with
each strategy, a model for all as many as pretraining once and fine-tuning
four times.
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
    'each task alone': ('nothing', True),
    'pretrained, fine-tuned': ('unlabelled', True),
    'pretrained, then all tasks': ('unlabelled', False),
    'all at once': ('everything', False),
    'all at once, fine-tuned': ('everything', True),
    'all but one, fine-tuned': ('others', True),
    'supervised, fine-tuned': ('tasks', True),
}
UNMIXED = 'each task alone', 'pretrained, fine-tuned'
SHARES = {  # of the tasks: arguments of `mixing_rates`
    'limited': {'limit': LIMIT},
    'proportional': {},
    'temperature 2': {'temperature': 2},
    'equal': {'limit': 1},
}
SHARED = 'pretrained, then all tasks'  # the strategy with all shares


@dataclasses.dataclass(frozen=True)
class Run:
    """One strategy; ValueError for a strategy or shares that are none.

    `shares` is 'none' where tasks are not mixed. `quick` is 1 for a quarter
    of the steps, a run to be repeated by a test.
    """

    strategy: str
    shares: str
    seed: int
    quick: int = 0

    def __post_init__(self):
        runner.check_values(
            self,
            strategy=tuple(STRATEGIES),
            shares=('none', *SHARES),
            quick=(0, 1),
        )
        runner.check_least(self, seed=0)
        if (self.shares == 'none') != (self.strategy in UNMIXED):
            raise ValueError(
                f'shares is {self.shares!r} for {self.strategy!r}: only '
                "where tasks are mixed they are not 'none'"
            )

    def steps(self, number):
        return number // 4 if self.quick else number

    @property
    def cost(self):
        """Steps of training, and of the pretraining that runs share."""
        first, _ = STRATEGIES[self.strategy]
        rounds = len(SIZES) if first in ('nothing', 'others') else 1
        return self.steps(rounds * FIRST_STEPS + len(SIZES) * TASK_STEPS)


@dataclasses.dataclass(frozen=True)
class Measured:
    """Exact match of each task on test texts; ValueError outside [0, 1].

    `seconds` are those of the processor, with the pretraining on unlabelled
    texts if this run was the first of its seed.
    """

    translation: float
    summary: float
    sentiment: float
    question: float
    seconds: float

    def __post_init__(self):
        for name in SIZES:
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


def mixture(tasks, shares, seed, unlabelled=0.0):
    """Endless batches of tasks, and of unlabelled texts in a share of them."""
    streams, rates = task_batches(tasks, seed), rates_of(tasks, shares)
    if unlabelled:
        streams.append(text_to_text.batches('spans', seed))
        rates = torch.cat(
            ((1 - unlabelled) * rates, torch.tensor([unlabelled]))
        )
    return ways.mixed(streams, rates, seed)


@functools.lru_cache(maxsize=1)
def pretrained(seed, num_steps):
    """A model after unlabelled texts."""
    model = new_t5(seed)
    train(model, text_to_text.batches('spans', seed), num_steps)
    return model


def mixed_first(run, tasks, unlabelled):
    """A model after tasks at once, half of it unlabelled texts or none."""
    model = new_t5(run.seed)
    batches = mixture(tasks, run.shares, run.seed, unlabelled)
    train(model, batches, run.steps(FIRST_STEPS))
    return model


def score(task, model):
    return ways.exact_match(*text_to_text.written(task, model))


# ---- One run ----


def starts(run, first):
    """For each task a model to be fine-tuned, and for how many steps."""
    more = run.steps(TASK_STEPS)
    if first == 'nothing':
        total = run.steps(FIRST_STEPS + TASK_STEPS)
        return {task: (new_t5(run.seed), total) for task in SIZES}
    if first == 'others':
        others = {task: [x for x in SIZES if x != task] for task in SIZES}
        return {
            task: (mixed_first(run, others[task], 0.5), more) for task in SIZES
        }
    if first == 'unlabelled':
        model = pretrained(run.seed, run.steps(FIRST_STEPS))
    else:
        share = 0.5 if first == 'everything' else 0.0
        model = mixed_first(run, [*SIZES], share)
    return {task: (copy.deepcopy(model), more) for task in SIZES}


def together(run, first):
    """The model of which all tasks are asked."""
    first_steps = run.steps(FIRST_STEPS)
    more_steps = run.steps(len(SIZES) * TASK_STEPS)
    if first == 'unlabelled':
        model = copy.deepcopy(pretrained(run.seed, first_steps))
        batches = mixture([*SIZES], run.shares, run.seed)
        train(model, batches, more_steps)
        return model
    total = first_steps + more_steps
    model = new_t5(run.seed)
    share = first_steps / total
    train(model, mixture([*SIZES], run.shares, run.seed, share), total)
    return model


def execute(run, options, checkpoint):
    """Train by one strategy and score all tasks, on the CPU."""
    began = time.process_time()
    first, each = STRATEGIES[run.strategy]
    scores = {}
    if each:
        for task, (model, num_steps) in starts(run, first).items():
            train(model, *task_batches([task], run.seed), num_steps)
            scores[task] = score(task, model)
    else:
        model = together(run, first)
        scores = {task: score(task, model) for task in SIZES}
    return Measured(**scores, seconds=time.process_time() - began)


# ---- The plan ----


def add_options(add):
    add('--seeds', type=runner.whole, default=3)


def plan(rows, options):
    """A quick run first; then seed by seed, what is pretrained together."""
    found = [Run('all at once', 'limited', 0, 1)]
    for seed in range(options.seeds):
        for name in STRATEGIES:
            shares = ['none'] if name in UNMIXED else ['limited']
            if name == SHARED:
                shares = SHARES
            found += [Run(name, share, seed) for share in shares]
    return found


STUDY = runner.study_of(__name__, unit='steps')
read_runs = STUDY.read_runs
