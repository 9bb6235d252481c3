"""From texts to token ids, and from token ids to batches."""

import dataclasses
import importlib.metadata

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F

from utils import mask_tokens, move_left

from .plain_texts import FORMAT, fingerprint
from .storage import cached, data_folder, digest

SPECIAL_TOKENS = ['<pad>', '<bos>', '<eos>', '<mask>', '<sep>']
NUM_SPECIAL = len(SPECIAL_TOKENS)
PAD, BOS, EOS, MASK, SEP = range(NUM_SPECIAL)


# ---- From texts to token ids ----


def train_tokenizer(texts, vocab_size=1024):
    """A byte-level BPE tokenizer: any text is decoded as it was encoded.

    SPECIAL_TOKENS get the ids 0 to 4, also where they stand in a text;
    decode with `skip_special_tokens=False` to see them again. Raises
    ValueError if `vocab_size` has no room for them and the 256 bytes.
    """
    limit = NUM_SPECIAL + 256
    if vocab_size < limit:
        raise ValueError(f'vocab_size is {vocab_size}, not at least {limit}')
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def documentation_tokenizer(corpus, vocab_size=1024, data=None):
    """`train_tokenizer` on the training part of any corpus, kept in `data`.

    Raises ValueError like `train_tokenizer`.
    """
    version = importlib.metadata.version('tokenizers')
    texts = digest(*map(digest, corpus.train))
    key = digest(str(FORMAT), version, texts)[:12]

    def make():
        return train_tokenizer(corpus.train, vocab_size).to_str()

    path = data_folder(data) / f'tokenizer-{vocab_size}-{key}.json.gz'
    return Tokenizer.from_str(cached(path, make))


def encode(tokenizer, texts):
    """One long row of token ids, `<bos>` before each document.

    Returns a LongTensor (num_tokens,). Raises ValueError without texts.
    """
    if not texts:
        raise ValueError('texts is empty, expected at least 1 document')
    rows = []
    for i in range(0, len(texts), 1000):
        encodings = tokenizer.encode_batch_fast(texts[i : i + 1000])
        rows += [torch.tensor([BOS, *row.ids]) for row in encodings]
    return torch.cat(rows)


def documentation_tokens(corpus, vocab_size=1024, data=None):
    """Both parts of any corpus, encoded by `documentation_tokenizer`.

    Returns LongTensors (num_tokens,), `train` and `valid`, kept in `data`.
    Raises ValueError like `train_tokenizer` and `encode`.
    """
    version = importlib.metadata.version('tokenizers')
    key = digest(str(FORMAT), version, fingerprint(corpus))[:12]

    def make():
        tokenizer = documentation_tokenizer(corpus, vocab_size, data)
        parts = corpus.train, corpus.valid
        return [encode(tokenizer, part).tolist() for part in parts]

    path = data_folder(data) / f'tokens-{vocab_size}-{key}.json.gz'
    return tuple(map(torch.tensor, cached(path, make)))


def _pad(tokenizer, texts, limit):
    rows = tokenizer.encode_batch_fast(list(texts))
    rows = [torch.tensor(row.ids[:limit], dtype=torch.long) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def examples(tokenizer, texts, labels, max_len=128):
    """Examples of texts, or of pairs of texts, with their classes.

    Each text is cut so that a row has at most `max_len` tokens. Raises
    ValueError without texts, for another number of labels, and for a
    `max_len` below 8.
    """
    if len(texts) == 0 or len(texts) != len(labels):
        raise ValueError(f'{len(labels)} labels for {len(texts)} texts')
    if max_len < 8:
        raise ValueError(f'max_len is {max_len}, not at least 8')
    if isinstance(texts[0], str):
        sides = [_pad(tokenizer, texts, max_len - 2)]
    else:
        limit = (max_len - 3) // 2
        sides = [
            _pad(tokenizer, side, limit) for side in zip(*texts, strict=True)
        ]
    return Examples(*join(*sides), torch.tensor(labels))


# ---- Rows of token ids ----


class _Rows:
    """Tensors of one row for each text."""

    def __len__(self):
        return len(self.X)

    def __iter__(self):
        return iter(vars(self).values())

    def __getitem__(self, index):
        """The rows of a slice or of a tensor of indices."""
        return type(self)(*(tensor[index] for tensor in self))


@dataclasses.dataclass(frozen=True)
class Examples(_Rows):
    """Token ids X (n, L), segments (n, L), valid_lens (n,) and labels."""

    X: torch.Tensor
    segments: torch.Tensor
    valid_lens: torch.Tensor
    labels: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Pairs(_Rows):
    """Texts and what they are to be turned into.

    `X` is (n, L) ids padded with 0, `valid_lens` (n,), `labels` (n, M) ids
    that end with <eos>, padded with -100.
    """

    X: torch.Tensor
    valid_lens: torch.Tensor
    labels: torch.Tensor


def join(A, B=None):
    """<bos> A <sep>, or <bos> A <sep> B <sep>, from padded rows of ids.

    Takes LongTensors (n, width). Returns LongTensors X (n, L), segments
    (n, L), 1 for B and the <sep> after it, and valid_lens (n,).
    """
    bos, sep = A.new_full((len(A), 1), BOS), A.new_full((len(A), 1), SEP)
    X = torch.cat([bos, A, sep] + ([] if B is None else [B, sep]), 1)
    segments = torch.zeros_like(X)
    segments[:, A.shape[1] + 2 :] = 1
    segments, _ = move_left(segments, X > 0, 0)
    X, valid_lens = move_left(X, X > 0, 0)
    return X, segments, valid_lens


def stack(parts, pad=0):
    """The rows of several tensors (n, width), padded to one width."""
    width = max(X.shape[1] for X in parts)
    return torch.cat(
        [F.pad(X, (0, width - X.shape[1]), value=pad) for X in parts]
    )


# ---- Batches ----


def random_rows(*tensors, batch_size, seed=0, batch_fn=None):
    """Endless batches of rows drawn at random, with replacement.

    `tensors` have one row for each text. Yields the rows drawn from the
    tensor, or a tuple of those from each; with `batch_fn`, what it makes of
    them: `batch_fn(*rows, generator)`. Raises ValueError without rows, for
    tensors of unequal length, and for a batch size below one.
    """
    num_rows = {len(T) for T in tensors}
    if len(num_rows) != 1 or num_rows == {0}:
        raise ValueError(
            f'tensors have the numbers of rows {[len(T) for T in tensors]}, '
            'expected one number, at least 1'
        )
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}, not at least 1')
    (high,), generator = num_rows, torch.Generator().manual_seed(seed)

    def draw():
        while True:
            i = torch.randint(high, (batch_size,), generator=generator)
            rows = tuple(T[i] for T in tensors)
            if batch_fn:
                yield batch_fn(*rows, generator)
            else:
                yield rows if len(rows) > 1 else rows[0]

    return draw()


