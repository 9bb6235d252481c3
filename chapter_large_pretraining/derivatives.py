"""Derivatives of BERT: other pairs, masks, sizes, teachers and orders.

RoBERTa, ALBERT, SpanBERT, DistilBERT, ELECTRA and XLNet, each as what it
changes about BERT. A batch is (X, segments, valid_lens, labels), as
`utils.mlm_loss` takes it, with more behind it where an objective needs more.
"""

import dataclasses

import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

import corpora
from corpora import MASK, NUM_SPECIAL
from finetuning import in_parts, text_scores
from utils import BERT, init_weights, place_spans, token_loss

# ---- RoBERTa and ALBERT: pairs of texts ------------------------------------


def foreign_pairs(A, B, generator=None):
    """Half of the texts B come from another document.

    Takes padded ids (n, width) of texts A and their continuations B. Returns
    X, segments, valid_lens and is_next (n,), 1 where B is the continuation.
    (Devlin et al., 2019, section 3.1)
    """
    is_next = torch.rand(len(A), generator=generator) < 0.5
    others = torch.randperm(len(A), generator=generator)
    B = torch.where(is_next[:, None], B, B[others])
    return *corpora.join(A, B), is_next.long()


def swapped_pairs(A, B, generator=None):
    """Half of the pairs in the wrong order, as `foreign_pairs`.

    (Lan et al., 2020, section 3.1)
    """
    in_order = torch.rand(len(A), generator=generator) < 0.5
    both = corpora.stack([A, B])  # (2n, width)
    A, B = both[: len(A)], both[len(A) :]
    first = torch.where(in_order[:, None], A, B)
    second = torch.where(in_order[:, None], B, A)
    return *corpora.join(first, second), in_order.long()


# ---- SpanBERT ---------------------------------------------------------------


def draw_lengths(num_hidden, p=0.2, longest=10, generator=None):
    """Lengths of spans that add up to `num_hidden`, (batch,) each.

    Drawn from the geometric distribution of `p`, of which what is above
    `longest` is left out; the last one is cut. The result is (batch, most
    spans), filled up with 0. (Joshi et al., 2020, section 3.1)
    """
    probs = (1 - p) ** torch.arange(longest)
    probs = probs.expand(len(num_hidden), -1)
    lengths = 1 + torch.multinomial(
        probs, int(num_hidden.max()), replacement=True, generator=generator
    )
    before = lengths.cumsum(1) - lengths
    lengths = lengths.minimum((num_hidden[:, None] - before).clamp(min=0))
    return lengths[:, : int((lengths > 0).sum(1).max())]


def number_spans(valid_lens, num_steps, rate=0.15, generator=None):
    """Which span each token belongs to: 1, 2, ..., and 0 for none.

    Spans hide `rate` of the tokens, do not touch each other, the first token
    or the last one. The result is (batch, num_steps). Raises ValueError for
    a rate outside (0, 0.5] and for texts of fewer than three tokens.
    """
    if not 0 < rate <= 0.5 or valid_lens.min() < 3:
        raise ValueError(
            f'rate is {rate}, outside (0, 0.5], or the shortest '
            f'text, {valid_lens.min()}, is below 3'
        )
    inner = valid_lens - 2
    num_hidden = (inner * rate).round().long().clamp(min=1)
    lengths = draw_lengths(num_hidden, generator=generator)
    num_spans = (lengths > 0).sum(1)
    starts = 1 + place_spans(lengths, num_spans, inner, num_steps, generator)
    offsets = torch.arange(num_steps) - starts[..., None]
    inside = (offsets >= 0) & (offsets < lengths[..., None])
    return (inside * torch.arange(1, 1 + lengths.shape[1])[:, None]).sum(1)


def hide_spans(X, span, vocab_size, generator=None):
    """Hide numbered spans, each as a whole masked, random or kept.

    `X` and `span` are (batch, num_steps). Returns inputs and labels, as
    `utils.hide`. (Joshi et al., 2020, section 3.1)
    """
    chosen = (span > 0) & (X >= NUM_SPECIAL)
    labels = X.masked_fill(~chosen, -100)
    draws = torch.rand(X.shape, generator=generator).gather(1, span)
    others = torch.randint(
        NUM_SPECIAL, vocab_size, X.shape, generator=generator
    )
    inputs = X.masked_fill(chosen & (draws < 0.8), MASK)
    inputs = torch.where(chosen & (draws >= 0.9), others, inputs)
    return inputs, labels


