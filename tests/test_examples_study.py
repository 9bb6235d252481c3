"""The examples study: its prompts, its heads, and a cheap row made again."""

import argparse
import dataclasses
import re

import numpy as np
import pandas as pd
import prompting
import pytest
import torch
from execute import CHAPTER
from prompting import facts_of
from test_prompting import Letters

import utils
from studies import examples, runner

RECORDED = CHAPTER / 'studies' / 'examples.csv'
OPTIONS = argparse.Namespace(draws=3)
RUN = examples.Run('capital', 'bare', 'true', '16', 0, 93)
REVIEWS = examples.Run('sentiment', 'bare', 'true', '16', 0, 144)
MEASURED = examples.Measured('01 11', '11 11', '', '', '', 1.0)


def changed(run, **change):
    return dataclasses.replace(run, **change)


# ---- Runs and what is measured ----


@pytest.mark.parametrize(
    'run, change, message',
    [
        (RUN, {'task': 'rivers'}, "task is 'rivers', not one of"),
        (RUN, {'form': 'poem'}, "form is 'poem', not one of"),
        (RUN, {'examples': 'flipped'}, "examples is 'flipped', not one of"),
        (REVIEWS, {'examples': 'made up'}, "examples is 'made up', not one"),
        (RUN, {'silenced': 2}, 'silenced is 2, not one of'),
        (RUN, {'silenced': 1, 'shots': '4'}, 'no heads are silenced for'),
        (REVIEWS, {'silenced': 1}, 'no heads are silenced for'),
        (RUN, {'draw': -1}, 'draw is -1, below 0'),
        (RUN, {'queries': 0}, 'queries is 0, below 1'),
        (RUN, {'queries': 94}, 'queries is 94, above 93'),
        (REVIEWS, {'queries': 145}, 'queries is 145, above 144'),
        (RUN, {'shots': '3'}, "shots is '3', not some of 0 1 2"),
        (RUN, {'shots': '4 2'}, "shots is '4 2', not some of 0 1 2"),
        (RUN, {'shots': ''}, "shots is '', not some of 0 1 2"),
        (
            changed(RUN, task='french'),
            {'examples': 'random tasks'},
            "examples is 'random tasks' for 'french'",
        ),
    ],
)
def test_what_is_no_run_is_refused(run, change, message):
    with pytest.raises(ValueError, match=message):
        changed(run, **change)


@pytest.mark.parametrize('name', ['said', 'best', 'other'])
def test_what_is_no_verdict_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} is '0x', not of 0 and 1"):
        changed(MEASURED, **{name: '0x'})


def test_a_row_without_verdicts_is_refused():
    with pytest.raises(ValueError, match='said is empty'):
        changed(MEASURED, said='')


def test_verdicts_and_numbers_are_read_as_written():
    table = [[True, False, True], [False, False, True]]
    assert examples.in_digits(table) == '101 001'
    found = examples.verdicts('101 001')
    assert found.tolist() == [[1, 0, 1], [0, 0, 1]]
    odds = examples.numbers('1.50 -2.00 | 0.25 4.00')
    assert odds.tolist() == [[1.5, -2.0], [0.25, 4.0]]


def test_rows_are_chosen_by_their_fields_and_ordered_by_draw():
    runs = [changed(RUN, draw=draw, shots=examples.SHOTS) for draw in (1, 0)]
    runs += [changed(RUN, examples='shuffled'), REVIEWS]
    rows = pd.DataFrame([dataclasses.asdict(run) for run in runs])
    assert [*examples.chosen(rows, 'capital').draw] == [0, 1]
    controls = {'examples': 'shuffled', 'shots': '16'}
    assert len(examples.chosen(rows, 'capital', **controls)) == 1
    with pytest.raises(ValueError, match='no row of language with'):
        examples.chosen(rows, 'language')


def test_an_interval_is_wide_where_groups_differ():
    alike = np.tile([0.0, 1.0], (50, 1))
    assert examples.interval(alike) == (0.5, 0.5)
    apart = np.repeat([[0.0], [1.0]], 25, 0) * np.ones((1, 2))
    low, high = examples.interval(apart)
    assert 0.3 < low < 0.42 and 0.58 < high < 0.7


def test_auc_is_the_share_of_pairs_in_order_and_half_of_ties():
    truth = np.array([True, True, False, False])
    assert examples.auc(np.array([3.0, 1.0, 2.0, 0.0]), truth) == 0.75
    assert examples.auc(np.zeros(4), truth) == 0.5
    assert examples.auc(-truth.astype(float), truth) == 0.0


