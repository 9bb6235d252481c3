"""Draws the pictures of the chapter: python img/draw.py [folder]

Each picture is made of tokens, of the stack of blocks that reads them and of
the mask that the stack uses. Every line inside a stack and every dark cell
of a pattern is an entry of that mask, computed by `utils`. Three more
pictures are taken from the outputs that notebooks have stored.
"""

import html
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'chapter_large_pretraining')]

from corpora import FRENCH_NOUNS, sums  # noqa: E402
from corpora.questions import PHRASINGS, QuestionWorld  # noqa: E402
from corpora.storage import write_whole  # noqa: E402
from derivatives import two_stream_mask  # noqa: E402
from multimodal import last_picture_mask  # noqa: E402
from pictures import window_mask  # noqa: E402
from utils import causal_mask, padding_mask, prefix_mask  # noqa: E402

INK, QUIET, PALE = '#1a1a1a', '#595959', '#e3ecf3'
BLUE, ORANGE, GREEN = '#0072b2', '#b34700', '#00694d'
ROW = 30  # height of a token's box


class Drawing:
    """A picture on a light card, so that it can be read on any background."""

    def __init__(self, width, height, title, alt, step=62):
        self.step = step  # from token to token
        self.svg = ElementTree.Element(
            'svg',
            xmlns='http://www.w3.org/2000/svg',
            viewBox=f'0 0 {width} {height}',
            width=str(width),
            height=str(height),
            role='img',
        )
        ElementTree.SubElement(self.svg, 'title').text = title
        ElementTree.SubElement(self.svg, 'desc').text = alt
        self.rectangle(0.5, 0.5, width - 1, height - 1, 'white', '#cccccc', 8)

    def add(self, tag, text=None, **attributes):
        attributes = {
            name.replace('_', '-'): str(value)
            for name, value in attributes.items()
        }
        ElementTree.SubElement(self.svg, tag, attributes).text = text

    def rectangle(self, x, y, width, height, fill, stroke='none', round=4):
        size = {'x': x, 'y': y, 'width': width, 'height': height, 'rx': round}
        self.add('rect', **size, fill=fill, stroke=stroke)

    def text(self, x, y, text, color=INK, anchor='middle', size=14, turn=0):
        """Write `text` with its middle line at height `y`."""
        place = {'x': x, 'y': y + 0.36 * size}
        if turn:
            place['transform'] = f'rotate({turn} {x} {y})'
        font = {'font_family': 'sans-serif', 'font_size': size}
        self.add('text', text, **place, fill=color, text_anchor=anchor, **font)

    def token(self, x, y, text, color=INK, fill='white'):
        """A token in a box around (x, y)."""
        width = max(30, 8 * len(text) + 10)
        self.rectangle(x - width / 2, y - ROW / 2, width, ROW, fill, color)
        self.text(x, y, text, color)

    def line(self, x1, y1, x2, y2, color=BLUE, width=1):
        ends = {'x1': x1, 'y1': y1, 'x2': x2, 'y2': y2}
        self.add('line', **ends, stroke=color, stroke_width=width)

    def arrow(self, x, y1, y2):
        """An arrow straight up or down."""
        tip = 6 if y2 > y1 else -6
        self.line(x, y1, x, y2 - tip, QUIET, 1.5)
        points = f'{x},{y2} {x - 4},{y2 - tip} {x + 4},{y2 - tip}'
        self.add('polygon', points=points, fill=QUIET)

    def pattern(self, x, y, mask, queries, keys, cell=22):
        """A mask, queries down and keys across, its corner at (x, y)."""
        for i, query in enumerate(queries):
            self.text(
                x - 6, y + (i + 0.5) * cell, query, anchor='end', size=13
            )
            for j in range(len(keys)):
                fill = BLUE if mask[i, j] else PALE
                place = x + j * cell + 1, y + i * cell + 1
                self.rectangle(*place, cell - 2, cell - 2, fill, round=2)
        for j, key in enumerate(keys):
            middle = x + (j + 0.5) * cell
            self.text(middle, y - 6, key, anchor='start', size=13, turn=-90)

    def stack(self, x, y, mask, tokens, name, color=BLUE):
        """A stack that reads `tokens`; returns the places of its outputs.

        (x, y) is the middle of the first token. Each line goes from a token
        up to one that may attend to it.
        """
        xs = [x + i * self.step for i in range(len(tokens))]
        bottom, top = y - 50, y - 130
        left, width = x - self.step / 2, self.step * len(tokens)
        self.rectangle(left, top - 24, width, 128, '#f4f7fa', color, 8)
        self.text(left + width / 2, bottom + 13, name, color, size=12)
        for i, query in enumerate(xs):
            for j, key in enumerate(xs):
                if mask[i, j]:
                    self.line(key, bottom - 8, query, top, color, 0.8)
        for place, token in zip(xs, tokens, strict=True):
            marked = token.startswith('<') and token != '<bos>'
            self.token(place, y, token, ORANGE if marked else INK)
            self.arrow(place, y - ROW / 2, bottom + 22)
            for height in (bottom - 8, top):
                self.add('circle', cx=place, cy=height, r=3.5, fill=color)
        return [(place, top - 24) for place in xs]

    def output(self, place, text):
        """A token that comes out at `place`."""
        x, y = place
        self.arrow(x, y, y - 34 + ROW / 2)
        self.token(x, y - 34, text, GREEN, '#eef7f3')

    def head(self, place, name, answer):
        """A new layer on one output, and what it answers."""
        x, y = place
        width = 8 * len(name) + 12
        self.arrow(x, y, y - 18)
        self.rectangle(x - width / 2, y - 44, width, 26, 'white', ORANGE)
        self.text(x, y - 31, name, ORANGE, size=13)
        self.output((x, y - 44), answer)

    def __str__(self):
        ElementTree.indent(self.svg)
        return ElementTree.tostring(self.svg, encoding='unicode') + '\n'


