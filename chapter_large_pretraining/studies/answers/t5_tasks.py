"""Every task is text to text: the exercises that train for minutes.

Models start from 800 steps on unlabelled texts. "Four tasks" are 900 steps
on their mixture, as in the notebook. The fifth task begins with the model
that the notebook keeps.
"""

import copy
import functools
from pathlib import Path
from unittest import mock

import numpy as np
import text_to_text as ways
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch.nn import functional as F

import corpora
import in_page
import utils
from corpora import EOS, french
from corpora.text_tasks import PREFIXES

from .. import mixtures
from ..text_to_text import world

NUM_TRANSLATIONS, NUM_REPORTS, NUM_OPINIONS = 14000, 4000, 6000
NUM_TEST = 200


# ---- Models ----


@functools.cache
def pretrained(seed):
    return mixtures.pretrained(seed, mixtures.FIRST_STEPS)


def learned(pairs, seed, num_steps=900):
    """A model after unlabelled texts and a mixture."""
    model = copy.deepcopy(pretrained(seed))
    utils.train(
        model,
        corpora.by_length(pairs, 64, seed),
        utils.seq2seq_loss,
        num_steps,
        lr=0.011,
        warmup=20,
    )
    return model


def mixture(num_translations=NUM_TRANSLATIONS, num_opinions=NUM_OPINIONS):
    opinions = world().opinion(NUM_OPINIONS)
    return corpora.mix(
        world().translation(num_translations),
        world().summary(NUM_REPORTS),
        opinions[:num_opinions],
        world().question(NUM_REPORTS),
    )


@functools.cache
def four_tasks(seed):
    return learned(mixture(), seed)


def tuned(model, pairs, num_steps, seed, batch_size=32):
    """A copy, trained on."""
    model = copy.deepcopy(model)
    ways.fine_tune(model, pairs, num_steps, batch_size, seed)
    return model


# ---- Texts ----


def sources(pairs):
    """The texts of pairs without their prefix."""
    texts = ways.texts_of(world(), pairs.X)
    return [text.partition(' : ')[2] for text in texts]


def under(task, pairs):
    """The same pairs with another prefix of as many words."""
    X = pairs.X.clone()
    X[:, 0] = world().encode([PREFIXES[task]])[0, 0]
    return corpora.Pairs(X, pairs.valid_lens, pairs.labels)


def asked(task, bodies):
    """Pairs of texts under a prefix, without labels."""
    X = world().encode([f'{PREFIXES[task]} {body}' for body in bodies])
    return corpora.Pairs(X, (X > 0).sum(1), None)


def reply(model, task, bodies):
    return ways.write(world(), model, asked(task, bodies))


def exact(model, pairs):
    truth = ways.texts_of(world(), pairs.labels)
    return ways.exact_match(ways.write(world(), model, pairs), truth)


def felt():
    """Test sentences that love or hate, as pairs, and their side."""
    pairs = world().translation(3000, 'test')
    words = [{*text.split()} for text in sources(pairs)]
    chosen = [
        i
        for i, said in enumerate(words)
        if {'love', 'loves', 'hate', 'hates'} & said and 'but' not in said
    ]
    sides = [
        'positive'
        if bool({'love', 'loves'} & words[i]) != ('not' in words[i])
        else 'negative'
        for i in chosen
    ]
    return pairs[torch.tensor(chosen)], sides


def judged(texts):
    return float(np.mean([x in ('positive', 'negative') for x in texts]))


def by_pairs_of_words(texts, classes):
    """A logistic regression, as in the notebook."""
    count = CountVectorizer(token_pattern=r'\S+', ngram_range=(1, 2))
    regression = LogisticRegression(max_iter=300)
    return make_pipeline(count, regression).fit(texts, classes)


# ---- Exercises ----


