"""What the models are trained to predict. A label of -100 is ignored."""

import torch
from torch.nn import functional as F

from .training import to_device


def token_loss(logits, labels):
    """Mean cross-entropy in nats over the labels that are not -100.

    `logits` is (..., vocab_size), `labels` (...). Returns the loss and the
    number of labels. Raises ValueError when no label is left.
    """
    num_labels = (labels != -100).sum().item()
    if num_labels == 0:
        raise ValueError(f'no label in a batch of {tuple(labels.shape)}')
    loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
    return loss, num_labels


def lm_loss(model, X):
    """Predict every token from those before it: targets are inputs shifted.

    `X` is (batch, num_steps + 1) ids, in which -100 pads the ends of short
    sequences. Returns the mean loss in nats and the number of targets.
    """
    inputs, labels = X[:, :-1].clamp(min=0), X[:, 1:]
    return token_loss(model(inputs), labels)


@torch.no_grad()
def evaluate(model, batches, loss_fn):
    """Mean of `loss_fn` over all labels of `batches`, without dropout.

    Raises ValueError when there is no batch.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    total = num_labels = 0
    for batch in batches:
        loss, n = loss_fn(model, to_device(batch, device))
        total, num_labels = total + loss.item() * n, num_labels + n
    model.train(was_training)
    if num_labels == 0:
        raise ValueError('no batch to evaluate')
    return total / num_labels
