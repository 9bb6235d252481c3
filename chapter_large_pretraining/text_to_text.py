"""Text to text in the small world: objectives, one stack or two, scores.

A text is ids padded with 0 and its length; a batch is (X, valid_lens,
labels), as `utils.seq2seq_loss` takes it.
"""

import functools
import math
from collections import Counter

import torch
from torch import nn
from torch.nn import functional as F

import corpora
import successors
from corpora import BOS, EOS, by_length, rouge_l
from published import published_config
from utils import (
    Block,
    Stack,
    answer,
    causal_mask,
    choose_spans,
    corrupt_spans,
    init_weights,
    mask_tokens,
    move_left,
    prefix_mask,
    seq2seq_loss,
    train,
)

# ---- Models ----


def small_config(vocab_size, num_hiddens=64, num_blks=2):
    """The T5 of the chapter: four heads, and weights for a narrow model."""
    return published_config(
        't5-small',
        vocab_size=vocab_size,
        num_hiddens=num_hiddens,
        num_heads=4,
        head_width=num_hiddens // 4,
        num_blks=num_blks,
        dropout=0.0,
        init_std=0.05,
    )


class OneStack(nn.Module):
    """Text and target in one stack of blocks, one behind the other.

    Takes what `T5` takes, and returns scores for the target's tokens. With
    `sees_input` all of the text may attend to all of it (a prefix language
    model), else only to what is on the left (a decoder). Padding goes to the
    left of the text, so that the target follows it directly. (Raffel et al.,
    2020, section 3.2.1)
    """

    def __init__(self, config, sees_input):
        super().__init__()
        self.config, self.sees_input = config, sees_input
        vocab_size, num_hiddens = config.vocab_size, config.num_hiddens
        self.token_embedding = nn.Embedding(vocab_size, num_hiddens)
        self.stack = Stack(config, Block, bidirectional=sees_input)
        self.head = nn.Linear(num_hiddens, vocab_size, bias=False)
        self.head.weight = self.token_embedding.weight
        init_weights(self, config)

    def encode(self, X, valid_lens=None):
        """The text as `decode` takes it, padding first."""
        if valid_lens is None:
            return X
        n = X.shape[1]
        shifted = torch.arange(n, device=X.device) + valid_lens[:, None]
        return X.gather(1, shifted % n)

    def decode(self, Y, memory, valid_lens=None, caches=None):
        """Scores of the tokens after each of `Y`; there is no cache."""
        n, total = memory.shape[1], memory.shape[1] + Y.shape[1]
        mask = causal_mask(total, device=Y.device)
        if self.sees_input:
            mask = prefix_mask(n, total, device=Y.device)
        if valid_lens is not None:
            first = n - valid_lens  # of the text
            positions = torch.arange(total, device=Y.device)
            mask = mask & (positions >= first[:, None])[:, None, None]
        H = self.token_embedding(torch.cat((memory, Y), dim=1))
        H = self.stack(H, mask, total)[:, n:]
        return self.head(H * self.config.num_hiddens**-0.5)

    def forward(self, X, Y, valid_lens=None):
        return self.decode(Y, self.encode(X, valid_lens), valid_lens)


def operations(model, num_read, num_written):
    """Multiplications and additions of training on a text and its target.

    Six for each parameter and each token that goes through it; the scores of
    attention, few for short texts, are left out. The cross-attention of a
    `T5` makes keys and values of what is read, and queries of what is
    written.
    """

    def count(part):
        return sum(p.numel() for p in part.parameters())

    head = count(model.head) * num_written
    if isinstance(model, OneStack):
        return 6 * (count(model.stack) * (num_read + num_written) + head)
    across = sum(
        blk.cross_attention.layer.W_qkv.weight.numel() * 2 // 3
        for blk in model.decoder.blks
    )
    read = count(model.encoder) + across
    written = count(model.decoder) - across
    return 6 * (read * num_read + written * num_written + head)


# ---- Objectives: from unlabelled texts to batches ----


