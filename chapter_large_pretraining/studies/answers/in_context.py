"""Answers to the exercises of in_context.ipynb that take longer.

Small models are trained on lists of facts, with other widths, bands and
lists; SmolLM2 is asked for capitals, demonyms, colors and opinions. Where it
is asked, `seed` draws the examples.
"""

import functools

import numpy as np
import torch
from prompting import (
    Reader,
    country_facts,
    facts_of,
    in_words,
    label_odds,
    review_sets,
    said_and_best,
)

import corpora
import utils

from .. import examples, runner

LR, BATCH, NUM_PAIRS, MAX_LEN = 0.04, 16, 16, 73
NUM_DRAWS = 4  # of examples for each query
WIDTHS = {'400 steps': 400, '800 steps': 800}
COPIED = {'100 steps': 100, '800 steps': 800}
FEW = 6  # different questions of a list with made-up answers
BANDED = {
    'banded, dense': (400, (4, 99)),
    'dense, banded': (400, (99, 4)),
    'dense, banded, 800 steps': (800, (99, 4)),
}
TWO_IN_REACH = {'4 and 8': (4, 8), '8 and 4': (8, 4)}
CONTINENTS = 'Europe', 'Asia', 'Africa', 'North America'
NUM_EXAMPLES = 16  # that SmolLM2 is shown; of capitals half as many
COLORS = {'Europe': 'red', 'Africa': 'blue'}
TOLD = tuple(
    f'{task}, {kind}'
    for task in ('demonym', 'color')
    for kind in ('true', 'shuffled')
)
REVIEWS = {  # question and the labels of the good and the bad
    'good or bad': ('Film: {}\nGood or bad?', ('good', 'bad')),
    'yes or no': ('{}\nDid the critic like it?', ('yes', 'no')),
}


# ---- The small world ----


@functools.cache
def world():
    """The facts, and the French nouns."""
    return corpora.FactWorld(corpora.FRENCH_NOUNS)


def bands(num_steps, both):
    """A mask for each block, that of the last few tokens."""
    mask = utils.causal_mask(num_steps)
    return [mask.triu(1 - width) for width in both]


def learn(width, num_steps, seed, both=None, batches=None):
    """A GPT of two blocks that has read lists, through `bands` if any."""

    def loss_fn(model, X):
        masks = both and bands(X.shape[1] - 1, both)
        return utils.token_loss(model(X[:, :-1], masks), X[:, 1:])

    torch.manual_seed(seed)
    size = {'num_hiddens': width, 'num_blks': 2, 'max_len': MAX_LEN}
    model = utils.GPT(utils.Config(len(world().vocab), **size))
    runner.train(
        model,
        batches or world().batches(BATCH, seed=seed),
        loss_fn,
        num_steps,
        LR,
        'muon',
        (0.9, 0.99),
        warmup=20,
    )
    return model


@functools.cache
def held_out():
    """Tasks, columns and answers of the queries, and where tasks differ."""
    tasks, columns = world().held_out[:6].nonzero().repeat(2, 1).T
    truth = world().answers[tasks, columns]
    partner = torch.tensor([1, 0, 3, 2, 4, 5])[tasks]
    return tasks, columns, truth, truth != world().answers[partner, columns]


def prompts(num_examples, described, seed=0):
    """Prompts of all queries, and their columns."""
    tasks, queries, _, _ = held_out()
    generator = torch.Generator().manual_seed(seed)
    drawn = world().draw(tasks, num_examples, generator)
    columns = torch.cat((drawn, queries[:, None]), dim=1)
    return world().lists(tasks, columns, described)[:, :-2], columns


@torch.no_grad()
def says(model, X, masks=None):
    """The likeliest token after each prompt."""
    return model.head(model.encode(X, masks)[:, -1]).argmax(-1)


def known(model):
    """Right answers: told the task, by 16 examples, and of the first both."""
    told, shown = (
        says(model, prompts(number, described)[0]) == held_out()[2]
        for number, described in ((0, True), (NUM_PAIRS, False))
    )
    return {
        'told': told.float().mean().item(),
        'shown': shown.float().mean().item(),
        'found': (told & shown).sum().item() / told.sum().item(),
    }


def width_16(setting, seed):
    """What a model of width 16 knows after a number of steps."""
    return known(learn(16, WIDTHS[setting], seed))


def made_up_lists(number, generator):
    """Lists that ask for a few questions again and again.

    Their answers are those of other questions of the task, drawn anew for
    each list, and stay the same in it. Returns ids, and the columns.
    """
    tasks = torch.randint(len(world().tasks), (number,), generator=generator)
    drawn = world().draw(tasks, FEW, generator)
    told = world().draw(tasks, FEW, generator)
    shape = number, NUM_PAIRS + 2
    again = torch.randint(FEW, shape, generator=generator)
    answers = world().answers[tasks[:, None], told.gather(1, again)]
    columns = drawn.gather(1, again)
    return world().lists(tasks, columns, False, answers), columns


