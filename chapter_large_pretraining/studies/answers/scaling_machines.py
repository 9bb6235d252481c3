"""Runs for the exercises of scaling_machines.

Small GPTs learn to add, and write the sum in two orders.
"""

import torch

import utils

PLUS, EQUALS, NUM_DIGITS = 10, 11, 4
PROMPT_LEN = 2 * NUM_DIGITS + 2
PLACES = 10 ** torch.arange(NUM_DIGITS + 1)
EVERY = 25  # batches between two checks


def additions(n, seed, units_first):
    """Sums as rows of ids: digits, plus, digits, equals, and the answer."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randint(10**NUM_DIGITS, (2, n, 1), generator=generator)
    plus, equals = torch.full((n, 1), PLUS), torch.full((n, 1), EQUALS)
    first, second = ((x // PLACES[:-1].flip(0)) % 10 for x in (a, b))
    total = (a + b) // (PLACES if units_first else PLACES.flip(0)) % 10
    return torch.cat([first, plus, second, equals, total], dim=1)


def answer_loss(model, X):
    labels = X[:, 1:].clone()
    labels[:, : PROMPT_LEN - 1] = -100
    return utils.token_loss(model(X[:, :-1]), labels)


@torch.no_grad()
def scores(model, test):
    """Right digits, (num_sums, 5), and log-probabilities of the answers."""
    logits = model(test[:, :-1])[:, PROMPT_LEN - 1 :]
    answers = test[:, PROMPT_LEN:]
    log_probs = logits.log_softmax(-1).gather(2, answers[..., None])
    return logits.argmax(-1) == answers, log_probs.sum((1, 2))


def add(setting, seed):
    """Each score by checks, every 25 batches of 128 sums."""
    order, num_batches = setting.split(', ')
    units_first, num_batches = order == 'units first', int(num_batches)
    torch.manual_seed(seed)
    model = utils.GPT(
        utils.Config(12, 32, 4, 2, max_len=PROMPT_LEN + NUM_DIGITS + 1)
    )
    test = additions(500, 10**6, units_first)
    found = {f'digit {i + 1}': [] for i in range(NUM_DIGITS + 1)}
    found |= {'wholly right': [], 'log-probability': []}

    def note(model):
        right, log_probs = scores(model, test)
        means = *right.float().mean(0), right.all(1).float().mean()
        for values, mean in zip(
            found.values(), (*means, log_probs.mean()), strict=True
        ):
            values.append(round(mean.item(), 4))

    utils.train(
        model,
        (
            additions(128, 10000 * seed + i, units_first)
            for i in range(num_batches)
        ),
        answer_loss,
        num_batches,
        0.02,
        warmup=20,
        eval_every=EVERY,
        eval_fn=note,
    )
    return found


EXERCISES = {
    3: (
        add,
        [
            f'{order}, {num_batches}'
            for num_batches in (100, 400, 800)
            for order in ('units first', 'highest first')
        ],
        3,
    ),
}