def encoder_mask(num_steps):
    """What BERT's and T5's encoder use for a text without padding."""
    mask = padding_mask(torch.tensor([num_steps]), num_steps)
    return mask[0, 0].expand(num_steps, num_steps)


def encoder_decoder_mask(num_inputs, num_outputs):
    """Encoder, cross and decoder mask as one, inputs before outputs."""
    cross = padding_mask(torch.tensor([num_inputs]), num_inputs)[0, 0]
    nothing = torch.zeros(num_inputs, num_outputs, dtype=torch.bool)
    rows = (
        (encoder_mask(num_inputs), nothing),
        (cross.expand(num_outputs, -1), causal_mask(num_outputs)),
    )
    return torch.cat([torch.cat(row, dim=1) for row in rows])


def bert_pretraining():
    inputs = ['<bos>', 'I', '<mask>', 'this', 'red', 'car', '<sep>']
    mask = encoder_mask(len(inputs))
    drawing = Drawing(
        740,
        257,
        'Pretraining BERT',
        'Left: seven tokens, beginning of text, I, mask, this, red, car, end '
        'of text, go into an encoder in which every token is joined to every '
        'other; above the mask comes out the word love. Right: the attention '
        'pattern, seven by seven cells, all dark.',
    )
    outputs = drawing.stack(60, 222, mask, inputs, 'Transformer encoder')
    drawing.output(outputs[2], 'love')
    drawing.pattern(566, 76, mask, inputs, inputs)
    return drawing


def classification(mask_fn, last_token, read_at, name, title, alt):
    """A pretrained stack with a new layer on output number `read_at`."""
    inputs = ['<bos>', 'I', 'love', 'this', 'red', 'car', last_token]
    drawing = Drawing(500, 303, title, alt)
    outputs = drawing.stack(60, 268, mask_fn(len(inputs)), inputs, name)
    drawing.head(outputs[read_at], 'new layer', 'positive')
    return drawing


def bert_finetuning():
    return classification(
        encoder_mask,
        '<sep>',
        0,
        'pretrained Transformer encoder',
        'Fine-tuning BERT on its first token',
        'The text I love this red car, between two special tokens, goes into '
        'the pretrained encoder, in which every token is joined to every '
        'other. On the first output stands a new linear layer, which answers '
        'positive.',
    )


