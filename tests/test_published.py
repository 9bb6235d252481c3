"""Published checkpoints give what the library gives that they were made for.

The oracle is `transformers`, on small models with random weights that go
through a checkpoint on disk. Everything is drawn at random, biases, norms and
the embedding of padding included, so that nothing can be mixed up unnoticed.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import nbformat
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

import corpora
import figures
import finetuning
import published
import utils
from published import SHAPES, published_config
from published.families import load_official, read_config
from published.files import official_folder

transformers.utils.logging.disable_progress_bar()
CHAPTER = Path(__file__).parents[1] / 'chapter_large_pretraining'
VOCAB = 67
BERT = {
    'vocab_size': VOCAB,
    'hidden_size': 32,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'intermediate_size': 48,
    'max_position_embeddings': 40,
}
GPT2 = {
    'vocab_size': VOCAB,
    'n_embd': 32,
    'n_layer': 3,
    'n_head': 4,
    'n_positions': 40,
}
LLAMA = {
    'vocab_size': VOCAB,
    'hidden_size': 32,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'intermediate_size': 48,
    'max_position_embeddings': 40,
}
T5 = {
    'vocab_size': VOCAB,
    'd_model': 32,
    'd_kv': 6,
    'd_ff': 48,
    'num_layers': 3,
    'num_heads': 4,
    'decoder_start_token_id': 0,
}
ORACLES = {
    'bert': (transformers.BertForMaskedLM, transformers.BertConfig, BERT),
    'bert, both heads': (
        transformers.BertForPreTraining,
        transformers.BertConfig,
        BERT,
    ),
    'bert, other settings': (
        transformers.BertForMaskedLM,
        transformers.BertConfig,
        {
            **BERT,
            'hidden_act': 'gelu_new',
            'layer_norm_eps': 1e-3,
            'type_vocab_size': 3,
        },
    ),
    'roberta': (
        transformers.RobertaForMaskedLM,
        transformers.RobertaConfig,
        {**BERT, 'type_vocab_size': 1, 'layer_norm_eps': 1e-5},
    ),
    'gpt2': (transformers.GPT2LMHeadModel, transformers.GPT2Config, GPT2),
    'gpt2, other settings': (
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config,
        {
            **GPT2,
            'n_inner': 48,
            'activation_function': 'relu',
            'layer_norm_epsilon': 1e-2,
            'tie_word_embeddings': False,
            'scale_attn_weights': False,
        },
    ),
    'llama': (transformers.LlamaForCausalLM, transformers.LlamaConfig, LLAMA),
    'llama, other settings': (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig,
        {
            **LLAMA,
            'head_dim': 6,
            'num_key_value_heads': 1,
            'rms_norm_eps': 1e-2,
            'rope_theta': 300.0,
            'tie_word_embeddings': True,
        },
    ),
    't5': (transformers.T5ForConditionalGeneration, transformers.T5Config, T5),
    't5 v1.1': (
        transformers.T5ForConditionalGeneration,
        transformers.T5Config,
        {
            **T5,
            'feed_forward_proj': 'gated-gelu',
            'tie_word_embeddings': False,
            'layer_norm_epsilon': 1e-2,
            'relative_attention_num_buckets': 12,
            'relative_attention_max_distance': 20,
        },
    ),
}
# as transformers makes it from the settings of version 1.1
ORACLES['t5 v1.1, tied'] = ORACLES['t5 v1.1']
ENCODERS = [name for name in ORACLES if 'bert' in name]
DECODERS = [name for name in ORACLES if 'gpt2' in name or 'llama' in name]
BOTH = [name for name in ORACLES if 't5' in name]


class Pair:
    """One model twice: by transformers and by `load_official`."""

    def __init__(self, name, folder, sizes=None):
        model, config, default = ORACLES[name]
        sizes = sizes or default
        torch.manual_seed(9)
        self.name, self.folder = name, folder
        self.theirs = model(config(**sizes, attn_implementation='eager'))
        self.theirs.eval()
        if name == 't5 v1.1':  # transformers ties what is published apart
            W = self.theirs.lm_head.weight
            self.theirs.lm_head.weight = torch.nn.Parameter(W.clone())
        with torch.no_grad():
            for name, p in self.theirs.named_parameters():
                is_norm = p.dim() == 1 and name.endswith('weight')
                p.copy_(0.25 * torch.randn_like(p) + is_norm)
        self.theirs.save_pretrained(folder)
        self.ours = load_official(folder)


@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
    made = {}

    def pair(name):
        if name not in made:
            made[name] = Pair(name, tmp_path_factory.mktemp('checkpoint'))
        return made[name]

    return pair


def ids(*shape, seed=0):
    """Token ids; RoBERTa's padding, 1, is not among them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, shape, generator=generator)


def close(ours, theirs):
    largest = max(1.0, theirs.abs().max().item())
    torch.testing.assert_close(ours, theirs, atol=1e-4 * largest, rtol=0)


# ---- Encoders: BERT and RoBERTa ----


