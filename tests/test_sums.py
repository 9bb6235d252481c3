"""Sums of digits: prompts, chains, and paths that avoid facts."""

import itertools

import pytest
import torch

from corpora import sums

PROMPT = torch.tensor([[1, 12, 5, 12, 12, 10, 12, 6, 13]])
DIGITS = torch.tensor([[3, 8, 4]])


def some(number, num_digits, distinct=False):
    generator = torch.Generator().manual_seed(0)
    return sums.sum_problems(number, num_digits, generator, distinct)


@pytest.mark.parametrize('num_digits', [1, 5, 7])
def test_prompts_show_the_digits_in_their_order(num_digits):
    digits, prompts = some(50, num_digits)
    assert digits.shape == (50, num_digits)
    assert prompts.shape == (50, sums.PLACES + 2)
    shown = prompts[(prompts >= sums.DIGIT) & (prompts < sums.BLANK)]
    assert shown.tolist() == (digits + sums.DIGIT).flatten().tolist()


def test_distinct_digits_differ_and_others_need_not():
    for distinct in (True, False):
        digits, _ = some(200, 5, distinct)
        repeats = any(len({*row}) < 5 for row in digits.tolist())
        assert repeats != distinct


@pytest.mark.parametrize('number, distinct', [(0, 0), (8, 0), (8, 1)])
def test_too_few_and_too_many_digits_are_refused(number, distinct):
    with pytest.raises(ValueError, match=f'num_digits is {number}, not in 1'):
        some(3, number, distinct)


@pytest.mark.parametrize(
    'form, inputs, labels',
    [
        ('chain', '3 1 5 ; 5', '3 1 5 ; 5'),
        ('direct', '; 5', '; 5'),
        ('dots', '. . . ; 5', '    ; 5'),
        ('labels', '. . . ; 5', '3 1 5 ; 5'),
    ],
)
def test_what_each_form_writes_and_asks_for(form, inputs, labels):
    X, Y = sums.sum_texts(DIGITS, PROMPT, form)
    assert sums.show_sums(X[0]) == f'_ 3 _ _ 8 _ 4 = {inputs}'
    assert X.shape == Y.shape
    assert Y[0, : PROMPT.shape[1]].unique().tolist() == [-100]
    asked = Y[0, PROMPT.shape[1] :].clamp(min=0)
    assert sums.show_sums(asked).split() == labels.split()


def test_shuffles_are_permutations_whose_order_matters():
    rule = sums.rule_of(shuffled=True)
    assert (rule.sort(1)[0] == torch.arange(10)).all()
    assert (rule == sums.rule_of(shuffled=True)).all()
    pairs = torch.cartesian_prod(torch.arange(10), torch.arange(10))
    both = [sums.states_of(x, True)[:, -1] for x in (pairs, pairs.flip(1))]
    assert (both[0] != both[1]).float().mean() > 0.5


def test_sums_are_states_and_shuffled_states_follow_their_table():
    digits, _ = some(50, 6)
    assert (sums.states_of(digits) == digits.cumsum(1) % 10).all()
    rule = sums.rule_of(shuffled=True).tolist()
    for row, found in zip(digits, sums.states_of(digits, True), strict=True):
        state = 0
        for digit, there in zip(row.tolist(), found.tolist(), strict=True):
            state = rule[digit][state]
            assert there == state


def test_a_shuffled_chain_writes_its_states():
    X, Y = sums.sum_texts(DIGITS, PROMPT, 'chain', shuffled=True)
    n, states = PROMPT.shape[1], sums.states_of(DIGITS, True)[0] + sums.DIGIT
    told = [*states.tolist(), sums.COLON, states[-1].item()]
    assert X[0, n:].tolist() == Y[0, n:].tolist() == told
    X, _ = next(sums.sum_batches(9, 'direct', lengths=(3,), shuffled=True))
    prompts = X[:, :n]
    shown = (prompts >= sums.DIGIT) & (prompts < sums.BLANK)
    digits = prompts[shown].view(9, 3) - sums.DIGIT
    answers = sums.states_of(digits, True)[:, -1] + sums.DIGIT
    assert X[:, -1].tolist() == answers.tolist()


