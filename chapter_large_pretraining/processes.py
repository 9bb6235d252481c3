"""Training that goes on where it was stopped, on one process or on several.

    utils.train(model, ..., run=processes.Run('model.pt'))

Processes are started by `torchrun`. Each takes its share of the rows of every
batch. Gradients add up to those of one process with all the rows. What takes
long to import, for parts of tensors and checkpoints, is imported where it is
used.
"""

import contextlib
import dataclasses
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import utils
from corpora.storage import write_whole


class ShardedMuon(utils.Muon):
    """Muon for matrices of which the processes may hold a part each."""

    def orthogonal(self, gradients):
        if not hasattr(gradients[0], 'full_tensor'):
            return super().orthogonal(gradients)
        whole = super().orthogonal([G.full_tensor() for G in gradients])
        return [part_of(X, G) for X, G in zip(whole, gradients, strict=True)]


def part_of(X, like):
    """The part of the whole matrix `X` that this process holds of `like`."""
    from torch.distributed.tensor import DTensor, Replicate

    X = DTensor.from_local(X.contiguous(), like.device_mesh, [Replicate()])
    return X.redistribute(placements=like.placements)


class Run(utils.Run):
    """What goes on beside `utils.train`, with checkpoints and processes.

    With a `checkpoint` path, training is saved every `checkpoint_every`
    steps and goes on from there; the batches seen so far are drawn again and
    dropped, so they must come in the same order. Under `torchrun` the
    processes share every batch among them, as many rows each, and with
    `shard` also the parameters; then the model stays sharded. Rows without
    labels add nothing, and a process may have no others. Each takes its rows
    in `accumulate` parts, one after the other, which saves memory; whole
    gradients are exchanged once per step, sharded ones with every part. The
    first process shows the progress. Raises ValueError for numbers below
    one, an unfitting checkpoint, and `shard` without `torchrun`.
    """

    muon = ShardedMuon

    def __init__(
        self, checkpoint=None, checkpoint_every=100, shard=False, accumulate=1
    ):
        for name, value in (
            ('checkpoint_every', checkpoint_every),
            ('accumulate', accumulate),
        ):
            if value < 1:
                raise ValueError(f'{name} is {value}, below 1')
        self.checkpoint = Path(checkpoint) if checkpoint else None
        self.checkpoint_every, self.shard = checkpoint_every, shard
        self.accumulate = accumulate

    def prepare(self, model, settings):
        self.rank, self.world = rank_and_world()
        self.quiet, self.states = self.rank > 0, None
        self.runner = parallelize(model, self.shard, self.accumulate > 1)
        optimizers = super().prepare(model, settings)
        if self.checkpoint and self.checkpoint.exists():
            saved = load_checkpoint(
                self.checkpoint, model, optimizers, settings
            )
            self.history = utils.History(**saved['history'])
            self.step, self.states = saved['step'], saved['rng']
        return optimizers

    def steps(self, batches):
        batches = utils.forever(batches)
        for _ in range(self.step):
            next(batches)
        if self.states:
            set_rng_states(self.states)
        mine = (share(batch, self.rank, self.world) for batch in batches)
        yield from super().steps(mine)

    def forward(self, loss_fn, batch):
        parts = [
            share(batch, i, self.accumulate) for i in range(self.accumulate)
        ]
        sums = []
        for part in parts[:-1]:
            with self.apart():
                loss, n = self.loss_of(loss_fn, part)
                (loss * n).backward()
            sums.append((loss.item() * n, n))
        loss, n = self.loss_of(loss_fn, parts[-1])
        sums.append((loss.item() * n, n))
        sums = [sum(column) for column in zip(*sums, strict=True)]
        total, num_labels = total_of(sums, self.device)
        self.keep(total / max(1, num_labels), int(num_labels))
        # gradients are averaged over processes, not over their labels
        scale = self.world / num_labels
        for p in self.model.parameters():
            if p.grad is not None:  # of the parts before
                p.grad.mul_(scale)
        return loss * (n * scale)

    def loss_of(self, loss_fn, part):
        with utils.autocast(self.device):
            return self.runner(loss_fn, part)

    def apart(self):
        """A context in which whole gradients are not exchanged."""
        whole = isinstance(self.runner, nn.parallel.DistributedDataParallel)
        return self.runner.no_sync() if whole else contextlib.nullcontext()

    def record(self, rate, eval_fn, eval_every):
        super().record(rate, eval_fn, eval_every)
        if self.checkpoint and self.is_time(self.checkpoint_every):
            save_checkpoint(
                self.checkpoint,
                self.step,
                self.model,
                self.optimizers,
                self.history,
                self.settings,
            )

    @torch.no_grad()
    def evaluate(self, eval_fn):
        return self.runner(eval_fn)


