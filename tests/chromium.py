"""Chromium for the tests, and what pages ask for and log in it."""

import contextlib
import re
import shutil

import pytest

BROWSERS = 'chromium', 'chromium-browser', 'google-chrome'
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
without_browser = pytest.mark.skipif(
    CHROMIUM is None, reason='there is no Chromium here'
)


@pytest.fixture(scope='module')
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = {'executable_path': CHROMIUM, 'args': ['--no-sandbox']}
        browser = playwright.chromium.launch(**options)
        yield browser
        browser.close()


@contextlib.contextmanager
def watched(browser, inside):
    """A function that makes empty pages; what they do is checked in the end.

    They may ask for addresses that begin like the pattern `inside`, and must
    log no error or warning.
    """
    contexts, trouble = [], []

    def hear(message):
        if message.type in ('error', 'warning'):
            trouble.append(message.text)

    def allow(request):
        if not re.match(inside, request.url):
            trouble.append(f'asked for {request.url}')

    def new_page(**options):
        contexts.append(browser.new_context(**options))
        contexts[-1].set_default_timeout(15_000)
        page = contexts[-1].new_page()
        page.on('console', hear)
        page.on('pageerror', lambda error: trouble.append(str(error)))
        page.on('request', allow)
        page.on('requestfailed', lambda r: trouble.append(f'no {r.url}'))
        return page

    new_page.trouble = trouble
    yield new_page
    for context in contexts:
        context.close()
    assert sorted(set(trouble)) == []
