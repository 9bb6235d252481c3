"""Rotary positions, RMS norm, gates and grouped heads against a peer.

The peer is the Llama of `transformers` with random weights, whose rotation
turns the two halves of a head where ours turns pairs: rows of queries and
keys change places accordingly.
"""

import copy

import pytest
import torch
from benchmark import as_transformers

import utils
from laws import count_parameters, train_flops
from utils import GPT, Config

TOLERANCE = 1e-4
SIZES = {'vocab_size': 61, 'num_hiddens': 48, 'num_blks': 3, 'max_len': 40}
SHAPES = {
    'grouped': {'num_heads': 6, 'num_kv_heads': 2, 'tie_weights': True},
    'one key for all': {'num_heads': 4, 'num_kv_heads': 1},
    'not grouped': {'num_heads': 4},
    'wide heads': {'num_heads': 3, 'num_kv_heads': 3, 'head_width': 24},
}


def today(**changes):
    """The configuration of a small Llama."""
    choices = {
        'ffn_num_hiddens': 80,
        'rotary_base': 10000.0,
        'rms_norm': True,
        'bias': False,
        'activation': 'gated_silu',
        'tie_weights': False,
        'init_std': 0.2,
    }
    return Config(**SIZES | choices | changes)


def pairs(W, d):
    """From two halves of a head of `d` rows to pairs of neighbors."""
    return W.unflatten(0, (-1, 2, d // 2)).transpose(1, 2).flatten(0, 2)


def peer(config):
    """Our GPT with random weights, and a Llama with copies of them."""
    torch.manual_seed(0)
    ours = GPT(config).eval()
    for p in ours.parameters():
        if p.dim() == 1:
            torch.nn.init.uniform_(p, 0.5, 1.5)
    copied = copy.deepcopy(ours)
    return ours, as_transformers(copied, attn_implementation='eager')


@pytest.fixture(params=SHAPES)
def both(request):
    return peer(today(**SHAPES[request.param]))


@pytest.fixture
def grouped():
    return peer(today(**SHAPES['grouped']))


def some_tokens(num_steps=20):
    g = torch.Generator().manual_seed(1)
    return torch.randint(61, (3, num_steps), generator=g)


@torch.no_grad()
def test_scores_states_and_weights_are_those_of_the_peer(both):
    ours, theirs = both
    X = some_tokens()
    outputs = theirs(X, output_hidden_states=True, output_attentions=True)
    scores = ours(X)
    assert scores.std() > 0.1
    torch.testing.assert_close(scores, outputs.logits, atol=TOLERANCE, rtol=0)
    states = []
    hooks = [
        blk.register_forward_pre_hook(lambda m, H: states.append(H[0]))
        for blk in ours.blks
    ]
    with utils.record_attention(ours) as maps:
        states.append(ours.encode(X))
    for hook in hooks:
        hook.remove()
    for H, expected in zip(states, outputs.hidden_states, strict=True):
        torch.testing.assert_close(H, expected, atol=TOLERANCE, rtol=0)
    for weights, expected in zip(maps, outputs.attentions, strict=True):
        torch.testing.assert_close(weights, expected, atol=1e-5, rtol=0)


def test_gradients_are_those_of_the_peer(both):
    ours, theirs = both
    X = some_tokens()
    utils.lm_loss(ours, X)[0].backward()
    theirs(X, labels=X).loss.backward()
    d = ours.config.head_width
    for blk, layer in zip(ours.blks, theirs.model.layers, strict=True):
        own = layer.self_attn
        expected = torch.cat(
            (
                pairs(own.q_proj.weight.grad, d),
                pairs(own.k_proj.weight.grad, d),
                own.v_proj.weight.grad,
            )
        )
        found = blk.attention.layer.W_qkv.weight.grad
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(
            blk.ffn.layer[1].weight.grad,
            layer.mlp.down_proj.weight.grad,
            atol=TOLERANCE,
            rtol=0,
        )
    torch.testing.assert_close(
        ours.token_embedding.weight.grad,
        theirs.model.embed_tokens.weight.grad,
        atol=TOLERANCE,
        rtol=0,
    )


@torch.no_grad()
def test_a_cache_changes_no_score_and_holds_the_shared_keys_only(both):
    ours, theirs = both
    X = some_tokens()
    caches = ours.new_caches()
    parts = [ours(x, caches=caches) for x in X.split((7, 1, 1, 11), dim=1)]
    expected = theirs(X).logits
    torch.testing.assert_close(
        torch.cat(parts, 1), expected, atol=TOLERANCE, rtol=0
    )
    config = ours.config
    shape = 3, config.num_kv_heads, 20, config.head_width
    assert {cache.K.shape for cache in caches} == {shape}
    assert {cache.V.shape for cache in caches} == {shape}


def test_greedy_text_is_that_of_the_peer(both):
    ours, theirs = both
    X = some_tokens(5)
    options = {'max_new_tokens': 12, 'do_sample': False, 'eos_token_id': None}
    expected = theirs.generate(X, pad_token_id=0, **options)
    for use_cache in (True, False):
        Y = utils.generate(ours, X, 12, temperature=0, use_cache=use_cache)
        assert Y.tolist() == expected.tolist()
    assert len(set(Y[:, 5:].flatten().tolist())) > 5


def without_rotation(X, start, base):
    return X


def without_start(X, start, base):
    return utils_rotary(X, 0, base)


def halves(X, start, base):
    """As the peer turns, on rows that were re-ordered for ours."""
    mixed = X.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
    turned = utils_rotary(mixed, start, base)
    return turned.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)


utils_rotary = utils.rotary


@torch.no_grad()
@pytest.mark.parametrize('wrong', [without_rotation, without_start, halves])
def test_wrong_positions_are_far_from_the_peer(grouped, wrong, monkeypatch):
    ours, theirs = grouped
    monkeypatch.setattr('utils.rotary', wrong)
    X = some_tokens()
    caches = ours.new_caches()
    parts = [ours(x, caches=caches) for x in X.split((7, 13), dim=1)]
    assert (torch.cat(parts, 1) - theirs(X).logits).abs().max() > 0.01


@torch.no_grad()
def test_other_groups_gates_and_norms_are_far_from_the_peer(grouped):
    ours, theirs = grouped
    X, expected = some_tokens(), None
    expected = theirs(X).logits
    state = ours.state_dict()
    for change in (
        {'activation': 'gated_gelu'},
        {'rotary_base': 500.0},
        {'norm_eps': 0.5},
        {'scale': 1.0},
    ):
        other = GPT(today(**SHAPES['grouped'] | change)).eval()
        other.load_state_dict(state)
        assert (other(X) - expected).abs().max() > 0.01, change
    layer = ours.blks[0].attention.layer
    rows = layer.W_qkv.weight.unflatten(0, (10, 8))
    rows[[6, 7]] = rows[[7, 6]]  # the keys of two groups
    assert (ours(X) - expected).abs().max() > 0.01


def test_only_distance_counts():
    """Queries and keys moved on by 100 positions have the same products."""
    g = torch.Generator().manual_seed(0)
    Q, K = torch.randn(2, 1, 2, 9, 16, generator=g)
    near = [utils.rotary(x, 0, 1e4) for x in (Q, K)]
    far = [utils.rotary(x, 100, 1e4) for x in (Q, K)]
    scores = near[0] @ near[1].mT
    torch.testing.assert_close(scores, far[0] @ far[1].mT, atol=1e-3, rtol=0)
    assert (scores - far[0] @ near[1].mT).abs().max() > 0.1
    assert torch.equal(near[0][:, :, 0], Q[:, :, 0])
    torch.testing.assert_close(near[0].norm(dim=-1), Q.norm(dim=-1))


def test_fused_kernel_and_definition_agree_on_groups():
    model = GPT(today(**SHAPES['grouped'])).eval()
    X = some_tokens()
    masks = [None, utils.causal_mask(20).flip(0, 1), torch.eye(20).bool()]
    for mask in masks:
        with torch.no_grad():
            fused = model(X, mask)
            with utils.record_attention(model) as maps:
                defined = model(X, mask)
        assert maps[0].shape == (3, 6, 20, 20)
        torch.testing.assert_close(fused, defined, atol=1e-5, rtol=1e-4)


def test_what_inference_computed_does_not_stop_training():
    model, X = GPT(today(**SHAPES['grouped'])), some_tokens(17)
    with torch.inference_mode():
        model(X[:, :-1])
    utils.lm_loss(model, X)[0].backward()
    assert model.blks[0].attention.layer.W_qkv.weight.grad.abs().max() > 0


def test_last_scores_alone():
    model = GPT(today(**SHAPES['grouped'])).eval()
    X = some_tokens()
    whole = model(X)
    for last in (1, 3):
        torch.testing.assert_close(model(X, last=last), whole[:, -last:])
    assert model(X, last=1).shape == (3, 1, 61)


def test_a_model_of_today_trains():
    torch.manual_seed(0)
    model = GPT(today(**SHAPES['grouped']))
    X = some_tokens(21).repeat(4, 1)
    history = utils.train(model, [X], utils.lm_loss, 40, lr=1e-2)
    assert history.loss[-1] < history.loss[0] - 1


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'num_kv_heads': 4}, 'num_heads is 6, not a multiple of .* 4'),
        ({'num_kv_heads': 0}, 'num_kv_heads is 0, below 1'),
        ({'rotary_base': 0.0}, 'rotary_base is 0.0, below 1'),
        ({'rotary_base': float('nan')}, 'rotary_base is nan'),
        ({'head_width': 7}, 'head_width is 7, odd'),
        ({'activation': 'silu'}, "'silu', not one of .*gated_silu"),
    ],
)
def test_choices_that_make_no_model_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        today(**SHAPES['grouped'] | changes)


@pytest.mark.parametrize('model', [utils.BERT, utils.T5])
@pytest.mark.parametrize(
    'changes', [{'rotary_base': 1e4}, {'num_kv_heads': 2}]
)
def test_models_without_these_extensions_say_so(model, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        model(Config(61, 48, 6, **changes))


def test_counts_know_groups_gates_and_missing_positions():
    config = today(**SHAPES['grouped'])
    model = GPT(config)
    non_embedding, total = count_parameters(config)
    assert total == sum(p.numel() for p in model.parameters())
    assert total - non_embedding == 61 * 48
    T = 40
    products = sum(p.numel() for p in model.blks.parameters() if p.dim() > 1)
    scores = 3 * (2 * 2 * T * 48 + 3 * 6 * T)
    tables = 2 * 2 * 61 * 48
    expected = 3 * (2 * products + scores + tables) * 1000
    assert train_flops(config, 1000) == expected