def padded(length, segments=1, seed=0):
    """Four texts of different lengths, and where they are real."""
    valid_lens = torch.tensor([length, 1, (length + 1) // 2, length])
    real = torch.arange(length) < valid_lens[:, None]
    X = ids(4, length, seed=seed).masked_fill(~real, 1)
    kinds = torch.randint(
        segments, X.shape, generator=torch.Generator().manual_seed(seed + 1)
    )
    return X, kinds, valid_lens, real


def encoder_scores(pair, length, use_padding=True):
    """Scores at the real tokens: ours, theirs."""
    segments = pair.ours.config.num_segments
    X, kinds, valid_lens, real = padded(length, segments)
    theirs = pair.theirs(X, attention_mask=real, token_type_ids=kinds)
    scores = theirs.get('logits', theirs.get('prediction_logits'))
    ours = pair.ours(X, kinds, valid_lens if use_padding else None)
    return ours[real], scores[real]


@pytest.mark.parametrize('length', [1, 2, 17, 38])
@pytest.mark.parametrize('name', ENCODERS)
def test_encoder_scores(pairs, name, length):
    close(*encoder_scores(pairs(name), length))


def trace(model, blks, run):
    """What goes through the blocks, and the attention weights."""
    states = []
    hooks = [
        blk.register_forward_hook(lambda blk, X, Y: states.append(Y))
        for blk in blks
    ]
    hooks.append(
        blks[0].register_forward_pre_hook(lambda blk, X: states.append(X[0]))
    )
    with utils.record_attention(model) as maps:
        run()
    for hook in hooks:
        hook.remove()
    return states, maps


@pytest.mark.parametrize('name', ENCODERS)
def test_every_layer_of_an_encoder(pairs, name):
    pair = pairs(name)
    X, kinds, valid_lens, real = padded(11, pair.ours.config.num_segments)
    states, maps = trace(
        pair.ours, pair.ours.blks, lambda: pair.ours(X, kinds, valid_lens)
    )
    theirs = pair.theirs(
        X,
        attention_mask=real,
        token_type_ids=kinds,
        output_hidden_states=True,
        output_attentions=True,
    )
    assert len(states) == len(theirs.hidden_states) == 4
    for H, other in zip(states, theirs.hidden_states, strict=True):
        close(H[real], other[real])
    assert len(maps) == len(theirs.attentions) == 3
    for weights, other in zip(maps, theirs.attentions, strict=True):
        close(weights.transpose(1, 2)[real], other.transpose(1, 2)[real])


def test_next_sentence_scores(pairs):
    pair = pairs('bert, both heads')
    X, kinds, valid_lens, real = padded(11, 2)
    H = pair.ours.encode(X, kinds, valid_lens)
    ours = pair.ours.nsp(pair.ours.pooler(H[:, 0]))
    theirs = pair.theirs(X, attention_mask=real, token_type_ids=kinds)
    # class 1 of `bert_loss` is the next sentence, theirs is class 0
    close(ours, theirs.seq_relationship_logits.flip(-1))


# ---- Decoders: GPT-2 and Llama ----


@pytest.mark.parametrize('length', [1, 2, 17, 40])
@pytest.mark.parametrize('name', DECODERS)
def test_decoder_scores(pairs, name, length):
    pair, X = pairs(name), ids(3, length)
    close(pair.ours(X), pair.theirs(X).logits)


def left_padded(length):
    """Three texts that end together, and the mask over their keys."""
    starts = torch.tensor([0, length // 2, length - 1])
    real = torch.arange(length) >= starts[:, None]
    return ids(3, length), real


def decoder_scores(pair, length, use_padding=True):
    X, real = left_padded(length)
    theirs = pair.theirs(X, attention_mask=real.long()).logits
    mask = utils.causal_mask(length)
    if use_padding:
        mask = mask & real[:, None, None]
    return pair.ours(X, mask)[real], theirs[real]


@pytest.mark.parametrize('name', DECODERS)
def test_decoder_scores_with_padding(pairs, name):
    pair = pairs(name)
    close(*decoder_scores(pair, 9))
    X, _, _, real = padded(9)  # on the right: the causal mask is enough
    theirs = pair.theirs(X, attention_mask=real.long()).logits
    close(pair.ours(X)[real], theirs[real])


@pytest.mark.parametrize('name', DECODERS)
def test_every_layer_of_a_decoder(pairs, name):
    pair, X = pairs(name), ids(3, 11)
    states, maps = trace(pair.ours, pair.ours.blks, lambda: pair.ours(X))
    states[-1] = pair.ours.norm(states[-1])  # they count it to the last layer
    theirs = pair.theirs(X, output_hidden_states=True, output_attentions=True)
    for H, other in zip(states, theirs.hidden_states, strict=True):
        close(H, other)
    for weights, other in zip(maps, theirs.attentions, strict=True):
        close(weights, other)


@pytest.mark.parametrize('name', DECODERS)
def test_decoder_with_a_cache(pairs, name):
    pair, X = pairs(name), ids(3, 12)
    caches, past, start = pair.ours.new_caches(), None, 0
    whole = pair.theirs(X).logits
    for end in (5, 6, 7, 11, 12):
        chunk = X[:, start:end]
        theirs = pair.theirs(chunk, past_key_values=past, use_cache=True)
        ours, past = pair.ours(chunk, caches=caches), theirs.past_key_values
        close(ours, theirs.logits)
        close(ours, whole[:, start:end])
        if 'gpt2' in name:  # Llama's keys have their features in other order
            for cache, layer in zip(caches, past.layers, strict=True):
                close(cache.K, layer.keys)
                close(cache.V, layer.values)
        start = end


@pytest.mark.parametrize('name', DECODERS)
def test_greedy_generation(pairs, name):
    pair, X = pairs(name), ids(4, 6)
    options = {'max_new_tokens': 25, 'do_sample': False, 'pad_token_id': 0}
    mask = torch.ones_like(X)
    theirs = pair.theirs.generate(X, attention_mask=mask, **options)
    for use_cache in (True, False):
        ours = utils.generate(
            pair.ours, X, 25, temperature=0, use_cache=use_cache
        )
        assert torch.equal(ours, theirs)
    assert len(theirs[:, 6:].unique()) > 4
    stop = theirs[0, 9].item()  # the first text ends early, all at the end
    options = {**options, 'pad_token_id': stop, 'eos_token_id': stop}
    theirs = pair.theirs.generate(X, attention_mask=mask, **options)
    ours = utils.generate(pair.ours, X, 25, temperature=0, stop=stop)
    assert torch.equal(ours, theirs)
    assert (theirs[0, 10:] == stop).all()


# ---- Encoder and decoder: T5 ----


def both_scores(pair, length, use_padding=True, num_targets=9):
    X, _, valid_lens, real = padded(length)
    Y = ids(4, num_targets, seed=3)
    theirs = pair.theirs(
        X, attention_mask=real.long(), decoder_input_ids=Y
    ).logits
    return pair.ours(X, Y, valid_lens if use_padding else None), theirs


@pytest.mark.parametrize(
    ('length', 'num_targets'),
    [(1, 1), (2, 3), (17, 40), (300, 5), (11, 290)],
)
@pytest.mark.parametrize('name', BOTH)
def test_encoder_decoder_scores(pairs, name, length, num_targets):
    close(*both_scores(pairs(name), length, num_targets=num_targets))


@pytest.mark.parametrize('name', BOTH)
def test_every_layer_of_encoder_and_decoder(pairs, name):
    pair = pairs(name)
    X, _, valid_lens, real = padded(150)  # beyond the largest distance
    Y = ids(4, 9, seed=3)
    theirs = pair.theirs(
        X,
        attention_mask=real.long(),
        decoder_input_ids=Y,
        output_hidden_states=True,
        output_attentions=True,
    )
    ours = pair.ours
    states, maps = trace(
        ours, ours.encoder.blks, lambda: ours.encode(X, valid_lens)
    )
    states[-1] = ours.encoder.norm(states[-1])
    for H, other in zip(states, theirs.encoder_hidden_states, strict=True):
        close(H[real], other[real])
    for weights, other in zip(maps, theirs.encoder_attentions, strict=True):
        close(weights.transpose(1, 2)[real], other.transpose(1, 2)[real])
    memory = ours.encode(X, valid_lens)
    states, maps = trace(
        ours, ours.decoder.blks, lambda: ours.decode(Y, memory, valid_lens)
    )
    states[-1] = ours.decoder.norm(states[-1])
    for H, other in zip(states, theirs.decoder_hidden_states, strict=True):
        close(H, other)
    for weights, other in zip(
        maps[::2], theirs.decoder_attentions, strict=True
    ):
        close(weights, other)
    for weights, other in zip(
        maps[1::2], theirs.cross_attentions, strict=True
    ):
        close(weights, other)


@pytest.mark.parametrize('name', BOTH)
def test_encoder_decoder_with_a_cache(pairs, name):
    pair = pairs(name)
    X, _, valid_lens, real = padded(11)
    Y = ids(4, 150, seed=3)
    memory, caches = pair.ours.encode(X, valid_lens), pair.ours.new_caches()
    whole = pair.theirs(
        X, attention_mask=real.long(), decoder_input_ids=Y
    ).logits
    past, encoded, start = None, None, 0
    for end in (4, 5, 6, 149, 150):
        chunk = Y[:, start:end]
        theirs = pair.theirs(
            X,
            attention_mask=real.long(),
            decoder_input_ids=chunk,
            encoder_outputs=encoded,
            past_key_values=past,
            use_cache=True,
        )
        encoded = (theirs.encoder_last_hidden_state,)
        past = theirs.past_key_values
        ours = pair.ours.decode(chunk, memory, valid_lens, caches)
        close(ours, theirs.logits)
        close(ours, whole[:, start:end])
        start = end


@pytest.mark.parametrize('name', BOTH)
def test_greedy_answers(pairs, name):
    pair = pairs(name)
    X, _, valid_lens, real = padded(11)
    options = {
        'max_new_tokens': 25,
        'do_sample': False,
        'pad_token_id': 2,
        'eos_token_id': None,
        'decoder_start_token_id': 0,
        'attention_mask': real.long(),
    }
    theirs = pair.theirs.generate(X, **options)[:, 1:]
    for use_cache in (True, False):
        ours = utils.answer(
            pair.ours, X, valid_lens, 25, temperature=0, use_cache=use_cache
        )
        assert torch.equal(ours, theirs)
    assert len(theirs.unique()) > 4
    stop = theirs[0, 3].item()
    options |= {'pad_token_id': stop, 'eos_token_id': stop}
    theirs = pair.theirs.generate(X, **options)[:, 1:]
    ours = utils.answer(pair.ours, X, valid_lens, 25, temperature=0, stop=stop)
    assert torch.equal(ours, theirs)
    assert (theirs[0, 3:] == stop).all()
    assert not pair.ours.training  # answering leaves the mode as it was


# ---- Any sizes ----


@settings(deadline=None, max_examples=12, derandomize=True)
@given(
    num_heads=st.integers(1, 5),
    head_width=st.integers(4, 9),
    num_blks=st.integers(1, 3),
    wide=st.integers(1, 30),
    num_buckets=st.sampled_from([4, 8, 14, 32]),
    gated=st.booleans(),
    length=st.integers(1, 60),
    num_targets=st.integers(1, 60),
)
def test_scores_at_any_size(
    tmp_path_factory,
    num_heads,
    head_width,
    num_blks,
    wide,
    num_buckets,
    gated,
    length,
    num_targets,
):
    sizes = {
        **T5,
        'num_heads': num_heads,
        'd_kv': head_width,
        'd_ff': wide,
        'num_layers': num_blks,
        'relative_attention_max_distance': 30,
        'relative_attention_num_buckets': num_buckets,
    }
    name = 't5 v1.1' if gated else 't5'
    sizes = {**ORACLES[name][2], **sizes}
    pair = Pair(name, tmp_path_factory.mktemp('any'), sizes)
    close(*both_scores(pair, length, num_targets=num_targets))
    sizes = {
        **GPT2,
        'n_head': num_heads,
        'n_embd': num_heads * head_width,
        'n_layer': num_blks,
        'n_inner': wide,
        'n_positions': length,
    }
    pair = Pair('gpt2', tmp_path_factory.mktemp('any'), sizes)
    close(*decoder_scores(pair, length))


# ---- One training step ----


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


def as_checkpoint(pair, tensors, folder):
    """A checkpoint with other tensors in place of the weights."""
    shutil.copytree(pair.folder, folder)
    save_file(tensors, folder / 'model.safetensors')
    return folder


def check_gradients(pair, ours, theirs, folder):
    """Compare after a backward pass: their gradients, loaded as if weights."""
    close(ours, theirs)
    pair.ours.zero_grad()
    pair.theirs.zero_grad()
    ours.backward()
    theirs.backward()
    tensors = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in pair.theirs.named_parameters()
    }
    expected = load_official(as_checkpoint(pair, tensors, folder / 'copy'))
    norms = []
    for name, p in expected.named_parameters():
        ours = pair.ours.get_parameter(name).grad
        close(torch.zeros_like(p) if ours is None else ours, p.detach())
        norms.append(p.detach().norm())
    assert sum(norm > 1e-3 for norm in norms) > 0.9 * len(norms)


@pytest.mark.parametrize('name', ENCODERS)
def test_gradients_of_an_encoder(pairs, name, tmp_path):
    pair = pairs(name)
    X, kinds, valid_lens, real = padded(11, pair.ours.config.num_segments)
    labels = ids(4, 11, seed=5)
    chosen = torch.rand(X.shape, generator=torch.Generator().manual_seed(6))
    labels[~real | (chosen < 0.5)] = -100
    inputs = {'attention_mask': real, 'token_type_ids': kinds}
    if name == 'bert, both heads':
        follows = torch.tensor([1, 0, 0, 1])
        inputs['next_sentence_label'] = 1 - follows
        ours, _ = utils.bert_loss(
            pair.ours, (X, kinds, valid_lens, labels, follows)
        )
    else:
        ours, _ = utils.mlm_loss(pair.ours, (X, kinds, valid_lens, labels))
    theirs = pair.theirs(X, labels=labels, **inputs).loss
    check_gradients(pair, ours, theirs, tmp_path)


@pytest.mark.parametrize('name', DECODERS)
def test_gradients_of_a_decoder(pairs, name, tmp_path):
    pair, X = pairs(name), ids(3, 12)
    X[1, 9:] = -100
    ours, _ = utils.lm_loss(pair.ours, X)
    theirs = pair.theirs(X.clamp(min=0), labels=X).loss
    check_gradients(pair, ours, theirs, tmp_path)


@pytest.mark.parametrize('name', BOTH)
def test_gradients_of_encoder_and_decoder(pairs, name, tmp_path):
    pair = pairs(name)
    X, _, valid_lens, real = padded(11)
    labels = ids(4, 9, seed=3)
    labels[1, 5:] = -100
    ours, _ = utils.seq2seq_loss(pair.ours, (X, valid_lens, labels))
    theirs = pair.theirs(X, attention_mask=real.long(), labels=labels).loss
    check_gradients(pair, ours, theirs, tmp_path)


# ---- Negative controls: what the tests above would catch ----


def broken(pair, change):
    """The pair with a model of ours that `change` has spoiled."""
    copy = object.__new__(Pair)
    copy.name, copy.theirs = pair.name, pair.theirs
    copy.ours = load_official(pair.folder)
    with torch.no_grad():
        change(copy.ours)
    return copy


def parts(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


def wrong_scale(model):
    for layer in parts(model, utils.MultiHeadAttention):
        layer.config = dataclasses.replace(model.config, scale=0.2)


def wrong_norm(model):
    for residual in parts(model, utils.Residual):
        residual.pre_norm ^= True


def wrong_activation(model):
    for ffn in parts(model, utils.FeedForward):
        if model.config.activation == 'gated_gelu':
            ffn[0].activation = torch.nn.SiLU()
        else:
            ffn[1] = torch.nn.SiLU()


def wrong_epsilon(model):
    for norm in parts(model, torch.nn.LayerNorm | torch.nn.RMSNorm):
        norm.eps = 1e-1


def wrong_positions(model):
    table = model.pos_embedding.weight
    table.copy_(table.roll(1, 0))


def wrong_distances(model):
    for stack in (model.encoder, model.decoder):
        stack.relative_bias.bidirectional ^= True


def values_for_keys(attention):
    Q, K, V = attention.layer.W_qkv.weight.clone().chunk(3)
    attention.layer.W_qkv.weight.copy_(torch.cat((Q, V, K)))


def wrong_memory(model):
    values_for_keys(model.decoder.blks[1].cross_attention)


def wrong_output_scale(model):
    tied = not model.config.tie_weights
    model.config = dataclasses.replace(model.config, tie_weights=tied)


def wrong_order(model):
    values_for_keys(parts(model, utils.Block)[0].attention)


def wrong_queries(model):
    W = parts(model, utils.Block)[0].attention.layer.W_qkv.weight
    _, K, V = W.clone().chunk(3)
    W.copy_(torch.cat((V, K, V)))


def wrong_layout(model):
    W = parts(model, utils.Block)[0].attention.layer.W_o.weight
    W.copy_(W.clone().view(W.T.shape).T)


def untied(model):
    head = model.head if hasattr(model, 'head') else model.mlm.decoder
    head.weight = torch.nn.Parameter(torch.randn_like(head.weight))


WRONG = [
    wrong_scale,
    wrong_norm,
    wrong_activation,
    wrong_epsilon,
    wrong_order,
    wrong_queries,
    wrong_layout,
    untied,
]
ABSOLUTE = [*WRONG, wrong_positions]
RELATIVE = [*WRONG, wrong_distances, wrong_memory, wrong_output_scale]


def scores_of(name):
    if name in BOTH:
        return both_scores
    return decoder_scores if name in DECODERS else encoder_scores


@pytest.mark.parametrize(
    ('name', 'change'),
    [(name, x) for name in ('bert', 'roberta', 'gpt2') for x in ABSOLUTE]
    + [(name, x) for name in BOTH for x in RELATIVE],
)
def test_a_mistake_shows_in_the_scores(pairs, name, change):
    scores = scores_of(name)
    close(*scores(broken(pairs(name), lambda model: None), 9))
    with pytest.raises(AssertionError, match='not close'):
        close(*scores(broken(pairs(name), change), 9))


@pytest.mark.parametrize('name', ORACLES)
def test_a_forgotten_padding_mask_shows(pairs, name):
    with pytest.raises(AssertionError, match='not close'):
        close(*scores_of(name)(pairs(name), 9, use_padding=False))


def test_forgotten_segments_show(pairs):
    pair = pairs('bert')
    X, kinds, valid_lens, real = padded(9, 2)
    theirs = pair.theirs(X, attention_mask=real, token_type_ids=kinds).logits
    with pytest.raises(AssertionError, match='not close'):
        close(pair.ours(X, None, valid_lens)[real], theirs[real])


# ---- Spellings and layouts of published files ----


def rewritten(pair, folder, change):
    """A copy of the checkpoint whose tensors and settings are changed."""
    shutil.copytree(pair.folder, folder)
    tensors = load_file(folder / 'model.safetensors')
    config = json.loads((folder / 'config.json').read_text())
    tensors = change(tensors, config) or tensors
    save_file(
        {name: W.contiguous() for name, W in tensors.items()},
        folder / 'model.safetensors',
    )
    (folder / 'config.json').write_text(json.dumps(config))
    return folder


def equal_models(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[x], b[x]) for x in a)


def old_bert(tensors, config):
    old = {}
    for name, W in tensors.items():
        name = name.replace('LayerNorm.weight', 'LayerNorm.gamma')
        old[name.replace('LayerNorm.bias', 'LayerNorm.beta')] = W
    words = old['bert.embeddings.word_embeddings.weight']
    old['cls.predictions.decoder.weight'] = words.clone()
    old['cls.predictions.decoder.bias'] = old['cls.predictions.bias'].clone()
    old['bert.embeddings.position_ids'] = torch.arange(40)[None]
    config.update(
        gradient_checkpointing=False,
        position_embedding_type='absolute',
        directionality='bidi',
        pooler_type='first_token_transform',
    )
    return old


def old_roberta(tensors, config):
    tensors['roberta.embeddings.position_ids'] = torch.arange(40)[None]
    words = tensors['roberta.embeddings.word_embeddings.weight']
    tensors['lm_head.decoder.weight'] = words.clone()
    tensors['lm_head.decoder.bias'] = tensors['lm_head.bias'].clone()


def old_gpt2(tensors, config):
    old = {name.removeprefix('transformer.'): W for name, W in tensors.items()}
    for i in range(3):
        old[f'h.{i}.attn.bias'] = torch.ones(1, 1, 40, 40).tril()
        old[f'h.{i}.attn.masked_bias'] = torch.tensor(-1e4)
    old['lm_head.weight'] = old['wte.weight'].clone()
    config.update(
        n_ctx=40,
        output_past=True,
        n_inner=None,
        summary_type='cls_index',
        task_specific_params={'text-generation': {'max_length': 50}},
    )
    return old


def old_t5(tensors, config):
    for name in ('encoder', 'decoder'):
        tensors[f'{name}.embed_tokens.weight'] = tensors['shared.weight'] + 0
    at = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias'
    tensors[f'{at}.weight'] = torch.ones(32, 4)
    newer = (
        'tie_word_embeddings scale_decoder_outputs dense_act_fn is_gated_act '
        'num_decoder_layers relative_attention_max_distance'
    )
    for key in newer.split():
        config.pop(key)
    config.update(
        n_positions=512,
        output_past=True,
        task_specific_params={'summarization': {'prefix': 'summarize: '}},
    )


def old_tied_t5(tensors, config):
    old_t5(tensors, config)
    tensors['lm_head.weight'] = tensors['shared.weight'] + 0


def old_v1_1(tensors, config):
    assert 'lm_head.weight' in tensors
    distance = config['relative_attention_max_distance']
    old_t5(tensors, config)
    config.update(
        tie_word_embeddings=False,
        num_decoder_layers=3,
        relative_attention_max_distance=distance,
    )


OLD = [
    ('bert, both heads', old_bert),
    ('roberta', old_roberta),
    ('gpt2', old_gpt2),
    ('t5', old_t5),
    ('t5', old_tied_t5),
    ('t5 v1.1', old_v1_1),
]


@pytest.mark.parametrize(('name', 'change'), OLD)
def test_older_files(pairs, name, change, tmp_path):
    folder = rewritten(pairs(name), tmp_path / 'old', change)
    assert equal_models(load_official(folder), pairs(name).ours)


@pytest.mark.parametrize('name', ['bert', 'roberta', 'gpt2', 'llama', *BOTH])
def test_several_files(pairs, name, tmp_path):
    pair = pairs(name)
    pair.theirs.save_pretrained(tmp_path, max_shard_size='20KB')
    shards = list(tmp_path.glob('model-*-of-*.safetensors'))
    assert len(shards) > 2
    assert equal_models(load_official(tmp_path), pair.ours)


def test_half_precision_becomes_float32(pairs, tmp_path):
    pair = pairs('gpt2')

    def halve(tensors, config):
        return {name: W.bfloat16() for name, W in tensors.items()}

    folder = rewritten(pair, tmp_path / 'half', halve)
    loaded = load_official(folder)
    for name, p in loaded.named_parameters():
        assert p.dtype == torch.float32
        assert torch.equal(p, pair.ours.get_parameter(name).bfloat16().float())


def test_what_is_tied_stays_tied_and_in_memory(pairs, tmp_path):
    for name in ('bert', 'roberta', 'gpt2', 't5', 't5 v1.1, tied'):
        folder = tmp_path / name
        shutil.copytree(pairs(name).folder, folder)
        model = load_official(folder)
        path = folder / 'model.safetensors'
        with open(path, 'r+b') as file:  # in place: no new file
            file.write(bytes(path.stat().st_size))
        head = model.mlm.decoder if 'bert' in name else model.head
        assert head.weight is model.token_embedding.weight
        assert not model.training
        assert all(p.requires_grad for p in model.parameters())
        assert equal_models(model, pairs(name).ours)
    for name in ('gpt2, other settings', 't5 v1.1'):
        free = pairs(name).ours
        assert free.head.weight is not free.token_embedding.weight


def test_a_part_that_the_file_lacks_cannot_be_used(pairs):
    model = pairs('bert').ours
    with pytest.raises(ValueError, match='no weights for pooler'):
        model.nsp(model.pooler(torch.zeros(1, 32)))
    with pytest.raises(ValueError, match='no weights for nsp'):
        pairs('roberta').ours.nsp(torch.zeros(1, 32))
    names = dict(model.named_parameters())
    assert not any(name.startswith(('pooler', 'nsp')) for name in names)


HEADLESS = {
    'bert': transformers.BertModel,
    'roberta': transformers.RobertaModel,
    'gpt2': transformers.GPT2Model,
    'gpt2, other settings': transformers.GPT2Model,
    'llama': transformers.LlamaModel,
    'llama, other settings': transformers.LlamaModel,
}


@pytest.mark.parametrize('name', HEADLESS)
def test_a_file_without_heads(pairs, tmp_path, name):
    _, config, sizes = ORACLES[name]
    torch.manual_seed(9)
    theirs = HEADLESS[name](config(**sizes)).eval()
    theirs.save_pretrained(tmp_path)
    names = {*load_file(tmp_path / 'model.safetensors')}
    assert not any(x.startswith(('bert.', 'model.', 'cls.')) for x in names)
    ours, X = load_official(tmp_path), ids(3, 9)
    output = theirs(X)
    close(ours.encode(X), output.last_hidden_state)
    if 'bert' in name:
        close(ours.pooler(ours.encode(X)[:, 0]), output.pooler_output)
        with pytest.raises(ValueError, match='no weights for nsp'):
            ours.nsp(torch.zeros(1, 32))
    head = 'mlm' if 'bert' in name else 'head'
    with pytest.raises(ValueError, match=f'holds no weights for {head}'):
        ours(X)


def test_a_head_that_should_be_there(pairs, tmp_path):
    def change(tensors, config):
        for name in [name for name in tensors if name.startswith('cls.')]:
            del tensors[name]

    folder = rewritten(pairs('bert'), tmp_path / 'headless', change)
    with pytest.raises(ValueError, match=r"Missing .*\['cls.predictions.dec"):
        load_official(folder)


# ---- What is refused, and what the error says ----


def edited(**settings):
    def change(tensors, config):
        config.update(settings)

    return change


def without(*keys):
    def change(tensors, config):
        for key in keys:
            del config[key]

    return change


def more(name, W):
    return lambda tensors, config: tensors.update({name: W})


def fewer(name):
    def change(tensors, config):
        del tensors[name]

    return change


def linear_layout(tensors, config):
    for name, W in tensors.items():
        if '.h.' in name and W.dim() == 2:
            tensors[name] = W.T


def doubled(tensors, config):
    return {name: W.double() for name, W in tensors.items()}


def spoiled(value):
    """One entry of the embedding is `value`."""

    def change(tensors, config):
        for W in tensors.values():
            if len(W) == VOCAB and W.dim() == 2:
                W[1, 2] = value

    return change


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        ('bert', edited(model_type='mamba'), "model_type is 'mamba', not 'be"),
        ('bert', without('model_type'), "model_type is ''"),
        (
            'bert',
            edited(architectures=['BertForTokenClassification']),
            r"\['BertForTokenClassification'\].*BertForMaskedLM or",
        ),
        ('gpt2', edited(model_type='bert'), 'has other heads than BertFor'),
        ('bert', edited(hidden_act='silu'), "hidden_act is 'silu', not 'relu"),
        ('roberta', edited(hidden_act='relu'), "hidden_act is 'relu', not 'g"),
        (
            'bert',
            edited(position_embedding_type='relative_key'),
            "position_embedding_type is 'relative_key', not 'absolute'",
        ),
        ('bert', edited(tie_word_embeddings=False), 'is False, not True'),
        ('bert', edited(is_decoder=True), 'is_decoder is True, not False'),
        ('bert', edited(hidden_size='32'), "hidden_size is '32', not a whole"),
        ('bert', edited(num_hidden_layers=0), 'num_hidden_layers is 0, not'),
        ('bert', edited(num_attention_heads=5), '32, not a multiple of .* 5'),
        ('bert', without('vocab_size'), 'does not say vocab_size'),
        ('bert', edited(layer_norm_eps='small'), "layer_norm_eps is 'small'"),
        ('bert', edited(hidden_dropout_prob=1.5), r'1.5, not a number in \[0'),
        (
            'bert',
            edited(hidden_dropout_prob=0.2),
            "'hidden_dropout_prob': 0.2, .* should be equal",
        ),
        (
            'bert',
            edited(rope_theta=1e4, num_experts=8),
            "unknown meaning: {'rope_theta': 10000.0, 'num_experts': 8}",
        ),
        ('roberta', edited(pad_token_id=0), 'pad_token_id is 0, not 1'),
        (
            'roberta',
            edited(max_position_embeddings=2),
            'no position left beside padding',
        ),
        (
            'gpt2',
            edited(scale_attn_by_inverse_layer_idx=True),
            'scale_attn_by_inverse_layer_idx is True, not False',
        ),
        ('t5', edited(num_decoder_layers=2), 'decoder_layers is 2, not 3'),
        (
            't5',
            edited(feed_forward_proj='gated-silu'),
            "feed_forward_proj is 'gated-silu', not 'relu' or 'gated-gelu'",
        ),
        ('t5', edited(dense_act_fn='gelu'), "act_fn is 'gelu', not 'relu'"),
        ('t5', edited(is_gated_act=True), 'is_gated_act is True, not False'),
        (
            't5',
            edited(decoder_start_token_id=1),
            'decoder_start_token_id is 1, not 0',
        ),
        (
            'gpt2, other settings',
            fewer('lm_head.weight'),
            r"Missing in the file: \['lm_head.weight'\]",
        ),
        (
            't5',
            edited(relative_attention_num_buckets=2),
            'num_buckets is 2, below 4',
        ),
        (
            't5',
            more('lm_head.weight', torch.ones(VOCAB, 32)),
            'are tied, but not equal',
        ),
        (
            't5',
            more(
                'encoder.block.0.layer.1.DenseReluDense.wi_0.weight',
                torch.ones(48, 32),
            ),
            r'Missing .*: \[\]\. Without .*: .*DenseReluDense.wi_0',
        ),
        (
            't5',
            edited(d_kv=7),
            r'W_qkv.weight of shape \(84, 32\) is made of \[\(28, 32\), '
            r'\(28, 32\), \(28, 32\)\] in the file, not of \[\(24, 32\), ',
        ),
        ('gpt2', edited(scale_attn_weights=1), 'is 1, not True or False'),
        ('gpt2', edited(n_layer=4), r"Missing in the file: \['h.3.attn"),
        (
            'gpt2',
            edited(n_layer=2),
            r"in the file: \[\]\. Without a place .*: \['transformer.h.2.attn",
        ),
        (
            'gpt2',
            edited(n_positions=41),
            r'pos_embedding.weight of shape \(41, 32\) .*\[\(40, 32\)\]',
        ),
        (
            'gpt2',
            linear_layout,
            r'W_qkv.weight of shape \(96, 32\) is made of \[\(32, 96\)\] '
            r'in the file, transposed, not of \[\(96, 32\)\]',
        ),
        (
            'roberta',
            edited(max_position_embeddings=41),
            r'\(39, 32\) is made of \[\(41, 32\)\] in the file, not',
        ),
        (
            'bert',
            doubled,
            r'is torch.float64, not torch.float32, torch.float16 or torch.bf',
        ),
        ('bert', spoiled(torch.nan), 'embeddings.weight holds nan or infin'),
        ('gpt2', spoiled(-torch.inf), 'wte.weight holds nan or infinite'),
        ('t5', spoiled(torch.inf), 'shared.weight holds nan or infinite'),
        (
            'gpt2',
            more(
                'transformer.h.0.attn.bias',
                torch.ones(1, 1, 40, 40).tril() * torch.nan,
            ),
            'attn.bias is not the usual constant',
        ),
        (
            'gpt2',
            more('transformer.h.0.attn.bias', torch.ones(0, 1, 40, 40)),
            'attn.bias is not the usual constant',
        ),
        (
            'gpt2',
            more('transformer.h.0.attn.masked_bias', torch.ones(0)),
            'masked_bias is not the usual constant',
        ),
        (
            'gpt2',
            more('transformer.h.0.attn.bias', torch.ones(1, 1, 9, 9)),
            'attn.bias is not the usual constant',
        ),
        (
            'bert',
            more('bert.embeddings.position_ids', torch.arange(40) + 1),
            'position_ids is not the usual constant',
        ),
        (
            'bert',
            more('cls.predictions.decoder.weight', torch.ones(VOCAB, 32)),
            'cls.predictions.decoder.weight are tied, but not equal',
        ),
        (
            'bert',
            more('bert.pooler.dense.weight', torch.ones(32, 32)),
            r"in the file: \['bert.pooler.dense.bias'\]\. Without .*: \[\]",
        ),
        (
            'bert',
            more('cls.predictions.bias', torch.ones(VOCAB, dtype=torch.int8)),
            'cls.predictions.bias is torch.int8, not torch.float32',
        ),
        (
            'bert',
            more(
                'bert.encoder.layer.0.attention.self.key.bias', torch.ones(31)
            ),
            r'W_qkv.bias of shape \(96,\) .*\[\(32,\), \(31,\), \(32,\)\]',
        ),
    ],
)
def test_what_does_not_fit(pairs, tmp_path, name, change, message):
    folder = rewritten(pairs(name), tmp_path / 'changed', change)
    with pytest.raises(ValueError, match=message):
        load_official(folder)


def test_both_lists_name_every_tensor(pairs, tmp_path):
    def swap(tensors, config):
        for i in range(3):
            layer = f'bert.encoder.layer.{i}.output.dense'
            tensors[f'{layer}.kernel'] = tensors.pop(f'{layer}.weight')

    folder = rewritten(pairs('bert'), tmp_path / 'swapped', swap)
    with pytest.raises(ValueError, match='do not fit the model') as error:
        load_official(folder)
    missing, unused = str(error.value).split('Without a place')
    for i in range(3):
        assert f'layer.{i}.output.dense.weight' in missing
        assert f'layer.{i}.output.dense.kernel' in unused


@pytest.mark.parametrize('sharded', [False, True])
def test_a_file_that_was_cut_off(pairs, tmp_path, sharded):
    if sharded:
        pairs('bert').theirs.save_pretrained(tmp_path, max_shard_size='20KB')
    else:
        shutil.copytree(pairs('bert').folder, tmp_path, dirs_exist_ok=True)
    path = sorted(tmp_path.glob('*.safetensors'))[-1]
    data = path.read_bytes()

    @settings(deadline=None, max_examples=30, derandomize=True)
    @given(size=st.integers(0, len(data) - 1))
    def check(size):
        path.write_bytes(data[:size])
        message = f'{path.name} is damaged or was cut off'
        with pytest.raises(ValueError, match=message):
            load_official(tmp_path)

    check()


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'config.json is missing'),
        ('{"model_type": "bert"', 'config.json is damaged'),
        ('[1]', 'config.json holds list, not an object'),
        (b'\xff\xfe', 'config.json is damaged'),
    ],
)
def test_a_damaged_config(pairs, tmp_path, text, message):
    folder = tmp_path / 'model'
    shutil.copytree(pairs('bert').folder, folder)
    (folder / 'config.json').unlink()
    if text is not None:
        data = text if isinstance(text, bytes) else text.encode()
        (folder / 'config.json').write_bytes(data)
    with pytest.raises(ValueError, match=message):
        load_official(folder)


