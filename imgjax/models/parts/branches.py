"""What is done to the branches of residual blocks: stochastic depth and learned factors."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import layers

Rate = float | jax.Array  # share of the examples that stochastic depth drops a branch for


class Residual(nn.Module):
    """x plus the branch y, which stochastic depth (Huang et al. 2016, arXiv:1603.09382) drops.

    It drops y whole for some examples. Unlike ``nn.Dropout`` it takes the rate as a call argument,
    a float32 scalar that may be traced, so that blocks under ``nn.scan`` can have rates of their
    own.
    """

    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array, rate: Rate) -> jax.Array:
        if not self.deterministic:
            keep = 1.0 - jnp.asarray(rate, jnp.float32)
            shape = (y.shape[0],) + (1,) * (y.ndim - 1)
            mask = jax.random.bernoulli(self.make_rng('dropout'), keep, shape)
            y = y * jnp.where(mask, 1.0 / keep, 0.0).astype(y.dtype)
        return layers.once(x + y)


def residual(drop_path: float, *, train: bool) -> Callable[..., Residual]:
    """Returns the constructor of ``Residual`` for a model with that option ``drop_path``."""
    return functools.partial(Residual, not train or drop_path == 0)


def drop_path_rates(drop_path: float, depth: int) -> list[float]:
    """Returns the rate of stochastic depth in each of ``depth`` blocks, from first to last.

    They rise linearly from 0 to ``drop_path`` in the last block, as in the paper (section 3).
    """
    return [drop_path * i / max(1, depth - 1) for i in range(depth)]


class LayerScale(nn.Module):
    """x times a learned factor ``gamma`` a channel (Touvron et al. 2021, arXiv:2103.17239)."""

    start: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.constant(self.start)
        gamma_C = self.param('gamma', init, (x.shape[-1],), jnp.float32)
        return x * gamma_C.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def layer_scale(start: float | None) -> Callable:
    """The constructor of ``LayerScale``, called as ``scale(name='ls1')(x)``; None: no factor."""
    if start is None:
        return lambda name: lambda x: x
    return functools.partial(LayerScale, start)


def scaled(module: nn.Module, x: jax.Array, name: str, start: float | None) -> jax.Array:
    """x times that parameter of the module, a factor a channel; x as it is where start is None.

    For families whose factors are no modules of their own, unlike ``LayerScale``.
    """
    if start is None:
        return x
    factor_C = module.param(name, nn.initializers.constant(start), (x.shape[-1],), jnp.float32)
    return x * factor_C.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
