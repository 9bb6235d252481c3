"""Runs for the exercises of the notebook on derivatives, at its size."""

import copy
import functools
from unittest import mock

import torch
from torch.nn import functional as F

import corpora
import derivatives as ways
import utils

from .. import derivatives as study
from .. import runner
from ..derivatives import NARROW, NUM_STEPS, ONE_BLOCK, SHARED, Change

MEASURES = (
    'parameters', 'loss', 'two', 'four', 'polarity', 'opinions', 'tags',
    'hidden',
)  # fmt: skip
WIDER = (
    ('num_hiddens', 80),
    ('embedding_size', 80),
    ('head_width', 20),
    ('ffn_num_hiddens', 320),
)
STUDENTS = (  # what they begin with, and their targets
    'first, hard',
    'second, hard',
    'embedding, hard',
    'random, hard',
    'random, soft',
)
ADDED = {
    'shared, 80 wide': Change(sizes=(SHARED, *WIDER)),
    '24': Change(sizes=(('embedding_size', 24),)),
    '32': Change(sizes=(('embedding_size', 32),)),
    'one block, spans': Change('spans', sizes=ONE_BLOCK),
    'narrow, few texts': Change('few, new', sizes=(NARROW,)),
}


def added(setting, seed):
    """What the study measures with a change that it does not have."""
    with mock.patch.dict(study.CHANGES, {setting: ADDED[setting]}):
        found = study.execute(study.Run(setting, seed), None, None)
    return {name: getattr(found, name) for name in MEASURES}


def trained(model, batches, loss_fn, num_steps, **options):
    """A model after so many steps of the recipe, and the history."""
    history = runner.train(
        model, batches, loss_fn, num_steps, **study.RECIPE, **options
    )
    return model.eval(), history


def new_bert(seed, sizes=()):
    torch.manual_seed(seed)
    return utils.BERT(study.config_of(Change(sizes=sizes)))


def scores(model, change):
    """Parameters, and what a model that guesses words gets right."""
    number = sum(p.numel() for p in model.parameters())
    return {'parameters': number, **study.guesses(change, model)}


# ---- Exercise 1: queries that see what is not later ----


def leaky_mask(rank, at):
    """`derivatives.two_stream_mask` with queries that see their own word."""
    content = rank[:, :, None] >= rank[:, None]
    query = rank.gather(1, at)[:, :, None] >= rank[:, None]
    return torch.cat([content, query], 1)[:, None]


def queries(setting, seed):
    """XLNet with a mask: `training` is the mean loss of the last 100 steps.

    All else is scored with the same mask, and `strict` is the loss with
    queries that see what is earlier.
    """
    change, model = study.CHANGES['permuted'], new_bert(seed)
    steps = study.equal_compute(change, model, NUM_STEPS)
    masks = {'earlier': ways.two_stream_mask, 'not later': leaky_mask}
    with mock.patch.object(ways, 'two_stream_mask', masks[setting]):
        batches = study.batches_of('permuted', seed)
        model, history = trained(model, batches, ways.xlnet_loss, steps)
        found = study.guesses(change, model)
    return {
        'training': sum(history.loss[-100:]) / 100,
        **found,
        'strict': study.guesses(change, model)['loss'],
    }


# ---- Exercise 4: what a student begins with ----


def teacher_of(seed):
    """The chapter's BERT of two blocks, after all of its steps."""
    return study.pretrained(study.Run('none', seed))[0]


def begun(block, seed):
    """A student of one block, and how much of its teacher it has."""
    teacher = teacher_of(seed)
    student = new_bert(seed, ONE_BLOCK)
    if block == 'embedding':
        kept = teacher.state_dict().items()
        student.load_state_dict(
            {name: p for name, p in kept if not name.startswith('blks')},
            strict=False,
        )
    elif block != 'random':
        taught = copy.deepcopy(teacher)
        taught.blks = taught.blks[['first', 'second'].index(block) :]
        ways.first_blocks(student, taught)
    return student, teacher


