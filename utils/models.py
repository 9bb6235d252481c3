"""One block and the models made of it, by configuration."""

import dataclasses
import math

import torch
from torch import nn

from .attention import (
    KVCache,
    MultiHeadAttention,
    causal_mask,
    padding_mask,
)

ACTIVATIONS = {
    'relu': nn.ReLU,
    'gelu': nn.GELU,
    'gelu_tanh': lambda: nn.GELU(approximate='tanh'),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The sizes and choices that define a model.

    `ffn_num_hiddens` defaults to four times `num_hiddens`, `embedding_size`
    to `num_hiddens`, `scale` to one over the square root of a head's width.
    With `share_blks` all blocks are one and the same. Raises ValueError for
    a size below one, heads that do not divide `num_hiddens`, a dropout
    outside [0, 1) and an unknown activation.
    """

    vocab_size: int
    num_hiddens: int = 128
    num_heads: int = 4
    num_blks: int = 4
    max_len: int = 128
    ffn_num_hiddens: int | None = None
    embedding_size: int | None = None
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
