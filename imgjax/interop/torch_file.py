"""Reads files of torch.save without torch and without unpickling anything (see pickles.py)."""

import io
import math
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from imgjax.errors import DataError, one_line
from imgjax.interop import pickles

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read(path: str, choose: Callable[[Any], Any] = lambda saved: saved) -> Any:
    """Returns what was saved: dicts, lists, numbers, strings and NumPy arrays.

    Args:
      path: the path of the file.
      choose: returns the part to read of all that was saved, in which each tensor is a
        pickles.Tensor.

    Raises:
      DataError: it is no such file, is damaged, or describes tensors that it does not hold, or
        `choose` raises it.
    """
    try:
        with open(path, 'rb') as file:
            zipped = file.read(4) == b'PK\x03\x04'
            file.seek(0)
            return _read_zip(file, choose) if zipped else _read_legacy(file, choose)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror})') from None
    except Exception as error:  # parsers raise nearly anything on hostile bytes
        text = one_line(error) or type(error).__name__
        raise DataError(f'{path}: not a file of torch.save that can be used ({text})') from None


def _read_zip(file, choose) -> Any:
    with zipfile.ZipFile(file) as archive:
        length = file.seek(0, io.SEEK_END)
        entries = {info.filename: info for info in archive.infolist()}
        if any('/code/' in name or name.endswith('/constants.pkl') for name in entries):
            raise DataError(
                f'{file.name}: is a program of TorchScript; save its model.state_dict() instead: '
                "torch.save(torch.jit.load(FILE, 'cpu').state_dict(), 'weights.pth')")
        for info in entries.values():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > length:
                raise ValueError(f'{info.filename!r} is compressed, which torch never does')
        roots = [name for name in entries if name.endswith('/data.pkl')]
        if len(roots) != 1:
            raise ValueError('no data.pkl')
        root = roots[0].removesuffix('data.pkl')
        byteorder = f'{root}byteorder'
        if byteorder in entries and archive.read(byteorder) != b'little':
            raise ValueError('big-endian')
        chosen = choose(pickles.follow(io.BytesIO(archive.read(roots[0]))))
        storages = {}

        def storage(key: str) -> bytes:
            if key not in storages:
                storages[key] = archive.read(entries[f'{root}data/{key}'])
            return storages[key]

        return _filled(chosen, storage, length)


def _read_legacy(file, choose) -> Any:
    """The format before torch 1.6: five pickles, then the storages one after the other."""
    if pickles.follow(file) != _LEGACY_MAGIC:
        raise ValueError('wrong header')
    pickles.follow(file), pickles.follow(file)  # versions and the sizes of integers
    sizes = {}
    chosen, keys = choose(pickles.follow(file, sizes)), pickles.follow(file)
    storages = {}
    for key in keys:
        count, = struct.unpack('<q', file.read(8))
        storages[key] = file.read(count * sizes[key].itemsize)
    return _filled(chosen, storages.__getitem__, file.tell())


def _filled(tree, storage, length: int) -> Any:
    """Returns the tree with arrays for the tensors.

    Args:
      tree: what `pickles.follow` returned, or a part. Its parts may be shared, so that it can be
        far larger than the file; what is made of it is counted.
      storage: key -> bytes.
      length: of the file in bytes.
    """
    left = {'parts': pickles.MAX_STEPS, 'bytes': 4 * length}

    def array(tensor: pickles.Tensor) -> np.ndarray:
        content, count = storage(tensor.storage), math.prod(tensor.size)
        last = tensor.offset + sum(
            (n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
        held = len(content) // tensor.dtype.itemsize
        left['bytes'] -= count * tensor.dtype.itemsize
        if min(*tensor.size, *tensor.stride, tensor.offset, left['bytes']) < 0 or (
                count and (last >= held or count > held)):
            raise ValueError(f'a tensor of shape {tensor.size} is not in it')
        if not count:
            return np.zeros(tensor.size, tensor.dtype)
        flat = np.frombuffer(content, tensor.dtype, held)[tensor.offset:]
        strides = tuple(step * tensor.dtype.itemsize for step in tensor.stride)
        return np.lib.stride_tricks.as_strided(flat, tensor.size, strides).copy()

    def fill(part):
        left['parts'] -= 1
        if left['parts'] < 0:
            raise ValueError('too many parts')
        if isinstance(part, pickles.Tensor):
            return array(part)
        if isinstance(part, dict):
            return {key: fill(value) for key, value in part.items()}
        if isinstance(part, list | tuple) and not isinstance(part, pickles.Global | pickles.Opaque):
            return type(part)(map(fill, part))
        return part

    return fill(tree)
