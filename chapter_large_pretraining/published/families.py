"""Published BERT, RoBERTa, GPT-2, T5 and Llama in the chapter's models."""

import dataclasses
import re
from collections.abc import Callable

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from utils import BERT, GPT, T5, Config, causal_mask

from .files import (
    IRRELEVANT,
    Settings,
    Weights,
    gguf_file,
    official_folder,
    read_json,
    weight_files,
)
from .quantized import GGUF

PUBLISHED_ACTIVATIONS = {  # and what they are called in `Config`
    'relu': 'relu',
    'gelu': 'gelu',
    'gelu_new': 'gelu_tanh',
    'gelu_pytorch_tanh': 'gelu_tanh',
}


LLAMA = {
    'rms_norm': True,
    'bias': False,
    'activation': 'gated_silu',
    'scaled_init': False,
}


def keep(name, W, config):
    """The tensor as it stands in the file."""
    return W


@dataclasses.dataclass(frozen=True)
class Family:
    """How checkpoints of one kind become models of the chapter.

    `architectures` says for each name in a file which modules of ours such
    a file may lack, heads among them. `parts` of a Config says for each
    module of ours of which modules of the file it is made. `renamed` turns
    other spellings of a tensor's name into the usual one, `copies` names
    what tied weights repeat. `constants` are tensors without weights, each
    with a check of its value. `convert` changes the layout of a tensor, and
    `restore` gives back its shape in the file.
    """

    model: type
    architectures: dict
    config: Callable
    parts: Callable
    copies: dict
    renamed: dict
    constants: dict
    convert: Callable = keep
    restore: Callable = keep

    def canonical(self, name, config):
        """The usual name of a tensor of the file."""
        for pattern, usual in self.renamed.items():
            name = re.sub(pattern, usual, name)
        return self.copies.get(name, name) if config.tie_weights else name

    def sources(self, model):
        """Which tensors of the file each parameter of `model` is made of."""
        theirs = {}
        for ours, modules in self.parts(model.config).items():
            for i in range(model.config.num_blks if '{}' in ours else 1):
                names = modules.replace('{}', str(i)).split()
                theirs[ours.replace('{}', str(i))] = names
        found = {}
        for name, _ in model.named_parameters():
            module, kind = name.rsplit('.', 1)
            found[name] = [f'{part}.{kind}' for part in theirs.get(module, [])]
        return found


def bert_config(settings):
    """What a BERT says, unless it asks for what ours cannot do."""
    settings.require(
        position_embedding_type='absolute',
        tie_word_embeddings=True,
        is_decoder=False,
        is_encoder_decoder=False,
        add_cross_attention=False,
    )
    return Config(
        vocab_size=settings.size('vocab_size'),
        num_hiddens=settings.size('hidden_size'),
        num_heads=settings.size('num_attention_heads'),
        num_blks=settings.size('num_hidden_layers'),
        max_len=settings.size('max_position_embeddings'),
        ffn_num_hiddens=settings.size('intermediate_size'),
        num_segments=settings.size('type_vocab_size'),
        dropout=settings.dropout(
            'hidden_dropout_prob', 'attention_probs_dropout_prob'
        ),
        norm_eps=settings.number('layer_norm_eps', 1e-12),
        activation=settings.choose(
            'hidden_act', PUBLISHED_ACTIVATIONS, 'gelu'
        ),
        pre_norm=False,
        scaled_init=False,
    )


def roberta_config(settings):
    """BERT's, less two positions: they count from behind the id of <pad>."""
    settings.require(pad_token_id=1, hidden_act='gelu')
    config = bert_config(settings)
    if config.max_len <= 2:
        raise ValueError(f'{settings.path}: no position left beside padding')
    return dataclasses.replace(config, max_len=config.max_len - 2)