def made_up_batches(seed):
    """The batches of the chapter, with made-up lists in place of the true."""
    generator = torch.Generator().manual_seed(seed + 1)
    for X in world().batches(BATCH, seed=seed):
        half = BATCH // 2
        lists, _ = made_up_lists(half, generator)
        yield torch.cat((X[:half], lists[:, : X.shape[1]]))


def copying(setting, seed):
    """What a model that reads made-up lists says to a question seen before.

    `copied` is the share of the answers that stood by the question, `shown`
    of those that stood in the list, `commonest` what a copy of the list's
    commonest answer would get, and `weight` the most that a head's last arrow
    puts on the answers to be copied, `even` what it would if all answers had
    the same.
    """
    model = learn(32, COPIED[setting], seed, batches=made_up_batches(seed))
    generator = torch.Generator().manual_seed(seed + 1000)
    lists, columns = made_up_lists(500, generator)
    size = 4 * NUM_PAIRS + 3  # of a prompt: 16 examples, query and arrow
    asked, earlier = columns[:, NUM_PAIRS, None], columns[:, :NUM_PAIRS]
    seen = (asked == earlier).any(1)
    X, truth = lists[seen, :size], lists[seen, size]
    answers = X[:, 3:-2:4]
    with utils.record_attention(model) as maps:
        found = says(model, X)
    last = torch.cat([part[..., -1, 3:-2:4] for part in maps], dim=1)
    there = (asked == earlier)[seen]
    weights = (last * there[:, None]).sum(2).mean(0)  # of each head
    commonest = answers.mode(1)[0]
    return {
        'copied': (found == truth).float().mean().item(),
        'shown': (found[:, None] == answers).any(1).float().mean().item(),
        'commonest': (commonest == truth).float().mean().item(),
        'weight': weights.max().item(),
        'even': there.float().mean().item(),
    }


def shares(model, X, masks):
    """Right answers to all queries, and where tasks differ."""
    _, _, truth, differ = held_out()
    right = says(model, X, masks).view(-1, len(truth)) == truth
    return [x.float().mean().item() for x in (right, right[:, differ])]


def many_prompts():
    """Prompts of all queries with several draws of examples."""
    drawn = [prompts(NUM_PAIRS, False, seed)[0] for seed in range(NUM_DRAWS)]
    return torch.cat(drawn)


def without(masks, block, head):
    """Masks with which a head's last token sees the query alone."""
    masks = [mask.repeat(4, 1, 1) for mask in masks]
    masks[block][head, -1, :-2] = False
    return masks


def banded(setting, seed):
    """Where a model with a band reads, and what its heads are needed for.

    `weights` are those of the last arrow on all answers, and `silenced` the
    right answers where tasks differ without the head, for all eight heads.
    """
    num_steps, both = BANDED[setting]
    model, X = learn(32, num_steps, seed, both), many_prompts()
    masks = bands(X.shape[1], both)
    every, differ = shares(model, X, masks)
    with utils.record_attention(model) as maps:
        says(model, X, masks)
    last = torch.cat([part[..., -1, :].mean(0) for part in maps])
    silenced = [
        shares(model, X, without(masks, block, head))[1]
        for block in (0, 1)
        for head in range(4)
    ]
    return {
        'every': every,
        'differ': differ,
        'weights': last[:, 3:-2:4].sum(1).tolist(),
        'silenced': silenced,
    }


def two_in_reach(setting, seed):
    """Right answers of a model whose bands reach two examples."""
    both, X = TWO_IN_REACH[setting], many_prompts()
    model = learn(32, 400, seed, both)
    every, differ = shares(model, X, bands(X.shape[1], both))
    return {'every': every, 'differ': differ}


# ---- SmolLM2 ----


def reading(pairs):
    """A `Reader` of SmolLM2 that has read lines of pairs."""
    model, tokenizer = examples.smollm2()
    text = ''.join(f'{question} -> {reply}\n' for question, reply in pairs)
    return Reader(model, [0, *tokenizer.encode(text).ids])


def judged(reader, query, reply, replies):
    """Is the reply to a query said, and is it the best of all replies?"""
    _, tokenizer = examples.smollm2()
    ids = [tokenizer.encode(f' {text}\n').ids for text in replies]
    asked = tokenizer.encode(f'{query} ->').ids
    place = [reader.length], asked, ids, replies.index(reply)
    return [part[0] for part in said_and_best(reader, *place)]


