"""Llama checkpoints in safetensors: old spellings, and what is refused.

That scores, layers, caches, gradients and greedy texts equal those of
`transformers` is shown in test_published.py, with those of GPT-2.
"""

import pytest
import torch
import transformers
from safetensors.torch import save_file
from test_published import (
    LLAMA,
    Pair,
    close,
    decoder_scores,
    edited,
    equal_models,
    ids,
    more,
    rewritten,
    without,
)

from published import SHAPES, load_official, published_config


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    return Pair('llama', tmp_path_factory.mktemp('llama'))


@pytest.mark.parametrize('num_kv_heads', [1, 2, 4])
@pytest.mark.parametrize('head_dim', [2, 8, 10])
@pytest.mark.parametrize('tie', [False, True])
def test_sizes_of_heads(tmp_path, num_kv_heads, head_dim, tie):
    sizes = LLAMA | {
        'num_key_value_heads': num_kv_heads,
        'head_dim': head_dim,
        'tie_word_embeddings': tie,
    }
    pair = Pair('llama', tmp_path, sizes)
    assert pair.ours.config.head_width == head_dim
    assert pair.ours.config.num_kv_heads == num_kv_heads
    close(*decoder_scores(pair, 23))


def test_gradients_reach_every_weight(pair):
    pair.ours.zero_grad()
    pair.ours(ids(2, 9)).square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in pair.ours.parameters())


# ---- Spellings of published files ----


def old_llama(tensors, config):
    """As Llama 2 was released: the base by itself, the angles in the file."""
    config['rope_theta'] = config.pop('rope_parameters')['rope_theta']
    config |= {'rope_scaling': None, 'pretraining_tp': 1}
    for key in ('head_dim', 'attention_bias', 'attention_dropout', 'mlp_bias'):
        del config[key]
    for i in range(3):
        tensors[f'model.layers.{i}.self_attn.rotary_emb.inv_freq'] = (
            10000.0 ** (-torch.arange(0, 8, 2) / 8)
        )


def smollm2(tensors, config):
    config['rope_theta'] = config.pop('rope_parameters')['rope_theta']
    config |= {'is_llama_config': True, 'rope_interleaved': False}
    config['transformers.js_config'] = {'dtype': 'q4f16'}


def without_prefix(tensors, config):
    for name in [name for name in tensors if name.startswith('model.')]:
        tensors[name.removeprefix('model.')] = tensors.pop(name)


def plain_scaling(tensors, config):
    config['rope_scaling'] = {'type': 'default'}


@pytest.mark.parametrize(
    'change',
    [
        old_llama,
        smollm2,
        without_prefix,
        plain_scaling,
        edited(attention_dropout=0, rope_theta=3.0),  # the newer one counts
        without('rms_norm_eps'),
    ],
)
def test_spellings(pair, tmp_path, change):
    folder = rewritten(pair, tmp_path / 'changed', change)
    assert equal_models(load_official(folder), pair.ours)


def test_half_precision(pair, tmp_path):
    def change(tensors, config):
        return {name: W.bfloat16() for name, W in tensors.items()}

    folder = rewritten(pair, tmp_path / 'half', change)
    theirs = transformers.LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    )
    X = ids(2, 9)
    close(load_official(folder)(X), theirs(X).logits)


# ---- Mistakes show ----


def swapped(a, b):
    def change(tensors, config):
        for i in range(3):
            names = [f'model.layers.{i}.{x}.weight' for x in (a, b)]
            values = [tensors[name] for name in names]
            tensors.update(zip(names, values[::-1], strict=True))

    return change


def pairs_in_turn(tensors, config):
    """Queries and keys as GGUF has them, which these files do not."""
    for name, W in tensors.items():
        if 'q_proj' in name or 'k_proj' in name:
            heads = W.unflatten(0, (-1, 2, 4)).transpose(1, 2)
            tensors[name] = heads.flatten(0, 2)


def other_base(tensors, config):
    config['rope_parameters']['rope_theta'] = 500.0


@pytest.mark.parametrize(
    'change',
    [
        swapped('mlp.gate_proj', 'mlp.up_proj'),
        swapped('self_attn.k_proj', 'self_attn.v_proj'),
        swapped('input_layernorm', 'post_attention_layernorm'),
        pairs_in_turn,
        other_base,
        edited(rms_norm_eps=0.1),
        edited(num_attention_heads=2, num_key_value_heads=1, head_dim=16),
    ],
)
def test_a_mistake_in_the_file_shows(pair, tmp_path, change):
    folder = rewritten(pair, tmp_path / 'changed', change)
    X = ids(2, 12)
    with pytest.raises(AssertionError, match='not close'):
        close(load_official(folder)(X), pair.theirs(X).logits)