def gpt2_config(settings):
    """What a GPT-2 says, unless its layers scale attention differently."""
    settings.require(
        scale_attn_by_inverse_layer_idx=False,
        reorder_and_upcast_attn=False,
        is_encoder_decoder=False,
        add_cross_attention=False,
    )
    num_hiddens = settings.size('n_embd')
    return Config(
        vocab_size=settings.size('vocab_size'),
        num_hiddens=num_hiddens,
        num_heads=settings.size('n_head'),
        num_blks=settings.size('n_layer'),
        max_len=settings.size('n_positions'),
        ffn_num_hiddens=settings.size('n_inner', 4 * num_hiddens),
        dropout=settings.dropout('resid_pdrop', 'embd_pdrop', 'attn_pdrop'),
        norm_eps=settings.number('layer_norm_epsilon', 1e-5),
        activation=settings.choose(
            'activation_function', PUBLISHED_ACTIVATIONS, 'gelu_new'
        ),
        scale=None if settings.flag('scale_attn_weights', True) else 1.0,
        tie_weights=settings.flag('tie_word_embeddings', True),
    )


def t5_config(settings):
    """What a T5 says, of the first version or of 1.1.

    Version 1.1 neither ties the output layer nor scales its input, which
    newer files say as `scale_decoder_outputs`; see also `fit`.
    """
    num_blks = settings.size('num_layers')
    settings.require(
        num_decoder_layers=num_blks,
        is_encoder_decoder=True,
        is_decoder=False,
        tie_encoder_decoder=False,
        decoder_start_token_id=0,
    )
    kinds = {'relu': 'relu', 'gated-gelu': 'gated_gelu'}
    activation = settings.choose('feed_forward_proj', kinds, 'relu')
    gated = activation == 'gated_gelu'
    function = 'gelu_new' if gated else 'relu'
    settings.require(dense_act_fn=function, is_gated_act=gated)
    tied = settings.flag('tie_word_embeddings', True)
    return Config(
        vocab_size=settings.size('vocab_size'),
        num_hiddens=settings.size('d_model'),
        num_heads=settings.size('num_heads'),
        head_width=settings.size('d_kv'),
        num_blks=num_blks,
        max_len=settings.size('n_positions', 512),
        ffn_num_hiddens=settings.size('d_ff'),
        num_buckets=settings.size('relative_attention_num_buckets', 32),
        max_distance=settings.size('relative_attention_max_distance', 128),
        dropout=settings.dropout('dropout_rate'),
        norm_eps=settings.number('layer_norm_epsilon', 1e-6),
        activation=activation,
        tie_weights=settings.flag('scale_decoder_outputs', tied),
        rms_norm=True,
        bias=False,
        scale=1.0,
        scaled_init=False,
    )


def rotary_base(settings):
    """The base of rotary positions; ValueError for those that are scaled.

    Newer files have it in `rope_parameters`, older ones by itself, beside a
    `rope_scaling`.
    """
    rope = {}
    for key in ('rope_scaling', 'rope_parameters'):
        values = settings.take(key, {})
        if not isinstance(values, dict):
            raise ValueError(f'{settings.path}: {key} is {values!r}')
        rope |= values
    if 'rope_theta' in rope:
        settings.values['rope_theta'] = rope.pop('rope_theta')
    plain = {'rope_type': 'default', 'type': 'default'}
    if any(plain.get(key) != value for key, value in rope.items()):
        raise ValueError(
            f'{settings.path}: the rotary positions are scaled ({rope}), '
            'which our models do not do'
        )
    return settings.positive('rope_theta', 10000.0)


