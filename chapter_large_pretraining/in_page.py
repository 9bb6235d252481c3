"""Models that answer inside a page: their weights, packed, and a script."""

import base64
import copy
import hashlib
import html
import json
import re
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from torch.nn import functional as F

from corpora import BOS, EOS, MASK, SEP
from figures import fill_page, show, show_page
from utils import BERT, GPT, T5, Config, answer, bucket, evaluation_mode

KINDS = {'gpt': GPT, 'bert': BERT, 't5': T5}
NEEDED = 'num_hiddens', 'num_heads', 'head_width', 'pre_norm', 'rms_norm'
NEEDED += 'norm_eps', 'activation', 'mlm_transform'
UNUSED = 'pooler.', 'nsp.'
NUM_WRITTEN = 24  # tokens that a T5 writes at most
SMALL = 1000  # numbers: up to here a tensor takes 16 bits each
TITLE = 'Try the model'


# ---- Weights ----


def quantize(tensor, bits):
    """Integers of `bits` bits, and the float32 that one of them is worth.

    The largest magnitude becomes the largest integer. Raises ValueError for
    a tensor that is not finite.
    """
    most = tensor.abs().max().item()
    if not np.isfinite(most):
        raise ValueError(f'weights up to {most} are not finite')
    scale = np.float32(most / (2 ** (bits - 1) - 1)) or np.float32(1)
    integers = (tensor / float(scale)).round()
    return integers.to(torch.int8 if bits == 8 else torch.int16), scale


def integers_of(model, bits=8):
    """The weights that a page needs: {name: (integers, bits, scale)}.

    Tensors of at most `SMALL` numbers have 16 bits in any case. Raises
    ValueError for other `bits` than 8 and 16, and weights that are not
    finite.
    """
    if bits not in (8, 16):
        raise ValueError(f'bits is {bits}, not 8 or 16')
    tied = 'head.weight', 'mlm.decoder.weight'
    found = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(UNUSED):
            continue
        if name in tied and model.config.tie_weights:
            continue
        width = 16 if tensor.numel() <= SMALL else bits
        integers, scale = quantize(tensor.cpu().float(), width)
        found[name] = integers, width, scale
    return found


def rounded(model, bits=8):
    """A copy of `model` with the weights that it has in a page."""
    model = copy.deepcopy(model).cpu().eval()
    names = dict(model.named_parameters())
    with torch.no_grad():
        for name, (integers, _, scale) in integers_of(model, bits).items():
            names[name].copy_(integers.float() * float(scale))
    return model


def pack(integers):
    """Names, shapes and scales as a list, and all integers as bytes."""
    tensors = [
        [name, list(x.shape), bits, float(scale)]
        for name, (x, bits, scale) in integers.items()
    ]
    rows = [x.numpy() for x, _, _ in integers.values()]
    return tensors, b''.join(
        x.astype(x.dtype.newbyteorder('<')).tobytes() for x in rows
    )


def fingerprint_of(tensors, content):
    """What tells the weights of one page from those of another."""
    digest = hashlib.sha256(json.dumps(tensors).encode())
    digest.update(content)
    return digest.hexdigest()[:16]


# ---- Pages ----


def kind_of(model):
    """The name of its class, which a notebook may have written out anew."""
    return type(model).__name__.lower()


def check_model(model, words, head):
    """Raise ValueError unless a page can compute with `model` and `words`."""
    config = model.config
    if kind_of(model) not in KINDS:
        raise ValueError(f'{type(model).__name__} is none of GPT, BERT, T5')
    if config.rotary_base or config.num_kv_heads != config.num_heads:
        raise ValueError('a page has no rotary positions and grouped heads')
    if config.share_blks or config.embedding_size != config.num_hiddens:
        raise ValueError('a page has no shared blocks and narrow embeddings')
    if config.activation not in ('relu', 'gelu', 'gelu_tanh'):
        raise ValueError(f'a page has no {config.activation}')
    if len(words) != config.vocab_size:
        raise ValueError(f'{len(words)} words for {config.vocab_size} ids')
    if (
        not 0 <= head[0] < config.num_blks
        or not 0 <= head[1] < config.num_heads
    ):
        raise ValueError(f'head is {head}, not one of the model')
    for word in words:
        if not word or word.split() != [word]:
            raise ValueError(f'{word!r} is empty or has a blank')
    if twice := [word for word, n in Counter(words).items() if n > 1]:
        raise ValueError(f'{twice[0]!r} stands twice among the words')


