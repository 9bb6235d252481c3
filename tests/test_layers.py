"""Who imports whom: utils.py stands on nothing of ours, and no circles."""

import ast
import graphlib
import subprocess
import sys

import pytest
from execute import CHAPTER, ROOT

MAX_LINES = 1400
UNUSED = {
    'IPython',
    'd2l',
    'matplotlib',
    'pandas',
    'tokenizers',
    'torch.distributed.fsdp',
    'transformers',
}


def modules_of(*paths):
    """The path of each module in files and folders, by dotted name."""
    found = {}
    for path in paths:
        for file in path.rglob('*.py') if path.is_dir() else [path]:
            parts = file.relative_to(path if path.is_dir() else path.parent)
            parts = parts.with_suffix('').parts
            parts = parts[:-1] if parts[-1] == '__init__' else parts
            found['.'.join(parts)] = file
    return found


def imported_names(name, path):
    """All that a module may import, with dots, packages before members."""
    package = name.split('.')
    if path.name != '__init__.py':
        package.pop()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            up = package[: len(package) + 1 - node.level] if node.level else []
            base = [*up, *(node.module or '').split('.')]
            base = '.'.join(part for part in base if part)
            names = [f'{base}.{alias.name}' for alias in node.names]
        else:
            continue
        for each in names:
            parts = each.split('.')
            yield from ('.'.join(parts[: i + 1]) for i in range(len(parts)))


def graph_of(modules):
    """What each module imports of the others.

    A package that a module lies in is loaded before it, and does not count.
    """
    return {
        name: {
            other
            for other in imported_names(name, path)
            if other in modules and not f'{name}.'.startswith(f'{other}.')
        }
        for name, path in modules.items()
    }


@pytest.fixture(scope='module')
def graph():
    return graph_of(modules_of(ROOT / 'utils.py', CHAPTER))


def test_utils_imports_nothing_of_the_chapter(graph):
    assert graph['utils'] == set()
    names = set(imported_names('utils', ROOT / 'utils.py'))
    others = {name.split('.')[0] for name in names} - sys.stdlib_module_names
    assert others == {'torch', 'tqdm'}


def test_there_is_no_circle(graph):
    assert len(graph) > 10
    assert 'utils' in graph['processes'] and 'corpora' in graph['processes']
    graphlib.TopologicalSorter(graph).prepare()


def test_studies_stand_on_top(graph):
    for name, others in graph.items():
        if name.split('.')[0] != 'studies':
            assert not any(o.split('.')[0] == 'studies' for o in others), name


def test_a_circle_is_found(tmp_path):
    (tmp_path / 'low').mkdir()
    files = {
        'low/__init__.py': 'from .a import f',
        'low/a.py': 'def f():\n    import top',
        'low/b.py': 'from . import a\nfrom .. import x',
        'top.py': 'import os.path\nimport low.b',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    graph = graph_of(modules_of(tmp_path))
    assert graph == {
        'low': {'low.a'},
        'low.a': {'top'},
        'low.b': {'low.a'},
        'top': {'low', 'low.b'},
    }
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(graph).prepare()


def test_utils_can_be_read_in_one_sitting():
    lines = (ROOT / 'utils.py').read_text(encoding='utf-8').splitlines()
    assert len(lines) <= MAX_LINES


TIMES = """
import sys, time
start = time.process_time()
import torch
middle = time.process_time()
import utils
print((time.process_time() - start) / (middle - start), *sys.modules)
"""


@pytest.mark.slow
def test_import_of_utils_costs_little_more_than_that_of_torch():
    ratios = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, '-c', TIMES],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        ratio, *modules = done.stdout.split()
        assert 'utils' in modules
        assert not UNUSED & set(modules)
        ratios.append(float(ratio))
    assert min(ratios) < 1.2
