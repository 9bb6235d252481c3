"""BART's noisings and the Switch Transformer's routed experts."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import successors
import utils
from successors import SwitchFeedForward
from utils import Config

STOP, MASK = 9, 3
# "I love this red car ." and "it is fast ."
X = torch.tensor([[10, 11, 12, 13, 14, 9, 15, 16, 17, 9]])
LENS = torch.tensor([10])
NOISINGS = {
    'mask_some': lambda X, lens, g: successors.mask_some(X, lens, generator=g),
    'delete_some': lambda X, lens, g: successors.delete_some(
        X, lens, generator=g
    ),
    'infill': lambda X, lens, g: successors.infill(X, lens, generator=g),
    'permute_sentences': lambda X, lens, g: successors.permute_sentences(
        X, lens, STOP, g
    ),
    'rotate': lambda X, lens, g: successors.rotate(X, lens, g),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def is_part(part, whole):
    rest = iter(whole)
    return all(token in rest for token in part)


def texts(lens, seed):
    g, lens = seeded(seed), torch.tensor(lens)
    X = torch.randint(STOP, 60, (len(lens), int(lens.max()) + 1), generator=g)
    return X * (torch.arange(X.shape[1]) < lens[:, None]), lens, g


def rows(X, lens):
    return [x[:n].tolist() for x, n in zip(X, lens, strict=True)]


LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=6)


@settings(deadline=None, max_examples=40)
@given(LENGTHS, st.integers(0, 10**6), st.sampled_from(list(NOISINGS)))
def test_texts_stay_texts(lens, seed, name):
    X, lens, g = texts(lens, seed)
    Y, new_lens = NOISINGS[name](X, lens, g)
    assert torch.equal(Y > 0, torch.arange(Y.shape[1]) < new_lens[:, None])
    same, _ = NOISINGS[name](X, lens, seeded(seed + 1))
    again, _ = NOISINGS[name](X, lens, seeded(seed + 1))
    assert torch.equal(same, again)
    for before, after in zip(rows(X, lens), rows(Y, new_lens), strict=True):
        if name in ('permute_sentences', 'rotate'):
            assert sorted(before) == sorted(after)
        elif name == 'mask_some':
            assert len(before) == len(after)
            assert all(
                b in (a, MASK) for a, b in zip(before, after, strict=True)
            )
        else:
            assert is_part([x for x in after if x != MASK], before)


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(0, 10**6), st.floats(0, 0.5), st.floats(2, 6))
def test_infilling_hides_its_share_under_single_masks(lens, seed, rate, mean):
    X, lens, g = texts(lens, seed)
    Y, new_lens = successors.infill(X, lens, rate, mean, generator=g)
    limits = (lens * rate).round().long().tolist()  # in single precision
    pairs = zip(rows(X, lens), rows(Y, new_lens), limits, strict=True)
    for before, after, limit in pairs:
        hidden = len(before) - sum(x != MASK for x in after)
        assert hidden <= limit
        assert (MASK, MASK) not in itertools.pairwise(after)


def test_infilling_in_the_large():
    X = torch.full((300, 200), 10)
    lens = torch.full((300,), 200)
    Y, new_lens = successors.infill(X, lens, generator=seeded())
    masks = (Y == MASK).sum(1)
    hidden = 200 - (new_lens - masks)
    assert (hidden == 60).all()
    assert (hidden.sum() / masks.sum()).item() == pytest.approx(3, rel=0.03)
    lengths = torch.poisson(torch.full((9999,), 3.0), generator=seeded())
    assert (lengths == 0).float().mean() > 0.03  # masks where nothing is


def test_rates_of_masking_and_deletion():
    X, lens = torch.full((100, 100), 10), torch.full((100,), 100)
    Y, _ = successors.mask_some(X, lens, 0.2, generator=seeded())
    assert (Y == MASK).float().mean().item() == pytest.approx(0.2, abs=0.02)
    _, lens = successors.delete_some(X, lens, 0.2, generator=seeded())
    assert lens.float().mean().item() == pytest.approx(80, abs=2)
    for rate, kept in ((0.0, 10), (1.0, 0)):
        _, lens = successors.delete_some(X[:1], LENS, rate)
        assert lens.item() == kept


def test_sentences_move_as_a_whole():
    found = {
        tuple(
            successors.permute_sentences(X, LENS, STOP, seeded(i))[0][
                0
            ].tolist()
        )
        for i in range(20)
    }
    first, second = X[0, :6].tolist(), X[0, 6:].tolist()
    assert found == {(*first, *second), (*second, *first)}


def test_a_rotation_begins_anywhere_and_goes_on_in_order():
    words = X[0].tolist()
    found = {
        tuple(successors.rotate(X, LENS, seeded(i))[0][0].tolist())
        for i in range(200)
    }
    assert found == {(*words[i:], *words[:i]) for i in range(10)}


@pytest.mark.parametrize('name', ['mask_some', 'delete_some', 'infill'])
@pytest.mark.parametrize('rate', [-0.1, 1.1])
def test_rates_out_of_range_are_refused(name, rate):
    with pytest.raises(ValueError, match=f'rate is {rate}, outside'):
        getattr(successors, name)(X, LENS, rate)


def test_a_mean_length_of_zero_is_refused():
    with pytest.raises(ValueError, match='mean_length is 0, not above 0'):
        successors.infill(X, LENS, 0.3, 0)


# Experts

CONFIG = Config(10, num_hiddens=4, num_heads=2, num_blks=1)


def switch(num_experts=2, capacity_factor=1.0, seed=0):
    torch.manual_seed(seed)
    return SwitchFeedForward(CONFIG, num_experts, capacity_factor)


def test_routing_by_hand():
    layer = switch()
    with torch.no_grad():
        layer.router.weight.copy_(torch.eye(2, 4))
    H = torch.tensor(
        [[2.0, 0, 1, 1], [1, 0, 0, 1], [3, 0, 1, 0], [0, 1, 1, 1]]
    )
    probs = torch.softmax(H[:, :2], 1)
    Y = layer(H[None])[0]  # three tokens want expert 0, which takes two
    for i, expert in ((0, 0), (1, 0), (3, 1)):
        expected = probs[i, expert] * layer.experts[expert](H[i])
        assert Y[i].allclose(expected, atol=1e-6)
    assert (Y[2] == 0).all()
    assert layer.share.tolist() == [0.75, 0.25] and layer.dropped == 0.25
    means = probs.mean(0)
    expected = 2 * (0.75 * means[0] + 0.25 * means[1])
    assert layer.balance.item() == pytest.approx(expected.item())


def test_the_balance_is_one_when_all_are_wanted_alike():
    layer = switch(4)
    with torch.no_grad():
        layer.router.weight.copy_(1e-4 * torch.eye(4))
    layer(torch.eye(4).repeat(3, 1))
    assert layer.balance.item() == pytest.approx(1, abs=1e-3)
    assert layer.dropped == 0
    layer(torch.eye(4)[:1].repeat(12, 1) * 1e6)
    assert layer.balance.item() == pytest.approx(4, abs=1e-3)
    assert layer.dropped == 0.75


def test_one_expert_is_the_dense_network():
    layer, H = switch(1), torch.randn(2, 3, 4)
    assert layer(H).allclose(layer.experts[0](H), atol=1e-6)


def test_gradients_reach_router_and_experts():
    layer = switch(2, 4.0)
    layer(torch.randn(5, 8, 4)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())
    layer.zero_grad()
    layer(torch.randn(5, 8, 4))
    layer.balance.backward()
    assert layer.router.weight.grad.abs().sum() > 0


def test_experts_work_in_a_model():
    torch.manual_seed(0)
    gpt = utils.GPT(CONFIG)
    gpt.blks[0].ffn.layer = switch(4)
    assert gpt(torch.ones(2, 5, dtype=torch.long)).isfinite().all()


@pytest.mark.parametrize('num_experts, factor', [(0, 1.0), (2, 0.0)])
def test_experts_that_cannot_be_are_refused(num_experts, factor):
    with pytest.raises(ValueError, match=f'num_experts is {num_experts}'):
        SwitchFeedForward(CONFIG, num_experts, factor)