def parts_of(example, prefixes):
    """Prefix, words, and which one is in [brackets] (None if none is)."""
    prefix = next((p for p in prefixes if example.startswith(f'{p} ')), '')
    words, place = example.removeprefix(prefix).split(), None
    for i, word in enumerate(words):
        if word[0] == '[' and word[-1] == ']':
            words[i], place = word[1:-1], i
    return prefix, words, place


def check_examples(model, words, examples, prefixes, max_words):
    """Raise ValueError unless all `examples` can be answered."""
    longest = model.config.max_len - 2
    if not 1 <= max_words <= longest:
        raise ValueError(f'max_words is {max_words}, not in 1..{longest}')
    if not examples:
        raise ValueError('no examples to start from')
    for example in examples:
        prefix, said, place = parts_of(example, prefixes)
        if unknown := {*prefix.split(), *said} - {*words}:
            raise ValueError(f'not in the vocabulary: {sorted(unknown)}')
        if not 0 < len(said) <= max_words:
            raise ValueError(
                f'{len(said)} words in {example!r}, not in 1..{max_words}'
            )
        if prefixes and not prefix:
            raise ValueError(f'{example!r} begins with none of the prefixes')
        if kind_of(model) == 'bert' and place is None:
            raise ValueError(f'{example!r} hides no word in [brackets]')


def tasks_of(world):
    """The facts of a `FactWorld` as `show_model` takes them."""
    rows = zip(world.descriptions, world.questions, world.answers, strict=True)
    return {
        world.decode(name): [
            (world.vocab[i], world.vocab[j])
            for i, j in zip(asked, replies, strict=True)
            if i > 0
        ]
        for name, asked, replies in rows
    }


def model_page(
    model,
    words,
    examples,
    tasks=None,
    prefixes=(),
    max_words=40,
    bits=8,
    head=(0, 0),
):
    """The page of `show_model` as HTML, and its fingerprint."""
    check_model(model, words, head)
    prefixes = list(prefixes)
    check_examples(model, words, examples, prefixes, max_words)
    config = {name: getattr(model.config, name) for name in NEEDED}
    scale = model.config.scale
    config['scale'] = model.config.head_width**-0.5 if scale is None else scale
    most = max_words + 2
    if kind_of(model) == 't5':
        most = max_words + max((len(p.split()) for p in prefixes), default=0)
        sizes = model.config.num_buckets, model.config.max_distance
        config['buckets'] = {
            name: bucket(torch.arange(1 - n, n), both, *sizes).tolist()
            for name, n, both in (
                ('encoder', most, True),
                ('decoder', NUM_WRITTEN, False),
            )
        }
    integers = integers_of(model, bits)
    if 'pos_embedding.weight' in integers:  # the last ones are never used
        rows, *others = integers['pos_embedding.weight']
        integers['pos_embedding.weight'] = rows[:most], *others
    tensors, content = pack(integers)
    data = {
        'kind': kind_of(model),
        'words': ' '.join(words),
        'examples': list(examples),
        'prefixes': prefixes,
        'tasks': [
            {'description': name, 'facts': ' '.join(map(' '.join, pairs))}
            for name, pairs in (tasks or {}).items()
        ]
        or None,
        'max_words': max_words,
        'head': list(head),
        'config': config,
        'tensors': tensors,
        'weights': base64.b64encode(zlib.compress(content, 9)).decode(),
    }
    return fill_page('try_it', data), fingerprint_of(tensors, content)


def model_of(data):
    """The model that the data of a page hold, in evaluation mode."""
    content = zlib.decompress(base64.b64decode(data['weights']))
    at, state = 0, {}
    for name, shape, bits, scale in data['tensors']:
        size = int(np.prod(shape)) * bits // 8
        part = np.frombuffer(content[at : at + size], f'<i{bits // 8}')
        values = part.astype(np.float32).reshape(shape) * np.float32(scale)
        state[name] = torch.from_numpy(values)
        at += size
    options = {k: v for k, v in data['config'].items() if k != 'buckets'}
    first = next(name for name in state if name.endswith('layer.0.weight'))
    positions = state.get('pos_embedding.weight', torch.ones(512))
    config = Config(
        state['token_embedding.weight'].shape[0],
        num_blks=len({x.split('blks.')[1][0] for x in state if 'blks.' in x}),
        max_len=len(positions),
        ffn_num_hiddens=state[first].shape[0],
        bias=any(name.endswith('W_o.bias') for name in state),
        **options,
    )
    model = KINDS[data['kind']](config)
    model.load_state_dict(state, strict=False)  # without tied and unused ones
    return model.eval()


