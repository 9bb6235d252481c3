"""Plain texts to pretrain on: documentation, or a folder of your own."""

import ast
import dataclasses
import gzip
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
import sysconfig
import tokenize
import warnings
import zlib
from pathlib import Path

from .storage import cached, data_folder, digest


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text in two parts, each a list of documents."""

    name: str
    train: list[str]
    valid: list[str]


FORMAT = 1  # raise it whenever the same sources give another corpus
PACKAGES = ('numpy', 'matplotlib', 'pandas')
SKIPPED = (
    {'test', 'tests', 'idle_test', 'idlelib', 'lib2to3', 'turtledemo'}
    | {'site-packages', 'dist-packages', 'ensurepip', 'pydoc_data'}
    | {'_vendor', '_vendored', '__pycache__'}
)
MIN_CHARS = 80
MIN_LINE = 20
FEW_FILES = 100  # of so few, one in 16 for validation may be none
MAX_CHARS = 4000
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
        documents.setdefault(digest(*text.split()), text)
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
    name = f'documentation-{digest(*_versions())[:12]}.json.gz'
    parts = cached(data_folder(data) / name, _read_documentation)
    return Corpus('documentation', **parts)


def _read_text(path):
    """The text of a file, gzipped or not; ValueError if it is damaged."""
    opener = gzip.open if path.suffix == '.gz' else open
    try:
        with opener(path, 'rt', encoding='utf-8') as file:
            return _clean(file.read())
    except (OSError, EOFError, UnicodeError, zlib.error) as error:
        raise ValueError(f'{path} is not a text in UTF-8: {error}') from error


def _cut(text):
    """A text in documents of at most MAX_CHARS, more than half of that.

    It is cut at the last end of a paragraph, or else of a line or a word.
    """
    start = 0
    while len(text) - start > MAX_CHARS:
        middle, end = start + MAX_CHARS // 2, start + MAX_CHARS
        cuts = (text.rfind(mark, middle, end) for mark in ('\n\n', '\n', ' '))
        cut = next((cut for cut in cuts if cut > 0), end)
        yield text[start:cut].strip()
        start = cut
    yield text[start:].strip()


def text_folder(folder):
    """The text files of a folder and of those inside it, one document each.

    Reads .txt, .md and .rst files as UTF-8, gzipped ones too; long lines
    that come again are left out as in `documentation`. Fewer than FEW_FILES
    are cut into documents of MAX_CHARS, at paragraphs where that is possible,
    so that both parts have some of one file. Raises ValueError if there is no
    folder of that name, a file in it cannot be read, or there are not two
    documents.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f'{folder} is not a folder')
    texts = []
    for path in sorted(p for p in folder.rglob('*') if p.is_file()):
        if re.search(r'\.(txt|md|rst)(\.gz)?$', path.name):
            texts.append(_read_text(path))
    documents = texts
    if len(texts) < FEW_FILES:
        documents = [document for text in texts for document in _cut(text)]
    parts = _split(text for text in documents if len(text) >= MIN_CHARS)
    if not all(parts.values()):  # perhaps by chance: one is for validation
        *train, last = parts['train'] + parts['valid'] or ['']
        parts = {'train': train, 'valid': [last]}
    if not all(parts.values()):
        raise ValueError(
            f'{folder} has {len(texts)} .txt, .md or .rst files, too few for '
            f'training and validation texts of {MIN_CHARS} characters'
        )
    return Corpus(folder.resolve().name, **parts)


def fingerprint(corpus):
    """Twelve hexadecimal digits that stand for the texts of a corpus."""
    texts = [*corpus.train, *corpus.valid]
    return digest(*map(digest, texts))[:12]


def sentences(documents):
    """The whole sentences in some documents, each once, without commas.

    One begins with a capital and ends with a full stop; of what stands
    between, 5 to 20 words, none has a digit or a sign that prose has not.
    Paragraphs with examples of code are left out.
    """
    parts = [part for text in documents for part in text.split('\n\n')]
    lines = [
        line.replace('\n', ' ')
        for part in parts
        if '>>>' not in part
        for line in re.split(r'(?<=[.!?])\s+', part)
    ]
    pattern = r"[A-Z][a-z'`]*(?:,? [A-Za-z'`/-]+){5,20}\."
    found = [line for line in lines if re.fullmatch(pattern, line)]
    return list(dict.fromkeys(line.replace(',', '') for line in found))
