"""The reviews study: its plan, its rows, and a cheap one made again."""

import argparse
import dataclasses
import os

import pandas as pd
import pytest
import torch
from execute import CHAPTER

import utils
from corpora.batches import Examples
from finetuning import text_scores
from studies import reviews, runner

RECORDED = CHAPTER / 'studies' / 'reviews.csv'
OPTIONS = argparse.Namespace(seeds=2, num_valid=20, num_test=30)
RUN = reviews.Run('counts', 16, 1.0, 0, 20, 30, 0)
MADE = runner.Made(1, 'cpu', 'here', '3', '2', '2026-01-01', 'studies')


@pytest.fixture
def real():
    """Needs the film reviews and MiniLM."""
    try:
        reviews.read()
    except ValueError as error:
        required = os.environ.get('CHAPTER_REQUIRE_MODELS')
        (pytest.fail if required else pytest.skip)(str(error))


@pytest.fixture
def few(monkeypatch):
    """Eleven training sentences instead of the film reviews."""
    texts = [f'film {i}' for i in range(11)]
    ratings = torch.tensor([(-1.0) ** i * 2 for i in range(11)])
    parts = {'train': (texts, ratings)}
    monkeypatch.setattr(reviews, 'read', lambda: (parts, None, None))


def rows_of(runs, accuracy):
    return [
        runner.Row(run, reviews.Measured(accuracy(run), 0.5, 1.0), MADE)
        for run in runs
    ]


@pytest.mark.parametrize(
    'change, message',
    [
        ({'method': 'votes'}, "method is 'votes'"),
        ({'labels': 0}, 'labels is 0, not > 0'),
        ({'setting': float('nan')}, 'setting is nan, not > 0'),
        ({'num_test': -1}, 'num_test is -1, not > 0'),
        ({'steps': 5}, '5 steps'),
        ({'method': 'minilm'}, '0 steps'),
        ({'seed': -1}, 'seed -1'),
    ],
)
def test_what_is_no_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RUN, **change)


@pytest.mark.parametrize('value', [-0.1, 1.1, float('nan')])
def test_an_accuracy_is_a_share(value):
    with pytest.raises(ValueError, match=f'test_accuracy is {value}'):
        reviews.Measured(0.5, value, 1.0)


@pytest.mark.parametrize('missing', ['reviews', 'MiniLM'])
def test_without_texts_or_model_there_is_no_study(missing, monkeypatch):
    def gone(*args):
        return None

    if missing == 'reviews':
        monkeypatch.setattr(reviews.corpora, 'film_reviews', gone)
    else:
        monkeypatch.setattr(reviews, 'packaged', gone)
    with pytest.raises(ValueError, match='needs the film reviews and MiniLM'):
        reviews.read.__wrapped__()


def test_rates_are_tried_first_and_the_best_in_validation_goes_on():
    first = reviews.plan([], OPTIONS)
    sizes = {run.labels for run in first if run.method in reviews.RATES}
    assert sizes == {reviews.TRIED}
    assert len(first) == 3 * 6 * 3 * 2 + (3 + 2 + 2) * 2

    def accuracy(run):
        return 0.9 if run.setting == 1e-4 else 0.4 + run.setting / 100

    runs = reviews.plan(rows_of(first, accuracy), OPTIONS)
    assert runs[: len(first)] == first
    others = runs[len(first) :]
    assert len(others) == 3 * 5 * 2
    best = {(run.method, run.setting) for run in others}
    assert best == {('minilm', 1e-4), ('minute', 2e-3), ('scratch', 2e-3)}
    assert all((run.steps > 0) and run.labels != 128 for run in others)


def test_the_test_has_no_part_in_what_is_chosen():
    table = [
        (method, setting, seed, valid, test)
        for method, setting, valid, test in [
            ('counts', 1.0, 0.6, 0.9),
            ('counts', 10.0, 0.7, 0.5),
            ('frozen', 1.0, 0.7, 0.5),
            ('frozen', 10.0, 0.6, 0.9),
        ]
        for seed in (0, 1)
    ]
    names = ['method', 'setting', 'seed', 'valid_accuracy', 'test_accuracy']
    data = pd.DataFrame(table, columns=names).assign(labels=16)
    chosen = reviews.chosen(data)
    assert list(chosen.test_accuracy) == 4 * [0.5]
    assert list(chosen.seed) == [0, 1, 0, 1]


@pytest.mark.usefixtures('few')
def test_more_labels_include_the_fewer_and_other_seeds_draw_others():
    three, labels = reviews.draw('train', 3, seed=1)
    five, more = reviews.draw('train', 5, seed=1)
    assert five[:3] == three and more[:3].equal(labels)
    assert [int(text[5:]) % 2 == 0 for text in five] == more.bool().tolist()
    assert reviews.draw('train', 5, seed=2)[0] != five
    assert reviews.draw('train', 2)[0] == ['film 0', 'film 1']
    with pytest.raises(ValueError, match='train has 11 sentences, not 12'):
        reviews.draw('train', 12)


def test_outputs_are_those_of_each_text_in_its_place():
    torch.manual_seed(0)
    model = utils.BERT(utils.Config(20, 8, 2, 1, 9)).eval()
    lens = torch.tensor([9, 2, 5, 2, 7])
    X = torch.randint(5, 20, (5, 9))
    X[torch.arange(9) >= lens[:, None]] = 0
    data = Examples(X, torch.zeros_like(X), lens, torch.zeros(5))
    found = reviews.outputs(model.encode, data)
    for i, length in enumerate(lens):
        one = text_scores(
            model.encode, X[i : i + 1, :length], None, lens[i : i + 1]
        )
        torch.testing.assert_close(found[i], one[0])


# ---- The recorded rows ----


def test_the_record_is_that_of_its_command_and_whole():
    rows, unfinished = reviews.STUDY.read(RECORDED)
    assert unfinished == b''
    (command,) = {row.made.command for row in rows}
    words = command.split()
    assert words[:2] == ['studies', 'reviews']
    options = runner.arguments(reviews.STUDY, words[2:])
    plan = reviews.plan(rows, options)
    assert {row.run for row in rows} == set(plan)
    chosen = reviews.chosen(reviews.read_runs(RECORDED))
    seeds = chosen.groupby(['method', 'labels']).seed.nunique()
    assert len(seeds) == 6 * 6 and (seeds == 3).all()


@pytest.mark.slow
@pytest.mark.usefixtures('real')
@pytest.mark.parametrize('method', ['tf-idf', 'scratch'])
def test_a_recorded_row_can_be_made_again(method):
    rows = [
        row
        for row in reviews.STUDY.read(RECORDED)[0]
        if (row.run.method, row.run.labels) == (method, 128)
    ]
    row = rows[-1]
    again = runner.repeat(reviews.STUDY, row, device='cpu')
    close = {'abs': 0.03 if method == 'scratch' else 1e-9}
    measured = row.measured
    assert again.test_accuracy == pytest.approx(
        measured.test_accuracy, **close
    )
    assert again.valid_accuracy == pytest.approx(
        measured.valid_accuracy, **close
    )
