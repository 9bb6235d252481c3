"""Prompts read once with branches, against plain passes; reviews in sets."""

import itertools

import prompting
import pytest
import torch
from prompting import Reader, label_odds, said_and_best

import corpora
import utils
from corpora.reviews import Reviews
from published import load_tokenizer


class Letters:
    """A tokenizer whose tokens are bytes."""

    ids = None

    def encode(self, text):
        other = Letters()
        other.ids = list(text.encode())
        return other


def text_of(ids):
    return bytes(ids).decode()


@pytest.fixture
def model():
    """A small random decoder of today, sharp enough to have preferences."""
    torch.manual_seed(0)
    config = utils.Config(
        40,
        16,
        4,
        2,
        num_kv_heads=2,
        rotary_base=100.0,
        rms_norm=True,
        bias=False,
        activation='gated_silu',
        init_std=0.5,
    )
    return utils.GPT(config).eval()


def some_ids(number, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(40, (number,), generator=generator).tolist()


# ---- Tasks and forms ----


def test_facts_are_written_as_in_prose():
    assert prompting.facts_of('continent')['Costa Rica'] == 'North America'
    assert prompting.facts_of('currency')['France'] == 'euro'
    assert len(prompting.facts_of('french')) == 93
    countries = [prompting.facts_of(x) for x in prompting.COUNTRY_TASKS]
    assert {len(facts) for facts in countries} == {93}
    assert len({tuple(facts) for facts in countries}) == 1


def test_what_is_no_task_or_form_is_refused():
    with pytest.raises(ValueError, match="'sentiment' is none of"):
        prompting.facts_of('sentiment')
    with pytest.raises(ValueError, match="form is 'poem', not one of"):
        prompting.write(Letters(), 'poem', 'capital', [], 'France')


def test_a_bare_prompt_has_a_line_for_each_example():
    pairs = [('Peru', 'Lima'), ('Italy', 'Rome')]
    prompt = prompting.write(Letters(), 'bare', 'capital', pairs, 'Cuba')
    assert text_of(prompt.ids + prompt.query) == (
        '<|endoftext|>Peru -> Lima\nItaly -> Rome\nCuba ->'
    )
    assert [text_of(prompt.ids[:n]) for n in prompt.lengths((0, 1))] == [
        '<|endoftext|>',
        '<|endoftext|>Peru -> Lima\n',
    ]
    answer = prompting.written(Letters(), 'bare', 'Havana')
    assert text_of(answer) == ' Havana\n'


def test_the_described_form_has_a_line_more():
    pairs = [('cat', 'chat')]
    prompt = prompting.write(Letters(), 'described', 'french', pairs, 'dog')
    assert text_of(prompt.ids + prompt.query) == (
        '<|endoftext|>English to French:\ncat -> chat\ndog ->'
    )


def test_by_arrow_reviews_are_lines_like_countries():
    for task, form in (('sentiment', 'arrow'), ('capital', 'bare')):
        prompt = prompting.write(Letters(), form, task, [('a', 'b')], 'c')
        found = text_of(prompt.ids + prompt.query)
        assert found == '<|endoftext|>a -> b\nc ->'


def test_the_chat_form_has_turns():
    pairs = [('good', 'positive')]
    prompt = prompting.write(Letters(), 'chat', 'sentiment', pairs, 'bad')
    assert text_of(prompt.ids + prompt.query) == (
        '<|im_start|>system\nFilm reviews, positive or negative:<|im_end|>\n'
        '<|im_start|>user\nReview: good\nSentiment:<|im_end|>\n'
        '<|im_start|>assistant\npositive<|im_end|>\n'
        '<|im_start|>user\nReview: bad\nSentiment:<|im_end|>\n'
        '<|im_start|>assistant\n'
    )


def test_the_parts_of_a_prompt_are_the_tokens_of_the_whole(packaged_file):
    tokenizer = load_tokenizer(packaged_file('smollm2'))
    for task, form in itertools.product(
        ('capital', 'french'), ('bare', 'chat')
    ):
        pairs = list(prompting.facts_of(task).items())
        prompt = prompting.write(tokenizer, form, task, pairs, 'Peru')
        ids = prompt.ids + prompt.query
        text = tokenizer.decode(ids, skip_special_tokens=False)
        assert tokenizer.encode(text).ids == ids
    assert prompt.start[0] == 1  # what begins a turn is one token


# ---- Branches ----


def test_a_branch_is_what_a_plain_pass_gives(model):
    """Rows after different lengths, and rows after these."""
    ids, first, second, third = (some_ids(n, n) for n in (9, 4, 2, 3))
    reader = Reader(model, ids)
    H = reader.read([first, second], reader.up_to([9, 5]))
    after = torch.zeros(1, len(reader), dtype=torch.bool)
    after[0, :5] = True
    after[0, 13:15] = True  # the second row
    (last,) = reader.read([third], after)
    for found, row in (
        (H[0], ids + first),
        (H[1], ids[:5] + second),
        (last, ids[:5] + second + third),
    ):
        with torch.no_grad():
            plain = model.encode(torch.tensor([row]))[0, -len(found) :]
        assert torch.allclose(found, plain, atol=1e-4)


def test_branches_do_not_see_each_other(model):
    ids = some_ids(6, 0)
    reader = Reader(model, ids)
    (alone,) = reader.read([[1, 2]], reader.up_to([6]))
    reader.forget()
    beside, _ = reader.read([[1, 2], [3, 4, 5]], reader.up_to([6, 6]))
    assert torch.allclose(alone, beside, atol=1e-5)
    reader.forget()
    assert len(reader) == 6


def test_positions_are_put_back(model):
    X = torch.tensor([some_ids(7, 1)])
    with torch.no_grad():
        before = model.encode(X)
        with (
            pytest.raises(RuntimeError),
            prompting.placed(torch.arange(3), model.config),
        ):
            model.encode(X)  # seven tokens at three places
        assert torch.equal(model.encode(X), before)


def test_a_model_without_rotary_positions_is_refused():
    model = utils.GPT(utils.Config(40, 16, 2, 1))
    with pytest.raises(ValueError, match='no rotary positions'):
        Reader(model, [1, 2])


def test_a_head_can_be_hidden_a_part_of_the_prompt(model):
    ids, row = some_ids(6, 2), some_ids(2, 3)

    def hide(mask):
        mask = mask.clone()
        mask[:, :4] = False
        return [mask] * 2

    reader = Reader(model, ids)
    (hidden,) = reader.read([row], reader.up_to([6]), hide)
    reader.forget()
    (seen,) = reader.read([row], reader.up_to([6]))
    assert (hidden - seen).abs().max() > 0.01


# ---- Verdicts ----


def total(model, ids, answer):
    """Log-probability of an answer after ids, and whether it is said."""
    X = torch.tensor([ids + answer[:-1]])
    with torch.no_grad():
        scores = model(X, last=len(answer))[0].log_softmax(-1)
    label = torch.tensor(answer)
    said = (scores.argmax(-1) == label).all().item()
    return scores.gather(1, label[:, None]).sum().item(), said


def test_the_best_answer_is_that_of_going_through_all(model):
    answers = [
        [a, *some_ids(n % 3, n), 39] for n, a in enumerate(2 * [*range(12)])
    ]
    answers += [[5, 6, 39], [5, 39], [5, 6, 7, 39]]  # one begins another
    answers = [list(x) for x in dict.fromkeys(map(tuple, answers))]
    wins, lengths = 0, [1, 4, 8]
    for seed in range(4):
        ids, query = some_ids(8, 50 + seed), some_ids(2, 60 + seed)
        reader = Reader(model, ids)
        expected = [
            [total(model, ids[:n] + query, answer)[0] for answer in answers]
            for n in lengths
        ]
        for target in range(len(answers)):
            _, best = said_and_best(reader, lengths, query, answers, target)
            assert best == [row[target] == max(row) for row in expected]
            wins += sum(best)
        assert len(reader) == 8
    assert wins == 12


def test_what_is_said_has_every_token_in_front(model):
    ids, query = some_ids(5, 7), some_ids(2, 8)
    with torch.no_grad():
        row = utils.generate(
            model, torch.tensor([ids + query]), 3, temperature=0
        )
    answer = row[0, -3:].tolist()
    reader = Reader(model, ids)
    other = [*answer[:2], (answer[2] + 1) % 40]
    for target, holds in ((answer, True), (other, False)):
        said, _ = said_and_best(reader, [5], query, [target], 0)
        assert said == [holds] == [total(model, ids + query, target)[1]]


def test_odds_of_labels_are_differences_of_scores(model):
    ids, query = some_ids(6, 9), some_ids(3, 10)
    reader = Reader(model, ids)
    odds, token = label_odds(reader, [2, 6], query, (3, 4))
    for i, n in enumerate((2, 6)):
        with torch.no_grad():
            scores = model(torch.tensor([ids[:n] + query]), last=1)[0, 0]
        assert odds[i] == pytest.approx(
            (scores[3] - scores[4]).item(), abs=1e-4
        )
        assert token[i] == scores.argmax()


# ---- Reviews ----


@pytest.fixture
def reviews(monkeypatch):
    """Sixty reviews a part, every second one positive; one is too long."""

    def parts(above):
        ratings = torch.tensor([(-1.0) ** i * 2 for i in range(60)])
        made = {
            part: Reviews([f'{part} {i}' for i in range(60)], ratings)
            for part in ('train', 'test')
        }
        made['test'].texts[0] = 'long ' * 21
        return made

    monkeypatch.setattr(corpora, 'film_reviews', parts)
    prompting.short_reviews.cache_clear()
    yield
    prompting.short_reviews.cache_clear()


@pytest.mark.usefixtures('reviews')
def test_sets_are_balanced_and_hold_no_query():
    sets = prompting.review_sets(0, 3, 4, 6)
    assert len(sets.examples) == len(sets.queries) == 3
    asked = [text for queries in sets.queries for text, _ in queries]
    told = [text for examples in sets.examples for text, _ in examples]
    assert len(set(asked)) == 18 and len(set(told)) == 12
    assert all(text.startswith('test') for text in asked)
    assert all(text.startswith('train') for text in told)
    for text, is_positive in itertools.chain(*sets.examples, *sets.queries):
        assert is_positive == (int(text.split()[1]) % 2 == 0)
    for examples in sets.examples:
        for pair in zip(examples[::2], examples[1::2], strict=True):
            assert {truth for _, truth in pair} == {True, False}
    for queries in sets.queries:
        assert [truth for _, truth in queries] == [True] * 3 + [False] * 3


@pytest.mark.usefixtures('reviews')
def test_another_draw_asks_the_same_in_another_order():
    first, second = (prompting.review_sets(seed, 3, 4, 6) for seed in (0, 1))
    asked = [
        [text for queries in sets.queries for text, _ in queries]
        for sets in (first, second)
    ]
    assert asked[0] != asked[1] and sorted(asked[0]) == sorted(asked[1])
    assert first.examples != second.examples
    assert prompting.review_sets(0, 3, 4, 6) == first


@pytest.mark.parametrize('sizes', [(3, 4), (4, 3)])
def test_odd_numbers_are_refused(sizes):
    with pytest.raises(ValueError, match='are not both even'):
        prompting.review_sets(0, 2, *sizes)


def test_without_reviews_a_line_says_so(monkeypatch):
    monkeypatch.setattr(corpora, 'film_reviews', lambda above: None)
    prompting.short_reviews.cache_clear()
    with pytest.raises(ValueError, match='needs the film reviews'):
        prompting.short_reviews('test')
