"""Published models: their weights in the chapter's classes, their figures."""

from .families import load_official
from .figures import MODELS
from .files import at_hand, load_tokenizer

__all__ = ['MODELS', 'at_hand', 'load_official', 'load_tokenizer']
