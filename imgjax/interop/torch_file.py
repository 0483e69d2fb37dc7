"""Tensors of a file that torch.save wrote, read without torch and without unpickling anything.

The pickle in such a file is a program. Here its instructions are parsed (pickletools) and followed
by a small interpreter that knows containers, numbers, strings and torch's descriptions of tensors;
it imports nothing and calls nothing. What else is in a training checkpoint stays an `Opaque`.
"""

import io
import math
import pickletools
import struct
import zipfile
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from imgjax.errors import DataError

_DTYPES = {
    'DoubleStorage': np.float64, 'FloatStorage': np.float32, 'HalfStorage': np.float16,
    'BFloat16Storage': ml_dtypes.bfloat16, 'LongStorage': np.int64, 'IntStorage': np.int32,
    'ShortStorage': np.int16, 'CharStorage': np.int8, 'ByteStorage': np.uint8,
    'BoolStorage': np.bool_}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_STEPS = 5_000_000
_MARK = object()


class Global(NamedTuple):
    """A name that the pickle would import."""

    name: str


class Opaque(NamedTuple):
    """The result of a call that is not made."""

    name: str


class _Tensor(NamedTuple):
    dtype: np.dtype
    storage: str
    offset: int  # in elements, as size and stride are
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read(path: str) -> Any:
    """Returns what was saved: dicts, lists, numbers, strings and NumPy arrays.

    Raises:
      DataError: it is no such file, damaged, or describes tensors that are not in it.
    """
    try:
        with open(path, 'rb') as file:
            zipped = file.read(4) == b'PK\x03\x04'
            file.seek(0)
            return _read_zip(file) if zipped else _read_legacy(file)
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror})') from None
    except Exception as error:  # parsers raise nearly anything on hostile bytes
        text = ' '.join(str(error).split())[:200] or type(error).__name__
        raise DataError(f'{path}: not a file of torch.save that can be used ({text})') from None


def _read_zip(file) -> Any:
    with zipfile.ZipFile(file) as archive:
        length = file.seek(0, io.SEEK_END)
        entries = {info.filename: info for info in archive.infolist()}
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
        tree = _follow(io.BytesIO(archive.read(roots[0])))
        storages = {}

        def storage(key: str) -> bytes:
            if key not in storages:
                storages[key] = archive.read(entries[f'{root}data/{key}'])
            return storages[key]

        return _filled(tree, storage, length)


def _read_legacy(file) -> Any:
    """The format before torch 1.6: five pickles, then the storages one after the other."""
    if _follow(file) != _LEGACY_MAGIC:
        raise ValueError('wrong header')
    _follow(file), _follow(file)  # versions and the sizes of integers
    sizes = {}
    tree, keys = _follow(file, sizes), _follow(file)
    storages = {}
    for key in keys:
        count, = struct.unpack('<q', file.read(8))
        dtype = sizes[key]
        storages[key] = file.read(count * dtype.itemsize)
    return _filled(tree, storages.__getitem__, file.tell())


def _filled(tree, storage, length: int) -> Any:
    """Returns the tree with arrays for the tensors.

    Args:
      tree: what `_follow` returned. Its parts may be shared, so that it can be far larger than the
        file; what is made of it is counted.
      storage: key -> bytes.
      length: of the file in bytes.
    """
    left = {'parts': _MAX_STEPS, 'bytes': 4 * length}

    def array(tensor: _Tensor) -> np.ndarray:
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
        if isinstance(part, _Tensor):
            return array(part)
        if isinstance(part, dict):
            return {key: fill(value) for key, value in part.items()}
        if isinstance(part, list | tuple) and not isinstance(part, Global | Opaque):
            return type(part)(map(fill, part))
        return part

    return fill(tree)


