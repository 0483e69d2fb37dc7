"""Reads files of weights (safetensors, torch, NumPy) as named arrays, and executes nothing."""

import os
import re
import struct
import zipfile

import numpy as np
import safetensors

from imgjax.errors import DataError, one_line
from imgjax.interop import state_dict, torch_file
from imgjax.interop.state_dict import StateDict

# Endings of files of weights. The first bytes of a file decide how it is read.
FORMATS = ('.safetensors', '.pth', '.pt', '.bin', '.th', '.ckpt', '.tar', '.npz')
# Names of tensors appear in paths of parameters and in messages, never in paths of files.
_NAME = re.compile(r'[A-Za-z0-9_.:/\- ]{1,300}')
# First bytes of files that are often mistaken for weights, and the error for each.
_OTHERS = (
    (b'version https://git-lfs', 'is a pointer of Git LFS; run git lfs pull'),
    (b'<', 'is a web page, not the file; download it again'),
    (b'\x89HDF', 'is a file of HDF5, as Keras writes; keras:NAME reads those that Keras publishes'),
    (b'\x1f\x8b', 'is compressed by gzip; unpack it'))


def read(path: str) -> dict[str, np.ndarray]:
    """Returns the tensors of `read_state_dict` alone."""
    return read_state_dict(path).tensors


def read_state_dict(path: str) -> StateDict:
    """Returns the tensors by name, floats as float32, and the class names stored with them.

    Raises:
      DataError: it has another format, is damaged, or is no dict of tensors; the line names it.
    """
    if not os.path.isfile(path):
        raise DataError(f'{path}: no such file of weights')
    found = _reader(path)(path)
    for name in found.tensors:
        if not _NAME.fullmatch(name) or '..' in name or name.startswith('/'):
            raise DataError(f'{path}: a tensor is called {name[:80]!r}, which no model has')
    return found._replace(tensors={name: array.astype(np.float32) if _is_float(array) else array
                                   for name, array in found.tensors.items()})


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == 'f' or array.dtype.name == 'bfloat16' or (
        array.dtype.name.startswith('float8'))


def _reader(path: str):
    """Returns the reader of a file by its content, as safetensors are often called .bin."""
    try:
        with open(path, 'rb') as file:
            begin = file.read(265)
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror})') from None
    header = struct.unpack('<Q', begin[:8])[0] if len(begin) > 8 else size
    if begin[8:9] == b'{' and header < size:
        return _read_safetensors
    for magic, words in _OTHERS:
        if begin.lstrip().startswith(magic):
            raise DataError(f'{path}: {words}')
    if begin[257:262] == b'ustar':
        raise DataError(f'{path}: is an archive of tar; unpack it and give the file in it')
    if path.endswith('.safetensors'):
        return _read_safetensors
    if path.endswith('.npz'):
        return _read_npz
    if path.endswith(FORMATS):
        return _read_torch
    raise DataError(f'{path}: takes a file that ends with {", ".join(FORMATS)}')


def _read_torch(path: str) -> StateDict:
    label_names = []

    def tensors_of(saved):
        chosen = state_dict.choose(saved, path)
        label_names.extend(chosen.label_names)
        return chosen.tensors

    return StateDict(torch_file.read(path, tensors_of), tuple(label_names))


def _read_safetensors(path: str) -> StateDict:
    try:
        with safetensors.safe_open(path, framework='numpy') as file:
            return StateDict({name: file.get_tensor(name) for name in file.keys()}, ())
    except Exception as error:  # the library's own, and NumPy's on what it cannot hold
        text = one_line(error)
        raise DataError(f'{path}: not a safetensors file that can be used ({text})') from None


def _read_npz(path: str) -> StateDict:
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(info.file_size for info in archive.infolist())
        if declared > 100 * os.path.getsize(path):
            raise ValueError(f'it unpacks to {declared} bytes')
        with np.load(path) as archive:  # refuses pickled objects by default
            return StateDict({name: archive[name] for name in archive.files}, ())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        text = one_line(error)
        raise DataError(f'{path}: not an .npz of arrays that can be used ({text})') from None
