"""Text, pictures and actions: what CLIP, DALL-E, Flamingo and Gato need.

All of them are made of the blocks in `utils`. The parts follow each other as
in the notebook multimodal.ipynb. Shapes stand at line ends.
"""

import math

import torch
from sklearn.svm import SVC
from torch import nn
from torch.nn import functional as F

import utils
from corpora import BOS
from pictures import from_patches, patches
from utils import (
    Block,
    FeedForward,
    MultiHeadAttention,
    causal_mask,
    init_weights,
    norm,
    token_loss,
)

# ---- CLIP: two towers and a table of scores ---------------------------------


class Tower(nn.Module):
    """Blocks that look at everything, and one vector of length 1 a row.

    `embedding` makes (batch, num_steps, num_hiddens) of the inputs, be they
    words or patches; `real` (batch, num_steps) is False for padding. The
    outputs of the real steps are averaged: (batch, num_features).
    """

    def __init__(self, config, embedding, num_features):
        super().__init__()
        self.config, self.embedding = config, embedding
        self.pos_embedding = nn.Embedding(config.max_len, config.num_hiddens)
        self.blks = nn.ModuleList(
            Block(config) for _ in range(config.num_blks)
        )
        self.norm = norm(config)
        self.head = nn.Linear(config.num_hiddens, num_features, bias=False)
        init_weights(self, config)

    def encode(self, X, real=None):
        """The output of the blocks: (batch, num_steps, num_hiddens)."""
        H = self.embedding(X)
        H = H + self.pos_embedding.weight[: H.shape[1]]
        mask = None if real is None else real[:, None, None]
        for blk in self.blks:
            H = blk(H, mask)
        return self.norm(H)

    def forward(self, X, real=None):
        H = self.encode(X, real)  # (batch, num_steps, num_hiddens)
        if real is None:
            H = H.mean(1)
        else:
            H = (H * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        return F.normalize(self.head(H), dim=-1)


class CLIP(nn.Module):
    """Scores of all pictures with all texts, (num_pictures, num_texts).

    The inputs of each tower are a tuple. A score is the cosine of the two
    vectors, over a temperature that is learned and begins at 0.07. (Radford
    et al., 2021, section 2.3)
    """

    def __init__(self, pictures, texts):
        super().__init__()
        self.pictures, self.texts = pictures, texts
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, pictures, texts):
        cosines = self.pictures(*pictures) @ self.texts(*texts).T
        return self.log_scale.exp() * cosines


def contrastive_loss(model, batch):
    """Each picture is to find its text, and each text its picture.

    `batch` is the inputs of the two towers, as many pictures as texts, pair
    by pair. Returns the mean of two cross-entropies in nats, and the number
    of pairs. (Radford et al., 2021, section 2.3 and figure 3)
    """
    scores = model(*batch)
    pairs = torch.arange(len(scores), device=scores.device)
    loss = F.cross_entropy(scores, pairs) + F.cross_entropy(scores.T, pairs)
    return loss / 2, len(scores)


class Names:
    """Names of letters as rows of word ids, 0 is padding.

    Words that no name of `known` has are left out of a name.
    """

    def __init__(self, known):
        words = sorted({word for name in known for word in name.split()})
        self.words = ['', *words]
        self.ids = {word: i for i, word in enumerate(self.words)}

    def __call__(self, names):
        """Ids and what is no padding: (num_names, most words) each."""
        rows = [
            torch.tensor([self.ids.get(word, 0) for word in name.split()])
            for name in names
        ]
        X = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return X, X > 0


