"""Runs for the exercises of scaling."""

import functools

import numpy as np
import torch

import corpora
import utils

from .. import scaling

NUM_STEPS, BATCH_SIZE = 64, 16
RATES = [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064]


@functools.cache
def texts():
    """Tokens to train on and rows to evaluate, as in the notebook."""
    _, _, train, valid = scaling.load(None, 1024)
    return train, corpora.blocks(valid, NUM_STEPS)[:1024].split(64)


# ---- Exercise 6: maximal update parametrization, with AdamW ----


def mup_gpt(width):
    """A GPT of two blocks with the initial weights of Yang et al. (2022)."""
    model = utils.GPT(
        utils.Config(
            1024,
            width,
            4,
            2,
            NUM_STEPS,
            tie_weights=False,
            scale=4 / width,  # one over the width of a head
            scaled_init=False,
        )
    )
    for W in model.blks.parameters():
        if W.dim() == 2:
            torch.nn.init.normal_(W, std=W.shape[1] ** -0.5)
    torch.nn.init.zeros_(model.head.weight)
    return model


def mup_loss(width, rate, seed, num_steps=488):
    """After half a million tokens, with AdamW and a rate for each matrix.

    Rates of the matrices of blocks and head are `rate` at width 16, and fall
    as one over the width.
    """
    train, rows = texts()
    torch.manual_seed(seed)
    model = mup_gpt(width)
    narrow, tables, vectors = [], [], []
    for name, p in model.named_parameters():
        falls = 'blks' in name or 'head' in name
        (vectors if p.dim() < 2 else narrow if falls else tables).append(p)
    optimizer = torch.optim.AdamW(
        [
            {'params': narrow, 'lr': rate * 16 / width},
            {'params': tables},
            {'params': vectors, 'weight_decay': 0.0},
        ],
        lr=rate,
        betas=(0.9, 0.95),
        weight_decay=0.1,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: utils.lr_factor(step, num_steps, num_steps // 20),
    )
    batches = corpora.windows(train, BATCH_SIZE, NUM_STEPS, seed)
    for _ in range(num_steps):
        utils.lm_loss(model, next(batches))[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return utils.evaluate(model, rows, utils.lm_loss)


def bottom(setting, seed):
    """The loss at each of the RATES for one width."""
    width = int(setting.split()[0])
    losses = [mup_loss(width, rate, seed) for rate in RATES]
    return {'rates': RATES, 'losses': losses}


# ---- Exercise 7: what is transferred, at two widths ----

GIVEN = [1000, 4000, 16000]
FACTORS = [0.5, 1.0, 2.0]


@functools.cache
def world_text():
    """Tokens of the small world to learn, and rows to evaluate."""
    corpus, _, _, _ = scaling.load(None, 1024)
    tokenizer = corpora.documentation_tokenizer(corpus)
    world = corpora.SmallWorld()
    documents = world.documents(8000)
    lengths = torch.bincount(documents.doc).tolist()
    tokens = corpora.encode(
        tokenizer,
        [
            world.decode(text.flatten())
            for text in documents.sentences.split(lengths)
        ],
    )
    rows = corpora.blocks(tokens[:8192], NUM_STEPS)[:64]
    return tokens[8192:], [rows]


def new_gpt(width, seed):
    torch.manual_seed(seed)
    return utils.GPT(utils.Config(1024, width, width // 32, 2, NUM_STEPS))


@functools.cache
def pretrained(width, seed):
    """The weights of a GPT after half a million tokens of documentation."""
    model = new_gpt(width, seed)
    utils.train(
        model,
        corpora.windows(texts()[0], BATCH_SIZE, NUM_STEPS, seed),
        utils.lm_loss,
        488,
        {32: 0.048, 64: 0.024}[width],
        warmup=24,
    )
    return model.state_dict()


def learned(width, from_scratch, num_tokens, factor, seed):
    """The lowest loss on new text, of a text read again and again."""
    tokens, rows = world_text()
    model = new_gpt(width, seed)
    if not from_scratch:
        model.load_state_dict(pretrained(width, seed))
    text = tokens[seed * num_tokens :][:num_tokens]
    lr = (0.006 if from_scratch else 0.003) * (num_tokens / 1000) ** 0.5
    history = utils.train(
        model,
        corpora.windows(text, 8, NUM_STEPS, seed),
        utils.lm_loss,
        200,
        factor * lr,
        warmup=10,
        eval_every=20,
        eval_fn=lambda model: utils.evaluate(model, rows, utils.lm_loss),
    )
    return min(history.eval_loss)


def transfer(setting, seed):
    """Losses from scratch and pretrained, each at its best of three rates."""
    width = int(setting.split()[0])
    best, at_one = {}, {}
    for name, scratch, given in (
        ('scratch', True, GIVEN),
        ('tuned', False, GIVEN[:2]),
    ):
        losses = np.array(
            [
                [learned(width, scratch, n, factor, seed) for n in given]
                for factor in FACTORS
            ]
        )
        best[name] = losses.min(0).tolist()
        at_one[f'{name}_by_rate'] = losses.T.flatten().tolist()
    return best | at_one


EXERCISES = {
    7: (transfer, ['32 wide', '64 wide'], 2),
    6: (bottom, ['16 wide', '32 wide', '64 wide'], 1),
}
