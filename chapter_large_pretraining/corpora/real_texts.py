"""Two labelled data sets of d2l: film reviews and pairs of sentences."""

import dataclasses
import gzip
import hashlib
import itertools
import json
import re
import tarfile
import zipfile
import zlib

from .storage import cached, data_folder, download

FORMAT = 1  # raise it whenever the same archive gives another task
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    RuntimeError,
    KeyError,
)


@dataclasses.dataclass(frozen=True)
class Task:
    """Texts, or pairs of texts, each with the index of its class."""

    name: str
    classes: list[str]
    train: list
    train_labels: list[int]
    test: list
    test_labels: list[int]


def _digest(value):
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _clean(content, place):
    try:
        return ' '.join(content.decode().split())
    except UnicodeDecodeError as error:
        raise ValueError(f'{place}: UTF-8 was expected: {error}') from error


def _draw(labels, size):
    """Up to `size` texts and labels in the order of the texts' hashes.

    The classes take turns; one that has run out is passed over.
    """
    rows = sorted((_digest(text), text, labels[text]) for text in labels)
    groups = [[x for x in rows if x[2] == i] for i in {*labels.values()}]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*groups))
    drawn = sorted(itertools.islice(filter(None, turns), size))
    return [row[1] for row in drawn], [row[2] for row in drawn]


def _task(name, key, classes, read, size, data, url, sha1):
    if size < len(classes):
        limit = len(classes)
        raise ValueError(f'num_examples is {size}, not at least {limit}')
    if url is None or sha1 is None:
        from d2l_import import d2l

        url, sha1 = url or d2l.DATA_HUB[key][0], sha1 or d2l.DATA_HUB[key][1]

    def make():
        archive = download(url, sha1, data)
        parts = {'train': {}, 'test': {}}
        try:
            for part, text, label in read(archive):
                parts[part][text] = label
        except DAMAGED as error:
            raise ValueError(f'{archive} cannot be read: {error}') from error
        for part, labels in parts.items():
            for i in {*range(len(classes))} - {*labels.values()}:
                wanted = f'{part} texts of the class {classes[i]}'
                raise ValueError(f'{archive}: {wanted} were expected')
        for text in parts['train']:
            parts['test'].pop(text, None)
        return [x for part in parts.values() for x in _draw(part, size)]

    path = f'{key}-{size}-{_digest([FORMAT, sha1])[:12]}.json.gz'
    lists = cached(data_folder(data) / path, make)
    for texts in lists[::2]:
        texts[:] = [x if type(x) is str else tuple(x) for x in texts]
    return Task(name, list(classes), *lists)


def _read_imdb(archive):
    """Yields part, text and label of every review."""
    pattern = r'aclImdb/(train|test)/(neg|pos)/\d+_\d+\.txt'
    with tarfile.open(archive, 'r:gz') as opened:
        for member in opened:
            match = re.fullmatch(pattern, member.name)
            if match and member.isreg():
                content = opened.extractfile(member).read()
                content = content.replace(b'<br />', b' ')
                text = _clean(content, f'{archive}, {member.name}')
                yield match[1], text, int(match[2] == 'pos')
        while opened.fileobj.read(2**20):
            pass  # the checksum comes last


def imdb(num_examples=2000, data=None, url=None, sha1=None):
    """Film reviews, negative or positive, as a Task of single texts.

    `num_examples` for training and as many for testing, or all there are,
    in equal numbers from the classes as far as they reach, in the order of
    the texts' hashes. No text comes twice or in both parts. The archive
    (default: d2l's) and what was drawn from it are kept in the folder `data`
    (default: DATA). Raises DownloadError, and ValueError if there are fewer
    examples than classes or the archive is not as expected.
    """
    classes, where = ['negative', 'positive'], (data, url, sha1)
    return _task('IMDb', 'aclImdb', classes, _read_imdb, num_examples, *where)


SNLI = ['entailment', 'contradiction', 'neutral']
COLUMNS = ['gold_label', 'sentence1', 'sentence2']


def _read_table(file, place):
    """Yields pair and label of every line that has a label."""
    header = [_clean(x, place) for x in file.readline().split(b'\t')]
    if not {*COLUMNS} <= {*header}:
        raise ValueError(f'{place}: {COLUMNS} were expected, {header} came')
    columns = [header.index(name) for name in COLUMNS]
    for number, line in enumerate(file, 2):
        if line.isspace():
            continue
        row, where = line.split(b'\t'), f'{place}, line {number}'
        row = [_clean(row[i], where) for i in columns if i < len(row)]
        if len(row) < 3 or row[0] not in ['-', *SNLI]:
            wanted = f'- or one of {SNLI}, and two sentences'
            raise ValueError(f'{where}: {wanted} were expected, {row} came')
        if row[0] != '-' and all(row):
            yield tuple(row[1:]), SNLI.index(row[0])


def _read_snli(archive):
    """Yields part, pair (premise, hypothesis) and label."""
    with zipfile.ZipFile(archive) as opened:
        for part in ('train', 'test'):
            name = f'snli_1.0/snli_1.0_{part}.txt'
            with opened.open(name) as file:
                for pair, label in _read_table(file, f'{archive}, {name}'):
                    yield part, pair, label


def snli(num_examples=2000, data=None, url=None, sha1=None):
    """Does a premise entail a hypothesis, contradict it, or neither?

    A Task of pairs (premise, hypothesis), drawn like the texts of `imdb`,
    without those on which the annotators disagree. Raises like `imdb`.
    """
    where = (data, url, sha1)
    return _task('SNLI', 'SNLI', SNLI, _read_snli, num_examples, *where)
