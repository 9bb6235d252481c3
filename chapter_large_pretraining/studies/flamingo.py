"""The Flamingo study: pictures for a language model that is not changed.

A small GPT learns sums and lists in words. Then layers that look at pictures
are put before its blocks and trained on sums whose first number is a
picture; and again with one thing changed. Scored are sums with numbers that
were never added to a picture, lists with pictures, and the texts of before.
"""

import dataclasses
import functools
import math
import time

import torch
from torch import nn

import multimodal
import utils
from multimodal import FIRST_TILE, Sums, begun

from . import dalle, runner

NUM_STEPS = 400
FEW_STEPS = 10  # of a run that is there to be repeated by a test
LM_STEPS = 500
RATE = 0.005
NUM_ADDED = 5  # numbers below it are added to pictures in training
CHANGES = {
    'Flamingo': {},
    'only the place looks': {'looks': 'at'},
    'before the first block': {'looks': 'at', 'layers': 'first'},
    'gates open': {'gates': 'open'},
    'all trained': {'lm': 'trained'},
    'all trained and texts': {'lm': 'trained', 'texts': 1},
    'new language model': {'lm': 'new'},
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training; ValueError for a value that is none of a setting.

    The language model `lm` is 'frozen' or 'trained' on, or 'new' and trained
    from the start. With `texts` 1, half of each batch are texts. Gates are
    'closed' at first, or always 'open'. `looks` says which tokens attend to
    a picture: those from its place on, 'after', or this one, 'at'. New layers
    stand before 'all' blocks or the 'first'.
    """

    change: str
    seed: int
    num_steps: int = NUM_STEPS
    lm: str = 'frozen'
    texts: int = 0
    gates: str = 'closed'
    looks: str = 'after'
    layers: str = 'all'
    lr: float = RATE

    def __post_init__(self):
        runner.check_values(
            self,
            lm=('frozen', 'trained', 'new'),
            texts=(0, 1),
            gates=('closed', 'open'),
            looks=('after', 'at'),
            layers=('all', 'first'),
        )
        runner.check_least(self, seed=0, num_steps=1)
        if not 0 < self.lr < math.inf:
            raise ValueError(f'lr is {self.lr}, not above 0')

    @property
    def cost(self):
        """Steps of training."""
        return self.num_steps


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out of a run; ValueError for a number below 0.

    `trained` are parameters. `changed` is by how much the scores of texts
    differ from those of the language model before training, at most;
    `text_before` and `text` are losses of fresh texts, in nats per token, of
    the language model and of what came out. `added` is the share of right
    sums of test pictures and numbers below 5, `not_added` that with numbers
    from 5 on; `in_words` is that of sums in words. `listed` is the share of
    right names at the end of lists with two pictures as examples, and
    `listed_in_words` that of the language model for lists in words.
    """

    trained: int
    changed: float
    text_before: float
    text: float
    added: float
    not_added: float
    in_words: float
    listed: float
    listed_in_words: float
    seconds: float

    def __post_init__(self):
        runner.check_least(self, **dict.fromkeys(vars(self), 0))


# ---- The frozen parts ----


def small_config():
    """The language model: three blocks of width 64."""
    return utils.Config(
        len(Sums().vocab),
        num_hiddens=64,
        num_heads=4,
        num_blks=3,
        max_len=24,
        init_std=0.05,
    )


@functools.cache
def language_model(seed, num_steps=LM_STEPS):
    """The weights of a GPT that has learned sums and lists."""
    torch.manual_seed(seed)
    model = utils.GPT(small_config())
    utils.train(
        model,
        Sums().batches(32, seed),
        utils.lm_loss,
        num_steps,
        lr=0.01,
        betas=(0.9, 0.99),
        warmup=20,
    )
    return model.state_dict()


def ways(captioned):
    """Rows of all pictures, each in a way that CLIP was shown."""
    generator = torch.Generator().manual_seed(0)
    return captioned.seen(torch.arange(len(captioned.labels)), generator)


@functools.cache
def seen_pictures(seed, num_steps=dalle.CLIP_STEPS):
    """What CLIP's tower makes of pictures, and their digits, by part.

    Each is drawn once, in a way that CLIP was shown.
    """
    clip, found = dalle.trained_clip(seed, num_steps), {}
    for part, captioned in zip(('train', 'test'), dalle.load(), strict=False):
        tiles = ways(captioned)[:, 3:] - FIRST_TILE
        H = torch.empty(*tiles.shape, clip.pictures.config.num_hiddens)
        with torch.no_grad(), utils.evaluation_mode(clip):
            for some, into in zip(tiles.split(100), H.split(100), strict=True):
                into.copy_(clip.pictures.encode(some))
        found[part] = H, captioned.labels
    return found


# ---- Training ----


def picture_sums(seen, seed):
    """Endless sums of a picture and a number: ids and pictures."""
    H, labels = seen
    generator = torch.Generator().manual_seed(seed)
    while True:
        at = torch.randint(len(labels), (64,), generator=generator)
        second = torch.randint(NUM_ADDED, (64,), generator=generator)
        yield Sums().sums(labels[at], second, True), H[at, None]


def picture_loss(model, batch):
    """Predict what a sum with a picture comes to, and texts if there are."""
    X, pictures, *texts = batch
    loss, n = utils.token_loss(model(begun(X[:, :4]), pictures, 1), X[:, 4:5])
    if not texts:
        return loss, n
    return loss + utils.lm_loss(without_pictures(model), texts[0])[0], n


def without_pictures(model):
    """The model as one of texts, in which no picture stands."""
    width = model.project.in_features

    def read(X):
        return model(X, torch.zeros(len(X), 1, 1, width))

    return read


def with_texts(batches, seed):
    for batch, texts in zip(batches, Sums().batches(16, seed), strict=False):
        yield *batch, texts


class LooksAt(multimodal.Flamingo):
    """A Flamingo in which only the place of a picture attends to it."""

    def mask(self, X, num_keys):
        mask = super().mask(X, num_keys)
        return mask & X.eq(self.picture_id)[:, None, :, None]


def build(run, width):
    """The model of a run, new layers drawn from the run's seed."""
    lm = utils.GPT(small_config())
    torch.manual_seed(run.seed)
    if run.lm == 'new':
        lm = utils.GPT(small_config())
    else:
        steps = LM_STEPS if run.num_steps > FEW_STEPS else FEW_STEPS
        lm.load_state_dict(language_model(run.seed, steps))
    torch.manual_seed(run.seed)
    kind = multimodal.Flamingo if run.looks == 'after' else LooksAt
    model = kind(lm, small_config(), width, Sums().picture_id)
    if run.lm != 'frozen':
        lm.requires_grad_(True)
    if run.layers == 'first':
        model.gated[1:].requires_grad_(False)  # their gates stay closed
    if run.gates == 'open':
        for gated in model.gated:
            nn.init.constant_(gated.gates, 20.0)
            gated.gates.requires_grad_(False)
    return model


# ---- Scores ----


def sum_share(scores, X):
    """The share of sums whose result is the best word."""
    return (scores[:, -1].argmax(-1) == X[:, 4]).float().mean().item()


@torch.no_grad()
def scores(model, seen):
    """What the trained model does with pictures and with texts."""
    (H, labels), sums = seen, Sums()
    read, found = without_pictures(model), {}
    fresh = next(sums.batches(256, seed=10**6))
    found['text'] = utils.lm_loss(read, fresh)[0].item()
    for name, numbers in (
        ('added', range(NUM_ADDED)),
        ('not_added', range(NUM_ADDED, 10)),
    ):
        right = []
        for second in numbers:
            X = sums.sums(labels, torch.full_like(labels, second), True)
            right.append(sum_share(model(begun(X[:, :4]), H[:, None], 1), X))
        found[name] = sum(right) / len(right)
    a, b = torch.cartesian_prod(torch.arange(10), torch.arange(10)).T
    X = sums.sums(a, b)
    found['in_words'] = sum_share(read(begun(X[:, :4])), X)
    return found | {'listed': listed(model, seen)}


@torch.no_grad()
def listed(model, seen, number=500):
    """The share of right names for a picture after two named examples."""
    (H, labels), generator = seen, torch.Generator().manual_seed(0)
    digits, names = Sums().draw_lists(number, 3, generator)
    luck = torch.rand(number, 3, len(labels), generator=generator)
    same = labels == digits[..., None]  # (number, 3, num_pictures)
    at = luck.masked_fill(~same, -1).argmax(-1)
    X = Sums().lists(digits, names, True)[:, :8]
    return last_name(model(begun(X[:, :7]), H[at], 1), X)


def last_name(scores, X):
    return (scores[:, -1].argmax(-1) == X[:, 7]).float().mean().item()


@torch.no_grad()
def listed_in_words(lm, number=500):
    """The share of right names at the end of lists in words."""
    generator = torch.Generator().manual_seed(0)
    X = Sums().lists(*Sums().draw_lists(number, 3, generator))[:, :8]
    return last_name(lm(begun(X[:, :7])), X)


# ---- Captions by a published model ----


def by_rows(H):
    """Means of the rows of 7 x 7 vectors, for one picture in a text.

    From (n, 49, width) to (n, 1, 7, width).
    """
    return H.unflatten(1, (7, 7)).mean(2)[:, None]


def captions(tokenizer, H, seed):
    """Endless batches for `caption_loss`, of the pictures of training.

    `H` are their vectors as `seen_pictures` has them.
    """
    X = multimodal.spelled(tokenizer, ways(dalle.load()[0])[:, :3])
    ids = torch.tensor(
        [tokenizer.encode(f' {w}').ids[0] for w in multimodal.CAPTION_WORDS]
    )
    generator = torch.Generator().manual_seed(seed)
    while True:
        at = torch.randint(len(X), (32,), generator=generator)
        yield X[at], by_rows(H[at]), ids


@torch.no_grad()
def caption_shares(model, clip, tokenizer, rows):
    """Shares of captions that are right, of a model and of two rivals.

    `rows` are captions and pictures. CLIP chooses one of all forty captions,
    and who sees nothing says the commonest of `rows`.
    """
    words, tiles = rows[:, :3], rows[:, 3:] - FIRST_TILE
    small, inverted, labels = torch.cartesian_prod(
        torch.arange(2), torch.arange(2), torch.arange(10)
    ).T
    forty = multimodal.captions(labels, small, inverted)
    chosen = (clip.pictures(tiles) @ clip.texts(forty).T).argmax(1)
    by_clip = (forty[chosen] == words).all(1).float().mean().item()
    counts = words.unique(dim=0, return_counts=True)[1]
    return {
        'SmolLM2 with gates': multimodal.captions_right(
            model,
            multimodal.spelled(tokenizer, words),
            by_rows(clip.pictures.encode(tiles)),
        ),
        'CLIP, one of forty': by_clip,
        'the commonest caption': counts.max().item() / len(rows),
    }


def execute(run, options, checkpoint):
    """Train and score one model, on the CPU."""
    start = time.process_time()
    short = run.num_steps <= FEW_STEPS
    seen = seen_pictures(run.seed, FEW_STEPS if short else dalle.CLIP_STEPS)
    model = build(run, seen['train'][0].shape[-1])
    fresh = next(Sums().batches(256, seed=10**6))
    with torch.no_grad():
        before = model.lm(fresh[:, :-1])
        after = without_pictures(model)(fresh[:, :-1])
        text_before = utils.token_loss(before, fresh[:, 1:])[0].item()
        in_words = listed_in_words(model.lm)
    batches = picture_sums(seen['train'], run.seed)
    if run.texts:
        batches = with_texts(batches, run.seed)
    runner.train(
        model,
        batches,
        picture_loss,
        run.num_steps,
        run.lr,
        betas=(0.9, 0.99),
        warmup=20,
        checkpoint=checkpoint,
        shard=options.shard,
    )
    return Measured(
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        changed=(before - after).abs().max().item(),
        text_before=text_before,
        listed_in_words=in_words,
        **scores(model, seen['test']),
        seconds=time.process_time() - start,
    )


# ---- The plan ----


def add_options(add):
    names = ','.join(CHANGES)
    add('--changes', type=runner.listed(runner.one_of(CHANGES)), default=names)
    add('--steps', type=runner.whole, default=NUM_STEPS)
    add('--seeds', type=runner.whole, default=3)


def plan(rows, options):
    """A short run first, then every change with every seed."""
    return [
        Run('Flamingo', 0, FEW_STEPS),
        *(
            Run(name, seed, options.steps, **CHANGES[name])
            for seed in range(options.seeds)
            for name in options.changes
        ),
    ]


STUDY = runner.study_of(
    __name__,
    describe=lambda run: f'{run.change}, {run.num_steps} steps, {run.seed}',
    unit='steps',
)
read_runs = STUDY.read_runs
