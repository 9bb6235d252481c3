"""Drawing text from a model, token by token."""

import torch
from torch import nn
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


class Answering(nn.Module):
    """A T5 that has read `X`: maps target ids to scores, like a GPT.

    The text is encoded once, when the first scores are asked for.
    """

    def __init__(self, model, X, valid_lens=None):
        super().__init__()
        device = next(model.parameters()).device
        self.model, self.config, self.memory = model, model.config, None
        self.X = X.to(device)
        self.valid_lens = None if valid_lens is None else valid_lens.to(device)

    def forward(self, Y, caches=None):
        if self.memory is None:
            self.memory = self.model.encode(self.X, self.valid_lens)
        return self.model.decode(Y, self.memory, self.valid_lens, caches)

    def new_caches(self):
        return self.model.new_caches()


def answer(model, X, valid_lens=None, num_tokens=32, **options):
    """Let a T5 answer texts `X`, (batch, num_inputs), each by new tokens.

    Returns ids (batch, up to `num_tokens`), without the 0 that the decoder
    starts from; `options` are those of `generate`. Raises ValueError like
    `generate`.
    """
    start = torch.zeros(len(X), 1, dtype=torch.long)
    reader = Answering(model, X, valid_lens).train(model.training)
    return generate(reader, start, num_tokens, **options)[:, 1:]
