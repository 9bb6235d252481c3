"""Answers to the exercises of after_pretraining.ipynb that take longer.

Models of prose are tuned in other ways, reward models learn from other
pairs, and sums are written and answered in other ways.
"""

import copy
import dataclasses
import functools
import time

import torch
from torch.nn import functional as F

import utils
from corpora import BOS, SEP, sums
from corpora.questions import NEW_PHRASINGS, PHRASINGS

from .. import instructions as asking
from .. import preferences as judging
from .. import reasoning as adding
from .. import runner

NUM_TAUGHT = 3  # countries of the held-out task
ONE_IN = 8  # dialogues is about one of them
NEUTRAL = 400  # pairs with a sentence that has no opinion
WIDER = {
    'eight blocks': {'num_blks': 8},
    'width 88': {
        'num_hiddens': 88,
        'embedding_size': None,
        'head_width': None,
        'ffn_num_hiddens': None,
    },
}
TEMPERATURES = 0.3, 1.0, 2.0
NUM_PATHS = 20


# ---- Instructions ----


@functools.cache
def base(seed, num_steps=asking.STEPS, questions=True):
    """A model that has read prose, with questions or without."""
    if questions:
        return asking.base(seed, num_steps)
    told, generator = asking.world(), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = utils.GPT(asking.small_config(len(told.vocab)))

    def prose():
        while True:
            yield told.prose(asking.BATCH, 10, generator)

    runner.train(
        model,
        prose(),
        utils.lm_loss,
        num_steps,
        asking.LR,
        'muon',
        (0.9, 0.99),
        warmup=20,
    )
    return model


def clear_columns(task):
    """The countries where no other asked task has the answer of `task`."""
    return asking.world().distinct[task].nonzero()[:, 0].tolist()


def taught(task):
    """Three countries that have dialogues, with different answers."""
    told, found = asking.world(), {}
    clear = {*clear_columns(task)} & {*told.columns(held_out=False)}
    for column in sorted(clear):
        found.setdefault(told.answers[task, column].item(), column)
    return list(found.values())[:NUM_TAUGHT]


def tune(model, run, everything=False, taught=(), num_steps=asking.TUNING):
    """A copy of a model, tuned on the dialogues of a run.

    With `everything` the user's tokens count, too. Of each eight dialogues
    one is about `taught`, pairs of a country's column and an answer to the
    held-out task, if there are any.
    """
    told, model = asking.world(), copy.deepcopy(model)
    tasks = [told.tasks.index(task) for task in run.tasks]
    task = told.tasks.index(run.held_out)
    columns = told.columns(held_out=False)
    generator = torch.Generator().manual_seed(run.seed)

    def more(number):
        some = torch.randint(len(taught), (number,), generator=generator)
        form = torch.randint(len(PHRASINGS), (number,), generator=generator)
        pairs = [taught[i] for i in some.tolist()]
        questions = told.questions_of(
            [task] * number,
            [column for column, _ in pairs],
            [PHRASINGS[i] for i in form.tolist()],
        )
        return questions, torch.tensor([answer for _, answer in pairs])

    def batches():
        number = asking.TUNING_BATCH // ONE_IN if taught else 0
        while True:
            questions, answers = told.draw_questions(
                asking.TUNING_BATCH - number,
                tasks,
                PHRASINGS,
                columns,
                generator,
            )
            if number:
                other, replies = more(number)
                questions += other
                answers = torch.cat((answers, replies))
            X, labels = told.dialogues(questions, answers)
            yield X, X.masked_fill(X == 0, -100) if everything else labels

    runner.train(
        model,
        batches(),
        adding.labelled_loss,
        num_steps,
        asking.TUNING_LR,
        'adamw',
        (0.9, 0.99),
        warmup=10,
    )
    return model


def full_run(seed, num_steps=asking.STEPS):
    """Four tasks and eight phrasings."""
    return asking.Run('prose', 4, 8, num_steps, seed)


