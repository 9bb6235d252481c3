"""Tests of the command that breaks the code and sees claims turn red."""

import ast
import json
import re

import nbformat
import pytest
import sabotage
from execute import CHAPTER, ROOT, execute, kernel_env
from nbformat.v4 import new_code_cell, new_notebook, new_output
from sabotage import (
    SABOTAGE,
    claims_of,
    main,
    patched,
    read_results,
    report,
    run,
    sentence,
    stored_claims,
    summary,
)
from sabotage_list import Patch, Sabotage

HELPER = 'def double(x):\n    return 2 * x\n'
CELLS = (
    'import os, sys, time\nsys.path[:0] = [".."]\nfrom helper import double\n'
    'def claim(text, holds):\n    print("✓" if holds else "✗", text)',
    'for i in (0, 1):\n    claim("doubled", double(i) == 2 * i)',
    'claim("weak", double(2) > 0)\nclaim("by definition", True)',
    'x = 1 / double(1)\nclaim("late", double(3) == 6)',
)
WRONG = Patch('wrong', (('2 * x', '2 * x + 1', 'helper.py'),), ('doubled',))


@pytest.fixture
def tree(tmp_path):
    """A project of one helper and one notebook, tiny."""
    (tmp_path / CHAPTER.name).mkdir()
    (tmp_path / 'helper.py').write_text(HELPER)
    nb = new_notebook(cells=[new_code_cell(source) for source in CELLS])
    nbformat.write(nb, tmp_path / CHAPTER.name / 'tiny.ipynb')
    return tmp_path


def files(tree):
    return {path: path.read_bytes() for path in tree.rglob('*.*')}


@pytest.mark.slow
def test_a_patch_turns_claims_red_in_a_copy(tree):
    before = files(tree)
    green = {'doubled': False, 'weak': False}
    green |= {'by definition': False, 'late': False}
    assert run('tiny', root=tree) == (green, None)
    red, stopped = run('tiny', [WRONG], root=tree)
    assert stopped is None
    assert red == green | {'doubled': True, 'late': True}
    assert files(tree) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ('edit', 'why'),
    [
        (('2 * x', '0 * x', 'helper.py'), 'ZeroDivisionError'),
        (('x = 1 /', 'time.sleep(60) /'), 'CellTimeoutError'),
        (('x = 1 /', 'os._exit(1) /'), 'DeadKernelError'),
    ],
)
def test_claims_that_are_not_reached_are_not_red(tree, edit, why):
    patch = Patch('stops', (edit,), ('late',))
    red, stopped = run('tiny', [patch], root=tree, limit=6)
    assert why in stopped
    assert stopped.startswith('cell ')
    assert 'late' not in red and 'weak' in red


SEEDED = """
import random
import numpy as np
import torch
torch.manual_seed(0)
drawn = [torch.rand(1).item()]
drawn += torch.rand(1, generator=torch.Generator().manual_seed(0)).tolist()
rng = np.random.default_rng
drawn += [rng(seed).random() for seed in (0, [1, 0], rng(0))]
drawn += [random.Random(0).random()]
"""


@pytest.mark.slow
def test_one_variable_moves_all_seeds(tmp_path, monkeypatch):
    (tmp_path / CHAPTER.name).mkdir()
    path = tmp_path / CHAPTER.name / 'seeds.ipynb'

    def write(source):
        cell = new_code_cell(SEEDED + source)
        nbformat.write(new_notebook(cells=[cell]), path)

    write('print(drawn)')
    execute(path)
    (out,) = nbformat.read(path, as_version=4).cells[0].outputs
    before = path.read_bytes()
    monkeypatch.setenv('CHAPTER_SEED', '5')
    execute(path)
    assert path.read_bytes() == before  # those of other seeds are not stored
    monkeypatch.delenv('CHAPTER_SEED')
    write(
        f'for i, x in enumerate({out.text.strip()}):\n'
        '    print("✓" if x == drawn[i] else "✗", i)'
    )
    names = '012345'
    assert run('seeds', root=tmp_path) == (dict.fromkeys(names, False), None)
    moved = run('seeds', seed=100, root=tmp_path)
    assert moved == (dict.fromkeys(names, True), None)


def test_seeds_move_by_a_whole_number(monkeypatch):
    monkeypatch.setenv('CHAPTER_SEED', 'many')
    with pytest.raises(ValueError, match="'many', not a whole number"):
        kernel_env()


def test_a_claim_is_red_if_one_of_its_prints_is():
    texts = ('✓ a\n✗ a\nb ✗ c\n', '✓ a\n✓ d: 1\n'), ('✗ e\n',)
    cells = [
        new_code_cell(outputs=[new_output('stream', text=t) for t in cell])
        for cell in texts
    ]
    found = claims_of(new_notebook(cells=cells))
    assert found == {'a': True, 'd: 1': False, 'e': True}


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (('3 * x', '', 'helper.py'), "'3 \\* x' stands 0 times in helper.py"),
        (('double', '', 'helper.py'), None),
        (('double', ''), 'stands 6 times in .*tiny.ipynb'),
        (('x', '', 'helper.py'), 'stands 2 times'),
        (('x', '', 'missing.py'), 'missing.py'),
    ],
)
def test_a_patch_that_does_not_apply_is_named(tree, edit, message):
    patch = Patch('mine', (edit,), ())
    if message is None:
        assert patched('tiny', [patch], tree) == {
            'helper.py': HELPER.replace('double', '')
        }
        return
    with pytest.raises(ValueError, match=f'tiny: patch "mine": .*{message}'):
        patched('tiny', [patch], tree)


