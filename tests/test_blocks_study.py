"""The blocks study: its plan, its models, and its cheapest row made again."""

import dataclasses
import math
import shlex

import pytest
import torch
from execute import CHAPTER

import utils
from studies import blocks, runner

RECORDED = CHAPTER / 'studies' / 'blocks.csv'
RUN = blocks.Run('none', 0, 'digest')
LOSSES = 'loss', 'at_64', 'at_128', 'at_256', 'at_512', 'banded'


def options(*words):
    return runner.arguments(blocks.STUDY, ['none.csv', *words])


def model_of(change, **fields):
    settings = blocks.CHANGES[change] | fields
    return blocks.build(blocks.Run(change, 0, 'digest', **settings)).eval()


# ---- Runs and what is measured ----


@pytest.mark.parametrize(
    'change, message',
    [
        ({'length': 65}, r'length is 65, not one of \(64, 512\)'),
        ({'positions': 'sinus'}, "positions is 'sinus', not one of .*'rotary"),
        ({'norm': 'batch'}, r"norm is 'batch', not one of \('layer', 'rms'\)"),
        ({'activation': 'relu'}, "activation is 'relu', not one of"),
        ({'num_kv_heads': 3}, r'num_kv_heads is 3, not one of \(1, 2, 4\)'),
        ({'seed': -1}, 'seed is -1, below 0'),
        ({'num_steps': 0}, 'num_steps is 0, below 1'),
        ({'ffn_num_hiddens': 0}, 'ffn_num_hiddens is 0, below 1'),
        ({'lr': 0.0}, 'lr is 0.0, not above 0'),
        ({'lr': math.inf}, 'lr is inf, not above 0'),
        ({'lr': math.nan}, 'lr is nan, not above 0'),
    ],
)
def test_what_is_no_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RUN, **change)


@pytest.mark.parametrize('name', ['in_blocks', 'loss', 'banded', 'seconds'])
@pytest.mark.parametrize('value', [-1, math.nan])
def test_a_measure_below_zero_or_no_number_is_refused(name, value):
    measured = blocks.Measured(1, 1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match=f'{name} is {value}, below 0'):
        dataclasses.replace(measured, **{name: value})


def test_another_text_is_refused(monkeypatch):
    monkeypatch.setattr(blocks, 'load', lambda: ('other', None, None))
    with pytest.raises(ValueError, match='is other, not digest'):
        blocks.execute(RUN, options(), None)


def test_a_run_that_diverges_is_a_row(monkeypatch):
    tokens = torch.randint(1024, (600,))
    monkeypatch.setattr(blocks, 'load', lambda: ('digest', tokens, tokens))
    monkeypatch.setattr(
        utils, 'lm_loss', lambda model, X: (model(X).sum() * math.nan, 1)
    )
    run = dataclasses.replace(RUN, num_steps=3)
    measured = blocks.execute(run, options('--device', 'cpu'), None)
    assert {getattr(measured, name) for name in LOSSES} == {math.inf}


# ---- The plan ----


def test_the_plan_has_each_change_with_each_seed_and_a_cheap_run_first(
    monkeypatch,
):
    monkeypatch.setattr(blocks, 'load', lambda: ('digest', None, None))
    first, *plan = blocks.plan([], options('--seeds', '2'))
    assert first.num_steps == blocks.FEW_STEPS
    assert first.cost * 10 < min(run.cost for run in plan)
    assert len(set(plan)) == len(plan) == 2 * len(blocks.CHANGES)
    assert {run.change for run in plan} == {*blocks.CHANGES}
    assert all(',' not in name for name in blocks.CHANGES)
    few = blocks.plan([], options('--changes', 'none,RMS norm'))
    assert [run.change for run in few[1:]] == ['none', 'RMS norm'] * 3


def test_one_thing_differs_and_all_four_are_those_of_today():
    plain = dataclasses.asdict(RUN)
    for name, settings in blocks.CHANGES.items():
        assert {*settings} <= {*plain}
        changed = {*settings} - {'ffn_num_hiddens'}
        assert all(settings[key] != plain[key] for key in settings)
        if name not in ('all four', 'rotary on long windows'):
            assert len(changed) == (name != 'none')
    config = blocks.Run('all four', 0, '', **blocks.CHANGES['all four']).config
    assert config.rotary_base and config.rms_norm
    assert config.activation == 'gated_silu'
    assert config.num_kv_heads < config.num_heads


@pytest.mark.parametrize(
    'name, equal',
    [
        ('gated SiLU', True),
        ('all four', True),
        ('two key heads', False),
        ('one key head', False),
    ],
)
def test_what_has_as_many_parameters_in_its_blocks(name, equal):
    ours, plain = (
        sum(p.numel() for p in model_of(x).blks.parameters())
        for x in (name, 'none')
    )
    assert (abs(ours / plain - 1) < 0.005) == equal


