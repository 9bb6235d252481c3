"""Breaks the code on purpose, and sees which claims turn red.

    python tests/sabotage.py [notebook ...] [--only TEXT]

tests/sabotage_list.py says what is broken, and which claims must turn red.
Each run is that of a notebook in a copy of the project, with one or several
patches that do not touch each other; two more runs move all seeds instead.
A claim that a stopped notebook does not reach is not red. `--only` limits
the runs to those whose name contains a text.

After each run tests/sabotage.json is written, with its date and commit; a
run that stands there already for this commit is not made again. The exit
status is 1 if a claim that must turn red has not.
"""

import argparse
import datetime
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import nbformat
import torch
from execute import CHAPTER, ROOT, CurrentKernel, kernel_env, write_whole
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbval.kernel import CURRENT_ENV_KERNEL_NAME

sys.path[:0] = [str(ROOT), str(CHAPTER)]

from sabotage_list import SABOTAGE  # noqa: E402

from studies.runner import machine  # noqa: E402

RESULTS = ROOT / 'tests' / 'sabotage.json'
SEEDS = 100, 200
LIMIT = 900  # seconds of a run
NOT_COPIED = shutil.ignore_patterns('.*', '__pycache__', 'build')


def notebook_path(name):
    return f'{CHAPTER.name}/{name}.ipynb'


def claims_of(nb):
    """The claims that a notebook has printed, and whether each is red.

    One that is printed several times is red if any of them is.
    """
    red = {}
    for cell in nb.cells:
        for out in cell.get('outputs', []):
            if out.get('name') == 'stdout':
                for mark, text in re.findall('^([✓✗]) (.+)$', out.text, re.M):
                    red[text] = red.get(text, False) or mark == '✗'
    return red


def stored_claims(name):
    nb = nbformat.read(ROOT / notebook_path(name), as_version=4)
    return list(claims_of(nb))


def replaced(text, old, new, path):
    """`text` with `old`, which must stand once in its code, made `new`."""
    if not path.endswith('.ipynb'):
        count, result = text.count(old), text.replace(old, new)
    else:
        nb = nbformat.reads(text, as_version=4)
        cells = [c for c in nb.cells if c.cell_type == 'code']
        count = sum(cell.source.count(old) for cell in cells)
        for cell in cells:
            cell.source = cell.source.replace(old, new)
        result = nbformat.writes(nb)
    if count != 1:
        raise ValueError(f'{old!r} stands {count} times in {path}, not once')
    return result


def patched(name, patches, root=ROOT):
    """The texts of the files that patches change: {path: text}.

    Raises ValueError, which names the patch, where one does not apply.
    """
    texts = {}
    for patch in patches:
        for old, new, *elsewhere in patch.edits:
            (path,) = elsewhere or [notebook_path(name)]
            try:
                text = texts.get(path) or (root / path).read_text('utf-8')
                texts[path] = replaced(text, old, new, path)
            except (ValueError, OSError) as error:
                message = f'{name}: patch "{patch.name}": {error}'
                raise ValueError(message) from None
    return texts


