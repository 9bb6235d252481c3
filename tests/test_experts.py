"""The experts study: its plan, its models, and a cheap row made again."""

import argparse
import dataclasses

import pytest
import torch
from execute import CHAPTER

import successors
import utils
from studies import experts, runner

RECORDED = CHAPTER / 'studies' / 'experts.csv'
OPTIONS = argparse.Namespace(seeds=2)
RUN = experts.Run('dense', 150, 0)
SWITCH = '8 experts', 'no auxiliary loss'


@pytest.fixture
def few(monkeypatch):
    """A few tokens to train on, and 960 others to score."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 1024, (3000,), generator=generator)
    parts = tokens[:2000], tokens[-961:]
    monkeypatch.setattr(experts, 'documents', lambda: parts)
    return parts


@pytest.mark.parametrize(
    'change, message',
    [
        ({'kind': 'sparse'}, "kind is 'sparse', not one of .*'8 experts'"),
        ({'num_steps': 0}, 'num_steps is 0, below 1'),
        ({'seed': -1}, 'seed is -1, below 0'),
    ],
)
def test_what_is_no_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RUN, **change)


@pytest.mark.parametrize('name', ['loss', 'dropped', 'most', 'seconds'])
def test_what_is_measured_is_a_number_not_below_zero(name):
    measured = experts.Measured(10, 5, 2.0, 0.0, 0.0, 1.0)
    for value in (-0.5, float('nan')):
        with pytest.raises(ValueError, match=f'{name} is {value}'):
            dataclasses.replace(measured, **{name: value})


def test_the_plan_has_every_kind_with_every_seed():
    plan = experts.plan([], OPTIONS)
    assert plan[0] == RUN and plan[0].cost == 150
    assert len(plan) == len(set(plan))
    assert set(plan) == {
        experts.Run(kind, num_steps, seed)
        for kind in experts.KINDS
        for num_steps in (150, 600, 1200)
        for seed in (0, 1)
    }


def test_no_document_is_in_both_parts():
    train, test = experts.documents()
    assert len(test) == experts.NUM_TEST < len(train) / 50
    text = bytes(train.to(torch.uint8).tolist())  # ids modulo 256
    for i in range(0, len(test) - 100, 2000):
        assert bytes(test[i : i + 100].to(torch.uint8).tolist()) not in text


def test_dense_models_are_of_equal_compute_and_of_equal_parameters():
    counts = {
        kind: experts.count(experts.new_gpt(0, width, num_experts))
        for kind, (width, num_experts, _) in experts.KINDS.items()
    }
    one, active = counts['dense']
    assert one == active == 2 * (2 * 32 * 16 + 16 + 32)
    router = 2 * 32 * 8
    total, active = 8 * one + router, one + router
    assert counts['8 experts'] == (total, active)
    assert counts['no auxiliary loss'] == (total, active)
    assert active <= counts['dense, equal compute'][0] < 1.01 * active
    assert abs(counts['dense, equal parameters'][0] / total - 1) < 0.01


def test_a_model_depends_on_its_seed():
    one, same, other = (
        experts.new_gpt(seed, 16, 8).blks[0].ffn.layer.router.weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_batches_depend_on_their_seed(few):
    one, same, other = (next(experts.batches(seed)) for seed in (1, 1, 2))
    assert one.shape == (40, 17)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_scores_by_hand(few):
    """Two batches of 40 and 20 rows; an expert has seats for its 1.25 / 8."""
    gpt = experts.new_gpt(3, 16, 8)
    rows = few[1].unfold(0, 17, 16)
    assert len(rows) == 60
    losses, dropped, shares = [], [], []
    with torch.no_grad():
        for X in rows.split(40):
            losses.append(utils.lm_loss(gpt, X)[0].item() * len(X) / 60)
            for layer in successors.switches(gpt):
                seats = 1.25 / 8
                over = (layer.share - seats).clamp(min=0).sum()
                dropped.append(over.item())
                shares.append(layer.share)
    loss, turned_away, most = experts.score(gpt)
    assert loss == pytest.approx(sum(losses), rel=1e-5)
    assert turned_away == pytest.approx(sum(dropped) / 4, abs=1e-5)
    shares = torch.stack(shares).unflatten(0, (2, 2)).mean(0)
    assert most == pytest.approx(shares.max().item())


@pytest.mark.parametrize('kind', experts.KINDS)
def test_a_run_of_each_kind(kind, few, monkeypatch):
    trained, new_gpt = [], experts.new_gpt

    def keep(*sizes):
        trained.append(new_gpt(*sizes))
        return trained[-1]

    monkeypatch.setattr(experts, 'new_gpt', keep)
    measured = experts.execute(experts.Run(kind, 3, 1), None, None)
    (model,) = trained
    found = measured.loss, measured.dropped, measured.most
    assert found == experts.score(model)
    width, num_experts, _ = experts.KINDS[kind]
    untrained = new_gpt(1, width, num_experts)
    assert not torch.equal(model.head.weight, untrained.head.weight)
    assert (measured.parameters, measured.active) == experts.count(model)
    if kind in SWITCH:
        assert measured.most >= 1 / 8
    else:
        assert measured.dropped == measured.most == 0


def test_the_auxiliary_loss_is_part_of_the_loss(few, monkeypatch):
    losses = {}

    def train(model, batches, loss_fn, *settings, **more):
        X = next(batches)
        loss, num_labels = loss_fn(model, X)
        plain, same = utils.lm_loss(model, X)
        assert num_labels == same == 640
        balance = sum(m.balance for m in successors.switches(model))
        losses[run.kind] = (
            (loss - plain).item(),
            0.01 * float(torch.as_tensor(balance).detach()),
        )
        assert settings == (150, 0.02) and more == {'warmup': 20}

    monkeypatch.setattr(runner, 'train', train)
    for kind in experts.KINDS:
        run = dataclasses.replace(RUN, kind=kind)
        experts.execute(run, None, None)
    extra, balance = losses.pop('8 experts')
    assert extra == pytest.approx(balance, abs=1e-5) and extra > 0.01
    assert {extra for extra, _ in losses.values()} == {0.0}


def test_the_record_is_that_of_its_commands_and_whole():
    rows, unfinished = experts.STUDY.read(RECORDED)
    assert unfinished == b''
    plan = set()
    for command in {row.made.command for row in rows}:
        words = command.split()
        assert words[:2] == ['studies', 'experts']
        options = runner.arguments(experts.STUDY, words[2:])
        plan |= set(experts.plan(rows, options))
    assert {row.run for row in rows} == plan
    assert {run.seed for run in plan} == {0, 1, 2}


@pytest.mark.slow
def test_the_cheapest_recorded_rows_can_be_made_again():
    rows, _ = experts.STUDY.read(RECORDED)
    for kind in ('dense', '8 experts'):
        run = dataclasses.replace(RUN, kind=kind)
        (row,) = (row for row in rows if row.run == run)
        again = runner.repeat(experts.STUDY, row, device='cpu')
        assert again.loss == pytest.approx(row.measured.loss, abs=0.05)
        assert again.parameters == row.measured.parameters
        assert again.active == row.measured.active
