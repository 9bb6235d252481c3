"""What a model costs, and how its loss falls with size, data and compute."""

import contextlib
import dataclasses
import itertools

import numpy as np
import torch
from scipy.special import huber, logsumexp

from utils import GPT


def in_double(x):
    """Numbers of NumPy, pandas or PyTorch in double precision.

    Products of their whole numbers can overflow; Python's own cannot, and
    stay as they are.
    """
    if isinstance(x, torch.Tensor):
        return x.double()
    return x.astype(float) if hasattr(x, 'astype') else x


def count_parameters(config):
    """Parameters of a GPT without and with its embeddings.

    Returns (non_embedding, total). The first leaves out the token and the
    position table and, where it is not tied, the output layer (Kaplan et
    al., 2020, section 2.1).
    """
    with torch.device('meta'):
        model = GPT(config)
    total = sum(p.numel() for p in model.parameters())
    tables = [model.token_embedding]
    tables += [] if config.rotary_base else [model.pos_embedding]
    tables += [] if config.tie_weights else [model.head]
    return total - sum(table.weight.numel() for table in tables), total


def train_flops(config, num_tokens, num_steps=None, rule='hoffmann'):
    """Floating-point operations of training a GPT on `num_tokens` tokens.

    A product and an addition count as two, the backward pass as twice the
    forward pass. 'kaplan' is 6 per non-embedding parameter and token (Kaplan
    et al., 2020, section 2.1); 'hoffmann' counts every matrix product,
    embedding and output layer, and the softmax, over windows of `num_steps`
    tokens, by default `max_len` (Hoffmann et al., 2022, appendix F).
    `num_tokens` is a number or an array. Raises ValueError for another rule.
    """
    num_tokens = in_double(num_tokens)
    if rule == 'kaplan':
        return 6 * count_parameters(config)[0] * num_tokens
    if rule != 'hoffmann':
        raise ValueError(f"rule is {rule!r}, not 'kaplan' or 'hoffmann'")
    num_steps = in_double(config.max_len if num_steps is None else num_steps)
    d, wide = in_double(config.num_hiddens), in_double(config.ffn_num_hiddens)
    queries = config.num_heads * in_double(config.head_width)
    keys = config.num_kv_heads * in_double(config.head_width)
    projections = 2 * d * (2 * queries + 2 * keys)
    scores = 2 * num_steps * queries * 2 + 3 * config.num_heads * num_steps
    matrices = 3 if config.activation.startswith('gated') else 2
    block = projections + scores + 2 * matrices * d * wide
    tables = 2 * 2 * config.vocab_size * d
    return 3 * (config.num_blks * block + tables) * num_tokens


# ---- Laws ----


def check_runs(*columns, at_least=2):
    """Raise ValueError unless the columns are equally long and positive."""
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise ValueError(f'columns of different lengths, {sorted(lengths)}')
    if lengths.pop() < at_least:
        raise ValueError(f'{len(columns[0])} runs, fewer than {at_least}')
    for column in columns:
        wrong = [x for x in column if not 0 < x < np.inf]
        if wrong:
            raise ValueError(f'{wrong[0]} is not a positive number')


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """A loss that falls as (scale / x) ** exponent.

    `x` is a size, a number of tokens or of operations: a number or an array.
    (Kaplan et al., 2020, section 1.2)
    """

    scale: float
    exponent: float

    def __call__(self, x):
        return (self.scale / in_double(x)) ** self.exponent


def fit_power_law(x, loss):
    """The `PowerLaw` nearest to the losses: a straight line in log-log.

    `x` and `loss` are (num_runs,). Raises ValueError for fewer than two
    runs, columns of different lengths, values that are not positive, and one
    size or one loss only.
    """
    check_runs(x, loss)
    for name, column in (('sizes', x), ('losses', loss)):
        if len({float(value) for value in column}) < 2:
            raise ValueError(f'the {name} are all equal')
    slope, intercept = np.polyfit(np.log(x), np.log(loss), 1)
    return PowerLaw(float(np.exp(-intercept / slope)), float(-slope))


