"""The text-to-text study: its plan, its parts, and a cheap row made again."""

import argparse
import dataclasses
import math
from itertools import groupby

import pytest
import text_to_text as ways
import torch
from execute import CHAPTER

import utils
from studies import runner
from studies import text_to_text as study

RECORDED = CHAPTER / 'studies' / 'text_to_text.csv'
OPTIONS = argparse.Namespace(seeds=2)
RUN = study.Run('encoder-decoder', 'none', 'summary', 128, 50, 0)
SCORES = 'rouge_1', 'rouge_2', 'rouge_l', *ways.SLOTS, 'exact'
OTHERS = 'translation', 'sentiment', 'question'


@pytest.fixture
def few(monkeypatch):
    """Few texts, a budget of two steps, and nothing left of other tests."""
    texts = study.world().unlabelled(200)
    monkeypatch.setattr(study, 'texts', lambda: texts)
    monkeypatch.setattr(study, 'NUM_STEPS', 2)
    monkeypatch.setattr(study, 'NUM_TEST', 8)
    caches = study.flops_per_step, study.pretrained, study.test_pairs
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


# ---- Runs and what is measured ----


@pytest.mark.parametrize(
    'change, message',
    [
        ({'architecture': 'gpt'}, "architecture is 'gpt', not one of .*'pref"),
        ({'objective': 'mlm'}, "objective is 'mlm', not one of .*'spans'"),
        ({'task': 'tagging'}, r"task is 'tagging', not one of \('summary'"),
        ({'labels': 0}, 'labels is 0, below 1'),
        ({'steps': 0}, 'steps is 0, below 1'),
        ({'seed': -1}, 'seed is -1, below 0'),
    ],
)
def test_what_is_no_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RUN, **change)


@pytest.mark.parametrize('name', ['flops', 'rouge_l', 'seconds'])
def test_a_number_below_zero_is_refused(name):
    measured = study.Measured(*[0.5] * 14)
    with pytest.raises(ValueError, match=f'{name} is -0.1, below 0'):
        dataclasses.replace(measured, **{name: -0.1})
    dataclasses.replace(measured, question=math.nan)  # not measured


# ---- The plan ----


def test_the_plan_has_no_run_twice_and_a_cheap_one_first():
    plan = study.plan([], OPTIONS)
    assert len(plan) == len(set(plan))
    assert plan == study.plan([], OPTIONS)
    assert plan[0] == RUN
    assert plan[0].cost == 50 < sum(run.cost for run in plan) / 500
    one = [run for run in plan if run.seed == 0]
    two = [dataclasses.replace(run, seed=0) for run in plan if run.seed == 1]
    assert set(one) == set(two) and len(plan) == len(one) + len(two)


def test_every_architecture_has_every_objective():
    found = {
        (run.architecture, run.objective): (run.labels, run.steps)
        for run in study.plan([], OPTIONS)
        if run.task == 'four'
    }
    assert found == {
        ('encoder-decoder', 'none'): (512, 800),
        **{
            (architecture, objective): (512, 800)
            for architecture in study.ARCHITECTURES
            for objective in ('spans', 'denoising', 'language modeling')
        },
    }


def test_every_noising_has_summaries():
    found = {
        run.objective
        for run in study.plan([], OPTIONS)
        if (run.task, run.labels, run.steps) == ('summary', 128, 400)
    }
    assert found == {'none', *ways.OBJECTIVES} - {'from nothing'}


def test_curves_go_on_until_nothing_is_gained():
    steps = {}
    for run in study.plan([], argparse.Namespace(seeds=1)):
        if run.task == 'summary' and run.labels == 512:
            steps.setdefault(run.objective, []).append(run.steps)
    assert steps == {
        'none': [50, 100, 200, 400, 800, 1600, 3200],
        'spans': [50, 100, 200, 400, 800, 1600],
        'copying': [50, 100, 200, 400, 800, 1600],
    }


def test_each_start_is_pretrained_once():
    """The last one is kept, so runs of one start and seed are together."""
    starts = [
        (run.architecture, run.objective, run.seed)
        for run in study.plan([], OPTIONS)
    ]
    blocks = [start for start, _ in groupby(starts)]
    assert len(blocks) == len(set(blocks))


# ---- Models and what they are pretrained on ----


