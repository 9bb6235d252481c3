"""The plugin that compares notebooks, a browser, fixtures of several tests."""

import os
import signal

import pytest
from execute import ARITHMETIC

os.environ.update(ARITHMETIC)  # before any test imports torch
pytest_plugins = ['nbcompare', 'chromium']


@pytest.fixture
def ctrl_c():
    """Ctrl-C interrupts, here and in processes that a test starts.

    It would not where the suite itself was started to ignore it, as by nohup.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def shown(monkeypatch):
    """The outputs that `figures` displays, as a list that grows."""
    outputs = []
    monkeypatch.setattr(
        'figures.display', lambda data, raw: outputs.append(data)
    )
    return outputs


@pytest.fixture(scope='session')
def packaged_file():
    """Where a model that a package carries is; see `published.packaged`.

    Without it the test is skipped or, with CHAPTER_REQUIRE_MODELS, fails.
    """
    import published

    def find(name):
        path = published.packaged(name)
        if path is None:
            required = os.environ.get('CHAPTER_REQUIRE_MODELS')
            miss = pytest.fail if required else pytest.skip
            miss(f'not checked: {name} is not at hand')
        return path

    return find
