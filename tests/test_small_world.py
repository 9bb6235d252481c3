"""Tests of the small world: its prose, its labels and its splits."""

import re
import time
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch

import corpora
from corpora import join, small_words, small_world
from corpora.small_words import BAD, GOOD, SIMPLE, WORDS
from corpora.small_world import FORMS, SIDES, SmallWorld

TASKS = ['sentiment', 'entailment', 'tagging', 'questions', 'agreement']
ABOUT = ['facts', 'opinions']
NUM = 3000
NEGATORS = {'not', 'never', 'nobody', 'hardly', 'far', 'anything', 'no'}
NEGATORS |= {'cannot', 'neither'}
VERBS = {
    verb + end
    for verb in chain(*small_words.VERBS)
    for end in ('', 's', 'd', 'ed')
}
SORTS = {
    'vehicle': 'car boat bike van truck motorbike scooter tractor',
    'gadget': 'phone computer camera laptop watch printer tablet keyboard',
    'garment': 'coat dress shirt hat scarf jacket skirt sweater',
    'building': 'house cottage villa cabin bungalow hut farmhouse barn',
    'piece of furniture': 'chair table lamp sofa desk cupboard shelf stool',
    'plant': 'rose violet tulip lily jasmine orchid daisy ivy',
}


@pytest.fixture(scope='module')
def world():
    return SmallWorld()


@pytest.fixture(scope='module')
def documents(world):
    return world.documents(50_000)


@pytest.fixture(scope='module')
def sentences(world, documents):
    return [world.decode(row) for row in documents.sentences]


@pytest.fixture(scope='module')
def texts(documents, sentences):
    """The sentences of each document."""
    texts = [[] for _ in documents.polarity]
    for doc, text in zip(documents.doc.tolist(), sentences, strict=True):
        texts[doc].append(text)
    return texts


@pytest.fixture(scope='module')
def examples(world):
    """The examples of each task and split."""
    return {
        (task, split): getattr(world, task)(NUM, split)
        for task in TASKS
        for split in ('train', 'valid', 'test')
    }


def pairs(world, examples):
    """Both texts of each example, without special tokens."""
    for X in examples.X:
        first, *second, _ = world.decode(X).split('<sep>')
        first = first.removeprefix('<bos>').strip()
        yield first, second[0].strip() if second else ''


def words_of(text):
    return text.replace('_', ' ').split()


# ---- Size, speed, frequencies ----


def test_size(world):
    lines = [x for lines in small_words.TEMPLATES.values() for x in lines]
    assert len(world.words) >= 800
    assert len(set(lines)) >= 65
    assert len(set(world.words)) == len(world.words)
    assert len(world.words) == len(world.polarity) == len(world.shown)
    special = world.words[: corpora.NUM_SPECIAL]
    assert special == corpora.SPECIAL_TOKENS
    assert all(word == 'I' or word == word.lower() for word in world.words)
    for sign in (-1, 1):
        assert (world.polarity == sign).sum() == 8 + 9 * 2 + 3 * 3
    for words in (GOOD, BAD):
        sizes = {kind: len(row) for kind, row in words.items()}
        assert sizes == {'any': 8} | dict.fromkeys(small_words.KINDS, 2)
    assert [len(verbs) for verbs in small_words.VERBS] == [3, 3]
    places = WORDS['place']
    assert len(places) >= 60
    assert sum('_' in place for place in places) >= 15
    people = WORDS['woman'], WORDS['man']
    assert sum(map(len, people)) >= 95
    assert not set(people[0]) & set(people[1])
    assert len(WORDS['surname']) >= 60


def test_every_word_is_used(world, documents, sentences):
    used = set(documents.sentences.unique().tolist())
    examples = [getattr(world, task)(NUM).X for task in TASKS]
    for X in [*examples, world.documents(150_000, seed=1).sentences]:
        used |= set(X.unique().tolist())
    unused = {i for i in range(len(world.words)) if i not in used}
    assert {world.words[i] for i in unused} == {'<eos>', '<mask>'}


def test_speed(world):
    start = time.perf_counter()
    world.documents(100_000, seed=1)
    assert time.perf_counter() - start < 6


def slope(counts):
    """Of the logarithm of counts over the logarithm of the rank."""
    counts = np.array(counts)
    ranks = np.log(np.arange(len(counts)) + 1)
    return np.polyfit(ranks, np.log(counts + 1), 1)[0]


@pytest.mark.parametrize(
    'words',
    [
        WORDS['place'],
        WORDS['colour'],
        GOOD['any'],
        BAD['any'],
        SIMPLE['adv'],
        SIMPLE['job'],
        WORDS['surname'],
        SORTS['garment'].split(),
    ],
)
def test_zipf(sentences, words):
    text = ' '.join(sentences)
    words = [word.replace('_', ' ') for word in words]
    counts = [text.count(f' {word} ') for word in words[:25]]
    assert -1.2 < slope(counts) < -0.7
    assert counts[0] > 3 * counts[-1] > 0


def test_seeds(world):
    def texts(seed):
        return [
            world.documents(500, seed).sentences,
            *(getattr(world, task)(50, 'train', seed).X for task in TASKS),
            *(world.evidence(50, side, seed).X for side in SIDES),
            *(world.binding(50, about, seed).X for about in ABOUT),
            *chain(*(world.competing(50, about, seed) for about in ABOUT)),
        ]

    again = SmallWorld()
    assert again.words == world.words
    for old, new, other in zip(texts(3), texts(3), texts(4), strict=True):
        assert torch.equal(old, new)
        assert old.shape != other.shape or not torch.equal(old, other)
    assert torch.equal(
        again.documents(500, 3).sentences, world.documents(500, 3).sentences
    )


# ---- English ----


def test_articles(sentences, world, examples):
    texts = sentences + [
        world.decode(X) for rows in examples.values() for X in rows.X
    ]
    after = Counter(re.findall(r'\ban? \w+', ' '.join(texts)))
    wrong = {
        text
        for text in after
        if (text.split()[0] == 'an')
        != (text.split()[1][0] in 'aeiou' and not text.endswith(' university'))
    }
    assert not wrong
    for text in (
        *('an orange', 'an engineer', 'an old', 'an excellent', 'an awful'),
        *('an ugly', 'a university', 'a red', 'a teacher', 'a wonderful'),
    ):
        assert after[text], text