def electra():
    """The generator's guess takes the place of the hidden word."""
    words = ['I', 'love', 'this', 'red', 'car']
    hidden, guessed = [*words], [*words]
    hidden[1], guessed[1] = '<mask>', 'like'
    drawing = Drawing(
        720,
        257,
        'The two models of ELECTRA',
        'Left: the five tokens I, mask, this, red, car go into a small '
        'encoder, the generator; above the mask comes out like. Right: I, '
        'like, this, red, car go into the encoder that is kept, the '
        'discriminator, which answers yes above like, for replaced, and no '
        'above the four others.',
    )
    mask = encoder_mask(len(words))
    outputs = drawing.stack(62, 222, mask, hidden, 'generator (small)', GREEN)
    drawing.output(outputs[1], 'like')
    outputs = drawing.stack(410, 222, mask, guessed, 'discriminator')
    for place, guess, word in zip(outputs, guessed, words, strict=True):
        drawing.output(place, 'no' if guess == word else 'yes')
    return drawing


def xlnet():
    """The order this, car, I, red, love, whose last two are predicted."""
    words = ['I', 'love', 'this', 'red', 'car']
    rank, at = torch.tensor([[0, 2, 0, 1, 0]]), torch.tensor([[3, 1]])
    mask = two_stream_mask(rank, at)[0, 0]  # 5 content rows, 2 queries
    queries = torch.zeros_like(mask[:5]).index_put((at[0],), mask[5:])
    drawing = Drawing(
        850,
        257,
        'The two streams of XLNet',
        'Left, the content stream: I, this and car are joined to each other, '
        'red to these and itself, love to all. Middle, the query stream: the '
        'query at red is joined to I, this and car and predicts red, the one '
        'at love to these and to red and predicts love. Right, the same as '
        'the attention pattern of five content rows and two query rows.',
        step=54,
    )
    drawing.stack(54, 222, mask[:5], words, 'content stream')
    outputs = drawing.stack(360, 222, queries, words, 'query stream', GREEN)
    for i in at[0].tolist():
        drawing.output(outputs[i], words[i])
    rows = [*words, *(f'{words[i]}?' for i in at[0].tolist())]
    drawing.pattern(710, 64, mask, rows, words)
    return drawing


def t5(inputs, outputs, title, alt, name, pattern, step):
    """Encoder and decoder, the arrow between them, and their pattern."""
    num_inputs, num_outputs = len(inputs), len(outputs)
    mask = encoder_decoder_mask(num_inputs, num_outputs)
    written = ['<pad>', *outputs[:-1]]
    left = 20 + step / 2
    right = left + 74 + step * num_inputs
    end = right + step * num_outputs
    cell = 20
    width = end + (cell * len(mask) + 50 if pattern else 0)
    drawing = Drawing(width, 290, title, alt, step)
    y = 250
    parts = mask[:num_inputs, :num_inputs], mask[num_inputs:, num_inputs:]
    drawing.stack(left, y, parts[0], inputs, f'{name}encoder')
    tops = drawing.stack(right, y, parts[1], written, f'{name}decoder', ORANGE)
    assert mask[num_inputs:, :num_inputs].all()
    start, tip = left + step * (num_inputs - 0.5), right - step / 2
    drawing.line(start, y - 95, tip - 6, y - 95, GREEN, 3)
    points = f'{tip},{y - 95} {tip - 9},{y - 101} {tip - 9},{y - 89}'
    drawing.add('polygon', points=points, fill=GREEN)
    middle = (start + tip) / 2
    for word, height in (('cross-', 124), ('attention', 110)):
        drawing.text(middle, y - height, word, GREEN, size=12)
    for place, token in zip(tops, outputs, strict=True):
        drawing.output(place, token)
    if pattern:
        x, corner = end + 34, 76
        tokens = [*inputs, *written]
        drawing.pattern(x, corner, mask, tokens, tokens, cell)
        edge, size = cell * num_inputs, cell * len(mask)
        row, column = corner + edge, x + edge
        drawing.line(x, row, x + size, row, INK, 1.5)
        drawing.line(column, corner, column, corner + size, INK, 1.5)
    return drawing


def t5_pretraining():
    return t5(
        ['I', '<X>', 'this', '<Y>'],
        ['<X>', 'love', '<Y>', 'red', 'car', '<Z>'],
        'Pretraining T5',
        'Left: the encoder reads I, X, this, Y, every token joined to every '
        'other. An arrow, cross-attention, leads to the decoder, which writes '
        'X, love, Y, red, car, Z; there each token is joined only to itself '
        'and to those before it. Right: the attention pattern in three '
        'parts: a square of inputs, below it a rectangle of outputs by '
        'inputs, and beside that a triangle of outputs; the corner at the '
        'top right is empty.',
        '',
        True,
        52,
    )


