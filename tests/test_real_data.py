"""Tests of the loaders of real data, with small archives of their formats."""

import ast
import collections
import contextlib
import hashlib
import http.server
import io
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

import corpora
from corpora import real_texts as real_data
from corpora import storage
from corpora.real_texts import imdb, snli

PAGE = b'<html>This page does not exist.</html>'
ICON = 'snli_1.0/Icon\r'
HEADER = (
    'gold_label\tsentence1_binary_parse\tsentence2_binary_parse\t'
    'sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tcaptionID\t'
    'pairID\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5'
)
SNLI = ['entailment', 'contradiction', 'neutral']


def sha1(content):
    return hashlib.sha1(content).hexdigest()


# ---- Archives ----


def review(part, kind, i):
    return f'The {part} film no. {i} was "{kind}", café naïve'


def reviews(count=30):
    """Members of a small aclImdb; everything but the reviews is a trap."""
    trap = b'trap \xff'
    files = {'aclImdb/README': trap, 'aclImdb/train/labeledBow.feat': trap}
    for part in ('test', 'train'):
        for kind, i in itertools.product(('neg', 'pos'), range(count)):
            text = review(part, kind, i).replace(' was', '<br /><br />was')
            text = text.replace(', ', ',\t\r\n').replace(' na', '\x85na')
            name = f'aclImdb/{part}/{kind}/{i}_{i % 10 + 1}.txt'
            files[name] = f' {text} \n'.encode()
        files[f'aclImdb/{part}/pos/._1_8.txt'] = trap
        files[f'aclImdb/{part}/urls_pos.txt'] = trap
    files['aclImdb/train/unsup/0_0.txt'] = trap
    return files


def pair(part, label, i):
    return f'A {part} "dog no. {i}', f"It's a café : '{i}' {label}\""


def line(label, premise, hypothesis):
    parses = ['( a )', '( b )', '(ROOT (a))', '(ROOT (b))']
    words = [label, *parses, premise, hypothesis, '1.jpg#4', '1.jpg#4r1n']
    return '\t'.join([*words, label])  # later annotators may be missing


def tables(count=20):
    """Members of a small snli_1.0; texts and lists of lines."""
    files = {}
    for part in ('train', 'dev', 'test'):
        lines = [HEADER]
        for label, i in itertools.product(SNLI, range(count)):
            premise, hypothesis = pair(part, label, i)
            hypothesis = hypothesis.replace(' : ', '\x85: \u2028 ')
            lines.append(line(label, premise, hypothesis))
            if i % 5 == 0:
                lines.append(line('-', f'"{part} {i}', 'Nobody agrees.'))
        lines.append(line('neutral', 'A premise alone', ''))
        files[f'snli_1.0/snli_1.0_{part}.txt'] = lines
    files[ICON] = b''
    files['__MACOSX/snli_1.0/._snli_1.0_train.txt'] = b'\0\x05\x16\x07'
    files['__MACOSX/._snli_1.0'] = b'\0\x05\x16\x07'
    return files


def content_of(value):
    if isinstance(value, list):
        value = '\n'.join(value) + '\n'
    return value if isinstance(value, bytes) else value.encode()


def pack_tar(files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz') as archive:
        for name, value in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content_of(value))
            archive.addfile(member, io.BytesIO(content_of(value)))
    return file.getvalue()


def pack_zip(files, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', method) as archive:
        archive.writestr('snli_1.0/', b'')
        for name, value in files.items():
            archive.writestr(name, content_of(value))
    return file.getvalue()


# ---- The server ----


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        status, content = self.server.answer
        self.send_response(status)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope='module')
def running():
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server(running, monkeypatch):
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    running.asked = []
    running.url = f'http://127.0.0.1:{running.server_port}/'
    return running


NAMES = {imdb: 'aclImdb_v1.tar.gz', snli: 'snli_1.0.zip'}
FILES = {imdb: reviews, snli: tables}
PACK = {imdb: pack_tar, snli: pack_zip}
BOTH = pytest.mark.parametrize('load', [imdb, snli])


def serve(server, load, files=None):
    """The options with which `load` gets an archive of the files."""
    if not isinstance(files, bytes):
        files = PACK[load](FILES[load]() if files is None else files)
    server.answer = 200, files
    return {'url': server.url + NAMES[load], 'sha1': sha1(files)}


def listing(folder):
    return sorted(path.name for path in Path(folder).rglob('*'))


# ---- What is loaded ----