def run(name, patches=(), seed=0, root=ROOT, limit=LIMIT):
    """Runs a notebook in a copy: which claims are red, and why it stopped.

    The first is as of `claims_of`, the second None if it came to its end.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / 'tree'
        shutil.copytree(root, tree, ignore=NOT_COPIED)
        for path, text in patched(name, patches, tree).items():
            (tree / path).write_text(text, 'utf-8')
        nb = nbformat.read(tree / notebook_path(name), as_version=4)
        for cell in nb.cells:
            if cell.cell_type == 'code':
                cell.outputs = []
        end, started = time.monotonic() + limit, ['none']
        client = NotebookClient(
            nb,
            timeout_func=lambda cell: max(1, int(end - time.monotonic())),
            kernel_name=CURRENT_ENV_KERNEL_NAME,
            kernel_manager_class=CurrentKernel,
            extra_arguments=['--log-level=ERROR'],
            resources={'metadata': {'path': str(tree / CHAPTER.name)}},
            store_widget_state=False,
            on_cell_start=lambda cell, cell_index: started.append(cell.id),
        )
        # CHAPTER_DATA: not the data of the user, but those of the copy
        environment = {'CHAPTER_DATA': '', 'CHAPTER_SEED': str(seed or '')}
        stopped = None
        with mock.patch.dict(os.environ, environment):
            environment = kernel_env() | {'CHAPTER_CLAIMS': 'print'}
            with mock.patch.dict(os.environ, environment):
                try:
                    client.execute()
                except CellExecutionError as error:
                    stopped = f'{error.ename}: {error.evalue}'
                except Exception as error:  # too long, or the kernel died
                    stopped = type(error).__name__
        if stopped:
            stopped = f'cell {started[-1]}: {stopped}'
        return claims_of(nb), stopped


def git(*arguments):
    command = ['git', '-C', str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True).stdout


def commit():
    """The commit, marked where files differ from it, beside the results."""
    results = RESULTS.relative_to(ROOT).as_posix()
    changed = git('status', '--porcelain', '--', '.', f':!{results}')
    hashed = git('rev-parse', '--short=7', 'HEAD').strip()
    return hashed + ('-changed' if changed else '')


def read_results():
    return json.loads(RESULTS.read_text('utf-8')) if RESULTS.exists() else {}


def write_results(results):
    """Stores the runs that the list still has, and what they mean today."""
    for name in (name for name in SABOTAGE if name in results):
        old = results.pop(name)['runs']
        listed = [label for label, *_ in runs_of(SABOTAGE[name])]
        runs = {label: old[label] for label in listed if label in old}
        found = summary(SABOTAGE[name], stored_claims(name), runs)
        results[name] = found | {'runs': runs}
    text = json.dumps(results, indent=1, ensure_ascii=False)
    write_whole(RESULTS, text + '\n')


def runs_of(sabotage):
    """All runs of a notebook: a name, patches, and by how much seeds move."""
    for patches in sabotage.runs:
        yield '; '.join(patch.name for patch in patches), patches, 0
    for seed in SEEDS:
        yield f'seed {seed}', (), seed


def summary(sabotage, claims, runs):
    """What of the claims of a notebook has been seen red.

    `runs` maps names to what was found: 'red' is a list of claims. 'live'
    and 'recorded' are [seen red, of how many].
    """
    seen, green, false = set(), {}, {}
    for name, patches, seed in runs_of(sabotage):
        if name not in runs:
            continue
        red = set(runs[name]['red'])
        if seed:
            false[name] = sorted(red)
        for patch in patches:
            seen |= red & set(patch.red)
            if missed := [claim for claim in patch.red if claim not in red]:
                green[patch.name] = missed
    rest = [claim for claim in claims if claim not in sabotage.definitional]
    on_rows = [
        claim.startswith('recorded: ') or claim in sabotage.recorded
        for claim in rest
    ]
    was_red = [claim in seen for claim in rest]
    recorded = list(itertools.compress(was_red, on_rows))
    live = [red for red, row in zip(was_red, on_rows, strict=True) if not row]
    return {
        'live': [sum(live), len(live)],
        'recorded': [sum(recorded), len(recorded)],
        'definitional': len(claims) - len(rest),
        'never seen red': [claim for claim in rest if claim not in seen],
        'must turn red and did not': green,
        'false with other seeds': false,
    }


def report(name, entry):
    """The lines that say what was found about one notebook."""
    yield (
        '{}: seen red {} of {} live claims, {} of {} on recorded rows; '
        '{} definitional'.format(
            name, *entry['live'], *entry['recorded'], entry['definitional']
        )
    )
    never = {'never seen red': entry['never seen red']}
    for title in ('must turn red and did not', 'false with other seeds'):
        never |= {f'{title}: {k}': v for k, v in entry[title].items()}
    for title, claims in never.items():
        yield from (f'    {title}: {claim}' for claim in claims)
    for label, one in entry['runs'].items():
        if one['stopped']:
            yield f'    stopped: {label}: {one["stopped"]}'


def sentence(results):
    """What README says about the results."""
    shares = []
    for name, entry in results.items():
        shares.append('{} {} of {}'.format(name, *entry['live']))
        if entry['recorded'][1]:
            shares[-1] += ' and {} of {} on recorded rows'.format(
                *entry['recorded']
            )
    moved = []
    for name, entry in results.items():
        counts = map(len, entry['false with other seeds'].values())
        moved.append(f'{name} {" and ".join(map(str, counts)) or "not run"}')
    return (
        f'Seen red so far: {", ".join(shares)}. Claims that fail when all '
        f'seeds move by {" and by ".join(map(str, SEEDS))}: '
        f'{", ".join(moved)}.'
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('notebooks', nargs='*', metavar='notebook')
    parser.add_argument('--only', default='', metavar='TEXT')
    options = parser.parse_args(arguments)
    names = options.notebooks or list(SABOTAGE)
    if unknown := set(names) - set(SABOTAGE):
        parser.error(f'no notebook {unknown}; there are {list(SABOTAGE)}')
    made = f'Python {platform.python_version()}, PyTorch {torch.__version__}'
    for name in names:
        listed = {label: rest for label, *rest in runs_of(SABOTAGE[name])}
        for label, (patches, seed) in listed.items():
            results, now = read_results(), commit()
            runs = results.get(name, {}).get('runs', {})
            done = runs.get(label, {}).get('commit') == now
            if options.only not in label or (done and '-' not in now):
                continue
            start = time.monotonic()
            red, stopped = run(name, patches, seed)
            seconds = round(time.monotonic() - start)
            print(f'{name}: {label}: {seconds} s', stopped or '', flush=True)
            runs[label] = {
                'red': [claim for claim in red if red[claim]],
                'stopped': stopped,
                'date': datetime.date.today().isoformat(),
                'commit': now,
                'made on': f'{machine()}, {made}',
                'seconds': seconds,
            }
            results[name] = {'runs': runs}
            write_results(results)
    results = read_results()
    write_results(results)
    for name, entry in results.items():
        print('\n'.join(report(name, entry)))
    print(f'\nFor README.md: {sentence(results)}')
    done = [results[name] for name in names if name in results]
    return int(any(entry['must turn red and did not'] for entry in done))


if __name__ == '__main__':
    sys.exit(main())
