"""Operations that move pixels: flip, crop, shift and rotation."""

import math

import jax
import jax.numpy as jnp
from jax.scipy import ndimage

from imgjax.augment import example_keys


def random_flip(key, images_NHWC, strength):
    """Mirrors each image left to right with a probability.

    Args:
      key: PRNG key.
      images_NHWC: any dtype.
      strength: the probability, scalar in [0, 1].

    Returns:
      images_NHWC of the same dtype.
    """
    keys_N = example_keys(key, images_NHWC.shape[0])
    flip_N = jax.vmap(jax.random.bernoulli, in_axes=(0, None))(keys_N, strength)
    return jnp.where(flip_N[:, None, None, None], images_NHWC[:, :, ::-1], images_NHWC)


def pad_crop(key, images_NHWC, strength, *, padding: int = 4, mode: str = 'constant'):
    """Pads each image and cuts a window of the old size at a random place.

    The augmentation of CIFAR (He et al., `Deep Residual Learning for Image Recognition
    <https://arxiv.org/abs/1512.03385>`_, 2015, section 4.2).

    Args:
      key: PRNG key.
      images_NHWC: any dtype.
      strength: scalar in [0, 1]. The window moves by a whole number of pixels, uniform in [-m, m],
        in each direction, where m is ``strength * padding`` rounded.
      padding: width of the border in pixels.
      mode: ``constant`` (zeros), ``reflect`` or ``edge``, as in ``jnp.pad``; ``reflect`` needs a
        padding less than the height and the width.

    Returns:
      images_NHWC of the same dtype.

    Raises:
      ValueError: a negative padding, or another mode.
    """
    if padding < 0 or mode not in ('constant', 'reflect', 'edge'):
        raise ValueError(
            'pad_crop takes a padding of 0 or more and a mode of constant, reflect or edge, not '
            f'padding={padding} and mode={mode!r}')
    size, height, width, channels = images_NHWC.shape
    reach = jnp.round(jnp.asarray(strength, jnp.float32) * padding).astype(jnp.int32)

    def window(key, padded_HWC):
        shift = jax.random.randint(key, (2,), -reach, reach + 1)
        start = (padding + shift[0], padding + shift[1], jnp.int32(0))
        return jax.lax.dynamic_slice(padded_HWC, start, (height, width, channels))

    border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    # XLA CPU, two cores, 256x32x32x3: 0.5 ms, against 0.7 ms for a gather of rows and columns and
    # 5.3 ms for products with one-hot matrices.
    return jax.vmap(window)(example_keys(key, size), jnp.pad(images_NHWC, border, mode=mode))


def shift_rotate(key, images_NHWC, strength, *, max_pixels: float = 1.0,
                 max_degrees: float = 15.0, max_scale: float = 0.0):
    """Shifts, turns and scales each image at random about its centre; the rest is filled with 0.

    For digits and other drawings on an empty ground (Simard et al., `Best Practices for
    Convolutional Neural Networks Applied to Visual Document Analysis
    <https://doi.org/10.1109/ICDAR.2003.1227801>`_, 2003).

    Args:
      key: PRNG key.
      images_NHWC: float32.
      strength: scalar in [0, 1]; the reach of all three draws is proportional to it.
      max_pixels: vertical and horizontal shift are uniform in plus and minus this, in pixels.
      max_degrees: the angle is uniform in plus and minus this, in degrees.
      max_scale: the factor is log-uniform in [1 / (1 + max_scale), 1 + max_scale].

    Returns:
      float32 images_NHWC, sampled bilinearly.
    """
    def draw(key):
        unit = jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0) * strength
        radians = unit[2] * math.radians(max_degrees)
        return unit[:2] * max_pixels, radians, jnp.exp(unit[3] * math.log1p(max_scale))

    shift_N2, radians_N, scale_N = jax.vmap(draw)(example_keys(key, images_NHWC.shape[0]))
    return warp(images_NHWC, shift_N2, radians_N, scale_N)


def warp(images_NHWC, shift_N2, radians_N, scale_N):
    """Scales and turns each image about its centre, then shifts it; what comes from outside is 0.

    Args:
      images_NHWC: float32.
      shift_N2: float32, pixels down and to the right.
      radians_N: float32, counted clockwise as the picture is seen (row axis down).
      scale_N: float32, above 1 enlarges.

    Returns:
      float32 images_NHWC, sampled bilinearly; outside of the image every pixel is 0.
    """
    return jax.vmap(_warp)(images_NHWC, shift_N2, radians_N, scale_N)


def _warp(image_HWC, shift_2, radians, scale):
    height, width, _ = image_HWC.shape
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y_H1 = (jnp.arange(height, dtype=jnp.float32) - middle_y - shift_2[0])[:, None]
    x_1W = (jnp.arange(width, dtype=jnp.float32) - middle_x - shift_2[1])[None, :]
    # Every pixel of the result looks up where it came from, hence the inverse of the map.
    cos, sin = jnp.cos(radians) / scale, jnp.sin(radians) / scale
    source_HW = [cos * y_H1 - sin * x_1W + middle_y, sin * y_H1 + cos * x_1W + middle_x]

    # XLA CPU, two cores, 256x32x32x3: 3.7 ms, against 3.5 to 5.2 ms for gathers written by hand and
    # 280 ms for interpolation by matrix products.
    def sample(channel_HW):
        return ndimage.map_coordinates(channel_HW, source_HW, order=1, mode='constant', cval=0.0)
    return jax.vmap(sample, in_axes=2, out_axes=2)(image_HWC)