def asked(model, run):
    """The shares of right answers that the chapter asks for."""
    told = asking.world()
    score = functools.partial(asking.score, model, told)
    tasks = [told.tasks.index(task) for task in run.tasks]
    task, new = told.tasks.index(run.held_out), told.columns(held_out=True)
    return {
        'tuned': score(tasks, new, PHRASINGS),
        'phrasing': score(tasks, new, NEW_PHRASINGS),
        'task': score([task], clear_columns(task), PHRASINGS),
        'prose': asking.score_prose(model, told, task, clear_columns(task)),
    }


def replies(model, task, columns):
    """The answers about some countries: (num_phrasings, num_columns) ids."""
    told, rows = asking.world(), []
    for text in PHRASINGS:
        number = len(columns)
        questions = told.questions_of(
            [task] * number, columns, [text] * number
        )
        X, labels = told.dialogues(questions, told.answers[task, columns])
        ends = (labels != -100).long().argmax(1).tolist()
        rows.append(asking.said(model, [X[i, :e] for i, e in enumerate(ends)]))
    return torch.stack(rows)


def all_count(setting, seed):
    """Right answers after tuning in which the user's tokens count."""
    run = full_run(seed)
    return asked(tune(base(seed), run, everything=True), run)


def three_taught(setting, seed):
    """What dialogues about three countries of the held-out task do.

    Their answers are right, or those of one another. `taught` is the share
    of the taught answers to questions about the three, `right` that of the
    right ones about all other countries, `copied` that of the three answers
    about them, and `wrong` the number of others that most phrasings get
    wrong.
    """
    run, told = full_run(seed), asking.world()
    task = told.tasks.index(run.held_out)
    three = taught(task)
    answers = told.answers[task, three]
    given = answers.roll(1) if setting == 'three wrong' else answers
    pairs = list(zip(three, given.tolist(), strict=True))
    model = tune(base(seed), run, taught=pairs)
    others = [x for x in clear_columns(task) if x not in three]
    found = replies(model, task, others)
    right = found == told.answers[task, others]
    of_three = replies(model, task, three) == given
    return {
        'taught': of_three.float().mean().item(),
        'right': right.float().mean().item(),
        'copied': torch.isin(found, answers).float().mean().item(),
        'wrong': (right.float().mean(0) < 0.5).sum().item(),
        'others': len(others),
    }


def prose_alone(setting, seed):
    """Right answers if the base model has never read a question."""
    run = full_run(seed)
    return asked(tune(base(seed, questions=False), run), run)


# ---- Preferences ----


@functools.cache
def first_policy(seed):
    """A GPT that has read opinions."""
    return judging.first_policy(seed, judging.BASE_STEPS).eval()


def neutral_sentences(number):
    """Sentences of the small world that have no word of opinions.

    Each goes from `<bos>` to `<sep>` and is padded as judged ones are.
    """
    world, width = judging.world(), judging.NUM_TOKENS + 1
    rows = []
    for X in world.documents(8 * number).sentences:
        words = X[X > 0]
        if len(words) <= width - 2 and not world.polarity[words].any():
            row = F.pad(F.pad(words, (1, 0), value=BOS), (0, 1), value=SEP)
            rows.append(F.pad(row, (0, width - len(row))))
    return torch.stack(rows[:number])


def learned_from(first, pairs, num_steps, seed, body='policy'):
    """A reward model that has learned from pairs."""
    torch.manual_seed(seed)
    random = utils.GPT(first.config)
    model = judging.RewardModel(first if body == 'policy' else random)
    generator = torch.Generator().manual_seed(seed)
    batches = judging.drawn(pairs, 32, generator)
    judging.train(model, batches, judging.reward_loss, num_steps, 1e-3)
    return model.eval()


def shown_and_hidden(model):
    """How often it decides as the truth, for shown and for hidden words."""
    tests = judging.opinions()
    hidden = judging.has_hidden(tests)
    return [judging.decided(model, tests[x])[0] for x in (~hidden, hidden)]


