"""BERT, ALBERT, masking, and the losses of their tasks."""

import math

import pytest
import torch
from torch import nn

import corpora
import finetuning
import utils
from published import published_config
from utils import BERT, Config


def small(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {'vocab_size': 11, 'num_hiddens': 16, 'num_blks': 2, 'max_len': 8}
    return BERT(Config(**{**sizes, **changes})).eval()


def ids(*shape, seed=0, low=5, high=11):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, shape, generator=generator)


def count(module):
    return sum(p.numel() for p in module.parameters())


def encoder_size(config):
    """Parameters of embeddings, blocks and pooler, as papers count them."""
    with torch.device('meta'):
        model = BERT(config)
    heads = count(model.mlm) - model.token_embedding.weight.numel()
    return count(model) - heads - count(model.nsp)


# ---- Sizes and parity ----


@pytest.mark.parametrize(
    ('name', 'num_params'),
    [
        ('bert-base', 109_482_240),
        ('bert-large', 335_141_888),
        ('albert-base', 11_683_584),
        ('albert-large', 17_683_968),
        ('albert-xlarge', 58_724_864),
        ('albert-xxlarge', 222_595_584),
    ],
)
def test_published_parameters(name, num_params):
    assert encoder_size(published_config(name)) == num_params


def test_heads_of_pretraining_are_counted_once():
    with torch.device('meta'):
        model = BERT(published_config('bert-base'))
    assert count(model) == 110_106_428  # with both heads, embedding shared
    assert model.mlm.decoder.weight is model.token_embedding.weight


def theirs_and_ours(name, theirs, ours):
    """Copy our weights into the model of transformers, by our names."""
    names = {
        'token_embedding': f'{name}.embeddings.word_embeddings',
        'pos_embedding': f'{name}.embeddings.position_embeddings',
        'segment_embedding': f'{name}.embeddings.token_type_embeddings',
        'embedding_norm': f'{name}.embeddings.LayerNorm',
    }
    with torch.no_grad():
        for p in ours.parameters():
            p.copy_(torch.randn_like(p) * 0.1)
    for our_name, their_name in names.items():
        module = theirs.get_submodule(their_name)
        module.load_state_dict(ours.get_submodule(our_name).state_dict())


def copy_block(blk, attention, output, norm1, ffn, norm2):
    """Copy one of our blocks into the modules of transformers."""
    ours = blk.attention.layer
    weights, biases = ours.W_qkv.weight.chunk(3), ours.W_qkv.bias.chunk(3)
    for layer, weight, bias in zip(attention, weights, biases, strict=True):
        layer.load_state_dict({'weight': weight, 'bias': bias})
    theirs = output, norm1, *ffn, norm2
    ours = (
        ours.W_o,
        blk.attention.norm,
        blk.ffn.layer[0],
        blk.ffn.layer[2],
        blk.ffn.norm,
    )
    for layer, our_layer in zip(theirs, ours, strict=True):
        layer.load_state_dict(our_layer.state_dict())


