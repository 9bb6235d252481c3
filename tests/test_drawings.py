"""Tests of img/: the drawings are those of the masks, and can be read."""

import re
import subprocess
import sys
from xml.etree import ElementTree

import nbformat
import pytest
import torch
from execute import ROOT

IMG = ROOT / 'img'
NAMES = sorted(path.name for path in IMG.glob('*.svg'))
STORED = {'in-context-learning.svg', 'power-laws.svg', 'try-it.svg'}
DRAWN = sorted(set(NAMES) - STORED)
TEXT = '{http://www.w3.org/2000/svg}text'
RECT = '{http://www.w3.org/2000/svg}rect'


@pytest.fixture
def draw(monkeypatch):
    monkeypatch.syspath_prepend(IMG)
    import draw

    return draw


def test_redrawing_changes_nothing(tmp_path):
    command = [sys.executable, str(IMG / 'draw.py'), str(tmp_path)]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES
    assert len(NAMES) == 20
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == (IMG / name).read_bytes(), (
            f'{name} is not what its code draws: run "make drawings"'
        )


def dark_cells(drawing, draw):
    """How many cells of patterns are dark, and how many there are."""
    cells = [r for r in drawing.svg.iter('rect') if r.get('rx') == '2']
    return sum(r.get('fill') == draw.BLUE for r in cells), len(cells)


def test_patterns_are_the_masks(draw):
    assert dark_cells(draw.bert_pretraining(), draw) == (49, 49)
    assert dark_cells(draw.gpt_pretraining(), draw) == (15, 25)
    # given: 3 x 3, then 4 and 5; the queries see 3 and 4
    assert dark_cells(draw.xlnet(), draw) == (25, 35)
    # 4 x 4 of the encoder, 6 x 4 across, 21 of the decoder
    assert dark_cells(draw.t5_pretraining(), draw) == (61, 100)
    assert dark_cells(draw.three_modes(), draw) == (25 + 61 + 15, 150)
    assert dark_cells(draw.vit(), draw) == (25, 25)
    # 16 keys each, of 8 x 8, of 8 x 8 and of 4 x 4
    assert dark_cells(draw.swin(), draw) == (48, 144)


def test_another_mask_gives_another_drawing(draw, monkeypatch):
    def open_mask(num_queries, num_keys=None):
        shape = num_queries, num_keys or num_queries
        return torch.ones(shape, dtype=torch.bool)

    before = str(draw.gpt_pretraining())
    monkeypatch.setattr(draw, 'causal_mask', open_mask)
    assert dark_cells(draw.gpt_pretraining(), draw) == (25, 25)
    # and ten more lines inside the stack
    assert str(draw.gpt_pretraining()).count('<line') == (
        before.count('<line') + 10
    )
    with pytest.raises(AssertionError):
        draw.three_modes()


@pytest.mark.parametrize('name', DRAWN)
def test_text_is_text_and_stays_inside(name):
    text = (IMG / name).read_text(encoding='utf-8')
    assert not re.search('<(path|image|style|script)', text)
    svg = ElementTree.fromstring(text)
    width, height = (float(svg.get(side)) for side in ('width', 'height'))
    assert svg.get('viewBox') == f'0 0 {svg.get("width")} {svg.get("height")}'
    assert svg.get('role') == 'img'
    assert len(svg.findtext('{*}title')) > 10
    assert len(svg.findtext('{*}desc')) > 80
    words = [node for node in svg.iter(TEXT) if node.text]
    assert len(words) > 8 or name == 'icon.svg'
    for word in words:
        x, y, size = (float(word.get(k)) for k in ('x', 'y', 'font-size'))
        span = 0.6 * size * len(word.text)
        before = {'start': 0, 'middle': span / 2, 'end': span}
        before = before[word.get('text-anchor')]
        if word.get('transform'):  # written upwards
            assert 0 <= x <= width, word.text
            assert span <= y <= height, word.text
        else:
            assert before <= x <= width - span + before, word.text
            assert size / 2 <= y <= height, word.text


def stored_drawings(name):
    """Maps each drawing that a notebook shows to the SVG that it stores."""
    path = ROOT / 'chapter_large_pretraining' / f'{name}.ipynb'
    drawings = {}
    for cell in nbformat.read(path, as_version=4).cells:
        names = re.findall(r"show_drawing\('(.+?)'\)", cell.source)
        outputs = cell.get('outputs', [])
        for drawing, output in zip(names, outputs, strict=False):
            drawings[drawing] = output.data['image/svg+xml']
    return drawings


def test_notebooks_show_the_drawings_as_they_are():
    shown = {}
    for name in (
        'index',
        'bert',
        'bert_derivatives',
        't5',
        'gpt',
        'in_context',
        'after_pretraining',
        'vision',
        'multimodal',
    ):
        shown |= stored_drawings(name)
    for name, svg in shown.items():
        assert svg == (IMG / f'{name}.svg').read_text(encoding='utf-8'), name
    # all are shown but the live figure's twin and the icon
    assert {f'{name}.svg' for name in shown} == (
        set(NAMES) - {'three-modes.svg', 'icon.svg'}
    )
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    for name in ('three-modes.svg', *STORED):
        assert f'](img/{name})' in readme


def test_a_picture_that_is_not_stored_is_named(draw):
    with pytest.raises(ValueError, match=r'gpt.ipynb has no picture "Zzz'):
        draw.stored('gpt', 'Zzz')


def test_the_card_makes_any_background_light():
    for name in DRAWN:
        card = next(ElementTree.parse(IMG / name).getroot().iter(RECT))
        assert card.get('fill') == 'white'