def test_files_that_are_missing(pairs, tmp_path):
    pairs('bert').theirs.save_pretrained(tmp_path, max_shard_size='20KB')
    index = tmp_path / 'model.safetensors.index.json'
    text = index.read_text()
    shard = sorted(tmp_path.glob('*.safetensors'))[1]
    data = shard.read_bytes()
    shard.unlink()
    with pytest.raises(ValueError, match=rf"lacks \['{shard.name}'\].*again"):
        load_official(tmp_path)
    shard.write_bytes(data)
    for content, message in (
        (text.replace(shard.name, f'../{shard.name}'), 'out of the folder'),
        ('{}', 'no weight_map'),
        (text[:-20], 'index.json is damaged'),
    ):
        index.write_text(content)
        with pytest.raises(ValueError, match=message):
            load_official(tmp_path)
    index.write_text(text)
    twice = json.loads(text)
    twice['weight_map']['x'] = 'twice.safetensors'
    index.write_text(json.dumps(twice))
    shutil.copy(shard, tmp_path / 'twice.safetensors')
    with pytest.raises(ValueError, match=r'twice.safetensors: .* in two fil'):
        load_official(tmp_path)
    index.unlink()
    with pytest.raises(ValueError, match=r'no other format is read'):
        load_official(tmp_path)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ('it was unpickled',)