def pair_batches(letters, encode, batch_size, seed=0):
    """Endless batches for `contrastive_loss`, each of different names.

    `letters` has pictures and their names; of the pictures with a name, in
    several fonts, one is drawn. Raises ValueError for more pairs in a batch
    than there are names.
    """
    names = sorted(set(letters.names))
    if batch_size > len(names):
        raise ValueError(f'batch_size is {batch_size}, for {len(names)} names')
    number = {name: i for i, name in enumerate(names)}
    which = torch.tensor([number[name] for name in letters.names])
    order, counts = which.argsort(stable=True), which.bincount()
    starts = counts.cumsum(0) - counts
    inputs = patches(letters.pictures / 255, 7)
    X, real = encode(names)
    generator = torch.Generator().manual_seed(seed)

    def make():
        while True:
            rows = torch.randperm(len(names), generator=generator)
            rows = rows[:batch_size]
            luck = torch.rand(batch_size, generator=generator)
            at = order[starts[rows] + (luck * counts[rows]).long()]
            yield (inputs[at],), (X[rows], real[rows])

    return make()


# ---- DALL-E: a caption and a picture in one stream --------------------------

DIGITS = (
    'zero',
    'one',
    'two',
    'three',
    'four',
    'five',
    'six',
    'seven',
    'eight',
    'nine',
)
CAPTION_WORDS = ('large', 'small', 'plain', 'inverted', *DIGITS)
NUM_TILES, NUM_CODES, NUM_LEVELS = 16, 8, 16
FIRST_TILE = len(CAPTION_WORDS)
FIRST_LEVEL = FIRST_TILE + NUM_TILES
STREAM_SIZE = FIRST_LEVEL + NUM_LEVELS  # words, tiles, levels of codes
CANVAS = 14  # pixels on each side of a picture
PICTURE_LEN = CANVAS**2 // 4


def to_tiles(pictures):
    """Black-and-white pictures as ids of their 2 x 2 tiles, 0 to 15.

    `pictures` is boolean, (n, height, width); the ids are (n, height * width
    / 4). Nothing is lost.
    """
    bits = patches(pictures, 2).long()  # (n, num_tiles, 4)
    return (bits * torch.tensor([8, 4, 2, 1])).sum(-1)


def from_tiles(ids, height):
    """The pictures of which `to_tiles` made ids: (n, height, width)."""
    bits = (ids[..., None] & torch.tensor([8, 4, 2, 1])) > 0
    return from_patches(bits, height)


def draw(digits, small, inverted):
    """Digits of 28 x 28 gray pixels, (n, 28, 28), as 14 x 14 black ones.

    `small` (n,) of them have two thirds of the size, and stand in the middle;
    `inverted` (n,) ones are paper on ink. Returns booleans, True is ink.
    """
    gray = digits[:, None] / 255  # (n, 1, 28, 28)
    large = F.interpolate(gray, size=CANVAS, mode='area')[:, 0] > 0.25
    less = F.interpolate(gray, size=9, mode='area')[:, 0] > 0.25
    less = F.pad(less, (3, 2, 3, 2))
    ink = torch.where(small[:, None, None], less, large)
    return ink ^ inverted[:, None, None]


def unseen(digit):
    """Whether the missing pictures of digits are small, and inverted.

    Of the four ways to draw a digit, one is never shown in training.
    """
    return digit % 4 >= 2, digit % 2 == 1


def captions(labels, small, inverted):
    """Ids of three words: (n, 3), such as "small plain seven"."""
    return torch.stack((small.long(), 2 + inverted.long(), 4 + labels), 1)


class Captioned:
    """Pictures of digits with captions, drawn from `digits` and `labels`.

    Each of a row of ids is a caption of three words and its picture of 49
    tiles, (batch, 52).
    """

    def __init__(self, digits, labels):
        self.digits, self.labels = digits.float(), labels

    def rows(self, at, small, inverted):
        """The digits number `at`, (n,), drawn as it is said."""
        words = captions(self.labels[at], small, inverted)
        tiles = to_tiles(draw(self.digits[at], small, inverted))
        return torch.cat((words, FIRST_TILE + tiles), 1)

    def seen(self, at, generator=None):
        """Each digit drawn in one of the three ways that are shown."""
        missing = torch.stack(unseen(self.labels[at]), 1).long()
        missing = 2 * missing[:, 0] + missing[:, 1]
        turn = torch.randint(1, 4, at.shape, generator=generator)
        way = (missing + turn) % 4
        return self.rows(at, way >= 2, way % 2 == 1)

    def batches(self, batch_size, seed=0):
        """Endless batches of rows, (batch_size, 52)."""
        generator = torch.Generator().manual_seed(seed)

        def make():
            while True:
                at = torch.randint(
                    len(self.labels), (batch_size,), generator=generator
                )
                yield self.seen(at, generator)

        return make()


