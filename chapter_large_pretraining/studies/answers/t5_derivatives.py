"""What came after T5: the exercises that train for minutes."""

import functools
from unittest import mock

import text_to_text as ways
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import nn

import corpora
import successors
import utils
from utils import T5, choose_spans, corrupt_spans, init_weights

from .. import experts, text_to_text
from ..text_to_text import world

# ---- Questions behind their reports ----


def questions_behind(pairs):
    """The same pairs, the report first and then what is asked."""
    texts = []
    for text in ways.texts_of(world(), pairs.X):
        task, _, rest = text.partition(' : ')
        question, _, report = rest.partition(' context ')
        texts.append(f'{task} : context {report} {question}')
    X = world().encode(texts)
    return corpora.Pairs(X, (X > 0).sum(1), pairs.labels)


def order(setting, seed):
    architecture, place = setting.split(', question ')
    pairs = world().question(1000), world().question(500, 'test')
    if place == 'behind':
        pairs = [*map(questions_behind, pairs)]
    model = text_to_text.build(architecture, seed)
    ways.fine_tune(model, pairs[0], 400, 32, seed)
    truth = ways.texts_of(world(), pairs[1].labels)
    written = ways.write(world(), model, pairs[1])
    return {'right': ways.exact_match(written, truth)}


# ---- More objectives ----


def hidden_only(world, X, valid_lens, generator=None):
    """Three tokens in ten, each a span of its own."""
    hidden = choose_spans(
        valid_lens, X.shape[1], 0.3, 1.0, generator=generator
    )
    return corrupt_spans(X, valid_lens, hidden, world.sentinels)


def denoising(world, X, valid_lens, generator=None, rate=0.3):
    inputs, _ = utils.mask_tokens(
        X, len(world.words), rate, generator=generator
    )
    return inputs, valid_lens, ways.whole(X, valid_lens)


NOISES = {
    'token masking': successors.mask_some,
    'token deletion': successors.delete_some,
    'text infilling': successors.infill,
}
NEW = {'hidden tokens': hidden_only}
NEW |= {
    f'denoising {rate}': functools.partial(denoising, rate=rate)
    for rate in (0.15, 0.5)
}
NEW |= {
    f'{name} {rate}': functools.partial(ways.noised, noise, rate=rate)
    for name, noise in NOISES.items()
    for rate in (0.1, 0.5)
}


MIXTURES = {
    f'{first} and {second}': (first, second)
    for first, second in (
        ('spans', 'copying'),
        ('text infilling', 'copying'),
    )
}


def either(parts, world, X, valid_lens, generator=None):
    """A minibatch of one of several objectives, drawn at random."""
    i = torch.randint(len(parts), (), generator=generator)
    return ways.OBJECTIVES[parts[i]](world, X, valid_lens, generator)


NEW |= {
    name: functools.partial(either, parts) for name, parts in MIXTURES.items()
}


def scores(objective, seed, task, labels, steps):
    """A run of the study of architectures and objectives."""
    known = *text_to_text.OBJECTIVES, *NEW
    with (
        mock.patch.dict(ways.OBJECTIVES, NEW),
        mock.patch.object(text_to_text, 'OBJECTIVES', known),
    ):
        run = text_to_text.Run(
            'encoder-decoder', objective, task, labels, steps, seed
        )
        found = text_to_text.execute(run, None, None)
    names = 'rouge_l', 'who', 'opinion', 'color', 'thing', 'exact'
    if task == 'four':
        names += 'translation', 'sentiment', 'question'
    return {name: getattr(found, name) for name in names}


def four_tasks(setting, seed):
    return scores(setting, seed, 'four', *text_to_text.FOUR)


def summaries(setting, seed):
    return scores(setting, seed, 'summary', 128, 400)


# ---- Gates ----

GATED = {'gated_relu': nn.ReLU}  # what utils has not


