"""Masks, attention by the definition and fused, and what it looked at.

Attention has `num_queries` and `num_keys` positions. Masks are boolean and
**True means: may attend**; they combine with `&`.
"""

import contextlib
import math

import torch
from torch import nn
from torch.nn import functional as F


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
