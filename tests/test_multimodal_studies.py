"""The studies of CLIP, DALL-E, Flamingo and Gato: plans, parts, records."""

import dataclasses
import shlex
import types

import pytest
import torch
from execute import CHAPTER
from torch import nn

import multimodal as mm
import utils
from studies import clip, dalle, flamingo, gato, runner

STUDIES = {'clip': clip, 'dalle': dalle, 'flamingo': flamingo, 'gato': gato}
NAMES = {
    'clip': clip.CHANGES,
    'dalle': dalle.MODELS,
    'flamingo': flamingo.CHANGES,
    'gato': gato.MODELS,
}
EACH = pytest.mark.parametrize('name', STUDIES)


def options(name, *words):
    return runner.arguments(STUDIES[name].STUDY, ['none.csv', *words])


def first_run(name):
    return STUDIES[name].Run(next(iter(NAMES[name])), 0)


# ---- Runs, what is measured, and plans ----


@pytest.mark.parametrize(
    'name, change, message',
    [
        ('clip', {'objective': 'labels'}, "objective is 'labels', not one"),
        ('clip', {'temperature': 'hot'}, "temperature is 'hot', not one"),
        ('clip', {'batch_size': 1}, 'batch_size is 1, below 2'),
        ('clip', {'text_blks': -1}, 'text_blks is -1, below 0'),
        ('clip', {'times': 0}, 'times is 0, below 1'),
        ('dalle', {'way': 'pixels'}, "way is 'pixels', not one"),
        ('dalle', {'num_hiddens': 2}, 'num_hiddens is 2, below 4'),
        ('flamingo', {'lm': 'thawed'}, "lm is 'thawed', not one"),
        ('flamingo', {'texts': 2}, 'texts is 2, not one'),
        ('flamingo', {'gates': 'ajar'}, "gates is 'ajar', not one"),
        ('flamingo', {'looks': 'up'}, "looks is 'up', not one"),
        ('flamingo', {'layers': 'last'}, "layers is 'last', not one"),
        ('gato', {'kinds': 'sounds'}, "kinds is 'sounds', not one"),
        ('gato', {'player': 'dreams'}, "player is 'dreams', not one"),
        ('gato', {'num_hiddens': 3}, 'num_hiddens is 3, below 4'),
    ],
)
def test_what_is_no_run_is_refused(name, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(first_run(name), **change)


@EACH
@pytest.mark.parametrize('change', [{'seed': -1}, {'num_steps': 0}, {'lr': 0}])
def test_what_no_study_takes_is_refused(name, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(first_run(name), **change)


@EACH
def test_a_measure_below_zero_is_refused(name):
    Measured = STUDIES[name].Measured
    fields = [field.name for field in dataclasses.fields(Measured)]
    for field in fields:
        values = dict.fromkeys(fields, 1) | {field: -1}
        with pytest.raises(ValueError, match=f'{field} is -1'):
            Measured(**values)


@EACH
def test_the_plan_has_each_name_with_each_seed_and_a_cheap_run_first(name):
    study = STUDIES[name]
    first, *plan = study.plan([], options(name, '--seeds', '2'))
    assert first.num_steps == study.FEW_STEPS
    assert first.cost * 10 < min(run.cost for run in plan)
    assert len(set(plan)) == len(plan) == 2 * len(NAMES[name])
    assert {run.seed for run in plan} == {0, 1}


@EACH
def test_one_thing_differs(name):
    fields = {f.name: f.default for f in dataclasses.fields(STUDIES[name].Run)}
    for settings in NAMES[name].values():
        assert set(settings) <= set(fields)
    if name in ('clip', 'flamingo'):
        for change, settings in NAMES[name].items():
            for key, value in settings.items():
                assert value != fields[key], change


def test_a_model_that_gato_does_not_have_is_refused():
    with pytest.raises(ValueError, match="'all, huge' is not one of"):
        gato.plan([], options('gato', '--models', 'all, huge'))


def test_three_specialists_are_about_as_large_as_one_for_all():
    sizes = {}
    for model, settings in gato.MODELS.items():
        blks = utils.GPT(gato.Run(model, 0, **settings).config(420)).blks
        sizes[model] = sum(p.numel() for p in blks.parameters())
    three = sum(sizes[f'{kind}, a third'] for kind in gato.KINDS)
    assert abs(three / sizes['all, middle'] - 1) < 0.05
    assert all(
        sizes[f'{kind}, middle'] == sizes['all, middle'] for kind in gato.KINDS
    )


# ---- Parts ----


def test_words_are_predicted_by_a_tower():
    to_ids = mm.Names(['A', 'B C'])
    torch.manual_seed(0)
    pictures, _ = clip.towers(to_ids)
    model = clip.WordPredictor(pictures, len(to_ids.words))
    X, texts = (torch.randn(2, 16, 49),), to_ids(['A', 'B C'])
    chances = model.words(*X).sigmoid()
    present = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 1]])
    by_hand = [
        torch.where(row > 0, chances[0], 1 - chances[0]).log().sum()
        for row in present
    ]
    assert torch.allclose(model(X, texts)[0], torch.stack(by_hand), atol=1e-4)
    loss, n = clip.word_loss(model, (X, texts))
    assert n == 2
    diagonal = model(X, texts).diagonal()
    assert loss.item() == pytest.approx(-diagonal.mean().item(), abs=1e-4)


