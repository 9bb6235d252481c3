"""Rivals of a language model: n-grams, interpolated, and a file compressor.

An n-gram is a run of n tokens. Texts are rows of token ids, (num_tokens,).
"""

import lzma

import numpy as np

NUM_BUCKETS = 10  # of contexts, by how often they occurred
XZ = [{'id': lzma.FILTER_LZMA2, 'preset': 9, 'dict_size': 2**24}]


def pack(tokens, n, vocab_size):
    """Each run of `n` tokens as one integer, (num_tokens - n + 1,).

    Runs that end with the same n - 1 tokens agree up to a multiple of
    `vocab_size` to the power n - 1. Raises ValueError for a run that does
    not fit into 63 bits, and for fewer than `n` tokens.
    """
    if n * np.log2(vocab_size) > 63:
        raise ValueError(f'{n} tokens of {vocab_size} kinds: over 63 bits')
    if len(tokens) < n:
        raise ValueError(f'{len(tokens)} tokens, fewer than {n}')
    tokens = np.asarray(tokens)
    size = len(tokens) - n + 1
    runs = np.zeros(size, int)
    for i in range(n):
        runs *= vocab_size
        runs += tokens[i : i + size]
    return runs


class Counts:
    """How often each run of up to `order` tokens occurs in a text."""

    def __init__(self, tokens, vocab_size, order):
        self.vocab_size = vocab_size
        self.tables = [
            np.unique(pack(tokens, n, vocab_size), return_counts=True)
            for n in range(order + 1)
        ]

        self.last = [
            pack(tokens[len(tokens) - n :], n, vocab_size)[0]
            for n in range(order + 1)
        ]

    def of(self, tokens, n, followed=False):
        """The count of each run of `n` tokens, (num_tokens - n + 1,).

        If `followed`, without the run at the end of the text.
        """
        runs, times = self.tables[n]
        wanted = pack(tokens, n, self.vocab_size)
        i = np.searchsorted(runs, wanted).clip(max=len(runs) - 1)
        found = np.where(runs[i] == wanted, times[i], 0)
        return found - (wanted == self.last[n]) if followed else found


def best_share(p, q, start=0.5, num_steps=30):
    """The s for which s p + (1 - s) q makes a text most probable.

    Each step of expectation maximization takes for s the share of the credit
    that p has for what came (Jelinek and Mercer, 1980). So that the share
    stays below 1, one more token counts as due to q. `p` and `q` are
    (num_tokens,), probabilities of the tokens of the text; `q` is not zero.
    """
    share = start
    for _ in range(num_steps):
        credit = share * p / (share * p + (1 - share) * q)
        share = credit.sum() / (len(p) + 1)
    return share


