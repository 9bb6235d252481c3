"""Attention, models, objectives and training of the chapter.

Shapes stand at line ends: `batch` is the number of sequences, `num_steps` of
tokens in each, `num_hiddens` of features per token.
"""

import contextlib
import dataclasses
import math
import os
import time
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

# ---- Masks and attention ----


def padding_mask(valid_lens, num_keys):
    """Let every query attend to the first `valid_lens` keys.

    `valid_lens` is (batch,); the mask is (batch, 1, 1, num_keys). Raises
    ValueError for a length outside [0, num_keys].
    """
    if ((valid_lens < 0) | (valid_lens > num_keys)).any():
        raise ValueError(
            f'valid_lens is {valid_lens.tolist()}, outside [0, {num_keys}]'
        )
    positions = torch.arange(num_keys, device=valid_lens.device)
    return (positions < valid_lens[:, None])[:, None, None]


def causal_mask(num_queries, num_keys=None, device=None):
    """Let each query attend to its own position and to those before it.

    The mask is (num_queries, num_keys). The queries are the last positions
    of the keys. Raises ValueError for more queries than keys.
    """
    if num_keys is None:
        num_keys = num_queries
    if num_queries > num_keys:
        raise ValueError(f'{num_queries} queries for {num_keys} keys')
    mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
    return mask.tril(num_keys - num_queries)


def prefix_mask(num_prefix, num_steps, device=None):
    """Let all attend to the first `num_prefix` keys, and causally beyond.

    The mask is (num_steps, num_steps); it is the single-stack form of an
    encoder-decoder (Raffel et al., 2020, section 3.2). Raises ValueError
    for a prefix outside [0, num_steps].
    """
    if not 0 <= num_prefix <= num_steps:
        raise ValueError(f'num_prefix is {num_prefix}, not in 0..{num_steps}')
    in_prefix = torch.arange(num_steps, device=device) < num_prefix
    return causal_mask(num_steps, device=device) | in_prefix


def banded_mask(num_steps, width, device=None):
    """Let each query attend to the last `width` positions, its own the last.

    The mask is (num_steps, num_steps): the local pattern of the Sparse
    Transformer (Child et al., 2019, section 4.2). Raises ValueError for a
    width below one.
    """
    if width < 1:
        raise ValueError(f'width is {width}, below 1')
    return causal_mask(num_steps, device=device).triu(1 - width)


def attention(Q, K, V, mask=None, bias=None, scale=None, dropout=0.0):
    """Scaled dot-product attention by its definition, with the weights.

    `Q` is (batch, num_heads, num_queries, d), `K` and `V` have num_keys in
    place of num_queries; `mask` (boolean) and `bias` (added to the scores)
    broadcast to (batch, num_heads, num_queries, num_keys), the shape of the
    weights. A query that may attend to nothing gets zeros. (Vaswani et al.,
    2017, section 3.2.1)
    """
    scale = Q.shape[-1] ** -0.5 if scale is None else scale
    scores = Q @ K.transpose(-2, -1) * scale
    if bias is not None:
        scores = scores + bias
    if mask is None:
        weights = F.softmax(scores, dim=-1)
    else:
        hidden = torch.finfo(scores.dtype).min
        weights = F.softmax(scores.masked_fill(~mask, hidden), dim=-1)
        weights = weights.masked_fill(~mask, 0)
    return F.dropout(weights, dropout) @ V, weights


def fused_attention(Q, K, V, mask=None, bias=None, scale=None, dropout=0.0):
    """The output of `attention` from PyTorch's fused kernel, no weights."""
    if bias is not None and mask is not None:
        mask = torch.where(mask, bias, -math.inf)
    elif bias is not None:
        mask = bias
    return F.scaled_dot_product_attention(Q, K, V, mask, dropout, scale=scale)


def check_width(X, num_hiddens):
    """Raise ValueError unless `X` is (batch, num_steps, num_hiddens)."""
    if X.dim() != 3 or X.shape[-1] != num_hiddens:
        raise ValueError(
            f'X of shape {tuple(X.shape)} is not (batch, num_steps, '
            f'num_hiddens = {num_hiddens})'
        )


def check_mask(mask, shape):
    """Raise ValueError unless `mask` is boolean and broadcasts to `shape`."""
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise ValueError(f'mask is {mask.dtype}, not torch.bool')
    sizes = zip(reversed(mask.shape), reversed(shape), strict=False)
    if mask.dim() > len(shape) or any(m not in (1, n) for m, n in sizes):
        raise ValueError(
            f'mask of shape {tuple(mask.shape)} does not broadcast to '
            f'(batch, num_heads, num_queries, num_keys) = {tuple(shape)}'
        )


class KVCache:
    """The keys and values that one attention layer has seen."""

    def __init__(self):
        self.K = self.V = None

    def __len__(self):
        return 0 if self.K is None else self.K.shape[2]

    def append(self, K, V):
        """Add the new positions and return all: (batch, heads, keys, d)."""
        if len(self):
            K = torch.cat((self.K, K), dim=2)
            V = torch.cat((self.V, V), dim=2)
        self.K, self.V = K, V
        return K, V


class MultiHeadAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017, section 3.2.2).

    `X` and the output are (batch, num_steps, num_hiddens). With a `cache`,
    `X` holds the new positions only. Raises ValueError for shapes that do
    not fit and for a mask that is not boolean.
    """

    def __init__(self, config):
        super().__init__()
        wide = config.num_heads * config.head_width
        self.config, self.recorded = config, None
        self.W_qkv = nn.Linear(config.num_hiddens, 3 * wide, config.bias)
        self.W_o = nn.Linear(wide, config.num_hiddens, config.bias)

    def forward(self, X, mask=None, bias=None, cache=None):
        check_width(X, self.config.num_hiddens)
        Q, K, V = map(self.split_heads, self.W_qkv(X).chunk(3, dim=-1))
        if cache is not None:
            K, V = cache.append(K, V)
        return self.attend(Q, K, V, mask, bias)

    def split_heads(self, H):
        """(batch, num_steps, wide) to (batch, num_heads, num_steps, d)."""
        return H.unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)

    def attend(self, Q, K, V, mask=None, bias=None):
        """From queries, keys and values to (batch, num_steps, num_hiddens)."""
        check_mask(mask, (*Q.shape[:3], K.shape[2]))
        dropout = self.config.dropout if self.training else 0.0
        inputs = Q, K, V, mask, bias, self.config.scale, dropout
        if self.recorded is None:
            Y = fused_attention(*inputs)
        else:
            Y, weights = attention(*inputs)
            self.recorded.append(weights.detach())
        return self.W_o(Y.transpose(1, 2).flatten(2))


class CrossAttention(MultiHeadAttention):
    """Multi-head attention whose keys and values come from a `memory`.

    `X` is (batch, num_queries, num_hiddens), `memory` (batch, num_keys,
    num_hiddens), the output has the shape of `X`. With a `cache` the keys
    and values are computed once. Raises ValueError like
    `MultiHeadAttention`. (Vaswani et al., 2017, section 3.2.3)
    """

    def __init__(self, config):
        super().__init__(config)
        wide = self.W_o.in_features
        del self.W_qkv
        self.W_q = nn.Linear(config.num_hiddens, wide, config.bias)
        self.W_kv = nn.Linear(config.num_hiddens, 2 * wide, config.bias)

    def forward(self, X, memory, mask=None, cache=None):
        for H in (X, memory):
            check_width(H, self.config.num_hiddens)
        Q = self.split_heads(self.W_q(X))
        cache = KVCache() if cache is None else cache
        if not len(cache):
            KV = self.W_kv(memory).chunk(2, dim=-1)
            cache.append(*map(self.split_heads, KV))
        return self.attend(Q, cache.K, cache.V, mask)


@contextlib.contextmanager
def record_attention(model):
    """Collect the attention weights of every layer, in the order of calls.

    Inside the `with` block the layers compute attention by the definition;
    the list that it yields grows by (batch, num_heads, num_queries,
    num_keys) per call of a layer.
    """
    layers = [m for m in model.modules() if hasattr(m, 'recorded')]
    maps = []
    for layer in layers:
        layer.recorded = maps
    try:
        yield maps
    finally:
        for layer in layers:
            layer.recorded = None


@torch.no_grad()
def reach(model, X):
    """Change one token at a time and see which outputs move.

    `X` is one sequence of token ids, (num_steps,); `model` maps (batch,
    num_steps) ids to (batch, num_outputs, width). The result is boolean,
    (num_outputs, num_steps), like a mask: output i depends on token j.
    """
    num_steps = len(X)
    changed = X.repeat(num_steps + 1, 1)  # the last row stays as it is
    changed.diagonal().copy_(torch.where(X > 0, X - 1, 1))
    Y = model(changed)
    return ((Y[:-1] - Y[-1]).abs().amax(-1) > 1e-6).T


# ---- Blocks and models ----


class GatedGELU(nn.Module):
    """One half of the features, after GELU, times the other half.

    (..., 2 * width) in, (..., width) out. (Shazeer, 2020, section 2)
    """

    def forward(self, H):
        gate, H = H.chunk(2, dim=-1)
        return F.gelu(gate, approximate='tanh') * H


ACTIVATIONS = {
    'relu': nn.ReLU,
    'gelu': nn.GELU,
    'gelu_tanh': lambda: nn.GELU(approximate='tanh'),
    'gated_gelu': GatedGELU,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The sizes and choices that define a model.

    `ffn_num_hiddens` defaults to four times `num_hiddens`, `embedding_size`
    to `num_hiddens`, `head_width` to `num_hiddens` over `num_heads`, `scale`
    to one over the square root of `head_width`. With `share_blks` all blocks
    are one and the same. Relative positions fall into `num_buckets`, the
    last for all from `max_distance` on. Raises ValueError for a size below
    one, heads that do not divide `num_hiddens` and have no `head_width`, a
    dropout outside [0, 1) and an unknown activation.
    """

    vocab_size: int
    num_hiddens: int = 128
    num_heads: int = 4
    num_blks: int = 4
    max_len: int = 128
    ffn_num_hiddens: int | None = None
    embedding_size: int | None = None
    head_width: int | None = None
    num_buckets: int = 32
    max_distance: int = 128
    num_segments: int = 2
    share_blks: bool = False
    dropout: float = 0.0
    pre_norm: bool = True
    rms_norm: bool = False
    norm_eps: float = 1e-5
    bias: bool = True
    activation: str = 'gelu'
    scale: float | None = None
    scaled_init: bool = True
    init_std: float = 0.02
    mlm_transform: bool = True
    tie_weights: bool = True

    def __post_init__(self):
        if self.ffn_num_hiddens is None:
            object.__setattr__(self, 'ffn_num_hiddens', 4 * self.num_hiddens)
        if self.embedding_size is None:
            object.__setattr__(self, 'embedding_size', self.num_hiddens)
        for name in ('vocab_size', 'num_hiddens', 'num_heads', 'num_blks',
                     'max_len', 'ffn_num_hiddens', 'embedding_size',
                     'num_segments'):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f'{name} is {getattr(self, name)}, below 1')
        if self.head_width is None:
            if self.num_hiddens % self.num_heads:
                raise ValueError(
                    f'num_hiddens is {self.num_hiddens}, not a multiple of '
                    f'num_heads, {self.num_heads}'
                )
            width = self.num_hiddens // self.num_heads
            object.__setattr__(self, 'head_width', width)
        if self.head_width < 1:
            raise ValueError(f'head_width is {self.head_width}, below 1')
        if self.num_buckets < 4 or self.max_distance <= self.num_buckets // 2:
            raise ValueError(
                f'num_buckets is {self.num_buckets}, below 4, or max_distance '
                f'is {self.max_distance}, not above half of that'
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f'dropout is {self.dropout}, outside [0, 1)')
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f'activation is {self.activation!r}, not one of '
                f'{", ".join(ACTIVATIONS)}'
            )

    @classmethod
    def gpt2(cls, size='small', **changes):
        """GPT-2's published shapes (Radford et al., 2019, table 2).

        Raises ValueError for a size other than small, medium, large, xl.
        """
        shapes = {'small': (768, 12, 12), 'medium': (1024, 16, 24),
                  'large': (1280, 20, 36), 'xl': (1600, 25, 48)}  # fmt: skip
        defaults = {'vocab_size': 50257, 'max_len': 1024, 'dropout': 0.1,
                    'activation': 'gelu_tanh'}  # fmt: skip
        return cls(**{**published(shapes, size), **defaults, **changes})

    @classmethod
    def bert(cls, size='base', **changes):
        """BERT's published shapes (Devlin et al., 2019, section 3).

        Raises ValueError for a size other than base, large.
        """
        shapes = {'base': (768, 12, 12), 'large': (1024, 16, 24)}
        defaults = {'vocab_size': 30522, 'max_len': 512, 'dropout': 0.1,
                    'pre_norm': False, 'norm_eps': 1e-12,
                    'scaled_init': False}  # fmt: skip
        return cls(**{**published(shapes, size), **defaults, **changes})

    @classmethod
    def albert(cls, size='base', **changes):
        """ALBERT's published shapes (Lan et al., 2020, table 1).

        Raises ValueError for a size other than base, large, xlarge, xxlarge.
        """
        shapes = {'base': (768, 12, 12), 'large': (1024, 16, 24),
                  'xlarge': (2048, 16, 24),
                  'xxlarge': (4096, 64, 12)}  # fmt: skip
        defaults = {'vocab_size': 30000, 'max_len': 512, 'pre_norm': False,
                    'norm_eps': 1e-12, 'scaled_init': False,
                    'activation': 'gelu_tanh', 'embedding_size': 128,
                    'share_blks': True}  # fmt: skip
        return cls(**{**published(shapes, size), **defaults, **changes})

    @classmethod
    def t5(cls, size='small', **changes):
        """T5's published shapes (Raffel et al., 2020, section 3.7).

        Raises ValueError for a size other than small, base, large, 3b, 11b.
        """
        shapes = {'small': (512, 8, 6), 'base': (768, 12, 12),
                  'large': (1024, 16, 24), '3b': (1024, 32, 24),
                  '11b': (1024, 128, 24)}  # fmt: skip
        shape = published(shapes, size)
        huge = {'3b': 16384, '11b': 65536}
        shape['head_width'] = 128 if size in huge else 64
        shape['ffn_num_hiddens'] = huge.get(size, 4 * shape['num_hiddens'])
        return cls(**{**shape, **T5_DEFAULTS, **changes})

    @classmethod
    def t5_v1_1(cls, size='small', **changes):
        """The shapes of T5 version 1.1: gated GELU, no tied output layer.

        As released with T5 (Raffel et al., 2020). Raises ValueError for a
        size other than small, base, large, xl, xxl.
        """
        shapes = {'small': (512, 6, 8), 'base': (768, 12, 12),
                  'large': (1024, 16, 24), 'xl': (2048, 32, 24),
                  'xxl': (4096, 64, 24)}  # fmt: skip
        wide = {'small': 1024, 'base': 2048, 'large': 2816, 'xl': 5120,
                'xxl': 10240}  # fmt: skip
        shape = published(shapes, size)
        shape.update(head_width=64, ffn_num_hiddens=wide[size])
        v1_1 = {'activation': 'gated_gelu', 'tie_weights': False}
        return cls(**{**shape, **T5_DEFAULTS, **v1_1, **changes})


