"""Runs for the exercises of gpt_today, on the model with rotary positions."""

import dataclasses
import functools
from unittest import mock

import torch
from torch import nn

import corpora
import utils

from .. import blocks

SQUEEZED = blocks.LONG // blocks.LENGTH  # so many positions become one
WIDTHS = 4, 8, 16, 32, 64, 128, 256  # of a band


def squeezed(start, num_steps, d, base, device):
    """Stands in for `utils.turns`: an eighth of each angle."""
    positions = torch.arange(start, start + num_steps) / SQUEEZED
    speeds = base ** (-torch.arange(0, d, 2) / d)
    angles = positions[:, None] * speeds
    return torch.polar(torch.ones_like(angles), angles)


class TurnedValues(utils.GroupedAttention):
    """Values are turned as queries and keys are."""

    def project(self, X, start=0):
        Q, K, V = super().project(X, start)
        return Q, K, utils.rotary(V, start, self.config.rotary_base)


class NormedHeads(utils.GroupedAttention):
    """An RMS norm of queries, and one of keys, before they are turned."""

    def __init__(self, config):
        super().__init__(config)
        self.norms = nn.ModuleList(
            nn.RMSNorm(config.head_width, eps=1e-5) for _ in range(2)
        )

    def project(self, X, start=0):
        utils.check_width(X, self.config.num_hiddens)
        heads = self.W_qkv(X).unflatten(-1, (3, self.config.num_heads, -1))
        Q, K, V = heads.permute(2, 0, 3, 1, 4)  # one head of keys for each
        Q, K = (
            utils.rotary(norm(H), start, self.config.rotary_base)
            for norm, H in zip(self.norms, (Q, K), strict=True)
        )
        return Q, K, V


def with_layer(config, layer, seed):
    """A GPT with other attention layers, which begin with its weights."""
    torch.manual_seed(seed)
    model = utils.GPT(config)
    for blk in model.blks:
        new = layer(config)
        new.load_state_dict(blk.attention.layer.state_dict(), strict=False)
        blk.attention.layer = new
    return model


@functools.cache
def trained(seed, layer=utils.GroupedAttention, base=1e4):
    """The model of the notebook after its steps, or a changed one."""
    digest, _, _ = blocks.load()
    run = blocks.Run('rotary', seed, digest, positions='rotary')
    config = dataclasses.replace(run.config, rotary_base=base)
    model = with_layer(config, layer, seed)
    blocks.pretrain(model, run)
    return model


CHANGES = {
    'base 100': {'base': 100.0},
    'values turned': {'layer': TurnedValues},
    'queries and keys normed': {'layer': NormedHeads},
}


def changed(setting, seed):
    """The losses of the study `blocks`."""
    return blocks.valid_losses(trained(seed, **CHANGES[setting]))


def squeeze(setting, seed):
    """The same losses with an eighth of each angle, without training."""
    model = trained(seed)
    with mock.patch('utils.turns', squeezed):
        return blocks.valid_losses(model)


def bands(setting, seed):
    """The late loss of 512 tokens under bands of all WIDTHS."""
    _, _, tokens = blocks.load()
    batches = corpora.blocks(tokens, blocks.LONG).split(16)
    losses = []
    for width in WIDTHS:
        mask = utils.causal_mask(blocks.LONG).triu(1 - width)
        loss_fn = functools.partial(
            blocks.late_loss, context=blocks.LONG, mask=mask
        )
        losses.append(utils.evaluate(trained(seed), batches, loss_fn))
    return {'widths': list(WIDTHS), 'losses': losses}


EXERCISES = {
    5: (bands, ['the model of the notebook'], 3),
    3: (changed, ['base 100'], 3),
    4: (squeeze, ['an eighth of each angle'], 3),
    6: (changed, ['values turned'], 3),
    10: (changed, ['queries and keys normed'], 3),
}
