"""The studies of pictures: plans, models, cheapest rows made again."""

import dataclasses
import math
import shlex
from unittest import mock

import pytest
import torch
from execute import CHAPTER

import pictures
import utils
from studies import digits, hidden_patches, pixels, runner

STUDIES = digits, hidden_patches, pixels
DIGITS = digits.Run('ViT', 0)
HIDDEN = hidden_patches.Run('MAE', 0, 10)
PIXELS = pixels.Run('row by row', 0)


def options(study, *words):
    return runner.arguments(study.STUDY, ['none.csv', *words])


def recorded(study):
    path = CHAPTER / 'studies' / f'{study.STUDY.name}.csv'
    return study.STUDY.read(path)


# ---- Runs and what is measured ----


@pytest.mark.parametrize(
    ('run', 'change', 'message'),
    [
        (DIGITS, {'model': 'mlp'}, "model is 'mlp', not one of"),
        (DIGITS, {'pool': 'max'}, "pool is 'max', not one of"),
        (DIGITS, {'scored': 'train'}, "scored is 'train', not one of"),
        (DIGITS, {'window': 3}, r'window is 3, not one of \(2, 4, 8\)'),
        (DIGITS, {'distorted': 2}, r'distorted is 2, not one of \(0, 1\)'),
        (DIGITS, {'num_steps': 0}, 'num_steps is 0, below 1'),
        (DIGITS, {'num_pictures': 31}, 'num_pictures is 31, below 32'),
        (DIGITS, {'num_pictures': 4001}, 'num_pictures is 4001, > 4000'),
        (
            DIGITS,
            {'num_pictures': 3501, 'scored': 'validation'},
            'num_pictures is 3501, > 3500',
        ),
        (DIGITS, {'lr': math.nan}, 'lr is nan, not above 0'),
        (HIDDEN, {'num_steps': -1}, 'num_steps is -1, below 0'),
        (HIDDEN, {'tuning_steps': 0}, 'tuning_steps is 0, below 1'),
        (HIDDEN, {'seed': -1}, 'seed is -1, below 0'),
        (PIXELS, {'order': 'columns'}, "order is 'columns', not one of"),
        (PIXELS, {'num_hiddens': 48}, 'num_hiddens is 48, not one of'),
        (PIXELS, {'num_steps': 0}, 'num_steps is 0, below 1'),
        (PIXELS, {'dropout': 1.0}, r'dropout is 1.0, outside \[0, 1\)'),
        (PIXELS, {'lr': 0.0}, 'lr is 0.0, not above 0'),
    ],
)
def test_what_is_no_run_is_refused(run, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(run, **change)


@pytest.mark.parametrize('study', STUDIES)
@pytest.mark.parametrize('value', [-1, math.nan])
def test_a_measure_below_zero_or_no_number_is_refused(study, value):
    names = [field.name for field in dataclasses.fields(study.Measured)]
    for name in names:
        values = dict.fromkeys(names, 1) | {name: value}
        with pytest.raises(ValueError, match=f'{name} is {value}, below 0'):
            study.Measured(**values)


# ---- The plans ----


@pytest.mark.parametrize('study', STUDIES)
def test_plans_begin_with_a_cheap_run_and_have_all_seeds(study):
    first, *plan = study.plan([], options(study))
    assert len({first, *plan}) == len(plan) + 1
    trained = [run for run in plan if run.cost > 1]
    assert first.cost * 10 < min(run.cost for run in trained)
    changes = {run.change for run in plan}
    assert changes == {*study.CHANGES}
    for change in changes:
        rows = [run for run in plan if run.change == change]
        assert {run.seed for run in rows} == {0, 1, 2}
    few = study.plan([], options(study, '--seeds', '1'))
    assert {run.seed for run in few} == {0}


def test_the_plan_of_digits_has_all_amounts_and_rates():
    plan = digits.plan([], options(digits))
    scored = [run for run in plan if run.scored == 'validation']
    assert len(scored) == 9 and len({run.lr for run in scored}) == 6
    for change in digits.AMOUNT:
        for distorted in (0, 1):
            amounts = [
                run.num_pictures
                for run in plan
                if (run.change, run.distorted) == (change, distorted)
                and not run.shuffled
                and run.seed == 1
            ]
            assert amounts == [*digits.AMOUNTS]
    for run in plan:  # each with the rate of its model
        if run.scored == 'test' and run.model not in digits.FITTED:
            times = 3 if 'higher rate' in run.change else 1
            assert run.lr == times * digits.RATES[run.model]


@pytest.mark.parametrize(('number', 'copies'), [(100, 64), (1600, 4)])
def test_fewer_pictures_get_more_distorted_copies(number, copies):
    run = digits.run_of('SVM', 0, num_pictures=number, distorted=1)
    X, y, *_ = digits.data_of(run)
    fitted = []

    class Model:
        def fit(self, X, y):
            fitted.append((X, y))

    with mock.patch.object(digits, 'SVC', lambda C: Model()):
        digits.fit(run, X, y)
    ((inputs, labels),) = fitted
    assert inputs.shape == ((1 + copies) * number, 784)
    assert inputs[:number].equal(X.flatten(1))
    assert labels.equal(y.repeat(1 + copies))


def test_an_unknown_change_is_refused(capsys):
    for study in (hidden_patches, pixels):
        with pytest.raises(SystemExit):
            options(study, '--changes', 'nothing')
        assert "'nothing' is not one of" in capsys.readouterr().err


# ---- Data and models ----


def test_the_same_pictures_are_drawn_for_all_models():
    run = digits.Run('ViT', 1, num_pictures=100)
    X, y, Z, z = digits.data_of(run)
    assert X.shape == (100, 28, 28) and Z.shape == (1000, 28, 28)
    assert y.bincount().tolist() == 10 * [10] and len(z) == 1000
    other = dataclasses.replace(run, model='swin')
    W, *rest = digits.data_of(other)
    assert W.equal(X[:, 2:26, 2:26]) and rest[0].equal(y)
    seed = dataclasses.replace(run, seed=2)
    assert not digits.data_of(seed)[0].equal(X)
    aside = dataclasses.replace(run, scored='validation')
    X, y, Z, z = digits.data_of(aside)
    assert Z.equal(digits.load()['train'][0][3500:])


def test_shuffling_moves_patches_alike_in_all_pictures():
    run = digits.Run('ViT', 0, num_pictures=100)
    X, _, Z, _ = digits.data_of(run)
    V, _, W, _ = digits.data_of(dataclasses.replace(run, shuffled=1))
    before, after = (pictures.patches(T, 7) for T in (X, V))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    assert after.equal(before[:, order])
    assert pictures.patches(W, 7).equal(pictures.patches(Z, 7)[:, order])


@pytest.mark.parametrize(
    ('change', 'more'),
    [('no positions', 0), ('mean of patches', 16), ('ViT', 17)],
)
def test_variants_of_a_vit(change, more):
    model = digits.build(digits.run_of(change, 0))
    assert model.pos_embedding.weight.requires_grad == (more > 0)
    if not more:
        assert not model.pos_embedding.weight.any()
    assert model.encode(torch.rand(2, 28, 28)).shape[1] == (more or 17)


def test_equal_steps_are_equal_work():
    budget = 1500 * pictures.count_products(digits.build(DIGITS))
    for change in ('Swin', 'windows that stay', 'all pairs'):
        run = digits.run_of(change, 0)
        one = pictures.count_products(digits.build(run))
        assert digits.equal_steps(run) * one == pytest.approx(budget, rel=1e-3)


def test_a_run_that_diverges_is_a_row(monkeypatch):
    def broken(model, batch):
        return sum(p.sum() for p in model.parameters()) * math.nan, 1

    monkeypatch.setattr(pictures, 'class_loss', broken)
    run = digits.Run('ViT', 0, num_pictures=100, num_steps=2)
    measured = digits.execute(run, options(digits, '--device', 'cpu'), None)
    assert measured.accuracy == 0
    monkeypatch.setattr(pictures, 'mae_loss', broken)
    run = dataclasses.replace(HIDDEN, num_steps=2)
    asked = options(hidden_patches, '--device', 'cpu')
    assert hidden_patches.execute(run, asked, None).error == math.inf
    monkeypatch.setattr(utils, 'lm_loss', broken)
    run = dataclasses.replace(PIXELS, num_steps=2)
    measured = pixels.execute(run, options(pixels, '--device', 'cpu'), None)
    assert measured.bits == math.inf and measured.probe_4 == 0


def test_labels_are_none_of_the_pictures_that_choose_rates():
    X, _ = hidden_patches.labeled(100, 0)
    assert X.shape == (100, 24, 24)
    aside = hidden_patches.middles()['last'][0]
    assert torch.cdist(X.flatten(1), aside.flatten(1)).min() > 0
    pictures_, kept = hidden_patches.test_batch()
    assert pictures_.equal(hidden_patches.middles()['test'][0])
    assert kept.shape == (1000, 9)
    assert hidden_patches.test_batch()[1].equal(kept)


def test_the_better_rate_on_validation_is_taken(monkeypatch):
    rates = []

    def train(model, batches, loss_fn, num_steps, lr, **more):
        rates.append(lr)

    shares = iter([0.5, 0.9, 0.7, 0.2])  # validation, test; and again
    monkeypatch.setattr(utils, 'train', train)
    monkeypatch.setattr(
        pictures, 'share_right', lambda model, X, y: next(shares)
    )
    start = hidden_patches.build(0).encoder.state_dict()
    assert hidden_patches.tuned(HIDDEN, start, 100) == 0.2
    assert rates == [*hidden_patches.RATES]


def test_pixels_in_another_order_are_the_same_pixels():
    (X, _), (Z, _) = pixels.load().values()
    assert X.shape == (1437, 65) and Z.shape == (360, 65)
    assert (X[:, 0] == pixels.START).all() and X[:, 1:].max() == 16
    order = pixels.order_of(pixels.Run('x', 0, order='random'))
    assert order[0] == 0 and sorted(order.tolist()) == list(range(65))
    assert pixels.order_of(PIXELS).tolist() == list(range(65))
    assert order.tolist() != list(range(65))


def test_bits_and_states():
    torch.manual_seed(0)
    model = utils.GPT(PIXELS.config).eval()
    model.head.weight.data.zero_()
    X = pixels.load()['test'][0][:20]
    assert pixels.bits(model, X) == pytest.approx(math.log2(18), abs=1e-4)
    found = pixels.states(model, X)
    assert len(found) == 5 and found[0].shape == (20, 32)
    with torch.no_grad():
        last = model.encode(X)
    H = model.norm(found[-1]).detach()
    assert not torch.allclose(H, found[-1])
    assert last.mean(1).shape == H.shape


# ---- The recorded rows ----


@pytest.mark.parametrize('study', STUDIES)
def test_records_are_those_of_their_commands_and_whole(study):
    rows, unfinished = recorded(study)
    assert unfinished == b''
    plan = set()
    for command in {row.made.command for row in rows}:
        words = shlex.split(command)
        assert words[:2] == ['studies', study.STUDY.name]
        asked = runner.arguments(study.STUDY, words[2:])
        plan |= set(study.plan(rows, asked))
    plan = {study.STUDY.as_written(run) for run in plan}
    assert {row.run for row in rows} == plan
    assert {run.seed for run in plan} == set(range(3))


@pytest.mark.slow
@pytest.mark.parametrize('study', STUDIES)
def test_the_cheapest_recorded_row_can_be_made_again(study):
    rows, _ = recorded(study)
    row = rows[0]
    assert row.run.num_steps == study.FEW_STEPS
    again = runner.repeat(study.STUDY, row, device='cpu')
    for name, value in vars(row.measured).items():
        if name != 'seconds':
            near = pytest.approx(value, rel=0.02, abs=0.03)
            assert getattr(again, name) == near, name
