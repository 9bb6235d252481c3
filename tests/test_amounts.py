"""The amounts study: what is read, its plan, and a cheap row made again."""

import argparse
import dataclasses
import math

import pytest
import torch
from execute import CHAPTER

import corpora
import utils
from studies import amounts, runner

RECORDED = CHAPTER / 'studies' / 'amounts.csv'
OPTIONS = argparse.Namespace(seeds=2, device='cpu', shard=False)
RUN = amounts.Run('GPT', 2**15, 2, 0, 'digest')
DOCUMENTS = [torch.arange(1, n) for n in (200, 300, 400, 500)]


@pytest.fixture
def text(monkeypatch):
    """Four short documents, and twenty bytes to be measured on."""
    texts = ['a' * 200, 'b' * 300, 'c' * 400, 'd' * 500]
    valid = torch.arange(10, 300)
    loaded = DOCUMENTS, valid, (texts, 'e' * 20), 'digest'
    monkeypatch.setattr(amounts, 'load', lambda: loaded)


@pytest.mark.parametrize(
    'change, message',
    [
        ({'model': '4-gram'}, "model is '4-gram', not one of .*'5-gram'"),
        ({'num_tokens': 2**12}, 'num_tokens is 4096, below 8192'),
        ({'num_tokens': 10_000}, '10000, not a multiple of 1024'),
        ({'passes': 0}, 'passes is 0, below 1'),
        ({'model': 'xz'}, 'passes is 2 for xz'),
        ({'seed': -1}, 'seed is -1, below 0'),
    ],
)
def test_what_is_no_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RUN, **change)


def test_bits_are_not_below_zero():
    with pytest.raises(ValueError, match='bits_per_byte is -1, below 0'):
        amounts.Measured(-1, 1.0)


def test_each_training_document_has_its_tokens():
    documents, _, (texts, _), _ = amounts.load()
    tokenizer = corpora.documentation_tokenizer(corpora.documentation())
    assert len(documents) == len(texts)
    for i in (0, 1, len(texts) // 2, -1):
        assert documents[i].equal(corpora.encode(tokenizer, [texts[i]]))


@pytest.mark.usefixtures('text')
def test_all_models_read_the_same_beginning():
    tokens, read = amounts.beginning(600, seed=1)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(1))
    whole = torch.cat([DOCUMENTS[i] for i in order])
    assert tokens.equal(whole[:600])
    used = read.split('\n')
    assert [part[0] for part in used] == ['abcd'[i] for i in order][:2]
    with pytest.raises(ValueError, match='1396 tokens, fewer than 1397'):
        amounts.beginning(1397, seed=1)
    every, read = amounts.beginning(1396, seed=1)
    assert every.equal(whole) and len(read.split('\n')) == 4


def test_a_pass_holds_each_token_once_and_the_next_one_cuts_elsewhere():
    tokens = torch.arange(3 * 1024)
    batches = list(amounts.passes_over(tokens, 2, seed=1))
    assert len(batches) == 6
    for part in batches[:3], batches[3:]:
        X = torch.cat(part)
        assert X[:, 1:].flatten().sort().values.equal(tokens)
        assert ((X[:, 1:] - X[:, :-1]) % len(tokens) == 1).all()
    assert not batches[0].equal(batches[3])
    assert (batches[0][0, 0] - batches[3][0, 0]) % 64 != 0


def test_log_probs_are_those_of_a_sliding_window():
    torch.manual_seed(0)
    model = utils.GPT(utils.Config(50, 16, 2, 1, 8, init_std=0.3)).eval()
    tokens = torch.randint(50, (30,))
    found = amounts.log_probs(model, tokens, 8)
    assert len(found) == 28  # one more half window would need 33 tokens
    for t in (1, 4, 8, 9, 12, 13, 28):
        start = 0 if t <= 8 else (t - 5) // 4 * 4
        context = tokens[start:t]
        expected = model(context[None])[0, -1].log_softmax(-1)[tokens[t]]
        assert found[t - 1] == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.usefixtures('text')
def test_the_plan_begins_with_the_least_text():
    plan = amounts.plan([], OPTIONS)
    assert len(plan) == len(set(plan))
    assert plan[0].num_tokens == min(run.num_tokens for run in plan)
    for num_tokens in amounts.PASSES:
        here = [r for r in plan if (r.num_tokens, r.seed) == (num_tokens, 1)]
        assert {run.model for run in here} == {*amounts.MODELS}
        assert 1 in {run.passes for run in here if run.model == 'GPT'}
    assert max(run.num_steps for run in plan) == 4608


@pytest.mark.usefixtures('text')
def test_another_text_is_refused():
    run = dataclasses.replace(RUN, corpus_digest='another')
    with pytest.raises(ValueError, match='the text is digest, not that of'):
        amounts.execute(run, OPTIONS, None)


@pytest.mark.usefixtures('text')
def test_a_model_that_guesses_is_measured_as_one(monkeypatch):
    read = []

    def train(run, tokens, options, checkpoint):
        read.append(tokens)
        gpt = utils.GPT(amounts.small_config()).eval()
        with torch.no_grad():
            gpt.head.weight.zero_()
        return gpt

    monkeypatch.setattr(amounts, 'train_gpt', train)
    monkeypatch.setattr(amounts, 'beginning', lambda *wanted: (wanted, 'abc'))
    measured = amounts.execute(RUN, OPTIONS, None)
    assert read == [(2**15, 0)]
    assert measured.bits_per_byte == pytest.approx(
        math.log2(1024) * 290 / 20, rel=1e-4
    )


def test_the_record_is_that_of_its_commands_and_whole(monkeypatch):
    rows, unfinished = amounts.STUDY.read(RECORDED)
    assert unfinished == b''
    (digest,) = {row.run.corpus_digest for row in rows}
    monkeypatch.setattr(amounts, 'load', lambda: (None, None, None, digest))
    plan = set()
    for command in {row.made.command for row in rows}:
        words = command.split()
        assert words[:2] == ['studies', 'amounts']
        options = runner.arguments(amounts.STUDY, words[2:])
        plan |= set(amounts.plan(rows, options))
    assert {row.run for row in rows} == plan
    assert {run.seed for run in plan} == set(range(3))


@pytest.mark.slow
@pytest.mark.parametrize('model', ['GPT', '5-gram', 'xz'])
def test_the_cheapest_recorded_rows_can_be_made_again(model):
    rows, _ = amounts.STUDY.read(RECORDED)
    row = next(row for row in rows if row.run.model == model)
    if corpora.fingerprint(corpora.documentation()) != row.run.corpus_digest:
        pytest.skip('the documentation of this Python is another text')
    again = runner.repeat(amounts.STUDY, row, device='cpu')
    assert again.bits_per_byte == pytest.approx(
        row.measured.bits_per_byte, rel=0.01
    )
