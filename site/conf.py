"""Builds the chapter as a web site: make site

The pages are the notebooks as they are stored; nothing is executed. What a
page needs beyond a notebook is added here: citations and links to figures
become references, figures get a number and a caption, a folded cell shows its
title, and the badges become buttons. All of it works without a network.
"""

import json
import re
from pathlib import Path

from docutils import nodes
from pybtex.database import parse_file
from sphinx.transforms import SphinxTransform

SITE = Path(__file__).resolve().parent
CHAPTER = SITE.parent / 'chapter_large_pretraining'
REPO = re.search(
    r"repo, run = '(.+?)'", (CHAPTER / 'index.ipynb').read_text('utf-8')
).group(1)
PAGES = ['bert', 'bert_derivatives', 'bert_published', 't5', 't5_tasks']
PAGES += ['t5_derivatives', 'gpt', 'gpt_today', 'in_context']
PAGES += ['after_pretraining', 'scaling', 'scaling_machines', 'vision']
PAGES += ['multimodal', 'try_it', 'bibliography']
# no page of the table of contents: links after the exercises lead to them
SOLUTIONS = sorted(
    f'solutions/{path.stem}'
    for path in CHAPTER.glob('solutions/*.ipynb')
    if path.stem in (*PAGES, 'index')
)

project = 'Large-Scale Pretraining with Transformers'
author = 'the contributors'
copyright = 'the contributors, MIT license'
root_doc = 'index'
include_patterns = [
    f'{page}.{kind}'
    for page in (root_doc, *PAGES, *SOLUTIONS)
    for kind in ('ipynb', 'md')
]
extensions = [
    'myst_nb',
    'sphinxcontrib.bibtex',
    'sphinx.ext.mathjax',
    'sphinx-mathjax-offline',
]
nb_execution_mode = 'off'
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3
numfig = True
numfig_format = {'figure': 'Figure %s'}
bibtex_bibfiles = ['../site/references.bib']
bibtex_default_style = 'plain'
bibtex_reference_style = 'author_year'

html_theme = 'sphinx_book_theme'
html_title = project
html_logo = html_favicon = '../img/icon.svg'
html_context = {'default_mode': 'auto'}
html_copy_source = False
html_theme_options = {
    'repository_url': f'https://github.com/{REPO}',
    'repository_branch': 'main',
    'path_to_docs': CHAPTER.name,
    'use_repository_button': True,
    'home_page_in_toc': True,
    'navbar_persistent': [],
    'launch_buttons': {
        'notebook_interface': 'jupyterlab',
        'binderhub_url': 'https://mybinder.org',
        'colab_url': 'https://colab.research.google.com',
    },
}


# Text


def cited_names():
    """Maps 'Kaplan et al.', '2020' as written to the key of its source."""
    names = {}
    bibliography = parse_file(SITE / 'references.bib')
    for key, entry in bibliography.entries.items():
        last = [' '.join(p.last_names) for p in entry.persons['author']]
        last = [name.strip('{}') for name in last]
        if len(last) > 2 or last[-1] == 'others':
            last = [f'{last[0]} et al.']
        names[' and '.join(last), entry.fields['year']] = key
    return names


NAMES = cited_names()
CITATION = re.compile(
    '(?<!\\w)({})(,? \\(?)({})(?=[,;.)])'.format(
        '|'.join(sorted({re.escape(name) for name, _ in NAMES}, reverse=True)),
        '|'.join(sorted({year for _, year in NAMES})),
    )
)
# JupyterLab finds the cell of a solution, a page its heading
SOLUTION_LINK = re.compile(
    r'(?<=\]\()(solutions/\w+\.ipynb#)cell-id=(?=exercise-\d+\))'
)
FIGURE_LINK = re.compile(r'\[([^\]]+)\]\(\w*(?:\.ipynb)?#(fig-[\w-]+)\)')


