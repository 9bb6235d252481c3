"""The tasks study: its plan, its parts, and a cheap row made again."""

import argparse
import dataclasses
from collections import Counter
from itertools import groupby, pairwise

import pytest
import torch
from execute import CHAPTER
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

import corpora
import finetuning
import utils
from studies import plateau, runner, tasks

RECORDED = CHAPTER / 'studies' / 'tasks.csv'
OPTIONS = argparse.Namespace(seeds=2, pair_seeds=0)
RUN = tasks.Run('questions', 'competing', 'none', 500, 300, 0)
TASKS = list(tasks.STEPS)


@pytest.fixture(scope='module')
def world():
    return tasks.world()


@pytest.fixture
def few(monkeypatch):
    """Few test examples, and a small new BERT for every start."""

    def encoder(start, seed):
        torch.manual_seed(seed)
        return utils.BERT(utils.Config(len(tasks.world().words), 8, 2, 1, 128))

    monkeypatch.setattr(tasks, 'NUM_TEST', 60)
    monkeypatch.setattr(tasks, 'encoder', encoder)


# ---- Runs and what is measured ----


@pytest.mark.parametrize(
    'change, message',
    [
        ({'task': 'parsing'}, "task is 'parsing', not one of .*'tagging'"),
        ({'start': 'bert'}, r"start is 'bert', not one of \('competing'"),
        ({'change': 'all'}, r"change is 'all', not one of \('none', 'quest"),
        ({'labels': -1}, 'labels is -1, below 0'),
        ({'steps': -2}, 'steps is -2, below 0'),
        ({'seed': -3}, 'seed is -3, below 0'),
        ({'labels': 0}, "labels is 0 for questions, .*'competing': .* more"),
        ({'steps': 0}, "steps is 0 for questions, .*'competing': .* more"),
        ({'change': 'first token'}, "no questions with the .*'first token'"),
        (
            {'task': 'sentiment', 'change': 'question erased'},
            "no sentiment with the change 'question erased'",
        ),
        ({'start': 'words', 'steps': 0}, "no questions with the .* 'words'"),
        ({'task': 'tagging', 'start': 'words'}, 'steps is 300 for .* 0'),
        ({'task': 'probes'}, 'labels is 500 for probes, .* expected 0'),
        ({'task': 'probes', 'labels': 0}, 'steps is 300 for probes'),
        (
            {'task': 'probes', 'labels': 0, 'steps': 0, 'start': 'words'},
            "no probes with the start 'words'",
        ),
    ],
)
def test_what_is_no_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RUN, **change)


@pytest.mark.parametrize('value', [-1.1, 1.5, float('nan')])
@pytest.mark.parametrize('name', ['score', 'first', 'second', 'third'])
def test_a_score_is_from_minus_one_to_one(name, value):
    measured = tasks.Measured(1.0, -1.0, 0.0, 0.5, 9.0)
    message = rf'{name} is {value}, outside \[-1, 1\]'
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(measured, **{name: value})


# ---- The plan ----


def test_the_plan_has_no_run_twice_and_a_cheap_one_first():
    plan = tasks.plan([], OPTIONS)
    assert len(plan) == len(set(plan))
    assert plan == tasks.plan([], OPTIONS)
    assert plan[0] == tasks.Run('tagging', 'scratch', 'none', 32, 400, 0)
    assert plan[0].cost == 400 < sum(run.cost for run in plan) / 100
    assert {run.seed for run in plan} == {0, 1}
    ours = [dataclasses.replace(run, seed=9) for run in plan]
    assert set(Counter(ours).values()) == {2}  # each with both seeds


@pytest.mark.parametrize('start', tasks.STARTS)
def test_the_plan_covers_every_start(start):
    """With every number of labels, or with the most."""
    runs = {
        (run.task, run.labels): run.steps
        for run in tasks.plan([], argparse.Namespace(seeds=1, pair_seeds=0))
        if run.start == start and run.change == 'none'
    }
    assert ('probes', 0) in runs or start == 'words'
    for task, steps in tasks.STEPS.items():
        expected = dict(steps)
        if start == 'scratch':
            expected = {max(steps): 4 * steps[max(steps)]}
        elif start == 'longer':
            expected = {max(steps): steps[max(steps)]}
        elif start == 'words':
            expected = {} if task == 'questions' else dict.fromkeys(steps, 0)
        found = {
            labels: n for (name, labels), n in runs.items() if name == task
        }
        assert found == expected


