"""Weight decay: which parameters it applies to, decided by their names."""

import jax

from imgjax.config import Field

HPARAMS = {'weight_decay': Field(
    float, 0, default=0.0, help='sgd and adam add weight_decay * parameter to the gradient (L2 '
    'regularisation); the other optimizers add -learning_rate * weight_decay * parameter to the '
    'update (decoupled)')}


def mask(name: str):
    """Returns the mask that optax takes: a function of the parameters, or None for all of them.

    Args:
      name: `kernels` applies weight decay only to parameters whose own name is `kernel` (not to
        biases, norm scales and embeddings); `all` applies it to every parameter, and the mask is
        None.
    """
    if name == 'all':
        return None
    return lambda params: jax.tree_util.tree_map_with_path(lambda path, _: is_kernel(path), params)


def is_kernel(path) -> bool:
    """Returns whether the parameter at a path of jax.tree_util is called `kernel`."""
    return bool(path) and _name(path[-1]) == 'kernel'


def layer_axes(path) -> int:
    """Returns how many leading axes of a parameter count layers that a scan stacked: 0 or 1.

    Stacked layers are in a module `blocks`; each of its parameters has one leading axis of layers.
    """
    return 1 if any(_name(entry) == 'blocks' for entry in path) else 0


def _name(entry):
    # An entry of a dict has a key, an attribute has a name, an index in a list has neither.
    return getattr(entry, 'key', getattr(entry, 'name', None))
