"""Attention, models, objectives, training and figures of the chapter.

Shapes stand at line ends: `batch` is the number of sequences, `num_steps` of
tokens in each, `num_hiddens` of features per token.
"""

from .attention import (
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
from .d2l_import import import_d2l
from .figures import (
    claim,
    plot_history,
    plot_power_law,
    show,
    show_attention,
    show_pattern,
)
from .generation import generate, sample
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
from .scaling import (
    DEVICES,
    HOFFMANN,
    KAPLAN,
    JointLaw,
    PowerLaw,
    bootstrap,
    count_parameters,
    fit_joint_law,
    fit_power_law,
    interval,
    isoflop_optimum,
    kaplan_optimum,
    plan_training,
    train_flops,
)
from .training import History, Muon, orthogonalize, train, write_whole

d2l = import_d2l()

__all__ = [
    'BERT',
    'DEVICES',
    'GPT',
    'HOFFMANN',
    'KAPLAN',
    'Block',
    'Config',
    'FeedForward',
    'Finetuned',
    'History',
    'JointLaw',
    'KVCache',
    'MultiHeadAttention',
    'Muon',
    'PowerLaw',
    'attention',
    'bert_loss',
    'bootstrap',
    'causal_mask',
    'claim',
    'count_parameters',
    'd2l',
    'evaluate',
    'fit_joint_law',
    'fit_power_law',
    'fused_attention',
    'generate',
    'hide',
    'interval',
    'isoflop_optimum',
    'kaplan_optimum',
    'lm_loss',
    'mask_tokens',
    'mlm_loss',
    'orthogonalize',
    'padding_mask',
    'plan_training',
    'plot_history',
    'plot_power_law',
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