T5_DEFAULTS = {
    'vocab_size': 32128, 'max_len': 512, 'dropout': 0.1, 'rms_norm': True,
    'norm_eps': 1e-6, 'bias': False, 'activation': 'relu', 'scale': 1.0,
    'scaled_init': False,
}  # fmt: skip


def published(shapes, size):
    """The shape of that size by name; ValueError if there is none."""
    if size not in shapes:
        raise ValueError(f'size is {size!r}, not one of {list(shapes)}')
    names = 'num_hiddens', 'num_heads', 'num_blks'
    return dict(zip(names, shapes[size], strict=True))


def check_ids(X, config, start=0):
    """Raise ValueError unless `X` holds ids that the model can embed."""
    if X.dim() != 2 or X.numel() == 0:
        raise ValueError(
            f'X of shape {tuple(X.shape)} is not (batch, num_steps), both '
            'at least 1'
        )
    if start + X.shape[1] > config.max_len:
        raise ValueError(
            f'{start + X.shape[1]} tokens, more than max_len, {config.max_len}'
        )
    low, high = X.min().item(), X.max().item()
    if low < 0 or high >= config.vocab_size:
        raise ValueError(
            f'token id {low if low < 0 else high} outside the vocabulary of '
            f'{config.vocab_size}'
        )


def mask_of_each(mask, config):
    """The masks of the blocks: one for all of them, or a list of theirs.

    Raises ValueError for a list with more or fewer masks than blocks.
    """
    masks = mask if isinstance(mask, list) else [mask] * config.num_blks
    if len(masks) != config.num_blks:
        raise ValueError(f'{len(masks)} masks for {config.num_blks} blocks')
    return masks


def check_segments(segments, X, config):
    """Raise ValueError unless `segments` has an id for each token of `X`."""
    if segments.shape != X.shape:
        raise ValueError(
            f'segments of shape {tuple(segments.shape)} for tokens of shape '
            f'{tuple(X.shape)}'
        )
    low, high = segments.min().item(), segments.max().item()
    if low < 0 or high >= config.num_segments:
        raise ValueError(
            f'segment {low if low < 0 else high} outside 0..'
            f'{config.num_segments - 1}'
        )


def norm(config, width=None):
    """The normalization layer of `config`, for `num_hiddens` features."""
    layer = nn.RMSNorm if config.rms_norm else nn.LayerNorm
    return layer(width or config.num_hiddens, eps=config.norm_eps)


class FeedForward(nn.Sequential):
    """The position-wise feed-forward network of one block."""

    def __init__(self, config):
        num_hiddens, wide = config.num_hiddens, config.ffn_num_hiddens
        gates = 2 if config.activation == 'gated_gelu' else 1
        super().__init__(
            nn.Linear(num_hiddens, gates * wide, config.bias),
            ACTIVATIONS[config.activation](),
            nn.Linear(wide, num_hiddens, config.bias),
        )


class Block(nn.Module):
    """Attention and feed-forward network, each with norm and residual.

    Post-norm is the order of Vaswani et al. (2017) and GPT, pre-norm that of
    GPT-2 (Radford et al., 2019, section 2.3). (batch, num_steps,
    num_hiddens) in and out.
    """

    def __init__(self, config):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attention = MultiHeadAttention(config)
        self.ffn = FeedForward(config)
        self.norm1, self.norm2 = norm(config), norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def residual(self, X, norm, layer):
        if self.pre_norm:
            return X + self.dropout(layer(norm(X)))
        return norm(X + self.dropout(layer(X)))

    def forward(self, X, mask=None, bias=None, cache=None):
        X = self.residual(
            X, self.norm1, lambda Y: self.attention(Y, mask, bias, cache)
        )
        return self.residual(X, self.norm2, self.ffn)


class DecoderBlock(Block):
    """A block with cross-attention to a memory between its two parts.

    `caches` are one for the block's own tokens and one for the memory.
    (Vaswani et al., 2017, section 3.1)
    """

    def __init__(self, config):
        super().__init__(config)
        self.across, self.norm3 = CrossAttention(config), norm(config)

    def forward(self, X, mask, bias, memory, memory_mask, caches):
        X = self.residual(
            X, self.norm1, lambda Y: self.attention(Y, mask, bias, caches[0])
        )
        X = self.residual(
            X, self.norm3,
            lambda Y: self.across(Y, memory, memory_mask, caches[1]),
        )  # fmt: skip
        return self.residual(X, self.norm2, self.ffn)


def init_weights(model, config):
    """Draw all weights from N(0, init_std), biases zero.

    With `config.scaled_init`, the layers that write to the residual stream
    are divided by the square root of their number, 2 * num_blks (Radford et
    al., 2019, section 2.3).
    """
    for name, p in model.named_parameters():
        if p.dim() > 1:
            writes = name.endswith(('W_o.weight', 'ffn.2.weight'))
            shrink = config.scaled_init and writes
            num_writes = 2 * config.num_blks if shrink else 1
            nn.init.normal_(p, std=config.init_std / math.sqrt(num_writes))
        elif name.endswith('bias'):
            nn.init.zeros_(p)


class MaskedTokenHead(nn.Module):
    """From representations to scores for every token of the vocabulary.

    (..., num_hiddens) in, (..., vocab_size) out. The last product shares
    its weights with the token embedding.
    """

    def __init__(self, config, embedding):
        super().__init__()
        num_hiddens, width = config.num_hiddens, config.embedding_size
        self.transform = nn.Identity()
        if config.mlm_transform:
            self.transform = nn.Sequential(
                nn.Linear(num_hiddens, width),
                ACTIVATIONS[config.activation](),
                norm(config, width),
            )
        elif width != num_hiddens:
            self.transform = nn.Linear(num_hiddens, width)
        self.decoder = nn.Linear(width, config.vocab_size)
        if config.tie_weights:
            self.decoder.weight = embedding

    def forward(self, H):
        return self.decoder(self.transform(H))


def new_blks(config):
    """The list of blocks, all one and the same with `share_blks`."""
    if config.share_blks:
        return [Block(config)] * config.num_blks
    return [Block(config) for _ in range(config.num_blks)]


