"""Costs, fits, published constants and the table of published models."""

import dataclasses
import functools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import laws
from laws import (
    DEVICES,
    HOFFMANN,
    KAPLAN,
    PETAFLOP_DAY,
    JointLaw,
    PowerLaw,
    bootstrap,
    count_parameters,
    fit_joint_law,
    fit_power_law,
    interval,
    isoflop_optimum,
    joint_loss,
    kaplan_optimum,
    plan_training,
    train_flops,
)
from published import MODELS, published_config
from utils import BERT, GPT, T5, Config

TRUE = JointLaw(1.7, 400.0, 900.0, 0.34, 0.36)


def grid_runs(law, noise, num=8, seed=0):
    """N, D and losses of a grid of runs that follow `law`, with noise."""
    N, D = np.meshgrid(
        np.geomspace(1e6, 1e10, num), np.geomspace(1e8, 1e12, num)
    )
    N, D = N.ravel(), D.ravel()
    rng = np.random.default_rng(seed)
    return N, D, law(N, D) * np.exp(noise * rng.normal(size=len(N)))


# ---- Counting ----


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(5, 40),
    st.integers(1, 20),
    st.booleans(),
    st.booleans(),
)
def test_count_of_parameters_is_that_of_the_model(
    width, heads, blks, vocab, max_len, tied, bias
):
    config = Config(
        vocab,
        4 * width * heads,
        heads,
        blks,
        max_len,
        tie_weights=tied,
        bias=bias,
    )
    model = GPT(config)
    non_embedding, total = count_parameters(config)
    assert total == sum(p.numel() for p in model.parameters())
    inside = sum(p.numel() for p in model.blks.parameters())
    inside += sum(p.numel() for p in model.norm.parameters())
    assert non_embedding == inside


def test_rules_for_operations_against_hooks():
    """The matrix products of a forward pass, counted where they happen."""
    config = Config(50, 32, 2, 3, 16)
    model, products = GPT(config), []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(
                lambda m, X, Y: products.append(
                    2 * m.weight.numel() * Y.numel() // Y.shape[-1]
                )
            )
    model(torch.zeros(1, 16, dtype=torch.long))
    d, T = 32, 16
    attention = 3 * (2 * 2 * T * T * d + 3 * 2 * T * T)
    embedding = 2 * 50 * d * T
    by_hooks = 3 * (sum(products) + attention + embedding)
    assert train_flops(config, T) == by_hooks
    kaplan = 6 * count_parameters(config)[0] * T
    assert train_flops(config, T, rule='kaplan') == kaplan
    with pytest.raises(ValueError, match="'chinchilla'"):
        train_flops(config, 1, rule='chinchilla')


SIZES = 3 * 10**11, 10**12, 7 * 10**18
KINDS = [
    np.asarray,
    pd.Series,
    lambda sizes: pd.Series(sizes, dtype='Int64'),
    torch.tensor,
]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(
    'count',
    [
        lambda x: train_flops(published_config('gpt2-xl'), x),
        lambda x: train_flops(published_config('gpt2-xl'), x, rule='kaplan'),
        lambda x: train_flops(published_config('gpt2-xl'), 10**12, x),
        lambda x: kaplan_optimum(x)[0],
        lambda x: kaplan_optimum(x)[1],
        lambda x: HOFFMANN['printed'].optimum(x)[1],
        lambda x: HOFFMANN['printed'](x, x),
        KAPLAN['N'],
    ],
)
def test_whole_numbers_of_any_kind_are_counted_without_overflow(count, kind):
    exact = [float(count(x)) for x in SIZES]
    assert list(map(float, count(kind(SIZES)))) == pytest.approx(exact, 1e-14)
    for x, expected in zip(kind(SIZES), exact, strict=True):
        assert float(count(x)) == pytest.approx(expected, rel=1e-14)


