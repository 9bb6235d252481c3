"""The examples study: what SmolLM2 does with 0, 1, ..., 16 examples.

Six tasks: the capital, the language, the continent and the currency of each
of 93 countries, the French of 93 nouns, and whether a sentence of a film
review is positive. A country or a noun has examples drawn for it from the
other 92; reviews are asked in sets that share their examples. Controls change
the answers in the examples, the form of the prompt, or the heads that may
look at the examples. SmolLM2-135M-Instruct was tuned on instructions after
pretraining, and may have read what it is asked.
"""

import dataclasses
import functools
import math
import time

import numpy as np
import torch
from prompting import (
    COUNTRY_TASKS,
    FORMS,
    LABELS,
    Reader,
    facts_of,
    label_odds,
    log_probs,
    review_sets,
    said_and_best,
    write,
    written,
)

import published
import utils

from . import runner

TASKS = *COUNTRY_TASKS, 'french', 'sentiment'
SHOTS = '0 1 2 4 8 16'
OTHER = dict(zip(COUNTRY_TASKS, (*COUNTRY_TASKS[1:], 'capital'), strict=True))
OF_COUNTRIES = 'true', 'shuffled', 'random tasks', 'another task', 'made up'
OF_REVIEWS = 'true', 'random', 'flipped', 'abstract'
MOST = 16  # examples
NUM_SETS, NUM_QUERIES = 12, 12  # sets of reviews, and queries of each
NUM_READERS = 20  # heads that read the examples most
CONDITIONS = (
    'none',
    'first 5',
    'first 20',
    'others 5, drawn once',
    'others 5, drawn again',
    'others 20, drawn once',
    'others 20, drawn again',
    'all',
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One way to ask; ValueError for a value that is none of a field.

    `examples` says whose answers the examples have, `shots` how many there
    are, `queries` how many of the countries, nouns or reviews are asked.
    With `silenced` 1, heads are kept from the examples.
    """

    task: str
    form: str
    examples: str
    shots: str
    draw: int
    queries: int
    silenced: int = 0

    def __post_init__(self):
        runner.check_values(
            self,
            task=TASKS,
            form=tuple(FORMS),
            examples=OF_REVIEWS if self.is_of_reviews else OF_COUNTRIES,
            silenced=(0, 1),
        )
        if self.task == 'french' and self.examples not in OF_COUNTRIES[:2]:
            raise ValueError(f"examples is {self.examples!r} for 'french'")
        if self.silenced and (self.is_of_reviews or self.shots != str(MOST)):
            raise ValueError(f'no heads are silenced for {self}')
        runner.check_least(self, draw=0, queries=1)
        if self.queries > self.most_queries:
            limit = self.most_queries
            raise ValueError(f'queries is {self.queries}, above {limit}')
        shots = self.shots.split()
        if not shots or shots != [k for k in SHOTS.split() if k in shots]:
            raise ValueError(f'shots is {self.shots!r}, not some of {SHOTS}')

    @property
    def is_of_reviews(self):
        return self.task == 'sentiment'

    @property
    def most_queries(self):
        return NUM_SETS * NUM_QUERIES if self.is_of_reviews else 93

    @property
    def numbers(self):
        """The numbers of examples."""
        return [int(k) for k in self.shots.split()]

    @property
    def cost(self):
        """Prompts, each with a number of examples, before each query."""
        ways = len(CONDITIONS) if self.silenced else len(self.numbers)
        return self.queries * ways


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out of a run; ValueError for what is no verdict.

    `said`, `best` and `other` are words of 0 and 1, a word for each number
    of examples (or, where heads are silenced, for each of CONDITIONS), with
    a digit for each query: was the right answer said, was it the best of the
    task's, and was the answer that the examples suggest the best. Of reviews
    `other` has a word for each set: which examples are positive. `odds` are
    the log-odds of positive against negative, with `|` between words.
    `heads` are those that look most at the answers of the examples, chosen
    for the even queries on the odd ones and, after `|`, the other way round.
    `seconds` are of the CPU.
    """

    said: str
    best: str
    other: str
    odds: str
    heads: str
    seconds: float

    def __post_init__(self):
        for name in ('said', 'best', 'other'):
            text = getattr(self, name)
            if set(text) - set('01 '):
                raise ValueError(f'{name} is {text!r}, not of 0 and 1')
        if not self.said:
            raise ValueError('said is empty')


def in_digits(table):
    """Rows of bool as words of 0 and 1."""
    rows = [''.join('01'[bool(x)] for x in row) for row in table]
    return ' '.join(rows)


def verdicts(text):
    """Words of 0 and 1 as an array: (num_words, num_queries)."""
    return np.array([[int(x) for x in word] for word in text.split()])


def numbers(text):
    """Rows of numbers with `|` between them as an array."""
    return np.array([row.split() for row in text.split('|')], dtype=float)


def chosen(rows, task, **fields):
    """Rows of a task, by draw; other fields are those of the main table.

    `rows` is what `read_runs` returns. Raises ValueError if there are none.
    """
    fields = {
        'form': 'bare',
        'examples': 'true',
        'shots': SHOTS,
        'silenced': 0,
    } | fields
    found = rows[rows.task == task].sort_values('draw')
    for name, value in fields.items():
        found = found[found[name] == value]
    if found.empty:
        raise ValueError(f'no row of {task} with {fields}')
    return found


def interval(groups, num_samples=2000, seed=0):
    """From where to where the mean lies in 95 % of bootstrap samples.

    `groups` is (num_groups, size): scores that go together, such as those of
    one country in all draws. A sample draws as many groups, with repeats.
    """
    luck, means = np.random.default_rng(seed), groups.mean(1)
    drawn = luck.integers(len(means), size=(num_samples, len(means)))
    return tuple(np.quantile(means[drawn].mean(1), (0.025, 0.975)).tolist())


def auc(odds, truth):
    """How often a positive has higher odds than a negative; ties are half."""
    gaps = odds[truth][:, None] - odds[~truth]
    return ((gaps > 0) + (gaps == 0) / 2).mean().item()


# ---- Examples ----


def drawn(run, query, number):
    """The `number` of what `query` is shown, others than itself, in order."""
    generator = torch.Generator().manual_seed(1000 * run.draw + query)
    order = torch.randperm(run.most_queries, generator=generator).tolist()
    return [i for i in order if i != query][:number]


def shown(run, query):
    """Examples (question, answer) for a query, and the answer they suggest.

    That answer is None where it is the right one or none is.
    """
    facts = facts_of(run.task)
    names = list(facts)
    asked = names[query]
    chosen = [names[i] for i in drawn(run, query, max(run.numbers))]
    answers = [facts[name] for name in chosen]
    luck = torch.Generator().manual_seed(1000 * run.draw + query + 500)

    def below(size):
        return torch.randint(size, (), generator=luck).item()

    if run.examples == 'shuffled':
        order = torch.randperm(len(answers), generator=luck).tolist()
        answers = [answers[i] for i in order]
    elif run.examples == 'random tasks':
        answers = [
            facts_of(COUNTRY_TASKS[below(len(COUNTRY_TASKS))])[name]
            for name in chosen
        ]
    elif run.examples == 'another task':
        told = facts_of(OTHER[run.task])
        return [(name, told[name]) for name in chosen], told[asked]
    elif run.examples == 'made up':
        wrong = sorted({*facts.values()} - {facts[asked]})
        place, told = below(len(chosen)), wrong[below(len(wrong))]
        chosen[place], answers[place] = asked, told
        return list(zip(chosen, answers, strict=True)), told
    return list(zip(chosen, answers, strict=True)), None


def shown_reviews(run, examples, number):
    """Examples (text, label), and the labels for positive and negative."""
    labels = LABELS
    if run.examples == 'abstract':
        labels = ('foo', 'bar')[:: -1 if number % 2 else 1]
    truth = [is_positive for _, is_positive in examples]
    if run.examples == 'flipped':
        truth = [not is_positive for is_positive in truth]
    elif run.examples == 'random':
        generator = torch.Generator().manual_seed(100 * run.draw + number)
        truth = torch.randint(2, (len(truth),), generator=generator).tolist()
    pairs = [
        (text, labels[0 if is_positive else 1])
        for (text, _), is_positive in zip(examples, truth, strict=True)
    ]
    return pairs, labels


def nulls(task, draw=0):
    """How often answers are right that know nothing of the query.

    The commonest answer of all, the commonest of its 16 examples (the first
    of equals), and the question itself.
    """
    facts, run = facts_of(task), Run(task, 'bare', 'true', str(MOST), draw, 93)

    def commonest(answers):
        return max(answers, key=answers.count)

    first = commonest([*facts.values()])
    right = [
        (first, commonest([told for _, told in shown(run, i)[0]]), name)
        for i, name in enumerate(facts)
    ]
    truth = np.array([*facts.values()])[:, None]
    return (np.array(right) == truth).mean(0).tolist()


# ---- Asking ----


@functools.cache
def smollm2(device='cpu'):
    """The model, in evaluation, and its tokenizer."""
    path = published.packaged('smollm2')
    if path is None:
        raise ValueError('this study needs SmolLM2')
    model = published.load_official(path).to(device).eval()
    return model, published.load_tokenizer(path)


def ids_of(tokenizer, form, answers):
    """The different answers in order, and the ids of each with its end."""
    answers = sorted(set(answers))
    return answers, [written(tokenizer, form, text) for text in answers]


def ask_facts(run, model, tokenizer):
    """Verdicts on countries or nouns: said, best, other, by query."""
    facts = facts_of(run.task)
    answers, ids = ids_of(tokenizer, run.form, facts.values())
    rivals, rival_ids = answers, ids
    if run.examples == 'another task':
        told = facts_of(OTHER[run.task]).values()
        rivals, rival_ids = ids_of(tokenizer, run.form, told)
    found = []
    for i, name in list(enumerate(facts))[: run.queries]:
        examples, suggested = shown(run, i)
        prompt = write(tokenizer, run.form, run.task, examples, name)
        reader, lengths = Reader(model, prompt.ids), prompt.lengths
        place = lengths(run.numbers), prompt.query
        right = answers.index(facts[name])
        verdict = said_and_best(reader, *place, ids, right)
        if suggested is not None:
            target = rivals.index(suggested)
            _, other = said_and_best(reader, *place, rival_ids, target)
            verdict = *verdict, other
        found.append(verdict)
    parts = zip(*found, strict=True)
    return [in_digits(zip(*part, strict=True)) for part in parts]


def ask_reviews(run, model, tokenizer):
    """Verdicts on reviews: said, best; truths of examples; log-odds."""
    sets = review_sets(run.draw, NUM_SETS, MOST, NUM_QUERIES)
    said, odds, truth = [], [], []
    for number, (examples, queries) in enumerate(zip(*sets, strict=True)):
        if len(truth) == run.queries:
            break
        examples, labels = shown_reviews(run, examples, number)
        ids = [written(tokenizer, run.form, label)[0] for label in labels]
        examples = examples[: max(run.numbers)]
        prompt = write(tokenizer, run.form, run.task, examples, '')
        reader = Reader(model, prompt.ids)
        for text, is_positive in queries[: run.queries - len(truth)]:
            query = write(tokenizer, run.form, run.task, [], text).query
            lengths = prompt.lengths(run.numbers)
            found, token = label_odds(reader, lengths, query, ids)
            odds.append(found.tolist())
            said.append((token == ids[0 if is_positive else 1]).tolist())
            truth.append(is_positive)
    odds = np.array(odds).T  # (len(run.numbers), num_queries)
    told = [[truth for _, truth in examples] for examples in sets.examples]
    return (
        in_digits(zip(*said, strict=True)),
        in_digits((odds > 0) == np.array(truth)),
        in_digits(told),
        ' | '.join(' '.join(f'{x:.2f}' for x in row) for row in odds),
    )


# ---- Silencing heads ----


def answer_places(tokenizer, form, prompt, examples):
    """Where the tokens of the examples' answers stand in `prompt.ids`."""
    sizes = [len(written(tokenizer, form, answer)) for _, answer in examples]
    ends = prompt.lengths(range(1, len(examples) + 1))
    end = len(tokenizer.encode(FORMS[form].end).ids)
    return [
        place
        for last, size in zip(ends, sizes, strict=True)
        for place in range(last - size, last - end)
    ]


def others_of(heads, num_heads, num_blks, seed):
    """As many heads that are not among `heads`, of the same blocks if any."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randperm(num_heads * num_blks, generator=generator).tolist()
    left = [head for head in left if head not in heads]
    found = []
    for head in heads:
        same = [x for x in left if x // num_heads == head // num_heads]
        found.append((same or left)[0])
        left.remove(found[-1])
    return found


def conditions(order, config):
    """The heads to silence in each of CONDITIONS, given the order."""
    first, sizes = order[:NUM_READERS], (config.num_heads, config.num_blks)
    drawn_twice = [others_of(first, *sizes, seed) for seed in (0, 1)]
    few = [others[:5] for others in drawn_twice]
    every = list(range(math.prod(sizes)))
    return [], first[:5], first, *few, *drawn_twice, every


def silencing(heads, config, hidden, begin):
    """From the token `begin` on, keep `heads` from the places `hidden`."""

    def masks(mask):
        sizes = config.num_blks, config.num_heads
        mask = mask.repeat(math.prod(sizes), 1, 1)
        rows = torch.arange(mask.shape[1]) >= begin
        place = torch.zeros(mask.shape[2], dtype=torch.bool)
        place[hidden] = True
        mask[heads] &= ~(rows[:, None] & place)
        return list(mask.unflatten(0, sizes))

    return masks


def attention_to_answers(model, reader, query, places):
    """Of each head, the weight of the last token of a query on `places`."""
    with utils.record_attention(model) as maps:
        reader.read([query], reader.up_to([reader.length]))
    reader.forget()
    last = torch.cat(maps)[:, :, -1]  # (num_blks, num_heads, num_keys)
    return last[..., places].sum(-1).flatten()


def silence(run, model, tokenizer):
    """Verdicts (said) in each of CONDITIONS, and the heads chosen.

    From the last token of the query on, the heads do not see the examples.
    """
    facts, asked, weights = facts_of(run.task), [], []
    for i, name in list(enumerate(facts))[: run.queries]:
        examples, _ = shown(run, i)
        prompt = write(tokenizer, run.form, run.task, examples, name)
        places = answer_places(tokenizer, run.form, prompt, examples)
        reader = Reader(model, prompt.ids)
        asked.append((name, prompt, reader))
        found = attention_to_answers(model, reader, prompt.query, places)
        weights.append(found)
    weights = torch.stack(weights)  # (num_queries, num_heads of all blocks)
    chosen = [
        weights[other::2].mean(0).argsort(descending=True).tolist()
        for other in (1, 0)
    ]
    said = []
    for i, (name, prompt, reader) in enumerate(asked):
        label = written(tokenizer, run.form, facts[name])
        row, begin = prompt.query + label[:-1], len(prompt.query) - 1
        hidden = list(range(len(prompt.start), reader.length))
        seen, found = reader.up_to([reader.length]), []
        for heads in conditions(chosen[i % 2], model.config):
            hide = silencing(heads, model.config, hidden, begin)
            (H,) = reader.read([row], seen, hide)
            reader.forget()
            scores = log_probs(model, H[begin:])
            found.append(scores.argmax(-1).tolist() == label)
        said.append(found)
    heads = [' '.join(map(str, part[:NUM_READERS])) for part in chosen]
    return in_digits(zip(*said, strict=True)), ' | '.join(heads)


# ---- The plan ----


def execute(run, options, checkpoint):
    """Ask the model, and count the seconds without loading it."""
    model, tokenizer = smollm2(runner.device_of(options))
    start, other, odds, heads = time.process_time(), '', '', ''
    if run.is_of_reviews:
        said, best, other, odds = ask_reviews(run, model, tokenizer)
    elif run.silenced:
        (said, heads), best = silence(run, model, tokenizer), ''
    else:
        said, best, *rest = ask_facts(run, model, tokenizer)
        other = rest[0] if rest else ''
    seconds = time.process_time() - start
    return Measured(said, best, other, odds, heads, seconds)


def add_options(add):
    add('--draws', type=runner.whole, default=3)


def plan(rows, options):
    """A short run, the first draw, and what is drawn again."""
    most, ends, tasks = str(MOST), f'0 {MOST}', COUNTRY_TASKS[:3]
    reviews = NUM_SETS * NUM_QUERIES
    runs = [Run('continent', 'bare', 'true', '0 1 2', 0, 6)]
    for draw in range(options.draws):
        runs += [Run(x, 'bare', 'true', SHOTS, draw, 93) for x in tasks]
        runs.append(Run('sentiment', 'bare', 'true', SHOTS, draw, reviews))
        runs.append(Run('sentiment', 'arrow', 'true', SHOTS, draw, reviews))
        if draw == 0:
            runs += [Run(x, 'bare', 'true', most, 0, 93, 1) for x in tasks]
            runs += [
                Run('sentiment', 'bare', kind, most, 0, reviews)
                for kind in OF_REVIEWS[1:]
            ]
            runs += [
                Run(task, 'bare', kind, most, 0, 93)
                for kind in OF_COUNTRIES[1:]
                for task in tasks
            ]
            runs += [
                Run(task, form, 'true', ends, 0, number)
                for task, number in (('capital', 93), ('sentiment', reviews))
                for form in ('described', 'chat')
            ]
            runs += [
                Run(task, 'bare', 'true', SHOTS, 0, 93)
                for task in ('currency', 'french')
            ]
    return runs


def describe(run):
    """What a dry run prints of a run."""
    return ', '.join(map(str, dataclasses.astuple(run)))


STUDY = runner.study_of(
    __name__,
    describe=describe,
    unit='prompts',
)
read_runs = STUDY.read_runs