class GPT(nn.Module):
    """The decoder-only Transformer (Radford et al., 2018 and 2019).

    Maps token ids (batch, num_steps) to next-token scores (batch, num_steps,
    vocab_size). `mask` is causal unless given; a list of masks has one for
    each block (Brown et al., 2020, section 2.1). `caches` comes from
    `new_caches` and makes `X` the continuation of what was fed before.
    Raises ValueError for ids outside the vocabulary, an empty batch, more
    than `max_len` tokens, and a list with another number of masks.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(
            config.vocab_size, config.num_hiddens
        )
        self.pos_embedding = nn.Embedding(config.max_len, config.num_hiddens)
        self.dropout = nn.Dropout(config.dropout)
        self.blks = nn.ModuleList(
            Block(config) for _ in range(config.num_blks)
        )
        self.norm = norm(config) if config.pre_norm else nn.Identity()
        self.head = nn.Linear(
            config.num_hiddens, config.vocab_size, bias=False
        )
        if config.tie_weights:
            self.head.weight = self.token_embedding.weight
        init_weights(self, config)

    def encode(self, X, mask=None, caches=None):
        start = len(caches[0]) if caches else 0
        check_ids(X, self.config, start)
        num_steps = X.shape[1]
        positions = torch.arange(start, start + num_steps, device=X.device)
        H = self.token_embedding(X) + self.pos_embedding(positions)
        H = self.dropout(H)  # (batch, num_steps, num_hiddens)
        if mask is None:
            mask = causal_mask(num_steps, start + num_steps, X.device)
        masks = mask_of_each(mask, self.config)
        for i, blk in enumerate(self.blks):
            H = blk(H, masks[i], cache=caches[i] if caches else None)
        return self.norm(H)

    def forward(self, X, mask=None, caches=None):
        return self.head(self.encode(X, mask, caches))

    def new_caches(self):
        return [KVCache() for _ in self.blks]


class BERT(nn.Module):
    """The encoder-only Transformer (Devlin et al., 2019, section 3).

    Maps token ids (batch, num_steps) to scores for the token at every
    position, (batch, num_steps, vocab_size). `segments` holds 0 or 1 per
    token, `valid_lens` (batch,) says where padding begins; `mask` hides more
    than padding. With `share_blks` and an `embedding_size` it is ALBERT (Lan
    et al., 2020, section 3.1). Raises ValueError for ids outside the
    vocabulary, an empty batch, more than `max_len` tokens, segments that do
    not fit.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        num_hiddens, width = config.num_hiddens, config.embedding_size
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.pos_embedding = nn.Embedding(config.max_len, width)
        self.segment_embedding = nn.Embedding(config.num_segments, width)
        self.embedding_norm = norm(config, width)
        self.widen = nn.Identity()
        if width != num_hiddens:
            self.widen = nn.Linear(width, num_hiddens)
        self.dropout = nn.Dropout(config.dropout)
        self.blks = nn.ModuleList(new_blks(config))
        self.norm = norm(config) if config.pre_norm else nn.Identity()
        self.mlm = MaskedTokenHead(config, self.token_embedding.weight)
        self.pooler = nn.Sequential(
            nn.Linear(num_hiddens, num_hiddens), nn.Tanh()
        )
        self.nsp = nn.Linear(num_hiddens, 2)
        init_weights(self, config)

    def embed(self, X, segments=None):
        """The input of the blocks: (batch, num_steps, num_hiddens)."""
        check_ids(X, self.config)
        if segments is None:
            segments = torch.zeros_like(X)
        check_segments(segments, X, self.config)
        H = self.token_embedding(X) + self.segment_embedding(segments)
        H = H + self.pos_embedding.weight[: X.shape[1]]
        return self.widen(self.dropout(self.embedding_norm(H)))

    def encode(self, X, segments=None, valid_lens=None, mask=None):
        """The output of the blocks: (batch, num_steps, num_hiddens)."""
        H = self.embed(X, segments)
        if valid_lens is not None:
            padding = padding_mask(valid_lens, X.shape[1])
            mask = padding if mask is None else padding & mask
        for blk in self.blks:
            H = blk(H, mask)
        return self.norm(H)

    def forward(self, X, segments=None, valid_lens=None, mask=None):
        return self.mlm(self.encode(X, segments, valid_lens, mask))


class Finetuned(nn.Module):
    """A pretrained BERT and one new linear layer on top of it.

    Maps what `BERT.encode` takes to `num_outputs` scores per token, (batch,
    num_steps, num_outputs). With `frozen` only the new layer is trained.
    """

    def __init__(self, bert, num_outputs, frozen=False):
        super().__init__()
        self.bert = bert.requires_grad_(not frozen)
        self.head = nn.Linear(bert.config.num_hiddens, num_outputs)

    def forward(self, X, segments=None, valid_lens=None):
        return self.head(self.bert.encode(X, segments, valid_lens))


def bucket(offsets, bidirectional, num_buckets=32, max_distance=128):
    """The bucket of each relative position, key minus query.

    Half of the buckets hold one distance each, the other half grow with the
    logarithm up to `max_distance`; all beyond share the last. If
    `bidirectional`, half of all are for keys to the right; if not, those
    share bucket 0. (Raffel et al., 2020, section 2.1)
    """
    right = 0
    if bidirectional:
        num_buckets //= 2
        right = (offsets > 0) * num_buckets
        distance = offsets.abs()
    else:
        distance = -offsets.clamp(max=0)
    exact = num_buckets // 2
    growth = (distance.clamp(min=1) / exact).log() / math.log(
        max_distance / exact
    )
    far = exact + (growth * (num_buckets - exact)).long()
    far = far.clamp(max=num_buckets - 1)
    return right + torch.where(distance < exact, distance, far)


class RelativeBias(nn.Module):
    """A number per head and bucket, added to the attention scores.

    Maps numbers of queries and keys to (1, num_heads, num_queries,
    num_keys); the queries are the last positions of the keys. (Raffel et
    al., 2020, section 2.1)
    """

    def __init__(self, config, bidirectional):
        super().__init__()
        self.bidirectional, self.config = bidirectional, config
        self.table = nn.Embedding(config.num_buckets, config.num_heads)

    def forward(self, num_queries, num_keys):
        keys = torch.arange(num_keys, device=self.table.weight.device)
        offsets = keys - keys[num_keys - num_queries :, None]
        buckets = bucket(
            offsets,
            self.bidirectional,
            self.config.num_buckets,
            self.config.max_distance,
        )  # (num_queries, num_keys)
        return self.table(buckets).permute(2, 0, 1)[None]


class Stack(nn.Module):
    """The blocks of an encoder or a decoder, with one relative bias for all.

    (batch, num_steps, num_hiddens) in and out; what follows the mask goes
    to every block.
    """

    def __init__(self, config, block, bidirectional):
        super().__init__()
        self.blks = nn.ModuleList(
            block(config) for _ in range(config.num_blks)
        )
        self.relative_bias = RelativeBias(config, bidirectional)
        self.norm = norm(config) if config.pre_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, H, mask, num_keys, *inputs, caches=None):
        bias = self.relative_bias(H.shape[1], num_keys)
        H = self.dropout(H)
        for i, blk in enumerate(self.blks):
            cache = () if caches is None else (caches[i],)
            H = blk(H, mask, bias, *inputs, *cache)
        return self.dropout(self.norm(H))