# ---- Examples ----


def test_nothing_is_shown_that_is_asked():
    for query in range(0, 93, 7):
        order = examples.drawn(RUN, query, 92)
        assert sorted([*order, query]) == [*range(93)]
    few = examples.drawn(RUN, 5, 4)
    assert few == examples.drawn(RUN, 5, 16)[:4]
    assert few != examples.drawn(changed(RUN, draw=1), 5, 4)


def test_true_examples_are_facts():
    pairs, suggested = examples.shown(RUN, 3)
    assert suggested is None and len(pairs) == 16
    assert all(facts_of('capital')[name] == said for name, said in pairs)


def test_shuffled_answers_are_the_same_answers_elsewhere():
    true, _ = examples.shown(RUN, 3)
    pairs, suggested = examples.shown(changed(RUN, examples='shuffled'), 3)
    assert suggested is None
    assert [name for name, _ in pairs] == [name for name, _ in true]
    said, truth = ([answer for _, answer in x] for x in (pairs, true))
    assert said != truth and sorted(said) == sorted(truth)


def test_answers_of_random_tasks_are_true_of_the_country():
    pairs, _ = examples.shown(changed(RUN, examples='random tasks'), 3)
    tasks = [
        [x for x in prompting.COUNTRY_TASKS if facts_of(x)[name] == answer]
        for name, answer in pairs
    ]
    assert all(tasks) and len({x[0] for x in tasks}) == 4


def test_examples_of_another_task_suggest_its_answer():
    run = changed(RUN, examples='another task')
    pairs, suggested = examples.shown(run, 0)
    assert all(facts_of('language')[name] == said for name, said in pairs)
    assert suggested == 'Albanian'


def test_a_made_up_answer_is_wrong_and_stands_among_the_examples():
    run = changed(RUN, examples='made up')
    for query in range(0, 93, 9):
        name = [*facts_of('capital')][query]
        pairs, suggested = examples.shown(run, query)
        assert dict(pairs)[name] == suggested != facts_of('capital')[name]
        assert [said == facts_of('capital')[x] for x, said in pairs].count(
            False
        ) == 1


def test_nulls_know_the_answers_and_not_the_query():
    first, of_examples, question = examples.nulls('continent')
    continents = [*facts_of('continent').values()]
    assert first == max(map(continents.count, continents)) / 93
    assert 1 / 6 < of_examples <= first and question == 0
    assert examples.nulls('capital')[0] == 1 / 93
    assert (
        examples.nulls('french')[2]
        == sum(x == y for x, y in facts_of('french').items()) / 93
    )


PAIRS = [('good', True), ('bad', False)] * 8


@pytest.mark.parametrize('number', [0, 1])
def test_labels_of_reviews(number):
    def shown(kind):
        run = changed(REVIEWS, examples=kind)
        pairs, labels = examples.shown_reviews(run, PAIRS, number)
        assert [text for text, _ in pairs] == [text for text, _ in PAIRS]
        return [label for _, label in pairs], labels

    true, labels = shown('true')
    assert labels == ('positive', 'negative') and true == [*labels] * 8
    assert shown('flipped') == (true[::-1], labels)
    random, _ = shown('random')
    assert set(random) == set(labels) and random not in (true, true[::-1])
    abstract, named = shown('abstract')
    assert named == (('foo', 'bar'), ('bar', 'foo'))[number]
    assert abstract == [*named] * 8


# ---- Heads ----


