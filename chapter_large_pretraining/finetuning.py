"""Fine-tuning BERT: a new layer for texts, pairs of texts, tags and answers.

A batch is (X, segments, valid_lens, labels), as BERT takes it.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

import corpora
from utils import padding_mask, token_loss, train


class Finetuned(nn.Module):
    """A pretrained BERT and one new linear layer on top of it.

    Maps what `BERT.encode` takes to `num_outputs` scores per token, (batch,
    num_steps, num_outputs).
    """

    def __init__(self, bert, num_outputs):
        super().__init__()
        self.bert = bert
        self.head = nn.Linear(bert.config.num_hiddens, num_outputs)

    def forward(self, X, segments=None, valid_lens=None):
        return self.head(self.bert.encode(X, segments, valid_lens))


def text_scores(model, X, segments, valid_lens):
    """Scores of texts, or pairs of them: (batch, num_classes).

    The mean, over the tokens that are not padding, of what `model` maps its
    input to, (batch, num_steps, num_classes).
    """
    real = padding_mask(valid_lens, X.shape[1])[:, 0].transpose(1, 2)
    scores = model(X, segments, valid_lens) * real
    return scores.sum(1) / valid_lens[:, None]


def first_scores(model, X, segments, valid_lens):
    """Scores of texts, (batch, num_classes), from the first token alone.

    (Devlin et al., 2019, section 3.2)
    """
    return model(X, segments, valid_lens)[:, 0]


def text_loss(model, batch, scores_fn=text_scores):
    """Classify texts: `batch` is (X, segments, valid_lens, labels).

    The labels are (batch,) classes.
    """
    *inputs, labels = batch
    return token_loss(scores_fn(model, *inputs), labels)


def regression_loss(model, batch):
    """Predict a number for each text or pair: labels are (batch,) floats.

    The loss is the mean squared error of a `model` with one output.
    """
    *inputs, labels = batch
    scores = text_scores(model, *inputs)[:, 0]
    return nn.functional.mse_loss(scores, labels), len(labels)


def tag_scores(model, X, segments, valid_lens):
    """Scores of every token: (batch, num_steps, num_classes)."""
    return model(X, segments, valid_lens)


def tag_loss(model, batch):
    """Classify every token; labels are (batch, num_steps)."""
    *inputs, labels = batch
    return token_loss(tag_scores(model, *inputs), labels)


def span_scores(model, X, segments, valid_lens):
    """Scores of each token as first and as last one of an answer.

    (batch, 2, num_steps) from a `model` with two outputs per token; padding
    gets minus infinity. (Devlin et al., 2019, section 4.2)
    """
    hidden = ~padding_mask(valid_lens, X.shape[1])[:, 0]
    scores = model(X, segments, valid_lens).transpose(1, 2)
    return scores.masked_fill(hidden, -torch.inf)


def span_loss(model, batch):
    """Find an answer: labels are (batch, 2), its first and last position.

    The loss is the mean of both cross-entropies along the text.
    """
    *inputs, labels = batch
    return token_loss(span_scores(model, *inputs), labels)


def erase(data):
    """Examples without their question: each of its words is masked."""
    question = (data.segments == 0) & (data.X >= corpora.NUM_SPECIAL)
    X = data.X.masked_fill(question, corpora.MASK)
    return dataclasses.replace(data, X=X)


class Task(NamedTuple):
    """How to train and how to score a model with `num_outputs` per token.

    `loss_fn(model, batch)` is what `train` takes, `scores_fn(model, X,
    segments, valid_lens)` guesses, and `score_fn(scores, labels)` says, as
    one number, how good the guesses are.
    """

    loss_fn: Callable
    scores_fn: Callable
    score_fn: Callable
    num_outputs: int


def fine_tune(bert, task, data, num_steps, seed=0, lr=2e-3):
    """A copy of `bert` with a new layer, trained on the examples `data`.

    AdamW in batches of 16, the learning rate rising to `lr` over a tenth of
    the steps and falling again to a tenth of it. Returns a `Finetuned`;
    raises ValueError without steps and without examples.
    """
    torch.manual_seed(seed)
    model = Finetuned(copy.deepcopy(bert), task.num_outputs)
    batches = corpora.by_length(data, 16, seed)
    train(
        model,
        batches,
        task.loss_fn,
        num_steps,
        lr=lr,
        optimizer='adamw',
        warmup=num_steps // 10,
        schedule='linear',
    )
    return model


def in_parts(scores_fn, model, inputs):
    """What `scores_fn` makes of `inputs` (n, ...), 250 texts at once.

    Returns its scores, (n, ...). Many at once would take memory.
    """
    parts = zip(*(X.split(250) for X in inputs), strict=True)
    return torch.cat([scores_fn(model, *part) for part in parts])


@torch.no_grad()
def score(task, model, test):
    """How well a model does a task, a float, on `Examples`."""
    *inputs, labels = test
    scores = in_parts(task.scores_fn, model, inputs)
    return task.score_fn(scores, labels).item()


def accuracy(scores, labels):
    """The share of labels, other than -100, that have the highest score.

    `scores` is (..., num_classes), `labels` (...).
    """
    right = scores.argmax(-1) == labels
    return right[labels != -100].float().mean()


def exact_match(scores, labels):
    """The share of answers of which first and last token are right.

    `scores` is (batch, 2, num_steps), `labels` (batch, 2).
    """
    return (scores.argmax(-1) == labels).all(1).float().mean()


def correlation(scores, labels):
    """Pearson's correlation of one score for each text with its label.

    `scores` is (batch, 1), `labels` (batch,); of equal scores it is NaN.
    """
    return torch.corrcoef(torch.stack([scores[:, 0], labels]))[0, 1]
