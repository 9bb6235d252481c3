"""Checkpoints: their folder, settings, tensors and tokenizer.

A checkpoint is a folder as the Hugging Face hub lays it out: config.json,
the weights in model.safetensors or in several such files with an index, and
the files of the tokenizer. Or it is one GGUF file. Nothing is unpickled.
"""

import json
import math
import os
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from .quantized import GGUF

WEIGHTS, INDEX = 'model.safetensors', 'model.safetensors.index.json'
FILES = [
    'config.json',
    WEIGHTS,
    INDEX,
    'model-*-of-*.safetensors',
    'tokenizer.json',
    'tokenizer_config.json',
    'vocab.txt',
    'vocab.json',
    'merges.txt',
]
SPECIAL = r'\[(PAD|UNK|CLS|SEP|MASK)\]|</?(s|pad|unk|mask)>|<\|endoftext\|>'
HUB_NAME = re.compile(r'[\w-][\w.-]*(/[\w-][\w.-]*)?')

# What a config.json may say without changing the scores that come out
HARMLESS = """
    architectures attn_implementation bos_token_id chunk_size_feed_forward
    classifier_dropout decoder_start_token_id directionality dtype
    eos_token_id finetuning_task gradient_checkpointing id2label
    initializer_factor initializer_range is_llama_config label2id model_type
    n_ctx num_labels output_attentions output_hidden_states output_past
    pad_token_id pooler_fc_size pooler_num_attention_heads
    pooler_num_fc_layers pooler_size_per_head pooler_type prefix
    problem_type return_dict sep_token_id summary_activation
    summary_first_dropout summary_proj_to_labels summary_type
    summary_use_proj task_specific_params tf_legacy_loss tokenizer_class
    torch_dtype torchscript transformers.js_config transformers_version
    use_bfloat16 use_cache
"""
GENERATION = """
    bad_words_ids begin_suppress_tokens diversity_penalty do_sample
    early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty forced_bos_token_id
    forced_eos_token_id length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
    output_scores remove_invalid_values repetition_penalty
    return_dict_in_generate suppress_tokens temperature top_k top_p
    typical_p
"""  # in older files, how to generate
IRRELEVANT = r'_.*|' + '|'.join(
    re.escape(key) for key in (HARMLESS + GENERATION).split()
)


# ---- Folders and files ----


def official_folder(name_or_path, revision=None, download=True):
    """The folder of a checkpoint: a local one, or that of a hub name.

    The path of a GGUF file stands for itself. A name such as
    'openai-community/gpt2' is looked up in the hub's cache and, with
    `download`, fetched into it; `revision` is a branch, tag or commit there.
    Raises ValueError for what can be neither, ImportError if
    `huggingface_hub` is needed and missing, FileNotFoundError if the cache
    does not have it, OSError for a download that failed.
    """
    folder = Path(name_or_path)
    if folder.is_dir() or (folder.suffix == '.gguf' and folder.is_file()):
        return folder
    name = str(name_or_path)
    if folder.exists() or not HUB_NAME.fullmatch(name):
        raise ValueError(f'{name!r} is neither a folder nor a name on the hub')
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ImportError(
            f'{name!r} is no folder here; to look for it on the Hugging Face '
            'hub, install huggingface_hub (pip install huggingface_hub)'
        ) from None
    try:
        found = snapshot_download(
            name,
            revision=revision,
            allow_patterns=FILES,
            local_files_only=not download,
        )
    except Exception as error:  # of several libraries, without common base
        if not download:
            raise FileNotFoundError(
                f"{name!r} is neither a folder here nor in the hub's cache"
            ) from error
        raise OSError(
            f'{name!r} is no folder here and was not downloaded: {error}'
        ) from error
    return Path(found)


