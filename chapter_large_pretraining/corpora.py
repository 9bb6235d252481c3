"""The chapter's texts: where they come from and how they become batches."""

import ast
import dataclasses
import gzip
import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
import sysconfig
import tokenize
import warnings
from pathlib import Path

import torch
from facts import WORDS as WORDS
from facts import FactWorld as FactWorld
from real_data import imdb as imdb
from real_data import snli as snli
from small_world import Examples, join
from small_world import SmallWorld as SmallWorld
from storage import DownloadError, cached, data_folder, download
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text in two parts, each a list of documents."""

    name: str
    train: list[str]
    valid: list[str]


def _digest(*words):
    return hashlib.sha256(' '.join(words).encode()).hexdigest()


# ---- Documentation: prose that is on every reader's machine ----

FORMAT = 1  # raise it whenever the same sources give another corpus
PACKAGES = ('numpy', 'matplotlib', 'pandas')
SKIPPED = (
    {'test', 'tests', 'idle_test', 'idlelib', 'lib2to3', 'turtledemo'}
    | {'site-packages', 'dist-packages', 'ensurepip', 'pydoc_data'}
    | {'_vendor', '_vendored', '__pycache__'}
)
MIN_CHARS = 80
MIN_LINE = 20
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _versions():
    yield from (str(FORMAT), sys.version)
    for name in PACKAGES:
        try:
            yield f'{name}=={importlib.metadata.version(name)}'
        except importlib.metadata.PackageNotFoundError:
            yield f'no {name}'


def _sources():
    """Python files of the standard library and of PACKAGES, in order."""
    folders = [sysconfig.get_path('stdlib')]
    for spec in map(importlib.util.find_spec, PACKAGES):
        if spec and spec.submodule_search_locations:
            folders += spec.submodule_search_locations
    for folder in folders:
        for root, inner, files in os.walk(folder):
            inner[:] = sorted(set(inner) - SKIPPED)
            names = sorted(name for name in files if name.endswith('.py'))
            yield from (Path(root, name) for name in names)


def _nodes(path):
    """Syntax nodes of a source file, none if it cannot be parsed."""
    try:
        with tokenize.open(path) as file:
            return list(ast.walk(ast.parse(file.read())))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _docstrings(path):
    for node in _nodes(path):
        if isinstance(node, DOCUMENTED):
            yield ast.get_docstring(node, clean=False) or ''


def _topics(path):
    for node in _nodes(path):
        if isinstance(node, ast.Dict):
            texts = (v for v in node.values if isinstance(v, ast.Constant))
            yield from (text.value for text in texts)


def _clean(text):
    text = inspect.cleandoc(text)
    text = ''.join(c if c.isprintable() or c == '\n' else ' ' for c in text)
    return re.sub(' +\n', '\n', text).strip()


def _new_lines(text, known):
    """The text without its long lines that are `known`, which grows."""
    kept = []
    for line in text.split('\n'):
        words = ' '.join(line.split())
        if len(words) < MIN_LINE or words not in known:
            kept.append(line)
        known.add(words)
    return re.sub('\n{3,}', '\n\n', '\n'.join(kept)).strip()


def _split(texts):
    """Documents in the order of their hashes; one in 16 is for validation.

    Equal up to white space counts as equal. A line of MIN_LINE characters
    is kept where it comes first, so that no validation text repeats the
    training text.
    """
    documents = {}
    for text in texts:
        documents.setdefault(_digest(*text.split()), text)
    parts, known = {'train': [], 'valid': []}, set()
    in_order = sorted(documents.items(), key=lambda x: (x[0][0] == '0', x[0]))
    for key, text in in_order:
        text = _new_lines(text, known)
        if len(text) >= MIN_CHARS:
            parts['valid' if key[0] == '0' else 'train'].append(text)
    return parts


def _read_documentation():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        texts = [text for path in _sources() for text in _docstrings(path)]
        stdlib = Path(sysconfig.get_path('stdlib'))
        texts += _topics(stdlib / 'pydoc_data' / 'topics.py')
    texts = [text for text in map(_clean, texts) if len(text) >= MIN_CHARS]
    if not texts:
        raise RuntimeError(
            f'no documentation found: neither {stdlib} nor any of '
            f'{", ".join(PACKAGES)} holds Python sources with docstrings'
        )
    return _split(texts)


def documentation(data=None):
    """English prose from the docstrings of Python and of PACKAGES.

    The sources are parsed, never imported. About 10 thousand documents and
    6 million characters, kept in the folder `data` (default: DATA) under a
    name that stands for all versions involved. Raises RuntimeError if there
    is no text at all.
    """
    name = f'documentation-{_digest(*_versions())[:12]}.json.gz'
    parts = cached(data_folder(data) / name, _read_documentation)
    return Corpus('documentation', **parts)


def text_folder(folder):
    """The text files of a folder and of those inside it, one document each.

    Reads .txt, .md and .rst files as UTF-8, gzipped ones too; long lines
    that come again are left out as in `documentation`. Raises ValueError if
    there is no folder of that name, or no text in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f'{folder} is not a folder')
    texts = []
    for path in sorted(p for p in folder.rglob('*') if p.is_file()):
        if re.search(r'\.(txt|md|rst)(\.gz)?$', path.name):
            opener = gzip.open if path.suffix == '.gz' else open
            with opener(path, 'rt', encoding='utf-8', errors='replace') as f:
                texts.append(_clean(f.read()))
    parts = _split(text for text in texts if len(text) >= MIN_CHARS)
    if not all(parts.values()):
        raise ValueError(
            f'{folder} has {len(texts)} .txt, .md or .rst files, too few for '
            f'training and validation texts of {MIN_CHARS} characters'
        )
    return Corpus(folder.resolve().name, **parts)


def fingerprint(corpus):
    """Twelve hexadecimal digits that stand for the texts of a corpus."""
    texts = [*corpus.train, *corpus.valid]
    return _digest(*map(_digest, texts))[:12]


# ---- Tokens ----

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


# ---- The Time Machine: the novel that d2l trains its first models on ----

TIME_MACHINE_SHA1 = '090b5e7e70c295757f55df93cb0a180b9691891a'


def time_machine(data=None, url=None):
    """The paragraphs of H. G. Wells's novel, the last tenth for validation.

    Downloaded into `data` (default: DATA) from `url` (default: d2l's).
    Where that fails, a line says so and the documentation corpus is
    returned instead.
    """
    if url is None:
        from utils import d2l

        url = d2l.DATA_URL + 'timemachine.txt'
    try:
        path = download(url, TIME_MACHINE_SHA1, data)
    except DownloadError as error:
        print(f'{error}; the documentation corpus is used instead')
        return documentation(data)
    text = path.read_text(encoding='utf-8')
    paragraphs = [part.strip() for part in re.split(r'\n\s*\n', text)]
    paragraphs = [part for part in paragraphs if part]
    cut = len(paragraphs) * 9 // 10
    return Corpus('time machine', paragraphs[:cut], paragraphs[cut:])
