"""The figures of tests/reliability.py, and that it can find what is lost."""

import json
import signal
import sys

import pytest
from bad_inputs import KINDS, attempt
from execute import ROOT

if sys.platform == 'win32':
    pytest.skip('Windows has no such signals', allow_module_level=True)

import reliability


def test_the_readme_quotes_the_last_report():
    report = json.loads(reliability.REPORT.read_text(encoding='utf-8'))
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert reliability.sentence(report) in readme
    stops, bad = report['stops'], report['bad inputs']
    assert stops['SIGKILL'] >= 50 and stops['stopped within writing'] >= 5
    for name in ('rows lost', 'rows twice', 'results that differ'):
        assert stops[name] == 0
    assert stops['files damaged'] == bad['files changed'] == 0
    assert bad['refused'] == bad['kinds'] == len(KINDS) >= 25
    assert 'with changes' not in report['commit']


def test_sixty_stops_of_all_kinds():
    stops = reliability.all_stops(reliability.random.Random(0))
    signs = [sign for _, sign in stops]
    assert signs.count(signal.SIGKILL) == 50 and len(stops) == 60
    assert set(signs) == set(reliability.STOPPED)
    assert {moment for moment, _ in stops} == set(reliability.MOMENTS)


# ---- Bad input ----


@pytest.mark.parametrize('name', KINDS)
def test_bad_input_is_refused(name, tmp_path):
    assert attempt(name, tmp_path) == ('', False)


def test_what_is_not_refused_as_it_should_be(tmp_path, monkeypatch):
    def raises(error):
        def call():
            raise error

        return call

    def writes():
        (tmp_path / 'file').write_text('changed')
        raise ValueError('x is 3')

    for call, problem in [
        (lambda: None, 'accepted'),
        (raises(TypeError('x is 3')), 'TypeError: x is 3'),
        (raises(SystemExit(1)), 'SystemExit: 1'),
        (raises(ValueError('wrong')), "the error lacks ['x is 3']: wrong"),
        (writes, ''),
    ]:
        monkeypatch.setitem(
            KINDS, 'a', (lambda _, call=call: call, ['x is 3'])
        )
        assert attempt('a', tmp_path) == (problem, call is writes)
    accepted = {'a': (lambda folder: lambda: None, ())}
    monkeypatch.setattr(reliability.bad_inputs, 'KINDS', accepted)
    report = reliability.try_bad_inputs(tmp_path)
    assert report == {'kinds': 1, 'refused': 0, 'files changed': 0}


# ---- Rows ----

ROWS = [((str(i), 'a'), (f'0.{i}',)) for i in range(4)]


def test_lost_rows_and_others_are_counted():
    def figures(rows):
        return tuple(reliability.compare(ROWS, rows).values())

    assert figures(ROWS) == figures(ROWS[::-1]) == (0, 0, 0)
    assert figures(ROWS[1:3]) == (2, 0, 0)
    assert figures([*ROWS, ROWS[0], ROWS[0]]) == (0, 2, 0)
    other = (ROWS[0][0], ('0.5',))
    assert figures([other, *ROWS[1:]]) == (0, 0, 1)
    assert figures([*ROWS, (('9', 'a'), ('0.1',))]) == (0, 0, 1)


def test_a_damaged_file_is_found(tmp_path):
    source = reliability.CHAPTER / 'studies' / 'scaling.csv'
    lines = source.read_bytes().splitlines(keepends=True)[:4]
    path = tmp_path / 'runs.csv'
    path.write_bytes(b''.join(lines))
    rows, torn = reliability.read_rows(path)
    assert len(rows) == 3 and torn == b''
    path.write_bytes(b''.join(lines)[:-9])
    again, torn = reliability.read_rows(path)
    assert again == rows[:2] and lines[3].startswith(torn) and torn
    assert list(reliability.damaged(tmp_path)) == []
    for data in (b''.join(lines[1:]), lines[0] + lines[1][:40] + b'\n'):
        path.write_bytes(data)
        (problem,) = reliability.damaged(tmp_path)
        assert problem.startswith('runs.csv: ')
    path.unlink()
    for name in ('run.pt', 'tokenizer.json.gz'):
        (tmp_path / name).write_bytes(b'half')
    (tmp_path / 'run.pt.1.part').write_bytes(b'half')
    assert len(list(reliability.damaged(tmp_path))) == 2


# ---- Stopping ----

# a study in small: loses its first row at the third start
FORGETFUL = """
import sys, time
from pathlib import Path
path, log = Path(sys.argv[1]), Path(sys.argv[1] + '.log')
header, *rows = Path({source!r}).read_bytes().splitlines(keepends=True)[:5]
starts = len(log.read_text()) if log.exists() else 0
log.write_text('x' * (starts + 1))
data = path.read_bytes() if path.exists() else header
if starts == 2 and {forgetful}:
    data = header
have = data.count(b'\\n') - 1
for row in rows[have:]:
    data += row
    part = path.with_suffix('.new')
    part.write_bytes(data)
    part.replace(path)
    time.sleep(0.2 if 'once' not in sys.argv[1] else 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize('forgetful', [False, True])
def test_a_study_that_forgets_is_found_out(tmp_path, monkeypatch, forgetful):
    source = str(reliability.CHAPTER / 'studies' / 'scaling.csv')
    code = FORGETFUL.format(source=source, forgetful=forgetful)

    def start(path, texts, workers=1):
        return reliability.subprocess.Popen(
            [sys.executable, '-c', code, str(path)], start_new_session=True
        )

    monkeypatch.setattr(reliability, 'start', start)
    stops = [('row', signal.SIGKILL)] * 3
    counts = reliability.stop_many(stops, tmp_path)
    assert counts['SIGKILL'] == 3 and counts['rows twice'] == 0
    assert (counts['rows lost'] > 0) == forgetful
