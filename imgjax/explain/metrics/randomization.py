"""Randomisation of the parameters: the maps must change when the weights do.

A map that stays alike while layer after layer is made random shows the image, not the model. Three
forms of the test:

- the cascade (Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018,
  https://arxiv.org/abs/1810.03292): the rank correlation of the maps with those of the model as it
  was, while its layers become random one after the other (MPRT);
- with maps that are means over noisy copies of the image, `smooth`, as noise in a map lowers the
  correlation for no good reason (sMPRT), and
- the rise in complexity from the maps of the model to those of the random one (eMPRT), both by
  Hedström et al., "A fresh look at sanity checks for saliency maps", 2024
  (https://arxiv.org/abs/2405.02383), and "Sanity checks revisited", 2023
  (https://arxiv.org/abs/2401.06465).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from scipy import stats

from imgjax.errors import ConfigError, DataError
from imgjax.explain.metrics.agreement import rank_correlation
from imgjax.explain.metrics.means import mean_of
from imgjax.explain.metrics.order import generator, indices_of
from imgjax.explain.metrics.outputs import check

STAGES = 6
BINS = 100
SAMPLES, NOISE = 50, 0.1

# What depends on the images, in the place of the set of leaves that a variable is made of.
_IMAGE = None


def measure(explain: Callable, apply_fn: Callable, variables: Any, images_NHWC: np.ndarray,
            targets_N: np.ndarray, maps_NHW: np.ndarray, *, stages: int = STAGES,
            bottom_up: bool = False, absolute: bool = False, bins: int = BINS,
            seed: int = 0) -> dict:
    """Returns how alike the maps stay while the layers become random.

    The result can be written as JSON:
      images: int; layers: how many there are; bottom_up, absolute: as given.
      stages: a list with a dict per stage: `layer` (the last that became random), `randomized` (how
        many are), `same` (how many images have exactly the map that they had), and the rank
        correlation with the map of the model as it was, `agreement.rank_correlation`, as
        `means.mean_of`. In the last stage all layers are random.
      complexity: (b - a) / a, where a is the entropy of the map's histogram, and b that with all
        layers random, see `means.mean_of`; above 0 is right. It has no value where a is 0.
      notes: sentences on what was left out.

    Args:
      explain: (apply_fn, variables, images_NHWC, targets_N) -> maps_NHW.
      apply_fn: (variables, images_NHWC) -> (logits_NK, out), hashable.
      variables: what it takes.
      images_NHWC: float32, as the model takes them.
      targets_N: int (N,), the class of each image.
      maps_NHW: float (N, H, W), what `explain` returns for them.
      stages: how often the maps are compared, evenly from the first random layer to the last; 1
        compares them when all layers are random.
      bottom_up: whether the layer next to the image becomes random first, and not that next to the
        logits, as Hedström et al. have it.
      absolute: whether the absolute values of the maps are compared.
      bins: of the histogram, from the least to the largest value of a map.
      seed: of the random weights.

    Raises:
      ConfigError: `stages` or `bins` is out of its range.
      DataError: the arrays do not fit, maps are not finite, or the model has no parameters.
    """
    if stages < 1 or bins < 2:
        raise ConfigError(f'stages: {stages}, bins: {bins}; give 1 or more stages and 2 or more '
                          'bins')
    check(apply_fn, variables, images_NHWC, targets_N, maps_NHW)
    names = layers(apply_fn, variables, images_NHWC)[::1 if bottom_up else -1]
    change = np.abs if absolute else np.asarray
    maps_NHW, random_NHW = change(np.asarray(maps_NHW)), np.zeros(0)
    found: list[dict] = []
    notes: list[str] = []
    for count in np.unique(np.linspace(len(names), 1, min(stages, len(names))).round().astype(int)):
        random = randomized(variables, names[:count], seed)
        try:
            random_NHW = change(np.asarray(explain(apply_fn, random, images_NHWC, targets_N)))
        except DataError as error:  # a gradient that is 0 everywhere
            random_NHW = np.zeros_like(maps_NHW)
            notes.append(f'With {count:,} of {len(names):,} layers random there are no maps, which '
                         f'counts as maps of zeros ({error}).')
        found.append({'layer': names[count - 1], 'randomized': int(count),
                      'same': int((random_NHW == maps_NHW).all(axis=(1, 2)).sum()),
                      **mean_of(rank_correlation(maps_NHW, random_NHW))})
    before_N, after_N = entropy(maps_NHW, bins), entropy(random_NHW, bins)
    before_N = np.where(before_N > 0, before_N, np.nan)
    return {'images': len(maps_NHW), 'layers': len(names), 'bottom_up': bottom_up,
            'absolute': absolute, 'stages': found,
            'complexity': mean_of((after_N - before_N) / before_N), 'notes': notes}


def smooth(explain: Callable, *, samples: int = SAMPLES, noise: float = NOISE, seed: int = 0,
           indices_N: np.ndarray | None = None) -> Callable:
    """Returns a method whose maps are the means of those of noisy copies of the image.

    One of the copies has no noise.

    Args:
      explain: (apply_fn, variables, images_NHWC, targets_N) -> maps_NHW.
      samples: the number of copies, 1 or more.
      noise: the standard deviation as a share of the range of values of an image.
      seed: of the noise.
      indices_N: int (N,), the place of each image in its data set; None takes 0 to N - 1.

    Raises:
      ConfigError: `samples` or `noise` is out of its range.
    """
    if samples < 1 or noise < 0:
        raise ConfigError(f'samples: {samples}, noise: {noise}; give 1 or more samples, and noise '
                          'of 0 or more')

    def smoothed(apply_fn, variables, images_NHWC, targets_N):
        images_NHWC = np.asarray(images_NHWC, np.float32)
        generators = [generator(seed, index, 'smooth')
                      for index in indices_of(indices_N, len(images_NHWC))]
        std_N = noise * np.ptp(images_NHWC, axis=(1, 2, 3))
        maps_NHW = np.asarray(explain(apply_fn, variables, images_NHWC, targets_N), np.float32)
        for _ in range(samples - 1):
            noise_NHWC = np.stack([std * rng.normal(size=images_NHWC.shape[1:]).astype(np.float32)
                                   for std, rng in zip(std_N, generators, strict=True)])
            maps_NHW = maps_NHW + np.asarray(explain(apply_fn, variables, images_NHWC + noise_NHWC,
                                                     targets_N))
        return maps_NHW / np.float32(samples)

    return smoothed


def layers(apply_fn: Callable, variables: Any, images_NHWC: np.ndarray) -> list[str]:
    """Returns the names of the layers, that next to the image first.

    A layer is a module with parameters of its own, such as 'block1/conv2', or a single parameter
    outside of all modules. The order is that in which the model first combines them with something
    that depends on the image, as the trace of `apply_fn` shows; parameters that it never uses are
    no layer. Blocks that a scan runs through are one block.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out).
      variables: what it takes, with the parameters in `params`; all of it where there is none.
      images_NHWC: float32 (N, H, W, C), of which only the shape counts.

    Raises:
      DataError: the model has no parameters.
    """
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(variables)[0]]
    image = jax.ShapeDtypeStruct((1, *np.shape(images_NHWC)[1:]), np.float32)
    jaxpr = jax.make_jaxpr(apply_fn)(variables, image).jaxpr
    used: list[int] = []
    _walk(jaxpr, [*(frozenset([place]) for place in range(len(paths))), _IMAGE], used)
    names = [_layer(paths[place]) for place in used
             if not _collections(variables) or _key(paths[place][0]) == 'params']
    if not names:
        raise DataError('variables: the model uses no parameters, so that none can be randomised; '
                        'give those that apply_fn takes')
    return list(dict.fromkeys(names))


def randomized(variables: Any, names: Sequence[str], seed: int = 0) -> Any:
    """Returns the variables with the values of these layers permuted.

    The distribution of the values in each array stays as it is. All arrays of one shape in a layer
    are permuted alike, also those that are no parameters: a mean and a variance of a batch
    normalisation stay together. Arrays with one value everywhere do not change.

    Args:
      variables: a pytree of arrays.
      names: of `layers`.
      seed: of the permutations, which depend on the name of a layer and on nothing else.
    """
    chosen = set(names)

    def of_leaf(path, leaf):
        name = _layer(path) if _collections(variables) else _layer((None, *path))
        if name not in chosen:
            return leaf
        values = np.asarray(leaf)
        order = generator(seed, values.size, name).permutation(values.size)
        return values.ravel()[order].reshape(values.shape)

    return jax.tree_util.tree_map_with_path(of_leaf, variables)


def entropy(maps_NHW: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Returns the entropy of the histogram of each map's values in nats, float64 (N,)."""
    return np.array([stats.entropy(np.histogram(map_HW, bins=bins)[0])
                     for map_HW in np.asarray(maps_NHW, np.float64)])


