"""One block and the models made of it, by configuration."""

import dataclasses
import math

import torch
from torch import nn
from torch.nn import functional as F

from .attention import (
    CrossAttention,
    KVCache,
    MultiHeadAttention,
    causal_mask,
    padding_mask,
)


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
