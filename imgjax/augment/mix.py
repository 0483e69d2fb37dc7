"""Operations that mix pairs of examples, and their targets with them.

A batch has one mixing ratio. The partner of an example is the one before it in the batch (a roll by
one, as in big_vision, for which a device needs one row of its neighbour). Targets are rows of any
meaning, of one class or of several labels, and are mixed linearly.
"""

from typing import Annotated

import jax
import jax.numpy as jnp

from imgjax.augment.boxes import inside
from imgjax.augment.ranges import Alpha, Probability, Range, Share


def mixup(key, images_NHWC, targets_NK, strength: Alpha) -> tuple[jax.Array, jax.Array]:
    """Averages each example with its partner.

    Zhang et al., `mixup: Beyond Empirical Risk Minimization <https://arxiv.org/abs/1710.09412>`_,
    2017.

    >>> import jax
    >>> from imgjax.augment import mix
    >>> images_NHWC, targets_NK = mix.mixup(
    ...     jax.random.key(0), jax.numpy.zeros((2, 4, 4, 3)), jax.numpy.eye(2), 0.2)
    >>> targets_NK.round(1)
    Array([[0.7, 0.3],
           [0.3, 0.7]], dtype=float32)

    Args:
      key: PRNG key.
      images_NHWC: float32.
      targets_NK: float32.
      strength: alpha >= 0; the share of the example itself is drawn from Beta(alpha, alpha), and
        is 1 where alpha is 0.

    Returns:
      float32 images_NHWC and targets_NK.
    """
    share = beta(key, strength)
    return _blend(share, images_NHWC), _blend(share, targets_NK)


def cutmix(key, images_NHWC, targets_NK, strength: Alpha) -> tuple[jax.Array, jax.Array]:
    """Pastes one box of its partner into each example.

    Yun et al., `CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features <https://arxiv.org/abs/1905.04899>`_, 2019. The box is cut off at the border of the
    image, and the targets are mixed by the share of pixels that were really replaced.

    >>> import jax
    >>> from imgjax.augment import mix
    >>> images_NHWC, targets_NK = mix.cutmix(
    ...     jax.random.key(0), jax.numpy.zeros((2, 4, 4, 3)), jax.numpy.eye(2), 1.0)
    >>> targets_NK  # a quarter of the pixels are those of the partner
    Array([[0.75, 0.25],
           [0.25, 0.75]], dtype=float32)

    Args:
      key: PRNG key.
      images_NHWC: float32.
      targets_NK: float32.
      strength: alpha >= 0; the share of the example itself, before the box is cut off, is drawn
        from Beta(alpha, alpha), and is 1 where alpha is 0.

    Returns:
      float32 images_NHWC and targets_NK.
    """
    box_HW = _random_box(key, images_NHWC, strength)
    images = jnp.where(box_HW[None, :, :, None], jnp.roll(images_NHWC, 1, axis=0), images_NHWC)
    return images, _blend(1.0 - jnp.mean(box_HW.astype(jnp.float32)), targets_NK)


def resize_mix(key, images_NHWC, targets_NK, strength: Share, *,
               min_scale: Annotated[float, Range(0, 'max_scale')] = 0.1,
               max_scale: Annotated[float, Range(0, 1)] = 0.8) -> tuple[jax.Array, jax.Array]:
    """Shrinks the partner and pastes it at a random place into each example.

    Qin et al., `ResizeMix: Mixing Data with Preserved Object Information and True Labels
    <https://arxiv.org/abs/2012.11101>`_, 2020.

    Args:
      key: PRNG key.
      images_NHWC: float32.
      targets_NK: float32.
      strength: scalar in [0, 1] that multiplies the scale; the share of the partner is the share of
        pixels that were replaced.
      min_scale: the least ratio of the pasted sides to those of the image at full strength.
      max_scale: the largest ratio, up to 1.

    Returns:
      float32 images_NHWC and targets_NK.
    """
    shape = images_NHWC.shape[1:]
    sides_2 = jnp.asarray(shape[:2], jnp.float32)
    unit_3 = jax.random.uniform(key, (3,))
    size_2 = jnp.floor(strength * (min_scale + unit_3[0] * (max_scale - min_scale)) * sides_2)
    corner_2 = jnp.floor(unit_3[1:] * (sides_2 - size_2 + 1.0))
    small_NHWC = _shrink(images_NHWC, jnp.maximum(size_2, 1.0) / sides_2, corner_2)
    mask_HW = inside(jnp.concatenate([corner_2, size_2])[None], *shape[:2])[0]
    # The roll comes last, so that one row of small images moves between devices.
    images = jnp.where(mask_HW[None, :, :, None], jnp.roll(small_NHWC, 1, axis=0), images_NHWC)
    return images, _blend(1.0 - jnp.mean(mask_HW.astype(jnp.float32)), targets_NK)


