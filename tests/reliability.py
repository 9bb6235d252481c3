"""What killed studies lose and what bad input does: make reliability.

A small scaling study is stopped at random moments, gone on with at once, and
begun anew when it is done, until it was killed (SIGKILL) 50 times and stopped
in other ways ten times; every third time it has two workers. Some moments are
those of writing: just when a file appears or grows. All rows are compared
with those of a study that nobody stopped. Before that, each kind of bad input
in tests/bad_inputs.py is tried once. About a quarter of an hour. The figures
go to tests/reliability.json, whole or not at all; README.md quotes them.
"""

import argparse
import csv
import dataclasses
import datetime
import gzip
import io
import json
import os
import platform
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parent
CHAPTER = TESTS.parent / 'chapter_large_pretraining'
REPORT = TESTS / 'reliability.json'
sys.path[:0] = [str(TESTS.parent), str(CHAPTER), str(TESTS)]

import bad_inputs  # noqa: E402

from corpora.storage import write_whole  # noqa: E402
from studies import runner, scaling  # noqa: E402

# most runs take a tenth of a second; the six with the largest budget take
# seconds and make checkpoints, after every 1,000 steps
OPTIONS = shlex.split(
    '--device cpu --studies lr,grid --sizes 8x1,16x1 --vocab-size 300 '
    '--num-steps 8 --batch-size 4 --lr-tokens 640 --lrs 0.01,0.02 '
    '--budgets 3e7,6e7,3e8,2.5e9 --min-tokens 100 --max-tokens 1e6 --seeds 3'
)
TEXT = 'north south east west hill wood stone rain snow wind red blue'
COLUMNS = scaling.STUDY.columns
CHOSEN = [field.name for field in dataclasses.fields(scaling.Run)]
RESULTS = [field.name for field in dataclasses.fields(scaling.Measured)]
RESULTS.remove('seconds')


# ---- Rows ----


def read_rows(path):
    """The complete rows of a CSV, and what stands behind its last line end.

    Rows are (chosen, results), as texts. Read here without the chapter's
    code, which is what is tested. ValueError for a damaged file.
    """
    data = path.read_bytes() if path.exists() else b''
    whole = data[: data.rfind(b'\n') + 1]
    header, *lines = csv.reader(io.StringIO(whole.decode())) if whole else [0]
    if header not in (0, COLUMNS):
        raise ValueError(f'{path}: other columns')
    rows = []
    for line in lines:
        row = dict(zip(COLUMNS, line, strict=True))
        rows.append(
            tuple(tuple(row[x] for x in part) for part in (CHOSEN, RESULTS))
        )
    return rows, data[len(whole) :]


def compare(reference, rows):
    """How many rows are lost, are there twice, and have other results."""
    expected, counts = dict(reference), Counter(chosen for chosen, _ in rows)
    return {
        'rows lost': len(expected.keys() - counts.keys()),
        'rows twice': sum(counts.values()) - len(counts),
        'results that differ': sum(
            results != expected.get(chosen) for chosen, results in rows
        ),
    }


# ---- Stopping a study ----


