"""Tests in a real browser: the site's pages, the explorers, JupyterLab.

They need Chromium (Debian, Ubuntu: apt install chromium) and are skipped
without it.
"""

import functools
import http.server
import re
import shutil
import threading
from platform import python_version

import nbformat
import pytest
from execute import CHAPTER
from playwright.sync_api import sync_playwright
from site_build import build_site
from test_explorer import data_of, stored_pages
from test_lab import running_lab

BROWSERS = 'chromium', 'chromium-browser', 'google-chrome'
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
PAGES = ['index', 'bert', 'bert_derivatives', 'bert_published', 't5']
PAGES += ['t5_tasks', 't5_derivatives', 'gpt', 'gpt_today', 'in_context']
PAGES += ['scaling', 'scaling_machines', 'multimodal', 'bibliography']
PAGES += ['search']
EXPLORERS = {'bert': 2, 't5_tasks': 1, 'gpt': 1}
SIZES = {
    'desktop': {'viewport': {'width': 1280, 'height': 800}},
    'phone': {'viewport': {'width': 390, 'height': 844}, 'has_touch': True},
}
SCREENS = {
    f'{size}, {scheme}': {**options, 'color_scheme': scheme}
    for size, options in SIZES.items()
    for scheme in ('light', 'dark')
}
INSIDE = r'(https?|wss?)://127\.0\.0\.1|data:|blob:|about:'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason='there is no Chromium here'),
]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    build_site(folder)
    handler = functools.partial(QuietHandler, directory=folder / 'site')
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


