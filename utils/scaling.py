"""What a model costs: its parameters and its floating-point operations."""

import torch

from .models import GPT


def count_parameters(config):
    """Parameters of a GPT without and with its embeddings.

    Returns (non_embedding, total). The first leaves out the token and the
    position table and, where it is not tied, the output layer (Kaplan et
    al., 2020, section 2.1).
    """
    with torch.device('meta'):
        model = GPT(config)
    total = sum(p.numel() for p in model.parameters())
    tables = [model.token_embedding, model.pos_embedding]
    tables += [] if config.tie_weights else [model.head]
    return total - sum(table.weight.numel() for table in tables), total


def train_flops(config, num_tokens, num_steps=None, rule='hoffmann'):
    """Floating-point operations of training a GPT on `num_tokens` tokens.

    A product and an addition count as two, the backward pass as twice the
    forward pass. 'kaplan' is 6 per non-embedding parameter and token (Kaplan
    et al., 2020, section 2.1); 'hoffmann' counts every matrix product,
    embedding and output layer, and the softmax, over windows of `num_steps`
    tokens, by default `max_len` (Hoffmann et al., 2022, appendix F). Raises
    ValueError for another rule.
    """
    if rule == 'kaplan':
        return 6 * count_parameters(config)[0] * num_tokens
    if rule != 'hoffmann':
        raise ValueError(f"rule is {rule!r}, not 'kaplan' or 'hoffmann'")
    num_steps = config.max_len if num_steps is None else num_steps
    d, wide = config.num_hiddens, config.ffn_num_hiddens
    projections = 2 * 4 * d * d
    scores = 2 * num_steps * d * 2 + 3 * config.num_heads * num_steps
    block = projections + scores + 2 * 2 * d * wide
    tables = 2 * 2 * config.vocab_size * d
    return 3 * (config.num_blks * block + tables) * num_tokens
