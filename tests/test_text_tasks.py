"""French sentences and tasks from text to text."""

import itertools

import numpy as np
import pytest
import torch

import corpora
from corpora import EOS, TextTasks, by_length, french, mix, text_tasks

WORLD = TextTasks()
TASKS = {
    'translation': WORLD.translation,
    'summary': WORLD.summary,
    'sentiment': WORLD.opinion,
    'question': WORLD.question,
}


def texts(pairs, i):
    target = WORLD.decode(pairs.labels[i].clamp(min=0))
    return WORLD.decode(pairs.X[i]), target.removesuffix(' <eos>')


def test_at_least_300_word_pairs_each_once():
    assert len(french.WORD_PAIRS) >= 300
    assert len(set(french.WORD_PAIRS)) == len(french.WORD_PAIRS)
    english = [en for en, _ in french.WORD_PAIRS]
    twice = {word for word in english if english.count(word) > 1}
    assert twice <= {'watch'}  # a noun and a verb


@pytest.mark.parametrize(
    'noun, adjective, phrase',
    [
        ('car', 'red', 'la voiture rouge'),
        ('car', 'brown', 'la voiture marron'),
        ('fire', 'old', 'le vieux feu'),
        ('tree', 'old', 'le vieil arbre'),
        ('tree', 'green', "l' arbre vert"),
        ('hotel', 'new', 'le nouvel hôtel'),
        ('school', 'new', 'la nouvelle école'),
        ('friend', 'young', 'le jeune ami'),
        ('star', 'white', "l' étoile blanche"),
        ('bird', 'beautiful', 'le bel oiseau'),
    ],
)
def test_noun_phrases_agree(noun, adjective, phrase):
    row = [n for n in french.NOUNS if n[0] == noun]
    rng = np.random.default_rng(0)
    en, fr, *_ = french.noun_phrases(rng, 4000, row, adjective=1.0)
    found = {
        f
        for e, f in zip(en, fr, strict=True)
        if e == f'the {adjective} {noun}'
    }
    assert found == {phrase}


@pytest.mark.parametrize(
    'before, after',
    [
        ('le chat', 'le chat'),
        ('un chat', 'de chat'),
        ('une école rouge', "d' école rouge"),
        ("l' ami", "l' ami"),
    ],
)
def test_un_becomes_de_after_pas(before, after):
    assert french.after_pas(np.array([before])).tolist() == [after]


def test_english_forms():
    forms = {
        'carry': 'carries',
        'buy': 'buys',
        'wash': 'washes',
        'touch': 'touches',
        'see': 'sees',
    }
    assert {v: french.third_person(v) for v in forms} == forms
    en, _ = french.translations(np.random.default_rng(1), 3000)
    for text in en:
        words = text.split()
        for a, b in itertools.pairwise(words):
            if a in ('a', 'an'):
                assert (a == 'an') == (b[0] in 'aeiou'), text
                assert not b.startswith(('uni', 'use')), text  # "a user"


@pytest.mark.parametrize('noun', ['uncle', 'umbrella'])
def test_an_before_u(noun):
    row = [n for n in french.NOUNS if n[0] == noun]
    en, *_ = french.noun_phrases(np.random.default_rng(0), 500, row, 0.5)
    articles = {e.split()[0] for e in en if e.split()[1] == noun}
    assert articles == {'an', 'the', 'this', 'my'}


def test_word_by_word_is_mostly_wrong():
    """A substitution that even knows gender and verb forms fails on order."""
    rng = np.random.default_rng(0)
    table = dict(french.WORD_PAIRS)
    table |= {
        'the': 'le',
        'a': 'un',
        'an': 'un',
        'this': 'ce',
        'my': 'mon',
        'I': 'je',
        'not': 'pas',
        'does': 'ne',
        'is': 'est',
    }
    table |= {french.third_person(v): fr for v, fr, _ in french.VERBS}
    table |= dict(french.WHERE)
    en, fr = french.translations(rng, 2000)
    guesses = [' '.join(table.get(w, w) for w in text.split()) for text in en]
    right = np.mean([g == f for g, f in zip(guesses, fr, strict=True)])
    assert right < 0.1
    shuffled = [
        sorted(g.split()) == sorted(f.split())
        for g, f in zip(guesses, fr, strict=True)
    ]
    assert np.mean(shuffled) > right  # some are wrong in their order only


