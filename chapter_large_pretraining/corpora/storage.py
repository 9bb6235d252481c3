"""The data folder: what it holds is whole, checked, or not there at all."""

import contextlib
import gzip
import hashlib
import json
import os
import stat
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PureWindowsPath
from urllib.parse import urlsplit

import requests

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get('CHAPTER_DATA') or ROOT / 'data')


def data_folder(data):
    return DATA if data is None else Path(data)


@contextlib.contextmanager
def scratch_folder(folder):
    """A temporary folder inside `folder`, gone afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix='part-') as scratch:
        yield Path(scratch)


def cached(path, make):
    """The JSON value stored at `path`, or else made and stored there."""
    with contextlib.suppress(OSError, EOFError, ValueError, zlib.error):
        return json.loads(gzip.decompress(path.read_bytes()))
    value = make()
    with contextlib.suppress(OSError), scratch_folder(path.parent) as scratch:
        packed = gzip.compress(json.dumps(value).encode(), 6, mtime=0)
        (scratch / path.name).write_bytes(packed)
        os.replace(scratch / path.name, path)
    return value


# ---- Downloads: checked before they are kept ----


class DownloadError(OSError):
    """A file that did not arrive, or arrived otherwise than expected."""


def _sha1(path):
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha1').hexdigest()


def _fetch(url, path, timeout):
    headers = {'Accept-Encoding': 'identity'}
    options = {'headers': headers, 'timeout': timeout, 'stream': True}
    with requests.get(url, **options) as reply:
        if reply.status_code != 200:
            came = f'{reply.status_code} {reply.reason}'
            raise OSError(f'HTTP status 200 was expected, {came} came')
        with open(path, 'wb') as file:
            for chunk in reply.iter_content(2**16):
                file.write(chunk)
        size, missing = reply.raw.tell(), reply.raw.length_remaining
        if missing:
            whole = size + missing
            raise OSError(f'{whole} bytes were expected, {size} came')


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
        if path.is_file() and _sha1(path) == sha1:
            return path
        with scratch_folder(path.parent) as scratch:
            _fetch(url, scratch / name, timeout)
            came = _sha1(scratch / name)
            if came != sha1:
                raise OSError(f'SHA-1 {sha1} was expected, {came} came')
            os.replace(scratch / name, path)
    except OSError as error:
        raise DownloadError(f'{url} was not downloaded: {error}') from error
    return path


DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    RuntimeError,
)


def _stem(archive):
    for suffix in ('.tar.gz', '.tgz', '.tar', '.zip'):
        stem = archive.name.removesuffix(suffix)
        if stem != archive.name and stem.strip('.'):
            return stem
    raise ValueError(f'{archive} ends in none of .zip, .tar, .tar.gz, .tgz')


class _Zip(zipfile.ZipFile):
    def kinds(self):
        """Names of all members, each with whether it is a file or folder."""
        for member in self.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            yield member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR)


class _Tar(tarfile.TarFile):
    extraction_filter = staticmethod(getattr(tarfile, 'data_filter', None))

    def kinds(self):
        """Like `_Zip.kinds`; an archive that breaks off is refused."""
        for member in self.getmembers():
            yield member.name, member.isreg() or member.isdir()
        self.fileobj.seek(self.offset)
        rest = self.fileobj.read()
        if not rest or rest.strip(b'\0'):
            raise tarfile.ReadError('no end mark after the last member')


def _check_members(archive, kinds):
    for name, plain in list(kinds):
        path = PureWindowsPath(name)  # both kinds of slashes, and drives
        if not plain or path.anchor or '..' in path.parts:
            raise ValueError(
                f'{archive} is refused: its member {name!r} would leave the '
                'folder, or is neither a file nor a folder'
            )


def extract(archive, folder=None):
    """The folder with the content of a .zip, .tar, .tar.gz or .tgz file.

    It stands in `folder` (default: beside the archive), is named like the
    archive without its ending, and is returned as it is if it exists.
    Raises ValueError, with nothing written, if the archive is damaged or
    holds links, devices or names that lead out of the folder.
    """
    archive = Path(archive)
    folder = archive.parent if folder is None else Path(folder)
    target = folder / _stem(archive)
    if target.is_dir():
        return target
    open_archive = _Zip if archive.suffix == '.zip' else _Tar.open
    try:
        with open_archive(archive) as opened:
            _check_members(archive, opened.kinds())
            with scratch_folder(folder) as scratch:
                (scratch / target.name).mkdir()
                opened.extractall(scratch / target.name)
                os.replace(scratch / target.name, target)
    except DAMAGED as error:
        raise ValueError(f'{archive} cannot be unpacked: {error}') from error
    return target