def _follow(file, sizes: dict | None = None) -> Any:
    """Returns what one pickle builds, of which `file` is left behind the end.

    Args:
      file: at the pickle's begin.
      sizes: gets the dtype of each storage by its key.
    """
    stack, memo = [], {}
    sizes = {} if sizes is None else sizes
    constants = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
    for count, (opcode, value, _) in enumerate(pickletools.genops(file)):
        name = opcode.name
        if count > _MAX_STEPS:
            raise ValueError('too many instructions')
        if name in ('PROTO', 'FRAME'):
            continue
        if name == 'STOP':
            return stack.pop()
        if name == 'MARK':
            stack.append(_MARK)
        elif name in constants:
            stack.append(constants[name])
        elif name in ('EMPTY_DICT', 'EMPTY_LIST', 'EMPTY_TUPLE', 'EMPTY_SET'):
            stack.append({'EMPTY_DICT': dict, 'EMPTY_TUPLE': tuple}.get(name, list)())
        elif name in ('TUPLE', 'LIST', 'DICT', 'APPENDS', 'SETITEMS', 'ADDITEMS'):
            items = _since_mark(stack)
            if name == 'TUPLE':
                stack.append(tuple(items))
            elif name == 'LIST':
                stack.append(items)
            elif name in ('DICT', 'SETITEMS'):
                if name == 'DICT':
                    stack.append({})
                _set(stack[-1], items)
            else:
                stack[-1].extend(items)
        elif name in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
            size = int(name[-1])
            stack[-size:] = [tuple(stack[-size:])]
        elif name == 'APPEND':
            item = stack.pop()
            stack[-1].append(item)
        elif name == 'SETITEM':
            value, key = stack.pop(), stack.pop()
            _set(stack[-1], [key, value])
        elif name in ('PUT', 'BINPUT', 'LONG_BINPUT'):
            memo[value] = stack[-1]
        elif name == 'MEMOIZE':
            memo[len(memo)] = stack[-1]
        elif name in ('GET', 'BINGET', 'LONG_BINGET'):
            stack.append(memo[value])
        elif name == 'GLOBAL':
            stack.append(Global(value.replace(' ', '.')))
        elif name == 'STACK_GLOBAL':
            attribute, module = stack.pop(), stack.pop()
            stack.append(Global(f'{module}.{attribute}'))
        elif name == 'BINPERSID':
            stack.append(_storage(stack.pop(), sizes))
        elif name in ('REDUCE', 'NEWOBJ'):
            arguments, function = stack.pop(), stack.pop()
            stack.append(_call(function, arguments))
        elif name == 'NEWOBJ_EX':
            stack[-3:] = [Opaque(getattr(stack[-3], 'name', '?'))]
        elif name == 'BUILD':  # attributes of an object, such as a state_dict's _metadata
            stack.pop()
        elif name == 'POP':
            stack.pop()
        elif name == 'DUP':
            stack.append(stack[-1])
        elif value is not None and isinstance(value, int | float | str | bytes | bytearray):
            stack.append(value)
        else:
            raise ValueError(f'an instruction {name}')
    raise ValueError('no end')


def _since_mark(stack: list) -> list:
    at = len(stack) - 1
    while stack[at] is not _MARK:
        at -= 1
        if at < 0:
            raise ValueError('no mark')
    items = stack[at + 1:]
    del stack[at:]
    return items


def _set(target, items: list) -> None:
    if not isinstance(target, dict):
        if isinstance(target, Opaque):
            return
        raise ValueError('items of what is no dict')
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[key if isinstance(key, str | int | float | bool | tuple) else str(key)] = value


def _storage(identity, sizes: dict) -> tuple[np.dtype, str]:
    """Returns (dtype, key) of torch's ('storage', type, key, device, elements, ...)."""
    kind, type_, key = identity[:3]
    name = type_.name.removeprefix('torch.')
    if kind != 'storage' or name not in _DTYPES:
        raise ValueError(f'a storage of type {name}')
    sizes[str(key)] = np.dtype(_DTYPES[name])
    return sizes[str(key)], str(key)


def _call(function, arguments) -> Any:
    name = getattr(function, 'name', '?')
    if name == 'collections.OrderedDict':
        return dict(arguments[0]) if arguments else {}
    if name == 'torch._utils._rebuild_tensor_v2':
        (dtype, key), offset, size, stride = arguments[:4]
        return _Tensor(dtype, key, int(offset), tuple(map(int, size)), tuple(map(int, stride)))
    if name == 'torch._utils._rebuild_parameter':
        return arguments[0]
    return Opaque(name)
