"""Pages that notebooks keep in frames: python tests/frames.py [notebook ...]

Fills the stored pages anew from chapter_large_pretraining/pages, with the
data that they have; nothing is executed. What a frame shows is code and data,
and the data of a model are its weights: 300 kB that differ in their last bits
from machine to machine. So tests/execute.py keeps the weights that are stored
unless it is told to take new ones (make weights), and two runs are compared
by the fingerprint of the weights, which stands beside the frame.
"""

import html
import itertools
import json
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / 'chapter_large_pretraining'), str(ROOT)]

SRCDOC = re.compile(r'(?<= srcdoc=")[^"]*')
DATA = re.compile(r'(?<= id="data">).*?(?=</script>)', re.DOTALL)
FINGERPRINT = re.compile(r'(?<= data-fingerprint=")\w+')
WEIGHTS = 'tensors', 'weights'


def data_of(page):
    """The data of a page, as Python has them."""
    return json.loads(DATA.search(page).group())


def page_of(frame):
    """The page inside a frame."""
    return html.unescape(SRCDOC.search(frame).group())


def filled(frame, data):
    """The same frame around the page of `data`, filled anew."""
    from figures import fill_page

    page = fill_page('try_it' if 'weights' in data else 'explorer', data)
    return SRCDOC.sub(lambda _: html.escape(page), frame)


def frames_of(cell):
    """The outputs of a cell that are framed pages."""
    return [
        out
        for out in cell.get('outputs', [])
        if ' srcdoc="' in out.get('data', {}).get('text/html', '')
    ]


def keep_weights(new, old):
    """Put the weights and the fingerprint of `old` into the output `new`.

    Both are outputs of one cell. Nothing changes unless both hold a model,
    of the same shapes.
    """
    frame, before = new.data['text/html'], old.data['text/html']
    marks = [FINGERPRINT.search(text) for text in (frame, before)]
    if not all(marks):
        return
    data, kept = data_of(page_of(frame)), data_of(page_of(before))
    shapes = [[x[:3] for x in each['tensors']] for each in (data, kept)]
    if shapes[0] != shapes[1] or data['kind'] != kept['kind']:
        return
    data |= {name: kept[name] for name in WEIGHTS}
    frame = filled(frame, data)
    fresh, stored = (mark.group() for mark in marks)
    new.data['text/html'] = frame.replace(fresh, stored, 1)
    new.data['text/plain'] = new.data['text/plain'].replace(fresh, stored)


def main(arguments):
    from execute import name_of, notebooks, write_whole

    for path in map(Path, arguments or notebooks()):
        before = path.read_text(encoding='utf-8')
        nb = nbformat.reads(before, as_version=4)
        for out in itertools.chain(*map(frames_of, nb.cells)):
            frame = out.data['text/html']
            out.data['text/html'] = filled(frame, data_of(page_of(frame)))
        text = nbformat.writes(nb).rstrip('\n') + '\n'
        if text != before:
            write_whole(path, text)
            print(f'{name_of(path)}: pages filled anew')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
