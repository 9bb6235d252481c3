"""Pictures with alternative text, small tables, claims that can fail."""

import html
import io
import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import torch
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator, NullLocator

PAGES = Path(__file__).with_name('pages')
DRAWINGS = Path(__file__).resolve().parents[1] / 'img'

COLORS = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#000000']
LINES = ['-', '--', '-.', ':', (0, (5, 1, 1, 1, 1, 1))]
MARKERS = 'os^DvPX'  # seven marks and five colors: 35 pairs

plt.rcParams.update(
    {
        'svg.hashsalt': 'chapter',
        'svg.fonttype': 'none',
        'font.size': 9,
        'axes.prop_cycle': plt.cycler(color=COLORS, linestyle=LINES),
    }
)


# ---- Pictures ----


def show(picture, alt):
    """Display a figure, or that of some axes, as SVG.

    `alt` is its alternative text.
    """
    fig = picture.figure
    file = io.StringIO()
    metadata = {'Date': None, 'Creator': None, 'Title': alt}
    fig.savefig(file, format='svg', bbox_inches='tight', metadata=metadata)
    plt.close(fig)
    data = {'image/svg+xml': file.getvalue(), 'text/plain': alt}
    display(data, raw=True)


def show_drawing(name):
    """Display the drawing img/`name`.svg with its own alternative text.

    Raises ValueError, with the names of all drawings, for another name.
    """
    names = sorted(path.stem for path in DRAWINGS.glob('*.svg'))
    if name not in names:
        raise ValueError(f'no drawing {name!r}; there are {", ".join(names)}')
    svg = (DRAWINGS / f'{name}.svg').read_text(encoding='utf-8')
    tree = ElementTree.fromstring(svg)
    text = f'{tree.findtext("{*}title")}. {tree.findtext("{*}desc")}'
    display({'image/svg+xml': svg, 'text/plain': text}, raw=True)


def label_tokens(ax, shape, queries, keys):
    """Write query tokens down and key tokens across the picture of a map."""
    for tokens, n, name in zip(
        (queries, keys), shape, ('query', 'key'), strict=True
    ):
        if len(tokens) != n:
            raise ValueError(f'{len(tokens)} {name} tokens for {n} positions')
    # tokens are text: two dollar signs do not make a formula
    ax.set_xticks(range(len(keys)), keys, rotation=90, parse_math=False)
    ax.set_yticks(range(len(queries)), queries, parse_math=False)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)


def plot_pattern(mask, queries, keys=None, ax=None, title=''):
    """Draw which key each query may attend to, from the mask itself.

    `mask` is boolean, (num_queries, num_keys). Row 1, column 1 is at the top
    left. Returns the axes. Raises ValueError for another mask and tokens that
    do not fit.
    """
    if mask.dtype != torch.bool or mask.dim() != 2 or 0 in mask.shape:
        raise ValueError(
            f'{mask.dtype} {tuple(mask.shape)} is not a boolean mask '
            '(num_queries, num_keys), both at least 1'
        )
    if ax is None:
        size = 0.3 * max(mask.shape) + 0.8
        ax = plt.subplots(figsize=(size, size))[1]
    mask = mask.cpu().numpy()
    style = {'edgecolors': 'white', 'linewidth': 2, 'vmin': 0, 'vmax': 1.4}
    ax.imshow(mask, alpha=0)  # sets the axes: rows down, columns across
    grid = [[i - 0.5 for i in range(n + 1)] for n in mask.shape[::-1]]
    ax.pcolormesh(*grid, 0.15 + 0.85 * mask, cmap='Blues', **style)
    label_tokens(ax, mask.shape, queries, queries if keys is None else keys)
    ax.set_frame_on(False)
    ax.set_xlabel(title)
    return ax


def check_maps(maps):
    """Raise ValueError unless these are attention weights of several maps."""
    if maps.dim() != 4 or 0 in maps.shape:
        raise ValueError(
            f'maps of shape {tuple(maps.shape)} are not (num_blks, '
            'num_heads, num_queries, num_keys), each at least 1'
        )
    if not ((maps >= 0) & (maps <= 1 + 1e-4)).all():
        raise ValueError(
            f'weights from {maps.min():g} to {maps.max():g}, not in [0, 1]'
        )


