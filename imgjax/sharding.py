"""Which device holds what: one mesh from the config, one rule for the train state."""

import functools
import math

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imgjax.errors import ConfigError

# Smaller leaves (biases, norm scales) cost more to gather than they save.
MIN_FSDP_ELEMENTS = 1024


def make_mesh(shape: dict, devices=None) -> Mesh:
    """Returns the mesh with axes `data` and `fsdp`; a `data` of -1 takes what is left.

    Raises:
      ConfigError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    fsdp = shape['fsdp']
    data = len(devices) // fsdp if shape['data'] == -1 else shape['data']
    if data * fsdp != len(devices) or data < 1:
        raise ConfigError(
            f'config.mesh: data={shape["data"]} x fsdp={fsdp} does not make {len(devices)} '
            'devices; set data=-1 to take what is left')
    return Mesh(np.asarray(devices).reshape(data, fsdp), ('data', 'fsdp'))


def check_batch_size(batch_size: int, accumulation_steps: int, devices: int) -> None:
    """Raises ConfigError when a training batch cannot be split evenly."""
    parts = accumulation_steps * devices
    if batch_size % parts:
        raise ConfigError(
            f'config.batch_size: {batch_size} is not divisible by {parts} ({devices} devices x '
            f'{accumulation_steps} accumulation_steps); '
            f'{max(parts, round(batch_size / parts) * parts)} is')


def replicated(mesh: Mesh) -> NamedSharding:
    """On every device the same."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Examples over all devices; `leading` axes before the batch axis stay whole."""
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, ('data', 'fsdp')))


def rows_here(mesh: Mesh, process: int | None = None) -> tuple[int, int]:
    """Returns (k, n): of n equal parts of every batch, a process has to load the k-th.

    Args:
      mesh: the devices of all processes.
      process: which process; None is this one.

    Raises:
      ConfigError: its devices do not hold one such part.
    """
    process = jax.process_index() if process is None else process
    owners = np.vectorize(lambda device: device.process_index)(mesh.devices)
    owners = owners.reshape(mesh.shape['data'] * mesh.shape['fsdp'], -1)
    held = np.flatnonzero((owners == process).any(axis=1))
    first, share = held[0], len(held)
    if held[-1] - first + 1 != share or first % share or len(owners) % share:
        raise ConfigError(f'config.mesh: process {process} holds the parts {held.tolist()} of '
                          f'{len(owners)} of a batch, which is no equal share; choose axes that '
                          'divide the devices of a process, or are multiples of them')
    return int(first // share), len(owners) // share


def to_device(batch: dict, placement: NamedSharding) -> dict:
    """Returns a host batch (the rows of `rows_here`) as global arrays on the devices."""
    part, parts = rows_here(placement.mesh)

    def one(rows):
        shape = (len(rows) * parts, *rows.shape[1:])
        first = part * len(rows)
        pieces = []
        for device, index in placement.addressable_devices_indices_map(shape).items():
            start, stop, _ = index[0].indices(shape[0])
            pieces.append(jax.device_put(rows[start - first:stop - first], device))
        return jax.make_array_from_single_device_arrays(shape, placement, pieces)

    return {name: one(value) for name, value in batch.items()}


def place(tree, placements):
    """Returns host arrays, the same in every process, as global arrays on the devices.

    They own their memory: a step can take it over (donation), which it cannot of a host array's.
    """
    def one(array, placement):
        array = np.asarray(array)
        pieces = [jax.device_put(array[piece], device, may_alias=False)
                  for device, piece in placement.addressable_devices_indices_map(
                      array.shape).items()]
        return jax.make_array_from_single_device_arrays(array.shape, placement, pieces)

    if isinstance(placements, NamedSharding):
        return jax.tree.map(lambda array: one(array, placements), tree)
    return jax.tree.map(one, tree, placements)


def to_host(tree, wanted: bool = True):
    """Returns global arrays as NumPy arrays of their own memory; every process has to call it.

    Args:
      tree: of arrays on a mesh.
      wanted: whether this process gets them; others only help to bring them together.
    """
    def one(leaf):
        if not isinstance(leaf, jax.Array):
            return leaf
        if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            leaf = _gathered(leaf.sharding.mesh)(leaf)
        return np.array(jax.device_get(leaf)) if wanted else None

    return jax.tree.map(one, tree)


@functools.cache
def _gathered(mesh: Mesh):
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))


def state_shardings(abstract_state, mesh: Mesh):
    """Returns a NamedSharding a leaf: the largest axis divisible by `fsdp` is cut, or none.

    Optimizer moments and EMA have the shapes of their parameters, so the rule treats them alike.
    """
    parts = mesh.shape['fsdp']

    def rule(leaf) -> NamedSharding:
        axes = [i for i, size in enumerate(leaf.shape) if size % parts == 0]
        if parts == 1 or not axes or math.prod(leaf.shape) < MIN_FSDP_ELEMENTS:
            return replicated(mesh)
        cut = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*['fsdp' if i == cut else None
                                                   for i in range(cut + 1)]))

    return jax.tree.map(rule, abstract_state)