def test_pronouns(world, texts):
    """They agree with the person that the first sentence introduces.

    Without an introduction they agree with each other and with the person
    who says or feels most; only the one who "finds" is somebody else.
    """
    women, men = WORDS['woman'], WORDS['man']
    name, verb = '|'.join([*women, *men]), '|'.join(VERBS)
    person = re.compile(
        rf'\b({name})(?: [a-z]+)? (?:(?:{verb}) th|called|did not|does not)'
        rf'|neither ({name}) nor [a-z]+ [a-z]+'
    )
    seen = Counter()
    for rows in texts:
        text = ' . '.join(rows)
        pronouns = {'she', 'her', 'he', 'his'} & set(text.split())
        if sentiment_of(world, rows[0]):
            names = {a or b for a, b in person.findall(text)}
            assert len(names) < 2, rows
            seen['named'] += bool(names and pronouns)
            seen['alone'] += bool(pronouns and not names)
            seen['first'] += rows[0].split()[0] in pronouns
        else:
            words = rows[0].split()
            names = {words[2 if words[0] in ('in', 'last') else 0]}
            assert names <= {*women, *men}
        genders = {name in women for name in names}
        genders |= {word in ('she', 'her') for word in pronouns}
        assert len(genders) < 2, rows
        seen.update(pronouns)
    assert len(seen) == 7 and min(seen.values()) > 200, seen


def test_names_are_two_words_or_one(sentences):
    text = ' '.join(sentences)
    assert re.search(r'\banna berg\b', text)
    assert re.search(r'\brose (\w+ )?bought\b', text)
    assert re.search(r'\ba rose \w+', text)
    assert re.search(r'\bin may\b', text)
    assert re.search(r'\bmay \w+ (has|bought|saw)\b', text)
    assert re.search(r'\bmay come\b', text)


def test_adjectives_fit_their_nouns(sentences):
    kinds = {
        word: kind
        for words in (GOOD, BAD)
        for kind, row in words.items()
        for word in row
    }
    kind_of = {
        'waiter': 'person',
        'soup': 'food',
        'room': 'place',
        'engine': 'device',
        'plot': 'story',
        'match': 'event',
        'collar': 'look',
        'leaf': 'plant',
        'dog': 'animal',
    }
    rows = [*GOOD.values(), *BAD.values()]
    assert len(kinds) == sum(map(len, rows))
    found = {form: Counter() for form in ('after', 'before', 'object')}
    forms = {
        'after': r'(?:^|, |but |though )(?:the|this) (\w+) (?:in this \w+ )?'
        r'(?:is|was)\b([^,.]*)',
        'object': r' (?:find|finds|called) the (\w+)\b([^,.]*)',
    }
    nouns = '|'.join(kind_of)
    for text in sentences:
        pairs = [
            (form, noun, rest)
            for form, pattern in forms.items()
            for noun, rest in re.findall(pattern, text)
        ]
        for rest, noun in re.findall(
            rf'\b((?:\w+ , )?(?!the |this )\w+) ({nouns})\b', text
        ):
            pairs.append(('before', noun, rest))
        for form, noun, rest in pairs:
            for kind in {kinds.get(word) for word in rest.split()} - {None}:
                if noun in kind_of:
                    assert kind in ('any', kind_of[noun]), text
                    found[form][noun] += kind != 'any'
    for form in found:
        assert found[form].keys() == kind_of.keys()
        assert found[form].total() > 100
    assert min(found['after'].values()) > 5


def test_general_adjectives_twice_as_often(sentences):
    words = Counter(' '.join(sentences).split())
    for rows in (GOOD, BAD):
        general, *others = (
            sum(words[word] for word in row) for row in rows.values()
        )
        assert 1.85 < general / sum(others) < 2.15


def test_love_this_red_car(world):
    template = small_world.read_template('I {love} this')
    numbers = [
        i for i, row in enumerate(world._templates) if row[:3] == template
    ]
    rng, topic = np.random.default_rng(0), np.zeros(4000, int)
    scene = world._scene(rng, topic)
    choice = np.full(4000, max(numbers))
    scene['part'] = scene['flaw']
    clause = world._clause(rng, choice, scene, topic, topic + 1, False)
    single = np.array(world._menus['alone'])[topic, 0]
    ids, _ = world._fill(single, scene | {'main': clause})
    texts = {world.decode(row) for row in ids}
    assert 'I love this red car .' in texts
    assert world.encode(['I love this red car']).shape == (1, 5)
    hashes = small_world.hash_rows(
        world.encode(['I love this red car .']).numpy()
    )
    assert small_world.in_split(hashes, 'train').all()


# ---- Documents ----


def test_documents(world, documents):
    doc = documents.doc
    counts = torch.bincount(doc)
    assert counts.min() == 2 and counts.max() == 6
    assert (doc.diff() >= 0).all() and doc[0] == 0
    assert len(counts) == len(documents.polarity) == len(documents.topic)
    assert 50_000 <= len(doc) <= 50_005
    assert documents.sentences.dtype == doc.dtype == torch.long
    lengths = (documents.sentences > 0).sum(1)
    last = documents.sentences.gather(1, lengths[:, None] - 1)
    assert (last == world.words.index('.')).all()
    columns = torch.arange(documents.sentences.shape[1])
    assert ((documents.sentences > 0) == (columns < lengths[:, None])).all()
    assert set(documents.polarity.tolist()) == {0, 1}
    assert abs(documents.polarity.float().mean() - 0.5) < 0.02
    assert len(documents.topic.unique()) >= 12
    for num in (1, 7, 1000):
        assert num <= len(world.documents(num).doc) <= num + 5


def test_no_sentence_twice_in_a_document(documents, sentences):
    rows = list(zip(documents.doc.tolist(), sentences, strict=True))
    assert len(set(rows)) == len(rows)


def test_documents_share_topic_and_polarity(world, documents, texts):
    things = {}
    for i, topic in enumerate(small_words.TOPICS):
        things |= dict.fromkeys(topic['thing'], i)
    names = [*WORDS['surname'], *WORDS['woman']]
    names += words_of(' '.join(WORDS['place'] + WORDS['colour']))
    seen = 0
    for rows, sign, topic in zip(
        texts, documents.polarity.tolist(), documents.topic, strict=True
    ):
        for text in rows:
            assert sentiment_of(world, text) in (0, 2 * sign - 1), text
            told = re.findall(r'(?:it is|what) (?:.* )?(\w+) (?:,|\.)', text)
            told += re.findall(r' the (\w+) \.', text)
            for noun in set(told) & things.keys() - set(names):
                assert things[noun] == topic, text
                seen += 1
    assert seen > 5000


def test_reviews(world, texts):
    """Seven in ten documents are opinions throughout; others mix them."""
    reviews, styles, later = 0, Counter(), []
    for rows in texts:
        told = [sentiment_of(world, text) != 0 for text in rows]
        styles.update(style_of(x) for x in rows if sentiment_of(world, x))
        reviews += told[0]
        if told[0]:
            assert all(told), rows
        else:
            later += told[1:]
    assert abs(reviews / len(texts) - 0.7) < 0.02
    assert abs(np.mean(later) - 0.5) < 0.05
    for style, share in (('plain', 0.8), ('negated', 0.1), ('contrast', 0.1)):
        assert abs(styles[style] / styles.total() - share) < 0.01


