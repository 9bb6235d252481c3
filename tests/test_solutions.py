"""The exercises, their links, and the notebooks that answer them.

An exercise is an item of the numbered list under "Exercises" of a notebook.
Its solution quotes it under a heading of its own.
"""

import ast
import re

import nbformat
import pytest
from execute import CHAPTER

SOLVED = sorted(path.stem for path in CHAPTER.glob('solutions/*.ipynb'))
ALL = sorted(path.stem for path in CHAPTER.glob('*.ipynb'))
LINK = re.compile(r' \[Solution\]\(([^)]*)\)')
TIME = re.compile(r'\b(?:\d+|an?|two|no|without a) (?:minute|hour|aft|comp)')
MAX_LINES = 15  # of a code cell
MAX_WORDS = 250  # of an answer, without what it quotes: a page has 500


def read(path):
    return nbformat.read(path, as_version=4).cells


def text_of(cells):
    return '\n\n'.join(c.source for c in cells if c.cell_type == 'markdown')


def exercises(text):
    """The items of the list, in order, with their links."""
    found = re.findall(r'^## Exercises\n(.*?)(?=^##|\Z)', text, re.M | re.S)
    if len(found) != 1:
        raise ValueError(f'{len(found)} lists of exercises, not 1')
    items = re.split(r'^(\d+)\. ', found[0], flags=re.M)[1:]
    numbers, items = items[::2], [x.strip() for x in items[1::2]]
    if numbers != [str(i + 1) for i in range(len(items))] or not items:
        raise ValueError(f'exercises are numbered {numbers}')
    return items


def quoted(text):
    """The titles of the solutions, and the exercise that each quotes."""
    return re.findall(r'^## (.*)\n\n> (.*)', text, re.M)


def faults(name, chapter, solutions):
    """Says how solutions, a text, fail to fit the exercises of a notebook."""
    found = []
    items, answers = exercises(chapter), quoted(solutions)
    if len(re.findall('^## ', solutions, re.M)) != len(items):
        found.append('another number of headings than of exercises')
    if [LINK.sub('', item) for item in items] != [x[1] for x in answers]:
        found.append('another text')
    for i, item in enumerate(items, 1):
        if LINK.findall(item) != [
            f'solutions/{name}.ipynb#cell-id=exercise-{i}'
        ]:
            found.append(f'link of exercise {i}')
        if not TIME.search(item):
            found.append(f'exercise {i} has no time')
        if f'Exercise {i}' not in [title for title, _ in answers]:
            found.append(f'exercise {i} has no solution')
    if not any(re.search(r'\b[Oo]pen\b', item) for item in items):
        found.append('no exercise is open')
    return found


@pytest.mark.parametrize('name', SOLVED)
def test_solutions_fit_the_exercises(name):
    chapter = text_of(read(CHAPTER / f'{name}.ipynb'))
    cells = read(CHAPTER / 'solutions' / f'{name}.ipynb')
    solutions = text_of(cells)
    assert faults(name, chapter, solutions) == []
    for i in range(1, len(exercises(chapter)) + 1):
        (cell,) = [cell for cell in cells if cell.id == f'exercise-{i}']
        assert cell.source.startswith(f'## Exercise {i}\n')
    assert f'(../{name}.ipynb)' in solutions.partition('\n## ')[0]


@pytest.mark.parametrize('name', ALL)
def test_links_lead_to_solutions_that_are_there(name):
    linked = LINK.findall(text_of(read(CHAPTER / f'{name}.ipynb')))
    targets = {link.partition('#')[0] for link in linked}
    assert targets == ({f'solutions/{name}.ipynb'} & written())


def written():
    return {f'solutions/{name}.ipynb' for name in SOLVED}


@pytest.mark.parametrize('name', SOLVED)
def test_answers_are_short_and_run(name):
    cells = read(CHAPTER / 'solutions' / f'{name}.ipynb')
    lines = [
        len(cell.source.splitlines())
        for cell in cells[2:]  # after title and set-up
        if cell.cell_type == 'code'
    ]
    assert max(lines) <= MAX_LINES
    answers = re.split('^## ', text_of(cells), flags=re.M)[1:]
    for answer in answers:
        words = re.sub('^>.*', '', answer, flags=re.M).split()
        assert 20 <= len(words) <= MAX_WORDS, answer.split('\n')[0]
    code = [c.source for c in cells if c.cell_type == 'code']
    called = [
        node.func.id
        for source in code
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    assert called.count('claim') >= len(answers) / 2


def test_exercises_of_the_book_are_marked():
    items = [
        item
        for name in ALL
        for item in exercises(text_of(read(CHAPTER / f'{name}.ipynb')))
    ]
    assert sum('d2l, section 11.9' in item for item in items) == 4
    assert sum('d2l, section 15.8' in item for item in items) == 1


GOOD = (
    '# A\n\n## Exercises\n\n'
    '1. One? (5 minutes) [Solution](solutions/a.ipynb#cell-id=exercise-1)\n'
    '2. Open: B. (1 hour) [Solution](solutions/a.ipynb#cell-id=exercise-2)\n\n'
    '## References\n\n1. No exercise.',
    '# Solutions: A\n\n## Exercise 1\n\n> One? (5 minutes)\n\nYes.\n\n'
    '## Exercise 2\n\n> Open: B. (1 hour)\n\nSo.',
)


def test_what_fits():
    assert faults('a', *GOOD) == []


@pytest.mark.parametrize(
    ('old', 'new', 'fault'),
    [
        ('One? (5 minutes) [', 'One! (5 minutes) [', 'another text'),
        ('id=exercise-1', 'id=exercise-2', 'link of exercise 1'),
        (
            ' [Solution](solutions/a.ipynb#cell-id=exercise-2)',
            '',
            'exercise 2',
        ),
        ('(5 minutes)', '(soon)', 'exercise 1 has no time'),
        ('## Exercise 2', '## Exercise 3', 'exercise 2 has no solution'),
        ('\n## Exercise 2', '', 'another number of headings'),
        ('Open: B.', 'B.', 'no exercise is open'),
        ('Yes.', 'Yes.\n\n## More\n\n> Text', 'another number of headings'),
    ],
)
def test_what_does_not_fit(old, new, fault):
    found = faults('a', *(text.replace(old, new) for text in GOOD))
    assert any(fault in each for each in found), found


@pytest.mark.parametrize(
    'text', ['# A', '## Exercises\n\n2. B', '## Exercises\n\nNone.']
)
def test_no_list_of_exercises(text):
    with pytest.raises(ValueError, match='exercises'):
        exercises(text)
