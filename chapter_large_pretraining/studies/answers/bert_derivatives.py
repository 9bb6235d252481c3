"""Runs for the exercises of the notebook on derivatives, at its size."""

import functools

import torch
from torch.nn import functional as F

import corpora
import derivatives as ways
import utils

from .. import derivatives as study
from .. import runner

NUM_STEPS = study.NUM_STEPS


def trained(batches, loss_fn, seed, num_steps=NUM_STEPS, model=None, sizes=()):
    """A BERT of the notebook, or another model, after some steps."""
    torch.manual_seed(seed)
    if model is None:
        model = utils.BERT(study.config_of(study.Change(sizes=sizes)))
    runner.train(model, batches, loss_fn, num_steps, **study.RECIPE)
    return model.eval()


def masked(seed):
    return (batch[:4] for batch in study.batches_of('masked', seed))


def scores(model, change=study.CHANGES['none']):
    """Parameters, and what a model that guesses words gets right."""
    number = sum(p.numel() for p in model.parameters())
    return {'parameters': number, **study.guesses(change, model)}


# ---- Exercise 3: a narrow embedding ----


def narrower(setting, seed):
    """An embedding of so many numbers."""
    sizes = (('embedding_size', int(setting)),)
    return scores(trained(masked(seed), utils.mlm_loss, seed, sizes=sizes))


# ---- Exercise 5: lengths of spans ----


def spans(setting, seed):
    """Spans whose lengths are drawn with another p."""
    world, halves = study.load()
    data, vocab_size = corpora.join(*halves), len(world.words)

    def batches():
        generator = torch.Generator().manual_seed(seed)
        draw = functools.partial(ways.draw_lengths, p=float(setting))
        for X, segments, lens in corpora.by_length(data, 32, seed):
            span = number_spans(draw, lens, X.shape[1], generator)
            inputs, labels = ways.hide_spans(X, span, vocab_size, generator)
            yield inputs, segments, lens, labels

    return scores(trained(batches(), utils.mlm_loss, seed))


def number_spans(draw, lens, num_steps, generator):
    """`derivatives.number_spans` with another draw of lengths."""
    usual = ways.draw_lengths
    ways.draw_lengths = draw
    try:
        return ways.number_spans(lens, num_steps, study.RATE, generator)
    finally:
        ways.draw_lengths = usual


# ---- Exercise 6: a generator that only knows frequencies ----


@functools.cache
def frequencies():
    """Of the words of the training documents (vocab_size,)."""
    world, halves = study.load()
    words = torch.cat([half[half >= corpora.NUM_SPECIAL] for half in halves])
    return words.bincount(minlength=len(world.words)).float()


class Judge(torch.nn.Module):
    """A discriminator without a generator."""

    def __init__(self):
        super().__init__()
        self.bert = utils.BERT(study.config_of(study.Change()))
        self.replaced = torch.nn.Linear(64, 1)


def judge_loss(model, batch):
    """Whether each word was replaced by a draw from the frequencies."""
    X, segments, lens, labels = batch
    chosen = labels != -100
    drawn = torch.multinomial(frequencies(), int(chosen.sum()), True)
    replaced = torch.zeros(X.shape)
    replaced[chosen] = (drawn != labels[chosen]).float()
    X = X.masked_scatter(chosen, drawn)
    asked = X >= corpora.NUM_SPECIAL
    H = model.bert.encode(X, segments, lens)[asked]
    found = model.replaced(H)[:, 0]
    wrong = F.binary_cross_entropy_with_logits(found, replaced[asked])
    return wrong, len(found)


def drawn_words(setting, seed):
    """What the representations of a discriminator hold."""
    torch.manual_seed(seed)
    model = Judge()
    plain = study.operations(utils.BERT(model.bert.config), study.RATE)
    steps = round(NUM_STEPS * plain / study.operations(model.bert, 0))
    trained(masked(seed), judge_loss, seed, steps, model)
    return {'steps': steps, **study.frozen(model.bert.encode, seed)}


# ---- Exercise 7: half of an order ----


def orders(setting, seed):
    """XLNet that predicts another share of the words, at equal compute."""
    share = {'a sixth': 1 / 6, 'half': 1 / 2}[setting]
    data = corpora.join(*study.load()[1])
    torch.manual_seed(seed)
    model = utils.BERT(study.config_of(study.Change()))
    plain = study.operations(model, study.RATE)
    steps = NUM_STEPS * plain / study.operations(model, share, 1 + share)
    generator = torch.Generator().manual_seed(seed)
    batches = (
        (X, segments, lens, ways.draw_order(X, share, generator))
        for X, segments, lens in corpora.by_length(data, 32, seed)
    )
    trained(batches, ways.xlnet_loss, seed, round(steps), model)
    found = scores(model, study.CHANGES['permuted'])
    return {'steps': round(steps), **found}


EXERCISES = {
    3: (narrower, ['32', '24'], 1),
    5: (spans, ['0.5'], 1),
    6: (drawn_words, ['frequencies'], 1),
    7: (orders, ['half'], 1),
}
