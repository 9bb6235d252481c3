"""The preferences study: its plan, losses, and a cheap row made again."""

import argparse
import dataclasses
import functools
import math

import pytest
import torch
from execute import CHAPTER

import utils
from studies import preferences, runner

RECORDED = CHAPTER / 'studies' / 'preferences.csv'
OPTIONS = argparse.Namespace(seeds=2)
RUN = preferences.Run('dpo', 'policy', 400, 0.1, 1e-3, 5, 0)
MEASURED = preferences.Measured(
    '0 1', '0 1', '0 1', 0.5, 0.5, '0.5 0.5', 0.1, 'a', 9.0
)


@pytest.fixture
def policy():
    torch.manual_seed(0)
    vocab_size = len(preferences.world().words)
    return utils.GPT(
        utils.Config(vocab_size, 16, 2, 1, max_len=24, init_std=0.3)
    )


def sentences(*texts):
    return preferences.world().encode([f'<bos> {x} <sep>' for x in texts])


@pytest.mark.parametrize(
    'change, message',
    [
        ({'method': 'ppo'}, "method is 'ppo', not one of"),
        ({'body': 'bert'}, "body is 'bert', not one of"),
        ({'num_pairs': 0}, 'num_pairs is 0, below 1'),
        ({'penalty': -0.1}, 'penalty is -0.1, below 0'),
        ({'penalty': 0.0}, 'penalty is 0.0 for dpo'),
        ({'lr': 0.0}, 'lr is 0.0, not > 0'),
        ({'num_steps': 4}, 'num_steps is 4, below 5'),
        ({'seed': -1}, 'seed is -1, below 0'),
    ],
)
def test_what_is_no_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RUN, **change)


def test_what_is_measured_fits_together():
    with pytest.raises(ValueError, match='kl, proxy and true have'):
        dataclasses.replace(MEASURED, kl='0')
    for name in ('shown', 'hidden', 'variety'):
        with pytest.raises(ValueError, match=rf'{name} is 1.5, outside'):
            dataclasses.replace(MEASURED, **{name: 1.5})


def test_the_plan_has_no_run_twice_and_a_cheap_one_first():
    plan = preferences.plan([], OPTIONS)
    assert len(plan) == len(set(plan))
    assert plan[0].cost * 5 < min(run.cost for run in plan[1:])
    for seed in range(OPTIONS.seeds):
        ours = {run.method for run in plan[1:] if run.seed == seed}
        assert ours == {*preferences.METHODS}


def test_the_true_reward_is_that_of_the_words():
    X = sentences('I like the hotel .', 'I hated the hotel .', 'the hotel .')
    assert preferences.true_reward(X).tolist() == [1.0, -1.0, 0.0]


def test_what_is_no_sentence_has_no_reward():
    X = sentences(
        'the hotel is great .',
        'the hotel is great and great .',
        'the hotel is great and good .',
        'the hotel is great .',
    )
    X[3, X[3] == preferences.SEP] = 0
    assert preferences.true_reward(X).tolist() == [1.0, 0.0, 1.0, 0.0]


def test_log_probabilities_are_those_of_whole_sentences(policy):
    X = sentences('I like the hotel .', 'what a bad rose . <sep>')
    X[1, -1] = 0
    found = preferences.log_prob(policy, X)
    for row, value in zip(X, found, strict=True):
        row = row[row > 0]
        scores = policy(row[None, :-1]).log_softmax(-1)[0]
        expected = scores.gather(1, row[1:, None]).sum()
        assert value.item() == pytest.approx(expected.item(), rel=1e-4)


def test_what_is_written_ends_once(policy):
    X = preferences.write(policy, 200, torch.Generator().manual_seed(0))
    assert (X[:, 0] == preferences.BOS).all()
    for row in X:
        ends = (row == preferences.SEP).nonzero()[:, 0].tolist()
        if ends:
            assert row[ends[0] + 1 :].tolist() == [0] * (
                len(row) - ends[0] - 1
            )


