"""Runs for the exercises of the notebook on BERT, at the chapter's size."""

import dataclasses
import functools
from pathlib import Path

import torch

import corpora
import finetuning
import in_page
import utils

from .. import plateau, runner, tasks

UNCHANGED = plateau.Run('none', 0)
PLATEAU = runner.arguments(plateau.STUDY, ['none.csv', '--device', 'cpu'])


# ---- Pretraining and probes, as in the notebook ----


def masked(pairs, rate, seed):
    """Batches in which every chosen token becomes <mask>."""
    generator = torch.Generator().manual_seed(seed)
    for X, segments, lens in corpora.by_length(pairs, 32, seed):
        chosen = torch.rand(X.shape, generator=generator) < rate
        chosen &= X >= corpora.NUM_SPECIAL
        labels = X.masked_fill(~chosen, -100)
        yield X.masked_fill(chosen, corpora.MASK), segments, lens, labels


def pretrain(batches, seed, run=UNCHANGED):
    """A BERT of the chapter that has read other batches than its own."""
    run = dataclasses.replace(run, seed=seed)
    return plateau.pretrain(run, PLATEAU, batches=batches, every=0)[0]


def batches_of(pairs, seed):
    vocab_size = len(tasks.world().words)
    return corpora.masked_batches(pairs, 32, vocab_size, 0.3, seed)


@functools.cache
def chapters_bert(seed):
    """The BERT of the notebook, and its history."""
    run = dataclasses.replace(UNCHANGED, seed=seed)
    return plateau.pretrain(run, PLATEAU)


def shares(model, run=UNCHANGED):
    """Probes guessed right: right, left, binding."""
    world, _, _, probes = plateau.load()
    return plateau.read_probes(run, model, world, probes)


def all_masked(batch):
    """A batch whose chosen tokens are all <mask>."""
    X, segments, lens, labels = batch
    return X.masked_fill(labels != -100, corpora.MASK), segments, lens, labels


# ---- Exercise 2 ----


def masks_only(setting, seed):
    """Loss, as in the notebook and with masks only; probes; answers."""
    world, pairs, fresh, _ = plateau.load()
    model = pretrain(masked(pairs, 0.3, seed), seed)
    task, asked = tasks.tasks()['questions'], world.questions(1000, 'test')
    questions = world.questions(2000, 'train', seed)
    tuned = finetuning.fine_tune(model, task, questions, 800, seed)
    return {
        'loss': utils.evaluate(model, [fresh], utils.mlm_loss),
        'on_masks': utils.evaluate(model, [all_masked(fresh)], utils.mlm_loss),
        **shares(model),
        'answers': finetuning.score(task, tuned, asked),
    }


# ---- Exercises 3 and 4 ----


SHARES = {  # of words that are hidden, and steps
    '15 %': (0.15, 1600),
    '30 %': (0.3, 1600),
    '40 %': (0.4, 1600),
    '60 %': (0.6, 1600),
    '15 %, as many words': (0.15, 3200),
    '40 %, as many words': (0.4, 1200),
    '60 %, as many words': (0.6, 800),
}


def hidden_share(setting, seed):
    """Polarity and loss at every 50 steps; binding at the end."""
    mask_rate, num_steps = SHARES[setting]
    run = dataclasses.replace(
        UNCHANGED, seed=seed, mask_rate=mask_rate, num_steps=num_steps
    )
    model, history = (
        chapters_bert(seed)
        if setting == '30 %'
        else plateau.pretrain(run, PLATEAU)
    )
    right, losses = zip(*history.eval_loss, strict=True)
    return {
        'step': history.eval_step,
        'right': right,
        'loss': losses,
        'binding': shares(model)['binding'],
        'words': history.tokens[-1],
    }


def put_back(setting, seed):
    """The plateau's measures with all published settings but one."""
    changes = {
        name: value
        for part, changed in plateau.PUBLISHED.items()
        if part != setting
        for name, value in changed.items()
    }
    run = plateau.Run(f'all but {setting}', seed, **changes)
    measured = dataclasses.asdict(plateau.execute(run, PLATEAU, None))
    del measured['seconds']  # a column of every row
    return measured


# ---- Exercise 5 ----


def owner_first(examples, world):
    """Whether the owner stands to the left of the mask in its sentence."""
    names = world.encode([' '.join(sorted(names_of(world)))])[0]
    found = []
    for row, at in zip(examples.X, examples.labels[:, 0], strict=True):
        stops = torch.isin(row[:at], world.encode(['. <sep>'])[0]).nonzero()
        found.append(torch.isin(row[stops[-1, 0] + 1 : at], names).any())
    return torch.stack(found)


def names_of(world):
    """First names, as they stand in `world.words`."""
    tag = world.tags.index('person')
    tagged = world.tagging(4000, 'test')
    return {world.words[i] for i in tagged.X[tagged.labels == tag].tolist()}


def binding_by_order(setting, seed):
    """Binding where the owner stands before the color, and where behind."""
    world, pairs, _, _ = plateau.load()
    run = UNCHANGED
    if setting == 'causal twin':
        run = dataclasses.replace(run, mask='causal')
        model = pretrain(batches_of(pairs, seed), seed, run)
    else:
        model, _ = chapters_bert(seed)
    examples = world.binding(2000)
    first, measured = owner_first(examples, world), {}
    for name, rows in (('before', first), ('behind', ~first)):
        probes = {'binding': examples[rows]}
        found = plateau.read_probes(run, model, world, probes)
        measured[name] = found['binding']
    return {**measured, 'share_before': first.float().mean().item()}


# ---- Exercises 6 and 7: other documents ----