@dataclasses.dataclass(frozen=True)
class JointLaw:
    """The loss of N parameters trained on D tokens: a floor and two debts.

    Called with numbers or arrays N and D. `optimum(flops)` returns the N and
    the D that spend 6 N D operations best, `share` the exponent with which
    that N grows. (Hoffmann et al., 2022, section 3.3)
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def __call__(self, N, D):
        N, D = in_double(N), in_double(D)
        return self.E + self.A / N**self.alpha + self.B / D**self.beta

    @property
    def share(self):
        return self.beta / (self.alpha + self.beta)

    def optimum(self, flops):
        G = (self.alpha * self.A / (self.beta * self.B)) ** (
            1 / (self.alpha + self.beta)
        )
        flops = in_double(flops)
        N = G * (flops / 6) ** self.share
        return N, flops / 6 / N


def joint_loss(theta, log_N, log_D, log_loss, delta=1e-3):
    """Huber loss of a joint law in logarithms, and its gradient.

    `theta` is (log E, log A, log B, alpha, beta). The Huber loss is that of
    residuals divided by `delta`, so that it is not too small for an
    optimizer to notice (Hoffmann et al., 2022, appendix D.2).
    """
    e, a, b, alpha, beta = theta
    terms = np.stack([e + 0 * log_N, a - alpha * log_N, b - beta * log_D])
    predicted = logsumexp(terms, axis=0)  # (num_runs,)
    residual = (predicted - log_loss) / delta
    pull = np.exp(terms - predicted) * np.clip(residual, -1, 1) / delta
    gradient = [*pull.sum(1), -pull[1] @ log_N, -pull[2] @ log_D]
    return huber(1, residual).sum(), np.array(gradient)


def best_fit(loss, starts, data, bounds):
    """The parameters of the lowest loss, by L-BFGS from each of the starts.

    `loss(theta, *data)` returns a number and its gradient.
    """
    from scipy.optimize import minimize  # half a second that plans need not

    options = {'maxcor': 30, 'ftol': 1e-9, 'gtol': 1e-6}
    fits = [
        minimize(
            loss, theta, data, 'L-BFGS-B', True, bounds=bounds, options=options
        )
        for theta in starts
    ]
    return min(fits, key=lambda fit: fit.fun).x


def joint_starts(log_loss):
    """A grid of starting points for `fit_joint_law`, 675 of 5 numbers."""
    parts = np.median(log_loss) + np.log([0.1, 0.3, 0.6])
    exponents = 0.1, 0.3, 0.6, 1.0, 1.5
    return list(itertools.product(*[parts] * 3, *[exponents] * 2))


def fit_joint_law(N, D, loss, start=None, num_starts=12):
    """The `JointLaw` with the smallest Huber loss in logarithms.

    N, D and `loss` are (num_runs,). The best `num_starts` points of a grid,
    or the law `start`, are improved by L-BFGS, and the best result is kept.
    Raises ValueError for fewer than six runs, columns of different lengths,
    and values that are not positive. (Hoffmann et al., 2022, appendix D.2)
    """
    check_runs(N, D, loss, at_least=6)
    log_N, log_D, log_loss = (np.log(np.asarray(x)) for x in (N, D, loss))
    shifts = log_N.mean(), log_D.mean()  # so that A and alpha part
    data = log_N - shifts[0], log_D - shifts[1], log_loss
    if start is None:
        starts = joint_starts(log_loss)
        starts.sort(key=lambda theta: joint_loss(theta, *data)[0])
    else:
        check_runs(dataclasses.astuple(start))
        a = np.log(start.A) - start.alpha * shifts[0]
        b = np.log(start.B) - start.beta * shifts[1]
        starts = [(np.log(start.E), a, b, start.alpha, start.beta)]
    bounds = [(-15, None)] * 3 + [(0.01, 3)] * 2
    e, a, b, alpha, beta = best_fit(
        joint_loss, starts[:num_starts], data, bounds
    )
    a, b = a + alpha * shifts[0], b + beta * shifts[1]
    E, A, B = np.exp([e, a, b]).tolist()
    return JointLaw(E, A, B, float(alpha), float(beta))


@dataclasses.dataclass(frozen=True)
class InteractingLaw:
    """The loss of N parameters trained on D tokens, without a floor.

    Size and data interact: the larger of two debts hides the smaller one.
    Called with numbers or arrays N and D. (Kaplan et al., 2020, section 4.1)
    """

    N_c: float
    D_c: float
    alpha: float
    beta: float

    def __call__(self, N, D):
        size = (self.N_c / in_double(N)) ** (self.alpha / self.beta)
        return (size + self.D_c / in_double(D)) ** self.beta


def interacting_loss(theta, log_N, log_D, log_loss, delta=1e-3):
    """Huber loss of an interacting law in logarithms, and its gradient.

    `theta` is (log N_c, log D_c, alpha, beta); the rest as in `joint_loss`.
    """
    n, d, alpha, beta = theta
    size, data = alpha / beta * (n - log_N), d - log_D
    total = np.logaddexp(size, data)
    residual = (beta * total - log_loss) / delta
    pull = np.clip(residual, -1, 1) / delta
    part = np.exp(size - total)  # of the debt that is due to size
    gradient = [
        alpha * (pull @ part),
        beta * (pull @ (1 - part)),
        pull @ (part * (n - log_N)),
        pull @ (total - part * size),
    ]
    return huber(1, residual).sum(), np.array(gradient)


def fit_interacting_law(N, D, loss, start=None, num_starts=12):
    """The `InteractingLaw` with the smallest Huber loss in logarithms.

    N, D and `loss` are (num_runs,). As `fit_joint_law`, which see.
    """
    check_runs(N, D, loss, at_least=6)
    data = tuple(np.log(np.asarray(x)) for x in (N, D, loss))
    if start is None:
        exponents = 0.03, 0.1, 0.2, 0.4
        starts = [
            (data[0].max() + far / alpha, data[1].max() + far / beta,
             alpha, beta)
            for far in (0.1, 0.5, 1.0)
            for alpha, beta in itertools.product(exponents, exponents)
        ]  # fmt: skip
        starts.sort(key=lambda theta: interacting_loss(theta, *data)[0])
    else:
        check_runs(dataclasses.astuple(start))
        logs = np.log([start.N_c, start.D_c])
        starts = [(*logs, start.alpha, start.beta)]
    bounds = [(None, None)] * 2 + [(0.005, 3)] * 2
    n, d, alpha, beta = best_fit(
        interacting_loss, starts[:num_starts], data, bounds
    )
    return InteractingLaw(*np.exp([n, d]).tolist(), float(alpha), float(beta))


def bootstrap(fit, *columns, num_samples=100, seed=0):
    """Laws fitted to runs drawn with replacement (Efron, 1979).

    `columns` are (num_runs,) each and `fit(*columns)` returns a law. Returns
    a list of `num_samples`. Draws of fewer than three different runs are
    drawn again. Raises ValueError for fewer than one sample or three runs
    and for what `fit` does not take.
    """
    if num_samples < 1:
        raise ValueError(f'num_samples is {num_samples}, below 1')
    columns = [np.asarray(column) for column in columns]
    num_runs = len(columns[0])
    if num_runs < 3:
        raise ValueError(f'{num_runs} runs, fewer than 3')
    rng, laws = np.random.default_rng(seed), []
    while len(laws) < num_samples:
        drawn = rng.integers(num_runs, size=num_runs)
        if len(set(drawn)) >= 3:
            laws.append(fit(*(column[drawn] for column in columns)))
    return laws


def interval(values, coverage=0.9):
    """The middle `coverage` of the values along the first axis: (2, ...)."""
    return np.quantile(values, [(1 - coverage) / 2, (1 + coverage) / 2], 0)


def isoflop_optimum(N, loss):
    """The size at the bottom of a parabola through runs of equal compute.

    The parabola is in log N; `N` and `loss` are (num_runs,). Raises
    ValueError for fewer than three runs, values that are not positive, and
    losses that have no lowest point. (Hoffmann et al., 2022, section 3.2)
    """
    check_runs(N, loss, at_least=3)
    square, slope, _ = np.polyfit(np.log(N), loss, 2)
    if square <= 0:
        raise ValueError('the losses bend downward: there is no minimum')
    return float(np.exp(-slope / (2 * square)))


def interpolated_optima(sizes, flops, loss, budgets):
    """The best size for each budget, from runs of several sizes.

    `sizes`, `flops` and `loss` are (num_runs,). Between the runs of a size,
    log loss is interpolated in log operations; through the up to five sizes
    around the lowest goes a parabola, as in `isoflop_optimum`. Returns the
    budgets whose lowest point is not at an edge, and their best sizes.
    Raises ValueError for fewer than three runs and values not positive.
    """
    check_runs(sizes, flops, loss, at_least=3)
    sizes, x, y = np.asarray(sizes), np.log(flops), np.log(loss)
    x, y, N = np.asarray(x), np.asarray(y), np.unique(sizes)
    curves = []
    for size in N:
        mine = np.flatnonzero(sizes == size)
        mine = mine[np.argsort(x[mine])]
        log_loss = np.interp(
            np.log(budgets), x[mine], y[mine], left=np.nan, right=np.nan
        )
        curves.append(np.exp(log_loss))
    best = {}
    for budget, column in zip(budgets, np.transpose(curves), strict=True):
        there = np.flatnonzero(np.isfinite(column))
        lowest = column[there].argmin() if len(there) else 0
        if 0 < lowest < len(there) - 1:
            near = there[max(0, lowest - 2) : lowest + 3]
            with contextlib.suppress(ValueError):
                best[budget] = isoflop_optimum(N[near], column[near])
    return np.array(list(best)), np.array(list(best.values()))


def effective_tokens(unique, tokens, worth):
    """How many fresh tokens a text read again and again is worth.

    `unique` tokens are read until `tokens` are; with each round more, less is
    learned. However often it is read, the text is never worth more than
    `worth` others of its length. (Muennighoff et al., 2023, section 3)
    """
    unique, tokens = in_double(unique), in_double(tokens)
    repeats = np.maximum(tokens / unique - 1, 0)
    gained = worth * (1 - np.exp(-repeats / worth))
    return np.minimum(unique, tokens) + unique * gained


# ---- Published constants ----

PETAFLOP_DAY = 1e15 * 24 * 3600
# Kaplan et al. (2020), section 1.2: parameters without embeddings, tokens,
# and operations when spent best
KAPLAN = {
    'N': PowerLaw(8.8e13, 0.076),
    'D': PowerLaw(5.4e13, 0.095),
    'C': PowerLaw(3.1e8 * PETAFLOP_DAY, 0.050),
}
HOFFMANN = {
    # Hoffmann et al. (2022), section 3.3, as printed there
    'printed': JointLaw(1.69, 406.4, 410.7, 0.34, 0.28),
    # the same fit before rounding, in the source text of that paper, as
    # reported by Besiroglu et al. (2024)
    'unrounded': JointLaw(1.6934, 406.4, 410.7, 0.3392, 0.2849),
    # Besiroglu et al. (2024), fitted again to the points of its figure
    'replicated': JointLaw(1.8172, 482.01, 2085.43, 0.3478, 0.3658),
}


def kaplan_optimum(flops):
    """Size without embeddings and tokens that spend `flops` best.

    1.3e9 parameters at one petaFLOP/s-day, with exponent 0.73; tokens follow
    from 6 N D (Kaplan et al., 2020, section 6.1).
    """
    flops = in_double(flops)
    N = 1.3e9 * (flops / PETAFLOP_DAY) ** 0.73
    return N, flops / 6 / N


# ---- Planning a training run ----


@dataclasses.dataclass(frozen=True)
class Device:
    """A processor: peak operations per second, dense, and memory in bytes."""

    flops: float
    memory: float


DEVICES = {
    'one laptop core': Device(1e11, 8e9),  # float32, measured with AVX2
    'V100': Device(125e12, 32e9),  # NVIDIA data sheet, float16
    'A100': Device(312e12, 80e9),  # NVIDIA data sheet, bfloat16
    'H100': Device(989e12, 80e9),  # NVIDIA data sheet (SXM), bfloat16
    'TPU v4': Device(275e12, 32e9),  # Jouppi et al. (2023), bfloat16
}


def device_memory(config, batch_size=1, shards=1, tensor=1, recompute=False):
    """Bytes that a device holds while it trains a GPT, part by part.

    'weights' and 'gradients' have 2 bytes per parameter, 'moments', with the
    weights in float32, 12 (Rajbhandari et al., 2020, section 3.1); `shards`
    devices share these. 'activations' of `batch_size` windows have 34 bytes
    per token and feature of a block, of which `tensor` devices share 24;
    with `recompute` only the 2 of its input and, once, one block's
    (Korthikanti et al., 2022, sections 4 and 5, with fused attention, which
    keeps no scores). Those `tensor` devices share parameters, too. Raises
    ValueError for numbers below 1.
    """
    for name, value in (
        ('batch_size', batch_size),
        ('shards', shards),
        ('tensor', tensor),
    ):
        if not value >= 1:
            raise ValueError(f'{name} is {value}, below 1')
    parameters = count_parameters(config)[1] / (shards * tensor)
    features = in_double(config.num_hiddens) * in_double(config.max_len)
    features *= in_double(batch_size)
    kept = 10 + 24 / tensor
    block = kept * features
    num_blks = in_double(config.num_blks)
    activations = num_blks * block
    if recompute:
        activations = num_blks * 2 * features + block
    return {
        'weights': 2 * parameters,
        'gradients': 2 * parameters,
        'moments': 12 * parameters,
        'activations': activations,
    }


def plan_training(
    config,
    num_tokens,
    device,
    num_devices=1,
    utilization=0.4,
    batch_size=1,
):
    """What it takes to train a GPT: a dictionary of estimates.

    'non_embedding' and 'parameters'; 'flops'; 'state' in bytes, 16 per
    parameter, and 'activations' in bytes of `batch_size` windows per device,
    both as in `device_memory`; 'days' at a
    `utilization` of the peak; 'fits', whether the devices can hold it when
    the state is sharded. Raises ValueError for an unknown device and for
    values out of range.
    """
    if device not in DEVICES:
        raise ValueError(f'device is {device!r}, not one of {list(DEVICES)}')
    if not 0 < utilization <= 1:
        raise ValueError(f'utilization is {utilization}, outside (0, 1]')
    for name, value in (
        ('num_tokens', num_tokens),
        ('num_devices', num_devices),
        ('batch_size', batch_size),
    ):
        if not 1 <= value < np.inf:
            raise ValueError(f'{name} is {value}, not a number from 1 on')
    non_embedding, parameters = count_parameters(config)
    flops, peak = train_flops(config, num_tokens), DEVICES[device]
    memory = device_memory(config, batch_size)
    activations, state = memory['activations'], 16 * parameters
    return {
        'non_embedding': non_embedding,
        'parameters': parameters,
        'flops': flops,
        'state': state,
        'activations': activations,
        'days': flops / (peak.flops * utilization * num_devices) / 86400,
        'fits': state / num_devices + activations <= peak.memory,
    }