def sentences_left_out(setting, seed):
    if setting == 'all opinions':
        model = four_tasks(seed)
    else:
        model = learned(mixture(num_opinions=NUM_OPINIONS * 3 // 4), seed)
    pairs, sides = felt()
    replies = reply(model, 'sentiment', sources(pairs))
    translations = ways.texts_of(world(), pairs.labels)
    return {
        'translated right': exact(model, pairs),
        'judged': judged(replies),
        'judged right': ways.exact_match(replies, sides),
        'translation': ways.exact_match(replies, translations),
    }


FORMS = {form: row[1] for row in french.ADJECTIVES for form in row[1:]} | {
    form: row[1] for row in french.ARTICLES for form in row[1:]
}
FORMS |= {"d'": 'de', "n'": 'ne', "j'": 'je'}
FORMS |= {first: third for _, third, first in french.VERBS}


def kind_of_error(text, truth):
    """'order', 'form' (gender, person, a vowel), 'word', or 'right'."""
    words, true = text.split(), truth.split()
    if words == true:
        return 'right'
    if sorted(words) == sorted(true):
        return 'order'
    stems, true = ([FORMS.get(x, x) for x in part] for part in (words, true))
    return 'form' if sorted(stems) == sorted(true) else 'word'


def noun_phrases(number, seed):
    """Pairs of noun phrases in both languages."""
    rng = np.random.default_rng(seed)
    english, in_french, *_ = french.noun_phrases(rng, number, adjective=0.8)
    X = world().encode([f'{PREFIXES["translation"]} {x}' for x in english])
    Y = world().encode([f'{x} <eos>' for x in in_french])
    return corpora.Pairs(X, (X > 0).sum(1), Y.masked_fill(Y == 0, -100))


@functools.cache
def asked_and_told():
    """300 noun phrases to ask for, and others to learn from."""
    asked, told = noun_phrases(300, seed=9), noun_phrases(4000, seed=0)
    unseen = {*ways.texts_of(world(), asked.X)}
    texts = enumerate(ways.texts_of(world(), told.X))
    kept = [i for i, text in texts if text not in unseen]
    return asked, told[torch.tensor(kept)]


def beginner(seed):
    """A small T5 that has read 1,000 noun phrases, in 300 steps."""
    torch.manual_seed(seed)
    model = utils.T5(ways.small_config(len(world().words), num_hiddens=32))
    batches = corpora.by_length(asked_and_told()[1][:1000], 64, seed)
    utils.train(model, batches, utils.seq2seq_loss, 300, lr=0.02, warmup=20)
    return model


def fewer_translations(setting, seed):
    model = four_tasks(seed)
    if setting == '3,500':
        model = learned(mixture(num_translations=3500), seed)
    pairs = world().translation(600, 'test')
    kinds = list(
        map(
            kind_of_error,
            ways.write(world(), model, pairs),
            ways.texts_of(world(), pairs.labels),
        )
    )
    return {
        kind: kinds.count(kind) / 600
        for kind in ('right', 'word', 'form', 'order')
    }


@functools.cache
def phrases():
    """Ids of "the nurse sees ..." and of its translation."""
    nouns = dict(french.WORD_PAIRS)
    found = french.noun_phrases(np.random.default_rng(0), 1000, adjective=1.0)
    pairs = [
        (str(e), str(f))
        for e, f in zip(*found[:2], strict=True)
        if len(e.split()) == len(f.split()) == 3
        and f.split()[1] == nouns[e.split()[2]]
    ]
    prefix = PREFIXES['translation']
    return (
        world().encode([f'{prefix} the nurse sees {e} .' for e, _ in pairs]),
        world().encode([f"l' infirmière voit {f} . <eos>" for _, f in pairs]),
    )


@torch.no_grad()
def wrong_articles(model, looked_at, read):
    """As in the notebook, for the noun: the share of wrong articles."""
    article, noun, (X, Y) = 3, 10, phrases()
    shifted = F.pad(Y[:, :-1], (1, 0))
    n, m = Y.shape[1], X.shape[1]
    may_look = torch.ones(n, m, dtype=torch.bool)
    may_look[article, noun] = looked_at
    may_read = torch.ones(m, m, dtype=torch.bool)
    may_read[:, noun] = read
    may_read[noun, noun] = True
    memory = model.encoder(model.token_embedding(X), may_read, m)
    H = model.decoder(
        model.token_embedding(shifted),
        utils.causal_mask(n),
        n,
        memory=memory,
        memory_mask=may_look,
    )
    written = model.head(H[:, article]).argmax(-1)
    return (written != Y[:, article]).float().mean().item()


def articles(setting, seed):
    model = four_tasks(seed)
    return {
        'as it is': wrong_articles(model, True, True),
        'no look': wrong_articles(model, False, True),
        'not read': wrong_articles(model, True, False),
        'neither': wrong_articles(model, False, False),
    }


def judged_reports(setting, seed):
    opinions = world().opinion(3200)[: 1600 + int(setting)]
    pairs = corpora.mix(opinions, world().summary(1600))
    model = tuned(pretrained(seed), pairs, 250, seed)
    questions = world().question(200, 'test')
    reports = [x.partition(' context ')[2] for x in sources(questions)]
    test = world().opinion(800, 'test')[400:600]
    return {
        'judged': judged(reply(model, 'sentiment', reports)),
        'judged right': exact(model, test),
    }


def renamed(setting, seed):
    """Exact match after steps with the names of two tasks exchanged."""
    start = (pretrained if setting == 'the task' else four_tasks)(seed)

    def exchanged(n, split='train'):
        return (
            under('question', world().summary(n, split)),
            under('summary', world().question(n, split)),
        )

    measures = {'summary': [], 'question': []}
    for num_steps in 0, 10, 25, 50, 200:
        model = start
        if num_steps:
            pairs = corpora.mix(*exchanged(1600))
            model = tuned(start, pairs, num_steps, seed)
        for name, pairs in zip(measures, exchanged(200, 'test'), strict=True):
            measures[name].append(exact(model, pairs))
    return measures


def wider_search(setting, seed):
    pairs = world().translation(int(setting.replace(',', '')))
    model = tuned(pretrained(seed), pairs, 300, seed)
    test = world().translation(NUM_TEST, 'test')
    truth = ways.texts_of(world(), test.labels)
    fed = F.pad(test.labels[:, :-1].clamp(min=0), (1, 0))
    with torch.no_grad():
        log_probs = model(test.X, fed, test.valid_lens).log_softmax(-1)
    of_words = log_probs.gather(-1, test.labels.clamp(min=0)[..., None])
    of_truth = (of_words[..., 0] * (test.labels >= 0)).sum(1)
    measures = {'exact': [], 'log-probability': [], 'truth likelier': []}
    for num_beams in 1, 4, 16:
        ids, found = utils.beam_search(
            model, test.X, test.valid_lens, 24, num_beams, EOS
        )
        right = ways.exact_match(ways.texts_of(world(), ids), truth)
        likelier = (of_truth > found + 1e-4).float().mean()
        values = right, found.mean().item(), likelier.item()
        for values_so_far, value in zip(
            measures.values(), values, strict=True
        ):
            values_so_far.append(value)
    return measures


def shares(setting, seed):
    temperature = int(setting.removeprefix('temperature '))
    added = {setting: {'temperature': temperature}}
    with (
        mock.patch.dict(mixtures.SHARES, added),
        mock.patch.object(mixtures, 'pretrained', lambda x, _: pretrained(x)),
    ):
        run = mixtures.Run(mixtures.SHARED, setting, seed)
        found = mixtures.execute(run, None, None)
    return {task: getattr(found, task) for task in mixtures.SIZES}


def backwards(pairs):
    """French to English, under a prefix of the words that there are."""
    french_texts = ways.texts_of(world(), pairs.labels)
    english = world().encode([f'{text} <eos>' for text in sources(pairs)])
    X = world().encode(
        [f'translate French to English : {text}' for text in french_texts]
    )
    labels = english.masked_fill(english == 0, -100)
    return corpora.Pairs(X, (X > 0).sum(1), labels)


def fifth_task(setting, seed):
    """A new task in 200 steps, with old examples in a share of the pairs."""
    pairs = [backwards(world().translation(3200))]
    num_old = {'no old': 0, '1 in 4': 1067}
    if num_old[setting]:
        old = mixture()
        order = torch.randperm(
            len(old), generator=torch.Generator().manual_seed(seed)
        )
        pairs.append(old[order[: num_old[setting]]])
    model = in_page.stored_model(Path(__file__).parents[2] / 't5_tasks.ipynb')
    model = tuned(model, corpora.mix(*pairs), 200, seed)
    makers = {
        'translation': world().translation,
        'summary': world().summary,
        'sentiment': world().opinion,
        'question': world().question,
    }
    tests = {name: make(NUM_TEST, 'test') for name, make in makers.items()}
    tests['new'] = backwards(tests['translation'])
    return {name: exact(model, test) for name, test in tests.items()}


EXERCISES = {  # function, settings, number of seeds
    11: (fifth_task, ['no old', '1 in 4'], 3),
    2: (sentences_left_out, ['all opinions', 'without sentences'], 1),
    3: (fewer_translations, ['14,000', '3,500'], 1),
    5: (articles, ['four tasks'], 2),
    6: (judged_reports, ['0', '10', '50', '200'], 3),
    7: (renamed, ['the name', 'the task'], 1),
    8: (wider_search, ['1,000', '4,000'], 1),
    9: (shares, ['temperature 4'], 1),
}