# ---- Models ----


@pytest.mark.parametrize('name', ['rotary positions', 'linear biases', 'none'])
def test_only_learned_positions_change_with_the_place(name):
    """What stands before is out of sight: the same tokens at other places."""
    torch.manual_seed(0)
    model, X = model_of(name), torch.randint(1024, (1, 8))
    moved = torch.cat((X, X), 1)
    mask = utils.causal_mask(16)
    mask[8:, :8] = False
    first, second = (H[0] for H in model(moved, mask).split(8, 1))
    assert torch.allclose(first, second, atol=1e-5) == (name != 'none')


@pytest.mark.parametrize(
    'name, ordered',
    [
        ('no positions', False),
        ('linear biases', True),
        ('rotary positions', True),
    ],
)
def test_without_positions_the_order_of_what_all_see_makes_no_difference(
    name, ordered
):
    torch.manual_seed(0)
    model, X = model_of(name), torch.randint(1024, (1, 8))
    everything = torch.ones(8, 8, dtype=torch.bool)
    turned = X[:, [2, 0, 1, 3, 5, 4, 6, 7]]
    last, other = (model(rows, everything)[:, -1] for rows in (X, turned))
    assert torch.allclose(last, other, atol=1e-6) != ordered


def test_linear_biases_by_hand():
    bias = blocks.LinearBias(RUN.config)(2, 3)
    assert bias.shape == (1, 4, 2, 3)
    assert bias[0, 0].tolist() == [[-0.25, 0, 0.25], [-0.5, -0.25, 0]]
    assert bias[0, 1, 1].tolist() == [-0.125, -0.0625, 0]


def test_a_model_with_biases_takes_no_caches():
    model = model_of('linear biases')
    with pytest.raises(ValueError, match='takes no caches'):
        model(torch.zeros(1, 2, dtype=torch.long), caches=model.new_caches())


# ---- Scores ----


def test_the_same_tokens_are_predicted_whatever_the_context():
    class Copy(torch.nn.Module):
        def forward(self, X, mask=None, last=0):
            seen.append(X)
            return torch.nn.functional.one_hot(X[:, -last:], 600) * 1e4

    seen, X = [], torch.arange(513)[None]
    for context in blocks.CONTEXTS:
        loss, num_labels = blocks.late_loss(Copy(), X, context)
        assert seen[-1][0].tolist() == [*range(512 - context, 512)]
        assert num_labels == blocks.NUM_LATE and loss > 9000
    X = torch.full((1, 513), 7)
    assert blocks.late_loss(Copy(), X, 64)[0] == 0


def test_under_the_band_nothing_beyond_it_is_read():
    """In one block; three see three times as far."""
    model = model_of('rotary positions')
    model.blks = model.blks[:1]
    X = torch.randint(1024, (2, 513))
    X[1, 100:] = X[0, 100:]
    losses = [blocks.late_losses(model, rows[None]) for rows in X]
    assert losses[0]['banded'] == pytest.approx(losses[1]['banded'], abs=1e-6)
    assert losses[0]['at_512'] != pytest.approx(losses[1]['at_512'], abs=1e-7)
    assert losses[0]['at_64'] == losses[1]['at_64']


# ---- The recorded rows ----


def test_the_record_is_that_of_its_commands_and_whole(monkeypatch):
    rows, unfinished = blocks.STUDY.read(RECORDED)
    assert unfinished == b''
    (digest,) = {row.run.corpus_digest for row in rows}
    monkeypatch.setattr(blocks, 'load', lambda: (digest, None, None))
    plan = set()
    for command in {row.made.command for row in rows}:
        words = shlex.split(command)
        assert words[:2] == ['studies', 'blocks']
        asked = runner.arguments(blocks.STUDY, words[2:])
        plan |= set(blocks.plan(rows, asked))
    assert {row.run for row in rows} == plan
    assert {run.seed for run in plan} == set(range(3))


@pytest.mark.slow
def test_the_cheapest_recorded_row_can_be_made_again():
    rows, _ = blocks.STUDY.read(RECORDED)
    (row,) = (r for r in rows if r.run.num_steps == blocks.FEW_STEPS)
    again = runner.repeat(blocks.STUDY, row, device='cpu')
    assert again.in_blocks == row.measured.in_blocks
    assert again.cached == row.measured.cached
    for name in LOSSES:
        expected = getattr(row.measured, name)
        assert getattr(again, name) == pytest.approx(expected, rel=0.01)