def gguf_file(place):
    """The GGUF file that a path is or, without other weights, holds.

    None where weights are in safetensors; ValueError for several files.
    """
    if place.is_file():
        return place
    if (place / WEIGHTS).is_file() or (place / INDEX).is_file():
        return None
    found = sorted(place.glob('*.gguf'))
    if len(found) > 1:
        raise ValueError(
            f'{place} holds {[path.name for path in found]}; give the path '
            'of one'
        )
    return found[0] if found else None


def weight_files(folder):
    """The safetensors files of a checkpoint.

    Raises ValueError if there are none, or not all that the index lists.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        shards = read_json(folder / INDEX).get('weight_map')
        if not isinstance(shards, dict) or not shards:
            raise ValueError(f'{folder / INDEX} is damaged: no weight_map')
        names = sorted({str(name) for name in shards.values()})
        away = [name for name in names if Path(name).name != name]
        if away:
            raise ValueError(
                f'{folder / INDEX} leads out of the folder: {away}'
            )
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ValueError(
                f'{folder} lacks {missing}, which {INDEX} lists; was the '
                'download interrupted? Start it again'
            )
        return [folder / name for name in names]
    pickles = sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix in ('.bin', '.pt', '.pth', '.ckpt', '.pkl')
    )
    why = ', and no other format is read'
    if pickles:
        why = f'; {pickles} can run code when they are opened, and are not'
    raise ValueError(f'{folder} has no {WEIGHTS}{why}')


def at_hand(variable, name, download=False):
    """The folder of a checkpoint, or None after a line on what is missing.

    It is the folder, or name on the hub, that the environment variable says,
    or else that of `name` in the hub's cache, or else, with `download`, from
    the network. Raises what `official_folder` raises, except that `name` is
    not at hand.
    """
    if os.environ.get(variable):
        return official_folder(os.environ[variable])
    try:
        folder = official_folder(name, download=download)
        weight_files(folder)
    except (ImportError, OSError, ValueError):
        print(
            f'{name} is not at hand: set {variable} to its folder, or '
            'download = True'
        )
        return None
    return folder


# ---- Settings ----


def read_json(path):
    """The object in a JSON file; ValueError if there is none."""
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise ValueError(f'{path} is missing') from None
    except ValueError as error:
        raise ValueError(f'{path} is damaged: {error}') from error
    if not isinstance(value, dict):
        raise ValueError(f'{path} holds {type(value).__name__}, not an object')
    return value


class Settings:
    """The settings in a file, each taken once and checked.

    The methods raise ValueError, with the file's name, for a value that the
    models of the chapter cannot follow.
    """

    def __init__(self, path, values):
        self.path, self.values = path, dict(values)

    def take(self, key, default=None):
        """The value of `key`, which `finish` then no longer complains of.

        Null stands for the default, as it does where these files come from.
        """
        value = self.values.pop(key, None)
        value = default if value is None else value
        if value is None:
            raise ValueError(f'{self.path} does not say {key}')
        return value

    def size(self, key, default=None):
        """A whole number of at least 1."""
        value = self.take(key, default)
        if type(value) is not int or value < 1:
            raise ValueError(
                f'{self.path}: {key} is {value!r}, not a whole number above 0'
            )
        return value

    def number(self, key, default):
        """A number in [0, 1), as a dropout or the epsilon of a norm is."""
        value = self.take(key, default)
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise ValueError(
                f'{self.path}: {key} is {value!r}, not a number in [0, 1)'
            )
        return float(value)

    def positive(self, key, default):
        """A finite number above 0."""
        value = self.take(key, default)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ValueError(
                f'{self.path}: {key} is {value!r}, not a finite number above 0'
            )
        return float(value)

    def dropout(self, *keys):
        """What the keys, 0.1 by default, agree on: our models have one."""
        values = {key: self.number(key, 0.1) for key in keys}
        if len(set(values.values())) > 1:
            raise ValueError(f'{self.path}: {values} should be equal')
        return values[keys[0]]

    def choose(self, key, choices, default):
        """What `choices` has for the value of `key`."""
        value = self.take(key, default)
        for choice, meaning in choices.items():
            if type(value) is type(choice) and value == choice:
                return meaning
        raise ValueError(
            f'{self.path}: {key} is {value!r}, not '
            f'{" or ".join(map(repr, choices))}'
        )

    def flag(self, key, default):
        """True or False; 1 and 0 are something else."""
        return self.choose(key, {True: True, False: False}, default)

    def require(self, **expected):
        """Values that must be these, where the file has them."""
        for key, value in expected.items():
            self.choose(key, {value: value}, value)

    def finish(self, harmless):
        """Raise ValueError if there is more than was taken.

        `harmless` is a pattern of the keys that change no result.
        """
        # an empty list or object, like null, asks for nothing
        left = {
            key: value
            for key, value in self.values.items()
            if value not in (None, {}, []) and not re.fullmatch(harmless, key)
        }
        if left:
            raise ValueError(
                f'{self.path} has values of unknown meaning: {left}. If they '
                'do not change what the model computes, remove them'
            )


# ---- Tensors ----


class Weights:
    """The tensors of safetensors files, read when they are asked for.

    Raises ValueError for a file that is damaged or was cut off, and for a
    tensor that two files hold.
    """

    def __init__(self, paths):
        self.files = {}
        for path in paths:
            for name in self.open(path).keys():  # noqa: SIM118, no dict
                if name in self.files:
                    raise ValueError(f'{path}: {name} is in two files')
                self.files[name] = path

    def open(self, path):
        try:
            return safe_open(path, framework='pt')
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f'{path} is damaged or was cut off ({error}); download it '
                'again'
            ) from error

    def __iter__(self):
        return iter(self.files)

    def __getitem__(self, name):
        # opened anew: an open file would keep in memory all that was read
        return self.open(self.files[name]).get_tensor(name)


# ---- Tokenizers ----


def mark_special(tokenizer):
    """Keep the special tokens of the vocabulary whole."""
    tokenizer.add_special_tokens(
        [
            AddedToken(token, lstrip=token == '<mask>', normalized=False)
            for token in tokenizer.get_vocab()
            if re.fullmatch(SPECIAL, token)
        ]
    )


def word_pieces(vocab, lowercase):
    """BERT's tokenizer with the words of a vocab.txt."""
    tokenizer = Tokenizer(
        models.WordPiece.from_file(str(vocab), unk_token='[UNK]')
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    mark_special(tokenizer)
    ends = ((t, tokenizer.token_to_id(t)) for t in ('[SEP]', '[CLS]'))
    tokenizer.post_processor = processors.BertProcessing(*ends)
    return tokenizer


def byte_pairs(vocab, merges):
    """GPT-2's tokenizer, or RoBERTa's, which marks both ends of a text."""
    tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    mark_special(tokenizer)
    ends = [(t, tokenizer.token_to_id(t)) for t in ('</s>', '<s>')]
    if all(i is not None for _, i in ends):
        tokenizer.post_processor = processors.RobertaProcessing(
            *ends, add_prefix_space=False
        )
    return tokenizer


# How the texts of byte-level vocabularies are cut before bytes are merged, by
# llama.cpp's names: 'smollm' as tokenizer.json of SmolLM2 says, 'gpt-2' as
# GPT-2's, 'llama-bpe' as Llama 3's
LLAMA_3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
PRE_TOKENIZERS = {
    'smollm': pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), BYTES]
    ),
    'gpt-2': BYTES,
    'llama-bpe': pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3_WORDS), 'isolated'),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # kinds of tokens in GGUF
