"""The reasoning study: sums of digits with and without a chain of thought.

A small GPT reads two to six digits at random places and answers with their
sum modulo ten. It may write the running sums first, or it may not; its rivals
have dots in place of the sums, the sums as labels that they never read back,
a curriculum of growing sums, and as many tokens or four times as many steps.
Sums have short cuts; so chain and rivals are also asked where each digit is
a permutation of ten states, and the last state is the answer. Whether they
compute or look up is tested with strings of digits that are kept from
training wherever they stand, and with four blocks in place of two.

Another task has five different digits, and the model writes each with the sum
so far, in an order of its own or in that of their places. Two fifths of all
facts (sum so far, digit) are never shown, so that most orders lead astray. One
path is taken greedily, or several are drawn and vote.
"""

import dataclasses
import functools
import time

import torch

import corpora.sums as sums
import utils
from utils import token_loss

from . import runner

LENGTHS = 2, 3, 4, 5, 6  # digits
VOTES = 1, 5, 20, 40  # paths
STEPS, PATH_STEPS = 900, 300
FEW_STEPS = 20  # of a run that is there to be repeated by a test
BATCH = 64
LR = 0.02
FORMS = {  # of the texts of each way to learn
    'chain': 'chain',
    'direct': 'direct',
    'dots': 'dots',
    'labels': 'labels',
    'curriculum': 'direct',
    'shuffled chain': 'chain',
    'shuffled labels': 'labels',
    'shuffled curriculum': 'direct',
    'kept labels': 'labels',
    'shuffled kept chain': 'chain',
    'shuffled kept labels': 'labels',
    'shuffled kept labels, four blocks': 'labels',
    'own order': 'path',
    'fixed order': 'path',
}
PATHS = 'own order', 'fixed order'
SHUFFLED = tuple(way for way in FORMS if way.startswith('shuffled'))
KEPT = tuple(way for way in FORMS if 'kept' in way)  # strings, for tests
NUM_TESTS = 200  # about, for each number of digits, and for votes
TOKENS_DIRECT, TOKENS_CHAIN = 10, 16  # of a text as it is read, padded


@dataclasses.dataclass(frozen=True)
class Run:
    """One training; ValueError for a value that is none of a field.

    `way` is a key of FORMS. For the ways with paths, `seed` also draws which
    facts are hidden.
    """

    way: str
    num_steps: int
    seed: int

    def __post_init__(self):
        runner.check_values(self, way=tuple(FORMS))
        runner.check_least(self, num_steps=1, seed=0)

    @property
    def cost(self):
        """Steps of training."""
        return self.num_steps


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out of a run; ValueError for a share outside [0, 1].

    `right` are the shares of answers that are right: for each number of
    digits, or of the one number for a way with paths, greedily. For a way of
    KEPT they are for strings of digits that no training had, at any places.
    `votes` are those of 1, 5, 20 and 40 paths, drawn, and `avoids` the share
    of greedy paths that use no hidden fact; both are empty without paths.
    `known` is the share of greedy answers among those to problems whose
    digits, in the order of their places, use no hidden fact; for a way of
    KEPT it is like `right`, for strings that are not kept; else it is empty.
    `tokens` were read in training.
    """

    right: str
    votes: str
    known: str
    avoids: str
    tokens: int
    seconds: float

    def __post_init__(self):
        for name in ('right', 'votes', 'known', 'avoids'):
            for share in numbers(getattr(self, name)):
                if not 0 <= share <= 1:
                    raise ValueError(f'{name} has {share}, outside [0, 1]')
        runner.check_least(self, tokens=0)


def numbers(text):
    """The numbers of a text with blanks between them."""
    return [float(x) for x in text.split()]


def written(shares):
    """Shares as a text that `numbers` reads."""
    return ' '.join(f'{float(x):.3f}' for x in shares)


# ---- Model and texts ----


def small_config(num_blks=2):
    """A GPT of width 64."""
    return utils.Config(
        len(sums.SUM_TOKENS),
        num_hiddens=64,
        num_blks=num_blks,
        max_len=32,
        init_std=0.07,
    )


def labelled_loss(model, batch):
    """Cross-entropy of the labels, (n, num_tokens), that are not -100."""
    X, labels = batch
    return token_loss(model(X[:, :-1]), labels[:, 1:])


def growing(num_steps, step):
    """The numbers of digits at a step: up to 2 first, then up to 3, ..."""
    stage = min(len(LENGTHS), 1 + 2 * len(LENGTHS) * step // (num_steps + 1))
    return LENGTHS[:stage]


def batches(run):
    """Endless batches for a run."""
    if run.way in PATHS:
        hidden = sums.hidden_facts(run.seed)
        fixed = run.way == 'fixed order'
        return sums.path_batches(BATCH, hidden, fixed, run.seed)
    lengths = LENGTHS
    if run.way.endswith('curriculum'):
        lengths = functools.partial(growing, run.num_steps)
    options = FORMS[run.way], run.seed, lengths, run.way in SHUFFLED
    return sums.sum_batches(BATCH, *options, without_kept=run.way in KEPT)


def tests(num_digits, distinct=False, shuffled=False):
    """Held-out problems and their answers' ids."""
    generator = torch.Generator().manual_seed(1000 + num_digits)
    digits, prompts = sums.sum_problems(
        8 * NUM_TESTS, num_digits, generator, distinct
    )
    kept = sums.is_held_out(prompts)
    return with_truth(digits[kept], prompts[kept], shuffled)


def with_truth(digits, prompts, shuffled):
    """The problems, and their answers' ids."""
    states = sums.states_of(digits, shuffled)
    return digits, prompts, states[:, -1] + sums.DIGIT


# ---- Asking ----


