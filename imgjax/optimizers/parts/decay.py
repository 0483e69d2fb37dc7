"""Which parameters decay, and what a parameter is by its name."""

import jax

from imgjax.config import Field

HPARAMS = {'weight_decay': Field(
    float, 0, default=0.0, help='added to the gradient as weight_decay * parameter by sgd and adam '
    '(L2 regularisation); in the others decoupled: -learning_rate * weight_decay * parameter')}


def mask(name: str):
    """Returns optax's mask of the parameters that decay: a function of the parameters, or None.

    Args:
      name: `kernels` (only parameters whose own name is `kernel`, not biases, norm scales or
        embeddings) or `all`, which is None.
    """
    if name == 'all':
        return None
    return lambda params: jax.tree_util.tree_map_with_path(lambda path, _: is_kernel(path), params)


def is_kernel(path) -> bool:
    return bool(path) and _name(path[-1]) == 'kernel'


def layer_axes(path) -> int:
    """Returns how many leading axes of a parameter are layers that a scan stacked.

    These are in one module `blocks`, whose parameters have one leading axis of layers.
    """
    return 1 if any(_name(entry) == 'blocks' for entry in path) else 0


def _name(entry):
    # A dict entry has a key, an attribute a name, a place in a list neither.
    return getattr(entry, 'key', getattr(entry, 'name', None))
