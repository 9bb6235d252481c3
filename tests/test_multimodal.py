"""Tests of multimodal.py: towers, tiles, gates, the game and its stream."""

import math
import types

import pytest
import torch
from torch import nn

import corpora
import multimodal as mm
import utils
from pictures import patches

CONFIG = utils.Config(30, num_hiddens=16, num_heads=2, num_blks=2, max_len=60)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- CLIP ----


def test_a_tower_reads_what_is_real_and_its_vectors_have_length_one():
    tower = mm.Tower(CONFIG, nn.Embedding(30, 16), 8)
    X = torch.randint(30, (3, 5))
    real = torch.arange(5) < torch.tensor([[5], [3], [1]])
    other = X.masked_fill(~real, 7)
    Y = tower(X, real)
    assert Y.shape == (3, 8)
    assert torch.allclose(Y.norm(dim=1), torch.ones(3))
    assert torch.allclose(Y, tower(other, real), atol=1e-6)
    assert torch.allclose(Y[:1], tower(X[:1]), atol=1e-6)
    assert not torch.allclose(Y[1], tower(X[1:2])[0], atol=1e-3)


def test_contrastive_loss_by_hand():
    scores = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    loss, n = mm.contrastive_loss(lambda *batch: scores, ((), ()))
    rows = math.log(1 + math.exp(-2)), math.log(1 + math.exp(-2))
    columns = math.log(1 + math.exp(-1)), math.log(1 + math.exp(-3))
    assert n == 2
    assert loss.item() == pytest.approx(sum(rows + columns) / 4)


def test_names_leave_unknown_words_out():
    to_ids = mm.Names(['LETTER A', 'LETTER B WITH DOT'])
    X, real = to_ids(['LETTER B', 'LETTER Z WITH DOT'])
    assert [to_ids.words[i] for i in X[1]] == ['LETTER', '', 'WITH', 'DOT']
    assert real.tolist() == [
        [True, True, False, False],
        [True, False] + [True] * 2,
    ]


def letters_of(names):
    pictures = torch.arange(len(names), dtype=torch.uint8)
    pictures = pictures[:, None, None].repeat(1, 28, 28)
    return types.SimpleNamespace(pictures=pictures, names=names)


def test_pairs_of_a_batch_have_different_names_and_fit():
    letters = letters_of(['A', 'B', 'A', 'C', 'A'])
    to_ids = mm.Names(letters.names)
    batches = mm.pair_batches(letters, to_ids, 3, seed=1)
    drawn = set()
    for _ in range(30):
        (X,), (words, _) = next(batches)
        shown = (X[:, 0, 0] * 255).round().long().tolist()
        names = [to_ids.words[i] for i in words[:, 0]]
        assert sorted(names) == ['A', 'B', 'C']
        assert [letters.names[i] for i in shown] == names
        drawn |= set(shown)
    assert drawn == set(range(5))
    with pytest.raises(ValueError, match='batch_size is 4, for 3 names'):
        mm.pair_batches(letters, to_ids, 4)


# ---- DALL-E and DALL-E 2 ----


def test_tiles_by_hand_and_back():
    ink = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 1]]]).bool()
    assert mm.to_tiles(ink).tolist() == [[14, 1]]
    pictures = random(3, 14, 14) > 0
    assert torch.equal(mm.from_tiles(mm.to_tiles(pictures), 14), pictures)


def test_a_small_digit_is_smaller_and_an_inverted_one_the_opposite():
    digit = torch.zeros(1, 28, 28)
    digit[:, 4:24, 12:16] = 255
    no, yes = torch.tensor([False]), torch.tensor([True])
    large, small = mm.draw(digit, no, no), mm.draw(digit, yes, no)
    assert 0 < small.sum() < large.sum()
    assert torch.equal(mm.draw(digit, no, yes), ~large)
    assert small[:, 4:11, 4:11].sum() == small.sum()


def captioned(n=40):
    digits = torch.randint(256, (n, 28, 28)).byte()
    return mm.Captioned(digits, torch.arange(n) % 10)