def test_another_form_is_refused():
    with pytest.raises(ValueError, match="form is 'prose', not one of"):
        sums.sum_texts(DIGITS, PROMPT, 'prose')


def test_one_prompt_in_eight_is_held_out_and_never_trained_on():
    _, prompts = some(4000, 4)
    share = sums.is_held_out(prompts).float().mean().item()
    assert share == pytest.approx(1 / 8, abs=0.02)
    for X, _ in itertools.islice(sums.sum_batches(40, 'chain'), 5):
        assert not sums.is_held_out(X[:, : PROMPT.shape[1]]).any()
    paths = sums.path_batches(40, sums.hidden_facts(), False)
    for X, _ in itertools.islice(paths, 5):
        assert not sums.is_held_out(X[:, : PROMPT.shape[1]]).any()


def test_kept_strings_are_few_and_what_begins_with_one_is_found():
    for k in (2, 3, 4):
        kept = sums.kept_strings(k)
        assert kept.shape == (10**k,)
        assert 0.03 < kept.float().mean() < 0.1
    number = sums.kept_strings(3).nonzero()[0].item()
    digits = torch.tensor([[int(x) for x in f'{number:03}1']])
    assert sums.begins_kept(digits).item()
    assert sums.begins_kept(digits[:, :3]).item()
    assert not sums.begins_kept(digits[:, :1]).item()
    pairs = torch.cartesian_prod(torch.arange(10), torch.arange(10))
    assert (sums.begins_kept(pairs) == sums.kept_strings(2)).all()


@pytest.mark.parametrize('without', [True, False])
def test_kept_strings_stand_in_no_batch_that_is_without_them(without):
    batches = sums.sum_batches(40, 'dots', 0, (4,), without_kept=without)
    found = False
    for X, _ in itertools.islice(batches, 5):
        shown = X[:, 1 : 1 + sums.PLACES]
        digits = shown[shown != sums.BLANK].view(40, 4) - sums.DIGIT
        found |= sums.begins_kept(digits).any().item()
    assert found != without


def test_batches_have_as_many_of_each_length_and_are_padded():
    X, labels = next(sums.sum_batches(50, 'chain'))
    colons = X.eq(sums.COLON)
    assert X.shape == labels.shape == (50, PROMPT.shape[1] + 8)
    lengths = colons.long().argmax(1) - PROMPT.shape[1]
    assert lengths.bincount().tolist() == [0, 0, 10, 10, 10, 10, 10]
    assert (labels[X == 0] == -100).all()


def test_lengths_may_depend_on_the_step():
    batches = sums.sum_batches(10, 'direct', 0, lambda step: [2 + step])
    counts = [
        X[:, 1 : 1 + sums.PLACES].ne(sums.BLANK).sum(1).unique().tolist()
        for X, _ in itertools.islice(batches, 3)
    ]
    assert counts == [[2], [3], [4]]


def test_facts_that_a_path_uses():
    facts = torch.zeros(10, 10, dtype=torch.bool)
    facts[1, 4] = True  # 3 + 8 is 1, and 4 comes then
    assert sums.uses(DIGITS, facts).tolist() == [True]
    assert sums.uses(DIGITS.flip(1), facts).tolist() == [False]
    assert sums.hidden_facts(3).sum() == 40
    assert (sums.hidden_facts(3) != sums.hidden_facts(4)).any()


@pytest.mark.parametrize('fixed', [True, False])
def test_paths_use_no_hidden_fact_and_end_with_the_sum(fixed):
    hidden = sums.hidden_facts(0)
    X, labels = next(sums.path_batches(64, hidden, fixed))
    path = X[:, PROMPT.shape[1] :] - sums.DIGIT
    digits = path[:, 0:10:2]
    assert not sums.uses(digits, hidden).any()
    assert (path[:, 1:10:2] == digits.cumsum(1) % 10).all()
    assert (path[:, 11] == digits.sum(1) % 10).all()
    assert (labels[:, PROMPT.shape[1] :] == X[:, PROMPT.shape[1] :]).all()
    shown = X[:, 1 : 1 + sums.PLACES]
    shown = shown[shown != sums.BLANK].view(64, 5) - sums.DIGIT
    assert (shown == digits).all() == fixed
    assert (shown.sort(1)[0] == digits.sort(1)[0]).all()
