"""A small world: simple English whose truth is known, made in bulk.

The slots of a template are filled for all its sentences at once: an entry of
a word class is a row of token ids, and a scene has, for each slot, the
number of an entry for every sentence.
"""

import dataclasses
import functools
import re
import zlib
from itertools import chain

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from utils import move_left

from .batches import BOS, MASK, SPECIAL_TOKENS, Examples, join, stack
from .small_words import (
    BAD,
    CLASS_OF,
    FAMILIES,
    FORM_OF,
    GOOD,
    KINDS,
    OWNED,
    PAINTED,
    SIMPLE,
    TAGS,
    TEMPLATES,
    TEXTS,
    TOPICS,
    VERBS,
    WORDS,
)

SPLITS = ['valid', 'test', 'train']
SIDES = ['left', 'right', 'none']
FORMS = {  # of opinions: shares of plain, negated and contrasting ones
    'any': [0.7, 0.15, 0.15],
    'plain': [1, 0, 0],
    'negated': [0, 1, 0],
    'contrasting': [0, 0, 1],
}
VOWEL = re.compile('(?!univ)[aeiou]')
MAX_WIDTH = 80  # no sentence or context has more tokens
RIVALS = 3, 4  # in a document in which people or parts compete

# ---- Random draws ----


def stream(name, seed):
    """A NumPy generator for the draws of one name and seed."""
    return np.random.default_rng([zlib.crc32(name.encode()), seed])


@dataclasses.dataclass(frozen=True)
class WordClass:
    """Entries, and how often each group uses them: (num_groups, n).

    Labelled training texts have none that is `hidden`, (n,); entries of the
    same number in `ends`, (n,), are not drawn together.
    """

    entries: list
    weights: np.ndarray
    hidden: np.ndarray
    ends: np.ndarray

    @classmethod
    def of_lists(cls, groups, hide=False):
        """The words of groups, each some lists that share its draws evenly.

        In a list the weight of rank r = 0, 1, ... is 1 / (r + 1). With
        `hide`, the first, the third and so on of every list are hidden.
        """
        lists = chain.from_iterable(chain.from_iterable(groups))
        entries = list(dict.fromkeys(lists))
        index = {entry: i for i, entry in enumerate(entries)}
        weights = np.zeros((len(groups), len(index)))
        hidden = np.zeros(len(index), bool)
        for row, group in zip(weights, groups, strict=True):
            for words in group:
                at = [index[word] for word in words]
                shares = 1 / (np.arange(len(at)) + 1)
                row[at] += shares / shares.sum() / len(group)
                hidden[at[::2]] = hide
        ends = [entry.split('_')[-1] for entry in entries]
        ends = np.unique(ends, return_inverse=True)[1]
        return cls(entries, weights, hidden, ends)

    @classmethod
    def of_people(cls):
        """First names, half of the time with a surname."""
        first = cls.of_lists([[WORDS['woman'], WORDS['man']]], hide=True)
        last = cls.of_lists([[[''], WORDS['surname']]], hide=True)
        last.hidden[0] = False  # no surname
        return cls(
            [
                f'{a}_{b}'.strip('_')
                for a in first.entries
                for b in last.entries
            ],
            (first.weights.T * last.weights).reshape(1, -1),
            (first.hidden[:, None] | last.hidden).ravel(),
            np.arange(len(first.entries)).repeat(len(last.entries)),
        )

    def draw(self, rng, group, shown=False, taken=()):
        """Numbers of entries for an array of groups.

        With `shown` none is hidden; none ends like those in `taken`.
        """
        weights = self.weights * ~(self.hidden & shown)
        steps = weights.cumsum(1)
        steps = steps / steps[:, -1:] + np.arange(len(steps))[:, None]
        at = np.searchsorted(steps.ravel(), group + rng.random(len(group)))
        at -= group * len(self.entries)
        clash = np.zeros(len(at), bool)
        for other in taken:
            clash |= self.ends[at] == self.ends[other]
        if clash.any():
            others = [other[clash] for other in taken]
            at[clash] = self.draw(rng, group[clash], shown, others)
        return at


# ---- Rows of token ids, as arrays ----


def side_by_side(*parts):
    """The ids of each row of all parts, (n, L), zeros at the end."""
    X = torch.from_numpy(np.hstack(parts))
    return move_left(X, X > 0, 0)[0].numpy()


def where_rows(chosen, A, B):
    """Rows of A where they are `chosen`, (n,), and else rows of B."""
    width = max(A.shape[1], B.shape[1])
    A, B = (np.pad(X, ((0, 0), (0, width - X.shape[1]))) for X in (A, B))
    return np.where(chosen[:, None], A, B)