def test_a_pickle_is_never_opened(pairs, tmp_path):
    shutil.copytree(pairs('bert').folder, tmp_path, dirs_exist_ok=True)
    torch.save({'x': Bomb()}, tmp_path / 'pytorch_model.bin')
    load_official(tmp_path)
    (tmp_path / 'model.safetensors').unlink()
    with pytest.raises(ValueError, match=r"\['pytorch_model.bin'\] can run"):
        load_official(tmp_path)
    torch.save({'x': Bomb()}, tmp_path / 'model.safetensors')
    with pytest.raises(ValueError, match='safetensors is damaged'):
        load_official(tmp_path)


@pytest.mark.parametrize('name', ['/no/such/folder', 'a/b/c', '../x', 'a b'])
def test_what_is_no_name(name):
    with pytest.raises(ValueError, match=f"'{name}' is neither a folder nor"):
        official_folder(name)


# ---- The hub, its cache, and what is at hand ----

COMMIT = 'a' * 40


class Hub(BaseHTTPRequestHandler):
    """Just enough of the hub to download from; 'cut/...' breaks off."""

    folder = None

    def do_HEAD(self):
        self.do_GET(False)

    def do_GET(self, send_body=True):
        name = self.path.split('/')[-1]
        files = {path.name: path for path in self.folder.iterdir()}
        headers, status = {}, 200
        if '/missing/' in self.path:
            data, status = b'{}', 404
            headers['X-Error-Code'] = 'RepoNotFound'
        elif '/tree/' in self.path:
            tree = [
                {'path': name, 'size': path.stat().st_size}
                | {'type': 'file', 'oid': COMMIT}
                for name, path in files.items()
            ]
            data = json.dumps(tree).encode()
        elif self.path.startswith('/api/models/'):
            siblings = [{'rfilename': name} for name in files]
            data = json.dumps(
                {'id': 'x/y', 'sha': COMMIT, 'siblings': siblings}
            ).encode()
        else:
            data = files[name].read_bytes()
            headers = {'ETag': f'"{name}"', 'X-Repo-Commit': COMMIT}
        self.send_response(status)
        for key, value in {**headers, 'Content-Length': len(data)}.items():
            self.send_header(key, value)
        self.end_headers()
        if '/cut/' in self.path and name.endswith('.safetensors'):
            data = data[: len(data) // 2]
        if send_body:
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(pairs, tmp_path, monkeypatch):
    folder = tmp_path / 'files'
    shutil.copytree(pairs('gpt2').folder, folder)
    (folder / 'pytorch_model.bin').write_bytes(b'no')
    handler = type('Handler', (Hub,), {'folder': folder})
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{server.server_port}'
    template = url + '/{repo_id}/resolve/{revision}/{filename}'
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, 'ENDPOINT', url)
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr('time.sleep', lambda seconds: None)  # between retries
    yield server
    with contextlib.suppress(OSError):
        server.shutdown()
        server.server_close()


