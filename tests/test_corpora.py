"""Tests of the chapter's texts, tokens, batches and downloads."""

import contextlib
import dataclasses
import gzip
import hashlib
import http.server
import importlib
import itertools
import json
import os
import random
import re
import runpy
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import urllib3
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

import corpora
from corpora import batches, plain_texts, storage
from corpora.meanings import PARAPHRASES, SENSES

PROSE = (
    'A sentence that is quite long enough to be kept as one document, said '
)
NEVER_IMPORTED = {'antigravity', 'this', 'pydoc_data', 'turtle', 'pandas'}


def sentence(end):
    return f'{PROSE}the writer of the tests: {end}.'


def run_python(code, *arguments, seed):
    """The JSON value printed by a fresh interpreter that says nothing else."""
    folders = [*Path(corpora.__file__).parents[1:3]]
    path = os.pathsep.join(map(str, folders))
    process = subprocess.run(
        [sys.executable, '-c', code, *map(str, arguments)],
        env={**os.environ, 'PYTHONPATH': path, 'PYTHONHASHSEED': seed},
        capture_output=True,
        text=True,
    )
    assert process.stderr == ''
    return json.loads(process.stdout)


def listing(folder):
    return sorted(path.name for path in Path(folder).rglob('*'))


@contextlib.contextmanager
def nothing_new(folder):
    before = listing(folder)
    yield
    assert listing(folder) == before


# ---- A folder of texts ----


def words(n, seed=0):
    """Made-up words without end, as lines and paragraphs."""
    rng = random.Random(seed)
    made = [''.join(rng.choices('aeioumnrst', k=6)) for _ in range(n)]
    return ''.join(
        word + ('\n\n' if i % 90 == 89 else '\n' if i % 9 == 8 else ' ')
        for i, word in enumerate(made)
    )


@pytest.mark.parametrize('num_files', [1, 8])
@pytest.mark.parametrize('white', ['', ' ', '\n', '\n\n'])
def test_few_files_are_split_inside(tmp_path, num_files, white):
    """Whatever a file has between its words, down to nothing."""
    size = 160_000 // num_files
    texts = [words(size, seed) for seed in range(num_files)]
    if white != '\n\n':
        texts = [re.sub(r'\s+', white, text) for text in texts]
    for i, text in enumerate(texts):
        write(tmp_path / f'{i}.txt', text)
    corpus = corpora.text_folder(tmp_path)
    documents = corpus.train + corpus.valid
    assert 0.02 < len(corpus.valid) / len(documents) < 0.15
    assert max(map(len, documents)) <= 4000
    assert sum(map(len, documents)) / len(documents) > 2000
    kept = ''.join(''.join(documents).split())
    assert len(kept) == len(''.join(''.join(texts).split()))
    whole = ' '.join(' '.join(x.split()) for x in corpus.train)
    assert not any(' '.join(x.split()) in whole for x in corpus.valid)
    if white == '\n\n':  # nothing is cut where a paragraph ends
        ends = {
            paragraph.split()[-1]
            for text in texts
            for paragraph in text.split('\n\n')
            if paragraph
        }
        assert all(x.split()[-1] in ends for x in documents)