class T5(nn.Module):
    """The encoder-decoder Transformer (Raffel et al., 2020, section 2.1).

    Maps an input text `X` (batch, num_inputs) and the target so far, `Y`
    (batch, num_steps), to scores of the next target tokens, (batch,
    num_steps, vocab_size). `valid_lens` (batch,) says where the padding of
    `X` begins. Positions are relative; `max_len` only limits memory. Raises
    ValueError for ids outside the vocabulary, an empty batch, and more than
    `max_len` tokens.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(
            config.vocab_size, config.num_hiddens
        )
        self.encoder = Stack(config, Block, bidirectional=True)
        self.decoder = Stack(config, DecoderBlock, bidirectional=False)
        self.head = nn.Linear(config.num_hiddens, config.vocab_size, False)
        if config.tie_weights:
            self.head.weight = self.token_embedding.weight
        init_weights(self, config)

    def encode(self, X, valid_lens=None):
        """The memory of a text: (batch, num_inputs, num_hiddens)."""
        check_ids(X, self.config)
        n = X.shape[1]
        mask = None if valid_lens is None else padding_mask(valid_lens, n)
        return self.encoder(self.token_embedding(X), mask, n)

    def decode(self, Y, memory, valid_lens=None, caches=None):
        """Scores of the tokens after each of `Y`, given a memory."""
        start = len(caches[0][0]) if caches else 0
        check_ids(Y, self.config, start)
        num_keys = start + Y.shape[1]
        mask = causal_mask(Y.shape[1], num_keys, Y.device)
        padding = None
        if valid_lens is not None:
            padding = padding_mask(valid_lens, memory.shape[1])
        H = self.decoder(
            self.token_embedding(Y), mask, num_keys, memory, padding,
            caches=caches or [(None, None)] * self.config.num_blks,
        )  # fmt: skip
        if self.config.tie_weights:
            H = H * self.config.num_hiddens**-0.5
        return self.head(H)

    def forward(self, X, Y, valid_lens=None, caches=None):
        return self.decode(Y, self.encode(X, valid_lens), valid_lens, caches)

    def new_caches(self):
        return [(KVCache(), KVCache()) for _ in self.decoder.blks]


# ---- Processes ----


def processes():
    """The number of this process and how many there are: (rank, world).

    Joins the others on the first call under `torchrun`; without it, (0, 1).
    """
    if 'RANK' in os.environ and not dist.is_initialized():
        dist.init_process_group()
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def share(batch, rank, world):
    """This process's rows of a tensor, or of each of a tuple of tensors.

    Raises ValueError for fewer rows than processes.
    """
    if isinstance(batch, (tuple, list)):
        return tuple(share(X, rank, world) for X in batch)
    if len(batch) < world:
        raise ValueError(f'{len(batch)} rows in a batch, {world} processes')
    return batch[rank::world]


def total_of(values, device):
    """The sums over all processes of a few numbers, as a list."""
    values = torch.tensor(values, dtype=torch.float64, device=device)
    if dist.is_initialized():
        dist.all_reduce(values)
    return values.tolist()


class Runner(nn.Module):
    """A model that is called with a function of it, `function(model, ...)`.

    So the parameters are exchanged around any function, not `forward` only.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, function, *inputs):
        return function(self.model, *inputs)


def parallelize(model, shard=False):
    """A `Runner` of `model` for all processes.

    Data-parallel, each process holds the whole model and the gradients are
    averaged (Li et al., 2020). With `shard` it holds one part of every
    parameter, and gathers a block when it needs it (Zhao et al., 2023).
    Raises ValueError for `shard` without `torchrun`.
    """
    world, runner = processes()[1], Runner(model)
    if shard:
        if not dist.is_initialized():
            raise ValueError('shard is for processes started by torchrun')
        device = next(model.parameters()).device
        mesh = dist.init_device_mesh(device.type, (world,))
        for module in list(model.modules()):
            if isinstance(module, Block):
                fully_shard(module, mesh=mesh)
        return fully_shard(runner, mesh=mesh, reshard_after_forward=True)
    if world == 1:
        return runner
    return DistributedDataParallel(runner, static_graph=True)


# ---- Training ----


def orthogonalize(G, num_iters=5):
    """Bring all singular values of the matrix `G` near one.

    Newton-Schulz iteration of an odd polynomial (Jordan et al., 2024).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    X = G / (G.norm() + 1e-7)
    tall = X.shape[0] > X.shape[1]
    X = X.T if tall else X
    for _ in range(num_iters):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X.T if tall else X


def on_whole(function, G):
    """`function` of a matrix that may be sharded, sharded the same way."""
    if not isinstance(G, DTensor):
        return function(G)
    whole = function(G.full_tensor())
    whole = DTensor.from_local(whole, G.device_mesh, [Replicate()])
    return whole.redistribute(placements=G.placements)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalized, for matrices.

    Jordan et al. (2024). Updates have the root mean square 0.2 of a typical
    AdamW step, so that both optimizers take one learning rate (Liu et al.,
    2025, section 2.2). Products are in bfloat16 on a GPU, else in float32.
    Raises ValueError for a parameter that is not a matrix.
    """

    def __init__(self, params, lr=1e-3, momentum=0.9, weight_decay=0.1):
        super().__init__(
            params,
            {'lr': lr, 'momentum': momentum, 'weight_decay': weight_decay},
        )
        for p in self.param_groups[0]['params']:
            if p.dim() != 2:
                raise ValueError(f'parameter of {p.dim()} dimensions, not 2')

    @torch.no_grad()
    def step(self, closure=None):  # torch passes it when it loads a state
        for group in self.param_groups:
            lr, beta = group['lr'], group['momentum']
            for p in group['params']:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault('momentum', torch.zeros_like(p))
                m.lerp_(p.grad, 1 - beta)
                G = p.grad.lerp(m, beta)
                G = on_whole(orthogonalize, G.bfloat16() if G.is_cuda else G)
                p.mul_(1 - lr * group['weight_decay'])
                p.add_(G.to(p.dtype), alpha=-0.2 * lr * max(p.shape) ** 0.5)


def make_optimizers(model, optimizer, lr, betas, weight_decay):
    """The optimizers of `train`: decay on matrices only, in blocks Muon."""
    if optimizer not in ('muon', 'adamw'):
        raise ValueError(f"optimizer is {optimizer!r}, not 'muon' or 'adamw'")
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    inside = {n for n, p in named if 'blks.' in n and p.dim() == 2}
    if optimizer == 'adamw':
        inside = set()
    rest = [p for name, p in named if name not in inside]
    groups = [
        {'params': [p for p in rest if p.dim() > 1]},
        {'params': [p for p in rest if p.dim() < 2], 'weight_decay': 0.0},
    ]
    optimizers = [
        torch.optim.AdamW(
            groups, lr, betas, weight_decay=weight_decay, fused=True
        )
    ]
    if inside:
        matrices = [p for name, p in named if name in inside]
        optimizers.append(Muon(matrices, lr, weight_decay=weight_decay))
    return optimizers


@dataclasses.dataclass
class History:
    """What `train` measured at each step and at each evaluation.

    `tokens` and `seconds` add up over the steps; evaluation is not timed.
    """

    loss: list = dataclasses.field(default_factory=list)
    lr: list = dataclasses.field(default_factory=list)
    tokens: list = dataclasses.field(default_factory=list)
    seconds: list = dataclasses.field(default_factory=list)
    eval_step: list = dataclasses.field(default_factory=list)
    eval_loss: list = dataclasses.field(default_factory=list)

    def append(self, loss, lr, tokens, seconds):
        self.loss.append(loss)
        self.lr.append(lr)
        self.tokens.append(tokens + (self.tokens or [0])[-1])
        self.seconds.append(seconds + (self.seconds or [0.0])[-1])


