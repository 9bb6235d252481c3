"""Tests of the web site as files; test_browser.py opens it."""

import json
import re
from html.parser import HTMLParser

import pytest
from execute import CHAPTER, ROOT
from pybtex.database import parse_file
from site_build import build_site
from sphinx.util.matching import get_matching_files
from test_project import repository

PAGES = [
    'index',
    'bert',
    'bert_derivatives',
    'bert_published',
    't5',
    't5_tasks',
    't5_derivatives',
    'gpt',
    'gpt_today',
    'in_context',
    'scaling',
    'scaling_machines',
    'multimodal',
    'bibliography',
]
NOTEBOOKS = PAGES[:-1]
LOADED = {'img': 'src', 'script': 'src', 'iframe': 'src', 'link': 'href'}


class Page(HTMLParser):
    """Collects what a page loads, links to, and shows."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.links, self.images = [], [], []
        self.ids, self.captions, self.frames = [], 0, []
        self.prompts, self.folded, self.folded_outputs = [], False, 0
        self.in_prompt = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if address := attributes.get(LOADED.get(tag)):
            self.loaded.append(address)
        if tag == 'a' and 'href' in attributes:
            self.links.append(attributes['href'])
        if tag == 'img':
            self.images.append(attributes)
        if tag == 'iframe':
            self.frames.append(attributes)
        if 'id' in attributes:
            self.ids.append(attributes['id'])
        self.captions += tag == 'figcaption'
        kinds = attributes.get('class', '').split()
        self.folded |= tag == 'details'
        self.folded_outputs += self.folded and 'cell_output' in kinds
        self.in_prompt = tag == 'p' and 'collapsed' in kinds

    def handle_data(self, data):
        if self.in_prompt:
            self.prompts.append(data)
            self.in_prompt = False

    def handle_endtag(self, tag):
        self.folded &= tag != 'details'


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    seconds = build_site(folder)
    return folder / 'site', seconds


@pytest.fixture(scope='module')
def pages(built):
    return {
        name: Page((built[0] / f'{name}.html').read_text(encoding='utf-8'))
        for name in PAGES
    }


@pytest.fixture
def conf(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'site')
    import conf

    return conf


def cells_of(name, kind):
    path = CHAPTER / f'{name}.ipynb'
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [cell for cell in cells if cell['cell_type'] == kind]


def text_of(name):
    return '\n\n'.join(
        ''.join(cell['source']) for cell in cells_of(name, 'markdown')
    )


@pytest.mark.slow
def test_it_builds_without_warnings_in_less_than_a_minute(built):
    assert built[1] < 60


@pytest.mark.slow
@pytest.mark.parametrize('name', PAGES)
def test_nothing_is_loaded_from_outside(name, pages):
    page = pages[name]
    assert len(page.loaded) > 5
    for address in page.loaded:
        assert not re.match(r'(\w+:)?//', address), address


@pytest.mark.slow
def test_style_sheets_load_nothing_from_outside(built):
    sheets = list(built[0].rglob('*.css'))
    assert len(sheets) > 3
    for sheet in sheets:
        text = sheet.read_text(encoding='utf-8')
        for address in re.findall(
            r'(?:url\(|@import)\s*["\']?([^"\')]+)', text
        ):
            assert not re.match(r'(https?:)?//', address), (sheet, address)


@pytest.mark.slow
def test_links_between_pages_lead_somewhere(pages, built):
    for name, page in pages.items():
        for link in page.links:
            if re.match(r'\w+:', link):
                continue
            target, _, fragment = link.partition('#')
            target = target.removesuffix('.html') or name
            if target in pages:
                known = pages[target].ids
                assert not fragment or fragment in known, (name, link)
            else:
                assert (built[0] / link.partition('#')[0]).exists(), link


@pytest.mark.slow
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_folded_cells_show_their_titles_and_their_outputs(name, pages):
    folded = [
        cell
        for cell in cells_of(name, 'code')
        if 'hide-input' in cell['metadata'].get('tags', [])
    ]
    titles = [cell['source'][0].split('@title ')[1].strip() for cell in folded]
    assert pages[name].prompts == titles
    assert len(titles) > 0
    assert pages[name].folded_outputs == 0


@pytest.mark.slow
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_every_stored_figure_is_numbered_and_has_its_text(name, pages):
    stored = [
        ' '.join(''.join(output['data']['text/plain']).split())
        for cell in cells_of(name, 'code')
        for output in cell['outputs']
        if 'image/svg+xml' in output.get('data', {})
    ]
    page = pages[name]
    assert len(stored) == page.captions > 1
    shown = [image.get('alt') for image in page.images]
    assert [alt for alt in shown if alt in stored] == stored


@pytest.mark.slow
def test_figures_are_counted_through(built):
    numbers = []
    for name in NOTEBOOKS:
        text = (built[0] / f'{name}.html').read_text(encoding='utf-8')
        found = re.findall(r'caption-number">Figure (\d+)', text)
        numbers += map(int, found)
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 40


@pytest.mark.slow
def test_links_to_figures_tell_their_numbers(built):
    links = 0
    for name in NOTEBOOKS:
        text = (built[0] / f'{name}.html').read_text(encoding='utf-8')
        links += len(re.findall(r'class="std std-numref">Figure \d+<', text))
    written = sum(text_of(name).count('#fig-') for name in NOTEBOOKS)
    assert links == written > 4


@pytest.mark.slow
def test_buttons_name_the_repository_of_the_badges(pages):
    repo = repository((CHAPTER / 'index.ipynb').read_text(encoding='utf-8'))
    for name in NOTEBOOKS:
        links = pages[name].links
        file = f'{CHAPTER.name}/{name}.ipynb'
        for start in ('https://colab.research.google.com', 'https://mybinder'):
            button = [a for a in links if a.startswith(start)]
            assert len(button) == 1
            assert repo in button[0]
            assert file in button[0]
        # and the badges, which are pictures from outside, are gone
        assert not any('badge' in image['src'] for image in pages[name].images)


@pytest.mark.slow
def test_explorers_come_through_whole(pages):
    for name in ('bert', 't5_tasks', 'gpt'):
        stored = [
            ''.join(output['data']['text/html'])
            for cell in cells_of(name, 'code')
            for output in cell['outputs']
            if 'srcdoc' in ''.join(output.get('data', {}).get('text/html', ''))
        ]
        frames = [f['srcdoc'] for f in pages[name].frames]
        parsed = [Page(text).frames[0]['srcdoc'] for text in stored]
        assert frames == parsed
        assert len(frames) > 0


@pytest.mark.slow
def test_search_knows_the_words_of_all_notebooks(built):
    index = (built[0] / 'searchindex.js').read_text(encoding='utf-8')
    for word in ('plateau', 'infil', 'trigram', 'isoflop'):
        assert f'"{word}' in index or f'{word}:' in index, word


def test_only_the_pages_of_the_chapter_are_built(conf, tmp_path):
    for name in ('index.ipynb', 'Untitled.ipynb', 'bert-copy.ipynb', 'x.md'):
        (tmp_path / name).touch()
    found = get_matching_files(tmp_path, conf.include_patterns)
    assert list(found) == ['index.ipynb']
    pages = get_matching_files(CHAPTER, conf.include_patterns)
    assert sorted(page.partition('.')[0] for page in pages) == sorted(PAGES)


# Bibliography


def sources():
    entries = parse_file(ROOT / 'site' / 'references.bib').entries
    return {
        key: (
            ' '.join(entry.persons['author'][0].last_names).strip('{}'),
            entry.fields['year'],
            re.sub(r'[{}\\]', '', entry.fields['title']).lower(),
        )
        for key, entry in entries.items()
    }


def listed(name):
    """First author, year and title in a notebook's list of references."""
    text = text_of(name).partition('\n## References\n')[2]
    lines = re.findall(r'^\* (.+?) \((\d{4})\)\. (.+)$', text, re.MULTILINE)
    return {
        (
            re.split(', | and ', authors)[0].split(' ')[-1],
            year,
            re.sub(r'(, section 11\.9)?\.( https.*)?$', '', title).lower(),
        )
        for authors, year, title in lines
    }


