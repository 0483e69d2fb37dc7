"""Converts our variables to the tensors of timm's model of the same name, and back.

Modules have timm's names, dots included, so the path of a parameter is its name in timm, except for
the ``RENAMES`` of the family (our prefixes -> timm's). Kernels have their output channels last here
and first in torch; all other tensors have the same layout.
"""

from collections.abc import Mapping

import jax
import numpy as np

from imgjax.errors import DataError

# Up to this number of differences are listed one by one.
MAX_LISTED = 8
_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}
COUNTER = 'num_batches_tracked'  # of torch's batch norms; nothing here uses it


class DoesNotFit(DataError):
    """Tensors of the weights are missing, left over or of other shapes."""


def name_of(path, renames: Mapping[str, str]) -> str:
    """Returns torch's name of a leaf.

    Args:
      path: key path in variables, such as ('params', 'blocks.0', 'attn', 'qkv', 'kernel').
      renames: {prefix of our joined path: prefix in torch}, both of whole components.
    """
    *modules, leaf = [str(getattr(key, 'key', key)) for key in path[1:]]
    name = '.'.join([*modules, _LEAVES.get(leaf, leaf)])
    for ours, theirs in renames.items():
        if name == ours or name.startswith(f'{ours}.'):
            return theirs + name[len(ours):]
    return name


def shapes(variables, renames: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of torch's tensors by name; leaves of `variables` need a shape only."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        # A view that takes no memory, transposed as the kernel would be.
        view = np.broadcast_to(np.zeros((), np.int8), leaf.shape)
        found[name_of(path, renames)] = (
            _to_torch(view) if path[-1].key == 'kernel' else view).shape
    return found


def write(variables, renames: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Returns variables {'params': ..., 'batch_stats': ...} as torch's float32 tensors by name."""
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        name = name_of(path, renames)
        leaf = np.asarray(leaf)
        tensors[name] = np.asarray(
            _to_torch(leaf) if path[-1].key == 'kernel' else leaf, order='C')
        if path[-1].key == 'var':
            tensors[f'{name.removesuffix("running_var")}{COUNTER}'] = np.zeros((), np.int64)
    return tensors


def read(tensors: Mapping[str, np.ndarray], shapes, renames: Mapping[str, str],
         buffers: tuple[str, ...] = (), new: tuple[str, ...] = ()) -> dict:
    """Returns variables of float32 from torch's tensors.

    Args:
      tensors: name -> array.
      shapes: variables whose leaves have a shape, such as `jax.eval_shape` of init returns.
      renames: as in `name_of`.
      buffers: ends of the names of tensors that are no parameters, such as index tables.
      new: beginnings of the names of parameters that keep the leaf of `shapes`.

    Raises:
      DoesNotFit: tensors are missing, left over or of other shapes; one line that lists them, or
        counts them with an example of both sides.
    """
    left = {name for name in tensors if not name.endswith((COUNTER, *buffers))}
    missing, other = [], []

    def leaf(path, shape):
        name = name_of(path, renames)
        if name.startswith(new):
            return shape
        if name not in tensors:
            missing.append((name, shape.shape))
            return None
        left.discard(name)
        array = np.asarray(tensors[name])
        if path[-1].key == 'kernel':
            array = _from_torch(array)
        if array.shape != shape.shape:
            other.append(f'{name} has the shape {tensors[name].shape}, which is {array.shape} here '
                         f'and not {shape.shape}')
            return None
        return np.asarray(array, np.float32, order='C')  # keeps a scalar 0-d

    variables = jax.tree_util.tree_map_with_path(leaf, shapes)
    unused = sorted(left)
    count = len(missing) + len(other) + len(unused)
    if count > MAX_LISTED:
        raise DoesNotFit(_both_sides(
            missing, other, [(name, tensors[name].shape) for name in unused],
            len(jax.tree.leaves(shapes)), len(tensors)))
    if count:
        wrong = [f'{name} is missing' for name, _ in missing] + other
        wrong += [f'{name} is left over' for name in unused]
        raise DoesNotFit(f'weights do not fit the model: {"; ".join(wrong)}')
    return variables


def _both_sides(missing, other, left, wanted: int, stored: int) -> str:
    """Returns how many tensors do not fit, with an example from the model and one from the file."""
    words = []
    if missing:
        words.append(f'{len(missing)} of the {wanted} tensors of the model are missing, such as '
                     '{} {}'.format(*missing[0]))
    if left:
        words.append(f'{len(left)} of the {stored} in the file are left over, such as '
                     '{} {}'.format(*left[0]))
    if other:
        words.append(f'{len(other)} have other shapes: {other[0]}')
    return f'weights do not fit the model: {"; ".join(words)}'


def _to_torch(kernel: np.ndarray) -> np.ndarray:
    """(..., I, O) -> (O, I, ...)."""
    return kernel.transpose(kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2))


def _from_torch(weight: np.ndarray) -> np.ndarray:
    """(O, I, ...) -> (..., I, O)."""
    return weight.transpose(*range(2, weight.ndim), 1, 0)
