"""Prompts of examples for a published GPT, and what it makes of them.

A prompt is read once. Queries branch off after 0, 1, 2, ... of its examples,
and answers off the queries, all in one pass: a mask lets each branch see only
what it continues.
"""

import contextlib
import dataclasses
import functools
from typing import NamedTuple
from unittest import mock

import torch
from torch.nn import functional as F

import corpora
import utils
from corpora.facts import country_facts

COUNTRY_TASKS = 'capital', 'language', 'continent', 'currency'
LABELS = 'positive', 'negative'
MAX_WORDS = 20  # of a review


# ---- Tasks and forms ----


@dataclasses.dataclass(frozen=True)
class Form:
    """How start, question and answer of a prompt are written."""

    start: str
    question: str
    answer: str
    end: str


FORMS = {
    'bare': Form('<|endoftext|>', '{}', ' {}', '\n'),
    'arrow': Form('<|endoftext|>', '{} ->', ' {}', '\n'),
    'described': Form('<|endoftext|>{}\n', '{}', ' {}', '\n'),
    'chat': Form(
        '<|im_start|>system\n{}<|im_end|>\n',
        '<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n',
        '{}',
        '<|im_end|>\n',
    ),
}
ASKED = {'sentiment': 'Review: {}\nSentiment:'}  # else, if not by arrow
DESCRIPTIONS = {
    'french': 'English to French:',
    'sentiment': 'Film reviews, positive or negative:',
}


def in_words(name, task):
    """A name of `corpora.facts` as prose writes it: `south_america`."""
    words = name.replace('_', ' ')
    return words if task == 'currency' else words.title()


@functools.cache
def facts_of(task):
    """What a task answers: {question: answer}.

    It is a task over the 93 countries, or 'french', the first 93 nouns.
    Raises ValueError for another.
    """
    if task == 'french':
        return dict(corpora.FRENCH_NOUNS[:93])
    if task not in COUNTRY_TASKS:
        raise ValueError(f"{task!r} is none of {COUNTRY_TASKS} and 'french'")
    return {
        in_words(country, 'country'): in_words(answers[task], task)
        for country, answers in country_facts().items()
    }


class Prompt(NamedTuple):
    """Token ids: the start, an example each, and what is asked last."""

    start: list[int]
    examples: list[list[int]]
    query: list[int]

    @property
    def ids(self):
        return [*self.start, *(x for part in self.examples for x in part)]

    def lengths(self, shots):
        """How many tokens precede the query with each number of examples."""
        sizes = [len(part) for part in self.examples]
        return [len(self.start) + sum(sizes[:k]) for k in shots]


def written(tokenizer, form, text):
    """Token ids of an answer and of what ends it."""
    form = FORMS[form]
    answer = tokenizer.encode(form.answer.format(text)).ids
    return answer + tokenizer.encode(form.end).ids


def write(tokenizer, form, task, examples, query):
    """A `Prompt` of pairs (question, answer), and a question to answer.

    Raises ValueError for a form that is none.
    """
    if form not in FORMS:
        raise ValueError(f'form is {form!r}, not one of {list(FORMS)}')
    asked = '{}' if form == 'arrow' else ASKED.get(task, '{} ->')
    described = f'Country to {task}:'

    def question(text):
        text = FORMS[form].question.format(asked.format(text))
        return tokenizer.encode(text).ids

    start = FORMS[form].start.format(DESCRIPTIONS.get(task, described))
    parts = [question(q) + written(tokenizer, form, a) for q, a in examples]
    return Prompt(tokenizer.encode(start).ids, parts, question(query))


# ---- Reading once, with branches ----


@contextlib.contextmanager
def placed(positions, config):
    """Let a model with rotary positions read tokens at these positions."""
    sizes = config.head_width, config.rotary_base, positions.device
    turned = utils.turns(0, int(positions.max()) + 1, *sizes)[positions]
    with mock.patch.object(utils, 'turns', lambda *_: turned):
        yield


class Reader:
    """A GPT that has read the token ids `ids`, and may read on from there.

    The model has rotary positions; ValueError for another.
    """

    def __init__(self, model, ids):
        if not model.config.rotary_base:
            raise ValueError('the model has no rotary positions')
        self.model, self.caches = model, model.new_caches()
        self.length = len(ids)
        self.read([ids], torch.zeros(1, 0, dtype=torch.bool))

    def __len__(self):
        return len(self.caches[0])

    def up_to(self, lengths):
        """Which tokens those are that come first: (n, len(self))."""
        return torch.arange(len(self)) < torch.tensor(lengths)[:, None]

    @torch.no_grad()
    def read(self, rows, visible, hide=None):
        """Read lists of ids `rows`, each after what it sees, and keep them.

        `visible` is (num_rows, len(self)); a row stands after what it sees
        and its tokens see it and those before them. `hide` turns the mask,
        (num_tokens, num_keys), into one per block. Returns representations,
        (len(row), num_hiddens) each.
        """
        sizes = torch.tensor([len(row) for row in rows])
        row = torch.repeat_interleave(torch.arange(len(rows)), sizes)
        place = torch.cat([torch.arange(size) for size in sizes.tolist()])
        own = (row[:, None] == row) & (place[:, None] >= place)
        mask = torch.cat((visible[row], own), dim=1)
        X = torch.tensor([[x for ids in rows for x in ids]])
        with placed(visible.sum(1)[row] + place, self.model.config):
            masks = mask if hide is None else hide(mask)
            H = self.model.encode(X, masks, self.caches)[0]
        return H.split(sizes.tolist())

    def forget(self):
        """Forget what was read after `ids`."""
        for cache in self.caches:
            cache.K = cache.K[:, :, : self.length]
            cache.V = cache.V[:, :, : self.length]