def whole(X, valid_lens):
    """Labels for which the decoder writes all of a text, and then <eos>."""
    labels = F.pad(X, (0, 1)).scatter(1, valid_lens[:, None], EOS)
    ended = torch.arange(labels.shape[1]) > valid_lens[:, None]
    return labels.masked_fill(ended, -100)


def spans(world, X, valid_lens, generator=None):
    """T5's span corruption, of 15 to 45 % of the tokens, 30 on average."""
    density = 0.15 + 0.3 * torch.rand(1, generator=generator).item()
    hidden = choose_spans(valid_lens, X.shape[1], density, generator=generator)
    return corrupt_spans(X, valid_lens, hidden, world.sentinels)


def denoising(world, X, valid_lens, generator=None):
    """Write the text of which some tokens are hidden as BERT hides them.

    (Raffel et al., 2020, section 3.3.1)
    """
    inputs, _ = mask_tokens(X, len(world.words), 0.3, generator=generator)
    return inputs, valid_lens, whole(X, valid_lens)


def continuing(world, X, valid_lens, generator=None):
    """Language modeling: write what follows a beginning of random length.

    (Raffel et al., 2020, section 3.2.3)
    """
    share = torch.rand(len(X), generator=generator)
    cut = 1 + (share * (valid_lens - 1)).long()
    read = torch.arange(X.shape[1]) < cut[:, None]
    labels = whole(X, valid_lens)
    rest = F.pad(~read, (0, 1), value=True) & (labels != -100)
    beginnings, cut = move_left(X, read)
    return beginnings, cut, move_left(labels, rest, -100)[0]


def from_nothing(world, X, valid_lens, generator=None):
    """Language modeling without a beginning, for a decoder alone."""
    start = torch.full((len(X), 1), BOS)
    return start, torch.ones_like(valid_lens), whole(X, valid_lens)


def copying(world, X, valid_lens, generator=None):
    """Write the text once more: denoising without noise."""
    return X, valid_lens, whole(X, valid_lens)


def noised(noise, world, X, valid_lens, generator=None, **options):
    """Write the text that `noise` has spoiled, one of BART's ways."""
    spoiled = noise(X, valid_lens, generator=generator, **options)
    return *spoiled, whole(X, valid_lens)


def permuted(world, X, valid_lens, generator=None):
    """Write the text whose sentences are permuted."""
    stop_id = world.encode(['.'])[0, 0]
    permute = successors.permute_sentences
    return noised(permute, world, X, valid_lens, generator, stop_id=stop_id)


def bart(world, X, valid_lens, generator=None):
    """Write the text whose sentences are permuted and spans are masked.

    (Lewis et al., 2020, section 5.1)
    """
    *spoiled, labels = permuted(world, X, valid_lens, generator)
    return *successors.infill(*spoiled, generator=generator), labels


OBJECTIVES = {
    'spans': spans,
    'denoising': denoising,
    'language modeling': continuing,
    'from nothing': from_nothing,
    'copying': copying,
    'token masking': functools.partial(noised, successors.mask_some, rate=0.3),
    'token deletion': functools.partial(
        noised, successors.delete_some, rate=0.3
    ),
    'text infilling': functools.partial(noised, successors.infill),
    'sentence permutation': permuted,
    'document rotation': functools.partial(noised, successors.rotate),
    'infilling and permutation': bart,
}


def objective_batches(world, texts, objective, batch_size, seed=0):
    """Endless batches of an objective, made anew whenever a text comes up.

    `texts` are ids and lengths, as from `TextTasks.unlabelled`. Raises
    ValueError for an objective that is none of OBJECTIVES.
    """
    if objective not in OBJECTIVES:
        raise ValueError(
            f'objective is {objective!r}, not one of {[*OBJECTIVES]}'
        )

    def make(X, valid_lens, generator):
        X = X[:, : valid_lens.max()]
        return OBJECTIVES[objective](world, X, valid_lens, generator)

    return corpora.random_rows(
        *texts, batch_size=batch_size, seed=seed, batch_fn=make
    )


# ---- Fine-tuning and writing ----


