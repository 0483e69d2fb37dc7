"""Functions of a pixel's surroundings: sharpness and Gaussian blur."""

import math
from typing import Annotated

import jax
import jax.numpy as jnp

from imgjax.augment.color import blend
from imgjax.augment.keys import between, pick, uniforms
from imgjax.augment.ranges import TINY, Probability, Range, Share, Sigma


def sharpness(key, images_NHWC, strength: Share, *,
              max_change: Annotated[float, Range(0, 10)] = 0.9) -> jax.Array:
    """Blurs or sharpens each image a little, at random.

    Args:
      key: PRNG key.
      images_NHWC: float32.
      strength: scalar in [0, 1]; the factor of ``sharpen`` is uniform in 1 plus and minus
        ``strength * max_change``.
      max_change: at full strength.

    Returns:
      float32 images_NHWC.
    """
    reach = strength * max_change
    unit_N = uniforms(key, images_NHWC.shape[0], 1)[:, 0]
    return sharpen(images_NHWC, between(unit_N, 1.0 - reach, 1.0 + reach))


def gaussian_blur(key, images_NHWC, strength: Probability, *,
                  min_sigma: Annotated[float, Range(TINY, 'max_sigma')] = 0.1,
                  max_sigma: Sigma = 2.0) -> jax.Array:
    """Blurs each image with a probability, by a width of its own.

    Chen et al., `A Simple Framework for Contrastive Learning of Visual Representations
    <https://arxiv.org/abs/2002.05709>`_, 2020, appendix A.

    Args:
      key: PRNG key.
      images_NHWC: float32.
      strength: the probability, scalar in [0, 1].
      min_sigma: least standard deviation in pixels, above 0.
      max_sigma: largest standard deviation in pixels; the kernel reaches three of it.

    Returns:
      float32 images_NHWC.
    """
    unit_N2 = uniforms(key, images_NHWC.shape[0], 2)
    sigma_N = between(unit_N2[:, 1], min_sigma, max_sigma)
    blurred_NHWC = blur(images_NHWC, sigma_N, radius=math.ceil(3 * max_sigma))
    return pick(unit_N2[:, 0] < strength, blurred_NHWC, images_NHWC)


def blur(images_NHWC, sigma_N, *, radius: int) -> jax.Array:
    """Convolves each image with a Gaussian of its own, mirrored at the border.

    Args:
      images_NHWC: float32.
      sigma_N: float32, in pixels, above 0.
      radius: the kernel has ``2 * radius + 1`` weights a side, which sum to 1.
    """
    offset_1K = jnp.arange(-radius, radius + 1, dtype=jnp.float32)[None]
    weight_NK = jnp.exp(-0.5 * (offset_1K / sigma_N[:, None]) ** 2)
    weight_NK = weight_NK / jnp.sum(weight_NK, axis=1, keepdims=True)
    for axis in (1, 2):
        border = [(radius, radius) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(images_NHWC, border, mode='reflect')
        images_NHWC = _weighted_sum(padded, weight_NK, axis, images_NHWC.shape[axis])
    return images_NHWC


def sharpen(images_NHWC, factor_N) -> jax.Array:
    """Factor 0 is the image of ``smooth``, 1 the image (Pillow's ``ImageEnhance.Sharpness``)."""
    return blend(images_NHWC, smooth(images_NHWC), factor_N)


def smooth(images_NHWC) -> jax.Array:
    """Averages 3x3 pixels, the middle one five times; the border stays (Pillow's ``SMOOTH``)."""
    _, height, width, _ = images_NHWC.shape
    padded = jnp.pad(images_NHWC, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    all_NHWC = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inside_HW = ((jnp.arange(height) % max(height - 1, 1) > 0)[:, None]
                 & (jnp.arange(width) % max(width - 1, 1) > 0)[None])
    return jnp.where(inside_HW[None, :, :, None], (all_NHWC + 4.0 * images_NHWC) / 13, images_NHWC)


def _weighted_sum(padded, weight_NK, axis, length):
    total = 0.0
    for k in range(weight_NK.shape[1]):
        window = padded[:, k:k + length] if axis == 1 else padded[:, :, k:k + length]
        total = total + weight_NK[:, k, None, None, None] * window
    return total
