"""Sums of digits modulo ten, with and without the steps written out.

A prompt has the digits at random ones of seven places, so that where the
next one stands has to be found. What follows may be a chain of running sums.
In place of adding, digits may move: each shuffles ten states in its own way.
"""

import functools

import torch
from torch.nn import functional as F

from .batches import BOS

SUM_TOKENS = ['<pad>', '<bos>', *'0123456789', '_', '=', '.', ';']
DIGIT, BLANK, EQUALS, DOT, COLON = 2, 12, 13, 14, 15  # DIGIT: the id of 0
PLACES = 7
SUM_FORMS = 'chain', 'direct', 'dots', 'labels'


def rule_of(shuffled):
    """What each digit makes of a state: (10 digits, 10 states).

    It adds itself modulo ten, or, if `shuffled`, has a permutation of its
    own, drawn once.
    """
    states = torch.arange(10)
    if not shuffled:
        return (states[:, None] + states) % 10
    generator = torch.Generator().manual_seed(7)
    rows = [torch.randperm(10, generator=generator) for _ in states]
    return torch.stack(rows)


def states_of(digits, shuffled=False):
    """The state after each digit, (n, num_digits), from 0 on."""
    rule, states = rule_of(shuffled), [torch.zeros_like(digits[:, 0])]
    for column in digits.T:
        states.append(rule[column, states[-1]])
    return torch.stack(states[1:], 1)


def show_sums(X):
    """The text of ids (num_tokens,), without `<pad>` and `<bos>`."""
    return ' '.join(SUM_TOKENS[i] for i in X.tolist() if i > BOS)


def sum_problems(number, num_digits, generator=None, distinct=False):
    """Digits in the order of their places, and the prompts that show them.

    Returns (number, num_digits) digits and (number, 9) ids, from `<bos>` to
    `=`. With `distinct` no digit comes twice. Raises ValueError for more
    digits than fit.
    """
    limit = PLACES
    if not 1 <= num_digits <= limit:
        raise ValueError(f'num_digits is {num_digits}, not in 1..{limit}')
    luck = torch.rand(number, 10, generator=generator)
    digits = luck.argsort(1)[:, :num_digits]
    if not distinct:
        shape = number, num_digits
        digits = torch.randint(10, shape, generator=generator)
    luck = torch.rand(number, PLACES, generator=generator)
    places = luck.argsort(1)[:, :num_digits].sort(1)[0]
    X = torch.full((number, PLACES), BLANK).scatter(1, places, digits + DIGIT)
    return digits, F.pad(F.pad(X, (1, 0), value=BOS), (0, 1), value=EQUALS)


def is_held_out(prompts):
    """Which prompts (n, 9) are for testing only: about one in eight."""
    weights = torch.arange(1, prompts.shape[1] + 1) ** 2
    return (prompts * weights).sum(1) % 8 == 0


@functools.cache
def kept_strings(num_digits):
    """Which strings of digits, (10 ** num_digits,), may be kept for tests.

    About one in sixteen, drawn once. A string is read as a number.
    """
    generator = torch.Generator().manual_seed(num_digits)
    return torch.rand(10**num_digits, generator=generator) < 1 / 16


def begins_kept(digits):
    """Which strings (n, num_digits) are kept, or begin with one that is.

    Kept strings have two digits at least.
    """
    found = torch.zeros(len(digits), dtype=torch.bool)
    number = torch.zeros(len(digits), dtype=torch.long)
    for k, column in enumerate(digits.T, 1):
        number = 10 * number + column
        if k > 1:
            found |= kept_strings(k)[number]
    return found


