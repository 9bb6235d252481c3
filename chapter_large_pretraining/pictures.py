"""Transformers on pictures: patches, ViT, Swin, MAE, and what they rival.

A picture is (height, width), pixels from 0 to 1; a batch of them is (batch,
height, width). Patches and pixels are counted row by row.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

import utils
from utils import Block, init_weights, norm, token_loss

# ---- Patches ----


def patches(X, size):
    """Cut pictures into squares: (batch, num_patches, size * size).

    Raises ValueError for pictures that the squares do not fill.
    """
    if X.shape[1] % size or X.shape[2] % size:
        raise ValueError(
            f'pictures of {X.shape[1]} x {X.shape[2]} pixels '
            f'are not filled by patches of {size} x {size}'
        )
    P = X.unfold(1, size, size).unfold(2, size, size)
    return P.flatten(3).flatten(1, 2)


def from_patches(P, height):
    """Put patches, (batch, num_patches, size * size), together again."""
    size = math.isqrt(P.shape[2])
    P = P.unflatten(2, (size, size)).unflatten(1, (height // size, -1))
    return P.transpose(2, 3).flatten(3).flatten(1, 2)


def distort(X, generator=None):
    """Turn, stretch and move each picture a little, at random.

    By at most 0.2 radians, a tenth, and a tenth of the picture.
    """
    angle, size, right, down = (
        torch.rand(4, len(X), generator=generator) * 2 - 1
    )
    angle, size = 0.2 * angle, 1 + 0.1 * size
    cos, sin = size * angle.cos(), size * angle.sin()
    maps = torch.stack((cos, -sin, 0.2 * right, sin, cos, 0.2 * down), 1)
    grid = F.affine_grid(
        maps.view(-1, 2, 3), [len(X), 1, *X.shape[1:]], align_corners=False
    )
    return F.grid_sample(X[:, None], grid, align_corners=False)[:, 0]


def distorted(X, labels, generator=None):
    """A batch whose pictures are distorted, for `corpora.random_rows`."""
    return distort(X, generator), labels


# ---- ViT ----


class ViT(nn.Module):
    """The Vision Transformer (Dosovitskiy et al., 2021, section 3.1).

    Maps pictures (batch, height, width) to scores (batch, vocab_size) of
    what they may show. A class token, first of the `max_len` positions, is
    read by the head; without it the mean of all patches is. `mask` says what
    may attend to what. Raises ValueError for more patches than positions.
    """

    def __init__(self, config, size, class_token=True):
        super().__init__()
        self.config, self.size = config, size
        width = config.num_hiddens
        self.embedding = nn.Linear(size * size, width)
        self.pos_embedding = nn.Embedding(config.max_len, width)
        self.class_token = None
        if class_token:
            self.class_token = nn.Embedding(1, width)
        self.blks = nn.ModuleList(
            Block(config) for _ in range(config.num_blks)
        )
        self.norm = norm(config)
        self.head = nn.Linear(width, config.vocab_size)
        init_weights(self, config)

    def embed(self, X):
        """The input of the blocks: (batch, num_steps, num_hiddens)."""
        H = self.embedding(patches(X, self.size))
        if self.class_token is not None:
            first = self.class_token.weight.expand(len(X), 1, -1)
            H = torch.cat((first, H), 1)
        if H.shape[1] > self.config.max_len:
            raise ValueError(
                f'{H.shape[1]} tokens, more than max_len, '
                f'{self.config.max_len}'
            )
        return H + self.pos_embedding.weight[: H.shape[1]]

    def encode(self, X, mask=None):
        """The output of the blocks: (batch, num_steps, num_hiddens)."""
        H = self.embed(X)
        for blk in self.blks:
            H = blk(H, mask)
        return self.norm(H)

    def forward(self, X, mask=None):
        H = self.encode(X, mask)
        if self.class_token is None:
            return self.head(H.mean(1))
        return self.head(H[:, 0])


def class_loss(model, batch):
    """Cross-entropy of the right class, and the number of pictures."""
    X, labels = batch
    return token_loss(model(X), labels)


@torch.no_grad()
def accuracy(model, X, labels):
    """The share of pictures whose class has the highest score."""
    with utils.evaluation_mode(model):
        guesses = torch.cat([model(part).argmax(-1) for part in X.split(250)])
    return (guesses == labels).float().mean().item()


class CNN(nn.Sequential):
    """A convolutional network in the manner of LeNet, wider.

    From pictures (batch, 28, 28) to scores (batch, num_classes). (LeCun et
    al., 1998, section II)
    """

    def __init__(self, num_classes=10, channels=(16, 32), width=64):
        a, b = channels
        super().__init__(
            nn.Unflatten(1, (1, 28)),
            nn.Conv2d(1, a, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(a, b, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(49 * b, width),
            nn.ReLU(),
            nn.Linear(width, num_classes),
        )


# ---- Swin: windows, shifted windows, merging ----


def window_mask(side, size, shift=0):
    """Let each patch attend to those in its window.

    The mask is (side * side, side * side); windows have `size` patches on a
    side and are moved right and down by `shift`. (Liu et al., 2021, section
    3.2)
    """
    strip = (torch.arange(side) + size - shift) // size
    window = (strip[:, None] * side + strip).flatten()
    return window[:, None] == window


def merge(H, side):
    """Put the features of 2 x 2 neighbors side by side.

    From (batch, side * side, num_hiddens) to (batch, side * side / 4,
    4 * num_hiddens). (Liu et al., 2021, section 3.1)
    """
    H = H.view(len(H), side // 2, 2, side // 2, 2, -1)
    return H.transpose(2, 3).flatten(3).flatten(1, 2)


class PlaneBias(nn.Module):
    """A number per head and offset, right and down, added to the scores.

    (1, num_heads, side * side, side * side). (Liu et al., 2021, section 3.2)
    """

    def __init__(self, side, size, num_heads):
        super().__init__()
        at = torch.arange(side)
        offset = (at[:, None] - at).clamp(1 - size, size - 1) + size - 1
        number = offset[:, None, :, None] * (2 * size - 1) + offset[:, None]
        self.register_buffer('number', number.view(side**2, side**2))
        self.table = nn.Embedding((2 * size - 1) ** 2, num_heads)

    def forward(self):
        return self.table(self.number).permute(2, 0, 1)[None]


class Swin(nn.Module):
    """A Swin Transformer of two stages (Liu et al., 2021, section 3).

    Maps pictures (batch, height, width) to scores (batch, vocab_size). The
    blocks of `configs[0]` see `side` x `side` patches, those of `configs[1]`
    merged ones, both in windows of `window` x `window`; every other block
    moves them by half of that if `shifted`.
    """

    def __init__(self, configs, size, side, window, shifted=True):
        super().__init__()
        self.configs, self.size, self.side = configs, size, side
        first, second = configs
        self.embedding = nn.Linear(size * size, first.num_hiddens)
        self.merging = nn.Linear(4 * first.num_hiddens, second.num_hiddens)
        self.stages, self.biases = nn.ModuleList(), nn.ModuleList()
        for config, n in zip(configs, (side, side // 2), strict=True):
            blks = [Block(config) for _ in range(config.num_blks)]
            self.stages.append(nn.ModuleList(blks))
            wide = min(window, n)
            self.biases.append(
                nn.ModuleList(
                    PlaneBias(n, wide, config.num_heads) for _ in blks
                )
            )
            for i in range(config.num_blks):
                shift = wide // 2 if shifted and i % 2 and wide < n else 0
                self.register_buffer(
                    f'mask_{n}_{i}', window_mask(n, wide, shift)
                )
        self.norm = norm(second)
        self.head = nn.Linear(second.num_hiddens, second.vocab_size)
        for config, part in zip(configs, self.stages, strict=True):
            init_weights(part, config)

    def masks(self, stage):
        """The mask of each block of a stage, 0 or 1."""
        n = self.side // (1 + stage)
        return [
            getattr(self, f'mask_{n}_{i}')
            for i in range(self.configs[stage].num_blks)
        ]

    def encode_stage(self, H, stage):
        """The output of the blocks of one stage."""
        for blk, bias, mask in zip(
            self.stages[stage],
            self.biases[stage],
            self.masks(stage),
            strict=True,
        ):
            H = blk(H, mask, bias())
        return H

    def encode(self, X):
        """The merged patches: (batch, side * side / 4, num_hiddens)."""
        H = self.encode_stage(self.embedding(patches(X, self.size)), 0)
        H = self.merging(merge(H, self.side))
        return self.norm(self.encode_stage(H, 1))

    def forward(self, X):
        return self.head(self.encode(X).mean(1))


# ---- MAE: most patches hidden ----


def choose_patches(batch, num_patches, num_kept, generator=None):
    """Which patches stay: (batch, num_kept) numbers, in order, at random."""
    draws = torch.rand(batch, num_patches, generator=generator)
    return draws.argsort(1)[:, :num_kept].sort(1).values


def hidden_patches(kept, num_patches):
    """True where a patch is hidden: (batch, num_patches)."""
    hidden = torch.ones(
        len(kept), num_patches, dtype=torch.bool, device=kept.device
    )
    return hidden.scatter(1, kept, False)


def take(H, rows):
    """The rows (batch, n) of sequences H (batch, num_steps, width)."""
    return H.gather(1, rows[..., None].expand(-1, -1, H.shape[-1]))


class MAE(nn.Module):
    """The masked autoencoder (He et al., 2022, section 3).

    `encoder` is a `ViT` without class token; its blocks read only the patches
    `kept`, (batch, num_kept). A narrower decoder, of `config`, reads the
    results and a mask token for every hidden patch. Maps pictures to the
    pixels of all patches, (batch, num_patches, size * size).
    """

    def __init__(self, encoder, config):
        super().__init__()
        self.encoder, self.config = encoder, config
        width = config.num_hiddens
        self.narrow = nn.Linear(encoder.config.num_hiddens, width)
        self.mask_token = nn.Embedding(1, width)
        self.pos_embedding = nn.Embedding(config.max_len, width)
        self.blks = nn.ModuleList(
            Block(config) for _ in range(config.num_blks)
        )
        self.norm = norm(config)
        self.head = nn.Linear(width, encoder.size**2)
        for part in (self.narrow, self.mask_token, self.pos_embedding):
            init_weights(part, config)
        init_weights(self.blks, config)

    def encode(self, X, kept):
        """What the encoder makes of kept patches."""
        H = take(self.encoder.embed(X), kept)
        for blk in self.encoder.blks:
            H = blk(H)
        return self.encoder.norm(H)  # (batch, num_kept, num_hiddens)

    def forward(self, X, kept):
        H = self.narrow(self.encode(X, kept))
        num_patches = self.config.max_len
        masks = self.mask_token.weight.expand(len(X), num_patches, -1)
        H = masks.scatter(1, kept[..., None].expand_as(H), H)
        H = H + self.pos_embedding.weight
        for blk in self.blks:
            H = blk(H)
        return self.head(self.norm(H))


def mae_loss(model, batch):
    """Mean squared error of the pixels of hidden patches, and their number."""
    X, kept = batch
    hidden = hidden_patches(kept, model.config.max_len)
    error = model(X, kept) - patches(X, model.encoder.size)
    return error[hidden].square().mean(), int(hidden.sum())


# ---- Work ----


def count_products(model):
    """Products of two numbers that a model needs for one picture.

    Those of linear layers, of convolutions, and of queries with keys and
    weights with values, counted for the pairs that masks let through.
    """
    if isinstance(model, CNN):
        first, second, hidden, last = (
            layer for layer in model if hasattr(layer, 'weight')
        )
        planes = 784 * first.weight.numel() + 196 * second.weight.numel()
        return planes + hidden.weight.numel() + last.weight.numel()
    if isinstance(model, Swin):
        n, total = model.side**2, 0
        for stage, config in enumerate(model.configs):
            masks = model.masks(stage)
            total += len(masks) * blk_products(config, n)
            total += sum(
                2 * int(mask.sum()) * config.num_hiddens for mask in masks
            )
            n //= 4
        total += model.embedding.weight.numel() * model.side**2
        return total + model.merging.weight.numel() * model.side**2 // 4
    n = model.config.max_len
    pairs = 2 * n * n * model.config.num_hiddens
    blks = model.config.num_blks * (blk_products(model.config, n) + pairs)
    return blks + n * model.embedding.weight.numel()


def blk_products(config, num_steps):
    """Products of the linear layers of one block with so many tokens."""
    return (
        num_steps
        * config.num_hiddens
        * (4 * config.num_hiddens + 2 * config.ffn_num_hiddens)
    )
