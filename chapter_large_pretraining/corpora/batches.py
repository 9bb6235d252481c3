"""From texts to token ids, and from token ids to batches."""

import importlib.metadata

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .plain_texts import FORMAT, _digest
from .small_world import Examples, join
from .storage import cached, data_folder

SPECIAL_TOKENS = ['<pad>', '<bos>', '<eos>', '<mask>', '<sep>']


def train_tokenizer(texts, vocab_size=1024):
    """A byte-level BPE tokenizer: any text is decoded as it was encoded.

    SPECIAL_TOKENS get the ids 0 to 4, also where they stand in a text;
    decode with `skip_special_tokens=False` to see them again. Raises
    ValueError if `vocab_size` has no room for them and the 256 bytes.
    """
    limit = len(SPECIAL_TOKENS) + 256
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
    texts = _digest(*map(_digest, corpus.train))
    key = _digest(str(FORMAT), version, texts)[:12]

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
    bos = tokenizer.token_to_id('<bos>')
    rows = []
    for i in range(0, len(texts), 1000):
        encodings = tokenizer.encode_batch_fast(texts[i : i + 1000])
        rows += [torch.tensor([bos, *row.ids]) for row in encodings]
    return torch.cat(rows)


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
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}, not at least 1')
    rows = tokens.unfold(0, num_steps + 1, 1)
    high, generator = len(rows), torch.Generator().manual_seed(seed)

    def draw():
        while True:
            starts = torch.randint(high, (batch_size,), generator=generator)
            yield rows[starts]

    return draw()


def blocks(tokens, num_steps):
    """All of the text once, in rows that share only their border tokens.

    Row i predicts tokens i * num_steps + 1 to (i + 1) * num_steps; a last
    row that would not be full is left out. Returns a LongTensor
    (num_rows, num_steps + 1). Raises ValueError like `windows`.
    """
    _check_rows(tokens, num_steps)
    return tokens.unfold(0, num_steps + 1, num_steps).clone()


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


def by_length(data, batch_size, seed=0):
    """Endless batches of texts of similar length, cut to the longest.

    `data` is (X, segments, valid_lens, ...), tensors with one row per text;
    those of the shape of `X` are cut with it. Each text comes once per
    round, at random. Raises ValueError without texts and for a batch size
    below one.
    """
    X, _, valid_lens, *_ = data
    if len(X) == 0 or batch_size < 1:
        raise ValueError(
            f'{len(X)} texts in batches of {batch_size}, expected at least 1'
        )
    generator = torch.Generator().manual_seed(seed)

    def draw():
        while True:
            order = torch.randperm(len(X), generator=generator)
            order = order[valid_lens[order].argsort(stable=True)]
            batches = order.split(batch_size)
            for i in torch.randperm(len(batches), generator=generator):
                rows = batches[i]
                longest = valid_lens[rows].max()
                yield tuple(
                    T[rows, :longest] if T.shape == X.shape else T[rows]
                    for T in data
                )

    return draw()
