"""Measures speed beside other libraries: python tests/benchmark.py [options]

One thread and one run; what is compared is interleaved, and medians are
reported. There is nothing to pass or fail. About seven minutes.

steps       One training step: forward, loss, backward, clipping and fused
            AdamW, the same around every model, so that only models differ.
            GFLOP/s count, per token, 6 times the parameters that stand in
            products (all but the embeddings; the head counts) plus
            12 * num_blks * num_hiddens * num_steps for attention, without a
            discount for the causal half. Their peak is the best product of
            two 1024 x 1024 float32 matrices among the steps. Memory is by
            how much the peak of a fresh process grows.
loss        Seconds that `train` with Muon takes to the validation loss with
            which nanoGPT's recipe for a CPU ends, on the same model and
            text. The recipe is that of README.md, "I only have a macbook",
            with config/train_shakespeare_char.py and the defaults of
            train.py, https://github.com/karpathy/nanoGPT: 2000 batches of
            12 x 64, AdamW, 100 steps of warm-up to 1e-3, cosine to 1e-4,
            betas 0.9 and 0.99, weight decay 0.1, clipping at 1, no dropout.
            Evaluations are not timed.
generation  Greedy tokens with the cache of keys and values, and without.
published   SmolLM2-135M, the chapter's GPT beside transformers with the same
            weights: reading a text, and greedy tokens with the cache.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import random
import re
import resource
import sys
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'chapter_large_pretraining')]

import corpora  # noqa: E402
import d2l_import  # noqa: E402
import published  # noqa: E402
import utils  # noqa: E402
from corpora.storage import write_whole  # noqa: E402

VOCAB_SIZE = 1024


class Shape(NamedTuple):
    """The sizes of a model and of a batch."""

    num_blks: int
    num_hiddens: int
    num_heads: int
    batch_size: int
    num_steps: int


SHAPES = [
    Shape(*sizes)
    for sizes in [(4, 128, 4, 12, 64), (4, 128, 4, 32, 64), (2, 64, 4, 64, 48)]
]
FULL = {
    'shapes': SHAPES,
    'rounds': 30,
    'recipe_steps': 2000,
    'muon_steps': 420,
    'eval_every': 20,
    'lengths': [256, 512],
    'repeats': 3,
    'published': {'read': [64, 512], 'write': 64, 'repeats': 5},
}
QUICK = {
    'shapes': SHAPES[-1:],
    'rounds': 2,
    'recipe_steps': 20,
    'muon_steps': 10,
    'eval_every': 5,
    'lengths': [32],
    'repeats': 1,
    'published': {'read': [16], 'write': 4, 'repeats': 1},
}
RECIPE = {
    'optimizer': 'adamw',
    'lr': 1e-3,
    'betas': (0.9, 0.99),
    'warmup': 100,
    'schedule': 'cosine',
}
MUON = {
    'optimizer': 'muon',
    'lr': 1.5e-2,
    'betas': (0.9, 0.99),
    'warmup': 20,
    'schedule': 'linear',
}
MUON_BATCH_SIZE = 24  # what Muon itself costs does not grow with it


# ---- The models: token ids in, scores of the next token out ----


def ours(shape):
    """The chapter's GPT."""
    return utils.GPT(
        utils.Config(
            VOCAB_SIZE,
            shape.num_hiddens,
            shape.num_heads,
            shape.num_blks,
            shape.num_steps,
        )
    )


class HuggingFace(nn.Module):
    """GPT-2 of transformers, with nanoGPT's activation and dropout."""

    def __init__(self, shape):
        super().__init__()
        self.model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCAB_SIZE,
                n_positions=shape.num_steps,
                n_embd=shape.num_hiddens,
                n_layer=shape.num_blks,
                n_head=shape.num_heads,
                activation_function='gelu',
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                use_cache=False,
                attn_implementation='sdpa',
                bos_token_id=None,
                eos_token_id=None,
            )
        )

    def forward(self, X):
        return self.model(X).logits