def t5_summarization():
    return t5(
        ['summarize', ':', 'the', 'whole', 'report', '.'],
        ['its', 'summary', '<eos>'],
        'Fine-tuning T5 to summarize',
        'The pretrained encoder reads the words summarize and a colon, then a '
        'report. An arrow, cross-attention, leads to the pretrained decoder, '
        'which writes the summary and the end-of-sequence token. No layer is '
        'added.',
        'pretrained ',
        False,
        84,
    )


def gpt_pretraining():
    inputs = ['<bos>', 'I', 'love', 'this', 'red']
    mask = causal_mask(len(inputs))
    drawing = Drawing(
        570,
        257,
        'Pretraining GPT',
        'Left: five tokens, beginning of text, I, love, this, red, go into a '
        'decoder in which each token is joined only to itself and to those '
        'before it; above them come out I, love, this, red, car, the inputs '
        'shifted by one. Right: the attention pattern, a dark triangle on and '
        'below the diagonal.',
    )
    outputs = drawing.stack(60, 222, mask, inputs, 'Transformer decoder')
    for place, token in zip(outputs, [*inputs[1:], 'car'], strict=True):
        drawing.output(place, token)
    drawing.pattern(430, 90, mask, inputs, inputs)
    return drawing


def gpt_classification():
    return classification(
        causal_mask,
        '<eos>',
        -1,
        'pretrained Transformer decoder',
        'Fine-tuning GPT to classify a text',
        'The text I love this red car, between two special tokens, goes into '
        'the pretrained decoder, in which each token is joined only to itself '
        'and to those before it. On the last output, which has seen all of '
        'the text, stands a new linear layer, which answers positive.',
    )


def gpt_shots():
    description = 'english to french :'
    examples = [f'{" -> ".join(FRENCH_NOUNS[i])} ;' for i in (0, 1, 2)]
    query, answer = FRENCH_NOUNS[31]
    shots = (
        ('zero-shot', 'a description, no example', []),
        ('one-shot', 'one example', examples[:1]),
        ('few-shot', 'several examples', examples),
    )
    drawing = Drawing(
        690,
        250,
        'Zero-shot, one-shot and few-shot prompts',
        'Three prompts for one decoder that is not trained any further. '
        'Zero-shot: the description english to french, then '
        f'{query} and an arrow. One-shot: between them the example '
        f'{examples[0]} Few-shot: three examples. Each time the word '
        f'{answer} comes out.',
    )
    for i, (name, what, lines) in enumerate(shots):
        x = 20 + 222 * i
        drawing.text(x, 24, name, BLUE, 'start', 16)
        drawing.text(x, 44, what, QUIET, 'start', 12)
        drawing.rectangle(x, 60, 206, 118, '#f4f7fa', BLUE, 6)
        for j, line in enumerate([description, *lines, f'{query} ->']):
            color = QUIET if 0 < j <= len(lines) else INK
            drawing.text(x + 12, 78 + 21 * j, line, color, 'start')
        drawing.arrow(x + 40, 178, 202)
        drawing.token(x + 40, 218, answer, GREEN, '#eef7f3')
        drawing.text(x + 76, 218, 'no parameter changes', QUIET, 'start', 12)
    return drawing


def three_modes():
    drawing = Drawing(
        800,
        330,
        'Three modes of pretraining, three masks',
        'Three attention patterns. Encoder-only: a full square. '
        'Encoder-decoder: a full square for the input, a full rectangle where '
        'the output attends to the input, a triangle among the outputs, and '
        'an empty corner. Decoder-only: a triangle.',
    )
    modes = (
        ('encoder-only', 'BERT', encoder_mask(5), 'I <mask> this red car'),
        (
            'encoder-decoder',
            'T5',
            prefix_mask(4, 10),
            'I <X> this <Y> <pad> <X> love <Y> red car',
        ),
        ('decoder-only', 'GPT', causal_mask(5), '<bos> I love this red'),
    )
    for x, (mode, model, mask, text) in zip(
        (76, 282, 630), modes, strict=True
    ):
        tokens = text.split()
        drawing.text(x - 8, 24, f'{mode}: {model}', BLUE, 'start', 16)
        drawing.pattern(x, 95, mask, tokens, tokens)
    assert torch.equal(modes[1][2], encoder_decoder_mask(4, 6))
    return drawing


