"""The norms study: its plan, and a cheap row made again."""

import argparse
import dataclasses
import math

import pytest
import torch
from execute import CHAPTER

import corpora
from studies import norms, runner

RECORDED = CHAPTER / 'studies' / 'norms.csv'
OPTIONS = argparse.Namespace(rates=[1e-3, 2e-3], seeds=2, device='cpu')
RUN = norms.Run('pre', 0, 1e-3, 0, 200, 'digest')


@pytest.fixture
def text(monkeypatch):
    monkeypatch.setattr(norms, 'load', lambda: (None, None, 'digest'))


@pytest.mark.parametrize(
    'change, message',
    [
        ({'norm': 'none'}, "norm is 'none', not one of"),
        ({'warmup': -1}, 'warmup is -1, below 0'),
        ({'warmup': 201}, 'warmup is 201, more than num_steps, 200'),
        ({'num_steps': 0}, 'num_steps is 0, below 1'),
        ({'seed': -1}, 'seed is -1, below 0'),
        ({'lr': 0.0}, r'lr is 0.0, not in \(0, inf\)'),
        ({'lr': float('nan')}, r'lr is nan, not in \(0, inf\)'),
    ],
)
def test_what_is_no_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RUN, **change)


def test_a_loss_is_not_below_zero():
    with pytest.raises(ValueError, match=r'loss is -0\.1, below 0'):
        norms.Measured(-0.1, 1.0)


@pytest.mark.usefixtures('text')
def test_the_plan_crosses_all_settings_after_a_cheap_run():
    first, *rest = norms.plan([], OPTIONS)
    assert first.num_steps == norms.FEW_STEPS < norms.NUM_STEPS / 10
    assert len(rest) == len(set(rest)) == 2 * 2 * 2 * 2
    for name, values in {
        'norm': {'pre', 'post'},
        'warmup': {0, 100},
        'lr': {1e-3, 2e-3},
        'seed': {0, 1},
        'num_steps': {200},
    }.items():
        assert {getattr(run, name) for run in rest} == values


def test_the_models_differ_in_the_place_of_the_norm_only():
    pre, post = (norms.new_gpt(name, 3) for name in ('pre', 'post'))
    assert pre.config.pre_norm and not post.config.pre_norm
    same = dataclasses.replace(post.config, pre_norm=True)
    assert same == pre.config
    assert pre.head.weight.equal(post.head.weight)


@pytest.mark.usefixtures('text')
def test_another_text_is_refused():
    run = dataclasses.replace(RUN, corpus_digest='another')
    with pytest.raises(ValueError, match='the text is digest, not that of'):
        norms.execute(run, OPTIONS, None)


def test_the_record_is_that_of_its_commands_and_whole(monkeypatch):
    rows, unfinished = norms.STUDY.read(RECORDED)
    assert unfinished == b''
    (digest,) = {row.run.corpus_digest for row in rows}
    monkeypatch.setattr(norms, 'load', lambda: (None, None, digest))
    plan = set()
    for command in {row.made.command for row in rows}:
        words = command.split()
        assert words[:2] == ['studies', 'norms']
        options = runner.arguments(norms.STUDY, words[2:])
        plan |= set(norms.plan(rows, options))
    assert {row.run for row in rows} == plan
    assert {run.seed for run in plan} == set(range(3))


@pytest.mark.slow
def test_the_cheapest_recorded_row_can_be_made_again():
    rows, _ = norms.STUDY.read(RECORDED)
    row = min(rows, key=lambda row: row.run.cost)
    if corpora.fingerprint(corpora.documentation()) != row.run.corpus_digest:
        pytest.skip('the documentation of this Python is another text')
    again = runner.repeat(norms.STUDY, row, device='cpu')
    assert again.loss == pytest.approx(row.measured.loss, rel=0.01)


def test_tables_read_as_many_characters_as_a_model(monkeypatch):
    """In 'abab...' frequencies are worth one bit, and pairs everything."""
    characters = torch.tensor([97, 98]).repeat(200 * 8 * norms.WINDOW)
    rows = characters[: 4 * 33].view(4, 33)
    half = len(characters) // 2
    characters[half:] = 99  # not read
    monkeypatch.setattr(norms, 'load', lambda: (characters, rows, 'digest'))
    assert norms.table_loss(1) == pytest.approx(math.log(2), abs=0.01)
    assert norms.table_loss(2) < 0.05
