"""The DALL-E study: captions become pictures, by size and by way.

Trains a GPT of three sizes on captions and pictures in one stream. Beside
the middle one stands DALL-E 2's way: a prior that makes a code of CLIP's
picture vector from a caption, and a decoder that makes a picture of the code.
Scored are pictures of combinations that were never shown.
"""

import dataclasses
import functools
import math
import time

import torch
from torch import nn

import corpora
import multimodal
import utils
from multimodal import FIRST_TILE, NUM_CODES, PICTURE_LEN

from . import runner

NUM_STEPS = 600
FEW_STEPS = 10  # of a run that is there to be repeated by a test
CLIP_STEPS, PRIOR_STEPS = 500, 300
RATE = 0.01
PER_CAPTION = 16  # pictures painted for each of ten missing combinations
NUM_CANDIDATES = 8
MODELS = {
    'small': {'num_hiddens': 16},
    'middle': {'num_hiddens': 40},
    'large': {'num_hiddens': 80},
    'prior and decoder': {'way': 'codes', 'num_hiddens': 40},
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training; ValueError for a value that is none of a setting.

    `way` is 'stream' for captions and pictures in one stream, and 'codes'
    for a prior and a decoder.
    """

    model: str
    seed: int
    num_steps: int = NUM_STEPS
    way: str = 'stream'
    num_hiddens: int = 40
    lr: float = RATE

    def __post_init__(self):
        runner.check_values(self, way=('stream', 'codes'))
        runner.check_least(self, seed=0, num_steps=1, num_hiddens=4)
        if not 0 < self.lr < math.inf:
            raise ValueError(f'lr is {self.lr}, not above 0')

    @property
    def cost(self):
        """Steps of training, times the width."""
        return self.num_steps * self.num_hiddens

    @property
    def config(self):
        return small_gpt(self.num_hiddens)


def small_gpt(num_hiddens):
    """A GPT of two blocks for rows of words, levels and tiles."""
    return utils.Config(
        multimodal.STREAM_SIZE,
        num_hiddens=num_hiddens,
        num_heads=4,
        num_blks=2,
        max_len=NUM_CODES + PICTURE_LEN,
        init_std=0.05,
    )


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out of a run; ValueError for a number below 0.

    `in_blocks` are parameters, `loss` that of real pictures of the test, in
    nats per tile, given their captions or codes; all others are shares of
    painted pictures that are what the caption says: all three words on
    combinations that were shown, and on those that were not; then size, ink
    and digit of the latter one by one. `ranked` is `unseen` for the best of
    eight by CLIP, 'by_text' for a decoder without the prior. What a way does
    not have is 0.
    """

    in_blocks: int
    loss: float
    seen: float
    unseen: float
    size: float
    ink: float
    digit: float
    ranked: float
    by_text: float
    seconds: float

    def __post_init__(self):
        runner.check_least(self, **dict.fromkeys(vars(self), 0))


# ---- Pictures and CLIP ----


@functools.cache
def load():
    """The pictures of training and test, and the judge."""
    digits = corpora.mnist()
    parts = (multimodal.Captioned(*digits[part]) for part in ('train', 'test'))
    return *parts, multimodal.Judge(*digits['train'])


def small_clip():
    """Two towers for captions of three words and pictures of 49 tiles."""
    sizes = {'num_hiddens': 48, 'num_heads': 4, 'max_len': PICTURE_LEN}
    config = utils.Config(1, num_blks=2, init_std=0.05, **sizes)
    return multimodal.CLIP(
        multimodal.Tower(config, nn.Embedding(multimodal.NUM_TILES, 48), 32),
        multimodal.Tower(config, nn.Embedding(FIRST_TILE, 48), 32),
    )


def caption_pairs(captioned, seed):
    """Endless batches: a picture for each of the thirty captions shown."""
    generator = torch.Generator().manual_seed(seed)
    digits = torch.arange(10).repeat_interleave(3)
    ways = torch.arange(3).repeat(10)
    small, inverted = multimodal.unseen(digits)
    way = (2 * small.long() + inverted.long() + 1 + ways) % 4
    each = [(captioned.labels == i).nonzero()[:, 0] for i in range(10)]

    def make():
        while True:
            at = torch.stack(
                [
                    rows[torch.randint(len(rows), (3,), generator=generator)]
                    for rows in each
                ]
            ).flatten()
            X = captioned.rows(at, way >= 2, way % 2 == 1)
            yield (X[:, 3:] - FIRST_TILE,), (X[:, :3],)

    return make()


@functools.cache
def trained_clip(seed, num_steps=CLIP_STEPS):
    """CLIP of a seed, trained on the captions that are shown."""
    torch.manual_seed(seed)
    model = small_clip()
    utils.train(
        model,
        caption_pairs(load()[0], seed),
        multimodal.contrastive_loss,
        num_steps,
        lr=0.005,
        betas=(0.9, 0.99),
        warmup=20,
    )
    return model


# ---- Scores ----


def asked(missing, per_caption):
    """Captions of each digit: (10 * per_caption, 3) ids.

    The combination that is never shown if `missing`, else the first of the
    others.
    """
    digits = torch.arange(10).repeat_interleave(per_caption)
    small, inverted = multimodal.unseen(digits)
    if not missing:
        small = ~small
    return multimodal.captions(digits, small, inverted)


def shares(judge, pictures, words):
    """Shares of size, ink, digit, and all of them, that are as asked."""
    right = judge(pictures) == words
    each = right.float().mean(0).tolist()
    return *each, right.all(1).float().mean().item()


@torch.no_grad()
def best_by_clip(clip, pictures, words):
    """Of every `NUM_CANDIDATES` pictures the one that fits its words best."""
    tiles = multimodal.to_tiles(pictures)
    fit = (clip.pictures(tiles) * clip.texts(words)).sum(1)
    best = fit.view(-1, NUM_CANDIDATES).argmax(1)
    return best + NUM_CANDIDATES * torch.arange(len(best))


def train_gpt(config, batches, loss_fn, num_steps, lr, seed, **more):
    """A new GPT, trained."""
    torch.manual_seed(seed)
    model = utils.GPT(config)
    settings = {'betas': (0.9, 0.99), 'warmup': 20, **more}
    runner.train(model, batches, loss_fn, num_steps, lr, **settings)
    return model


def execute(run, options, checkpoint):
    """Train, paint and judge, on the CPU."""
    start, (train, test, judge) = time.process_time(), load()
    make = by_stream if run.way == 'stream' else by_codes
    found = make(run, options, checkpoint, train, test, judge)
    return Measured(**found, seconds=time.process_time() - start)


def by_stream(run, options, checkpoint, train, test, judge):
    """One stream, and its pictures ranked by CLIP."""
    model = train_gpt(
        run.config,
        train.batches(64, run.seed),
        utils.lm_loss,
        run.num_steps,
        run.lr,
        run.seed,
        checkpoint=checkpoint,
        shard=options.shard,
    )
    clip = trained_clip(run.seed, min(CLIP_STEPS, run.num_steps))
    words = asked(True, PER_CAPTION * NUM_CANDIDATES)
    pictures = multimodal.paint(model, words, run.seed)
    best = best_by_clip(clip, pictures, words)
    rows = test.seen(torch.arange(400), torch.Generator().manual_seed(0))
    seen = asked(False, PER_CAPTION)
    size, ink, digit, unseen = shares(judge, pictures, words)
    return {
        'in_blocks': sum(p.numel() for p in model.blks.parameters()),
        'loss': utils.evaluate(model, [rows], multimodal.tile_loss),
        'seen': shares(judge, multimodal.paint(model, seen), seen)[-1],
        'unseen': unseen,
        'size': size,
        'ink': ink,
        'digit': digit,
        'ranked': shares(judge, pictures[best], words[best])[-1],
        'by_text': 0.0,
    }


@torch.no_grad()
def picture_vectors(clip, rows):
    """CLIP's vectors of the pictures at the end of rows, (n, 32)."""
    parts = (rows[:, -PICTURE_LEN:] - FIRST_TILE).split(100)
    return torch.cat([clip.pictures(tiles) for tiles in parts])


def code_batches(clip, codes, captioned, seed):
    """Endless rows of caption, code and picture: (64, 3 + 8 + 49)."""
    for X in captioned.batches(64, seed):
        code = codes(picture_vectors(clip, X))
        yield torch.cat((X[:, :3], code, X[:, 3:]), 1)


def fit_codes(clip, captioned):
    """Codes of CLIP's vectors of training pictures."""
    at = torch.arange(len(captioned.labels))
    X = captioned.seen(at, torch.Generator().manual_seed(0))
    return multimodal.Codes(picture_vectors(clip, X))


def by_codes(run, options, checkpoint, train, test, judge):
    """A prior from captions to codes, a decoder from codes to pictures."""
    clip = trained_clip(run.seed, min(CLIP_STEPS, run.num_steps))
    codes = fit_codes(clip, train)
    rows = code_batches(clip, codes, train, run.seed)
    prior = train_gpt(
        run.config,
        (X[:, : 3 + NUM_CODES] for X in rows),
        utils.lm_loss,
        min(PRIOR_STEPS, run.num_steps),
        run.lr,
        run.seed,
    )
    decoder = train_gpt(
        run.config,
        (X[:, 3:] for X in rows),
        multimodal.tile_loss,
        run.num_steps,
        run.lr,
        run.seed,
        checkpoint=checkpoint,
        shard=options.shard,
    )
    X = next(code_batches(clip, codes, test, 0))
    return {
        'in_blocks': sum(p.numel() for p in decoder.blks.parameters()),
        'loss': utils.evaluate(decoder, [X[:, 3:]], multimodal.tile_loss),
        **paint_codes(run, clip, codes, prior, decoder, judge),
    }


def paint_codes(run, clip, codes, prior, decoder, judge):
    """Shares of pictures painted by prior and decoder, and without prior."""
    found = {}
    for name, missing in (('seen', False), ('unseen', True)):
        words = asked(missing, PER_CAPTION)
        code = multimodal.imagine(prior, words, run.seed)
        pictures = multimodal.paint(decoder, code, run.seed)
        *each, found[name] = shares(judge, pictures, words)
    with torch.no_grad():
        text = codes(clip.texts(words))
    pictures = multimodal.paint(decoder, text, run.seed)
    found['by_text'] = shares(judge, pictures, words)[-1]
    found |= dict(zip(('size', 'ink', 'digit'), each, strict=True))
    return found | {'ranked': 0.0}


# ---- The plan ----


def add_options(add):
    names = ','.join(MODELS)
    add('--models', type=runner.listed(runner.one_of(MODELS)), default=names)
    add('--steps', type=runner.whole, default=NUM_STEPS)
    add('--seeds', type=runner.whole, default=3)


def plan(rows, options):
    """A short run first, then every model with every seed."""
    return [
        Run('small', 0, FEW_STEPS, **MODELS['small']),
        *(
            Run(name, seed, options.steps, **MODELS[name])
            for seed in range(options.seeds)
            for name in options.models
        ),
    ]


STUDY = runner.study_of(
    __name__,
    describe=lambda run: f'{run.model}, {run.num_steps} steps, {run.seed}',
    unit='steps x width',
)
read_runs = STUDY.read_runs
