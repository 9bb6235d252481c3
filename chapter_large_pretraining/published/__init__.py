"""Published models: their weights in the chapter's classes, their figures."""

from .families import load_official
from .figures import MODELS
from .files import at_hand, load_tokenizer
from .packages import PACKAGED, packaged
from .shapes import SHAPES, published_config

__all__ = [
    'MODELS',
    'PACKAGED',
    'SHAPES',
    'at_hand',
    'load_official',
    'load_tokenizer',
    'packaged',
    'published_config',
]