def test_one_way_of_each_digit_is_never_shown():
    rows = next(captioned().batches(500))
    assert rows.shape == (500, 3 + mm.PICTURE_LEN)
    shown = {tuple(row) for row in rows[:, :3].tolist()}
    digits = torch.arange(10)
    missing = mm.captions(digits, *mm.unseen(digits)).tolist()
    assert len(shown) == 30
    assert not shown & set(map(tuple, missing))
    assert (
        (rows[:, 3:] >= mm.FIRST_TILE) & (rows[:, 3:] < mm.FIRST_LEVEL)
    ).all()


def test_only_tiles_are_painted_and_only_levels_imagined():
    config = utils.Config(mm.STREAM_SIZE, 16, 2, 1, max_len=60)
    model, words = utils.GPT(config), torch.tensor([[0, 2, 4], [1, 3, 9]])
    nn.init.normal_(model.token_embedding.weight)
    assert mm.paint(model, words).shape == (2, 14, 14)
    codes = mm.imagine(model, words)
    assert codes.shape == (2, mm.NUM_CODES)
    assert (codes >= mm.FIRST_LEVEL).all()


def test_tile_loss_leaves_captions_out():
    config = utils.Config(mm.STREAM_SIZE, 16, 2, 1, max_len=60)
    model, X = utils.GPT(config), next(captioned().batches(4))
    loss, n = mm.tile_loss(model, X)
    every, m = utils.lm_loss(model, X)
    assert (n, m) == (4 * mm.PICTURE_LEN, 4 * (mm.PICTURE_LEN + 2))
    assert loss != every


def test_the_judge_says_what_is_drawn():
    digits = torch.zeros(20, 28, 28)
    digits[::2, 4:24, 12:16] = 255  # a bar
    digits[1::2, 4:24, 4:24] = 255  # a square
    judge = mm.Judge(digits, torch.arange(20) % 2)
    ways = torch.cartesian_prod(torch.tensor([0, 1]), torch.tensor([0, 1]))
    small, inverted = ways.bool().T
    for label in (0, 1):
        pictures = mm.draw(digits[[label] * 4], small, inverted)
        words = mm.captions(torch.full((4,), label), small, inverted)
        assert torch.equal(judge(pictures), words)


def test_pixel_by_pixel_composes_pairs():
    """A picture that is the sum of what each pair of words adds."""
    data = captioned(400)
    bar = torch.zeros(14, 14, dtype=torch.bool)
    bar[3] = True
    X = data.seen(torch.arange(400), torch.Generator().manual_seed(0))
    ink = bar[None] ^ X[:, 1].eq(3)[:, None, None]  # inverted or not
    X[:, 3:] = mm.FIRST_TILE + mm.to_tiles(ink)
    rival = mm.PixelByPixel(X)
    digits = torch.arange(10)
    words = mm.captions(digits, *mm.unseen(digits))
    expected = bar[None] ^ words[:, 1].eq(3)[:, None, None]
    assert torch.equal((rival(words) > 0.5).view(10, 14, 14), expected)
    assert (rival.paint(words) == expected).float().mean() > 0.95
    assert 0 < rival.loss(X) < 0.1


def test_neighbors_foretell_what_they_have_met():
    """Rows of tiles 1, 2, 1, 2 ... where the ink is plain, else of 3."""
    side = torch.arange(7) % 2 + 1
    tiles = torch.stack((side.repeat(7), torch.full((49,), 3)))
    words = torch.tensor([[0, 2, 5], [1, 3, 6]])
    rows = torch.cat((words, mm.FIRST_TILE + tiles), 1)
    met = mm.neighbor_loss(rows.repeat(1000, 1), rows)
    assert 0 < met < 0.05
    turned = torch.cat((words.flip(0), rows[:, 3:]), 1)
    unmet = mm.neighbor_loss(rows.repeat(1000, 1), turned)
    corner = math.log(1016)  # has been met, with another tile
    assert unmet == pytest.approx((48 * math.log(16) + corner) / 49)