def tile_loss(model, X):
    """`lm_loss` of the last 49 tokens of rows, the picture's, alone."""
    scores = model(X[:, :-1], last=PICTURE_LEN)
    return token_loss(scores, X[:, -PICTURE_LEN:])


def continued(model, X, first, number, length, seed=0):
    """Continue rows `X` by `length` of the `number` tokens from `first` on.

    Returns the new ids, (n, length).
    """
    kept = torch.zeros(STREAM_SIZE, dtype=torch.bool)
    kept[first : first + number] = True

    def scores(X, caches):
        found = model(X, caches=caches, last=1)
        return found.masked_fill(~kept, -math.inf)

    generator = torch.Generator().manual_seed(seed)
    rows = utils.generate(model, X, length, scores=scores, generator=generator)
    return rows[:, -length:]


def paint(model, X, seed=0):
    """Continue rows `X` by a picture each: (n, 14, 14) booleans."""
    tiles = continued(model, X, FIRST_TILE, NUM_TILES, PICTURE_LEN, seed)
    return from_tiles(tiles - FIRST_TILE, CANVAS)


class PixelByPixel:
    """Each pixel by itself: a linear model of words and of pairs of words.

    Fitted to `rows` of captions and tiles; calling it gives the shares of
    ink, (n, 196), that it expects for captions (n, 3).
    """

    def __init__(self, rows):
        X, Y = self.features(rows[:, :3]), self.pixels(rows)
        penalty = 1e-3 * torch.eye(X.shape[1], dtype=torch.double)
        self.weights = torch.linalg.solve(X.T @ X + penalty, X.T @ Y)

    def features(self, words):
        one = F.one_hot(words, FIRST_TILE).sum(1).double()
        return (one[:, :, None] * one[:, None]).flatten(1)

    def pixels(self, rows):
        ink = from_tiles(rows[:, 3:] - FIRST_TILE, CANVAS)
        return ink.flatten(1).double()

    def __call__(self, words):
        return (self.features(words) @ self.weights).clamp(0.001, 0.999)

    def paint(self, words, seed=0):
        """A picture for each caption: (n, 14, 14) booleans."""
        generator = torch.Generator().manual_seed(seed)
        ink = torch.bernoulli(self(words), generator=generator)
        return ink.view(-1, CANVAS, CANVAS).bool()

    def loss(self, rows):
        """The loss of pictures, given captions, in nats a tile."""
        P, Y = self(rows[:, :3]), self.pixels(rows)
        return 4 * F.binary_cross_entropy(P, Y).item()


def neighbor_loss(known, rows):
    """The loss of pictures by counts of neighbors, in nats a tile.

    Each tile of `rows` is guessed from the word for the ink, the tile on its
    left and the one above, by how often they met in `known`, and once more.
    """
    shape = FIRST_TILE, NUM_TILES + 1, NUM_TILES + 1, NUM_TILES
    counts = torch.ones(shape)

    def met(rows):
        side = CANVAS // 2
        tiles = rows[:, 3:].unflatten(1, (side, side)) - FIRST_TILE
        outside = F.pad(tiles, (1, 0, 1, 0), value=NUM_TILES)
        left, above = outside[:, 1:, :-1], outside[:, :-1, 1:]
        ink = rows[:, 1, None, None].expand_as(tiles)
        return ink, left, above, tiles

    one = torch.tensor(1.0)
    counts.index_put_(met(known), one, accumulate=True)
    shares = counts / counts.sum(-1, keepdim=True)
    return -shares[met(rows)].log().mean().item()