def test_imdb(server, tmp_path):
    task = imdb(60, tmp_path, **serve(server, imdb))
    assert task.name == 'IMDb'
    assert task.classes == ['negative', 'positive']
    for part in ('train', 'test'):
        labels = getattr(task, f'{part}_labels')
        wanted = {
            (review(part, kind, i), label)
            for label, kind in enumerate(['neg', 'pos'])
            for i in range(30)
        }
        found = list(zip(getattr(task, part), labels, strict=True))
        assert len(found) == 60 and set(found) == wanted


def test_snli(server, tmp_path):
    task = snli(60, tmp_path, **serve(server, snli))
    assert task.name == 'SNLI'
    assert task.classes == SNLI
    for part in ('train', 'test'):
        labels = getattr(task, f'{part}_labels')
        wanted = {
            (pair(part, name, i), label)
            for label, name in enumerate(SNLI)
            for i in range(20)
        }
        found = list(zip(getattr(task, part), labels, strict=True))
        assert len(found) == 60 and set(found) == wanted


@BOTH
@pytest.mark.parametrize('size', [3, 10, 25, 50, 59])
def test_classes_are_balanced(server, tmp_path, load, size):
    task = load(size, tmp_path, **serve(server, load))
    for part in ('train', 'test'):
        counts = collections.Counter(getattr(task, f'{part}_labels'))
        assert len(getattr(task, part)) == counts.total() == size
        assert len(counts) == len(task.classes)
        assert max(counts.values()) - min(counts.values()) <= 1


@BOTH
def test_a_smaller_draw_is_a_part_of_a_larger(server, tmp_path, load):
    options = serve(server, load)
    large, small = (load(i, tmp_path, **options) for i in (48, 24))
    assert small.train == [x for x in large.train if x in small.train]
    assert small.test == [x for x in large.test if x in small.test]


@BOTH
def test_order_is_shuffled(server, tmp_path, load):
    task = load(60, tmp_path, **serve(server, load))
    for part in ('train', 'test'):
        labels = getattr(task, f'{part}_labels')
        changes = sum(a != b for a, b in itertools.pairwise(labels))
        assert 15 < changes < 55
        assert getattr(task, part) != sorted(getattr(task, part))


@BOTH
def test_order_in_the_archive_plays_no_part(server, tmp_path, load):
    task = load(20, tmp_path / 'a', **serve(server, load))
    files = list(FILES[load]().items())
    random.Random(0).shuffle(files)
    for _, value in files:
        if isinstance(value, list):
            value[1:] = value[:0:-1]
    other = serve(server, load, dict(files))
    assert load(20, tmp_path / 'b', **other) == task


@pytest.mark.slow
@BOTH
def test_another_process_draws_the_same(server, tmp_path, load):
    task = load(20, tmp_path / 'a', **serve(server, load))
    (tmp_path / 'b').mkdir()
    archive = tmp_path / 'a' / NAMES[load]
    (tmp_path / 'b' / NAMES[load]).write_bytes(archive.read_bytes())
    code = (
        'import sys, json, dataclasses\n'
        'from corpora import real_texts\n'
        'name, data, url, sha1 = sys.argv[1:]\n'
        'task = getattr(real_texts, name)(20, data, url, sha1)\n'
        'print(json.dumps(dataclasses.asdict(task)))'
    )
    url, digest = server.url + NAMES[load], sha1(archive.read_bytes())
    words = [load.__name__, str(tmp_path / 'b'), url, digest]
    root = os.pathsep.join(map(str, Path(corpora.__file__).parents[1:3]))
    for seed in '12':
        done = subprocess.run(
            [sys.executable, '-c', code, *words],
            env={**os.environ, 'PYTHONHASHSEED': seed, 'PYTHONPATH': root},
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout)
        assert found['train_labels'] == task.train_labels
        assert [*map(list, found['test'])] == [*map(list, task.test)]
        for path in (tmp_path / 'b').glob('*.json.gz'):
            path.unlink()
    assert len(server.asked) == 1


@BOTH
def test_fewer_examples_than_asked_for(server, tmp_path, load):
    task = load(1000, tmp_path, **serve(server, load))
    assert len(task.train) == len(set(task.train)) == 60
    assert len(task.test) == len(set(task.test)) == 60


def test_small_class_is_used_up(server, tmp_path):
    files = {
        name: value
        for name, value in reviews().items()
        if '/test/neg/' not in name or name.endswith('/7_8.txt')
    }
    task = imdb(20, tmp_path, **serve(server, imdb, files))
    assert task.train_labels.count(0) == 10
    assert task.test_labels.count(0) == 1
    assert task.test_labels.count(1) == 19


