"""The reasoning study: its plan, its questions, and a cheap row made again."""

import argparse
import dataclasses

import pytest
import torch
from execute import CHAPTER

from corpora import sums
from studies import reasoning, runner

RECORDED = CHAPTER / 'studies' / 'reasoning.csv'
OPTIONS = argparse.Namespace(seeds=2)
RUN = reasoning.Run('chain', 4, 0)
MEASURED = reasoning.Measured('1.0 0.5', '0.5', '0.5', '0.5', 10, 1.0)


def put(scores, answers):
    """Scores (n, 16) whose best are `answers`, (n,)."""
    return scores.scatter(1, answers[:, None], 9.0)


@pytest.mark.parametrize(
    'change, message',
    [
        ({'way': 'prose'}, "way is 'prose', not one of"),
        ({'num_steps': 0}, 'num_steps is 0, below 1'),
        ({'seed': -1}, 'seed is -1, below 0'),
    ],
)
def test_what_is_no_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RUN, **change)


@pytest.mark.parametrize('name', ['right', 'votes', 'known', 'avoids'])
@pytest.mark.parametrize('value', ['1.1', '0.5 -0.1', 'nan'])
def test_shares_are_from_zero_to_one(name, value):
    with pytest.raises(ValueError, match=rf'{name} has .*outside \[0, 1\]'):
        dataclasses.replace(MEASURED, **{name: value})


def test_the_plan_has_no_run_twice_and_a_cheap_one_first():
    plan = reasoning.plan([], OPTIONS)
    assert len(plan) == len(set(plan))
    assert plan[0].cost * 5 < min(run.cost for run in plan[1:])
    for seed in range(OPTIONS.seeds):
        ways = {run.way for run in plan[1:] if run.seed == seed}
        assert ways == {*reasoning.FORMS}


def test_direct_answers_get_as_many_tokens_as_chains():
    plan = reasoning.plan([], argparse.Namespace(seeds=1))[1:]
    read = {}
    for run in plan:
        if run.way in ('chain', 'direct', 'curriculum'):
            X, _ = next(reasoning.batches(run))
            tokens = X[:, :-1].numel() * run.num_steps
            read.setdefault(run.way, []).append(tokens)
    assert read['direct'][0] > 0.99 * read['chain'][0]
    assert read['direct'][1] > 2 * read['chain'][0]


def test_shuffled_ways_are_shuffled_and_the_others_are_not():
    for way in ('chain', 'shuffled chain'):
        run = dataclasses.replace(RUN, way=way)
        X, _ = next(reasoning.batches(run))
        assert (
            next(
                sums.sum_batches(
                    reasoning.BATCH, 'chain', shuffled=way != 'chain'
                )
            )[0]
            == X
        ).all()


def test_the_curriculum_grows_and_ends_with_all():
    stages = [len(reasoning.growing(100, step)) for step in range(100)]
    assert stages == sorted(stages)
    assert {*stages} == {1, 2, 3, 4, 5}
    assert stages[0] == 1
    assert stages.count(5) > 50


@pytest.mark.parametrize('num_digits', [2, 6])
def test_all_tests_are_held_out_and_their_answers_true(num_digits):
    digits, prompts, truth = reasoning.tests(num_digits)
    assert sums.is_held_out(prompts).all()
    assert len(digits) > 120
    assert (truth == digits.sum(1) % 10 + sums.DIGIT).all()
    *same, truth = reasoning.tests(num_digits, shuffled=True)
    assert (same[0] == digits).all() and (same[1] == prompts).all()
    assert (truth == sums.states_of(digits, True)[:, -1] + sums.DIGIT).all()