class Judge:
    """Says what a picture shows, without having been told: (n, 3) word ids.

    A picture is inverted if most of its border is ink, and small if next to
    nothing is drawn outside of the middle; for the digit there is a support
    vector machine of each size, fitted to real pictures.
    """

    def __init__(self, digits, labels):
        yes = torch.ones(len(labels), dtype=torch.bool)
        self.machines = [
            SVC(C=5).fit(draw(digits.float(), small, ~yes).flatten(1), labels)
            for small in (~yes, yes)
        ]

    def __call__(self, pictures):
        border = torch.ones(CANVAS, CANVAS, dtype=torch.bool)
        border[1:-1, 1:-1] = False
        inverted = pictures[:, border].float().mean(1) > 0.5
        ink = pictures ^ inverted[:, None, None]
        outside = torch.ones_like(border)
        outside[4:11, 4:11] = False
        small = ink[:, outside].sum(1) <= 2
        guesses = [
            torch.tensor(machine.predict(ink.flatten(1)))
            for machine in self.machines
        ]
        return captions(torch.where(small, *guesses[::-1]), small, inverted)


# ---- DALL-E 2: a prior and a decoder around CLIP's vectors ------------------


class Codes:
    """Vectors as NUM_CODES tokens: principal components, in 16 levels.

    The components and the levels, each as frequent as any other, are those
    of `vectors` (n, num_features). (Ramesh et al., 2022, section 2.2)
    """

    def __init__(self, vectors):
        self.mean = vectors.mean(0)
        axes = torch.linalg.svd(vectors - self.mean, full_matrices=False)[2]
        self.axes = axes[:NUM_CODES].T  # (num_features, NUM_CODES)
        shares = torch.arange(1, NUM_LEVELS) / NUM_LEVELS
        self.limits = self.project(vectors).quantile(shares, 0).T

    def project(self, vectors):
        return (vectors - self.mean) @ self.axes

    def __call__(self, vectors):
        """The tokens, (n, NUM_CODES)."""
        values = self.project(vectors)[..., None]  # (n, NUM_CODES, 1)
        return FIRST_LEVEL + (values > self.limits).sum(-1)


def imagine(prior, words, seed=0):
    """Continue captions by codes: (n, NUM_CODES)."""
    return continued(prior, words, FIRST_LEVEL, NUM_LEVELS, NUM_CODES, seed)


# ---- Flamingo: pictures for a frozen language model -------------------------


class GatedCrossAttention(nn.Module):
    """What looks at pictures in front of a block that knows nothing of them.

    `X` and the output are (batch, num_steps, num_hiddens), `memory` is
    (batch, num_keys, num_hiddens). Both gates begin at zero, and so do the
    changes of `X`. (Alayrac et al., 2022, section 2.2 and figure 4)
    """

    def __init__(self, config):
        super().__init__()
        self.attention = MultiHeadAttention(config)
        self.ffn = FeedForward(config)
        self.norms = nn.ModuleList(norm(config) for _ in range(2))
        self.gates = nn.Parameter(torch.zeros(2))

    def forward(self, X, memory, mask):
        first, second = self.gates.tanh()
        X = X + first * self.attention(self.norms[0](X), memory, mask)
        return X + second * self.ffn(self.norms[1](X))


def last_picture_mask(is_picture, num_keys):
    """Let each token attend to the last picture before it, of all of a text.

    `is_picture` (batch, num_steps) is True at the places of the pictures,
    each of which has `num_keys` keys. The mask is (batch, 1, num_steps,
    num_pictures * num_keys), num_pictures the most of any text. (Alayrac et
    al., 2022, section 2.3)
    """
    so_far = is_picture.cumsum(1)  # (batch, num_steps)
    number = torch.arange(1, max(1, int(so_far.max())) + 1)
    mask = so_far[..., None] == number.to(so_far.device)
    return mask.repeat_interleave(num_keys, dim=2)[:, None]