def with_neutral(setting, seed):
    """The best of n by a reward model that judged neutral sentences, too.

    `said` is the score of the best and `true` its truth, for n of BEST_OF;
    `good` and `bad` are shares of the hundredth of the pool that it likes
    best, `words` the share of that which has a word of opinions, `ends` of
    that which ends with `<sep>`.
    """
    first, generator = first_policy(seed), torch.Generator()
    generator.manual_seed(seed)
    pairs, _ = judging.judged(seed, 400)
    opinions = torch.cat(pairs)
    some = torch.randperm(len(opinions), generator=generator)[:NEUTRAL]
    neutral = neutral_sentences(NEUTRAL)
    more = judging.judge(opinions[some], neutral, generator)
    pairs = [torch.cat(part) for part in zip(pairs, more, strict=True)]
    steps = 2 * judging.REWARD_STEPS
    steps = judging.TOO_MANY_STEPS if setting == 'overfit' else steps
    model = learned_from(first, pairs, steps, seed, setting)
    rows, X = judging.best_of(first, model, judging.POOL, 400 + seed)
    truth = judging.true_reward(X)
    has_opinion = (judging.world().polarity[X] != 0).any(1)
    return {
        'said': [row[1] for row in rows],
        'true': [row[2] for row in rows],
        'good': (truth > 0).float().mean().item(),
        'bad': (truth < 0).float().mean().item(),
        'words': has_opinion.float().mean().item(),
        'ends': X.eq(SEP).any(1).float().mean().item(),
    }


def with_hidden_words(first, number, generator):
    """Sentences of a policy, each with a hidden word of opinions."""
    width = judging.NUM_TOKENS + 1
    found = torch.zeros(0, width, dtype=torch.long)
    while len(found) < number:
        X = judging.write(first, 2000, generator)
        X = F.pad(X, (0, width - X.shape[1]))
        found = torch.cat((found, X[judging.has_hidden(X)]))
    return found[:number]


def judge_of_models(setting, seed):
    """A reward model that learned from pairs with hidden words, and from whom.

    `agrees` is how often the judge of those pairs decides as the truth where
    the rewards differ.
    """
    first = first_policy(seed)
    generator = torch.Generator().manual_seed(500 + seed)
    A, B = with_hidden_words(first, 800, generator).split(400)
    if setting == 'people':
        won, lost = judging.judge(A, B, generator)
    else:
        _, teacher = judging.judged(seed, 3000)
        with torch.no_grad():
            first_wins = (teacher(A) > teacher(B))[:, None]
        won = torch.where(first_wins, A, B)
        lost = torch.where(first_wins, B, A)
    gaps = judging.true_reward(won) - judging.true_reward(lost)
    model = learned_from(first, (won, lost), judging.REWARD_STEPS, seed)
    shown, hidden = shown_and_hidden(model)
    agrees = (gaps > 0).sum().item() / (gaps != 0).sum().item()
    return {'shown': shown, 'hidden': hidden, 'agrees': agrees}


# ---- Sums ----


def digits_first(digits, prompts):
    """Texts that write the digits, a dot, the running sums and the answer."""
    states = sums.states_of(digits) + sums.DIGIT
    dot = torch.full_like(prompts[:, :1], sums.DOT)
    colon = torch.full_like(dot, sums.COLON)
    parts = prompts, digits + sums.DIGIT, dot, states, colon, states[:, -1:]
    return torch.cat(parts, 1)