def test_nothing_is_drawn_twice(server, tmp_path):
    files = reviews()
    files['aclImdb/train/neg/100_1.txt'] = files['aclImdb/train/neg/1_2.txt']
    files['aclImdb/test/neg/100_1.txt'] = files['aclImdb/train/neg/2_3.txt']
    task = imdb(1000, tmp_path, **serve(server, imdb, files))
    texts = task.train + task.test
    assert len(texts) == len(set(texts)) == 120
    assert len(task.test) == 60


def test_columns_are_found_by_name(server, tmp_path):
    task = snli(30, tmp_path / 'a', **serve(server, snli))
    files = tables()
    for value in files.values():
        if isinstance(value, list):
            rows = [x.split('\t') for x in value]
            value[:] = ['\t'.join(reversed(x[:9])) for x in rows]
    other = snli(30, tmp_path / 'b', **serve(server, snli, files))
    assert other == task


def test_other_line_ends(server, tmp_path):
    task = snli(30, tmp_path / 'a', **serve(server, snli))
    files = tables()
    for name in files:
        if isinstance(files[name], list):
            files[name] = '\r\n'.join([*files[name], '', ''])
    other = snli(30, tmp_path / 'b', **serve(server, snli, files))
    assert other == task


@BOTH
def test_second_call_reads_what_is_there(server, tmp_path, load, monkeypatch):
    options = serve(server, load)
    task = load(12, tmp_path, **options)
    assert len(server.asked) == 1
    assert load(9, tmp_path, **options).train != task.train
    assert len(server.asked) == 1
    assert len(listing(tmp_path)) == 3
    (tmp_path / NAMES[load]).unlink()
    monkeypatch.setattr(real_data, 'download', None)
    assert load(12, tmp_path, **options) == task


@BOTH
def test_another_archive_gives_another_task(server, tmp_path, load):
    task = load(12, tmp_path, **serve(server, load))
    options = serve(server, load, FILES[load](count=15))
    assert load(12, tmp_path, **options) != task


@BOTH
def test_another_format_gives_another_task(
    server, tmp_path, load, monkeypatch
):
    options = serve(server, load)
    load(12, tmp_path, **options)
    monkeypatch.setattr(real_data, 'FORMAT', 99)
    load(12, tmp_path, **options)
    assert len(listing(tmp_path)) == 3


@BOTH
def test_damaged_cache_is_made_anew(server, tmp_path, load):
    options = serve(server, load)
    task = load(12, tmp_path, **options)
    (cache,) = tmp_path.glob('*.json.gz')
    cache.write_bytes(cache.read_bytes()[:-9])
    assert load(12, tmp_path, **options) == task


@BOTH
def test_data_folder_is_used_by_default(server, tmp_path, load, monkeypatch):
    monkeypatch.setattr(storage, 'DATA', tmp_path / 'default')
    load(12, **serve(server, load))
    assert len(listing(tmp_path / 'default')) == 2


def test_classes_are_a_copy(server, tmp_path):
    options = serve(server, snli)
    snli(12, tmp_path, **options).classes.clear()
    assert snli(12, tmp_path, **options).classes == SNLI


# ---- What fails ----


def fails(server, tmp_path, load, files, *words):
    """ValueError with the archive and the words; only the archive is kept."""
    options = serve(server, load, files)
    with pytest.raises(ValueError) as info:
        load(12, tmp_path, **options)
    for word in (tmp_path / NAMES[load], *words):
        assert str(word) in str(info.value)
    assert listing(tmp_path) == [NAMES[load]]


@pytest.mark.parametrize(('load', 'limit'), [(imdb, 2), (snli, 3)])
def test_too_few_examples(server, tmp_path, load, limit):
    options = serve(server, load)
    for size in (limit - 1, 0, -5):
        with pytest.raises(ValueError) as info:
            load(size, tmp_path, **options)
        assert f'num_examples is {size}, ' in str(info.value)
        assert f'at least {limit}' in str(info.value)
    assert server.asked == listing(tmp_path) == []
    task = load(limit, tmp_path, **options)
    assert sorted(task.train_labels) == sorted(task.test_labels)
    assert sorted(task.train_labels) == [*range(limit)]


@BOTH
@pytest.mark.parametrize('status', [404, 200])
def test_error_page(server, tmp_path, load, status):
    options = serve(server, load)
    server.answer = status, PAGE
    with pytest.raises(storage.DownloadError) as info:
        load(12, tmp_path, **options)
    assert options['url'] in str(info.value)
    word = '404' if status == 404 else options['sha1']
    assert word in str(info.value)
    assert listing(tmp_path) == []


