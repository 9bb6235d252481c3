"""What the models are trained to predict. A label of -100 is ignored."""

import math

import torch
from torch.nn import functional as F

from .attention import padding_mask
from .training import to_device


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
