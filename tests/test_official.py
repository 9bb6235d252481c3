"""Published checkpoints give what the library gives that they were made for.

The oracle is `transformers`, on small models with random weights that go
through a checkpoint on disk. Everything is drawn at random, biases, norms and
the embedding of padding included, so that nothing can be mixed up unnoticed.
"""

import contextlib
import dataclasses
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import torch
import transformers
import utils
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from utils.checkpoint import official_folder
from utils.official import load_official

transformers.utils.logging.disable_progress_bar()
VOCAB = 67
BERT = {
    'vocab_size': VOCAB, 'hidden_size': 32, 'num_hidden_layers': 3,
    'num_attention_heads': 4, 'intermediate_size': 48,
    'max_position_embeddings': 40,
}  # fmt: skip
GPT2 = {
    'vocab_size': VOCAB, 'n_embd': 32, 'n_layer': 3, 'n_head': 4,
    'n_positions': 40,
}  # fmt: skip
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
        {**BERT, 'hidden_act': 'gelu_new', 'layer_norm_eps': 1e-3,
         'tie_word_embeddings': False, 'type_vocab_size': 3},
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
        {**GPT2, 'n_inner': 48, 'activation_function': 'relu',
         'layer_norm_epsilon': 1e-2, 'tie_word_embeddings': False,
         'scale_attn_weights': False},
    ),
}  # fmt: skip
ENCODERS = [name for name in ORACLES if 'bert' in name]
DECODERS = [name for name in ORACLES if 'gpt2' in name]


class Pair:
    """One model twice: by transformers and by `load_official`."""

    def __init__(self, name, folder):
        model, config, settings = ORACLES[name]
        torch.manual_seed(len(name))
        self.name, self.folder = name, folder
        self.theirs = model(config(**settings, attn_implementation='eager'))
        self.theirs.eval()
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
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


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
        X, attention_mask=real, token_type_ids=kinds,
        output_hidden_states=True, output_attentions=True,
    )  # fmt: skip
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


# ---- The decoder: GPT-2 ----


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
    assert len(theirs[:, 6:].unique()) > 3
    stop = theirs[0, 9].item()  # the first text ends early, all at the end
    options = {**options, 'pad_token_id': stop, 'eos_token_id': stop}
    theirs = pair.theirs.generate(X, attention_mask=mask, **options)
    ours = utils.generate(pair.ours, X, 25, temperature=0, stop=stop)
    assert torch.equal(ours, theirs)
    assert (theirs[0, 10:] == stop).all()


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


# ---- Negative controls: what the tests above would catch ----


def broken(pair, change):
    """The pair with a model of ours that `change` has spoiled."""
    copy = object.__new__(Pair)
    copy.name, copy.theirs = pair.name, pair.theirs
    copy.ours = load_official(pair.folder)
    with torch.no_grad():
        change(copy.ours)
    return copy


def wrong_scale(model):
    for blk in model.blks:
        blk.attention.config = dataclasses.replace(model.config, scale=0.2)


def wrong_norm(model):
    for blk in model.blks:
        blk.pre_norm = not blk.pre_norm


def wrong_activation(model):
    for blk in model.blks:
        blk.ffn[1] = torch.nn.SiLU()


def wrong_epsilon(model):
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-1


def wrong_positions(model):
    table = model.pos_embedding.weight
    table.copy_(table.roll(1, 0))


def wrong_order(model):
    W = model.blks[0].attention.W_qkv.weight
    W.copy_(torch.cat(W.chunk(3)[::-1]))


def wrong_layout(model):
    W = model.blks[0].attention.W_o.weight
    W.copy_(W.T.clone())


def untied(model):
    head = model.head if hasattr(model, 'head') else model.mlm.decoder
    head.weight = torch.nn.Parameter(torch.randn_like(head.weight))


WRONG = [
    wrong_scale, wrong_norm, wrong_activation, wrong_epsilon,
    wrong_positions, wrong_order, wrong_layout, untied,
]  # fmt: skip


@pytest.mark.parametrize('change', WRONG, ids=lambda change: change.__name__)
@pytest.mark.parametrize('name', ['bert', 'roberta', 'gpt2'])
def test_a_mistake_shows_in_the_scores(pairs, name, change):
    scores = decoder_scores if name == 'gpt2' else encoder_scores
    close(*scores(broken(pairs(name), lambda model: None), 9))
    with pytest.raises(AssertionError, match='not close'):
        close(*scores(broken(pairs(name), change), 9))


@pytest.mark.parametrize('name', [*ENCODERS, *DECODERS])
def test_a_forgotten_padding_mask_shows(pairs, name):
    scores = decoder_scores if name in DECODERS else encoder_scores
    with pytest.raises(AssertionError, match='not close'):
        close(*scores(pairs(name), 9, use_padding=False))


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
        gradient_checkpointing=False, position_embedding_type='absolute',
        directionality='bidi', pooler_type='first_token_transform',
    )  # fmt: skip
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
        n_ctx=40, output_past=True, n_inner=None, summary_type='cls_index',
        task_specific_params={'text-generation': {'max_length': 50}},
    )  # fmt: skip
    return old


OLD = {'bert, both heads': old_bert, 'roberta': old_roberta, 'gpt2': old_gpt2}


@pytest.mark.parametrize('name', OLD)
def test_older_files(pairs, name, tmp_path):
    folder = rewritten(pairs(name), tmp_path / 'old', OLD[name])
    assert equal_models(load_official(folder), pairs(name).ours)


@pytest.mark.parametrize('name', ['bert', 'roberta', 'gpt2'])
def test_several_files(pairs, name, tmp_path):
    pair = pairs(name)
    pair.theirs.save_pretrained(tmp_path, max_shard_size='20KB')
    shards = list(tmp_path.glob('model-*-of-*.safetensors'))
    assert len(shards) > 2
    assert equal_models(load_official(tmp_path), pair.ours)


def test_half_precision_becomes_float32(pairs, tmp_path):
    pair = pairs('gpt2')
    folder = rewritten(
        pair, tmp_path / 'half',
        lambda tensors, _: {x: W.bfloat16() for x, W in tensors.items()},
    )  # fmt: skip
    loaded = load_official(folder)
    for name, p in loaded.named_parameters():
        assert p.dtype == torch.float32
        assert torch.equal(p, pair.ours.get_parameter(name).bfloat16().float())


def test_what_is_tied_stays_tied_and_in_memory(pairs, tmp_path):
    for name in ('bert', 'roberta', 'gpt2'):
        folder = tmp_path / name
        shutil.copytree(pairs(name).folder, folder)
        model = load_official(folder)
        shutil.rmtree(folder)
        head = model.head if name == 'gpt2' else model.mlm.decoder
        assert head.weight is model.token_embedding.weight
        assert not model.training
        assert all(p.requires_grad for p in model.parameters())
        assert equal_models(model, pairs(name).ours)
    free = pairs('gpt2, other settings').ours
    assert free.head.weight is not free.token_embedding.weight


def test_a_part_that_the_file_lacks_cannot_be_used(pairs):
    model = pairs('bert').ours
    with pytest.raises(ValueError, match='no weights for pooler'):
        model.nsp(model.pooler(torch.zeros(1, 32)))
    with pytest.raises(ValueError, match='no weights for nsp'):
        pairs('roberta').ours.nsp(torch.zeros(1, 32))
    names = dict(model.named_parameters())
    assert not any(name.startswith(('pooler', 'nsp')) for name in names)
