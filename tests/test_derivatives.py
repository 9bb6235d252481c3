"""RoBERTa, ALBERT, SpanBERT, DistilBERT, ELECTRA and XLNet, piece by piece."""

import dataclasses
import functools
import itertools

import pytest
import torch
from torch.nn import functional as F

import derivatives
import utils
from corpora import BOS, MASK, NUM_SPECIAL, SEP
from utils import BERT, Config

CONFIG = Config(30, num_hiddens=16, num_blks=2, max_len=24, init_std=0.3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def texts(lens, seed=0):
    """Texts that begin with <bos> and end with <sep>, and their lengths."""
    lens = torch.tensor(lens)
    X = torch.randint(
        NUM_SPECIAL, 30, (len(lens), int(lens.max())), generator=seeded(seed)
    )
    X[:, 0] = BOS
    X[range(len(X)), lens - 1] = SEP
    return X * (torch.arange(X.shape[1]) < lens[:, None]), lens


def masked_batch(lens=(12, 9, 7)):
    X, lens = texts(lens)
    inputs, labels = utils.mask_tokens(X, 30, 0.4, generator=seeded())
    return inputs, torch.zeros_like(X), lens, labels


def sides(number=200):
    A = torch.arange(number)[:, None] + NUM_SPECIAL
    return A, A + 1000


# ---- Pairs ----


def test_foreign_pairs_are_foreign():
    A, B = sides()
    X, segments, lens, is_next = derivatives.foreign_pairs(A, B, seeded())
    assert (lens == 5).all() and segments[0].tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(X[:, 1:2], A)
    follows = X[:, 3] == B[:, 0]
    assert follows[is_next == 1].all()
    assert follows[is_next == 0].float().mean() < 0.05
    assert 0.4 < is_next.float().mean() < 0.6


def test_swapped_pairs_are_swapped():
    A, B = sides()
    A = F.pad(A, (0, 2))  # texts of two widths
    X, segments, lens, in_order = derivatives.swapped_pairs(A, B, seeded())
    assert (lens == 5).all() and segments[0].tolist() == [0, 0, 0, 1, 1]
    first, second = X[:, 1], X[:, 3]
    expected = torch.where(in_order == 1, A[:, 0], B[:, 0])
    assert torch.equal(first, expected)
    assert torch.equal(first + second, A[:, 0] + B[:, 0])
    assert 0.4 < in_order.float().mean() < 0.6


# ---- Spans ----


def test_lengths_of_spans_add_up():
    totals = torch.tensor([1, 7, 40])
    lengths = derivatives.draw_lengths(totals, generator=seeded())
    assert torch.equal(lengths.sum(1), totals)
    assert lengths.max() <= 10
    many = torch.full((500,), 600)
    lengths = derivatives.draw_lengths(many, generator=seeded())
    mean = lengths[lengths > 0].float().mean().item()
    assert mean == pytest.approx(3.8, abs=0.04)
    short = derivatives.draw_lengths(many, longest=2, generator=seeded())
    ones = (short == 1).sum() / (short > 0).sum()
    assert ones.item() == pytest.approx(1 / 1.8, abs=0.01)


def test_spans_do_not_touch():
    lens = torch.tensor([3, 5, 12, 40, 40])
    span = derivatives.number_spans(lens, 40, 0.3, seeded())
    for row, n in zip(span.tolist(), lens.tolist(), strict=True):
        assert row[0] == row[n - 1] == 0 and not any(row[n:])
        assert sum(x > 0 for x in row) == max(1, round(0.3 * (n - 2)))
        runs = [x for x, y in zip(row, [0, *row], strict=False) if x != y]
        runs = [x for x in runs if x]
        assert runs == list(range(1, 1 + len(runs)))
        for x, y in itertools.pairwise(row):
            assert x == y or 0 in (x, y)


def test_bad_spans_are_refused():
    for rate in (0, 0.6):
        with pytest.raises(ValueError, match=f'rate is {rate}, outside'):
            derivatives.number_spans(torch.tensor([9]), 9, rate)
    with pytest.raises(ValueError, match='shortest text, 2, is below 3'):
        derivatives.number_spans(torch.tensor([9, 2]), 9, 0.3)


def test_a_span_is_hidden_as_a_whole():
    X, lens = texts([400] * 20)
    X[:, 200] = SEP  # in the middle, sometimes of a span
    span = derivatives.number_spans(lens, 400, 0.3, seeded())
    inputs, labels = derivatives.hide_spans(X, span, 30, seeded())
    chosen = labels != -100
    assert torch.equal(chosen, (span > 0) & (X >= NUM_SPECIAL))
    assert torch.equal(labels[chosen], X[chosen])
    assert torch.equal(inputs[~chosen], X[~chosen])
    kinds = []
    for row in range(20):
        for number in range(1, int(span[row].max()) + 1):
            at = chosen[row] & (span[row] == number)
            if not at.any():
                continue
            masks = (inputs[row][at] == MASK).float().mean().item()
            assert masks in (0, 1)
            same = (inputs[row][at] == X[row][at]).float().mean().item()
            kinds.append(2 if masks else int(same == 1))
    share = sum(kind == 2 for kind in kinds) / len(kinds)
    assert share == pytest.approx(0.8, abs=0.05)
    assert 0.05 < sum(kind == 1 for kind in kinds) / len(kinds) < 0.2


def test_borders_are_the_nearest_outside():
    span = torch.tensor([[0, 1, 1, 0, 2, 0, 0, 3, 0]])
    before, after = derivatives.borders(span)
    assert before.tolist() == [[0, 0, 0, 3, 3, 5, 6, 6, 8]]
    assert after.tolist() == [[0, 3, 3, 3, 5, 5, 6, 8, 8]]


def test_the_border_head_reads_borders_and_place_only():
    torch.manual_seed(0)
    model = derivatives.SpanBERT(CONFIG)
    span = torch.tensor([[0, 0, 1, 1, 1, 0, 0]])
    H = torch.randn(1, 7, 16)
    scores = derivatives.border_scores(model, H, span, span > 0)
    assert scores.shape == (3, 30)
    assert not scores[0].allclose(scores[1])  # the place tells them apart
    for i in range(7):
        changed = H.clone()
        changed[0, i] += 1 + torch.arange(16)
        other = derivatives.border_scores(model, changed, span, span > 0)
        assert other.allclose(scores) == (i not in (1, 5))


def test_both_span_losses_are_trained():
    torch.manual_seed(0)
    model = derivatives.SpanBERT(CONFIG)
    X, lens = texts([20, 15])
    span = derivatives.number_spans(lens, 20, 0.3, seeded())
    inputs, labels = derivatives.hide_spans(X, span, 30, seeded())
    batch = inputs, torch.zeros_like(X), lens, labels, span
    loss, num_labels = derivatives.span_bert_loss(model, batch)
    alone, same = utils.mlm_loss(model.bert, batch[:4])
    assert num_labels == same == (span > 0).sum()
    assert loss > alone + 1
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.border.parameters())
    assert model.place.weight.grad.abs().sum() > 0


