"""Runs for the exercises of bert_published, on film reviews."""

import copy

import torch

from finetuning import Finetuned, accuracy

from .. import reviews

SIZES = 200, 800  # sentences of the validation and of the test


def upper_blocks(setting, seed):
    """Accuracy in the test if the blocks below the upper three stay."""
    run = reviews.Run('minilm', 128, 1e-4, 56, *SIZES, seed)
    known, asked = (
        reviews.word_pieces(*reviews.draw(*part))
        for part in (('train', run.labels, seed), ('test', run.num_test))
    )
    torch.manual_seed(seed)
    model = Finetuned(copy.deepcopy(reviews.minilm()), 2)
    model.bert.requires_grad_(False)
    model.bert.blks[3:].requires_grad_(True)
    reviews.tune(model, run, known)
    right = accuracy(reviews.outputs(model, asked), asked.labels)
    return {'test': right.item()}


def longer(setting, seed):
    """The accuracies after 35 epochs at the lowest rate of the record."""
    run = reviews.Run('minilm', 128, 2e-5, 280, *SIZES, seed)
    measured = reviews.execute(run, None, None)
    return {'valid': measured.valid_accuracy, 'test': measured.test_accuracy}


EXERCISES = {
    5: (upper_blocks, ['upper three of six'], 3),
    7: (longer, ['2e-5, 35 epochs'], 1),
}
