"""T5: relative positions, cross-attention, span corruption, generation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration

import utils
from published import published_config
from utils import T5

SENTINELS = torch.arange(99, 59, -1)


def small(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {
        'num_hiddens': 16,
        'num_heads': 2,
        'num_blks': 2,
        'max_len': 300,
        'head_width': 12,
        'ffn_num_hiddens': 24,
    }
    changes = {'vocab_size': 100, 'dropout': 0.0, **sizes, **changes}
    model = T5(published_config('t5-small', **changes)).eval()
    for p in model.parameters():  # attention and biases that matter
        torch.nn.init.normal_(p, std=0.3)
    return model


def texts(batch=3, num_steps=12, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(5, 60, (batch, num_steps), generator=g)


# Relative positions


def bucket_by_definition(offset, bidirectional, num_buckets, max_distance):
    """The paper's words, for one offset."""
    right, distance = 0, -min(offset, 0)
    if bidirectional:
        num_buckets //= 2
        right, distance = num_buckets * (offset > 0), abs(offset)
    exact = num_buckets // 2
    if distance < exact:
        return right + distance
    share = math.log(distance / exact) / math.log(max_distance / exact)
    return right + min(
        exact + int(share * (num_buckets - exact)), num_buckets - 1
    )


@pytest.mark.parametrize('bidirectional', [True, False])
@pytest.mark.parametrize('sizes', [(32, 128), (8, 20), (4, 3)])
def test_bucket_is_that_of_the_paper(bidirectional, sizes):
    offsets = torch.arange(-300, 301)
    ours = utils.bucket(offsets, bidirectional, *sizes)
    theirs = [
        bucket_by_definition(n, bidirectional, *sizes)
        for n in offsets.tolist()
    ]
    assert ours.tolist() == theirs


def test_bucket_at_the_edges():
    edges = torch.tensor([0, -1, -7, -8, -11, -12, -127, -128, -999])
    assert utils.bucket(edges, True).tolist() == [0, 1, 7, 8, 8, 9, 15, 15, 15]
    assert utils.bucket(-edges, True).tolist() == [
        0,
        17,
        23,
        24,
        24,
        25,
        31,
        31,
        31,
    ]
    edges = torch.tensor([5, 0, -15, -16, -113, -128, -999])
    assert utils.bucket(edges, False).tolist() == [0, 0, 15, 16, 31, 31, 31]


def test_one_table_per_stack_and_none_across():
    model = small()
    tables = [n for n, _ in model.named_parameters() if 'table' in n]
    assert tables == [
        'encoder.relative_bias.table.weight',
        'decoder.relative_bias.table.weight',
    ]
    X, Y = texts(), texts(seed=1)
    whole = model(X, Y)
    torch.nn.init.zeros_(model.decoder.relative_bias.table.weight)
    assert not model(X, Y).allclose(whole, atol=1e-3)


def test_bias_depends_on_the_distance_only():
    config = published_config('t5-small')
    bias = utils.RelativeBias(config, True)(40, 40)  # (1, 8, 40, 40)
    assert torch.equal(bias[..., 1:, 1:], bias[..., :-1, :-1])
    last = utils.RelativeBias(config, False)
    assert torch.equal(last(40, 40)[..., -3:, :], last(3, 40))


def test_config_refuses_buckets_that_do_not_fit():
    with pytest.raises(ValueError, match='num_buckets is 2'):
        published_config('t5-small', num_buckets=2)
    with pytest.raises(ValueError, match='max_distance is 16'):
        published_config('t5-small', max_distance=16)
    with pytest.raises(ValueError, match='head_width is 0'):
        published_config('t5-small', head_width=0)


# The model


