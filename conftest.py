"""The plugin that compares notebooks, and fixtures of several tests."""

import signal

import pytest

pytest_plugins = ['nbcompare']


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