@pytest.mark.parametrize('architecture', study.ARCHITECTURES)
def test_models(architecture):
    one, sees_input, num_blks = study.ARCHITECTURES[architecture]
    model = study.build(architecture, 1)
    assert isinstance(model, ways.OneStack if one else utils.T5)
    assert model.config.num_blks == num_blks
    if one:
        assert model.sees_input == sees_input
    same, other = (study.build(architecture, seed) for seed in (1, 2))
    first, second, third = (
        m.token_embedding.weight for m in (model, same, other)
    )
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_two_stacks_have_the_parameters_of_four_blocks():
    def count(name):
        model = study.build(name, 0)
        return sum(p.numel() for p in model.parameters())

    two, four = count('encoder-decoder'), count('prefix, four blocks')
    assert 1 < two / four < 1.2  # and its cross-attention
    assert count('prefix') == count('decoder') < four


def test_only_a_decoder_needs_no_beginning():
    assert study.objective_of('decoder', 'language modeling') == 'from nothing'
    for architecture in study.ARCHITECTURES:
        assert study.objective_of(architecture, 'spans') == 'spans'
    for architecture in ('prefix', 'encoder-decoder'):
        name = 'language modeling'
        assert study.objective_of(architecture, name) == name


@pytest.mark.usefixtures('few')
def test_all_take_the_same_operations(monkeypatch):
    monkeypatch.setattr(study, 'NUM_STEPS', 100)
    trained = []

    def train(model, batches, loss_fn, num_steps, *settings, **more):
        total = 0
        for _ in range(num_steps):
            _, valid_lens, labels = next(batches)
            sizes = valid_lens.sum().item(), (labels != -100).sum().item()
            total += ways.operations(model, *sizes)
        trained.append(total / study.budget())
        assert (settings, more) == ((0.01,), {'warmup': 20})

    monkeypatch.setattr(runner, 'train', train)
    for start in (
        ('encoder-decoder', 'spans'),
        ('encoder-decoder', 'copying'),
        ('decoder', 'language modeling'),
        ('prefix, four blocks', 'denoising'),
    ):
        study.pretrained(*start, 0)
    assert trained == pytest.approx([1] * 4, abs=0.03)


# ---- One run ----


@pytest.mark.usefixtures('few')
@pytest.mark.parametrize(
    'architecture, objective, task',
    [
        ('encoder-decoder', 'none', 'summary'),
        ('encoder-decoder', 'infilling and permutation', 'summary'),
        ('decoder', 'language modeling', 'four'),
    ],
)
def test_a_run(architecture, objective, task):
    run = study.Run(architecture, objective, task, 8, 2, 0)
    measured = study.execute(run, None, None)
    assert (measured.flops > 0) == (measured.pretraining_steps > 0)
    assert (measured.pretraining_steps == 0) == (objective == 'none')
    assert all(0 <= getattr(measured, name) <= 1 for name in SCORES)
    others = [getattr(measured, name) for name in OTHERS]
    assert all(math.isnan(x) == (task == 'summary') for x in others)
    again = study.execute(run, None, None)
    assert [getattr(again, name) for name in SCORES] == [
        getattr(measured, name) for name in SCORES
    ]


@pytest.mark.usefixtures('few')
def test_fine_tuning_leaves_what_was_pretrained(monkeypatch):
    seen = []

    def fine_tune(model, pairs, steps, seed):
        start, _ = study.pretrained(run.architecture, run.objective, run.seed)
        for p, q in zip(model.parameters(), start.parameters(), strict=True):
            assert torch.equal(p, q) and p is not q
        seen.append((len(pairs), steps, seed))

    monkeypatch.setattr(ways, 'fine_tune', fine_tune)
    for task in study.TASKS:
        run = study.Run('prefix', 'spans', task, 8, 3, 1)
        study.execute(run, None, None)
    assert seen == [(8, 3, 1), (32, 3, 1)]


# ---- The recorded rows ----


def test_the_record_is_that_of_its_commands_and_whole():
    rows, unfinished = study.STUDY.read(RECORDED)
    assert unfinished == b''
    plan = set()
    for command in {row.made.command for row in rows}:
        words = command.split()
        assert words[:2] == ['studies', 'text_to_text']
        options = runner.arguments(study.STUDY, words[2:])
        plan |= set(study.plan(rows, options))
    assert {row.run for row in rows} == plan
    assert {run.seed for run in plan} == {0, 1, 2}


def test_recorded_operations_are_equal():
    rows, _ = study.STUDY.read(RECORDED)
    flops = {row.measured.flops for row in rows if row.run.objective != 'none'}
    assert max(flops) < 1.01 * min(flops)


@pytest.mark.slow
def test_the_cheapest_recorded_row_can_be_made_again():
    rows, _ = study.STUDY.read(RECORDED)
    run = study.plan([], OPTIONS)[0]
    (row,) = (row for row in rows if row.run == run)
    again = runner.repeat(study.STUDY, row, device='cpu')
    for name in SCORES:
        expected = getattr(row.measured, name)
        assert getattr(again, name) == pytest.approx(expected, abs=0.05)