def test_bert_equals_bert_of_transformers():
    transformers = pytest.importorskip('transformers')
    theirs = transformers.BertForPreTraining(
        transformers.BertConfig(
            vocab_size=11,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=8,
        )
    ).eval()
    ours = small(pre_norm=False, norm_eps=1e-12)
    theirs_and_ours('bert', theirs, ours)
    for blk, layer in zip(ours.blks, theirs.bert.encoder.layer, strict=True):
        inner = layer.attention
        copy_block(
            blk,
            (inner.self.query, inner.self.key, inner.self.value),
            inner.output.dense,
            inner.output.LayerNorm,
            (layer.intermediate.dense, layer.output.dense),
            layer.output.LayerNorm,
        )
    heads = theirs.cls
    pairs = [
        (heads.predictions.transform.dense, ours.mlm.transform[0]),
        (heads.predictions.transform.LayerNorm, ours.mlm.transform[2]),
        (theirs.bert.pooler.dense, ours.pooler[0]),
        (heads.seq_relationship, ours.nsp),
    ]
    for layer, module in pairs:
        layer.load_state_dict(module.state_dict())
    with torch.no_grad():
        heads.predictions.bias.copy_(ours.mlm.decoder.bias)
    theirs.tie_weights()
    X, segments = ids(2, 7), torch.tensor([[0] * 3 + [1] * 4] * 2)
    valid_lens = torch.tensor([7, 4])
    with torch.no_grad():
        expected = theirs(
            X, utils.padding_mask(valid_lens, 7)[:, 0, 0].long(), segments
        )
        H = ours.encode(X, segments, valid_lens)
        scores, nsp = ours.mlm(H), ours.nsp(ours.pooler(H[:, 0]))
    for i, n in enumerate(valid_lens):
        close(scores[i, :n], expected.prediction_logits[i, :n])
    close(nsp, expected.seq_relationship_logits)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_albert_equals_albert_of_transformers():
    transformers = pytest.importorskip('transformers')
    theirs = transformers.AlbertForMaskedLM(
        transformers.AlbertConfig(
            vocab_size=11,
            embedding_size=4,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=8,
        )
    ).eval()
    ours = small(
        num_blks=3,
        pre_norm=False,
        norm_eps=1e-12,
        embedding_size=4,
        share_blks=True,
        activation='gelu_tanh',
    )
    theirs_and_ours('albert', theirs, ours)
    encoder = theirs.albert.encoder
    encoder.embedding_hidden_mapping_in.load_state_dict(
        ours.widen.state_dict()
    )
    layer = encoder.albert_layer_groups[0].albert_layers[0]
    inner = layer.attention
    copy_block(
        ours.blks[0],
        (inner.query, inner.key, inner.value),
        inner.dense,
        inner.LayerNorm,
        (layer.ffn, layer.ffn_output),
        layer.full_layer_layer_norm,
    )
    head = theirs.predictions
    head.dense.load_state_dict(ours.mlm.transform[0].state_dict())
    head.LayerNorm.load_state_dict(ours.mlm.transform[2].state_dict())
    with torch.no_grad():
        head.bias.copy_(ours.mlm.decoder.bias)
    theirs.tie_weights()
    X = ids(2, 7)
    with torch.no_grad():
        close(ours(X), theirs(X).logits)


def test_shared_blocks_add_no_parameters():
    assert count(small(share_blks=True).blks) == count(small().blks) // 2
    assert count(small(share_blks=True, num_blks=7)) == count(
        small(share_blks=True)
    )


# ---- The encoder ----


def test_every_token_sees_every_token_and_no_padding():
    model, X = small(), ids(6)
    assert utils.reach(model, X).all()
    padded = utils.reach(lambda X: model(X, None, torch.full((len(X),), 4)), X)
    assert padded[:4, :4].all()
    assert not padded[:4, 4:].any()


@pytest.mark.parametrize('pre_norm', [True, False])
def test_padding_changes_nothing(pre_norm):
    model, X = small(pre_norm=pre_norm), ids(2, 8)
    lens = torch.tensor([5, 3])
    long = model(X, torch.ones_like(X), lens)
    for i, n in enumerate(lens):
        short = model(X[i : i + 1, :n], torch.ones(1, n, dtype=torch.long))
        torch.testing.assert_close(long[i, :n], short[0])
    no_mask = model(X, torch.ones_like(X))
    assert not torch.allclose(no_mask[1, :3], long[1, :3], atol=1e-4)


def test_a_given_mask_is_combined_with_padding():
    model, X = small(), ids(1, 6)
    causal = utils.causal_mask(6)
    seen = utils.reach(
        lambda X: model(X, None, torch.full((len(X),), 4), causal), X[0]
    )
    assert torch.equal(seen[:4], causal[:4])
    assert not seen[4:, 4:].any() or torch.equal(
        seen[4:, 4:], torch.eye(2, dtype=torch.bool)
    )  # beyond the padding only the token itself remains, by the residual


