"""Reads the data that a pickle of torch describes, without importing or calling anything.

A pickle is a program. pickletools parses its instructions, and a small interpreter here follows
them, which knows containers, numbers, strings and torch's descriptions of tensors. Everything else
(optimizers, settings, random states, whole modules) becomes an `Opaque`.
"""

import pickletools
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

_STORAGES = {
    'DoubleStorage': np.float64, 'FloatStorage': np.float32, 'HalfStorage': np.float16,
    'BFloat16Storage': ml_dtypes.bfloat16, 'LongStorage': np.int64, 'IntStorage': np.int32,
    'ShortStorage': np.int16, 'CharStorage': np.int8, 'ByteStorage': np.uint8,
    'BoolStorage': np.bool_, 'ComplexFloatStorage': np.complex64,
    'ComplexDoubleStorage': np.complex128, 'UntypedStorage': np.uint8, 'QInt8Storage': np.int8,
    'QUInt8Storage': np.uint8, 'QInt32Storage': np.int32}
# Calls that make a dict, with its initial content as their last argument.
_DICTS = ('collections.OrderedDict', 'collections.defaultdict', 'collections.Counter',
          'builtins.dict', '__builtin__.dict')
# How torch writes tensors: before 0.4, since then, and with dtypes that have no storage class.
_TENSORS = tuple(f'torch._utils._rebuild_tensor{version}' for version in ('', '_v2', '_v3'))
_PARAMETERS = ('torch._utils._rebuild_parameter', 'torch._utils._rebuild_parameter_with_state')
MAX_STEPS = 5_000_000
_MARK = object()
# Instructions that put a value on the stack, and those that fill a container there.
_BEGUN = {
    'MARK': lambda: _MARK, 'NONE': lambda: None, 'NEWTRUE': lambda: True, 'NEWFALSE': lambda: False,
    'EMPTY_DICT': dict, 'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple, 'EMPTY_SET': list}
_FILLED = ('TUPLE', 'LIST', 'FROZENSET', 'TUPLE1', 'TUPLE2', 'TUPLE3', 'APPEND', 'APPENDS',
           'ADDITEMS', 'DICT', 'SETITEM', 'SETITEMS')


class Global(NamedTuple):
    """A name that the pickle would import."""

    name: str


class Opaque(NamedTuple):
    """In place of the result of a call, which is not made."""

    name: str


class Tensor(NamedTuple):
    """A view of a storage; offset, size and stride are in elements."""

    dtype: np.dtype
    storage: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    offset: int  # of a view, in files from before torch 0.4


def follow(file, sizes: dict | None = None) -> Any:
    """Returns the data that one pickle describes, and leaves `file` at its end.

    Args:
      file: an open file at the beginning of the pickle.
      sizes: a dict to which the dtype of each storage is added by its key.

    Raises:
      ValueError, and many other errors, if it is no such pickle.
    """
    stack, memo = [], {}
    sizes = {} if sizes is None else sizes
    for count, (opcode, value, _) in enumerate(pickletools.genops(file)):
        if count > MAX_STEPS:
            raise ValueError('too many instructions')
        name = opcode.name
        if name == 'STOP':
            return stack.pop()
        if name in _BEGUN:
            stack.append(_BEGUN[name]())
        elif name in _FILLED:
            _contain(name, stack)
        elif name in ('POP', 'POP_MARK', 'DUP'):
            _shift(name, stack)
        elif name in ('PUT', 'BINPUT', 'LONG_BINPUT'):
            memo[value] = stack[-1]
        elif name == 'MEMOIZE':
            memo[len(memo)] = stack[-1]
        elif name in ('GET', 'BINGET', 'LONG_BINGET'):
            stack.append(memo[value])
        elif name == 'BINPERSID':
            stack.append(_storage(stack.pop(), sizes))
        elif name in ('GLOBAL', 'STACK_GLOBAL', 'REDUCE', 'NEWOBJ', 'NEWOBJ_EX', 'INST', 'OBJ',
                      'BUILD'):
            _make(name, value, stack)
        elif value is not None and isinstance(value, int | float | str | bytes | bytearray):
            if name not in ('PROTO', 'FRAME'):
                stack.append(value)
        else:
            raise ValueError(f'an instruction {name}')
    raise ValueError('no end')


def _contain(name: str, stack: list) -> None:
    """Follows an instruction that fills a container; a set is a list here."""
    if name in ('TUPLE', 'LIST', 'FROZENSET'):
        items = _since_mark(stack)
        stack.append(tuple(items) if name == 'TUPLE' else items)
    elif name in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
        size = int(name[-1])
        stack[-size:] = [tuple(stack[-size:])]
    elif name in ('APPENDS', 'ADDITEMS'):
        items = _since_mark(stack)
        _extend(stack[-1], items)
    elif name == 'APPEND':
        item = stack.pop()
        _extend(stack[-1], [item])
    elif name == 'DICT':
        items = _since_mark(stack)
        stack.append({})
        _set(stack[-1], items)
    elif name == 'SETITEMS':
        items = _since_mark(stack)
        _set(stack[-1], items)
    else:  # SETITEM
        value, key = stack.pop(), stack.pop()
        _set(stack[-1], [key, value])


def _shift(name: str, stack: list) -> None:
    if name == 'DUP':
        stack.append(stack[-1])
    elif name == 'POP' and stack[-1] is not _MARK:
        stack.pop()
    else:
        _since_mark(stack)


def _make(name: str, value, stack: list) -> None:
    """Follows an instruction that would import, call or build something."""
    if name == 'GLOBAL':
        stack.append(Global(value.replace(' ', '.')))
    elif name == 'STACK_GLOBAL':
        attribute, module = stack.pop(), stack.pop()
        stack.append(Global(f'{module}.{attribute}'))
    elif name in ('REDUCE', 'NEWOBJ'):
        arguments, function = stack.pop(), stack.pop()
        stack.append(_call(function, arguments))
    elif name == 'NEWOBJ_EX':
        stack[-3:] = [Opaque(_name_of(stack[-3]))]
    elif name == 'INST':
        _since_mark(stack)
        stack.append(Opaque(value.replace(' ', '.')))
    elif name == 'OBJ':
        stack.append(Opaque(_name_of(_since_mark(stack)[0])))
    else:  # BUILD: attributes of an object, such as a state_dict's _metadata
        stack.pop()


def _since_mark(stack: list) -> list:
    at = len(stack) - 1
    while stack[at] is not _MARK:
        at -= 1
        if at < 0:
            raise ValueError('no mark')
    items = stack[at + 1:]
    del stack[at:]
    return items


def _extend(target, items: list) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Opaque):
        raise ValueError('items of what is no list')


