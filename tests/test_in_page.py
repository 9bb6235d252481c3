"""Tests of models that answer inside a page, as text and in a browser.

A browser is needed for all that a page computes (Debian, Ubuntu: apt install
chromium); these tests are skipped without it.
"""

import base64
import html
import json
import re
import shutil
import zlib

import numpy as np
import pytest
import torch
from playwright.sync_api import sync_playwright
from torch.nn import functional as F

import corpora
import figures
import in_page
from corpora import BOS, NUM_SPECIAL, SEP
from in_page import model_page, rounded, show_model
from utils import BERT, GPT, T5, Config, answer

BROWSERS = 'chromium', 'chromium-browser', 'google-chrome'
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
in_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason='there is no Chromium here'),
]
LETTERS = 'abcdefghijklmnopqrstuvwxyz'
WORDS = [*corpora.SPECIAL_TOKENS, '->', ';', ':', *LETTERS]
PREFIXES = ['a b :', 'c :']
SIZES = {'num_hiddens': 16, 'num_heads': 4, 'num_blks': 2, 'init_std': 0.5}


def small_model(kind, seed=0, **options):
    """A model of random weights, and the text of its page's first example."""
    torch.manual_seed(seed)
    options = SIZES | options
    if kind is T5:
        style = {'rms_norm': True, 'bias': False, 'activation': 'relu'}
        options = style | {'scale': 1.0} | options
    model = kind(Config(len(WORDS), **options)).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1:  # norms and biases that do something
                p += 0.3 * torch.randn_like(p)
    return model


def small_page(model, **options):
    first = {GPT: 'a -> b ; c ->', BERT: 'a [b] c', T5: 'a b : d e'}
    if type(model) is T5:
        options.setdefault('prefixes', PREFIXES)
    return model_page(model, WORDS, [first[type(model)]], **options)[0]


def data_of(page):
    data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1)
    return json.loads(data)


def random_texts(num_texts, longest, vocab_size=len(WORDS), seed=0):
    """Lists of ids of words, of all lengths from 1 to `longest`."""
    rng = np.random.default_rng(seed)
    return [
        rng.integers(NUM_SPECIAL, vocab_size, 1 + i % longest).tolist()
        for i in range(num_texts)
    ]


# ---- In the browser: the same scores as PyTorch ----


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
        if not re.match('data:|blob:|about:', request.url):
            trouble.append(f'asked for {request.url}')

    def open_page(content, **options):
        contexts.append(browser.new_context(**options))
        contexts[-1].set_default_timeout(15_000)
        page = contexts[-1].new_page()
        page.on('console', hear)
        page.on('pageerror', lambda error: trouble.append(str(error)))
        page.on('request', allow)
        page.set_content(content)
        page.evaluate('ready')
        return page

    open_page.trouble = trouble
    yield open_page
    for context in contexts:
        context.close()
    assert sorted(set(trouble)) == []


RUN = {
    GPT: 'texts => texts.map(ids => gpt(model, ids))',
    BERT: """texts => texts.map(([ids, segments, place]) =>
        bert(model, ids, segments, place))""",
    T5: """texts => texts.map(([ids, targets]) => {
        const memory = encode(model, ids), caches = newCaches(model);
        return targets.map(id => decode(model, id, memory, caches));
    })""",
}


@torch.no_grad()
def expected(model, texts):
    """What to give to the page, and what it should say."""
    asked, scores = [], []
    for i, ids in enumerate(texts):
        if type(model) is GPT:
            asked.append([BOS, *ids])
            scores.append(model(torch.tensor([asked[-1]]))[0, -1])
        elif type(model) is BERT:
            ids, second = [BOS, *ids, SEP], [0] * (len(ids) + 2)
            second[len(ids) // 2 :] = [1] * (len(ids) - len(ids) // 2)
            place = i % len(ids)
            asked.append([ids, second, place])
            X, segments = torch.tensor([asked[-1][:2]]).unbind(1)
            scores.append(model(X, segments)[0, place])
        else:
            targets = [0, *texts[-i][:23]]
            asked.append([ids, targets])
            X, Y = torch.tensor([ids]), torch.tensor([targets])
            scores.append(model(X, Y)[0])
    return asked, scores


def check_equal(page, model, bits, texts):
    """Compares scores, and returns how far apart the farthest are."""
    model = rounded(model, bits)
    asked, scores = expected(model, texts)
    found = page.evaluate(RUN[type(model)], asked)
    worst = max(
        (torch.tensor(a) - b).abs().max().item()
        for a, b in zip(found, scores, strict=True)
    )
    assert worst < 1e-4, worst
    return worst


CHANGES = {
    'as it is': {},
    'post-norm': {'pre_norm': False},
    'tanh': {'activation': 'gelu_tanh'},
    'untied': {'tie_weights': False},
    'root mean square': {'rms_norm': True},
    'layer norm, biases': {'rms_norm': False, 'bias': True, 'scale': None},
    'no transform': {'mlm_transform': False},
    'wide heads': {'head_width': 6, 'ffn_num_hiddens': 20},
    'few buckets': {'num_buckets': 8, 'max_distance': 16},
}
ONLY = {'no transform': BERT, 'few buckets': T5}
CASES = [
    (kind, change)
    for kind in (GPT, BERT, T5)
    for change in CHANGES
    if ONLY.get(change, kind) is kind and (kind, change) != (GPT, 'untied')
]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason='there is no Chromium here')
@pytest.mark.parametrize(('kind', 'change'), CASES)
def test_scores_are_those_of_pytorch(kind, change, open_page):
    model = small_model(kind, **CHANGES[change])
    for bits in (8, 16):
        page = open_page(small_page(model, bits=bits))
        texts = random_texts(200 if change == 'as it is' else 40, 40)
        check_equal(page, model, bits, texts)