def test_codes_keep_order_and_fill_all_levels():
    vectors = random(1000, 12) * torch.arange(12, 0, -1)
    codes = mm.Codes(vectors)
    tokens = codes(vectors) - mm.FIRST_LEVEL
    assert tokens.shape == (1000, mm.NUM_CODES)
    assert tokens.unique().tolist() == [*range(mm.NUM_LEVELS)]
    counts = tokens[:, 0].bincount()
    assert counts.min() > 50 and counts.max() < 75
    order = codes.project(vectors)[:, 0].argsort()
    assert (tokens[order, 0].diff() >= 0).all()


# ---- Flamingo ----


def test_the_last_picture_is_seen():
    is_picture = torch.tensor([[0, 1, 0, 1, 0], [1, 0, 0, 0, 0]]).bool()
    mask = mm.last_picture_mask(is_picture, 2).int()
    assert mask.shape == (2, 1, 5, 4)
    first, second = [0, 0, 0, 0], [1, 1, 0, 0]
    third = [0, 0, 1, 1]
    assert mask[0, 0].tolist() == [first, second, second, third, third]
    assert mask[1, 0].tolist() == [second] * 5
    nothing = mm.last_picture_mask(torch.zeros(1, 3, dtype=torch.bool), 2)
    assert nothing.shape == (1, 1, 3, 2) and not nothing.any()


def flamingo():
    torch.manual_seed(0)
    lm = utils.GPT(CONFIG)
    return lm, mm.Flamingo(lm, CONFIG, 6, picture_id=29)


def test_closed_gates_change_nothing_and_the_language_model_is_frozen():
    lm, model = flamingo()
    X, pictures = torch.tensor([[29, 3, 4], [5, 29, 6]]), random(2, 1, 3, 6)
    assert torch.equal(model(X, pictures), lm(X))
    assert torch.equal(model(X, pictures, last=1), lm(X, last=1))
    loss, _ = utils.token_loss(model(X, pictures), X)
    loss.backward()
    assert all(p.grad is None for p in lm.parameters())
    assert model.gated[0].gates.grad.abs().min() > 0


def test_open_gates_let_later_tokens_see():
    _, model = flamingo()
    X, pictures = torch.tensor([[5, 29, 6, 7]]), random(1, 1, 3, 6)
    with torch.no_grad():
        for gated in model.gated:
            gated.gates.fill_(1.0)
    Y, other = model(X, pictures), model(X, pictures + 1)
    moved = (Y - other).abs().amax(-1)[0] > 1e-6
    assert moved.tolist() == [False, True, True, True]
    assert torch.allclose(Y[:, :1], model(X[:, :1], pictures), atol=1e-6)


ROTARY = utils.Config(
    40, num_hiddens=16, num_heads=2, num_blks=3, max_len=8, rotary_base=100.0
)


def test_the_last_blocks_are_the_whole_gpt():
    torch.manual_seed(0)
    lm = utils.GPT(ROTARY)
    top = mm.LastBlocks(lm, 2)
    model = mm.Flamingo(top, ROTARY, 6, picture_id=0)
    X, pictures = torch.tensor([[0, 3, 4], [0, 5, 6]]), random(2, 1, 3, 6)
    assert torch.equal(model(X, pictures), lm(X))
    assert len(model.gated) == 2 and len(top.kept) == 2
    with torch.no_grad():  # what was kept is not computed again
        for p in lm.blks[0].parameters():
            p.add_(1.0)
    assert not torch.equal(model(X, pictures), lm(X))
    assert top.token_embedding(X[[1, 1]]).shape == (2, 3, 16)


@pytest.mark.parametrize('num_blks', [0, 4])
def test_blocks_that_a_gpt_does_not_have_are_refused(num_blks):
    with pytest.raises(ValueError, match=f'num_blks is {num_blks}, of 3'):
        mm.LastBlocks(utils.GPT(ROTARY), num_blks)


