"""A model as functions of images, for evaluators that change the images or take gradients."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgjax import evaluate, step
from imgjax.augment import color
from imgjax.build import Setup
from imgjax.data import Source, pipeline
from imgjax.evals import chunks
from imgjax.models.parts.attention import ATTENTIONS


class Functions(NamedTuple):
    """A model as functions that JAX can differentiate.

    Attributes:
      apply_fn: (variables, normalised images_NHWC) -> (logits_NK, {name: intermediate}).
      variables: what `apply_fn` takes, on one device.
      apply: (images_NHWC, float32 in 0 to 255) -> the same; its leaves are the variables.
      predict: (images_NHWC, float32 in 0 to 255) -> logits_NK.
    """

    apply_fn: Any
    variables: dict
    apply: jax.tree_util.Partial
    predict: jax.tree_util.Partial


def of(setup: Setup, state, order: tuple[int, ...] | None = None,
       shape_HWC: tuple[int, ...] | None = None) -> Functions:
    """Returns a model as functions.

    Args:
      setup: its run.
      state: TrainState on the mesh.
      order: the columns of the logits, in this order; None for all.
      shape_HWC: to which `apply` and `predict` resize images that have another; None leaves them.
    """
    variables = jax.device_put(
        {'params': step.eval_params(setup.config, state), 'batch_stats': state.batch_stats},
        jax.local_devices()[0])
    columns = None if order is None else np.asarray(order)
    # Each function is made once per model, so that what is compiled for it is found again.
    apply_fn = functools.partial(_apply, setup.model, columns)
    options = setup.config.data

    def on_bytes(variables, images_NHWC):
        images_NHWC = images_NHWC if shape_HWC is None else _fitted(images_NHWC, shape_HWC)
        return apply_fn(variables, color.normalize(images_NHWC, options.mean, options.std))

    return Functions(apply_fn, variables, jax.tree_util.Partial(on_bytes, variables),
                     jax.tree_util.Partial(lambda *args: on_bytes(*args)[0], variables))


def _fitted(images_NHWC, shape_HWC: tuple[int, ...]):
    """Returns images of another size, and grey ones as colours or the other way round."""
    height, width, channels = shape_HWC
    if images_NHWC.shape[3] != channels:
        images_NHWC = jnp.repeat(images_NHWC.mean(3, keepdims=True), channels, axis=3)
    if images_NHWC.shape[1:3] == (height, width):
        return images_NHWC
    return jax.image.resize(images_NHWC, (len(images_NHWC), *shape_HWC), 'bilinear')


def images_at_once(predict: jax.tree_util.Partial, shape_HWC: tuple[int, ...], most: int) -> int:
    """Returns how many images `predict` is given at one time, at most `most`."""
    image = jax.ShapeDtypeStruct((1, *shape_HWC), jnp.float32)
    return chunks.images_at_once(_called, predict, image, most=most)


def _called(predict, images_NHWC):
    return predict(images_NHWC)


def _apply(model, columns: np.ndarray | None, variables: dict, images_NHWC):
    logits_NK, out = model.apply(variables, images_NHWC, train=False)
    return (logits_NK if columns is None else jnp.take(logits_NK, columns, axis=1)), out


def attention_maps(model):
    """Returns apply_fn of the same flax module with its attention maps in `out`, or None.

    None is for families that have no maps; ResNets have a gate of channels under this name.
    """
    if getattr(model, 'attention', None) not in ATTENTIONS:
        return None
    return functools.partial(_apply, model.clone(attention='maps'), None)


def images(setup: Setup, source: Source, rows: np.ndarray) -> np.ndarray:
    """Returns decoded images at the size of the model's input, uint8 (N, H, W, C).

    Args:
      setup: the run, whose config says how its images are read.
      source: a split.
      rows: int (N,), which images.

    Raises:
      DataError: an image cannot be decoded.
    """
    size = setup.dataset.image_shape[0]
    return pipeline.load(source, evaluate.reading(setup, source), size, np.asarray(rows),
                         strict=True)['image']