def lr_factor(step, num_steps, warmup=0, schedule='cosine', final=0.1):
    """The share of the learning rate at `step`: up linearly, then down."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, num_steps - 1 - warmup)
    down = {
        'constant': 0.0,
        'linear': done,
        'cosine': (1 - math.cos(math.pi * done)) / 2,
    }[schedule]
    return 1 - (1 - final) * down


def to_device(batch, device):
    """Move a tensor, or each of a tuple of tensors, to `device`."""
    if isinstance(batch, (tuple, list)):
        return tuple(to_device(X, device) for X in batch)
    return batch.to(device)


def forever(batches):
    """Go through `batches` again and again; ValueError when it is empty."""
    while True:
        batch = None
        for batch in batches:
            yield batch
        if batch is None:
            raise ValueError('batches is empty, or an iterator at its end')


def write_whole(path, write):
    """Call `write(file)` so that `path` is replaced whole or not at all."""
    part = Path(f'{path}.part')
    try:
        with part.open('wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save_checkpoint(path, step, model, optimizers, history, settings):
    """Write all that `train` needs to go on after `step` steps.

    The file is the same for any number of processes; the first writes it.
    """
    cuda = next(model.parameters()).is_cuda
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights, moments = get_state_dict(model, optimizers, options=options)
    state = {
        'step': step,
        'settings': settings,
        'history': dataclasses.asdict(history),
        'model': weights,
        'optimizers': moments,
        'rng': torch.get_rng_state(),
        'cuda_rng': torch.cuda.get_rng_state() if cuda else None,
    }
    if processes()[0] == 0:
        write_whole(path, lambda file: torch.save(state, file))
    if dist.is_initialized():
        dist.barrier()


def load_checkpoint(path, model, optimizers, settings):
    """Put a checkpoint into model and optimizers and return the rest of it.

    Raises ValueError for a file that is no checkpoint, or one of another
    model or of other settings.
    """
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
        theirs = state['settings']
    except Exception as error:
        raise ValueError(f'{path} is not a checkpoint: {error}') from error
    for name, value in settings.items():
        if theirs[name] != value:
            raise ValueError(
                f'{path} was made with {name} = {theirs[name]}, not {value}'
            )
    shapes = {name: p.shape for name, p in model.state_dict().items()}
    if shapes != {name: p.shape for name, p in state['model'].items()}:
        raise ValueError(f'{path} is of another model')
    set_state_dict(
        model, optimizers,
        model_state_dict=state['model'],
        optim_state_dict=state['optimizers'],
        options=StateDictOptions(full_state_dict=True),
    )  # fmt: skip
    return state


def set_rate(optimizers, rate):
    """Give all parameters the learning rate `rate`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group['lr'] = rate


def update(runner, batches, loss_fn, optimizers, clip, precision):
    """One step on the mean over the labels of all `batches`.

    Returns the mean loss and the number of labels. Raises
    FloatingPointError, with the model as it was, if the loss is not finite.
    """
    params = [p for p in runner.parameters() if p.requires_grad]
    device, total, num_labels = params[0].device, 0.0, 0
    rank, world = processes()
    for batch in batches:
        batch = to_device(share(batch, rank, world), device)
        with torch.autocast(device.type, precision, precision is not None):
            loss, n = runner(loss_fn, batch)
        total, num_labels = total + loss.item() * n, num_labels + n
        (loss * n * world).backward()
    total, num_labels = total_of((total, num_labels), device)
    if not math.isfinite(total):
        raise FloatingPointError(f'loss is {total / num_labels}')
    for p in params:
        if p.grad is not None:
            p.grad.div_(num_labels)
    nn.utils.clip_grad_norm_(params, clip)
    for optimizer in optimizers:
        optimizer.step()
    runner.zero_grad()
    return total / num_labels, int(num_labels)


def train(
    model, batches, loss_fn, num_steps, lr=2e-3, optimizer='muon',
    betas=(0.9, 0.95), weight_decay=0.1, warmup=0, schedule='cosine',
    final=0.1, clip=1.0, accumulate=1, eval_fn=None, eval_every=0,
    checkpoint=None, checkpoint_every=100, precision=None, shard=False,
):  # fmt: skip
    """Train `model` for `num_steps` steps and return the `History`.

    `loss_fn(model, batch)` returns a mean loss and the number of labels it
    is the mean of. `optimizer` is 'muon' (with AdamW for what lies outside
    the blocks) or 'adamw'. The learning rate goes up over `warmup` steps and
    falls to `final` times `lr` by `schedule`: 'cosine', 'linear' or
    'constant'. A step averages the gradient over `accumulate` batches.
    `eval_fn(model)` is called every `eval_every` steps and at the end.

    With a `checkpoint` path, training is saved every `checkpoint_every`
    steps and goes on from there; the batches seen so far are drawn again and
    dropped, so they must come in the same order. Ctrl-C ends training and
    keeps model and history. On a GPU with bfloat16 the loss is computed
    under autocast in it; `precision` sets another type.

    Under `torchrun` the processes share every batch among them, as many
    rows each, and with `shard` also the parameters; then `model` stays
    sharded. The first process shows the progress.

    Raises ValueError for settings out of range, for empty batches and for
    an unfitting checkpoint, FloatingPointError for a loss that is not finite.
    """
    limits = {'num_steps': num_steps, 'accumulate': accumulate,
              'checkpoint_every': checkpoint_every}  # fmt: skip
    for name, value in limits.items():
        if value < 1:
            raise ValueError(f'{name} is {value}, below 1')
    if schedule not in ('cosine', 'linear', 'constant'):
        raise ValueError(f'unknown schedule {schedule!r}')
    settings = {
        'num_steps': num_steps, 'lr': lr, 'optimizer': optimizer,
        'betas': tuple(betas), 'weight_decay': weight_decay,
        'warmup': warmup, 'schedule': schedule, 'final': final,
        'clip': clip, 'accumulate': accumulate,
    }  # fmt: skip
    if precision is None and next(model.parameters()).is_cuda:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        precision = torch.bfloat16 if native else None
    runner, rank = parallelize(model, shard), processes()[0]
    optimizers = make_optimizers(model, optimizer, lr, betas, weight_decay)
    history, start, batches = History(), 0, forever(batches)
    if checkpoint and Path(checkpoint).exists():
        state = load_checkpoint(checkpoint, model, optimizers, settings)
        history, start = History(**state['history']), state['step']
        for _ in range(start * accumulate):
            next(batches)
        torch.set_rng_state(state['rng'])
        if state['cuda_rng'] is not None:
            torch.cuda.set_rng_state(state['cuda_rng'])
    model.train()
    bar = tqdm(
        range(start, num_steps), initial=start, total=num_steps,
        leave=False, disable=rank > 0 or 'TQDM_DISABLE' in os.environ,
    )  # fmt: skip
    try:
        for step in bar:
            began = time.perf_counter()
            rate = lr * lr_factor(step, num_steps, warmup, schedule, final)
            set_rate(optimizers, rate)
            loss, num_labels = update(
                runner, islice(batches, accumulate), loss_fn, optimizers,
                clip, precision,
            )  # fmt: skip
            seconds = time.perf_counter() - began
            history.append(loss, rate, num_labels, seconds)
            bar.set_postfix(loss=f'{loss:.3f}', refresh=False)
            done, last = step + 1, step + 1 == num_steps
            if eval_fn and (last or (eval_every and done % eval_every == 0)):
                history.eval_step.append(done)
                with torch.no_grad():
                    history.eval_loss.append(runner(eval_fn))
            if checkpoint and (last or done % checkpoint_every == 0):
                save_checkpoint(
                    checkpoint, done, model, optimizers, history, settings
                )
    except FloatingPointError as error:
        raise FloatingPointError(
            f'{error} at step {step}, learning rate {rate:.3g}'
        ) from None
    except KeyboardInterrupt:
        if rank == 0:
            print(f'stopped by hand after {len(history.loss)} steps')
    finally:
        bar.close()
        model.zero_grad()
        model.eval()
    return history


