"""The data folder: what it holds is whole, checked, or not there at all."""

import contextlib
import gzip
import hashlib
import json
import os
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import requests

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get('CHAPTER_DATA') or ROOT / 'data')


def data_folder(data):
    return DATA if data is None else Path(data)


def digest(*words):
    """SHA-256 of words, in hexadecimal."""
    return hashlib.sha256(' '.join(words).encode()).hexdigest()


def write_whole(path, write):
    """Call `write(file)` so that `path` is replaced whole or not at all."""
    part = Path(f'{path}.{os.getpid()}.part')
    try:
        with part.open('wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def cached(path, make):
    """The JSON value stored at `path`, or else made and stored there."""
    with contextlib.suppress(OSError, EOFError, ValueError, zlib.error):
        return json.loads(gzip.decompress(path.read_bytes()))
    value = make()
    packed = gzip.compress(json.dumps(value).encode(), 6, mtime=0)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write(packed))
    return value


# ---- Downloads: checked before they are kept ----


class DownloadError(OSError):
    """A file that did not arrive, or arrived otherwise than expected."""


def _sha1(path):
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha1').hexdigest()


def _fetch(url, sha1, file, timeout):
    """Write what comes from `url`; OSError if it is not what was expected."""
    headers, came = {'Accept-Encoding': 'identity'}, hashlib.sha1()
    options = {'headers': headers, 'timeout': timeout, 'stream': True}
    with requests.get(url, **options) as reply:
        if reply.status_code != 200:
            status = f'{reply.status_code} {reply.reason}'
            raise OSError(f'HTTP status 200 was expected, {status} came')
        for chunk in reply.iter_content(2**16):
            file.write(chunk)
            came.update(chunk)
        size, missing = reply.raw.tell(), reply.raw.length_remaining
    if missing:
        raise OSError(f'{size + missing} bytes were expected, {size} came')
    if came.hexdigest() != sha1:
        raise OSError(f'SHA-1 {sha1} was expected, {came.hexdigest()} came')


def download(url, sha1, folder=None, timeout=30):
    """The path of a file from the network, downloaded unless it is there.

    It is kept in `folder` (default: DATA) only once status, size and SHA-1
    are right. `timeout` is in seconds without any data. Raises DownloadError
    with the address, what was expected and what came.
    """
    name = Path(urlsplit(url).path).name
    if not name.strip('.'):
        raise ValueError(f'{url} names no file')
    path = data_folder(folder) / name
    try:
        if not path.is_file() or _sha1(path) != sha1:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda file: _fetch(url, sha1, file, timeout))
    except OSError as error:
        raise DownloadError(f'{url} was not downloaded: {error}') from error
    return path
