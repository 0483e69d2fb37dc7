"""Which parameters of a model train, and how fast: frozen parts, a decay a layer, the head first.

A parameter's name is its path, joined by dots, such as ``blocks.3.mlp.fc1.kernel``: modules have
timm's names.
"""

import fnmatch
import re

import jax
import jax.numpy as jnp
import numpy as np

_HEAD = re.compile(r'head(_\w+)?(\.|$)')
# Everything up to a first number, and of blocks inside of it: layer1.0, stages.1.blocks.0.
_LAYER = re.compile(r'(?!stem|patch_embed|conv_stem)(?:[A-Za-z_]\w*\.)+?\d+'
                    r'(?:\.(?:blocks?|layers?)\.\d+)?(?=\.)')
_INNER = re.compile(r'\.(?:blocks?|layers?)\.\d+$')


def name_of(path) -> str:
    """Returns the dotted name of a leaf of `params` or `batch_stats`."""
    return '.'.join(str(key.key) for key in path)


def depths(model, image_shape: tuple[int, int, int]):
    """Returns a tree like `params` of int32: how many layers lie between a parameter and the input.

    Layers are counted in the order in which the model makes its parameters: 0 for what comes before
    the first block (embedding, positions), a number a block and what stands between it and the one
    before, and the greatest for what follows the last one (norm, head). Of scanned blocks, which
    share an array, each layer has its own number. A model without numbered blocks has a layer a
    module.
    """
    names = []

    def init(x):
        variables = model.init(jax.random.key(0), x, train=False)
        # In the order of creation here; jax sorts what eval_shape returns.
        names.extend(_leaves(variables['params']))
        return variables['params']

    shapes = jax.eval_shape(init, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    layer_of = _LAYER
    if not any(_LAYER.match(name) or name.startswith('blocks.') for name, _ in names):
        layer_of = re.compile(r'\w+(?=\.)')
    stages = {_INNER.sub('', m.group()) for name, _ in names if (m := _LAYER.match(name))
              and _INNER.search(m.group())}
    places, count = {}, 0
    for name, leaf in names:
        found = layer_of.match(name)
        if name.startswith('blocks.') and not found:  # scanned
            places[name] = np.arange(1, leaf.shape[0] + 1).reshape(-1, *[1] * (leaf.ndim - 1))
            count = max(count, leaf.shape[0])
        elif found and not _HEAD.match(name):
            layer = found.group()
            if layer in stages:  # between its blocks and those of the stage before
                places[name] = count + 1
                continue
            if layer not in places:
                count += 1
                places[layer] = count
            places[name] = places[layer]
        else:
            places[name] = 0 if not count and not _HEAD.match(name) else None
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.asarray(
            count + 1 if (place := places[name_of(path)]) is None else place, np.int32), shapes)


def _leaves(tree, prefix=''):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def check(config: dict, params) -> None:
    """Raises ValueError for a pattern of config.optimizer.freeze that no parameter matches."""
    names = [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in config['optimizer']['freeze']:
        if not any(_matches(name, [pattern]) for name in names):
            raise ValueError(f'{pattern!r} matches no parameter; there are {names[0]}, ... '
                             f'{names[-1]}')
    if all(_matches(name, config['optimizer']['freeze']) for name in names):
        raise ValueError('freezes every parameter')


def _matches(name: str, patterns) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) or name.startswith(f'{pattern}.')
               for pattern in patterns)


def stop_gradients(config: dict, params):
    """Returns params of which the frozen ones get no gradient, so that none is computed."""
    patterns = config['optimizer']['freeze']
    if not patterns:
        return params
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.lax.stop_gradient(leaf) if _matches(name_of(path), patterns)
        else leaf, params)


def keep_frozen(config: dict, new, old):
    """Returns new batch statistics, but for those of frozen parts, which stay."""
    patterns = config['optimizer']['freeze']
    if not patterns:
        return new
    return jax.tree_util.tree_map_with_path(
        lambda path, new, old: old if _matches(name_of(path), patterns) else new, new, old)


def scale(config: dict, hparams: dict, depths, step, updates):
    """Returns the optimizer's updates, scaled for each parameter.

    By 0 where config.optimizer.freeze says so; by 0 in all but the head for the first
    config.schedule.head_steps steps; with config.optimizer.layerwise by ``layer_decay ** (D - d)``
    at depth d of D (ELECTRA, Clark et al. 2020, arXiv:2003.10555; BEiT, arXiv:2106.08254).

    Args:
      config: plain.
      hparams: with layer_decay, float32.
      depths: as `depths` returns; read with config.optimizer.layerwise only.
      step: int32, updates done so far.
      updates: tree like params.
    """
    frozen, head_steps = config['optimizer']['freeze'], config['schedule']['head_steps']
    layerwise = config['optimizer']['layerwise']
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
