"""Muon, and the training loop, which knows nothing about the model."""

import dataclasses
import math
import os
import time
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.tensor import DTensor, Replicate
from tqdm.auto import tqdm

from .distributed import parallelize, processes, share, total_of


def orthogonalize(G, num_iters=5):
    """Bring all singular values of the matrix `G` near one.

    Newton-Schulz iteration of an odd polynomial (Jordan et al., 2024).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    X = G / (G.norm() + 1e-7)
    tall = X.shape[0] > X.shape[1]
    X = X.T if tall else X
    for _ in range(num_iters):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X.T if tall else X


def on_whole(function, G):
    """`function` of a matrix that may be sharded, sharded the same way."""
    if not isinstance(G, DTensor):
        return function(G)
    whole = function(G.full_tensor())
    whole = DTensor.from_local(whole, G.device_mesh, [Replicate()])
    return whole.redistribute(placements=G.placements)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalized, for matrices.

    Jordan et al. (2024). Updates have the root mean square 0.2 of a typical
    AdamW step, so that both optimizers take one learning rate (Liu et al.,
    2025, section 2.2). Products are in bfloat16 on a GPU, else in float32.
    Raises ValueError for a parameter that is not a matrix.
    """

    def __init__(self, params, lr=1e-3, momentum=0.9, weight_decay=0.1):
        super().__init__(
            params,
            {'lr': lr, 'momentum': momentum, 'weight_decay': weight_decay},
        )
        for p in self.param_groups[0]['params']:
            if p.dim() != 2:
                raise ValueError(f'parameter of {p.dim()} dimensions, not 2')

    @torch.no_grad()
    def step(self, closure=None):  # torch passes it when it loads a state
        for group in self.param_groups:
            lr, beta = group['lr'], group['momentum']
            for p in group['params']:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault('momentum', torch.zeros_like(p))
                m.lerp_(p.grad, 1 - beta)
                G = p.grad.lerp(m, beta)
                G = on_whole(orthogonalize, G.bfloat16() if G.is_cuda else G)
                p.mul_(1 - lr * group['weight_decay'])
                p.add_(G.to(p.dtype), alpha=-0.2 * lr * max(p.shape) ** 0.5)


def make_optimizers(model, optimizer, lr, betas, weight_decay):
    """The optimizers of `train`: decay on matrices only, in blocks Muon."""
    if optimizer not in ('muon', 'adamw'):
        raise ValueError(f"optimizer is {optimizer!r}, not 'muon' or 'adamw'")
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    inside = {n for n, p in named if 'blks.' in n and p.dim() == 2}
    if optimizer == 'adamw':
        inside = set()
    rest = [p for name, p in named if name not in inside]
    groups = [
        {'params': [p for p in rest if p.dim() > 1]},
        {'params': [p for p in rest if p.dim() < 2], 'weight_decay': 0.0},
    ]
    optimizers = [
        torch.optim.AdamW(
            groups, lr, betas, weight_decay=weight_decay, fused=True
        )
    ]
    if inside:
        matrices = [p for name, p in named if name in inside]
        optimizers.append(Muon(matrices, lr, weight_decay=weight_decay))
    return optimizers


@dataclasses.dataclass
class History:
    """What `train` measured at each step and at each evaluation.

    `tokens` and `seconds` add up over the steps; evaluation is not timed.
    """

    loss: list = dataclasses.field(default_factory=list)
    lr: list = dataclasses.field(default_factory=list)
    tokens: list = dataclasses.field(default_factory=list)
    seconds: list = dataclasses.field(default_factory=list)
    eval_step: list = dataclasses.field(default_factory=list)
    eval_loss: list = dataclasses.field(default_factory=list)

    def append(self, loss, lr, tokens, seconds):
        self.loss.append(loss)
        self.lr.append(lr)
        self.tokens.append(tokens + (self.tokens or [0])[-1])
        self.seconds.append(seconds + (self.seconds or [0.0])[-1])