def stored_model(path):
    """The model that a notebook's page of `show_model` stores.

    Its weights are rounded as the page has them, and it takes texts as long
    as the page does. Raises ValueError for a notebook without such a page.
    """
    for cell in json.loads(Path(path).read_text(encoding='utf-8'))['cells']:
        for output in cell.get('outputs', []):
            frame = ''.join(output.get('data', {}).get('text/html', ''))
            if 'data-fingerprint' in frame:
                page = html.unescape(frame)
                data = re.search('id="data">(.*?)</script>', page, re.DOTALL)
                return model_of(json.loads(data[1]))
    raise ValueError(f'{path} stores no model')


@torch.no_grad()
def guesses(model, words, example, prefixes=()):
    """The five likeliest words; of a T5, the words that it writes.

    A list of pairs of word and probability. `example` is as in
    `show_model`.
    """
    ids = {word: i for i, word in enumerate(words)}
    prefix, said, place = parts_of(example, prefixes)
    X = torch.tensor([[ids[word] for word in [*prefix.split(), *said]]])
    with evaluation_mode(model):
        if kind_of(model) == 't5':
            Y = answer(
                model, X, num_tokens=NUM_WRITTEN, temperature=0, stop=EOS
            )
            scores = model(X, F.pad(Y[:, :-1], (1, 0)))[0]
            probs = scores.softmax(-1).gather(1, Y.T)[:, 0]
            return list(
                zip([words[i] for i in Y[0]], probs.tolist(), strict=True)
            )
        if kind_of(model) == 'gpt':
            scores = model(F.pad(X, (1, 0), value=BOS))[0, -1]
        else:
            X[0, place] = MASK
            X = F.pad(F.pad(X, (1, 0), value=BOS), (0, 1), value=SEP)
            second = F.pad(X == SEP, (1, 0))[:, :-1].cumsum(1).clamp(max=1)
            scores = model(X, second)[0, place + 1]
    probs, best = scores.softmax(-1).topk(5)
    return list(zip([words[i] for i in best], probs.tolist(), strict=True))


def plot_guesses(pairs, title):
    """Draw words and probabilities as bars. Returns the figure."""
    fig, ax = plt.subplots(figsize=(5, 0.25 * len(pairs) + 0.8))
    places = range(len(pairs))
    ax.barh(places, [p for _, p in pairs], height=0.6)
    ax.set_yticks(places, [word for word, _ in pairs], parse_math=False)
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xlabel('probability')
    ax.set_title(title, fontsize=9, parse_math=False)
    return fig


def show_model(
    model,
    words,
    examples,
    tasks=None,
    prefixes=(),
    max_words=40,
    bits=8,
    head=(0, 0),
):
    """Display a page in which readers ask `model`, and below it a picture.

    The page holds the weights, in `bits` bits, and needs neither kernel nor
    network. `words` names the ids; `examples` are texts to start from, their
    words between blanks. A `GPT` says what comes next; with `tasks`, lists
    of pairs by description, beside the best possible answer. A `BERT` says
    what a hidden word may be, in an example one in [brackets]. A `T5` writes
    what one of `prefixes` asks for. `max_words` is the longest text; `head`
    is the block and the head, from 0, whose attention is shown first. The
    picture shows the answer to the first example. Raises ValueError for a
    model of another kind or with blocks that a page has not, words that do
    not fit, an example that cannot be answered, other `bits` than 8 and 16.
    """
    page, fingerprint = model_page(
        model, words, examples, tasks, prefixes, max_words, bits, head
    )
    said = guesses(rounded(model, bits), words, examples[0], prefixes)
    text = (
        f'{type(model).__name__} to be tried, an interactive form of the next '
        f'picture; fingerprint of its weights {fingerprint}'
    )
    show_page(page, TITLE, text, fingerprint=fingerprint)
    title = examples[0].translate({91: '', 93: ''})
    if kind_of(model) == 'bert':
        _, shown, place = parts_of(examples[0], prefixes)
        shown[place] = '<mask>'
        title = ' '.join(shown)
    listed = ', '.join(f'{word} {p:.2f}' for word, p in said)
    show(
        plot_guesses(said, title),
        f'What the model answers to "{title}": {listed}.',
    )
