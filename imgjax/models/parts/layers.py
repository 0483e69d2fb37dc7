"""Layers and choices that many families share: activations, dense layers, norms, MLP and head.

Parameters are always float32 and weight matrices are named ``kernel``; ``dtype`` is the compute
dtype. All layers run under the strict dtype and rank promotion of jax.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from imgjax.errors import unknown
from imgjax.models.parts import frozen, parallel
from imgjax.process import backend

# The default of torch's layers: a third of the variance that keeps a signal's without activation.
torch_uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
kaiming_fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
small_normal = nn.initializers.normal(0.01)
zeros = nn.initializers.zeros_init()
ones = nn.initializers.ones_init()


# What a model returns: float32 logits (N, K), and ``out``, its named intermediate arrays.
Outputs = tuple[jax.Array, dict[str, jax.Array]]


def gelu(x: jax.Array) -> jax.Array:
    """Returns x times the normal distribution function at x (Hendrycks and Gimpel 2016).

    arXiv:1606.08415.
    """
    # The erfc of jax.nn.gelu is slower, and more exact only where the result is 0 to seven digits.
    # An export, of any batch size, uses it, as TensorFlow has no operation for lax.erf.
    if not all(isinstance(length, int) for length in x.shape[:1]):
        return jax.nn.gelu(x, approximate=False)
    half = jnp.asarray(0.5, x.dtype)
    return half * x * (1 + lax.erf(x * jnp.sqrt(half)))


ACTIVATIONS = {
    'relu': jax.nn.relu,
    'relu6': jax.nn.relu6,
    'leaky_relu': jax.nn.leaky_relu,
    'elu': jax.nn.elu,
    'selu': jax.nn.selu,
    'gelu': gelu,
    'gelu_tanh': functools.partial(jax.nn.gelu, approximate=True),
    'silu': jax.nn.silu,
    'mish': jax.nn.mish,
    'hardswish': jax.nn.hard_swish,
    'softplus': jax.nn.softplus,
    'tanh': jnp.tanh,
    'sigmoid': jax.nn.sigmoid,
    'identity': lambda x: x,
}


def dot(x: jax.Array, kernel_IO: jax.Array, dimension_numbers: Any = None, **options) -> jax.Array:
    """Returns x @ kernel_IO over the last axis of x, with the signature that ``nn.Dense`` calls.

    The axes before the last are joined for the product: XLA's CPU backend copies x and the gradient
    to another layout where the gradient of a kernel is a contraction over several axes.
    """
    del dimension_numbers
    y = lax.dot_general(
        x.reshape(-1, x.shape[-1]), kernel_IO, (((1,), (0,)), ((), ())), **options)
    return y.reshape(*x.shape[:-1], kernel_IO.shape[1])


Dense = functools.partial(nn.Dense, dot_general=dot)


def multiple_of_8(channels: float, least: float = 0.0) -> int:
    """The multiple of 8 nearest to ``channels``, at least 8 and at least ``least`` times them."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= least * channels else rounded + 8


def pick(kind: str, name: str, options: dict[str, Any]) -> Any:
    """Returns ``options[name]``.

    Raises:
      ValueError: the name is unknown; in one line with the nearest name and all names.
    """
    if name in options:
        return options[name]
    raise ValueError(unknown(kind, name, options))


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the elementwise function of that name in ``ACTIVATIONS``; ValueError as ``pick``."""
    return pick('act', name, ACTIVATIONS)


def compute_dtype(dtype: Any) -> jnp.dtype:
    """Returns the compute dtype, float32 or bfloat16, of that name or scalar type.

    float16 is refused with a ValueError: it needs loss scaling, which the training step lacks.
    """
    allowed = {'float32': jnp.dtype('float32'), 'bfloat16': jnp.dtype('bfloat16')}
    return pick('dtype', dtype if isinstance(dtype, str) else jnp.dtype(dtype).name, allowed)


class BatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy 2015, arXiv:1502.03167) over all but the last axis of x.

    In training x is normalised with the biased variance of the batch, and the running variance
    takes the unbiased one, as in torch and in fused TensorFlow. Statistics are float32. Where
    ``frozen.norms`` says that this module is frozen, it runs in training as in inference.

    Attributes:
      momentum: weight of the old statistics in a step (in torch 1 minus this).
    """

    train: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Any = ones
    bias_init: Any = zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        C = x.shape[-1]
        scale_C = self.param('scale', self.scale_init, (C,), jnp.float32)
        bias_C = self.param('bias', self.bias_init, (C,), jnp.float32)
        running_mean = self.variable('batch_stats', 'mean', jnp.zeros, (C,), jnp.float32)
        running_var = self.variable('batch_stats', 'var', jnp.ones, (C,), jnp.float32)
        mean_C, var_C = running_mean.value, running_var.value
        x = x.astype(jnp.float32)
        if self.train and not frozen.is_frozen('.'.join(self.path)):
            axes = tuple(range(x.ndim - 1))
            mean_C = jnp.mean(x, axes)
            var_C = jnp.maximum(0.0, jnp.mean(jnp.square(x), axes) - jnp.square(mean_C))
            if not self.is_initializing():
                count = x.size // C
                old, new = self.momentum, 1.0 - self.momentum
                running_mean.value = old * running_mean.value + new * mean_C
                running_var.value = (
                    old * running_var.value + new * count / max(1, count - 1) * var_C)
        shape = (1,) * (x.ndim - 1) + (C,)
        factor_C = lax.rsqrt(var_C + self.epsilon) * scale_C
        y = (x - mean_C.reshape(shape)) * factor_C.reshape(shape) + bias_C.reshape(shape)
        return y.astype(self.dtype)