def test_short_whole_numbers_are_counted_without_overflow():
    short = np.int32
    sizes = Config(50257, short(20480), short(128), short(105), short(2048))
    plain = Config(50257, 20480, 128, 105, 2048)
    options = 10**12, 'A100', 4, 0.4, 64
    plan = plan_training(
        sizes, np.int64(10**12), 'A100', np.int8(4), 0.4, np.int16(64)
    )
    assert plan == pytest.approx(plan_training(plain, *options), rel=1e-14)
    assert plan['flops'] > 1e24
    assert type(train_flops(plain, 10**12)) is int  # exact


def test_published_operations_are_counted_without_overflow():
    gpt3 = {model.name: model for model in MODELS}['GPT-3']
    whole = dataclasses.replace(gpt3, tokens=np.int64(300 * 10**9))
    assert whole.flops == gpt3.flops == 6.0 * gpt3.active * 300e9


# ---- Fits ----


@settings(max_examples=30, deadline=None)
@given(st.floats(0.02, 1.5), st.floats(1, 1e15), st.integers(0, 99))
def test_power_law_is_recovered(exponent, scale, seed):
    x = np.geomspace(1e3, 1e8, 12)
    noise = np.random.default_rng(seed).normal(size=12)
    exact = fit_power_law(x, PowerLaw(scale, exponent)(x))
    assert exact.exponent == pytest.approx(exponent, rel=1e-6)
    assert np.log(exact.scale) == pytest.approx(np.log(scale), abs=1e-4)
    noisy = fit_power_law(
        x, PowerLaw(scale, exponent)(x) * np.exp(0.01 * noise)
    )
    assert noisy.exponent == pytest.approx(exponent, abs=0.004)


INTERACTING = laws.InteractingLaw(8.8e13, 5.4e13, 0.076, 0.103)


def test_interacting_law_is_recovered():
    """Kaplan et al. (2020), equation 1.5 and table 2, but for a constant."""
    N, D, _ = grid_runs(TRUE, 0)
    found = laws.fit_interacting_law(N, D, INTERACTING(N, D))
    for name, value in vars(INTERACTING).items():
        assert getattr(found, name) == pytest.approx(value, rel=0.02)
    again = laws.fit_interacting_law(N, D, INTERACTING(N, D), start=found)
    assert again(1e9, 1e10) == pytest.approx(INTERACTING(1e9, 1e10), rel=1e-4)
    # with one debt only it is a power law
    assert INTERACTING(1e9, 1e30) == pytest.approx(
        PowerLaw(8.8e13, 0.076)(1e9)
    )
    with pytest.raises(ValueError, match='5 runs, fewer'):
        laws.fit_interacting_law([1] * 5, [1] * 5, [1] * 5)


@pytest.mark.parametrize(
    'theta', [(20, 18, 0.1, 0.2), (28, 14, 0.3, 0.2), (23, 26, 0.08, 0.9)]
)
def test_gradient_of_the_interacting_loss(theta):
    N, D, loss = (np.log(x) for x in grid_runs(TRUE, 0.3, 3))
    theta = np.array(theta)
    gradient = laws.interacting_loss(theta, N, D, loss, 10.0)[1]
    for i, step in enumerate(np.eye(4) * 1e-6):
        up = laws.interacting_loss(theta + step, N, D, loss, 10.0)[0]
        down = laws.interacting_loss(theta - step, N, D, loss, 10.0)[0]
        assert (up - down) / 2e-6 == pytest.approx(
            gradient[i], rel=1e-3, abs=1e-3
        )


def test_interpolated_optima_are_those_of_the_law():
    budgets = np.geomspace(1e20, 1e22, 5)
    sizes = np.geomspace(1e8, 1e11, 13)
    N, C = map(np.ravel, np.meshgrid(sizes, np.geomspace(1e19, 1e23, 33)))
    loss = TRUE(N, C / 6 / N)
    found, best = laws.interpolated_optima(N, C, loss, budgets)
    assert found.tolist() == budgets.tolist()
    assert best == pytest.approx(TRUE.optimum(budgets)[0], rel=0.1)
    falling = 1 / N  # the largest is the best: at the edge, so left out
    assert not len(laws.interpolated_optima(N, C, falling, budgets)[0])
    assert not len(laws.interpolated_optima(N, C, loss, [1e30])[0])
    with pytest.raises(ValueError, match='-1 is not a positive'):
        laws.interpolated_optima([1, 2, -1], [1, 2, 3], [1, 2, 3], [1])