def fine_tune(model, pairs, num_steps, batch_size=16, seed=0):
    """Train a model, or go on with it, on the `Pairs` of one or more tasks.

    Muon, the learning rate rising to 0.01 over ten steps and falling again
    to a tenth of it. Raises ValueError without pairs and without steps.
    """
    return train(
        model,
        by_length(pairs, batch_size, seed),
        seq2seq_loss,
        num_steps,
        lr=0.01,
        warmup=10,
    )


def texts_of(world, ids):
    """The texts of ids (n, width), each up to <eos>."""
    rows = [world.decode(row) for row in ids.clamp(min=0)]
    return [text.partition('<eos>')[0].strip() for text in rows]


def write(world, model, pairs, num_tokens=24):
    """What a model writes for the texts of `Pairs`, greedily."""
    options = {'temperature': 0, 'stop': EOS}
    if isinstance(model, OneStack):
        options['use_cache'] = False
    ids = answer(model, pairs.X, pairs.valid_lens, num_tokens, **options)
    return texts_of(world, ids)


# ---- Scores ----


def rouge_n(text, truth, n):
    """ROUGE-N of two texts, 0 to 1: how many groups of n words they share.

    As a share of the groups of each, in the harmonic mean; a group counts as
    often as both have it. 0 if one of them has none. (Lin, 2004, section 2,
    takes the share of those of `truth` only)
    """
    a, b = (
        Counter(zip(*(words[i:] for i in range(n)), strict=False))
        for words in (text.split(), truth.split())
    )
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if a and b else 0.0


SLOTS = 'who', 'opinion', 'color', 'thing'
OPINIONS = 'likes', 'dislikes'


def slots(summary):
    """What a summary says in each of SLOTS, '' for what it does not say.

    Who is what stands before the verb, the color what stands between "the"
    and the last word.
    """
    words = summary.removesuffix('.').split()
    verbs = [i for i, word in enumerate(words) if word in OPINIONS]
    at = verbs[0] if verbs else len(words)
    who, told = words[:at], words[at + 2 :]
    found = who, words[at : at + 1], told[:-1], told[-1:]
    return dict(zip(SLOTS, map(' '.join, found), strict=True))


def summary_scores(written, truth):
    """Mean scores of summaries, each 0 to 1.

    ROUGE-1, -2 and -L, the share that is right in each of SLOTS, and the
    share that is exact. Raises ValueError for another number of texts.
    """
    scores = Counter()
    for text, true in zip(written, truth, strict=True):
        scores['ROUGE-1'] += rouge_n(text, true, 1)
        scores['ROUGE-2'] += rouge_n(text, true, 2)
        scores['ROUGE-L'] += rouge_l(text, true) if text else 0.0
        said = slots(text)
        for name, value in slots(true).items():
            scores[name] += said[name] == value
        scores['exact'] += text == true
    return {name: total / len(truth) for name, total in scores.items()}


def exact_match(written, truth):
    """The share of texts that are right to the last word."""
    pairs = list(zip(written, truth, strict=True))
    return sum(a == b for a, b in pairs) / len(pairs)


# ---- Mixtures ----


def mixing_rates(sizes, limit=math.inf, temperature=1.0):
    """Shares of tasks in a mixture, a tensor, from their numbers of examples.

    In proportion to the sizes, of which none counts for more than `limit`;
    raised to 1 / `temperature`, which makes them more alike. (Raffel et al.,
    2020, section 3.5.2) Raises ValueError for a size, a limit or a
    temperature that is not above 0.
    """
    for name, least in {
        'sizes': min(sizes),
        'limit': limit,
        'temperature': temperature,
    }.items():
        if not least > 0:
            raise ValueError(f'{name}: {least} is not above 0')
    rates = torch.tensor([float(min(size, limit)) for size in sizes])
    rates = rates ** (1 / temperature)
    return rates / rates.sum()


def mixed(streams, rates, seed=0):
    """Endless batches, each of a stream drawn at random by its rate."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        i = torch.multinomial(rates, 1, generator=generator).item()
        yield next(streams[i])