GGUF_HARMLESS = (
    r'tokenizer\.(chat_template.*|ggml\.(bos|eos|unknown|padding|eot|eom'
    r'|seperator|mask|cls|fim_.*)_token_id)'
)


def gguf_tokenizer(path):
    """The byte-level tokenizer in a GGUF file.

    Where the file says 'smollm', every digit is cut from what is beside it,
    as by the tokenizer.json that SmolLM2 was released with and trained with:
    no token of it joins a digit with anything. The reading of GGUF in
    `transformers` 5 leaves that out, so that of several blanks before a
    number the last becomes a token by itself. Bytes without a token are lost
    from a text, also as in training: for SmolLM2 those of six control
    characters (U+0004, 6, 13, 14, 16 and 1D) and of planes 4 to 11 of
    Unicode, where nothing is assigned.
    """
    values = GGUF(path).settings
    names = [name for name in values if name.startswith('tokenizer.')]
    settings = Settings(path, {name: values[name] for name in names})
    key = 'tokenizer.ggml.{}'.format
    settings.require(**{key('model'): 'gpt2', key('add_space_prefix'): False})
    is_llama_3 = settings.values.get(key('pre')) == 'llama-bpe'
    pre_tokenizer = settings.choose(key('pre'), PRE_TOKENIZERS, '')
    tokens = settings.take(key('tokens'))
    merges = [tuple(x.split(' ')) for x in settings.take(key('merges'))]
    kinds = settings.take(key('token_type'), [NORMAL] * len(tokens))
    marks = {'bos': '', 'eos': ''}
    for end in marks:
        default = is_llama_3 and end == 'bos'
        if settings.flag(key(f'add_{end}_token'), default):
            marks[end] = tokens[settings.take(key(f'{end}_token_id'))]
    settings.finish(GGUF_HARMLESS)
    vocab = {token: i for i, token in enumerate(tokens)}
    known = {NORMAL, CONTROL, USER_DEFINED, UNUSED}
    if len(vocab) < len(kinds) or not known.issuperset(kinds):
        raise ValueError('its tokens are not all different, or of other kinds')
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=is_llama_3))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    for kind, special in ((CONTROL, True), (USER_DEFINED, False)):
        tokenizer.add_tokens(
            [
                AddedToken(token, normalized=False, special=special)
                for token, k in zip(tokens, kinds, strict=True)
                if k == kind
            ]
        )
    if any(marks.values()):
        tokenizer.post_processor = processors.TemplateProcessing(
            single='{bos} $A {eos}'.format(**marks).strip(),
            special_tokens=[(t, vocab[t]) for t in marks.values() if t],
        )
    return tokenizer