def test_segments_and_order_matter():
    model, X = small(), ids(1, 6)
    assert not torch.allclose(model(X), model(X, torch.ones_like(X)))
    H, flipped = model.encode(X), model.encode(X.flip(1)).flip(1)
    assert not torch.allclose(H, flipped, atol=1e-4)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((torch.zeros(0, 3, dtype=torch.long),), r'\(0, 3\)'),
        ((torch.full((1, 3), 11),), r'token id 11 outside 0\.\.10'),
        ((torch.zeros(1, 9, dtype=torch.long),), '9 tokens, more than .* 8'),
        (
            (ids(1, 3), torch.zeros(1, 2, dtype=torch.long)),
            r'segments of shape \(1, 2\) for tokens of shape \(1, 3\)',
        ),
        ((ids(1, 3), torch.full((1, 3), 2)), r'segment 2 outside 0\.\.1'),
        ((ids(1, 3), None, torch.tensor([4])), r'\[4\], outside \[0, 3\]'),
    ],
)
def test_input_errors_name_value_and_limit(arguments, message):
    with pytest.raises(ValueError, match=message):
        small()(*arguments)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (
            lambda: published_config('bert-small'),
            "'bert-small', not one of .*'bert-base', 'bert-large'",
        ),
        (
            lambda: published_config('albert-tiny'),
            "'albert-tiny', not one of .*'albert-xxlarge'",
        ),
        (lambda: Config(9, embedding_size=0), 'embedding_size is 0, below 1'),
        (lambda: Config(9, num_segments=0), 'num_segments is 0, below 1'),
    ],
)
def test_config_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- Masking ----


def masked(rows=2000, **options):
    X = ids(rows, 50, high=1000)
    X[:, 0], X[:, 40], X[:, 45:] = 1, 4, 0
    generator = torch.Generator().manual_seed(1)
    return X, *utils.mask_tokens(X, 1000, generator=generator, **options)


def test_shares_of_the_masking():
    X, inputs, labels = masked()
    chosen, words = labels != -100, X >= 5
    assert abs(chosen.sum() / words.sum() - 0.15) < 0.005
    assert torch.equal(labels[chosen], X[chosen])
    assert torch.equal(inputs[~chosen], X[~chosen])
    hidden = (inputs == 3) & chosen
    kept = (inputs == X) & chosen
    replaced = chosen & ~hidden & ~kept
    for part, share in ((hidden, 0.8), (kept, 0.1), (replaced, 0.1)):
        assert abs(part.sum() / chosen.sum() - share) < 0.01
    assert inputs[replaced].min() >= 5
    assert len(inputs[replaced].unique()) > 700  # of 995 possible words


def test_special_tokens_are_never_chosen():
    X, inputs, labels = masked(rate=1.0)
    assert torch.equal(labels != -100, X >= 5)
    assert torch.equal(inputs[X < 5], X[X < 5])


def test_masking_follows_its_generator_and_leaves_the_input_alone():
    X, *first = masked()
    before = X.clone()
    _, *second = masked()
    assert all(map(torch.equal, first, second))
    assert torch.equal(X, before)
    again = utils.mask_tokens(X, 1000)
    assert not torch.equal(again[1], first[1])


@pytest.mark.parametrize('rate', [-0.1, 1.5])
def test_rate_outside_the_limits(rate):
    with pytest.raises(ValueError, match=f'rate is {rate}, outside'):
        utils.mask_tokens(ids(2, 3), 11, rate=rate)


# ---- Losses, by hand ----


class Table(nn.Module):
    """A stand-in for a model that returns the scores it was given."""

    def __init__(self, scores):
        super().__init__()
        self.scores = torch.tensor(scores)

    def encode(self, X, segments, valid_lens):
        return self.scores

    forward = encode

    def mlm(self, H):
        return H

    pooler = nsp = mlm


