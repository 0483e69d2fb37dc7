"""Grad-CAM++: the channels of a layer, weighted by their positive gradients, position by position.

Source: Chattopadhyay et al., "Grad-CAM++: improved visual explanations for deep convolutional
networks", WACV 2018 (https://arxiv.org/abs/1710.11063), equation 19.
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

    It is the sum over the channels of the activations, each channel times the sum over its
    positions of alpha * ReLU(gradient); values below 0 are set to 0. By equation 19, divided by
    the square of the gradient g, alpha is 1 / (2 + g * the sum of the channel's activations). The
    package grad-cam keeps the square and adds 1e-6 to the denominator, so that its weights fade
    where the gradient is 0.001 or less; these do not.

    The paper derives it for layers after a ReLU. Where activations are below 0 a denominator can
    come near 0 and alpha can become large or negative; at exactly 0 alpha is 0.

    Args:
      a_NhwC: float32, activations of a layer.
      gradient_NhwC: float32, the gradients of the target's logit with respect to them.
    """
    sums_N11C = a_NhwC.sum(axis=(1, 2), keepdims=True)
    denominator_NhwC = 2 + gradient_NhwC * sums_N11C
    alpha_NhwC = jnp.where(denominator_NhwC == 0, 0, 1 / denominator_NhwC)
    weights_N11C = jnp.sum(alpha_NhwC * jax.nn.relu(gradient_NhwC), axis=(1, 2), keepdims=True)
    return jax.nn.relu(jnp.sum(weights_N11C * a_NhwC, axis=-1))
