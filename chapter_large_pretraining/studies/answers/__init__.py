"""The answers study: runs that the solutions of exercises quote.

    python -m studies answers solutions/answers_bert.csv --notebooks bert

The answers to the exercises of a notebook are a file beside this one, named
after the notebook. Its `EXERCISES` has for each number of an exercise a
function, its settings and a number of seeds; `function(setting, seed)` makes
one run on the CPU and returns what it measured by name, as numbers and lists
of numbers. The first is a short one, which the tests make again.
`kept` has the models that solutions load.
"""

import dataclasses
import importlib
import json
import pkgutil
import time

import pandas as pd

from .. import runner


def notebooks():
    """The names of the notebooks with answers, in order."""
    names = {module.name for module in pkgutil.iter_modules(__path__)}
    return sorted(names - {'kept'})


def exercises(notebook):
    """Of a notebook: number of an exercise to function, settings, seeds."""
    return importlib.import_module(f'{__name__}.{notebook}').EXERCISES


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of an exercise; ValueError for a notebook that has none."""

    notebook: str
    exercise: int
    setting: str
    seed: int

    def __post_init__(self):
        runner.check_values(self, notebook=notebooks())
        runner.check_least(self, exercise=1, seed=0)

    cost = 1


def is_measure(value):
    """Is it a number or a list of numbers?"""
    values = value if isinstance(value, list) else [value]
    return all(type(x) in (int, float) for x in values)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out by name, as JSON; ValueError for what is no measure.

    `seconds` are those of the processor.
    """

    measures: str
    seconds: float

    def __post_init__(self):
        named = json.loads(self.measures)
        if not isinstance(named, dict) or not named:
            raise ValueError(f'measures is {self.measures}, not by name')
        for name, value in named.items():
            if not is_measure(value):
                raise ValueError(f'{name} is {value!r}, not a number or more')


def execute(run, options, checkpoint):
    """Make one run; ValueError for an exercise or a setting without one."""
    answered = exercises(run.notebook)
    runner.check_values(run, exercise=tuple(answered))
    function, settings, _ = answered[run.exercise]
    runner.check_values(run, setting=tuple(settings))
    began = time.process_time()
    measures = function(run.setting, run.seed)
    return Measured(json.dumps(measures), time.process_time() - began)


def add_options(add):
    known = notebooks()
    add(
        '--notebooks',
        type=runner.listed(runner.one_of(known)),
        default=known,
    )
    add('--exercises', type=runner.listed(runner.whole), help='default: all')


def plan(rows, options):
    """All settings of each exercise with the first seed, then with others."""
    return [
        Run(notebook, number, setting, seed)
        for notebook in options.notebooks
        for number, (_, settings, seeds) in exercises(notebook).items()
        if number in (options.exercises or [number])
        for seed in range(seeds)
        for setting in settings
    ]


STUDY = runner.study_of(
    __name__,
    describe=lambda run: (
        f'{run.notebook}, exercise {run.exercise}: {run.setting}, {run.seed}'
    ),
    unit='runs',
)
read_runs = STUDY.read_runs


def read_measures(path, exercise):
    """The rows of one exercise, a column per measure, in order of seeds.

    Raises ValueError for an exercise without rows and for what `read_runs`
    refuses.
    """
    rows = read_runs(path)
    rows = rows[rows.exercise == exercise].sort_values('seed', kind='stable')
    if rows.empty:
        raise ValueError(f'{path} has no rows of exercise {exercise}')
    rows = rows.reset_index(drop=True)
    measures = pd.DataFrame(map(json.loads, rows.measures))
    return rows.drop(columns='measures').join(measures)