def llama_config(settings):
    """What a Llama says, unless it has biases or scaled rotary positions."""
    settings.require(
        attention_bias=False,
        mlp_bias=False,
        hidden_act='silu',
        is_encoder_decoder=False,
        pretraining_tp=1,
        rope_interleaved=False,
    )
    dropout = settings.number('attention_dropout', 0.0)
    if dropout:
        raise ValueError(
            f'{settings.path}: attention_dropout is {dropout}, not 0: with '
            'dropout, our models have it in every layer'
        )
    num_hiddens = settings.size('hidden_size')
    num_heads = settings.size('num_attention_heads')
    return Config(
        vocab_size=settings.size('vocab_size'),
        num_hiddens=num_hiddens,
        num_heads=num_heads,
        num_kv_heads=settings.size('num_key_value_heads', num_heads),
        head_width=settings.size('head_dim', num_hiddens // num_heads),
        num_blks=settings.size('num_hidden_layers'),
        max_len=settings.size('max_position_embeddings', 2048),
        ffn_num_hiddens=settings.size('intermediate_size'),
        norm_eps=settings.number('rms_norm_eps', 1e-6),
        rotary_base=rotary_base(settings),
        tie_weights=settings.flag('tie_word_embeddings', False),
        **LLAMA,
    )


def gguf_llama_config(settings):
    """What a Llama in GGUF says, unless it has experts or is scaled."""
    key = 'llama.{}'.format
    num_hiddens = settings.size(key('embedding_length'))
    num_heads = settings.size(key('attention.head_count'))
    head_width = settings.size(
        key('attention.key_length'), num_hiddens // num_heads
    )
    settings.require(
        **{
            key('attention.value_length'): head_width,
            key('rope.dimension_count'): head_width,
            key('rope.scaling.type'): 'none',
            key('rope.scale_linear'): 1.0,
            key('expert_count'): 0,
        }
    )
    return Config(
        vocab_size=settings.size(
            key('vocab_size'),
            len(settings.values.get('tokenizer.ggml.tokens', ())),
        ),
        num_hiddens=num_hiddens,
        num_heads=num_heads,
        num_kv_heads=settings.size(key('attention.head_count_kv'), num_heads),
        head_width=head_width,
        num_blks=settings.size(key('block_count')),
        max_len=settings.size(key('context_length')),
        ffn_num_hiddens=settings.size(key('feed_forward_length')),
        norm_eps=settings.number(
            key('attention.layer_norm_rms_epsilon'), 1e-5
        ),
        rotary_base=settings.positive(key('rope.freq_base'), 10000.0),
        **LLAMA,
    )


def count_up(W):
    return W.flatten().long().equal(torch.arange(W.numel()))


def causal(W):
    return W.equal(causal_mask(W.shape[-1])[None, None].to(W.dtype))


def next_is_one(name, W, config):
    """For `bert_loss` a text that follows is 1, as published it is 0."""
    return W.flip(0) if name.startswith('nsp') else W


def without_padding_positions(name, W, config):
    return W[2:] if name == 'pos_embedding.weight' else W


def with_padding_positions(name, W, config):
    """As in the file, except for the values of the rows that are added."""
    if name != 'pos_embedding.weight':
        return W
    return torch.cat((W.new_zeros(2, W.shape[1]), W))


def transpose_products(name, W, config):
    """GPT-2 keeps the matrices of its blocks transposed."""
    return W.T if name.startswith('blks') and W.dim() == 2 else W


def pair_rotated(name, W, config):
    """Order queries and keys by the pairs of features that turn together.

    Llama's files have first all first features of the pairs, then all
    second ones.
    """
    if not name.endswith('W_qkv.weight'):
        return W
    num_turned = (config.num_heads + config.num_kv_heads) * config.head_width
    QK, V = W[:num_turned], W[num_turned:]
    heads = QK.unflatten(0, (-1, 2, config.head_width // 2))
    return torch.cat((heads.transpose(1, 2).flatten(0, 2), V))


def encoder_parts(base):
    """Modules that BERT and RoBERTa, called `base` in the file, share.

    The norm that follows a layer is part of its output there.
    """
    embeddings, layer = f'{base}.embeddings.', f'{base}.encoder.layer.{{}}.'
    attend = f'{layer}attention.self.'
    return {
        'token_embedding': f'{embeddings}word_embeddings',
        'pos_embedding': f'{embeddings}position_embeddings',
        'segment_embedding': f'{embeddings}token_type_embeddings',
        'embedding_norm': f'{embeddings}LayerNorm',
        'blks.{}.attention.layer.W_qkv': (
            f'{attend}query {attend}key {attend}value'
        ),
        'blks.{}.attention.layer.W_o': f'{layer}attention.output.dense',
        'blks.{}.attention.norm': f'{layer}attention.output.LayerNorm',
        'blks.{}.ffn.layer.0': f'{layer}intermediate.dense',
        'blks.{}.ffn.layer.2': f'{layer}output.dense',
        'blks.{}.ffn.norm': f'{layer}output.LayerNorm',
        'pooler.0': f'{base}.pooler.dense',
    }


def bert_parts(config):
    """An encoder with two heads, for hidden tokens and for pairs."""
    return {
        **encoder_parts('bert'),
        'mlm.transform.0': 'cls.predictions.transform.dense',
        'mlm.transform.2': 'cls.predictions.transform.LayerNorm',
        'mlm.decoder': 'cls.predictions.decoder',
        'nsp': 'cls.seq_relationship',
    }


def roberta_parts(config):
    """An encoder with a head for hidden tokens, and no other."""
    return {
        **encoder_parts('roberta'),
        'mlm.transform.0': 'lm_head.dense',
        'mlm.transform.2': 'lm_head.layer_norm',
        'mlm.decoder': 'lm_head.decoder',
    }


def gpt2_parts(config):
    """Queries, keys and values are one module; see `transpose_products`."""
    return {
        'token_embedding': 'wte',
        'pos_embedding': 'wpe',
        'blks.{}.attention.norm': 'h.{}.ln_1',
        'blks.{}.attention.layer.W_qkv': 'h.{}.attn.c_attn',
        'blks.{}.attention.layer.W_o': 'h.{}.attn.c_proj',
        'blks.{}.ffn.norm': 'h.{}.ln_2',
        'blks.{}.ffn.layer.0': 'h.{}.mlp.c_fc',
        'blks.{}.ffn.layer.2': 'h.{}.mlp.c_proj',
        'norm': 'ln_f',
        'head': 'lm_head',
    }


def t5_attention(ours, theirs, kind):
    """An attention layer with its norm, which has no name in the file."""
    return {
        f'{ours}.norm': f'{theirs}.layer_norm',
        f'{ours}.layer.W_qkv': ' '.join(
            f'{theirs}.{kind}.{part}' for part in 'qkv'
        ),
        f'{ours}.layer.W_o': f'{theirs}.{kind}.o',
    }


def t5_parts(config):
    """Layers are numbered: in the decoder, cross-attention is number 1.

    The relative bias of a stack stands in its first block.
    """
    parts = {'token_embedding': 'shared', 'head': 'lm_head'}
    for stack, last in (('encoder', 1), ('decoder', 2)):
        ours, theirs = f'{stack}.blks.{{}}', f'{stack}.block.{{}}.layer'
        own = f'{ours}.attention', f'{theirs}.0', 'SelfAttention'
        first = f'{stack}.block.0.layer.0.SelfAttention'
        ffn = f'{theirs}.{last}.DenseReluDense'
        if config.activation == 'gated_gelu':
            wide = {
                'ffn.layer.0.W_gate': f'{ffn}.wi_0',
                'ffn.layer.0.W_in': f'{ffn}.wi_1',
                'ffn.layer.1': f'{ffn}.wo',
            }
        else:
            wide = {'ffn.layer.0': f'{ffn}.wi', 'ffn.layer.2': f'{ffn}.wo'}
        parts |= {f'{ours}.{part}': name for part, name in wide.items()}
        parts |= t5_attention(*own) | {
            f'{ours}.ffn.norm': f'{theirs}.{last}.layer_norm',
            f'{stack}.relative_bias.table': f'{first}.relative_attention_bias',
            f'{stack}.norm': f'{stack}.final_layer_norm',
        }
    return parts | t5_attention(
        'decoder.blks.{}.cross_attention',
        'decoder.block.{}.layer.1',
        'EncDecAttention',
    )


def llama_parts(config):
    """The parts of a Llama by their names in safetensors."""
    layer = 'model.layers.{}.'
    return {
        'token_embedding': 'model.embed_tokens',
        'blks.{}.attention.norm': f'{layer}input_layernorm',
        'blks.{}.attention.layer.W_qkv': ' '.join(
            f'{layer}self_attn.{part}_proj' for part in 'qkv'
        ),
        'blks.{}.attention.layer.W_o': f'{layer}self_attn.o_proj',
        'blks.{}.ffn.norm': f'{layer}post_attention_layernorm',
        'blks.{}.ffn.layer.0.W_gate': f'{layer}mlp.gate_proj',
        'blks.{}.ffn.layer.0.W_in': f'{layer}mlp.up_proj',
        'blks.{}.ffn.layer.1': f'{layer}mlp.down_proj',
        'norm': 'model.norm',
        'head': 'lm_head',
    }


def gguf_llama_parts(config):
    """The same modules by the names of GGUF."""
    return {
        'token_embedding': 'token_embd',
        'blks.{}.attention.norm': 'blk.{}.attn_norm',
        'blks.{}.attention.layer.W_qkv': (
            'blk.{}.attn_q blk.{}.attn_k blk.{}.attn_v'
        ),
        'blks.{}.attention.layer.W_o': 'blk.{}.attn_output',
        'blks.{}.ffn.norm': 'blk.{}.ffn_norm',
        'blks.{}.ffn.layer.0.W_gate': 'blk.{}.ffn_gate',
        'blks.{}.ffn.layer.0.W_in': 'blk.{}.ffn_up',
        'blks.{}.ffn.layer.1': 'blk.{}.ffn_down',
        'norm': 'output_norm',
        'head': 'output',
    }


OLD_NORMS = {r'\.gamma$': '.weight', r'\.beta$': '.bias'}
FAMILIES = {
    'bert': Family(
        model=BERT,
        architectures={
            'BertForMaskedLM': ('pooler', 'nsp'),
            'BertForPreTraining': ('pooler', 'nsp'),
            'BertModel': ('mlm', 'pooler', 'nsp'),
        },
        config=bert_config,
        parts=bert_parts,
        renamed={
            **OLD_NORMS,
            r'^cls\.predictions\.bias$': 'cls.predictions.decoder.bias',
            r'^(?=(embeddings|encoder|pooler)\.)': 'bert.',
        },
        copies={
            'cls.predictions.decoder.weight': (
                'bert.embeddings.word_embeddings.weight'
            ),
        },
        constants={r'bert\.embeddings\.position_ids': count_up},
        convert=next_is_one,
    ),
    'roberta': Family(
        model=BERT,
        architectures={
            'RobertaForMaskedLM': ('pooler', 'nsp'),
            'RobertaModel': ('mlm', 'pooler', 'nsp'),
        },
        config=roberta_config,
        parts=roberta_parts,
        renamed={
            r'^lm_head\.bias$': 'lm_head.decoder.bias',
            r'^(?=(embeddings|encoder|pooler)\.)': 'roberta.',
        },
        copies={
            'lm_head.decoder.weight': (
                'roberta.embeddings.word_embeddings.weight'
            ),
        },
        constants={r'roberta\.embeddings\.position_ids': count_up},
        convert=without_padding_positions,
        restore=with_padding_positions,
    ),
    'gpt2': Family(
        model=GPT,
        architectures={'GPT2LMHeadModel': (), 'GPT2Model': ('head',)},
        config=gpt2_config,
        parts=gpt2_parts,
        renamed={r'^transformer\.': ''},
        copies={'lm_head.weight': 'wte.weight'},
        constants={
            r'h\.\d+\.attn\.bias': causal,
            r'h\.\d+\.attn\.masked_bias': (
                lambda W: W.numel() == 1 and W.eq(-1e4).all()
            ),
        },
        convert=transpose_products,
        restore=transpose_products,
    ),
    't5': Family(
        model=T5,
        architectures={
            'T5ForConditionalGeneration': (),
            'T5WithLMHeadModel': (),
        },
        config=t5_config,
        parts=t5_parts,
        renamed={r'^(en|de)coder\.embed_tokens\.weight$': 'shared.weight'},
        copies={'lm_head.weight': 'shared.weight'},
        # in old files, a bias that cross-attention does not have
        constants={
            r'decoder\.block\.0\.layer\.1\.EncDecAttention'
            r'\.relative_attention_bias\.weight': lambda W: True,
        },
    ),
    'llama': Family(
        model=GPT,
        architectures={'LlamaForCausalLM': (), 'LlamaModel': ('head',)},
        config=llama_config,
        parts=llama_parts,
        renamed={r'^(?=(embed_tokens|layers|norm)\.)': 'model.'},
        copies={'lm_head.weight': 'model.embed_tokens.weight'},
        # in old files, how far each pair of features turns
        constants={
            r'model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq': (
                lambda W: W.dim() == 1 and W[0] == 1 and (W.diff() < 0).all()
            ),
        },
        convert=pair_rotated,
    ),
}
GGUF_FAMILIES = {
    'llama': Family(
        model=GPT,
        architectures={},
        config=gguf_llama_config,
        parts=gguf_llama_parts,
        renamed={},
        copies={'output.weight': 'token_embd.weight'},
        constants={},
    ),
}


# ---- Loading ----


class Undrawn(TorchFunctionMode):
    """New modules draw no normal weights, which will come from a file.

    Drawing them on the device 'meta' would first import much of PyTorch.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is nn.init.normal_:
            return kwargs['tensor']
        return function(*args, **(kwargs or {}))


class Absent(nn.Module):
    """Stands for a part of a model that its checkpoint does not hold."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, *inputs):
        raise ValueError(f'the checkpoint holds no weights for {self.name}')


def read_config(folder):
    """The family of a checkpoint, its Config and what it may lack.

    Raises ValueError for settings that are unknown.
    """
    path = folder / 'config.json'
    settings = Settings(path, read_json(path))
    family = settings.choose('model_type', FAMILIES, '')
    given = settings.take('architectures', [*family.architectures])
    known = [name for name in given if name in family.architectures]
    if not known:
        raise ValueError(
            f'{path}: architectures is {given}, which has other heads than '
            f'{" or ".join(family.architectures)}'
        )
    config = family.config(settings)
    settings.finish(IRRELEVANT)
    return family, config, family.architectures[known[0]]


def read_gguf(file):
    """The family and Config that a `GGUF` file says; else ValueError."""
    settings = Settings(file.path, file.settings)
    family = settings.choose('general.architecture', GGUF_FAMILIES, '')
    settings.require(**{'general.quantization_version': 2})
    config = family.config(settings)
    settings.finish(r'(general|tokenizer|quantize)\..*')
    tied = 'output.weight' not in file.tensors
    return family, dataclasses.replace(config, tie_weights=tied)


def open_checkpoint(place):
    """Family, Config, tensors and what may be lacking of a checkpoint."""
    path = gguf_file(place)
    if path:
        weights = GGUF(path)
        return *read_gguf(weights), weights, ()
    family, config, optional = read_config(place)
    return family, config, Weights(weight_files(place)), optional


def without_constants(weights, family, config):
    """The names of all tensors but the constants, which are checked."""
    names = []
    for name in weights:
        usual = family.canonical(name, config)
        for pattern, check in family.constants.items():
            if re.fullmatch(pattern, usual):
                if not check(weights[name]):
                    raise ValueError(f'{name} is not the usual constant')
                break
        else:
            names.append(name)
    return names


def fit(names, family, model, optional=()):
    """For each parameter of `model`, the tensors of the file that make it.

    Each tensor stands in a tuple with its copies. `optional` modules without
    tensors become `Absent`. An output layer that a T5 lacks is tied, and not
    scaled unless the settings say so. Raises ValueError with both lists
    unless every tensor of the file and every parameter of the model has its
    counterpart.
    """
    found = {}
    for name in names:
        usual = family.canonical(name, model.config)
        found[usual] = (*found.get(usual, ()), name)
    if family.model is T5 and 'lm_head.weight' not in found:
        model.head.weight = model.token_embedding.weight
    sources = family.sources(model)
    for part in optional:
        parameters = [x for x in sources if x.startswith(f'{part}.')]
        if not any(name in found for x in parameters for name in sources[x]):
            setattr(model, part, Absent(part))
            sources = {x: sources[x] for x in sources if x not in parameters}
    needed = [name for parts in sources.values() for name in parts]
    missing = sorted(set(needed) - set(found))
    unused = sorted(
        name for usual in set(found) - set(needed) for name in found[usual]
    )
    if missing or unused:
        raise ValueError(
            'the weights do not fit the model. Missing in the file: '
            f'{missing}. Without a place in the model: {unused}'
        )
    return {x: [found[name] for name in sources[x]] for x in sources}


def read_tensor(weights, copies):
    """One tensor in float32; ValueError if it or its copies are not right."""
    tensor, *others = (weights[name] for name in copies)
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(
            f'{copies[0]} is {tensor.dtype}, not torch.float32, torch.float16 '
            'or torch.bfloat16'
        )
    if not tensor.isfinite().all():
        raise ValueError(f'{copies[0]} holds nan or infinite values')
    if any(not torch.equal(tensor, other) for other in others):
        raise ValueError(f'{" and ".join(copies)} are tied, but not equal')
    return tensor.float()


def new_value(name, tensors, shape, family, config):
    """A parameter made of tensors of the file, or ValueError for its shape.

    Three tensors are the queries of all heads, their keys and their values;
    else all have as many rows.
    """
    heads = config.num_heads, config.num_kv_heads, config.num_kv_heads
    shares = heads if len(tensors) == 3 else (1,) * len(tensors)
    empty = torch.empty(shape, device='meta')
    whole = family.restore(name, empty, config).shape
    needed = [
        (whole[0] * share // sum(shares), *whole[1:]) for share in shares
    ]
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if shapes != needed:
        layout = ', transposed' if whole == shape[::-1] != shape else ''
        raise ValueError(
            f'{name} of shape {tuple(shape)} is made of {needed} in the file'
            f'{layout}, not of {shapes}'
        )
    W = torch.cat(tensors)  # a copy: the file may close
    return nn.Parameter(family.convert(name, W, config).contiguous())


def load_official(name_or_path, revision=None, download=True):
    """A published BERT, RoBERTa, GPT-2, T5 or Llama as a chapter's model.

    For what the arguments mean and for errors without a checkpoint see
    `official_folder`. The model is in evaluation mode, in float32; a part
    whose weights the file lacks (a `BertModel` has no heads) raises
    ValueError when it is used. Raises ValueError for a file that is damaged
    or cut off, for another architecture, for settings that our models cannot
    follow and, with both lists, unless each tensor of the file and of the
    model has its counterpart. Safetensors are read and, of a Llama, GGUF;
    ImportError where the package for that is missing.
    """
    folder = official_folder(name_or_path, revision, download)
    family, config, weights, optional = open_checkpoint(folder)
    with torch.device('meta'), Undrawn():
        model = family.model(config)
    try:
        names = without_constants(weights, family, config)
        sources = fit(names, family, model, optional)
        values = {}
        for name, p in model.named_parameters():
            tensors = [read_tensor(weights, c) for c in sources[name]]
            values[p] = new_value(name, tensors, p.shape, family, config)
    except ValueError as error:
        raise ValueError(f'{folder}: {error}') from error
    state = model.state_dict(keep_vars=True)  # tied weights: twice the same
    model.load_state_dict({x: values[state[x]] for x in state}, assign=True)
    return model.eval()
