"""Tests of the attention explorer as text; test_browser.py uses it."""

import html
import re

import nbformat
import pytest
import torch
from execute import CHAPTER
from frames import data_of, frames_of, page_of
from nbcompare import difference
from nbformat.v4 import new_output

import figures
from figures import explorer_page


def random_maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(torch.randn(shape, generator=generator), dim=-1)


def test_two_outputs_explorer_and_picture(shown):
    maps = random_maps(2, 3, 4, 4)
    figures.explore_attention(['I', 'love', 'red', 'cars'], maps)
    frame, picture = shown
    assert frame['text/html'].startswith('<div><iframe ')
    assert frame['text/html'].endswith('</iframe></div>')
    assert picture.keys() == {'image/svg+xml', 'text/plain'}
    data = data_of(page_of(frame['text/html']))
    assert data['queries'] == data['keys'] == ['I', 'love', 'red', 'cars']
    read = torch.tensor(data['maps']).view(2, 3, 4, 4) / 1000
    torch.testing.assert_close(read, maps, atol=5.1e-4, rtol=0)
    # the same again, letter for letter
    figures.explore_attention(['I', 'love', 'red', 'cars'], maps)
    assert shown[0] == shown[2]


def test_queries_and_keys_of_an_encoder_decoder(shown):
    maps = random_maps(1, 2, 2, 5)
    maps[0, 1, 0] = torch.tensor([0, 0, 1, 0, 0])
    figures.explore_attention(['a', 'b'], maps, keys=list('vwxyz'), alt='Alt.')
    data = data_of(page_of(shown[0]['text/html']))
    assert data['queries'] == ['a', 'b']
    assert data['keys'] == list('vwxyz')
    assert data['maps'][0][1][:5] == [0, 0, 1000, 0, 0]
    assert shown[1]['text/plain'] == 'Alt.'


def test_every_token_is_escaped(shown):
    tokens = ['</script>', '"', "'", '<!--', '&quot;', ']]>', '\\u003c', 'é\n']
    figures.explore_attention(tokens, random_maps(1, 1, 8, 8))
    frame = shown[0]['text/html']
    # nothing ends the attribute early
    assert re.fullmatch(r'<div><iframe [^<>]*></iframe></div>', frame)
    assert frame.count('"') == 6
    assert data_of(page_of(shown[0]['text/html']))['queries'] == tokens


def test_size_and_nothing_from_outside():
    tokens = ['token'] * 32
    page = explorer_page(tokens, torch.ones(4, 4, 32, 32), tokens)
    assert len(html.escape(page)) < 300_000
    assert not re.search(r'https?:|//\w|@import|url\(|<link|src=', page)
    assert 'random' not in page


@pytest.mark.parametrize(
    ('tokens', 'keys', 'shape', 'message'),
    [
        (3, None, (1, 1, 4, 4), '3 query tokens for 4 positions'),
        (4, 3, (1, 1, 4, 4), '3 key tokens for 4 positions'),
        (4, None, (1, 1, 4, 5), '4 key tokens for 5 positions'),
        (4, None, (1, 4, 4), r'maps of shape \(1, 4, 4\)'),
        (0, None, (1, 1, 0, 0), r'maps of shape \(1, 1, 0, 0\)'),
        (4, None, (0, 1, 4, 4), r'maps of shape \(0, 1, 4, 4\)'),
    ],
)
def test_sizes_that_do_not_fit_raise(shown, tokens, keys, shape, message):
    keys = None if keys is None else ['k'] * keys
    with pytest.raises(ValueError, match=message):
        figures.explore_attention(['q'] * tokens, random_maps(*shape), keys)
    assert shown == []


@pytest.mark.parametrize('weight', [-0.1, 1.1, float('nan')])
def test_weights_that_are_none_raise(shown, weight):
    maps = random_maps(1, 1, 2, 2)
    maps[0, 0, 1, 1] = weight
    with pytest.raises(ValueError, match='not in \\[0, 1\\]'):
        figures.explore_attention(['a', 'b'], maps)
    assert shown == []


def test_notebooks_compare_the_frame_but_not_its_weights():
    def output(weight, token='love', title='Attention explorer'):
        page = html.escape(
            explorer_page([token], torch.full((1, 1, 1, 1), weight), [token])
        )
        text = f'<div><iframe title="{title}" srcdoc="{page}"></iframe></div>'
        return [new_output('display_data', {'text/html': text})]

    assert difference(output(0.5), output(0.5)) is None
    assert difference(output(0.5), output(0.6)) is None
    assert difference(output(0.5), output(0.5, title='x'))
    assert difference(output(0.5), [])


def stored_frames(name, title='Attention explorer'):
    """The frames of one title that a notebook stores."""
    notebook = nbformat.read(CHAPTER / f'{name}.ipynb', as_version=4)
    return [
        output.data['text/html']
        for cell in notebook.cells
        for output in frames_of(cell)
        if f'title="{title}"' in output.data['text/html']
    ]


def stored_pages(name):
    """The explorers that a notebook stores, as pages."""
    return [page_of(frame) for frame in stored_frames(name)]


@pytest.mark.parametrize('name', ['bert', 't5_tasks', 'gpt'])
def test_stored_explorers_are_those_of_the_code(name):
    pages = stored_pages(name)
    assert len(pages) > 0
    for page in pages:
        data = data_of(page)
        shape = len(data['queries']), len(data['keys'])
        maps = torch.tensor(data['maps']).unflatten(2, shape) / 1000
        assert explorer_page(data['queries'], maps, data['keys']) == page