def lr_factor(step, num_steps, warmup=0, schedule='cosine', final=0.1):
    """The share of the learning rate at `step`: up linearly, then down."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, num_steps - 1 - warmup)
    down = {
        'constant': 0.0,
        'linear': done,
        'cosine': (1 - math.cos(math.pi * done)) / 2,
    }[schedule]
    return 1 - (1 - final) * down


def to_device(batch, device):
    """Move a tensor, or each of a tuple of tensors, to `device`."""
    if isinstance(batch, (tuple, list)):
        return tuple(to_device(X, device) for X in batch)
    return batch.to(device)


def forever(batches):
    """Go through `batches` again and again; ValueError when it is empty."""
    while True:
        batch = None
        for batch in batches:
            yield batch
        if batch is None:
            raise ValueError('batches is empty, or an iterator at its end')


def write_whole(path, write):
    """Call `write(file)` so that `path` is replaced whole or not at all."""
    part = Path(f'{path}.part')
    try:
        with part.open('wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save_checkpoint(path, step, model, optimizers, history, settings):
    """Write all that `train` needs to go on after `step` steps.

    The file is the same for any number of processes; the first writes it.
    """
    cuda = next(model.parameters()).is_cuda
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights, moments = get_state_dict(model, optimizers, options=options)
    state = {
        'step': step,
        'settings': settings,
        'history': dataclasses.asdict(history),
        'model': weights,
        'optimizers': moments,
        'rng': torch.get_rng_state(),
        'cuda_rng': torch.cuda.get_rng_state() if cuda else None,
    }
    if processes()[0] == 0:
        write_whole(path, lambda file: torch.save(state, file))
    if dist.is_initialized():
        dist.barrier()


def load_checkpoint(path, model, optimizers, settings):
    """Put a checkpoint into model and optimizers and return the rest of it.

    Raises ValueError for a file that is no checkpoint, or one of another
    model or of other settings.
    """
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
        theirs = state['settings']
    except Exception as error:
        raise ValueError(f'{path} is not a checkpoint: {error}') from error
    for name, value in settings.items():
        if theirs[name] != value:
            raise ValueError(
                f'{path} was made with {name} = {theirs[name]}, not {value}'
            )
    shapes = {name: p.shape for name, p in model.state_dict().items()}
    if shapes != {name: p.shape for name, p in state['model'].items()}:
        raise ValueError(f'{path} is of another model')
    set_state_dict(
        model, optimizers,
        model_state_dict=state['model'],
        optim_state_dict=state['optimizers'],
        options=StateDictOptions(full_state_dict=True),
    )  # fmt: skip
    return state


def set_rate(optimizers, rate):
    """Give all parameters the learning rate `rate`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group['lr'] = rate


def update(runner, batches, loss_fn, optimizers, clip, precision):
    """One step on the mean over the labels of all `batches`.

    Returns the mean loss and the number of labels. Raises
    FloatingPointError, with the model as it was, if the loss is not finite.
    """
    params = [p for p in runner.parameters() if p.requires_grad]
    device, total, num_labels = params[0].device, 0.0, 0
    rank, world = processes()
    for batch in batches:
        batch = to_device(share(batch, rank, world), device)
        with torch.autocast(device.type, precision, precision is not None):
            loss, n = runner(loss_fn, batch)
        total, num_labels = total + loss.item() * n, num_labels + n
        (loss * n * world).backward()
    total, num_labels = total_of((total, num_labels), device)
    if not math.isfinite(total):
        raise FloatingPointError(f'loss is {total / num_labels}')
    for p in params:
        if p.grad is not None:
            p.grad.div_(num_labels)
    nn.utils.clip_grad_norm_(params, clip)
    for optimizer in optimizers:
        optimizer.step()
    runner.zero_grad()
    return total / num_labels, int(num_labels)