def plot_attention(
    maps, queries, keys=None, titles=None, label='attention weight'
):
    """Draw attention weights, one picture per head. Returns the figure.

    `maps` is (num_rows, num_cols, num_queries, num_keys), for example
    blocks by heads; `titles` has num_rows * num_cols entries, `label` says
    what is shown. Raises ValueError for maps of another shape, weights
    outside [0, 1], and tokens or titles that do not fit.
    """
    check_maps(maps)
    num_rows, num_cols, *shape = maps.shape
    if titles and len(titles) != num_rows * num_cols:
        raise ValueError(
            f'{len(titles)} titles for {num_rows * num_cols} maps'
        )
    width = min(0.16 * max(shape) + 0.3, 7 / num_cols)  # inches
    labelsize = min(7, 0.9 * 72 * width / max(shape))  # points: no overlap
    size = width * num_cols + 1.2, width * num_rows + 0.5
    fig, axes = plt.subplots(
        num_rows, num_cols, squeeze=False, layout='constrained', figsize=size
    )
    for i, ax in enumerate(axes.flat):
        matrix = maps.flatten(0, 1)[i].tolist()
        image = ax.imshow(matrix, cmap='Blues', vmin=0, vmax=1)
        label_tokens(ax, shape, queries, queries if keys is None else keys)
        ax.tick_params(labelsize=labelsize, labeltop=i < num_cols)
        ax.tick_params(labelleft=i % num_cols == 0)
        if titles:
            ax.set_xlabel(titles[i])
    fig.colorbar(image, ax=axes, shrink=0.5, label=label)
    return fig


def head_titles(num_blks, num_heads):
    """Names of all heads: ['block 1, head 1', 'block 1, head 2', ...]."""
    return [
        f'block {i + 1}, head {j + 1}'
        for i in range(num_blks)
        for j in range(num_heads)
    ]


