"""The derivatives study: what each paper changed about BERT, one at a time.

Pretrains a BERT of two blocks in the small world, with the settings of the
notebook on BERT, and again with the pairs, masks, sizes, teachers or
objectives of RoBERTa, ALBERT, SpanBERT, DistilBERT, ELECTRA and XLNet. All
are scored alike, beside a BERT that was not trained and a bag of words.
"""

import dataclasses
import functools
import itertools
import math
import time

import torch
from torch.nn import functional as F

import corpora
import derivatives as ways
import utils
from finetuning import in_parts

from . import runner

NUM_STEPS = 1100
FEW_STEPS = 20  # of a run that is there to be repeated by a test
BATCH_SIZE, RATE = 32, 0.3
FEW_TEXTS = 27 * BATCH_SIZE  # which 1,100 steps go through 40 times
RECIPE = {'lr': 0.01, 'betas': (0.9, 0.99), 'warmup': 20}
NO_SCORE = math.nan


@dataclasses.dataclass(frozen=True)
class Change:
    """One variant: the batches, the objective and what differs in sizes.

    `sizes` are fields of `Config` with their values. `more` is what the
    objective takes: weights of a student's losses, or ELECTRA's weight and
    then the sizes of its generator. `times` as many steps are trained as
    with the other changes.
    """

    batches: str = 'masked'
    objective: str = 'mlm'
    sizes: tuple = ()
    more: tuple = ()
    times: int = 1


SHARED, NARROW = ('share_blks', True), ('embedding_size', 16)
ONE_BLOCK = (('num_blks', 1),)
CHANGES = {
    'bag of words': Change(),
    'untrained': Change(),
    'none': Change(),
    'masks of one sixth': Change('masked, sixth'),
    'foreign texts': Change('foreign'),
    'next sentence': Change('foreign', 'pairs'),
    'sentence order': Change('swapped', 'pairs'),
    'few texts, new masks': Change('few, new'),
    'few texts, ten masks': Change('few, 10'),
    'few texts, one mask': Change('few, 1'),
    'shared blocks': Change(sizes=(SHARED,)),
    'narrow embedding': Change(sizes=(NARROW,)),
    'shared and narrow': Change(sizes=(SHARED, NARROW)),
    'spans': Change('spans'),
    'spans and borders': Change('spans', 'borders'),
    'one block, from scratch': Change(sizes=ONE_BLOCK),
    'one block, twice as long': Change(sizes=ONE_BLOCK, times=2),
    'one block, hard': Change('masked', 'student', ONE_BLOCK, (0, 1, 0)),
    'one block, soft': Change('masked', 'student', ONE_BLOCK, (5, 2, 0)),
    'one block, three': Change('masked', 'student', ONE_BLOCK, (5, 2, 1)),
    'replaced, all words': Change('masked', 'electra', (), (5,)),
    'replaced, chosen words': Change(
        'masked', 'electra', (), (5, 32, 1, False)
    ),
    'replaced, full generator': Change('masked', 'electra', (), (5, 64, 2)),
    'replaced, weight 50': Change('masked', 'electra', (), (50,)),
    'permuted': Change('permuted', 'xlnet'),
}
UNTRAINED = ('bag of words', 'untrained')