def cite(match):
    """From 'Kaplan et al. (2020' to the same words, the year a reference."""
    name, between, year = match.groups()
    key = NAMES.get((name, year))
    if key is None:
        raise ValueError(f'{name} {year} is not in references.bib')
    return f'{name}{between}{{cite:year}}`{key}`'


def prepare_text(text):
    """The text of a notebook cell as the site needs it."""
    text = re.sub('<!-- badges -->.*?<!-- /badges -->', '', text, flags=re.S)
    text = text.split('\n## References\n')[0]
    text = CITATION.sub(cite, text)
    text = SOLUTION_LINK.sub(r'\1', text)
    return FIGURE_LINK.sub(r'[\1](#\2) ({numref}`\2`)', text)


def prepare_code(cell):
    """Moves the title of a folded cell to where the cell is unfolded."""
    first, _, rest = ''.join(cell['source']).partition('\n')
    if first.startswith('# @title '):
        title = first.removeprefix('# @title ')
        prompts = {'code_prompt_show': title, 'code_prompt_hide': title}
        cell['metadata']['mystnb'] = prompts
        cell['source'] = rest


FRAME = re.compile(
    r'<div><iframe title="Try the model".*</iframe></div>', re.S
)


def model_frame(match):
    """From `<!-- model of bert -->` to the page that the notebook keeps."""
    path = CHAPTER / f'{match.group(1)}.ipynb'
    for cell in json.loads(path.read_text('utf-8'))['cells']:
        for output in cell.get('outputs', []):
            text = ''.join(output.get('data', {}).get('text/html', ''))
            if FRAME.fullmatch(text):
                return f'``````{{raw}} html\n{text}\n``````'
    raise ValueError(f'{path.name} keeps no model in a page')


def prepare(app, docname, source):
    """Prepares the source of a page, and adds what joins the pages."""
    if docname == 'try_it':
        pattern = r'<!-- model of (\w+) -->'
        source[0] = re.sub(pattern, model_frame, source[0])
    if docname in ('try_it', 'bibliography'):
        return
    notebook = json.loads(source[0])
    cells = notebook['cells']
    for cell in cells:
        if cell['cell_type'] == 'markdown':
            cell['source'] = prepare_text(''.join(cell['source']))
        elif cell['cell_type'] == 'code':
            prepare_code(cell)
    if docname in SOLUTIONS:
        notebook['metadata']['orphan'] = True
    if docname == root_doc:
        pages = '\n'.join(PAGES)
        cells[-1]['source'] += f'\n\n```{{toctree}}\n:hidden:\n{pages}\n```\n'
    source[0] = json.dumps(notebook)


# Figures


def figure_name(docname, caption):
    """'t5', 'Bucket against offset' -> 'fig-t5-bucket-against-offset'."""
    words = re.findall('[a-z0-9]+', caption.lower())
    return '-'.join(['fig', docname.replace('/', '-'), *words[:6]])


class Figures(SphinxTransform):
    """Makes a numbered figure of each picture that a cell shows.

    The alternative text that stands beside the picture is kept, and what it
    says before the first full stop or colon becomes the caption; what it
    says after 'Left:' belongs to it.
    """

    default_priority = 700  # before Sphinx collects labels

    def apply(self):
        taken = set()
        for bundle in list(self.document.findall(nodes.container)):
            if bundle.get('nb_element') != 'mime_bundle':
                continue
            image = next(iter(bundle.findall(nodes.image)), None)
            texts = list(bundle.findall(nodes.literal_block))
            if image is None or not texts:
                continue
            image['alt'] = alt = ' '.join(texts[-1].astext().split())
            caption = re.split(r'[.:](?<!Left:)(?= |$)', alt)[0]
            name = figure_name(self.env.docname, caption)
            if name in taken:
                name += f'-{len(taken)}'
            taken.add(name)
            figure = nodes.figure('', names=[name])
            image.replace_self(figure)
            figure += [image, nodes.caption(caption, caption)]
            self.document.note_explicit_target(figure, figure)


def setup(app):
    app.connect('source-read', prepare)
    app.add_transform(Figures)
