"""Kinds of bad input, one call each, for tests/reliability.py.

Each function makes its files in an empty folder and returns the call under
test; `KINDS` holds what the error must say beside being an error: the value
or the file, where {folder} stands for the folder.
"""

import contextlib
import gzip
import io
import json
import math

import torch
from safetensors.torch import load_file, save_file

import corpora
import figures
import laws
import processes
import published
import utils
from studies import runner, scaling

EXPECTED = ValueError, FloatingPointError, FileNotFoundError
KINDS = {}
RECORDED = scaling.__file__.replace('.py', '.csv')


def kind(*words):
    """Register a function under its name and what its error must say."""

    def register(make):
        KINDS[make.__name__.replace('_', ' ')] = make, words
        return make

    return register


def listing(folder):
    """All that a folder holds: what, when, and with which bytes."""
    return {
        path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in folder.rglob('*')
    }


def attempt(name, folder):
    """What is wrong with a refusal, or ''; and whether a file changed."""
    make, words = KINDS[name]
    call = make(folder)
    before, problem = listing(folder), ''
    try:
        call()
    except EXPECTED as error:
        said = str(error)
        lacks = [w for w in words if w.format(folder=folder) not in said]
        if lacks:
            problem = f'the error lacks {lacks}: {said}'
    except BaseException as error:
        problem = f'{type(error).__name__}: {error}'
    else:
        problem = 'accepted'
    return problem, listing(folder) != before


# ---- Files of a study ----


def study(path, *words):
    """A call of the command, which raises what it says at its end."""

    def call():
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            try:
                status = runner.main(['scaling', str(path), *words])
            except SystemExit as stopped:
                status = stopped.code
        if status:
            raise ValueError(said.getvalue())

    return call


def csv_of(folder, data):
    path = folder / 'runs.csv'
    path.write_bytes(data)
    return path


def recorded(num_lines):
    with open(RECORDED, 'rb') as file:
        return [file.readline() for _ in range(num_lines)]


@kind('{folder}/runs.csv, line 1', 'not the columns')
def foreign_csv(folder):
    return study(csv_of(folder, b'name,age\nAda,36\n'))


@kind('{folder}/runs.csv, line 1', 'not the columns')
def foreign_csv_with_an_unfinished_line_in_a_dry_run(folder):
    return study(csv_of(folder, b'name,age\nAda,36\nBob'), '--dry-run')


@kind('{folder}/runs.csv, line 1', 'not the columns')
def poem_without_line_end(folder):
    return study(csv_of(folder, b'a rose is a rose'))


@kind('{folder}/runs.csv, line 1')
def notebook_where_a_csv_is_expected(folder):
    text = json.dumps({'cells': [], 'nbformat': 4}, indent=1)
    return study(csv_of(folder, text.encode()))


@kind('{folder}/runs.csv, line 1', 'utf-8')
def csv_that_is_not_text(folder):
    return study(csv_of(folder, b'\xff\xfe\x00\n\x00'))


@kind('{folder}/runs.csv, line 3', "tokens is 'many', not int")
def csv_with_a_malformed_row(folder):
    header, first, second = recorded(3)
    fields = second.split(b',')
    fields[scaling.STUDY.columns.index('tokens')] = b'many'
    return study(csv_of(folder, header + first + b','.join(fields)))


@kind('{folder}/runs.csv, line 3', 'the run of line 2 again')
def csv_with_a_row_twice(folder):
    header, first = recorded(2)
    return study(csv_of(folder, header + first + first))


@kind('{folder}')
def folder_where_a_csv_is_expected(folder):
    return study(folder)


@kind('there is no file {folder}/none.csv')
def missing_csv(folder):
    return lambda: scaling.read_runs(folder / 'none.csv')


@kind('{folder}/runs.csv, line 1')
def csv_of_another_study(folder):
    other = b'width,lr,loss,seconds\n8,0.1,2.5,1.0\n'
    path = csv_of(folder, other)
    return lambda: scaling.read_runs(path)


@kind("'8x0' is not like 16x2")
def size_that_is_none(folder):
    return study(folder / 'runs.csv', '--sizes', '16x2,8x0')


@kind("'nan' is not a number above 0")
def learning_rate_that_is_no_number(folder):
    return study(folder / 'runs.csv', '--lr', 'nan')


# ---- Texts ----


def texts(folder, **files):
    for name, data in files.items():
        (folder / name.replace('_', '.')).write_bytes(data)
    return lambda: corpora.text_folder(folder)


WORDS = b'north south east west ' * 3000


@kind('{folder}/b.txt.gz')
def gz_that_was_cut_off(folder):
    data = gzip.compress(WORDS)[:-9]
    return texts(folder, a_txt=WORDS, b_txt_gz=data)


@kind('{folder}/b.txt.gz')
def gz_that_is_none(folder):
    return texts(folder, a_txt=WORDS, b_txt_gz=b'not packed')


