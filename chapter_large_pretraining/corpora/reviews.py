"""Sentences of film reviews, each rated by 15 to 29 people; rated words.

Both are those of C. J. Hutto and E. Gilbert (2014), VADER.
"""

import hashlib
import html
import io
import tarfile
import zipfile
from typing import NamedTuple

import torch

from .real_texts import DAMAGED
from .storage import data_folder, digest

ARCHIVE = 'vaderSentiment-0.5.zip'
SHA256 = '5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a'
INNER = 'vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz'
LEXICON = 'vaderSentiment-0.5/vaderSentiment/vader_sentiment_lexicon.txt'
TABLE = 'hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt'
FETCH = (
    'make models, or pip download --no-deps -d data '
    '-r chapter_large_pretraining/corpora/film_reviews.txt'
)
PARTS = ('test', 'test', 'validation', *7 * ['train'])


class Reviews(NamedTuple):
    """Texts, and a float32 tensor of their mean ratings, from -4 to 4."""

    texts: list[str]
    ratings: torch.Tensor


def _rows(content):
    """Yields text and mean rating; nothing is unpacked onto the disk."""
    with zipfile.ZipFile(io.BytesIO(content)) as outer:
        inner = io.BytesIO(outer.read(INNER))
    with tarfile.open(fileobj=inner, mode='r:gz') as opened:
        table = opened.extractfile(TABLE).read().decode()
    for line in table.split('\n'):
        _, rating, text = line.split('\t')
        yield ' '.join(html.unescape(text).split()), float(rating)


def _words(content):
    """Yields word and mean rating."""
    with zipfile.ZipFile(io.BytesIO(content)) as outer:
        table = outer.read(LEXICON).decode('latin-1')
    for line in table.split('\n'):
        word, rating, *_ = line.split('\t')
        yield word.strip(), float(rating)


def _read(rows, data):
    """What `rows` yields from the archive in `data`; None if it is missing."""
    path = data_folder(data) / ARCHIVE
    if not path.is_file():
        print(f'{ARCHIVE} is not in the data folder: {FETCH}')
        return None
    content = path.read_bytes()
    came = hashlib.sha256(content).hexdigest()
    if came != SHA256:
        wanted = f'SHA-256 {SHA256} was expected, {came} came'
        raise ValueError(f'{path}: {wanted}; fetch it again: {FETCH}')
    try:
        return list(rows(content))
    except (*DAMAGED, ValueError) as error:
        raise ValueError(f'{path} cannot be read: {error}') from error


def word_ratings(data=None):
    """Rated words: a dict of a word to its mean rating, from -4 to 4.

    Ten people rated each, without a sentence around it. It is looked for in
    the archive of `film_reviews`, with its errors, and None where it is
    missing.
    """
    rows = _read(_words, data)
    return None if rows is None else dict(rows)


def film_reviews(above=None, data=None):
    """Rated sentences of film reviews: a dict of part to `Reviews`.

    The parts are 'train', 'validation' and 'test', about 7 : 1 : 2. The hash
    of a sentence, whatever its case, chooses its part and its place there,
    so that the first of a part are a random draw from it. A sentence that
    comes twice has the mean of both ratings. `above` leaves out those rated
    no further than this from 0. (Which sentences stood in one review, the
    archive does not say.) It is looked for in the folder `data` (default:
    DATA); where it is missing, a line says how to get it, and None is
    returned. Raises ValueError if it is another file, or `above` is not in
    [0, 4).
    """
    if above is not None and not 0 <= above < 4:
        raise ValueError(f'above is {above}, not in [0, 4)')
    rated = _read(_rows, data)
    if rated is None:
        return None
    found = {}
    for text, rating in rated:
        same = found.setdefault(digest(text.casefold()), [])
        same.append((text, rating))
    rows = {part: [] for part in ('train', 'validation', 'test')}
    for key, same in sorted(found.items()):
        rating = sum(rating for _, rating in same) / len(same)
        if above is None or abs(rating) > above:
            rows[PARTS[int(key, 16) % 10]].append((same[0][0], rating))
    texts = {part: [text for text, _ in rows[part]] for part in rows}
    everywhere = [text.casefold() for part in texts.values() for text in part]
    assert len(set(everywhere)) == len(everywhere)
    return {
        part: Reviews(texts[part], torch.tensor([r for _, r in rows[part]]))
        for part in rows
    }