def test_joined_opinions(world, sentences):
    """All ways to join words of one polarity, but no word to itself."""
    seen = Counter()
    for text in sentences:
        if style_of(text) != 'contrast':
            _, verbs, adjectives = opinions_of(world, text)
            seen[len(verbs), len(adjectives)] += 1
            seen['and'] += bool(
                re.search(r'(find|is|was) .*\w+ and \w+', text)
            )
    for joined in ((0, 2), (1, 1), (1, 2), 'and'):
        assert seen[joined] > 500, seen
    assert seen.keys() <= {
        (0, 0),
        (0, 1),
        (1, 0),
        (0, 2),
        (1, 1),
        (1, 2),
        'and',
    }


def test_documents_repeat_what_they_say(world, texts):
    """A thing of one person keeps its colour through the document."""
    again, mixed, introduced = 0, 0, 0
    nouns = ' '.join(SORTS.values()).split()
    names = [words_of(c)[-1] for c in WORDS['colour']]
    for rows in texts:
        seen = {}
        for noun in set(' '.join(rows).split()) & set(nouns):
            text = ' '.join(rows)
            # Some flowers are names, too: the villa of ivy is orange.
            told = re.findall(rf'(\w+) {noun} ', text) + re.findall(
                rf'(?<! of) {noun} (?:of \w+ )?is (?:\w+ )?(\w+) \.', text
            )
            told = [word for word in told if word in names]
            if noun not in names and told:
                seen[noun] = told
                assert len(set(told)) == 1, (noun, rows)
        if not sentiment_of(world, rows[0]):
            introduced += 1
            again += any(len(told) > 1 for told in seen.values())
            mixed += len(seen) > 1
    assert again / introduced > 0.15
    assert mixed / introduced > 0.05


def test_halves(world, documents, texts):
    first, second = documents.halves()
    assert first.shape[0] == second.shape[0] == len(documents.polarity)
    assert (first[:, 0] > 0).all() and (second[:, 0] > 0).all()
    assert (first[:, -1] > 0).any() and (second[:, -1] > 0).any()
    for doc in range(2000):
        rows = texts[doc]
        cut = len(rows) // 2
        assert world.decode(first[doc]) == ' '.join(rows[:cut])
        assert world.decode(second[doc]) == ' '.join(rows[cut:])


# ---- Layout ----


def test_join():
    A = torch.tensor([[7, 8, 9], [6, 0, 0]])
    X, segments, valid_lens = join(A)
    assert X.tolist() == [[1, 7, 8, 9, 4], [1, 6, 4, 0, 0]]
    assert segments.tolist() == [[0] * 5] * 2
    assert valid_lens.tolist() == [5, 3]
    A = torch.tensor([[7, 8, 9], [6, 0, 0], [7, 7, 7]])
    B = torch.tensor([[5, 0], [8, 9], [6, 6]])
    X, segments, valid_lens = join(A, B)
    assert X.tolist() == [
        [1, 7, 8, 9, 4, 5, 4, 0],
        [1, 6, 4, 8, 9, 4, 0, 0],
        [1, 7, 7, 7, 4, 6, 6, 4],
    ]
    assert segments.tolist() == [
        [0, 0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 1],
    ]
    assert valid_lens.tolist() == [7, 6, 8]
    assert X.dtype == segments.dtype == valid_lens.dtype == torch.long


def test_examples(world, examples):
    for (task, _), rows in examples.items():
        assert len(rows) == NUM
        assert (rows.X[:, 0] == 1).all()
        kind = torch.float32 if task == 'agreement' else torch.long
        assert rows.labels.dtype == kind and rows.X.dtype == torch.long
        assert torch.equal((rows.X > 0).sum(1), rows.valid_lens)
        assert int(rows.valid_lens.max()) == rows.X.shape[1]
        seps = (rows.X == 4).sum(1)
        both = task in ('entailment', 'questions', 'agreement')
        assert (seps == 1 + both).all()
        assert rows.segments.any(1).all() == both
        shapes = {'tagging': rows.X.shape, 'questions': (NUM, 2)}
        assert rows.labels.shape == shapes.get(task, (NUM,))
    rows = examples['questions', 'valid']
    part, chosen = rows[10:20], rows[torch.tensor([3, 1])]
    assert len(part) == 10 and len(chosen) == 2
    for name in ('X', 'segments', 'valid_lens', 'labels'):
        assert torch.equal(getattr(part, name), getattr(rows, name)[10:20])
        assert torch.equal(getattr(chosen, name)[1], getattr(rows, name)[1])


def test_encode(world, sentences):
    rows = [*sentences[:100], '<bos> I <mask> this car <sep>']
    X = world.encode(rows)
    assert X.dtype == torch.long
    assert [world.decode(row) for row in X] == rows
    assert X[-1, :3].tolist() == [1, world.words.index('I'), 3]
    assert X.shape[1] == max(len(text.split()) for text in rows)


def test_errors(world):
    with pytest.raises(ValueError, match=r"'zeppelin' is none of the \d+"):
        world.encode(['the car is red .', 'the zeppelin is red .'])
    with pytest.raises(ValueError, match='num_sentences is 0, not at least 1'):
        world.documents(0)
    for task in TASKS:
        with pytest.raises(ValueError, match='examples is -1, not at least 1'):
            getattr(world, task)(-1)
        with pytest.raises(ValueError, match="split is 'dev', not one of"):
            getattr(world, task)(5, 'dev')
    with pytest.raises(ValueError, match='examples is 0, not at least 1'):
        world.evidence(0, 'left')
    with pytest.raises(ValueError, match="side is 'up', not one of"):
        world.evidence(5, 'up')
    forms = r"\['any', 'plain', 'negated', 'contrasting'\]"
    with pytest.raises(ValueError, match=f"form is 'odd', not one of {forms}"):
        world.sentiment(5, form='odd')
    for make, number in (
        (world.competing, 'num_docs'),
        (world.binding, 'num_examples'),
    ):
        for about in ABOUT:
            message = f'{number} is 0, not at least 1'
            with pytest.raises(ValueError, match=message):
                make(0, about)
        message = r"about is 'plans', not one of \['facts', 'opinions'\]"
        with pytest.raises(ValueError, match=message):
            make(5, 'plans')


# ---- Splits ----


def test_splits(world, examples, sentences):
    for task in TASKS:
        texts = {
            split: set(pairs(world, examples[task, split]))
            for split in ('train', 'valid', 'test')
        }
        assert not texts['train'] & (texts['valid'] | texts['test'])
        assert not texts['valid'] & texts['test']
        assert len(texts['test']) > NUM / 2
    known = set(sentences)
    for task, often in (('sentiment', 50), ('tagging', 50)):
        for split in ('valid', 'test'):
            held = {text for text, _ in pairs(world, examples[task, split])}
            assert not held & known
        # Some of the training texts do occur, so the test can fail.
        train = [text for text, _ in pairs(world, examples[task, 'train'])]
        assert sum(text in known for text in train) > often


