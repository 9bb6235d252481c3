"""The tasks study: what a pretrained BERT learns from how many labels.

Starts: `competing`, pretrained as in the notebook on BERT; `longer`, the
same in twice the steps, with the most labels only; `plain`, without documents
in which people compete; `scratch`, not pretrained, with the most labels only
and four times the steps; `words`, no BERT but words and pairs of neighboring
words, counted, and a linear model.
"""

import dataclasses
import functools
import time

import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

import corpora
import finetuning
import utils
from finetuning import Task, erase, fine_tune, score

from . import plateau, runner

STARTS = 'competing', 'longer', 'plain', 'scratch', 'words'
FORMS = 'plain', 'negated', 'contrasting'
NUM_TEST = 1000
STEPS = {  # for each number of labels
    'sentiment': {32: 80, 128: 160, 512: 320, 2048: 900},
    'questions': {500: 300, 1000: 400, 2000: 800, 4000: 1200, 8000: 1600},
    'entailment': {500: 300, 2000: 1000, 8000: 2000},
    'agreement': {500: 300, 2000: 800, 8000: 1600},
    'tagging': {32: 100},
}
LONG = 4000  # steps for 8,000 pairs, after which more seeds compare them
CHANGES = {  # each with the tasks that it is for
    'none': ('probes', *STEPS),
    'question erased': ('questions',),
    'first token': ('sentiment',),
}
PRETRAINING_STEPS = plateau.NUM_STEPS