def test_effective_tokens():
    """Fresh tokens count in full, the second round nearly, and all a limit."""
    assert laws.effective_tokens(100, 50, 15.4) == 50
    assert laws.effective_tokens(100, 100, 15.4) == 100
    # at R* repetitions 1 - 1/e of the limit is reached
    assert laws.effective_tokens(1, 11, 10.0) == pytest.approx(
        1 + 10 * (1 - np.exp(-1))
    )
    assert laws.effective_tokens(100, 1e9, 15.4) == pytest.approx(1640)
    assert laws.effective_tokens(100, 200, 15.4) == pytest.approx(197, abs=1)
    many = laws.effective_tokens(np.array([100, 100]), np.array([50, 400]), 1)
    assert many[0] == 50 and 100 < many[1] < 200


LAWS = [TRUE, HOFFMANN['printed'], JointLaw(0.4, 30, 600, 0.2, 0.4)]


@pytest.mark.parametrize('law', LAWS)
def test_joint_law_is_recovered(law):
    exact = fit_joint_law(*grid_runs(law, 0))
    for name, value in dataclasses.asdict(law).items():
        assert getattr(exact, name) == pytest.approx(value, rel=0.02)
    noisy = fit_joint_law(*grid_runs(law, 0.005))
    assert pytest.approx(law.E, rel=0.1) == noisy.E
    assert noisy.alpha == pytest.approx(law.alpha, abs=0.03)
    assert noisy.beta == pytest.approx(law.beta, abs=0.03)
    size = np.log(noisy.optimum(1e22)[0] / law.optimum(1e22)[0])
    assert abs(size) < np.log(1.6)


def test_joint_law_survives_failed_runs(monkeypatch):
    N, D, loss = grid_runs(TRUE, 0.002)
    loss[:8:2] *= 1.3  # of the smallest data set
    law = fit_joint_law(N, D, loss)
    assert law.beta == pytest.approx(TRUE.beta, abs=0.02)
    squares = functools.partial(joint_loss, delta=10.0)
    monkeypatch.setattr(laws, 'joint_loss', squares)
    law = fit_joint_law(N, D, loss)
    assert abs(law.beta - TRUE.beta) > 0.02


def test_bootstrap_covers_the_truth_and_narrows():
    def fit(*runs):
        return fit_joint_law(*runs, start=TRUE)

    widths = []
    for noise in (0.02, 0.005):
        laws = bootstrap(fit, *grid_runs(TRUE, noise), num_samples=40)
        low, high = interval([law.alpha for law in laws])
        assert low - 0.02 < TRUE.alpha < high + 0.02
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
    again = bootstrap(fit, *grid_runs(TRUE, 0.005), num_samples=40)
    assert again == laws


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.05, 1.2), min_size=5, max_size=5))
def test_gradient_of_the_joint_loss(theta):
    N, D, loss = (np.log(x) for x in grid_runs(TRUE, 0.3, 3))
    theta = np.array(theta)
    gradient = joint_loss(theta, N, D, loss, 1.0)[1]
    for i, step in enumerate(np.eye(5) * 1e-6):
        up = joint_loss(theta + step, N, D, loss, 1.0)[0]
        down = joint_loss(theta - step, N, D, loss, 1.0)[0]
        assert (up - down) / 2e-6 == pytest.approx(
            gradient[i], rel=1e-3, abs=1e-3
        )