class Flamingo(nn.Module):
    """A frozen GPT with gated cross-attention before each of its blocks.

    `X` (batch, num_steps) holds `picture_id` where a picture stands, and
    `pictures` (batch, num_pictures, num_keys, width) what a frozen encoder
    makes of each, in the same order. Returns scores (batch, num_steps,
    vocab_size).
    """

    def __init__(self, lm, config, width, picture_id):
        super().__init__()
        self.lm, self.config, self.picture_id = lm, lm.config, picture_id
        self.project = nn.Linear(width, config.num_hiddens)
        self.gated = nn.ModuleList(
            GatedCrossAttention(config) for _ in lm.blks
        )
        for new in (self.project, *self.gated):
            init_weights(new, config)
        lm.requires_grad_(False)

    def forward(self, X, pictures, last=0):
        H = self.read(X, pictures)  # (batch, num_steps, num_hiddens)
        return self.lm.head(self.lm.norm(H)[:, -last:])

    def mask(self, X, num_keys):
        """Which keys of the pictures each token attends to."""
        return last_picture_mask(X.eq(self.picture_id), num_keys)

    def read(self, X, pictures):
        """The output of the blocks: (batch, num_steps, num_hiddens)."""
        memory = self.project(pictures).flatten(1, 2)
        mask = self.mask(X, pictures.shape[2])
        H = self.lm.token_embedding(X)
        if self.lm.pos_embedding is not None:
            H = H + self.lm.pos_embedding.weight[: X.shape[1]]
        for gated, blk in zip(self.gated, self.lm.blks, strict=True):
            H = blk(gated(H, memory, mask), causal_mask(X.shape[1]))
        return H


class LastBlocks(nn.Module):
    """The last blocks of a GPT with rotary positions, for `Flamingo`.

    The blocks before them are a part of the embedding. What they make of a
    row is kept: nothing is trained below, so that it stays. Raises
    ValueError for a GPT with learned positions, and for blocks that it does
    not have.
    """

    def __init__(self, lm, num_blks):
        super().__init__()
        if lm.pos_embedding is not None:
            raise ValueError('the positions of the GPT are learned')
        if not 1 <= num_blks <= len(lm.blks):
            raise ValueError(f'num_blks is {num_blks}, of {len(lm.blks)}')
        self.config, self.pos_embedding = lm.config, None
        first = len(lm.blks) - num_blks
        self.before = lm.token_embedding, lm.blks[:first]  # not in here
        self.blks, self.norm, self.head = lm.blks[first:], lm.norm, lm.head
        self.kept = {}

    @torch.no_grad()
    def token_embedding(self, X):
        """The output of the blocks before: (batch, num_steps, width)."""
        rows = [tuple(row) for row in X.tolist()]
        new = [row for row in dict.fromkeys(rows) if row not in self.kept]
        if new:
            embedding, blks = self.before
            H = embedding(torch.tensor(new))
            for blk in blks:
                H = blk(H, causal_mask(X.shape[1]))
            self.kept.update(zip(new, H, strict=True))
        return torch.stack([self.kept[row] for row in rows])


def spelled(tokenizer, words):
    """Captions (n, 3) as texts, "A small plain seven.", in a model's ids.

    Each begins with <|endoftext|>, in the place of a picture, and has a token
    for each word: (n, 6).
    """
    texts = [
        '<|endoftext|>A ' + ' '.join(CAPTION_WORDS[i] for i in row) + '.'
        for row in words.tolist()
    ]
    return torch.tensor([tokenizer.encode(text).ids for text in texts])


def caption_loss(model, batch):
    """Predict the three words of captions, each among all such words.

    `batch` is the ids (batch, 6) of `spelled`, pictures, and the ids of all
    words of captions. The others are left out to save computations.
    """
    X, pictures, ids = batch
    H = model.lm.norm(model.read(X[:, :4], pictures))[:, 1:]
    labels = (X[:, 2:5, None] == ids).int().argmax(-1)
    return token_loss(H @ model.lm.head.weight[ids].T, labels)


@torch.no_grad()
def captions_right(model, X, pictures):
    """The share of captions that the model writes as in `X`, word by word.

    Each word has to come first of all tokens.
    """
    right = [
        (model(x[:, :4], seen, 3).argmax(-1) == x[:, 2:5]).all(1)
        for x, seen in zip(X.split(10), pictures.split(10), strict=True)
    ]
    return torch.cat(right).float().mean().item()