def test_the_better_wins_about_88_of_100_times():
    good = sentences('I like the hotel .').repeat(4000, 1)
    bad = sentences('I hated the hotel .').repeat(4000, 1)
    won, lost = preferences.judge(bad, good, torch.Generator().manual_seed(0))
    share = preferences.true_reward(won).eq(1).float().mean().item()
    assert share == pytest.approx(1 / (1 + math.exp(-2)), abs=0.02)
    assert (
        preferences.true_reward(lost) == -preferences.true_reward(won)
    ).all()


@pytest.mark.parametrize(
    'loss, rises',
    [
        (preferences.winner_loss, True),
        ('dpo', True),
        ('gradient', True),
    ],
)
def test_a_step_makes_winners_likelier(loss, rises, policy):
    won = sentences('I like the hotel .')
    lost = sentences('I hated the hotel .')
    before = preferences.log_prob(policy, torch.cat((won, lost))).detach()
    if loss == 'dpo':
        first = utils.GPT(policy.config)
        first.load_state_dict(policy.state_dict())
        loss = functools.partial(preferences.dpo_loss, 0.5, first)
        value, _ = loss(policy, (won, lost))
        assert value.item() == pytest.approx(math.log(2), rel=1e-4)
    batch = won, lost
    if loss == 'gradient':
        loss = preferences.policy_loss
        batch = torch.cat((won, lost)), torch.tensor([1.0, -1.0])
    loss(policy, batch)[0].backward()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter -= 0.01 * parameter.grad
    after = preferences.log_prob(policy, torch.cat((won, lost)))
    assert after[0] > before[0]
    assert after[0] - after[1] > before[0] - before[1]


def test_a_reward_model_scores_winners_higher_after_a_step(policy):
    model = preferences.RewardModel(policy)
    batch = sentences('I like the hotel .'), sentences('I hated it .')
    first, number = preferences.reward_loss(model, batch)
    first.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.01 * parameter.grad
    assert number == 1
    assert preferences.reward_loss(model, batch)[0] < first


def test_the_best_of_n_is_the_mean_over_all_subsets(policy, monkeypatch):
    monkeypatch.setattr(preferences, 'BEST_OF', (1, 2, 4))
    scores = torch.tensor([0.3, 0.1, 0.4, 0.2])
    true = torch.tensor([1.0, -1.0, -1.0, 1.0])
    monkeypatch.setattr(preferences, 'true_reward', lambda X: true)
    rows, _ = preferences.best_of(policy, lambda X: scores, 4, 0)
    kl, proxy, found = zip(*rows, strict=True)
    assert kl == pytest.approx([0, math.log(2) - 0.5, math.log(4) - 0.75])
    assert proxy == pytest.approx([0.25, (0.3 * 2 + 0.2 + 0.4 * 3) / 6, 0.4])
    assert found == pytest.approx([0.0, (2 + 1 - 3) / 6, -1.0], abs=1e-6)


@pytest.mark.skipif(not RECORDED.exists(), reason='not recorded yet')
def test_the_record_is_that_of_its_commands():
    rows, unfinished = preferences.STUDY.read(RECORDED)
    assert unfinished == b''
    plan = preferences.plan([], argparse.Namespace(seeds=3))
    assert {row.run for row in rows} == {*plan}


@pytest.mark.slow
def test_the_cheapest_recorded_row_can_be_made_again():
    rows, _ = preferences.STUDY.read(RECORDED)
    run = preferences.plan([], OPTIONS)[0]
    (row,) = (row for row in rows if row.run == run)
    again = runner.repeat(preferences.STUDY, row, device='cpu')
    for name in ('kl', 'true'):
        found, there = (
            preferences.numbers(getattr(x, name))
            for x in (again, row.measured)
        )
        assert found == pytest.approx(there, abs=0.2)