def test_hidden_words(world, examples):
    assert world.shown[:5].all()
    for (task, split), rows in examples.items():
        hidden = ~world.shown[rows.X]
        if split == 'train':
            assert not hidden.any()
        else:
            assert hidden.any(1).float().mean() >= 0.25, task
        if task == 'sentiment' and split != 'train':
            hidden &= world.polarity[rows.X] != 0
            assert hidden.any(1).float().mean() >= 0.2, split
    shown = dict(zip(world.words, world.shown.tolist(), strict=True))
    for words in (GOOD, BAD):
        for kind, row in words.items():
            told = [shown[word] for word in row]
            assert told == [False, True] * (4 if kind == 'any' else 1), kind
    for verbs in (
        *('hate dislike detest', 'hates dislikes detests'),
        *('hated disliked detested', 'love like enjoy'),
        *('loves likes enjoys', 'loved liked enjoyed'),
    ):
        assert [shown[verb] for verb in verbs.split()] == [False, True, False]
    for name in ('woman', 'man', 'place'):
        told = [shown[words_of(entry)[-1]] for entry in WORDS[name]]
        assert all(told[1::2])
        assert 0.6 < 1 - np.mean(told[::2]) <= 1  # some are other words, too


def test_training_texts_have_shown_opinions_only(world):
    """Of each list of opinion words the second, the fourth and so on."""
    adjectives = [*GOOD.values(), *BAD.values()]
    told = {False: set(), True: set()}
    for row in adjectives:
        for i, word in enumerate(row):
            told[i % 2 == 1].add(word)
    for row in small_words.VERBS:
        for i, verb in enumerate(row):
            past = verb + ('d' if verb.endswith('e') else 'ed')
            told[i % 2 == 1] |= {verb, verb + 's', past}
    hidden, shown = told[False], told[True]
    opinions = (world.polarity != 0).tolist()
    assert not hidden & shown
    for words, flag in ((hidden, False), (shown, True)):
        assert words == {
            word
            for word, opinion, known in zip(
                world.words, opinions, world.shown.tolist(), strict=True
            )
            if opinion and known == flag
        }
    for task in TASKS:
        for seed in (0, 1):
            ids = getattr(world, task)(5000, 'train', seed).X.unique()
            used = {world.words[i] for i in ids}
            assert not used & hidden, (task, used & hidden)
            # The rest is there, so the test can fail.
            if task in ('sentiment', 'tagging'):
                assert used >= shown, (task, shown - used)
            if task == 'entailment':  # no part of a topic is an animal
                words = set(chain(*adjectives))
                words -= {'gentle', 'aggressive'}
                assert used >= shown & words, (shown & words) - used
    ids = world.sentiment(5000, 'test').X.unique()
    assert {world.words[i] for i in ids} >= hidden | shown


def test_documents_show_all_opinions(world, documents):
    counts = torch.bincount(documents.sentences.flatten())
    counts = torch.nn.functional.pad(counts, (0, len(world.words)))
    for sign in (-1, 1):
        told = (world.polarity == sign).nonzero()[:, 0]
        assert (counts[told] > 0).all()


# ---- Sentiment ----


def opinions_of(world, clause):
    """The sum of the signs of a clause, its verbs and its adjectives."""
    words = clause.split()
    signs = [int(world.polarity[world.words.index(word)]) for word in words]
    told = [word for word, sign in zip(words, signs, strict=True) if sign]
    verbs = [word for word in told if word in VERBS]
    return sum(signs), verbs, [word for word in told if word not in VERBS]


def clause_sentiment(world, clause):
    total, verbs, adjectives = opinions_of(world, clause)
    count = len(verbs) + len(adjectives)
    assert abs(total) == count, clause  # of one polarity
    assert len(verbs) <= 1 and len(adjectives) <= 2, clause
    if len(adjectives) == 2:
        first, second = adjectives
        assert first != second, clause
        assert re.search(f' {first} (and|,) {second}\\b', clause), clause
    negated = bool(NEGATORS & set(clause.split()))
    assert count <= 1 or not negated, clause
    return np.sign(total) * (-1) ** negated


def style_of(text):
    if re.search('although|though| , but ', text):
        return 'contrast'
    return 'negated' if NEGATORS & set(text.split()) else 'plain'


def sentiment_of(world, text):
    """By reading: 1, -1, or 0 where there is no opinion."""
    text = text.removesuffix(' .')
    start = re.match(r'(although|even though) (.*?) , (.*)', text)
    if start:
        minor, main = start[2], start[3]
    elif ' , but ' in text:
        minor, main = text.split(' , but ')
    elif re.search(' , (although|even though) ', text):
        main, minor = re.split(' , (?:although|even though) ', text)
    else:
        return clause_sentiment(world, text)
    sign = clause_sentiment(world, main)
    assert clause_sentiment(world, minor) == -sign != 0, text
    return sign


def test_polarity_of_known_words(world):
    signs = dict(zip(world.words, world.polarity.tolist(), strict=True))
    good = 'wonderful delicious friendly cosy love liked enjoys polite'
    bad = 'awful bland rude filthy faulty hate hates hated disliked detests'
    neutral = 'not red old anna car the never may but really cold large'
    assert {signs[word] for word in good.split()} == {1}
    assert {signs[word] for word in bad.split()} == {-1}
    assert {signs[word] for word in neutral.split()} == {0}


@pytest.mark.parametrize('split', ['train', 'valid', 'test'])
def test_sentiment(world, examples, split):
    rows = examples['sentiment', split]
    styles = Counter()
    for (text, _), label in zip(pairs(world, rows), rows.labels, strict=True):
        assert sentiment_of(world, text) == 2 * int(label) - 1, text
        styles[style_of(text)] += 1
    assert abs(rows.labels.float().mean() - 0.5) < 0.05
    assert abs(styles['plain'] / NUM - 0.7) < 0.04
    assert abs(styles['negated'] / NUM - 0.15) < 0.03
    assert abs(styles['contrast'] / NUM - 0.15) < 0.03


@pytest.mark.parametrize('form', ['plain', 'negated', 'contrasting'])
@pytest.mark.parametrize('split', ['train', 'test'])
def test_sentiment_of_one_form(world, form, split):
    rows = world.sentiment(1000, split, form=form)
    style = form.removesuffix('ing')
    for (text, _), label in zip(pairs(world, rows), rows.labels, strict=True):
        assert style_of(text) == style
        assert sentiment_of(world, text) == 2 * int(label) - 1, text
    assert abs(rows.labels.float().mean() - 0.5) < 0.07


def test_forms(world):
    assert all(sum(shares) == pytest.approx(1) for shares in FORMS.values())
    for old, new in zip(
        world.sentiment(100), world.sentiment(100, form='any'), strict=True
    ):
        assert torch.equal(old, new)


def bags(world, rows, segment):
    """Which words the texts of a segment have, (n, V)."""
    present = torch.zeros(len(rows), len(world.words))
    present.scatter_(1, rows.X * (rows.segments == segment), 1.0)
    present[:, :5] = 0
    return present


