"""Attention, models, objectives, training and figures of the chapter.

Shapes stand at line ends: `batch` is the number of sequences, `num_steps` of
tokens in each, `num_hiddens` of features per token.
"""

from .attention import (
    CrossAttention,
    KVCache,
    MultiHeadAttention,
    attention,
    causal_mask,
    fused_attention,
    padding_mask,
    prefix_mask,
    reach,
    record_attention,
)
from .checkpoint import at_hand, load_tokenizer
from .d2l_import import import_d2l
from .figures import claim, plot_history, show, show_attention, show_pattern
from .generation import answer, generate, sample
from .models import (
    BERT,
    GPT,
    T5,
    Block,
    Config,
    DecoderBlock,
    FeedForward,
    Finetuned,
    RelativeBias,
    Stack,
    bucket,
)
from .objectives import (
    bert_loss,
    choose_spans,
    corrupt_spans,
    evaluate,
    hide,
    lm_loss,
    mask_tokens,
    mlm_loss,
    seq2seq_loss,
    span_loss,
    span_scores,
    tag_loss,
    text_loss,
    text_scores,
    token_loss,
)
from .official import load_official
from .scaling import count_parameters, train_flops
from .training import History, Muon, orthogonalize, train, write_whole

d2l = import_d2l()

__all__ = [
    'BERT',
    'GPT',
    'T5',
    'Block',
    'Config',
    'CrossAttention',
    'DecoderBlock',
    'FeedForward',
    'Finetuned',
    'History',
    'KVCache',
    'MultiHeadAttention',
    'Muon',
    'RelativeBias',
    'Stack',
    'answer',
    'at_hand',
    'attention',
    'bert_loss',
    'bucket',
    'causal_mask',
    'choose_spans',
    'claim',
    'corrupt_spans',
    'count_parameters',
    'd2l',
    'evaluate',
    'fused_attention',
    'generate',
    'hide',
    'lm_loss',
    'load_official',
    'load_tokenizer',
    'mask_tokens',
    'mlm_loss',
    'orthogonalize',
    'padding_mask',
    'plot_history',
    'prefix_mask',
    'reach',
    'record_attention',
    'sample',
    'seq2seq_loss',
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
