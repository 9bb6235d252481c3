"""Fine-tuning BERT: a new layer for texts, pairs of texts, tags and answers.

A batch is (X, segments, valid_lens, labels), as BERT takes it.
"""

import torch
from torch import nn

from utils import padding_mask, token_loss


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


def text_loss(model, batch):
    """Classify texts: `batch` is (X, segments, valid_lens, labels).

    The labels are (batch,) classes.
    """
    *inputs, labels = batch
    return token_loss(text_scores(model, *inputs), labels)


def tag_loss(model, batch):
    """Classify every token; labels are (batch, num_steps)."""
    *inputs, labels = batch
    return token_loss(model(*inputs), labels)


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
