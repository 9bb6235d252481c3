"""Answers to the exercises of multimodal.ipynb that take longer.

The chapter's small CLIP, GPTs and Flamingo are trained again with one thing
changed, or asked in another way.
"""

import copy
import dataclasses
import functools
import math

import torch
from torch.nn import functional as F

import multimodal as mm
import utils

from .. import clip, dalle, flamingo, gato, runner

TOWERS = {'two blocks': 2, 'no blocks': 0}  # of the tower for texts
WAYS = {  # to draw a tile
    'temperature 0.25': {'temperature': 0.25},
    'temperature 0.5': {'temperature': 0.5},
    'temperature 1': {},
    'temperature 1.5': {'temperature': 1.5},
    'top_p 0.8': {'top_p': 0.8},
}
NUM_PAINTED = 16  # pictures of each caption
FIRST_MOVES = 'its own', 'stay', 'at random', 'hidden', 'as one who knows'
LOW = 8  # digits below it are in the lists of training
SMALL = gato.SIZES['small']


def fit(model, batches, loss_fn, num_steps, rate):
    """Train as the chapter's studies do."""
    runner.train(
        model, batches, loss_fn, num_steps, rate, betas=(0.9, 0.99), warmup=20
    )
    return model


# ---- CLIP ----


def shuffled(names, seed=0):
    """Names with their words in another order."""
    generator, found = torch.Generator().manual_seed(seed), []
    for name in names:
        words = name.split()
        order = torch.randperm(len(words), generator=generator).tolist()
        found.append(' '.join(words[i] for i in order))
    return found


@torch.no_grad()
def names_found(model):
    """Pictures that choose their name, in order and shuffled."""
    letters, encode = clip.load()
    test = letters['test']
    names = sorted(set(test.names))
    truth = torch.tensor([names.index(name) for name in test.names])
    inputs = mm.patches(test.pictures / 255, 7)
    return [
        (model((inputs,), encode(each)).argmax(1) == truth)
        .float()
        .mean()
        .item()
        for each in (names, *(shuffled(names, seed) for seed in range(3)))
    ]


def words_shuffled(setting, seed, num_steps=clip.NUM_STEPS):
    """Names found in order, and in three other orders of their words."""
    letters, encode = clip.load()
    run = clip.Run('CLIP', seed, text_blks=TOWERS[setting])
    model = clip.build(run, encode)
    batches = mm.pair_batches(letters['train'], encode, run.batch_size, seed)
    fit(model, batches, mm.contrastive_loss, num_steps, run.lr)
    right, *others = names_found(model)
    return {'right': right, 'shuffled': others}


# ---- DALL-E ----


def paint(model, words, seed=0, **options):
    """As `multimodal.paint`, with the options of `utils.sample`."""
    kept = torch.zeros(mm.STREAM_SIZE, dtype=torch.bool)
    kept[mm.FIRST_TILE : mm.FIRST_TILE + mm.NUM_TILES] = True

    def scores(X, caches):
        found = model(X, caches=caches, last=1)
        return found.masked_fill(~kept, -math.inf)

    generator = torch.Generator().manual_seed(seed)
    rows = utils.generate(
        model,
        words,
        mm.PICTURE_LEN,
        scores=scores,
        generator=generator,
        **options,
    )
    return mm.from_tiles(rows[:, 3:] - mm.FIRST_TILE, mm.CANVAS)


def variety(pictures):
    """The mean share of pixels in which two for one caption differ."""
    each = pictures.view(10, NUM_PAINTED, -1).float()
    pairs = 10 * NUM_PAINTED * (NUM_PAINTED - 1)
    return (torch.cdist(each, each, 1).sum() / (pairs * mm.CANVAS**2)).item()


def painter(seed, num_steps):
    """The chapter's small GPT for rows of captions and tiles."""
    torch.manual_seed(seed)
    model = utils.GPT(dalle.small_gpt(40))
    batches = dalle.load()[0].batches(64, seed)
    return fit(model, batches, utils.lm_loss, num_steps, dalle.RATE)


