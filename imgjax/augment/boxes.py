"""Operations with a random box in each image: random resized crop, cutout, random erasing."""

import functools
import math
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from imgjax.augment.keys import between, example_keys, pick, uniforms
from imgjax.augment.ranges import TINY, Byte, Probability, Range, Share, WholePixels

_TRIES = 10

_Ratio = Annotated[float, Range(1, 100, 'the longer side to the shorter')]


def random_resized_crop(key, images_NHWC, strength: Share, *,
                        min_area: Annotated[float, Range(TINY, 1)] = 0.08,
                        max_ratio: _Ratio = 4 / 3,
                        method: Literal['bilinear', 'bicubic'] = 'bilinear') -> jax.Array:
    """Cuts a box of random area and aspect and enlarges it to the old size.

    Szegedy et al., `Going Deeper with Convolutions <https://arxiv.org/abs/1409.4842>`_, 2014,
    section 6, for datasets that are on the device in their final size. Area and aspect are relative
    to those of the image (torchvision's are too, where the image is square).

    Args:
      key: PRNG key.
      images_NHWC: float32.
      strength: scalar in [0, 1]. The share of the area is uniform in
        ``[1 - strength * (1 - min_area), 1]``; the logarithm of the aspect is uniform in plus and
        minus ``strength * log(max_ratio)``. A box that does not fit is drawn again, ten times at
        most, and after that the whole image is taken.
      min_area: least share of the area at full strength, in (0, 1].
      max_ratio: largest aspect at full strength, at least 1.
      method: ``bilinear`` or ``bicubic``.

    Returns:
      float32 images_NHWC.
    """
    box_N4, fits_N = random_boxes(
        key, images_NHWC.shape, 1.0 - strength * (1.0 - min_area), 1.0,
        strength * math.log(max_ratio))
    whole_4 = jnp.asarray([0.0, 0.0, *images_NHWC.shape[1:3]], jnp.float32)
    return enlarge(images_NHWC, jnp.where(fits_N[:, None], box_N4, whole_4[None]), method=method)


def cutout(key, images_NHWC, strength: Share, *, size: WholePixels = 16,
           fill: Byte = 0.0) -> jax.Array:
    """Paints a square in each image, centred anywhere and cut off at the border.

    DeVries and Taylor, `Improved Regularization of Convolutional Neural Networks with Cutout
    <https://arxiv.org/abs/1708.04552>`_, 2017.

    >>> import jax
    >>> from imgjax.augment import boxes
    >>> white_NHWC = jax.numpy.full((8, 16, 16, 1), 255.0)
    >>> painted_NHWC = boxes.cutout(jax.random.key(0), white_NHWC, 1.0, size=4)
    >>> int((painted_NHWC == 0).sum(axis=(1, 2, 3)).max())  # a whole square; others are cut off
    16

    Args:
      key: PRNG key.
      images_NHWC: float32.
      strength: scalar in [0, 1]; the side is ``strength * size`` pixels, rounded.
      size: side at full strength, in pixels.
      fill: the value painted, in [0, 255].

    Returns:
      float32 images_NHWC.
    """
    number, height, width, _ = images_NHWC.shape
    unit_N2 = uniforms(key, number, 2)
    side_N = jnp.broadcast_to(jnp.round(jnp.asarray(strength, jnp.float32) * size), (number,))
    centre_N2 = jnp.floor(unit_N2 * jnp.asarray([height, width], jnp.float32)[None])
    corner_N2 = centre_N2 - jnp.floor(side_N / 2)[:, None]
    box_N4 = jnp.concatenate([corner_N2, side_N[:, None], side_N[:, None]], axis=1)
    return jnp.where(inside(box_N4, height, width)[..., None], fill, images_NHWC)


def random_erasing(key, images_NHWC, strength: Probability, *,
                   min_area: Annotated[float, Range(TINY, 'max_area')] = 0.02,
                   max_area: Annotated[float, Range(TINY, 1)] = 1 / 3, max_ratio: _Ratio = 1 / 0.3,
                   mode: Literal['constant', 'pixel'] = 'constant', fill: Byte = 0.0) -> jax.Array:
    """Paints a box of random area and aspect in each image, with a probability.

    Zhong et al., `Random Erasing Data Augmentation <https://arxiv.org/abs/1708.04896>`_, 2017; the
    ranges are those of timm.

    Args:
      key: PRNG key.
      images_NHWC: float32.
      strength: the probability, scalar in [0, 1].
      min_area: least share of the area, in (0, 1].
      max_area: largest share of the area, up to 1.
      max_ratio: the logarithm of the aspect, relative to that of the image, is uniform in plus and
        minus the logarithm of this. A box that is not smaller than the image in both
        directions is drawn again, ten times at most, and after that the image stays.
      mode: ``constant`` paints ``fill``; ``pixel`` paints noise, uniform in [0, 255] for each
        pixel and channel (the paper's RE-R).
      fill: the value painted, in [0, 255].

    Returns:
      float32 images_NHWC.
    """
    size, height, width, channels = images_NHWC.shape
    box_key, coin_key, noise_key = jax.random.split(key, 3)
    box_N4, fits_N = random_boxes(
        box_key, images_NHWC.shape, min_area, max_area, math.log(max_ratio), proper=True)
    paint: jax.Array | float = fill
    if mode == 'pixel':
        paint = jax.vmap(lambda key: jax.random.uniform(
            key, (height, width, channels), maxval=255.0))(example_keys(noise_key, size))
    erased = jnp.where(inside(box_N4, height, width)[..., None], paint, images_NHWC)
    chosen_N = uniforms(coin_key, size, 1)[:, 0] < strength
    return pick(chosen_N & fits_N, erased, images_NHWC)


