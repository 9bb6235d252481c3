"""Pictures, tables and claims; the explorer is in test_explorer.py."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from execute import KERNEL_ENV, ROOT
from matplotlib import pyplot as plt

import figures
from figures import (
    claim,
    head_titles,
    plot_attention,
    plot_dots,
    plot_history,
    plot_pattern,
    plot_pictures,
    plot_power_law,
    plot_runs,
    print_runs,
    show,
    show_drawing,
    table,
)
from laws import PowerLaw
from utils import History

CAUSAL = torch.ones(3, 3, dtype=torch.bool).tril()
SVG = '{http://www.w3.org/2000/svg}'


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close('all')


# ---- Pictures ----


def test_pictures_are_the_same_each_time_and_say_what_they_show(shown):
    for _ in range(2):
        show(plot_pattern(CAUSAL, list('abc')), 'the causal mask')
    assert shown[0] == shown[1]
    assert shown[0]['text/plain'] == 'the causal mask'
    svg = shown[0]['image/svg+xml']
    assert '<title>the causal mask</title>' in svg
    assert '<dc:date>' not in svg


def test_axes_show_their_figure_and_close_it(shown):
    ax = plot_pattern(CAUSAL, list('abc'))
    show(ax, 'alt')
    assert plt.get_fignums() == []
    show(ax.figure, 'alt')
    assert shown[0] == shown[1]


def test_a_drawing_is_shown_with_its_text(shown):
    show_drawing('bert-pretraining')
    svg = (ROOT / 'img' / 'bert-pretraining.svg').read_text()
    assert shown[0]['image/svg+xml'] == svg
    assert shown[0]['text/plain'].startswith(
        'Pretraining BERT. Left: seven tokens'
    )
    with pytest.raises(ValueError, match="'bart'; there are after-pre"):
        show_drawing('bart')


def test_pattern_has_token_one_at_the_top_left():
    ax = plot_pattern(CAUSAL, list('abc'), list('xyz'))
    cells = ax.collections[0].get_array().reshape(3, 3)
    assert (cells > 0.5).tolist() == CAUSAL.tolist()
    first = ax.transData.transform((0, 0))
    last = ax.transData.transform((2, 2))
    assert first[0] < last[0] and first[1] > last[1]
    assert [t.get_text() for t in ax.get_xticklabels()] == list('xyz')
    assert [t.get_text() for t in ax.get_yticklabels()] == list('abc')


def test_pattern_with_tokens_that_do_not_fit_raises():
    with pytest.raises(ValueError, match='2 key tokens for 3 positions'):
        plot_pattern(CAUSAL, list('abc'), list('xy'))


@pytest.mark.parametrize(
    'mask', [CAUSAL.float(), CAUSAL[None], CAUSAL[:0], CAUSAL[:, :0]]
)
def test_pattern_of_what_is_no_mask_raises(mask):
    shape = tuple(mask.shape)
    with pytest.raises(ValueError, match=re.escape(f'{mask.dtype} {shape}')):
        plot_pattern(mask, list('abc')[: shape[0]])


def test_pictures_stand_in_a_grid_and_share_their_range():
    pictures = torch.arange(12.0).view(3, 2, 2)
    fig = plot_pictures(pictures, ['a', 'b', '$c'], 2)
    assert len(fig.axes) == 4
    images = [ax.images[0] for ax in fig.axes[:3]]
    assert not fig.axes[3].images
    assert [ax.get_title() for ax in fig.axes] == ['a', 'b', '$c', '']
    assert images[2].get_array().tolist() == [[8, 9], [10, 11]]
    assert {image.get_clim() for image in images} == {(0, 11)}


@pytest.mark.parametrize(
    'shape, titles, message',
    [
        ((2, 2), None, r'shape \(2, 2\) are not'),
        ((0, 2, 2), None, r'shape \(0, 2, 2\) are not'),
        ((2, 2, 2), ['a'], '1 titles for 2 pictures'),
    ],
)
def test_pictures_that_do_not_fit_raise(shape, titles, message):
    with pytest.raises(ValueError, match=message):
        plot_pictures(torch.zeros(shape), titles)


def test_attention_figure_draws_the_weights():
    maps = torch.rand(2, 3, 4, 4)
    fig = plot_attention(maps, list('abcd'), titles=list('123456'))
    axes = fig.axes[:6]  # then the color bar
    for ax, weights in zip(axes, maps.flatten(0, 1), strict=True):
        drawn = torch.tensor(ax.images[0].get_array().tolist())
        torch.testing.assert_close(drawn, weights)
    with pytest.raises(ValueError, match='3 query tokens for 4 positions'):
        plot_attention(maps, list('abc'))
    for value in (float('nan'), -0.1, 1.1):
        maps[1, 2, 0, 3] = value
        with pytest.raises(ValueError, match=r'not in \[0, 1\]'):
            plot_attention(maps, list('abcd'))
    with pytest.raises(ValueError, match=r'shape \(1, 0, 4, 4\)'):
        plot_attention(torch.rand(1, 0, 4, 4), list('abcd'))
    maps = torch.rand(2, 3, 4, 4)
    with pytest.raises(ValueError, match='5 titles for 6 maps'):
        plot_attention(maps, list('abcd'), titles=list('12345'))


TOKENS = ['$$', '$5$', r'\$5', '<b>', 'a_b^c', '$x', '&amp;', '_']


@pytest.mark.parametrize('plot', [plot_pattern, plot_attention])
def test_tokens_are_text_and_not_markup(plot, shown):
    maps = torch.ones(8, 8, dtype=torch.bool)
    if plot is plot_attention:
        maps = maps[None, None].float()
    show(plot(maps, TOKENS), 'alt')
    svg = ElementTree.fromstring(shown[0]['image/svg+xml'])
    texts = [text.text for text in svg.iter(f'{SVG}text')]
    assert [text for text in texts if text in TOKENS] == 2 * TOKENS
    assert not list(svg.iter(f'{SVG}tspan'))  # those of a formula


def test_explorer_shows_tokens_as_they_are(shown):
    figures.explore_attention(TOKENS, torch.ones(1, 1, 8, 8))
    svg = ElementTree.fromstring(shown[1]['image/svg+xml'])
    texts = [text.text for text in svg.iter(f'{SVG}text')]
    assert [text for text in texts if text in TOKENS] == 2 * TOKENS


def test_head_titles_go_along_the_blocks():
    assert head_titles(2, 2) == [
        'block 1, head 1',
        'block 1, head 2',
        'block 2, head 1',
        'block 2, head 2',
    ]


def test_history_plot_draws_losses_and_evaluations():
    history = History()
    history.loss = [6.0, 5, 4, 3, 2, 1]
    history.tokens = [10, 20, 30, 40, 50, 60]
    history.eval_step, history.eval_loss = [2, 4, 6], [5.5, 3.5, 1.5]
    loss, evals = plot_history({'run': history}, x='step').lines
    assert list(loss.get_ydata()) == history.loss
    assert list(loss.get_xdata()) == [1, 2, 3, 4, 5, 6]
    assert list(evals.get_xdata()) == [2, 4, 6]
    loss, evals = plot_history({'run': history}).lines
    assert list(loss.get_xdata()) == history.tokens
    assert list(evals.get_xdata()) == [20, 40, 60]
    history.loss = [float(i) for i in range(100)]  # smoothed over two
    (loss, _) = plot_history({'run': history}, x='step').lines
    assert list(loss.get_xdata()) == list(range(2, 101))
    assert loss.get_ydata()[0] == 0.5


def test_plot_power_law():
    x, law = np.array([1e3, 1e4, 1e5]), PowerLaw(1e10, 0.1)
    laws = [PowerLaw(1e10, e) for e in (0.09, 0.1, 0.11)]
    ax = plot_power_law(x, law(x), law, laws, reach=10, label='a')
    assert ax.get_xscale() == ax.get_yscale() == 'log'
    points, line = ax.lines
    assert points.get_linestyle() == 'None'
    assert points.get_xdata().tolist() == x.tolist()
    assert line.get_xdata().max() == pytest.approx(1e6)
    assert line.get_ydata() == pytest.approx(law(line.get_xdata()))
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() <= laws[2](1e3)
    plot_power_law(x, law(x) + 1, label='b', ax=ax)
    assert ax.lines[2].get_marker() != points.get_marker()
    assert ax.lines[2].get_color() != points.get_color()


# ---- Runs ----

VALUES = [[1.0, 2, 3, 4], [3, 4, 5, 6], [2, 9, 4, 5]]  # 3 seeds, 4 points


@pytest.mark.parametrize(
    'kind',
    [
        list,
        np.array,
        torch.tensor,
        lambda rows: [torch.tensor(r) for r in rows],
    ],
)
def test_runs_are_a_mean_in_a_band(kind):
    ax = plot_runs({'a': kind(VALUES), 'b': kind(VALUES[:1])}, [1, 2, 4, 8])
    a, b = ax.lines
    assert a.get_xdata().tolist() == [1, 2, 4, 8]
    assert a.get_ydata().tolist() == [2, 5, 4, 5]
    assert b.get_ydata().tolist() == VALUES[0]
    (band,) = ax.collections  # a single run has none
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
    assert {(1, 1), (1, 3), (2, 2), (2, 9), (8, 4), (8, 6)} <= corners
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ['a', 'b']


def test_runs_differ_without_their_colors():
    runs = {str(i): VALUES for i in range(7)}
    lines = plot_runs(runs).lines
    assert len({line.get_marker() for line in lines}) == 7
    assert len({line.get_linestyle() for line in lines[:4]}) == 4
    assert len({line.get_color() for line in lines[:5]}) == 5


def test_runs_go_on_where_others_end():
    ax = plot_runs({'a': VALUES})
    assert plot_runs({'b': VALUES}, ax=ax) is ax
    a, b = ax.lines
    assert a.get_marker() != b.get_marker() and a.get_color() != b.get_color()


def test_points_may_have_names(shown):
    ax = plot_runs({'a': VALUES}, ['left', 'right', 'both', 'none'])
    show(ax, 'alt')
    assert '>both</text>' in shown[0]['image/svg+xml']


@pytest.mark.parametrize('draw', [plot_runs, plot_dots, print_runs])
@pytest.mark.parametrize(
    ('runs', 'message'),
    [
        ({}, 'not one number of points, but {}'),
        ({'a': []}, r'a: values of shape \(0, 1\) are not \(num_seeds'),
        ({'a': [[], []]}, r'a: values of shape \(2, 0\)'),
        ({'a': 1.5}, r'a: values of shape \(\) are'),
        ({'a': np.zeros((2, 3, 4))}, r'a: values of shape \(2, 3, 4\)'),
        ({'a': [[1, 2], [3]]}, 'a: seeds have unequal points'),
        ({'a': [[1, 2]], 'b': [[1, 2, 3]]}, "points, but {'a': 2, 'b': 3}"),
    ],
)
def test_runs_of_another_shape_raise(draw, runs, message, shown):
    with pytest.raises(ValueError, match=message):
        draw(runs)
    assert shown == [] and plt.get_fignums() == []


def test_x_and_rows_that_do_not_fit_raise():
    with pytest.raises(ValueError, match='3 x for 4 points'):
        plot_runs({'a': VALUES}, [1, 2, 3])
    with pytest.raises(ValueError, match=r"rows is \['p'\], for 4 points"):
        plot_dots({'a': VALUES}, ['p'])
    with pytest.raises(ValueError, match='rows is None, for 4 points'):
        plot_dots({'a': VALUES})


def test_dots_have_a_row_for_each_name():
    ax = plot_dots({'a': [1, 2, 3], 'b': [4]})
    a, b = ax.lines
    assert a.get_xydata().tolist() == [[1, 0], [2, 0], [3, 0]]
    assert b.get_xydata().tolist() == [[4, 1]]
    assert a.get_linestyle() == b.get_linestyle() == 'None'
    assert [text.get_text() for text in ax.get_yticklabels()] == ['a', 'b']
    assert ax.get_ylim() == (1.5, -0.5)  # the first row is on top
    assert ax.get_legend() is None


def test_dots_of_several_names_share_the_rows_of_points():
    runs = {'a': VALUES, 'b': [[5, 6, 7, np.nan]]}
    ax = plot_dots(runs, ['p', 'q', 'r', 's'])
    a, b = ax.lines
    assert a.get_xdata().tolist() == np.ravel(VALUES).tolist()
    assert a.get_ydata().round().tolist() == 3 * [0, 1, 2, 3]
    assert b.get_ydata().round().tolist() == [0, 1, 2, 3]
    assert (b.get_ydata() > a.get_ydata()[:4]).all()  # none hides another
    assert a.get_marker() != b.get_marker()
    assert [text.get_text() for text in ax.get_yticklabels()] == list('pqrs')
    assert len(ax.get_legend().get_texts()) == 2


# ---- Tables ----


def cells_of(output):
    """The lines of the text, and the rows of the page, cell by cell."""
    lines = [line.split() for line in output['text/plain'].splitlines()]
    page = ElementTree.fromstring(output['text/html'])
    rows = [[cell.text or '' for cell in row] for row in page.iter('tr')]
    return lines, rows


def test_table_is_text_and_page(shown):
    rows = {'base': [109_000_000, 0.125], '<b>': (torch.tensor(2), 1e4)}
    table(rows, ['size', 'loss'])
    lines, page = cells_of(shown[0])
    assert lines == [
        ['size', 'loss'],
        ['base', '109,000,000', '0.12'],
        ['<b>', '2', '10,000.00'],
    ]
    assert page == [['', 'size', 'loss'], *lines[1:]]
    assert '<style' not in shown[0]['text/html']
    assert 'mathjax_ignore' in shown[0]['text/html']
    assert 'border' not in shown[0]['text/html']
    table(rows, ['size', 'loss'])
    assert shown[0] == shown[1]


def test_table_formats_values_by_their_kind(shown):
    row = ['12 %', -1e-4, np.float32(0.5), np.int64(1234), True, None, 1.0]
    table({'x': [*row, float('nan')]}, digits=3)
    lines, page = cells_of(shown[0])
    assert page == [
        ['x', '12 %', '0.000', '0.500', '1,234', 'True', '', '1.000', 'nan']
    ]
    assert len(lines) == 1  # no columns, no head


def test_table_of_single_values_and_of_unequal_rows(shown):
    long = 'very_long_' * 20
    table({'a': torch.tensor(1.5), 'b': 'text', 'c': [1, 2], long: [long]})
    _, page = cells_of(shown[0])
    assert page == [
        ['a', '1.50', ''],
        ['b', 'text', ''],
        ['c', '1', '2'],
        [long, long, ''],
    ]
    assert long in shown[0]['text/plain']


@pytest.mark.parametrize(
    ('rows', 'columns', 'message'),
    [
        ({}, None, 'a table without values'),
        ({'a': []}, [], 'a table without values'),
        ({'a': [1, 2]}, ['x'], '1 columns for 2 values'),
        ({'a': [1, 2], 'b': [1]}, ['x', 'y', 'z'], '3 columns for 2 values'),
        ({'a': [np.zeros(2)]}, None, 'size 1'),
    ],
)
def test_table_that_does_not_fit_raises(rows, columns, message, shown):
    with pytest.raises(ValueError, match=message):
        table(rows, columns)
    assert shown == []


def test_runs_of_one_point_show_each_run(shown):
    print_runs({'a': [0.5, 0.25, 1], 'baseline': torch.tensor([0.125])})
    _, page = cells_of(shown[0])
    assert page == [
        ['', 'run 1', 'run 2', 'run 3'],
        ['a', '0.50', '0.25', '1.00'],
        ['baseline', '0.12', '', ''],
    ]
    print_runs({'a': [0.5, 0.25]}, ['seed 0', 'seed 7'], digits=3)
    assert cells_of(shown[1])[1] == [
        ['', 'seed 0', 'seed 7'],
        ['a', '0.500', '0.250'],
    ]


def test_runs_of_several_points_show_mean_and_range(shown):
    runs = {'a': [[1, 2], [3, 2.5], [2, 2.75]], 'one': [[7, 8]]}
    print_runs(runs, [16, 32], digits=1)
    lines, page = cells_of(shown[0])
    assert page == [
        ['', '16', '32'],
        ['a', '2.0 (1.0–3.0)', '2.4 (2.0–2.8)'],
        ['one', '7.0', '8.0'],
    ]
    assert lines[2] == ['one', '7.0', '8.0']
    with pytest.raises(ValueError, match='1 columns for 2 values'):
        print_runs(runs, ['x'])


# ---- Claims ----

TRUE = [
    True,
    np.bool_(True),
    torch.tensor(2) > 1,
    torch.tensor([[2]]) > 1,
    np.array([True]),
]
FALSE = [False, np.bool_(False), torch.tensor(1) > 2, float('nan') > 0]
NEITHER = [
    float('nan'),
    np.nan,
    torch.tensor(float('nan')),
    1,
    0,
    0.5,
    None,
    'False',
    [],
    {},
    torch.tensor([]),
    torch.tensor([]) > 0,
    np.array([]) > 0,
    torch.tensor([1, 2]) > 0,
    np.array([True, True]),
    [True, False],
    torch.tensor(1),
    (True for _ in range(1)),
    lambda: True,
]


@pytest.fixture(params=['raise', 'print', None])
def mode(request, monkeypatch):
    monkeypatch.delenv('CHAPTER_CLAIMS', raising=False)
    if request.param:
        monkeypatch.setenv('CHAPTER_CLAIMS', request.param)
    return request.param


@pytest.mark.parametrize('holds', TRUE)
def test_a_true_claim_prints(mode, holds, capsys):
    claim('two is more than one', holds)
    assert capsys.readouterr().out == '✓ two is more than one\n'


@pytest.mark.parametrize('holds', FALSE)
def test_a_false_claim_raises_in_tests_and_prints_for_a_reader(
    mode, holds, capsys
):
    if mode == 'raise':
        with pytest.raises(AssertionError, match=r'^✗ never$'):
            claim('never', holds)
        assert capsys.readouterr().out == ''
    else:
        claim('never', holds)
        assert capsys.readouterr().out == '✗ never\n'


@pytest.mark.parametrize('holds', NEITHER)
def test_what_is_neither_true_nor_false_raises(mode, holds, capsys):
    with pytest.raises(ValueError, match='"maybe" is '):
        claim('maybe', holds)
    assert capsys.readouterr().out == ''


def test_claims_raise_where_notebooks_are_tested():
    assert KERNEL_ENV['CHAPTER_CLAIMS'] == 'raise'