@kind('{folder}/b.txt')
def text_in_another_encoding(folder):
    return texts(folder, a_txt=WORDS, b_txt=b'caf\xe9 ' * 999)


@kind('{folder}', '0 .txt, .md or .rst files')
def folder_without_texts(folder):
    return texts(folder)


@kind('{folder}/none is not a folder')
def folder_that_is_missing(folder):
    return lambda: corpora.text_folder(folder / 'none')


# ---- Checkpoints ----


def resumed(folder, spoil, lr=0.01):
    """A call that goes on from a checkpoint, which was spoiled before."""
    path, torch_state = folder / 'run.pt', torch.get_rng_state()
    batch = torch.arange(9).repeat(4, 1)

    def train(lr):
        run = processes.Run(path, checkpoint_every=2)
        model = utils.GPT(utils.Config(11, 8, 2, 1, 8))
        utils.train(model, [batch], utils.lm_loss, 4, lr, run=run)

    train(0.01)
    spoil(path)
    torch.set_rng_state(torch_state)
    return lambda: train(lr)


def cut(path):
    path.write_bytes(path.read_bytes()[:-99])


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


@kind('{folder}/run.pt is not a checkpoint')
def checkpoint_that_was_cut_off(folder):
    return resumed(folder, cut)


@kind('{folder}/run.pt is not a checkpoint')
def checkpoint_that_is_a_hostile_pickle(folder):
    bomb = Bomb(folder / 'it was unpickled')
    return resumed(folder, lambda path: torch.save(bomb, path))


@kind('{folder}/run.pt was made with lr = 0.01, not 0.5')
def checkpoint_of_another_run(folder):
    return resumed(folder, lambda path: None, lr=0.5)


# ---- Published weights ----


def weights(folder, change=lambda tensors: tensors, **settings):
    """A call that loads a small BERT as published, with changes."""
    from transformers import BertConfig, BertForMaskedLM

    sizes = {'hidden_size': 8, 'intermediate_size': 32, 'vocab_size': 11}
    heads = {'num_attention_heads': 2, 'num_hidden_layers': 1}
    BertForMaskedLM(BertConfig(**sizes, **heads)).save_pretrained(folder)
    path = folder / 'model.safetensors'
    tensors = change(load_file(path))
    save_file(tensors, path, metadata={'format': 'pt'})
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps(config | settings))
    return lambda: published.load_official(folder)


EMBEDDING = 'bert.embeddings.word_embeddings.weight'


def with_embedding(function):
    return lambda tensors: tensors | {EMBEDDING: function(tensors[EMBEDDING])}


def spoiled(folder, name, data):
    """A call that loads a small BERT of which one file has other bytes."""
    call = weights(folder)
    path = folder / name
    path.write_bytes(path.read_bytes()[:-99] if data is None else data)
    return call


@kind('model.safetensors is damaged or was cut off')
def weights_that_were_cut_off(folder):
    return spoiled(folder, 'model.safetensors', None)


@kind('model.safetensors')
def pointer_where_weights_are_expected(folder):
    pointer = b'version https://git-lfs.github.com/spec/v1\noid sha256:00\n'
    return spoiled(folder, 'model.safetensors', pointer)


@kind('model.safetensors is damaged')
def hostile_pickle_named_safetensors(folder):
    call, bomb = weights(folder), Bomb(folder / 'it was unpickled')
    torch.save(bomb, folder / 'model.safetensors')
    return call


@kind("['pytorch_model.bin'] can run")
def hostile_pickle_of_weights(folder):
    call = weights(folder)
    (folder / 'model.safetensors').unlink()
    torch.save(Bomb(folder / 'it was unpickled'), folder / 'pytorch_model.bin')
    return call


@kind(EMBEDDING, 'nan')
def weights_with_nan(folder):
    return weights(folder, with_embedding(lambda W: W * math.nan))


@kind('embedding.weight of shape (11, 8)', '(10, 8)')
def weights_of_another_shape(folder):
    return weights(folder, with_embedding(lambda W: W[:10].clone()))


@kind(EMBEDDING, 'torch.int8')
def weights_of_another_type(folder):
    return weights(folder, with_embedding(lambda W: W.to(torch.int8)))


@kind("Without a place in the model: ['more']")
def weights_with_a_tensor_too_many(folder):
    return weights(folder, lambda tensors: tensors | {'more': torch.ones(2)})


@kind("model_type is 'mistral'")
def weights_of_another_family(folder):
    return weights(folder, model_type='mistral')


@kind("unknown meaning: {{'rope_theta': 10000.0}}")
def setting_that_nobody_knows(folder):
    return weights(folder, rope_theta=1e4)


@kind('config.json is damaged')
def settings_that_are_damaged(folder):
    return spoiled(folder, 'config.json', b'{"model_type": "bert"')


@kind('{folder}/none', 'neither a folder nor')
def weights_that_are_missing(folder):
    return lambda: published.load_official(folder / 'none')


