"""Taught once, kept once: `@save` cells are what `utils` holds.

Docstrings are left out of the comparison: in a notebook the text around the
cell takes their place. A class may be taught in several cells, the later
ones adding methods by `d2l.add_to_class`.
"""

import ast
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / 'chapter_large_pretraining').glob('*.ipynb'))
SAVED = re.compile(r'^# ?@save$', re.MULTILINE)


def without_docstring(body):
    first = body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(
        first.value, ast.Constant
    )
    return body[1:] if is_text else body


def added_to(node):
    """The class to which a decorator adds this function, and the others."""
    owner, others = None, []
    for decorator in node.decorator_list:
        if 'add_to_class' in ast.dump(decorator):
            owner = decorator.args[0].id
        else:
            others.append(decorator)
    return owner, others


def definitions(source):
    """Each function, class head and method of `source` as a syntax tree."""
    found = {}

    def add(name, node):
        if name in found:
            raise ValueError(f'{name} is defined twice')
        for inner in ast.walk(node):
            if isinstance(inner, (ast.FunctionDef, ast.ClassDef)):
                inner.body = without_docstring(inner.body) or [ast.Pass()]
        found[name] = ast.dump(node)

    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            owner, node.decorator_list = added_to(node)
            add(f'{owner}.{node.name}' if owner else node.name, node)
        elif isinstance(node, ast.ClassDef):
            methods = [x for x in node.body if isinstance(x, ast.FunctionDef)]
            node.body = [x for x in node.body if x not in methods] or [
                ast.Pass()
            ]
            add(node.name, node)
            for method in methods:
                add(f'{node.name}.{method.name}', method)
    return found


def kept():
    """All definitions of utils and of the modules of the chapter."""
    chapter = ROOT / 'chapter_large_pretraining'
    names = 'successors', 'finetuning', 'laws', 'derivatives', 'text_to_text'
    names += 'pictures', 'multimodal'
    paths = [ROOT / 'utils.py', *(chapter / f'{x}.py' for x in names)]
    paths += [chapter / 'corpora' / 'facts.py']
    names = 'preferences', 'reasoning'
    paths += [chapter / 'studies' / f'{x}.py' for x in names]
    found = {}
    for path in paths:  # of two definitions of a name the first is taught
        found = definitions(path.read_text()) | found
    return found


def saved_cells():
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == 'code' and SAVED.search(cell.source):
                yield cell.source


def differences(taught, kept):
    """Names that differ, are missing in utils, or are taught only in part."""
    wrong = {name for name in taught if kept.get(name) != taught[name]}
    classes = {name for name in taught if f'{name}.__init__' in kept}
    wrong |= {
        name
        for name in kept
        if name.split('.')[0] in classes and name not in taught
    }
    return sorted(wrong)


def test_saved_cells_are_what_utils_holds():
    taught = definitions('\n'.join(saved_cells()))
    assert {'attention', 'causal_mask', 'GPT', 'GPT.encode'} <= set(taught)
    assert differences(taught, kept()) == []


FUNCTION = 'def f(x):\n    """Says what."""\n    return x + 1\n'
HEAD = 'class C(A):\n    def __init__(self): pass\n'
CLASS = HEAD + '    def g(self): return 1\n'


@pytest.mark.parametrize(
    ('saved', 'wrong'),
    [
        ('# @save\ndef f(x):\n    return x + 1  # one more\n', []),
        ('def f(x):\n    return x + 2\n', ['f']),
        ('def f(x, y):\n    return x + 1\n', ['f']),
        ('@decorated\ndef f(x):\n    return x + 1\n', ['f']),
        ('def h(x):\n    return x\n', ['h']),
        (CLASS, []),
        (CLASS.replace('(A)', '(B)'), ['C']),
        (CLASS.replace('return 1', 'return 2'), ['C.g']),
        (HEAD, ['C.g']),
        (
            HEAD + '@d2l.add_to_class(C)\ndef g(self): return 1\n',
            [],
        ),
        (
            HEAD + '@d2l.add_to_class(C)\ndef g(self): return 3\n',
            ['C.g'],
        ),
    ],
)
def test_comparison_finds_what_differs(saved, wrong):
    kept = definitions(FUNCTION + CLASS)
    assert differences(definitions(saved), kept) == wrong


def test_nothing_is_taught_twice():
    with pytest.raises(ValueError, match='f is defined twice'):
        definitions(FUNCTION + FUNCTION)
