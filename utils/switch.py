"""The feed-forward network with experts of the Switch Transformer."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .models import FeedForward


class SwitchFeedForward(nn.Module):
    """Several feed-forward networks, of which each token goes through one.

    (..., num_hiddens) in and out. The router picks the expert with the
    highest probability, which also scales its output. An expert takes
    `capacity_factor` times its even share of the tokens, first come first
    served; a token beyond that gets zeros, so that only the residual
    connection carries it on. After each call `share` (num_experts,) says
    which part of the tokens wanted which expert, `dropped` which part was
    turned away, and `balance` is the auxiliary loss, at least 1 when all
    experts are wanted alike. Raises ValueError for less than one expert and
    a factor not above 0. (Fedus et al., 2022, sections 2.1 and 2.2)
    """

    def __init__(self, config, num_experts, capacity_factor=1.25):
        super().__init__()
        if num_experts < 1 or capacity_factor <= 0:
            raise ValueError(
                f'num_experts is {num_experts}, below 1, or capacity_factor '
                f'is {capacity_factor}, not above 0'
            )
        self.capacity_factor = capacity_factor
        self.router = nn.Linear(config.num_hiddens, num_experts, bias=False)
        self.experts = nn.ModuleList(
            FeedForward(config) for _ in range(num_experts)
        )

    def forward(self, X):
        H = X.flatten(0, -2)  # (num_tokens, num_hiddens)
        probs = self.router(H).softmax(-1)  # (num_tokens, num_experts)
        gate, choice = probs.max(-1)
        num_tokens, num_experts = probs.shape
        capacity = math.ceil(self.capacity_factor * num_tokens / num_experts)
        Y, num_kept = torch.zeros_like(H), 0
        for i, expert in enumerate(self.experts):
            rows = (choice == i).nonzero()[:capacity, 0]
            Y = Y.index_copy(0, rows, gate[rows, None] * expert(H[rows]))
            num_kept += len(rows)
        self.share = F.one_hot(choice, num_experts).float().mean(0)
        self.dropped = 1 - num_kept / num_tokens
        self.balance = num_experts * (self.share * probs.mean(0)).sum()
        return Y.view_as(X)