@BOTH
def test_no_server(tmp_path, load):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{probe.getsockname()[1]}/{NAMES[load]}'
        with pytest.raises(storage.DownloadError, match='refused'):
            load(12, tmp_path, url, '0' * 40)
    assert listing(tmp_path) == []


@BOTH
@pytest.mark.parametrize('share', [0, 0.01, 0.5, 0.9, 0.999])
def test_truncated_archive(server, tmp_path, load, share):
    content = PACK[load](FILES[load]())
    content = content[: int(share * len(content))]
    fails(server, tmp_path, load, content, 'cannot be read')


def test_last_bytes_of_a_tar_are_checked(server, tmp_path):
    content = pack_tar(reviews())
    fails(server, tmp_path, imdb, content[:-1], 'cannot be read')


@pytest.mark.parametrize('place', [0.01, 0.1, 0.5, 0.99])
def test_changed_byte_of_a_tar(server, tmp_path, place):
    content = bytearray(pack_tar(reviews()))
    content[int(place * len(content))] ^= 255
    fails(server, tmp_path, imdb, bytes(content))


@pytest.mark.parametrize('part', ['train', 'test'])
def test_changed_letter_in_a_zip(server, tmp_path, part):
    content = pack_zip(tables(), zipfile.ZIP_STORED)
    old = f'A {part} "dog no. 19'.encode()
    assert old in content
    content = content.replace(old, old.replace(b'dog', b'cat'))
    fails(server, tmp_path, snli, content, 'cannot be read', part)


@BOTH
def test_another_kind_of_file(server, tmp_path, load):
    fails(server, tmp_path, load, PAGE, 'cannot be read')


@pytest.mark.parametrize('part', ['train', 'test'])
@pytest.mark.parametrize('kind', ['neg', 'pos'])
def test_missing_reviews(server, tmp_path, part, kind):
    files = {
        name: value
        for name, value in reviews().items()
        if f'/{part}/{kind}/' not in name
    }
    fails(server, tmp_path, imdb, files, part, kind)


@pytest.mark.parametrize('part', ['train', 'test'])
def test_missing_table(server, tmp_path, part):
    files = tables()
    name = f'snli_1.0/snli_1.0_{part}.txt'
    del files[name]
    fails(server, tmp_path, snli, files, name)


@pytest.mark.parametrize('part', ['train', 'test'])
@pytest.mark.parametrize('label', SNLI)
def test_missing_class(server, tmp_path, part, label):
    files = tables()
    name = f'snli_1.0/snli_1.0_{part}.txt'
    files[name] = [x for x in files[name] if not x.startswith(label)]
    fails(server, tmp_path, snli, files, part, label)


@pytest.mark.parametrize('part', ['train', 'test'])
def test_review_in_another_encoding(server, tmp_path, part):
    files = reviews()
    name = f'aclImdb/{part}/pos/5_6.txt'
    files[name] = 'café'.encode('latin-1')
    fails(server, tmp_path, imdb, files, name, 'UTF-8')


def change(number, *words):
    """Tables in which words of one line of the test part are replaced."""
    files = tables()
    lines = files['snli_1.0/snli_1.0_test.txt']
    for old, new in words:
        assert old in lines[number - 1]
        lines[number - 1] = lines[number - 1].replace(old, new)
    return files, 'snli_1.0/snli_1.0_test.txt'


def test_table_in_another_encoding(server, tmp_path):
    files, name = change(7, ('café', 'cafÖ'))
    text = '\n'.join(files[name]).encode()
    files[name] = text.replace('Ö'.encode(), b'\xd6')
    fails(server, tmp_path, snli, files, name, 'line 7:', 'UTF-8')


@pytest.mark.parametrize('column', ['gold_label', 'sentence1', 'sentence2'])
def test_header_without_a_column(server, tmp_path, column):
    files, name = change(1, (f'{column}\t', f'{column}s\t'))
    fails(server, tmp_path, snli, files, name, repr(column), column + 's')


@pytest.mark.parametrize('header', ['', PAGE.decode()])
def test_table_without_a_header(server, tmp_path, header):
    files, name = change(1, (HEADER, header))
    fails(server, tmp_path, snli, files, name, 'gold_label')
    files[name] = b''
    fails(server, tmp_path, snli, files, name, 'gold_label')


@pytest.mark.parametrize('label', ['', 'entails', 'Neutral', '--'])
def test_unknown_label(server, tmp_path, label):
    files, name = change(7, ('entailment\t( a', f'{label}\t( a'))
    words = (*SNLI, repr(label), 'line 7:')
    fails(server, tmp_path, snli, files, name, *words)