def test_single_words_hardly_tell(world):
    """Only words of opinions hint at a sentiment, at entailment no word."""
    vague = (world.polarity == 0).clone()
    vague[world.words.index('an')] = False  # "an awful", but "a good"
    for task, classes in (('sentiment', 2), ('entailment', 3)):
        rows = getattr(world, task)(20_000)
        bound = torch.where(vague | (classes == 3), 0.35, 0.8)
        for segment in range(classes - 1):
            present = bags(world, rows, segment)
            often = present.sum(0) > 400
            assert often.sum() > 40
            for label in range(classes):
                share = present[rows.labels == label].mean(0)
                ratio = share / present.mean(0).clamp(min=1e-9)
                assert ((ratio - 1).abs() < bound)[often].all()


def linear_accuracies(train, test, classes):
    """Of multinomial logistic regression, a list: one for each penalty.

    `train` and `test` are features (n, V) and labels (n,).
    """
    found = []
    for penalty in (1e-3, 1e-4):
        W = torch.zeros(train[0].shape[1] + 1, classes, requires_grad=True)
        solver = torch.optim.LBFGS(
            [W], max_iter=100, line_search_fn='strong_wolfe'
        )

        def loss(W=W, solver=solver, penalty=penalty):
            solver.zero_grad()
            scores = train[0] @ W[:-1] + W[-1]
            value = torch.nn.functional.cross_entropy(scores, train[1])
            value = value + penalty * (W[:-1] ** 2).sum()
            value.backward()
            return value

        solver.step(loss)
        right = (test[0] @ W[:-1] + W[-1]).argmax(1) == test[1]
        found.append(right.float().mean().item())
    return found


@pytest.mark.slow
def test_bag_of_words_on_sentiment(world):
    train, known, test = (
        (bags(world, rows, 0), rows.labels)
        for rows in (
            world.sentiment(4000, 'train'),
            world.sentiment(4000, 'train', seed=1),
            world.sentiment(4000, 'test'),
        )
    )
    # Half of the opinions in a test text are of words never seen.
    assert 0.55 < max(linear_accuracies(train, test, 2)) < 0.67
    assert 0.7 < max(linear_accuracies(train, known, 2)) < 0.82


# ---- Entailment ----


OPINIONS_OF_PARTS = [
    r'the (\w+) (?:in this \w+ )?(?:is|was) .+',
    r'(?:I find|I cannot call|nobody would call) the (\w+) \w+',
    r'\w+ (?:called|did not find) the (\w+) \w+',
    rf'I (?:{"|".join(VERBS)}) the \w+ (\w+)',
    r'this \w+ has an? \w+ (\w+)',
]


def part_of(text):
    matches = [re.fullmatch(pattern, text) for pattern in OPINIONS_OF_PARTS]
    (match,) = filter(None, matches)
    return match[1]


def entailment_of(world, premise, hypothesis):
    """By reading: what an opinion is about, and its sign."""
    texts = [text.removesuffix(' .') for text in (premise, hypothesis)]
    signs = [clause_sentiment(world, text) for text in texts]
    assert set(signs) <= {-1, 1}
    if part_of(texts[0]) != part_of(texts[1]):
        return 2
    return int(signs[0] != signs[1])


def test_entailment_reader(world):
    for premise, hypothesis, label in (
        ('the soup is good .', 'I love the tasty soup .', 0),
        ('the soup is not good .', 'ben called the soup awful .', 0),
        ('nobody would call the soup bad .', 'the soup is really good .', 0),
        ('I cannot call the plot silly .', 'the plot is silly .', 1),
        ('this film has a great plot .', 'I find the plot dreadful .', 1),
        ('the plot was anything but bad .', 'the plot is bad and silly .', 1),
        ('the soup is good .', 'the fish in this cafe is good .', 2),
        ('ben did not find the soup good .', 'I hate the stale fish .', 2),
    ):
        assert entailment_of(world, premise, hypothesis) == label


@pytest.mark.parametrize('split', ['train', 'valid', 'test'])
def test_entailment(world, examples, split):
    rows = examples['entailment', split]
    topics = [
        {*topic['thing'], *topic['part']} for topic in small_words.TOPICS
    ]
    labels = rows.labels.tolist()
    wrong, negated, equal = [], {0: [], 1: [], 2: []}, []
    for (premise, hypothesis), label in zip(
        pairs(world, rows), labels, strict=True
    ):
        if entailment_of(world, premise, hypothesis) != label:
            wrong.append((premise, hypothesis, label))
        assert style_of(hypothesis) == 'plain'
        assert style_of(premise) in ('plain', 'negated')
        negated[label].append(style_of(premise) == 'negated')
        texts = [text.removesuffix(' .') for text in (premise, hypothesis)]
        parts = {part_of(text) for text in texts}
        assert any(parts <= words for words in topics), (premise, hypothesis)
        if label == 2:
            one, two = (clause_sentiment(world, text) for text in texts)
            equal.append(one == two)
    assert not wrong, (len(wrong), wrong[:5])
    shares = torch.bincount(rows.labels) / len(rows)
    assert (shares - 1 / 3).abs().max() < 0.05
    for told in negated.values():
        assert abs(np.mean(told) - 0.3) < 0.06
    assert abs(np.mean(equal) - 0.5) < 0.06


COMBINED = {
    'premise': lambda A, B: A,
    'hypothesis': lambda A, B: B,
    'both': lambda A, B: torch.hstack([A, B]),
    'counts': torch.add,
}


def entailment_bags(world, combine):
    for split in ('train', 'test'):
        rows = world.entailment(4000, split)
        yield combine(*(bags(world, rows, i) for i in (0, 1))), rows.labels


@pytest.mark.slow
@pytest.mark.parametrize('name', COMBINED)
def test_entailment_baselines(world, name):
    """Words of one side, of each side, and of both sides in one bag."""
    train, test = entailment_bags(world, COMBINED[name])
    assert max(linear_accuracies(train, test, 3)) < 0.45


@pytest.mark.slow
def test_entailment_baseline_of_different_words(world):
    """How many nouns there are tells what is neutral, but nothing else.

    One set of the words of both sides has one part if they are about the
    same part, and else two: a linear function of the set, not of counts.
    """
    train, test = entailment_bags(world, torch.maximum)
    assert 0.55 < max(linear_accuracies(train, test, 3)) < 0.7
    train, test = (
        (words[labels < 2], labels[labels < 2])
        for words, labels in (train, test)
    )
    assert max(linear_accuracies(train, test, 2)) < 0.58


# ---- Tagging ----


