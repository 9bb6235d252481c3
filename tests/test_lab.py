"""Tests of `make lab`; test_browser.py opens what it serves."""

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest
from execute import CHAPTER, ROOT

ADDRESS = re.compile(
    r'(http://127\.0\.0\.1:\d+)/lab/tree/chapter_large_pretraining'
    r'/index\.ipynb(\?token=\w+)'
)
PREFIX = 'JUPYTER', 'MAKE', 'MFLAGS'
BROWSER = 'BROWSER', 'DISPLAY', 'WAYLAND_DISPLAY', 'LAB_OPTIONS'


def last_line(path):
    """The last whole line of a file."""
    return ['', *path.read_text().split('\n')][-2].strip()


@contextlib.contextmanager
def running_lab(folder, **variables):
    """Runs `make lab` on a copy of the chapter until the block ends.

    Yields the server's address, the query that holds its token, and the file
    with what was printed. Raises if Ctrl-C does not stop it.
    """
    ignore = shutil.ignore_patterns('data', '__pycache__', '.ipynb_check*')
    for name in (CHAPTER.name, 'img', '.jupyter'):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ('Makefile', 'utils.py'):
        shutil.copy(ROOT / name, folder)
    env = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    env = {k: v for k, v in env.items() if k not in BROWSER} | {
        'JUPYTER_DATA_DIR': str(folder / 'data'),
        'JUPYTER_CONFIG_DIR': str(folder / 'config'),
        'JUPYTER_RUNTIME_DIR': str(folder / 'runtime'),
        'JUPYTERLAB_SETTINGS_DIR': str(folder / 'settings'),
        'JUPYTERLAB_WORKSPACES_DIR': str(folder / 'workspaces'),
        'OMP_NUM_THREADS': '1',
    }
    here = f'BIN={Path(sys.executable).parent}'
    log = folder / 'log'
    terminal, keyboard = pty.openpty()
    with log.open('w') as output:
        process = subprocess.Popen(
            [shutil.which('make'), 'lab', here, 'READY='],
            cwd=folder,
            env=env | variables,
            stdin=keyboard,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 60
        while not (found := ADDRESS.fullmatch(last_line(log))):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield *found.groups(), log
        os.killpg(process.pid, signal.SIGINT)
        process.wait(20)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        os.close(terminal)
        os.close(keyboard)


def fetch(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read()


def opened_address(path):
    """What the made-up browser was asked to open, once it has noted it."""
    for _ in range(100):
        if path.exists() and (address := path.read_text()):
            return address
        time.sleep(0.1)
    raise AssertionError('no browser was started')


@pytest.mark.slow
@pytest.mark.usefixtures('ctrl_c')
@pytest.mark.parametrize('browser', [True, False])
def test_make_lab_serves_with_and_without_a_browser(tmp_path, browser):
    folder = tmp_path / 'a book'
    folder.mkdir()
    (tmp_path / 'echo').symlink_to(shutil.which('echo'))
    variables = {'PATH': str(tmp_path)}
    if browser:
        opened, script = tmp_path / 'opened', tmp_path / 'browser'
        script.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}\n')
        script.chmod(0o755)
        variables = {'BROWSER': f'{script} %s'}
    page = f'{CHAPTER.name}/index.ipynb'
    with running_lab(folder, **variables) as (server, token, log):
        assert b'JupyterLab' in fetch(f'{server}/lab/tree/{page}{token}')
        model = json.loads(fetch(f'{server}/api/contents/{page}{token}'))
        assert model['content']['cells'][1]['metadata']['trusted']
        with pytest.raises(HTTPError, match='403'):
            fetch(f'{server}/api/contents/{page}')
        assert ADDRESS.fullmatch(last_line(log))
        if browser:
            assert f'{page}{token}'.encode() in fetch(opened_address(opened))
    # it has stopped, and trusting changed no file
    with pytest.raises(URLError):
        fetch(server)
    for path in CHAPTER.glob('*.ipynb'):
        copy = folder / CHAPTER.name / path.name
        assert copy.read_bytes() == path.read_bytes()
