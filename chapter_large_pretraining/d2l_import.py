"""d2l without its old pins and without torchvision."""

import importlib
import sys
import types


def import_d2l():
    """d2l's torch module, with a stand-in for torchvision if it is missing.

    The chapter uses nothing of d2l that needs images. The stand-in leaves
    `sys.modules` again at once, so that other libraries see the truth.
    """
    stand_ins = {}
    try:
        importlib.import_module('torchvision')
    except Exception:  # absent, or built for another torch
        vision = types.ModuleType('torchvision')
        vision.transforms = types.ModuleType('torchvision.transforms')
        stand_ins = {m.__name__: m for m in (vision, vision.transforms)}
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module('d2l.torch')
    except ModuleNotFoundError as error:
        if (error.name or '').split('.')[0] != 'd2l':
            raise
        raise ModuleNotFoundError(
            'd2l is not installed. Install it without its old pins:\n'
            '    pip install --no-deps d2l==1.0.3',
            name='d2l',
        ) from None
    finally:
        for name in stand_ins:
            del sys.modules[name]


d2l = import_d2l()