# ---- Objectives ----


def token_loss(logits, labels):
    """Mean cross-entropy in nats over the labels that are not -100.

    `logits` is (..., vocab_size), `labels` (...). Returns the loss and the
    number of labels. Raises ValueError when no label is left.
    """
    num_labels = (labels != -100).sum().item()
    if num_labels == 0:
        raise ValueError(f'no label in a batch of {tuple(labels.shape)}')
    loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
    return loss, num_labels


def lm_loss(model, X):
    """Predict every token from those before it: targets are inputs shifted.

    `X` is (batch, num_steps + 1) ids, in which -100 pads the ends of short
    sequences. Returns the mean loss in nats and the number of targets.
    """
    inputs, labels = X[:, :-1].clamp(min=0), X[:, 1:]
    return token_loss(model(inputs), labels)


def hide(X, chosen, vocab_size, mask_id, num_special, generator=None):
    """Replace the `chosen` tokens: 80 % masked, 10 % random, 10 % kept.

    `X` holds ids and `chosen` booleans, both (batch, num_steps). Returns the
    inputs and the labels, which are -100 where nothing was chosen. (Devlin et
    al., 2019, section 3.1)
    """
    labels = X.masked_fill(~chosen, -100)
    luck = torch.rand(X.shape, generator=generator)
    others = torch.randint(
        num_special, vocab_size, X.shape, generator=generator
    )
    inputs = X.masked_fill(chosen & (luck < 0.8), mask_id)
    inputs = torch.where(chosen & (luck >= 0.9), others, inputs)
    return inputs, labels


def mask_tokens(
    X, vocab_size, rate=0.15, mask_id=3, num_special=5, generator=None
):
    """Choose tokens at random and `hide` them: returns inputs and labels.

    `X` is (batch, num_steps) ids; those below `num_special` are special and
    never chosen. Raises ValueError for a rate outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f'rate is {rate}, outside [0, 1]')
    chosen = torch.rand(X.shape, generator=generator) < rate
    chosen &= X.ge(num_special)
    return hide(X, chosen, vocab_size, mask_id, num_special, generator)


def mlm_loss(model, batch):
    """Cross-entropy at the chosen positions of masked texts.

    `batch` is (X, segments, valid_lens, labels); scores are computed for
    the labels only. (Devlin et al., 2019, section 3.1)
    """
    X, segments, valid_lens, labels = batch
    chosen = labels != -100
    H = model.encode(X, segments, valid_lens)[chosen]
    return token_loss(model.mlm(H), labels[chosen])


def bert_loss(model, batch):
    """The sum of BERT's two losses, masked tokens and next sentence.

    `batch` is (X, segments, valid_lens, labels, is_next), the last (batch,)
    with 1 where the second text follows the first. The mean of each is
    taken over its own labels. (Devlin et al., 2019, section 3.1)
    """
    X, segments, valid_lens, labels, is_next = batch
    chosen = labels != -100
    H = model.encode(X, segments, valid_lens)
    mlm, num_labels = token_loss(model.mlm(H[chosen]), labels[chosen])
    nsp, _ = token_loss(model.nsp(model.pooler(H[:, 0])), is_next)
    return mlm + nsp, num_labels


def segment(total, parts, width, generator=None):
    """Cut each total into parts of at least one, all cuts equally likely.

    `total` and `parts` are (batch,), `width` is at least the largest total.
    Returns lengths, (batch, largest number of parts), zero beyond `parts`.
    """
    gaps = torch.arange(width)  # a cut is after one of the first total - 1
    luck = torch.rand(len(total), width, generator=generator)
    rank = luck.masked_fill(gaps >= total[:, None] - 1, 2).argsort().argsort()
    cuts = F.pad(rank < parts[:, None] - 1, (1, 0))[:, :width]
    part = cuts.cumsum(1)  # (batch, width): the part of each unit
    lengths = torch.zeros(len(total), int(parts.max()), dtype=torch.long)
    return lengths.scatter_add(1, part, (gaps < total[:, None]).long())


def count_spans(valid_lens, density=0.15, mean_length=3.0):
    """How many tokens of each text to hide, and in how many spans.

    At least one token, and not all; both are (batch,). Raises ValueError for
    a density outside (0, 1) and a mean length below one.
    """
    if not 0 < density < 1 or mean_length < 1:
        raise ValueError(
            f'density is {density}, outside (0, 1), or mean_length is '
            f'{mean_length}, below 1'
        )
    hidden = (valid_lens * density).round().long().clamp(min=1)
    hidden = torch.minimum(hidden, valid_lens - 1)
    spans = (hidden / mean_length).round().long().clamp(min=1)
    return hidden, torch.minimum(spans, valid_lens - hidden + 1)


def choose_spans(
    valid_lens, num_steps, density=0.15, mean_length=3.0, generator=None
):
    """Choose spans of tokens to hide, anywhere in each text.

    Of each text, `density` of the tokens are chosen, at least one and not
    all, in spans of `mean_length` on average. Returns booleans (batch,
    num_steps). The spans are those of Raffel et al. (2020, section 3.1.4),
    but a text may also end with a token that is kept. Raises ValueError for
    texts of fewer than two tokens and like `count_spans`.
    """
    if valid_lens.min() < 2 or valid_lens.max() > num_steps:
        raise ValueError(
            f'valid_lens is {valid_lens.tolist()}, not in 2..{num_steps}'
        )
    hidden, spans = count_spans(valid_lens, density, mean_length)
    gone = segment(hidden, spans, num_steps, generator)
    kept = valid_lens - hidden + 2  # one more at either end
    kept = segment(kept, spans + 1, num_steps + 2, generator)
    kept[:, 0] -= 1
    ends = torch.stack((kept[:, :-1], gone), 2).flatten(1).cumsum(1)
    positions = torch.arange(num_steps).expand(len(valid_lens), -1)
    run = torch.searchsorted(ends, positions.contiguous(), right=True)
    return (run % 2 == 1) & (positions < valid_lens[:, None])


def to_left(X, kept, pad):
    """The kept entries of each row, moved left, and how many there are."""
    order = (~kept).long().argsort(dim=1, stable=True)
    valid_lens = kept.sum(1)
    X = X.masked_fill(~kept, pad).gather(1, order)
    return X[:, : int(valid_lens.max())], valid_lens


def corrupt_spans(X, valid_lens, hidden, sentinels):
    """Replace hidden spans by sentinels; the target says what they hid.

    `X` holds ids and `hidden` booleans, both (batch, num_steps); `sentinels`
    are the ids that stand for the first span, the second, and so on. Returns
    inputs padded with 0, their lengths, and labels padded with -100. Raises
    ValueError if a text has more spans than there are sentinels but one,
    which ends the target. (Raffel et al., 2020, section 3.1.4)
    """
    real = torch.arange(X.shape[1]) < valid_lens[:, None]
    hidden = hidden & real
    first = hidden & ~F.pad(hidden, (1, 0))[:, :-1]
    span = first.cumsum(1)  # (batch, num_steps): spans begun so far
    if span.max() >= len(sentinels):
        raise ValueError(
            f'{span.max()} spans and an end for {len(sentinels)} sentinels'
        )
    stand_in = sentinels[(span - 1).clamp(min=0)]
    inputs, input_lens = to_left(
        torch.where(first, stand_in, X), real & (~hidden | first), 0
    )
    pairs = torch.stack((stand_in, X), 2).flatten(1)  # sentinel, token, ...
    kept = torch.stack((first, hidden), 2).flatten(1)
    end = sentinels[span[:, -1:]]
    labels, _ = to_left(
        torch.cat((pairs, end), 1), F.pad(kept, (0, 1), value=True), -100
    )
    return inputs, input_lens, labels


def seq2seq_loss(model, batch):
    """Predict each target token from the input and the target before it.

    `batch` is (X, valid_lens, labels), labels (batch, num_steps) padded with
    -100. The decoder starts from id 0. (Raffel et al., 2020, section 2.1)
    """
    X, valid_lens, labels = batch
    Y = F.pad(labels[:, :-1].clamp(min=0), (1, 0))
    return token_loss(model(X, Y, valid_lens), labels)


def text_scores(model, X, segments, valid_lens):
    """Scores of texts, or pairs of them: (batch, num_classes).

    The mean, over the tokens that are not padding, of what `model` maps its
    input to, (batch, num_steps, num_classes).
    """
    real = padding_mask(valid_lens, X.shape[1])[:, 0].transpose(1, 2)
    scores = model(X, segments, valid_lens) * real
    return scores.sum(1) / valid_lens[:, None]


def text_loss(model, batch):
    """Classify texts: `batch` is (X, segments, valid_lens, labels).

    The labels are (batch,) classes.
    """
    *inputs, labels = batch
    return token_loss(text_scores(model, *inputs), labels)


def tag_loss(model, batch):
    """Classify every token; labels are (batch, num_steps)."""
    *inputs, labels = batch
    return token_loss(model(*inputs), labels)


def span_scores(model, X, segments, valid_lens):
    """Scores of each token as first and as last one of an answer.

    (batch, 2, num_steps) from a `model` with two outputs per token; padding
    gets minus infinity. (Devlin et al., 2019, section 4.2)
    """
    hidden = ~padding_mask(valid_lens, X.shape[1])[:, 0]
    scores = model(X, segments, valid_lens).transpose(1, 2)
    return scores.masked_fill(hidden, -math.inf)


def span_loss(model, batch):
    """Find an answer: labels are (batch, 2), its first and last position.

    The loss is the mean of both cross-entropies along the text.
    """
    *inputs, labels = batch
    return token_loss(span_scores(model, *inputs), labels)


@torch.no_grad()
def evaluate(model, batches, loss_fn):
    """Mean of `loss_fn` over all labels of `batches`, without dropout.

    Raises ValueError when there is no batch.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    total = num_labels = 0
    for batch in batches:
        loss, n = loss_fn(model, to_device(batch, device))
        total, num_labels = total + loss.item() * n, num_labels + n
    model.train(was_training)
    if num_labels == 0:
        raise ValueError('no batch to evaluate')
    return total / num_labels