X = torch.tensor([[1, 5, 6], [1, 7, 0]])
REST = X, torch.zeros_like(X), torch.tensor([3, 2])
HALF, THIRD = math.log(1 / 2), math.log(1 / 3)


def test_mlm_loss_by_hand():
    quarter = math.log(1 / 4)
    scores = [[[0.0, 0.0], [HALF, HALF], [quarter, math.log(3 / 4)]]] * 2
    labels = torch.tensor([[-100, 1, 0], [-100, -100, -100]])
    loss, num_labels = utils.mlm_loss(Table(scores), (*REST, labels))
    assert num_labels == 2
    assert loss.item() == pytest.approx(-(HALF + quarter) / 2)


def test_bert_loss_adds_the_next_sentence_by_hand():
    scores = [
        [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]],
        [[0.0, math.log(3)], [0.0, 0.0], [0.0, 0.0]],
    ]
    labels = torch.tensor([[-100, 1, -100], [-100, 0, -100]])
    is_next = torch.tensor([1, 0])  # probabilities 1/2 and 1/4
    loss, num_labels = utils.bert_loss(Table(scores), (*REST, labels, is_next))
    assert num_labels == 2
    nsp = -(HALF + math.log(1 / 4)) / 2
    assert loss.item() == pytest.approx(-HALF + nsp)


def test_text_loss_by_hand():
    scores = [
        [[0.0, 0.0, 0.0], [1.0, 2.0, 1.0], [2.0, 1.0, 2.0]],
        [[0.0, math.log(4), 0.0], [0.0] * 3, [9.0, 0, 0]],
    ]
    labels = torch.tensor([2, 1])
    # The means are (1, 1, 1) and, without the padding, (0, log 2, 0).
    loss, num_labels = finetuning.text_loss(Table(scores), (*REST, labels))
    assert num_labels == 2
    assert loss.item() == pytest.approx(-(THIRD + HALF) / 2)


def test_tag_loss_by_hand():
    scores = [[[9.0, 0.0], [0.0, 0.0], [0.0, math.log(3)]]] * 2
    labels = torch.tensor([[-100, 0, 1], [-100, 1, -100]])
    loss, num_labels = finetuning.tag_loss(Table(scores), (*REST, labels))
    assert num_labels == 3
    assert loss.item() == pytest.approx(-(2 * HALF + math.log(3 / 4)) / 3)


def test_span_loss_by_hand():
    scores = [
        [[0.0, 0.0], [0.0, math.log(2)], [0.0, 0.0]],
        [[0.0, 0.0], [0.0, 0.0], [50.0, 50.0]],
    ]
    labels = torch.tensor([[2, 1], [0, 1]])  # the last column is padding
    loss, num_labels = finetuning.span_loss(Table(scores), (*REST, labels))
    assert num_labels == 4
    # first row 1/3 and 1/2, second row 1/2 and 1/2
    assert loss.item() == pytest.approx(-(THIRD + 3 * HALF) / 4)


def test_text_loss_of_the_first_token_by_hand():
    scores = [
        [[0.0, math.log(3)], [9.0, 0.0], [9.0, 0.0]],
        [[0.0, 0.0], [0.0, 9.0], [0.0, 9.0]],
    ]
    table, first = Table(scores), finetuning.first_scores
    torch.testing.assert_close(first(table, *REST), table.scores[:, 0])
    loss, num_labels = finetuning.text_loss(
        table, (*REST, torch.tensor([1, 0])), scores_fn=first
    )
    assert num_labels == 2
    assert loss.item() == pytest.approx(-(math.log(3 / 4) + HALF) / 2)


def test_regression_loss_by_hand():
    scores = [[[1.0], [2.0], [3.0]], [[1.0], [4.0], [99.0]]]  # 2 and 2.5
    labels = torch.tensor([1.0, 4.5])
    loss, num_labels = finetuning.regression_loss(
        Table(scores), (*REST, labels)
    )
    assert num_labels == 2
    assert loss.item() == pytest.approx((1 + 4) / 2)