def test_optimum_is_the_lowest_loss_of_its_compute():
    flops = 1e21
    N, D = TRUE.optimum(flops)
    assert pytest.approx(flops) == 6 * N * D
    for factor in (0.9, 1.1):
        assert TRUE(N * factor, D / factor) > TRUE(N, D)
    larger = TRUE.optimum(100 * flops)[0]
    assert larger / N == pytest.approx(100**TRUE.share)
    sizes = np.geomspace(N / 3, 3 * N, 7)
    found = isoflop_optimum(sizes, TRUE(sizes, flops / 6 / sizes))
    assert found == pytest.approx(N, rel=0.1)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: fit_power_law([1], [1]), '1 runs, fewer than 2'),
        (lambda: fit_power_law([1, 2], [1, 2, 3]), r'lengths, \[2, 3\]'),
        (lambda: fit_power_law([1, 0], [2, 3]), '0 is not a positive'),
        (lambda: fit_power_law([1, 2], [2, np.inf]), 'inf is not a pos'),
        (lambda: fit_power_law([1, 2], [2, np.nan]), 'nan is not a pos'),
        (lambda: fit_joint_law([1] * 5, [1] * 5, [1] * 5), '5 runs, fewer'),
        (
            lambda: bootstrap(fit_power_law, [1], [2], num_samples=0),
            'num_samples is 0',
        ),
        (lambda: bootstrap(fit_power_law, [1, 2], [2, 1]), '2 runs, fewer'),
        (
            lambda: fit_joint_law(
                *grid_runs(TRUE, 0),
                start=dataclasses.replace(TRUE, A=np.nan),
            ),
            'nan is not a pos',
        ),
        (lambda: fit_power_law([1, 2, 3], [2, 2, 2]), 'all equal'),
        (lambda: isoflop_optimum([1, 2, 4], [1, np.nan, 1]), 'nan is not'),
        (lambda: isoflop_optimum([1, 2], [1, 1]), '2 runs, fewer than 3'),
        (lambda: isoflop_optimum([1, 2, 4], [1, 2, 1]), 'no minimum'),
        (lambda: plan_training(Config(9), 1, 'abacus'), "'abacus'"),
        (lambda: plan_training(Config(9), 0, 'A100'), 'num_tokens is 0'),
        (lambda: plan_training(Config(9), np.nan, 'A100'), 'tokens is nan'),
        (lambda: plan_training(Config(9), 1, 'A100', 0), 'num_devices is 0'),
        (
            lambda: plan_training(Config(9), 1, 'A100', utilization=1.5),
            'utilization is 1.5',
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- Published figures ----


def test_kaplan_constants_give_the_published_figures():
    assert PETAFLOP_DAY == 8.64e19
    assert KAPLAN['N'](1.5e9) == pytest.approx(2.30, abs=0.01)
    halved = KAPLAN['N'](2.0) / KAPLAN['N'](1.0)  # twice the size: 5 % less
    assert halved == pytest.approx(2**-0.076)
    N, D = kaplan_optimum(PETAFLOP_DAY)
    assert pytest.approx(1.3e9) == N
    assert pytest.approx(PETAFLOP_DAY) == 6 * N * D
    assert kaplan_optimum(10 * PETAFLOP_DAY)[0] / N == pytest.approx(10**0.73)


@pytest.mark.parametrize(
    ('name', 'size', 'tokens'),
    [
        ('printed', 326e6, 11.3e9),
        ('unrounded', 389e6, 9.5e9),
        ('replicated', 394e6, 9.4e9),
    ],
)
def test_optimum_at_the_disputed_budget(name, size, tokens):
    N, D = HOFFMANN[name].optimum(2.21e19)
    assert pytest.approx(size, rel=0.005) == N
    assert pytest.approx(tokens, rel=0.005) == D


def test_replicated_law_recommends_twenty_tokens_per_parameter():
    N, D = HOFFMANN['replicated'].optimum(5.76e23)
    assert 15 < D / N < 25
    assert pytest.approx(70e9, rel=0.1) == N


@pytest.mark.parametrize('model', MODELS, ids=lambda model: model.name)
def test_computed_size_is_the_stated_one(model):
    assert abs(model.difference) < 0.01 or model.note
    assert abs(model.difference) < 0.033
    assert model.source.count('(') >= 1
    assert model.positions in ('learned', 'relative', 'xl', 'fixed')
    assert model.active <= model.parameters
    assert (model.flops is None) == (model.tokens is None)


def test_counting_agrees_with_the_models_of_utils():
    by_name = {model.name: model for model in MODELS}
    gpt2 = by_name['GPT-2']
    shape = gpt2.non_embedding, gpt2.parameters
    assert count_parameters(published_config('gpt2-xl')) == shape
    for size in ('base', 'large'):
        with torch.device('meta'):
            bert = BERT(published_config(f'bert-{size}'))
        heads = [*bert.mlm.transform.parameters(), *bert.nsp.parameters()]
        heads.append(bert.mlm.decoder.bias)
        total = sum(p.numel() for p in bert.parameters())
        heads = sum(p.numel() for p in heads)
        assert by_name[f'BERT {size}'].parameters == total - heads
    with torch.device('meta'):
        t5 = T5(published_config('t5-11b'))
    total = sum(p.numel() for p in t5.parameters())
    assert by_name['T5-11B'].parameters == total


def test_released_sizes():
    """Checkpoints that anyone can count: GPT, T5-11B, LLaMA 65B."""
    by_name = {model.name: model for model in MODELS}
    assert by_name['GPT'].parameters == 116_534_784
    assert by_name['T5-11B'].parameters == 11_307_321_344
    assert by_name['LLaMA'].parameters == 65_285_660_672
    assert by_name['GLaM'].active == pytest.approx(96.6e9, rel=0.001)


def test_sparse_models_compute_with_few_of_their_parameters():
    for model in MODELS:
        if model.num_experts > 1:
            assert model.active < model.parameters / 10
        elif model.kind != 'encoder-decoder':
            assert model.active > 0.99 * model.parameters


# ---- Planning ----


def test_plan_of_gpt3():
    config = Config(50257, 12288, 96, 96, 2048)
    plan = plan_training(config, 300e9, 'V100', 10_000, 0.25)
    assert plan['parameters'] == pytest.approx(174.6e9, rel=0.001)
    assert plan['flops'] == pytest.approx(3.3e23, rel=0.05)
    assert plan['state'] == 16 * plan['parameters']
    assert plan['activations'] == 34 * 96 * 12288 * 2048
    assert plan['days'] == pytest.approx(
        plan['flops'] / (DEVICES['V100'].flops * 0.25 * 1e4) / 86400
    )
    assert not plan_training(config, 300e9, 'V100', 1)['fits']
    half = plan_training(config, 150e9, 'V100', 10_000, 0.25)
    assert half['days'] == pytest.approx(plan['days'] / 2)


def test_memory_of_gpt3():
    config = Config(50257, 12288, 96, 96, 2048)
    whole = laws.device_memory(config)
    assert [*whole] == ['weights', 'gradients', 'moments', 'activations']
    parameters = count_parameters(config)[1]
    assert sum([*whole.values()][:3]) == 16 * parameters
    shared = laws.device_memory(config, shards=64, tensor=8)
    assert shared['moments'] == pytest.approx(whole['moments'] / 512)
    assert shared['activations'] == pytest.approx(
        (10 + 3) / 34 * whole['activations']
    )
    again = laws.device_memory(config, recompute=True)
    assert again['weights'] == whole['weights']
    one = 34 * 12288 * 2048
    assert again['activations'] == one + 96 * 2 * 12288 * 2048
    twice = laws.device_memory(config, batch_size=2)
    assert twice['activations'] == 2 * whole['activations']
    for name in ('batch_size', 'shards', 'tensor'):
        with pytest.raises(ValueError, match=f'{name} is 0, below 1'):
            laws.device_memory(config, **{name: 0})
