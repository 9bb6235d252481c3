"""The preferences study: a model that writes opinions, and what is preferred.

A small GPT reads plain opinions of the small world and writes such sentences.
A judge prefers positive to negative ones, with the noise of Bradley and
Terry; the pairs that it judges have only half of the words of opinions. A
reward model learns from the pairs; it begins as the policy or at random, and
one that begins at random learns for too long.
The best of n sentences is taken, or the policy is trained: by its gradient
with and without a penalty, by direct preference optimization, or on the
winners alone. The true reward is known.
"""

import copy
import dataclasses
import functools
import math
import time

import torch
from torch import nn
from torch.nn import functional as F

import corpora
import utils
from corpora import BOS, SEP

from . import runner

METHODS = 'best of n', 'gradient', 'dpo', 'winners'
BODIES = 'overfit', 'fresh', 'policy'  # of reward models
REWARD_STEPS, TOO_MANY_STEPS = 60, 300  # of their training, for 400 pairs
BASE_STEPS, STEPS = 400, 150
FEW_STEPS = 20  # of a run that is there to be repeated by a test
NUM_TOKENS = 12  # of a sentence, at most
POOL = 8192  # sentences of which the best are taken
NUM_LOOKS, NUM_LOOKED = 5, 512  # at a policy, and its sentences each time
BEST_OF = tuple(4**k for k in range(6))  # 1 to 1,024
BATCH = 64
SETTINGS = {  # of each method: weights of the penalty, rates
    'best of n': ((0.0, 1e-3),),
    'gradient': ((0.0, 1e-3), (0.5, 1e-3)),
    'dpo': ((0.1, 3e-4), (0.1, 1e-3), (1.0, 3e-4), (1.0, 1e-3)),
    'winners': ((0.0, 3e-4), (0.0, 1e-3)),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One way to use pairs; ValueError for a value that is none of a field.

    `body` is what the reward model begins as: the first policy, or random
    parameters, which in the case of 'overfit' are trained too long.
    `penalty` is the weight of the divergence from the first policy, beta in
    both methods that have one, and `lr` the rate.
    """

    method: str
    body: str
    num_pairs: int
    penalty: float
    lr: float
    num_steps: int
    seed: int

    def __post_init__(self):
        runner.check_values(self, method=METHODS, body=BODIES)
        runner.check_least(
            self, num_pairs=1, penalty=0, num_steps=NUM_LOOKS, seed=0
        )
        if self.method == 'dpo' and self.penalty == 0:
            raise ValueError('penalty is 0.0 for dpo')
        if not self.lr > 0:
            raise ValueError(f'lr is {self.lr}, not > 0')

    @property
    def cost(self):
        """Steps of training."""
        return self.num_steps


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out of a run; ValueError for rows of different lengths.

    `kl`, `proxy` and `true` are the divergence from the first policy in
    nats, the reward model's score and the true reward: for n of BEST_OF, or
    at the start and at each look. `shown` and `hidden` are the shares of
    pairs that the reward model decides as the truth does, for words that
    the judged pairs had and for the others. `calibration` has, for both, the
    mean of the probabilities above one half that it gives. `variety` is the
    share of different sentences at the end, and `sentence` the commonest.
    """

    kl: str
    proxy: str
    true: str
    shown: float
    hidden: float
    calibration: str
    variety: float
    sentence: str
    seconds: float

    def __post_init__(self):
        sizes = {len(numbers(x)) for x in (self.kl, self.proxy, self.true)}
        if len(sizes) > 1:
            raise ValueError(f'kl, proxy and true have {sizes} numbers')
        for name in ('shown', 'hidden', 'variety'):
            if not 0 <= getattr(self, name) <= 1:
                value = getattr(self, name)
                raise ValueError(f'{name} is {value}, outside [0, 1]')


def numbers(text):
    """The numbers of a text with blanks between them."""
    return [float(x) for x in text.split()]


def written(values):
    """Numbers as a text that `numbers` reads."""
    return ' '.join(f'{float(x):.3f}' for x in values)


# ---- Sentences and their truth ----


world = functools.cache(corpora.SmallWorld)


@functools.cache
def opinions(number=6000):
    """Plain opinions with all words, (number, L) ids, padded with 0."""
    return world().sentiment(number, 'test', form='plain').X


def true_reward(X):
    """1 for more positive than negative words, -1 for fewer, else 0.

    It is 0, too, for a text that does not end or has a word of opinions
    twice. It does not ask for grammar.
    """
    polarity = world().polarity[X]  # (n, num_tokens)
    told = polarity != 0
    same = (X[:, :, None] == X[:, None]) & told[:, None]
    whole = X.eq(SEP).any(1) & (same.sum((1, 2)) == told.sum(1))
    return polarity.sum(1).sign() * whole.float()


def has_hidden(X):
    """Whether sentences have an opinion word that the judge never saw."""
    hidden = ~world().shown & (world().polarity != 0)
    return hidden[X].any(1)


def write(policy, number, generator):
    """Sentences of a policy, (number, L), padded with 0 after `<sep>`."""
    start = torch.full((number, 1), BOS)
    X = utils.generate(
        policy, start, NUM_TOKENS, stop=SEP, generator=generator
    )
    ended = F.pad(X.eq(SEP).cumsum(1), (1, 0))[:, :-1] > 0
    return X.masked_fill(ended, 0)


def log_prob(policy, X):
    """Log-probabilities of whole sentences, (n,)."""
    labels = X[:, 1:].masked_fill(X[:, 1:] == 0, -100)
    scores = policy(X[:, :-1]).transpose(1, 2)
    return -F.cross_entropy(scores, labels, reduction='none').sum(1)


def judge(A, B, generator):
    """Winners and losers of pairs: the better wins with probability .88."""
    first = torch.sigmoid(true_reward(A) - true_reward(B))
    wins = torch.rand(len(A), generator=generator) < first
    wins = wins[:, None]
    return torch.where(wins, A, B), torch.where(wins, B, A)


# ---- Models ----


class RewardModel(nn.Module):
    """A score for each sentence: a linear layer on a GPT's last token."""

    def __init__(self, policy):
        super().__init__()
        self.body = copy.deepcopy(policy)
        self.score = nn.Linear(policy.config.num_hiddens, 1)

    def forward(self, X):
        last = (X > 0).sum(1) - 1
        H = self.body.encode(X)[range(len(X)), last]
        return self.score(H)[:, 0]


def reward_loss(model, batch):
    """Minus the log-probability of the winners (Bradley and Terry)."""
    won, lost = batch
    gaps = model(won) - model(lost)
    return -F.logsigmoid(gaps).mean(), len(won)


def dpo_loss(beta, first, policy, batch):
    """Direct preference optimization (Rafailov et al., 2023)."""
    won, lost = batch
    with torch.no_grad():
        before = log_prob(first, won) - log_prob(first, lost)
    gaps = log_prob(policy, won) - log_prob(policy, lost) - before
    return -F.logsigmoid(beta * gaps).mean(), len(won)


def winner_loss(policy, batch):
    """The language-model loss on the winners."""
    won, _ = batch
    return utils.lm_loss(policy, won.masked_fill(won == 0, -100))


def policy_loss(policy, batch):
    """Minus the advantage times the log-probability of what was written."""
    X, advantages = batch
    return -(advantages * log_prob(policy, X)).mean(), len(X)


def train(model, batches, loss_fn, num_steps, lr, **more):
    """AdamW at a rate that stays, but for a few steps at the start."""
    runner.train(
        model,
        batches,
        loss_fn,
        num_steps,
        lr,
        'adamw',
        (0.9, 0.99),
        warmup=10,
        schedule='constant',
        **more,
    )


def drawn(parts, size, generator):
    """Endless batches of rows of some tensors."""
    while True:
        at = torch.randint(len(parts[0]), (size,), generator=generator)
        yield tuple(X[at] for X in parts)


@functools.lru_cache(maxsize=1)
def first_policy(seed, num_steps=BASE_STEPS):
    """A GPT that has read opinions."""
    torch.manual_seed(seed)
    config = utils.Config(
        len(world().words), num_hiddens=64, num_blks=2, max_len=24
    )
    policy, X = utils.GPT(config), opinions()
    X = X.masked_fill(X == 0, -100)
    generator = torch.Generator().manual_seed(seed)
    runner.train(
        policy,
        (batch for (batch,) in drawn((X,), BATCH, generator)),
        utils.lm_loss,
        num_steps,
        0.02,
        'muon',
        (0.9, 0.99),
        warmup=20,
    )
    return policy


@functools.lru_cache(maxsize=1)
def judged(seed, num_pairs, body='policy', num_steps=BASE_STEPS):
    """What is judged of the first policy: `judged_of`."""
    return judged_of(first_policy(seed, num_steps), seed, num_pairs, body)


def judged_of(policy, seed, num_pairs, body='policy'):
    """Winners and losers, without hidden words, and their reward model."""
    generator = torch.Generator().manual_seed(100 + seed)
    X = torch.zeros(0, NUM_TOKENS + 1, dtype=torch.long)
    while len(X) < 2 * num_pairs:
        new = write(policy, 1000, generator)
        new = F.pad(new, (0, NUM_TOKENS + 1 - new.shape[1]))
        X = torch.cat((X, new[~has_hidden(new)]))
    A, B = X[: 2 * num_pairs].split(num_pairs)
    pairs = judge(A, B, generator)
    torch.manual_seed(seed)
    random = utils.GPT(policy.config)
    model = RewardModel(policy if body == 'policy' else random)
    batches = drawn(pairs, 32, generator)
    steps = max(REWARD_STEPS, num_pairs // 8)
    steps = TOO_MANY_STEPS if body == 'overfit' else steps
    train(model, batches, reward_loss, steps, 1e-3)
    return pairs, model.eval()


# ---- Measuring ----


@torch.no_grad()
def decided(model, X):
    """How often the better of two is scored higher, and how surely."""
    good, bad = X[true_reward(X) > 0], X[true_reward(X) < 0]
    n = min(len(good), len(bad))
    gaps = model(good[:n]) - model(bad[:n])
    sure = torch.sigmoid(gaps.abs()).mean().item()
    return (gaps > 0).float().mean().item(), sure


@torch.no_grad()
def look(first, reward, policy, number, seed):
    """Divergence, proxy and true reward, and sentences of a policy."""
    X = write(policy, number, torch.Generator().manual_seed(seed))
    with utils.evaluation_mode(policy):
        kl = (log_prob(policy, X) - log_prob(first, X)).mean().item()
    return (kl, reward(X).mean().item(), true_reward(X).mean().item()), X


@torch.no_grad()
def best_of(first, reward, number, seed):
    """Divergence, proxy and true reward of the best of n, for BEST_OF.

    The means are over all subsets of n of the sentences. The divergence is
    log n - (n - 1) / n, or less where sentences are equal (Beirami et al.,
    2025).
    """
    X = write(first, number, torch.Generator().manual_seed(seed))
    proxy = torch.cat([reward(part) for part in X.split(1024)])
    true, rows = true_reward(X), []
    order = proxy.argsort()
    places = torch.arange(number, dtype=torch.float64)
    for n in BEST_OF:
        # the share of the subsets whose best is at this place
        logs = torch.lgamma(places + 1) - torch.lgamma(places - n + 2)
        logs = torch.where(places >= n - 1, logs, -torch.inf)
        shares = logs.softmax(0).float()
        kl = math.log(n) - (n - 1) / n
        means = (shares @ proxy[order], shares @ true[order])
        rows.append((kl, *(x.item() for x in means)))
    return rows, X[order[-number // 100 :]]


def rewarded(run, first, reward, policy):
    """Endless batches that the policy writes now, with advantages."""
    generator = torch.Generator().manual_seed(200 + run.seed)
    while True:
        X = write(policy, BATCH, generator)
        with torch.no_grad():
            gap = log_prob(policy, X) - log_prob(first, X)
            gained = reward(X) - run.penalty * gap
        yield X, gained - gained.mean()


def learn(run, first, reward, pairs):
    """Train a policy: rows of what is seen of it, and its sentences."""
    policy = copy.deepcopy(first)
    generator = torch.Generator().manual_seed(300 + run.seed)
    batches = drawn(pairs, 32, generator)
    loss = winner_loss
    if run.method == 'dpo':
        loss = functools.partial(dpo_loss, run.penalty, first)
    if run.method == 'gradient':
        batches, loss = rewarded(run, first, reward, policy), policy_loss
    rows = [look(first, reward, policy, NUM_LOOKED, 0)[0]]
    train(
        policy,
        batches,
        loss,
        run.num_steps,
        run.lr,
        eval_fn=lambda policy: rows.append(
            look(first, reward, policy, NUM_LOOKED, len(rows))[0]
        ),
        eval_every=run.num_steps // NUM_LOOKS,
    )
    return rows, look(first, reward, policy, NUM_LOOKED, 99)[1]


def execute(run, options, checkpoint):
    """Make one policy better, or not; the seconds of CPU are of all that."""
    base_steps = FEW_STEPS if run.num_steps < STEPS else BASE_STEPS
    first = first_policy(run.seed, base_steps).eval()
    pairs, reward = judged(run.seed, run.num_pairs, run.body, base_steps)
    start = time.process_time()
    if run.method == 'best of n':
        rows, X = best_of(first, reward, POOL, 400 + run.seed)
    else:
        rows, X = learn(run, first, reward, pairs)
    seconds = time.process_time() - start
    tests = opinions()
    hidden = has_hidden(tests)
    decisions = [decided(reward, tests[part]) for part in (~hidden, hidden)]
    different, counts = X.unique(dim=0, return_counts=True)
    commonest = different[counts.argmax()]
    kl, proxy, true = zip(*rows, strict=True)
    return Measured(
        kl=written(kl),
        proxy=written(proxy),
        true=written(true),
        shown=decisions[0][0],
        hidden=decisions[1][0],
        calibration=written(sure for _, sure in decisions),
        variety=len(different) / len(X),
        sentence=world().decode(commonest),
        seconds=seconds,
    )


# ---- The plan ----


def add_options(add):
    add('--seeds', type=runner.whole, default=3)


def plan(rows, options):
    """A short run, then every method in all its settings, by seed."""
    runs = [Run('winners', 'policy', 400, 0.0, 3e-4, FEW_STEPS, 0)]
    for seed in range(options.seeds):
        for body in BODIES:
            methods = METHODS if body == 'policy' else METHODS[:2]
            runs += [
                Run(method, body, 400, penalty, lr, STEPS, seed)
                for method in methods
                for penalty, lr in SETTINGS[method]
            ]
        more = Run('best of n', 'policy', 3000, 0.0, 1e-3, STEPS, seed)
        runs.append(more)
    return runs


STUDY = runner.study_of(
    __name__,
    describe=lambda run: ', '.join(map(str, dataclasses.astuple(run))),
    unit='steps',
)
read_runs = STUDY.read_runs
