"""LayerCAM: the activations of a layer times their positive gradients.

Source: Jiang et al., "LayerCAM: exploring hierarchical class activation maps for localization",
IEEE Transactions on Image Processing 30, 2021 (https://doi.org/10.1109/TIP.2021.3089943).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from imgjax.explain import cam, layers

SIGNED = False


def explain(apply_fn: Callable, variables: Any, images_NHWC: jax.Array, targets_N: jax.Array, *,
            layer: str = '') -> jax.Array:
    """Returns the maps of `raw` at the size of the images, float32 (N, H, W), see `cam.upsample`.

    Args:
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
    return cam.upsample(raw(a_NhwC, gradient_NhwC), *images_NHWC.shape[1:3])


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