def test_others_are_of_the_same_blocks_while_there_are_any():
    found = examples.others_of([0, 1, 5], 4, 3, seed=0)
    assert len({*found, 0, 1, 5}) == 6
    assert [x // 4 for x in found] == [0, 0, 1]
    many = examples.others_of([0, 1, 2], 4, 3, seed=0)
    assert many[0] == 3 and not {*many} & {0, 1, 2}
    assert examples.others_of([0, 1, 5], 4, 3, seed=1) != found


def test_conditions_are_named_and_of_their_sizes():
    config = utils.Config(50, 36, num_heads=9, num_blks=30)
    order = torch.randperm(270).tolist()
    found = examples.conditions(order, config)
    assert [len(heads) for heads in found] == [0, 5, 20, 5, 5, 20, 20, 270]
    assert len(found) == len(examples.CONDITIONS)
    assert found[1] == order[:5] and found[2] == order[:20]
    for others in found[3:7]:
        assert not {*others} & {*order[:20]}
    for name, heads in zip(examples.CONDITIONS, found, strict=True):
        assert name in ('none', 'all') or str(len(heads)) in name


def test_silencing_hides_the_places_from_the_heads_from_a_token_on():
    config = utils.Config(50, 16, num_heads=2, num_blks=2)
    hide = examples.silencing([1, 2], config, [1, 2], 1)
    masks = torch.stack(hide(torch.ones(3, 5, dtype=torch.bool)))
    assert masks.shape == (2, 2, 3, 5)
    hidden = ~masks.flatten(0, 1)
    assert not hidden[[0, 3]].any()
    assert hidden[[1, 2]].nonzero()[:, 1:].unique(dim=0).tolist() == [
        [1, 1],
        [1, 2],
        [2, 1],
        [2, 2],
    ]


@pytest.mark.parametrize('form', prompting.FORMS)
def test_answers_are_found_in_a_prompt(form):
    pairs = [('Peru', 'Lima'), ('Italy', 'Rome')]
    prompt = prompting.write(Letters(), form, 'capital', pairs, 'Cuba')
    places = examples.answer_places(Letters(), form, prompt, pairs)
    found = bytes(prompt.ids[i] for i in places).decode()
    assert re.sub(' ', '', found) == 'LimaRome'


# ---- Asking a small model ----


@pytest.fixture
def small(monkeypatch):
    """A random model that reads letters, in place of SmolLM2."""
    torch.manual_seed(0)
    config = utils.Config(
        256, 24, 12, 4, 2000, rotary_base=100.0, init_std=0.5
    )
    model = utils.GPT(config).eval()
    monkeypatch.setattr(examples, 'smollm2', lambda device: (model, Letters()))
    return argparse.Namespace(device='cpu')


@pytest.mark.parametrize('kind', examples.OF_COUNTRIES)
def test_each_kind_of_examples_gives_its_verdicts(kind, small):
    run = changed(RUN, examples=kind, shots='0 2', queries=3)
    measured = examples.execute(run, small, None)
    suggest = kind in ('another task', 'made up')
    for text, given in (
        (measured.said, True),
        (measured.best, True),
        (measured.other, suggest),
    ):
        assert bool(re.fullmatch('[01]{3} [01]{3}', text)) == given
    assert measured.odds == measured.heads == ''


def test_heads_are_chosen_on_the_other_half(small):
    run = changed(RUN, silenced=1, queries=4)
    measured = examples.execute(run, small, None)
    words = measured.said.split()
    assert [len(word) for word in words] == [4] * len(examples.CONDITIONS)
    halves = [part.split() for part in measured.heads.split('|')]
    for half in halves:
        assert len({*map(int, half)}) == examples.NUM_READERS
    assert halves[0] != halves[1]


# ---- The plan and the record ----


def test_the_plan_has_no_run_twice_and_a_cheap_one_first():
    plan = examples.plan([], OPTIONS)
    assert len(plan) == len(set(plan))
    assert plan[0].cost * 5 < min(run.cost for run in plan[1:])
    for task in ('capital', 'language', 'continent', 'sentiment'):
        draws = {
            run.draw
            for run in plan
            if run.task == task and run.shots == examples.SHOTS
        }
        assert draws == {0, 1, 2}


def test_the_record_is_that_of_its_commands_and_whole():
    rows, unfinished = examples.STUDY.read(RECORDED)
    assert unfinished == b''
    plan = set()
    for command in {row.made.command for row in rows}:
        words = command.split()
        assert words[:2] == ['studies', 'examples']
        options = runner.arguments(examples.STUDY, words[2:])
        plan |= set(examples.plan(rows, options))
    assert {row.run for row in rows} == plan


@pytest.mark.slow
def test_the_cheapest_recorded_row_can_be_made_again(packaged_file):
    packaged_file('smollm2')
    rows, _ = examples.STUDY.read(RECORDED)
    run = examples.plan([], OPTIONS)[0]
    (row,) = (row for row in rows if row.run == run)
    again = runner.repeat(examples.STUDY, row, device='cpu')
    for name in ('said', 'best'):
        found = examples.verdicts(getattr(again, name))
        there = examples.verdicts(getattr(row.measured, name))
        assert (found != there).sum() <= 1
