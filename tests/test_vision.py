"""Tests of the Transformers on pictures, and of what they rival."""

import math

import pytest
import torch
from torch import nn

import pictures
import utils
from utils import Config


def config(num_hiddens=16, num_heads=2, num_blks=2, max_len=17, **more):
    return Config(
        10,
        num_hiddens=num_hiddens,
        num_heads=num_heads,
        num_blks=num_blks,
        max_len=max_len,
        **more,
    )


def swin(num_blks=2, shifted=True, window=4):
    torch.manual_seed(0)
    configs = (
        config(num_blks=num_blks, init_std=0.3),
        config(32, 4, init_std=0.3),
    )
    return pictures.Swin(configs, 3, 8, window, shifted).eval()


# ---- Patches ----


def test_patches_by_hand_and_back():
    X = torch.arange(48.0).view(2, 4, 6)
    P = pictures.patches(X, 2)
    assert P.shape == (2, 6, 4)
    assert P[0, :2].tolist() == [[0, 1, 6, 7], [2, 3, 8, 9]]
    assert P[1, 5].tolist() == [40, 41, 46, 47]
    assert pictures.from_patches(P, 4).equal(X)


@pytest.mark.parametrize('shape', [(1, 28, 27), (1, 27, 28)])
def test_patches_that_do_not_fill_are_refused(shape):
    with pytest.raises(ValueError, match='not filled by patches of 7 x 7'):
        pictures.patches(torch.zeros(shape), 7)


def test_distortion_moves_ink_a_little():
    X = torch.zeros(64, 28, 28)
    X[:, 12:16, 12:16] = 1
    generator = torch.Generator().manual_seed(0)
    Y, labels = pictures.distorted(X, torch.arange(64), generator)
    assert Y.shape == X.shape and labels.equal(torch.arange(64))
    assert Y.min() >= 0 and Y.max() <= 1
    ink = Y.sum((1, 2))
    assert ((ink > 10) & (ink < 24)).all() and ink.std() > 0.5
    at = torch.arange(28.0) - 13.5
    right = (Y.sum(1) * at).sum(1) / ink
    assert right.abs().max() < 3.5 and right.std() > 1
    again = torch.Generator().manual_seed(0)
    assert pictures.distort(X, again).equal(Y)


# ---- ViT ----


@pytest.mark.parametrize('class_token', [True, False])
def test_vit_scores_pictures(class_token):
    torch.manual_seed(0)
    model = pictures.ViT(config(), 7, class_token).eval()
    X = torch.rand(3, 28, 28)
    assert model(X).shape == (3, 10)
    assert model.encode(X).shape == (3, 16 + class_token, 16)
    hidden = torch.ones(1, 16 + class_token, dtype=torch.bool)
    hidden[0, -1] = False
    Z = X.clone()
    Z[:, 21:, 21:] += 1  # the last patch
    rest = slice(None, -1)
    first, second = (model.encode(Y, hidden)[:, rest] for Y in (X, Z))
    assert torch.allclose(first, second)
    assert not torch.allclose(model(X), model(Z))


def test_vit_refuses_more_patches_than_places():
    model = pictures.ViT(config(max_len=16), 7)
    with pytest.raises(ValueError, match='17 tokens, more than max_len, 16'):
        model(torch.rand(1, 28, 28))


def test_loss_and_share_of_right_answers():
    class Sure(nn.Module):
        def forward(self, X):
            return 99.0 * nn.functional.one_hot(X[:, 0, 0].long(), 10)

    X = torch.arange(8.0).view(8, 1, 1)
    labels = torch.arange(8) % 4
    assert pictures.share_right(Sure(), X, labels) == 0.5
    loss, number = pictures.class_loss(Sure(), (X, labels))
    assert loss.item() == pytest.approx(99 / 2) and number == 8


# ---- Swin ----


