"""The digest of a train state, and whether it is finite and its copies are equal."""

import json
import os
from concurrent import futures
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import xxhash

from imgjax import sharding
from imgjax.errors import ReplicaError
from imgjax.process import processes


def leaf_digests(state) -> dict[str, str]:
    """Returns a 128-bit digest of each leaf's dtype, shape and bytes, by its path.

    They depend neither on the sharding of a leaf nor on the number of processes, each of which has
    to call it. xxh3 detects damage, not forgery.

    >>> import numpy as np
    >>> from imgjax.rundir import digests
    >>> found = digests.leaf_digests({'params': {'head': {'bias': np.zeros(2, np.float32)}}})
    >>> {path: len(digest) for path, digest in found.items()}  # 32 hex digits
    {'params/head/bias': 32}
    """
    def one(leaf: tuple) -> tuple[str, str]:
        name, array = leaf
        hasher = xxhash.xxh3_128(f'{array.dtype} {array.shape} '.encode())
        hasher.update(_bytes_of(array))
        return name, hasher.hexdigest()

    # One thread reads 12 GB/s, less than the memory can give; xxhash releases the GIL.
    with futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return dict(threads.map(one, named_leaves(sharding.to_host(state))))


def _bytes_of(array) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def named_leaves(state) -> list[tuple]:
    """Returns (path, leaf) for each leaf; slashes join the parts of a path."""
    return [(jax.tree_util.keystr(path, simple=True, separator='/'), leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def digest_of(digests: dict) -> str:
    """Returns the digest of a dict of plain data, such as the digests of a state's leaves."""
    return xxhash.xxh3_128(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def state_digest(state) -> str:
    """Returns the digest of a whole train state; only bitwise equal states have the same."""
    return digest_of(leaf_digests(state))


def not_finite(host_state) -> str:
    """Returns the path of the first leaf with a number that is not finite; '' if there is none.

    >>> import numpy as np
    >>> from imgjax.rundir import digests
    >>> digests.not_finite({'params': {'head': np.array([1.0, np.nan])}})
    'params/head'
    """
    for name, array in named_leaves(host_state):
        if jnp.issubdtype(array.dtype, jnp.inexact):
            with np.errstate(over='ignore', invalid='ignore'):
                total = array.sum()  # several times faster than a test of each
            if not np.isfinite(total) and not np.isfinite(array).all():
                return name
    return ''


def check_replicas(state) -> None:
    """Checks that devices which store the same part of a state have the same bits.

    Every process has to call it.

    Raises:
      ReplicaError: two devices differ. Which one is right cannot be known.
    """
    if not isinstance(state.step, jax.Array) or len(state.step.sharding.device_set) == 1:
        return
    hashers, parts = {}, {}
    for name, leaf in named_leaves(state):
        for shard in leaf.addressable_shards:
            device = shard.device.id
            hashers.setdefault(device, {})[name] = xxhash.xxh3_64_hexdigest(
                _bytes_of(jax.device_get(shard.data)))
            parts.setdefault(device, []).append(str(shard.index))
    first_with = {}  # part of the state -> (first device with it, digests of its leaves)
    for device, found in hashers.items():
        part = digest_of(parts[device])
        other, digests = first_with.setdefault(part, (device, found))
        odd = [name for name in found if found[name] != digests[name]]
        if odd:
            _differ(state, f'{odd[0]!r} is not the same on devices {other} and {device}')
    mine = {part: digest_of(digests) for part, (_, digests) in first_with.items()}
    seen = {}
    for place, message in enumerate(processes.gather_to_first(json.dumps(mine))):
        for part, digest in json.loads(message).items():
            other, known = seen.setdefault(part, (place, digest))
            if digest != known:
                _differ(state, f'processes {other} and {place} have different parts of it')


def _differ(state, what: str) -> NoReturn:
    raise ReplicaError(
        f'step {int(jax.device_get(state.step))}: {what}, where all must be equal: a device or its '
        'memory has failed; nothing was saved, the same command goes on from the newest checkpoint')
