"""Adds CHAPTER_SEED to every seed of a process; on its path, Python runs it.

torch, NumPy and random; where a seed is a list, its last number moves.
"""

import os
import random

import numpy as np
import torch

SHIFT = int(os.environ['CHAPTER_SEED'])
seed_torch, numpy_rng = torch.manual_seed, np.random.default_rng


def shifted(seed):
    if isinstance(seed, (list, tuple)):
        return [*seed[:-1], seed[-1] + SHIFT]
    return seed + SHIFT if isinstance(seed, (int, np.integer)) else seed


class Generator(torch.Generator):
    def manual_seed(self, seed):
        return super().manual_seed(shifted(seed))


class Random(random.Random):
    def __init__(self, seed=None):
        super().__init__(shifted(seed))


torch.manual_seed = lambda seed: seed_torch(shifted(seed))
torch.Generator = Generator
np.random.default_rng = lambda seed=None: numpy_rng(shifted(seed))
random.Random = Random
