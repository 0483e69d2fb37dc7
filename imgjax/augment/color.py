"""Operations on the colour of pixels: jitter, grayscale, normalization.

The plain functions take one number per example, and the policies use them too. Nothing is rounded,
while Pillow and torchvision truncate to whole numbers after each step.
"""

from typing import Annotated

import jax
import jax.numpy as jnp

from imgjax.augment.keys import between, pick, uniforms
from imgjax.augment.ranges import Change, Probability, Range


def color_jitter(key, images_NHWC,
                 strength: Annotated[float, Range(0, 10, 'a factor of all four ranges')], *,
                 brightness: Change = 0.4, contrast: Change = 0.4,
                 saturation: Change = 0.4, hue: Annotated[float, Range(0, 0.5)] = 0.1) -> jax.Array:
    """Changes brightness, contrast, saturation and hue of each image, in a random order.

    Howard, `Some Improvements on Deep Convolutional Neural Network Based Image Classification
    <https://arxiv.org/abs/1312.5402>`_, 2013, with the ranges of torchvision's ``ColorJitter``.

    Args:
      key: PRNG key.
      images_NHWC: float32, 1 or 3 channels.
      strength: scalar in [0, 10]; all four ranges are proportional to it.
      brightness: the factor is uniform in 1 plus and minus ``strength`` times this, at least 0.
      contrast: likewise.
      saturation: likewise.
      hue: the turn is uniform in plus and minus ``strength`` times this, in whole turns, at most
        half a turn.

    Returns:
      float32 images_NHWC.
    """
    size = images_NHWC.shape[0]
    unit_N8 = uniforms(key, size, 8)
    order_N4 = jnp.argsort(unit_N8[:, 4:], axis=1)
    factor_3N = [
        between(unit_N8[:, i], jnp.maximum(0.0, 1.0 - strength * width), 1.0 + strength * width)
        for i, width in enumerate((brightness, contrast, saturation))]
    reach = jnp.minimum(strength * hue, 0.5)
    turn_N = between(unit_N8[:, 3], -reach, reach)
    for place in range(4):
        now_N = order_N4[:, place]
        # The three factors pull towards black, the mean and the gray image: one pass for all.
        target_NHW1 = pick(now_N == 2, luma(images_NHWC), jnp.zeros_like(images_NHWC[..., :1]))
        target_NHW1 = pick(now_N == 1, mean_luma(images_NHWC), target_NHW1)
        factor_N = jnp.select([now_N == i for i in range(3)], factor_3N, 1.0)
        images_NHWC = blend(images_NHWC, target_NHW1, factor_N)
        if hue:
            images_NHWC = turn_hue(images_NHWC, jnp.where(now_N == 3, turn_N, 0.0))
    return images_NHWC


def grayscale(key, images_NHWC, strength: Probability) -> jax.Array:
    """Makes each image gray with a probability.

    >>> import jax
    >>> from imgjax.augment import color
    >>> red_NHWC = jax.numpy.array([255.0, 0.0, 0.0]).reshape(1, 1, 1, 3)
    >>> color.grayscale(jax.random.key(0), red_NHWC, 1.0).round().ravel()
    Array([76., 76., 76.], dtype=float32)

    Args:
      key: PRNG key.
      images_NHWC: float32, 1 or 3 channels.
      strength: the probability, scalar in [0, 1].

    Returns:
      float32 images_NHWC of as many channels.
    """
    chosen_N = uniforms(key, images_NHWC.shape[0], 1)[:, 0] < strength
    return pick(chosen_N, luma(images_NHWC), images_NHWC)


def blend(images_NHWC, target_NHW1, factor_N) -> jax.Array:
    """Returns ``factor * images + (1 - factor) * target``, cut off at 0 and 255."""
    factor_N111 = factor_N[:, None, None, None]
    return jnp.clip(images_NHWC * factor_N111 + target_NHW1 * (1.0 - factor_N111), 0.0, 255.0)


def brighten(images_NHWC, factor_N) -> jax.Array:
    """Factor 0 is black, 1 the image (Pillow's ``ImageEnhance.Brightness``)."""
    return jnp.clip(images_NHWC * factor_N[:, None, None, None], 0.0, 255.0)


def change_contrast(images_NHWC, factor_N, mean_N111) -> jax.Array:
    """Factor 0 is the gray of ``mean_luma``, 1 the image (``ImageEnhance.Contrast``)."""
    return blend(images_NHWC, mean_N111, factor_N)