@pytest.fixture(scope='module')
def browser():
    with sync_playwright() as playwright:
        options = {'executable_path': CHROMIUM, 'args': ['--no-sandbox']}
        browser = playwright.chromium.launch(**options)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens pages, and in the end checks what they asked for and logged."""
    contexts, trouble = [], []

    def hear(message):
        if message.type in ('error', 'warning'):
            trouble.append(message.text)

    def allow(request):
        if not re.match(INSIDE, request.url):
            trouble.append(f'asked for {request.url}')

    def open_page(url, **options):
        contexts.append(browser.new_context(**options))
        contexts[-1].set_default_timeout(15_000)
        page = contexts[-1].new_page()
        page.on('console', hear)
        page.on('pageerror', lambda error: trouble.append(str(error)))
        page.on('request', allow)
        page.on('requestfailed', lambda r: trouble.append(f'no {r.url}'))
        page.goto(url)
        return page

    open_page.trouble = trouble
    yield open_page
    for context in contexts:
        context.close()
    assert sorted(set(trouble)) == []


# The site


@pytest.mark.parametrize('screen', SCREENS)
@pytest.mark.parametrize('name', PAGES)
def test_pages_open(name, screen, site, open_page):
    page = open_page(f'{site}/{name}.html', **SCREENS[screen])
    page.wait_for_load_state('networkidle')
    width = SCREENS[screen]['viewport']['width']
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    dark = page.evaluate('document.documentElement.dataset.theme') == 'dark'
    assert dark == ('dark' in screen)
    # pictures and formulas are there
    page.evaluate("""document.querySelectorAll('img').forEach(
        image => image.loading = 'eager')""")
    page.wait_for_function("""[...document.images].every(
        image => image.complete && image.naturalWidth > 0)""")
    formulas = page.locator('.math').count()
    assert formulas > 0 or name in ('bibliography', 'search')
    if formulas:
        page.wait_for_function(
            f"document.querySelectorAll('mjx-container').length >= {formulas}"
        )
    assert page.locator('mjx-merror').count() == 0


def test_the_theme_can_be_switched(site, open_page):
    page = open_page(f'{site}/index.html', **SCREENS['desktop, light'])
    for theme in ('dark', 'light'):
        page.locator('.theme-switch-button').click()
        page.locator(f'.theme-change-button[data-mode={theme}]').click()
        assert page.locator('html').get_attribute('data-theme') == theme


def test_search_finds(site, open_page):
    page = open_page(f'{site}/search.html?q=plateau')
    results = page.locator('#search-results li')
    results.first.wait_for()
    assert 'bert.html' in results.first.locator('a').get_attribute('href')
    assert results.count() < len(PAGES)


def test_a_page_that_asks_outside_is_noticed(site, open_page):
    page = open_page(f'{site}/index.html')
    page.evaluate("""document.body.insertAdjacentHTML(
        'beforeend', '<img src="http://192.0.2.1/x.png">')""")
    page.evaluate("setTimeout(() => { throw Error('broken') })")
    page.wait_for_timeout(200)
    assert open_page.trouble[0] == 'asked for http://192.0.2.1/x.png'
    assert 'broken' in open_page.trouble
    open_page.trouble.clear()
    page.close()
    open_page.trouble.clear()


# The explorers


def stored_data(name):
    """Tokens and weights of the first explorer stored in a notebook."""
    return data_of(stored_pages(name)[0])


def use_explorer(frame, data, hover):
    """Uses mouse and keyboard; what is shown are the stored weights."""
    queries, keys, maps = data['queries'], data['keys'], data['maps']

    def check(blk, head, query):
        weights = maps[blk][head][query * len(keys) : (query + 1) * len(keys)]
        shown = frame.locator('#keys small').all_inner_texts()
        assert [float(text) for text in shown] == pytest.approx(
            [weight / 1000 for weight in weights], abs=0.0051
        )
        most = max(weights) / 1000
        text = frame.locator('#summary').inner_text()
        start = f'Block {blk + 1}, head {head + 1}: “{queries[query]}” looks'
        assert text.startswith(start)
        assert f'{most:.2f}' in text or f'{most - 0.001:.2f}' in text
        pressed = frame.locator('#queries [aria-pressed=true]')
        assert pressed.count() == 1
        assert pressed.text_content() == queries[query]

    tokens = frame.locator('#queries button')
    assert tokens.all_text_contents() == queries
    heads = frame.locator('#heads input')
    assert heads.count() == len(maps) * len(maps[0])
    check(0, 0, 0)
    (tokens.nth(2).hover if hover else tokens.nth(2).tap)()
    check(0, 0, 2)
    frame.locator('#heads label').last.click()
    check(len(maps) - 1, len(maps[0]) - 1, 2)
    # by keyboard alone
    heads.first.focus()
    heads.first.press('Space')
    frame.locator('#heads input:focus').press('ArrowRight')
    check(0, 1, 2)
    frame.locator('#heads input:focus').press('Tab')
    check(0, 1, 0)
    frame.locator('#queries button:focus').press('Tab')
    check(0, 1, 1)
    frame.locator('#queries button:focus').press('ArrowRight')
    frame.locator('#queries button:focus').press('ArrowDown')
    check(0, 1, 3)
    frame.locator('#queries button:focus').press('ArrowLeft')
    check(0, 1, 2)


def fits(frame):
    """Whether all of the page in the frame can be seen."""
    return frame.locator('html').evaluate(
        """root => root.scrollHeight <= innerHeight + 1
                && root.scrollWidth <= innerWidth"""
    )


@pytest.mark.parametrize('screen', SCREENS)
@pytest.mark.parametrize('name', EXPLORERS)
def test_explorers_on_the_site(name, screen, site, open_page):
    page = open_page(f'{site}/{name}.html', **SCREENS[screen])
    frames = page.locator('iframe[title="Attention explorer"]')
    assert frames.count() == EXPLORERS[name]
    frames.first.scroll_into_view_if_needed()
    frame = page.frame_locator('iframe[title="Attention explorer"]').first
    use_explorer(frame, stored_data(name), 'desktop' in screen)
    page.wait_for_timeout(100)
    assert fits(frame)


def test_explorer_can_be_read_in_light_and_dark(site, open_page):
    """Contrast of text and ground, by the formula of WCAG 2, at least 7."""
    for screen in SCREENS.values():
        page = open_page(f'{site}/bert.html', **screen)
        frame = page.frame_locator('iframe[title="Attention explorer"]').first
        ratio = frame.locator('html').evaluate("""root => {
            const light = color => {
                const [r, g, b] = color.match(/\\d+/g).slice(0, 3).map(x =>
                    x / 255 < 0.04 ? x / 3294 : ((x / 255 + .055) / 1.055)**2.4
                );
                return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
            };
            const style = getComputedStyle(root);
            const pair = [light(style.color), light(style.backgroundColor)];
            return Math.max(...pair) / Math.min(...pair);
        }""")
        assert ratio > 7


# JupyterLab


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    with running_lab(tmp_path_factory.mktemp('lab')) as (server, token, _):
        yield f'{server}/lab/tree/{CHAPTER.name}/{{}}.ipynb{token}&reset'


def open_notebook(open_page, lab, name):
    options = {'viewport': {'width': 1280, 'height': 900}}
    page = open_page(lab.format(name), **options)
    page.locator('.jp-Notebook .jp-Cell').first.wait_for(timeout=60_000)
    return page


def scroll_to(page, wanted):
    """Scrolls down until `wanted` is there: cells out of sight are not."""
    panel = page.locator('.jp-WindowedPanel-outer')
    for _ in range(400):
        if wanted.count():
            break
        panel.evaluate('panel => panel.scrollBy(0, 400)')
        page.wait_for_timeout(50)
    wanted.first.scroll_into_view_if_needed()


@pytest.mark.parametrize('name', PAGES[:7])
def test_notebooks_open_in_jupyterlab(name, lab, open_page):
    page = open_notebook(open_page, lab, name)
    title = page.locator('.jp-Notebook h1').first
    title.wait_for(timeout=30_000)
    page.get_by_text('| Idle').wait_for(timeout=60_000)
    page.wait_for_timeout(1000)
    assert page.locator('.jp-Dialog, .Toastify__toast').count() == 0
    # the first cell is folded, and opening has changed nothing, unless this
    # is another Python than the one that is recorded
    assert page.locator('.jp-InputPlaceholder').first.is_visible()
    nb = nbformat.read(CHAPTER / f'{name}.ipynb', as_version=4)
    if nb.metadata.language_info.version == python_version():
        assert page.locator('.jp-mod-dirty').count() == 0
    # stored figures are shown without running anything
    figure = page.locator('.jp-OutputArea-output img')
    scroll_to(page, figure)
    assert figure.first.is_visible()


def test_index_runs_in_jupyterlab(lab, open_page):
    page = open_notebook(open_page, lab, 'index')
    page.locator('.jp-Cell').first.click()
    # what is seen afterwards must come from the run
    for menu, command in (
        ('Edit', 'Clear Outputs of All Cells'),
        ('Run', 'Run All Cells'),
    ):
        page.get_by_role('menuitem', name=menu, exact=True).click()
        page.get_by_text(command, exact=True).click()
    page.wait_for_function(
        """document.querySelectorAll('.jp-InputPrompt').length > 4 &&
           ![...document.querySelectorAll('.jp-InputPrompt')].some(
               prompt => /\\*/.test(prompt.textContent))""",
        timeout=300_000,
    )
    page.locator('.jp-WindowedPanel-outer').evaluate(
        'panel => panel.scrollTo(0, 0)'
    )
    claims = page.get_by_text('✓ GPT does not look ahead')
    scroll_to(page, claims)
    assert claims.count() == 1
    assert page.locator('[data-mime-type*="stderr"]').count() == 0


@pytest.mark.parametrize('name', EXPLORERS)
def test_explorers_in_jupyterlab(name, lab, open_page):
    page = open_notebook(open_page, lab, name)
    scroll_to(page, page.locator('iframe[title="Attention explorer"]'))
    frame = page.frame_locator('iframe[title="Attention explorer"]').first
    use_explorer(frame, stored_data(name), hover=True)
    page.wait_for_timeout(100)
    assert fits(frame)