def test_tag_scores_are_those_of_each_token():
    table = Table([[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]] * 2)
    assert torch.equal(finetuning.tag_scores(table, *REST), table.scores)


def test_a_batch_without_labels_adds_nothing():
    labels = torch.full((2, 3), -100)
    table = Table([[[0.0, 0.0]] * 3] * 2)
    assert utils.mlm_loss(table, (*REST, labels)) == (0.0, 0)


def test_frozen_features_stay_as_they_are():
    X, labels = ids(4, 6), torch.tensor([0, 1, 1, 0])
    batch = X, torch.zeros_like(X), torch.full((4,), 6), labels
    for frozen in (True, False):
        model = finetuning.Finetuned(small(), 2)
        model.bert.requires_grad_(not frozen)
        before = {name: p.clone() for name, p in model.named_parameters()}
        utils.train(model, [batch], finetuning.text_loss, 3, lr=0.1)
        changed = {
            name
            for name, p in model.named_parameters()
            if not torch.equal(p, before[name])
        }
        assert 'head.weight' in changed
        assert ('bert.blks.0.ffn.layer.0.weight' in changed) == (not frozen)
        if frozen:
            assert changed == {'head.weight', 'head.bias'}


# ---- Scores, and fine-tuning as a whole ----


def test_accuracy_by_hand():
    scores = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    labels = torch.tensor([1, 0, 0, -100])
    assert finetuning.accuracy(scores, labels).item() == pytest.approx(2 / 3)
    tags = torch.tensor([[0, -100], [1, 1]])
    found = finetuning.accuracy(scores.reshape(2, 2, 2), tags)
    assert found.item() == pytest.approx(1 / 3)


def test_exact_match_by_hand():
    first, last = [0.0, 5.0, 1.0], [-torch.inf, 0.0, 2.0]  # positions 1, 2
    scores = torch.tensor([[first, last]] * 4)
    labels = torch.tensor([[1, 2], [1, 1], [0, 2], [0, 0]])
    assert finetuning.exact_match(scores, labels).item() == 0.25


def test_correlation_by_hand():
    labels = torch.tensor([0.0, 1.0, 2.0])
    for scores, expected in (
        ([3.0, 5.0, 7.0], 1),
        ([1.0, 0.0, -1.0], -1),
        ([1.0, 0.0, 2.0], 0.5),
        ([1.0, 1.0, 1.0], math.nan),
    ):
        found = finetuning.correlation(torch.tensor(scores)[:, None], labels)
        assert found.item() == pytest.approx(expected, nan_ok=True)


def test_score_by_hand():
    table = Table([[[0.0, 1.0], [0.0, 1.0], [9.0, 0.0]]] * 2)
    test = corpora.Examples(*REST, torch.tensor([0, 1]))
    table.scores.requires_grad_()
    for scores_fn, expected in (
        (finetuning.text_scores, 1.0),
        (finetuning.first_scores, 0.5),
    ):
        task = finetuning.Task(
            finetuning.text_loss, scores_fn, finetuning.accuracy, 2
        )
        assert finetuning.score(task, table, test) == expected
    task = task._replace(score_fn=lambda scores, labels: scores.sum())
    assert finetuning.score(task, table, test) == 2.0
    with pytest.raises(ValueError, match='unpack'):
        finetuning.score(task, table, REST[:0])


def test_parts_of_many_texts_are_put_together_in_order():
    sizes, inputs = [], (torch.arange(501), torch.arange(501) * 2)

    def scores_fn(model, first, second):
        sizes.append(len(first))
        return model * first + second

    scores = finetuning.in_parts(scores_fn, 10, inputs)
    assert sizes == [250, 250, 1]
    assert scores.tolist() == [12 * i for i in range(501)]
    with pytest.raises(ValueError, match='shorter'):
        finetuning.in_parts(scores_fn, 10, (inputs[0], inputs[1][:250]))