def theirs_of(model):
    """The same weights in transformers' T5."""
    c = model.config
    gated = c.activation == 'gated_gelu'
    config = T5Config(
        vocab_size=c.vocab_size,
        d_model=c.num_hiddens,
        d_kv=c.head_width,
        d_ff=c.ffn_num_hiddens,
        num_layers=c.num_blks,
        num_heads=c.num_heads,
        dropout_rate=0.0,
        tie_word_embeddings=c.tie_weights,
        feed_forward_proj='gated-gelu' if gated else 'relu',
        relative_attention_num_buckets=c.num_buckets,
        relative_attention_max_distance=c.max_distance,
    )
    other = T5ForConditionalGeneration(config).eval()
    embeddings = 'shared', 'encoder.embed_tokens', 'decoder.embed_tokens'
    state = dict.fromkeys(
        [f'{name}.weight' for name in embeddings], model.token_embedding.weight
    )
    if not c.tie_weights:
        state['lm_head.weight'] = model.head.weight
        other.lm_head.weight = torch.nn.Parameter(model.head.weight.detach())
    for side in ('encoder', 'decoder'):
        stack = getattr(model, side)
        state[f'{side}.final_layer_norm.weight'] = stack.norm.weight
        for i, blk in enumerate(stack.blks):
            at = f'{side}.block.{i}.layer'
            parts = [('SelfAttention', blk.attention)]
            if side == 'decoder':
                parts.append(('EncDecAttention', blk.cross_attention))
            for j, (name, part) in enumerate(parts):
                QKV = part.layer.W_qkv.weight.chunk(3)
                QKVO = *QKV, part.layer.W_o.weight
                for letter, W in zip('qkvo', QKVO, strict=True):
                    state[f'{at}.{j}.{name}.{letter}.weight'] = W
                state[f'{at}.{j}.layer_norm.weight'] = part.norm.weight
            j, ffn = len(parts), blk.ffn.layer
            state[f'{at}.{j}.layer_norm.weight'] = blk.ffn.norm.weight
            wide = f'{at}.{j}.DenseReluDense'
            state[f'{wide}.wo.weight'] = ffn[-1].weight
            if gated:
                state[f'{wide}.wi_0.weight'] = ffn[0].W_gate.weight
                state[f'{wide}.wi_1.weight'] = ffn[0].W_in.weight
            else:
                state[f'{wide}.wi.weight'] = ffn[0].weight
        table = f'{side}.block.0.layer.0.SelfAttention.relative_attention_bias'
        state[f'{table}.weight'] = stack.relative_bias.table.weight
    missing, extra = other.load_state_dict(state, strict=False)
    assert set(missing) <= {'lm_head.weight'} and not extra
    return other


@pytest.mark.parametrize(
    'changes',
    [{}, {'activation': 'gated_gelu', 'tie_weights': False}],
    ids=['original', 'v1.1'],
)
def test_scores_are_those_of_transformers(changes):
    model = small(**changes)
    other = theirs_of(model)
    X, Y = texts(num_steps=200), texts(num_steps=150, seed=1)
    lens = torch.tensor([200, 7, 130])
    mask = (torch.arange(200) < lens[:, None]).long()
    with torch.no_grad():
        ours = model(X, Y, lens)
        theirs = other(
            input_ids=X, attention_mask=mask, decoder_input_ids=Y
        ).logits
    assert ours.allclose(theirs, atol=1e-4)


@pytest.mark.parametrize(
    'size, count',
    [
        ('small', 60_506_624),
        ('base', 222_903_552),
        ('large', 737_668_096),
        ('3b', 2_851_598_336),
        ('11b', 11_307_321_344),
    ],
)
def test_parameter_counts_are_those_of_the_checkpoints(size, count):
    with torch.device('meta'):
        model = T5(published_config(f't5-{size}'))
    assert sum(p.numel() for p in model.parameters()) == count


def test_three_patterns_by_perturbation():
    model, X, Y = small(), texts(1, 6)[0], texts(1, 5, seed=1)[0]

    def encoder(X):
        return model.encode(X)

    def across(X):
        return model(X, Y.expand(len(X), -1))

    def decoder(Y):
        return model(X.expand(len(Y), -1), Y)

    assert utils.reach(encoder, X).all()
    assert utils.reach(across, X).all()  # (5, 6)
    assert torch.equal(utils.reach(decoder, Y), utils.causal_mask(5))


