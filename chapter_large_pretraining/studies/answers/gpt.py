"""Runs for the exercises of gpt."""

import functools
import random

import ngrams
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

import corpora
import utils

from .. import amounts, norms

WINDOW = amounts.WINDOW
SETTINGS = {'lr': 0.015, 'betas': (0.9, 0.99)}

# ---- Pretraining on the documentation ----


def pretrain(config, num_tokens, passes, seed, **watching):
    """A GPT that reads as the one of the notebook does, and its history."""
    tokens, _ = amounts.beginning(num_tokens, seed)
    num_steps = num_tokens * passes // (amounts.BATCH_SIZE * WINDOW)
    torch.manual_seed(seed)
    model = utils.GPT(config)
    history = utils.train(
        model,
        amounts.passes_over(tokens, passes, seed),
        utils.lm_loss,
        num_steps,
        warmup=20,
        **SETTINGS,
        **watching,
    )
    return model, history


def bits_per_byte(log_p):
    """Of log-probabilities of the tokens of the chapter's validation text."""
    _, valid, (_, text), _ = amounts.load()
    return ngrams.bits_per_byte(np.asarray(log_p), len(valid), text)


# ---- Exercise 4: wider or deeper ----

SHAPES = {'192 wide': (192, 3, 3), '12 blocks': (96, 3, 12)}


def shapes(setting, seed):
    """Bits per byte of the model of the notebook, wider or deeper."""
    config = utils.Config(amounts.VOCAB_SIZE, *SHAPES[setting], max_len=WINDOW)
    model, _ = pretrain(config, 2**20, 1, seed)
    _, valid, _, _ = amounts.load()
    return {'bits_per_byte': bits_per_byte(amounts.log_probs(model, valid))}


# ---- Exercise 5: the text again, and averages ----

PASSES = {'read once': 1, 'read 8 times': 8}
EDGES = [0, 1, 4, 16, 64]  # of how often a pair of tokens was read


def averages(setting, seed):
    """Bits per byte with 131 thousand tokens, and losses by contexts."""
    tokens, _ = amounts.beginning(2**17, seed)
    table = ngrams.NGrams(tokens, amounts.VOCAB_SIZE, 5)
    model, _ = pretrain(
        amounts.small_config(), len(tokens), PASSES[setting], seed
    )
    _, valid, _, _ = amounts.load()
    first, log_p = ngrams.side_by_side(
        amounts.log_probs(model, valid), {'5-gram': table}, valid
    )
    split = ngrams.by_context(log_p, first, table.counts, valid, EDGES)
    log_p['average'] = np.logaddexp(*log_p.values()) - np.log(2)
    return {name: bits_per_byte(values) for name, values in log_p.items()} | {
        f'{name}_by_pairs': [row[name] for row in split.values()]
        for name in ('GPT', '5-gram')
    }


# ---- Exercise 6: a head that looks back ----


def held_out_loss(model):
    _, valid, _, _ = amounts.load()
    rows = corpora.blocks(valid, WINDOW)[:400].split(50)
    return utils.evaluate(model, rows, utils.lm_loss)


@functools.cache
def chapter_model(seed):
    """The model of the notebook, and what its heads did on the way."""
    _, valid, _, _ = amounts.load()
    rows = corpora.blocks(valid, WINDOW)
    halves, seen = (rows[:100], rows[100:200]), []

    @torch.no_grad()
    def watch(model):
        seen.append([])
        for X in halves:
            with utils.record_attention(model) as weights:
                model(X[:, :-1])
            on_previous = torch.stack(weights).diagonal(-1, -2, -1)
            seen[-1].append(on_previous.mean((1, 3)).flatten())
        return held_out_loss(model)

    torch.manual_seed(seed)
    untrained = watch(utils.GPT(amounts.small_config()))
    model, history = pretrain(
        amounts.small_config(),
        2**20,
        1,
        seed,
        eval_every=128,
        eval_fn=watch,
    )
    weights = torch.stack([torch.stack(pair) for pair in seen])
    return model, [untrained, *history.eval_loss], weights


def head_appears(setting, seed):
    """Weights on the previous token after every 128 steps.

    The head is chosen on one half of the windows and seen on the other.
    """
    _, losses, weights = chapter_model(seed)
    head = weights[-1, 0].argmax()
    return {
        'head': head.item(),
        'losses': losses,
        'weight': weights[:, 1, head].tolist(),
        'median': weights[:, 1].median(1).values.tolist(),
    }


# ---- Exercises 8 and 10: the order of words ----


def shuffle_half(lines, seed):
    """Every second line with its words after the first in random order."""
    rng, texts = random.Random(seed), []
    for i, line in enumerate(lines):
        first, *words = line[:-1].split()
        if i % 2 == 0:
            rng.shuffle(words)
        texts.append(' '.join([first, *words]) + '.')
    return texts


@functools.cache
def sentences():
    """Ids, lengths and labels of sentences to train on and to test."""
    corpus = corpora.documentation()
    tokenizer = corpora.documentation_tokenizer(corpus)
    train, test = map(corpora.sentences, (corpus.train, corpus.valid))
    known = set(train)
    test = [line for line in test if line not in known]
    parts = []
    for seed, lines in enumerate((train[:4096], test)):
        ids = [
            torch.tensor([corpora.BOS, *row.ids[: WINDOW - 2], corpora.EOS])
            for row in tokenizer.encode_batch(shuffle_half(lines, seed))
        ]
        lens = torch.tensor([len(row) for row in ids])
        X = nn.utils.rnn.pad_sequence(ids, True, -100)
        parts.append((X, lens, torch.arange(len(lines)) % 2))
    return parts


