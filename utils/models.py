"""One block and the models made of it, by configuration."""

import dataclasses
import math

import torch
from torch import nn

from .attention import KVCache, MultiHeadAttention, causal_mask

ACTIVATIONS = {
    'relu': nn.ReLU,
    'gelu': nn.GELU,
    'gelu_tanh': lambda: nn.GELU(approximate='tanh'),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The sizes and choices that define a model.

    `ffn_num_hiddens` defaults to four times `num_hiddens`, `scale` to one
    over the square root of a head's width. Raises ValueError for a size
    below one, heads that do not divide `num_hiddens`, a dropout outside
    [0, 1) and an unknown activation.
    """

    vocab_size: int
    num_hiddens: int = 128
    num_heads: int = 4
    num_blks: int = 4
    max_len: int = 128
    ffn_num_hiddens: int | None = None
    dropout: float = 0.0
    pre_norm: bool = True
    rms_norm: bool = False
    norm_eps: float = 1e-5
    bias: bool = True
    activation: str = 'gelu'
    scale: float | None = None
    scaled_init: bool = True
    tie_weights: bool = True

    def __post_init__(self):
        if self.ffn_num_hiddens is None:
            object.__setattr__(self, 'ffn_num_hiddens', 4 * self.num_hiddens)
        for name in ('vocab_size', 'num_hiddens', 'num_heads', 'num_blks',
                     'max_len', 'ffn_num_hiddens'):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f'{name} is {getattr(self, name)}, below 1')
        if self.num_hiddens % self.num_heads:
            raise ValueError(
                f'num_hiddens is {self.num_hiddens}, not a multiple of '
                f'num_heads, {self.num_heads}'
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
        if size not in shapes:
            raise ValueError(f'size is {size!r}, not one of {list(shapes)}')
        num_hiddens, num_heads, num_blks = shapes[size]
        defaults = {'max_len': 1024, 'dropout': 0.1, 'activation': 'gelu_tanh'}
        return cls(50257, num_hiddens, num_heads, num_blks,
                   **{**defaults, **changes})  # fmt: skip


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


def norm(config):
    """The normalization layer of `config`."""
    layer = nn.RMSNorm if config.rms_norm else nn.LayerNorm
    return layer(config.num_hiddens, eps=config.norm_eps)


class FeedForward(nn.Sequential):
    """The position-wise feed-forward network of one block."""

    def __init__(self, config):
        num_hiddens, wide = config.num_hiddens, config.ffn_num_hiddens
        super().__init__(
            nn.Linear(num_hiddens, wide, config.bias),
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


def init_weights(model, config):
    """Draw all weights from N(0, 0.02), biases zero.

    With `config.scaled_init`, the layers that write to the residual stream
    are divided by the square root of their number, 2 * num_blks (Radford et
    al., 2019, section 2.3).
    """
    for name, p in model.named_parameters():
        if p.dim() > 1:
            writes = name.endswith(('W_o.weight', 'ffn.2.weight'))
            shrink = config.scaled_init and writes
            std = 0.02 / math.sqrt(2 * config.num_blks if shrink else 1)
            nn.init.normal_(p, std=std)
        elif name.endswith('bias'):
            nn.init.zeros_(p)


class GPT(nn.Module):
    """The decoder-only Transformer (Radford et al., 2018 and 2019).

    Maps token ids (batch, num_steps) to next-token scores (batch, num_steps,
    vocab_size). `mask` is causal unless given. `caches` comes from
    `new_caches` and makes `X` the continuation of what was fed before.
    Raises ValueError for ids outside the vocabulary, an empty batch, and
    more than `max_len` tokens.
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
        for i, blk in enumerate(self.blks):
            H = blk(H, mask, cache=caches[i] if caches else None)
        return self.norm(H)

    def forward(self, X, mask=None, caches=None):
        return self.head(self.encode(X, mask, caches))

    def new_caches(self):
        return [KVCache() for _ in self.blks]
