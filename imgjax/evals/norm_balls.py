"""Balls around images: how an attack starts in one, steps in one, and is brought back to one.

A ball has all images whose difference from an image is at most epsilon: in every pixel and channel
(`linf`), or in Euclidean length over the whole image (`l2`). Pixels are clipped to a range as well.
The steps are those of steepest ascent in the norm, as in Madry et al. 2018
(https://arxiv.org/abs/1706.06083).
"""

import jax
import jax.numpy as jnp

from imgjax.augment import keys
from imgjax.errors import ConfigError, nearest

NORMS = ('linf', 'l2')
TINY = 1e-12  # keeps a length of 0 from dividing


def check_norm(norm: str) -> None:
    """Raises ConfigError if there is no such norm."""
    if norm not in NORMS:
        raise ConfigError(f'norm: {norm!r}{nearest(norm, NORMS) or "; give linf or l2"}')


def lengths(delta_NHWC: jax.Array, norm: str) -> jax.Array:
    """Returns the norm of the difference of each image, float32 (N,)."""
    if norm == 'linf':
        return jnp.abs(delta_NHWC).max(axis=(1, 2, 3))
    return jnp.sqrt((delta_NHWC ** 2).sum(axis=(1, 2, 3)))


def ascent(gradient_NHWC: jax.Array, norm: str) -> jax.Array:
    """Returns the direction of length 1 in which a loss with this gradient rises most.

    It is the sign of the gradient, or the gradient over its length; 0 where the gradient is 0.
    """
    if norm == 'linf':
        return jnp.sign(gradient_NHWC)
    # The largest entry goes first: the square of a small gradient is 0 in float32.
    largest_N = lengths(gradient_NHWC, 'linf')
    scaled_NHWC = gradient_NHWC / jnp.maximum(largest_N, 1e-30)[:, None, None, None]
    return scaled_NHWC / (lengths(scaled_NHWC, 'l2') + TINY)[:, None, None, None]


def project(x_NHWC: jax.Array, center_NHWC: jax.Array, epsilon: jax.Array, norm: str,
            high: float = 1.0) -> jax.Array:
    """Returns images brought into the balls around others, and then into the range of pixels.

    Args:
      x_NHWC: float32, any images.
      center_NHWC: float32, the centre of the ball of each image, in 0 to `high`. A pixel of a
        centre outside of that range stays outside of it.
      epsilon: float32 scalar, the radius, in the unit of the pixels.
      norm: linf or l2.
      high: the largest value of a pixel.
    """
    delta_NHWC = x_NHWC - center_NHWC
    if norm == 'linf':
        delta_NHWC = jnp.clip(delta_NHWC, -epsilon, epsilon)
    else:
        factor_N = jnp.minimum(1.0, epsilon / (lengths(delta_NHWC, norm) + TINY))
        delta_NHWC = delta_NHWC * factor_N[:, None, None, None]
    return jnp.clip(center_NHWC + delta_NHWC, jnp.minimum(center_NHWC, 0.0),
                    jnp.maximum(center_NHWC, high))


def random_start(keys_N: jax.Array, center_NHWC: jax.Array, epsilon: jax.Array, norm: str,
                 high: float = 1.0) -> jax.Array:
    """Returns an image of each ball, drawn uniformly from it and then clipped to the range.

    Args:
      keys_N: a random key per image.
      center_NHWC: as in `project`.
      epsilon: as in `project`.
      norm: linf or l2.
      high: the largest value of a pixel.
    """
    shape = center_NHWC.shape[1:]
    if norm == 'linf':
        unit_NHWC = jax.vmap(lambda key: jax.random.uniform(key, shape))(keys_N)
        delta_NHWC = keys.between(unit_NHWC, -epsilon, epsilon)
    else:
        unit_N = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1)))(keys_N)
        radius_N = epsilon * unit_N ** (1 / (shape[0] * shape[1] * shape[2]))
        delta_NHWC = _on_sphere(keys_N, shape) * radius_N[:, None, None, None]
    return project(center_NHWC + delta_NHWC, center_NHWC, epsilon, norm, high)


def random_border(keys_N: jax.Array, center_NHWC: jax.Array, epsilon: jax.Array,
                  norm: str) -> jax.Array:
    """Returns a random image at the border of each ball, clipped to 0 to 1; as `random_start`."""
    shape = center_NHWC.shape[1:]
    if norm == 'linf':
        unit_NHWC = jax.vmap(lambda key: jax.random.uniform(key, shape))(keys_N)
        delta_NHWC = keys.between(unit_NHWC, -1.0, 1.0)
        delta_NHWC = delta_NHWC / (lengths(delta_NHWC, norm) + TINY)[:, None, None, None]
    else:
        delta_NHWC = _on_sphere(keys_N, shape)
    return project(center_NHWC + epsilon * delta_NHWC, center_NHWC, epsilon, norm)


def _on_sphere(keys_N: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns random differences of Euclidean length 1 in uniform directions, (N, *shape)."""
    return ascent(jax.vmap(lambda key: jax.random.normal(key, shape))(keys_N), 'l2')