def load_tokenizer(name_or_path, revision=None, download=True):
    """The tokenizer of a checkpoint, a `tokenizers.Tokenizer`.

    It is read from tokenizer.json or, where that is missing, put together
    from vocab.txt (BERT), vocab.json and merges.txt (RoBERTa, GPT-2) or a
    GGUF file; see `gguf_tokenizer`. T5's version 1.1, published without
    tokenizer.json, has that of T5. For the arguments see `official_folder`.
    Raises ValueError if there is none or its file is damaged.
    """
    folder = official_folder(name_or_path, revision, download)
    whole = folder / 'tokenizer.json'
    vocab, merges = folder / 'vocab.json', folder / 'merges.txt'
    try:
        if whole.is_file():
            tokenizer = Tokenizer.from_file(str(whole))
        elif (folder / 'vocab.txt').is_file():
            path = folder / 'tokenizer_config.json'
            settings = Settings(path, read_json(path))
            lowercase = settings.flag('do_lower_case', True)
            tokenizer = word_pieces(folder / 'vocab.txt', lowercase)
        elif vocab.is_file() and merges.is_file():
            tokenizer = byte_pairs(vocab, merges)
        elif file := gguf_file(folder):
            tokenizer = gguf_tokenizer(file)
        else:
            raise ValueError(
                'no tokenizer.json, vocab.txt, vocab.json with merges.txt, or '
                'GGUF file'
            )
    except ImportError:
        raise
    except Exception as error:  # tokenizers raises no class of its own
        raise ValueError(f'{folder}: no tokenizer: {error}') from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