def test_padding_changes_nothing_on_both_sides():
    model, X, Y = small(), texts(), texts(num_steps=9, seed=1)
    lens = torch.tensor([12, 4, 8])
    whole = model(X, Y, lens)
    for i, n in enumerate(lens):
        alone = model(X[i : i + 1, :n], Y[i : i + 1])
        assert alone.allclose(whole[i : i + 1], atol=1e-5)
    labels = Y.clone()
    labels[1, 4:] = -100
    longer = F.pad(labels, (0, 3), value=-100)
    a, n = utils.seq2seq_loss(model, (X, lens, labels))
    b, m = utils.seq2seq_loss(model, (F.pad(X, (0, 5)), lens, longer))
    assert n == m == 22 and a.allclose(b, atol=1e-5)
    assert not model(X, Y).allclose(whole, atol=1e-3)  # it would without mask


def test_loss_on_a_case_by_hand():
    class Uniform(torch.nn.Module):
        def forward(self, X, Y, valid_lens):
            assert Y.tolist() == [[0, 7, 8]]
            return torch.zeros(*Y.shape, 4).log_softmax(-1)

    labels = torch.tensor([[7, 8, -100]])
    with pytest.raises(IndexError):  # 7 is not among four classes
        utils.seq2seq_loss(Uniform(), (texts(1), None, labels))

    class Skewed(Uniform):
        def forward(self, X, Y, valid_lens):
            probs = torch.full((1, 3, 10), 0.05)
            probs[0, 0, 7], probs[0, 1, 8] = 0.55, 0.05
            probs[0, 1, 0] = 0.55
            return probs.log()

    loss, n = utils.seq2seq_loss(Skewed(), (texts(1), None, labels))
    assert n == 2
    assert loss.item() == pytest.approx(-math.log(0.55 * 0.05) / 2)


def test_cached_generation_is_uncached_generation():
    model, X = small(), texts(4)
    lens = torch.tensor([12, 5, 8, 1])
    memories, read = [], []
    model.encoder.register_forward_hook(lambda _, X, Y: memories.append(Y))
    across = model.decoder.blks[1].cross_attention.layer
    across.W_qkv.register_forward_hook(
        lambda _, X, Y: read.append(X[0] is memories[-1])
    )
    cached = utils.answer(model, X, lens, 20, temperature=0)
    assert sum(read) == 1  # keys and values of the memory, once
    plain = utils.answer(model, X, lens, 20, temperature=0, use_cache=False)
    assert cached.shape == (4, 20) and torch.equal(cached, plain)
    assert len(memories) == 2  # the encoder ran once for each
    assert sum(read) == 1 + 20
    alone = utils.answer(model, X[1:2, :5], None, 20, temperature=0)
    assert torch.equal(alone, cached[1:2])
    stop = cached[0, 3].item()
    stopped = utils.answer(model, X, lens, 20, temperature=0, stop=stop)
    first = (cached[0] == stop).nonzero()[0, 0]
    assert (stopped[0, first:] == stop).all()


def test_dropout_is_off_while_answering():
    model, X = small(dropout=0.5).train(), texts()
    a = utils.answer(model, X, None, 5, temperature=0)
    assert torch.equal(a, utils.answer(model, X, None, 5, temperature=0))
    with pytest.raises(ValueError, match='top_k is 0'):
        utils.answer(model, X, None, 5, top_k=0)
    assert all(module.training for module in model.modules())


def test_model_errors_name_value_and_limit():
    model, X = small(), texts()
    with pytest.raises(ValueError, match='301 tokens, more than max_len, 300'):
        model.encode(torch.ones(1, 301, dtype=torch.long))
    with pytest.raises(ValueError, match=r'token id 100 outside 0\.\.99'):
        model(X, torch.tensor([[100]]))
    with pytest.raises(ValueError, match=r'1 \+ 300 tokens'):
        utils.answer(model, X, None, 300)
    cross = model.decoder.blks[0].cross_attention.layer
    with pytest.raises(ValueError, match='num_hiddens = 16'):
        cross(torch.zeros(1, 2, 16), torch.zeros(1, 2, 8))


