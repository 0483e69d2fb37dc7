"""How a model is split over the mesh axis `tensor` (Shoeybi et al. 2019, arXiv:1909.08053).

A block splits its attention by heads and its MLP by hidden units; after each a sum over the devices
makes the activations whole again. Without such a mesh these functions do nothing.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_MESH: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar('mesh', default=None)


@contextlib.contextmanager
def over(mesh: Mesh) -> Iterator[None]:
    """In this context a model that is traced is split over the axis `tensor` of the mesh."""
    token = _MESH.set(mesh if mesh.shape['tensor'] > 1 else None)
    try:
        yield
    finally:
        _MESH.reset(token)


def parts() -> int:
    """Returns the number of devices that a block is split over; 1 without such a mesh."""
    mesh = _MESH.get()
    return mesh.shape['tensor'] if mesh else 1


def split(x: jax.Array, axis: int, batch: bool = True) -> jax.Array:
    """Returns x, split along `axis`: each device has a part of it.

    Args:
      x: an array.
      axis: the axis of heads or hidden units.
      batch: whether the first axis is one of examples; it is not for a parameter.
    """
    return _placed(x, {axis % x.ndim: 'tensor'}, batch)


def whole(x: jax.Array) -> jax.Array:
    """Returns x, split by examples alone; the partial sums of split layers are added up."""
    return _placed(x, {}, True)


def _placed(x: jax.Array, axes: dict, batch: bool) -> jax.Array:
    mesh = _MESH.get()
    if mesh is None:
        return x
    axes = ({0: ('data', 'fsdp')} if batch else {}) | axes
    spec = PartitionSpec(*(axes.get(axis) for axis in range(x.ndim)))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
