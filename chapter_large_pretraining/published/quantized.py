"""GGUF files: settings and quantized tensors in one file.

The header is read here, since `gguf.GGUFReader` makes four arrays of each of
its strings, which takes a second and 100 MB for a vocabulary; what the types
of tensors mean, and their values, comes from the package `gguf`. Nothing
stays mapped or open.
"""

import math
import mmap
import struct

import numpy as np
import torch

STRING, ARRAY = 8, 9
NUMBERS = {  # kinds of values in a header, in the letters of `struct`
    0: 'B',
    1: 'b',
    2: 'H',
    3: 'h',
    4: 'I',
    5: 'i',
    6: 'f',
    7: '?',
    10: 'Q',
    11: 'q',
    12: 'd',
}
VERSIONS = (2, 3)


class Damage(Exception):
    """What is wrong with a header."""


DAMAGE = Damage, MemoryError, OverflowError, UnicodeDecodeError, struct.error


def import_gguf():
    """The package `gguf`; ImportError that says how to get it."""
    try:
        import gguf
    except ImportError:
        raise ImportError(
            'GGUF files are read with the package gguf: pip install gguf'
        ) from None
    return gguf


class Header:
    """The values in a header, one after another."""

    def __init__(self, data, at):
        self.data, self.at = data, at

    def numbers(self, letter, count):
        form = f'<{count}{letter}'
        values = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return values

    def number(self, letter):
        return self.numbers(letter, 1)[0]

    def string(self):
        length = self.number('Q')
        text = self.data[self.at : self.at + length]
        if len(text) < length:
            raise Damage(f'a string of {length} bytes')
        self.at += length
        return text.decode('utf-8')

    def value(self):
        kind = self.number('I')
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.number(self.letter(kind))
        kind, count = self.number('I'), self.number('Q')
        if kind == STRING:
            return [self.string() for _ in range(count)]
        return list(self.numbers(self.letter(kind), count))

    def letter(self, kind):
        if kind not in NUMBERS:
            raise Damage(f'a value of kind {kind}')
        return NUMBERS[kind]


class GGUF:
    """The settings of a GGUF file and its tensors, read when asked for.

    `settings` holds all values of the header by their keys. Iteration gives
    the names of the tensors, `file[name]` a tensor in float32. Raises
    ValueError for another kind of file, version or byte order, one that is
    damaged or was cut off, and a quantization that is not known;
    ImportError without the package `gguf`.
    """

    def __init__(self, path):
        self.path, self.gguf = path, import_gguf()
        with open(path, 'rb') as file:
            start = file.read(8)
            if start[:4] != b'GGUF':
                raise ValueError(
                    f'{path} is not a GGUF file: it begins with {start[:4]}'
                )
            try:
                (version,) = struct.unpack_from('<I', start, 4)
                if version not in VERSIONS:
                    self.refuse(version)
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as x:
                    self.read(Header(x, 8), len(x))
            except DAMAGE as error:
                self.damaged(error)

    def refuse(self, version):
        if version % 2**16 == 0:
            raise ValueError(
                f'{self.path} has its bytes in another order (big-endian), '
                'which is not read'
            )
        raise ValueError(
            f'{self.path} is of GGUF version {version}, not {VERSIONS}'
        )

    def damaged(self, why):
        raise ValueError(
            f'{self.path} is damaged or was cut off ({why}); download it again'
        )

    def read(self, header, size):
        """Settings, and kind, shape, first byte and bytes of each tensor."""
        num_tensors, num_settings = header.numbers('Q', 2)
        self.settings, self.tensors = {}, {}
        for _ in range(num_settings):
            key = header.string()
            if key in self.settings:
                raise Damage(f'{key} twice')
            self.settings[key] = header.value()
        for _ in range(num_tensors):
            name = header.string()
            if name in self.tensors:
                raise Damage(f'{name} twice')
            shape = header.numbers('Q', header.number('I'))[::-1]
            kind, offset = header.number('I'), header.number('Q')
            self.tensors[name] = self.kind(name, kind), shape, offset
        alignment = self.settings.get('general.alignment', 32)
        if type(alignment) is not int or alignment < 1:
            raise Damage(f'general.alignment is {alignment}')
        start = math.ceil(header.at / alignment) * alignment
        for name, (kind, shape, offset) in self.tensors.items():
            block, width = self.gguf.GGML_QUANT_SIZES[kind]
            if not shape or shape[-1] % block or offset % alignment:
                raise Damage(f'{name} of shape {shape} at byte {offset}')
            num_bytes = math.prod(shape) // block * width
            if start + offset + num_bytes > size:
                raise Damage(f'{name} ends behind the end of the file')
            place = start + offset, num_bytes
            self.tensors[name] = kind, shape, place

    def kind(self, name, number):
        try:
            return self.gguf.GGMLQuantizationType(number)
        except ValueError:
            raise ValueError(
                f'{self.path}: {name} is of quantization {number}, which the '
                'package gguf does not know; a newer one may (pip install '
                '--upgrade gguf)'
            ) from None

    def __iter__(self):
        return iter(self.tensors)

    def __getitem__(self, name):
        kind, shape, (start, num_bytes) = self.tensors[name]
        data = np.fromfile(self.path, np.uint8, num_bytes, offset=start)
        if len(data) < num_bytes:
            self.damaged(f'{name} is not there any more')
        try:
            values = self.gguf.quants.dequantize(
                data.reshape(*shape[:-1], -1), kind
            )
        except NotImplementedError:
            raise ValueError(
                f'{self.path}: {name} is of quantization {kind.name}, which '
                'the package gguf cannot turn into numbers'
            ) from None
        return torch.from_numpy(values)