# ---- Checkpoints ----


def rng_states():
    """The states of PyTorch's generators: CPU and, where it is in use, GPU."""
    if torch.cuda.is_initialized():
        return [torch.get_rng_state(), torch.cuda.get_rng_state()]
    return [torch.get_rng_state()]


def set_rng_states(states):
    """Put back what `rng_states` returned."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)


def save_checkpoint(path, step, model, optimizers, history, settings):
    """Write all that `train` needs to go on after `step` steps.

    The file is the same for any number of processes; the first writes it.
    """
    from torch.distributed.checkpoint import state_dict

    options = state_dict.StateDictOptions(
        full_state_dict=True, cpu_offload=True
    )
    weights, moments = state_dict.get_state_dict(
        model, optimizers, options=options
    )
    state = {
        'step': step,
        'settings': settings,
        'rng': rng_states(),
        'history': dataclasses.asdict(history),
        'model': weights,
        'optimizers': moments,
    }
    if rank_and_world()[0] == 0:
        write_whole(path, lambda file: torch.save(state, file))
    if dist.is_initialized():
        dist.barrier()


def load_checkpoint(path, model, optimizers, settings):
    """Put a checkpoint into model and optimizers and return the rest of it.

    Raises ValueError for a file that is no checkpoint, or one of another
    model or of other settings.
    """
    from torch.distributed.checkpoint import state_dict

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
    state_dict.set_state_dict(
        model,
        optimizers,
        model_state_dict=state['model'],
        optim_state_dict=state['optimizers'],
        options=state_dict.StateDictOptions(full_state_dict=True),
    )
    return state


# ---- Processes ----


def rank_and_world():
    """The number of this process and how many there are: (rank, world).

    Joins the others on the first call under `torchrun`; without it, (0, 1).
    """
    if 'RANK' in os.environ and not dist.is_initialized():
        dist.init_process_group()
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def share(batch, rank, world):
    """Rows of a tensor, or of each of a tuple of tensors, one in `world`.

    Raises ValueError for fewer rows than shares.
    """
    if isinstance(batch, (tuple, list)):
        return tuple(share(X, rank, world) for X in batch)
    if len(batch) < world:
        raise ValueError(f'{len(batch)} rows in a batch, {world} shares')
    return batch[rank::world]


def total_of(values, device):
    """The sums over all processes of a few numbers, as a list."""
    values = torch.tensor(values, dtype=torch.float64, device=device)
    if dist.is_initialized():
        dist.all_reduce(values)
    return values.tolist()


class Runner(nn.Module):
    """A model that is called with a function of it, `function(model, ...)`.

    So the parameters are exchanged around any function, not `forward` only.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, function, *inputs):
        return function(self.model, *inputs)


def parallelize(model, shard=False, in_parts=False):
    """A `Runner` of `model` for all processes.

    Data-parallel, each process holds the whole model and the gradients are
    averaged (Li et al., 2020). With `shard` it holds one part of every
    parameter, and gathers a block when it needs it (Zhao et al., 2023).
    `in_parts` is for batches of which only the last part is exchanged.
    Raises ValueError for `shard` without `torchrun`.
    """
    world, runner = rank_and_world()[1], Runner(model)
    if shard:
        from torch.distributed.fsdp import fully_shard

        if not dist.is_initialized():
            raise ValueError('shard is for processes started by torchrun')
        device = next(model.parameters()).device
        mesh = dist.init_device_mesh(device.type, (world,))
        for module in list(model.modules()):
            if isinstance(module, utils.Block):
                fully_shard(module, mesh=mesh)
        return fully_shard(runner, mesh=mesh, reshard_after_forward=True)
    if world == 1:
        return runner
    return nn.parallel.DistributedDataParallel(
        runner, static_graph=not in_parts, find_unused_parameters=in_parts
    )
