"""Bits per byte of a text, and the record of SmolLM2."""

import dataclasses
import math

import pytest
import torch
from execute import CHAPTER

import corpora
import utils
from studies import compression, runner

RECORDED = CHAPTER / 'studies' / 'compression.csv'


class Letters:
    """A tokenizer whose tokens are bytes."""

    ids = None

    def encode(self, text):
        other = Letters()
        other.ids = list(text.encode())
        return other


def test_bits_are_those_of_each_window_after_an_end():
    torch.manual_seed(0)
    model = utils.GPT(utils.Config(256, 16, 2, 2, 128, init_std=0.3)).eval()
    text = 'How many bits does it take? ' * 9
    bits, num_tokens = compression.text_bits(model, Letters(), text, 100)
    ids = torch.tensor([*text.encode()])
    assert num_tokens == len(ids) == 252
    expected = 0.0
    for part in (ids[:100], ids[100:200], ids[200:]):
        X = torch.cat((torch.tensor([0]), part[:-1]))[None]
        log_p = model(X)[0].log_softmax(-1)
        expected -= log_p.gather(1, part[:, None]).sum().item()
    assert bits == pytest.approx(expected / math.log(2), rel=1e-5)
    assert bits > 8 * num_tokens  # a random model is worse than a guess


def test_the_record_is_one_of_growing_lengths_of_one_text():
    data = compression.read_runs(RECORDED)
    assert data.corpus_digest.nunique() == 1 and set(data.processes) == {1}
    assert {*data.model} == {*compression.MODELS}
    for name, rows in data.groupby('model'):
        assert [*rows.characters] == [2000, 10_000, 60_000]
        assert rows.sha256.nunique() == 1
        assert (rows.sha256 != '').all() == (name == 'smollm2')
        low, high = (0.9, 1.3) if name == 'smollm2' else (1.4, 2.4)
        assert rows.bits_per_byte.between(low, high).all()


@pytest.mark.parametrize('name', ['characters', 'num_steps'])
def test_sizes_below_one_are_no_run(name):
    run = compression.STUDY.read(RECORDED)[0][0].run
    with pytest.raises(ValueError, match=f'{name} is 0, below 1'):
        dataclasses.replace(run, **{name: 0})


def test_another_model_is_no_run():
    run = compression.STUDY.read(RECORDED)[0][0].run
    with pytest.raises(ValueError, match="model is 'zip', not one of"):
        dataclasses.replace(run, model='zip')


def documents(train, valid):
    return corpora.Corpus('texts', tuple(train), tuple(valid))


@pytest.mark.parametrize('model', ['trigram', '5-gram', 'xz'])
def test_rivals_have_read_the_training_documents(model):
    known = [f'{a} plus {b} is {a + b}.' for a in range(30) for b in range(9)]
    other = [f'How {b} of {a} are red?' for a in range(30) for b in range(9)]
    text = '\n'.join(known[100:130])
    bits, num_tokens = compression.rival_bits(
        model, documents(known, [text]), text
    )
    more, _ = compression.rival_bits(model, documents(other, [text]), text)
    assert bits < more / 2
    assert num_tokens > 60 and bits > 0


@pytest.mark.slow
@pytest.mark.parametrize('model', ['trigram', 'xz'])
def test_a_recorded_rival_can_be_repeated(model):
    rows, _ = compression.STUDY.read(RECORDED)
    row = next(row for row in rows if row.run.model == model)
    if corpora.fingerprint(corpora.documentation()) != row.run.corpus_digest:
        pytest.skip('the documentation of this Python is another text')
    again = runner.repeat(compression.STUDY, row, device='cpu')
    assert again.bits_per_byte == pytest.approx(
        row.measured.bits_per_byte, rel=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize('characters', [2000, 10_000])
def test_a_recorded_row_can_be_repeated(characters, packaged_file):
    packaged_file('smollm2')
    rows, _ = compression.STUDY.read(RECORDED)
    row = next(row for row in rows if row.run.characters == characters)
    if corpora.fingerprint(corpora.documentation()) != row.run.corpus_digest:
        pytest.skip('the documentation of this Python is another text')
    again = runner.repeat(compression.STUDY, row, device='cpu')
    assert again.num_tokens == row.measured.num_tokens
    assert again.bits_per_byte == pytest.approx(
        row.measured.bits_per_byte, rel=1e-4
    )


def test_another_text_is_refused(packaged_file):
    row = compression.STUDY.read(RECORDED)[0][0]
    other = dataclasses.replace(row.run, corpus_digest='another')
    with pytest.raises(ValueError, match=r'not those of .*another'):
        runner.repeat(compression.STUDY, row._replace(run=other))
