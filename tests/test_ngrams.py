"""Interpolated n-grams and xz, on texts small enough to count by hand."""

import ngrams
import numpy as np
import pytest

TEXT = np.array([0, 1, 2, 0, 1, 3, 0, 1, 2, 1] * 30)


def test_packed_runs_are_numbers_in_base_vocab_size():
    assert [*ngrams.pack([1, 2, 3, 4], 2, 10)] == [12, 23, 34]
    assert [*ngrams.pack([1, 2, 3], 0, 10)] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    'tokens, n, message',
    [
        ([1, 2, 3], 7, '7 tokens of 1024 kinds: over 63 bits'),
        ([1, 2, 3], 4, '3 tokens, fewer than 4'),
    ],
)
def test_what_cannot_be_packed_is_refused(tokens, n, message):
    with pytest.raises(ValueError, match=message):
        ngrams.pack(tokens, n, 1024)


def test_counts_are_those_by_hand():
    counts = ngrams.Counts(np.array([0, 1, 2, 0, 1]), 4, 2)
    assert [*counts.of(np.array([0, 1, 3]), 1)] == [2, 2, 0]
    assert [*counts.of(np.array([0, 1, 2, 1, 0]), 2)] == [2, 1, 0, 0]
    assert [*counts.of(np.array([3, 3]), 0)] == [6, 6, 6]
    assert [*counts.of(np.array([0, 1, 2]), 1, followed=True)] == [2, 1, 1]
    assert counts.of(np.array([3]), 0, followed=True)[0] == 5


@pytest.mark.parametrize('order', [1, 2, 3, 5])
def test_the_probabilities_of_all_next_tokens_add_up_to_one(order):
    model = ngrams.NGrams(TEXT, 4, order)
    for context in ([0, 1, 2, 0], [3, 3, 3, 3], [2, 0, 1, 3]):
        rows = [np.array([*context, w])[-order:] for w in range(4)]
        probs = [model.probs(row)[-1] for row in rows]
        assert min(probs) > 0
        assert sum(probs) == pytest.approx(1)


def test_interpolation_is_the_formula():
    model = ngrams.NGrams(TEXT, 4, 2)
    p, bucket = model.relative(np.array([0, 1]), 2)
    assert p[0] == 1  # 0 is always followed by 1
    s1 = model.shares[1][8]  # 2**8 is below 300 tokens
    s2 = model.shares[2][bucket[0]]
    unigram = s1 * (TEXT == 1).mean() + (1 - s1) / 4
    assert model.probs(np.array([0, 1]))[0] == pytest.approx(
        s2 + (1 - s2) * unigram
    )


def test_expectation_maximization_finds_the_best_share():
    rng = np.random.default_rng(0)
    p, q = rng.random((2, 400)) + 0.01
    share = ngrams.best_share(p, q, num_steps=500)

    def log_p(s):
        return np.log(s * p + (1 - s) * q).sum()

    assert log_p(share) > max(log_p(share - 0.03), log_p(share + 0.03))
    assert ngrams.best_share(np.ones(9), np.full(9, 0.1)) < 1
    assert ngrams.best_share(np.zeros(9), np.ones(9)) == 0


def test_a_longer_context_helps_where_it_tells_more():
    tests = [
        -np.log(ngrams.NGrams(TEXT, 4, order).probs(TEXT[:100])).mean()
        for order in (1, 2, 3)
    ]
    assert tests[0] > tests[1] + 0.3 and tests[1] > tests[2] + 0.1


@pytest.mark.parametrize('order, size', [(0, 300), (3, 79)])
def test_too_low_an_order_and_too_short_a_text_are_refused(order, size):
    with pytest.raises(ValueError, match=f'order is {order}, below 1, or'):
        ngrams.NGrams(TEXT[:size], 4, order)


def test_xz_is_charged_for_what_is_new():
    rng = np.random.default_rng(0)
    one, other = (rng.bytes(900).hex() for _ in range(2))
    assert ngrams.xz_bits(one, one) < 0.1 * ngrams.xz_bits(one, other)
    assert 3.5 < ngrams.xz_bits(one, other) / len(other) < 4.5


def test_bits_per_byte_of_a_uniform_guess():
    log_p = np.log(np.full(7, 1 / 256))
    assert ngrams.bits_per_byte(log_p, 8, 'Größe:') == pytest.approx(8)


def test_all_models_predict_the_same_tokens():
    tables = {f'{n}-gram': ngrams.NGrams(TEXT, 4, n) for n in (1, 3)}
    first, log_p = ngrams.side_by_side(np.arange(1, 41), tables, TEXT[:60])
    assert first == 2
    assert [*log_p['GPT']] == list(range(2, 41))  # of tokens 2, ..., 40
    for name, n in (('1-gram', 1), ('3-gram', 3)):
        expected = np.log(tables[name].probs(TEXT[:41]))[3 - n :]
        assert log_p[name] == pytest.approx(expected)


def test_losses_are_sorted_by_what_stood_before():
    tokens = np.array([0, 1, 2, 0, 1, 3, 3, 3])
    counts = ngrams.Counts(np.array([0, 1] * 5 + [1, 2, 0]), 4, 3)
    log_p = {'a': -np.array([1.0, 2, 3, 4, 5])}  # of tokens 3, ..., 7
    rows = ngrams.by_context(log_p, 3, counts, tokens, [0, 1, 5])
    # before them: 1 2 once, 2 0 once, 0 1 five times, 1 3 and 3 3 never
    assert rows == {
        '0': {'of tokens': '40.0%', 'a': 4.5},
        '1 to 4': {'of tokens': '40.0%', 'a': 1.5},
        'from 5': {'of tokens': '20.0%', 'a': 3},
    }
    with pytest.raises(ValueError, match=r'no token after .* from 9'):
        ngrams.by_context(log_p, 3, counts, tokens, [0, 9])
    with pytest.raises(ValueError, match='first is 1: not two tokens'):
        ngrams.by_context(log_p, 1, counts, tokens, [0])
