"""Fine-tuning: frozen parameters, a learning rate per layer, and first steps that train the head.

A parameter's name is its path, joined by dots, such as ``blocks.3.mlp.fc1.kernel``: modules have
timm's names.
"""

import fnmatch
import re

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.config import Config
from imgjax.optimizers.parts import schedule

_HEAD = re.compile(r'head(_\w+)?(\.|$)')
# The last layer of the head, which is fc2 if the head has a hidden layer (fc1, norm, fc2).
_CLASSIFIER = re.compile(r'head(_\w+)?(\.fc2)?\.(kernel|bias)$')
_STEM = re.compile(r'(stem|patch_embed)\b')
_BLOCK = re.compile(r'(\w+\.)*blocks?\b')


def name_of(path) -> str:
    """Returns the dotted name of a leaf of `params` or `batch_stats`."""
    return '.'.join(str(key.key) for key in path)


def depths(model, image_shape: tuple[int, int, int]):
    """Returns a tree like `params` of int32: the depth of each parameter, counted in layers.

    A layer is a block: a direct submodule of the model that has several kernels (a residual block,
    an Inception block, a layer of DenseNet) or is called a block, with all its submodules. Blocks
    have the depths 1, 2, ... in the order in which the model creates them, which is the order of
    the data. Modules before the first block (the stem) have depth 0, and so do the model's own
    parameters (class tokens, positions) wherever they are used. A module between two blocks has the
    depth of the second one. Modules after the last block, and the heads, have the greatest depth.
    Scanned blocks share an array, in which each layer has its own depth. In a model without blocks
    each module with a kernel is a layer.
    """
    made = []

    def init(x):
        params = model.init(jax.random.key(0), x, train=False)['params']
        made.extend(params)  # in the order of creation; what eval_shape returns is sorted
        return params

    shapes = jax.eval_shape(init, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    blocks = [name for name in made if _is_block(name, shapes[name])] or [
        name for name in made if _kernels(shapes[name]) and not _HEAD.match(name)]
    count, last = 0, ''
    places: dict[str, int | np.ndarray] = {}
    for name in made:
        if not isinstance(shapes[name], dict):
            places[name] = 0
        elif name in blocks:
            # The two directions of a recurrent layer are one layer.
            count += name.replace('backward', 'forward') != last
            places[name], last = count, name
            if name == 'blocks':  # scanned
                length = jax.tree.leaves(shapes[name])[0].shape[0]
                places[name] = np.arange(1, length + 1)
                count = length
        elif not _HEAD.match(name):
            places[name] = count + 1 if count else 0

    def depth(path, leaf):
        place = np.asarray(places.get(path[0].key, count + 1), np.int32)
        return place.reshape(-1, *[1] * (leaf.ndim - 1)) if place.ndim else place

    return jax.tree_util.tree_map_with_path(depth, shapes)


def _is_block(name: str, shapes) -> bool:
    if _HEAD.match(name) or _STEM.match(name):
        return False
    return _kernels(shapes) > 1 or bool(_BLOCK.match(name))


def _kernels(shapes) -> int:
    return sum(name_of(path).endswith('kernel')
               for path, _ in jax.tree_util.tree_leaves_with_path(shapes))


def with_new_classifiers(params, bias: float = 0.0):
    """Returns params whose classifiers, the last linear map of each head, give all classes alike.

    Their kernels are zero. So the first loss is log K for K classes, however the family initialises
    a classifier, and the first gradients of all other layers are zero.

    Args:
      params: the parameters of a model, float32 leaves.
      bias: the initial bias of each class; not 0 where the activation that follows has the
        gradient 0 at 0.
    """
    def one(path, leaf):
        if not _CLASSIFIER.match(name_of(path)):
            return leaf
        return np.full(leaf.shape, bias if path[-1].key == 'bias' else 0, leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, params)


def check(config: Config, params) -> None:
    """Raises ValueError for a pattern of config.optimizer.freeze that no parameter matches."""
    names = [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in config.optimizer.freeze:
        if not any(_matches(name, [pattern]) for name in names):
            raise ValueError(f'{pattern!r} matches no parameter; there are {names[0]}, ... '
                             f'{names[-1]}')
    if all(_matches(name, config.optimizer.freeze) for name in names):
        raise ValueError('freezes every parameter')


def _matches(name: str, patterns) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) or name.startswith(f'{pattern}.')
               for pattern in patterns)


def stop_gradients(config: Config, params):
    """Returns params with a stop_gradient on the frozen ones, so that no gradient is computed."""
    patterns = config.optimizer.freeze
    if not patterns:
        return params
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.lax.stop_gradient(leaf) if _matches(name_of(path), patterns)
        else leaf, params)


def is_frozen_norm(config: Config, name: str) -> bool:
    """Returns whether config.optimizer.freeze names all parameters of a BatchNorm.

    Such a BatchNorm runs in inference mode and its statistics do not change. In the first
    config.schedule.head_steps steps, which train the head alone, the others run in training mode:
    the steps that follow use batch statistics, and the stored ones adapt to the new images.
    """
    patterns = config.optimizer.freeze
    return all(_matches(f'{name}.{parameter}', patterns) for parameter in ('scale', 'bias'))


def scale(config: Config, hparams: dict, depths, step, updates):
    """Returns the optimizer's updates, scaled per parameter.

    The factor is 0 for parameters that config.optimizer.freeze names, and, in the first
    config.schedule.head_steps steps (below 1: that share of the run), for all but the head. With
    config.optimizer.layerwise it is ``layer_decay ** (D - d)`` at depth d of D (ELECTRA, Clark et
    al. 2020, arXiv:2003.10555; BEiT, arXiv:2106.08254).

    Args:
      config: the frozen Config of the run.
      hparams: with layer_decay, float32 ().
      depths: what the function `depths` returns; read only with config.optimizer.layerwise.
      step: int32 (), the number of updates done so far.
      updates: tree like params.
    """
    frozen = config.optimizer.freeze
    head_steps = schedule.count(config.schedule.head_steps, config.steps)
    layerwise = config.optimizer.layerwise
    if not frozen and not head_steps and not layerwise:
        return updates
    deepest = max(int(leaf.max()) for leaf in jax.tree.leaves(depths)) if layerwise else 0

    def one(path, update, *depth):
        name = name_of(path)
        if _matches(name, frozen):
            return jnp.zeros_like(update)
        if layerwise:
            update = update * hparams['layer_decay'] ** (deepest - depth[0]).astype(np.float32)
        if head_steps and not _HEAD.match(name):
            update = jnp.where(step < head_steps, 0.0, update)
        return update

    rest = (depths,) if layerwise else ()
    return jax.tree_util.tree_map_with_path(one, updates, *rest)