TEXTS = finetuning.Task(
    finetuning.text_loss, finetuning.text_scores, finetuning.accuracy, 2
)


def texts_of_one_word(number=64):
    """The class is whether a text ends with the word 6 or with 7."""
    labels = torch.arange(number) % 2
    X = torch.cat([ids(number, 4, low=8), 6 + labels[:, None]], 1)
    lens = torch.full((number,), 5)
    return corpora.Examples(X, torch.zeros_like(X), lens, labels)


def test_fine_tuning_learns_and_leaves_the_encoder_as_it_was():
    bert, data = small(), texts_of_one_word()
    before = {name: p.clone() for name, p in bert.state_dict().items()}
    model = finetuning.fine_tune(bert, TEXTS, data, 40, lr=0.01)
    assert finetuning.score(TEXTS, model, data) == 1.0
    assert model.head.out_features == 2
    changed = model.bert.state_dict()
    assert before.keys() == changed.keys()
    for name, p in bert.state_dict().items():
        assert torch.equal(p, before[name]), name
    assert all(p.grad is None for p in bert.parameters())
    name = 'blks.0.ffn.layer.0.weight'
    assert not torch.equal(changed[name], before[name])


def test_a_seed_of_fine_tuning_is_one_result():
    bert, data = small(), texts_of_one_word()

    def head(seed):
        model = finetuning.fine_tune(bert, TEXTS, data, 3, seed)
        return model.head.weight

    torch.manual_seed(5)
    first = head(1)
    torch.manual_seed(6)
    assert torch.equal(first, head(1))
    assert not torch.equal(first, head(2))


def test_how_fine_tuning_trains(monkeypatch):
    """In batches of 16; a tenth of the steps goes up, to a tenth down."""
    calls = []
    monkeypatch.setattr(
        finetuning, 'train', lambda *told, **more: calls.append((told, more))
    )
    finetuning.fine_tune(small(), TEXTS, texts_of_one_word(), 50)
    (((model, batches, loss_fn, num_steps), more),) = calls
    assert isinstance(model, finetuning.Finetuned)
    assert loss_fn is finetuning.text_loss and num_steps == 50
    assert len(next(batches)[0]) == 16
    assert more == {
        'lr': 2e-3,
        'optimizer': 'adamw',
        'warmup': 5,
        'schedule': 'linear',
    }


def test_fine_tuning_of_nothing_is_refused():
    data = texts_of_one_word()
    with pytest.raises(ValueError, match='num_steps is 0, below 1'):
        finetuning.fine_tune(small(), TEXTS, data, 0)
    with pytest.raises(ValueError, match='0 texts in batches of 16'):
        finetuning.fine_tune(small(), TEXTS, data[:0], 5)


# ---- Batches ----


def test_batches_of_similar_length():
    lens = torch.randint(3, 30, (500,))
    X = torch.arange(500)[:, None] * 100 + torch.arange(40)
    data = X, X + 1, lens, torch.arange(500)
    batches = corpora.by_length(data, 16)
    seen, spread = [], 0
    for _ in range(-(-500 // 16)):
        rows, segments, n, labels = next(batches)
        assert rows.shape == segments.shape == (len(n), n.max())
        assert torch.equal(rows, X[labels, : n.max()])
        assert torch.equal(n, lens[labels])
        seen, spread = seen + labels.tolist(), spread + (n.max() - n).sum()
    assert sorted(seen) == list(range(500))
    assert spread / 500 < 2
    second = next(batches)[3]
    assert not torch.equal(second, next(corpora.by_length(data, 16))[3])


@pytest.mark.parametrize('rows', [0, 3])
def test_batches_of_nothing(rows):
    data = torch.zeros(rows, 2), torch.zeros(rows, 2), torch.ones(rows)
    with pytest.raises(ValueError, match=f'{rows} texts in batches of'):
        corpora.by_length(data, 0 if rows else 4)
