"""Random numbers per example, which do not depend on the device or the other examples."""

import jax
import jax.numpy as jnp


def example_keys(key, size) -> jax.Array:
    """Returns ``size`` keys, one per example: ``fold_in(key, position in the batch)``.

    A key depends only on the position, and not on the number of examples or on the device.
    """
    positions_N = jnp.arange(size, dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, positions_N)


def uniforms(key, size, count) -> jax.Array:
    """Returns float32 unit_ND: ``count`` independent numbers in [0, 1) for each example.

    An operation draws all its numbers in one call, as each draw adds to the compile time.
    """
    return jax.vmap(lambda key: jax.random.uniform(key, (count,)))(example_keys(key, size))


def between(unit, low, high) -> jax.Array:
    """Maps numbers uniform in [0, 1) to numbers uniform in [low, high)."""
    return low + unit * (high - low)


def pick(chosen_N, images_NHWC, others_NHWC) -> jax.Array:
    """Returns the images where ``chosen_N`` is true and the others elsewhere, bit for bit."""
    return jnp.where(chosen_N[:, None, None, None], images_NHWC, others_NHWC)