def test_from_the_hub_once_and_then_from_its_cache(hub, pairs, capsys):
    name = 'some/model'
    with pytest.raises(FileNotFoundError, match="'some/model' is neither a f"):
        load_official(name, download=False)
    assert published.at_hand('CHAPTER_X', name) is None
    assert capsys.readouterr().out == (
        'some/model is not at hand: set CHAPTER_X to its folder, or '
        'download = True\n'
    )
    model = load_official(name)
    assert equal_models(model, pairs('gpt2').ours)
    folder = published.at_hand('CHAPTER_X', name)
    assert not (folder / 'pytorch_model.bin').exists()
    hub.shutdown()
    hub.server_close()
    for download in (False, True):  # without a network
        model = load_official(name, download=download)
        assert equal_models(model, pairs('gpt2').ours)
    with pytest.raises(OSError, match="'other/model' is no folder here and w"):
        load_official('other/model')


def test_a_download_that_breaks_off(hub, tmp_path):
    with pytest.raises(OSError, match=r"'cut/model' is no .* downloaded: "):
        load_official('cut/model')
    assert published.at_hand('CHAPTER_X', 'cut/model') is None
    cache = tmp_path / 'cache'
    assert not list(cache.rglob('snapshots/*/*.safetensors'))


def test_a_name_that_the_hub_does_not_know(hub):
    with pytest.raises(OSError, match=r"'missing/model' .*404"):
        load_official('missing/model')