# flax's norms mix float32 statistics with a bfloat16 input, which strict promotion refuses. So
# these run in float32 and cast the result; XLA fuses both casts.


def group_norm(*, dtype: Any, groups: int | None = None, **options) -> Callable:
    """Group norm (Wu and He 2018, arXiv:1803.08494) of x (N, ..., C).

    Without ``groups`` it has as many groups up to 32 as divide C.
    """
    options = {'epsilon': 1e-5, 'use_fast_variance': False, **options}  # as in layer_norm
    return lambda x: nn.GroupNorm(groups or math.gcd(32, x.shape[-1]), **options)(
        x.astype(jnp.float32)).astype(dtype)


def layer_norm(*, dtype: Any, **options) -> Callable:
    """Layer norm (Ba et al. 2016, arXiv:1607.06450) over the last axis of x."""
    # The variance E[x^2] - E[x]^2 is wrong by 5e-4 where the mean is 30 standard deviations, that
    # of x - E[x] by 4e-6. The second costs 1 to 2 % of a step of ViT-S on two CPU cores.
    options = {'use_fast_variance': False, **options}
    return lambda x: nn.LayerNorm(**options)(x.astype(jnp.float32)).astype(dtype)


def norm(name: str, *, train: bool, dtype: Any) -> Callable:
    """Returns the constructor of the norm 'batch', 'group', 'layer' or 'none'; else ValueError.

    It is called as ``norm(name='bn1', scale_init=...)(x)``.
    """
    makers = {
        'batch': functools.partial(BatchNorm, train=train, dtype=dtype),
        'group': functools.partial(group_norm, dtype=dtype),
        'layer': functools.partial(layer_norm, dtype=dtype),
        'none': lambda **_: lambda x: x,
    }
    return pick('norm', name, makers)


def once(x: jax.Array) -> jax.Array:
    """Returns x behind an optimization barrier, so that it is computed once for all its uses.

    XLA's CPU backend fuses a sum into each operation that uses it: every block would add up the
    gradient of the residual stream again, from the end of the network. The barrier works only
    with ``backend.compiler_options``. An export, of any batch size, has no barrier.
    """
    if backend.platform() != 'cpu' or not all(isinstance(length, int) for length in x.shape[:1]):
        return x
    return lax.optimization_barrier(x)


class Mlp(nn.Module):
    """Two dense layers over the last axis of x, each followed by dropout.

    Attributes:
      hidden: width between the two.
      drop: constructor of the dropout; None for no dropout.
    """

    hidden: int
    act: Any
    drop: Any = None
    dtype: Any = jnp.float32
    kernel_init: Any = nn.initializers.xavier_uniform()
    bias_init: Any = zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        drop = self.drop or (lambda: lambda x: x)
        dense = functools.partial(
            Dense, dtype=self.dtype, kernel_init=self.kernel_init, bias_init=self.bias_init)
        y = self.act(dense(self.hidden, name='fc1')(parallel.whole(x)))
        y = drop()(parallel.split(y, -1))
        return drop()(parallel.whole(dense(x.shape[-1], name='fc2')(y)))


def prepend(tokens_1LD: jax.Array, x_NLD: jax.Array) -> jax.Array:
    """Returns x_NLD behind these tokens, which are the same for all examples."""
    tokens_NLD = jnp.broadcast_to(
        tokens_1LD.astype(x_NLD.dtype), (x_NLD.shape[0], *tokens_1LD.shape[1:]))
    return jnp.concatenate([tokens_NLD, x_NLD], axis=1)


def head(x_NF: jax.Array, num_classes: int, kernel_init: Callable = small_normal,
         name: str = 'head') -> jax.Array:
    """Returns the float32 logits_NK by a dense layer of the calling module; x_NF for 0 classes.

    The layer runs in float32 for all dtypes of the model: bfloat16 logits have three digits, too
    few for calibration and for confidences near 1.
    """
    x_NF = x_NF.astype(jnp.float32)
    return (
        Dense(num_classes, kernel_init=kernel_init, name=name)(x_NF) if num_classes else x_NF
    )