def gates(setting, seed):
    """The loss after 300 and after 1,000 steps, at equal parameters."""
    width = 32 if setting.startswith('gated') else 48
    losses = []
    with mock.patch.dict(utils.ACTIVATIONS, GATED):
        for num_steps in 300, 1000:
            gpt = experts.new_gpt(seed, width, activation=setting)
            utils.train(
                gpt,
                experts.batches(seed),
                utils.lm_loss,
                num_steps,
                lr=0.02,
                warmup=20,
            )
            losses.append(experts.score(gpt)[0])
    return {'loss': losses}


# ---- Experts ----


def train_experts(gpt, seed, num_steps, alpha=0.01):
    utils.train(
        gpt,
        experts.batches(seed),
        functools.partial(successors.balanced_loss, alpha=alpha),
        num_steps,
        lr=0.02,
        warmup=20,
    )
    return dict(
        zip(('loss', 'dropped', 'most'), experts.score(gpt), strict=True)
    )


SWITCHED = {  # number of experts, capacity factor
    f'{n} experts, capacity {factor}': (n, factor)
    for n, factor in ((8, 1), (8, 4), (2, 1.25), (32, 1.25))
}


def switch_gpt(num_experts, capacity_factor, seed):
    gpt = experts.new_gpt(seed, num_experts=num_experts)
    for layer in successors.switches(gpt):
        layer.capacity_factor = capacity_factor
    return gpt


def seats(setting, seed, num_steps=600):
    return train_experts(switch_gpt(*SWITCHED[setting], seed), seed, num_steps)


def second_block(gpt, num_experts):
    """Experts in the last block only."""
    blk = gpt.blks[-1]
    blk.ffn.layer = successors.SwitchFeedForward(gpt.config, num_experts)
    init_weights(blk.ffn.layer, gpt.config)


def one_block(setting, seed):
    gpt = experts.new_gpt(seed)
    second_block(gpt, 16)
    return train_experts(gpt, seed, int(setting.split()[0]))


# ---- Digits ----

NUMBERS = [
    line.split()
    for line in """zero nil none nought nothing
one single first solo unit
two double second duo pair
three triple third trio triangle
four fourfold fourth quartet square
five fivefold fifth quintet pentagon
six sixfold sixth sextet hexagon
seven sevenfold seventh septet heptagon
eight eightfold eighth octet octagon
nine ninefold ninth nonet nonagon""".splitlines()
]
FORMS = (
    '{} stands for {} .',
    'by {} we mean {} .',
    'no {} without {} .',
    'think of {} and say {} .',
)
WORDS = ['<pad>', '<0>', '<1>', '<2>', 'a', 'handwritten']
WORDS += sorted(
    {word for form in FORMS for word in form.split()} - {'{}'}
    | {word for line in NUMBERS for word in line}
)


def number_ids(texts):
    rows = [
        torch.tensor([WORDS.index(word) for word in text.split()])
        for text in texts
    ]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def lessons(seen=FORMS, unseen=FORMS):
    """Sentences for the words that have pictures, and for the others."""
    return [
        form.format(word, name)
        for name, *words in NUMBERS
        for i, word in enumerate(words)
        for form in (seen if i < 2 else unseen)
    ]


def number_encoder(texts, seed=0):
    """A T5 that has read some lessons, or none."""
    torch.manual_seed(seed)
    config = ways.small_config(len(WORDS), num_hiddens=32)
    model = T5(config)
    if not texts:
        return model

    def hide_one(X, generator):
        lens = (X > 0).sum(1)
        hidden = choose_spans(
            lens, X.shape[1], mean_length=1.0, generator=generator
        )
        return corrupt_spans(X, lens, hidden, torch.arange(1, 4))

    batches = corpora.random_rows(
        number_ids(texts), batch_size=64, batch_fn=hide_one, seed=seed
    )
    utils.train(model, batches, utils.seq2seq_loss, 250, lr=0.015, warmup=20)
    return model


