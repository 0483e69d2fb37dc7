"""Our variables as the tensors of timm's model of the same name, and back.

Modules are named as timm names them, dots included, so a parameter's path is its name there, but
for what the family's ``RENAMES`` says (prefixes of ours -> theirs). Layouts follow from the rank:
kernels have their output channels last where torch has them first, all else is the same.
"""

from collections.abc import Mapping

import jax
import numpy as np

from imgjax.errors import DataError

_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}
_COUNTER = 'num_batches_tracked'  # of torch's batch norms; nothing depends on it


def name_of(path, renames: Mapping[str, str]) -> str:
    """Returns torch's name of a leaf.

    Args:
      path: key path in variables, such as ('params', 'blocks.0', 'attn', 'qkv', 'kernel').
      renames: prefixes of the joined path, whole components, ours -> theirs.
    """
    *modules, leaf = [str(getattr(key, 'key', key)) for key in path[1:]]
    name = '.'.join([*modules, _LEAVES.get(leaf, leaf)])
    for ours, theirs in renames.items():
        if name == ours or name.startswith(f'{ours}.'):
            return theirs + name[len(ours):]
    return name


def write(variables, renames: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Returns torch's tensors of {'params': ..., 'batch_stats': ...}, float32, by name."""
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        name = name_of(path, renames)
        leaf = np.asarray(leaf)
        tensors[name] = np.asarray(
            _to_torch(leaf) if path[-1].key == 'kernel' else leaf, order='C')
        if path[-1].key == 'var':
            tensors[f'{name.removesuffix("running_var")}{_COUNTER}'] = np.zeros((), np.int64)
    return tensors


def read(tensors: Mapping[str, np.ndarray], shapes, renames: Mapping[str, str],
         buffers: tuple[str, ...] = ()):
    """Returns variables of float32 from torch's tensors.

    Args:
      tensors: name -> array.
      shapes: variables of anything with a shape, what `jax.eval_shape` of init gives.
      renames: as `name_of`.
      buffers: endings of the names of tensors that no parameter is made of, such as index tables.

    Raises:
      DataError: tensors are missing, left over or of other shapes; one line that lists them.
    """
    left = {name for name in tensors if not name.endswith((_COUNTER, *buffers))}
    wrong = []

    def leaf(path, shape):
        name = name_of(path, renames)
        if name not in tensors:
            wrong.append(f'{name} is missing')
            return None
        left.discard(name)
        array = np.asarray(tensors[name])
        if path[-1].key == 'kernel':
            array = _from_torch(array)
        if array.shape != shape.shape:
            wrong.append(f'{name} has the shape {tensors[name].shape}, which is {array.shape} here '
                         f'and not {shape.shape}')
            return None
        return np.asarray(array, np.float32, order='C')  # which leaves a number a number

    variables = jax.tree_util.tree_map_with_path(leaf, shapes)
    wrong += [f'{name} is left over' for name in sorted(left)]
    if wrong:
        more = f', and {len(wrong) - 8} more' if len(wrong) > 8 else ''
        raise DataError(f'weights do not fit the model: {"; ".join(wrong[:8])}{more}')
    return variables


def _to_torch(kernel: np.ndarray) -> np.ndarray:
    """(..., I, O) -> (O, I, ...)."""
    return kernel.transpose(kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2))


def _from_torch(weight: np.ndarray) -> np.ndarray:
    """(O, I, ...) -> (..., I, O)."""
    return weight.transpose(*range(2, weight.ndim), 1, 0)
