"""The answers study: what is a run, its plan, and what is recorded of it."""

import dataclasses
import importlib
import json
import shlex

import pytest
from execute import CHAPTER

from studies import answers, runner

RECORDED = sorted((CHAPTER / 'solutions').glob('answers_*.csv'))
EXERCISES = {
    2: (lambda setting, seed: {'loss': len(setting) + seed}, ['a', 'bb'], 2),
    5: (lambda setting, seed: {'curve': [0.5, seed]}, ['one'], 1),
}


@pytest.fixture
def command(monkeypatch, tmp_path):
    """The study as a command, of a notebook that is made up."""
    monkeypatch.setattr(answers, 'notebooks', lambda: ['made_up'])
    monkeypatch.setattr(answers, 'exercises', {'made_up': EXERCISES}.get)
    path = tmp_path / 'answers.csv'
    return path, lambda *words: runner.run_study(
        answers.STUDY, [str(path), '--device', 'cpu', *words]
    )


def test_rows_and_their_measures(command):
    path, go = command
    assert go() == 0
    rows = answers.read_runs(path)
    found = rows[['exercise', 'setting', 'seed']].values.tolist()
    assert found == [[2, 'a', 0], [2, 'bb', 0], [2, 'a', 1], [2, 'bb', 1],
                     [5, 'one', 0]]  # fmt: skip
    losses = answers.read_measures(path, 2)
    assert losses.loss.tolist() == [1, 2, 2, 3]
    assert losses.seed.tolist() == [0, 0, 1, 1] and 'date' in losses
    assert answers.read_measures(path, 5).curve.tolist() == [[0.5, 0]]
    assert 'loss' not in answers.read_measures(path, 5)
    with pytest.raises(ValueError, match=r'answers\.csv has no rows of .* 3'):
        answers.read_measures(path, 3)


def test_exercises_are_chosen(command, capsys):
    path, go = command
    assert go('--exercises', '5', '--dry-run') == 0
    shown = capsys.readouterr().out
    assert shown.startswith('made_up, exercise 5: one, 0: 1 runs\n')
    assert '1 runs left of 1' in shown and not path.exists()
    with pytest.raises(SystemExit):
        go('--notebooks', 'bert')
    assert "'bert' is not one of made_up" in capsys.readouterr().err


@pytest.mark.usefixtures('command')
@pytest.mark.parametrize(
    'change, message',
    [
        ({'notebook': 'bert'}, r"notebook is 'bert', not one of \['made_up'"),
        ({'exercise': 0}, 'exercise is 0, below 1'),
        ({'seed': -1}, 'seed is -1, below 0'),
        ({'exercise': 3}, r'exercise is 3, not one of \(2, 5\)'),
        ({'setting': 'c'}, r"setting is 'c', not one of \('a', 'bb'\)"),
    ],
)
def test_what_is_no_run_is_refused(change, message):
    run = answers.Run('made_up', 2, 'a', 0)
    assert json.loads(answers.execute(run, None, None).measures) == {'loss': 1}
    with pytest.raises(ValueError, match=message):
        answers.execute(dataclasses.replace(run, **change), None, None)


@pytest.mark.parametrize(
    'measures, message',
    [
        ('[1]', r'measures is \[1\], not by name'),
        ('{}', 'measures is {}, not by name'),
        ('{"who": "anna"}', "who is 'anna', not a number"),
        ('{"right": true}', 'right is True, not a number'),
        ('{"curve": [1, [2]]}', r'curve is \[1, \[2\]\], not a number'),
        ('loss 1', 'Expecting value'),
    ],
)
def test_what_is_no_measure_is_refused(measures, message):
    assert answers.Measured('{"loss": 0.5, "curve": [1, 2]}', 1.0)
    with pytest.raises(ValueError, match=message):
        answers.Measured(measures, 1.0)


# ---- The recorded rows ----


@pytest.mark.parametrize('name', answers.notebooks())
def test_each_notebook_has_functions_and_its_record(name):
    assert (CHAPTER / f'{name}.ipynb').exists()
    assert (CHAPTER / 'solutions' / f'answers_{name}.csv') in RECORDED
    for number, (function, settings, seeds) in answers.exercises(name).items():
        assert number >= 1 and seeds >= 1 and callable(function)
        assert len(settings) == len({*settings}) >= 1


@pytest.mark.parametrize(
    'path',
    sorted((CHAPTER / 'solutions').glob('*.csv')),
    ids=lambda path: path.stem,
)
def test_the_record_is_that_of_its_commands_and_whole(path):
    """That of another study is named after it."""
    name = 'answers' if path in RECORDED else path.stem
    study = importlib.import_module(f'studies.{name}').STUDY
    rows, unfinished = study.read(path)
    assert unfinished == b''
    plan = set()
    for command in {row.made.command for row in rows}:
        words = shlex.split(command)
        assert words[:3] == ['studies', name, f'solutions/{path.name}']
        options = runner.arguments(study, words[2:])
        plan |= set(study.plan(rows, options))
    assert {row.run for row in rows} == plan


@pytest.mark.slow
@pytest.mark.parametrize('path', RECORDED, ids=lambda path: path.stem)
def test_the_first_row_can_be_made_again(path):
    rows, _ = answers.STUDY.read(path)
    notebook = rows[0].run.notebook
    answered = answers.exercises(notebook)
    exercise = next(iter(answered))
    first = answers.Run(notebook, exercise, answered[exercise][1][0], 0)
    (row,) = [row for row in rows if row.run == first]
    again = runner.repeat(answers.STUDY, row, device='cpu')
    expected = json.loads(row.measured.measures)
    found = json.loads(again.measures)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=0.1, abs=0.1)