def represent(model, form='a handwritten {} .'):
    """The means of the encoder's outputs, (10, 5, num_hiddens)."""
    texts = [form.format(word, line[0]) for line in NUMBERS for word in line]
    with torch.no_grad():
        text = model.encode(number_ids(texts)).mean(1).view(10, 5, -1)
    return (text - text.mean((0, 1))) / text.std((0, 1))


@functools.cache
def digits():
    """Pictures, what they show, and who tells."""
    data = load_digits()
    images = torch.tensor(data.data / 8 - 1, dtype=torch.float32)
    classes = torch.tensor(data.target)
    return images, classes, SVC().fit(images[:1200], classes[:1200])


def train_generator(text, seed, num_steps=400):
    """The notebook's generator, from words that come with pictures."""
    images, classes, _ = digits()
    torch.manual_seed(seed)
    painter = nn.Sequential(
        nn.Linear(65 + text.shape[-1], 256),
        nn.SiLU(),
        nn.Linear(256, 256),
        nn.SiLU(),
        nn.Linear(256, 64),
    )
    optimizer = torch.optim.AdamW(painter.parameters(), 2e-3)
    for _ in range(num_steps):
        i, word = torch.randint(1200, (128,)), torch.randint(3, (128,))
        X, noise, share = images[i], torch.randn(128, 64), torch.rand(128, 1)
        mixed = (1 - share) * noise + share * X
        Y = painter(torch.cat((mixed, share, text[classes[i], word]), 1))
        loss = (Y - (X - noise)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return painter


@torch.no_grad()
def draw(painter, text, num_steps=20):
    X = torch.randn(len(text), 64)
    for i in range(num_steps):
        share = torch.full((len(text), 1), i / num_steps)
        X = X + painter(torch.cat((X, share, text), 1)) / num_steps
    return X.clamp(-1, 1)


def drawn_right(text, seed):
    """Shares of right drawings: with words seen, in text only."""
    painter, (*_, judge) = train_generator(text, seed), digits()
    wanted = torch.arange(10).repeat(20)
    hits = []
    for word in range(5):
        X = draw(painter, text[:, word].repeat(20, 1))
        right = torch.tensor(judge.predict(X)) == wanted
        hits.append(right.float().mean().item())
    return {'seen': sum(hits[:3]) / 3, 'in text only': sum(hits[3:]) / 2}


def whole_sentences(setting, seed):
    encoder, texts = setting.split(', ')
    read = lessons() if encoder == 'pretrained' else []
    form = FORMS[0] if texts == 'sentences' else 'a handwritten {} .'
    return drawn_right(represent(number_encoder(read, seed), form), seed)


def taught(num_lessons, seed):
    """A T5 that has read so many lessons for each unseen word."""
    return number_encoder(lessons(unseen=FORMS[:num_lessons]), seed)


def fewer_lessons(setting, seed):
    return drawn_right(represent(taught(int(setting), seed)), seed)


EXERCISES = {  # function, settings, number of seeds
    10: (
        whole_sentences,
        [
            f'{encoder}, {texts}'
            for encoder in ('random', 'pretrained')
            for texts in ('words', 'sentences')
        ],
        3,
    ),
    11: (fewer_lessons, ['0', '1', '2', '3', '4'], 2),
    6: (gates, ['relu', 'gated_relu', 'gelu', 'gated_gelu'], 3),
    9: (one_block, ['150 steps', '600 steps'], 3),
    8: (seats, [*SWITCHED], 3),
    2: (
        order,
        [
            f'{name}, question {place}'
            for name in ('prefix', 'decoder')
            for place in ('first', 'behind')
        ],
        3,
    ),
    4: (four_tasks, ['hidden tokens'], 1),
    12: (summaries, [*MIXTURES], 3),
    5: (summaries, ['denoising 0.15', 'denoising 0.5'], 1),
    7: (
        summaries,
        [f'{name} {rate}' for name in NOISES for rate in (0.1, 0.5)],
        1,
    ),
}