# ---- Distillation ----


def test_the_soft_loss_by_hand():
    scores, target = torch.randn(2, 4, 6, generator=seeded())
    p, q = (x.div(3).softmax(-1) for x in (target, scores))
    expected = 9 * (p * (p / q).log()).sum(1).mean()
    assert derivatives.soft_loss(scores, target, 3).allclose(expected)
    assert derivatives.soft_loss(target, target).abs() < 1e-6


def test_each_weight_brings_its_loss():
    torch.manual_seed(0)
    teacher, student = BERT(CONFIG).eval(), BERT(CONFIG)
    batch = masked_batch()
    loss = functools.partial(derivatives.distil_loss, student, batch)
    hard, num_labels = loss(teacher, (0, 1, 0))
    alone, same = utils.mlm_loss(student, batch)
    assert hard.allclose(alone) and num_labels == same
    for weights in ((1, 0, 0), (0, 0, 1)):
        assert loss(student, weights)[0].abs() < 1e-5
        assert loss(teacher, weights)[0] > 0.01
    parts = [loss(teacher, w)[0] for w in torch.eye(3).tolist()]
    mean = (5 * parts[0] + 2 * parts[1] + parts[2]) / 8
    assert loss(teacher)[0].allclose(mean)
    loss(teacher)[0].backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_a_student_begins_with_the_first_blocks():
    torch.manual_seed(0)
    teacher = BERT(CONFIG)
    half = dataclasses.replace(CONFIG, num_blks=1)
    student = derivatives.first_blocks(BERT(half), teacher)
    taught = teacher.state_dict()
    for name, p in student.state_dict().items():
        assert torch.equal(p, taught[name]), name


# ---- ELECTRA ----


def electra(**options):
    torch.manual_seed(0)
    return derivatives.Electra(CONFIG, 8, **options)


def test_both_models_of_electra_share_one_embedding():
    model = electra()
    table = model.bert.token_embedding.weight
    assert model.generator.token_embedding.weight is table
    assert model.generator.mlm.decoder.weight is table
    assert model.generator.config.num_hiddens == 8