def start(path, texts, workers=1):
    """The study as a command; what it says goes to a file beside the CSV."""
    words = ['scaling', str(path), '--text', str(texts), *OPTIONS]
    words += ['--workers', str(workers)]
    with path.with_suffix('.said').open('wb') as said:
        return subprocess.Popen(
            [sys.executable, '-m', 'studies', *words],
            cwd=CHAPTER,
            env={**os.environ, 'CHAPTER_DATA': str(path.parent / 'data')},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def appears(path, pattern):
    """A function: is there a new file of this pattern beside the CSV?"""
    before = set(path.parent.rglob(pattern))
    return lambda: not before >= set(path.parent.rglob(pattern))


def grows(path):
    """A function: has the CSV another size than now?"""

    def size():
        return path.stat().st_size if path.exists() else 0

    before = size()
    return lambda: size() != before


# what is waited for, and up to how many seconds more
MOMENTS = {
    'start': (lambda path: lambda: True, 4.0),
    'run': (lambda path: appears(path, '*.lock'), 4.0),
    'row': (grows, 0.002),
    'checkpoint': (lambda path: appears(path, '*.pt*'), 0.002),
}
STOPPED = {
    signal.SIGKILL: (-signal.SIGKILL,),
    signal.SIGTERM: (-signal.SIGTERM,),
    signal.SIGINT: (130,),
}


def stop(process, path, moment, sign, rng):
    """Stop a study at a moment; False if it was done before."""
    event, spread = MOMENTS[moment]
    happened, delay = event(path), rng.uniform(0, spread)
    while process.poll() is None and not happened():
        time.sleep(0.0002)
    time.sleep(delay)
    if process.poll() is not None:
        return False
    if sign == signal.SIGINT:  # a terminal tells all of them
        os.killpg(process.pid, sign)
    else:
        os.kill(process.pid, sign)
    process.wait()
    return True


def damaged(folder):
    """The files of a folder that are neither whole nor marked as a part."""
    for path in folder.rglob('*'):
        try:
            if path.suffix == '.csv':
                read_rows(path)
            elif path.suffix == '.pt':
                torch.load(path, weights_only=True)
            elif path.name.endswith('.json.gz'):
                json.loads(gzip.decompress(path.read_bytes()))
        except FileNotFoundError:
            pass  # a worker that is going has removed it
        except Exception as error:
            yield f'{path.name}: {error}'


def make_texts(folder, rng):
    folder.mkdir()
    for i in range(60):
        text = ' '.join(rng.choices(TEXT.split(), k=120))
        (folder / f'{i}.txt').write_text(text)
    return folder


def stop_many(stops, folder, seed=0):
    """Stop studies in all ways of `stops`, (moment, signal); the figures.

    Raises RuntimeError where a command ends in another way than expected.
    """
    rng = random.Random(seed)
    texts = make_texts(folder / 'weather', rng)
    (folder / 'once').mkdir()
    once = folder / 'once' / 'runs.csv'
    process = start(once, texts)
    if process.wait():
        raise RuntimeError(once.with_suffix('.said').read_text())
    reference, _ = read_rows(once)
    print(f'{len(reference)} rows of a study that nobody stopped')
    counts = dict.fromkeys(
        ['studies', 'rows', *(sign.name for sign in STOPPED)], 0
    )
    counts |= {'stopped within writing': 0, 'files damaged': 0}
    counts |= compare(reference, reference)
    left = list(stops)
    while left:
        counts['studies'] += 1
        path, seen, done = folder / str(counts['studies']) / 'runs.csv', [], 0
        path.parent.mkdir()
        while not done:
            parts = set(path.parent.rglob('*.part'))  # of earlier stops
            process = start(path, texts, 2 if len(left) % 3 == 0 else 1)
            stopped = left and stop(process, path, *left[-1], rng)
            code = process.wait()
            problems = list(damaged(path.parent))
            print(*problems, sep='\n', end='')
            counts['files damaged'] += len(problems)
            rows, torn = read_rows(path)
            counts['rows lost'] += sum(row not in rows for row in seen)
            seen, done = rows, code == 0
            if stopped and code in STOPPED[left[-1][1]]:
                moment, sign = left.pop()
                counts[sign.name] += 1
                begun = set(path.parent.rglob('*.part')) - parts
                counts['stopped within writing'] += bool(torn or begun)
                print(f'{len(left)} left; {sign.name}, {moment}: {len(rows)}')
            elif code:
                said = path.with_suffix('.said').read_text()
                raise RuntimeError(f'exit status {code}: {said}')
        for name, number in compare(reference, rows).items():
            counts[name] += number
        counts['rows'] += len(rows)
        if list(path.parent.glob('*.checkpoints')):
            raise RuntimeError('checkpoints of a study that is done')
    return counts


# ---- The report ----


def all_stops(rng):
    """50 times SIGKILL and five of each other signal, in random order."""
    kills = {'start': 10, 'run': 14, 'row': 13, 'checkpoint': 13}
    stops = [(x, signal.SIGKILL) for x in kills for _ in range(kills[x])]
    for sign in (signal.SIGINT, signal.SIGTERM):
        stops += [('run', sign)] * 3 + [('row', sign), ('checkpoint', sign)]
    rng.shuffle(stops)
    return stops


def try_bad_inputs(folder):
    """How many kinds of bad input were refused; says which were not."""
    counts = {'kinds': 0, 'refused': 0, 'files changed': 0}
    for name in bad_inputs.KINDS:
        own = folder / str(counts['kinds'])
        own.mkdir()
        problem, changed = bad_inputs.attempt(name, own)
        counts['kinds'] += 1
        counts['refused'] += not problem
        counts['files changed'] += changed
        if problem or changed:
            print(f'{name}: {problem or "a file changed"}')
    return counts


def git(*words):
    done = subprocess.run(
        ['git', *words], cwd=TESTS, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def sentence(report):
    """What README.md says of a report."""
    stops, bad = report['stops'], report['bad inputs']
    others = stops['SIGINT'] + stops['SIGTERM']
    return (
        f'{report["date"]}, commit {report["commit"]}: '
        f'{stops["SIGKILL"]} kills and {others} other stops, '
        f'{stops["stopped within writing"]} of them within writing, in '
        f'{stops["studies"]} studies of {stops["rows"]} runs in all: '
        f'{stops["rows lost"]} rows lost, {stops["rows twice"]} rows twice, '
        f'{stops["files damaged"]} files damaged, '
        f'{stops["results that differ"]} results other than those of a study '
        f'that nobody stopped; {bad["refused"]} of {bad["kinds"]} kinds of '
        'bad input refused with an error that names the value or the file, '
        f'{bad["files changed"]} files changed.'
    )


def main(words=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('--out', type=Path, default=REPORT, help='default: %(default)s')
    add('--seed', type=int, default=0, help='of the moments; default: 0')
    options = parser.parse_args(words)
    if not options.out.parent.is_dir():
        parser.error(f'--out {options.out} lies in no folder')
    os.environ |= {'OMP_NUM_THREADS': '1', 'TQDM_DISABLE': '1'}
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    report = {
        'date': datetime.date.today().isoformat(),
        'commit': git('rev-parse', '--short', 'HEAD')
        + (' with changes' if git('status', '--porcelain') else ''),
        'machine': runner.machine(),
        'python': platform.python_version(),
        'torch': torch.__version__,
    }
    with tempfile.TemporaryDirectory() as folder:
        report['bad inputs'] = try_bad_inputs(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        stops = all_stops(random.Random(options.seed))
        report['stops'] = stop_many(stops, Path(folder), options.seed)
    text = json.dumps(report, indent=1) + '\n'
    write_whole(options.out, lambda file: file.write(text.encode()))
    print(f'\nFor README.md:\n{sentence(report)}')


if __name__ == '__main__':
    main()