def plot_pictures(pictures, titles=None, num_cols=8):
    """Draw pictures in a grid, ink dark on paper. Returns the figure.

    `pictures` is (n, height, width), scaled from the least to the greatest
    value of all. Raises ValueError for another shape and titles that do not
    fit.
    """
    if pictures.dim() != 3 or 0 in pictures.shape:
        raise ValueError(
            f'pictures of shape {tuple(pictures.shape)} are not (n, height, '
            'width), each at least 1'
        )
    n = len(pictures)
    if titles is not None and len(titles) != n:
        raise ValueError(f'{len(titles)} titles for {n} pictures')
    num_cols = min(num_cols, n)
    num_rows = -(-n // num_cols)
    height = 1.3 if titles else 0.9
    fig, axes = plt.subplots(
        num_rows,
        num_cols,
        squeeze=False,
        layout='constrained',
        figsize=(0.9 * num_cols, height * num_rows),
    )
    limits = {'vmin': pictures.min().item(), 'vmax': pictures.max().item()}
    for i, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if i < n:
            ax.set_axis_on()
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_color('0.8')
            ax.imshow(pictures[i].cpu().tolist(), cmap='Greys', **limits)
            if titles:
                ax.set_title(titles[i], fontsize=6, parse_math=False)
    return fig


def plot_history(histories, x='tokens', ax=None):
    """Plot the training loss of named histories, and where evaluated.

    `histories` maps a name to a `History`; `x` is 'tokens', 'seconds' or
    'step'. The loss is smoothed over a fiftieth of the run. Returns the axes.
    """
    ax = plt.subplots(figsize=(4.5, 2.8))[1] if ax is None else ax
    for name, history in histories.items():
        n = len(history.loss)
        xs = range(1, n + 1) if x == 'step' else getattr(history, x)
        loss = torch.tensor(history.loss).unfold(0, max(1, n // 50), 1).mean(1)
        line = ax.plot(xs[-len(loss) :], loss, label=name)[0]
        at = [xs[step - 1] for step in history.eval_step]
        ax.plot(at, history.eval_loss, 'o', ms=4, color=line.get_color())
    ax.set_xlabel({'tokens': 'training tokens'}.get(x, x))
    ax.set_ylabel('loss (nats per token)')
    ax.legend(frameon=False)
    return ax


def next_style(ax):
    """Mark, color and line of the series that comes next on `ax`."""
    n = sum(line.get_marker() != 'None' for line in ax.lines)
    return {
        'marker': MARKERS[n % len(MARKERS)],
        'color': COLORS[n % len(COLORS)],
        'linestyle': LINES[n % len(LINES)],
        'ms': 4,
    }


def as_runs(runs):
    """Named values as arrays (num_seeds, num_points), and num_points.

    Values (num_seeds,) become (num_seeds, 1). Raises ValueError for values
    of another shape, none at all, and different numbers of points.
    """
    arrays = {}
    for name, values in runs.items():
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu()
        try:
            array = np.asarray(values, dtype=float)
        except ValueError:
            raise ValueError(f'{name}: seeds have unequal points') from None
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or 0 in array.shape:
            raise ValueError(
                f'{name}: values of shape {array.shape} are not (num_seeds, '
                'num_points), each at least 1'
            )
        arrays[name] = array
    points = {name: array.shape[1] for name, array in arrays.items()}
    if len(set(points.values())) != 1:
        raise ValueError(f'not one number of points, but {points}')
    return arrays, array.shape[1]


def plot_runs(runs, x=None, ax=None):
    """Plot named runs: the mean as a line, the range over seeds as a band.

    `runs` maps a name to values (num_seeds, num_points); `x` has num_points
    numbers or names, 0, 1, 2, ... by default. Returns the axes. Raises
    ValueError for an `x` that does not fit and as `as_runs`.
    """
    runs, num_points = as_runs(runs)
    x = range(num_points) if x is None else x
    if len(x) != num_points:
        raise ValueError(f'{len(x)} x for {num_points} points')
    ax = plt.subplots(figsize=(4.5, 2.8))[1] if ax is None else ax
    for name, values in runs.items():
        line = ax.plot(x, values.mean(0), label=name, **next_style(ax))[0]
        if len(values) > 1:
            band = values.min(0), values.max(0)
            ax.fill_between(x, *band, color=line.get_color(), alpha=0.2, lw=0)
    ax.legend(frameon=False)
    return ax


def plot_dots(runs, rows=None, ax=None):
    """Plot named runs with a dot for every seed, in rows.

    `runs` maps a name to values (num_seeds, num_points). `rows` names the
    points, and the runs differ by their marks; without `rows` there is one
    point, and a row for each name. NaN is no dot. Returns the axes. Raises
    ValueError for `rows` that do not fit and as `as_runs`.
    """
    runs, num_points = as_runs(runs)
    shared = rows is not None
    if num_points != (len(rows) if shared else 1):
        raise ValueError(f'rows is {rows}, for {num_points} points')
    labels = rows if shared else list(runs)
    if ax is None:
        ax = plt.subplots(figsize=(4.5, 0.4 * len(labels) + 0.6))[1]
    middle = (len(runs) - 1) / 2
    for i, (name, values) in enumerate(runs.items()):
        at = np.arange(num_points) + 0.12 * (i - middle) if shared else [i]
        style = next_style(ax) | {'linestyle': ''}
        ax.plot(values.ravel(), np.tile(at, len(values)), label=name, **style)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    if shared:
        ax.legend(frameon=False, loc='center left', bbox_to_anchor=(1, 0.5))
    return ax


def plot_power_law(x, loss, law=None, laws=(), reach=1, ax=None, label=None):
    """Plot losses and the `law` they follow, both axes logarithmic.

    `x` and `loss` are (num_runs,). The law is drawn from the smallest x to
    `reach` times the largest, with a band that holds nine in ten of `laws`.
    Points of later calls get other marks and colors. Returns the axes.
    """
    ax = plt.subplots(figsize=(4.5, 2.8))[1] if ax is None else ax
    style = next_style(ax) | {'linestyle': ''}
    color = style['color']
    ax.plot(x, loss, label=label, **style)
    if law is not None:
        at = np.geomspace(min(x), reach * float(max(x)), 50)
        ax.plot(at, law(at), '-', lw=1, color=color)
        if len(laws):
            band = np.quantile([one(at) for one in laws], [0.05, 0.95], 0)
            ax.fill_between(at, *band, color=color, alpha=0.2, lw=0)
    ax.set_xscale('log')
    ax.set_yscale('log')
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.yaxis.set_major_formatter('{x:g}')
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylabel('validation loss (nats)')
    if label is not None:
        ax.legend(frameon=False)
    return ax


# ---- Tables and claims ----


def cell_text(value, digits):
    """What stands in the cell of a table: text as it is, None as nothing."""
    if hasattr(value, 'item'):
        value = value.item()
    if isinstance(value, float):
        return f'{value:z,.{digits}f}'
    if type(value) is int:
        return f'{value:,}'
    return '' if value is None else str(value)


def mean_and_range(values, digits):
    """'0.50 (0.40–0.60)', or the value itself if there is one."""
    mean, low, high = (
        cell_text(value, digits)
        for value in (values.mean(), values.min(), values.max())
    )
    return mean if len(values) == 1 else f'{mean} ({low}–{high})'


def table(rows, columns=None, digits=2):
    """Display a small table, as text and as HTML.

    `rows` maps a name to a value or to several: floats get `digits` decimals,
    whole numbers commas, other values stand as they are. A short row ends in
    empty cells; `columns`, if given, has a head for each value of the longest
    row. Raises ValueError if it has not, and for a table without values.
    """
    cells = {}
    for name, values in rows.items():
        if isinstance(values, str) or not np.iterable(values):
            values = [values]
        cells[name] = [cell_text(value, digits) for value in values]
    longest = max(map(len, cells.values()), default=0)
    if not longest:
        raise ValueError('a table without values')
    if columns is not None and len(columns) != longest:
        raise ValueError(f'{len(columns)} columns for {longest} values')
    for row in cells.values():
        row += [''] * (longest - len(row))
    frame = pd.DataFrame.from_dict(cells, orient='index', columns=columns)
    head = columns is not None
    ignore = 'tex2jax_ignore mathjax_ignore'  # text is text, with $ too
    page = frame.to_html(header=head, border=0, classes=ignore)
    text = frame.to_string(header=head)
    display({'text/html': page, 'text/plain': text}, raw=True)


def print_runs(runs, columns=None, digits=2):
    """Display named runs as a `table`: a row for each name.

    `runs` maps a name to values (num_seeds, num_points), and `columns` names
    the points; a cell has the mean over seeds and the range. Of values with
    one point, (num_seeds,), each is shown. Raises ValueError as `as_runs` and
    `table` do.
    """
    runs, num_points = as_runs(runs)
    if num_points == 1:
        rows = {name: values[:, 0] for name, values in runs.items()}
        most = max(map(len, rows.values()))
        heads = [f'run {i + 1}' for i in range(most)]
        columns = heads if columns is None else columns
    else:
        rows = {
            name: [mean_and_range(point, digits) for point in values.T]
            for name, values in runs.items()
        }
    table(rows, columns, digits)


def claim(text, holds):
    """Print `text` with a tick if it holds and with a cross if it does not.

    Where the environment variable CHAPTER_CLAIMS is 'raise', as in tests, a
    false claim raises AssertionError. `holds` is one truth value, of Python,
    NumPy or torch; anything else raises ValueError, lest it pass by accident.
    """
    if isinstance(holds, torch.Tensor):
        holds = holds.tolist()
    truth = np.ravel(holds)
    if truth.dtype != bool or truth.size != 1:
        raise ValueError(f'"{text}" is {holds!r}, not one truth value')
    line = f'{"✓" if truth[0] else "✗"} {text}'
    if not truth[0] and os.environ.get('CHAPTER_CLAIMS') == 'raise':
        raise AssertionError(line)
    print(line)


# ---- Pages in a frame, and the attention explorer ----


def fill_page(name, data):
    """The page pages/`name`.html with its parts and its data inside.

    A line `INCLUDE file` stands for that file, DATA for `data` as JSON.
    """

    def read(name):
        return (PAGES / name).read_text(encoding='utf-8')

    page = re.sub(
        r'^INCLUDE (\S+)\n',
        lambda m: read(m[1]),
        read(f'{name}.html'),
        flags=re.M,
    )
    text = json.dumps(data, separators=(',', ':'), ensure_ascii=False)
    return page.replace('DATA', text.replace('<', r'\u003c'), 1)


def show_page(page, title, text, **marks):
    """Display a whole HTML page in a frame that needs no network.

    `text` stands for it where no HTML is shown; `marks` become data
    attributes of the frame.
    """
    marked = ''.join(f'data-{k}="{html.escape(v)}" ' for k, v in marks.items())
    frame = (
        f'<div><iframe title="{title}" {marked}style="width: 100%; height: '
        f'480px; border: 0" srcdoc="{html.escape(page)}"></iframe></div>'
    )
    display({'text/html': frame, 'text/plain': text}, raw=True)


def explorer_page(queries, maps, keys):
    """The explorer as a whole HTML page; arguments as `explore_attention`."""
    data = {
        'queries': list(queries),
        'keys': list(keys),
        'maps': (maps * 1000).round().int().flatten(2).tolist(),
    }
    return fill_page('explorer', data)


def explore_attention(tokens, maps, keys=None, alt=None):
    """Display an explorer of attention weights, and below it a picture.

    `maps` is (num_blks, num_heads, num_queries, num_keys), weights between 0
    and 1; `tokens` names the queries, and the keys too unless `keys` does.
    The explorer needs neither kernel nor network, and rounds weights to three
    decimals; the picture, with `alt` as its alternative text, is for places
    that show no HTML. Raises ValueError for maps of another shape, tokens
    that do not fit, and weights outside [0, 1].
    """
    keys = tokens if keys is None else keys
    check_maps(maps)
    num_blks, num_heads = maps.shape[:2]
    titles = head_titles(num_blks, num_heads)
    figure = plot_attention(maps, tokens, keys, titles)
    alt = alt or f'Attention weights of {num_blks} x {num_heads} heads.'
    text = 'Attention explorer, an interactive form of the next picture.'
    show_page(explorer_page(tokens, maps, keys), 'Attention explorer', text)
    show(figure, alt)