def test_attention_of_all_three_kinds_is_recorded():
    model, X, Y = small(), texts(2, 7), texts(2, 5)
    with utils.record_attention(model) as maps:
        model(X, Y)
    shapes = [tuple(m.shape[-2:]) for m in maps]
    assert shapes == [(7, 7)] * 2 + [(5, 5), (5, 7)] * 2
    assert all(m.sum(-1).allclose(torch.ones(1)) for m in maps)


# Span corruption


def restore(inputs, labels):
    """The text from input and target, token by token."""
    spans, span = {}, None
    for token in labels:
        if token in SENTINELS:
            span = spans.setdefault(token, [])
        elif token >= 0:
            span.append(token)
    text = []
    for token in inputs:
        text += spans[token] if token in SENTINELS else [token]
    return text, spans


def test_the_example_of_the_section():
    words = ['I', 'love', 'this', 'red', 'car']
    X = torch.tensor([[10, 11, 12, 13, 14]])
    hidden = torch.tensor([[False, True, False, True, True]])
    inputs, lens, labels = utils.corrupt_spans(
        X, torch.tensor([5]), hidden, SENTINELS
    )
    names = dict(
        zip(
            [10, 11, 12, 13, 14, 99, 98, 97],
            [*words, '<X>', '<Y>', '<Z>'],
            strict=True,
        )
    )
    assert [names[i] for i in inputs[0].tolist()] == [
        'I',
        '<X>',
        'this',
        '<Y>',
    ]
    target = ['<X>', 'love', '<Y>', 'red', 'car', '<Z>']
    assert [names[i] for i in labels[0].tolist()] == target
    assert lens.tolist() == [4]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(2, 60), min_size=1, max_size=8),
    st.floats(0.05, 0.9),
    st.floats(1, 6),
    st.integers(0, 10**6),
)
def test_input_and_target_give_back_the_text(lens, density, mean, seed):
    lens, g = torch.tensor(lens), torch.Generator().manual_seed(seed)
    num_steps = int(lens.max()) + 2
    X = torch.randint(5, 60, (len(lens), num_steps), generator=g)
    hidden = utils.choose_spans(lens, num_steps, density, mean, g)
    expected = (lens * density).round().long().clamp(min=1)
    assert torch.equal(hidden.sum(1), torch.minimum(expected, lens - 1))
    inputs, input_lens, labels = utils.corrupt_spans(
        X, lens, hidden, SENTINELS
    )
    for i, n in enumerate(lens):
        row = inputs[i, : input_lens[i]].tolist()
        text, spans = restore(row, labels[i].tolist())
        assert text == X[i, :n].tolist()
        used = [token for token in row if token in SENTINELS]
        assert used == SENTINELS[: len(used)].tolist()  # in order
        assert (
            len(spans) == len(used) + 1
            and spans[SENTINELS[len(used)].item()] == []
        )
        assert (inputs[i, input_lens[i] :] == 0).all()


def test_spans_have_the_density_and_the_mean_of_the_paper():
    lens = torch.full((400,), 512)
    hidden = utils.choose_spans(lens, 512, generator=torch.Generator())
    assert hidden.float().mean().item() == pytest.approx(0.15, abs=0.001)
    first = hidden & ~F.pad(hidden, (1, 0))[:, :-1]
    assert (hidden.sum() / first.sum()).item() == pytest.approx(3, abs=0.05)
    where = hidden.float().mean(0)  # every position has its chance
    assert where.min() > 0.02 and where.max() < 0.25


