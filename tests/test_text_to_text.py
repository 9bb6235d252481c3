"""Text to text: one stack, operations, objectives, scores and mixtures."""

import itertools

import pytest
import text_to_text as ways
import torch
from text_to_text import OneStack
from torch.utils.flop_counter import FlopCounterMode

import corpora
import utils
from corpora import BOS, EOS, MASK

X = torch.tensor([[11, 12, 13, 14, 9, 15, 16, 9], [21, 22, 23, 0, 0, 0, 0, 0]])
LENS = torch.tensor([8, 3])


@pytest.fixture(scope='module')
def world():
    return corpora.TextTasks()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def one_stack(sees_input=True, **sizes):
    torch.manual_seed(0)
    model = OneStack(ways.small_config(40, 16, **sizes), sees_input).eval()
    for p in model.parameters():  # attention and biases that matter
        torch.nn.init.normal_(p, std=0.3)
    return model


# ---- One stack ----


def test_encode_puts_the_padding_first():
    model = one_stack()
    left = model.encode(X, LENS)
    assert left.tolist() == [X[0].tolist(), [0, 0, 0, 0, 0, 21, 22, 23]]
    assert torch.equal(model.encode(X), X)


@pytest.mark.parametrize('sees_input', [True, False])
@pytest.mark.parametrize('width', [3, 4, 9])
@torch.no_grad()
def test_padding_changes_nothing(sees_input, width):
    model = one_stack(sees_input)
    Y = torch.tensor([[0, 5, 6]])
    text = torch.tensor([[21, 22, 23] + [0] * (width - 3)])
    scores = model(text, Y, torch.tensor([3]))
    assert scores.shape == (1, 3, 40)
    torch.testing.assert_close(scores, model(text[:, :3], Y))
    text[:, 3:] = 30
    torch.testing.assert_close(scores, model(text, Y, torch.tensor([3])))


@pytest.mark.parametrize('sees_input', [True, False])
@torch.no_grad()
def test_only_a_prefix_is_read_in_both_directions(sees_input):
    """Text of 4 tokens and target of 3, as one input of the stack."""
    model = one_stack(sees_input, num_blks=1)

    def states(tokens):
        found = []
        hook = model.stack.register_forward_hook(
            lambda module, inputs, out: found.append(out)
        )
        model(tokens[:, :4], tokens[:, 4:])
        hook.remove()
        return found[0]

    pattern = utils.reach(states, torch.arange(11, 18))
    expected = utils.causal_mask(7)
    if sees_input:
        expected = utils.prefix_mask(4, 7)
    assert torch.equal(pattern, expected)


@torch.no_grad()
def test_scores_are_those_of_the_stack_by_hand():
    model = one_stack()
    text, Y = X[:1, :4], torch.tensor([[0, 5]])
    H = model.token_embedding(torch.cat((text, Y), 1))
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    mask[:, :4] = True
    H = model.stack(H, mask, 6)[:, 4:]
    expected = H @ model.token_embedding.weight.T / 4
    torch.testing.assert_close(model(text, Y), expected)


def test_one_stack_can_be_trained_and_answers(world):
    torch.manual_seed(0)
    model = OneStack(ways.small_config(len(world.words), 16, 1), False)
    pairs = world.summary(4)
    before = utils.evaluate(model, [tuple(pairs)], utils.seq2seq_loss)
    ways.fine_tune(model, pairs, 30, batch_size=4)
    after = utils.evaluate(model, [tuple(pairs)], utils.seq2seq_loss)
    assert after < before - 1
    written = ways.write(world, model, pairs, 3)
    assert len(written) == 4 and all(len(x.split()) <= 3 for x in written)


def test_no_steps_and_no_pairs_are_refused(world):
    model, pairs = one_stack(), world.summary(4)
    with pytest.raises(ValueError, match='num_steps is 0'):
        ways.fine_tune(model, pairs, 0)
    with pytest.raises(ValueError, match='0 texts'):
        ways.fine_tune(model, pairs[:0], 1)


# ---- Operations ----