def test_sentences_say_what_their_verb_is():
    rng = np.random.default_rng(3)
    english, *_, verbs, negated = french.sentences(rng, 2000, ['love', 'hate'])
    for text, verb, denied in zip(english, verbs, negated, strict=True):
        words = text.split()
        told = {'love', 'loves', 'hate', 'hates'} & {*words}
        if 'but' in words or not told:
            assert verb == '', text
        else:
            assert told <= {verb, verb + 's'}, text
        assert denied == ('not' in words), text
    assert {*verbs} == {'', 'love', 'hate'}


def test_every_word_is_in_the_vocabulary():
    en, fr = french.translations(np.random.default_rng(2), 5000)
    used = {word for text in en + fr for word in text.split()}
    assert used <= set(french.vocabulary())
    assert set(french.vocabulary()) <= set(WORLD.words)
    assert len(WORLD.shown) == len(WORLD.polarity) == len(WORLD.words)
    assert WORLD.shown.all()


@pytest.mark.parametrize('name', TASKS)
def test_pairs_are_well_formed(name):
    pairs = TASKS[name](500)
    prefix = text_tasks.PREFIXES[name]
    assert len(pairs) == 500
    assert torch.equal(pairs.valid_lens, (pairs.X > 0).sum(1))
    assert (pairs.X[:, 0] > 0).all() and pairs.X.max() < len(WORLD.words)
    for i in range(500):
        row = pairs.labels[i]
        n = (row != -100).sum()
        assert row[n - 1] == EOS and (row[:n] > 0).all()
        assert (row[n:] == -100).all()
        X = pairs.X[i]
        assert (X[: pairs.valid_lens[i]] > 0).all()
        assert texts(pairs, i)[0].startswith(prefix)


@pytest.mark.parametrize('name', TASKS)
def test_test_texts_are_unseen_and_seeds_repeat(name):
    train, test = TASKS[name](3000), TASKS[name](300, 'test')
    seen = {texts(train, i)[0] for i in range(len(train))}
    assert not any(texts(test, i)[0] in seen for i in range(len(test)))
    again = TASKS[name](300, 'test')
    assert torch.equal(test.X, again.X)
    assert torch.equal(test.labels, again.labels)
    other = TASKS[name](300, 'test', seed=1)
    assert other.X.shape != test.X.shape or not torch.equal(other.X, test.X)


def test_summaries_name_what_the_report_says():
    pairs = WORLD.summary(300)
    for i in range(300):
        report, summary = texts(pairs, i)
        words = report.split()
        who, _, rest = summary.partition(' likes the ')
        if not rest:
            who, _, rest = summary.partition(' dislikes the ')
        assert who in report and rest.removesuffix(' .') in report
        assert words.count('.') in (3, 4) and words[:2] == ['summarize', ':']


def test_answers_follow_from_the_report():
    pairs = WORLD.question(400)
    for i in range(400):
        question, answer = texts(pairs, i)
        context = question.split(' context ')[1]
        if question.startswith('question : is'):
            assert answer in ('yes', 'no')
        else:
            for word in answer.split():
                assert word in ('a', 'an') or word in context.split()


def test_opinions_are_positive_or_negative():
    pairs = WORLD.opinion(2000)
    words = {texts(pairs, i)[1] for i in range(2000)}
    assert words == {'positive', 'negative'}
    share = (pairs.labels[:, 0] == WORLD.encode(['positive'])[0, 0]).float()
    assert 0.45 < share.mean() < 0.55


def test_opinions_in_plain_sentences():
    """Who does not hate is positive, who does not love is negative."""
    pairs, seen = WORLD.opinion(4000), set()
    for i in range(len(pairs)):
        text, answer = texts(pairs, i)
        words = text.split()
        plain = words[2] == 'I' and not {',', 'but'} & {*words}
        if plain and {'love', 'hate'} & {*words}:
            denied = 'not' in words
            positive = ('love' in words) != denied
            assert answer == ('positive' if positive else 'negative'), text
            seen.add(('love' in words, denied))
    assert len(seen) == 4