class NGrams:
    """An interpolated n-gram model (Jelinek and Mercer, 1980).

    P_n(w | h) = s c(h w) / c(h) + (1 - s) P_(n-1)(w | h'), where h are the
    n - 1 tokens before w, h' is h without the first of them, c counts in the
    training text, and P_0 is uniform. The share s depends on n and on the
    power of two below c(h) + 1; it is fitted on the last twentieth of the
    text, with counts in the rest. Then all of it is counted. Raises
    ValueError for an order below 1 and for too short a text.
    """

    def __init__(self, tokens, vocab_size, order=3):
        if order < 1 or len(tokens) < 20 * (order + 1):
            raise ValueError(
                f'order is {order}, below 1, or {len(tokens)} tokens, fewer '
                f'than {20 * (order + 1)}'
            )
        self.vocab_size, self.order = vocab_size, order
        self.shares = np.zeros((order + 1, NUM_BUCKETS))
        kept = len(tokens) * 19 // 20
        self.counts = Counts(tokens[:kept], vocab_size, order)
        self.fit(tokens[kept:])
        self.counts = Counts(tokens, vocab_size, order)

    def relative(self, text, n):
        """c(h w) / c(h) for text[n - 1], ..., and the bucket of c(h)."""
        contexts = self.counts.of(text, n - 1, followed=True)
        contexts = contexts[: len(text) - n + 1]
        p = self.counts.of(text, n) / np.maximum(contexts, 1)
        bucket = np.log2(contexts + 1).astype(int)
        return p, bucket.clip(max=NUM_BUCKETS - 1)

    def fit(self, text):
        """Set the shares by a text that was not counted, order by order."""
        for n in range(1, self.order + 1):
            lower = self.probs(text, n - 1)[n > 1 :]
            p, bucket = self.relative(text, n)
            self.shares[n] = best_share(p, lower)
            for b in np.unique(bucket):
                here = bucket == b
                self.shares[n, b] = best_share(p[here], lower[here])
            self.shares[n, 0] = 0  # of what never occurred

    def probs(self, text, order=None):
        """P(text[t] | those before) for t from order - 1 on, by `order`.

        (num_tokens - order + 1,), or (num_tokens,) for order 0; `order` is
        the model's own unless given, and at most that.
        """
        order = self.order if order is None else order
        probs = np.full(len(text), 1 / self.vocab_size)
        for n in range(1, order + 1):
            p, bucket = self.relative(text, n)
            share = self.shares[n][bucket]
            probs = share * p + (1 - share) * probs[n > 1 :]
        return probs


def xz_size(text):
    """Bytes of a text compressed by xz, without a header."""
    return len(lzma.compress(text.encode(), lzma.FORMAT_RAW, filters=XZ))


def xz_bits(known, new):
    """Bits that xz needs for the text `new`, once it has read `known`."""
    return 8 * (xz_size(known + new) - xz_size(known))


# ---- Comparing models ----


def bits_per_byte(log_p, num_tokens, text):
    """Bits per byte of a text of `num_tokens`, from log-probabilities.

    `log_p` are those of most of its tokens, in nats; the others count as
    their mean.
    """
    nats = -np.mean(log_p) * num_tokens
    return float(nats / np.log(2) / len(text.encode()))


def side_by_side(log_p, tables, tokens):
    """Log-probabilities of the same tokens by a language model and n-grams.

    `log_p` are those of tokens 1, 2, ..., by the language model, `tables`
    maps names to `NGrams`. Returns the first of the tokens that all
    predict, and a dict from the names and 'GPT' to arrays of one length.
    """
    first = max(1, *(model.order - 1 for model in tables.values()))
    found = {
        name: np.log(model.probs(tokens))[first + 1 - model.order :]
        for name, model in tables.items()
    }
    found['GPT'] = np.asarray(log_p, float)[first - 1 :]
    n = min(map(len, found.values()))
    return first, {name: values[:n] for name, values in found.items()}


def by_context(log_p, first, counts, tokens, edges):
    """Mean loss by how often the two tokens before occurred in training.

    `log_p` maps names to log-probabilities of tokens `first`, ... of
    `tokens`, and `counts` are of the training text. Each range goes from
    one of the `edges` to the next, the last has no end. Returns a dict from
    ranges to the share of tokens and the losses, in nats, by name. Raises
    ValueError for a range without tokens, and for a `first` below 2.
    """
    if first < 2:
        raise ValueError(f'first is {first}: not two tokens before')
    n = len(next(iter(log_p.values())))
    times = counts.of(tokens, 2)[first - 2 :][:n]
    rows = {}
    for low, high in zip(edges, [*edges[1:], np.inf], strict=True):
        here = (times >= low) & (times < high)
        name = f'{low}' if high == low + 1 else f'{low} to {high - 1}'
        name = f'from {low}' if high == np.inf else name
        if not here.any():
            raise ValueError(f'no token after a pair that occurred {name}')
        losses = {
            k: -float(values[here].mean()) for k, values in log_p.items()
        }
        rows[name] = {'of tokens': f'{here.mean():.1%}'} | losses
    return rows
