"""The reviews study: its plan, its rows, and a cheap one made again."""

import argparse
import dataclasses
import math
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
    monkeypatch.setattr(reviews, 'read', lambda: (parts, None))


def rows_of(runs, accuracy):
    return [
        runner.Row(
            run, reviews.Measured(accuracy(run), 0.5, math.nan, 1.0), MADE
        )
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
        reviews.Measured(0.5, value, math.nan, 1.0)


@pytest.mark.parametrize('value', [0.0, -1.0])
def test_a_masked_loss_is_positive(value):
    with pytest.raises(ValueError, match=f'masked_loss is {value}, not > 0'):
        reviews.Measured(0.5, 0.5, value, 1.0)


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


def test_settings_are_tried_first_and_the_best_in_validation_goes_on():
    first = reviews.plan([], OPTIONS)
    wide = {'minilm', *reviews.SETTINGS, 'minute', 'scratch'}
    assert {run.method for run in first} == wide
    tried = {(run.method, run.labels): set() for run in first if run.steps > 0}
    for run in first:
        if run.steps > 0:
            tried[run.method, run.labels].add(run.setting)
    small = set(reviews.RATES['scratch'])
    for labels in reviews.LABELS:
        assert tried['minute', labels] == tried['scratch', labels] == small
    large = {labels for method, labels in tried if method == 'minilm'}
    assert large == {128, 512}
    assert len(first) == 2 * (6 * (1 + 3 + 4 * 6 + 2 * 4) + 2 * 3 + 1)

    def accuracy(run):  # the rate 1e-4 with 128 labels, 2e-5 with 512
        best = {128: 1e-4, 512: 2e-5}.get(run.labels)
        worst = (run.setting, run.steps) == (1e-4, 24)
        return 1.0 if worst else 0.9 if run.setting == best else 0.4

    runs = reviews.plan(rows_of(first, accuracy), OPTIONS)
    assert runs[: len(first)] == first
    others = {
        (run.labels, run.setting, run.steps) for run in runs[len(first) :]
    }
    assert {run.method for run in runs[len(first) :]} == {'minilm'}
    assert others == {
        (16, 1e-4, 24),
        (32, 1e-4, 24),
        (64, 1e-4, 24),
        (2048, 2e-5, 128),
    }
    assert len(runs) - len(first) == 2 * 4


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
    data = pd.DataFrame(table, columns=names).assign(labels=16, steps=0)
    chosen = reviews.chosen(data)
    assert list(chosen.test_accuracy) == 4 * [0.5]
    assert list(chosen.seed) == [0, 1, 0, 1]


def test_runs_with_other_steps_are_not_chosen():
    data = pd.DataFrame(
        {
            'method': 'minilm',
            'labels': 128,
            'setting': [1e-4, 1e-4, 5e-4],
            'steps': [56, 24, 168],
            'valid_accuracy': [0.6, 0.7, 0.8],
        }
    )
    assert list(reviews.chosen(data).steps) == [56]


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


TEXTS = ['good film good', 'good fun', 'bad film', 'bad bad bore']


@pytest.mark.parametrize('method', ['bayes', 'counts', 'tf-idf', 'majority'])
def test_words_are_learned_without_looking_at_what_is_asked(
    method, monkeypatch
):
    parts = {
        'train': (TEXTS, torch.tensor([2.0, 2.0, -2.0, -2.0])),
        'test': (['good', 'bad tale'], torch.tensor([2.0, -2.0])),
    }
    monkeypatch.setattr(reviews, 'read', lambda: (parts, None))
    run = reviews.Run(method, 4, 1.0, 0, 2, 2, 0)
    drawn = [('train', 4, 0), ('test', 2), ('test', 1)]
    known, asked, _ = reviews.features(method, drawn)
    assert known.shape == (4, 5) and asked.shape == (2, 5)  # no "tale"
    found = reviews.guesses(run, drawn)
    sure = method != 'majority'
    assert [part.tolist() for part in found] == (
        [[1, 0], [1]] if sure else [[0, 0], [0]]
    )


def test_the_unigram_model_knows_how_often_a_piece_was_seen(monkeypatch):
    X = torch.tensor([[1, 999, 999, 999], [1, 1000, 0, 0]])
    data = Examples(X, X, X[:, 0], X[:, 0])
    tokenizer = argparse.Namespace(get_vocab_size=lambda: 1002)
    monkeypatch.setattr(reviews, 'unlabeled', {'train': data}.__getitem__)
    monkeypatch.setattr(reviews, 'read', lambda: (None, tokenizer))
    labels = torch.tensor([[-100, 999], [1001, -100]])
    total = 4 + 3 * reviews.ADDED  # ids below 999 are never hidden
    often, never = (3 + reviews.ADDED) / total, reviews.ADDED / total
    expected = -(math.log(often) + math.log(never)) / 2
    assert reviews.unigram_loss([(X, X, X, labels)]) == pytest.approx(expected)


@pytest.mark.parametrize('method', ['counts', 'scratch', 'minilm'])
def test_other_methods_have_no_masked_loss(method):
    steps = reviews.usual_steps(method, 16)
    run = dataclasses.replace(RUN, method=method, steps=steps)
    assert math.isnan(reviews.masked_loss(run))


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
    assert len(seeds) == 9 * 6 and (seeds == 3).all()


@pytest.mark.slow
@pytest.mark.usefixtures('real')
@pytest.mark.parametrize('method', ['majority', 'bayes', 'scratch'])
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
    assert again.masked_loss == pytest.approx(
        measured.masked_loss, abs=1e-4, nan_ok=True
    )