def test_labels_of_the_width_of_the_texts_are_cut_by_their_own_length():
    X = torch.tensor([[5, 6, 0, 0], [5, 0, 0, 0]])
    labels = torch.tensor([[7, 8, 2, -100], [2, -100, -100, -100]])
    pairs = corpora.Pairs(X, torch.tensor([2, 1]), labels)
    X, lens, labels = next(by_length(pairs, 2))
    assert X.shape == (2, 2) and labels.shape == (2, 3)
    assert lens.tolist() == [1, 2] and labels[1].tolist() == [7, 8, 2]


def test_mixtures_and_batches_hold_every_pair_once():
    parts = [task(40) for task in TASKS.values()]
    mixture = mix(*parts)
    assert len(mixture) == 160
    batches = by_length(mixture, 16)
    rows = []
    for _ in range(10):
        X, lens, labels = next(batches)
        assert X.shape[1] == lens.max()
        assert (labels != -100).any(0).all()
        assert labels.shape[1] == (labels != -100).sum(1).max()
        rows += [tuple(x[:n].tolist()) for x, n in zip(X, lens, strict=True)]
    expected = [tuple(x[x > 0].tolist()) for x in mixture.X]
    assert sorted(rows) == sorted(expected)


def test_unlabelled_texts_are_english_and_a_fifth_french():
    X, lens = WORLD.unlabelled(1000)
    assert X.shape[0] == len(lens) == 1000 and X.shape[1] == 24
    assert lens.min() >= 2 and torch.equal(lens, (X > 0).sum(1))
    english, sentences = french.translations(np.random.default_rng(0), 9999)
    only = set(' '.join(sentences).split()) - set(' '.join(english).split())
    marks = only & {'le', 'la', "l'", 'une', 'ce', 'cette', 'mon', 'ma', 'un'}
    share = np.mean([bool(marks & {*WORLD.decode(x).split()}) for x in X])
    assert 0.17 < share < 0.23


def test_no_document_has_texts_in_two_splits(monkeypatch):
    drawn, documents = [], WORLD.documents
    monkeypatch.setattr(
        WORLD, 'documents', lambda *a: drawn.append(documents(*a)) or drawn[-1]
    )

    def texts(X):
        return [tuple(row[row > 0].tolist()) for row in X]

    train, test = (
        {*texts(WORLD.unlabelled(n, split)[0])}
        for n, split in ((8000, 'train'), (100, 'test'))
    )
    used = set()
    for part in drawn:
        halves = (X[:, :24] for X in part.halves())
        for pair in zip(*map(texts, halves), strict=True):
            where = [{*pair} & train, {*pair} & test]
            assert not all(where), pair
            used |= where[1]
    assert not train & test
    assert 70 < len(used) <= 80


def test_errors_name_value_and_limit():
    for task in TASKS.values():
        with pytest.raises(ValueError, match='num_examples is 0'):
            task(0)
    with pytest.raises(ValueError, match="split is 'dev'"):
        WORLD.translation(5, 'dev')
    with pytest.raises(ValueError, match='0 texts in batches of 4'):
        by_length(WORLD.opinion(2)[:0], 4)
    with pytest.raises(ValueError, match='2 texts in batches of 0'):
        by_length(WORLD.opinion(2), 0)


@pytest.mark.parametrize(
    'text, truth, score',
    [
        ('a b c d', 'a b c d', 1),
        ('a b c d', 'x y', 0),
        ('the red car', 'a red car', 4 / 6),
        ('police killed the gunman', 'police kill the gunman', 6 / 8),
        ('the gunman kill police', 'police kill the gunman', 4 / 8),
        ('b a', 'a b c', 2 / 5),
    ],
)
def test_rouge_l_by_hand(text, truth, score):
    assert text_tasks.rouge_l(text, truth) == pytest.approx(score)
    assert text_tasks.rouge_l(truth, text) == pytest.approx(score)


def test_rouge_l_of_nothing_is_refused():
    with pytest.raises(ValueError, match="'' and 'a b': no words"):
        text_tasks.rouge_l('', 'a b')
