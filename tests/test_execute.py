"""Tests of the command that re-executes the notebooks."""

import json
from platform import python_version

import nbformat
import pytest
from execute import NotebookError, execute, main
from nbcompare import cell_problem
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from test_nbcompare import REFUSED

pytestmark = pytest.mark.slow


def write(path, *sources):
    nb = new_notebook(metadata={'widgets': {'state': {}}, 'colab': {}})
    nb.cells = [new_markdown_cell('# Title')]
    nb.cells += [
        new_code_cell(s, metadata={'ExecuteTime': 1}) for s in sources
    ]
    nbformat.write(nb, path)
    return path


def test_executes_and_cleans(tmp_path):
    path = write(
        tmp_path / 'a.ipynb',
        "import sys\nprint('a')\nsys.stdout.flush()\nprint('b')",
        'from pathlib import Path\nPath.cwd().name',
        '1;',
    )
    seconds, peak = execute(path)
    assert seconds > 0
    assert peak > 10
    text = path.read_text(encoding='utf-8')
    nb = nbformat.reads(text, as_version=4)
    nbformat.validate(nb)
    assert set(nb.metadata) == {'kernelspec', 'language_info', 'recorded'}
    assert nb.metadata.recorded == {'python': python_version()}
    code = nb.cells[1:]
    assert [cell_problem(c, i) for i, c in enumerate(code, 1)] == [None] * 3
    assert all(not cell.metadata for cell in code)
    assert [out.text for out in code[0].outputs] == ['a\nb\n']
    assert code[1].outputs[0].data['text/plain'] == f"'{tmp_path.name}'"
    assert code[2].outputs == []
    # one space, sorted keys, one newline: the diff is what has changed
    assert (
        text
        == json.dumps(
            json.loads(text), indent=1, sort_keys=True, ensure_ascii=False
        )
        + '\n'
    )
    assert b'\r' not in path.read_bytes()
    execute(path)
    assert path.read_text(encoding='utf-8') == text
    assert [p.name for p in tmp_path.iterdir()] == ['a.ipynb']


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('1 / 0', 'ZeroDivisionError'),
        ("import sys\nprint('careful', file=sys.stderr)", 'careful'),
        ('import time\ntime.sleep(60)', 'Timeout'),
        ('import os\nos._exit(1)', 'the kernel died'),
        *REFUSED,
    ],
)
def test_a_faulty_notebook_stays_as_it_was(tmp_path, source, message):
    path = write(tmp_path / 'a.ipynb', '1', source)
    before = path.read_bytes()
    with pytest.raises(NotebookError, match=f'code cell 2[^$]*{message}'):
        execute(path, timeout=3)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ['a.ipynb']


def test_a_cell_must_not_raise_whatever_its_tag(tmp_path):
    path = write(tmp_path / 'a.ipynb', '1 / 0')
    nb = nbformat.read(path, as_version=4)
    nb.cells[1].metadata['tags'] = ['raises-exception']
    nbformat.write(nb, path)
    with pytest.raises(NotebookError, match='ZeroDivisionError'):
        execute(path)


def test_command_line(tmp_path, capsys):
    assert main([str(tmp_path / 'missing.ipynb')]) == 1
    assert 'missing.ipynb' in capsys.readouterr().err
