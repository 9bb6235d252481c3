"""Attention, models, objectives, training and figures of the chapter.

Shapes stand at line ends: `batch` is the number of sequences, `num_steps` of
tokens in each, `num_hiddens` of features per token.
"""

from .attention import (
    KVCache,
    MultiHeadAttention,
    attention,
    banded_mask,
    causal_mask,
    fused_attention,
    padding_mask,
    prefix_mask,
    reach,
    record_attention,
)
from .d2l_import import import_d2l
from .figures import claim, plot_history, show, show_attention, show_pattern
from .generation import generate, sample
from .in_context import bayes_predictor
from .models import BERT, GPT, Block, Config, FeedForward, Finetuned
from .objectives import (
    bert_loss,
    evaluate,
    hide,
    lm_loss,
    mask_tokens,
    mlm_loss,
    span_loss,
    span_scores,
    tag_loss,
    text_loss,
    text_scores,
    token_loss,
)
from .scaling import count_parameters, train_flops
from .training import History, Muon, orthogonalize, train, write_whole

d2l = import_d2l()

__all__ = [
    'BERT',
    'GPT',
    'Block',
    'Config',
    'FeedForward',
    'Finetuned',
    'History',
    'KVCache',
    'MultiHeadAttention',
    'Muon',
    'attention',
    'banded_mask',
    'bayes_predictor',
    'bert_loss',
    'causal_mask',
    'claim',
    'count_parameters',
    'd2l',
    'evaluate',
    'fused_attention',
    'generate',
    'hide',
    'lm_loss',
    'mask_tokens',
    'mlm_loss',
    'orthogonalize',
    'padding_mask',
    'plot_history',
    'prefix_mask',
    'reach',
    'record_attention',
    'sample',
    'show',
    'show_attention',
    'show_pattern',
    'span_loss',
    'span_scores',
    'tag_loss',
    'text_loss',
    'text_scores',
    'token_loss',
    'train',
    'train_flops',
    'write_whole',
]