@dataclasses.dataclass(frozen=True)
class Run:
    """One fine-tuning; ValueError for what is none.

    The task 'probes' has 0 labels and 0 steps, and looks at the start. The
    change 'question erased' is one of questions only; with 'first token'
    opinions are classified by it instead of by the mean. Words take no steps
    and neither read probes nor find answers.
    """

    task: str
    start: str
    change: str
    labels: int
    steps: int
    seed: int

    def __post_init__(self):
        runner.check_values(
            self,
            task=('probes', *STEPS),
            start=STARTS,
            change=tuple(CHANGES),
        )
        runner.check_least(self, labels=0, steps=0, seed=0)
        if self.task not in CHANGES[self.change]:
            raise ValueError(f'no {self.task} with the change {self.change!r}')
        if self.start == 'words' and self.task in ('probes', 'questions'):
            raise ValueError(f'no {self.task} with the start {self.start!r}')
        for name, none in {
            'labels': self.task == 'probes',
            'steps': self.task == 'probes' or self.start == 'words',
        }.items():
            if (getattr(self, name) == 0) != none:
                raise ValueError(
                    f'{name} is {getattr(self, name)} for {self.task}, start '
                    f'{self.start!r}: expected {"0" if none else "more"}'
                )

    @property
    def cost(self):
        """Steps of fine-tuning."""
        return self.steps


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out; ValueError outside [-1, 1].

    `score` is that of the task; `first`, `second` and `third` are those of
    the forms of an opinion, or of the classes of a pair, and equal to it for
    other tasks. Of the probes the four are shares: of facts bound to the
    right person, of opinions bound to the right part, and of polarities read
    from evidence on the right and on the left. `seconds` are those of the
    processor, with the pretraining if this run was the first of its start.
    """

    score: float
    first: float
    second: float
    third: float
    seconds: float

    def __post_init__(self):
        for name in ('score', 'first', 'second', 'third'):
            value = getattr(self, name)
            if not -1 <= value <= 1:
                raise ValueError(f'{name} is {value}, outside [-1, 1]')


# ---- Starts ----


@functools.cache
def world():
    return corpora.SmallWorld()


@functools.lru_cache(maxsize=1)
def encoder(start, seed):
    """A BERT, pretrained on the documents of a start, or new."""
    vocab_size = len(world().words)
    torch.manual_seed(seed)
    model = utils.BERT(plateau.small_config(vocab_size))
    if start == 'scratch':
        return model
    halves = world().documents(100_000).halves()
    if start != 'plain':
        halves = plateau.texts(world(), 9000)
    data = corpora.join(*halves)
    runner.train(
        model,
        corpora.masked_batches(data, 32, vocab_size, 0.3, seed),
        utils.mlm_loss,
        PRETRAINING_STEPS * (2 if start == 'longer' else 1),
        0.01,
        betas=(0.9, 0.99),
        warmup=20,
    )
    return model


def probes(model):
    """Shares of facts, opinions, and polarities on both sides, as a list."""
    data = {
        'binding': world().binding(1000),
        'opinions': world().binding(1000, 'opinions'),
        'right': world().evidence(500, 'right'),
        'left': world().evidence(500, 'left'),
    }
    run = plateau.Run('none', 0)
    return [*plateau.read_probes(run, model, world(), data).values()]


# ---- One run ----


def tasks():
    """How each task is learned and scored."""
    text = finetuning.text_loss, finetuning.text_scores, finetuning.accuracy
    return {
        'sentiment': Task(*text, 2),
        'entailment': Task(*text, 3),
        'agreement': Task(
            finetuning.regression_loss,
            finetuning.text_scores,
            finetuning.correlation,
            1,
        ),
        'tagging': Task(
            finetuning.tag_loss,
            finetuning.tag_scores,
            finetuning.accuracy,
            len(world().tags),
        ),
        'questions': Task(
            finetuning.span_loss,
            finetuning.span_scores,
            finetuning.exact_match,
            2,
        ),
    }


def parts(run, test):
    """The test examples of each form or class, a list; [] without them."""
    if run.task == 'sentiment':
        return [
            world().sentiment(NUM_TEST, 'test', form=form) for form in FORMS
        ]
    if run.task == 'entailment':
        return [test[test.labels == i] for i in range(3)]
    return []


def counted(data):
    """Each text as words, those of text B marked."""
    return [
        ' '.join(
            world().words[i] + 'B' * s
            for i, s in zip(X, segments, strict=True)
            if i >= corpora.NUM_SPECIAL
        )
        for X, segments in zip(
            data.X.tolist(), data.segments.tolist(), strict=True
        )
    ]


def by_words(run, data):
    """A scores_fn of a linear model on words and pairs of neighbors."""
    if run.task == 'tagging':
        return frequent_tags(data)
    bag = CountVectorizer(
        ngram_range=(1, 2), token_pattern=r'\S+', lowercase=False, binary=True
    )
    features = bag.fit_transform(counted(data))
    if run.task == 'agreement':
        linear = Ridge().fit(features, data.labels)
        guess = linear.predict
    else:
        linear = LogisticRegression(max_iter=2000).fit(features, data.labels)
        guess = linear.decision_function

    def scores(model, X, segments, valid_lens):
        texts = corpora.Examples(X, segments, valid_lens, None)
        found = torch.tensor(guess(bag.transform(counted(texts)))).float()
        if run.task == 'sentiment':
            return torch.stack([-found, found], 1)
        return found[:, None] if found.dim() == 1 else found

    return scores


def frequent_tags(data):
    """A scores_fn: the most frequent tag of each word, 0 of a new one."""
    counts = torch.zeros(len(world().words), len(world().tags))
    at = data.labels != -100
    one = torch.tensor(1.0)
    counts.index_put_((data.X[at], data.labels[at]), one, accumulate=True)
    return lambda model, X, segments, valid_lens: counts[X]


def execute(run, options, checkpoint):
    """Fine-tune one model and score it, on the CPU."""
    began = time.process_time()
    if run.task == 'probes':
        shares = probes(encoder(run.start, run.seed))
        return Measured(*shares, time.process_time() - began)
    task, make = tasks()[run.task], getattr(world(), run.task)
    data, test = make(run.labels, 'train', run.seed), make(NUM_TEST, 'test')
    if run.change == 'question erased':
        data, test = erase(data), erase(test)
    if run.change == 'first token':
        first = finetuning.first_scores
        loss_fn = functools.partial(finetuning.text_loss, scores_fn=first)
        task = task._replace(loss_fn=loss_fn, scores_fn=first)
    model = None
    if run.start == 'words':
        task = task._replace(scores_fn=by_words(run, data))
    else:
        bert = encoder(run.start, run.seed)
        model = fine_tune(bert, task, data, run.steps, run.seed)
    whole = score(task, model, test)
    found = [score(task, model, part) for part in parts(run, test)]
    return Measured(
        whole, *(found or 3 * [whole]), time.process_time() - began
    )


# ---- The plan ----


def add_options(add):
    add('--seeds', type=runner.whole, default=3)
    add(
        '--pair-seeds',
        type=runner.whole,
        default=8,
        help='of probes and pairs from the competing start',
    )


def plan(rows, options):
    """A cheap run first; then seed by seed, and start by start."""

    def run(task, start, seed, labels, change='none'):
        steps = STEPS[task][labels] * (4 if start == 'scratch' else 1)
        steps = 0 if start == 'words' else steps
        return Run(task, start, change, labels, steps, seed)

    def of(start, seed):
        for task, steps in STEPS.items():
            if (start, task) != ('words', 'questions'):
                yield from (run(task, start, seed, labels) for labels in steps)

    found = [run('tagging', 'scratch', 0, 32)]
    for seed in range(options.seeds):
        starts = [Run('probes', s, 'none', 0, 0, seed) for s in STARTS[:4]]
        found += [starts[0], *of('competing', seed)]
        found += [
            run('questions', 'competing', seed, labels, 'question erased')
            for labels in (2000, 8000)
        ]
        found += [
            run('sentiment', 'competing', seed, labels, 'first token')
            for labels in STEPS['sentiment']
        ]
        found += [starts[2], *of('plain', seed)]
        for start, probed in (('scratch', starts[3]), ('longer', starts[1])):
            found += [probed]
            found += [
                run(task, start, seed, max(steps))
                for task, steps in STEPS.items()
            ]
        found += of('words', seed)
    for seed in range(options.pair_seeds):
        found += [
            Run('probes', 'competing', 'none', 0, 0, seed),
            run('entailment', 'competing', seed, 8000),
            Run('entailment', 'competing', 'none', 8000, LONG, seed),
        ]
    return list(dict.fromkeys(found))


STUDY = runner.study_of(__name__, unit='steps')
read_runs = STUDY.read_runs