def temperatures(setting, seed, num_steps=dalle.NUM_STEPS):
    """Pictures of captions never shown: right ones and variety, by way."""
    model, judge = painter(seed, num_steps), dalle.load()[2]
    words = dalle.asked(True, NUM_PAINTED)
    drawn = [paint(model, words, **options) for options in WAYS.values()]
    return {
        'right': [dalle.shares(judge, each, words)[-1] for each in drawn],
        'variety': [variety(each) for each in drawn],
    }


def test_rows():
    """Test pictures in ways that are shown, and in the one that is not."""
    held_out = dalle.load()[1]
    at = torch.arange(len(held_out.labels))
    return (
        flamingo.ways(held_out),
        held_out.rows(at, *mm.unseen(held_out.labels)),
    )


# ---- Flamingo ----


class SeesAll(mm.Flamingo):
    """A Flamingo in which each token attends to all pictures before it."""

    def mask(self, X, num_keys):
        so_far = X.eq(self.picture_id).cumsum(1)
        number = torch.arange(1, max(1, int(so_far.max())) + 1)
        mask = so_far[..., None] >= number
        return mask.repeat_interleave(num_keys, dim=2)[:, None]


@torch.no_grad()
def added(model, seen, number=300):
    """The share of sums with 0 to 4 that are right, of test pictures."""
    (H, labels), sums = seen, mm.Sums()
    H, labels, right = H[:number], labels[:number], []
    for second in range(flamingo.NUM_ADDED):
        X = sums.sums(labels, torch.full_like(labels, second), True)
        scores = model(mm.begun(X[:, :4]), H[:, None], 1)
        right.append(flamingo.sum_share(scores, X))
    return sum(right) / len(right)