def test_tagging(world, examples):
    assert world.tags[0] == 'O'
    lists = {
        'person': WORDS['woman'] + WORDS['man'] + WORDS['surname'],
        'place': WORDS['place'],
        'colour': WORDS['colour'] + WORDS['pet_colour'],
        'job': SIMPLE['job'],
        'time': SIMPLE['month'] + SIMPLE['day'] + SIMPLE['season'],
        'thing': SORTS.values(),
        'material': chain(*(x['material'] for x in small_words.TOPICS)),
    }
    lists = {name: {*words_of(' '.join(x))} for name, x in lists.items()}
    allowed = {word for words in lists.values() for word in words}
    tags_of = {}
    for split in ('train', 'test'):
        rows = examples['tagging', split]
        inside = (rows.X >= corpora.NUM_SPECIAL) & (rows.segments == 0)
        assert torch.equal(rows.labels >= 0, inside)
        assert set(rows.labels[~inside].tolist()) == {-100}
        for word, tag in zip(
            rows.X[inside].tolist(), rows.labels[inside].tolist(), strict=True
        ):
            word, tag = world.words[word], world.tags[tag]
            tags_of.setdefault(word, set()).add(tag)
            if tag in lists and tag != 'thing':
                assert word in lists[tag], (word, tag)
            if tag == 'O':
                assert word not in allowed - {'may', 'new', 'train'}
            opinion = world.polarity[world.words.index(word)] != 0
            assert (tag == 'opinion') == bool(opinion)
    assert {'person', 'colour', 'thing'} >= tags_of['rose'] != {'person'}
    assert {'person', 'time', 'O'} == tags_of['may']
    several = [word for word, tags in tags_of.items() if len(tags) > 1]
    assert len(several) >= 15


def test_tags_follow_the_context(world, examples):
    rows = examples['tagging', 'train']
    seen = Counter()
    for X, labels in zip(rows.X, rows.labels, strict=True):
        n = int((labels >= 0).sum())
        words = [world.words[i] for i in X[1 : n + 1]]
        tags = [world.tags[i] for i in labels[1 : n + 1]]
        text = ' '.join(words)
        match = re.fullmatch(r'(\w+)( \w+)? lives in (.*) \.', text)
        if match and words[0] not in ('her', 'his'):
            at = words.index('lives')
            assert tags[:at] == ['person'] * at
            assert set(tags[at + 2 : -1]) == {'place'}
            seen['lives'] += 1
        match = re.fullmatch(r'the \w+ is (\w+ )?(\w+) \.', text)
        if match and match[2] in ('red', 'blue', 'olive', 'violet', 'green'):
            assert tags[1] == 'thing' and tags[-2] == 'colour'
            seen['colour'] += 1
        if ' is a' in text and 'as' not in words and tags[-2] == 'job':
            assert 'person' in tags
            seen['job'] += 1
    assert min(seen[name] for name in ('lives', 'colour', 'job')) >= 5


# ---- Questions ----

STATED = [
    ('place', r'(?P<x>.+) lives in (?P<value>.+)'),
    ('place', r'(?P<value>.+) is the home of (?P<x>.+)'),
    ('place', r'(?P<x>.+) has a flat in (?P<value>.+)'),
    ('job', r'(?P<x>.+) works as an? (?P<value>.+)'),
    ('job', r'(?P<x>.+) earns a living as an? (?P<value>.+)'),
    ('month', r'(?P<x>.+) arrived in (?P<value>.+)'),
    ('month', r'it was (?P<value>.+) when (?P<x>.+) arrived'),
    ('colour', r'there is an? (?P<value>.+) (?P<x>\w+) here'),
    ('colour', r'I can see an? (?P<value>.+) (?P<x>\w+)'),
    ('colour', r'the (?P<x>\w+) is (?P<value>.+)'),
    ('owner', r'the (?P<x>.+) belongs to (?P<value>.+)'),
    ('owner', r'(?P<value>.+) has an? (?P<x>.+)'),
]
ASKED = [
    ('place', r'where does (?P<x>.+) live'),
    ('place', r'where is the home of (?P<x>.+)'),
    ('place', r'who lives in (?P<value>.+)'),
    ('place', r'who has a home in (?P<value>.+)'),
    ('job', r'what is the job of (?P<x>.+)'),
    ('job', r'what does (?P<x>.+) work as'),
    ('job', r'who (?:works as|is) an? (?P<value>.+)'),
    ('month', r'when did (?P<x>.+) arrive'),
    ('month', r'in what month did (?P<x>.+) come'),
    ('month', r'who arrived in (?P<value>.+)'),
    ('hue', r'what colour is the (?P<thing>\w+) of (?P<value>.+)'),
    ('colour', r'what colour is the (?P<x>.+)'),
    ('colour', r'(?:what|which thing) is (?P<value>.+)'),
    ('owner', r'what does (?P<value>.+) have'),
    ('owner', r'who (?:has|owns) (?:an?|the) (?P<x>.+)'),
]


def first_match(patterns, text):
    return next(
        (name, match.groupdict())
        for name, pattern in patterns
        if (match := re.fullmatch(pattern, text))
    )


def answers_of(question, context):
    """All answers, and all values of the same kind that stand there."""
    kind, asked = first_match(ASKED, question.removesuffix(' ?'))
    right, others = [], []
    for sentence in context.removesuffix(' .').split(' . '):
        name, stated = first_match(STATED, sentence)
        if kind == 'hue' and name == 'owner':
            *colour, thing = stated['x'].split()
            others.append(' '.join(colour))
            if stated['value'] == asked['value'] and thing == asked['thing']:
                right.append(' '.join(colour))
        elif name == kind:
            if 'x' in asked:
                x = stated['x']
                wanted = asked['x']
                others.append(stated['value'])
                if x == wanted or (
                    name == 'owner' and x.split()[-1] == wanted
                ):
                    right.append(stated['value'])
            else:
                others.append(stated['x'])
                if stated['value'] == asked['value']:
                    right.append(stated['x'])
    return right, others


@pytest.mark.parametrize('split', ['train', 'valid', 'test'])
def test_questions(world, examples, split):
    rows = examples['questions', split]
    kinds = Counter()
    for X, label, (question, context) in zip(
        rows.X, rows.labels, pairs(world, rows), strict=True
    ):
        first, last = label.tolist()
        answer = world.decode(X[first : last + 1])
        right, others = answers_of(question, context)
        assert right == [answer], (question, context, answer)
        assert len(set(others)) >= 2, context
        assert f' {context} '.count(f' {answer} ') == 1
        assert 2 <= context.count(' .') <= 4
        assert 1 <= last - first + 1 <= 3
        kinds[question.split()[0]] += 1
    assert min(kinds[word] for word in ('who', 'where', 'what', 'when')) > 50
    assert (rows.segments.gather(1, rows.labels) == 1).all()


# ---- Evidence ----


MASKED = [
    r'the \w+ (in this \w+ )?(is|was)( \w+)? <mask>',
    r'the (\w+ )?\w+ \w+ is \w+ <mask>',
    r'(it is|what) an? <mask> \w+',
    r'this \w+ has an? <mask> \w+',
    r'(I find|\w+ called|\w+( \w+)? finds) the \w+ <mask>',
]