@dataclasses.dataclass(frozen=True)
class Run:
    """One pretraining; ValueError for a change that is none of CHANGES."""

    change: str
    seed: int
    num_steps: int = NUM_STEPS

    def __post_init__(self):
        if self.change not in CHANGES:
            raise ValueError(
                f'change is {self.change!r}, not one of {", ".join(CHANGES)}'
            )
        least = 0 if self.change in UNTRAINED else 1
        runner.check_least(self, num_steps=least)

    @property
    def cost(self):
        """Steps of training."""
        return self.num_steps


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out of a run; ValueError for a number below 0.

    `steps` are those that cost what `num_steps` of BERT cost. On fresh
    documents: `loss` in nats per hidden token, shares of spans of
    `two` and `four` words of which all come back, and of pairs whose
    `second` text is judged rightly by the objective that the run had. Of
    `polarity` probes, the share guessed by the head. On frozen
    representations, accuracies of logistic regressions: `sentiment` of plain
    texts from 128 labels, of all `opinions`, negated and contrasting ones
    too, from 512, `tags` from 64 sentences, polarity around a `hidden` word
    from 128 texts. Not a number where a model has no such score.
    """

    steps: int
    parameters: int
    loss: float
    two: float
    four: float
    second: float
    polarity: float
    sentiment: float
    opinions: float
    tags: float
    hidden: float
    seconds: float

    def __post_init__(self):
        runner.check_least(self, **dict.fromkeys(vars(self), 0))


# ---- Texts ----


@functools.cache
def load():
    """The world and both halves of its documents, for training."""
    world = corpora.SmallWorld()
    return world, world.documents(100_000).halves()


@functools.cache
def fresh():
    """Both halves of fresh documents."""
    return load()[0].documents(2000, seed=1).halves()


@functools.cache
def fresh_masks():
    """Fresh documents with <mask> for 15 % of the words of text A."""
    first, second = fresh()
    generator = torch.Generator().manual_seed(0)
    vocab_size = len(load()[0].words)
    _, hidden = utils.mask_tokens(first, vocab_size, generator=generator)
    X, segments, lens = corpora.join(first, second)
    labels = torch.full_like(X, -100)
    labels[:, 1 : 1 + hidden.shape[1]] = hidden
    return X.masked_fill(labels != -100, corpora.MASK), segments, lens, labels


@functools.cache
def holes(length):
    """Fresh documents with a span of text A hidden, which is the label."""
    first, second = fresh()
    long_enough = (first > 0).sum(1) >= length + 4
    X, segments, lens = corpora.join(first[long_enough], second[long_enough])
    start = torch.arange(len(X)) % 4 + 2
    span = torch.arange(X.shape[1]) - start[:, None]
    span = (span >= 0) & (span < length)
    labels = X.masked_fill(~span, -100)
    return X.masked_fill(span, corpora.MASK), segments, lens, labels


def fixed_masks(data, count, vocab_size, seed):
    """Endless batches in which a text has one of `count` masks for ever."""
    generator = torch.Generator().manual_seed(seed)
    masks = [
        utils.mask_tokens(data[0], vocab_size, RATE, generator=generator)
        for _ in range(count)
    ]
    rounds = len(data[0]) // BATCH_SIZE
    streams = [
        corpora.by_length((inputs, *data[1:], labels), BATCH_SIZE, seed + i)
        for i, (inputs, labels) in enumerate(masks)
    ]
    for stream in itertools.cycle(streams):
        yield from itertools.islice(stream, rounds)


def batches_of(kind, seed):
    """Endless batches of a kind, as the objectives take them."""
    world, halves = load()
    vocab_size = len(world.words)
    generator = torch.Generator().manual_seed(seed)
    if kind in ('foreign', 'swapped'):
        pairs = {'foreign': ways.foreign_pairs, 'swapped': ways.swapped_pairs}
        data = pairs[kind](*halves, generator)
        for X, segments, lens, label in corpora.by_length(
            data, BATCH_SIZE, seed
        ):
            inputs, labels = utils.mask_tokens(
                X, vocab_size, RATE, generator=generator
            )
            yield inputs, segments, lens, labels, label
    data = corpora.join(*halves)
    if kind.startswith('few'):
        data = tuple(T[:FEW_TEXTS] for T in data)
        count = kind.split(', ')[1]
        if count != 'new':
            yield from fixed_masks(data, int(count), vocab_size, seed)
    if kind in ('masked', 'masked, sixth', 'few, new'):
        rate = 1 / 6 if kind == 'masked, sixth' else RATE
        yield from corpora.masked_batches(
            data, BATCH_SIZE, vocab_size, rate, seed
        )
    for X, segments, lens in corpora.by_length(data, BATCH_SIZE, seed):
        if kind == 'permuted':
            yield X, segments, lens, ways.draw_order(X, generator=generator)
        else:
            span = ways.number_spans(lens, X.shape[1], RATE, generator)
            inputs, labels = ways.hide_spans(X, span, vocab_size, generator)
            yield inputs, segments, lens, labels, span


# ---- Training ----


def config_of(change):
    world, _ = load()
    plain = utils.Config(
        len(world.words),
        num_hiddens=64,
        num_blks=2,
        max_len=96,
        init_std=0.07,
        mlm_transform=False,
    )
    return dataclasses.replace(plain, **dict(change.sizes))


def operations(model, share, blks=1.0):
    """Multiplications and additions of training, for each token of a text.

    Six for each parameter of the blocks, and six for each of the embedding
    for the `share` of the tokens that are predicted; `blks` is the number of
    times that a token goes through the blocks.
    """

    def count(part):
        return sum(p.numel() for p in part.parameters())

    return 6 * (blks * count(model.blks) + share * count(model.mlm.decoder))


def equal_compute(change, model, num_steps):
    """The number of steps that cost what `num_steps` of BERT cost."""
    plain = operations(utils.BERT(config_of(Change())), RATE)
    if change.objective == 'electra':
        cost = operations(model.generator, RATE) + operations(model.bert, 0)
    elif change.objective == 'xlnet':
        cost = operations(model, 1 / 6, 1 + 1 / 6)
    else:
        return num_steps
    return round(num_steps * plain / cost)


def build(change, run):
    """The model of a change and its loss."""
    config = config_of(change)
    if change.objective == 'electra':
        weight, *sizes = change.more
        loss = functools.partial(ways.electra_loss, weight=weight)
        return ways.Electra(config, *sizes), loss
    if change.objective == 'borders':
        return ways.SpanBERT(config), ways.span_bert_loss
    model = utils.BERT(config)
    if change.objective == 'student':
        taught, _ = pretrained(Run('none', run.seed, run.num_steps))
        ways.first_blocks(model, taught)
        return model, functools.partial(
            ways.distil_loss, teacher=taught, weights=change.more
        )
    losses = {
        'mlm': utils.mlm_loss,
        'pairs': utils.bert_loss,
        'xlnet': ways.xlnet_loss,
    }
    return model, losses[change.objective]


def loss_of(objective, batch):
    """What `utils.mlm_loss` takes of a batch that may have more."""
    return batch[:4] if objective == 'mlm' else batch


@functools.cache
def pretrained(run):
    """The encoder after a run, and the model of which it is a part."""
    change = CHANGES[run.change]
    torch.manual_seed(run.seed)
    model, loss_fn = build(change, run)
    if run.change not in UNTRAINED:
        runner.train(
            model,
            (
                loss_of(change.objective, batch)
                for batch in batches_of(change.batches, run.seed)
            ),
            loss_fn,
            equal_compute(change, model, run.num_steps),
            **RECIPE,
        )
    return getattr(model, 'bert', model).eval(), model


# ---- Scores ----


def hidden_scores(change, model, batch):
    """Scores of the words with a label, for a model that can guess words."""

    def scores_fn(model, X, segments, lens, labels):
        chosen = labels != -100
        if change.objective != 'xlnet':
            return model.mlm(model.encode(X, segments, lens)[chosen])
        rank = chosen.long()  # none of them reads another
        at = rank.topk(int(rank.sum(1).max()), 1).indices.sort(1).values
        H = ways.two_streams(model, X, segments, lens, rank, at)
        return model.mlm(H[chosen.gather(1, at)])

    return in_parts(scores_fn, model, batch)


@torch.no_grad()
def guesses(change, model):
    """The scores of a model that can guess hidden words."""
    world, _ = load()
    batch = fresh_masks()
    labels = batch[3][batch[3] != -100]
    loss, _ = utils.token_loss(hidden_scores(change, model, batch), labels)
    found = {'loss': loss.item()}
    for name, length in (('two', 2), ('four', 4)):
        batch = holes(length)
        truth = batch[3][batch[3] != -100]
        right = hidden_scores(change, model, batch).argmax(-1) == truth
        found[name] = right.view(-1, length).all(1).float().mean().item()
    X, segments, lens, labels = probes()
    at, truth = labels.T
    labels = torch.full_like(X, -100)
    labels[range(len(X)), at] = 0
    probs = hidden_scores(change, model, (X, segments, lens, labels))
    right = world.prefers_praise(probs.softmax(-1)) == truth
    found['polarity'] = right.float().mean().item()
    return found


@functools.cache
def probes():
    return load()[0].evidence(500, 'right')


def frozen(encode, seed):
    """The scores of logistic regressions on frozen representations."""
    world, _ = load()
    texts = [
        world.sentiment(128, 'train', seed, 'plain'),
        world.sentiment(1000, 'test', 0, 'plain'),
    ]
    opinions = [
        world.sentiment(512, 'train', seed),
        world.sentiment(1000, 'test'),
    ]
    sentences = [
        world.tagging(64, 'train', seed),
        world.tagging(500, 'test'),
    ]
    hidden = [world.evidence(128, 'right', 1 + seed), probes()]
    return {
        name: ways.probe(*(features(encode, data) for data in parts))
        for name, features, parts in (
            ('sentiment', ways.text_features, texts),
            ('opinions', ways.text_features, opinions),
            ('tags', ways.word_features, sentences),
            ('hidden', ways.hidden_features, hidden),
        )
    }


@torch.no_grad()
def second_right(kind, model):
    """Share of fresh pairs whose second text is judged rightly."""
    generator = torch.Generator().manual_seed(0)
    make = ways.foreign_pairs if kind == 'foreign' else ways.swapped_pairs
    *inputs, truth = make(*fresh(), generator)
    scores = model.nsp(model.pooler(model.encode(*inputs)[:, 0]))
    return (scores.argmax(1) == truth).float().mean().item()


def execute(run, options, checkpoint):
    """Pretrain one model and score it, on the CPU."""
    began = time.process_time()
    change = CHANGES[run.change]
    names = 'loss', 'two', 'four', 'second', 'polarity'
    scores = dict.fromkeys(names, NO_SCORE)
    if run.change == 'bag of words':
        size, steps, num_parameters = len(load()[0].words), 0, 0

        def encode(X, *_):
            return F.one_hot(X, size).float()
    else:
        model, whole = pretrained(run)
        encode = model.encode
        steps = equal_compute(change, whole, run.num_steps)
        num_parameters = sum(p.numel() for p in whole.parameters())
        if change.objective != 'electra':
            scores |= guesses(change, model)
        if change.objective == 'pairs':
            scores['second'] = second_right(change.batches, model)
    scores |= frozen(encode, run.seed)
    seconds = time.process_time() - began
    return Measured(steps, num_parameters, **scores, seconds=seconds)


# ---- The plan ----


def add_options(add):
    add('--steps', type=runner.whole, default=NUM_STEPS)
    add('--seeds', type=runner.whole, default=3)
    kind = runner.one_of(CHANGES, '; ')
    add('--change', type=kind, help='this one only')


def plan(rows, options):
    """A short run first, then every change, seed by seed."""
    names = [options.change] if options.change else CHANGES
    num_steps = {
        name: 0 if name in UNTRAINED else options.steps * CHANGES[name].times
        for name in names
    }
    return [
        Run('none', 0, FEW_STEPS),
        *(
            Run(name, seed, num_steps[name])
            for seed in range(options.seeds)
            for name in names
        ),
    ]


STUDY = runner.study_of(
    __name__,
    describe=lambda run: f'{run.change}, {run.num_steps} steps, {run.seed}',
    unit='steps',
)
read_runs = STUDY.read_runs
