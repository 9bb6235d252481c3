"""Answers to the exercises of vision.ipynb that take longer.

Vision Transformers learn from few digits, masked autoencoders with other
shares hidden, and GPTs read pixels in other orders.
"""

import functools
import math

import torch
from torch import nn
from torch.nn import functional as F

import corpora
import pictures
import utils

from .. import digits, hidden_patches, pixels, runner

KINDS = {'turned': (1, 0), 'moved': (0, 1)}  # 1: as much as `distort` does
HIDDEN = {'half': 18, 'three quarters': 9, 'nine tenths': 4}  # patches kept
PAINT_STEPS, PAINT_RATE = 1000, 0.01


# ---- Few pictures ----


def transform(X, generator, turned, moved):
    """Turn each picture a little or move it, at random."""
    angle, right, down = torch.rand(3, len(X), generator=generator) * 2 - 1
    angle, cells = 0.2 * turned * angle, 0.2 * moved
    cos, sin = angle.cos(), angle.sin()
    maps = torch.stack((cos, -sin, cells * right, sin, cos, cells * down), 1)
    grid = F.affine_grid(
        maps.view(-1, 2, 3), [len(X), 1, *X.shape[1:]], align_corners=False
    )
    return F.grid_sample(X[:, None], grid, align_corners=False)[:, 0]


def learn(model, run, num_steps, batch_fn=None):
    """The accuracy of a ViT that was trained as the digits study does it."""
    X, y, Z, z = digits.data_of(run)
    runner.train(
        model,
        corpora.random_rows(
            X, y, batch_size=32, seed=run.seed, batch_fn=batch_fn
        ),
        pictures.class_loss,
        num_steps,
        run.lr,
        warmup=20,
    )
    return pictures.share_right(model, Z, z)


def all_digits(seed):
    """The ViT of the digits study that has learned from all pictures."""
    run = digits.Run('ViT', seed)
    model = digits.build(run)
    learn(model, run, run.num_steps)
    return model


def few_pictures(setting, seed, num_steps=digits.NUM_STEPS):
    """With 100 pictures that are turned or moved whenever they come up."""
    run = digits.Run('ViT', seed, num_pictures=100)

    def batch_fn(X, y, generator):
        return transform(X, generator, *KINDS[setting]), y

    return {'right': learn(digits.build(run), run, num_steps, batch_fn)}


# ---- Convolutional beginnings ----


class Beginning(nn.Sequential):
    """From pictures (batch, 28, 28) to features (batch, 49, width)."""

    def __init__(self, width):
        super().__init__(
            nn.Unflatten(1, (1, 28)),
            nn.Conv2d(1, width // 2, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
            nn.Flatten(2),
        )

    def forward(self, X):
        return super().forward(X).transpose(1, 2)


class ConvolutionalViT(pictures.ViT):
    """A ViT whose tokens are places of two convolutions."""

    def __init__(self, config):
        super().__init__(config, 4)
        self.embedding = Beginning(config.num_hiddens)

    def embed(self, X):
        H = self.embedding(X)
        first = self.class_token.weight.expand(len(X), 1, -1)
        return torch.cat((first, H), 1) + self.pos_embedding.weight


def begun(setting, seed):
    """A ViT with 7 x 7 tokens, of convolutions or of patches of 4 x 4."""
    torch.manual_seed(seed)
    config = utils.Config(
        10, num_hiddens=64, num_heads=4, num_blks=3, max_len=50
    )
    if setting == 'convolutions':
        return ConvolutionalViT(config)
    return pictures.ViT(config, 4)


def beginnings(setting, seed, num_steps=digits.NUM_STEPS):
    """With 400 pictures."""
    run = digits.Run('ViT', seed, num_pictures=400)
    return {'right': learn(begun(setting, seed), run, num_steps)}


# ---- Other patches hidden ----


def hide(num_kept):
    """As `hidden_patches.hide_most`, with so many patches kept."""

    def batch_fn(X, generator):
        kept = pictures.choose_patches(len(X), 36, num_kept, generator)
        return pictures.distort(X, generator), kept

    return batch_fn


def painter(num_kept, seed, num_steps=PAINT_STEPS):
    """A masked autoencoder that was trained with so many patches."""
    model = hidden_patches.build(seed)
    runner.train(
        model,
        corpora.random_rows(
            hidden_patches.middles()['fewer'][0],
            batch_size=64,
            seed=seed,
            batch_fn=hide(num_kept),
        ),
        pictures.mae_loss,
        num_steps,
        PAINT_RATE,
        warmup=50,
    )
    return model


@functools.cache
def asked():
    """Which patches of the test pictures are kept, by name."""
    X = hidden_patches.middles()['test'][0]
    kept = {'upper half': torch.arange(18).expand(len(X), -1)}
    for name, number in HIDDEN.items():
        generator = torch.Generator().manual_seed(0)
        kept[name] = pictures.choose_patches(len(X), 36, number, generator)
    return X, kept


def painted(setting, seed):
    """The error where as much is hidden, and of the lower half."""
    model = painter(HIDDEN[setting], seed)
    X, kept = asked()
    error, blocks = (
        utils.evaluate(model, [(X, kept[name])], pictures.mae_loss)
        for name in (setting, 'upper half')
    )
    at_half = utils.evaluate(model, [(X, kept['half'])], pictures.mae_loss)
    return {'error': error, 'half': at_half, 'lower_half': blocks}


# ---- Pixels in other orders ----


def spiral(side):
    """The places of a plane from the outside in, along a spiral."""
    plane, found = torch.arange(side * side).view(side, side), []
    while plane.numel():
        found.append(plane[0])
        plane = plane[1:].T.flip(0)  # what is left, turned to the left
    return torch.cat(found)


def orders():
    """The places of the 64 pixels in the order in which they are read."""
    rows = torch.arange(64)
    return {
        'rows': rows,
        'columns': rows.view(8, 8).T.flatten(),
        'spiral': spiral(8),
    }


def in_order(setting, seed, num_steps=pixels.NUM_STEPS):
    """Bits per pixel of test pictures that are read in another order."""
    order = F.pad(1 + orders()[setting], (1, 0))
    X, Z = (ids[:, order] for ids, _ in pixels.load().values())
    run = pixels.Run('row by row', seed)
    torch.manual_seed(seed)
    model = utils.GPT(run.config)
    runner.train(
        model,
        corpora.random_rows(X, batch_size=pixels.BATCH_SIZE, seed=seed),
        utils.lm_loss,
        num_steps,
        run.lr,
        betas=(0.9, 0.99),
        warmup=20,
    )
    nats = utils.evaluate(model, Z.split(128), utils.lm_loss)
    return {'bits': nats / math.log(2)}


EXERCISES = {
    3: (few_pictures, ['turned'], 3),
    4: (beginnings, ['convolutions', 'patches of 4'], 1),
    7: (painted, ['half', 'nine tenths'], 1),
    9: (in_order, ['columns', 'spiral'], 1),
}
