"""Tests of what surrounds the chapter: first cells, badges, set-up, pins."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from badges import FIRST_LINE, badges, bootstrap, main, rewrite_notebook
from execute import CHAPTER, ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

REPO = 'someone/some-book'
NOTEBOOKS = sorted(CHAPTER.glob('*.ipynb'))
MACHINE_PATH = re.compile(
    r'(?<![\w.])/(?:home|Users|root|tmp|work|content|opt|mnt)/|[A-Z]:\\\\'
)


def read(path):
    return path.read_text(encoding='utf-8')


def repository(text):
    """The repository that a bootstrap cell names."""
    return re.search(r"repo, run = '(.+?)'", text).group(1)


# Notebooks


def notebook_faults(path):
    """Says what is wrong with a notebook as a file."""
    text = read(path)
    nb = nbformat.reads(text, as_version=4)
    nbformat.validate(nb)
    faults = []
    if not set(nb.metadata) <= {'kernelspec', 'language_info'}:
        faults.append('metadata')
    code = [c for c in nb.cells if c.cell_type == 'code']
    if not code or not code[0].source.startswith(FIRST_LINE):
        return [*faults, 'no bootstrap']
    repo = repository(code[0].source)
    if code[0].source != bootstrap(repo):
        faults.append('bootstrap differs from tests/badges.py')
    if badges(repo, path.name) not in nb.cells[0].source:
        faults.append('badges')
    for cell in code:
        for out in cell.outputs:
            for value in (out.get('text', ''), *out.get('data', {}).values()):
                if MACHINE_PATH.search(str(value)):
                    faults.append('path in an output')
    return faults


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_file(path):
    assert notebook_faults(path) == []


def test_all_name_the_same_repository():
    repos = {repository(read(path)) for path in NOTEBOOKS}
    assert len(repos) == 1
    assert badges(repos.pop(), 'index.ipynb') in read(ROOT / 'README.md')


def write_notebook(path, repo=REPO):
    block = badges(repo, path.name)
    nb = new_notebook()
    nb.cells = [
        new_markdown_cell(f'# Überschrift\n\n{block}\n\nText'),
        new_code_cell(bootstrap(repo), execution_count=1),
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
    nb.cells[1].source += '\n'
    nb.cells[0].source = '# Title'
    nb.metadata['widgets'] = {}
    nbformat.write(nb, path)
    assert len(notebook_faults(path)) == 4
    nb.cells[1].source = 'import utils'
    nbformat.write(nb, path)
    assert 'no bootstrap' in notebook_faults(path)


# The first code cell


def run_cell(folder, modules, path='', before=''):
    """Runs the cell twice, without site-packages; returns folder and path."""
    code = (
        f'{before}\n{bootstrap(REPO)}\n{bootstrap(REPO)}\n'
        'print(os.getcwd(), sys.path[0], sys.path.count(sys.path[0]))'
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
    return done.stdout.split()


def test_the_first_cell_does_nothing_elsewhere(tmp_path):
    chapter = tmp_path / 'book' / 'chapter'
    chapter.mkdir(parents=True)
    (tmp_path / 'modules').mkdir()
    here = run_cell(chapter, tmp_path / 'modules')
    assert here == [str(chapter), str(tmp_path / 'book'), '1']
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob('*')}
    assert files == {'book', 'book/chapter', 'modules'}


FAKE_PIP = """
import pathlib, sys
folder = pathlib.Path(__file__).parents[1]
with open(folder / 'log', 'a') as log:
    print(*sys.argv[1:], file=log)
name = sys.argv[-1].split('=')[0].replace('scikit-', 'sk')
(folder / (name + '.py')).touch()
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
    expected = [str(book / 'chapter_large_pretraining'), str(book), '1']
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


# Badges


@pytest.fixture
def book(tmp_path):
    chapter = tmp_path / CHAPTER.name
    chapter.mkdir()
    for name in ('index', 'gpt'):
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
    assert capsys.readouterr().out.count('rewritten') == 3
    for path, text in after.items():
        # names, and nothing else, have changed
        assert text == before[path].replace('old-owner/old', REPO)
        assert text != before[path]
    gpt = after[book / CHAPTER.name / 'gpt.ipynb']
    assert f'{REPO}/blob/main/{CHAPTER.name}/gpt.ipynb' in gpt
    assert f'{REPO}/main?labpath={CHAPTER.name}%2Fgpt.ipynb' in gpt
    assert f"repo, run = '{REPO}'" in gpt
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


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.name)
def test_rewriting_with_the_same_name_changes_nothing(path):
    text = read(path)
    assert rewrite_notebook(text, repository(text), path.name) == text


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
    assert len(log) == 2
    assert log[0].endswith('-r requirements.txt')
    assert log[1].endswith('--no-deps d2l==1.0.3')
    for newer, lines in ((None, 2), ('requirements.txt', 4), ('Makefile', 6)):
        for name in ('requirements.txt', 'Makefile'):
            date = 3e9 if name == newer else 1e9
            os.utime(tmp_path / name, (date, date))
        os.utime(tmp_path / target, (2e9, 2e9))
        assert make(tmp_path, target).returncode == 0
        assert len(read(tmp_path / 'log').splitlines()) == lines


# Pins


def test_pins_agree():
    requirements = read(ROOT / 'requirements.txt')
    environment = read(ROOT / 'environment.yml')
    torch = re.search(r'^torch==(.+)$', requirements, re.MULTILINE).group(1)
    assert f'  - pytorch-cpu={torch}\n' in environment
    assert '  - python=3.11\n' in environment
    assert '      - -r requirements.txt\n' in environment
    files = ('requirements.txt', 'environment.yml', 'postBuild', 'Makefile')
    for text in [*(read(ROOT / f) for f in files), bootstrap(REPO)]:
        assert set(re.findall(r'd2l==([\d.]+\d)', text)) == {'1.0.3'}
    workflow = read(ROOT / '.github' / 'workflows' / 'test.yml')
    assert "python: ['3.11', '3.13']" in workflow
    assert '(3, 11) <= sys.version_info[:2] <= (3, 13)' in (
        read(ROOT / 'Makefile')
    )


def test_the_readme_names_the_commands():
    readme = read(ROOT / 'README.md')
    for command in (
        'make lab',
        'make test',
        'pip install -r requirements.txt',
        'pip install --no-deps d2l==1.0.3',
    ):
        assert command in readme


@pytest.mark.parametrize('name', ['.ci/run', 'postBuild'])
def test_scripts_can_be_started(name):
    path = Path(ROOT / name)
    assert os.access(path, os.X_OK)
    subprocess.run(['bash', '-n', path], check=True)
