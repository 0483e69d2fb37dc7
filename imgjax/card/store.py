"""Results on disk, each found again by what it was computed from.

A card and an audit go on where they were stopped: a result whose key is unchanged is read, not
computed again. The key is a digest of the state, the data, the options and the code.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from imgjax.rundir import files, metrics_log

log = logging.getLogger('imgjax')

FOLDER = 'parts'  # below the folder of a card
_JSON_BYTES = 2**28
_ARRAYS_BYTES = 2**36
_HEADER_BYTES = 2**20  # of a file of arrays


def key_of(*words) -> str:
    """Returns 16 hex digits, a digest of plain data."""
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]


def result(folder: str, name: str, key: str, make: Callable[[], dict]) -> dict:
    """Returns the stored result of this name if it has this key; otherwise stores `make()`.

    Args:
      folder: the folder of the card.
      name: the name of the result.
      key: what `key_of` returns.
      make: computes the result, plain JSON-able data.
    """
    found = stored(folder, name, key)
    return replace(folder, name, key, make()) if found is None else found


def stored(folder: str, name: str, key: str) -> dict | None:
    """Returns the stored result of this name; None unless it has this key."""
    path = os.path.join(folder, FOLDER, f'{name}.json')
    try:
        content = files.read_json(path, _size(path, _JSON_BYTES))
        if content['key'] == key and content['hash'] == key_of(content['result']):
            return content['result']
    except (OSError, ValueError, TypeError, KeyError):
        pass  # it is missing, or it is not as it was written
    return None


def is_there(folder: str, name: str) -> bool:
    """Returns whether a result of this name is stored, with whatever key."""
    return os.path.isfile(os.path.join(folder, FOLDER, f'{name}.json'))


def replace(folder: str, name: str, key: str, found: dict) -> dict:
    """Stores a result under its name, in place of an older one; returns it as it will be read."""
    found = json.loads(json.dumps(metrics_log.jsonable(found)))
    path = os.path.join(folder, FOLDER, f'{name}.json')
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with files.replacing(path) as file:
        json.dump({'key': key, 'hash': key_of(found), 'result': found}, file)
    return found


def arrays(folder: str, name: str, key: str,
           make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns the stored arrays of this name if they have this key; otherwise stores `make()`."""
    path = os.path.join(folder, FOLDER, f'{name}.safetensors')
    found = _read_arrays(path, key)
    if found is not None:
        return found
    found = {name: np.ascontiguousarray(array) for name, array in make().items()}
    os.makedirs(os.path.dirname(path), exist_ok=True)
    stamp: dict[str, Any] = {'key': key, 'digest': _digest(found)}
    with files.replacing(path, binary=True) as file:
        file.write(safetensors.numpy.save(found, metadata=stamp))
    return found


def _read_arrays(path: str, key: str) -> dict[str, np.ndarray] | None:
    """Returns the arrays of a file; None where it is missing, of another key or damaged."""
    try:
        with open(path, 'rb', opener=files.opener) as file:  # the key, before all is read
            length = int.from_bytes(file.read(8), 'little')
            if length > _HEADER_BYTES:
                return None
            stored = json.loads(file.read(length))['__metadata__']
        if stored['key'] != key:
            return None
        found = safetensors.numpy.load(files.read(path, _size(path, _ARRAYS_BYTES)))
        return found if _digest(found) == stored['digest'] else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError, safetensors.SafetensorError):
        return None


def _size(path: str, most: int) -> int:
    """Returns the size of a file, at most `most`; reading allocates the limit that it is given."""
    return min(os.lstat(path).st_size, most)


def _digest(found: dict[str, np.ndarray]) -> str:
    hasher = hashlib.sha256()
    for name in sorted(found):
        hasher.update(f'{name} {found[name].dtype} {found[name].shape}\n'.encode())
        hasher.update(np.ascontiguousarray(found[name]))
    return hasher.hexdigest()
