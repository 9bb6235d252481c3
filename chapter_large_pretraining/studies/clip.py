"""The CLIP study: pictures of letters find names that were never shown.

Trains two towers on pictures of letters and their Unicode names, and again
with one thing changed; and, beside them, one tower that predicts the words
of a name. Scored is which of the held-out names each test picture chooses.
"""

import dataclasses
import functools
import math
import time

import torch
from torch import nn
from torch.nn import functional as F

import corpora
import multimodal
import utils
from pictures import patches

from . import runner

NUM_STEPS = 300
FEW_STEPS = 10  # of a run that is there to be repeated by a test
RATE = 0.005
NUM_FEATURES = 64
CHANGES = {
    'CLIP': {},
    'words predicted': {'objective': 'words'},
    'words without order': {'text_blks': 0},
    'small batches': {'batch_size': 16, 'times': 8},
    'no temperature': {'temperature': 'fixed'},
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training; ValueError for a value that is none of a setting.

    `change` is the name of what differs from the defaults. With `text_blks`
    0 the text tower averages vectors of words. There are `times` as many
    steps as in other runs. A 'fixed' temperature stays 1.
    """

    change: str
    seed: int
    num_steps: int = NUM_STEPS
    objective: str = 'pairs'
    batch_size: int = 128
    times: int = 1
    text_blks: int = 2
    temperature: str = 'learned'
    lr: float = RATE

    def __post_init__(self):
        runner.check_values(
            self,
            objective=('pairs', 'words'),
            temperature=('learned', 'fixed'),
        )
        least = {'num_steps': 1, 'batch_size': 2, 'times': 1}
        runner.check_least(self, seed=0, text_blks=0, **least)
        if not 0 < self.lr < math.inf:
            raise ValueError(f'lr is {self.lr}, not above 0')

    @property
    def cost(self):
        """Pairs that are read in training."""
        return self.num_steps * self.times * self.batch_size


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out of a run; ValueError for a number below 0.

    `right` is the share of test pictures that choose their name among the
    names held out, `top_five` that with it among the first five of all
    names. `letter` and `mark` are the shares that choose a name with the
    right letter, or the right mark.
    """

    right: float
    top_five: float
    letter: float
    mark: float
    seconds: float

    def __post_init__(self):
        runner.check_least(self, **dict.fromkeys(vars(self), 0))


@functools.cache
def load():
    """The letters of both parts, and what encodes names."""
    letters = corpora.letters()
    return letters, multimodal.Names(letters['train'].names)


def towers(encode, text_blks=2):
    """CLIP's two towers, with new weights."""
    sizes = {'num_hiddens': 64, 'num_heads': 4, 'max_len': 16}
    config = utils.Config(1, num_blks=2, init_std=0.05, **sizes)
    pictures = multimodal.Tower(config, nn.Linear(49, 64), NUM_FEATURES)
    words = nn.Embedding(len(encode.words), 64)
    texts = multimodal.Tower(config, words, NUM_FEATURES)
    if not text_blks:
        texts.blks = nn.ModuleList()
        nn.init.zeros_(texts.pos_embedding.weight)
        texts.pos_embedding.requires_grad_(False)
    return pictures, texts


class WordPredictor(nn.Module):
    """One tower, and a score for each word that a name may have.

    Scores of names are log-probabilities of their words, all others absent.
    """

    def __init__(self, tower, num_words):
        super().__init__()
        self.pictures = tower
        self.head = nn.Linear(NUM_FEATURES, num_words)
        self.scale = nn.Parameter(torch.tensor(10.0))

    def words(self, X):
        return self.head(self.scale * self.pictures(X))

    def forward(self, pictures, texts):
        X = self.words(*pictures)
        present = bags(texts[0], X.shape[1])
        absent = F.logsigmoid(-X).sum(1, keepdim=True)
        return absent + (F.logsigmoid(X) - F.logsigmoid(-X)) @ present.T


def bags(X, num_words):
    """Which words stand in each row of ids, (n, num_words), 0 or 1."""
    found = torch.zeros(len(X), num_words).scatter(1, X, 1.0)
    found[:, 0] = 0
    return found


def word_loss(model, batch):
    """Is each word in the name? Mean cross-entropy over pictures."""
    pictures, texts = batch
    X = model.words(*pictures)
    present = bags(texts[0], X.shape[1])
    loss = F.binary_cross_entropy_with_logits(X, present, reduction='sum')
    return loss / len(X), len(X)


def build(run, encode):
    """The model of a run, its weights drawn from the run's seed."""
    torch.manual_seed(run.seed)
    pictures, texts = towers(encode, run.text_blks)
    if run.objective == 'words':
        return WordPredictor(pictures, len(encode.words))
    model = multimodal.CLIP(pictures, texts)
    if run.temperature == 'fixed':
        nn.init.zeros_(model.log_scale)
        model.log_scale.requires_grad_(False)
    return model


@torch.no_grad()
def scores(model, letters, encode):
    """Shares of test pictures: right name, among five, letter, mark."""
    test = letters['test']
    names = sorted(set(test.names))
    others = sorted(set(letters['train'].names))
    inputs = patches(test.pictures / 255, 7)
    with utils.evaluation_mode(model):
        table = model((inputs,), encode(names + others))
    truth = torch.tensor([names.index(name) for name in test.names])
    chosen = table[:, : len(names)].argmax(1)
    first = table.topk(5)[1]
    halves = [name.split(' WITH ') for name in names]
    shares = [
        sum(
            halves[i][part] == halves[j][part]
            for i, j in zip(chosen.tolist(), truth.tolist(), strict=True)
        )
        / len(truth)
        for part in (0, 1)
    ]
    return {
        'right': (chosen == truth).float().mean().item(),
        'top_five': (first == truth[:, None]).any(1).float().mean().item(),
        'letter': shares[0],
        'mark': shares[1],
    }


def execute(run, options, checkpoint):
    """Train and score one model, on the CPU."""
    start, (letters, encode) = time.process_time(), load()
    model = build(run, encode)
    runner.train(
        model,
        multimodal.pair_batches(
            letters['train'], encode, run.batch_size, run.seed
        ),
        word_loss if run.objective == 'words' else multimodal.contrastive_loss,
        run.num_steps * run.times,
        run.lr,
        betas=(0.9, 0.99),
        warmup=20,
        checkpoint=checkpoint,
        shard=options.shard,
    )
    return Measured(
        **scores(model, letters, encode),
        seconds=time.process_time() - start,
    )


# ---- The plan ----


def add_options(add):
    names = ','.join(CHANGES)
    add('--changes', type=runner.listed(runner.one_of(CHANGES)), default=names)
    add('--steps', type=runner.whole, default=NUM_STEPS)
    add('--seeds', type=runner.whole, default=3)


def plan(rows, options):
    """A short run first, then every change with every seed."""
    return [
        Run('CLIP', 0, FEW_STEPS),
        *(
            Run(name, seed, options.steps, **CHANGES[name])
            for seed in range(options.seeds)
            for name in options.changes
        ),
    ]


STUDY = runner.study_of(
    __name__,
    describe=lambda run: f'{run.change}, {run.num_steps} steps, {run.seed}',
    unit='pairs',
)
read_runs = STUDY.read_runs
