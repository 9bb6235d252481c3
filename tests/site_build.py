"""Builds the web site for the tests, as `make site` does."""

import subprocess
import sys
import time

from execute import CHAPTER, ROOT


def build_site(folder):
    """Builds into `folder`; returns seconds, raises on any warning."""
    command = [sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going']
    paths = [CHAPTER, folder / 'site']
    start = time.monotonic()
    done = subprocess.run(
        [*command, '-c', 'site', '-d', folder / 'doctrees', *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return time.monotonic() - start