NUMBERS = (
    *DIGITS,
    *('ten', 'eleven', 'twelve', 'thirteen', 'fourteen', 'fifteen'),
    *('sixteen', 'seventeen', 'eighteen'),
)
LABELS = ('bim', 'dax', 'fep', 'gorp', 'lug', 'mib', 'nuk', 'pov', 'ruz')
LABELS += ('sib', 'tam', 'vek', 'wug', 'yat', 'zup', 'kez')


class Sums:
    """Sums of two digits in words, and lists that give digits other names.

    "three plus four is seven ." and "three dax ; four wug ; three dax ;" are
    texts; with `pictures`, the first digit of a sum and all digits of a list
    are the token <picture>.
    """

    def __init__(self):
        signs = 'plus', 'is', '.', ';', '<picture>'
        self.vocab = ['<bos>', *NUMBERS, *LABELS, *signs]
        self.ids = {word: i for i, word in enumerate(self.vocab)}
        self.picture_id = self.ids['<picture>']

    def words(self, *columns):
        """Columns, a word or ids (n,) each, as rows of ids."""
        n = max(len(c) for c in columns if torch.is_tensor(c))
        return torch.stack(
            [
                c if torch.is_tensor(c) else torch.full((n,), self.ids[c])
                for c in columns
            ],
            1,
        )

    def sums(self, first, second, pictures=False):
        """Rows of ids of "three plus four is seven .", (n, 6)."""
        shown = '<picture>' if pictures else 1 + first
        total = 1 + first + second
        return self.words(shown, 'plus', 1 + second, 'is', total, '.')

    def lists(self, digits, names, pictures=False):
        """Rows of ids of "three dax ;" again and again, (n, 3 * m).

        `digits` and `names`, numbers of labels, are (n, m).
        """
        first = self.ids[LABELS[0]]
        parts = [
            self.words(
                '<picture>' if pictures else 1 + digit, first + name, ';'
            )
            for digit, name in zip(digits.T, names.T, strict=True)
        ]
        return torch.cat(parts, 1)

    def draw_lists(self, n, num_items, generator=None):
        """Digits and names (n, num_items): two of each, both shown first."""
        luck = torch.rand(n, len(LABELS), generator=generator)
        names = luck.argsort(1)[:, :2]
        digits = torch.rand(n, 10, generator=generator).argsort(1)[:, :2]
        turn = torch.randint(2, (n, num_items), generator=generator)
        turn[:, :2] = torch.arange(2)
        return digits.gather(1, turn), names.gather(1, turn)

    def batches(self, per_kind, seed=0):
        """Endless batches of texts, (2 * per_kind, 19) ids."""
        generator = torch.Generator().manual_seed(seed)

        def make():
            while True:
                shape = 2, 3 * per_kind
                a, b = torch.randint(10, shape, generator=generator)
                sums = self.sums(a, b).view(per_kind, 18)
                lists = self.lists(*self.draw_lists(per_kind, 6, generator))
                yield begun(torch.cat((sums, lists)))

        return make()


def begun(X):
    """Rows of ids, (n, num_steps), after <bos>, which is 0."""
    return F.pad(X, (1, 0))


# ---- Gato: a game, and one stream for everything ----------------------------

WIDTH, HEIGHT = 7, 8  # columns and rows of the game's board
NUM_MOVES = HEIGHT - 1  # until the ball is down
GAME_LEN = 1 + 4 * NUM_MOVES


