"""Drawing text from a model, token by token."""

import torch
from torch.nn import functional as F


def sample(logits, temperature=1.0, top_k=None, top_p=None, generator=None):
    """Draw one token per row of `logits`, (batch, vocab_size) -> (batch,).

    Temperature 0 takes the best. `top_k` keeps that many of the best tokens
    (Fan et al., 2018), `top_p` the fewest best whose probabilities reach
    it (Holtzman et al., 2020). Raises ValueError for values out of range.
    """
    if temperature < 0:
        raise ValueError(f'temperature is {temperature}, below 0')
    if temperature == 0:
        return logits.argmax(-1)
    probs, tokens = F.softmax(logits / temperature, -1).sort(-1, True)
    if top_k is not None:
        if top_k < 1:
            raise ValueError(f'top_k is {top_k}, below 1')
        probs[:, top_k:] = 0
    if top_p is not None:
        if not 0 < top_p <= 1:
            raise ValueError(f'top_p is {top_p}, outside (0, 1]')
        probs[probs.cumsum(-1) - probs >= top_p] = 0
    choice = torch.multinomial(probs, 1, generator=generator)
    return tokens.gather(-1, choice)[:, 0]


@torch.no_grad()
def generate(
    model, X, num_tokens, temperature=1.0, top_k=None, top_p=None,
    stop=None, use_cache=True, generator=None,
):  # fmt: skip
    """Continue the prompts `X`, (batch, num_steps), by up to `num_tokens`.

    Returns prompts and continuations, (batch, num_steps + num_tokens) or
    fewer when all have met the `stop` token, which then fills the rest of
    their rows. With the cache each step feeds one token; without, all.
    Raises ValueError when the result would pass the model's `max_len`.
    """
    if X.shape[1] + num_tokens > model.config.max_len:
        raise ValueError(
            f'{X.shape[1]} + {num_tokens} tokens, more than max_len, '
            f'{model.config.max_len}'
        )
    was_training = model.training
    model.eval()
    caches = model.new_caches() if use_cache else None
    X = X.to(next(model.parameters()).device)
    stopped = torch.zeros(len(X), dtype=torch.bool, device=X.device)
    inputs = X
    for _ in range(num_tokens):
        logits = model(inputs, caches=caches)[:, -1]
        token = sample(logits, temperature, top_k, top_p, generator)
        if stop is not None:
            token = token.masked_fill(stopped, stop)
            stopped = stopped | (token == stop)
        X = torch.cat((X, token[:, None]), dim=1)
        inputs = token[:, None] if use_cache else X
        if stopped.all():
            break
    model.train(was_training)
    return X