def test_words_without_order_have_none():
    to_ids = mm.Names(['A B C'])
    torch.manual_seed(0)
    _, texts = clip.towers(to_ids, 0)
    _, ordered = clip.towers(to_ids, 2)
    both = to_ids(['A B C', 'C A B'])
    assert torch.allclose(*texts(*both), atol=1e-6)
    assert not torch.allclose(*ordered(*both), atol=1e-6)


def test_a_fixed_temperature_stays():
    run = clip.Run('no temperature', 0, **clip.CHANGES['no temperature'])
    model = clip.build(run, mm.Names(['A']))
    assert model.log_scale == 0 and not model.log_scale.requires_grad


def test_captions_that_are_asked_were_shown_or_not():
    digits = torch.randint(256, (100, 28, 28)).byte()
    data = mm.Captioned(digits, torch.arange(100) % 10)
    (tiles,), (words,) = next(dalle.caption_pairs(data, 0))
    shown = set(map(tuple, words.tolist()))
    assert len(shown) == 30 and tiles.shape == (30, mm.PICTURE_LEN)
    assert set(map(tuple, dalle.asked(False, 2).tolist())) <= shown
    assert not set(map(tuple, dalle.asked(True, 2).tolist())) & shown


def test_the_best_of_each_eight_is_chosen():
    class Fit(nn.Module):
        def pictures(self, tiles):
            return tiles.sum(1, keepdim=True)

        def texts(self, words):
            return torch.ones(len(words), 1)

    pictures = torch.zeros(16, 14, 14, dtype=torch.bool)
    pictures[5] = pictures[8] = True
    words = torch.zeros(16, 3, dtype=torch.long)
    assert dalle.best_by_clip(Fit(), pictures, words).tolist() == [5, 8]


def test_only_the_place_of_a_picture_looks_at_it():
    lm = utils.GPT(flamingo.small_config())
    sums = mm.Sums()
    X = mm.begun(sums.sums(torch.tensor([3]), torch.tensor([4]), True))
    after, at = (
        kind(lm, flamingo.small_config(), 6, sums.picture_id).mask(X, 2)
        for kind in (mm.Flamingo, flamingo.LooksAt)
    )
    assert after[0, 0, :, 0].int().tolist() == [0, 1, 1, 1, 1, 1, 1]
    assert at[0, 0, :, 0].int().tolist() == [0, 1, 0, 0, 0, 0, 0]


@pytest.fixture
def untrained(monkeypatch):
    state = utils.GPT(flamingo.small_config()).state_dict()
    monkeypatch.setattr(flamingo, 'language_model', lambda *args: state)


@pytest.mark.parametrize('change', flamingo.CHANGES)
def test_what_is_trained(change, untrained):
    run = flamingo.Run(change, 0, **flamingo.CHANGES[change])
    model = flamingo.build(run, 6)
    trained = any(p.requires_grad for p in model.lm.parameters())
    assert trained == (run.lm != 'frozen')
    gates = model.gated[0].gates
    assert gates.tanh().tolist() == [float(run.gates == 'open')] * 2
    assert gates.requires_grad == (run.gates == 'closed')