class Catch:
    """Games in which a ball falls and a paddle is to be below it.

    In each of `num_games` a ball starts in the top row. With each move it
    falls by a row and goes sideways by one or two columns, bouncing off the
    walls; the paddle, in the lowest row, goes by -1, 0 or 1. `balls`
    (num_games, HEIGHT) are the columns of the balls in all rows.
    """

    def __init__(self, num_games, generator=None):
        def draw(number):
            return torch.randint(number, (num_games,), generator=generator)

        self.row, self.paddle = 0, draw(WIDTH)
        speed = torch.tensor([-2, -1, 1, 2])[draw(4)]
        start = draw(2 * WIDTH - 2)
        path = start[:, None] + speed[:, None] * torch.arange(HEIGHT)
        path = path % (2 * WIDTH - 2)  # there and back
        self.balls = torch.minimum(path, 2 * WIDTH - 2 - path)

    def seen(self):
        """Row, column of the ball, column of the paddle: (num_games, 3)."""
        ball = self.balls[:, self.row]
        row = torch.full_like(ball, self.row)
        return torch.stack((row, ball, self.paddle), 1)

    def move(self, moves):
        """Move the paddles, by -1, 0 or 1 each, and let the balls fall."""
        self.row += 1
        self.paddle = (self.paddle + moves).clamp(0, WIDTH - 1)

    def caught(self):
        """Which balls are on their paddle: (num_games,) booleans."""
        return self.balls[:, self.row] == self.paddle


def all_knowing(game):
    """Moves towards where the ball will come down."""
    return (game.balls[:, -1] - game.paddle).sign()


def expert(game):
    """The same from the second look on; before, nobody can know."""
    return all_knowing(game) * (game.row > 0)


def follow(game):
    """Moves towards where the ball is."""
    return (game.balls[:, game.row] - game.paddle).sign()


def one_look(game, before):
    """A number for what is seen of each game, (num_games,)."""
    return game.seen() @ torch.tensor([81, 9, 1])


def two_looks(game, before):
    """A number for that and the column of the ball before, or none."""
    if before is None:
        before = torch.full_like(game.paddle, WIDTH)
    return one_look(game, before) + 9**3 * before


def each_move(game, keys_of=one_look):
    """Yields what `keys_of` says before each move, which is made outside."""
    before = None
    while game.row < NUM_MOVES:
        keys, before = keys_of(game, before), game.balls[:, game.row]
        yield keys


def watch(keys_of, num_games=5000, seed=1, player=expert):
    """How often a player makes each move, by what is seen: (9**4, 3)."""
    game = Catch(num_games, torch.Generator().manual_seed(seed))
    counts = torch.zeros(9**4, 3)
    one = torch.ones(num_games)
    for keys in each_move(game, keys_of):
        moves = player(game)
        counts.index_put_((keys, moves + 1), one, accumulate=True)
        game.move(moves)
    return counts


def share_caught(player, keys_of=one_look, num_games=2000, seed=2):
    """The share of balls that a player catches in new games.

    `player` is a function of the game, or the counts that `watch` returns.
    """
    game = Catch(num_games, torch.Generator().manual_seed(seed))
    for keys in each_move(game, keys_of):
        if torch.is_tensor(player):
            game.move(player[keys].argmax(1) - 1)
        else:
            game.move(player(game))
    return game.caught().float().mean().item()


