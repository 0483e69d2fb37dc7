"""Randomness that an example draws for itself, whatever batch or device it lies in."""

import jax
import jax.numpy as jnp


def example_keys(key, size) -> jax.Array:
    """Returns ``size`` keys, one an example: ``fold_in(key, position in the batch)``.

    The position is all that a key depends on, so one example does not feel how many others there
    are nor which device it lies on.
    """
    positions_N = jnp.arange(size, dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, positions_N)


def uniforms(key, size, count) -> jax.Array:
    """Returns unit_ND: float32, ``count`` independent numbers in [0, 1) for each example.

    An operation takes all that it needs in one call: each draw costs a compile of its own.
    """
    return jax.vmap(lambda key: jax.random.uniform(key, (count,)))(example_keys(key, size))


def between(unit, low, high) -> jax.Array:
    """Maps numbers uniform in [0, 1) to numbers uniform in [low, high)."""
    return low + unit * (high - low)


def pick(chosen_N, images_NHWC, others_NHWC) -> jax.Array:
    """Returns the images where chosen, the others elsewhere, bit for bit."""
    return jnp.where(chosen_N[:, None, None, None], images_NHWC, others_NHWC)