@pytest.mark.parametrize('side', SIDES)
def test_evidence(world, side):
    # Of single opinions few are different, and so are those of a form in
    # the test part: there it takes more of them to see all forms.
    rows = world.evidence(NUM if side == 'none' else 1000, side)
    place, label = rows.labels.T
    masked = rows.X == corpora.MASK
    assert (masked.sum(1) == 1).all()
    assert torch.equal(masked.int().argmax(1), place)
    assert abs(label.float().mean() - 0.5) < 0.06
    adjectives = [
        word for words in (GOOD, BAD) for row in words.values() for word in row
    ]
    adjective = re.compile(rf'\ban?\b|\b({"|".join(adjectives)})\b|<mask>')
    seen = Counter()
    for X, sign in zip(rows.X, (2 * label - 1).tolist(), strict=True):
        text = world.decode(X).removeprefix('<bos> ').removesuffix(' . <sep>')
        told = text.split(' . ')
        assert len(told) == (1 if side == 'none' else 4)
        hole = told.pop(-1 if side == 'left' else 0)
        (form,) = {x for x in MASKED if re.fullmatch(x, hole)} or {None}
        seen[form] += 1
        # Only one opinion word is in this sentence, and it is masked.
        assert not world.polarity[world.encode([hole])].any(), hole
        for text in told:
            assert style_of(text) == 'plain'
            assert clause_sentiment(world, text) == sign, (hole, told)
        assert not set(hole.split()) & NEGATORS
        # No sentence is there twice, not even with other adjectives.
        frames = {adjective.sub('_', x) for x in [hole, *told]}
        assert len(frames) == len(told) + 1, (hole, told)
    assert seen.keys() == set(MASKED) and min(seen.values()) > 10
    assert rows.segments.sum() == 0


def test_one_opinion_is_no_evidence(world):
    """What is left of it, articles included, hardly tells its polarity."""
    rows = world.evidence(4000, 'none')
    place, label = rows.labels.T
    before = rows.X.gather(1, place[:, None] - 1)[:, 0]
    right = 0
    for word in ('a', 'an', None):
        if word:
            chosen = before == world.words.index(word)
        else:
            articles = [world.words.index(x) for x in ('a', 'an')]
            chosen = ~torch.isin(before, torch.tensor(articles))
        counts = torch.bincount(label[chosen], minlength=2)
        assert counts.min() > 10
        right += int(counts.max())
    assert right / len(label) < 0.54
    train, test = (
        (bags(world, rows, 0), rows.labels[:, 1])
        for rows in (
            world.evidence(4000, 'none', seed=1),
            world.evidence(4000, 'none', seed=2),
        )
    )
    assert max(linear_accuracies(train, test, 2)) < 0.56


# ---- Agreement ----


@pytest.mark.parametrize('split', ['train', 'valid', 'test'])
def test_agreement(world, examples, split):
    rows = examples['agreement', split]
    labels, negated = Counter(), []
    for reviews, label in zip(
        pairs(world, rows), rows.labels.tolist(), strict=True
    ):
        good = []
        for review in reviews:
            told = sentences_of(review)
            assert len(told) == 3
            signs = [sentiment_of(world, text) for text in told]
            assert set(signs) <= {-1, 1}
            good.append(signs.count(1) / 3)
            styles = [style_of(text) for text in told]
            assert set(styles) <= {'plain', 'negated'}
            negated += [style == 'negated' for style in styles]
        assert label == pytest.approx(1 - abs(good[0] - good[1])), reviews
        labels[round(3 * label)] += 1
    assert abs(np.mean(negated) - 0.2) < 0.02
    for thirds, expected in enumerate((2, 4, 6, 4)):  # of 16
        assert abs(labels[thirds] / NUM - expected / 16) < 0.04


# ---- Documents in which people or parts compete ----


FACTS = [
    r'(?P<who>.+) has an? (?P<colour>.+) (?P<thing>\w+)',
    r'(?P<who>.+) owns an? (?P<colour>.+) (?P<thing>\w+)',
    r'the (?P<colour>.+) (?P<thing>\w+) belongs to (?P<who>.+)',
]


def sentences_of(text):
    assert text.endswith(' .')
    return text.removesuffix(' .').split(' . ')


def read_facts(text):
    """By reading: who, thing, colour and form of each sentence."""
    found = []
    for sentence in sentences_of(text):
        matches = [re.fullmatch(pattern, sentence) for pattern in FACTS]
        (form,) = (i for i, match in enumerate(matches) if match)
        fact = matches[form].groupdict()
        found.append((fact['who'], fact['thing'], fact['colour'], form))
    return found


def read_opinions(world, text):
    """By reading: each part and its sign."""
    return [
        (part_of(x), clause_sentiment(world, x)) for x in sentences_of(text)
    ]


def competing(world, number, about):
    """Both texts of documents."""
    halves = world.competing(number, about)
    assert all(X.dtype == torch.long and len(X) == number for X in halves)
    return list(zip(*(map(world.decode, X) for X in halves), strict=True))


def in_equal_order(rows):
    return np.mean([first == second for first, second in rows])


def test_readers_of_competing_texts(world):
    assert read_facts(
        'anna berg has an orange rose . the dark red car belongs to rose . '
        'may owns a violet lily .'
    ) == [
        ('anna berg', 'rose', 'orange', 0),
        ('rose', 'car', 'dark red', 2),
        ('may', 'lily', 'violet', 1),
    ]
    with pytest.raises(ValueError, match='not enough values'):
        read_facts('anna is a baker .')
    assert read_opinions(
        world, 'I love the tasty soup . ben did not find the fish good .'
    ) == [('soup', 1), ('fish', -1)]


def test_competing_facts(world):
    """Both texts say the same of the same people, in their own order."""
    surnames, equal, counts, orders = {*WORDS['surname']}, [], [], []
    names = {*WORDS['woman'], *WORDS['man']}
    colours = {*words_of(','.join(WORDS['colour']).replace(',', ' '))}
    things = {x for row in small_words.TOPICS[:6] for x in row['thing']}
    for texts in competing(world, 4000, 'facts'):
        first, second = map(read_facts, texts)
        assert {x[:3] for x in first} == {x[:3] for x in second}, texts
        assert len(first) == len(second) == len({x[:3] for x in first})
        for who, thing, colour, _ in first:
            given, *family = who.split()
            assert given in names and {*family} <= surnames
            assert len(family) < 2 and thing in things
            assert {*colour.split()} <= colours
        # Nobody owns two things, and none of what is owned comes twice.
        for column, last in ((0, 0), (1, -1), (2, -1)):
            assert len({x[column].split()[last] for x in first}) == len(first)
        equal.append(len({x[3] for x in first + second}) == 1)
        counts.append(len(first))
        orders.append([[x[0] for x in told] for told in (first, second)])
    assert {*counts} == {3, 4}
    assert abs(np.mean(counts) - 3.5) < 0.08
    # Fewer different sentences are seldomer valid or test.
    assert 0.5 < np.mean(equal) < 0.62
    assert 1 / 24 < in_equal_order(orders) < 1 / 6
    places = [first.index(second[0]) for first, second in orders]
    assert all(places.count(i) > 1000 for i in range(3))