def by_length(data, batch_size, seed=0):
    """Endless batches of texts of similar length, cut to the longest.

    `data` is `Examples`, `Pairs`, or (X, segments, valid_lens, ...), tensors
    with one row per text. Those of the shape of `X` are cut with it, the
    labels of `Pairs` to the longest of them. Each text comes once per round,
    at random. Raises ValueError without texts and for a batch size below
    one.
    """
    tensors = tuple(data)
    X = tensors[0]
    if len(X) == 0 or batch_size < 1:
        raise ValueError(
            f'{len(X)} texts in batches of {batch_size}, expected at least 1'
        )
    if isinstance(data, Pairs):
        valid_lens = data.valid_lens
        lengths = [valid_lens, None, (data.labels != -100).sum(1)]
    else:
        valid_lens = tensors[2]
        lengths = [valid_lens if T.shape == X.shape else None for T in tensors]
    generator = torch.Generator().manual_seed(seed)

    def draw():
        while True:
            order = torch.randperm(len(X), generator=generator)
            order = order[valid_lens[order].argsort(stable=True)]
            batches = order.split(batch_size)
            for i in torch.randperm(len(batches), generator=generator):
                rows = batches[i]
                yield tuple(
                    T[rows] if lens is None else T[rows, : lens[rows].max()]
                    for T, lens in zip(tensors, lengths, strict=True)
                )

    return draw()


def masked_batches(data, batch_size, vocab_size, rate, seed=0, **special):
    """Endless batches for `mlm_loss`: those of `by_length`, tokens hidden.

    Every time a text comes up, others of its tokens are hidden; `rate` and
    `special` are those of `utils.mask_tokens`. Raises ValueError like both.
    """
    generator = torch.Generator().manual_seed(seed)
    for X, segments, lens, *_ in by_length(data, batch_size, seed):
        inputs, labels = mask_tokens(
            X, vocab_size, rate, generator=generator, **special
        )
        yield inputs, segments, lens, labels


def _check_rows(tokens, num_steps):
    if num_steps < 1:
        raise ValueError(f'num_steps is {num_steps}, not at least 1')
    if len(tokens) < num_steps + 1:
        raise ValueError(
            f'{len(tokens)} tokens are too few for rows of {num_steps + 1} '
            f'(num_steps is {num_steps})'
        )


def windows(tokens, batch_size, num_steps, seed=0):
    """Endless batches of windows cut from the text at random.

    Yields LongTensors (batch_size, num_steps + 1). Raises ValueError if
    there are fewer than num_steps + 1 tokens, or no rows, or no steps.
    """
    _check_rows(tokens, num_steps)
    rows = tokens.unfold(0, num_steps + 1, 1)
    return random_rows(rows, batch_size=batch_size, seed=seed)


def blocks(tokens, num_steps):
    """All of the text once, in rows that share only their border tokens.

    Row i predicts tokens i * num_steps + 1 to (i + 1) * num_steps; a last
    row that would not be full is left out. Returns a LongTensor
    (num_rows, num_steps + 1). Raises ValueError like `windows`.
    """
    _check_rows(tokens, num_steps)
    return tokens.unfold(0, num_steps + 1, num_steps).clone()