@torch.no_grad()
def answer_sums(model, digits, prompts, form):
    """The ids of a model's answers: what follows `;`, or 0."""
    if form == 'chain':
        num_tokens = digits.shape[1] + 2
        Y = utils.generate(model, prompts, num_tokens, temperature=0)
        return Y[:, -1] * (Y[:, -2] == sums.COLON)
    X, _ = sums.sum_texts(digits, prompts, form)
    return model(X[:, :-1], last=1)[:, 0].argmax(-1)


def draw_paths(model, prompts, num_digits, temperature, generator=None):
    """Texts with a path and an answer, and the answers' ids, or 0."""
    Y = utils.generate(
        model,
        prompts,
        2 * num_digits + 2,
        temperature=temperature,
        generator=generator,
    )
    return Y, Y[:, -1] * (Y[:, -2] == sums.COLON)


def steps_of(Y):
    """The digits that texts of paths say they add, (n, num_digits)."""
    return Y[:, sums.PLACES + 2 : -2 : 2] - sums.DIGIT


def vote(answers):
    """The commonest of each row of ids, (n, num_paths), as (n,)."""
    return answers.mode(1)[0]


def ask_paths(run, model):
    """Shares right: greedy, of votes, of known paths, and paths that avoid."""
    hidden = sums.hidden_facts(run.seed)
    digits, prompts, truth = tests(5, distinct=True)
    Y, found = draw_paths(model, prompts, 5, 0)
    right, known = found == truth, ~sums.uses(digits, hidden)
    avoids = ~sums.uses(steps_of(Y).clamp(0, 9), hidden)
    generator = torch.Generator().manual_seed(run.seed)
    drawn = torch.stack(
        [
            draw_paths(model, prompts, 5, 1.0, generator)[1]
            for _ in range(max(VOTES))
        ],
        dim=1,
    )
    return {
        'right': written([right.float().mean()]),
        'votes': written(
            (vote(drawn[:, :n]) == truth).float().mean() for n in VOTES
        ),
        'known': written([right[known].float().mean()]),
        'avoids': written([avoids.float().mean()]),
    }


def tests_of_strings(num_digits, kept, shuffled=False):
    """Held-out problems whose strings are kept from training, or are not.

    Neither begin with a shorter string that is kept.
    """
    generator = torch.Generator().manual_seed(2000 + num_digits)
    number = NUM_TESTS * (200 if kept else 16)
    digits, prompts = sums.sum_problems(number, num_digits, generator)
    asked = sums.is_held_out(prompts) & ~sums.begins_kept(digits[:, :-1])
    asked &= sums.begins_kept(digits) == kept
    parts = digits[asked][:NUM_TESTS], prompts[asked][:NUM_TESTS]
    return with_truth(*parts, shuffled)


def ask_sums(run, model):
    """Shares right by the number of digits."""

    def ask(draw):
        shares = []
        for k in LENGTHS:
            digits, prompts, truth = draw(k, shuffled=run.way in SHUFFLED)
            found = answer_sums(model, digits, prompts, FORMS[run.way])
            shares.append((found == truth).float().mean())
        return written(shares)

    if run.way in KEPT:
        right, known = (
            ask(functools.partial(tests_of_strings, kept=kept))
            for kept in (True, False)
        )
    else:
        right, known = ask(tests), ''
    return {'right': right, 'votes': '', 'known': known, 'avoids': ''}


# ---- The plan ----


def execute(run, options, checkpoint):
    """Train one model and ask it; the seconds of CPU are of training."""
    torch.manual_seed(run.seed)
    num_blks = 4 if run.way.endswith('four blocks') else 2
    model = utils.GPT(small_config(num_blks))
    counted, start = [0], time.process_time()

    def counting():
        for batch in batches(run):
            counted[0] += batch[0][:, :-1].numel()
            yield batch

    runner.train(
        model,
        counting(),
        labelled_loss,
        run.num_steps,
        LR,
        'muon',
        (0.9, 0.99),
        warmup=20,
    )
    seconds = time.process_time() - start
    ask = ask_paths if run.way in PATHS else ask_sums
    return Measured(**ask(run, model), tokens=counted[0], seconds=seconds)


def add_options(add):
    add('--seeds', type=runner.whole, default=3)


def plan(rows, options):
    """A short run, then every way with every seed, and more for rivals."""
    runs = [Run('chain', FEW_STEPS, 0)]
    for seed in range(options.seeds):
        runs += [
            Run('chain', STEPS, seed),
            Run('direct', STEPS * TOKENS_CHAIN // TOKENS_DIRECT, seed),
            Run('dots', STEPS, seed),
            Run('labels', STEPS, seed),
            Run('own order', PATH_STEPS, seed),
            Run('fixed order', PATH_STEPS, seed),
        ]
    for seed in range(options.seeds):
        runs += [
            Run('direct', 4 * STEPS, seed),
            Run('curriculum', STEPS * TOKENS_CHAIN // TOKENS_DIRECT, seed),
            Run('curriculum', 4 * STEPS, seed),
            Run('labels', 4 * STEPS, seed),
            Run('shuffled chain', STEPS, seed),
            Run('shuffled labels', STEPS, seed),
            Run('shuffled labels', 4 * STEPS, seed),
            Run('shuffled curriculum', 4 * STEPS, seed),
        ]
    for seed in range(options.seeds):
        runs += [Run(way, STEPS, seed) for way in KEPT]
        runs.append(Run('shuffled kept labels', 4 * STEPS, seed))
    return runs


STUDY = runner.study_of(
    __name__,
    describe=lambda run: f'{run.way}, {run.num_steps} steps, {run.seed}',
    unit='steps',
)
read_runs = STUDY.read_runs