def students(setting, seed):
    """The loss on fresh documents after every 50 steps."""
    block, targets = setting.split(', ')
    student, teacher = begun(block, seed)
    loss_fn = functools.partial(
        ways.distil_loss,
        teacher=teacher,
        weights=study.CHANGES[f'one block, {targets}'].more,
    )
    batches = (batch[:4] for batch in study.batches_of('masked', seed))
    fresh = [study.fresh_masks()]
    _, history = trained(
        student,
        batches,
        loss_fn,
        NUM_STEPS,
        eval_fn=lambda model: utils.evaluate(model, fresh, utils.mlm_loss),
        eval_every=50,
    )
    return {'step': history.eval_step, 'curve': history.eval_loss}


# ---- Exercise 5: lengths of spans ----


def spans(setting, seed):
    """Spans whose lengths are drawn with another p."""
    draw = functools.partial(ways.draw_lengths, p=float(setting))
    with mock.patch.object(ways, 'draw_lengths', draw):
        batches = (batch[:4] for batch in study.batches_of('spans', seed))
        model, _ = trained(new_bert(seed), batches, utils.mlm_loss, NUM_STEPS)
    return scores(model, study.CHANGES['spans'])


# ---- Exercise 6: a generator that only knows frequencies ----


@functools.cache
def frequencies():
    """Of the words of the training documents (vocab_size,)."""
    world, halves = study.load()
    words = torch.cat([half[half >= corpora.NUM_SPECIAL] for half in halves])
    return words.bincount(minlength=len(world.words)).float()


class Judge(torch.nn.Module):
    """A discriminator without a generator."""

    def __init__(self):
        super().__init__()
        self.bert = utils.BERT(study.config_of(Change()))
        self.replaced = torch.nn.Linear(64, 1)


def judged(model, batch):
    """Scores of all words, and whether they were replaced by a draw."""
    X, segments, lens, labels = batch
    chosen = labels != -100
    drawn = torch.multinomial(frequencies(), int(chosen.sum()), True)
    replaced = torch.zeros(X.shape)
    replaced[chosen] = (drawn != labels[chosen]).float()
    X = X.masked_scatter(chosen, drawn)
    asked = X >= corpora.NUM_SPECIAL
    H = model.bert.encode(X, segments, lens)[asked]
    return model.replaced(H)[:, 0], replaced[asked]


def judge_loss(model, batch):
    scores, replaced = judged(model, batch)
    return F.binary_cross_entropy_with_logits(scores, replaced), len(scores)


@torch.no_grad()
def judgements(model):
    """Shares of fresh words: replaced, judged rightly, and found of those."""
    torch.manual_seed(0)
    scores, replaced = judged(model, study.fresh_masks())
    called, true = scores > 0, replaced > 0
    return {
        'replaced': true.float().mean().item(),
        'judged rightly': (called == true).float().mean().item(),
        'found': called[true].float().mean().item(),
    }


def drawn_words(setting, seed):
    """What the representations of a discriminator hold."""
    torch.manual_seed(seed)
    model = Judge()
    plain = study.operations(model.bert, study.RATE)
    steps = round(NUM_STEPS * plain / study.operations(model.bert, 0))
    batches = (batch[:4] for batch in study.batches_of('masked', seed))
    torch.manual_seed(seed)
    trained(model, batches, judge_loss, steps)
    return {'steps': steps, **study.frozen(model.bert.encode, seed)}


# ---- Exercise 7: half of an order ----


def orders(setting, seed):
    """XLNet that predicts another share of the words, at equal compute."""
    share = {'a sixth': 1 / 6, 'half': 1 / 2}[setting]
    data, model = corpora.join(*study.load()[1]), new_bert(seed)
    plain = study.operations(model, study.RATE)
    steps = NUM_STEPS * plain / study.operations(model, share, 1 + share)
    generator = torch.Generator().manual_seed(seed)
    batches = (
        (X, segments, lens, ways.draw_order(X, share, generator))
        for X, segments, lens in corpora.by_length(data, 32, seed)
    )
    model, _ = trained(model, batches, ways.xlnet_loss, round(steps))
    found = scores(model, study.CHANGES['permuted'])
    return {'steps': round(steps), **found}


EXERCISES = {  # function, settings, number of seeds
    7: (orders, ['half'], 1),
    1: (queries, ['earlier', 'not later'], 1),
    2: (added, ['shared, 80 wide'], 1),
    3: (added, ['24', '32'], 1),
    4: (students, STUDENTS, 1),
    5: (spans, ['0.5'], 1),
    6: (drawn_words, ['frequencies'], 1),
    9: (added, ['one block, spans', 'narrow, few texts'], 1),
}