def after_pretraining():
    """What each stage adds to the loss, from the labels of the chapter."""
    world = QuestionWorld()
    question = world.questions_of([0], [27], PHRASINGS[:1])
    X, labels = world.dialogues(question, world.answers[0, 27][None])
    digits, prompt = torch.tensor([[3, 8]]), torch.full((1, 9), sums.BLANK)
    prompt[0, [0, 2, 5, 8]] = torch.tensor([1, 5, 10, sums.EQUALS])
    chain, asked = sums.sum_texts(digits, prompt, 'chain')
    opinions = [f'<bos> the film is {word} <sep>' for word in ('fine', 'dull')]
    rows = (
        ('Instructions', [world.vocab[i] for i in X[0]], labels[0] != -100),
        ('Preferences: it won', opinions[0].split(), None),
        ('it lost', opinions[1].split(), None),
        ('Reasoning', sums.show_sums(chain[0]).split(), asked[0, 1:] != -100),
    )
    drawing = Drawing(
        1120,
        265,
        'Three stages after pretraining',
        'Which tokens count. Instructions: of a dialogue, paris and the end. '
        'Preferences: all tokens of the opinion that won and of the one that '
        'lost, one against the other. Reasoning: behind two digits, the '
        'running sums 3 and 1, the semicolon and the answer.',
        step=76,
    )
    for y, (name, tokens, counts) in zip(
        (40, 110, 150, 220), rows, strict=True
    ):
        drawing.text(20, y, name, BLUE, 'start', 15)
        for i, token in enumerate(tokens):
            chosen = i > 0 if counts is None else bool(counts[i])
            place = 210 + i * drawing.step, y, token
            drawing.token(*place, *((BLUE, PALE) if chosen else (QUIET,)))
    return drawing


STROKES = ((8, 12, 52, 12), (52, 12, 22, 54))  # a 7 in 60 x 60


def seven(drawing, x, y, left=0, top=0, side=60):
    """The part of a 7 that a square shows; its corner is at (x, y)."""
    drawing.rectangle(x, y, side, side, 'white', QUIET, 0)
    for x1, y1, x2, y2 in STROKES:
        inside = [
            (x1 + t * (x2 - x1), y1 + t * (y2 - y1))
            for t in (i / 60 for i in range(61))
        ]
        inside = [
            (x + a - left, y + b - top)
            for a, b in inside
            if left <= a <= left + side and top <= b <= top + side
        ]
        if len(inside) > 1:
            drawing.line(*inside[0], *inside[-1], INK, 4)


