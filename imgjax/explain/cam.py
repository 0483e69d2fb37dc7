"""What class activation maps share: the size of the image."""

import functools

import jax
import jax.numpy as jnp


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