def with_gates(model, kept):
    """A copy in which all gates are 0 but those `kept`, (num_blks, 2)."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for gated, keep in zip(other.gated, kept, strict=True):
            gated.gates.mul_(keep)
    return other


SIX = torch.eye(6).view(6, 3, 2)  # each gate alone
LAYERS = SIX.view(3, 2, 3, 2).sum(1)  # both gates of a layer


def build(seed, kind=mm.Flamingo, parts=None):
    """The chapter's small Flamingo before training, and what it sees.

    `parts` are the steps of the language model and of CLIP.
    """
    lm_steps, clip_steps = parts or (flamingo.LM_STEPS, dalle.CLIP_STEPS)
    seen = flamingo.seen_pictures(seed, clip_steps)
    lm = utils.GPT(flamingo.small_config())
    lm.load_state_dict(flamingo.language_model(seed, lm_steps))
    torch.manual_seed(seed)
    width = seen['train'][0].shape[-1]
    config, mark = flamingo.small_config(), mm.Sums().picture_id
    return kind(lm, config, width, mark), seen


def learn_sums(model, seen, seed, num_steps):
    """Train as the chapter does."""
    batches = flamingo.picture_sums(seen['train'], seed)
    fit(model, batches, flamingo.picture_loss, num_steps, flamingo.RATE)


def gates(setting, seed, num_steps=flamingo.NUM_STEPS, parts=None):
    """Sums by some gates alone; lists, with both masks."""
    model, seen = build(seed, parts=parts)
    learn_sums(model, seen, seed, num_steps)
    seen = seen['test']
    wide = SeesAll(
        model.lm,
        flamingo.small_config(),
        model.project.in_features,
        model.picture_id,
    )
    wide.load_state_dict(model.state_dict())

    def right(kept):
        return [added(with_gates(model, each), seen) for each in kept]

    return {
        'all': added(model, seen),
        'gates': torch.stack([x.gates for x in model.gated])
        .tanh()
        .flatten()
        .tolist(),
        'gate_alone': right(SIX),
        'layer_alone': right(LAYERS),
        'without_layer': right(1 - LAYERS),
        'listed': flamingo.listed(model, seen),
        'listed_all': flamingo.listed(wide, seen),
    }


def draw_lists(labels, digits, number, generator):
    """Lists of two digits and a third item: ids (n, 8), pictures (n, 3)."""
    luck = torch.rand(number, len(digits), generator=generator)
    two = torch.tensor(digits)[luck.argsort(1)[:, :2]]
    names = torch.rand(number, len(mm.LABELS), generator=generator)
    names = names.argsort(1)[:, :2]
    turn = torch.randint(2, (number, 3), generator=generator)
    turn[:, :2] = torch.arange(2)
    shown, said = two.gather(1, turn), names.gather(1, turn)
    luck = torch.rand(number, 3, len(labels), generator=generator)
    at = luck.masked_fill(labels != shown[..., None], -1).argmax(-1)
    return mm.Sums().lists(shown, said, True)[:, :8], at


def sums_and_lists(seen, seed):
    """Endless batches: sums, and lists of pictures of low digits."""
    (H, labels), digits = seen, list(range(LOW))
    generator = torch.Generator().manual_seed(seed)
    for X, pictures in flamingo.picture_sums(seen, seed):
        lists, at = draw_lists(labels, digits, 32, generator)
        yield (X, pictures), (lists, H[at])


def both_losses(model, batch):
    """Mean loss of sums and of the last name of lists."""
    sums, (X, pictures) = batch
    loss, n = flamingo.picture_loss(model, sums)
    scores = model(mm.begun(X[:, :7]), pictures, 1)
    return loss + utils.token_loss(scores, X[:, 7:8])[0], n


@torch.no_grad()
def lists_right(model, seen, digits, number=500):
    """The share of lists that are right, and by the nearer example."""
    H, labels = seen
    generator = torch.Generator().manual_seed(1)
    X, at = draw_lists(labels, digits, number, generator)
    right = flamingo.last_name(model(mm.begun(X[:, :7]), H[at], 1), X)
    V = H.mean(1)[at]  # (number, 3, width)
    nearer = torch.cdist(V[:, 2:], V[:, :2])[:, 0].argmin(1)
    said = X[torch.arange(number), 1 + 3 * nearer]
    return right, (said == X[:, 7]).float().mean().item()


def with_lists(setting, seed, num_steps=flamingo.NUM_STEPS, parts=None):
    """Lists of low digits and of eights and nines; sums."""
    model, seen = build(seed, parts=parts)
    batches = sums_and_lists(seen['train'], seed)
    fit(model, batches, both_losses, num_steps, flamingo.RATE)
    low, by_low = lists_right(model, seen['test'], list(range(LOW)))
    high, by_high = lists_right(model, seen['test'], list(range(LOW, 10)))
    return {
        'low': low,
        'high': high,
        'nearer_low': by_low,
        'nearer_high': by_high,
        'added': added(model, seen['test']),
    }


# ---- Gato ----


@functools.cache
def knowing():
    """The stream of games of one who knows, and that of test pictures."""
    found = [copy.copy(stream) for stream in gato.load()]
    for stream in found:
        stream.player = mm.all_knowing
    return found


def one_model(seed, num_steps, batches, **more):
    """A GPT for the stream, trained on batches of it."""
    run = gato.Run('all, middle', seed, **more)
    torch.manual_seed(seed)
    model = utils.GPT(run.config(len(gato.load()[0].vocab)))
    return fit(model, batches, mm.stream_loss, num_steps, run.lr)


@torch.no_grad()
def play(model, stream, game, first):
    """As `multimodal.play`, with another first move in what is read.

    `first` says which: 'hidden' is that no later token attends to it.
    """
    X = torch.full((len(game.paddle), 1), stream.game_mark)
    kept = slice(stream.moves, stream.moves + 3)
    generator = torch.Generator().manual_seed(3)
    while game.row < mm.NUM_MOVES:
        X = torch.cat((X, stream.number + game.seen()), 1)
        mask = utils.causal_mask(X.shape[1])
        if first == 'hidden' and game.row:
            mask[5:, 4] = False
        moves = model(X, mask, last=1)[:, -1, kept].argmax(-1) - 1
        said = moves
        if game.row == 0 and first == 'stay':
            said = torch.zeros_like(moves)
        if game.row == 0 and first == 'at random':
            said = torch.randint(-1, 2, moves.shape, generator=generator)
        if game.row == 0 and first == 'as one who knows':
            said = mm.all_knowing(game)
        game.move(moves)
        X = torch.cat((X, stream.moves + 1 + said[:, None]), 1)
    return game.caught().float().mean().item()


def first_move(setting, seed, num_steps=gato.NUM_STEPS):
    """Balls caught by a model of one who knows, by what it reads."""
    stream, test = knowing()
    model = one_model(seed, num_steps, stream.batches(gato.ROWS, seed))
    found = {}
    for first in FIRST_MOVES:
        game = mm.Catch(gato.NUM_GAMES, torch.Generator().manual_seed(1))
        caught = play(model, test, game, first)
        found[first.replace(' ', '_')] = caught
    return found


def count_seen(batches):
    """Labels for all that is read, but for padding."""
    for X, _ in batches:
        yield X, X.masked_fill(X == 0, -100)


@torch.no_grad()
def balls_foretold(model, test):
    """The share of columns of the ball that are foretold from look 3 on."""
    generator = torch.Generator().manual_seed(1)
    X, _ = test.play(gato.NUM_GAMES, generator)
    at = torch.arange(10, X.shape[1], 4)
    guesses = model(X[:, :-1]).argmax(-1)[:, at - 1]
    return (guesses == X[:, at]).float().mean().item()


def seen_too(setting, seed, num_steps=gato.NUM_STEPS):
    """The small model, whose loss counts what is seen, too."""
    stream, test = gato.load()
    batches = stream.batches(gato.ROWS, seed)
    if setting == 'seen, too':
        batches = count_seen(batches)
    model = one_model(seed, num_steps, batches, **SMALL)
    return gato.scores(model, test) | {'ball': balls_foretold(model, test)}


def four_kinds(batches, captioned, first, seed):
    """Rows of the stream, and 16 captions with pictures, ids from `first`."""
    for (X, labels), rows in zip(
        batches, captioned.batches(16, seed), strict=False
    ):
        wide = rows.shape[1] - X.shape[1]
        yield (
            torch.cat((F.pad(X, (0, wide)), first + rows)),
            torch.cat((F.pad(labels, (0, wide), value=-100), first + rows)),
        )


def painting_too(setting, seed, num_steps=gato.NUM_STEPS):
    """One model for four kinds: scores, and nats a tile of test pictures."""
    stream, test = gato.load()
    captioned = dalle.load()[0]
    run = gato.Run('all', seed, **gato.SIZES[setting])
    first, num_words = len(stream.vocab), mm.FIRST_TILE + mm.NUM_TILES
    config = dataclasses.replace(
        run.config(first + num_words), max_len=3 + mm.PICTURE_LEN
    )
    torch.manual_seed(seed)
    model = utils.GPT(config)
    batches = stream.batches(gato.ROWS, seed)
    batches = four_kinds(batches, captioned, first, seed)
    fit(model, batches, mm.stream_loss, num_steps, run.lr)
    shown, unseen = test_rows()
    nats = [
        utils.evaluate(model, (first + rows).split(250), mm.tile_loss)
        for rows in (shown, unseen)
    ]
    found = gato.scores(model, test)
    return found | {'nats': nats[0], 'nats_unseen': nats[1]}


EXERCISES = {
    7: (seen_too, ['seen, too'], 3),
    2: (words_shuffled, list(TOWERS), 3),
    3: (temperatures, ['all ways'], 3),
    4: (gates, ['each gate'], 3),
    6: (first_move, ['one who knows'], 3),
    8: (with_lists, ['sums and lists'], 3),
    9: (painting_too, ['middle', 'large'], 2),
}