def test_what_is_replaced_is_what_the_generator_guessed_wrongly():
    model, batch = electra(), masked_batch((20, 20, 15))
    inputs, _, _, labels = batch
    original = torch.where(labels == -100, inputs, labels)
    X, replaced, loss, n = derivatives.replace_chosen(model.generator, batch)
    assert torch.equal(replaced > 0, original != X)
    assert 0 < replaced.sum() <= n == (labels != -100).sum()
    assert loss.isfinite() and not X.is_floating_point()
    # the generator sees masks, whatever stands there
    batch = (torch.where(labels == -100, inputs, 7), *batch[1:])
    torch.manual_seed(1)
    first = derivatives.replace_chosen(model.generator, batch)[0]
    torch.manual_seed(1)
    batch = (original, *batch[1:])
    assert torch.equal(
        first, derivatives.replace_chosen(model.generator, batch)[0]
    )


def test_the_discriminator_does_not_train_the_generator():
    batch = masked_batch((20, 15))
    grads = {}
    for weight in (0, 50):
        model = electra()
        derivatives.electra_loss(model, batch, weight)[0].backward()
        grads[weight] = model.generator.blks[0].ffn.layer[0].weight.grad
        found = model.bert.blks[0].ffn.layer[0].weight.grad.abs().sum()
        assert (found > 0) == (weight > 0)
    assert grads[0].equal(grads[50])


def test_chosen_tokens_only_or_all():
    batch = masked_batch((20, 15))
    losses = []
    for everywhere in (True, False):
        model = electra(everywhere=everywhere)
        torch.manual_seed(2)
        losses.append(derivatives.electra_loss(model, batch)[0].item())
    assert losses[0] != pytest.approx(losses[1])


# ---- XLNet ----


def test_the_end_of_an_order_is_predicted():
    X, _ = texts([20, 14, 8])
    rank = derivatives.draw_order(X, 1 / 6, seeded())
    for row, x, n in zip(rank, X, (3, 2, 1), strict=True):
        assert sorted(row[row > 0].tolist()) == list(range(1, n + 1))
        assert (x[row > 0] >= NUM_SPECIAL).all()
    places = torch.cat(
        [
            (derivatives.draw_order(X[:1], 1 / 6, seeded(i)) == 1).nonzero()
            for i in range(300)
        ]
    )[:, 1]
    assert set(places.tolist()) == set(range(1, 19))


def test_queries_read_what_comes_before_them_in_the_order():
    torch.manual_seed(0)
    model = BERT(CONFIG).eval()
    X, lens = texts([8, 6])
    rank = torch.tensor([[0, 2, 0, 1, 0, 3, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]])
    at = torch.tensor([[3, 1, 5], [2, 0, 0]])
    segments = torch.zeros_like(X)

    def queries(X):
        return derivatives.two_streams(model, X, segments, lens, rank, at)

    with torch.no_grad():
        H = queries(X)
        assert H.shape == (2, 3, 16)
        for j in range(8):
            changed = X.clone()
            changed[:, j] = 29 - X[:, j]
            moved = ~queries(changed).isclose(H, atol=1e-6).all(-1)
            assert moved[0].tolist() == [
                bool(rank[0, j] < rank[0, i]) for i in at[0]
            ]
            assert moved[1, 0].item() == (j != 2 and j < 6)


def test_the_loss_of_permutations():
    torch.manual_seed(0)
    model = BERT(CONFIG)
    X, lens = texts([20, 14])
    rank = derivatives.draw_order(X, generator=seeded())
    batch = X, torch.zeros_like(X), lens, rank
    loss, num_labels = derivatives.xlnet_loss(model, batch)
    assert num_labels == 5 and loss.isfinite()
    last = rank == rank.amax(1, keepdim=True)
    at = last.long().argmax(1, keepdim=True)
    H = derivatives.two_streams(model, *batch, at)[:, 0]
    alone, _ = utils.token_loss(model.mlm(H), X[last])
    batch = (X, batch[1], lens, last.long())
    few, n = derivatives.xlnet_loss(model, batch)
    assert n == 2 and not few.allclose(loss)
    assert alone.isfinite()


# ---- Probes ----


def test_probes_read_features():
    X, lens = texts([12] * 60)
    X[:, 1:11] = 20
    classes = torch.arange(60) % 2
    X[range(60), 3] = 10 + classes

    def encode(X, segments, lens):
        return F.one_hot(X, 30).float()

    labels = torch.full_like(X, -100)
    labels[:, 3] = classes
    for features, truth in (
        (derivatives.word_features, labels),
        (derivatives.hidden_features, None),
        (derivatives.text_features, classes),
    ):
        if truth is None:
            truth = torch.stack([torch.full((60,), 3), classes], 1)
        data = X, torch.zeros_like(X), lens, truth
        found = features(encode, data)
        assert len(found[0]) == 60 and torch.equal(found[1], classes)
        right = derivatives.probe(
            [part[:40] for part in found], [part[40:] for part in found]
        )
        assert right > 0.9
