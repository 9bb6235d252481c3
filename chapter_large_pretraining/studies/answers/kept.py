"""Small models that solutions load, since they would train too long there.

    python -m studies.answers.kept solutions

trains those that the folder lacks. A file holds the parameters as numbers of
16 bits, the sizes of the model, and what made it: command, machine, versions
and date.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import sys
from pathlib import Path

import safetensors
from safetensors.torch import load_file, save

import utils
from corpora.storage import write_whole
from pictures import ViT

from .. import runner

FOLDER = Path(__file__).parents[2] / 'solutions'
KINDS = {
    'BERT': utils.BERT,
    'GPT': utils.GPT,
    'T5': utils.T5,
    'ViT': functools.partial(ViT, size=7),
}
MODELS = {  # notebook, function, what it takes: at the end, a seed
    'teacher': ('bert_derivatives', 'teacher_of', 0),
    'opinions': ('after_pretraining', 'first_policy', 0),
    'phrases_0': ('t5_tasks', 'beginner', 0),
    'phrases_1': ('t5_tasks', 'beginner', 1),
    'least_to_most': ('after_pretraining', 'least_to_most_model', 0),
    'any_order': ('after_pretraining', 'any_order', 0),
    'one_lesson': ('t5_derivatives', 'taught', 1, 0),
    'digits': ('vision', 'all_digits', 0),
}


def trained(name):
    """A model of MODELS, trained here."""
    notebook, function, *values = MODELS[name]
    module = importlib.import_module(f'{__package__}.{notebook}')
    return getattr(module, function)(*values)


def path_of(name, folder=FOLDER):
    """Where a model is kept; ValueError for a name that is not in MODELS."""
    if name not in MODELS:
        raise ValueError(f'name is {name!r}, not one of {", ".join(MODELS)}')
    return Path(folder) / f'{name}.safetensors'


def keep(model, path, command):
    """Write a model to `path`, whole or not at all.

    Raises ValueError for a parameter that is not finite in 16 bits.
    """
    here = argparse.Namespace(device='cpu', command=command)
    header = {
        'kind': type(model).__name__,
        'config': json.dumps(dataclasses.asdict(model.config)),
        'made': json.dumps(dataclasses.asdict(runner.made_here(here))),
    }
    tensors = {name: P.data.half() for name, P in model.named_parameters()}
    for name, T in tensors.items():
        if not T.isfinite().all():
            raise ValueError(f'{name} is not finite in 16 bits')
    content = save(tensors, header)
    write_whole(path, lambda file: file.write(content))


def read(path):
    """A model that `keep` has written, in evaluation mode, and its `Made`.

    Raises FileNotFoundError if there is none, and ValueError for a file that
    `keep` has not written.
    """
    try:
        with safetensors.safe_open(path, 'pt') as file:
            header = file.metadata()
        tensors = load_file(path)
        config = utils.Config(**json.loads(header['config']))
        made = runner.Made(**json.loads(header['made']))
        model = KINDS[header['kind']](config)
    except (safetensors.SafetensorError, TypeError, KeyError) as error:
        raise ValueError(f'{path} is not a kept model: {error}') from error
    parameters = dict(model.named_parameters())
    if parameters.keys() != tensors.keys():
        names = sorted(parameters.keys() ^ tensors.keys())
        raise ValueError(f'{path} differs from its model in {names}')
    for name, P in parameters.items():
        if P.shape != tensors[name].shape:
            there, wanted = tuple(tensors[name].shape), tuple(P.shape)
            raise ValueError(f'{path}: {name} is {there}, not {wanted}')
        P.data.copy_(tensors[name])
    return model.eval(), made


def kept_model(name):
    """The model `name` of MODELS, in evaluation mode."""
    return read(path_of(name))[0]


def main(words=None):
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser('python -m studies.answers.kept')
    parser.add_argument('folder', type=Path, help='where they are kept')
    folder = parser.parse_args(words).folder
    for name in MODELS:
        path = path_of(name, folder)
        try:
            if path.exists():
                print(f'{path} is there, of {read(path)[1].date}')
                continue
            keep(trained(name), path, f'studies.answers.kept {folder}')
        except (ValueError, OSError) as error:
            print(error, file=sys.stderr)
            return 1
        print(f'{path} has {path.stat().st_size:,} bytes')
    return 0


if __name__ == '__main__':
    sys.exit(main())