@pytest.mark.parametrize('kept', [True, False])
def test_strings_that_are_kept_and_others_are_asked(kept):
    for k in (2, 5):
        digits, prompts, truth = reasoning.tests_of_strings(k, kept, True)
        assert len(digits) == reasoning.NUM_TESTS
        assert sums.is_held_out(prompts).all()
        assert (sums.begins_kept(digits) == kept).all()
        assert not sums.begins_kept(digits[:, :-1]).any()
        states = sums.states_of(digits, True)[:, -1]
        assert (truth == states + sums.DIGIT).all()


@pytest.mark.parametrize('way', reasoning.KEPT)
def test_ways_that_keep_strings_never_train_on_them(way):
    run = dataclasses.replace(RUN, way=way)
    X, _ = next(reasoning.batches(run))
    for prompt in X[:, 1 : 1 + sums.PLACES]:
        digits = prompt[prompt != sums.BLANK] - sums.DIGIT
        assert not sums.begins_kept(digits[None]).any()


def test_four_blocks_are_four(monkeypatch):
    trained = []
    monkeypatch.setattr(reasoning, 'NUM_TESTS', 4)
    monkeypatch.setattr(
        reasoning.runner, 'train', lambda model, *a, **k: trained.append(model)
    )
    for way in reasoning.KEPT[-2:]:
        reasoning.execute(dataclasses.replace(RUN, way=way), None, None)
    assert [model.config.num_blks for model in trained] == [2, 4]


def test_the_commonest_answer_wins():
    answers = torch.tensor([[3, 4, 4, 5], [7, 7, 0, 7]])
    assert reasoning.vote(answers).tolist() == [4, 7]


def test_the_digits_of_a_path_are_read():
    digits, prompts = sums.sum_problems(4, 5, distinct=True)
    Y = sums.path_texts(digits, prompts)
    assert (reasoning.steps_of(Y) == digits).all()


@pytest.mark.parametrize('way', reasoning.FORMS)
def test_each_way_is_asked(way, monkeypatch):
    monkeypatch.setattr(reasoning, 'NUM_TESTS', 64)
    monkeypatch.setattr(reasoning, 'VOTES', (1, 3))
    measured = reasoning.execute(reasoning.Run(way, 1, 0), None, None)
    lists = way in reasoning.PATHS
    sizes = [
        len(reasoning.numbers(x))
        for x in vars(measured).values()
        if isinstance(x, str)
    ]
    known = 5 * (way in reasoning.KEPT)
    assert sizes == ([1, 2, 1, 1] if lists else [5, 0, known, 0])
    assert measured.tokens >= reasoning.BATCH * 10


def test_a_chain_without_its_end_is_no_answer(monkeypatch):
    digits, prompts = sums.sum_problems(3, 2)
    X, _ = sums.sum_texts(digits, prompts, 'chain')
    monkeypatch.setattr(reasoning.utils, 'generate', lambda *a, **k: X)
    found = reasoning.answer_sums(None, digits, prompts, 'chain')
    assert (found == digits.sum(1) % 10 + sums.DIGIT).all()
    X[:, -2] = sums.DOT
    assert not reasoning.answer_sums(None, digits, prompts, 'chain').any()


@pytest.mark.skipif(not RECORDED.exists(), reason='not recorded yet')
def test_the_record_is_that_of_its_commands():
    rows, unfinished = reasoning.STUDY.read(RECORDED)
    assert unfinished == b''
    plan = reasoning.plan([], argparse.Namespace(seeds=3))
    assert {row.run for row in rows} == {*plan}


@pytest.mark.slow
def test_the_cheapest_recorded_row_can_be_made_again():
    rows, _ = reasoning.STUDY.read(RECORDED)
    run = reasoning.plan([], OPTIONS)[0]
    (row,) = (row for row in rows if row.run == run)
    again = runner.repeat(reasoning.STUDY, row, device='cpu')
    assert again.tokens == row.measured.tokens
    pairs = zip(
        reasoning.numbers(again.right),
        reasoning.numbers(row.measured.right),
        strict=True,
    )
    assert all(abs(a - b) < 0.05 for a, b in pairs)