@pytest.mark.parametrize(
    ('side', 'size', 'shift', 'windows'),
    [
        (4, 2, 0, [0, 0, 1, 1]),
        (4, 2, 1, [0, 1, 1, 2]),
        (8, 4, 2, [0, 0, 1, 1, 1, 1, 2, 2]),
        (4, 4, 0, [0, 0, 0, 0]),
    ],
)
def test_windows(side, size, shift, windows):
    mask = pictures.window_mask(side, size, shift)
    for a in range(side**2):
        for b in range(side**2):
            same = all(
                windows[x] == windows[y]
                for x, y in zip(divmod(a, side), divmod(b, side), strict=True)
            )
            assert mask[a, b] == same


def test_merging_puts_neighbors_together():
    H = torch.arange(16.0).view(1, 16, 1)
    assert pictures.merge(H, 4)[0, :2].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_a_bias_for_each_offset_in_a_window():
    bias = pictures.PlaneBias(8, 4, 3)
    assert bias.table.weight.shape == (49, 3)
    assert bias().shape == (1, 3, 64, 64)
    number = bias.number.view(8, 8, 8, 8)
    inside = number[:4, :4, :4, :4]
    assert inside.unique().numel() == 49
    for d in range(4):
        assert inside[3, 0, 3, d] - inside[3, 0, 3, 0] == -d
    assert inside[0, 0, 1, 1] == number[4, 4, 5, 5]


@pytest.mark.parametrize('shifted', [True, False])
def test_swin_reads_what_its_masks_say(shifted):
    model = swin(3, shifted)
    X, seen = torch.rand(24, 24), torch.eye(64)

    def encode(X, number):
        H = model.embedding(pictures.patches(X, 3))
        for i in range(number):
            mask, bias = model.masks(0)[i], model.biases[0][i]()
            H = model.stages[0][i](H, mask, bias)
        return H

    for n in (1, 2, 3):
        seen = model.masks(0)[n - 1].float() @ seen
        moved = pictures.patch_reach(lambda X, n=n: encode(X, n), X, 3)
        assert moved.equal(seen > 0)
    assert int((seen > 0).sum()) == (4096 if shifted else 1024)
    assert pictures.patch_reach(model.encode, X, 3).all()


def test_swin_has_one_window_after_merging_and_scores_pictures():
    model = swin()
    assert all(mask.all() for mask in model.masks(1))
    assert model(torch.rand(3, 24, 24)).shape == (3, 10)
    assert model.encode(torch.rand(3, 24, 24)).shape == (3, 16, 32)
    wide = swin(window=8)
    assert all(mask.all() for mask in wide.masks(0))


# ---- MAE ----


def test_patches_that_stay_and_those_that_are_hidden():
    generator = torch.Generator().manual_seed(0)
    kept = pictures.choose_patches(500, 12, 3, generator)
    assert kept.shape == (500, 3) and (kept.diff(dim=1) > 0).all()
    share = kept.flatten().bincount(minlength=12) / 500
    assert (share - 0.25).abs().max() < 0.08
    hidden = pictures.hidden_patches(kept, 12)
    assert (hidden.sum(1) == 9).all()
    assert not hidden.gather(1, kept).any()
    H = torch.arange(24.0).view(2, 12, 1)
    rows = torch.tensor([[1, 4], [0, 11]])
    assert pictures.take(H, rows)[..., 0].tolist() == [[1, 4], [12, 23]]


def test_mae_reads_what_is_kept_and_is_judged_by_what_is_hidden():
    torch.manual_seed(0)
    encoder = pictures.ViT(config(max_len=16), 7, False)
    before = encoder.embedding.weight.clone()
    model = pictures.MAE(encoder, config(8, max_len=16)).eval()
    assert encoder.embedding.weight.equal(before)  # it may be trained
    X, kept = torch.rand(3, 28, 28), torch.tensor([[0, 5, 9, 15]] * 3)
    assert model.paint(X, kept).shape == (3, 16, 49)
    moved = pictures.patch_reach(
        lambda X: model.paint(X, kept[:1].expand(len(X), -1)), X[0], 7
    )
    seen = ~pictures.hidden_patches(kept, 16)[0]
    assert moved.equal(seen.expand(16, -1))
    loss, number = pictures.mae_loss(model, (X, kept))
    P, Q = model.paint(X, kept), pictures.patches(X, 7)
    expected = (P - Q)[:, ~seen].square().mean()
    assert number == 36 and loss.item() == pytest.approx(expected.item())