def sources(path, text):
    if not path.endswith('.ipynb'):
        return [text] if path.endswith('.py') else []
    cells = nbformat.reads(text, as_version=4).cells
    return [c.source for c in cells if c.cell_type == 'code']


@pytest.mark.parametrize('name', SABOTAGE)
def test_the_list_fits_the_notebooks(name):
    one = SABOTAGE[name]
    claims = set(stored_claims(name))
    patches = [patch for together in one.runs for patch in together]
    assert len({patch.name for patch in patches}) == len(patches)
    for together in one.runs:
        for path, text in patched(name, together).items():
            assert text != (ROOT / path).read_text('utf-8')
            for source in sources(path, text):
                ast.parse(source)
        named = [claim for patch in together for claim in patch.red]
        assert len(set(named)) == len(named), 'two patches of a run'
        assert set(named) <= claims
    assert all(patch.red for patch in patches)
    aside = [*one.definitional, *one.recorded]
    assert set(aside) <= claims and len(set(aside)) == len(aside)
    assert all(one.definitional.values())


TINY = Sabotage(
    runs=((WRONG, Patch('hopeless', (), ('weak', 'late'))),),
    definitional={'by definition': 'it says True'},
    recorded=('row',),
)
CLAIMS = ['doubled', 'weak', 'by definition', 'late', 'row']


def one_run(*red, stopped=None):
    return {'red': list(red), 'stopped': stopped, 'commit': 'abc1234'}


def test_summary():
    runs = {
        'wrong; hopeless': one_run('doubled', 'row', 'by definition', 'late'),
        'seed 100': one_run('weak', stopped='cell x: E'),
    }
    entry = summary(TINY, CLAIMS, runs) | {'runs': runs}
    counts = [entry[name] for name in ('live', 'recorded', 'definitional')]
    assert counts == [[2, 3], [0, 1], 1]
    assert entry['never seen red'] == ['weak', 'row']
    assert entry['must turn red and did not'] == {'hopeless': ['weak']}
    assert entry['false with other seeds'] == {'seed 100': ['weak']}
    lines = '\n'.join(report('tiny', entry))
    assert 'seen red 2 of 3 live claims, 0 of 1 on recorded' in lines
    assert 'must turn red and did not: hopeless: weak' in lines
    assert 'seed 100: weak' in lines and 'cell x: E' in lines
    assert sentence({'tiny': entry}) == (
        'Seen red so far: tiny 2 of 3 and 0 of 1 on recorded rows. Claims '
        'that fail when all seeds move by 100 and by 200: tiny 1.'
    )
    assert summary(TINY, CLAIMS, {})['live'] == [0, 3]


def test_command(tmp_path, monkeypatch, capsys):
    made = []

    def pretend(name, patches, seed):
        made.append(seed)
        return {'doubled': True, 'weak': bool(seed)}, None

    monkeypatch.setattr(sabotage, 'SABOTAGE', {'tiny': TINY})
    monkeypatch.setattr(sabotage, 'RESULTS', tmp_path / 'a.json')
    monkeypatch.setattr(sabotage, 'run', pretend)
    monkeypatch.setattr(sabotage, 'stored_claims', lambda name: CLAIMS)
    monkeypatch.setattr(sabotage, 'commit', lambda: 'abc1234')
    assert main(['--only', 'seed 200']) == 0
    assert main([]) == 1  # 'weak' and 'late' must turn red and have not
    assert made == [200, 0, 100]
    text = (tmp_path / 'a.json').read_text('utf-8')
    runs = json.loads(text)['tiny']['runs']
    assert list(runs) == ['wrong; hopeless', 'seed 100', 'seed 200']
    monkeypatch.setattr(sabotage, 'commit', lambda: 'abc1234-changed')
    main(['tiny', '--only', 'seed 100'])
    assert made == [200, 0, 100, 100]
    assert 'Seen red so far: tiny 1 of 3' in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ['a.json']
    with pytest.raises(SystemExit):
        main(['huge'])
    assert "no notebook {'huge'}" in capsys.readouterr().err


def test_the_commit_is_marked_where_files_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(sabotage, 'ROOT', tmp_path)
    monkeypatch.setattr(sabotage, 'RESULTS', tmp_path / 'tests' / 'a.json')
    (tmp_path / 'tests').mkdir()
    sabotage.git('init')
    who = '-c', 'user.name=a', '-c', 'user.email=a@b'
    sabotage.git(*who, 'commit', '--allow-empty', '-m', 'first')
    sabotage.RESULTS.write_text('{}')
    assert re.fullmatch('[0-9a-f]{7,}', sabotage.commit())
    (tmp_path / 'utils.py').write_text('')
    assert re.fullmatch('[0-9a-f]{7,}-changed', sabotage.commit())


def test_readme_quotes_the_results():
    results = read_results()
    assert sentence(results) in (ROOT / 'README.md').read_text('utf-8')
    for entry in results.values():
        assert all(
            {'date', 'commit', 'made on'} <= set(one)
            for one in entry['runs'].values()
        )