def test_competing_opinions(world):
    """Both texts judge the same parts alike, some good and some bad."""
    topics, counts, orders, negated = [], [], [], []
    for topic in small_words.TOPICS:
        topics.append({*topic['part']})
    for texts in competing(world, 4000, 'opinions'):
        first, second = (read_opinions(world, text) for text in texts)
        assert {*first} == {*second}, texts
        parts = [part for part, _ in first]
        assert len(first) == len(second) == len({*parts})
        assert any({*parts} <= topic for topic in topics)
        assert {sign for _, sign in first} == {-1, 1}
        counts.append(len(first))
        orders.append([parts, [part for part, _ in second]])
        for text in chain(*map(sentences_of, texts)):
            negated.append(style_of(text) == 'negated')
    assert {*counts} == {3, 4}
    assert abs(np.mean(counts) - 3.5) < 0.08
    assert 1 / 24 < in_equal_order(orders) < 1 / 6
    assert abs(np.mean(negated) - 0.25) < 0.02


def held_out(world, texts):
    """The share of documents with a sentence that is valid or test."""
    found = []
    for text in texts:
        X = world.encode([f'{x} .' for x in sentences_of(text)]).numpy()
        train = small_world.in_split(small_world.hash_rows(X), 'train')
        found.append(not train.all())
    return np.mean(found)


@pytest.mark.parametrize('about', ABOUT)
def test_competing_sentences_are_of_the_training_part(world, about):
    for texts in zip(*competing(world, 2000, about), strict=True):
        assert held_out(world, texts) == 0
    # Other documents are not chosen so, and the test can fail.
    probes = pairs(world, world.binding(500, about))
    assert held_out(world, (first for first, _ in probes)) > 0.2


@pytest.mark.parametrize('about', ABOUT)
def test_competing_texts_fit_and_come_fast(world, about):
    start = time.perf_counter()
    halves = world.competing(20_000, about)
    assert time.perf_counter() - start < 5
    X, segments, lens = join(*halves)
    assert X.shape[1] == lens.max() < 90  # of the 128 positions of a BERT
    assert segments.any(1).all()
    assert all((X[:, -1] > 0).any() for X in (join(x)[0] for x in halves))
    for number in (1, 7, 500):
        assert {len(X) for X in world.competing(number, about)} == {number}


# ---- Binding ----


def probes(world, about, number=2000, seed=0):
    """Text A, text B, the sentence of the mask in it, and the labels."""
    rows = world.binding(number, about, seed)
    assert len(rows) == number and rows.labels.dtype == torch.long
    place = rows.labels[:, :1]
    assert (rows.X.gather(1, place) == corpora.MASK).all()
    assert (rows.segments.gather(1, place) == 1).all()
    assert (rows.valid_lens <= 128).all()
    found = []
    for X, (first, second), (at, *labels) in zip(
        rows.X, pairs(world, rows), rows.labels.tolist(), strict=True
    ):
        before = world.decode(X[:at]).split('<sep>')[1]
        sentence = sentences_of(second)[before.count(' .')]
        assert '<mask>' not in first and '<mask>' in sentence
        assert [world.words[i] for i in X[:at]].count('<sep>') == 1
        found.append((first, second, sentence, labels))
    return found


def single_colours():
    return {x for x in WORDS['colour'] if '_' not in x}


def test_binding_facts(world):
    """The word is that of the one who owns the thing, the rival's is not."""
    odd = []
    for first, second, sentence, labels in probes(world, 'facts'):
        owned = {who: rest for who, *rest, _ in read_facts(first)}
        hidden = read_facts(second)
        assert {who: x[0] for who, x in owned.items()} == {
            who: thing for who, thing, *_ in hidden
        }
        assert {*' '.join(x[2] for x in hidden).split()} == {'<mask>'}
        ((who, thing, mask, _),) = read_facts(f'{sentence} .')
        right, wrong = (world.words[i] for i in labels)
        assert owned[who] == [thing, right] and mask == '<mask>'
        assert first.split().count(right) == 1 == first.split().count(wrong)
        if [wrong] not in [x[1:] for x in owned.values()]:
            odd.append(wrong)
        assert right != wrong and right in single_colours()
    assert len(odd) / 2000 < 0.005, odd


def test_binding_opinions(world):
    """The polarity is that of the part in text A; its rival's is the other.

    Text B has no negation and no adjective.
    """
    signs = []
    for first, second, sentence, (label,) in probes(world, 'opinions'):
        told = dict(read_opinions(world, first))
        seen = second.replace('<mask> and <mask>', 'good')
        seen = [
            part_of(x.replace('<mask>', 'good')) for x in sentences_of(seen)
        ]
        assert {*seen} == {*told} and len(seen) == len(told)
        assert (
            told[part_of(sentence.replace('<mask>', 'good'))] == 2 * label - 1
        )
        assert {*told.values()} == {-1, 1}
        assert not {*second.split()} & NEGATORS
        assert not opinions_of(world, second)[2]
        signs.append(label)
    assert abs(np.mean(signs) - 0.5) < 0.04


def test_who_does_not_bind_facts_is_at_chance(world):
    """By frequency, by the order of the sentences, and by the article."""
    known = [labels for *_, labels in probes(world, 'facts', seed=1)]
    right, wrong = (Counter(words) for words in zip(*known, strict=True))
    frequent, places, articles = [], [], []
    for first, second, sentence, labels in probes(world, 'facts', 3000):
        frequent.append(
            right[labels[0]] * wrong[labels[1]]
            > right[labels[1]] * wrong[labels[0]]
        )
        words = [world.words[i] for i in labels]
        colours = [x[2] for x in read_facts(first)]
        place = sentences_of(second).index(sentence)
        if colours[place] in words:
            places.append(words.index(colours[place]))
        article = re.search(r'\b(an?) <mask>', sentence)
        vowels = [word[0] in 'aeiou' for word in words]
        told = bool(article) and vowels[0] != vowels[1]
        assert not told or vowels[0] == (article[1] == 'an')
        articles.append(told)
    assert abs(np.mean(frequent) - 0.5) < 0.05
    assert abs(np.mean(places) - 0.5) < 0.05
    assert np.mean(articles) < 0.12  # "an" settles what is red or orange


def test_who_does_not_bind_opinions_is_at_chance(world):
    """By what most of text A says, and by the verb beside the mask."""
    most, verbs = [], []
    for first, _, sentence, (label,) in probes(world, 'opinions', 3000):
        total = sum(sign for _, sign in read_opinions(world, first))
        words = opinions_of(world, first)[0]
        most += [(x > 0) == label for x in (total, words) if x]
        verb, told, _ = opinions_of(world, sentence)
        if told:
            assert verb == 2 * label - 1
        verbs.append(bool(told))
    assert abs(np.mean(most) - 0.5) < 0.04
    assert np.mean(verbs) < 0.2  # "I hate the" something
