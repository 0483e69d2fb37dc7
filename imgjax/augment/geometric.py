"""Operations that move pixels: flip, crop, shift, rotation and shear."""

import math
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jax.scipy import ndimage

from imgjax.augment.keys import between, example_keys, uniforms
from imgjax.augment.ranges import (
    Byte,
    Degrees,
    Interpolation,
    Pixels,
    Probability,
    Range,
    Share,
    WholePixels,
)


def random_flip(key, images_NHWC, strength: Probability) -> jax.Array:
    """Mirrors each image left to right with a probability.

    >>> import jax
    >>> from imgjax.augment import geometric
    >>> row_NHWC = jax.numpy.array([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1)
    >>> geometric.random_flip(jax.random.key(0), row_NHWC, 1.0).ravel()
    Array([3., 2., 1.], dtype=float32)

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


def pad_crop(key, images_NHWC, strength: Share, *, padding: WholePixels = 4,
             mode: Literal['constant', 'reflect', 'edge'] = 'constant') -> jax.Array:
    """Pads each image and cuts a window of the old size at a random place.

    The augmentation of CIFAR (He et al., `Deep Residual Learning for Image Recognition
    <https://arxiv.org/abs/1512.03385>`_, 2015, section 4.2).

    >>> import jax
    >>> from imgjax.augment import geometric
    >>> images_NHWC = jax.numpy.ones((4, 32, 32, 3))
    >>> geometric.pad_crop(jax.random.key(0), images_NHWC, 1.0, padding=4).shape
    (4, 32, 32, 3)

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
    """
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


def shift_rotate(key, images_NHWC, strength: Share, *, max_pixels: Pixels = 1.0,
                 max_degrees: Degrees = 15.0,
                 max_scale: Annotated[float, Range(0, 10)] = 0.0) -> jax.Array:
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


def warp(images_NHWC, shift_N2, radians_N, scale_N) -> jax.Array:
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


def _warp(image_HWC, shift_2, radians, scale) -> jax.Array:
    height, width, _ = image_HWC.shape
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y_H1 = (jnp.arange(height, dtype=jnp.float32) - middle_y - shift_2[0])[:, None]
    x_1W = (jnp.arange(width, dtype=jnp.float32) - middle_x - shift_2[1])[None, :]
    # Every pixel of the result reads the place that it comes from, so this is the inverse map.
    cos, sin = jnp.cos(radians) / scale, jnp.sin(radians) / scale
    source_HW = [cos * y_H1 - sin * x_1W + middle_y, sin * y_H1 + cos * x_1W + middle_x]

    return _sample(image_HWC, source_HW, 'bilinear', 0.0)


def rotate(key, images_NHWC, strength: Share, *, max_degrees: Degrees = 30.0,
           interpolation: Interpolation = 'bilinear', fill: Byte = 0.0) -> jax.Array:
    """Turns each image at random about its centre.

    Args:
      key: PRNG key.
      images_NHWC: float32.
      strength: scalar in [0, 1]; the angle is uniform in plus and minus ``strength * max_degrees``.
      max_degrees: largest angle at full strength.
      interpolation: ``bilinear`` or ``nearest``.
      fill: value of the pixels that come from outside, in [0, 255].

    Returns:
      float32 images_NHWC.
    """
    size, height, width, _ = images_NHWC.shape
    reach = strength * math.radians(max_degrees)
    radians_N = between(uniforms(key, size, 1)[:, 0], -reach, reach)
    matrix_N23 = affine_matrix(height, width, radians=radians_N)
    return affine(images_NHWC, matrix_N23, interpolation=interpolation, fill=fill)


def shear(key, images_NHWC, strength: Share, *,
          max_shear: Annotated[float, Range(0, 1, 'a slope, not degrees')] = 0.3,
          interpolation: Interpolation = 'bilinear', fill: Byte = 0.0) -> jax.Array:
    """Shears each image at random along both axes, from its top left corner.

    Args:
      key: PRNG key.
      images_NHWC: float32.
      strength: scalar in [0, 1]; both factors are uniform in plus and minus
        ``strength * max_shear``.
      max_shear: how many pixels a row moves against the next row, and a column against the next
        column, at full strength.
      interpolation: ``bilinear`` or ``nearest``.
      fill: value of the pixels that come from outside, in [0, 255].

    Returns:
      float32 images_NHWC.
    """
    size, height, width, _ = images_NHWC.shape
    reach = strength * max_shear
    shear_N2 = between(uniforms(key, size, 2), -reach, reach)
    matrix_N23 = affine_matrix(height, width, shear_x=shear_N2[:, 0], shear_y=shear_N2[:, 1])
    return affine(images_NHWC, matrix_N23, interpolation=interpolation, fill=fill)


def translate(key, images_NHWC, strength: Share, *,
              max_fraction: Annotated[float, Range(0, 1)] = 0.45,
              interpolation: Interpolation = 'bilinear', fill: Byte = 0.0) -> jax.Array:
    """Shifts each image at random, by a real number of pixels in both directions.

    Args:
      key: PRNG key.
      images_NHWC: float32.
      strength: scalar in [0, 1]; the shift is uniform in plus and minus
        ``strength * max_fraction`` of the width and the height.
      max_fraction: largest shift at full strength, as a share of the side.
      interpolation: ``bilinear`` or ``nearest``.
      fill: value of the pixels that come from outside, in [0, 255].

    Returns:
      float32 images_NHWC.
    """
    size, height, width, _ = images_NHWC.shape
    reach = strength * max_fraction
    shift_N2 = between(uniforms(key, size, 2), -reach, reach)
    matrix_N23 = affine_matrix(
        height, width, right=shift_N2[:, 0] * width, down=shift_N2[:, 1] * height)
    return affine(images_NHWC, matrix_N23, interpolation=interpolation, fill=fill)


def affine_matrix(height, width, *, radians=0.0, shear_x=0.0, shear_y=0.0, right=0.0,
                  down=0.0) -> jax.Array:
    """Returns the matrices of ``affine`` for a shear, then a turn about the centre, then a shift.

    Args:
      height: of the images, in pixels.
      width: of the images, in pixels.
      radians: float32 radians_N, counted clockwise as the picture is seen.
      shear_x: float32 shear_N; a pixel takes the value of the pixel this many columns per row to
        its right, counted from the top left corner (the shear of AutoAugment).
      shear_y: float32 shear_N; likewise of the pixel this many rows per column below it.
      right: float32 shift_N in pixels.
      down: float32 shift_N in pixels.

    At least one argument is an array of one number per example; the others may be plain numbers.

    Returns:
      float32 matrix_N23, from places (x, y, 1) of the result to places (x, y) of the source, in
      pixels, the middle of the first one at 0.5: what Pillow's ``Image.transform`` takes.
    """
    radians_N, shear_x_N, shear_y_N, right_N, down_N = jnp.broadcast_arrays(
        *(jnp.atleast_1d(jnp.asarray(x, jnp.float32))
          for x in (radians, shear_x, shear_y, right, down)))
    middle_x, middle_y = width / 2, height / 2
    cos_N, sin_N = jnp.cos(radians_N), jnp.sin(radians_N)
    offset_x_N, offset_y_N = middle_x + right_N, middle_y + down_N
    x_N3 = jnp.stack(
        [cos_N, sin_N, middle_x - cos_N * offset_x_N - sin_N * offset_y_N], axis=1)
    y_N3 = jnp.stack(
        [-sin_N, cos_N, middle_y + sin_N * offset_x_N - cos_N * offset_y_N], axis=1)
    return jnp.stack(
        [x_N3 + shear_x_N[:, None] * y_N3, y_N3 + shear_y_N[:, None] * x_N3], axis=1)


def affine(images_NHWC, matrix_N23, *, interpolation: str, fill: float) -> jax.Array:
    """Fetches every pixel of the result from where its matrix says.

    What lies outside has the value ``fill``; bilinear sampling runs into it over one pixel, as
    torchvision's does on tensors (with fill 0), while Pillow's repeats the last row and column for
    half a pixel.

    Args:
      images_NHWC: float32.
      matrix_N23: float32; see ``affine_matrix``.
      interpolation: ``bilinear`` or ``nearest``.
      fill: in [0, 255].

    Returns:
      float32 images_NHWC.

    Raises:
      ValueError: another interpolation.
    """
    if interpolation not in _ORDERS:
        raise ValueError(
            f"interpolation is 'nearest' or 'bilinear', not {interpolation!r}")

    def one(image_HWC, matrix_23):
        height, width, _ = image_HWC.shape
        y_H1 = (jnp.arange(height, dtype=jnp.float32) + 0.5)[:, None]
        x_1W = (jnp.arange(width, dtype=jnp.float32) + 0.5)[None, :]
        x_HW, y_HW = (row[0] * x_1W + row[1] * y_H1 + row[2] - 0.5 for row in matrix_23)
        return _sample(image_HWC, [y_HW, x_HW], interpolation, fill)
    # Without the barrier XLA CPU computes a matrix, with its sines, again for each pixel, and
    # RandAugment takes 1.6 times as long.
    return jax.vmap(one)(images_NHWC, jax.lax.optimization_barrier(matrix_N23))


_ORDERS = {'nearest': 0, 'bilinear': 1}


def _sample(image_HWC, source_HW, interpolation, fill) -> jax.Array:
    # XLA CPU, two cores, 256x32x32x3 bilinear: 3.7 ms, against 3.5 to 5.2 ms for gathers written by
    # hand and 280 ms for interpolation by matrix products. 128x224x224x3 nearest: 274 ms, against
    # 246 to 371 ms for gathers written by hand.
    def sample(channel_HW):
        return ndimage.map_coordinates(
            channel_HW, source_HW, order=_ORDERS[interpolation], mode='constant', cval=fill)
    return jax.vmap(sample, in_axes=2, out_axes=2)(image_HWC)