def counted(model, num_read, num_written):
    """What PyTorch counts forward, less what is not needed or attention's.

    A cross-attention makes queries, keys and values of both texts, and needs
    one third of those of the target, two of those of the input.
    """
    text = torch.full((1, num_read), 5)
    Y = torch.full((1, num_written), 6)
    with (
        utils.record_attention(model) as maps,
        FlopCounterMode(display=False) as counter,
    ):
        model(text, Y)
    shapes = [m.shape[1:] for m in maps]
    width = model.config.head_width
    scores = sum(4 * h * q * k * width for h, q, k in shapes)
    spared = 0
    if isinstance(model, utils.T5):
        layers = [blk.cross_attention.layer for blk in model.decoder.blks]
        third = sum(2 * m.W_qkv.weight.numel() // 3 for m in layers)
        spared = third * (num_read + 2 * num_written)
    return counter.get_total_flops() - scores - spared


@pytest.mark.parametrize('sizes', [(7, 3), (1, 5), (4, 4)])
@pytest.mark.parametrize('name', ['encoder-decoder', 'prefix', 'decoder'])
def test_operations_are_those_that_pytorch_counts(name, sizes):
    """Products of matrices, forward; training takes three times as many.

    The count by parameters adds norms and biases of position, few.
    """
    torch.manual_seed(0)
    config = ways.small_config(400, 32)
    model = (
        utils.T5(config)
        if name == 'encoder-decoder'
        else OneStack(config, name == 'prefix')
    )
    total = counted(model, *sizes)
    ours = ways.operations(model, *sizes) / 3
    small = (
        2
        * sum(sizes)
        * sum(
            p.numel()
            for name, p in model.named_parameters()
            if p.dim() < 2 or 'relative_bias' in name
        )
    )
    assert total < ours <= total + small


def test_operations_by_hand():
    model = one_stack(num_blks=1)
    blk = 4 * 16 * 16 + 2 * 16 * 64
    other = 3 * 16 + 32 * 4  # three norms, the table of relative positions
    expected = 6 * ((blk + other) * 10 + 3 * 16 * 40)
    assert ways.operations(model, 7, 3) == expected


# ---- Objectives ----


def test_whole_by_hand():
    labels = ways.whole(X, LENS)
    assert labels.tolist() == [
        [11, 12, 13, 14, 9, 15, 16, 9, EOS],
        [21, 22, 23, EOS, *[-100] * 5],
    ]


def test_denoising_hides_some_and_asks_for_all(world):
    text = torch.randint(5, 900, (50, 20), generator=seeded())
    lens = torch.full((50,), 20)
    inputs, same, labels = ways.denoising(world, text, lens, seeded(1))
    changed = inputs != text
    assert same is lens and torch.equal(labels, ways.whole(text, lens))
    assert 0.2 < changed.float().mean() < 0.32
    assert 0.8 < (inputs[changed] == MASK).float().mean() < 0.98
    assert (ways.denoising(world, X, LENS, seeded())[0][X == 0] == 0).all()


def test_continuing_cuts_each_text_in_two(world):
    text, lens = X.repeat(300, 1), LENS.repeat(300)
    beginnings, cut, labels = ways.continuing(world, text, lens, seeded())
    whole = ways.whole(text, lens)
    for row, n, rest, told in zip(beginnings, cut, labels, whole, strict=True):
        told, rest = told[told != -100], rest[rest != -100]
        assert torch.equal(torch.cat((row[:n], rest)), told)
        assert (row[n:] == 0).all()
    assert set(cut[::2].tolist()) == set(range(1, 8))
    assert set(cut[1::2].tolist()) == {1, 2}  # of three tokens


def test_from_nothing_the_text_is_written(world):
    start, lens, labels = ways.from_nothing(world, X, LENS)
    assert start.tolist() == [[BOS], [BOS]] and lens.tolist() == [1, 1]
    assert torch.equal(labels, ways.whole(X, LENS))


def test_copying_asks_for_what_is_there(world):
    inputs, lens, labels = ways.copying(world, X, LENS)
    assert inputs is X and lens is LENS
    assert torch.equal(labels, ways.whole(X, LENS))


def test_spans_give_back_the_text(world):
    text = torch.randint(5, 60, (40, 20), generator=seeded())
    lens = torch.full((40,), 20)
    sizes = set()
    for seed in range(8):
        inputs, read, labels = ways.spans(world, text, lens, seeded(seed))
        sentinels = set(world.sentinels.tolist())
        for row, n, told, original in zip(
            inputs, read, labels, text, strict=True
        ):
            hidden, key = {}, None
            for token in told[told != -100].tolist():
                if token in sentinels:
                    key = token
                    hidden[key] = []
                else:
                    hidden[key].append(token)
            back = [hidden.get(x, [x]) for x in row[:n].tolist()]
            assert list(itertools.chain(*back)) == original.tolist()
        sizes.add(int(labels.shape[1]))
    assert len(sizes) > 3  # the density is drawn


def test_noised_texts_ask_for_the_text(world):
    stop = world.encode(['.'])[0, 0].item()
    text = torch.where(X == 9, stop, X)
    found = {}
    for name in ways.OBJECTIVES:
        inputs, lens, labels = ways.OBJECTIVES[name](
            world, text, LENS, seeded(4)
        )
        found[name] = inputs[0, : lens[0]].tolist()
        if name not in ('spans', 'language modeling'):
            assert torch.equal(labels, ways.whole(text, LENS)), name
    a, b = text[0, :5].tolist(), text[0, 5:].tolist()
    row = a + b
    assert found['sentence permutation'] in (row, b + a)
    turned = found['document rotation']
    assert turned in [row[i:] + row[:i] for i in range(8)]
    masked = found['token masking']
    assert len(masked) == 8
    assert all(x in (MASK, y) for x, y in zip(masked, row, strict=True))
    rest = iter(row)
    assert all(x in rest for x in found['token deletion'])
    for name in ('text infilling', 'infilling and permutation'):
        assert MASK in found[name]
        assert set(found[name]) <= {MASK, *row}


def test_batches_are_made_anew(world):
    texts = X.repeat(4, 2), LENS.repeat(4)  # wider than the longest
    batches = ways.objective_batches(world, texts, 'token masking', 3, 5)
    first, second = next(batches), next(batches)
    assert first[0].shape == (3, 8) and first[2].shape == (3, 9)
    assert not torch.equal(first[0], second[0])
    again = next(ways.objective_batches(world, texts, 'token masking', 3, 5))
    assert all(map(torch.equal, first, again))
    with pytest.raises(ValueError, match="objective is 'x', not one of"):
        ways.objective_batches(world, texts, 'x', 3)


# ---- Scores ----


def test_rouge_by_hand():
    text, truth = 'tom likes the car', 'tom likes the old car'
    assert ways.rouge_n(text, truth, 1) == pytest.approx(8 / 9)
    assert ways.rouge_n(text, truth, 2) == pytest.approx(4 / 7)
    assert ways.rouge_n(text, text, 2) == 1
    assert ways.rouge_n('a a a b', 'a b b', 1) == pytest.approx(4 / 7)
    assert ways.rouge_n('', truth, 1) == ways.rouge_n('tom', truth, 2) == 0


def test_slots():
    text = 'olivia weber dislikes the dark red car .'
    assert ways.slots(text) == {
        'who': 'olivia weber',
        'opinion': 'dislikes',
        'color': 'dark red',
        'thing': 'car',
    }
    nothing = dict.fromkeys(ways.SLOTS, '')
    assert ways.slots('') == nothing
    assert ways.slots('tom and anna') == nothing | {'who': 'tom and anna'}
    assert ways.slots('likes the car') == nothing | {
        'opinion': 'likes',
        'thing': 'car',
    }


def test_summary_scores_by_hand():
    truth = ['tom likes the red car .', 'may dislikes the blue rose .']
    written = ['tom likes the red car .', 'tom dislikes the blue car .']
    scores = ways.summary_scores(written, truth)
    assert scores == pytest.approx(
        {
            'ROUGE-1': (1 + 4 / 6) / 2,
            'ROUGE-2': (1 + 2 / 5) / 2,
            'ROUGE-L': (1 + 4 / 6) / 2,
            'who': 0.5,
            'opinion': 1,
            'color': 1,
            'thing': 0.5,
            'exact': 0.5,
        }
    )
    nothing = ways.summary_scores(['', ''], truth)
    assert set(nothing.values()) == {0}
    with pytest.raises(ValueError):
        ways.summary_scores(written[:1], truth)


def test_every_summary_has_its_slots(world):
    for text in ways.texts_of(world, world.summary(50).labels):
        assert all(ways.slots(text).values())


def test_exact_match():
    assert ways.exact_match(['a', 'b c', ''], ['a', 'b', '']) == 2 / 3


def test_texts_end_at_the_end(world):
    ids = world.encode(['tom likes <eos> tom'])
    labels = torch.tensor([[*world.encode(['red'])[0], EOS, -100]])
    assert ways.texts_of(world, ids) == ['tom likes']
    assert ways.texts_of(world, labels) == ['red']


# ---- Mixtures ----


def test_mixing_rates_by_hand():
    assert ways.mixing_rates([1, 3]).tolist() == [0.25, 0.75]
    assert ways.mixing_rates([1, 30], limit=4).tolist() == pytest.approx(
        [0.2, 0.8]
    )
    assert ways.mixing_rates([1, 16], temperature=2).tolist() == pytest.approx(
        [0.2, 0.8]
    )
    equal = ways.mixing_rates([5, 500], temperature=1e9)
    assert equal.tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    'change, message',
    [
        ({'sizes': [3, 0]}, 'sizes: 0 is not above 0'),
        ({'limit': -1}, 'limit: -1 is not above 0'),
        ({'temperature': 0.0}, 'temperature: 0.0 is not above 0'),
        ({'temperature': float('nan')}, 'temperature: nan is not above 0'),
    ],
)
def test_rates_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ways.mixing_rates(**{'sizes': [3, 4], **change})


def test_mixed_streams_come_by_their_rates():
    def draws(seed):
        streams = [itertools.repeat('a'), itertools.repeat('b')]
        stream = ways.mixed(streams, torch.tensor([0.2, 0.8]), seed)
        return list(itertools.islice(stream, 1000))

    found = draws(0)
    assert 0.16 < found.count('a') / 1000 < 0.24
    assert found == draws(0) != draws(1)
