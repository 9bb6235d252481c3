"""Facts, the texts made of them, and the best use of examples."""

import collections
import re
import time
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import corpora
from corpora import bayes_predictor, facts

WORDS = [(f'e{i}', f'f{i}') for i in range(24)]
COUNTRY_TASKS = torch.arange(len(facts.TASKS))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope='module')
def world():
    return facts.FactWorld(WORDS)


@pytest.fixture(scope='module')
def table():
    return facts.country_facts()


# ---- The table ----


def test_countries(table):
    assert len(table) >= 80
    assert list(table) == sorted(table)
    assert all(tuple(fact) == facts.TASKS for fact in table.values())
    names = [x for fact in table.values() for x in fact.values()]
    assert all(re.fullmatch('[a-z]+(_[a-z]+)*', x) for x in [*table, *names])
    lines = facts.COUNTRIES.replace('\n    ', ' ').strip().split('\n')
    assert len(lines) == len(table)  # no country twice
    assert {fact['continent'] for fact in table.values()} == {
        *('africa', 'asia', 'europe', 'oceania'),
        *('north_america', 'south_america'),
    }


@pytest.mark.parametrize(
    'row',
    [
        'france paris paris french french euro europe',
        'japan tokyo tokyo japanese japanese yen asia',
        'australia canberra sydney english australian dollar oceania',
        'brazil brasilia sao_paulo portuguese brazilian real south_america',
        'nigeria abuja lagos english nigerian naira africa',
        'guatemala guatemala_city guatemala_city spanish guatemalan quetzal '
        'north_america',
    ],
)
def test_facts(table, row):
    country, *answers = row.split()
    assert list(table[country].values()) == answers


def test_capitals_and_largest_cities_belong_to_one_country(table):
    owner = {}
    for country, fact in table.items():
        for name in (fact['capital'], fact['largest_city']):
            assert owner.setdefault(name, country) == country
    demonyms = collections.Counter(x['demonym'] for x in table.values())
    assert max(demonyms.values()) == 1


def test_tasks_agree_on_many_and_differ_on_some(world):
    for mask, least in ((world.listed, 10), (world.held_out, 5)):
        capital, largest, language, demonym = world.answers[:4, mask[0]]
        differ = (capital != largest).sum()
        assert differ >= least and (capital == largest).sum() >= 3 * differ
        differ = (language != demonym).sum()
        assert differ >= least and (language == demonym).sum() >= least / 2


# ---- Texts ----


def test_world(world, table):
    assert world.tasks == [*facts.TASKS, 'french']
    assert len(world.vocab) == len(set(world.vocab)) < 450
    for i, task in enumerate(facts.TASKS):
        for j, country in enumerate(table):
            assert world.vocab[world.questions[i, j]] == country
            assert world.vocab[world.answers[i, j]] == table[country][task]
    assert world.decode(world.questions[-1]).split() == [e for e, _ in WORDS]
    assert world.decode(world.answers[-1]).split() == [f for _, f in WORDS]


def test_every_fourth_is_held_out(world, table):
    assert torch.equal(world.held_out | world.listed, world.questions > 0)
    assert not (world.held_out & world.listed).any()
    assert (world.held_out[:6] == world.held_out[0]).all()
    names = world.decode(world.questions[0, world.held_out[0]]).split()
    assert names == list(table)[3::4]
    words = world.decode(world.questions[-1, world.held_out[-1]]).split()
    assert words == [e for e, _ in WORDS[3::4]]


def test_encode(world):
    text = 'the capital of france is paris .'
    assert world.decode(world.encode(text)) == text
    assert world.decode(torch.tensor([1, 0, 0])) == '<bos>'
    with pytest.raises(ValueError, match="vocabulary: \\['atlantis'\\]"):
        world.encode('the capital of atlantis')


def test_prose_tells_every_fact_and_nothing_else(world, table):
    told = collections.Counter()
    for X in world.prose(1000, 20, seeded()):
        first, *sentences = world.decode(X).split(' ', 1)
        assert first == '<bos>' and sentences[0].endswith(' .')
        told.update(sentences[0][:-2].split(' . '))
    wanted = set()
    for country, fact in table.items():
        for task, answer in fact.items():
            wanted.add(f'the {task} of {country} is {answer}')
            wanted.add(f'in {country} the {task} is {answer}')
    for english, french in WORDS:
        wanted.add(f'the french for {english} is {french}')
        wanted.add(f'in french {english} is called {french}')
    assert set(told) == wanted
    assert sum(told.values()) == 20000