class Classifier(nn.Module):
    def __init__(self, gpt):
        super().__init__()
        self.gpt = gpt
        self.output = nn.Linear(gpt.config.num_hiddens, 2)

    def forward(self, X, lens):
        H = self.gpt.encode(X.clamp(min=0))
        return self.output(H[torch.arange(len(X)), lens - 1]), H


def task_loss(classifier, batch):
    X, lens, y = batch
    scores, H = classifier(X, lens)
    loss, num_labels = utils.token_loss(scores, y)
    logits = classifier.gpt.head(H[:, :-1])
    own = utils.token_loss(logits, X[:, 1:])[0]
    return loss + 0.5 * own, num_labels


def accuracy(state, num_labels, num_steps, seed):
    known, (X, lens, y) = sentences()
    torch.manual_seed(seed)
    classifier = Classifier(utils.GPT(amounts.small_config()))
    if state is not None:
        classifier.gpt.load_state_dict(state)
    batches = corpora.random_rows(
        *(part[:num_labels] for part in known), batch_size=16, seed=seed
    )
    utils.train(
        classifier,
        batches,
        task_loss,
        num_steps,
        lr=2e-3,
        optimizer='adamw',
        warmup=10,
        schedule='linear',
    )
    with torch.no_grad():
        scores = [
            classifier(*part)[0]
            for part in zip(X.split(100), lens.split(100), strict=True)
        ]
    right = torch.cat(scores).argmax(1) == y
    return right.float().mean().item()


def labels(setting, seed):
    """Accuracy with a number of labels, pretrained and from scratch.

    From scratch there are twice as many steps, as in the notebook.
    """
    number = int(setting.split()[0].replace(',', ''))
    num_steps = max(150, number // 16)
    state = chapter_model(seed)[0].state_dict()
    return {
        'pretrained': accuracy(state, number, num_steps, seed),
        'scratch': accuracy(None, number, 2 * num_steps, seed),
        'no_label': without_labels(seed),
    }


@functools.cache
@torch.no_grad()
def without_labels(seed):
    """Accuracy of the log-probability, with a threshold at its median."""
    model, _, _ = chapter_model(seed)
    X, _, y = sentences()[1]
    wanted = X[:, 1:].masked_fill(X[:, 1:] == corpora.EOS, -100)
    logits = model(X[:, :-1].clamp(min=0))
    loss = F.cross_entropy(logits.mT, wanted, reduction='none')
    scores = -loss.sum(1) / (wanted != -100).sum(1)
    return ((scores > scores.median()) == y).float().mean().item()


@torch.no_grad()
def after_blocks(model, X):
    """The embeddings and what comes out of each block, layer by layer."""
    kept = []
    hooks = [model.dropout.register_forward_hook(lambda *c: kept.append(c[2]))]
    hooks += [
        blk.register_forward_hook(lambda *call: kept.append(call[2]))
        for blk in model.blks
    ]
    model.encode(X.clamp(min=0))
    for hook in hooks:
        hook.remove()
    return kept


def places(setting, seed):
    """Accuracy of a linear layer on frozen outputs, layer by layer."""
    model, _, _ = chapter_model(seed)
    where = {
        'first token': lambda H, real: H[:, 0],
        'last token': lambda H, real: H[
            torch.arange(len(H)), real.sum(1)[:, 0].long() - 1
        ],
        'mean': lambda H, real: (H * real).sum(1) / real.sum(1),
    }[setting]
    parts = []
    for X, _, y in sentences():
        real = (X != -100).float()[..., None]
        layers = after_blocks(model, X)
        parts.append(([where(H, real) for H in layers], y))
    (known, y), (asked, wanted) = parts
    known.append(torch.cat(known, 1))
    asked.append(torch.cat(asked, 1))
    found = []
    for H, H_asked in zip(known, asked, strict=True):
        mean, std = H.mean(0), H.std(0) + 1e-6
        probe = LogisticRegression(C=0.1, max_iter=500)
        probe.fit((H - mean) / std, y)
        found.append(probe.score((H_asked - mean) / std, wanted))
    return {'layers': found[:-1], 'all': found[-1]}


# ---- Exercise 9: Muon at many rates ----

RATES = [0.001, 0.004, 0.016, 0.064]


def with_muon(setting, seed):
    """The loss of eight blocks at each of the RATES, with a warm-up."""
    characters, rows, _ = norms.load()
    losses = []
    for rate in RATES:
        model = norms.new_gpt(setting.removesuffix('-norm'), seed)
        utils.train(
            model,
            corpora.windows(characters, 8, norms.WINDOW, seed),
            utils.lm_loss,
            norms.NUM_STEPS,
            lr=rate,
            warmup=norms.NUM_STEPS // 2,
            schedule='constant',
        )
        losses.append(utils.evaluate(model, [rows], utils.lm_loss))
    return {'rates': RATES, 'losses': losses}


NUMBERS = [2**n for n in range(6, 13)]
EXERCISES = {
    10: (places, ['first token', 'last token', 'mean'], 1),
    4: (shapes, list(SHAPES), 1),
    5: (averages, list(PASSES), 3),
    6: (head_appears, ['the model of the notebook'], 1),
    8: (labels, [f'{number:,} labels' for number in NUMBERS], 1),
    9: (with_muon, ['pre-norm', 'post-norm'], 3),
}