def permuted(number, seed):
    """The numbers from 0 on in a drawn order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(number, generator=generator).tolist()


def one_continent(setting, seed):
    """Capitals said after examples of one continent, or of 'all'.

    `said` and `best` have a share for each of CONTINENTS.
    """
    capitals, continents = facts_of('capital'), facts_of('continent')
    names = [name for name, where in continents.items() if where in CONTINENTS]
    names = [names[i] for i in permuted(len(names), seed)]
    chosen = [x for x in names if setting in ('all', continents[x])]
    chosen = chosen[: NUM_EXAMPLES // 2]
    reader = reading([(name, capitals[name]) for name in chosen])
    replies = sorted({*capitals.values()})
    found = {where: [] for where in CONTINENTS}
    for name in names:
        if name not in chosen:
            verdict = judged(reader, name, capitals[name], replies)
            found[continents[name]].append(verdict)
    said, best = np.array([np.mean(x, 0) for x in found.values()]).T
    return {'said': said.tolist(), 'best': best.tolist()}


def told_pairs(task, seed):
    """All pairs of a task in a drawn order, and as many of COLORS first."""
    facts = country_facts()
    names = [list(facts)[i] for i in permuted(len(facts), seed)]
    if task == 'demonym':
        return [
            (in_words(name, 'country'), in_words(facts[name][task], task))
            for name in names
        ]
    parts = [
        [
            (in_words(name, 'country'), color)
            for name in names
            if in_words(facts[name]['continent'], 'continent') == where
        ]
        for where, color in COLORS.items()
    ]
    half = NUM_EXAMPLES // 2
    shown = [pair for part in parts for pair in part[:half]]
    shown = [shown[i] for i in permuted(NUM_EXAMPLES, seed + 50)]
    return shown + [pair for part in parts for pair in part[half:]]


def told(setting, seed):
    """Replies said after 16 pairs, true or with the replies shuffled.

    Of demonyms also those that are best of all, of colors the share of pairs
    of a red and a blue country that are in order.
    """
    task, kind = setting.split(', ')
    pairs = told_pairs(task, seed)
    shown, asked = pairs[:NUM_EXAMPLES], pairs[NUM_EXAMPLES:]
    if kind == 'shuffled':
        order = permuted(NUM_EXAMPLES, seed + 100)
        shown = [
            (name, shown[i][1])
            for (name, _), i in zip(shown, order, strict=True)
        ]
    reader = reading(shown)
    if task == 'demonym':
        replies = sorted({reply for _, reply in pairs})
        verdicts = [judged(reader, *pair, replies) for pair in asked]
        said, best = np.mean(verdicts, 0).tolist()
        return {'said': said, 'best': best}
    _, tokenizer = examples.smollm2()
    red, blue = (tokenizer.encode(f' {x}').ids[0] for x in COLORS.values())
    odds, said, is_red = [], [], []
    for name, reply in asked:
        query = tokenizer.encode(f'{name} ->').ids
        (gap,), (token,) = label_odds(
            reader, [reader.length], query, (red, blue)
        )
        is_red.append(reply == COLORS['Europe'])
        odds.append(gap.item())
        said.append(token.item() == (red if is_red[-1] else blue))
    order = examples.auc(np.array(odds), np.array(is_red))
    return {'said': np.mean(said).item(), 'order': order}


def opinions(setting, seed):
    """Reviews in other words: how many are right, in order, and so called.

    `odds` are those of all reviews, after 0, 1, 2, ... examples each, and
    `last` says of each set which of its examples are positive.
    """
    model, tokenizer = examples.smollm2()
    form, labels = REVIEWS[setting]

    def ids(text):
        return tokenizer.encode(text).ids

    label_ids = [ids(f' {label}')[0] for label in labels]
    shots, odds, last = [int(k) for k in examples.SHOTS.split()], [], []
    for shown, queries in zip(*review_sets(seed), strict=True):
        last.append([int(is_positive) for _, is_positive in shown])
        parts = [
            ids(f'{form.format(text)} {labels[0 if is_positive else 1]}\n')
            for text, is_positive in shown
        ]
        reader = Reader(model, [0, *(x for part in parts for x in part)])
        lengths = [1 + sum(map(len, parts[:k])) for k in shots]
        for text, _ in queries:
            query = ids(form.format(text))
            odds.append(label_odds(reader, lengths, query, label_ids)[0])
    odds = torch.stack(odds).round(decimals=2)
    return {
        'odds': odds.flatten().tolist(),
        'last': [x for row in last for x in row],
    }


EXERCISES = {
    8: (told, TOLD, 3),
    2: (width_16, tuple(WIDTHS), 3),
    4: (copying, tuple(COPIED), 3),
    5: (banded, tuple(BANDED), 3),
    6: (two_in_reach, tuple(TWO_IN_REACH), 3),
    7: (one_continent, ('all', *CONTINENTS), 3),
    9: (opinions, tuple(REVIEWS), 1),
}