def mixup_or_cutmix(key, images_NHWC, targets_NK, strength: Probability, *,
                    mixup_alpha: Alpha = 0.8, cutmix_alpha: Alpha = 1.0,
                    switch_probability: Probability = 0.5) -> tuple[jax.Array, jax.Array]:
    """Mixes the batch by either mixup or cutmix, as timm's ``Mixup`` does in batch mode.

    Args:
      key: PRNG key.
      images_NHWC: float32.
      targets_NK: float32.
      strength: the probability that this batch is mixed at all, scalar in [0, 1].
      mixup_alpha: alpha of the Beta distribution of ``mixup``.
      cutmix_alpha: alpha of the Beta distribution of ``cutmix``.
      switch_probability: the probability of cutmix for a batch that is mixed.

    Returns:
      float32 images_NHWC and targets_NK.
    """
    coin_key, mixup_key, cutmix_key = jax.random.split(key, 3)
    mixed, cut = jax.random.uniform(coin_key, (2,)) < jnp.stack(
        [jnp.asarray(strength, jnp.float32), jnp.float32(switch_probability)])
    box_HW = _random_box(cutmix_key, images_NHWC, cutmix_alpha)
    own_HW = jnp.where(cut, 1.0 - box_HW.astype(jnp.float32), beta(mixup_key, mixup_alpha))
    own_HW = jnp.where(mixed, own_HW, 1.0)
    share = jnp.where(cut, jnp.mean(own_HW), own_HW[0, 0])
    return _blend(own_HW[None, :, :, None], images_NHWC), _blend(share, targets_NK)


def beta(key, alpha) -> jax.Array:
    """Draws a float32 scalar from Beta(alpha, alpha); returns 1 where alpha is 0.

    T / sqrt(n + T^2) of a Student's t of n = 2 alpha degrees of freedom is that beta on [-1, 1],
    and T has a closed form (Bailey, `Polar Generation of Random Variates with the t-Distribution`,
    Mathematics of Computation 62, 1994). jax.random.beta rejects in loops, which take XLA's CPU
    backend 2 s to compile.
    """
    alpha = jnp.asarray(alpha, jnp.float32)
    tiny = jnp.finfo(jnp.float32).tiny
    radius, turn = jax.random.uniform(key, (2,), minval=tiny)
    cos = jnp.cos(2.0 * jnp.pi * turn)
    # T^2 / n. An alpha near 0 makes it infinite, which is right: the draw is then 0 or 1. The
    # radius is in (0, 1), so that this is a NaN for no alpha.
    square = jnp.expm1(-jnp.log(radius) / alpha) * cos**2
    draw = 0.5 + 0.5 * jnp.sign(cos) / jnp.sqrt(1.0 + 1.0 / square)
    return jnp.where(alpha > 0.0, draw, 1.0)


def _blend(share, x) -> jax.Array:
    return share * x + (1.0 - share) * jnp.roll(x, 1, axis=0)


def _shrink(images_NHWC, scale_2, corner_2) -> jax.Array:
    """Shrinks the images, bilinearly and antialiased, and rounds after the first direction.

    Sums of integers times weights of 15 bits are exact in any order. So the sharding changes
    nothing, which otherwise changes the last bits of matrix products.
    """
    for axis, formula in enumerate(('oh,nhwc->nowc', 'ow,nhwc->nhoc')):
        length = images_NHWC.shape[axis + 1]
        weights = jax.image.scale_and_translate(
            jnp.eye(length), (length, length), (0,), scale_2[axis:axis + 1],
            corner_2[axis:axis + 1], 'linear')
        images_NHWC = jnp.clip(jnp.einsum(
            formula, jnp.round(weights * 2.0**15) / 2.0**15, jnp.round(images_NHWC),
            precision=jax.lax.Precision.HIGHEST), 0.0, 255.0)
    return images_NHWC


def _random_box(key, images_NHWC, alpha) -> jax.Array:
    """Returns the mask of cutmix, which is true for pixels of the partner."""
    _, height, width, _ = images_NHWC.shape
    share_key, row_key, column_key = jax.random.split(key, 3)
    side = jnp.sqrt(1.0 - beta(share_key, alpha))
    rows_H = _interval(row_key, height, side)
    columns_W = _interval(column_key, width, side)
    return rows_H[:, None] & columns_W[None, :]


def _interval(key, size, fraction) -> jax.Array:
    """Returns a mask of ``fraction * size`` pixels about a random centre, cut off at the ends."""
    centre = jax.random.randint(key, (), 0, size)
    half = jnp.floor(fraction * size).astype(jnp.int32) // 2
    place = jnp.arange(size, dtype=jnp.int32)
    return (place >= centre - half) & (place < centre + half)
