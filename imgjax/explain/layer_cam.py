"""LayerCAM: the activations of a layer times their positive gradients.

Source: Jiang et al., "LayerCAM: exploring hierarchical class activation maps for localization",
IEEE Transactions on Image Processing 30, 2021 (https://doi.org/10.1109/TIP.2021.3089943).
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

    It is the sum over the channels of ReLU(gradient) * activation; values below 0 are set to 0. It
    is not scaled to any range. Other than Grad-CAM's it is also meant for early layers.

    Args:
      a_NhwC: float32, activations of a layer.
      gradient_NhwC: float32, the gradients of the target's logit with respect to them.
    """
    return jax.nn.relu(jnp.sum(jax.nn.relu(gradient_NhwC) * a_NhwC, axis=-1))