def digits_first_batches(seed):
    """Endless batches of such texts, with labels behind the prompt."""
    generator = torch.Generator().manual_seed(seed)
    number, width = -(-adding.BATCH // len(adding.LENGTHS)), 0
    while True:
        rows = []
        for k in adding.LENGTHS:
            digits, prompts = sums.sum_problems(2 * number, k, generator)
            kept = (~sums.is_held_out(prompts)).nonzero()[:number, 0]
            rows.append(digits_first(digits[kept], prompts[kept]))
        width = max(X.shape[1] for X in rows)
        X = torch.cat([F.pad(X, (0, width - X.shape[1])) for X in rows])
        labels = X.masked_fill(X == 0, -100)
        labels[:, : prompts.shape[1]] = -100
        yield X, labels


def learn_sums(batches, num_steps, seed, **changes):
    """A GPT of the study's size, or with changes, that has learned sums."""
    torch.manual_seed(seed)
    config = dataclasses.replace(adding.small_config(), **changes)
    model = utils.GPT(config)
    runner.train(
        model,
        batches,
        adding.labelled_loss,
        num_steps,
        adding.LR,
        'muon',
        (0.9, 0.99),
        warmup=20,
    )
    return model


def least_to_most_model(seed):
    """A GPT of the study's size that writes the digits first."""
    return learn_sums(digits_first_batches(seed), adding.STEPS, seed)


def right_with_digits_first(model, num_digits):
    """Shares of right answers, and of texts whose digits are right."""
    digits, prompts, truth = adding.tests(num_digits)
    number = 2 * num_digits + 3
    with torch.no_grad():
        Y = utils.generate(model, prompts, number, temperature=0)
    found = Y[:, -1] * (Y[:, -2] == sums.COLON)
    begin = prompts.shape[1]
    copied = Y[:, begin : begin + num_digits] == digits + sums.DIGIT
    right = (found == truth).float().mean().item()
    return right, copied.all(1).float().mean().item()


def least_to_most(setting, seed):
    """Right answers for two to seven digits; seven had no training."""
    lengths = *adding.LENGTHS, sums.PLACES
    if setting == 'chain':
        batches = sums.sum_batches(adding.BATCH, 'chain', seed)
        model = learn_sums(batches, adding.STEPS, seed)
        right = []
        for k in lengths:
            digits, prompts, truth = adding.tests(k)
            found = adding.answer_sums(model, digits, prompts, 'chain')
            right.append((found == truth).float().mean().item())
        return {'right': right}
    model = least_to_most_model(seed)
    shares = [right_with_digits_first(model, k) for k in lengths]
    right, copied = map(list, zip(*shares, strict=True))
    return {'right': right, 'copied': copied}


def deeper(setting, seed):
    """Right answers with labels, shuffled, and tokens read in a second."""
    batches, counted = (
        adding.batches(adding.Run('shuffled labels', adding.STEPS, seed)),
        [0],
    )

    def counting():
        for batch in batches:
            counted[0] += batch[0][:, :-1].numel()
            yield batch

    began = time.process_time()
    model = learn_sums(counting(), adding.STEPS, seed, **WIDER[setting])
    seconds, right = time.process_time() - began, []
    for k in adding.LENGTHS:
        digits, prompts, truth = adding.tests(k, shuffled=True)
        found = adding.answer_sums(model, digits, prompts, 'labels')
        right.append((found == truth).float().mean().item())
    return {
        'right': right,
        'speed': counted[0] / seconds,
        'parameters': sum(p.numel() for p in model.parameters()),
    }


def votes(model, temperature, seed, num_paths=NUM_PATHS):
    """Shares right: of one path, of the vote, and of any path."""
    _, prompts, truth = adding.tests(5, distinct=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        drawn = torch.stack(
            [
                adding.draw_paths(model, prompts, 5, temperature, generator)[1]
                for _ in range(num_paths)
            ],
            dim=1,
        )
    right = drawn == truth[:, None]
    vote = adding.vote(drawn) == truth
    return [x.float().mean().item() for x in (right, vote, right.any(1))]


def any_order(seed):
    """A GPT of the study's size that has read sums in an order of its own."""
    run = adding.Run('own order', adding.PATH_STEPS, seed)
    return learn_sums(adding.batches(run), run.num_steps, seed)


def warmer(setting, seed):
    """What paths drawn at several temperatures reach, alone and together."""
    model = any_order(seed)
    rows = [votes(model, x, seed) for x in TEMPERATURES]
    one, vote, some = map(list, zip(*rows, strict=True))
    return {'one': one, 'vote': vote, 'any': some}


EXERCISES = {
    6: (judge_of_models, ('people', 'teacher'), 1),
    1: (all_count, ('all tokens count',), 3),
    2: (three_taught, ('three right', 'three wrong'), 3),
    3: (prose_alone, ('prose alone',), 3),
    4: (with_neutral, ('policy', 'overfit'), 2),
    7: (least_to_most, ('chain', 'digits first'), 1),
    8: (deeper, tuple(WIDER), 1),
    9: (warmer, ('own order',), 3),
}
