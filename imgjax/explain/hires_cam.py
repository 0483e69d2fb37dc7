"""HiResCAM: the activations of a layer times their gradients.

Source: Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of
convolutional neural networks", 2020 (https://arxiv.org/abs/2011.08891).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from imgjax.errors import DataError
from imgjax.explain import cam, layers

SIGNED = True
CANCELLED = 1e-3  # of the sum of the absolute terms, a sum that rounding explains


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
      DataError: images or targets do not fit, the layer has no positions, its gradient is zero for
        all images or not finite, or gradient and activations cancel at every position. They do
        where only a layer norm follows, as after the last stage of Swin and in the last block of a
        ViT with a class token: the logit does not depend on the length of its input.
    """
    a_NhwC, gradient_NhwC = layers.on_layer(apply_fn, variables, images_NHWC, targets_N, layer)
    maps_Nhw = raw(a_NhwC, gradient_NhwC)
    terms_Nhw = jnp.sum(jnp.abs(gradient_NhwC * a_NhwC), axis=-1)
    if float(jnp.abs(maps_Nhw).max()) < CANCELLED * float(terms_Nhw.max()):
        name, _ = layers.last_spatial(apply_fn, variables, images_NHWC, layer)
        raise DataError(
            f'hires_cam: gradient and activations of {name!r} cancel at every position, as before '
            'a layer norm; take grad_cam or layer_cam, or give an earlier layer')
    return cam.upsample(maps_Nhw, *images_NHWC.shape[1:3])


@jax.jit
def raw(a_NhwC: jax.Array, gradient_NhwC: jax.Array) -> jax.Array:
    """Returns the map on the layer's grid, float32 (N, h, w); below 0 speaks against the target.

    It is the sum over the channels of gradient * activation. Where only a linear function follows
    the layer, as a mean over the positions and a dense layer, its sum over the positions is the
    logit without the bias. For this it keeps its sign; the package grad-cam cuts it at 0.

    Args:
      a_NhwC: float32, activations of a layer.
      gradient_NhwC: float32, the gradients of the target's logit with respect to them.
    """
    return jnp.sum(gradient_NhwC * a_NhwC, axis=-1)