def columns_of(world, names):
    known = world.decode(world.questions[0]).split()
    return torch.tensor([[known.index(x) for x in names.split()]])


def test_lists(world):
    task, columns = torch.tensor([1]), columns_of(world, 'france brazil')
    plain, told = (world.lists(task, columns, x)[0] for x in (False, True))
    pairs = 'france -> paris ; brazil -> sao_paulo ;'
    assert world.decode(plain) == f'<bos> {pairs}'
    expected = f'<bos> country to largest_city : {pairs}'
    assert world.decode(told) == expected
    swapped = world.answers[1, columns].flip(1)
    X = world.lists(task, columns, False, swapped)
    pairs = 'france -> sao_paulo ; brazil -> paris ;'
    assert world.decode(X[0]) == f'<bos> {pairs}'
    french = world.lists(torch.tensor([6]), torch.tensor([[0]]), True)
    assert world.decode(french[0]) == '<bos> english to french : e0 -> f0 ;'
    assert world.lists(task, columns[:, :0], False).tolist() == [[1]]


def test_a_fact_that_does_not_exist(world):
    with pytest.raises(ValueError, match='its task does not have'):
        world.lists(torch.tensor([6]), torch.tensor([[30]]), False)


@given(st.integers(0, 18), st.integers(0, 99))
@settings(deadline=None)
def test_draw_takes_listed_facts_once(num_pairs, seed):
    world = facts.FactWorld(WORDS)
    tasks = torch.arange(7).repeat(3)
    columns = world.draw(tasks, num_pairs, seeded(seed))
    assert columns.shape == (21, num_pairs)
    assert world.listed[tasks[:, None], columns].all()
    assert all(len(set(row)) == num_pairs for row in columns.tolist())


def test_draw_is_uniform(world):
    tasks = torch.zeros(20000, dtype=torch.long)
    counts = world.draw(tasks, 3, seeded()).flatten().bincount()
    counts = counts[world.listed[0]]
    assert (counts - 60000 / len(counts)).abs().max() < 6 * 30


def test_draw_errors(world):
    with pytest.raises(ValueError, match=r'num_pairs is 19, not in 0\.\.18'):
        world.draw(torch.arange(7), 19)
    assert world.draw(COUNTRY_TASKS, 19).shape == (6, 19)
    with pytest.raises(ValueError, match='num_pairs is -1'):
        world.draw(COUNTRY_TASKS, -1)


def test_batches(world):
    batches = world.batches(16, 12, seed=3)
    X = next(batches)
    assert X.shape == (16, 5 + 4 * 12)
    arrow = X == facts.ARROW
    assert not arrow[:8].any()  # prose
    assert arrow[8:12, 2::4].all()  # lists
    assert arrow[12:, 6::4].all()  # lists with a description
    assert (X[:, 0] == facts.BOS).all() and (X[:, 1:] > facts.BOS).all()
    assert torch.equal(next(world.batches(16, 12, seed=3)), X)
    assert not torch.equal(next(world.batches(16, 12, seed=4)), X)
    assert not torch.equal(next(batches), X)


def test_held_out_facts_never_occur_in_a_list(world):
    held = set(world.questions[world.held_out].tolist())
    asked, told = set(), set()
    for _, X in zip(range(200), world.batches(16, 12), strict=False):
        before = (X == facts.ARROW).roll(-1, 1)
        before[:, -1] = False
        asked |= set(X[before].tolist())
        told |= set(X[:8].flatten().tolist())
    assert asked == set(world.questions[world.listed].tolist())
    assert not asked & held
    assert held <= told


def test_all_tasks_occur_in_lists(world):
    seen = set()
    for _, X in zip(range(40), world.batches(8, 12), strict=False):
        seen |= {world.decode(row[1:5]) for row in X[6:]}
    assert seen == {world.decode(row) for row in world.descriptions}
    assert len(seen) == 7


def test_batches_leave_the_global_generator_alone(world):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    next(world.batches(8, 12))
    assert torch.equal(torch.rand(1), expected)


def test_batches_are_fast(world):
    batches = world.batches(64, 12)
    began = time.process_time()
    for _ in range(20):
        next(batches)
    assert time.process_time() - began < 2  # a training step costs more