def borders(span):
    """For each token the nearest ones on both sides that are in no span.

    Positions (batch, num_steps) each, of the token itself outside spans.
    """
    positions = torch.arange(span.shape[1], device=span.device)
    positions = positions.expand_as(span)
    before = positions.masked_fill(span > 0, 0).cummax(1).values
    after = positions.masked_fill(span > 0, span.shape[1])
    return before, after.flip(1).cummin(1).values.flip(1)


class SpanBERT(nn.Module):
    """A BERT and the head of the span boundary objective.

    From the representations of both borders and a token's place in its span
    the head makes what the embedding reads. (Joshi et al., 2020, section 3.2)
    """

    def __init__(self, config, longest=10):
        super().__init__()
        width = config.num_hiddens
        self.bert = BERT(config)
        self.place = nn.Embedding(longest, width)
        self.border = nn.Sequential(
            nn.Linear(3 * width, width),
            nn.GELU(),
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width),
        )
        init_weights(self.border, config)
        nn.init.normal_(self.place.weight, std=config.init_std)


def border_scores(model, H, span, chosen):
    """Scores of the chosen tokens from the borders of their spans.

    `H` is (batch, num_steps, num_hiddens), the result (num_chosen,
    vocab_size).
    """
    before, after = (at[chosen] for at in borders(span))
    row, position = chosen.nonzero().T
    place = model.place(position - before - 1)
    sides = H[row, before], H[row, after], place
    return model.bert.mlm(model.border(torch.cat(sides, 1)))


def span_bert_loss(model, batch):
    """The sum of both losses; `batch` ends with the numbers of the spans."""
    X, segments, valid_lens, labels, span = batch
    chosen = labels != -100
    H = model.bert.encode(X, segments, valid_lens)
    mlm, num_labels = token_loss(model.bert.mlm(H[chosen]), labels[chosen])
    border, _ = token_loss(
        border_scores(model, H, span, chosen), labels[chosen]
    )
    return mlm + border, num_labels


# ---- DistilBERT -------------------------------------------------------------


def first_blocks(student, teacher):
    """Give a student the embedding, the head and the first blocks."""
    kept = student.state_dict()
    student.load_state_dict(
        {name: p for name, p in teacher.state_dict().items() if name in kept}
    )
    return student


def soft_loss(scores, target, temperature=2.0):
    """Kullback-Leibler divergence from softened targets, times T squared.

    Both are (n, vocab_size), before the softmax. (Hinton et al., 2015,
    section 2)
    """
    log_probs = (scores / temperature).log_softmax(-1)
    target = (target / temperature).softmax(-1)
    return F.kl_div(log_probs, target, reduction='batchmean') * temperature**2


def distil_loss(student, batch, teacher, weights=(5, 2, 1)):
    """Soft targets, hard targets and the direction of the representations.

    `weights` are those of the three. (Sanh et al., 2019, section 2)
    """
    X, segments, valid_lens, labels = batch
    chosen = labels != -100
    H = student.encode(X, segments, valid_lens)[chosen]
    with torch.no_grad():
        taught = teacher.encode(X, segments, valid_lens)[chosen]
        target = teacher.mlm(taught)
    scores = student.mlm(H)
    hard, num_labels = token_loss(scores, labels[chosen])
    losses = (
        soft_loss(scores, target),
        hard,
        1 - F.cosine_similarity(H, taught).mean(),
    )
    total = sum(w * loss for w, loss in zip(weights, losses, strict=True))
    return total / sum(weights), num_labels


# ---- ELECTRA ----------------------------------------------------------------


class Electra(nn.Module):
    """A small generator and a discriminator that share their embedding.

    (Clark et al., 2020, section 2, and section 3.2 on the embedding)
    """

    def __init__(self, config, width=32, num_blks=1, everywhere=True):
        super().__init__()
        small = dataclasses.replace(
            config,
            num_hiddens=width,
            num_blks=num_blks,
            head_width=None,
            ffn_num_hiddens=None,
            embedding_size=config.embedding_size,
        )
        self.bert, self.generator = BERT(config), BERT(small)
        self.generator.token_embedding = self.bert.token_embedding
        self.generator.mlm.decoder.weight = self.bert.token_embedding.weight
        self.replaced = nn.Linear(config.num_hiddens, 1)
        self.everywhere = everywhere
        init_weights(self.replaced, config)


