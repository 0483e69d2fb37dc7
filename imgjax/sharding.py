"""Which device holds what: one mesh from the config, one rule for the train state."""

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


def to_device(batch: dict, placement: NamedSharding) -> dict:
    """Returns a host batch (this process's rows) as global arrays on the devices."""
    return {name: jax.make_array_from_process_local_data(placement, value)
            for name, value in batch.items()}


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
