"""The instructions study: from a model of prose to one that answers.

A small GPT reads the facts of countries as prose, and questions without
answers about all tasks but one. It is then tuned on dialogues, with few or
many tasks and phrasings, and asked about countries, phrasings and the one
task that no dialogue had. Rivals are the model before tuning, asked in four
ways, or without the tokens of a template, which it has never read, and
dialogues without the prose.
"""

import dataclasses
import functools
import time

import torch

import utils
from corpora.facts import SENTENCES
from corpora.questions import (
    ASKED_TASKS,
    ASSISTANT,
    END,
    NEW_PHRASINGS,
    PHRASINGS,
    USER,
    QuestionWorld,
)

from . import runner
from .reasoning import labelled_loss

STEPS, TUNING = 1200, 300
BATCH, TUNING_BATCH = 16, 64
LR, TUNING_LR = 0.02, 0.001
HELD_OUT = 'capital', 'currency', 'language'  # by seed
NUM_TASKS = 1, 2, 3, 4
NUM_PHRASINGS = 1, 2, 4, 8
NUM_SHOTS = 4


@dataclasses.dataclass(frozen=True)
class Run:
    """One tuning; ValueError for a number that is not offered.

    `start` is 'prose', or 'nothing' for a model that has read none, or
    'plain' for one that has read prose and is asked without the tokens of a
    template: questions and answers follow one another. With 0 tasks there is
    no tuning. `seed` also says which task is held out.
    """

    start: str
    num_tasks: int
    num_phrasings: int
    num_steps: int
    seed: int

    def __post_init__(self):
        runner.check_values(
            self,
            start=('prose', 'nothing', 'plain'),
            num_tasks=(0, *NUM_TASKS),
            num_phrasings=NUM_PHRASINGS,
        )
        runner.check_least(self, num_steps=1, seed=0)

    @property
    def cost(self):
        """Steps of reading prose, before it is tuned."""
        return 0 if self.start == 'nothing' else self.num_steps

    @property
    def held_out(self):
        return HELD_OUT[self.seed % len(HELD_OUT)]

    @property
    def tasks(self):
        """The tasks of the dialogues, in another order for each seed."""
        others = [x for x in ASKED_TASKS if x != self.held_out]
        turn = self.seed % len(others)
        return (others[turn:] + others[:turn])[: self.num_tasks]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Shares of right answers; ValueError for one outside [0, 1].

    `tuned` is for the tuned tasks and phrasings, `phrasing` for new
    phrasings, both about countries that no dialogue had. `task` is for the
    held-out task in all phrasings, for the countries where no other task has
    the same answer. `prose` is for the held-out task, asked in the words of
    the prose, `shots` for it after four answered questions. Where there are
    no tuned tasks, `tuned` and `phrasing` are for all.
    """

    tuned: float
    phrasing: float
    task: float
    prose: float
    shots: float
    seconds: float

    def __post_init__(self):
        for name in ('tuned', 'phrasing', 'task', 'prose', 'shots'):
            if not 0 <= getattr(self, name) <= 1:
                value = getattr(self, name)
                raise ValueError(f'{name} is {value}, outside [0, 1]')


# ---- Training ----


def small_config(vocab_size):
    """A GPT of two blocks of width 64."""
    return utils.Config(vocab_size, num_hiddens=64, num_blks=2, max_len=80)


world = functools.cache(QuestionWorld)


@functools.lru_cache(maxsize=1)
def base(seed, num_steps):
    """A model that has read prose, and questions of all tasks but one."""
    run, told = Run('prose', len(NUM_TASKS), 8, num_steps, seed), world()
    tasks = [told.tasks.index(task) for task in run.tasks]
    torch.manual_seed(seed)
    model = utils.GPT(small_config(len(told.vocab)))
    runner.train(
        model,
        told.prose_and_questions(BATCH, tasks, seed),
        utils.lm_loss,
        num_steps,
        LR,
        'muon',
        (0.9, 0.99),
        warmup=20,
    )
    return model


def tune(model, run, told):
    """Train a model on the dialogues of a run."""
    tasks = [told.tasks.index(task) for task in run.tasks]
    phrasings, columns = PHRASINGS[: run.num_phrasings], told.columns(False)

    def batches():
        generator = torch.Generator().manual_seed(run.seed)
        while True:
            drawn = told.draw_questions(
                TUNING_BATCH, tasks, phrasings, columns, generator
            )
            yield told.dialogues(*drawn)

    runner.train(
        model,
        batches(),
        labelled_loss,
        TUNING,
        TUNING_LR,
        'adamw',
        (0.9, 0.99),
        warmup=10,
    )


# ---- Asking ----


@torch.no_grad()
def said(model, rows):
    """The likeliest token after each of some lists of ids."""
    X = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    last = torch.tensor([len(row) - 1 for row in rows])
    H = model.encode(X)[range(len(X)), last]
    return model.head(H).argmax(-1)


def score(model, told, tasks, columns, phrasings, shots=(), plain=False):
    """The share of right answers to each question in each phrasing.

    `plain` leaves out the tokens of the template.
    """
    found, right = [], []
    marks = told.encode(f'{USER} {ASSISTANT} {END}')
    for text in phrasings:
        t = [task for task in tasks for _ in columns]
        c = [column for _ in tasks for column in columns]
        questions = told.questions_of(t, c, [text] * len(t))
        X, labels = told.dialogues(questions, told.answers[t, c])
        ends = (labels != -100).long().argmax(1).tolist()  # the answers
        start = torch.cat([*shots, torch.tensor([], dtype=torch.long)])
        rows = [
            torch.cat((X[i, :1], start, X[i, 1:end]))
            for i, end in enumerate(ends)
        ]
        if plain:
            rows = [row[~torch.isin(row, marks)] for row in rows]
        found.append(said(model, rows))
        right.append(told.answers[t, c])
    return (torch.cat(found) == torch.cat(right)).float().mean().item()


def answered(told, task, number):
    """Dialogues about a task as ids, without `<bos>` and the first ones."""
    columns = told.columns(False)[:number]
    tasks, phrasings = [task] * number, PHRASINGS[:number]
    questions = told.questions_of(tasks, columns, phrasings)
    X, _ = told.dialogues(questions, told.answers[tasks, columns])
    return [row[row > 0][1:] for row in X]


def score_prose(model, told, task, columns):
    """The share of right continuations of the prose of a task."""
    found = []
    for text in SENTENCES:
        text = f'<bos> {text}'[: -len(' {} .')].replace(
            '{task}', told.tasks[task]
        )
        rows = [
            told.encode(
                text.replace('{}', told.vocab[told.questions[task, c]])
            )
            for c in columns
        ]
        found.append(said(model, rows) == told.answers[task, columns])
    return torch.cat(found).float().mean().item()


def execute(run, options, checkpoint):
    """Tune one model and ask it; the seconds of CPU are of training."""
    told, start = world(), time.process_time()
    torch.manual_seed(run.seed)
    model = utils.GPT(small_config(len(told.vocab)))
    if run.start != 'nothing':
        model.load_state_dict(base(run.seed, run.num_steps).state_dict())
    if run.num_tasks:
        tune(model, run, told)
    seconds = time.process_time() - start
    model.eval()
    every = [told.tasks.index(task) for task in ASKED_TASKS]
    tasks = [told.tasks.index(task) for task in run.tasks] or every
    task = told.tasks.index(run.held_out)
    columns = told.columns(True)
    distinct = told.distinct[task].nonzero()[:, 0].tolist()
    known = PHRASINGS[: run.num_phrasings]
    shots = answered(told, task, NUM_SHOTS)
    asked = [c for c in distinct if c not in told.columns(False)[:NUM_SHOTS]]
    ask = functools.partial(score, model, told, plain=run.start == 'plain')
    return Measured(
        tuned=ask(tasks, columns, known),
        phrasing=ask(tasks, columns, NEW_PHRASINGS),
        task=ask([task], distinct, known),
        prose=score_prose(model, told, task, distinct),
        shots=ask([task], asked, known[:1], shots),
        seconds=seconds,
    )


# ---- The plan ----


def add_options(add):
    add('--seeds', type=runner.whole, default=3)


def plan(rows, options):
    """A short run, then for each seed more tasks, and more phrasings."""
    most = NUM_TASKS[-1], NUM_PHRASINGS[-1]
    runs = [Run('prose', *most, 20, 0)]
    for seed in range(options.seeds):
        runs += [
            Run('prose', number, most[1], STEPS, seed)
            for number in (0, *NUM_TASKS)
        ]
        runs += [
            Run('prose', most[0], number, STEPS, seed)
            for number in NUM_PHRASINGS[:-1]
        ]
        runs.append(Run('nothing', *most, STEPS, seed))
    for seed in range(options.seeds):
        runs.append(Run('plain', 0, most[1], STEPS, seed))
    return runs


STUDY = runner.study_of(
    __name__,
    describe=lambda run: ', '.join(map(str, dataclasses.astuple(run))),
    unit='steps',
)
read_runs = STUDY.read_runs
