"""What is done to the branches of residual blocks: stochastic depth and learned factors."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import layers

# The rate of stochastic depth: the share of the examples for which a branch is dropped.
Rate = float | jax.Array


class Residual(nn.Module):
    """x plus the branch y, with stochastic depth (Huang et al. 2016, arXiv:1603.09382).

    In training the whole branch is dropped for a share ``rate`` of the examples. Unlike in
    ``nn.Dropout`` the rate is an argument of the call and may be traced, so that the blocks of an
    ``nn.scan`` can have different rates.
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
    """x times a learned factor ``gamma`` per channel (Touvron et al. 2021, arXiv:2103.17239)."""

    start: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.constant(self.start)
        gamma_C = self.param('gamma', init, (x.shape[-1],), jnp.float32)
        return x * gamma_C.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def layer_scale(start: float | None) -> Callable:
    """Returns the constructor of ``LayerScale``, called as ``scale(name='ls1')(x)``.

    Where ``start`` is None, it constructs the identity.
    """
    if start is None:
        return lambda name: lambda x: x
    return functools.partial(LayerScale, start)


def scaled(module: nn.Module, x: jax.Array, name: str, start: float | None) -> jax.Array:
    """Returns x times a learned factor per channel, the parameter ``name`` of the module.

    Where ``start`` is None, it returns x. It serves families whose factors are parameters of the
    block, not of a module as in ``LayerScale``.
    """
    if start is None:
        return x
    factor_C = module.param(name, nn.initializers.constant(start), (x.shape[-1],), jnp.float32)
    return x * factor_C.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