@pytest.mark.parametrize('batch_size', [0, 6, -4])
def test_batch_size_is_checked_at_once(world, batch_size):
    with pytest.raises(ValueError, match=f'batch_size is {batch_size}'):
        world.batches(batch_size, 12)


def test_number_of_pairs_is_checked_at_once(world):
    with pytest.raises(ValueError, match='num_pairs is 19'):
        world.batches(8, 18)


def test_words_for_the_chapter():
    english, french = zip(*facts.FRENCH_NOUNS, strict=True)
    assert len(set(english)) == len(facts.FRENCH_NOUNS) >= 100
    assert not set(english) & set(facts.country_facts())
    assert all(re.fullmatch('[a-z]+', x) for x in english)
    assert all(re.fullmatch('[a-zàâçéèêëîïôœùûü]+', x) for x in french)
    assert facts.FRENCH_NOUNS[31] == ('cheese', 'fromage')
    assert facts.FactWorld(facts.FRENCH_NOUNS).held_out[-1, 31]


def test_words_are_checked():
    with pytest.raises(ValueError, match='occurs twice'):
        facts.FactWorld([('dog', 'chien'), ('dog', 'clebs')])
    assert facts.FactWorld().tasks == list(facts.TASKS)


def test_corpora_export_the_world():
    assert corpora.FactWorld is facts.FactWorld
    assert corpora.FRENCH_NOUNS is facts.FRENCH_NOUNS


# ---- The Bayes-optimal predictor ----

# columns: france, brazil, japan; tasks: capital, largest city, language
SMALL = torch.tensor([[1, 2, 3], [1, 4, 3], [5, 6, 7]])


@pytest.mark.parametrize(
    ('columns', 'shown', 'expected'),
    [
        # nothing shown: paris by two tasks of three
        ([0], [], [2 / 3, 2 / 3, 1 / 3]),
        # nothing shown, brazil: three different answers
        ([1], [], [1 / 3, 1 / 3, 1 / 3]),
        # france -> paris leaves two tasks that differ on brazil
        ([0, 1], [1], [1 / 2, 1 / 2, 0]),
        # and agree on japan
        ([0, 2], [1], [1, 1, 0]),
        # brazil -> sao paulo settles it
        ([0, 1, 2], [1, 4], [1, 1, 0]),
        ([1, 0], [6], [0, 0, 1]),
    ],
)
def test_bayes_by_hand(columns, shown, expected):
    shown = torch.tensor([shown], dtype=torch.long)
    P = bayes_predictor(SMALL, torch.tensor([columns]), shown)
    assert torch.allclose(P[:, 0], torch.tensor(expected).float())


@given(st.data())
@settings(deadline=None)
def test_bayes_by_brute_force(data):
    num_tasks, num_columns = data.draw(st.integers(1, 4)), 5
    row = st.lists(st.integers(0, 2), min_size=5, max_size=5)
    table = [data.draw(row) for _ in range(num_tasks)]
    order = data.draw(st.permutations(range(num_columns)))
    k, true = data.draw(st.integers(0, 4)), data.draw(st.sampled_from(table))
    examples, query = order[:k], order[k]
    weight = collections.Counter()
    for task in table:
        if all(task[j] == true[j] for j in examples):
            weight[task[query]] += 1
    total = sum(weight.values())
    shown = torch.tensor([[true[j] for j in examples]], dtype=torch.long)
    P = bayes_predictor(
        torch.tensor(table), torch.tensor([[*examples, query]]), shown
    )
    expected = [Fraction(weight[task[query]], total) for task in table]
    assert torch.allclose(P[:, 0], torch.tensor([float(x) for x in expected]))


def test_bayes_accuracy_is_what_its_best_answer_reaches(world):
    tasks = COUNTRY_TASKS.repeat(3000)
    columns = world.draw(tasks, 4, seeded())
    answers = world.answers[:6]
    shown = answers[tasks[:, None], columns[:, :-1]]
    P, best = bayes_predictor(answers, columns, shown).max(0)
    query = columns[:, -1]
    reached = (answers[best, query] == answers[tasks, query]).float().mean()
    assert abs(P.mean() - reached) < 0.01
    assert 0.9 < reached < 1


def test_bayes_refuses_impossible_examples():
    with pytest.raises(ValueError, match='no task explains'):
        bayes_predictor(SMALL, torch.tensor([[0, 1]]), torch.tensor([[9]]))