def test_short_line(server, tmp_path):
    files, name = change(7, ("\tIt's", " It's"), ('\t1.jpg#4\t1', ''))
    files[name][6] = files[name][6].rpartition('\t')[0]
    fails(server, tmp_path, snli, files, name, 'line 7:', 'two sentences')


@BOTH
def test_interrupted_writing_leaves_nothing(
    server, tmp_path, load, monkeypatch
):
    options = serve(server, load)
    load(12, tmp_path, **options)
    before = listing(tmp_path)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'replace', interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(9, tmp_path, **options)
    assert listing(tmp_path) == before


# ---- d2l ----


@pytest.mark.parametrize(
    ('load', 'key', 'digest'),
    [
        (imdb, 'aclImdb', '01ada507287d82875905620988597833ad4e0903'),
        (snli, 'SNLI', '9fcde07509c7e87ec61c640c1b2753d9041758e4'),
    ],
)
def test_defaults_are_those_of_d2l(tmp_path, monkeypatch, load, key, digest):
    from d2l_import import d2l

    asked = []

    def download(*arguments):
        asked.append(arguments)
        raise storage.DownloadError('no')

    monkeypatch.setattr(real_data, 'download', download)
    for options in ({}, {'url': 'http://mirror/a.zip'}, {'sha1': '0'}):
        with pytest.raises(storage.DownloadError):
            load(data=tmp_path, **options)
    url = d2l.DATA_HUB[key][0]
    assert url.endswith(NAMES[load])
    assert asked == [
        (url, digest, tmp_path),
        ('http://mirror/a.zip', digest, tmp_path),
        (url, '0', tmp_path),
    ]


# ---- From texts to tensors, and to the notebook's fine-tuning ----


def test_examples_of_single_texts():
    tokenizer = corpora.train_tokenizer(['a bad film', 'a good film'], 300)
    rows = corpora.examples(tokenizer, ['a film', 'a'], [1, 0], max_len=8)
    ids = tokenizer.encode('a film').ids[:6]
    assert rows.X[0].tolist() == [1, *ids, 4]
    assert rows.X[1, :3].tolist() == [1, *tokenizer.encode('a').ids, 4]
    assert rows.valid_lens.tolist() == [len(ids) + 2, 3]
    assert rows.segments.sum() == 0
    assert rows.labels.tolist() == [1, 0]


def test_examples_of_pairs_are_cut():
    tokenizer = corpora.train_tokenizer(['xyz'], 300)
    rows = corpora.examples(tokenizer, [('x' * 50, 'y' * 50)], [2], 21)
    assert rows.X.shape == (1, 21)
    assert rows.segments[0].tolist() == [0] * 11 + [1] * 10


@pytest.mark.parametrize(
    ('texts', 'labels', 'max_len', 'message'),
    [
        ([], [], 16, '0 labels for 0 texts'),
        (['a'], [0, 1], 16, '2 labels for 1 texts'),
        (['a'], [0], 7, 'max_len is 7, not at least 8'),
    ],
)
def test_examples_of_nothing(texts, labels, max_len, message):
    tokenizer = corpora.train_tokenizer(['a'], 300)
    with pytest.raises(ValueError, match=message):
        corpora.examples(tokenizer, texts, labels, max_len)


def notebook_code(*names):
    """The imports and these definitions of bert_published.ipynb."""
    path = Path(corpora.__file__).parents[1] / 'bert_published.ipynb'
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    nodes = [
        node
        for cell in cells
        if cell['cell_type'] == 'code'
        for node in ast.parse(''.join(cell['source'])).body
    ]
    chosen = [
        node
        for node in nodes
        if isinstance(node, (ast.Import, ast.ImportFrom))
        or getattr(node, 'name', None) in names
    ]
    assert {getattr(node, 'name', None) for node in chosen} >= set(names)
    space = {}
    exec(compile(ast.Module(chosen, []), str(path), 'exec'), space)
    return space


@pytest.mark.slow
@pytest.mark.parametrize('load', [imdb, snli])
def test_the_notebook_fine_tunes_on_it(server, tmp_path, load, capsys):
    task = load(60, tmp_path, **serve(server, load))
    code = notebook_code('pretrain_on_examples', 'real_accuracy')
    code['real_accuracy'](task, num_steps=200, max_len=64)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line, name in zip(lines, ('pretrained', 'from scratch'), strict=True):
        assert line.startswith(f'{task.name}, {name}: ')
        assert float(line[-4:]) > 0.8
