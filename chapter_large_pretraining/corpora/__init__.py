"""The chapter's data: where they come from and how they become batches."""

# ruff: noqa: F401
from .batches import (
    BOS,
    EOS,
    MASK,
    NUM_SPECIAL,
    PAD,
    SEP,
    SPECIAL_TOKENS,
    Examples,
    Pairs,
    blocks,
    by_length,
    documentation_tokenizer,
    documentation_tokens,
    encode,
    examples,
    join,
    masked_batches,
    random_rows,
    stack,
    train_tokenizer,
    windows,
)
from .facts import FRENCH_NOUNS, FactWorld, bayes_predictor
from .pictures import (
    from_levels,
    in_turns,
    letters,
    mnist,
    small_digits,
    to_levels,
)
from .plain_texts import (
    Corpus,
    documentation,
    fingerprint,
    sentences,
    text_folder,
)
from .real_texts import imdb, snli
from .reviews import film_reviews, word_ratings
from .small_world import SmallWorld
from .text_tasks import TextTasks, mix, rouge_l