# ---- Generation ----


def sample(logits, temperature=1.0, top_k=None, top_p=None, generator=None):
    """Draw one token per row of `logits`, (batch, vocab_size) -> (batch,).

    Temperature 0 takes the best. `top_k` keeps that many of the best tokens
    (Fan et al., 2018), `top_p` the fewest best whose probabilities reach
    it (Holtzman et al., 2020). Raises ValueError for values out of range.
    """
    if temperature < 0:
        raise ValueError(f'temperature is {temperature}, below 0')
    if temperature == 0:
        return logits.argmax(-1)
    probs, tokens = F.softmax(logits / temperature, -1).sort(-1, True)
    if top_k is not None:
        if top_k < 1:
            raise ValueError(f'top_k is {top_k}, below 1')
        probs[:, top_k:] = 0
    if top_p is not None:
        if not 0 < top_p <= 1:
            raise ValueError(f'top_p is {top_p}, outside (0, 1]')
        probs[probs.cumsum(-1) - probs >= top_p] = 0
    choice = torch.multinomial(probs, 1, generator=generator)
    return tokens.gather(-1, choice)[:, 0]


@torch.no_grad()
def generate(
    model, X, num_tokens, temperature=1.0, top_k=None, top_p=None,
    stop=None, use_cache=True, generator=None,
):  # fmt: skip
    """Continue the prompts `X`, (batch, num_steps), by up to `num_tokens`.

    Returns prompts and continuations, (batch, num_steps + num_tokens) or
    fewer when all have met the `stop` token, which then fills the rest of
    their rows. With the cache each step feeds one token; without, all.
    Raises ValueError when the result would pass the model's `max_len`.
    """
    if X.shape[1] + num_tokens > model.config.max_len:
        raise ValueError(
            f'{X.shape[1]} + {num_tokens} tokens, more than max_len, '
            f'{model.config.max_len}'
        )
    was_training = model.training
    model.eval()
    caches = model.new_caches() if use_cache else None
    X = X.to(next(model.parameters()).device)
    stopped = torch.zeros(len(X), dtype=torch.bool, device=X.device)
    inputs = X
    for _ in range(num_tokens):
        logits = model(inputs, caches=caches)[:, -1]
        token = sample(logits, temperature, top_k, top_p, generator)
        if stop is not None:
            token = token.masked_fill(stopped, stop)
            stopped = stopped | (token == stop)
        X = torch.cat((X, token[:, None]), dim=1)
        inputs = token[:, None] if use_cache else X
        if stopped.all():
            break
    model.train(was_training)
    return X


class Answering(nn.Module):
    """A T5 that has read `X`: maps target ids to scores, like a GPT.

    The text is encoded once, when the first scores are asked for.
    """

    def __init__(self, model, X, valid_lens=None):
        super().__init__()
        device = next(model.parameters()).device
        self.model, self.config, self.memory = model, model.config, None
        self.X = X.to(device)
        self.valid_lens = None if valid_lens is None else valid_lens.to(device)

    def forward(self, Y, caches=None):
        if self.memory is None:
            self.memory = self.model.encode(self.X, self.valid_lens)
        return self.model.decode(Y, self.memory, self.valid_lens, caches)

    def new_caches(self):
        return self.model.new_caches()


def answer(model, X, valid_lens=None, num_tokens=32, **options):
    """Let a T5 answer texts `X`, (batch, num_inputs), each by new tokens.

    Returns ids (batch, up to `num_tokens`), without the 0 that the decoder
    starts from; `options` are those of `generate`. Raises ValueError like
    `generate`.
    """
    start = torch.zeros(len(X), 1, dtype=torch.long)
    reader = Answering(model, X, valid_lens).train(model.training)
    return generate(reader, start, num_tokens, **options)[:, 1:]
