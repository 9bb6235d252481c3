"""Transformers on pictures: patches, ViT, Swin, MAE, and what they rival.

A picture is (height, width), pixels from 0 to 1; a batch of them is (batch,
height, width). Patches and pixels are counted row by row.
"""

import lzma
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
        self.class_token = nn.Embedding(1, width) if class_token else None
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
def share_right(model, X, labels):
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
    results and a mask token for every hidden patch.
    """

    def __init__(self, encoder, config):
        super().__init__()
        width = config.num_hiddens
        self.narrow = nn.Linear(encoder.config.num_hiddens, width)
        self.mask_token = nn.Embedding(1, width)
        self.pos_embedding = nn.Embedding(config.max_len, width)
        self.blks = nn.ModuleList(
            Block(config) for _ in range(config.num_blks)
        )
        self.norm = norm(config)
        self.head = nn.Linear(width, encoder.size**2)
        init_weights(self, config)
        self.encoder, self.config = encoder, config

    def encode_kept(self, X, kept):
        """What the encoder makes of kept patches."""
        H = take(self.encoder.embed(X), kept)
        for blk in self.encoder.blks:
            H = blk(H)
        return self.encoder.norm(H)  # (batch, num_kept, num_hiddens)

    def paint(self, X, kept):
        """The pixels of all patches: (batch, num_patches, size * size)."""
        H = self.narrow(self.encode_kept(X, kept))
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
    error = model.paint(X, kept) - patches(X, model.encoder.size)
    return error[hidden].square().mean(), int(hidden.sum())


# ---- Who reads what ----


@torch.no_grad()
def patch_reach(encode, X, size):
    """Change one patch at a time and see which outputs move.

    `X` is one picture, (height, width); `encode` maps pictures to (batch,
    num_outputs, width). The result is boolean, (num_outputs, num_patches),
    like a mask: output i depends on patch j. Raises ValueError for outputs
    that are not finite.
    """
    P = patches(X[None], size)
    number = P.shape[1]
    changed = P.repeat(number + 1, 1, 1)  # the last picture stays as it is
    changed[torch.arange(number), torch.arange(number)] += 1
    Y = encode(from_patches(changed, X.shape[0]))
    if not Y.isfinite().all():
        raise ValueError('outputs are not finite')
    return ((Y[:-1] - Y[-1]).abs().amax(-1) > 1e-6).T


# ---- What fills gaps without a Transformer ----


def fill_linear(X, seen, known, ridge=0.01):
    """Hidden pixels as the linear guess from seen ones that errs least.

    `X` and `seen`, boolean, are (n, num_pixels), `known` are whole pictures
    whose mean and covariance are taken, `ridge` is added to its diagonal.
    """
    mean, covariance = known.mean(0), torch.cov(known.T)
    covariance = covariance + ridge * torch.eye(len(mean))
    filled = X.clone()
    masks, which = seen.unique(dim=0, return_inverse=True)
    for i, s in enumerate(masks):
        x = X[which == i]  # the pictures that show the same
        weights = torch.linalg.solve(covariance[s][:, s], (x - mean)[:, s].T)
        filled[which == i] = torch.where(
            s, x, mean + weights.T @ covariance[s]
        )
    return filled.clamp(0, 1)


def fill_nearest(X, seen, known, number=10):
    """Hidden pixels as the mean of the pictures nearest in the seen ones."""
    s = seen.float()
    distance = s @ known.square().T - 2 * (X * s) @ known.T
    nearest = distance.topk(number, largest=False).indices
    return torch.where(seen, X, known[nearest].mean(1))


# ---- What predicts pixels without a Transformer ----


def position_scores(known, num_levels):
    """How probable each level is at each pixel: (num_pixels, num_levels).

    `known` is (n, num_pixels) ids, each counted once more than it comes.
    """
    counts = F.one_hot(known, num_levels).sum(0) + 1.0
    return counts / counts.sum(-1, keepdim=True)


def neighbor_scores(X, known, num_levels, side, prior=5.0):
    """How probable each pixel is, given the one to the left, that above, both.

    `X` and `known` are (n, side * side) ids; the result is like `X`. Counts
    of `known` with more neighbors are mixed with those with fewer, which
    count as `prior` more pictures, down to those of the place alone.
    """

    def around(ids):
        plane = F.pad(ids.view(-1, side, side), (1, 0, 1, 0), value=num_levels)
        left, above = plane[:, 1:, :-1], plane[:, :-1, 1:]
        return left.flatten(1), above.flatten(1)

    place = torch.arange(side * side)
    probs = position_scores(known, num_levels)[place].expand(len(X), -1, -1)
    wide = num_levels + 1
    (left, above), (seen_left, seen_above) = around(X), around(known)
    for context, seen in (
        (left, seen_left),
        (left * wide + above, seen_left * wide + seen_above),
    ):
        counts = torch.zeros(wide**2, num_levels)
        pairs = seen.flatten() * num_levels + known.flatten()
        counts.view(-1).index_add_(0, pairs, torch.ones(pairs.numel()))
        found = counts[context]  # (n, num_pixels, num_levels)
        probs = (found + prior * probs) / (found.sum(-1, keepdim=True) + prior)
    return probs.gather(-1, X[..., None])[..., 0]


class LinearPixels(nn.Module):
    """Scores of each pixel's levels, linear in all pixels before it.

    From ids (batch, num_pixels) to (batch, num_pixels, num_levels).
    """

    def __init__(self, num_pixels, num_levels):
        super().__init__()
        self.num_levels = num_levels
        self.weight = nn.Parameter(
            torch.zeros(num_pixels, num_levels, num_pixels)
        )
        self.bias = nn.Parameter(torch.zeros(num_pixels, num_levels))
        before = torch.ones(num_pixels, num_pixels).tril(-1)
        self.register_buffer('before', before[:, None])

    def forward(self, X):
        inputs = X / (self.num_levels - 1)
        weight = (self.weight * self.before).flatten(0, 1)
        return (inputs @ weight.T).view(*X.shape, -1) + self.bias


def pixel_loss(model, X):
    """Cross-entropy of all pixels, and how many they are."""
    return token_loss(model(X), X)


def xz_bits(X, known):
    """Bits per pixel that xz needs for `X` after `known`."""
    sizes = [
        len(lzma.compress(bytes(ids.flatten().tolist()), preset=9))
        for ids in (known, torch.cat((known, X)))
    ]
    return 8 * (sizes[1] - sizes[0]) / X.numel()


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
