"""The chapter's texts: where they come from and how they become batches."""

from .batches import (
    SPECIAL_TOKENS,
    blocks,
    by_length,
    documentation_tokenizer,
    encode,
    examples,
    train_tokenizer,
    windows,
)
from .facts import WORDS, FactWorld, bayes_predictor
from .plain_texts import (
    Corpus,
    documentation,
    fingerprint,
    text_folder,
    time_machine,
)
from .real_texts import imdb, snli
from .small_world import Examples, SmallWorld, join
from .text_tasks import TextTasks, mix, pair_batches, rouge_l

__all__ = [
    'SPECIAL_TOKENS',
    'WORDS',
    'Corpus',
    'Examples',
    'FactWorld',
    'SmallWorld',
    'TextTasks',
    'bayes_predictor',
    'blocks',
    'by_length',
    'documentation',
    'documentation_tokenizer',
    'encode',
    'examples',
    'fingerprint',
    'imdb',
    'join',
    'mix',
    'pair_batches',
    'rouge_l',
    'snli',
    'text_folder',
    'time_machine',
    'train_tokenizer',
    'windows',
]
