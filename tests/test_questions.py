"""Questions about countries, and the dialogues made of them."""

import pytest
import torch

from corpora.questions import (
    ASKED_TASKS,
    NEW_PHRASINGS,
    PHRASINGS,
    QuestionWorld,
)


@pytest.fixture(scope='module')
def world():
    return QuestionWorld()


def test_new_phrasings_are_new_and_made_of_known_words():
    assert not {*PHRASINGS} & {*NEW_PHRASINGS}
    known = {*' '.join(PHRASINGS).split()}
    assert {*' '.join(NEW_PHRASINGS).split()} <= known


def test_every_phrasing_names_task_and_country(world):
    for text in PHRASINGS + NEW_PHRASINGS:
        (question,) = world.questions_of([0], [27], [text])
        told = world.decode(question)
        assert told == text.replace('{task}', 'capital').replace(
            '{}', 'france'
        )


def test_a_dialogue_and_what_counts_in_its_loss(world):
    questions = world.questions_of(
        [0, 5], [27, 27], [PHRASINGS[0], PHRASINGS[6]]
    )
    answers = world.answers[[0, 5], 27]
    X, labels = world.dialogues(questions, answers)
    assert world.decode(X[0]) == (
        '<bos> <user> what is the capital of france ? <assistant> paris <end>'
    )
    assert world.decode(X[1]).endswith('<assistant> europe <end>')
    for row, text in zip(labels, ('paris <end>', 'europe <end>'), strict=True):
        assert world.decode(row[row != -100]) == text


def test_questions_are_drawn_from_what_is_given(world):
    generator = torch.Generator().manual_seed(0)
    questions, answers = world.draw_questions(
        60, [0, 4], PHRASINGS[:2], [3, 7], generator
    )
    texts = {world.decode(row) for row in questions}
    assert len(texts) == 8
    assert {*answers.tolist()} == {
        *world.answers[[0, 4]][:, [3, 7]].tolist()[0]
    } | {*world.answers[[0, 4]][:, [3, 7]].tolist()[1]}


def test_held_out_countries_are_every_fourth(world):
    held, others = world.columns(True), world.columns(False)
    assert held == list(range(3, 93, 4))
    assert sorted(held + others) == list(range(93))


def test_distinct_answers_are_those_of_one_asked_task(world):
    france = 27
    assert world.decode(world.questions[0, france : france + 1]) == 'france'
    told = {
        task: world.distinct[world.tasks.index(task), france].item()
        for task in ASKED_TASKS
    }
    assert told == {
        'capital': True,
        'language': False,
        'demonym': False,
        'currency': True,
        'continent': True,
    }


def test_unanswered_questions_are_never_of_the_other_tasks(world):
    X = next(world.prose_and_questions(16, [0, 4], seed=1))
    assert X.shape == (16, 71)
    asked = [world.decode(row) for row in X[-4:]]
    assert all('is' in text or 'has' in text for text in asked)
    for text in asked:
        words = {*text.split()}
        assert words & {'capital', 'currency'}
        assert not words & {'language', 'demonym', 'continent'}
        assert '<user>' not in words
    assert (X[:-4] == world.ids['.']).sum() == 12 * 10