@kind('{folder}', 'no tokenizer: ')
def tokenizer_that_is_damaged(folder):
    (folder / 'tokenizer.json').write_text('{"version": ')
    return lambda: published.load_tokenizer(folder)


@kind('model.safetensors is damaged')
def weights_that_claim_to_be_endless(folder):
    return spoiled(folder, 'model.safetensors', b'\xff' * 7 + b'\0' + b'{}')


# ---- Tensors ----


def gpt():
    return utils.GPT(utils.Config(11, 8, 2, 2, 8))


@kind('token id 11 outside 0..10')
def id_too_large(folder):
    return lambda: gpt()(torch.tensor([[0, 11]]))


@kind('token id -1 outside 0..10')
def id_below_zero(folder):
    return lambda: gpt()(torch.tensor([[0, -1]]))


@kind('token id 0.0 outside 0..10')
def ids_with_decimals(folder):
    return lambda: gpt()(torch.tensor([[0.0, 1.5]]))


@kind('token id True outside 0..10')
def ids_that_are_truth_values(folder):
    return lambda: gpt()(torch.ones(1, 4, dtype=torch.bool))


@kind('(0, 4)')
def empty_batch(folder):
    return lambda: gpt()(torch.zeros(0, 4, dtype=torch.long))


@kind('9 tokens', 'max_len, 8')
def text_too_long(folder):
    return lambda: gpt()(torch.zeros(1, 9, dtype=torch.long))


@kind('mask is torch.float32, not torch.bool')
def mask_of_floats(folder):
    return lambda: gpt()(torch.zeros(1, 4, dtype=int), [torch.ones(4, 4)] * 2)


@kind('mask of shape (3, 3)')
def mask_of_another_shape(folder):
    mask = [utils.causal_mask(3)] * 2
    return lambda: gpt()(torch.zeros(1, 4, dtype=int), mask)


@kind('valid_lens is [5], outside [0, 4]')
def length_beyond_the_text(folder):
    return lambda: utils.padding_mask(torch.tensor([5]), 4)


@kind('segment 2 outside 0..1')
def segment_that_is_none(folder):
    X = torch.zeros(1, 4, dtype=torch.long)
    model = utils.BERT(utils.Config(11, 8, 2, 1, 8))
    return lambda: model(X, X + 2)


@kind('density is 1.5')
def share_above_one(folder):
    return lambda: utils.choose_spans(torch.tensor([4]), 4, 1.5)


@kind('num_examples is 0')
def data_set_without_examples(folder):
    return lambda: corpora.imdb(0, folder)


@kind('nan')
def scores_that_are_nan(folder):
    return lambda: utils.sample(torch.full((1, 5), math.nan), 0)


@kind('loss is nan')
def model_that_holds_nan(folder):
    model = gpt()
    torch.nn.init.constant_(model.norm.weight, math.nan)
    batch = torch.zeros(2, 5, dtype=torch.long)
    return lambda: utils.evaluate(model, [batch], utils.lm_loss)


@kind('no batch')
def nothing_to_evaluate(folder):
    return lambda: utils.evaluate(gpt(), [], utils.lm_loss)


@kind('no label in the batch of step 0')
def batch_without_labels(folder):
    batch = torch.full((2, 5), -100)
    return lambda: utils.train(gpt(), [batch], utils.lm_loss, 1)


@kind('batches is empty')
def nothing_to_train_on(folder):
    return lambda: utils.train(gpt(), [], utils.lm_loss, 1)


@kind('temperature is -1')
def temperature_below_zero(folder):
    return lambda: utils.sample(torch.zeros(1, 5), -1)


@kind('num_hiddens is 10', 'num_heads, 4')
def width_that_heads_do_not_divide(folder):
    return lambda: utils.Config(11, 10, 4, 1, 8)


# ---- Figures, claims, laws ----


@kind('torch.float32 (4, 4) is not a boolean mask')
def picture_of_a_mask_of_floats(folder):
    return lambda: figures.plot_pattern(torch.ones(4, 4), list('abcd'))


@kind('3 query tokens for 4 positions')
def picture_with_too_few_tokens(folder):
    maps = torch.full((1, 1, 4, 4), 0.25)
    return lambda: figures.plot_attention(maps, list('abc'))


@kind('from nan')
def picture_of_weights_that_are_nan(folder):
    maps = torch.full((1, 1, 4, 4), math.nan)
    return lambda: figures.plot_attention(maps, list('abcd'))


@kind('None, not one truth value')
def claim_of_nothing(folder):
    return lambda: figures.claim('it holds', None)


@kind('nan is not a positive number')
def law_of_a_loss_that_is_nan(folder):
    return lambda: laws.fit_power_law([1, 2, 3], [3.0, math.nan, 2.0])


@kind("device is 'H2O'")
def plan_for_an_unknown_device(folder):
    config = utils.Config(11, 8, 2, 1, 8)
    return lambda: laws.plan_training(config, 1000, 'H2O')
