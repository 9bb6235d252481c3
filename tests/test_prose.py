"""Numbers in the prose of a notebook stand in the cells above it.

Looked at are decimals, percentages and counts of three digits or more; not
numbers in words, formulas, code, quotations, exercises and references. Outputs
may have more digits than the text: 0.62 and 62 % both stand in 0.6183, and 163
thousand in 163,371.

A decimal or a percentage stands in an output or the code of its section, and
in the summary in those of any section. What is announced counts too: a
setting, or a count, of the cells up to the next heading; and a count may come
from an earlier section. A sentence that cites a paper, by name and year or by
section, table or figure, may say what stands there, and the text may come
back to it. What is right for another reason stands in ELSEWHERE.
"""

import dataclasses
import html
import itertools
import json
import re

import pytest
from execute import CHAPTER, name_of, notebooks

ELSEWHERE = {
    ('index', '150'): 'tests/test_project.py counts at this speed',
    ('scaling_machines', '40 percent'): 'a default of laws.plan_training',
}
NOTEBOOKS = [name_of(path).removesuffix('.ipynb') for path in notebooks()]

HIDDEN = re.compile(
    r'```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)|<!--.*?-->'
    r'|(?<![^\n])>[^\n]*',
    re.S,
)
UNREAD = {'Exercises', 'References'}
SENTENCES = re.compile(
    r'(?<!al\.)(?<=[.!?])\)?\s+(?=[A-Z(*_])|\n\n|\n(?=[*|])'
)
CITED = re.compile(
    r'[A-Z]\w+(?: et al\.| and [A-Z]\w+)?(?:, | \()(?:19|20)\d\d\b'
    r'|\b(?:[Ss]ection|[Tt]able|[Ff]igure)s? [A-Z]?\d'
)
SCALES = {'thousand': 1e3, 'million': 1e6, 'M': 1e6, 'billion': 1e9}
SCALES |= {'B': 1e9, 'trillion': 1e12}
SAID = re.compile(
    r'(?<![\w.,/])(?<!\D-)(\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?)'
    rf'(?: ?(%|percent|{"|".join(SCALES)})(?!\w))?(?![\w/]|[.,]\d)'
)
PRINTED = re.compile(
    r'(?<![\w.])(\d{1,3}(?:,\d{3})+|\d[\d_]*)?(\.\d+)?(e[-+]?\d+)?'
    r'(?!\w|\.\d)'
)


@dataclasses.dataclass
class Number:
    """A number as a sentence says it; `half` is half of its last place."""

    text: str
    value: float
    half: float

    @property
    def is_percentage(self):
        return self.text.endswith(('%', 'percent'))

    @property
    def is_count(self):
        return self.value.is_integer() and not self.is_percentage

    def stands_in(self, printed):
        scales = (1, 100) if self.is_percentage else (1,)
        return any(
            abs(number * scale - self.value) <= self.half * (1 + 1e-6)
            for scale in scales
            for number in printed
        )


def numbers_of(sentence):
    """The numbers of a sentence that have to stand above; years do not."""
    for match in SAID.finditer(sentence):
        digits, unit = match.group(1).replace(',', ''), match.group(2)
        places = len(digits.partition('.')[2])
        if unit in SCALES and not places:  # 400 thousand is a round number
            places = len(digits.rstrip('0')) - len(digits)
        year = digits == match.group() and 1900 <= float(digits) < 2100
        if unit or places > 0 or (len(digits) > 2 and not year):
            scale = SCALES.get(unit, 1.0)
            half = 10.0**-places * scale / 2
            yield Number(match.group(), float(digits) * scale, half)


def printed(text):
    """The values of all numbers in a text, an output or code."""
    values = set()
    for whole, fraction, exponent in PRINTED.findall(text):
        if whole or fraction:
            digits = re.sub('[,_]', '', whole) or '0'
            values.add(float(digits + fraction + exponent))
    return values


def shown_by(cell):
    """The numbers that a reader sees in a cell's outputs."""
    seen = []
    for output in cell.get('outputs', []):
        data = output.get('data', {})
        seen.append(''.join(output.get('text', [])))
        if 'image/svg+xml' in data:
            svg = ''.join(data['image/svg+xml'])
            seen += re.findall('<text.*?</text>', svg, re.S)
        else:
            seen.append(''.join(data.get('text/html', [])))
            seen.append(''.join(data.get('text/plain', [])))
    return printed(html.unescape(re.sub('<[^>]*>', ' ', '\n'.join(seen))))


def has_no_title(cell):
    source = ''.join(cell['source'])
    return cell['cell_type'] == 'code' or not re.search('^#', source, re.M)