# ---- Reach, work ----


def test_reach_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match='not finite'):
        pictures.patch_reach(lambda X: X * math.nan, torch.rand(4, 4), 2)


def test_products_are_those_of_hooks():
    """Counted a second time, from the layers as they are called."""

    def counted(model, X, pairs):
        total = [pairs]

        def add(layer, inputs, output):
            places = output[0].numel() // layer.weight.shape[0]
            total[0] += places * layer.weight.numel()

        for layer in model.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                layer.register_forward_hook(add)
        model(X)
        return total[0]

    vit = pictures.ViT(config(), 7)
    X = torch.rand(1, 28, 28)
    pairs = 2 * 2 * 17 * 17 * 16
    ours = pictures.count_products(vit)
    # the class token is not embedded, the head reads one token
    assert counted(vit, X, pairs) == ours - 49 * 16 + 160
    cnn = pictures.CNN()
    assert counted(cnn, X, 0) == pictures.count_products(cnn)
    model = swin()
    pairs = 2 * 16 * (64 * 16 + int(model.masks(0)[1].sum()))
    pairs += 2 * 2 * 16 * 16 * 32
    ours = pictures.count_products(model)
    assert counted(model, X[:, :24, :24], pairs) == ours + 320


# ---- Rivals ----


def test_a_linear_guess_is_exact_where_pixels_are_linear():
    torch.manual_seed(0)
    known = torch.rand(400, 1) * torch.linspace(0.1, 1, 12)
    X = torch.rand(5, 1) * torch.linspace(0.1, 1, 12)
    seen = torch.rand(5, 12) < 0.5
    seen[:, 3] = True
    filled = pictures.fill_linear(X, seen, known, ridge=1e-6)
    assert torch.allclose(filled, X, atol=1e-2)
    assert filled[seen].equal(X[seen])


def test_nearest_pictures_fill_gaps():
    known = torch.tensor([[0.0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0.5, 0]])
    X = torch.tensor([[0.9, 1, 7, 7]])
    seen = torch.tensor([[True, True, False, False]])
    filled = pictures.fill_nearest(X, seen, known, number=2)
    assert torch.allclose(filled, torch.tensor([[0.9, 1, 0.25, 0]]))


def test_counts_predict_pixels():
    rows = [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]]
    known = torch.tensor(20 * rows)
    place = pictures.position_scores(known, 2)
    assert torch.allclose(place.sum(1), torch.ones(4))
    assert place[0, 0] == pytest.approx(81 / 82)
    probs = pictures.neighbor_scores(known, known, 2, 2, prior=0.1)
    assert probs.shape == (80, 4) and (probs > 0).all()
    # the last is told by its left and upper neighbor together only
    assert probs[:, 3].min() > 0.97 and probs[:, 1].max() < 0.6
    everything = torch.cartesian_prod(*4 * [torch.arange(2)])
    scores = pictures.neighbor_scores(everything, known, 2, 2)
    assert scores.prod(1).sum() == pytest.approx(1, abs=1e-4)


def test_linear_pixels_read_only_what_comes_before():
    torch.manual_seed(0)
    model = pictures.LinearPixels(6, 3)
    model.weight.data.normal_()
    X = torch.randint(3, (1, 6))
    with torch.no_grad():
        moved = utils.reach(model, X[0])
    assert moved.equal(utils.causal_mask(6).tril(-1))
    loss, number = pictures.pixel_loss(model, X)
    assert loss.isfinite() and number == 6


def test_xz_knows_what_it_has_read():
    torch.manual_seed(0)
    X = torch.randint(17, (50, 64))
    assert pictures.xz_bits(X, torch.randint(17, (50, 64))) > 4
    assert pictures.xz_bits(X, X) < 0.5