def test_the_plan_covers_every_change():
    changed = [run for run in tasks.plan([], OPTIONS) if run.change != 'none']
    assert all(run.start == 'competing' for run in changed)
    plain = {dataclasses.replace(run, change='none') for run in changed}
    assert plain <= set(tasks.plan([], OPTIONS))  # to compare with
    found = {(run.change, run.labels) for run in changed}
    assert found == {
        *(('first token', labels) for labels in tasks.STEPS['sentiment']),
        *(('question erased', labels) for labels in (2000, 8000)),
    }


def test_each_encoder_is_pretrained_once():
    """The last one is kept, so runs of one start and seed are together."""
    starts = [
        (run.start, run.seed)
        for run in tasks.plan([], OPTIONS)[1:]
        if run.start != 'words'
    ]
    blocks = [start for start, _ in groupby(starts)]
    assert len(blocks) == len(set(blocks)) == 4 * OPTIONS.seeds


def test_more_labels_are_more_steps():
    for steps in tasks.STEPS.values():
        assert list(steps) == sorted(steps)
        assert list(steps.values()) == sorted(steps.values())


# ---- Starts and probes ----


def test_what_an_encoder_is_pretrained_on(world, monkeypatch):
    pretrained, documents = {}, world.documents
    monkeypatch.setattr(
        world, 'documents', lambda num, seed=0: documents(num // 100, seed)
    )
    monkeypatch.setattr(corpora, 'masked_batches', lambda data, *more: data)
    for start in tasks.STARTS[:-1]:

        def train(model, batches, *settings, start=start, **more):
            pretrained[start] = batches, settings, more

        monkeypatch.setattr(runner, 'train', train)
        model = tasks.encoder.__wrapped__(start, 3)
        assert model.config == plateau.small_config(len(world.words))
    assert list(pretrained) == ['competing', 'longer', 'plain']
    rows, settings, more = zip(*pretrained.values(), strict=True)
    assert more[0] == more[1] == more[2]
    once, twice, again = (numbers for _, *numbers in settings)
    assert once == again == [plateau.NUM_STEPS, 0.01]
    assert twice == [2 * plateau.NUM_STEPS, 0.01]
    competing, longer, plain = (X for X, *_ in rows)
    assert torch.equal(competing, longer)
    with_rivals = corpora.join(*world.competing(9000))[0]
    assert torch.equal(competing[-9000:, :30], with_rivals[:, :30])
    assert len(competing) < 9200
    assert torch.equal(
        plain, corpora.join(*world.documents(100_000).halves())[0]
    )


def test_an_encoder_depends_on_its_seed():
    one, same, other = (
        tasks.encoder.__wrapped__('scratch', seed).token_embedding.weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.usefixtures('few')
def test_the_probes_are_measured_in_their_columns(monkeypatch):
    shares = {'binding': 0.1, 'opinions': 0.2, 'right': 0.3, 'left': 0.4}

    def read_probes(run, model, world, data):
        assert run.mask == 'padding'
        return {name: shares[name] for name in data}

    monkeypatch.setattr(plateau, 'read_probes', read_probes)
    run = tasks.Run('probes', 'plain', 'none', 0, 0, 0)
    measured = tasks.execute(run, None, None)
    assert dataclasses.astuple(measured)[:4] == (0.1, 0.2, 0.3, 0.4)
    assert measured.seconds > 0


# ---- One run ----


def test_the_question_alone_is_erased(world):
    data = world.questions(200)
    before = data.X.clone()
    erased = tasks.erase(data)
    assert torch.equal(data.X, before)
    for name in ('segments', 'valid_lens', 'labels'):
        assert getattr(erased, name) is getattr(data, name)
    for X, Y in zip(data.X, erased.X, strict=True):
        question, context = world.decode(X).split(' <sep> ', 1)
        words = question.removeprefix('<bos> ').split()
        assert words[-1] == '?' and len(words) > 3
        hidden = ' '.join(['<mask>'] * len(words))
        assert world.decode(Y) == f'<bos> {hidden} <sep> {context}'


def test_parts_are_forms_and_classes(world, monkeypatch):
    monkeypatch.setattr(tasks, 'NUM_TEST', 20)
    run = dataclasses.replace(RUN, task='sentiment')
    forms = tasks.parts(run, None)
    for form, part in zip(tasks.FORMS, forms, strict=True):
        assert torch.equal(part.X, world.sentiment(20, 'test', form=form).X)
    test = world.entailment(50, 'test')
    classes = tasks.parts(dataclasses.replace(RUN, task='entailment'), test)
    assert [set(x.labels.tolist()) for x in classes] == [{0}, {1}, {2}]
    assert sum(map(len, classes)) == 50
    assert tasks.parts(RUN, test) == []


def test_words_of_the_second_text_are_marked(world):
    A, B = world.encode(['the car is red .', 'I find it .']), None
    data = corpora.Examples(*corpora.join(A), None)
    assert tasks.counted(data) == ['the car is red .', 'I find it .']
    B = world.encode(['red .', 'the car .'])
    data = corpora.Examples(*corpora.join(A, B), None)
    assert tasks.counted(data) == [
        'the car is red . redB .B',
        'I find it . theB carB .B',
    ]


def bag_of(world, X, segments):
    """Words and pairs of neighbors that a row has, all worth 1."""
    words = [
        (world.words[i], segment)
        for i, segment in zip(X.tolist(), segments.tolist(), strict=True)
        if i >= corpora.NUM_SPECIAL
    ]
    told = [*words, *pairwise(words)]
    return dict.fromkeys(map(repr, told), 1)


@pytest.mark.parametrize('task', ['sentiment', 'entailment', 'agreement'])
def test_words_against_a_direct_computation(world, task):
    make = getattr(world, task)
    data, test = make(300), make(200, 'test')
    run = tasks.Run(task, 'words', 'none', 300, 0, 0)
    found = tasks.by_words(run, data)(None, test.X, test.segments, None)
    rows, others = (
        [
            bag_of(world, *row)
            for row in zip(part.X, part.segments, strict=True)
        ]
        for part in (data, test)
    )
    bag = DictVectorizer()
    kind = (
        Ridge() if task == 'agreement' else LogisticRegression(max_iter=2000)
    )
    linear = kind.fit(bag.fit_transform(rows), data.labels)
    features = bag.transform(others)
    if task == 'agreement':
        expected = torch.tensor(linear.predict(features)).float()
        torch.testing.assert_close(found[:, 0], expected, atol=1e-3, rtol=0)
        assert found.shape == (200, 1)
    else:
        expected = torch.tensor(linear.predict_log_proba(features)).float()
        assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.98
        if task == 'sentiment':  # the score of one class is minus the other's
            found = found / 2
        torch.testing.assert_close(
            found.log_softmax(1), expected, atol=0.02, rtol=0
        )
    score_fn = tasks.tasks()[task].score_fn
    score = score_fn(found, test.labels).item()
    assert score <= 0.7 and (task != 'sentiment' or score > 0.52)


def test_the_most_frequent_tag(world):
    X = world.encode(['may the rose', 'may may', 'rose red'])
    labels = torch.tensor([[3, 0, 2], [1, 1, -100], [2, -100, -100]])
    data = corpora.Examples(X, torch.zeros_like(X), None, labels)
    run = tasks.Run('tagging', 'words', 'none', 32, 0, 0)
    scores_fn = tasks.by_words(run, data)
    scores = scores_fn(
        None, world.encode(['may rose the red car']), None, None
    )
    assert scores.argmax(-1).tolist() == [[1, 2, 0, 0, 0]]


def test_every_task_can_be_learned_and_scored(world):
    torch.manual_seed(0)
    bert = utils.BERT(utils.Config(len(world.words), 8, 2, 1, 128))
    assert tasks.tasks().keys() == tasks.STEPS.keys()
    for name, task in tasks.tasks().items():
        data = getattr(world, name)(40)
        model = finetuning.fine_tune(bert, task, data, 2)
        loss, num_labels = task.loss_fn(model, tuple(data))
        assert loss > 0 and num_labels >= 40
        assert -1 <= finetuning.score(task, model, data) <= 1
    assert tasks.tasks()['tagging'].num_outputs == len(world.tags)


@pytest.mark.usefixtures('few')
@pytest.mark.parametrize('task', TASKS)
def test_a_run_of_each_task(task, world):
    run = tasks.Run(task, 'scratch', 'none', 32, 2, 0)
    measured = tasks.execute(run, None, None)
    data, test = getattr(world, task)(32), getattr(world, task)(60, 'test')
    which = tasks.tasks()[task]
    model = finetuning.fine_tune(tasks.encoder('', 0), which, data, 2)
    assert measured.score == pytest.approx(
        finetuning.score(which, model, test), abs=1e-5
    )
    shares = [measured.first, measured.second, measured.third]
    if task == 'entailment':
        weights = torch.bincount(test.labels) / 60
        mean = weights @ torch.tensor(shares)
        assert measured.score == pytest.approx(mean.item(), abs=1e-5)
    elif task == 'sentiment':
        part = world.sentiment(60, 'test', form='negated')
        assert measured.second == pytest.approx(
            finetuning.score(which, model, part), abs=1e-5
        )
    else:
        assert shares == 3 * [measured.score]


def test_probes_and_pairs_are_made_with_more_seeds():
    options = argparse.Namespace(seeds=2, pair_seeds=4)
    more = set(tasks.plan([], options)) - set(tasks.plan([], OPTIONS))
    both = {('probes', 0, 0), ('entailment', 8000, 2000)}
    long = {('entailment', 8000, tasks.LONG)}
    assert {(run.task, run.labels, run.steps, run.seed) for run in more} == {
        (*what, seed)
        for seed in range(4)
        for what in (both | long if seed > 1 else long)
    }
    assert {(run.start, run.change) for run in more} == {('competing', 'none')}


@pytest.mark.usefixtures('few')
def test_what_is_changed(monkeypatch, world):
    calls = []

    def fine_tune(bert, task, data, steps, seed):
        calls.append((task, data, steps, seed))
        return finetuning.Finetuned(bert, task.num_outputs)

    def score(task, model, test):
        calls.append((task, test))
        return 0.5

    monkeypatch.setattr(tasks, 'fine_tune', fine_tune)
    monkeypatch.setattr(tasks, 'score', score)
    run = dataclasses.replace(RUN, change='question erased', labels=30, seed=2)
    tasks.execute(run, None, None)
    (task, data, steps, seed), (_, test) = calls
    assert torch.equal(data.X, tasks.erase(world.questions(30, seed=2)).X)
    assert torch.equal(test.X, tasks.erase(world.questions(60, 'test')).X)
    assert (steps, seed) == (300, 2) and task == tasks.tasks()['questions']
    calls.clear()
    run = dataclasses.replace(run, task='sentiment', change='first token')
    tasks.execute(run, None, None)
    task, data, *_ = calls[0]
    assert torch.equal(data.X, world.sentiment(30, seed=2).X)
    assert task.scores_fn is finetuning.first_scores
    assert task.loss_fn.keywords == {'scores_fn': finetuning.first_scores}
    assert task.score_fn is finetuning.accuracy and len(calls) == 5
    calls.clear()
    run = tasks.Run('tagging', 'words', 'none', 32, 0, 0)
    assert tasks.execute(run, None, None).score == 0.5
    assert len(calls) == 1  # no model is trained


# ---- The recorded rows ----


def test_the_record_is_that_of_its_commands_and_whole():
    rows, unfinished = tasks.STUDY.read(RECORDED)
    assert unfinished == b''
    plan = set()
    for command in {row.made.command for row in rows}:
        words = command.split()
        assert words[:2] == ['studies', 'tasks']
        options = runner.arguments(tasks.STUDY, words[2:])
        plan |= set(tasks.plan(rows, options))
    assert {row.run for row in rows} == plan
    assert {run.seed for run in plan} == set(range(8))


@pytest.mark.slow
def test_the_cheapest_recorded_row_can_be_made_again():
    rows, _ = tasks.STUDY.read(RECORDED)
    run = tasks.plan([], OPTIONS)[0]
    (row,) = (row for row in rows if row.run == run)
    again = runner.repeat(tasks.STUDY, row, device='cpu')
    assert again.score == pytest.approx(row.measured.score, abs=0.02)
    assert again.first == again.second == again.third == again.score