def test_huggingface_hub_is_optional(monkeypatch, capsys, pairs):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ImportError, match='pip install huggingface_hub'):
        load_official('some/model')
    assert published.at_hand('CHAPTER_X', 'some/model', download=True) is None
    assert 'not at hand' in capsys.readouterr().out
    load_official(pairs('bert').folder)


def test_the_environment_variable_comes_first(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv('CHAPTER_X', str(tmp_path))
    assert published.at_hand('CHAPTER_X', 'some/model') == tmp_path
    assert capsys.readouterr().out == ''
    monkeypatch.setenv('CHAPTER_X', str(tmp_path / 'gone'))
    with pytest.raises(ValueError, match=r'gone.* is neither a folder nor'):
        published.at_hand('CHAPTER_X', 'some/model')


# ---- Tokenizers ----

TEXTS = [
    'I love this red car, and so does Zoë.',
    'The quick brown fox jumps over the lazy dog!',
    'Return a new array with the specified shape.',
    'naïve cafés in São Paulo, 東京 and Αθήνα',
]
TRY = [*TEXTS, 'I love CAFÉ 東京!', ' two  spaces\n', 'x\u00a0y 😀', '']


def train_word_pieces():
    tokenizer = Tokenizer(models.WordPiece(unk_token='[UNK]'))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCAB * 2, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single='[CLS] $A [SEP]',
        pair='[CLS] $A [SEP] $B:1 [SEP]:1',
        special_tokens=[('[CLS]', 2), ('[SEP]', 3)],
    )
    return tokenizer


def train_byte_pairs(special=('<|endoftext|>',)):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(special),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def train_unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ['<pad>', '</s>', '<unk>', '<extra_id_1>', '<extra_id_0>']
    trainer = trainers.UnigramTrainer(
        vocab_size=120,
        special_tokens=special,
        unk_token='<unk>',
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single='$A </s>', special_tokens=[('</s>', 1)]
    )
    return tokenizer


@pytest.mark.parametrize(
    'train', [train_word_pieces, train_byte_pairs, train_unigram]
)
def test_tokenizer_from_its_file(train, tmp_path):
    trained = train()
    padding = Tokenizer.from_str(trained.to_str())
    padding.enable_padding(length=50)
    padding.enable_truncation(4)
    padding.save(str(tmp_path / 'tokenizer.json'))
    tokenizer = published.load_tokenizer(tmp_path)
    auto = transformers.PreTrainedTokenizerFast(tokenizer_object=trained)
    for text in TRY:
        ids = tokenizer.encode(text).ids
        assert ids == trained.encode(text).ids == auto(text)['input_ids']
        assert tokenizer.decode(ids) == auto.decode(
            ids, skip_special_tokens=True
        )
    assert len(tokenizer.encode(TEXTS[0]).ids) > 10


def test_marks_of_each_kind(tmp_path):
    for train, text, tokens in (
        (train_word_pieces, 'I [MASK] car', '[CLS] i [MASK] car [SEP]'),
        (train_byte_pairs, 'a<|endoftext|>', 'a <|endoftext|>'),
        (train_unigram, 'a <extra_id_0>', '▁a ▁ <extra_id_0> </s>'),
    ):
        train().save(str(tmp_path / 'tokenizer.json'))
        found = published.load_tokenizer(tmp_path).encode(text).tokens
        assert found == tokens.split()


def test_word_pieces_from_a_vocabulary(tmp_path):
    vocab = train_word_pieces().get_vocab()
    words = '\n'.join(sorted(vocab, key=vocab.get))
    (tmp_path / 'vocab.txt').write_text(words, encoding='utf-8')
    for lowercase in (True, False):
        settings = {'do_lower_case': lowercase}
        (tmp_path / 'tokenizer_config.json').write_text(json.dumps(settings))
        ours = published.load_tokenizer(tmp_path)
        theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
        for text in (*TRY, 'I [MASK] this [SEP]', 'Zoe ZOË zoë'):
            encoding = ours.encode(text, 'a red car')
            other = theirs(text, 'a red car')
            assert encoding.ids == other['input_ids']
            assert encoding.type_ids == other['token_type_ids']
    assert ours.encode('Car').ids != ours.encode('car').ids


