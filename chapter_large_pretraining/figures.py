"""Pictures with alternative text, and claims that can fail."""

import html
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator, NullLocator

PAGE = Path(__file__).with_name('explorer.html')
DRAWINGS = Path(__file__).resolve().parents[1] / 'img'

plt.rcParams.update({
    'svg.hashsalt': 'chapter', 'svg.fonttype': 'none', 'font.size': 9,
    'axes.prop_cycle': plt.cycler(
        color=['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#000000'],
        linestyle=['-', '--', '-.', ':', (0, (5, 1, 1, 1, 1, 1))],
    ),
})  # fmt: skip


def show(fig, alt):
    """Display `fig` as SVG, with `alt` as its alternative text."""
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
    ax.set_xticks(range(len(keys)), keys, rotation=90)
    ax.set_yticks(range(len(queries)), queries)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)


def show_pattern(mask, queries, keys=None, ax=None, title=''):
    """Draw which key each query may attend to, from the mask itself.

    `mask` is boolean, (num_queries, num_keys). Row 1, column 1 is at the top
    left. Returns the axes.
    """
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


def show_attention(maps, queries, keys=None, titles=None):
    """Draw attention weights, one picture per head. Returns the figure.

    `maps` is (num_rows, num_cols, num_queries, num_keys), for example
    layers by heads; `titles` has num_rows * num_cols entries. Raises
    ValueError for tokens that do not fit.
    """
    num_rows, num_cols, *shape = maps.shape
    width = min(0.16 * max(shape) + 0.3, 7 / num_cols)  # inches
    labelsize = min(7, 0.9 * 72 * width / max(shape))  # points: no overlap
    fig, axes = plt.subplots(
        num_rows, num_cols, squeeze=False, layout='constrained',
        figsize=(width * num_cols + 1.2, width * num_rows + 0.5),
    )  # fmt: skip
    for i, ax in enumerate(axes.flat):
        matrix = maps.flatten(0, 1)[i].tolist()
        image = ax.imshow(matrix, cmap='Blues', vmin=0, vmax=1)
        label_tokens(ax, shape, queries, queries if keys is None else keys)
        ax.tick_params(labelsize=labelsize, labeltop=i < num_cols)
        ax.tick_params(labelleft=i % num_cols == 0)
        if titles:
            ax.set_xlabel(titles[i])
    fig.colorbar(image, ax=axes, shrink=0.5, label='attention weight')
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
        line = ax.plot(xs[n - len(loss):], loss, label=name)[0]  # fmt: skip
        at = [xs[step - 1] for step in history.eval_step]
        ax.plot(at, history.eval_loss, 'o', ms=4, color=line.get_color())
    ax.set_xlabel({'tokens': 'training tokens'}.get(x, x))
    ax.set_ylabel('loss (nats per token)')
    ax.legend(frameon=False)
    return ax


def plot_power_law(x, loss, law=None, laws=(), reach=1, ax=None, label=None):
    """Plot losses and the `law` they follow, both axes logarithmic.

    `x` and `loss` are (num_runs,). The law is drawn from the smallest x to
    `reach` times the largest, with a band that holds nine in ten of `laws`.
    Points of later calls get other marks and grays. Returns the axes.
    """
    ax = plt.subplots(figsize=(4.5, 2.8))[1] if ax is None else ax
    num_sets = sum(line.get_marker() != 'None' for line in ax.lines)
    color = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#000000'][
        num_sets % 5
    ]
    ax.plot(x, loss, 'os^Dv'[num_sets % 5], ms=4, color=color, label=label)
    if law is not None:
        at = np.geomspace(min(x), reach * max(x), 50)
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


def claim(text, holds):
    """Print `text` with a tick, or raise AssertionError if it is false."""
    if not bool(holds):
        raise AssertionError(f'✗ {text}')
    print(f'✓ {text}')


# ---- The attention explorer ----


def explorer_page(queries, maps, keys):
    """The explorer as a whole HTML page; arguments as `explore_attention`."""
    data = {
        'queries': list(queries),
        'keys': list(keys),
        'maps': (maps * 1000).round().int().flatten(2).tolist(),
    }
    text = json.dumps(data, separators=(',', ':')).replace('<', r'\u003c')
    return PAGE.read_text(encoding='utf-8').replace('DATA', text, 1)


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
    if maps.dim() != 4 or 0 in maps.shape:
        raise ValueError(
            f'maps of shape {tuple(maps.shape)} are not (num_blks, '
            'num_heads, num_queries, num_keys), each at least 1'
        )
    if not ((maps >= 0) & (maps <= 1 + 1e-4)).all():
        raise ValueError(
            f'weights from {maps.min():g} to {maps.max():g}, not in [0, 1]'
        )
    num_blks, num_heads = maps.shape[:2]
    titles = [
        f'block {i + 1}, head {j + 1}'
        for i in range(num_blks)
        for j in range(num_heads)
    ]
    figure = show_attention(maps, tokens, keys, titles)
    alt = alt or f'Attention weights of {num_blks} x {num_heads} heads.'
    page = html.escape(explorer_page(tokens, maps, keys))
    frame = (
        '<div><iframe title="Attention explorer" style="width: 100%; '
        f'height: 480px; border: 0" srcdoc="{page}"></iframe></div>'
    )
    explorer = 'Attention explorer, an interactive form of the next picture.'
    display({'text/html': frame, 'text/plain': explorer}, raw=True)
    show(figure, alt)