def _set(target, items: list) -> None:
    if isinstance(target, Opaque):
        return
    if not isinstance(target, dict):
        raise ValueError('items of what is no dict')
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[key if isinstance(key, str | int | float | bool) else str(key)[:200]] = value


def _name_of(function) -> str:
    return getattr(function, 'name', '?')


def _storage(identity, sizes: dict) -> _Storage | Opaque:
    """Returns the storage of torch's ('storage', type, key, device, elements[, view])."""
    if identity[0] == 'module':  # of a whole module in the old format: (its class, its source)
        return identity[1]
    kind, type_, key = identity[:3]
    name = _name_of(type_)
    if kind != 'storage':
        raise ValueError(f'a persistent {kind}')
    if name.rpartition('.')[2] not in _STORAGES:
        return Opaque(name)
    dtype = sizes[str(key)] = np.dtype(_STORAGES[name.rpartition('.')[2]])
    view = identity[5] if len(identity) > 5 else None
    return _Storage(dtype, str(key), int(view[1]) if view else 0)


def _call(function, arguments) -> Any:
    """Returns the result of a call that is known here, else an Opaque."""
    name = _name_of(function)
    if name in _DICTS:
        begin = arguments[-1] if arguments else {}
        return dict(begin) if isinstance(begin, dict | list) else {}
    if name == 'torch.Size':
        return tuple(arguments[0])
    if name in _PARAMETERS:
        return arguments[0]
    if name == 'torch._tensor._rebuild_from_type_v2':  # of a subclass: (function, type, arguments)
        return _call(arguments[0], arguments[2])
    if name in _TENSORS:
        return _tensor(arguments)
    return Opaque(name)


def _tensor(arguments) -> Tensor | Opaque:
    """Returns the tensor of (storage, offset, size, stride, ...); the seventh may be its dtype."""
    storage, offset, size, stride = arguments[:4]
    if not isinstance(storage, _Storage):
        return Opaque(f'torch.Tensor of {_name_of(storage)}')
    dtype = storage.dtype
    if len(arguments) > 6:  # of _rebuild_tensor_v3
        name = _name_of(arguments[6]).rpartition('.')[2]
        try:
            dtype = np.dtype(getattr(ml_dtypes, name, name))
        except TypeError:
            return Opaque(f'torch.Tensor of {name}')
    return Tensor(dtype, storage.key, storage.offset + int(offset), tuple(map(int, size)),
                  tuple(map(int, stride)))
