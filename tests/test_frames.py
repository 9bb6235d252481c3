"""Tests of pages in frames: kept weights, comparison, filling anew."""

import nbformat
import pytest
import torch
from execute import CHAPTER, ROOT
from execute import main as execute_main
from frames import data_of, frames_of, keep_weights, main, page_of
from nbcompare import difference
from nbformat.v4 import (
    new_code_cell,
    new_markdown_cell,
    new_notebook,
    new_output,
)
from test_in_page import WORDS, small_model

import figures
from in_page import show_model
from utils import GPT, T5

PATHS = [str(ROOT / 'tests'), str(CHAPTER), str(ROOT)]


@pytest.fixture
def output_of(shown):
    """Makes outputs as a notebook stores them: a frame."""

    def output(model, examples=('a ->',), **options):
        show_model(model, WORDS, list(examples), **options)
        return new_output('display_data', shown[-2])

    return output


def changed(model, change=0.1):
    with torch.no_grad():
        model.blks[0].ffn.layer[0].weight[0, 0] += change
    return model


def test_runs_are_compared_by_the_fingerprint(output_of):
    first = output_of(small_model(GPT))
    assert difference([first], [output_of(small_model(GPT))]) is None
    # the page itself is not compared, the fingerprint is
    same = output_of(small_model(GPT), ['b ->'])
    assert difference([first], [same]) is None
    other = output_of(changed(small_model(GPT)))
    assert 'text/html' in difference([first], [other])


def test_weights_stay_and_the_rest_is_new(output_of):
    old = output_of(small_model(GPT))
    new = output_of(changed(small_model(GPT)), ['b ->'])
    keep_weights(new, old)
    assert new == output_of(small_model(GPT), ['b ->'])


def test_weights_of_another_shape_are_new(output_of):
    old = output_of(small_model(GPT))
    for model in (small_model(GPT, num_hiddens=32), small_model(T5)):
        new = output_of(model)
        before = dict(new.data)
        keep_weights(new, old)
        assert new.data == before
    # and a frame without a model is left alone
    explorer = new_output('display_data', {'text/html': '<p srcdoc="">'})
    keep_weights(explorer, old)
    assert explorer.data == {'text/html': '<p srcdoc="">'}


def test_stored_pages_are_filled_anew(output_of, shown, tmp_path):
    maps = torch.full((1, 1, 2, 2), 0.5)
    figures.explore_attention(['é', '</script>'], maps)
    outputs = [new_output('display_data', shown[0])]
    outputs.append(output_of(small_model(GPT)))
    nb = new_notebook(cells=[new_markdown_cell('# a'), new_code_cell('1')])
    nb.cells[1].outputs = outputs
    path = tmp_path / 'a.ipynb'
    text = nbformat.writes(nb).rstrip('\n') + '\n'
    path.write_text(text, encoding='utf-8')
    assert main([path]) == 0
    assert path.read_text(encoding='utf-8') == text
    # another template
    older = text.replace('Choose a head', 'Take a head')
    assert older.count('Take a head') == 2
    path.write_text(older, encoding='utf-8')
    main([path])
    assert path.read_text(encoding='utf-8') == text


@pytest.mark.slow
def test_a_new_run_takes_new_weights_only_when_told(tmp_path):
    source = """import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from in_page import show_model
from test_in_page import GPT, WORDS, small_model
seed = int(Path('seed').read_text())
show_model(small_model(GPT, seed), WORDS, ['a ->'])"""
    nb = new_notebook(cells=[new_code_cell(source.format(paths=PATHS))])
    path = tmp_path / 'a.ipynb'
    nbformat.write(nb, path)
    weights = []
    for seed, options in [(0, []), (1, []), (1, ['--new-weights'])]:
        (tmp_path / 'seed').write_text(str(seed))
        assert execute_main([*options, str(path)]) == 0
        cell = nbformat.read(path, as_version=4).cells[0]
        (out,) = frames_of(cell)
        weights.append(data_of(page_of(out.data['text/html']))['weights'])
    assert weights[0] == weights[1] != weights[2]