def random_boxes(key, shape, min_area, max_area, log_ratio, *,
                 proper: bool = False) -> tuple[jax.Array, jax.Array]:
    """Draws boxes of whole pixels until one fits, ten times at most.

    Args:
      key: PRNG key.
      shape: of images_NHWC.
      min_area: least share of the area, scalar, traced or not.
      max_area: likewise the largest share.
      log_ratio: the logarithm of the aspect (width to height, relative to that of the image) is
        uniform in plus and minus this, traced or not.
      proper: whether a box has to be lower and narrower than the image.

    Returns:
      float32 box_N4 (top, left, height, width in pixels), and bool fits_N.
    """
    size, height, width, _ = shape
    unit_ND = uniforms(key, size, 2 * _TRIES + 2)
    area_NT = between(unit_ND[:, :_TRIES], min_area, max_area)
    ratio_NT = jnp.exp(between(unit_ND[:, _TRIES:2 * _TRIES], -log_ratio, log_ratio))
    high_NT = jnp.maximum(jnp.round(height * jnp.sqrt(area_NT / ratio_NT)), 1.0)
    wide_NT = jnp.maximum(jnp.round(width * jnp.sqrt(area_NT * ratio_NT)), 1.0)
    if proper:
        fits_NT = (high_NT < height) & (wide_NT < width)
    else:
        fits_NT = (high_NT <= height) & (wide_NT <= width)
    first_N1 = jnp.argmax(fits_NT, axis=1)[:, None]
    side_N2 = jnp.concatenate(
        [jnp.take_along_axis(x_NT, first_N1, axis=1) for x_NT in (high_NT, wide_NT)], axis=1)
    room_N2 = jnp.asarray([height, width], jnp.float32)[None] - side_N2
    corner_N2 = jnp.floor(unit_ND[:, 2 * _TRIES:] * (room_N2 + 1.0))
    return jnp.concatenate([corner_N2, side_N2], axis=1), jnp.any(fits_NT, axis=1)


def inside(box_N4, height, width) -> jax.Array:
    """Returns bool mask_NHW: the pixels of each box (top, left, height, width)."""
    def interval(length, start_N, size_N):
        place_1L = jnp.arange(length, dtype=jnp.float32)[None]
        return (place_1L >= start_N[:, None]) & (place_1L < (start_N + size_N)[:, None])
    top_N, left_N, high_N, wide_N = box_N4.T
    return (interval(height, top_N, high_N)[:, :, None]
            & interval(width, left_N, wide_N)[:, None, :])


def enlarge(images_NHWC, box_N4, *, method: str) -> jax.Array:
    """Resizes a box of each image to the size of the image, as Pillow's ``resize(box=...)``.

    Next to the edge of the box its neighbours outside count, as in Pillow. A box is never larger
    than the image, so that nothing is averaged: there are 2 or 4 neighbours per direction,
    fetched and added up in a fixed order. (A product with a matrix of weights adds up in an order
    that depends on how many examples a device has, and so changes bits with the sharding.)

    Args:
      images_NHWC: float32.
      box_N4: float32 top, left, height and width in pixels, at most those of the image.
      method: ``bilinear`` or ``bicubic``.
    """
    for axis in (1, 2):
        images_NHWC = _stretch(
            images_NHWC, box_N4[:, axis - 1], box_N4[:, axis + 1], axis, *_METHODS[method])
    return jnp.clip(images_NHWC, 0.0, 255.0)


def _stretch(images_NHWC, start_N, size_N, axis, kernel, taps):
    length = images_NHWC.shape[axis]
    step_N1 = (size_N / length)[:, None]
    middle_1L = (jnp.arange(length, dtype=jnp.float32) + 0.5)[None]
    place_NL = start_N[:, None] + middle_1L * step_N1 - 0.5
    fetch = jax.vmap(functools.partial(jnp.take, axis=axis - 1, mode='clip'))
    total = weights = 0.0
    for tap in range(taps):
        source_NL = jnp.floor(place_NL) + (tap + 1 - taps // 2)
        there_NL = (source_NL >= 0.0) & (source_NL < length)
        weight_NL = jnp.where(there_NL, kernel(jnp.abs(place_NL - source_NL)), 0.0)
        weight = jnp.expand_dims(weight_NL, (2, 3) if axis == 1 else (1, 3))
        total = total + weight * fetch(images_NHWC, source_NL.astype(jnp.int32))
        weights = weights + weight
    return total / weights


def _triangle(distance):
    return jnp.maximum(1.0 - distance, 0.0)


def _keys(distance):
    """The cubic kernel of Keys (1981) with a = -1/2, as Pillow's."""
    near = (1.5 * distance - 2.5) * distance**2 + 1.0
    far = ((2.5 - 0.5 * distance) * distance - 4.0) * distance + 2.0
    return jnp.where(distance < 1.0, near, jnp.where(distance < 2.0, far, 0.0))


_METHODS = {'bilinear': (_triangle, 2), 'bicubic': (_keys, 4)}  # the kernel, how many it reaches