def test_two_documents_are_enough(tmp_path):
    for i in range(30):  # two short files, or a file of two documents
        for names in (['a.txt', 'b.txt'], ['a.txt']):
            folder = tmp_path / f'{i}-{len(names)}'
            size = 5000 // len(names)
            for name in names:
                write(folder / name, words(size // 7, f'{i} {name}'))
            corpus = corpora.text_folder(folder)
            assert corpus.train and corpus.valid
    for text in ('too short', sentence(1)):
        write(tmp_path / 'one' / 'a.txt', text)
        with pytest.raises(ValueError, match=r'one has 1 .txt, .*too few'):
            corpora.text_folder(tmp_path / 'one')


def test_many_files_are_documents_as_they_are(tmp_path):
    texts = [words(1000, seed).strip() for seed in range(100)]
    for i, text in enumerate(texts):
        write(tmp_path / f'{i}.txt', text)
    corpus = corpora.text_folder(tmp_path)
    assert sorted(corpus.train + corpus.valid) == sorted(texts)


PACKED_TEXT = gzip.compress(words(3000).encode(), mtime=0)


@pytest.mark.parametrize(
    ('name', 'data'),
    [
        ('broken.txt.gz', PACKED_TEXT[:-900]),
        ('broken.md.gz', PACKED_TEXT[:-8] + bytes(8)),
        ('broken.md.gz', PACKED_TEXT[:99] + bytes(99) + PACKED_TEXT[198:]),
        ('plain.rst.gz', b'not packed at all'),
        ('latin.txt', 'caf\xe9'.encode('latin-1') * 99),
        (
            'latin.txt.gz',
            gzip.compress('caf\xe9'.encode('latin-1') * 99, mtime=0),
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, data):
    write(tmp_path / 'good.txt', words(3000))
    write(tmp_path / 'in' / name, data)
    with pytest.raises(ValueError, match=f'in/{name} is not a text in UTF-8'):
        corpora.text_folder(tmp_path)


# ---- Documentation ----


@pytest.fixture(scope='session')
def built(tmp_path_factory):
    """The real corpus built in another process, and what that imported."""
    folder = tmp_path_factory.mktemp('documentation')
    code = (
        'import sys, json, corpora\n'
        'before = set(sys.modules)\n'
        'corpora.documentation(sys.argv[1])\n'
        'print(json.dumps(sorted(set(sys.modules) - before)))'
    )
    imported = run_python(code, folder, seed='1')
    (cache,) = folder.iterdir()
    return folder, cache, imported


@pytest.fixture(scope='session')
def corpus(built):
    return corpora.documentation(built[0])


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A small folder that stands for the standard library."""
    root = tmp_path / 'shelf'
    root.mkdir()
    monkeypatch.setattr(plain_texts, 'PACKAGES', ())
    monkeypatch.setattr(plain_texts.sysconfig, 'get_path', lambda _: str(root))
    return root


def write(path, text, encoding='utf-8'):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if type(text) is bytes else text.encode(encoding))


def texts_of(data):
    corpus = corpora.documentation(data)
    return {*corpus.train, *corpus.valid}


def test_documentation_is_large_and_split(corpus):
    size = sum(map(len, corpus.train))
    assert size > 5e6
    assert len(corpus.train) > 8000
    assert 0.03 < sum(map(len, corpus.valid)) / size < 0.08
    assert 0.03 < len(corpus.valid) / len(corpus.train) < 0.08
    assert corpus.name == 'documentation'


def test_documentation_holds_all_its_sources(corpus):
    text = '\n'.join(corpus.train + corpus.valid)
    for phrase in (
        'JSON (JavaScript Object Notation)',  # standard library
        'Compute the arithmetic mean along the specified axis',  # numpy
        'Plot y versus x as lines and/or markers',  # matplotlib
        'Two-dimensional, size-mutable',  # pandas
        'The "assert" statement',  # language reference
    ):
        assert phrase in text


def test_documentation_is_clean(corpus):
    for text in corpus.train + corpus.valid:
        assert len(text) >= plain_texts.MIN_CHARS
        assert text == text.strip()
        assert text.replace('\n', '').isprintable()
        assert ' \n' not in text


def test_nothing_occurs_twice(corpus):
    words = [' '.join(x.split()) for x in corpus.train + corpus.valid]
    assert len(set(words)) == len(words)


def test_no_long_line_occurs_twice(corpus):
    text = '\n'.join(corpus.train + corpus.valid)
    lines = [' '.join(line.split()) for line in text.split('\n')]
    lines = [line for line in lines if len(line) >= 20]
    assert len(lines) > 50_000
    assert len(set(lines)) == len(lines)


def test_nothing_is_imported(built):
    _, _, imported = built
    assert NEVER_IMPORTED.isdisjoint(imported)
    assert len(imported) < 20


@pytest.mark.slow
def test_fresh_shuffled_build_equals_the_cached_one(
    corpus, tmp_path, monkeypatch
):
    walk = os.walk

    def shuffled(top):
        for root, inner, files in walk(top):
            random.shuffle(inner)
            random.shuffle(files)
            yield root, inner, files

    monkeypatch.setattr(plain_texts.os, 'walk', shuffled)
    assert corpora.documentation(tmp_path) == corpus


def test_cached_corpus_is_read_without_sources(built, corpus, monkeypatch):
    monkeypatch.setattr(plain_texts, '_read_documentation', None)
    assert corpora.documentation(built[0]) == corpus


def test_file_order_does_not_choose_between_twins(
    shelf, tmp_path, monkeypatch
):
    write(shelf / 'a.py', f'"""{sentence(1)}\n\nThe  end."""')
    write(shelf / 'b.py', f'"""{sentence(1)}\n\nThe end."""')
    write(shelf / 'c' / 'd.py', f'"""{sentence(2)}  Here."""')
    write(shelf / 'e' / 'd.py', f'"""{sentence(2)} Here."""')
    walk = os.walk

    def backwards(top):
        for root, inner, files in walk(top):
            inner.sort(reverse=True)
            files.sort(reverse=True)
            yield root, inner, files

    monkeypatch.setattr(plain_texts.os, 'walk', backwards)
    assert texts_of(tmp_path / 'data') == {
        sentence(1) + '\n\nThe  end.',
        sentence(2) + '  Here.',
    }


def test_split_depends_on_the_document_alone(shelf, tmp_path):
    texts = [sentence(i) for i in range(300)]
    for i, text in enumerate(texts):
        write(shelf / f'{i}.py', f'"""{text}"""')
    full = corpora.documentation(tmp_path / 'full')
    for i in range(0, 300, 2):
        (shelf / f'{i}.py').unlink()
    half = corpora.documentation(tmp_path / 'half')
    assert len(full.train) + len(full.valid) == 300
    assert len(half.train) + len(half.valid) == 150
    assert 5 < len(full.valid) < 40
    assert half.train == [x for x in full.train if x in half.train]
    assert half.valid == [x for x in full.valid if x in half.valid]


def test_order_depends_on_the_documents_alone(shelf, tmp_path):
    for i in range(100):
        write(shelf / f'{i}.py', f'"""{sentence(i)}"""')
    corpus = corpora.documentation(tmp_path / 'before')
    for i in range(100):
        (shelf / f'{i}.py').rename(shelf / f'z{99 - i}.py')
    assert corpora.documentation(tmp_path / 'after') == corpus
    assert corpus.train != sorted(corpus.train)


def test_every_docstring_is_found(shelf, tmp_path):
    write(
        shelf / 'package' / 'module.py',
        f'''"""{sentence('module')}"""
if True:
    class A:
        """{sentence('class')}

        {PROSE}
            indented.
        """

        def f(self):
            \'\'\'{sentence('method')}\'\'\'

async def g():
    r"""{sentence('async')}"""
    """{sentence('no docstring')}"""

def short():
    """Too short."""
''',
    )
    write(
        shelf / 'pydoc_data' / 'topics.py',
        f'topics = {{"a": "{sentence("topic")}\\n" "\\n" "Joined."}}',
    )
    assert texts_of(tmp_path / 'data') == {
        sentence('module'),
        sentence('class') + f'\n\n{PROSE.strip()}\n    indented.',
        sentence('method'),
        sentence('async'),
        sentence('topic') + '\n\nJoined.',
    }


def test_unreadable_and_unwanted_sources_are_skipped(shelf, tmp_path, recwarn):
    def source(text):
        return f'"""{sentence(text)}"""\n'

    write(shelf / 'good.py', source('good'))
    latin = '# -*- coding: latin-1 -*-\n' + source('caf\xe9')
    write(shelf / 'latin.py', latin, 'latin-1')
    write(shelf / 'escape.py', source('\\d') + "'\\d'; 1 is 1\n")
    write(shelf / 'syntax.py', source('syntax') + 'print "old"\n')
    write(shelf / 'null.py', source('null') + '\0\n')
    write(shelf / 'bytes.py', source('bytes').encode() + b'# \xff\n')
    write(shelf / 'cookie.py', '# coding: nonsense\n' + source('cookie'))
    write(shelf / 'deep.py', source('deep') + '(' * 5000 + ')' * 5000)
    write(shelf / 'notes.txt', source('text'))
    for name in ('test', 'tests', 'idlelib', 'site-packages', '_vendor'):
        write(shelf / 'a' / name / 'b' / 'c.py', source(name))
    assert texts_of(tmp_path / 'data') == {
        sentence(word) for word in ('good', 'caf\xe9', '\\d')
    }
    assert not recwarn.list


def test_junk_characters_become_spaces(shelf, tmp_path):
    junk = r'one\x00two\ud800three\xa0four\x1bfive\rsix\u200bseven \ty\x07'
    write(shelf / 'a.py', f'"""{PROSE}{junk}\\n  \\x0c\\n\\nend\\n\\x00"""')
    (text,) = texts_of(tmp_path / 'data')
    first, _, rest = text.partition('\n')
    assert first.split() == [
        *PROSE.split(),
        *('one', 'two', 'three', 'four', 'five', 'six', 'seven', 'y'),
    ]
    assert rest.split('\n') == ['', 'end']


def test_no_text_at_all_is_an_error(shelf, tmp_path):
    write(shelf / 'a.py', 'x = 1')
    with pytest.raises(RuntimeError, match='no documentation found') as info:
        corpora.documentation(tmp_path / 'data')
    assert str(shelf) in str(info.value)
    assert info.value.__context__ is None
    assert not (tmp_path / 'data').exists()


def test_missing_packages_are_skipped(shelf, tmp_path, monkeypatch):
    write(shelf / 'a.py', f'"""{sentence(1)}"""')
    monkeypatch.setattr(plain_texts, 'PACKAGES', ('no_such_package_anywhere',))
    assert texts_of(tmp_path / 'data') == {sentence(1)}


@pytest.mark.parametrize(
    ('target', 'name', 'value'),
    [
        ('sys', 'version', '3.99.0 (another build)'),
        ('importlib.metadata', 'version', lambda name: '99.0'),
        (None, 'FORMAT', 99),
    ],
)
def test_other_versions_get_another_cache(
    shelf, tmp_path, monkeypatch, target, name, value
):
    write(shelf / 'a.py', f'"""{sentence(1)}"""')
    monkeypatch.setattr(plain_texts, 'PACKAGES', ('numpy',))
    monkeypatch.setattr(
        plain_texts.importlib.util, 'find_spec', lambda _: None
    )
    corpora.documentation(tmp_path / 'data')
    corpora.documentation(tmp_path / 'data')
    assert len(listing(tmp_path / 'data')) == 1
    owner = importlib.import_module(target) if target else plain_texts
    monkeypatch.setattr(owner, name, value)
    write(shelf / 'a.py', f'"""{sentence(2)}"""')
    assert texts_of(tmp_path / 'data') == {sentence(2)}
    assert len(listing(tmp_path / 'data')) == 2


def flip(content):
    middle = len(content) // 2
    return (
        content[:middle]
        + bytes([content[middle] ^ 255])
        + content[middle + 1 :]
    )


@pytest.mark.parametrize(
    'damage',
    [
        lambda content: b'',
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: b'{}' + content,
        lambda content: gzip.compress(b'{"train": [], "val'),
        lambda content: flip(content),
        lambda content: content[:-8] + bytes(4) + content[-4:],
    ],
)
def test_damaged_cache_is_rebuilt(shelf, tmp_path, damage):
    for i in range(50):
        write(shelf / f'{i}.py', f'"""{sentence(i)}"""')
    corpus = corpora.documentation(tmp_path / 'data')
    (cache,) = (tmp_path / 'data').iterdir()
    content = cache.read_bytes()
    cache.write_bytes(damage(content))
    assert corpora.documentation(tmp_path / 'data') == corpus
    assert cache.read_bytes() == content
    assert len(listing(tmp_path / 'data')) == 1


def test_interrupted_writing_leaves_nothing(shelf, tmp_path, monkeypatch):
    write(shelf / 'a.py', f'"""{sentence(1)}"""')

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'replace', interrupt)
    with pytest.raises(KeyboardInterrupt):
        corpora.documentation(tmp_path / 'data')
    assert listing(tmp_path / 'data') == []


def test_unwritable_folder_only_loses_the_cache(shelf, tmp_path):
    write(shelf / 'a.py', f'"""{sentence(1)}"""')
    (tmp_path / 'file').write_text('in the way')
    data = tmp_path / 'file' / 'data'
    corpus = corpora.documentation(data)
    assert {*corpus.train, *corpus.valid} == {sentence(1)}
    tokenizer = corpora.documentation_tokenizer(corpus, 300, data)
    assert tokenizer.get_vocab_size() > 261
    assert (tmp_path / 'file').read_text() == 'in the way'


def test_data_folder_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv('CHAPTER_DATA', str(tmp_path))
    assert runpy.run_path(storage.__file__)['DATA'] == tmp_path
    monkeypatch.delenv('CHAPTER_DATA')
    default = runpy.run_path(storage.__file__)['DATA']
    assert default == Path(__file__).resolve().parents[1] / 'data'


def test_data_folder_is_used_by_default(shelf, tmp_path, monkeypatch):
    write(shelf / 'a.py', f'"""{sentence(1)}"""')
    monkeypatch.setattr(storage, 'DATA', tmp_path / 'default')
    corpora.documentation_tokenizer(corpora.documentation(), 300)
    assert len(listing(tmp_path / 'default')) == 2


def test_corpus_is_frozen(corpus):
    with pytest.raises(dataclasses.FrozenInstanceError):
        corpus.name = 'other'


# ---- Tokens ----


@pytest.fixture(scope='session')
def texts(corpus):
    return corpus.train[:400]


@pytest.fixture(scope='session')
def tokenizer(texts):
    return corpora.train_tokenizer(texts, 600)


@pytest.mark.slow
def test_tokenizer_is_the_same_in_another_process(texts, tokenizer, tmp_path):
    (tmp_path / 'texts.json').write_text(json.dumps(texts))
    code = (
        'import sys, json, corpora\n'
        'texts = json.load(open(sys.argv[1]))\n'
        'print(json.dumps(corpora.train_tokenizer(texts, 600).to_str()))'
    )
    text = run_python(code, tmp_path / 'texts.json', seed='2')
    assert text == tokenizer.to_str()


def test_tokenizer_vocabulary(tokenizer):
    names = ['<pad>', '<bos>', '<eos>', '<mask>', '<sep>']
    assert [tokenizer.id_to_token(i) for i in range(5)] == names
    assert names == corpora.SPECIAL_TOKENS
    ids = corpora.PAD, corpora.BOS, corpora.EOS, corpora.MASK, corpora.SEP
    assert [tokenizer.id_to_token(i) for i in ids] == names
    assert len(names) == corpora.NUM_SPECIAL
    assert tokenizer.get_vocab_size() == 600
    assert all(c in tokenizer.get_vocab() for c in 'aZ0!')


def test_tokenizer_compresses(tokenizer, texts):
    tokens = sum(len(tokenizer.encode(text).ids) for text in texts)
    assert 0 < tokens < sum(map(len, texts)) / 2


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.text() | st.sampled_from(corpora.SPECIAL_TOKENS)).map(''.join)
)
def test_tokenizer_is_lossless(tokenizer, text):
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@settings(deadline=None, max_examples=300)
@given(st.text())
def test_plain_text_is_lossless_by_default(tokenizer, text):
    assume(not any(name in text for name in corpora.SPECIAL_TOKENS))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_special_tokens_in_text(tokenizer):
    ids = tokenizer.encode('I <mask> this').ids
    assert ids.count(3) == 1
    assert tokenizer.decode(ids) == 'I  this'


def test_bytes_never_seen_in_training_are_kept():
    tokenizer = corpora.train_tokenizer(['aaa'], 300)
    text = '\u4f60\u597d \U0001f600\n\t\x00'
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_smallest_vocabulary():
    tokenizer = corpora.train_tokenizer(['aaaa bbbb'], 261)
    assert tokenizer.get_vocab_size() == 261
    with pytest.raises(ValueError, match=r'260.*261'):
        corpora.train_tokenizer(['aaaa bbbb'], 260)


def test_training_is_silent(capfd):
    corpora.train_tokenizer(['some words and some more words'] * 99, 300)
    assert capfd.readouterr() == ('', '')


def test_documentation_tokenizer_is_kept(tmp_path, texts, monkeypatch):
    corpus = corpora.Corpus('small', texts, [])
    first = corpora.documentation_tokenizer(corpus, 600, tmp_path)
    direct = corpora.train_tokenizer(texts, 600)
    assert first.to_str() == direct.to_str()
    with monkeypatch.context() as patch:
        patch.setattr(batches, 'train_tokenizer', None)
        again = corpora.documentation_tokenizer(corpus, 600, tmp_path)
    assert again.to_str() == first.to_str()
    other = dataclasses.replace(corpus, train=[*texts, 'more'])
    corpora.documentation_tokenizer(other, 600, tmp_path)
    corpora.documentation_tokenizer(corpus, 500, tmp_path)
    names = listing(tmp_path)
    assert len(names) == 3
    for name in names:
        (tmp_path / name).write_text('{}')
    rebuilt = corpora.documentation_tokenizer(corpus, 600, tmp_path)
    assert rebuilt.to_str() == first.to_str()
    with pytest.raises(ValueError, match=r'\b9\b.*261'):
        corpora.documentation_tokenizer(corpus, 9, tmp_path)
    assert listing(tmp_path) == names


def test_documentation_tokens_are_kept(tmp_path, texts, monkeypatch):
    corpus = corpora.Corpus('small', texts[1:], texts[:1])
    tokenizer = corpora.documentation_tokenizer(corpus, 600, tmp_path)
    direct = [
        corpora.encode(tokenizer, part) for part in (texts[1:], texts[:1])
    ]
    first = corpora.documentation_tokens(corpus, 600, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(batches, 'encode', None)
        again = corpora.documentation_tokens(corpus, 600, tmp_path)
    for found in (first, again):
        assert all(map(torch.equal, found, direct))
    names = listing(tmp_path)
    assert len(names) == 2
    swapped = corpora.Corpus('small', texts[:1], texts[1:])
    train, _ = corpora.documentation_tokens(swapped, 600, tmp_path)
    assert len(train) < len(first[0])
    for name in names:
        (tmp_path / name).write_text('{}')
    rebuilt = corpora.documentation_tokens(corpus, 600, tmp_path)
    assert all(map(torch.equal, rebuilt, direct))
    with pytest.raises(ValueError, match='texts is empty'):
        alone = dataclasses.replace(corpus, valid=[])
        corpora.documentation_tokens(alone, 600, tmp_path)


def test_encode(tokenizer):
    texts = ['one <mask>', '', *(f'{i} and more' for i in range(2500))]
    tokens = corpora.encode(tokenizer, texts)
    assert tokens.dtype == torch.int64
    expected = []
    for text in texts:
        expected += [1, *tokenizer.encode(text).ids]
    assert tokens.tolist() == expected


def test_encode_needs_texts(tokenizer):
    with pytest.raises(ValueError, match='texts is empty'):
        corpora.encode(tokenizer, [])


def test_windows_are_contiguous_and_everywhere():
    batches = corpora.windows(torch.arange(100, 130), 8, 4)
    batch = torch.cat(list(itertools.islice(batches, 100)))
    assert batch.shape == (800, 5)
    assert batch.dtype == torch.int64
    assert (batch.diff(dim=1) == 1).all()
    assert set(batch[:, 0].tolist()) == set(range(100, 126))


def test_windows_repeat_by_seed_and_leave_torch_alone():
    def first(seed):
        batches = corpora.windows(torch.arange(1000), 4, 8, seed)
        return torch.stack(list(itertools.islice(batches, 5)))

    torch.manual_seed(0)
    state = torch.get_rng_state()
    rows = first(3)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(rows, first(3))
    assert not torch.equal(rows, first(4))
    assert not torch.equal(rows[0], rows[1])


def test_windows_do_not_share_memory():
    tokens = torch.arange(20)
    next(corpora.windows(tokens, 2, 4)).zero_()
    corpora.blocks(tokens, 4).zero_()
    corpora.blocks(tokens, 19).zero_()
    assert torch.equal(tokens, torch.arange(20))


@given(st.integers(2, 60), st.integers(1, 20))
def test_blocks_cover_the_text_once(num_tokens, num_steps):
    if num_tokens < num_steps + 1:
        return
    rows = corpora.blocks(torch.arange(num_tokens), num_steps)
    assert rows.shape == ((num_tokens - 1) // num_steps, num_steps + 1)
    targets = rows[:, 1:].flatten().tolist()
    assert targets == list(range(1, len(targets) + 1))
    assert torch.equal(rows[:, :-1] + 1, rows[:, 1:])


def test_one_row_is_enough():
    tokens = torch.arange(5)
    assert corpora.blocks(tokens, 4).tolist() == [[0, 1, 2, 3, 4]]
    rows = next(corpora.windows(tokens, 2, 4))
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize(
    'cut', [lambda t, n: corpora.windows(t, 2, n), corpora.blocks]
)
def test_too_few_tokens_is_an_error_at_once(cut):
    with pytest.raises(ValueError, match=r'\b4 tokens.*\b5\b.*\b4\b'):
        cut(torch.arange(4), 4)
    with pytest.raises(ValueError, match=r'num_steps is 0.*1'):
        cut(torch.arange(4), 0)


def test_batch_size_is_checked_at_once():
    with pytest.raises(ValueError, match=r'batch_size is 0.*1'):
        corpora.windows(torch.arange(9), 0, 4)


def test_random_rows_are_those_of_one_generator():
    X, y = torch.arange(40).view(20, 2), torch.arange(20)
    batches = corpora.random_rows(X, y, batch_size=5, seed=3)
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        i = torch.randint(20, (5,), generator=generator)
        rows, labels = next(batches)
        assert torch.equal(rows, X[i]) and torch.equal(labels, y[i])
    alone = corpora.random_rows(X, batch_size=5, seed=3)
    assert next(alone).shape == (5, 2)
    first, again = (
        next(corpora.random_rows(y, batch_size=9, seed=seed))
        for seed in (0, 1)
    )
    assert not torch.equal(first, again)


def test_random_rows_of_a_batch_function():
    def noisy(x, y, generator):
        return x + torch.rand(len(x), generator=generator), y

    data = torch.arange(8), torch.arange(8)
    batches = corpora.random_rows(*data, batch_size=4, batch_fn=noisy)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        i = torch.randint(8, (4,), generator=generator)
        x, y = next(batches)
        assert torch.equal(x, i + torch.rand(4, generator=generator))
        assert torch.equal(y, i)


@pytest.mark.parametrize(
    ('lengths', 'batch_size', 'message'),
    [
        ([], 4, r'rows \[\]'),
        ([0], 4, r'rows \[0\]'),
        ([3, 2], 4, r'rows \[3, 2\]'),
        ([3], 0, 'batch_size is 0, not at least 1'),
    ],
)
def test_random_rows_errors(lengths, batch_size, message):
    tensors = [torch.zeros(n) for n in lengths]
    with pytest.raises(ValueError, match=message):
        corpora.random_rows(*tensors, batch_size=batch_size)


def test_importing_corpora_loads_no_heavy_package():
    code = (
        'import sys, json, corpora\n'
        'heavy = {"pandas", "matplotlib", "d2l", "sklearn", "IPython"}\n'
        'print(json.dumps(sorted(heavy & {*sys.modules})))'
    )
    assert run_python(code, seed='0') == []


# ---- Downloads ----

GOOD = b'The Time Machine\n\nby H. G. Wells\n' * 5000
PAGE = b'<html>This page does not exist.</html>'
PACKED = gzip.compress(GOOD)


def sha1(content):
    return hashlib.sha1(content).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves GOOD and the ways in which a download goes wrong."""

    def do_GET(self):
        self.server.requests.append(self)
        getattr(self, self.path.strip('/').split('.')[0])()

    def send(self, content, status=200, **headers):
        self.send_response(status)
        length = headers.pop('length', len(content))
        if length is not None:
            self.send_header('Content-Length', str(length))
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(content)

    def good(self):
        self.send(GOOD)

    def sizeless(self):
        self.send(GOOD, length=None)

    def missing(self):
        self.send(PAGE, 404)

    def part(self):
        self.send(GOOD, 206)

    def short(self):
        self.send(GOOD, length=len(GOOD) + 100)

    def packed(self):
        self.send(PACKED, Content_Encoding='gzip')

    def chunked(self):
        head = f'{len(GOOD) + 1:x}\r\n'.encode()
        self.send(head + GOOD, length=None, Transfer_Encoding='chunked')

    def reset(self):
        self.send(GOOD, length=len(GOOD) * 2)
        self.wfile.flush()
        linger = struct.pack('ii', 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()

    def silent(self):
        self.server.done.wait(20)

    def log_message(self, *_):
        pass


@pytest.fixture(scope='module')
def running():
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.requests, server.done = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.done.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server(running, monkeypatch):
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    running.requests.clear()
    running.url = f'http://127.0.0.1:{running.server_port}/'
    return running


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        yield f'http://127.0.0.1:{probe.getsockname()[1]}/'


def fails(url, digest, folder, *words, **options):
    """`download` raises, says all the words, and leaves nothing behind."""
    with (
        nothing_new(folder),
        pytest.raises(storage.DownloadError) as info,
    ):
        storage.download(url, digest, folder, **options)
    assert isinstance(info.value, OSError)
    for word in (url, *words):
        assert str(word) in str(info.value)


@pytest.mark.parametrize('name', ['good.txt', 'sizeless.txt', 'packed.txt'])
def test_download(server, tmp_path, name):
    folder = tmp_path / 'new' / 'folder'
    path = storage.download(server.url + name, sha1(GOOD), folder)
    assert path == folder / name
    assert path.read_bytes() == GOOD
    assert listing(folder) == [name]
    assert server.requests[0].headers['Accept-Encoding'] == 'identity'


def test_query_is_no_part_of_the_name(server, tmp_path):
    url = server.url + 'good.txt?version=1#top'
    path = storage.download(url, sha1(GOOD), tmp_path)
    assert path.name == 'good.txt'


def test_right_file_is_not_downloaded_again(server, tmp_path, closed_port):
    (tmp_path / 'good.txt').write_bytes(GOOD)
    url = closed_port + 'good.txt'
    path = storage.download(url, sha1(GOOD), tmp_path)
    assert path == tmp_path / 'good.txt'


def test_wrong_file_is_downloaded_anew(server, tmp_path):
    (tmp_path / 'good.txt').write_bytes(PAGE)
    path = storage.download(server.url + 'good.txt', sha1(GOOD), tmp_path)
    assert path.read_bytes() == GOOD
    assert len(server.requests) == 1


def test_download_into_the_data_folder(server, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, 'DATA', tmp_path)
    path = storage.download(server.url + 'good.txt', sha1(GOOD))
    assert path == tmp_path / 'good.txt'


def test_error_page_is_refused(server, tmp_path):
    fails(server.url + 'missing.txt', sha1(PAGE), tmp_path, 200, 404)
    fails(server.url + 'part.txt', sha1(GOOD), tmp_path, 200, 206)


@pytest.mark.parametrize('lenient', [False, True])
def test_truncated_file_is_refused(server, tmp_path, monkeypatch, lenient):
    response = urllib3.response.HTTPResponse
    init = response.__init__

    def patched(self, *args, **kwargs):
        init(self, *args, **{**kwargs, 'enforce_content_length': False})

    words = ['100'] if not lenient else [len(GOOD), len(GOOD) + 100]
    if lenient:
        monkeypatch.setattr(response, '__init__', patched)
    fails(server.url + 'short.txt', sha1(GOOD), tmp_path, *words)


def test_wrong_hash_is_refused(server, tmp_path):
    url = server.url + 'good.txt'
    fails(url, sha1(PAGE), tmp_path, sha1(PAGE), sha1(GOOD))
    (tmp_path / 'good.txt').write_bytes(b'older')
    fails(url, sha1(PAGE), tmp_path, sha1(PAGE), sha1(GOOD))
    assert (tmp_path / 'good.txt').read_bytes() == b'older'


@pytest.mark.parametrize('name', ['reset.txt', 'chunked.txt'])
def test_dropped_connection_is_refused(server, tmp_path, name):
    fails(server.url + name, sha1(GOOD), tmp_path, 'Connection broken')


def test_no_connection(server, tmp_path, closed_port):
    fails(closed_port + 'good.txt', sha1(GOOD), tmp_path, 'refused')
    url = 'http://name.invalid/good.txt'
    fails(url, sha1(GOOD), tmp_path, 'resolve')


def test_no_answer(server, tmp_path):
    url = server.url + 'silent.txt'
    fails(url, sha1(GOOD), tmp_path, 'timed out', timeout=0.1)


def test_unwritable_download_folder(server, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    folder = tmp_path / 'file' / 'data'
    fails(server.url + 'good.txt', sha1(GOOD), folder)


def test_interrupted_download_leaves_nothing(server, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'replace', interrupt)
    with nothing_new(tmp_path), pytest.raises(KeyboardInterrupt):
        storage.download(server.url + 'good.txt', sha1(GOOD), tmp_path)


@pytest.mark.parametrize('end', ['', 'a/..', '?a=b.txt'])
def test_address_without_a_file_name(tmp_path, end):
    url = 'http://127.0.0.1/' + end
    with pytest.raises(ValueError, match='names no file') as info:
        storage.download(url, sha1(GOOD), tmp_path)
    assert url in str(info.value)


# ---- Meanings ----


def words_of(text):
    return set(text.lower().strip('.').split())


def test_each_sense_has_three_sentences_with_the_word():
    for word, texts in SENSES.items():
        assert len(set(texts)) == 6
        assert all(word in words_of(text) for text in texts)


def test_paraphrases_share_no_content_word_and_opponents_most_of_them():
    assert len(PARAPHRASES) == 12
    assert len({text for triple in PARAPHRASES for text in triple}) == 36
    for triple in PARAPHRASES:
        first, second, opponent = (
            words_of(text) - ENGLISH_STOP_WORDS for text in triple
        )
        assert not first & second
        assert len(first & opponent) > len(second & opponent)


def test_sentences_are_whole_prose_and_come_once():
    texts = [
        'Return the number of elements in it. Short one.\n\n'
        'Not all of it\nmay, in general, be seen here. No 5 of these '
        'elements is ever one of them.',
        'Return the number of elements in it.\n\n'
        '>>> print("x")\nThis does what one would expect of it.',
        'a sentence begins with a capital or it is none.',
    ]
    assert corpora.sentences(texts) == [
        'Return the number of elements in it.',
        'Not all of it may in general be seen here.',
    ]
    assert corpora.sentences([]) == []