def replace_chosen(generator, batch):
    """Put what the generator guesses in the place of the chosen tokens.

    The generator sees <mask> there. Returns the texts, 1 where a token is not
    the original one (batch, num_steps), the generator's loss and its number
    of labels.
    """
    X, segments, valid_lens, labels = batch
    chosen = labels != -100
    X = X.masked_fill(chosen, MASK)
    H = generator.encode(X, segments, valid_lens)
    scores = generator.mlm(H[chosen])
    loss, num_labels = token_loss(scores, labels[chosen])
    probs = scores.detach().softmax(-1)
    guesses = torch.multinomial(probs, 1)[:, 0]
    replaced = torch.zeros(X.shape, device=X.device)
    replaced[chosen] = (guesses != labels[chosen]).float()
    return X.masked_scatter(chosen, guesses), replaced, loss, num_labels


def electra_loss(model, batch, weight=50):
    """Masked words for the generator, replaced ones for the discriminator.

    (Clark et al., 2020, section 2)
    """
    X, replaced, mlm, num_labels = replace_chosen(model.generator, batch)
    _, segments, valid_lens, labels = batch
    asked = X >= NUM_SPECIAL if model.everywhere else labels != -100
    H = model.bert.encode(X, segments, valid_lens)
    scores = model.replaced(H[asked])[:, 0]
    wrong = F.binary_cross_entropy_with_logits(scores, replaced[asked])
    return mlm + weight * wrong, num_labels


# ---- XLNet ------------------------------------------------------------------


def draw_order(X, rate=1 / 6, generator=None):
    """The rank of each token in a random order whose end is predicted.

    All that is given has rank 0, the `rate` of the words that are predicted
    have ranks 1, 2, ...: (batch, num_steps). (Yang et al., 2019, sections 2.2
    and 2.3)
    """
    draws = torch.rand(X.shape, generator=generator)
    draws = draws.masked_fill(X < NUM_SPECIAL, 2)
    place = draws.argsort(1).argsort(1)  # 0 is the last in the order
    num_targets = ((X >= NUM_SPECIAL).sum(1) * rate).ceil().long()
    return (num_targets[:, None] - place).clamp(min=0)


def two_stream_mask(rank, at):
    """Who may attend to whom: content rows, then the query rows at `at`.

    `rank` is (batch, num_steps), `at` (batch, num_queries) positions; the
    mask is (batch, 1, num_steps + num_queries, num_steps): only content is
    read. (Yang et al., 2019, section 2.3)
    """
    content = rank[:, :, None] >= rank[:, None]  # itself included
    query = rank.gather(1, at)[:, :, None] > rank[:, None]
    return torch.cat([content, query], 1)[:, None]


def two_streams(model, X, segments, valid_lens, rank, at):
    """The query stream at the positions `at`, (batch, num_queries, width).

    A query begins as <mask> with position and segment, and never reads the
    token that stands there.
    """
    num_steps, num_queries = X.shape[1], at.shape[1]
    blank = torch.full_like(X, MASK)
    queries = model.embed(blank, segments).gather(
        1, at[..., None].expand(-1, -1, model.config.num_hiddens)
    )
    H = torch.cat([model.embed(X, segments), queries], 1)
    mask = two_stream_mask(rank, at)
    real = torch.arange(num_steps, device=X.device) < valid_lens[:, None]
    mask = F.pad(mask & real[:, None, None], (0, num_queries))
    for blk in model.blks:
        H = blk(H, mask)
    return model.norm(H[:, num_steps:])


def xlnet_loss(model, batch):
    """Predict the last tokens of an order; `batch` ends with the ranks."""
    X, segments, valid_lens, rank = batch
    at = rank.topk(int((rank > 0).sum(1).max()), 1).indices
    H = two_streams(model, X, segments, valid_lens, rank, at)
    asked = rank.gather(1, at) > 0
    return token_loss(model.mlm(H[asked]), X.gather(1, at)[asked])


# ---- What frozen representations hold --------------------------------------


def probe(train, test):
    """Accuracy of a logistic regression on frozen features.

    Both are features (n, width) and classes (n,).
    """
    linear = LogisticRegression(max_iter=2000).fit(*train)
    return float(linear.score(*test))


@torch.no_grad()
def text_features(encode, data):
    """Mean representations of texts (n, width), and their classes."""
    *inputs, labels = data
    return in_parts(text_scores, encode, inputs), labels


@torch.no_grad()
def word_features(encode, data):
    """Representations of all words with a label (n, width), and these."""
    *inputs, labels = data
    at = labels != -100
    return encode(*inputs)[at], labels[at]


@torch.no_grad()
def hidden_features(encode, data):
    """Representations of the hidden words, and the polarity around them."""
    *inputs, labels = data
    at, polarity = labels.T
    return encode(*inputs)[range(len(at)), at], polarity
