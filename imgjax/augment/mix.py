"""Operations that mix pairs of examples, and their targets with them.

One mixing ratio a batch; the partner of an example is the one before it in the batch (a roll by
one, as in big_vision, which asks each device for one row of its neighbour).
"""

import jax
import jax.numpy as jnp


def mixup(key, images_NHWC, targets_NK, strength):
    """Averages each example with its partner.

    Zhang et al., `mixup: Beyond Empirical Risk Minimization <https://arxiv.org/abs/1710.09412>`_,
    2017.

    Args:
      key: PRNG key.
      images_NHWC: float32.
      targets_NK: float32, one distribution over the classes a row.
      strength: alpha >= 0; the share of the example itself is drawn from Beta(alpha, alpha), and
        is 1 where alpha is 0.

    Returns:
      float32 images_NHWC and targets_NK.
    """
    share = _beta(key, strength)
    return _blend(share, images_NHWC), _blend(share, targets_NK)


def cutmix(key, images_NHWC, targets_NK, strength):
    """Pastes one box of its partner into each example.

    Yun et al., `CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features <https://arxiv.org/abs/1905.04899>`_, 2019. The box is cut off at the border of the
    image, and the targets are mixed by the share of pixels that were really replaced.

    Args:
      key: PRNG key.
      images_NHWC: float32.
      targets_NK: float32, one distribution over the classes a row.
      strength: alpha >= 0; the share of the example itself, before the box is cut off, is drawn
        from Beta(alpha, alpha), and is 1 where alpha is 0.

    Returns:
      float32 images_NHWC and targets_NK.
    """
    _, height, width, _ = images_NHWC.shape
    share_key, row_key, column_key = jax.random.split(key, 3)
    side = jnp.sqrt(1.0 - _beta(share_key, strength))
    rows_H = _interval(row_key, height, side)
    columns_W = _interval(column_key, width, side)
    box_HW = rows_H[:, None] & columns_W[None, :]
    images = jnp.where(box_HW[None, :, :, None], jnp.roll(images_NHWC, 1, axis=0), images_NHWC)
    return images, _blend(1.0 - jnp.mean(box_HW.astype(jnp.float32)), targets_NK)


def _beta(key, alpha):
    """Draws from Beta(alpha, alpha); returns 1 where alpha is 0.

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


def _blend(share, x):
    return share * x + (1.0 - share) * jnp.roll(x, 1, axis=0)


def _interval(key, size, fraction):
    """Returns a mask of ``fraction * size`` pixels about a random centre, cut off at the ends."""
    centre = jax.random.randint(key, (), 0, size)
    half = jnp.floor(fraction * size).astype(jnp.int32) // 2
    place = jnp.arange(size, dtype=jnp.int32)
    return (place >= centre - half) & (place < centre + half)
