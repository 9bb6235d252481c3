"""Loads the plugin that compares the notebooks (tests/nbcompare.py)."""

pytest_plugins = ['nbcompare']