def test_learned_positions_are_refused():
    with pytest.raises(ValueError, match='are learned'):
        mm.LastBlocks(utils.GPT(CONFIG), 1)


class ByWord:
    """A tokenizer with a token for each word."""

    def encode(self, text):
        words = text.replace('.', ' .').replace('>', '> ').split()
        known = ['<|endoftext|>', 'A', '.', *mm.CAPTION_WORDS]
        return types.SimpleNamespace(ids=[known.index(w) for w in words])


def test_captions_are_spelled():
    words = torch.tensor([[1, 2, 11], [0, 3, 4]])
    assert mm.spelled(ByWord(), words).tolist() == [
        [0, 1, 4, 5, 14, 2],
        [0, 1, 3, 6, 7, 2],
    ]


def test_captions_are_predicted_among_their_words_and_scored_among_all():
    torch.manual_seed(0)
    model = mm.Flamingo(utils.GPT(ROTARY), ROTARY, 6, picture_id=0)
    X = mm.spelled(ByWord(), torch.tensor([[1, 2, 11], [0, 3, 4]]))
    pictures, ids = random(2, 1, 3, 6), torch.arange(3, 17)
    loss, n = mm.caption_loss(model, (X, pictures, ids))
    scores = model(X[:, :-1], pictures)[:, 1:4, 3:17]
    expected, m = utils.token_loss(scores, X[:, 2:5] - 3)
    assert n == m == 6
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)

    def reads(X, pictures, last):
        best = torch.tensor([[4, 5, 14], [3, 6, 8]])
        return nn.functional.one_hot(best, 40).float()[:, -last:]

    assert mm.captions_right(reads, X, pictures) == 0.5


def test_sums_and_lists_are_texts():
    sums = mm.Sums()

    def text(row):
        return ' '.join(sums.vocab[i] for i in row)

    a, b = torch.tensor([3]), torch.tensor([9])
    assert text(sums.sums(a, b)[0]) == 'three plus nine is twelve .'
    assert text(sums.sums(a, b, True)[0]) == '<picture> plus nine is twelve .'
    digits, names = torch.tensor([[3, 4, 3]]), torch.tensor([[0, 1, 0]])
    assert text(sums.lists(digits, names)[0]) == (
        'three bim ; four dax ; three bim ;'
    )
    assert text(sums.lists(digits, names, True)[0]) == (
        '<picture> bim ; <picture> dax ; <picture> bim ;'
    )
    assert next(sums.batches(4)).shape == (8, 19)


def test_lists_show_two_digits_with_two_names():
    generator = torch.Generator().manual_seed(0)
    digits, names = mm.Sums().draw_lists(50, 6, generator)
    for row, named in zip(digits.tolist(), names.tolist(), strict=True):
        pairs = dict(zip(row, named, strict=True))
        assert len(pairs) == len(set(pairs.values())) == 2
        assert [pairs[d] for d in row] == named
        assert row[0] != row[1]


# ---- Gato ----


def test_balls_fall_inside_and_bounce():
    game = mm.Catch(500, torch.Generator().manual_seed(0))
    steps = game.balls.diff(dim=1).abs()
    assert game.balls.min() == 0 and game.balls.max() == mm.WIDTH - 1
    assert steps.max() == 2
    assert game.balls.shape == (500, mm.HEIGHT)


def test_paddles_stay_on_the_board_and_the_game_ends():
    game = mm.Catch(20, torch.Generator().manual_seed(0))
    for _ in range(mm.NUM_MOVES):
        game.move(torch.full((20,), -1))
    assert game.row == mm.HEIGHT - 1
    assert (game.paddle == 0).all()
    assert torch.equal(game.caught(), game.balls[:, -1] == 0)
    assert game.seen()[:, 0].eq(mm.HEIGHT - 1).all()


def test_the_expert_wins_and_two_looks_suffice():
    assert mm.share_caught(mm.expert) == 1
    one = mm.share_caught(mm.watch(mm.one_look))
    two = mm.share_caught(mm.watch(mm.two_looks), mm.two_looks)
    assert mm.share_caught(mm.follow) < one < two
    assert two > 0.97


