"""Shapes of published models, each written down once."""

from utils import Config

BERT_STYLE = {
    'vocab_size': 30522,
    'max_len': 512,
    'dropout': 0.1,
    'pre_norm': False,
    'norm_eps': 1e-12,
    'scaled_init': False,
}
ALBERT_STYLE = BERT_STYLE | {
    'vocab_size': 30000,
    'dropout': 0.0,
    'activation': 'gelu_tanh',
    'embedding_size': 128,
    'share_blks': True,
}
GPT2_STYLE = {
    'vocab_size': 50257,
    'max_len': 1024,
    'dropout': 0.1,
    'activation': 'gelu_tanh',
}
T5_STYLE = {
    'vocab_size': 32128,
    'max_len': 512,
    'dropout': 0.1,
    'head_width': 64,
    'rms_norm': True,
    'norm_eps': 1e-6,
    'bias': False,
    'activation': 'relu',
    'scale': 1.0,
    'scaled_init': False,
}
T5_HUGE = T5_STYLE | {'head_width': 128}
T5_1_1 = T5_STYLE | {'activation': 'gated_gelu', 'tie_weights': False}
LLAMA_STYLE = {
    'vocab_size': 32000,
    'max_len': 2048,
    'rms_norm': True,
    'bias': False,
    'activation': 'gated_silu',
    'rotary_base': 1e4,
    'tie_weights': False,
    'scaled_init': False,
}
SMOLLM2_STYLE = LLAMA_STYLE | {
    'vocab_size': 49152,
    'max_len': 8192,
    'rotary_base': 1e5,
    'tie_weights': True,
}
TINYLLAMA = LLAMA_STYLE | {'num_kv_heads': 4, 'ffn_num_hiddens': 5632}
LLAMA_2_7B = LLAMA_STYLE | {'max_len': 4096, 'ffn_num_hiddens': 11008}
LLAMA_3_8B = LLAMA_STYLE | {
    'vocab_size': 128256,
    'max_len': 8192,
    'num_kv_heads': 8,
    'ffn_num_hiddens': 14336,
    'rotary_base': 5e5,
}

# num_hiddens, num_heads, num_blks and the rest. Devlin et al. (2019), section
# 3; Lan et al. (2020), table 1; Radford et al. (2019), table 2; Raffel et al.
# (2020), section 3.7; T5 1.1 as released, trained after that paper; SmolLM2 as
# released (Ben Allal et al., 2025); Zhang et al. (2024); Touvron et al.
# (2023b), as released; Grattafiori et al. (2024), table 3, with the first
# vocabulary, context and rotary base released, in April 2024
SHAPES = {
    'bert-base': (768, 12, 12, BERT_STYLE),
    'bert-large': (1024, 16, 24, BERT_STYLE),
    'albert-base': (768, 12, 12, ALBERT_STYLE),
    'albert-large': (1024, 16, 24, ALBERT_STYLE),
    'albert-xlarge': (2048, 16, 24, ALBERT_STYLE),
    'albert-xxlarge': (4096, 64, 12, ALBERT_STYLE),
    'gpt2': (768, 12, 12, GPT2_STYLE),
    'gpt2-medium': (1024, 16, 24, GPT2_STYLE),
    'gpt2-large': (1280, 20, 36, GPT2_STYLE),
    'gpt2-xl': (1600, 25, 48, GPT2_STYLE),
    't5-small': (512, 8, 6, T5_STYLE),
    't5-base': (768, 12, 12, T5_STYLE),
    't5-large': (1024, 16, 24, T5_STYLE),
    't5-3b': (1024, 32, 24, T5_HUGE | {'ffn_num_hiddens': 16384}),
    't5-11b': (1024, 128, 24, T5_HUGE | {'ffn_num_hiddens': 65536}),
    't5-v1_1-small': (512, 6, 8, T5_1_1 | {'ffn_num_hiddens': 1024}),
    't5-v1_1-base': (768, 12, 12, T5_1_1 | {'ffn_num_hiddens': 2048}),
    't5-v1_1-large': (1024, 16, 24, T5_1_1 | {'ffn_num_hiddens': 2816}),
    't5-v1_1-xl': (2048, 32, 24, T5_1_1 | {'ffn_num_hiddens': 5120}),
    't5-v1_1-xxl': (4096, 64, 24, T5_1_1 | {'ffn_num_hiddens': 10240}),
    'smollm2-135m': (
        576,
        9,
        30,
        SMOLLM2_STYLE | {'num_kv_heads': 3, 'ffn_num_hiddens': 1536},
    ),
    'smollm2-360m': (
        960,
        15,
        32,
        SMOLLM2_STYLE | {'num_kv_heads': 5, 'ffn_num_hiddens': 2560},
    ),
    'smollm2-1.7b': (2048, 32, 24, SMOLLM2_STYLE | {'rotary_base': 1.3e5}),
    'tinyllama-1.1b': (2048, 32, 22, TINYLLAMA),
    'llama2-7b': (4096, 32, 32, LLAMA_2_7B),
    'llama3-8b': (4096, 32, 32, LLAMA_3_8B),
}


def published_config(name, **changes):
    """The `Config` of a published model, by its name in `SHAPES`.

    `changes` replace fields; where the shape has no `ffn_num_hiddens` of its
    own, it stays four times `num_hiddens`. Raises ValueError for an unknown
    name.
    """
    if name not in SHAPES:
        raise ValueError(f'name is {name!r}, not one of {list(SHAPES)}')
    num_hiddens, num_heads, num_blks, style = SHAPES[name]
    sizes = {
        'num_hiddens': num_hiddens,
        'num_heads': num_heads,
        'num_blks': num_blks,
    }
    return Config(**sizes | style | changes)