def unsupported(cells):
    """The numbers that stand nowhere above, each with its sentence."""
    section, seen, cited, found = set(), set(), set(), []
    heading = ''
    for i, cell in enumerate(cells):
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'code':
            here = printed(source) | shown_by(cell)
            section |= here
            seen |= here
            continue
        announced, shown_next = set(), set()
        for below in itertools.takewhile(has_no_title, cells[i + 1 :]):
            if below['cell_type'] == 'code':
                announced |= printed(''.join(below['source']))
                shown_next |= shown_by(below)
        for part in re.split('^(?=##+ )', source, flags=re.M):
            if title := re.match('##+ (.*)', part):
                heading, section = title.group(1), set()
            if heading in UNREAD:
                continue
            for sentence in SENTENCES.split(HIDDEN.sub(' _ ', part)):
                for number in numbers_of(sentence):
                    above = cited | announced | section
                    if number.is_count or heading == 'Summary':
                        above |= seen
                    if number.is_count:
                        above |= shown_next
                    if CITED.search(sentence):
                        cited.add(number.value)
                    elif not number.stands_in(above):
                        found.append((number.text, ' '.join(sentence.split())))
    return found


def cells_of(name):
    text = (CHAPTER / f'{name}.ipynb').read_text(encoding='utf-8')
    return json.loads(text)['cells']


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_numbers_stand_above(name):
    found = unsupported(cells_of(name))
    allowed = {text for book, text in ELSEWHERE if book == name}
    assert [x for x in found if x[0] not in allowed] == []
    assert {text for text, _ in found} == allowed  # each is still needed


def markdown(text):
    return {'cell_type': 'markdown', 'source': [text]}


def code(source, *outputs):
    stream = [{'output_type': 'stream', 'text': [text]} for text in outputs]
    return {'cell_type': 'code', 'source': source, 'outputs': stream}


SVG = '<svg><path d="M 0.77 0.78"/><text x="0.79">0.71 nats</text></svg>'
RUN = [
    markdown('# Title\n\n## First'),
    code('rate = 0.15; n = 65_536', '0.6183 of 163,371\n'),
    code('', '1e10 and .25, version 3.11.7\n'),
    {
        'cell_type': 'code',
        'source': '',
        'outputs': [
            {'data': {'text/html': '<td style="0.91">4.63</td>'}},
            {'data': {'image/svg+xml': SVG, 'text/plain': '<Figure 0.99>'}},
        ],
    },
]


def texts_found(text, *after):
    return [x[0] for x in unsupported([*RUN, markdown(text), *after])]


@pytest.mark.parametrize(
    'number',
    [
        *('0.62', '0.618', '62 %', '62 percent', '61.8 %', '0.15', '15 %'),
        *('163,371', '163 thousand', '0.2 million', '0.16M', '10 billion'),
        *('65,536', '0.25', '4.63', '4.6', '0.71', '71 %', '12', '2019'),
    ],
)
def test_a_number_that_stands_above(number):
    assert texts_found(f'It is {number}.') == []
    assert texts_found(f'From {number}-{number}, and ({number}): more.') == []


@pytest.mark.parametrize(
    'number',
    [
        *('0.61', '0.6184', '61 %', '0.617', '163,370', '164 thousand'),
        *('512', '0.17M', '11 billion', '65,535', '0.91', '0.77', '0.79'),
        *('0.99', '3.11', '1,900', '1900.5'),
    ],
)
def test_a_number_that_stands_nowhere(number):
    assert texts_found(f'It is {number}.') == [number]
    assert texts_found(f'Of these (or 3-{number}), some. More.') == [number]


def test_what_is_not_looked_at():
    assert (
        texts_found(
            '`0.36` and $0.36$ and [a](b/0.36) <!-- 0.36 -->\n\n> 0.36.\n'
        )
        == []
    )
    assert texts_found('```\n0.36\n```\n\n$$0.36$$') == []
    assert texts_found(
        '## Exercises\n\n1. Try 0.36.\n\n### An Answer\n\n0.36'
    )[:] == ['0.36']


def test_a_sentence_may_cite():
    for source in ('Ada et al. (2020)', '(Ada and Bob, 2020)', 'section 3.1'):
        text = f'It is 0.36 ({source}), or 0.4. We say 0.36 again.'
        assert texts_found(text) == []
        assert texts_found(f'It is 0.5. It is 0.36 ({source}).') == ['0.5']
    assert (
        texts_found('In 2020 it was 0.36. The table says 0.36.')
        == ['0.36'] * 2
    )


def test_sections_and_announcements():
    text = '## Second\n\nIt was 0.62, of 163 thousand, at a rate of 0.15.'
    assert texts_found(text) == ['0.62', '0.15']
    text = '## Summary\n\n* It was 0.62.\n* It was 0.4.'
    assert texts_found(text) == ['0.4']
    after = code('lr = 0.36', '400 and 0.5\n')
    text = 'A rate of 0.36 for 400 steps gives 0.5.'
    assert texts_found(text, after) == ['0.5']
    assert texts_found(text, markdown('## So'), after) == [
        '0.36',
        '400',
        '0.5',
    ]