def test_lists_of_references_and_bibliography_are_the_same():
    all_listed = set().union(*(listed(name) for name in NOTEBOOKS))
    assert all_listed == set(sources().values())


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_what_is_cited_is_listed_and_the_other_way_round(name, conf):
    text = text_of(name).partition('\n## References\n')[0]
    found = [match.group(1, 3) for match in conf.CITATION.finditer(text)]
    cited = {sources()[conf.NAMES[names]] for names in found}
    by_group = {s for s in listed(name) if s[0] in ('OpenAI', 'Zhang')}
    assert cited | by_group == listed(name) | by_group
    # no citation escapes the pattern
    other = re.findall(r'[A-Z][\w-]+ et al\.,? \(?\d{4}', text)
    assert len(other) == sum('et al.' in name for name, _ in found)


def test_citations_and_links_become_references(conf):
    text = conf.prepare_text(
        'As Kaplan et al. (2020) say (Zhang and Sennrich, 2019, section 2), '
        'see [the picture](index.ipynb#fig-index-three).\n'
        '\n## References\n\n* J. Kaplan and others (2020). Laws.\n'
    )
    assert text == (
        'As Kaplan et al. ({cite:year}`kaplan2020`) say (Zhang and Sennrich, '
        '{cite:year}`zhang2019`, section 2), see [the picture]'
        '(#fig-index-three) ({numref}`fig-index-three`).\n'
    )
    with pytest.raises(ValueError, match=r'Kaplan .* 2022 is not in'):
        conf.prepare_text('Kaplan et al. (2022)')
