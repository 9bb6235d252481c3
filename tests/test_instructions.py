"""The instructions study: its plan, its scores, and a cheap row made again."""

import argparse
import dataclasses

import pytest
import torch
from execute import CHAPTER

from studies import instructions, runner

RECORDED = CHAPTER / 'studies' / 'instructions.csv'
OPTIONS = argparse.Namespace(seeds=2)
RUN = instructions.Run('prose', 4, 8, 5, 0)
MEASURED = instructions.Measured(1.0, 0.5, 0.0, 0.5, 0.5, 9.0)


class Knowing(torch.nn.Module):
    """Says of every country what it is told, after any text."""

    def __init__(self, world, task):
        super().__init__()
        self.world, self.task = world, task

    def encode(self, X):
        answer = torch.zeros(len(self.world.vocab), dtype=torch.long)
        questions = self.world.questions[self.task]
        answer[questions] = self.world.answers[self.task]
        last = torch.zeros_like(X)
        for i in range(X.shape[1]):
            new = answer[X[:, i]]
            last[:, i] = torch.where(new > 0, new, last[:, i - 1] * (i > 0))
        return last

    def head(self, H):
        return torch.nn.functional.one_hot(H, len(self.world.vocab))


@pytest.mark.parametrize(
    'change, message',
    [
        ({'start': 'lists'}, "start is 'lists', not one of"),
        ({'num_tasks': 6}, 'num_tasks is 6, not one of'),
        ({'num_phrasings': 3}, 'num_phrasings is 3, not one of'),
        ({'num_steps': 0}, 'num_steps is 0, below 1'),
        ({'seed': -1}, 'seed is -1, below 0'),
    ],
)
def test_what_is_no_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RUN, **change)


@pytest.mark.parametrize('value', [-0.1, 1.1, float('nan')])
@pytest.mark.parametrize(
    'name', ['tuned', 'phrasing', 'task', 'prose', 'shots']
)
def test_shares_are_from_zero_to_one(name, value):
    with pytest.raises(ValueError, match=rf'{name} is .*outside \[0, 1\]'):
        dataclasses.replace(MEASURED, **{name: value})


def test_no_dialogue_is_about_the_held_out_task():
    for seed in range(5):
        for number in (0, 1, 4):
            run = dataclasses.replace(RUN, seed=seed, num_tasks=number)
            assert len(run.tasks) == number
            assert run.held_out not in run.tasks


def test_the_plan_has_no_run_twice_and_a_cheap_one_first():
    plan = instructions.plan([], OPTIONS)
    assert len(plan) == len(set(plan))
    assert (
        0
        < plan[0].cost * 5
        < min(run.cost for run in plan[1:] if run.start == 'prose')
    )
    for seed in range(OPTIONS.seeds):
        ours = [run for run in plan[1:] if run.seed == seed]
        assert {run.num_tasks for run in ours} == {0, 1, 2, 3, 4}
        assert {run.num_phrasings for run in ours} == {1, 2, 4, 8}
        assert {run.start for run in ours} == {'prose', 'nothing', 'plain'}


def test_a_model_that_knows_a_task_is_right_in_it_alone():
    told = instructions.world()
    model, columns = Knowing(told, 0), told.columns(True)
    phrasings = instructions.PHRASINGS[:2]
    for task, share in ((0, 1.0), (3, 0.0)):
        found = instructions.score(model, told, [task], columns, phrasings)
        assert found == share
        assert instructions.score_prose(model, told, task, columns) == share
    shots = instructions.answered(told, 3, 2)
    found = instructions.score(model, told, [0], columns, phrasings, shots)
    assert found == 1.0


def test_a_plain_question_has_no_token_of_the_template(monkeypatch):
    told, read = instructions.world(), []

    def said(model, rows):
        read.extend(map(told.decode, rows))
        return torch.zeros(len(rows), dtype=torch.long)

    monkeypatch.setattr(instructions, 'said', said)
    shots = instructions.answered(told, 0, 1)
    phrasing = instructions.PHRASINGS[:1]
    for plain in (False, True):
        instructions.score(None, told, [0], [27], phrasing, shots, plain)
    full, short = read
    assert full == (
        '<bos> <user> what is the capital of albania ? <assistant> tirana '
        '<end> <user> what is the capital of france ? <assistant>'
    )
    assert short == (
        '<bos> what is the capital of albania ? tirana '
        'what is the capital of france ?'
    )


def test_answered_questions_are_whole_dialogues():
    told = instructions.world()
    first, _ = instructions.answered(told, 0, 2)
    assert told.decode(first) == (
        '<user> what is the capital of albania ? <assistant> tirana <end>'
    )


@pytest.mark.skipif(not RECORDED.exists(), reason='not recorded yet')
def test_the_record_is_that_of_its_commands():
    rows, unfinished = instructions.STUDY.read(RECORDED)
    assert unfinished == b''
    plan = instructions.plan([], argparse.Namespace(seeds=3))
    assert {row.run for row in rows} == {*plan}


@pytest.mark.slow
def test_the_cheapest_recorded_row_can_be_made_again():
    rows, _ = instructions.STUDY.read(RECORDED)
    run = instructions.plan([], OPTIONS)[0]
    (row,) = (row for row in rows if row.run == run)
    again = runner.repeat(instructions.STUDY, row, device='cpu')
    for name in ('tuned', 'phrasing', 'task', 'prose', 'shots'):
        found, there = getattr(again, name), getattr(row.measured, name)
        assert found == pytest.approx(there, abs=0.1)