class Torch(nn.Module):
    """torch.nn.TransformerEncoder between embeddings and a tied head."""

    def __init__(self, shape):
        super().__init__()
        width, length = shape.num_hiddens, shape.num_steps
        self.token_embedding = nn.Embedding(VOCAB_SIZE, width)
        self.pos_embedding = nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(
            width,
            shape.num_heads,
            4 * width,
            0.0,
            'gelu',
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(
            layer, shape.num_blks, nn.LayerNorm(width), False
        )
        self.mask = nn.Transformer.generate_square_subsequent_mask(length)

    def forward(self, X):
        H = self.token_embedding(X) + self.pos_embedding.weight[: X.shape[1]]
        H = self.encoder(H, self.mask, is_causal=True)
        return F.linear(H, self.token_embedding.weight)


class D2L(nn.Module):
    """Transformer blocks of d2l, masked as in its decoder, and a tied head."""

    def __init__(self, shape):
        super().__init__()
        self.encoder = d2l_import.d2l.TransformerEncoder(
            VOCAB_SIZE,
            shape.num_hiddens,
            4 * shape.num_hiddens,
            shape.num_heads,
            shape.num_blks,
            0.0,
        )

    def forward(self, X):
        valid_lens = torch.arange(1, X.shape[1] + 1).repeat(len(X), 1)
        H = self.encoder(X, valid_lens)
        return F.linear(H, self.encoder.embedding.weight)


MODELS = {
    'ours': ours,
    'transformers': HuggingFace,
    'torch.nn': Torch,
    'd2l': D2L,
}


# ---- Training steps ----


def training_step(name, shape):
    """A function that trains a new model for one step."""
    torch.manual_seed(0)
    model = MODELS[name](shape)
    X = torch.randint(VOCAB_SIZE, (shape.batch_size, shape.num_steps + 1))
    model(X[:1, :-1])  # d2l's layers learn their widths from data
    params = list(model.parameters())
    optimizer = torch.optim.AdamW(params, lr=1e-3, fused=True)

    def step():
        utils.lm_loss(model, X)[0].backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def interleave(actions, rounds, warmup=0):
    """Seconds of each action in each round; the order changes by round."""
    seconds, order = {name: [] for name in actions}, random.Random(0)
    for _ in range(warmup + rounds):
        for name in order.sample(list(actions), len(actions)):
            began = time.perf_counter()
            actions[name]()
            seconds[name].append(time.perf_counter() - began)
    return {name: values[warmup:] for name, values in seconds.items()}


def peak_memory(name, shape):
    """MiB that training adds to the peak of this process, a fresh one."""
    torch.set_num_threads(1)
    training_step(name, Shape(1, 8, 2, 1, 4))()  # loads the code itself
    usage = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before, step = usage(), training_step(name, shape)
    for _ in range(3):
        step()
    unit = 1 if sys.platform == 'darwin' else 1024  # bytes, or KiB
    return (usage() - before) * unit / 2**20


def memory_of_all(shape):
    """`peak_memory` of each model.

    Children of the fork server do not inherit the peak of this process.
    """
    context = multiprocessing.get_context('forkserver')
    with context.Pool(1, maxtasksperchild=1) as pool:
        jobs = [(name, shape) for name in MODELS]
        memory = pool.starmap(peak_memory, jobs, chunksize=1)
    return dict(zip(MODELS, memory, strict=True))


def flops_per_token(shape):
    """Floating-point operations of a step, as this file's top counts them."""
    model = ours(shape)  # its head is tied to the token embedding
    params = sum(p.numel() for p in model.parameters())
    params -= model.pos_embedding.weight.numel()
    attention = 12 * shape.num_blks * shape.num_hiddens * shape.num_steps
    return 6 * params + attention


def steps_at(shape, rounds):
    """Measure the training steps of all models at one shape."""
    A, B = torch.randn(2, 1024, 1024)
    actions = {name: training_step(name, shape) for name in MODELS}
    seconds = interleave({**actions, 'product': lambda: A @ B}, rounds, 3)
    peak = 2 * 1024**3 / min(seconds.pop('product')) / 1e9
    num_tokens = shape.batch_size * shape.num_steps
    rates = {name: num_tokens / median(s) for name, s in seconds.items()}
    ratios = {name: rates['ours'] / rate for name, rate in rates.items()}
    fastest = min(ratio for name, ratio in ratios.items() if name != 'ours')
    memory = memory_of_all(shape)
    gflops = rates['ours'] * flops_per_token(shape) / 1e9
    print(f'\n{shape}\n{"":14}tokens/s  ours/model  peak memory (MiB)')
    for name, rate in rates.items():
        row = f'{rate:8,.0f}{ratios[name]:12.3f}{memory[name]:19.1f}'
        print(f'{name:14}{row}')
    print(
        f'ours over the fastest peer {fastest:.3f}, at {gflops:.1f} '
        f'of {peak:.1f} GFLOP/s, {gflops / peak:.0%}'
    )
    return {
        'shape': shape._asdict(),
        'seconds': seconds,
        'tokens_per_second': rates,
        'ours_over_model': ratios,
        'ours_over_fastest_peer': fastest,
        'peak_memory_mib': memory,
        'gflops': gflops,
        'peak_gflops': peak,
        'share': gflops / peak,
    }


def measure_steps(settings):
    return [steps_at(s, settings['rounds']) for s in settings['shapes']]


# ---- Time to a validation loss ----


def first_below(history, target):
    """Seconds at the first evaluation at or below `target`, or None."""
    steps = zip(history.eval_step, history.eval_loss, strict=True)
    step = next((step for step, loss in steps if loss <= target), None)
    return step and history.seconds[step - 1]


def measure_loss(settings):
    """Train with Muon, by the recipe, and with Muon from another seed."""
    corpus, length = corpora.documentation(), SHAPES[0].num_steps
    tokenizer = corpora.documentation_tokenizer(corpus, VOCAB_SIZE)
    tokens = corpora.encode(tokenizer, corpus.train)
    rows = corpora.blocks(corpora.encode(tokenizer, corpus.valid), length)
    rows = rows[:: max(1, len(rows) // 256)][:256].split(64)
    eval_fn = lambda model: utils.evaluate(model, rows, utils.lm_loss)

    def run(batch_size, num_steps, options, seed=0):
        torch.manual_seed(seed)
        batches = corpora.windows(tokens, batch_size, length, seed)
        return utils.train(
            ours(SHAPES[0]),
            batches,
            utils.lm_loss,
            num_steps,
            **options,
            eval_fn=eval_fn,
            eval_every=settings['eval_every'],
        )

    muon = MUON_BATCH_SIZE, settings['muon_steps'], MUON
    before = run(*muon)
    recipe = run(SHAPES[0].batch_size, settings['recipe_steps'], RECIPE)
    after = run(*muon, seed=1)
    target, seconds = recipe.eval_loss[-1], recipe.seconds[-1]
    reached = [first_below(history, target) for history in (before, after)]
    print(f'\nValidation loss {target:.3f}: recipe in {seconds:.1f} s')
    for s in reached:
        print(
            f'Muon in {s:.1f} s, ratio {s / seconds:.3f}'
            if s
            else 'Muon did not reach it: raise --muon-steps'
        )
    runs = {'muon': before, 'recipe': recipe, 'muon again': after}
    return {
        'target': target,
        'recipe_seconds': seconds,
        'muon_seconds': reached,
        'ratios': [s and s / seconds for s in reached],
        'recipe': RECIPE,
        'muon': {**MUON, 'batch_size': MUON_BATCH_SIZE},
        'runs': {
            name: {
                'eval_step': h.eval_step,
                'eval_loss': h.eval_loss,
                'seconds': [h.seconds[i - 1] for i in h.eval_step],
            }
            for name, h in runs.items()
        },
    }


# ---- Generation ----


def measure_generation(settings):
    """Continue 8 tokens up to each length: batch 1, 4 blocks, 128 wide."""
    torch.manual_seed(0)
    model, results = ours(Shape(4, 128, 4, 1, 512)), []
    prompt, outputs = torch.randint(VOCAB_SIZE, (1, 8)), {}

    def extend(length, use_cache):
        outputs[use_cache] = utils.generate(
            model, prompt, length - 8, temperature=0, use_cache=use_cache
        )

    for length in settings['lengths']:
        actions = {
            'cache': lambda n=length: extend(n, True),
            'no cache': lambda n=length: extend(n, False),
        }
        seconds = interleave(actions, settings['repeats'])
        if not torch.equal(outputs[True], outputs[False]):
            raise RuntimeError('the cache changes the greedy tokens')
        rates = {n: (length - 8) / median(s) for n, s in seconds.items()}
        ratio = rates['cache'] / rates['no cache']
        print(f'\nGeneration to {length} tokens, ratio {ratio:.1f}')
        for name, rate in rates.items():
            print(f'{name:14}{rate:8,.0f} tokens/s')
        results.append(
            {
                'length': length,
                'tokens_per_second': rates,
                'ratio': ratio,
                'seconds': seconds,
            }
        )
    return results


def as_transformers(model, **options):
    """The Llama of transformers that has the weights of our `model`.

    It turns the halves of a head where ours turns pairs of neighbors: rows
    of queries and keys change places.
    """
    config, d = model.config, model.config.head_width

    def halves(W):
        """Pairs of neighboring rows as the two halves of each head."""
        return W.unflatten(0, (-1, d // 2, 2)).transpose(1, 2).flatten(0, 2)

    sizes = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.num_hiddens,
        intermediate_size=config.ffn_num_hiddens,
        num_hidden_layers=config.num_blks,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=d,
        max_position_embeddings=config.max_len,
        rms_norm_eps=config.norm_eps,
        rope_parameters={
            'rope_type': 'default',
            'rope_theta': config.rotary_base,
        },
        tie_word_embeddings=config.tie_weights,
        **options,
    )
    with torch.device('meta'):
        theirs = LlamaForCausalLM(sizes)
    values = {
        'model.embed_tokens.weight': model.token_embedding.weight,
        'lm_head.weight': model.head.weight,
        'model.norm.weight': model.norm.weight,
    }
    queries, keys = config.num_heads * d, config.num_kv_heads * d
    for i, blk in enumerate(model.blks):
        own, ffn = blk.attention.layer, blk.ffn.layer
        Q, K, V = own.W_qkv.weight.split((queries, keys, keys))
        parts = {
            'input_layernorm': blk.attention.norm.weight,
            'self_attn.q_proj': halves(Q),
            'self_attn.k_proj': halves(K),
            'self_attn.v_proj': V,
            'self_attn.o_proj': own.W_o.weight,
            'post_attention_layernorm': blk.ffn.norm.weight,
            'mlp.gate_proj': ffn[0].W_gate.weight,
            'mlp.up_proj': ffn[0].W_in.weight,
            'mlp.down_proj': ffn[1].weight,
        }
        for name, W in parts.items():
            values[f'model.layers.{i}.{name}.weight'] = W
    theirs.load_state_dict(values, assign=True)
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(sizes)
    return theirs.eval()


@torch.no_grad()
def measure_published(settings):
    """Tokens per second of SmolLM2, read and written, ours and theirs."""
    path = published.packaged('smollm2')
    if path is None:
        return None
    settings = settings['published']
    model, results = published.load_official(path), {}
    theirs = as_transformers(model)
    torch.manual_seed(0)
    num_tokens = settings['write']
    for length in settings['read']:
        X = torch.randint(model.config.vocab_size, (1, length))
        own, other = model(X, last=1), theirs(X, logits_to_keep=1).logits
        if not torch.allclose(own, other, atol=1e-3):
            raise RuntimeError('the scores are not those of transformers')
        ways = {
            'read': {
                'ours': lambda X=X: model(X, last=1),
                'transformers': lambda X=X: theirs(X, logits_to_keep=1),
            },
            'write': {
                'ours': lambda X=X: utils.generate(
                    model, X, num_tokens, temperature=0
                ),
                'transformers': lambda X=X: theirs.generate(
                    X,
                    attention_mask=torch.ones_like(X),
                    min_new_tokens=num_tokens,
                    max_new_tokens=num_tokens,
                    do_sample=False,
                    pad_token_id=2,
                ),
            },
        }
        for way, actions in ways.items():
            seconds = interleave(actions, settings['repeats'])
            count = length if way == 'read' else num_tokens
            rates = {n: count / median(s) for n, s in seconds.items()}
            ratio = rates['ours'] / rates['transformers']
            print(f'\nSmolLM2: {way} after {length} tokens, ratio {ratio:.2f}')
            for name, rate in rates.items():
                print(f'{name:14}{rate:8.1f} tokens/s')
            results[f'{way} {length}'] = {
                'tokens_per_second': rates,
                'ratio': ratio,
                'seconds': seconds,
            }
    return results


# ---- The command ----

PARTS = {
    'steps': measure_steps,
    'loss': measure_loss,
    'generation': measure_generation,
    'published': measure_published,
}


def processor():
    """The name of the processor."""
    info = Path('/proc/cpuinfo')
    text = info.read_text() if info.exists() else ''
    names = re.findall(r'model name\s*: (.*)', text)
    return names[0] if names else platform.processor()


def provenance():
    """What the numbers depend on."""
    names = ('torch', 'transformers', 'd2l')
    return {
        'command': sys.argv,
        'date': time.strftime('%Y-%m-%d %H:%M:%S%z'),
        'processor': processor(),
        'platform': platform.platform(),
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'load_at_start': os.getloadavg(),
        'python': sys.version,
        'versions': {name: importlib.metadata.version(name) for name in names},
    }


def positive(text):
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f'{text!r} is not 1 or more')
    return int(text)


def parse(arguments):
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=plain
    )
    out = ROOT / 'data' / 'benchmark.json'
    out.parent.mkdir(exist_ok=True)
    add = parser.add_argument
    add('--rounds', type=positive, help='timed training steps (30)')
    add('--muon-steps', type=positive, help='steps of Muon (420)')
    add('--quick', action='store_true', help='tiny settings, only to try')
    add('--only', choices=PARTS, help='measure one part')
    add('--out', type=Path, default=out, help='default: %(default)s')
    options = parser.parse_args(arguments)
    if options.out.is_dir() or not options.out.parent.is_dir():
        parser.error(f'--out {options.out} is a folder, or lies in none')
    return options


def main(arguments=None):
    options = parse(arguments)
    torch.set_num_threads(1)
    os.environ['TQDM_DISABLE'] = '1'
    settings = dict(QUICK if options.quick else FULL)
    for name in ('rounds', 'muon_steps'):
        settings[name] = getattr(options, name) or settings[name]
    results = {'provenance': provenance(), 'settings': settings}
    for part in [options.only] if options.only else PARTS:
        results[part] = PARTS[part](settings)
    text = json.dumps(results, indent=1) + '\n'
    write_whole(options.out, lambda file: file.write(text.encode()))
    print(f'\nwritten: {options.out}')


if __name__ == '__main__':
    main()