def saturate(images_NHWC, factor_N) -> jax.Array:
    """Factor 0 is the gray image, 1 the image (Pillow's ``ImageEnhance.Color``)."""
    return blend(images_NHWC, luma(images_NHWC), factor_N)


def luma(images_NHWC) -> jax.Array:
    """Returns the gray image images_NHW1 by the weights of ITU-R 601, as Pillow's mode L.

    Raises:
      ValueError: neither 1 nor 3 channels.
    """
    channels = images_NHWC.shape[-1]
    if channels == 1:
        return images_NHWC
    if channels != 3:
        raise ValueError(f'colours have 1 or 3 channels, the images have {channels}')
    red, green, blue = (images_NHWC[..., i:i + 1] for i in range(3))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def mean_luma(images_NHWC) -> jax.Array:
    """Returns mean_N111 of the gray image, its pixels rounded as Pillow does.

    Whole numbers add up to the same sum in any order, so that no layout changes a bit.
    """
    gray_NHW1 = jnp.round(luma(images_NHWC)).astype(jnp.int32)
    _, height, width, _ = images_NHWC.shape
    total_N111 = jnp.sum(gray_NHW1, axis=(1, 2, 3), keepdims=True)
    return total_N111.astype(jnp.float32) / (height * width)


def turn_hue(images_NHWC, turn_N) -> jax.Array:
    """Turns the hue in the HSV model, and leaves value and saturation unchanged.

    It computes in float, as torchvision does on tensors; Pillow rounds HSV to bytes and is coarser.
    The conversion back to RGB is the closed form of `HSL and HSV <https://en.wikipedia.org/wiki/HSL_and_HSV>`_:
    a channel is ``V - C * clip(min(k, 4 - k), 0, 1)`` with ``k = (n + 6 * hue) mod 6``.

    Args:
      images_NHWC: float32; images without 3 channels are returned unchanged.
      turn_N: float32 in whole turns; 0 returns the image bit for bit.
    """
    if images_NHWC.shape[-1] != 3:
        return images_NHWC
    red, green, blue = (images_NHWC[..., i] for i in range(3))
    value_NHW = jnp.max(images_NHWC, axis=-1)
    chroma_NHW = value_NHW - jnp.min(images_NHWC, axis=-1)
    some_NHW = jnp.where(chroma_NHW > 0.0, chroma_NHW, 1.0)
    # The largest is not found by equality, as a compiler may compute a value twice with different
    # bits. Where two channels are equal, both formulas give the same hue.
    sextant_NHW = jnp.where(
        (red >= green) & (red >= blue), (green - blue) / some_NHW,
        jnp.where(green >= blue, 2.0 + (blue - red) / some_NHW, 4.0 + (red - green) / some_NHW))
    k_NHWC = jnp.mod(
        jnp.asarray([5.0, 3.0, 1.0])[None, None, None] + sextant_NHW[..., None]
        + 6.0 * turn_N[:, None, None, None], 6.0)
    share_NHWC = jnp.clip(jnp.minimum(k_NHWC, 4.0 - k_NHWC), 0.0, 1.0)
    turned_NHWC = value_NHW[..., None] - chroma_NHW[..., None] * share_NHWC
    return pick(turn_N != 0.0, turned_NHWC, images_NHWC)


def normalize(images_NHWC, mean, std) -> jax.Array:
    """Returns ``(images / 255 - mean) / std`` as float32.

    It is no operation of ``apply``: training and evaluation both end with it.

    >>> normalize(jnp.full((1, 1, 1, 1), 255, jnp.uint8), (0.5,), (0.25,)).ravel()
    Array([2.], dtype=float32)

    Args:
      images_NHWC: uint8 or float32 in [0, 255].
      mean: one number per channel, on the scale 0 to 1.
      std: one number per channel, on the scale 0 to 1.

    Raises:
      ValueError: the length of mean or std is not the number of channels.
    """
    channels = images_NHWC.shape[-1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f'normalize takes one mean and one std per channel: the images have {channels} '
            f'channels, got {len(mean)} and {len(std)}')
    mean_111C, std_111C = (jnp.asarray(x, jnp.float32)[None, None, None] for x in (mean, std))
    return (images_NHWC.astype(jnp.float32) / 255.0 - mean_111C) / std_111C
