"""Attention weights as a page that a reader can explore without a kernel."""

import html
import json
from pathlib import Path

from IPython.display import display

from .figures import show, show_attention

PAGE = Path(__file__).with_name('explorer.html')


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