def test_span_errors_name_value_and_limit():
    lens = torch.tensor([3])
    with pytest.raises(ValueError, match=r'valid_lens is \[1\]'):
        utils.choose_spans(torch.tensor([1]), 5)
    with pytest.raises(ValueError, match=r'not in 2\.\.2'):
        utils.choose_spans(lens, 2)
    for density, mean in ((0.0, 3), (1.0, 3), (0.15, 0.5)):
        with pytest.raises(ValueError, match='density is'):
            utils.choose_spans(lens, 3, density, mean)
    hidden = torch.tensor([[True, False, True]])
    with pytest.raises(ValueError, match='2 spans and an end for 2'):
        utils.corrupt_spans(texts(1, 3), lens, hidden, SENTINELS[:2])


# Beam search


def plain(answers, stop=2):
    """Rows of ids up to the stop, with it."""
    rows = answers.tolist()
    return [row[: row.index(stop) + 1] if stop in row else row for row in rows]


def log_probability(model, X, row, valid_lens=None):
    Y = torch.tensor([[0, *row]])
    with torch.no_grad():
        scores = model(X, Y[:, :-1], valid_lens).log_softmax(-1)[0]
    return scores.gather(1, Y[0, 1:, None]).sum().item()


def test_one_beam_is_greedy():
    model, X = small(1, vocab_size=60), texts(8)
    lens = torch.tensor([12, 3, 7, 1, 12, 5, 9, 2])
    ids, total = utils.beam_search(model, X, lens, 9, num_beams=1)
    greedy = utils.answer(model, X, lens, 9, temperature=0, stop=2)
    assert plain(ids) == plain(greedy)
    for i, row in enumerate(plain(ids)):
        one = slice(i, i + 1)
        expected = log_probability(model, X[one], row, lens[one])
        assert total[i].item() == pytest.approx(expected, abs=1e-4)


def all_answers(model, X, num_tokens, vocab_size, stop=2):
    """Every answer that ends, or has all of its tokens, and its score."""
    found, beginnings = {}, [()]
    for n in range(1, num_tokens + 1):
        beginnings = [
            (*row, token) for row in beginnings for token in range(vocab_size)
        ]
        ended = [x for x in beginnings if x[-1] == stop or n == num_tokens]
        beginnings = [x for x in beginnings if x[-1] != stop]
        for row in ended:
            found[row] = log_probability(model, X, row)
    return found


@pytest.mark.parametrize('alpha', [0.0, 0.6, 1.5])
@pytest.mark.parametrize('seed', range(4))
def test_many_beams_find_the_best_of_all(seed, alpha):
    model = small(seed, vocab_size=4, num_blks=1)
    X = torch.tensor([[3, 1, 1]])
    ids, total = utils.beam_search(model, X, None, 3, 40, alpha=alpha)
    found = all_answers(model, X, 3, 4)

    def score(row):
        return found[row] / len(row) ** alpha

    best = max(found, key=score)
    assert plain(ids) == [list(best)]
    assert total.item() == pytest.approx(found[best], abs=1e-4)


def test_answers_that_have_ended_stay():
    model, X = small(3, vocab_size=6), texts(6) % 6
    ids, _ = utils.beam_search(model, X, None, 12, 3)
    stops = [row.index(2) for row in ids.tolist() if 2 in row]
    assert stops  # some do end
    for row in ids.tolist():
        if 2 in row:
            assert set(row[row.index(2) :]) == {2}


def test_beams_need_no_company_and_no_padding():
    model, X = small(5, vocab_size=60), texts(3)
    lens = torch.tensor([12, 4, 7])
    ids, total = utils.beam_search(model, X, lens, 6, 3)
    for i, n in enumerate(lens):
        alone, own = utils.beam_search(model, X[i : i + 1, :n], None, 6, 3)
        assert plain(alone) == plain(ids[i : i + 1])
        torch.testing.assert_close(own, total[i : i + 1])


def test_fewer_than_one_beam_is_refused():
    with pytest.raises(ValueError, match='num_beams is 0, below 1'):
        utils.beam_search(small(), texts(), num_beams=0)
