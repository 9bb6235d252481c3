"""One model on several processes: who computes what, and what they exchange.

Processes are started by `torchrun`. Each takes its share of the rows of
every batch. Gradients add up to those of one process with all the rows.
"""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from .models import Block


def processes():
    """The number of this process and how many there are: (rank, world).

    Joins the others on the first call under `torchrun`; without it, (0, 1).
    """
    if 'RANK' in os.environ and not dist.is_initialized():
        dist.init_process_group()
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def share(batch, rank, world):
    """This process's rows of a tensor, or of each of a tuple of tensors.

    Raises ValueError for fewer rows than processes.
    """
    if isinstance(batch, (tuple, list)):
        return tuple(share(X, rank, world) for X in batch)
    if len(batch) < world:
        raise ValueError(f'{len(batch)} rows in a batch, {world} processes')
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


def parallelize(model, shard=False):
    """A `Runner` of `model` for all processes.

    Data-parallel, each process holds the whole model and the gradients are
    averaged (Li et al., 2020). With `shard` it holds one part of every
    parameter, and gathers a block when it needs it (Zhao et al., 2023).
    Raises ValueError for `shard` without `torchrun`.
    """
    world, runner = processes()[1], Runner(model)
    if shard:
        if not dist.is_initialized():
            raise ValueError('shard is for processes started by torchrun')
        device = next(model.parameters()).device
        mesh = dist.init_device_mesh(device.type, (world,))
        for module in list(model.modules()):
            if isinstance(module, Block):
                fully_shard(module, mesh=mesh)
        return fully_shard(runner, mesh=mesh, reshard_after_forward=True)
    if world == 1:
        return runner
    return DistributedDataParallel(runner, static_graph=True)
