"""The mixtures study: its plan, its mixtures, and a cheap row made again."""

import argparse
import dataclasses
import itertools

import pytest
import torch
from execute import CHAPTER

from studies import mixtures, runner, text_to_text

RECORDED = CHAPTER / 'studies' / 'mixtures.csv'
OPTIONS = argparse.Namespace(seeds=2)
RUN = mixtures.Run('all at once', 'limited', 0)
TASKS = list(mixtures.SIZES)


@pytest.fixture
def trained(monkeypatch):
    """Calls of `train`, (model, batches, steps), none of which is made."""
    calls = []
    monkeypatch.setattr(mixtures, 'train', lambda *call: calls.append(call))
    monkeypatch.setattr(mixtures, 'score', lambda task, model: 0.5)
    mixtures.pretrained.cache_clear()
    yield calls
    mixtures.pretrained.cache_clear()


@pytest.fixture
def named(monkeypatch):
    """Streams that only say what they are, and sizes that are small."""
    monkeypatch.setattr(
        mixtures,
        'task_batches',
        lambda tasks, seed: [itertools.repeat(task) for task in tasks],
    )
    monkeypatch.setattr(
        text_to_text,
        'batches',
        lambda objective, seed: itertools.repeat(objective),
    )


def shares_of(batches, num_batches=4000):
    drawn = list(itertools.islice(batches, num_batches))
    return {name: drawn.count(name) / num_batches for name in {*drawn}}


# ---- Runs and what is measured ----


@pytest.mark.parametrize(
    'change, message',
    [
        ({'strategy': 'both'}, "strategy is 'both', not one of .*'all at"),
        ({'shares': 'half'}, "shares is 'half', not one of .*'equal'"),
        ({'shares': 'none'}, "shares is 'none' for 'all at once'"),
        (
            {'strategy': 'each task alone'},
            "shares is 'limited' for 'each task alone'",
        ),
        ({'seed': -1}, 'seed is -1, below 0'),
        ({'quick': 2}, r'quick is 2, not one of \(0, 1\)'),
    ],
)
def test_what_is_no_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RUN, **change)


@pytest.mark.parametrize('value', [-0.1, 1.5, float('nan')])
@pytest.mark.parametrize('name', TASKS)
def test_exact_match_is_from_zero_to_one(name, value):
    measured = mixtures.Measured(0.0, 0.5, 1.0, 0.5, 9.0)
    message = rf'{name} is {value}, outside \[0, 1\]'
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(measured, **{name: value})


def test_all_tasks_are_measured():
    fields = [field.name for field in dataclasses.fields(mixtures.Measured)]
    assert {*TASKS} == {*text_to_text.makers()} == {*fields} - {'seconds'}


# ---- The plan ----


def test_the_plan_has_no_run_twice_and_a_cheap_one_first():
    plan = mixtures.plan([], OPTIONS)
    assert len(plan) == len(set(plan))
    assert plan[0].quick and not any(run.quick for run in plan[1:])
    assert plan[0].cost * 20 < sum(run.cost for run in plan)
    for seed in range(OPTIONS.seeds):
        ours = [run for run in plan[1:] if run.seed == seed]
        assert {run.strategy for run in ours} == {*mixtures.STRATEGIES}
        shared = [run for run in ours if run.strategy == mixtures.SHARED]
        assert {run.shares for run in shared} == {*mixtures.SHARES}
        assert len(ours) == len(mixtures.STRATEGIES) + len(shared) - 1


def test_what_is_pretrained_together_is_together():
    used = [
        mixtures.STRATEGIES[run.strategy][0] == 'unlabelled'
        for run in mixtures.plan([], argparse.Namespace(seeds=1))[1:]
    ]
    assert [key for key, _ in itertools.groupby(used)].count(True) == 1


# ---- Mixtures ----


@pytest.mark.usefixtures('named')
@pytest.mark.parametrize(
    'shares, expected',
    [
        ('equal', [0.25, 0.25, 0.25, 0.25]),
        ('proportional', [0.604, 0.302, 0.075, 0.019]),
        ('limited', [0.307, 0.307, 0.307, 0.079]),
        ('temperature 2', [0.447, 0.316, 0.158, 0.080]),
    ],
)
def test_tasks_come_in_their_shares(shares, expected):
    found = shares_of(mixtures.mixture(TASKS, shares, 0))
    for task, share in zip(TASKS, expected, strict=True):
        assert found[task] == pytest.approx(share, abs=0.025)


