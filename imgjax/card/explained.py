"""Maps of a model by the methods of `explain`, and the tests of these methods."""

import functools
import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgjax import explain
from imgjax.augment import color
from imgjax.build import Setup
from imgjax.card import functions
from imgjax.errors import ConfigError, DataError
from imgjax.evals import chunks
from imgjax.report import card_page

log = logging.getLogger('imgjax')

MOST = 32  # images of a chunk, at most
BUCKET = 8
# What is shown where nothing is named: each kind of method, and none that takes minutes.
USUAL = ('gradient', 'integrated_gradients', 'grad_cam', 'layer_cam', 'attention_rollout',
         'attention_gradient', 'lrp', 'occlusion', 'rise')


class Explained(NamedTuple):
    """A model that is explained.

    Attributes:
      setup: its run.
      model: the model as functions.
      size: images of a chunk.
      layer: the intermediate that class activation maps take; '' takes the last one with positions.
      seed: decides all random numbers.
    """

    setup: Setup
    model: functions.Functions
    size: int
    layer: str
    seed: int


def of(setup: Setup, model: functions.Functions, layer: str = '', seed: int = 0) -> Explained:
    """Returns a model as the functions below take it."""
    image = jax.ShapeDtypeStruct((1, *setup.dataset.image_shape), jnp.float32)

    def gradient(variables, images_NHWC):
        return jax.grad(lambda images: model.apply_fn(variables, images)[0].sum())(images_NHWC)

    size = chunks.images_at_once(gradient, model.variables, image, most=MOST)
    return Explained(setup, model, size, layer, seed)


def normalised(explained: Explained, images_NHWC: np.ndarray) -> np.ndarray:
    """Returns images in 0 to 255 as the model takes them, float32 (N, H, W, C)."""
    options = explained.setup.config.data
    return np.asarray(color.normalize(jnp.asarray(images_NHWC), options.mean, options.std))


def logits_of(predict: jax.tree_util.Partial, images_NHWC: np.ndarray, size: int) -> np.ndarray:
    """Returns the logits of images in 0 to 255, `size` at a time, float32 (N, K)."""
    found = [np.asarray(_logits(predict, images.astype(np.float32)))
             for images, in _parts(size, images_NHWC)]
    return np.concatenate(found)[:len(images_NHWC)]


@jax.jit
def _logits(predict, images_NHWC):
    return predict(images_NHWC)


def _parts(size: int, *arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields the arrays in chunks of one size; the last chunk is filled up with its first row.

    The size is at most `size`, and a multiple of BUCKET where there are fewer images, so that few
    shapes are compiled.
    """
    count = len(arrays[0])
    size = min(size, -(-count // BUCKET) * BUCKET)
    for first in range(0, count, size):
        rows = np.arange(first, first + size)
        yield tuple(array[np.where(rows < count, rows, first)] for array in arrays)


def apply_fn(explained: Explained, name: str) -> Callable:
    """Returns the `apply_fn` that a method takes: with attention maps, where it needs them.

    Raises:
      DataError: the method needs attention maps, and the model has none.
    """
    if name not in explain.OF_ATTENTION:
        return explained.model.apply_fn
    found = _with_attention(explained.setup.model)
    if found is None:
        raise DataError(f'{name}: {explained.setup.config.model.name} has no attention maps; take '
                        'a method of gradients, such as integrated_gradients')
    return found


@functools.lru_cache(maxsize=4)  # the same function each time, so that its programs are found
def _with_attention(model):
    return functions.attention_maps(model)


def method(explained: Explained, name: str) -> Callable:
    """Returns explain(apply_fn, variables, images_NHWC, targets_N, indices_N) -> maps_NHW.

    Images are worked on in chunks of few sizes, so that a method is compiled seldom. `indices_N`
    are the places of the images in the set that they come from, on which random numbers depend. A
    chunk for which the method has no maps, such as one whose gradient is 0, gets maps of 0; if it
    has them for no chunk, its error is raised.
    """
    module = explain.method(name)
    options: dict = {'layer': explained.layer} if name in explain.CAMS else {}
    if name in explain.RANDOM:
        options['seed'] = explained.seed

    def maps(apply_fn, variables, images_NHWC, targets_N, indices_N=None) -> np.ndarray:
        indices_N = np.arange(len(images_NHWC)) if indices_N is None else indices_N
        found, errors = [], []
        for images, targets, indices in _parts(
                explained.size, np.asarray(images_NHWC), np.asarray(targets_N, np.int32),
                np.asarray(indices_N)):
            more = {'indices_N': indices} if name == 'smoothgrad' else {}
            try:
                found.append(np.asarray(module.explain(
                    apply_fn, variables, jnp.asarray(images), jnp.asarray(targets), **options,
                    **more), np.float32))
            except DataError as error:
                errors.append(error)
                found.append(np.zeros(images.shape[:3], np.float32))
        if len(errors) == len(found):
            raise errors[0]
        if errors:
            log.warning('%s: %d of %d chunks of images have maps of 0: %s', name, len(errors),
                        len(found), errors[0])
        return np.concatenate(found)[:len(images_NHWC)]

    return maps


def maps(explained: Explained, name: str, images_NHWC: np.ndarray, targets_N: np.ndarray,
         indices_N: np.ndarray | None = None) -> np.ndarray:
    """Returns the maps of normalised images by a method, float32 (N, H, W)."""
    return method(explained, name)(apply_fn(explained, name), explained.model.variables,
                                   images_NHWC, targets_N, indices_N)


def usable(explained: Explained, names: Sequence[str],
           images_NHWC: np.ndarray, targets_N: np.ndarray) -> tuple[list[str], dict[str, str]]:
    """Returns the methods that work for a model, and why each of the others does not.

    Args:
      explained: the model.
      names: methods.
      images_NHWC: normalised images; of the first ones each method makes maps.
      targets_N: int (N,), the classes that are explained.
    """
    works, refused = [], {}
    images_NHWC, targets_N = images_NHWC[:BUCKET], targets_N[:BUCKET]
    for name in names:
        if name == 'partition_shap' and not importlib.util.find_spec('shap'):
            refused[name] = "it needs the package shap: pip install 'imgjax[shap]'"
            continue
        try:
            maps(explained, name, images_NHWC, targets_N)
            works.append(name)
        except (ConfigError, DataError) as error:
            refused[name] = str(error).removeprefix(f'{name}: ')
    return works, refused


def shown(image_HWC: np.ndarray, overlays: dict[str, np.ndarray]) -> dict:
    """Returns an image and its overlays as the page shows them."""
    return {'picture': card_page.thumbnail(image_HWC),
            'overlays': pictures(**overlays)}


def pictures(**pixels: np.ndarray) -> dict[str, dict]:
    """Returns {name: picture}, as the page shows it."""
    return {name: card_page.thumbnail(one) for name, one in pixels.items()}
