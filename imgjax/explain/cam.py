"""What class activation maps share: the layer, and the size of the image."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from imgjax.explain import layers


def explain(raw: Callable, apply_fn: Callable, variables: Any, images_NHWC: jax.Array,
            targets_N: jax.Array, layer: str) -> jax.Array:
    """Returns maps at the size of the images, float32 (N, H, W), see `upsample`.

    Args:
      raw: (a_NhwC, gradient_NhwC) -> maps_Nhw on the grid of the layer.
      apply_fn: (variables, images_NHWC) -> (logits_NK, out).
      variables: what it takes.
      images_NHWC: float32, as the model takes them.
      targets_N: int (N,), the class of each image.
      layer: the name of an intermediate in `out`; '' takes that of `layers.last_spatial`.

    Raises:
      ConfigError: `out` has no such layer.
      DataError: images or targets do not fit, the layer has no positions, or its gradient is zero
        for all images or not finite.
    """
    a_NhwC, gradient_NhwC = layers.on_layer(apply_fn, variables, images_NHWC, targets_N, layer)
    return upsample(raw(a_NhwC, gradient_NhwC), *images_NHWC.shape[1:3])


@functools.partial(jax.jit, static_argnums=(1, 2))
def upsample(maps_Nhw: jax.Array, height: int, width: int) -> jax.Array:
    """Returns maps at the size of the images, float32 (N, H, W), bilinear between cell centres.

    A cell of the grid covers the same share of the image everywhere; outside of the outermost
    centres a map goes on as it is there. The package grad-cam resizes in the same way.

    Args:
      maps_Nhw: float, on the grid of a layer.
      height: H in pixels.
      width: W in pixels.
    """
    shape = (maps_Nhw.shape[0], height, width)
    return jax.image.resize(maps_Nhw.astype(jnp.float32), shape, 'bilinear', antialias=False)
