"""Masks and attention: by the definition, fused, and against others."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import d2l_import
import successors
import utils
from utils import Config, KVCache, MultiHeadAttention, attention
from utils import fused_attention as fused


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


sizes = st.integers(1, 5)
MASKS = ('none', 'random', 'causal', 'padding', 'hidden rows')
BIASES = ('none', 'full', 'shared by the batch', 'shared by the heads')


@settings(max_examples=200, deadline=None)
@given(
    batch=sizes,
    num_heads=sizes,
    num_queries=sizes,
    more_keys=sizes,
    d=st.integers(1, 9),
    kind=st.sampled_from(MASKS),
    biased=st.sampled_from(BIASES),
    scale=st.sampled_from([None, 1.0, 0.3]),
    seed=st.integers(0, 2**31),
)
def test_fused_is_the_definition(
    batch, num_heads, num_queries, more_keys, d, kind, biased, scale, seed
):
    num_keys = num_queries + more_keys - 1
    Q = draw(seed, batch, num_heads, num_queries, d)
    K, V = (draw(seed + i, batch, num_heads, num_keys, d) for i in (1, 2))
    full = (batch, num_heads, num_queries, num_keys)
    mask = {
        'none': None,
        'random': draw(seed, *full) > 0,
        'causal': utils.causal_mask(num_queries, num_keys),
        'padding': utils.padding_mask(
            torch.arange(batch) % (num_keys + 1), num_keys
        ),
        'hidden rows': (draw(seed, num_queries) > 0)[:, None],
    }[kind]
    bias = {
        'none': None,
        'full': draw(seed + 3, *full),
        'shared by the batch': draw(seed + 3, *full[1:]),
        'shared by the heads': draw(seed + 3, batch, 1, *full[2:]),
    }[biased]
    ours = [X.clone().requires_grad_() for X in (Q, K, V)]
    theirs = [X.clone().requires_grad_() for X in (Q, K, V)]
    Y, weights = attention(*ours, mask, bias, scale)
    Z = fused(*theirs, mask, bias, scale)
    torch.testing.assert_close(Y, Z, atol=1e-5, rtol=1e-5)
    Y.square().sum().backward()
    Z.square().sum().backward()
    for A, B in zip(ours, theirs, strict=True):
        assert A.grad.isfinite().all()
        torch.testing.assert_close(A.grad, B.grad, atol=1e-4, rtol=1e-4)
    mask = torch.ones(full, dtype=torch.bool) if mask is None else mask
    mask = mask.expand(full)
    assert (weights[~mask] == 0).all()
    sums = weights.sum(-1)
    torch.testing.assert_close(sums, mask.any(-1).float())


@pytest.mark.parametrize('attend', [lambda *x: attention(*x)[0], fused])
@pytest.mark.parametrize('biased', [False, True])
def test_query_that_sees_nothing_gets_zeros(attend, biased):
    Q, K, V = (draw(i, 2, 3, 4, 8).requires_grad_() for i in range(3))
    bias = draw(3, 3, 4, 4).requires_grad_() if biased else None
    mask = utils.causal_mask(4).clone()
    mask[2] = False
    Y = attend(Q, K, V, mask, bias)
    assert (Y[:, :, 2] == 0).all() and (Y[:, :, 3] != 0).all()
    Y.sum().backward()
    for X in (Q, K, V) + ((bias,) if biased else ()):
        assert X.grad.isfinite().all()
    assert (Q.grad[:, :, 2] == 0).all()


def test_dropout_keeps_the_mean_and_drops_weights():
    Q, K = draw(0, 1, 1, 200, 4), draw(1, 1, 1, 50, 4)
    V = torch.ones(1, 1, 50, 1)
    torch.manual_seed(0)
    Y, _ = attention(Q, K, V, dropout=0.5)
    assert Y.mean().item() == pytest.approx(1, abs=0.05)
    assert Y.std() > 0.05


def test_masks_are_worked_by_hand():
    causal = utils.causal_mask(2, 4).int().tolist()
    assert causal == [[1, 1, 1, 0], [1, 1, 1, 1]]
    prefix = utils.prefix_mask(2, 3).int().tolist()
    assert prefix == [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    banded = successors.banded_mask(4, 2).int().tolist()
    assert banded == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert torch.equal(successors.banded_mask(3, 1), torch.eye(3).bool())
    assert torch.equal(successors.banded_mask(3, 9), utils.causal_mask(3))
    padding = utils.padding_mask(torch.tensor([0, 2, 3]), 3)
    assert padding.shape == (3, 1, 1, 3)
    assert padding[:, 0, 0].int().tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 1]]
    both = padding & utils.causal_mask(3)
    assert both.shape == (3, 1, 3, 3)
    assert both[1, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 0]]


def test_mask_errors_name_value_and_limit():
    with pytest.raises(ValueError, match=r'\[4\], outside \[0, 3\]'):
        utils.padding_mask(torch.tensor([4]), 3)
    with pytest.raises(ValueError, match='-1'):
        utils.padding_mask(torch.tensor([-1]), 3)
    with pytest.raises(ValueError, match='5 queries for 4 keys'):
        utils.causal_mask(5, 4)
    with pytest.raises(ValueError, match=r'num_prefix is 4, not in 0\.\.3'):
        utils.prefix_mask(4, 3)
    with pytest.raises(ValueError, match='width is 0, below 1'):
        successors.banded_mask(4, 0)


def layer(num_hiddens=12, num_heads=3, **options):
    torch.manual_seed(0)
    config = Config(10, num_hiddens, num_heads, **options)
    return MultiHeadAttention(config).eval()


def four_of(layer):
    """Weights, and biases if any, of queries, keys, values and output."""
    Q, K, V = (
        {name: p.chunk(3)[i] for name, p in layer.W_qkv.state_dict().items()}
        for i in range(3)
    )
    return Q, K, V, layer.W_o.state_dict()


@pytest.mark.parametrize('bias', [False, True])
def test_equals_multihead_attention_of_d2l(bias):
    ours, X = layer(bias=bias), draw(1, 4, 6, 12)
    theirs = d2l_import.d2l.MultiHeadAttention(12, 3, 0.0, bias).eval()
    valid_lens = torch.tensor([1, 3, 6, 2])
    theirs(X, X, X, valid_lens)  # gives the lazy layers their shapes
    layers = theirs.W_q, theirs.W_k, theirs.W_v, theirs.W_o
    for W, state in zip(layers, four_of(ours), strict=True):
        W.load_state_dict(state)
    mask = utils.padding_mask(valid_lens, 6)
    Y, Z = ours(X, mask=mask), theirs(X, X, X, valid_lens)
    torch.testing.assert_close(Y, Z, atol=1e-5, rtol=1e-5)
    assert (ours(X) - Z).abs().max() > 1e-3  # without the mask it differs


@pytest.mark.parametrize('bias', [False, True])
def test_equals_multihead_attention_of_torch(bias):
    ours, X = layer(bias=bias), draw(1, 4, 6, 12)
    theirs = nn.MultiheadAttention(12, 3, bias=bias, batch_first=True).eval()
    theirs.out_proj.load_state_dict(ours.W_o.state_dict())
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.W_qkv.weight)
        if bias:
            theirs.in_proj_bias.copy_(ours.W_qkv.bias)
    mask = utils.causal_mask(6)
    Z, weights = theirs(X, X, X, attn_mask=~mask, average_attn_weights=False)
    torch.testing.assert_close(ours(X, mask=mask), Z, atol=1e-5, rtol=1e-5)
    with utils.record_attention(ours) as maps:
        ours(X, mask=mask)
    torch.testing.assert_close(maps[0], weights, atol=1e-5, rtol=1e-5)


def test_recording_changes_nothing_and_ends_with_the_block():
    ours, X = layer(), draw(1, 2, 5, 12)
    mask, bias = utils.causal_mask(5), draw(2, 3, 5, 5)
    Y = ours(X, mask=mask, bias=bias)
    with utils.record_attention(ours) as maps:
        Z = ours(X, mask=mask, bias=bias)
    torch.testing.assert_close(Y, Z, atol=1e-6, rtol=1e-5)
    assert [m.shape for m in maps] == [(2, 3, 5, 5)]
    assert not maps[0].requires_grad
    ours(X, mask=mask)
    assert len(maps) == 1
    with pytest.raises(ZeroDivisionError), utils.record_attention(ours):
        raise ZeroDivisionError
    assert ours.recorded is None


def test_mask_does_not_depend_on_training():
    ours, X = layer(), draw(1, 2, 5, 12)
    mask = utils.causal_mask(5)
    Y = ours.train()(X, mask=mask)
    assert torch.equal(Y, ours.eval()(X, mask=mask))


def test_cache_gives_the_same_in_pieces():
    ours, X = layer(), draw(1, 2, 6, 12)
    whole, cache = ours(X, mask=utils.causal_mask(6)), KVCache()
    pieces = []
    for piece in X.split((3, 1, 2), dim=1):
        n = piece.shape[1]
        mask = utils.causal_mask(n, len(cache) + n)
        pieces.append(ours(piece, mask=mask, cache=cache))
    assert len(cache) == 6
    torch.testing.assert_close(torch.cat(pieces, 1), whole)


def test_a_memory_that_is_the_input_is_self_attention():
    ours, X = layer(), draw(1, 2, 6, 12)
    mask, bias = utils.causal_mask(6), draw(2, 3, 6, 6)
    Y = ours(X, mask=mask, bias=bias)
    assert torch.equal(ours(X, X, mask, bias), Y)
    assert not torch.allclose(ours(X, X.flip(1), mask, bias), Y, atol=1e-3)


def test_queries_are_of_the_input_keys_and_values_of_the_memory():
    ours, X, memory = layer(), draw(1, 2, 3, 12), draw(2, 2, 5, 12)
    mask = utils.padding_mask(torch.tensor([5, 2]), 5)
    Q, K, V = (
        F.linear(H, *part.values()).unflatten(-1, (3, 4)).transpose(1, 2)
        for H, part in zip((X, memory, memory), four_of(ours)[:3], strict=True)
    )
    Y, _ = attention(Q, K, V, mask)
    Y = ours.W_o(Y.transpose(1, 2).flatten(2))
    torch.testing.assert_close(ours(X, memory, mask), Y)


def test_queries_come_first_values_last():
    for part in range(3):
        ours, X = layer(bias=False), draw(1, 2, 5, 12)
        with torch.no_grad():
            ours.W_qkv.weight[12 * part :][:12] = 0
        Y = ours(X)
        if part < 2:  # equal scores: the mean of the values
            V = F.linear(X, ours.W_qkv.weight[24:]).mean(1, keepdim=True)
            torch.testing.assert_close(Y, ours.W_o(V).expand_as(Y))
            assert Y.abs().max() > 0.01
        else:
            assert (Y == 0).all()


def test_a_memory_is_taken_into_the_cache_once():
    ours, X, memory = layer(), draw(1, 2, 4, 12), draw(2, 2, 5, 12)
    mask, calls = utils.padding_mask(torch.tensor([5, 2]), 5), []
    ours.W_qkv.register_forward_hook(lambda _, X, Y: calls.append(X[0]))
    whole, cache = ours(X, memory, mask), KVCache()
    calls.clear()
    pieces = [
        ours(x, memory, mask, cache=cache) for x in X.split((2, 1, 1), 1)
    ]
    torch.testing.assert_close(torch.cat(pieces, 1), whole)
    assert sum(each is memory for each in calls) == 1
    assert len(calls) == 4 and len(cache) == 5


def test_layer_errors_name_value_and_limit():
    ours, X = layer(), draw(1, 2, 5, 12)
    with pytest.raises(ValueError, match=r'\(2, 5, 7\).*num_hiddens = 12'):
        ours(draw(1, 2, 5, 7))
    with pytest.raises(ValueError, match=r'\(5, 12\)'):
        ours(X[0])
    with pytest.raises(ValueError, match=r'\(2, 5, 8\).*num_hiddens = 12'):
        ours(X, draw(1, 2, 5, 8))  # the memory
    with pytest.raises(ValueError, match=r'torch.float32, not torch.bool'):
        ours(X, mask=torch.ones(5, 5))
    with pytest.raises(ValueError, match=r'\(4, 4\).*\(2, 3, 5, 5\)'):
        ours(X, mask=utils.causal_mask(4))
    with pytest.raises(ValueError, match='does not broadcast'):
        ours(X, mask=torch.ones(1, 2, 1, 5, 5, dtype=torch.bool))


def test_scale_of_one_is_no_scale():
    X = draw(1, 1, 4, 12)
    assert not torch.allclose(layer(scale=1.0)(X), layer()(X))
    assert torch.allclose(layer(scale=1 / math.sqrt(4))(X), layer()(X))