def vit():
    mask = torch.ones(5, 5, dtype=torch.bool)
    drawing = Drawing(
        600,
        350,
        'A Vision Transformer',
        'A handwritten 7 is cut into four squares. A class token and the four '
        'patches go into a Transformer encoder, in which each of the five is '
        'joined to all five. On the output of the class token stands a new '
        'linear layer, which answers 7.',
    )
    tokens = ['<cls>', '1', '2', '3', '4']
    outputs = drawing.stack(60, 266, mask, tokens, 'Transformer encoder')
    drawing.head(outputs[0], 'linear', '7')
    for i in range(4):
        at = 62 * (i + 1) + 45
        drawing.arrow(at + 15, 302, 282)
        seven(drawing, at, 302, 30 * (i % 2), 30 * (i // 2), 30)
    seven(drawing, 476, 272)
    drawing.line(506, 272, 506, 332, ORANGE, 1.5)
    drawing.line(476, 302, 536, 302, ORANGE, 1.5)
    drawing.pattern(450, 110, mask, tokens, tokens)
    return drawing


def windows(drawing, x, y, mask, side, query, cell=20):
    """A plane of patches: the keys of one query, windows with a border."""
    for i in range(side * side):
        row, col = divmod(i, side)
        fill = BLUE if mask[query, i] else PALE
        place = x + col * cell + 1, y + row * cell + 1
        drawing.rectangle(*place, cell - 2, cell - 2, fill, round=2)
    for i in range(side * side):
        row, col = divmod(i, side)
        left, top = x + col * cell, y + row * cell
        if col == 0 or not mask[i, i - 1]:
            drawing.line(left, top, left, top + cell, ORANGE, 2)
        if row == 0 or not mask[i, i - side]:
            drawing.line(left, top, left + cell, top, ORANGE, 2)
    end = side * cell
    drawing.line(x + end, y, x + end, y + end, ORANGE, 2)
    drawing.line(x, y + end, x + end, y + end, ORANGE, 2)
    row, col = divmod(query, side)
    middle = x + (col + 0.5) * cell, y + (row + 0.5) * cell
    drawing.text(*middle, '\u00d7', 'white')


def swin():
    drawing = Drawing(
        620,
        270,
        'Windows of a Swin Transformer',
        'Three planes of patches with windows. First block: 8 by 8 patches in '
        'four windows of 4 by 4; the patch in row 4, column 4 attends to the '
        '16 of its window at the top left. Second block: windows moved by two '
        'right and down, nine of them, those at the edges smaller; the same '
        'patch attends to the 16 in the middle. After merging: 4 by 4 '
        'patches, each made of 2 by 2, in one window of 16.',
    )
    planes = (
        ('first block', window_mask(8, 4), 8, 27, 20, '4 windows'),
        (
            'second block: moved by 2',
            window_mask(8, 4, 2),
            8,
            27,
            20,
            '9 windows',
        ),
        ('after merging', window_mask(4, 4), 4, 5, 40, '1 window'),
    )
    for i, (name, mask, side, query, cell, number) in enumerate(planes):
        x = 30 + 200 * i
        drawing.text(x, 30, name, BLUE, 'start', 14)
        windows(drawing, x, 56, mask, side, query, cell)
        patches = f'{side} x {side} patches, {number},'
        drawing.text(x, 232, patches, QUIET, 'start', 12)
        text = f'{int(mask[query].sum())} keys of \u00d7'
        drawing.text(x, 250, text, QUIET, 'start', 12)
    return drawing


def clip():
    pairs = (
        ('á', 'a with acute'),
        ('ñ', 'n with tilde'),
        ('ö', 'o with diaeresis'),
    )
    drawing = Drawing(
        620,
        290,
        'CLIP: two towers and a table of scores',
        'Three pictures of letters, one below the other, go into a tower for '
        'pictures, three names beside each other into a tower for texts. '
        'Where the row of a picture and the column of a name meet stands '
        'their score. The scores on the diagonal, of a letter and its own '
        'name, are dark: they are to be the highest in their row and column.',
    )
    drawing.rectangle(100, 150, 110, 120, '#f4f7fa', BLUE, 8)
    drawing.text(155, 210, 'picture tower', BLUE)
    drawing.rectangle(258, 60, 342, 34, '#f4f7fa', BLUE, 8)
    drawing.text(429, 77, 'text tower', BLUE)
    for i, (letter, name) in enumerate(pairs):
        x, y = 316 + 114 * i, 170 + 40 * i
        drawing.token(40, y, letter)
        drawing.line(56, y, 100, y, QUIET, 1.5)
        drawing.line(210, y, 258, y, QUIET, 1.5)
        drawing.text(x, 32, name)
        drawing.arrow(x, 42, 60)
        drawing.arrow(x, 94, 144)
        for j in range(3):
            fill = BLUE if i == j else PALE
            place = 260 + 114 * j, y - 17
            drawing.rectangle(*place, 110, 34, fill, round=2)
            color = 'white' if i == j else INK
            drawing.text(place[0] + 55, y, f'{i + 1}, {j + 1}', color)
    return drawing


def flamingo():
    tokens = ['<picture>', 'dax', ';', '<picture>', 'wug', ';']
    is_picture = torch.tensor([token == '<picture>' for token in tokens])
    mask = last_picture_mask(is_picture[None], 1)[0, 0]
    drawing = Drawing(
        640,
        300,
        'Flamingo: gated cross-attention before a frozen block',
        'Left: the state of a text goes up through a new layer, '
        'cross-attention to pictures and a feed-forward network, each times '
        'the tanh of a gate, and then through a block of the language '
        'model, which is frozen. The pictures come from an encoder that is '
        'frozen as well. Right: the mask of a text with two pictures. Each '
        'token attends to the last picture before it or at its place.',
    )
    boxes = (
        (34, 'block of the language model', 'frozen', BLUE),
        (100, '+ tanh(b) x feed-forward', 'new', ORANGE),
        (166, '+ tanh(a) x cross-attention', 'new', ORANGE),
    )
    for y, what, state, color in boxes:
        drawing.rectangle(20, y, 220, 44, '#f4f7fa', color, 8)
        drawing.text(130, y + 15, what, color, size=13)
        drawing.text(130, y + 33, state, QUIET, size=12)
        drawing.arrow(130, y + 66, y + 44)
    drawing.text(130, 248, 'state of the text')
    drawing.rectangle(290, 166, 120, 44, '#f4f7fa', BLUE, 8)
    drawing.text(350, 181, 'picture encoder', BLUE, size=13)
    drawing.text(350, 199, 'frozen', QUIET, size=12)
    drawing.line(240, 188, 290, 188, QUIET, 1.5)
    drawing.arrow(350, 240, 210)
    drawing.text(350, 252, 'pictures')
    drawing.text(350, 275, 'a, b begin at 0', ORANGE, size=12)
    drawing.pattern(544, 104, mask, tokens, ['picture 1', 'picture 2'])
    return drawing


def gato():
    tokens = ['<game>', '0', '1', '4', 'right', '1', '3', '5']
    mask = causal_mask(len(tokens))
    drawing = Drawing(
        790,
        280,
        'Gato: what is seen and what is done in one stream',
        'Left: eight tokens, the mark of a game, row and columns of ball and '
        'paddle, the move right, and the next three numbers go into a decoder '
        'in which each token is joined to itself and to those before it. '
        'Only above the last number before a move something comes out, the '
        'move: first right, then right again. Right: the attention pattern, a '
        'triangle.',
    )
    outputs = drawing.stack(60, 222, mask, tokens, 'Transformer decoder')
    for i in (3, 7):
        drawing.output(outputs[i], 'right')
    for first, name in ((1, 'seen'), (5, 'seen')):
        drawing.text(60 + 62 * (first + 1), 256, name, QUIET, size=12)
    drawing.text(60 + 62 * 4, 256, 'done', ORANGE, size=12)
    drawing.pattern(600, 90, mask, tokens, tokens)
    return drawing


def icon():
    drawing = Drawing(
        96,
        96,
        'The causal mask',
        'Four by four cells, dark on and below '
        'the diagonal: which token may look at which in a language model.',
    )
    drawing.pattern(8, 8, causal_mask(4), [''] * 4, [''] * 4, cell=20)
    return drawing


DRAWINGS = (
    icon,
    three_modes,
    bert_pretraining,
    bert_finetuning,
    electra,
    xlnet,
    t5_pretraining,
    t5_summarization,
    gpt_pretraining,
    gpt_classification,
    gpt_shots,
    after_pretraining,
    vit,
    swin,
    clip,
    flamingo,
    gato,
)


STORED = {
    'in-context-learning': ('in_context', 'Accuracy against examples, two'),
    'try-it': ('bert', 'What the model answers to'),
    'power-laws': ('scaling', 'Three log-log plots of validation loss'),
}


def stored(notebook, beginning):
    """The picture of a notebook whose alternative text begins so."""
    path = ROOT / 'chapter_large_pretraining' / f'{notebook}.ipynb'
    for cell in json.loads(path.read_text('utf-8'))['cells']:
        for output in cell.get('outputs', []):
            data = output.get('data', {})
            alt = ''.join(data.get('text/plain', []))
            if alt.startswith(beginning) and 'image/svg+xml' in data:
                title, rest = re.split('[.:] ', alt, maxsplit=1)
                title = html.escape(title)
                rest = html.escape(rest[0].upper() + rest[1:])
                return re.sub(
                    '<title>.*?</title>',
                    f'<title>{title}</title>\n <desc>{rest}</desc>',
                    ''.join(data['image/svg+xml']),
                    count=1,
                    flags=re.DOTALL,
                )
    raise ValueError(f'{path} has no picture "{beginning} ..."')


def main(folder=ROOT / 'img'):
    pictures = {
        draw.__name__.replace('_', '-'): str(draw()) for draw in DRAWINGS
    } | {name: stored(*where) for name, where in STORED.items()}
    for name, svg in pictures.items():
        data = svg.encode()
        path = Path(folder) / f'{name}.svg'
        write_whole(path, lambda file, data=data: file.write(data))


if __name__ == '__main__':
    main(*sys.argv[1:])