def train(
    model, batches, loss_fn, num_steps, lr=2e-3, optimizer='muon',
    betas=(0.9, 0.95), weight_decay=0.1, warmup=0, schedule='cosine',
    final=0.1, clip=1.0, accumulate=1, eval_fn=None, eval_every=0,
    checkpoint=None, checkpoint_every=100, precision=None, shard=False,
):  # fmt: skip
    """Train `model` for `num_steps` steps and return the `History`.

    `loss_fn(model, batch)` returns a mean loss and the number of labels it
    is the mean of. `optimizer` is 'muon' (with AdamW for what lies outside
    the blocks) or 'adamw'. The learning rate goes up over `warmup` steps and
    falls to `final` times `lr` by `schedule`: 'cosine', 'linear' or
    'constant'. A step averages the gradient over `accumulate` batches.
    `eval_fn(model)` is called every `eval_every` steps and at the end.

    With a `checkpoint` path, training is saved every `checkpoint_every`
    steps and goes on from there; the batches seen so far are drawn again and
    dropped, so they must come in the same order. Ctrl-C ends training and
    keeps model and history. On a GPU with bfloat16 the loss is computed
    under autocast in it; `precision` sets another type.

    Under `torchrun` the processes share every batch among them, as many
    rows each, and with `shard` also the parameters; then `model` stays
    sharded. The first process shows the progress.

    Raises ValueError for settings out of range, for empty batches and for
    an unfitting checkpoint, FloatingPointError for a loss that is not finite.
    """
    limits = {'num_steps': num_steps, 'accumulate': accumulate,
              'checkpoint_every': checkpoint_every}  # fmt: skip
    for name, value in limits.items():
        if value < 1:
            raise ValueError(f'{name} is {value}, below 1')
    if schedule not in ('cosine', 'linear', 'constant'):
        raise ValueError(f'unknown schedule {schedule!r}')
    settings = {
        'num_steps': num_steps, 'lr': lr, 'optimizer': optimizer,
        'betas': tuple(betas), 'weight_decay': weight_decay,
        'warmup': warmup, 'schedule': schedule, 'final': final,
        'clip': clip, 'accumulate': accumulate,
    }  # fmt: skip
    if precision is None and next(model.parameters()).is_cuda:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        precision = torch.bfloat16 if native else None
    runner, rank = parallelize(model, shard), processes()[0]
    optimizers = make_optimizers(model, optimizer, lr, betas, weight_decay)
    history, start, batches = History(), 0, forever(batches)
    if checkpoint and Path(checkpoint).exists():
        state = load_checkpoint(checkpoint, model, optimizers, settings)
        history, start = History(**state['history']), state['step']
        for _ in range(start * accumulate):
            next(batches)
        torch.set_rng_state(state['rng'])
        if state['cuda_rng'] is not None:
            torch.cuda.set_rng_state(state['cuda_rng'])
    model.train()
    bar = tqdm(
        range(start, num_steps), initial=start, total=num_steps,
        leave=False, disable=rank > 0 or 'TQDM_DISABLE' in os.environ,
    )  # fmt: skip
    try:
        for step in bar:
            began = time.perf_counter()
            rate = lr * lr_factor(step, num_steps, warmup, schedule, final)
            set_rate(optimizers, rate)
            loss, num_labels = update(
                runner, islice(batches, accumulate), loss_fn, optimizers,
                clip, precision,
            )  # fmt: skip
            seconds = time.perf_counter() - began
            history.append(loss, rate, num_labels, seconds)
            bar.set_postfix(loss=f'{loss:.3f}', refresh=False)
            done, last = step + 1, step + 1 == num_steps
            if eval_fn and (last or (eval_every and done % eval_every == 0)):
                history.eval_step.append(done)
                with torch.no_grad():
                    history.eval_loss.append(runner(eval_fn))
            if checkpoint and (last or done % checkpoint_every == 0):
                save_checkpoint(
                    checkpoint, done, model, optimizers, history, settings
                )
    except FloatingPointError as error:
        raise FloatingPointError(
            f'{error} at step {step}, learning rate {rate:.3g}'
        ) from None
    except KeyboardInterrupt:
        if rank == 0:
            print(f'stopped by hand after {len(history.loss)} steps')
    finally:
        bar.close()
        model.zero_grad()
        model.eval()
    return history
