"""Which part of the batch and of the train state each device stores: one mesh, and rules.

The axis `data` splits the batch. `fsdp` splits the batch too, and each device stores a part of the
state; a step gathers the parameters before it uses them (Rajbhandari et al. 2019,
arXiv:1910.02054). `tensor` splits attention and MLPs of the families that say how (TENSOR_RULES,
Shoeybi et al. 2019, arXiv:1909.08053); other parameters it splits in storage only, as `fsdp` does.
"""

import contextlib
import functools
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imgjax.errors import ConfigError
from imgjax.models.parts import parallel
from imgjax.process import backend

AXES = ('data', 'fsdp', 'tensor')
# Smaller leaves (biases, norm scales) cost more to gather than they save.
MIN_FSDP_ELEMENTS = 1024


def make_mesh(shape: dict, devices=None) -> Mesh:
    """Returns the mesh with the axes of AXES; a `data` of -1 takes the remaining devices.

    `data` is -1 where it is not given, and the other axes are 1.

    Where the devices are in several slices (TPU pods joined by a slower network), `data` extends
    over the slices, and each of the other axes stays inside of one.

    >>> import jax
    >>> from imgjax import sharding
    >>> mesh = sharding.make_mesh({'fsdp': 1})
    >>> mesh.axis_names, mesh.shape['data'] == len(jax.devices())
    (('data', 'fsdp', 'tensor'), True)

    Raises:
      ConfigError: the product of the axes is not the number of devices, or there are no devices.
    """
    shape = {'data': -1, 'fsdp': 1, 'tensor': 1} | dict(shape)
    devices = backend.devices() if devices is None else devices
    inner = shape['fsdp'] * shape['tensor']
    data = len(devices) // inner if shape['data'] == -1 else shape['data']
    if data * inner != len(devices) or data < 1:
        raise ConfigError(
            f'config.mesh: data={shape["data"]} x fsdp={shape["fsdp"]} x tensor={shape["tensor"]} '
            f'does not make {len(devices)} devices; set data=-1 to take what is left')
    sizes = (data, shape['fsdp'], shape['tensor'])
    slices = len({getattr(device, 'slice_index', 0) for device in devices})
    if slices > 1 and data % slices:
        raise ConfigError(f'config.mesh.data: {data} is not divisible by {slices}, the slices that '
                          'the devices are in')
    if slices > 1:
        arranged = mesh_utils.create_hybrid_device_mesh(
            (data // slices, *sizes[1:]), (slices, 1, 1), devices)
    elif devices[0].platform == 'tpu':
        arranged = mesh_utils.create_device_mesh(sizes, devices)  # neighbours are linked
    else:
        arranged = np.asarray(devices).reshape(sizes)
    return Mesh(arranged, AXES)


def batch_parts(mesh: Mesh) -> int:
    """Returns the number of parts that a batch is split into."""
    return mesh.shape['data'] * mesh.shape['fsdp']


def check_batch_size(batch_size: int, accumulation_steps: int, mesh: Mesh) -> None:
    """Checks that a training batch can be split evenly.

    Raises:
      ConfigError: it cannot; the line names the nearest size that can.
    """
    parts = accumulation_steps * batch_parts(mesh)
    if batch_size % parts:
        raise ConfigError(
            f'config.batch_size: {batch_size} is not divisible by {parts} ({batch_parts(mesh)} '
            f'parts of the mesh x {accumulation_steps} accumulation_steps); '
            f'{max(parts, round(batch_size / parts) * parts)} is')


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device stores whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Returns the sharding of a batch, whose batch axis comes after `leading` whole axes."""
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, ('data', 'fsdp')))


def rows_here(mesh: Mesh, process: int | None = None) -> tuple[int, int]:
    """Returns (k, n): a process loads part k, from 0, of the n equal parts of every batch.

    Args:
      mesh: the devices of all processes.
      process: the index of the process; None is this one.

    Raises:
      ConfigError: its devices do not take one such part.
    """
    process = jax.process_index() if process is None else process
    owners = np.vectorize(lambda device: device.process_index)(mesh.devices)
    owners = owners.reshape(batch_parts(mesh), -1)
    parts = np.flatnonzero((owners == process).any(axis=1))
    first, share = parts[0], len(parts)
    if parts[-1] - first + 1 != share or first % share or len(owners) % share:
        raise ConfigError(f'config.mesh: process {process} takes the parts {parts.tolist()} of '
                          f'{len(owners)} of a batch, which is no equal share; choose axes that '
                          'divide the devices of a process, or are multiples of them')
    return int(first // share), len(owners) // share


def to_device(batch: dict, placement: NamedSharding) -> dict:
    """Returns a batch of this process (the rows of `rows_here`) as global arrays on the devices."""
    part, parts = rows_here(placement.mesh)  # type: ignore[arg-type]  # it has devices

    def one(rows):
        shape = (len(rows) * parts, *rows.shape[1:])
        first = part * len(rows)
        pieces = []
        for device, index in placement.addressable_devices_indices_map(shape).items():
            start, stop, _ = index[0].indices(shape[0])
            pieces.append(jax.device_put(rows[start - first:stop - first], device))
        return jax.make_array_from_single_device_arrays(shape, placement, pieces)

    return {name: one(value) for name, value in batch.items()}


def place(tree, placements, own: bool = False) -> Any:
    """Returns host arrays, the same in every process, as global arrays on the devices.

    Args:
      tree: a pytree of NumPy arrays.
      placements: one sharding for all of them, or a pytree with one for each.
      own: whether the results get memory of their own, which a step can take over (donation). On a
        CPU they otherwise share the memory of a host array that is aligned, whatever device_put's
        may_alias says (jax 0.10.2), and the first step would have to copy them.
    """
    def one(array, placement):
        array = np.asarray(array)
        pieces = [jax.device_put(array[piece], device)
                  for device, piece in placement.addressable_devices_indices_map(
                      array.shape).items()]
        pieces = [jnp.copy(piece) for piece in pieces] if own else pieces
        return jax.make_array_from_single_device_arrays(array.shape, placement, pieces)

    if isinstance(placements, NamedSharding):
        return jax.tree.map(lambda array: one(array, placements), tree)
    return jax.tree.map(one, tree, placements)


def to_host(tree, wanted: bool = True) -> Any:
    """Returns global arrays as NumPy arrays with memory of their own; every process has to call it.

    Args:
      tree: a pytree of arrays on a mesh.
      wanted: whether this process gets the arrays; the others only take part in gathering them.
    """
    def one(leaf):
        if not isinstance(leaf, jax.Array):
            return leaf
        if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            # One at a time: a process that starts to gather the next array hangs the others (Gloo).
            leaf = jax.block_until_ready(_gathered(leaf.sharding.mesh)(leaf))
        return np.array(jax.device_get(leaf)) if wanted else None

    return jax.tree.map(one, tree)


@functools.cache
def _gathered(mesh: Mesh):
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))


class Layout(NamedTuple):
    """How the parameters of a step are sharded: where they are stored, and where they are used.

    Attributes:
      mesh: the devices; None where each of them stores the whole state.
      stored: a NamedSharding for each parameter.
      used: the same without `fsdp`.
      splits: whether the model is split over `tensor`, as its family has rules.
    """

    mesh: Mesh | None = None
    stored: Any = None
    used: Any = None
    splits: bool = False

    def gather(self, params) -> Any:
        """Returns the parameters as a step computes with them; called once per step."""
        return jax.lax.with_sharding_constraint(params, self.used) if self.mesh else params

    def scatter(self, grads) -> Any:
        """Returns the gradients sharded as the optimizer needs them: as parameters are stored."""
        if self.mesh is None:
            return grads
        if self.mesh.shape['tensor'] > 1:
            # Without it XLA splits the activations too, along the axis that `tensor` splits.
            grads = jax.lax.with_sharding_constraint(grads, self.used)
        return jax.lax.with_sharding_constraint(grads, self.stored)

    def traced(self) -> contextlib.AbstractContextManager:
        """Returns the context in which a model has to be traced."""
        return parallel.over(self.mesh) if self.splits else contextlib.nullcontext()


WHOLE = Layout()


def layout(abstract_params, mesh: Mesh, rules=()) -> Layout:
    """Returns the layout of a model's parameters on a mesh.

    Args:
      abstract_params: the parameters, or their shapes.
      mesh: the devices.
      rules: TENSOR_RULES of the model's family.

    Raises:
      ConfigError: a rule matches no parameter, or an axis cannot be split evenly.
    """
    if mesh.size == mesh.shape['data']:
        return WHOLE
    named = [(_path(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(
        abstract_params)]
    for pattern, _ in rules if mesh.shape['tensor'] > 1 else ():
        if not any(re.search(pattern, name) for name, _ in named):
            raise ConfigError(f'config.mesh.tensor: the rule {pattern!r} matches no parameter')
    stored = state_shardings(abstract_params, mesh, rules)

    def used(path, leaf):
        axis = _tensor_axis(path, leaf, mesh, rules)
        if axis is None and mesh.shape['tensor'] > 1 and _rule_of(path, rules) is not None:
            raise ConfigError(f'config.mesh.tensor: {mesh.shape["tensor"]} does not divide '
                              f'{_path(path)!r} of shape {leaf.shape} as its rule asks')
        whole = axis is None or _rule_of(path, rules) == 'heads'
        return _cut(mesh, {} if whole else {axis: 'tensor'})

    return Layout(mesh, stored, jax.tree_util.tree_map_with_path(used, abstract_params),
                  bool(rules))


def state_shardings(abstract_state, mesh: Mesh, rules=()) -> Any:
    """Returns a NamedSharding per leaf: `tensor` splits the axis of its rule, `fsdp` the largest.

    In leaves without a rule `tensor` and `fsdp` split the largest axis that they divide together.
    Optimizer moments and EMA have the paths and shapes of their parameters, and are split alike.

    Args:
      abstract_state: a pytree of arrays or their shapes.
      mesh: the devices.
      rules: (pattern, axis) pairs; the first pattern that is found in the path of a leaf counts.
        The axis is negative, as layers of a scan have one more in front. 'heads' is the last axis
        of a map to attention heads, which is stored split and used whole, as its order is not that
        of the heads.
    """
    def rule(path, leaf) -> NamedSharding:
        axis = _tensor_axis(path, leaf, mesh, rules)
        cuts: dict[int, Any] = {} if axis is None else {axis: 'tensor'}
        rest = {'fsdp': mesh.shape['fsdp']}
        if axis is None:
            rest['tensor'] = mesh.shape['tensor']
        parts = math.prod(rest.values())
        free = [i for i, size in enumerate(leaf.shape) if i not in cuts and size % parts == 0]
        if parts > 1 and free and math.prod(leaf.shape) >= MIN_FSDP_ELEMENTS:
            names = tuple(name for name, size in rest.items() if size > 1)
            largest = max(free, key=lambda i: leaf.shape[i])
            cuts[largest] = names if len(names) > 1 else names[0]
        return _cut(mesh, cuts)

    return jax.tree_util.tree_map_with_path(rule, abstract_state)


def _cut(mesh: Mesh, cuts: dict) -> NamedSharding:
    last = max(cuts, default=-1)
    return NamedSharding(mesh, PartitionSpec(*(cuts.get(i) for i in range(last + 1))))


def _path(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator='/')


def _rule_of(path, rules):
    name = _path(path)
    return next((axis for pattern, axis in rules if re.search(pattern, name)), None)


def _tensor_axis(path, leaf, mesh: Mesh, rules) -> int | None:
    """Returns the axis of a leaf, from 0, that `tensor` splits by its rule, or None."""
    axis, parts = _rule_of(path, rules), mesh.shape['tensor']
    if axis is None or parts == 1:
        return None
    axis = leaf.ndim + (-1 if axis == 'heads' else axis)
    # Some optimizers keep sums over an axis under the parameter's name.
    return axis if 0 <= axis < leaf.ndim and leaf.shape[axis] % parts == 0 else None