def _collections(variables: Any) -> bool:
    return isinstance(variables, Mapping) and 'params' in variables


def _key(part: Any) -> str:
    return jax.tree_util.keystr((part,), simple=True)


def _layer(path: tuple) -> str:
    """Returns the layer of a leaf: its path without the collection and the name of the leaf."""
    return '/'.join(map(_key, path[1:-1] if len(path) > 2 else path[1:]))


def _walk(jaxpr: Any, states: list, used: list[int]) -> list:
    """Returns the states of the outputs, and appends leaves to `used` when they meet the image.

    A state is _IMAGE, or the set of the leaves that a variable is made of.
    """
    known = dict(zip(jaxpr.invars, states, strict=True))

    def state(variable):
        is_literal = hasattr(variable, 'val')
        return frozenset() if is_literal else known.get(variable, frozenset())

    for equation in jaxpr.eqns:
        inputs = [state(variable) for variable in equation.invars]
        inner = _inner(equation)
        if inner is not None:
            outputs = _walk(inner, inputs, used)
        elif any(one is _IMAGE for one in inputs):
            for one in inputs:
                used.extend(sorted(one or ()))
            outputs = [_IMAGE] * len(equation.outvars)
        else:
            outputs = [frozenset().union(*inputs)] * len(equation.outvars)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [state(variable) for variable in jaxpr.outvars]


def _inner(equation: Any) -> Any:
    """Returns the jaxpr that an equation calls with its own operands; None if there is none."""
    for value in equation.params.values():
        inner = getattr(value, 'jaxpr', value)
        if (hasattr(inner, 'eqns') and len(inner.invars) == len(equation.invars)
                and len(inner.outvars) == len(equation.outvars)):
            return inner
    return None