# ---- What is refused, and what the error says ----


def scaled(**values):
    """Newer files: scaling stands beside the base."""

    def change(tensors, config):
        config['rope_parameters'] |= values

    return change


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (scaled(rope_type='llama3', factor=8.0), r"scaled \({'rope_type': 'l"),
        (scaled(rope_type='yarn', factor=4.0), "are scaled .*'yarn'"),
        (scaled(partial_rotary_factor=0.5), 'scaled .*partial_rotary_factor'),
        (
            edited(rope_scaling={'type': 'linear', 'factor': 2.0}),
            'config.json: the rotary positions are scaled .* do not do',
        ),
        (
            edited(rope_scaling={'type': 'dynamic', 'factor': 2.0}),
            "are scaled .*'dynamic'",
        ),
        (edited(rope_scaling=2.0), 'rope_scaling is 2.0'),
        (scaled(rope_theta=-1.0), 'rope_theta is -1.0, not a finite number'),
        (scaled(rope_theta='1e4'), "rope_theta is '1e4', not a finite number"),
        (edited(attention_bias=True), 'attention_bias is True, not False'),
        (edited(mlp_bias=True), 'mlp_bias is True, not False'),
        (edited(attention_dropout=0.1), 'attention_dropout is 0.1, not 0'),
        (edited(hidden_act='gelu'), "hidden_act is 'gelu', not 'silu'"),
        (edited(pretraining_tp=2), 'pretraining_tp is 2, not 1'),
        (edited(rope_interleaved=True), 'rope_interleaved is True, not False'),
        (edited(sliding_window=16), "unknown meaning: {'sliding_window': 16}"),
        (
            edited(num_key_value_heads=3),
            'num_heads is 4, not .* num_kv_heads, 3',
        ),
        (edited(num_key_value_heads=4), r'W_qkv.*\(32, 32\), \(32, 32\)\] in'),
        (edited(head_dim=7), 'head_width is 7, odd'),
        (edited(num_hidden_layers=4), r'Missing .*model.layers.3.input_layer'),
        (edited(tie_word_embeddings=True), 'tied, but not equal'),
        (
            edited(architectures=['LlamaForSequenceClassification']),
            'other heads than LlamaForCausalLM or LlamaModel',
        ),
        (edited(model_type='mistral'), "model_type is 'mistral', not 'bert'"),
        (
            more('model.layers.0.self_attn.q_proj.bias', torch.zeros(32)),
            r"Without a place in the model: \['model.layers.0.self_attn.q_pr",
        ),
        (
            more(
                'model.layers.0.self_attn.rotary_emb.inv_freq', torch.ones(4)
            ),
            'inv_freq is not the usual constant',
        ),
        (
            more('model.layers.1.mlp.up_proj.weight', torch.zeros(40, 32)),
            r'ffn.layer.0.W_in.weight of shape \(48, 32\) is made of '
            r'\[\(48, 32\)\] in the file, not of \[\(40, 32\)\]',
        ),
    ],
)
def test_what_does_not_fit(pair, tmp_path, change, message):
    folder = rewritten(pair, tmp_path / 'changed', change)
    with pytest.raises(ValueError, match=message):
        load_official(folder)


# ---- Shapes ----


@pytest.mark.parametrize(
    'name', [name for name in SHAPES if 'llama' in name or 'smol' in name]
)
def test_a_shape_made_small_loads(tmp_path, name):
    """The style of each published shape agrees with `transformers`."""
    shape = published_config(name)
    config = transformers.LlamaConfig(
        vocab_size=67,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=40,
        rms_norm_eps=shape.norm_eps,
        rope_parameters={
            'rope_type': 'default',
            'rope_theta': shape.rotary_base,
        },
        tie_word_embeddings=shape.tie_weights,
    )
    torch.manual_seed(4)
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    small = published_config(
        name,
        vocab_size=67,
        num_hiddens=32,
        num_blks=2,
        num_heads=4,
        num_kv_heads=2,
        ffn_num_hiddens=48,
        max_len=40,
    )
    ours = load_official(tmp_path)
    assert ours.config == small
    X = ids(2, 30)
    close(ours(X), theirs(X).logits)


def test_a_damaged_file_says_so(pair, tmp_path):
    folder = rewritten(pair, tmp_path / 'cut', lambda tensors, config: None)
    whole = (folder / 'model.safetensors').read_bytes()
    (folder / 'model.safetensors').write_bytes(whole[:-40])
    with pytest.raises(ValueError, match='is damaged or was cut off'):
        load_official(folder)
    save_file({'x': torch.ones(1)}, folder / 'model.safetensors')
    with pytest.raises(ValueError, match='do not fit the model'):
        load_official(folder)