def mixture(world, share, number=18_000):
    """Pairs of texts, a share of them of documents in which people compete."""
    few = round(share * number)
    halves = world.competing(number)
    others = world.documents(4 * number).halves()
    halves = [
        corpora.stack([facts[:few], plain[: number - few]])
        for facts, plain in zip(halves, others, strict=True)
    ]
    return corpora.join(*halves)


def competing_share(setting, seed):
    """Polarity and binding for a share of competing documents."""
    pairs = mixture(tasks.world(), {'a tenth': 0.1, 'all': 1.0}[setting])
    return shares(pretrain(batches_of(pairs, seed), seed))


def competing_parts(setting, seed):
    """Probes of facts and parts, and entailment with three sizes of data.

    The documents of the notebook, and as many with competing parts as with
    competing facts.
    """
    world = tasks.world()
    both = plateau.texts(world, 9000), world.competing(9000, 'opinions')
    pairs = corpora.join(*map(corpora.stack, zip(*both, strict=True)))
    model = pretrain(batches_of(pairs, seed), seed)
    facts, parts, right, _ = tasks.probes(model)
    measured = {'binding': facts, 'parts': parts, 'right': right}
    task, test = tasks.tasks()['entailment'], world.entailment(1000, 'test')
    for labels, steps in tasks.STEPS['entailment'].items():
        data = world.entailment(labels, 'train', seed)
        tuned = finetuning.fine_tune(model, task, data, steps, seed)
        measured[f'entailment_{labels}'] = finetuning.score(task, tuned, test)
    return measured


# ---- Exercises 8 and 9: the model of the page ----


def pages_bert():
    return in_page.stored_model(Path(__file__).parents[2] / 'bert.ipynb')


def at_a_rate(setting, seed):
    """Opinions judged rightly after 320 steps with 512 labels."""
    world, task = tasks.world(), tasks.tasks()['sentiment']
    model = finetuning.fine_tune(
        pages_bert(), task, world.sentiment(512), 320, seed, float(setting)
    )
    asked = world.sentiment(1000, 'test')
    return {'right': finetuning.score(task, model, asked)}


# ---- Exercise 9 ----


def best_pairs(scores, most=4):
    """The likeliest start and end (n, 2), start <= end <= start + most."""
    start, end = scores[:, 0, :, None], scores[:, 1, None]
    size = scores.shape[-1]
    allowed = torch.ones(size, size).triu().tril(most) > 0
    pairs = (start + end).masked_fill(~allowed, -torch.inf)
    best = pairs.flatten(1).argmax(1)
    return torch.stack([best // size, best % size], 1)


def answers_as_pairs(setting, seed):
    """Exact match without and with best pairs, by the model of the page.

    It takes 40 tokens, so longer questions are left out.
    """
    world = tasks.world()
    bert = pages_bert()
    labels = int(setting.replace(',', ''))
    data, test = (
        short(part, bert.config.max_len)
        for part in (
            world.questions(labels, 'train', seed),
            world.questions(1000, 'test'),
        )
    )
    task, steps = tasks.tasks()['questions'], tasks.STEPS['questions'][labels]
    model = finetuning.fine_tune(bert, task, data, steps, seed)
    *inputs, truth = test
    with torch.no_grad():
        scores = finetuning.in_parts(task.scores_fn, model, inputs)
    alone, pairs = scores.argmax(-1), best_pairs(scores)
    right = (alone == truth).all(1)
    return {
        'alone': right.float().mean().item(),
        'pairs': (pairs == truth).all(1).float().mean().item(),
        'backwards': (alone[:, 1] < alone[:, 0]).float().mean().item(),
    }


def short(data, most):
    """The examples of at most so many tokens."""
    kept = data[data.valid_lens <= most]
    return dataclasses.replace(
        kept, X=kept.X[:, :most], segments=kept.segments[:, :most]
    )


# ---- Exercise 10 ----


def curve(setting, seed):
    """The loss at every 100 steps, of a GPT or a BERT of equal size."""
    if setting == 'BERT':
        _, history = chapters_bert(seed)
        return {'loss': [loss for _, loss in history.eval_loss[1::2]]}
    world, pairs, _, _ = plateau.load()
    fresh = corpora.join(*plateau.texts(world, 200, seed=1))

    def rows(data, seed):
        for X, *_ in corpora.by_length(data, 32, seed):
            yield X

    torch.manual_seed(seed)
    config = plateau.small_config(len(world.words))
    model = utils.GPT(dataclasses.replace(config, mlm_transform=True))
    history = runner.train(
        model,
        rows(pairs, seed),
        next_word_loss,
        plateau.NUM_STEPS,
        0.01,
        betas=(0.9, 0.99),
        warmup=20,
        eval_fn=lambda model: utils.evaluate(
            model, [fresh[0]], next_word_loss
        ),
        eval_every=100,
    )
    return {'loss': history.eval_loss}


def next_word_loss(model, X):
    """Of words, not of special tokens, each from what stands before it."""
    labels = X[:, 1:].masked_fill(X[:, 1:] < corpora.NUM_SPECIAL, -100)
    return utils.token_loss(model(X[:, :-1]), labels)


EXERCISES = {
    8: (at_a_rate, ['5e-4', '5e-3'], 3),
    2: (masks_only, ['all <mask>'], 3),
    4: (put_back, [*plateau.PUBLISHED], 2),
    3: (hidden_share, [*SHARES], 1),
    5: (binding_by_order, ['BERT', 'causal twin'], 1),
    6: (competing_share, ['a tenth', 'all'], 1),
    10: (curve, ['BERT', 'GPT'], 1),
    7: (competing_parts, ['with parts'], 1),
    9: (answers_as_pairs, ['500', '8,000'], 1),
}