@pytest.mark.parametrize(
    ('special', 'kind'),
    [
        (['<|endoftext|>'], transformers.GPT2Tokenizer),
        (
            ['<s>', '<pad>', '</s>', '<unk>', '<mask>'],
            transformers.RobertaTokenizer,
        ),
    ],
)
def test_byte_pairs_from_a_vocabulary(tmp_path, special, kind):
    train_byte_pairs(special).model.save(str(tmp_path))
    ours = published.load_tokenizer(tmp_path)
    options = {}
    if '<mask>' in special:  # as in the published tokenizer.json
        options['mask_token'] = AddedToken('<mask>', lstrip=True)
    theirs = kind.from_pretrained(tmp_path, **options)
    for text in (*TRY, f'I {special[-1]} this {special[0]}car'):
        assert ours.encode(text).ids == theirs(text)['input_ids']
    assert ours.decode(ours.encode(TEXTS[3]).ids) == TEXTS[3]


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        ({}, 'vocab.txt, vocab.json with merges.txt, or GGUF file'),
        ({'vocab.json': '{}'}, 'no tokenizer.json, vocab.txt, vocab'),
        ({'tokenizer.json': '{"version": '}, 'no tokenizer: '),
        ({'vocab.txt': '[CLS]'}, 'tokenizer_config.json is missing'),
    ],
)
def test_tokenizer_errors(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        published.load_tokenizer(tmp_path)


# ---- The published sizes ----

PUBLISHED_BERT = json.loads("""{
    "architectures": ["BertForMaskedLM"], "model_type": "bert",
    "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": false,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
    "initializer_range": 0.02, "intermediate_size": 3072,
    "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
    "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0,
    "position_embedding_type": "absolute", "type_vocab_size": 2,
    "transformers_version": "4.6.0.dev0", "use_cache": true,
    "vocab_size": 30522
}""")
LARGE = {
    'hidden_size': 1024,
    'intermediate_size': 4096,
    'num_attention_heads': 16,
    'num_hidden_layers': 24,
}
POOLER = {
    'directionality': 'bidi',
    'pooler_fc_size': 768,
    'pooler_num_fc_layers': 3,
    'pooler_num_attention_heads': 12,
    'pooler_size_per_head': 128,
    'pooler_type': 'first_token_transform',
}
PUBLISHED_ROBERTA = json.loads("""{
    "architectures": ["RobertaForMaskedLM"], "model_type": "roberta",
    "attention_probs_dropout_prob": 0.1, "bos_token_id": 0, "eos_token_id": 2,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
    "initializer_range": 0.02, "intermediate_size": 3072,
    "layer_norm_eps": 1e-05, "max_position_embeddings": 514,
    "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1,
    "type_vocab_size": 1, "vocab_size": 50265
}""")
PUBLISHED_GPT2 = json.loads("""{
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2",
    "activation_function": "gelu_new", "attn_pdrop": 0.1, "embd_pdrop": 0.1,
    "bos_token_id": 50256, "eos_token_id": 50256, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "n_ctx": 1024, "n_embd": 768, "n_head": 12,
    "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1,
    "summary_activation": null, "summary_first_dropout": 0.1,
    "summary_proj_to_labels": true, "summary_type": "cls_index",
    "summary_use_proj": true, "vocab_size": 50257,
    "task_specific_params": {"text-generation": {"max_length": 50}}
}""")
PUBLISHED_T5 = json.loads("""{
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5",
    "d_ff": 2048, "d_kv": 64, "d_model": 512, "decoder_start_token_id": 0,
    "dropout_rate": 0.1, "eos_token_id": 1, "initializer_factor": 1.0,
    "is_encoder_decoder": true, "layer_norm_epsilon": 1e-06,
    "n_positions": 512, "num_heads": 8, "num_layers": 6, "output_past": true,
    "pad_token_id": 0, "relative_attention_num_buckets": 32,
    "task_specific_params": {"summarization": {"prefix": "summarize: "}},
    "vocab_size": 32128
}""")
PUBLISHED_LLAMA = json.loads("""{
    "architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "attention_bias": false, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
    "intermediate_size": 11008, "max_position_embeddings": 4096,
    "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 32, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": null, "rope_theta": 10000.0, "torch_dtype": "float16",
    "tie_word_embeddings": false, "use_cache": true, "vocab_size": 32000
}""")
NSP = 'pooler', 'nsp'


def llama_size(hidden_size, wide, num_heads, num_kv_heads, num_layers):
    return PUBLISHED_LLAMA | {
        'hidden_size': hidden_size,
        'intermediate_size': wide,
        'num_attention_heads': num_heads,
        'num_key_value_heads': num_kv_heads,
        'num_hidden_layers': num_layers,
    }


def smollm2_size(*sizes, rope_theta=100000):
    return llama_size(*sizes) | {
        'bos_token_id': 0,
        'eos_token_id': 0,
        'initializer_range': 0.041666666666666664,
        'is_llama_config': True,
        'max_position_embeddings': 8192,
        'rope_interleaved': False,
        'rope_theta': rope_theta,
        'tie_word_embeddings': True,
        'vocab_size': 49152,
    }


def gpt2_size(n_embd, n_head, n_layer):
    sizes = {'n_embd': n_embd, 'n_head': n_head, 'n_layer': n_layer}
    return PUBLISHED_GPT2 | sizes | {'output_past': True}


def t5_size(d_model, d_ff, num_heads, num_layers, d_kv=64):
    return PUBLISHED_T5 | {
        'd_model': d_model,
        'd_ff': d_ff,
        'd_kv': d_kv,
        'num_heads': num_heads,
        'num_layers': num_layers,
    }


def v1_1_size(d_model, d_ff, num_heads, num_layers):
    return t5_size(d_model, d_ff, num_heads, num_layers) | {
        'feed_forward_proj': 'gated-gelu',
        'num_decoder_layers': num_layers,
        'tie_word_embeddings': False,
        'use_cache': True,
    }


# settings, parts that the published file lacks, its parameters
PUBLISHED = {
    'bert-base-uncased': (PUBLISHED_BERT, (), 110_106_428),
    'bert-base-cased': (
        {**PUBLISHED_BERT, 'vocab_size': 28996},
        (),
        108_932_934,
    ),
    'bert-large-uncased': ({**PUBLISHED_BERT, **LARGE}, (), 336_226_108),
    'bert-large-cased': (
        {**PUBLISHED_BERT, **LARGE, **POOLER, 'vocab_size': 28996},
        (),
        334_661_958,
    ),
    'roberta-base': (PUBLISHED_ROBERTA, NSP, 124_697_433),
    'roberta-large': ({**PUBLISHED_ROBERTA, **LARGE}, NSP, 355_412_057),
    'gpt2': (PUBLISHED_GPT2, (), 124_439_808),
    'gpt2-medium': (gpt2_size(1024, 16, 24), (), 354_823_168),
    'gpt2-large': (gpt2_size(1280, 20, 36), (), 774_030_080),
    'gpt2-xl': (gpt2_size(1600, 25, 48), (), 1_557_611_200),
    't5-small': (PUBLISHED_T5, (), 60_506_624),
    't5-base': (t5_size(768, 3072, 12, 12), (), 222_903_552),
    't5-large': (t5_size(1024, 4096, 16, 24), (), 737_668_096),
    't5-3b': (t5_size(1024, 16384, 32, 24, 128), (), 2_851_598_336),
    't5-11b': (t5_size(1024, 65536, 128, 24, 128), (), 11_307_321_344),
    't5-v1_1-small': (v1_1_size(512, 1024, 6, 8), (), 76_961_152),
    't5-v1_1-base': (v1_1_size(768, 2048, 12, 12), (), 247_577_856),
    't5-v1_1-large': (v1_1_size(1024, 2816, 16, 24), (), 783_150_080),
    't5-v1_1-xl': (v1_1_size(2048, 5120, 32, 24), (), 2_849_757_184),
    't5-v1_1-xxl': (v1_1_size(4096, 10240, 64, 24), (), 11_135_332_352),
    'smollm2-135m': (smollm2_size(576, 1536, 9, 3, 30), (), 134_515_008),
    'smollm2-360m': (smollm2_size(960, 2560, 15, 5, 32), (), 361_821_120),
    'smollm2-1.7b': (
        smollm2_size(2048, 8192, 32, 32, 24, rope_theta=130000),
        (),
        1_711_376_384,
    ),
    'tinyllama-1.1b': (
        llama_size(2048, 5632, 32, 4, 22) | {'max_position_embeddings': 2048},
        (),
        1_100_048_384,
    ),
    'llama2-7b': (PUBLISHED_LLAMA, (), 6_738_415_616),
    'llama3-8b': (
        llama_size(4096, 14336, 32, 8, 32)
        | {'vocab_size': 128256, 'rope_theta': 500000.0}
        | {'max_position_embeddings': 8192},
        (),
        8_030_261_248,
    ),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_settings_and_parameters(tmp_path, name):
    settings, lacking, expected = PUBLISHED[name]
    (tmp_path / 'config.json').write_text(json.dumps(settings))
    family, config, _ = read_config(tmp_path)
    with torch.device('meta'):
        ours = family.model(config)
    count = sum(
        p.numel()
        for part, p in ours.named_parameters()
        if not part.startswith(lacking)
    )
    if settings['model_type'] == 'roberta':
        count += 2 * config.num_hiddens  # the rows that nothing looks up
    assert count == expected
    kind = transformers.AutoConfig.for_model(**settings)
    oracle = {
        'bert': transformers.BertForPreTraining,
        'roberta': transformers.RobertaForMaskedLM,
        'gpt2': transformers.GPT2LMHeadModel,
        't5': transformers.T5ForConditionalGeneration,
        'llama': transformers.LlamaForCausalLM,
    }[settings['model_type']]
    with torch.device('meta'):
        theirs = oracle(kind)
    count = theirs.num_parameters()
    if settings['model_type'] == 't5' and not config.tie_weights:
        count += theirs.lm_head.weight.numel()  # tied, but published apart
    assert count == expected


def test_the_readme_lists_the_parameters():
    readme = (CHAPTER.parent / 'README.md').read_text(encoding='utf-8')
    for _, _, expected in PUBLISHED.values():
        assert f'{expected:,}' in readme


@pytest.mark.parametrize(
    'name', [name for name in SHAPES if not name.startswith('albert')]
)
def test_shape_is_that_of_the_published_file(tmp_path, name):
    file = f'{name}-uncased' if name.startswith('bert') else name
    settings, _, expected = PUBLISHED[file]
    (tmp_path / 'config.json').write_text(json.dumps(settings))
    family, config, _ = read_config(tmp_path)
    assert published_config(name) == config
    with torch.device('meta'):
        model = family.model(published_config(name))
    assert sum(p.numel() for p in model.parameters()) == expected


def test_changes_of_a_shape():
    config = published_config('gpt2', num_hiddens=24, num_heads=2, dropout=0.0)
    assert config == utils.Config(
        50257, 24, 2, 12, 1024, activation='gelu_tanh'
    )
    assert config.ffn_num_hiddens == 96  # follows, but keeps its own:
    config = published_config('t5-11b', num_hiddens=24)
    assert (config.ffn_num_hiddens, config.head_width) == (65536, 128)
    assert published_config('t5-11b').num_hiddens == 1024


def test_errors_of_a_shape():
    with pytest.raises(
        ValueError, match=r"'bert-small', not one of .*'bert-b"
    ):
        published_config('bert-small')
    with pytest.raises(ValueError, match='vocab_size is 0, below 1'):
        published_config('bert-base', vocab_size=0)
    with pytest.raises(TypeError, match='num_layers'):
        published_config('bert-base', num_layers=3)


def test_importing_published_is_light():
    code = 'import sys, published; print(*sys.modules)'
    folders = [str(CHAPTER), str(CHAPTER.parent)]
    loaded = subprocess.run(
        [sys.executable, '-c', code],
        env=os.environ | {'PYTHONPATH': os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert 'published.families' in loaded
    heavy = {'d2l', 'matplotlib', 'transformers', 'figures', 'corpora'}
    assert not heavy & {*loaded}


@pytest.mark.parametrize('kind', ['Bert', 'Roberta', 'GPT2', 'T5', 'Llama'])
def test_all_that_transformers_writes_is_known(tmp_path, kind):
    config = getattr(transformers, f'{kind}Config')()
    values = {**config.to_dict(), 'architectures': None}
    if kind == 'Roberta':
        values['type_vocab_size'] = 1
    (tmp_path / 'config.json').write_text(json.dumps(values))
    read_config(tmp_path)


# ---- The last section of the notebooks ----

HEADING = '## The Published Model'


def section(name, heading=HEADING):
    """The code of the section on the published model, or of another."""
    cells = iter(nbformat.read(CHAPTER / f'{name}.ipynb', 4).cells)
    next(cell for cell in cells if f'\n{heading}\n' in f'\n{cell.source}\n')
    code = itertools.takewhile(
        lambda cell: not re.search('^## ', cell.source, re.M), cells
    )
    return [cell.source for cell in code if cell.cell_type == 'code']


def run_section(name):
    """Run it as the notebook would, without what comes before it."""
    namespace = vars(utils) | vars(figures) | vars(published)
    exec('import torch', namespace)
    exec('from torch.nn import functional as F', namespace)
    for source in section(name):
        exec(source, namespace)
    return namespace


SECTIONS = {
    't5': (
        'CHAPTER_T5',
        'google-t5/t5-small',
        transformers.T5ForConditionalGeneration,
        transformers.T5Config,
        {**T5, 'vocab_size': 128},
        train_unigram,
    ),
}
EXPECTED = {
    't5': (
        'translate English to French: I love this red car.\n    ',
        'Cross-attention of the two heads of the published model',
    ),
}
WRITTEN = [
    path.stem
    for path in sorted(CHAPTER.glob('*.ipynb'))
    if path.stem in SECTIONS and HEADING in path.read_text(encoding='utf-8')
]


def test_there_is_a_section():
    assert WRITTEN == ['t5']


@pytest.mark.parametrize('name', WRITTEN)
def test_the_section_without_a_checkpoint(name, hub, monkeypatch, capsys):
    variable, checkpoint = SECTIONS[name][:2]
    monkeypatch.delenv(variable, raising=False)
    run_section(name)
    assert capsys.readouterr().out == (
        f'{checkpoint} is not at hand: set {variable} to its folder, or '
        'download = True\n'
    )


@pytest.mark.parametrize('name', WRITTEN)
def test_the_section_with_a_small_checkpoint(
    name, monkeypatch, capsys, tmp_path
):
    variable, _, model, config, sizes, train = SECTIONS[name]
    torch.manual_seed(0)
    special = {'bos_token_id': 0, 'eos_token_id': 0}
    model(config(**sizes, **special)).save_pretrained(tmp_path)
    train().save(str(tmp_path / 'tokenizer.json'))
    monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv('CHAPTER_CLAIMS', 'raise')
    run_section(name)
    out = capsys.readouterr().out
    num_params = load_official(tmp_path).parameters()
    assert f'{sum(p.numel() for p in num_params):,} parameters' in out
    for text in EXPECTED[name]:
        assert text in out


def test_the_sections_of_bert_without_their_packages(
    monkeypatch, capsys, tmp_path
):
    """One line for the model and one for the reviews; the record is read."""
    monkeypatch.delenv('CHAPTER_MINILM', raising=False)
    monkeypatch.setattr(published.packages, 'find_file', lambda *args: None)
    monkeypatch.setattr(corpora.storage, 'DATA', tmp_path)
    monkeypatch.setenv('CHAPTER_CLAIMS', 'raise')
    monkeypatch.chdir(CHAPTER)
    namespace = vars(utils) | vars(figures) | vars(published)
    namespace |= vars(finetuning) | {'nn': torch.nn, 'corpora': corpora}
    exec('import torch', namespace)
    headings = [HEADING, '## Word Pieces', '## One Word, Two Senses']
    headings += ['## Sentences That Mean the Same', '## Real Reviews']
    for source in [x for h in headings for x in section('bert_published', h)]:
        exec(source, namespace)
    lines = capsys.readouterr().out.split('\n')
    assert lines[0].startswith('minilm is not at hand: pip install')
    assert lines[1].startswith('vaderSentiment-0.5.zip is not in the data')
    claims = [line for line in lines if line.startswith('✓')]
    assert claims and all('recorded: ' in line for line in claims)
    assert '✗' not in ''.join(lines)
