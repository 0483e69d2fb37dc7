"""Grad-CAM: the channels of a layer, weighted by their mean gradients.

Source: Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based
localization", ICCV 2017 (https://arxiv.org/abs/1610.02391), equations 1 and 2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from imgjax.explain import cam

SIGNED = False


def explain(apply_fn: Callable, variables: Any, images_NHWC: jax.Array, targets_N: jax.Array, *,
            layer: str = '') -> jax.Array:
    """Returns the maps of `raw` at the size of the images, float32 (N, H, W).

    The arguments and the errors are those of `cam.explain`.
    """
    return cam.explain(raw, apply_fn, variables, images_NHWC, targets_N, layer)


@jax.jit
def raw(a_NhwC: jax.Array, gradient_NhwC: jax.Array) -> jax.Array:
    """Returns the map on the layer's grid, float32 (N, h, w), 0 or above.

    It is the sum over the channels of the activations, each channel times the mean of its gradient
    over the positions; values below 0 are set to 0. It is not scaled to any range.

    Args:
      a_NhwC: float32, activations of a layer.
      gradient_NhwC: float32, the gradients of the target's logit with respect to them.
    """
    weights_N11C = gradient_NhwC.mean(axis=(1, 2), keepdims=True)
    return jax.nn.relu(jnp.sum(weights_N11C * a_NhwC, axis=-1))