def log_probs(model, H):
    """Log-probabilities of the next token, (..., vocab_size)."""
    with torch.no_grad():
        return model.head(H).log_softmax(-1)


def said_and_best(reader, lengths, query, answers, target):
    """Whether `answers[target]` is what the model says, and its best answer.

    The answers are lists of ids, with the token that ends them; no two are
    equal. The model has read the first `lengths[i]` tokens and the query.
    It *says* an answer if each of its tokens is the most probable of all. It
    is *best* if no other answer is more probable as a whole. An answer is no
    more probable than its first token, so that rivals are tried in the order
    of theirs, 2, 4, 8, ... at a time, until one is more probable or none can
    be. Returns two lists of bool, one for each length.
    """
    n, model, label = len(lengths), reader.model, torch.tensor(answers[target])
    before, row = len(reader), query + answers[target][:-1]
    seen = reader.up_to(lengths)
    H = torch.stack(reader.read([row] * n, seen))  # (n, len(row), ...)
    scores = log_probs(model, H[:, len(query) - 1 :])
    said = (scores.argmax(-1) == label).all(1)
    total = scores.gather(-1, label.expand(n, -1)[..., None]).sum((1, 2))
    asked = torch.zeros(n, len(reader), dtype=torch.bool)
    asked[:, :before] = seen
    for i in range(n):
        asked[i, before + i * len(row) :][: len(query)] = True
    others = [i for i in range(len(answers)) if i != target]
    bounds = scores[:, 0, [answers[i][0] for i in others]]
    order, best = bounds.argsort(1, descending=True), [True] * n
    begin, number = 0, 2
    while True:
        pairs = [
            (i, others[j], bounds[i, j])
            for i in range(n)
            if best[i]
            for j in order[i, begin : begin + number].tolist()
            if bounds[i, j] > total[i]
        ]
        if not pairs:
            break
        rows = [answers[other][:-1] for _, other, _ in pairs]
        grown = F.pad(asked, (0, len(reader) - asked.shape[1]))
        found = reader.read(rows, grown[[i for i, *_ in pairs]])
        follow = log_probs(model, torch.cat(found))
        follow = follow.split([len(row) for row in rows])
        for (i, other, bound), scores in zip(pairs, follow, strict=True):
            rest = scores[range(len(scores)), answers[other][1:]].sum()
            best[i] = best[i] and bool(bound + rest <= total[i])
        begin, number = begin + number, 2 * number
    reader.forget()
    return said.tolist(), best


def label_odds(reader, lengths, query, labels):
    """Log-odds of the first of two labels, ids of one token, and what is said.

    The model has read the first `lengths[i]` tokens and the query. Returns
    the odds, and the most probable of all tokens, (len(lengths),) each.
    """
    H = reader.read([query] * len(lengths), reader.up_to(lengths))
    scores = log_probs(reader.model, torch.stack([rows[-1] for rows in H]))
    reader.forget()
    first, second = labels
    return scores[:, first] - scores[:, second], scores.argmax(-1)


# ---- Film reviews ----


class Sets(NamedTuple):
    """Sets of examples (text, is positive), and the queries of each."""

    examples: list
    queries: list


@functools.cache
def short_reviews(part):
    """Positive and negative reviews of up to 20 words: two lists of texts."""
    reviews = corpora.film_reviews(above=1)
    if reviews is None:
        raise ValueError('this needs the film reviews')
    texts, ratings = reviews[part]
    pairs = list(zip(texts, ratings.tolist(), strict=True))
    return [
        [
            text
            for text, rating in pairs
            if len(text.split()) <= MAX_WORDS and (rating > 0) == wanted
        ]
        for wanted in (True, False)
    ]


def review_sets(draw, num_sets=12, num_examples=16, num_queries=12):
    """Sets of examples from the training part, each with some test reviews.

    Of each two examples one is positive; which comes first is drawn. Half of
    a set's queries are positive. Every draw has the same queries, in other
    sets. Raises ValueError for odd numbers.
    """
    if num_examples % 2 or num_queries % 2:
        raise ValueError(f'{num_examples}, {num_queries} are not both even')
    generator = torch.Generator().manual_seed(draw)

    def some(texts, number):
        order = torch.randperm(len(texts), generator=generator)[:number]
        return [texts[i] for i in order]

    half, total = num_queries // 2, num_sets * num_queries // 2
    train = [
        some(texts, num_sets * num_examples // 2)
        for texts in short_reviews('train')
    ]
    tests = [some(texts[:total], total) for texts in short_reviews('test')]
    examples, queries = [], []
    for i in range(num_sets):
        pairs = []
        for j in range(i * num_examples // 2, (i + 1) * num_examples // 2):
            pair = [(train[0][j], True), (train[1][j], False)]
            turned = torch.randint(2, (), generator=generator)
            pairs += pair[:: -1 if turned else 1]
        examples.append(pairs)
        mine = slice(i * half, (i + 1) * half)
        queries.append(
            [(text, True) for text in tests[0][mine]]
            + [(text, False) for text in tests[1][mine]]
        )
    return Sets(examples, queries)