class Stream:
    """One vocabulary for texts, pictures and games, and their rows of ids.

    A row is a text of facts, a picture of 8 x 8 pixels and its digit, or a
    game as its expert plays it; `labels` are -100 where nothing is to be
    predicted: for what was seen, not said or done (Reed et al., 2022,
    section 2.3). `facts` is a `corpora.FactWorld`, `digits` (n, 8, 8) has
    pixels from 0 to 16, and `player` is who plays.
    """

    kinds = 'text', 'picture', 'game'

    def __init__(self, facts, digits, labels, player=expert):
        self.facts, self.labels, self.player = facts, labels, player
        tiles = [f'tile {i}' for i in range(NUM_TILES)]
        numbers = [f'{i}' for i in range(max(WIDTH, HEIGHT))]
        parts = DIGITS, tiles, numbers, ('left', 'stay', 'right')
        self.vocab = [*facts.vocab, '<picture>', '<game>']
        firsts = []
        for part in parts:
            firsts.append(len(self.vocab))
            self.vocab += part
        self.digit, self.tile, self.number, self.moves = firsts
        self.game_mark, self.picture_mark = self.digit - 1, self.digit - 2
        self.tiles = to_tiles(digits >= 8)

    def text(self, n, generator=None):
        """Four facts in a row: ids and labels (n, 29), all to be predicted."""
        X = self.facts.prose(n, 4, generator)
        return X, X

    def pictures(self, at):
        """A mark, 16 tiles, and the digit: (n, 18)."""
        mark = torch.full((len(at), 1), self.picture_mark)
        digit = self.digit + self.labels[at, None]
        return torch.cat((mark, self.tile + self.tiles[at], digit), 1)

    def picture(self, n, generator=None):
        at = torch.randint(len(self.labels), (n,), generator=generator)
        X = self.pictures(at)
        return X, X.index_fill(1, torch.arange(X.shape[1] - 1), -100)

    def play(self, n, generator=None):
        """Games of the expert: ids and labels, (n, GAME_LEN)."""
        game = Catch(n, generator)
        X = [torch.full((n, 1), self.game_mark)]
        while game.row < NUM_MOVES:
            moves = self.player(game)
            X += [self.number + game.seen(), self.moves + 1 + moves[:, None]]
            game.move(moves)
        X = torch.cat(X, 1)
        return X, X.masked_fill(X.lt(self.moves), -100)

    def batches(self, numbers, seed=0):
        """Endless batches of rows: `numbers` says how many of each kind.

        Inputs and labels are (num_rows, GAME_LEN), padded.
        """
        generator = torch.Generator().manual_seed(seed)
        makers = {
            'text': self.text,
            'picture': self.picture,
            'game': self.play,
        }

        def make():
            while True:
                rows = [
                    makers[kind](n, generator) for kind, n in numbers.items()
                ]
                yield tuple(
                    torch.cat(
                        [
                            F.pad(X, (0, GAME_LEN - X.shape[1]), value=pad)
                            for X in part
                        ]
                    )
                    for part, pad in zip(
                        zip(*rows, strict=True), (0, -100), strict=True
                    )
                )

        return make()


def stream_loss(model, batch):
    """Predict the labels of rows, each from what stands before it.

    `batch` is (X, labels), (batch, num_steps) each; the labels stand where
    their tokens do. (Reed et al., 2022, section 2.3)
    """
    X, labels = batch
    return token_loss(model(X[:, :-1]), labels[:, 1:])


@torch.no_grad()
def play(model, stream, game):
    """Let a model play games to their end and return its moves.

    It reads what is seen, move by move, in a stream that holds its own
    moves. The result is (num_games, NUM_MOVES) of -1, 0 and 1.
    """
    new = torch.full((len(game.paddle), 1), stream.game_mark)
    caches, moves = model.new_caches(), []
    kept = slice(stream.moves, stream.moves + 3)
    while game.row < NUM_MOVES:
        new = torch.cat((new, stream.number + game.seen()), 1)
        scores = model(new, caches=caches, last=1)[:, -1, kept]
        moves.append(scores.argmax(-1) - 1)
        game.move(moves[-1])
        new = stream.moves + 1 + moves[-1][:, None]
    return torch.stack(moves, 1)


@torch.no_grad()
def recall(model, stream):
    """The share of all facts, told either way, whose answer comes first."""
    facts = stream.facts
    tasks, columns = (facts.questions > 0).nonzero().T
    right = []
    for form in range(2):
        X = facts.templates[tasks, form]
        X[X.eq(facts.ids['{}'])] = torch.stack(
            (facts.questions[tasks, columns], facts.answers[tasks, columns]), 1
        ).flatten()
        X = F.pad(X, (1, 0), value=BOS)  # the answer next to last
        guess = model(X[:, :-2], last=1)[:, -1].argmax(-1)
        right.append((guess == X[:, -2]).float())
    return torch.cat(right).mean().item()


def commonest_answers(facts):
    """The share of facts whose answer is the commonest to their question."""
    told = facts.questions > 0
    right = [
        (row[ok] == row[ok].mode()[0]).sum().item()
        for row, ok in zip(facts.answers, told, strict=True)
    ]
    return sum(right) / told.sum().item()


@torch.no_grad()
def name_pictures(model, stream, at):
    """The digits that a model says it sees in pictures `at`, (n,)."""
    X = stream.pictures(at)[:, :-1]
    return model(X, last=1)[:, -1].argmax(-1) - stream.digit