def _mix(x):
    """A hash of 64-bit numbers in which every bit counts.

    The last steps of SplitMix64 (Steele et al., 2014).
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash_rows(ids):
    """One 64-bit number for each row of ids, whatever the padding."""
    value = np.zeros(len(ids), np.uint64)
    for column in ids.T.astype(np.uint64):
        mixed = _mix(value * np.uint64(31) + column + np.uint64(1))
        value = np.where(column > 0, mixed, value)
    return value


def in_split(hashes, split):
    """Which texts belong to train (14 of 16), valid or test (1 each)."""
    part = hashes >> np.uint64(60)
    return part > 1 if split == 'train' else part == SPLITS.index(split)


def pick(name, value, choices):
    """What `choices`, a dict, has for a value; ValueError if nothing."""
    if value not in choices:
        raise ValueError(f'{name} is {value!r}, not one of {[*choices]}')
    return choices[value]


def read_template(line):
    """A template's parts: (slot, digit, ''), or ('', '', word)."""
    return re.findall(r'{([a-z]+)(\d?)}|(\S+)', line)


# ---- The world ----


@dataclasses.dataclass(frozen=True)
class Documents:
    """Sentences (num_sentences, L) and their documents (num_sentences,).

    `polarity` (0 or 1) and `topic` are (num_docs,).
    """

    sentences: torch.Tensor
    doc: torch.Tensor
    polarity: torch.Tensor
    topic: torch.Tensor

    def halves(self):
        """The first and the second half of each document's sentences.

        Two LongTensors (num_docs, L1) and (num_docs, L2), padded with 0. Of
        an odd number of sentences the second half has one more.
        """
        counts = torch.bincount(self.doc)
        starts = counts.cumsum(0) - counts
        index = torch.arange(len(self.doc)) - starts[self.doc]
        half = 2 * self.doc + (index >= counts[self.doc] // 2)
        row = half.repeat_interleave((self.sentences > 0).sum(1))
        lengths = torch.bincount(row)
        starts = lengths.cumsum(0) - lengths
        texts = row.new_zeros(len(lengths), int(lengths.max()))
        index = torch.arange(len(row)) - starts[row]
        texts[row, index] = self.sentences[self.sentences > 0]
        return tuple(texts[i::2, : lengths[i::2].max()] for i in (0, 1))


class SmallWorld:
    """Simple English prose, true and labelled by construction.

    `words` is the vocabulary, SPECIAL_TOKENS first; `polarity` (LongTensor)
    is 1 or -1 for the words of opinions; `shown` (BoolTensor) is False for
    those that no labelled training text has; `tags` are the tags' names.

    The rules: an opinion is about a thing or a part of it. A negation turns
    it around; of two clauses with "but" or "although" the one that is not
    conceded counts. In one document or context a person has one home and one
    job, and a thing has one colour.

    A sentence (a pair: both together) belongs to the training, validation or
    test part by its hash. Equal seeds give equal results.
    """

    more_words = ()  # of the vocabulary, after those of the templates
    hides_words = True  # from labelled training texts

    def __init__(self):
        self._make_classes()
        self._read_templates()
        self._make_vocabulary()
        self._tokenizer = Tokenizer(models.WordLevel(self._index))
        self._tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self._tokenizer.enable_padding()

    def _make_classes(self):
        make = WordClass.of_lists
        adjectives = [
            [words['any'], words['any'], words[kind]]
            for words in (BAD, GOOD)
            for kind in KINDS
        ]
        self._classes = {
            'who': WordClass.of_people(),
            'place': make([[WORDS['place']]], hide=True),
            'adj': make(adjectives, hide=True),
            'verb': make([[verbs] for verbs in VERBS], hide=True),
        }
        for name in ('thing', 'part', 'colour', 'did', 'material'):
            self._classes[name] = make([[list(x[name])] for x in TOPICS])
        for name, words in SIMPLE.items():
            self._classes[name] = make([[words]])
        kinds = {k: v for topic in TOPICS for k, v in topic['part'].items()}
        parts = [kinds[noun] for noun in self._classes['part'].entries]
        things = [topic['kind'] for topic in TOPICS]
        self._part_kind = np.array([KINDS.index(kind) for kind in parts])
        self._thing_kind = np.array([KINDS.index(kind) for kind in things])

    def _class(self, slot):
        name = FORM_OF.get(slot, slot)
        return self._classes[CLASS_OF.get(name, name)]

    def _read_templates(self):
        """Templates, the slots that answer them, and menus of templates.

        A menu holds the numbers of a role's templates for each topic, or
        for each family of facts.
        """
        self._templates, answers, roles = [], [], {}
        for key, lines in TEMPLATES.items():
            role, tag = key.split()
            for line in lines:
                line, _, answer = line.partition(' -> ')
                names = [role]
                if '{part}' in line:
                    names.append(f'{role} part')
                if re.findall('{(adj|fit|love)', line) in (['adj'], ['fit']):
                    names.append(f'{role} adj')
                for name in names:
                    tags = roles.setdefault(name, {})
                    tags.setdefault(tag, []).append(len(self._templates))
                self._templates.append(read_template(line))
                answers.append(answer.split())
        topics = [['any', *topic['tags']] for topic in TOPICS]
        self._menus = {}
        for role, tags in roles.items():
            rows = [[name] for name in FAMILIES] if 'job' in tags else topics
            self._menus[role] = [
                list(chain.from_iterable(tags.get(tag, []) for tag in row))
                for row in rows
            ]
        slots = {slot for template in self._templates for slot, *_ in template}
        self._slots = sorted(slots)  # the first is '', for a plain word
        self._answers = np.array(
            [[slot in row for slot in self._slots] for row in answers]
        )

    def _make_vocabulary(self):
        words = [word for row in self._templates for _, _, word in row if word]
        words = [*SPECIAL_TOKENS, *words, 'an']
        seen, forms = {*words, *self.more_words}, {}
        for slot in self._slots:
            if slot and slot not in TEXTS:
                kind = self._class(slot)
                entries = [self._form(slot, x) for x in kind.entries]
                forms[slot] = [entry.split('_') for entry in entries]
                for form, hide in zip(forms[slot], kind.hidden, strict=True):
                    words += form
                    seen.update([] if hide and self.hides_words else form)
        self.words = list(dict.fromkeys([*words, *self.more_words]))
        self._index = {word: i for i, word in enumerate(self.words)}
        self._tables = {}  # ids of each entry in each slot: (n, L)
        for slot, entries in forms.items():
            table = np.zeros((len(entries), max(map(len, entries))), np.int32)
            for row, entry in zip(table, entries, strict=True):
                row[: len(entry)] = [self._index[word] for word in entry]
            self._tables[slot] = table
        self.shown = torch.tensor([word in seen for word in self.words])
        self.polarity = torch.zeros(len(self.words), dtype=torch.long)
        for sign, words, verbs in ((-1, BAD, VERBS[0]), (1, GOOD, VERBS[1])):
            told = list(chain(*words.values()))
            told += [self._form(x, v) for x in TAGS['opinion'] for v in verbs]
            self.polarity[[self._index[word] for word in told]] = sign
        self._vowel = np.array([bool(VOWEL.match(x)) for x in self.words])
        self.tags = list(TAGS)
        tag = {slot: i for i, row in enumerate(TAGS.values()) for slot in row}
        self._tag = np.array([tag.get(slot, 0) for slot in self._slots])

    def _form(self, slot, entry):
        """How a slot writes an entry of its class."""
        first = entry.split('_')[0]
        she = first in WORDS['woman']
        if slot == 'sort':
            return next(x['sort'] for x in TOPICS if entry in x['thing'])
        return {
            'name': first,
            'she': 'she' if she else 'he',
            'her': 'her' if she else 'his',
            'loves': entry + 's',
            'loved': entry.removesuffix('e') + 'ed',
        }.get(slot, entry)

    def encode(self, texts):
        """LongTensor (len(texts), L) of ids, padded with 0.

        Words stand between blanks. Raises ValueError for an unknown one.
        """
        unknown = {w for text in texts for w in text.split()} - {*self._index}
        if unknown:
            raise ValueError(
                f'{min(unknown)!r} is none of the {len(self.words)} words'
            )
        rows = self._tokenizer.encode_batch_fast(list(texts))
        return torch.tensor([row.ids for row in rows], dtype=torch.long)

    def decode(self, X):
        """The text of one row of ids, without padding."""
        return ' '.join(self.words[i] for i in X.tolist() if i)

    def prefers_praise(self, probs):
        """Whether positive words get more probability than negative ones.

        Takes (n, vocab_size), returns a BoolTensor (n,).
        """
        positive = probs[:, self.polarity > 0].sum(1)
        return positive > probs[:, self.polarity < 0].sum(1)

    # ---- Sentences ----

    def _draw(self, rng, name, group, shown=False, taken=()):
        return self._class(name).draw(rng, group, shown, taken)

    def _choose(self, rng, role, row):
        """A template of a role for each topic (or family) in `row`."""
        menu = self._menus[role]
        sizes = np.array([len(templates) for templates in menu])
        at = (rng.random(len(row)) * sizes[row]).astype(int)
        return np.concatenate(menu)[(sizes.cumsum() - sizes)[row] + at]

    def _fill(self, choice, scene, templates=None):
        """The chosen templates as ids and slots (n, L), zeros at the end.

        A slot says where a token stems from: it is a place in `_slots`. A
        scene's value is the numbers of entries, or else ids and slots.
        """
        ids, slots = np.zeros((2, len(choice), MAX_WIDTH), np.int32)
        ends = np.zeros(len(choice), int)
        for number in np.unique(choice):
            rows = np.flatnonzero(choice == number)
            for slot, digit, word in (templates or self._templates)[number]:
                value = scene.get(FORM_OF.get(slot, slot) + digit)
                if word:
                    new = np.full((len(rows), 1), self._index[word])
                    origin = 0
                elif slot in self._tables:
                    new = self._tables[slot][value[rows]]
                    origin = self._slots.index(slot) * (new > 0)
                else:
                    new, origin = (array[rows] for array in value)
                columns = ends[rows, None] + np.arange(new.shape[1])
                ids[rows[:, None], columns] = new
                slots[rows[:, None], columns] = origin
                ends[rows] += (new > 0).sum(1)
        # copies: a view would keep all of MAX_WIDTH
        ids, slots = (X[:, : ends.max()].copy() for X in (ids, slots))
        # "an" for "a" before a vowel
        a = ids[:, :-1] == self._index['a']
        ids[:, :-1][a & self._vowel[ids[:, 1:]]] = self._index['an']
        return ids, slots

    def _scene(self, rng, topic, shown=False, owned=OWNED):
        """What the sentences of a document share, all of it different."""
        none, order = np.zeros_like(topic), rng.random((len(topic), owned))
        rows = np.flatnonzero(topic < owned)
        order[rows, topic[rows]] = -1
        things = [topic, *order.argsort(1)[:, 1:3].T]
        groups = {'thing': things, 'colour': things, 'did': [topic] * 2}
        groups |= dict.fromkeys(('who', 'place', 'job', 'month'), [none] * 3)
        groups |= {name: [topic] for name in ('flaw', 'material')}
        groups |= {name: [none] for name in ('size', 'day', 'season')}
        scene = {}
        for name, rows in groups.items():
            taken = []
            for digit, group in zip(('', '2', '3'), rows, strict=False):
                taken.append(self._draw(rng, name, group, shown, taken))
                scene[name + digit] = taken[-1]
        return scene

    def _clause(self, rng, choice, scene, topic, polarity, shown):
        """Ids and slots of a clause whose words have a polarity (0 or 1)."""
        part = polarity * len(KINDS) + self._part_kind[scene['part']]
        thing = polarity * len(KINDS) + self._thing_kind[topic]
        adj = self._draw(rng, 'adj', part, shown)
        fit = self._draw(rng, 'adj', thing, shown)
        words = {
            'adj': adj,
            'adj2': self._draw(rng, 'adj', part, shown, taken=[adj]),
            'fit': fit,
            'fit2': self._draw(rng, 'adj', thing, shown, taken=[fit]),
            'verb': self._draw(rng, 'verb', polarity, shown),
            'adv': self._draw(rng, 'adv', np.zeros_like(topic)),
        }
        return self._fill(choice, scene | words)

    def _opinion(self, rng, role, part, scene, topic, polarity, shown):
        """Ids and slots of a sentence of one clause, about a part."""
        scene, choice = scene | {'part': part}, self._choose(rng, role, topic)
        clause = self._clause(rng, choice, scene, topic, polarity, shown)
        alone = self._choose(rng, 'alone', topic)
        return self._fill(alone, {'main': clause})

    def _sentences(self, rng, scene, topic, polarity, style, shown=False):
        """Ids and slots (n, L) of sentences.

        Styles 0, 1 and 2 are plain, negated and contrasting opinions with a
        polarity (0 or 1); 3 introduces a document, 4 states another fact.
        """
        n, none = len(topic), np.zeros_like(topic)
        scene = scene | {
            'part': self._draw(rng, 'part', topic, taken=[scene['flaw']]),
            'weather': self._draw(rng, 'weather', none),
            'number': self._draw(rng, 'number', none),
        }
        for name, role, about, told in (
            ('main', '', 'part', polarity),
            ('minor', ' part', 'flaw', 1 - polarity),
        ):
            negated = np.where(style == 2, rng.random(n) < 0.5, style == 1)
            choice = np.where(
                negated,
                self._choose(rng, 'negated' + role, topic),
                self._choose(rng, 'plain' + role, topic),
            )
            now = scene | {'part': scene[about]}
            told = told ^ negated
            scene[name] = self._clause(rng, choice, now, topic, told, shown)
        roles = ('alone', 'alone', 'contrast', 'intro', 'fact')
        choices = [self._choose(rng, role, topic) for role in roles]
        return self._fill(np.choose(style, choices), scene)

    def documents(self, num_sentences, seed=0):
        """Documents of 2 to 6 sentences that are neither valid nor test.

        A document has one topic, one polarity, a main person and a main
        thing. Seven in ten are reviews, opinions throughout; the others
        begin with a sentence that names person and thing. None is cut, so
        there are up to 5 sentences more than `num_sentences`. Raises
        ValueError if that is less than 1.
        """
        if num_sentences < 1:
            raise ValueError(
                f'num_sentences is {num_sentences}, not at least 1'
            )
        rng = stream('documents', seed)
        num_docs = int(num_sentences / 3.2) + 20
        sizes = rng.integers(3, 7, num_docs)
        doc = np.repeat(np.arange(num_docs), sizes)
        index = np.arange(len(doc)) - (sizes.cumsum() - sizes)[doc]
        topics = rng.integers(len(TOPICS), size=num_docs)
        polarity = rng.integers(2, size=num_docs)
        scene = self._scene(rng, topics)
        scene = {name: values[doc] for name, values in scene.items()}
        review = (rng.random(num_docs) < 0.7)[doc]
        opinion = rng.integers(1, sizes)[doc]  # one of them in any case
        told = rng.choice(3, len(doc), p=[0.8, 0.1, 0.1])
        style = np.where(
            review | (index == opinion) | (rng.random(len(doc)) < 0.3), told, 4
        )
        style = np.where((index == 0) & ~review, 3, style)
        ids, _ = self._sentences(rng, scene, topics[doc], polarity[doc], style)
        hashes = hash_rows(ids)
        keep = np.zeros(len(doc), bool)  # a sentence only once in a document
        _, first = np.unique(_mix(hashes + doc.astype(np.uint64)), True)
        keep[first] = in_split(hashes, 'train')[first]
        counts = np.bincount(doc[keep], minlength=num_docs)
        counts[(counts < 2) | ~keep[index == 0]] = 0
        full = counts.cumsum() - counts < num_sentences
        kept = (counts > 0) & full
        keep &= kept[doc]
        number = kept.cumsum() - 1
        return Documents(
            torch.from_numpy(side_by_side(ids[keep])).long(),
            torch.from_numpy(number[doc[keep]]),
            torch.from_numpy(polarity[kept]),
            torch.from_numpy(topics[kept]),
        )

    # ---- Documents in which people or parts compete ----

    def _tell_facts(self, rng, n):
        """What four people own: a function tell(who).

        It writes ids and slots of a sentence about the person, the thing
        and the colour of a number from 0 to 3, `who` (n,).
        """
        none, topics = np.zeros(n, int), rng.integers(PAINTED, size=(4, n))
        groups = {'who': [none] * 4, 'thing': topics, 'colour': topics}
        rivals = {name: [] for name in groups}
        for name, taken in rivals.items():
            for group in groups[name]:
                taken.append(self._draw(rng, name, group, taken=taken))
        always = rng.random(n) < 0.5  # in the same words
        words = self._choose(rng, 'owned', none)

        def tell(who):
            now = {name: np.choose(who, rivals[name]) for name in rivals}
            other = self._choose(rng, 'owned', none)
            return self._fill(np.where(always, words, other), now)

        return tell

    def _tell_opinions(self, rng, n):
        """What four parts are like: polarities, and tell(which, negations).

        The polarities (4, n) are 0 or 1, those of the first two different.
        The function writes ids and slots of an opinion about the part of a
        number from 0 to 3, `which` (n,); `negations` is the share of negated
        ones.
        """
        topic = rng.integers(len(TOPICS), size=n)
        scene, parts = self._scene(rng, topic), []
        for _ in range(4):
            parts.append(self._draw(rng, 'part', topic, taken=parts))
        polarity = rng.integers(2, size=(4, n))
        polarity[1] = 1 - polarity[0]

        def tell(which, negations=0.25):
            negated = rng.random(n) < negations
            told = np.choose(which, polarity) ^ negated
            choice = np.where(
                negated,
                self._choose(rng, 'negated part', topic),
                self._choose(rng, 'plain part', topic),
            )
            now = scene | {'part': np.choose(which, parts)}
            clause = self._clause(rng, choice, now, topic, told, False)
            alone = self._choose(rng, 'alone', topic)
            return self._fill(alone, {'main': clause})

        return polarity, tell

    def _retell(self, rng, tell, count):
        """The sentences of a text on `count` (n,) rivals, in any order.

        Four arrays of ids (n, L); a fourth sentence that is none is all 0.
        """
        order = rng.random((4, len(count)))
        order[3, count < 4] = 2  # comes last, and is left out
        return [
            tell(who)[0] * (i < count)[:, None]
            for i, who in enumerate(order.argsort(0))
        ]

    def competing(self, num_docs, about='facts', seed=0):
        """Documents whose second text tells the first one's facts again.

        Each text says of three or four people what they own; with `about`
        'opinions', what three or four parts of a thing are like, some good
        and some bad, a quarter of them in the words of a negation. So a
        hidden word of one text can be read in the other by whoever finds the
        sentence about the same person or part. The order is random in both;
        58 % of the documents with facts say all of them with one template
        (half of those drawn: of fewer different sentences it is more often
        that none is valid or test, and no sentence is).

        Returns LongTensors A (num_docs, L1) and B (num_docs, L2), padded
        with 0, as `Documents.halves`. Raises ValueError for fewer than 1
        document and for another `about`.
        """
        tellers = {
            'facts': self._tell_facts,
            'opinions': lambda rng, n: self._tell_opinions(rng, n)[1],
        }
        teller = pick('about', about, tellers)
        if num_docs < 1:
            raise ValueError(f'num_docs is {num_docs}, not at least 1')
        rng, found, missing = stream(f'competing {about}', seed), [], num_docs
        while missing > 0:
            n = min(3 * missing + 100, 50_000)
            tell = teller(rng, n)
            count = rng.choice(RIVALS, n)
            halves = [self._retell(rng, tell, count) for _ in 'AB']
            kept = [
                in_split(hash_rows(ids), 'train') | (ids == 0).all(1)
                for ids in chain(*halves)
            ]
            keep = np.flatnonzero(np.all(kept, 0))[:missing]
            texts = [side_by_side(*rows)[keep] for rows in halves]
            found.append([torch.from_numpy(X) for X in texts])
            missing -= len(texts[0])
        return tuple(stack(X).long() for X in zip(*found, strict=True))

    # ---- Labelled examples ----

    def _unseen(self, task, make, num_examples, split, seed, surplus):
        """Rows of a split: texts and labels, drawn until there are enough.

        make(rng, n) returns ids of one or more texts, then labels, arrays of
        at most n rows. `surplus` is how many are drawn for each that is
        missing. Returns LongTensors, texts padded with 0, labels with -100.
        """
        if num_examples < 1:
            raise ValueError(f'num_examples is {num_examples}, not at least 1')
        if split not in SPLITS:
            raise ValueError(f'split is {split!r}, not one of {SPLITS}')
        rng = stream(f'{task} {split}', seed)
        found, missing = [], num_examples
        while missing > 0:
            made = make(rng, min(missing * surplus + 100, 50_000))
            keep = in_split(hash_rows(np.hstack(made[:-1])), split)
            found.append([torch.from_numpy(m[keep][:missing]) for m in made])
            missing -= len(found[-1][0])
        *texts, labels = zip(*found, strict=True)
        return [*(stack(X).long() for X in texts), stack(labels, -100).long()]

    def _examples(self, task, make, num_examples, split, seed):
        """Examples of a split from make(rng, n, shown)."""
        shown = self.hides_words and split == 'train'
        draw = lambda rng, n: make(rng, n, shown)
        surplus = 1 if split == 'train' else 16
        data = self._unseen(task, draw, num_examples, split, seed, surplus)
        *texts, labels = data
        X, segments, valid_lens = join(*texts)
        labels = labels[:, : X.shape[1]]
        labels = labels[:, 0] if labels.shape[1] == 1 else labels
        return Examples(X, segments, valid_lens, labels)

    def _single(self, rng, n, shown):
        topic = rng.integers(len(TOPICS), size=n)
        return topic, self._scene(rng, topic, shown), rng.integers(2, size=n)

    def sentiment(self, num_examples, split='train', seed=0, form='any'):
        """An opinion; labels (n,) are 0 for negative and 1 for positive.

        Seven in ten are plain; the others are negated or have a second
        clause of the other polarity. With `form` 'plain', 'negated' or
        'contrasting' all of them are that. Raises ValueError for fewer than
        1 example, an unknown split and an unknown form.
        """
        shares = pick('form', form, FORMS)

        def make(rng, n, shown):
            topic, scene, polarity = self._single(rng, n, shown)
            style = rng.choice(3, n, p=shares)
            told = (scene, topic, polarity, style, shown)
            return self._sentences(rng, *told)[0], polarity[:, None]

        return self._examples('sentiment', make, num_examples, split, seed)

    def entailment(self, num_examples, split='train', seed=0):
        """Premise and hypothesis; labels (n,) are 0 for an entailment, 1 for
        a contradiction and 2 for neutral.

        Both are opinions, three in ten premises a negated one. If they are
        about the same part, equal polarity is an entailment and opposite
        polarity a contradiction; about another part the premise says
        nothing. Raises ValueError like `sentiment`.
        """

        def make(rng, n, shown):
            topic, scene, polarity = self._single(rng, n, shown)
            labels = rng.integers(3, size=n)
            turned = np.where(labels == 2, rng.integers(2, size=n), labels)
            part = self._draw(rng, 'part', topic, taken=[scene['flaw']])
            other = np.where(labels == 2, scene['flaw'], part)
            negated = rng.random(n) < 0.3
            deny, state, B = (
                self._opinion(rng, role, about, scene, topic, told, shown)[0]
                for role, about, told in (
                    ('negated part', part, 1 - polarity),
                    ('plain part', part, polarity),
                    ('plain part', other, polarity ^ turned),
                )
            )
            return where_rows(negated, deny, state), B, labels[:, None]

        return self._examples('entailment', make, num_examples, split, seed)

    def tagging(self, num_examples, split='train', seed=0):
        """A sentence; labels (n, L) are its words' tags, elsewhere -100.

        Raises ValueError like `sentiment`.
        """

        def make(rng, n, shown):
            topic, scene, polarity = self._single(rng, n, shown)
            style = rng.choice(5, n, p=[0.1, 0.1, 0.1, 0.35, 0.35])
            told = (scene, topic, polarity, style, shown)
            ids, slots = self._sentences(rng, *told)
            tags = np.where(ids > 0, self._tag[slots], -100)
            edges = ((0, 0), (1, 1))
            return ids, np.pad(tags, edges, constant_values=-100)

        return self._examples('tagging', make, num_examples, split, seed)

    def questions(self, num_examples, split='train', seed=0):
        """Question and context; labels (n, 2) are the first and the last
        position of the answer in X.

        The context says the same kind of thing of two or three people or
        things, and sometimes something else. Raises ValueError like
        `sentiment`.
        """

        def make(rng, n, shown):
            topic = rng.integers(PAINTED, size=n)
            scene = self._scene(rng, topic, shown, PAINTED)
            names = ('who', 'place', 'job', 'month', 'thing', 'colour')
            about = [
                {name: scene[name + digit] for name in names}
                for digit in ('', '2', '3')
            ]
            first, second, _ = about
            family = rng.integers(len(FAMILIES), size=n)
            ask = self._choose(rng, 'ask', family)
            facts = [
                self._fill(self._choose(rng, 'state', family), scene)
                for scene in about
            ]
            # More of the first one, unless that would repeat the answer.
            other = self._answers[ask, self._slots.index('who')]
            other |= rng.random(n) < 0.5
            about = {x: np.where(other, second[x], first[x]) for x in names}
            more = (np.minimum(family, 2) + rng.integers(1, 3, n)) % 3
            facts.append(self._fill(self._choose(rng, 'state', more), about))
            for _, slots in facts[1:]:
                slots[:] = 0  # no answers
            texts = ('fact', 'fact2', 'fact3', 'more')
            texts = dict(zip(texts, facts, strict=True))
            A, _ = self._fill(ask, first)
            B, slots = self._fill(self._choose(rng, 'context', topic), texts)
            answer = self._answers[ask[:, None], slots]
            start = answer.argmax(1)
            ends = np.stack([start, start + answer.sum(1) - 1], 1)
            labels = ends + (A > 0).sum(1)[:, None] + 2
            word = np.take_along_axis(B, start[:, None], 1)
            once = (word == B).sum(1) == 1
            return A[once], B[once], labels[once]

        return self._examples('questions', make, num_examples, split, seed)

    def agreement(self, num_examples, split='train', seed=0):
        """Two reviews of three opinions each; labels (n,) from 0 to 1.

        The label is one minus the difference of the shares of positive
        opinions; one opinion in five is negated. Raises ValueError like
        `sentiment`.
        """

        def make(rng, n, shown):
            topic, scene, _ = self._single(rng, n, shown)
            texts, positive = [], rng.integers(4, size=(2, n))
            for told in positive:
                rows = [
                    self._sentences(
                        rng,
                        scene,
                        topic,
                        (i < told).astype(int),
                        (rng.random(n) < 0.2).astype(int),
                        shown,
                    )[0]
                    for i in rng.random((3, n)).argsort(0)
                ]
                texts.append(side_by_side(*rows))
            return *texts, np.abs(np.diff(positive, axis=0)).T

        data = self._examples('agreement', make, num_examples, split, seed)
        return dataclasses.replace(data, labels=1 - data.labels / 3)

    def binding(self, num_examples, about='facts', seed=0):
        """Documents like those of `competing`, with words of text B masked.

        Of facts all colours of text B are masked. Labels (n, 3) are the
        position of one of them in X, its id, and that of a rival's. With
        `about` 'opinions' all adjectives of text B are masked, none of it is
        negated, and labels (n, 2) are a position and the polarity, 0 or 1,
        as for `evidence`. What else is in the sentence of the mask tells
        some of them: "an" is no article for red, and "I love" is praise.
        Raises ValueError for another `about` and for fewer than 1 example.
        """

        def fact(rng, n, shown):
            tell = self._tell_facts(rng, n)
            A, B, at = texts(rng, tell, tell, 'colour', n)
            told = (tell(np.full(n, number)) for number in (0, 1))
            slot = self._slots.index('colour')
            words = [(ids * (slots == slot)).sum(1) for ids, slots in told]
            keep = (at.sum(1) == 1) & (words[0] != words[1])
            for word in words:
                keep &= (word[:, None] == A).sum(1) == 1
            return A, B, at.argmax(1), words, keep

        def opinion(rng, n, shown):
            polarity, tell = self._tell_opinions(rng, n)
            plain = functools.partial(tell, negations=0)
            A, B, at = texts(rng, tell, plain, 'adj', n)
            return A, B, at.argmax(1), polarity[:1], at.sum(1) == 1

        def texts(rng, tell, tell_again, slot, n):
            """Text A, text B, and where B hides a word of rival 0."""

            def hide(who):
                ids, slots = tell_again(who)
                hidden = slots == self._slots.index(slot)
                mark = np.where(who == 0, BOS, MASK)[:, None]
                return np.where(hidden, mark, ids), slots

            count = rng.choice(RIVALS, n)
            A = side_by_side(*self._retell(rng, tell, count))
            B = side_by_side(*self._retell(rng, hide, count))
            return A, np.where(B == BOS, MASK, B), B == BOS

        choose = pick('about', about, {'facts': fact, 'opinions': opinion})

        def make(rng, n, shown):
            A, B, at, truth, keep = choose(rng, n, shown)
            start = (A > 0).sum(1) + 2 + at
            labels = np.stack([start, *truth], 1)
            return A[keep], B[keep], labels[keep]

        name = f'binding {about}'
        return self._examples(name, make, num_examples, 'test', seed)

    def evidence(self, num_examples, side, seed=0):
        """Four plain opinions of one polarity, an adjective masked.

        With `side` 'right' it stands in the first one, so that all other
        opinions are to its right, with 'left' in the last one; with 'none'
        there is one opinion only. Labels (n, 2) are the position of <mask>
        in X and the polarity, 0 or 1. All words occur, also those that are
        not `shown`. Raises ValueError for another side and for fewer than 1
        example.
        """
        if side not in SIDES:
            raise ValueError(f'side is {side!r}, not one of {SIDES}')

        def make(rng, n, shown):
            topic, scene, polarity = self._single(rng, n, shown)
            told = topic, polarity, np.zeros_like(topic)  # all plain
            count = 0 if side == 'none' else 3
            others = [self._sentences(rng, scene, *told) for _ in range(count)]
            about = scene['flaw'], scene, topic, polarity, shown
            ids, slots = self._opinion(rng, 'plain adj', *about)
            adjectives = [self._slots.index(slot) for slot in ('adj', 'fit')]
            # No two sentences are to differ in their adjectives only.
            article = [self._index['a'], self._index['an']]
            frames = [
                np.where(np.isin(s, adjectives) | np.isin(x, article), MASK, x)
                for x, s in [(ids, slots), *others]
            ]
            hashes = np.sort([hash_rows(frame) for frame in frames], 0)
            keep = (np.diff(hashes, axis=0) > 0).all(0)
            ids = np.where(np.isin(slots, adjectives), MASK, ids)
            texts = [x for x, _ in others]
            texts = [*texts, ids] if side == 'left' else [ids, *texts]
            ids = side_by_side(*texts)
            labels = np.stack([(ids == MASK).argmax(1) + 1, polarity], 1)
            return ids[keep], labels[keep]

        return self._examples(
            f'evidence {side}', make, num_examples, 'test', seed
        )
