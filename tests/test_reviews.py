"""Tests of the film reviews: a small archive made here, then the real one."""

import hashlib
import io
import os
import re
import tarfile
import zipfile

import pytest
import torch
from execute import CHAPTER

from corpora import film_reviews, reviews, word_ratings

ROWS = [(f'The film no. {i} is a café', (i % 9 - 4) * 1.0) for i in range(200)]


def pack(rows=ROWS, table=reviews.TABLE, inner=reviews.INNER, extra=()):
    """The bytes of an archive of archives, as the real one is."""
    lines = [f'{i}\t{rating}\t{text}' for i, (text, rating) in enumerate(rows)]
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode='w:gz') as opened:
        for name, content in [(table, '\r\n'.join(lines).encode()), *extra]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as opened:
        opened.writestr(inner, tar.getvalue())
        for name, content in extra:
            opened.writestr(name, content)
    return file.getvalue()


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Puts an archive, with its hash, into a folder `data`, and names it."""

    def put(content, known=True):
        (tmp_path / 'data').mkdir(exist_ok=True)
        (tmp_path / 'data' / reviews.ARCHIVE).write_bytes(content)
        if known:
            came = hashlib.sha256(content).hexdigest()
            monkeypatch.setattr(reviews, 'SHA256', came)
        return tmp_path / 'data'

    return put


def test_every_review_stands_in_one_part_with_its_rating(shelf):
    parts = film_reviews(data=shelf(pack()))
    assert list(parts) == ['train', 'validation', 'test']
    rows = [
        (text, rating)
        for texts, ratings in parts.values()
        for text, rating in zip(texts, ratings.tolist(), strict=True)
    ]
    assert sorted(rows) == sorted(ROWS)
    sizes = [len(part.texts) for part in parts.values()]
    assert 120 < sizes[0] < 160 and 8 < sizes[1] < 36 and 22 < sizes[2] < 60
    for part in parts.values():
        assert part.ratings.dtype == torch.float32
    # neither other reviews nor another order change the part of a review
    fewer = film_reviews(data=shelf(pack(ROWS[150:40:-1])))
    for name, part in parts.items():
        kept = [text for text in part.texts if text in fewer[name].texts]
        assert fewer[name].texts == kept
    assert sum(len(part.texts) for part in fewer.values()) == 110


def test_equal_sentences_are_one_with_the_mean_rating(shelf):
    rows = [
        ('A  gem &amp; a joy', 3.0),
        ('a gem & A JOY', 2.0),
        ('Dull.', -2),
        ('Dull.', -2),
    ]
    parts = film_reviews(data=shelf(pack(rows)))
    found = {}
    for texts, ratings in parts.values():
        found |= zip(texts, ratings.tolist(), strict=True)
    assert found == {'A gem & a joy': 2.5, 'Dull.': -2.0}


@pytest.mark.parametrize(
    ('above', 'sizes'), [(None, {0, 1, 2, 3, 4}), (0, {1, 2, 3, 4}), (3, {4})]
)
def test_above_leaves_out_what_is_rated_near_zero(shelf, above, sizes):
    parts = film_reviews(above, data=shelf(pack()))
    ratings = torch.cat([part.ratings for part in parts.values()])
    assert set(ratings.abs().tolist()) == sizes


@pytest.mark.parametrize('above', [-1, 4, float('nan')])
def test_a_senseless_bound_is_refused(shelf, above):
    with pytest.raises(ValueError, match=f'above is {above}, not in'):
        film_reviews(above, data=shelf(pack()))


@pytest.mark.parametrize('read', [film_reviews, word_ratings])
def test_a_missing_archive_is_one_line_that_names_the_command(
    read, tmp_path, capsys
):
    assert read(data=tmp_path) is None
    line = capsys.readouterr().out
    assert line.count('\n') == 1
    assert reviews.ARCHIVE in line and 'make models' in line
    file = re.search(r'-r \S+/(corpora/\S+)', line).group(1)
    wanted = (CHAPTER / file).read_text()
    assert f'==0.5 --hash=sha256:{reviews.SHA256}\n' in wanted
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('read', [film_reviews, word_ratings])
@pytest.mark.parametrize('size', [0, 1000, -1])
def test_a_truncated_or_changed_archive_is_refused(read, shelf, size):
    content = pack()
    shelf(content)
    folder = shelf(content[:size], known=False)
    with pytest.raises(ValueError, match=r'SHA-256 \w+ was expected') as info:
        read(data=folder)
    assert 'make models' in str(info.value)


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'no zip',
        pack()[:-100],
        pack(inner='other/hutto_ICWSM_2014.tar.gz'),
        pack(table='hutto_ICWSM_2014/other.txt'),
        pack([('no rating', 'x')]),
        pack([('another\tcolumn', 1.0)]),
    ],
)
def test_an_archive_of_other_content_is_refused(shelf, content):
    folder = shelf(content)
    with pytest.raises(ValueError, match=f'{reviews.ARCHIVE} cannot be read'):
        film_reviews(data=folder)


def lexicon(content):
    return pack(extra=[(reviews.LEXICON, content)])


def test_words_have_their_mean_ratings(shelf):
    content = 'good\t1.9\t0.9\t[2, 1]\r\nna\xefve\t-1.1\r\n:( \t-2'
    found = word_ratings(data=shelf(lexicon(content.encode('latin-1'))))
    assert found == {'good': 1.9, 'na\xefve': -1.1, ':(': -2.0}


@pytest.mark.parametrize(
    'content', [b'no zip', pack(), lexicon(b'good'), lexicon(b'good\tfun')]
)
def test_an_archive_without_rated_words_is_refused(shelf, content):
    folder = shelf(content)
    with pytest.raises(ValueError, match=f'{reviews.ARCHIVE} cannot be read'):
        word_ratings(data=folder)


def test_nothing_is_written_wherever_members_lead(shelf, tmp_path):
    extra = [('../../evil.txt', b'x'), (str(tmp_path / 'evil.txt'), b'x')]
    parts = film_reviews(data=shelf(pack(extra=extra)))
    assert sum(len(part.texts) for part in parts.values()) == len(ROWS)
    files = [path for path in tmp_path.rglob('*') if path.is_file()]
    assert files == [tmp_path / 'data' / reviews.ARCHIVE]
    assert not (tmp_path.parent / 'evil.txt').exists()


# The real archive


@pytest.fixture(scope='module')
def real():
    parts = film_reviews()
    if parts is None:
        required = os.environ.get('CHAPTER_REQUIRE_MODELS')
        stop = pytest.fail if required else pytest.skip
        stop('the film reviews are not here: make models')
    return parts


def test_the_real_reviews_are_those_of_the_paper(real):
    assert [len(part.texts) for part in real.values()] == [7407, 1094, 2102]
    texts = [text for part in real.values() for text in part.texts]
    assert len({text.casefold() for text in texts}) == 10603
    assert all(text == ' '.join(text.split()) and text for text in texts)
    # accents are whole, and nothing was decoded twice
    letters = ''.join(texts)
    assert letters.count('é') == 78
    assert not re.search('[ÃÂ\ufffd\x80-\x9f]|&amp;', letters)
    ratings = torch.cat([part.ratings for part in real.values()])
    assert -4 < ratings.min() < -3.8 and 3.8 < ratings.max() < 4


def test_clear_reviews_are_balanced_in_every_part(real):
    clear = film_reviews(above=1)
    assert [len(part.texts) for part in clear.values()] == [6313, 934, 1774]
    for name, (texts, ratings) in clear.items():
        assert set(texts) <= set(real[name].texts)
        assert ratings.abs().min() > 1
        assert 0.49 < (ratings > 0).float().mean() < 0.53


@pytest.mark.usefixtures('real')
def test_the_real_words_are_those_of_the_archive():
    rated = word_ratings()
    assert len(rated) == 7502
    assert min(rated.values()) > -4 and max(rated.values()) < 4
    known = {'okay': 0.9, 'good': 1.9, 'great': 3.1, 'horrible': -2.5}
    assert known.items() <= rated.items()