@pytest.fixture(scope='module')
def stream():
    digits = corpora.small_digits()['train']
    return mm.Stream(corpora.FactWorld(), *digits)


def test_only_what_is_said_or_done_is_predicted(stream):
    X, labels = next(stream.batches(dict.fromkeys(stream.kinds, 3)))
    assert X.shape == labels.shape == (9, mm.GAME_LEN)
    text, picture, game = (labels[i : i + 3] >= 0 for i in (0, 3, 6))
    assert text[:, :29].all() and not text[:, 29:].any()
    assert picture.sum(1).tolist() == [1] * 3 and picture[:, 17].all()
    assert game.sum(1).tolist() == [mm.NUM_MOVES] * 3
    assert game[:, 4::4].all()
    kept = labels >= 0
    assert torch.equal(X[kept], labels[kept])
    words = [stream.vocab[i] for i in X[6, :5]]
    assert words[0] == '<game>' and words[1] == '0'
    assert words[4] in ('left', 'stay', 'right')
    assert stream.vocab[labels[3, 17]] in mm.DIGITS


class Oracle(nn.Module):
    """Plays as the expert does, from the stream alone, once it knows how."""

    def __init__(self, stream, counts):
        super().__init__()
        self.stream, self.counts, self.read = stream, counts, None

    def new_caches(self):
        return None

    def forward(self, new, caches=None, last=0):
        past = self.read
        self.read = new if past is None else torch.cat((past, new), 1)
        row, ball, paddle = (self.read[:, -3:] - self.stream.number).T
        before = torch.full_like(ball, mm.WIDTH)
        if past is not None:
            before = self.read[:, -6] - self.stream.number
        keys = 729 * before + 81 * row + 9 * ball + paddle
        scores = torch.zeros(len(new), 1, len(self.stream.vocab))
        kept = slice(self.stream.moves, self.stream.moves + 3)
        scores[:, 0, kept] = self.counts[keys]
        return scores


def test_a_model_plays_from_what_it_has_read(stream):
    model = Oracle(stream, mm.watch(mm.two_looks))
    game = mm.Catch(300, torch.Generator().manual_seed(5))
    moves = mm.play(model, stream, game)
    assert moves.shape == (300, mm.NUM_MOVES)
    assert game.caught().float().mean() > 0.95
    assert model.read.shape == (300, mm.GAME_LEN - 1)


def test_recall_and_names_by_a_model_that_knows(stream):
    class Knows(nn.Module):
        def forward(self, X, last=1):
            scores = torch.zeros(len(X), 1, len(stream.vocab))
            for i, row in enumerate(X.tolist()):
                words = [stream.vocab[j] for j in row]
                task = next(w for w in words if w in stream.facts.tasks)
                country = next(w for w in words if w in table)
                scores[i, 0, stream.facts.ids[table[country][task]]] = 1
            return scores

    table = corpora.facts.country_facts()
    assert mm.recall(Knows(), stream) == 1
    at = torch.arange(4)
    assert (
        mm.name_pictures(
            lambda X, last: nn.functional.one_hot(
                stream.digit + stream.labels[at], len(stream.vocab)
            )[:, None],
            stream,
            at,
        ).tolist()
        == stream.labels[at].tolist()
    )


def test_patches_are_those_of_pictures():
    assert patches(torch.zeros(2, 14, 14), 2).shape == (2, 49, 4)


def test_the_commonest_answer_by_hand():
    facts = types.SimpleNamespace(
        questions=torch.tensor([[1, 2, 3], [4, 5, 0]]),
        answers=torch.tensor([[7, 7, 8], [9, 6, 0]]),
    )
    assert mm.commonest_answers(facts) == pytest.approx(3 / 5)


def test_any_player_can_be_watched():
    counts = mm.watch(mm.one_look, 50, player=lambda g: -torch.ones(50).long())
    assert counts[:, 0].sum() == 50 * mm.NUM_MOVES
    assert counts[:, 1:].sum() == 0