def sum_texts(digits, prompts, form, shuffled=False):
    """Inputs and labels of problems, both (n, num_tokens).

    Each text ends with `;` and the sum of its digits, or the last of their
    states if they are `shuffled`. Before them a 'chain' has the running sums
    and 'dots' as many dots; 'labels' has the inputs of 'dots' and the labels
    of the 'chain', so that the sums are asked for and never read. Labels are
    -100 in the prompt and for dots. Raises ValueError for another form.
    """
    if form not in SUM_FORMS:
        raise ValueError(f'form is {form!r}, not one of {SUM_FORMS}')
    sums = states_of(digits, shuffled) + DIGIT
    colon = torch.full_like(sums[:, :1], COLON)
    end, dots = (colon, sums[:, -1:]), torch.full_like(sums, DOT)
    chain = torch.cat((sums, *end), 1)
    if form == 'direct':
        inputs = labels = torch.cat(end, 1)
    elif form == 'chain':
        inputs = labels = chain
    else:
        inputs = torch.cat((dots, *end), 1)
        labels = chain
        if form == 'dots':
            labels = inputs.masked_fill(inputs == DOT, -100)
    return (
        torch.cat((prompts, inputs), 1),
        torch.cat((torch.full_like(prompts, -100), labels), 1),
    )


def sum_batches(
    batch_size,
    form,
    seed=0,
    lengths=(2, 3, 4, 5, 6),
    shuffled=False,
    without_kept=False,
):
    """Endless batches of `sum_texts` to train on, padded to equal lengths.

    Of each number of digits in `lengths`, which may be a function of the
    batch's number, there are as many problems. `without_kept` leaves out
    the strings that `begins_kept` names, wherever their digits stand.
    """
    generator, step = torch.Generator().manual_seed(seed), 0
    while True:
        several = lengths(step) if callable(lengths) else lengths
        rows = []
        for k in several:
            number = -(-batch_size // len(several))
            drawn = (4 if without_kept else 2) * number
            digits, prompts = sum_problems(drawn, k, generator)
            shown = ~is_held_out(prompts)
            if without_kept:
                shown &= ~begins_kept(digits)
            kept = shown.nonzero()[:number, 0]
            parts = digits[kept], prompts[kept]
            rows.append(sum_texts(*parts, form, shuffled))
        width = max(inputs.shape[1] for inputs, _ in rows)
        yield tuple(
            torch.cat(
                [F.pad(X, (0, width - X.shape[1]), value=pad) for X in part]
            )
            for part, pad in zip(
                zip(*rows, strict=True), (0, -100), strict=True
            )
        )
        step += 1


# ---- Sums in an order of one's own ----


def hidden_facts(seed=0, number=40):
    """Which of the facts (sum so far, digit) are never shown: (10, 10)."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.zeros(100, dtype=torch.bool)
    hidden[torch.randperm(100, generator=generator)[:number]] = True
    return hidden.view(10, 10)


def uses(digits, facts):
    """Which rows of digits, added in their order, use one of the facts."""
    sums = digits.cumsum(1) % 10
    return facts[sums[:, :-1], digits[:, 1:]].any(1)


def path_texts(digits, prompts):
    """Texts that write each digit with the sum so far, (n, num_tokens)."""
    sums = digits.cumsum(1) % 10
    pairs = torch.stack((digits, sums), 2).flatten(1) + DIGIT
    colon = torch.full_like(pairs[:, :1], COLON)
    return torch.cat((prompts, pairs, colon, pairs[:, -1:]), 1)


def path_batches(batch_size, hidden, fixed, seed=0, num_digits=5):
    """Endless batches of `path_texts` that use no `hidden` fact, with labels.

    The digits are added in the order of their places if `fixed`, and else in
    one of their orders.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        digits, prompts = sum_problems(
            12 * batch_size, num_digits, generator, distinct=True
        )
        if not fixed:
            luck = torch.rand(digits.shape, generator=generator)
            digits = digits.gather(1, luck.argsort(1))
        kept = ~uses(digits, hidden) & ~is_held_out(prompts)
        kept = kept.nonzero()[:batch_size, 0]
        X = path_texts(digits[kept], prompts[kept])
        labels = X.clone()
        labels[:, : prompts.shape[1]] = -100
        yield X, labels