@pytest.mark.usefixtures('named')
def test_unlabelled_texts_come_in_their_share_and_some_tasks_not_at_all():
    found = shares_of(mixtures.mixture(TASKS[:2], 'equal', 0, 0.4))
    assert found['spans'] == pytest.approx(0.4, abs=0.025)
    assert found[TASKS[0]] == pytest.approx(0.3, abs=0.025)
    assert {*found} == {'spans', *TASKS[:2]}


# ---- One run ----


@pytest.mark.usefixtures('named')
@pytest.mark.parametrize('strategy', mixtures.STRATEGIES)
def test_how_much_each_strategy_trains_and_on_what(strategy, trained):
    shares = 'none' if strategy in mixtures.UNMIXED else 'equal'
    run = mixtures.Run(strategy, shares, 1)
    measured = mixtures.execute(run, None, None)
    assert dataclasses.astuple(measured)[:4] == (0.5,) * 4
    assert sum(steps for *_, steps in trained) == run.cost
    seen = [
        (*sorted({*shares_of(batches)}), steps)
        for _, batches, steps in trained
    ]
    everything = *sorted(['spans', *TASKS]), 800
    others = [
        tuple(name for name in everything if name != task) for task in TASKS
    ]
    alone = [(task, 300) for task in TASKS]
    expected = {
        'each task alone': [(task, 1100) for task in TASKS],
        'pretrained, fine-tuned': [('spans', 800), *alone],
        'pretrained, then all tasks': [('spans', 800), (*sorted(TASKS), 1200)],
        'all at once': [(*everything[:-1], 2000)],
        'all at once, fine-tuned': [everything, *alone],
        'all but one, fine-tuned': [*others, *alone],
        'supervised, fine-tuned': [(*sorted(TASKS), 800), *alone],
    }
    assert sorted(seen, key=str) == sorted(expected[strategy], key=str)


@pytest.mark.usefixtures('named')
def test_each_fine_tuning_begins_where_pretraining_ended(monkeypatch):
    """No task trains the model of another."""
    ends = []

    def train(model, batches, num_steps):
        weight = next(model.parameters())
        ends.append((id(model), weight[0, 0].item()))
        with torch.no_grad():
            weight += 1

    monkeypatch.setattr(mixtures, 'train', train)
    monkeypatch.setattr(mixtures, 'score', lambda task, model: 0.5)
    mixtures.pretrained.cache_clear()
    run = mixtures.Run('pretrained, fine-tuned', 'none', 0)
    mixtures.execute(run, None, None)
    mixtures.execute(run, None, None)  # not pretrained again
    mixtures.pretrained.cache_clear()
    (_, first), *rest = ends
    assert len(rest) == 8
    assert [value for _, value in rest] == pytest.approx([first + 1] * 8)
    assert len({model for model, _ in ends[:5]}) == 5


# ---- The recorded rows ----


def test_the_record_is_that_of_its_commands_and_whole():
    rows, unfinished = mixtures.STUDY.read(RECORDED)
    assert unfinished == b''
    plan = set()
    for command in {row.made.command for row in rows}:
        words = command.split()
        assert words[:2] == ['studies', 'mixtures']
        options = runner.arguments(mixtures.STUDY, words[2:])
        plan |= set(mixtures.plan(rows, options))
    assert {row.run for row in rows} == plan
    assert {run.seed for run in plan} == set(range(3))


@pytest.mark.slow
def test_the_cheapest_recorded_row_can_be_made_again():
    rows, _ = mixtures.STUDY.read(RECORDED)
    run = mixtures.plan([], OPTIONS)[0]
    (row,) = (row for row in rows if row.run == run)
    again = runner.repeat(mixtures.STUDY, row, device='cpu')
    for task in TASKS:
        expected = getattr(row.measured, task)
        assert getattr(again, task) == pytest.approx(expected, abs=0.06)