def test_a_model_that_knows_sums_and_lists_gets_them_all():
    sums = mm.Sums()

    def read(X):
        scores = torch.zeros(*X.shape, len(sums.vocab))
        for i, row in enumerate(X.tolist()):
            if sums.ids['plus'] in row:
                last = row[1] + row[3] - 1
            else:
                last = row[row.index(row[-1]) + 1]
            scores[i, -1, last] = 1
        return scores

    a, b = torch.tensor([3, 9, 0]), torch.tensor([4, 9, 0])
    X = sums.sums(a, b)
    assert flamingo.sum_share(read(mm.begun(X[:, :4])), X) == 1
    assert flamingo.listed_in_words(read) == 1


def test_vectors_are_averaged_by_rows():
    H = torch.arange(49.0)[None, :, None]
    assert flamingo.by_rows(H).flatten().tolist() == [
        3.0 + 7 * i for i in range(7)
    ]


class Fits(nn.Module):
    """Says that each text fits each picture, the first of them best."""

    def encode(self, tiles):
        return torch.zeros(len(tiles), 49, 6)

    def forward(self, X):
        Y = torch.ones(len(X), 1)
        Y[0] = 2
        return Y


def test_rivals_of_a_model_that_writes_captions(monkeypatch):
    clip = nn.Module()
    clip.pictures = clip.texts = Fits()
    monkeypatch.setattr(mm, 'spelled', lambda tokenizer, words: words)
    monkeypatch.setattr(mm, 'captions_right', lambda model, X, seen: 0.25)
    first, other = [0, 2, 4], [1, 3, 9]
    rows = torch.tensor([first, first, first, other])
    rows = torch.cat((rows, torch.full((4, 49), mm.FIRST_TILE)), 1)
    assert flamingo.caption_shares(None, clip, None, rows) == {
        'SmolLM2 with gates': 0.25,
        'CLIP, one of forty': 0.75,
        'the commonest caption': 0.75,
    }


def test_captions_go_with_their_pictures(monkeypatch):
    digits = torch.randint(256, (40, 28, 28)).byte()
    data = mm.Captioned(digits, torch.arange(40) % 10)
    monkeypatch.setattr(dalle, 'load', lambda: (data, None, None))
    monkeypatch.setattr(mm, 'spelled', lambda tokenizer, words: words)

    class Numbers:
        def encode(self, text):
            ids = [mm.CAPTION_WORDS.index(text.strip())]
            return types.SimpleNamespace(ids=ids)

    H = torch.arange(40.0)[:, None, None].expand(40, 49, 2)
    X, pictures, ids = next(flamingo.captions(Numbers(), H, 0))
    at = pictures[:, 0, 0, 0].long()
    assert torch.equal(X, flamingo.ways(data)[at, :3])
    assert ids.tolist() == [*range(14)]


# ---- The recorded rows ----


def rows_of(name):
    rows, unfinished = STUDIES[name].STUDY.read(
        CHAPTER / 'studies' / f'{name}.csv'
    )
    assert unfinished == b''
    return rows


@EACH
def test_the_record_is_that_of_its_commands_and_whole(name):
    rows, plan = rows_of(name), set()
    for command in {row.made.command for row in rows}:
        words = shlex.split(command)
        assert words[:2] == ['studies', name]
        asked = runner.arguments(STUDIES[name].STUDY, words[2:])
        plan |= set(STUDIES[name].plan(rows, asked))
    assert {row.run for row in rows} == plan
    assert {run.seed for run in plan} == set(range(3))


@pytest.mark.slow
@EACH
def test_the_cheapest_recorded_row_can_be_made_again(name):
    study = STUDIES[name]
    (row,) = (r for r in rows_of(name) if r.run.num_steps == study.FEW_STEPS)
    again = runner.repeat(study.STUDY, row, device='cpu')
    for field in dataclasses.fields(study.Measured):
        if field.name != 'seconds':
            expected = getattr(row.measured, field.name)
            found = getattr(again, field.name)
            assert found == pytest.approx(expected, rel=0.02, abs=0.03)
