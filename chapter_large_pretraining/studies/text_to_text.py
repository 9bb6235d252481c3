"""The text-to-text study: one stack or two, and what to pretrain them on.

Pretrains an encoder-decoder, a prefix language model and a decoder, each
with several objectives and for one amount of compute, and fine-tunes them to
summarize or to do all four tasks of `TextTasks`. In the small world.
"""

import copy
import dataclasses
import functools
import math
import time

import text_to_text as ways
import torch

import corpora
import utils

from . import runner

BATCH_SIZE, NUM_TEXTS, NUM_TEST = 64, 32000, 500
NUM_STEPS = 800  # of span corruption with the encoder-decoder
ARCHITECTURES = {  # is it one stack, does it see its input, how many blocks
    'encoder-decoder': (False, True, 2),
    'prefix': (True, True, 2),
    'decoder': (True, False, 2),
    'prefix, four blocks': (True, True, 4),
    'decoder, four blocks': (True, False, 4),
}
OBJECTIVES = 'none', *ways.OBJECTIVES
THREE = 'spans', 'denoising', 'language modeling'
BART = (
    'copying',
    'token masking',
    'token deletion',
    'text infilling',
    'sentence permutation',
    'document rotation',
    'infilling and permutation',
)
STARTS = [  # of fine-tuning: an architecture and its objective
    ('encoder-decoder', 'none'),
    *((name, objective) for name in ARCHITECTURES for objective in THREE),
    *(('encoder-decoder', objective) for objective in BART),
]
CURVES = [('encoder-decoder', name) for name in ('none', 'spans', 'copying')]
TASKS = 'summary', 'four'
LABELS = 128, 512
STEPS = 50, 100, 200, 400, 800, 1600
MORE_STEPS = (3200,)  # without pretraining
FOUR = 512, 800  # examples of each task, and steps


@dataclasses.dataclass(frozen=True)
class Run:
    """One fine-tuning; ValueError for what is none.

    `labels` are those of each task, `steps` those of fine-tuning. With the
    objective 'none' there was no pretraining.
    """

    architecture: str
    objective: str
    task: str
    labels: int
    steps: int
    seed: int

    def __post_init__(self):
        runner.check_values(
            self,
            architecture=tuple(ARCHITECTURES),
            objective=OBJECTIVES,
            task=TASKS,
        )
        runner.check_least(self, labels=1, steps=1, seed=0)

    @property
    def cost(self):
        """Steps of fine-tuning."""
        return self.steps


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out; ValueError for a number below 0.

    Steps and floating-point operations of pretraining, as `operations`
    counts them; scores of the summaries of test reports, shares of 1; and
    for all four tasks the ROUGE-L of the translations and the exact match of
    opinions and answers, not a number where only summaries were learned.
    `seconds` are those of the processor, with the pretraining if this run
    was the first of its start.
    """

    pretraining_steps: int
    flops: float
    rouge_1: float
    rouge_2: float
    rouge_l: float
    who: float
    opinion: float
    color: float
    thing: float
    exact: float
    translation: float
    sentiment: float
    question: float
    seconds: float

    def __post_init__(self):
        runner.check_least(self, **dict.fromkeys(vars(self), 0))


# ---- Pretraining ----


@functools.cache
def world():
    return corpora.TextTasks()


@functools.cache
def texts():
    return world().unlabelled(NUM_TEXTS)


def build(architecture, seed):
    """A new model."""
    one, sees_input, num_blks = ARCHITECTURES[architecture]
    torch.manual_seed(seed)
    config = ways.small_config(len(world().words), num_blks=num_blks)
    return ways.OneStack(config, sees_input) if one else utils.T5(config)


def objective_of(architecture, objective):
    """A decoder alone needs no beginning to learn language modeling from."""
    alone = architecture.startswith('decoder')
    if alone and objective == 'language modeling':
        return 'from nothing'
    return objective


def batches(objective, seed):
    return ways.objective_batches(
        world(), texts(), objective, BATCH_SIZE, seed
    )


@functools.cache
def flops_per_step(architecture, objective):
    """Operations of a step of pretraining, the mean of 50."""
    model, total = build(architecture, 0), 0
    stream = batches(objective_of(architecture, objective), 0)
    for _ in range(50):
        _, valid_lens, labels = next(stream)
        read, written = valid_lens.sum(), (labels != -100).sum()
        total += ways.operations(model, read.item(), written.item())
    return total / 50


def budget():
    """The operations that every pretraining may take."""
    return NUM_STEPS * flops_per_step('encoder-decoder', 'spans')


@functools.lru_cache(maxsize=1)
def pretrained(architecture, objective, seed):
    """A model, and the number of steps of its pretraining."""
    model = build(architecture, seed)
    if objective == 'none':
        return model, 0
    steps = round(budget() / flops_per_step(architecture, objective))
    runner.train(
        model,
        batches(objective_of(architecture, objective), seed),
        utils.seq2seq_loss,
        steps,
        0.01,
        warmup=20,
    )
    return model, steps


# ---- Fine-tuning ----


def makers():
    return {
        'translation': world().translation,
        'summary': world().summary,
        'sentiment': world().opinion,
        'question': world().question,
    }


@functools.cache
def test_pairs(task):
    return makers()[task](NUM_TEST, 'test')


def written(task, model):
    """What a model writes for the test texts of a task, and the truth."""
    pairs = test_pairs(task)
    truth = ways.texts_of(world(), pairs.labels)
    return ways.write(world(), model, pairs), truth


def execute(run, options, checkpoint):
    """Fine-tune one model and score it, on the CPU."""
    began = time.process_time()
    start, steps = pretrained(run.architecture, run.objective, run.seed)
    model = copy.deepcopy(start)
    tasks = ['summary'] if run.task == 'summary' else [*makers()]
    pairs = corpora.mix(
        *(makers()[task](run.labels, 'train', run.seed) for task in tasks)
    )
    ways.fine_tune(model, pairs, run.steps, seed=run.seed)
    found = ways.summary_scores(*written('summary', model))
    found = {
        name.replace('ROUGE-', 'rouge_').lower(): value
        for name, value in found.items()
    }
    others = dict.fromkeys(('translation', 'sentiment', 'question'), math.nan)
    if run.task == 'four':
        translated = ways.summary_scores(*written('translation', model))
        others['translation'] = translated['ROUGE-L']
        for task in ('sentiment', 'question'):
            others[task] = ways.exact_match(*written(task, model))
    flops = 0.0
    if steps:
        flops = steps * flops_per_step(run.architecture, run.objective)
    seconds = time.process_time() - began
    return Measured(steps, flops, **found, **others, seconds=seconds)


# ---- The plan ----


def add_options(add):
    add('--seeds', type=runner.whole, default=3)


def plan(rows, options):
    """A cheap run first; then seed by seed, start by start."""
    found = [Run('encoder-decoder', 'none', 'summary', 128, 50, 0)]
    for seed in range(options.seeds):
        for architecture, objective in STARTS:

            def run(*what, start=(architecture, objective), seed=seed):
                return Run(*start, *what, seed)

            if objective not in BART:
                found.append(run('four', *FOUR))
            if architecture == 'encoder-decoder':
                found.append(run('summary', 128, 400))
            if (architecture, objective) in CURVES:
                steps = [*STEPS, *MORE_STEPS * (objective == 'none')]
                found += [
                    run('summary', labels, n)
                    for labels in LABELS
                    for n in steps
                ]
    return list(dict.fromkeys(found))


STUDY = runner.study_of(__name__, unit='steps')
read_runs = STUDY.read_runs
