"""What came after: BART's noisings, experts, and sparse attention.

Texts are ids (batch, num_steps) padded with 0, and their lengths (batch,);
every function of BART's returns both for the spoiled texts (Lewis et al.,
2020, section 2.2).
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from utils import (
    FeedForward,
    causal_mask,
    init_weights,
    lm_loss,
    move_left,
    place_spans,
)


def check_rate(rate):
    """Raise ValueError for a share of tokens outside [0, 1]."""
    if not 0 <= rate <= 1:
        raise ValueError(f'rate is {rate}, outside [0, 1]')


def choose(X, valid_lens, rate, generator=None):
    """Choose each token of the texts with probability `rate`."""
    check_rate(rate)
    real = torch.arange(X.shape[1]) < valid_lens[:, None]
    return real & (torch.rand(X.shape, generator=generator) < rate)


def mask_some(X, valid_lens, rate=0.15, mask_id=3, generator=None):
    """Token masking: random tokens become the mask.

    Raises ValueError for a rate outside [0, 1].
    """
    chosen = choose(X, valid_lens, rate, generator)
    return X.masked_fill(chosen, mask_id), valid_lens


def delete_some(X, valid_lens, rate=0.15, generator=None):
    """Token deletion: random tokens go, and nothing tells where.

    Raises ValueError for a rate outside [0, 1].
    """
    chosen = choose(X, valid_lens, rate, generator)
    real = torch.arange(X.shape[1]) < valid_lens[:, None]
    return move_left(X, real & ~chosen)


def infill(
    X, valid_lens, rate=0.3, mean_length=3.0, mask_id=3, generator=None
):
    """Text infilling: spans become one mask each, whatever their length.

    Lengths are drawn from a Poisson distribution until `rate` of the tokens
    are hidden, or no more spans fit with a token between each two; a span of
    length 0 is a mask where nothing is missing. Raises ValueError for a rate
    outside [0, 1] and a mean length not above 0.
    """
    check_rate(rate)
    if mean_length <= 0:
        raise ValueError(f'mean_length is {mean_length}, not above 0')
    n = X.shape[1]
    total = (valid_lens * rate).round().long()[:, None]
    lengths = torch.full(X.shape, float(mean_length))
    lengths = torch.poisson(lengths, generator=generator).long()
    done = (lengths.cumsum(1) - lengths).minimum(total)  # by the spans before
    lengths = lengths.minimum(total - done)
    num_spans = (done < total).sum(1)
    num_spans = num_spans.minimum(valid_lens - lengths.sum(1) + 1)
    used = torch.arange(num_spans.max()) < num_spans[:, None]
    lengths = lengths[:, : used.shape[1]] * used
    starts = place_spans(lengths, num_spans, valid_lens, n, generator)
    starts = starts.masked_fill(~used, n + 1)[..., None]  # else nowhere
    positions = torch.arange(n + 1)
    begins = (positions == starts).any(1)  # (batch, n + 1)
    hidden = (starts <= positions) & (positions < starts + lengths[..., None])
    kept = ~hidden.any(1) & (positions < valid_lens[:, None])
    X = F.pad(X, (0, 1))
    both = torch.stack((torch.full_like(X, mask_id), X), 2).flatten(1)
    return move_left(both, torch.stack((begins, kept), 2).flatten(1))


def permute_sentences(X, valid_lens, stop_id, generator=None):
    """Sentence permutation: the sentences in random order.

    A sentence ends with `stop_id` or with the text.
    """
    real = torch.arange(X.shape[1]) < valid_lens[:, None]
    ends = X.eq(stop_id) & real
    sentence = ends.cumsum(1) - ends.long()  # (batch, num_steps), from 0
    place = torch.rand(X.shape, generator=generator).gather(1, sentence)
    order = place.masked_fill(~real, 2).argsort(dim=1, stable=True)
    return X.gather(1, order), valid_lens


def rotate(X, valid_lens, generator=None):
    """Document rotation: the text begins at a random token of it."""
    start = torch.rand(len(X), generator=generator) * valid_lens
    positions = torch.arange(X.shape[1]).expand_as(X)
    turned = (positions + start.long()[:, None]) % valid_lens[:, None]
    real = positions < valid_lens[:, None]
    return X.gather(1, torch.where(real, turned, positions)), valid_lens


class SwitchFeedForward(nn.Module):
    """Several feed-forward networks, of which each token goes through one.

    (..., num_hiddens) in and out. The router picks the expert with the
    highest probability, which also scales its output. An expert takes
    `capacity_factor` times its even share of the tokens, first come first
    served; a token beyond that gets zeros, so that only the residual
    connection carries it on. After each call `share` (num_experts,) says
    which part of the tokens wanted which expert, `dropped` which part was
    turned away, and `balance` is the auxiliary loss, at least 1 when all
    experts are wanted alike. Raises ValueError for less than one expert and
    a factor not above 0. (Fedus et al., 2022, sections 2.1 and 2.2)
    """

    def __init__(self, config, num_experts, capacity_factor=1.25):
        super().__init__()
        if num_experts < 1 or capacity_factor <= 0:
            raise ValueError(
                f'num_experts is {num_experts}, below 1, or capacity_factor '
                f'is {capacity_factor}, not above 0'
            )
        self.capacity_factor = capacity_factor
        self.router = nn.Linear(config.num_hiddens, num_experts, bias=False)
        self.experts = nn.ModuleList(
            FeedForward(config) for _ in range(num_experts)
        )

    def forward(self, X):
        H = X.flatten(0, -2)  # (num_tokens, num_hiddens)
        probs = self.router(H).softmax(-1)  # (num_tokens, num_experts)
        gate, choice = probs.max(-1)
        num_tokens, num_experts = probs.shape
        capacity = math.ceil(self.capacity_factor * num_tokens / num_experts)
        Y, num_kept = torch.zeros_like(H), 0
        for i, expert in enumerate(self.experts):
            rows = (choice == i).nonzero()[:capacity, 0]
            Y = Y.index_copy(0, rows, gate[rows, None] * expert(H[rows]))
            num_kept += len(rows)
        self.share = F.one_hot(choice, num_experts).float().mean(0)
        self.dropped = 1 - num_kept / num_tokens
        self.balance = num_experts * (self.share * probs.mean(0)).sum()
        return Y.view_as(X)


def use_experts(gpt, num_experts):
    """Put experts in the place of every feed-forward network of a `GPT`.

    They start like the network that they replace, since `init_weights` goes
    by the class of a layer.
    """
    for blk in gpt.blks:
        blk.ffn.layer = SwitchFeedForward(gpt.config, num_experts)
        init_weights(blk.ffn.layer, gpt.config)


def switches(model):
    """The layers of a model that have experts, a list."""
    return [m for m in model.modules() if hasattr(m, 'experts')]


def balanced_loss(model, X, alpha):
    """`utils.lm_loss` and `alpha` times the auxiliary losses of all layers.

    (Fedus et al., 2022, section 2.2)
    """
    loss, num_labels = lm_loss(model, X)
    balance = sum(layer.balance for layer in switches(model))
    return loss + alpha * balance, num_labels


def banded_mask(num_steps, width, device=None):
    """Let each query attend to the last `width` positions, its own the last.

    The mask is (num_steps, num_steps), the local pattern of the Sparse
    Transformer (Child et al., 2019, section 4.2). Raises ValueError for a
    width below one.
    """
    if width < 1:
        raise ValueError(f'width is {width}, below 1')
    return causal_mask(num_steps, device=device).triu(1 - width)
