"""What more than one model family is made of: choices by name, convolution, norms, head.

Parameters are float32 everywhere and weight matrices are called ``kernel``; ``dtype`` is the
compute dtype. Everything runs under jax's strict dtype and rank promotion.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from imgjax.errors import unknown

kaiming_fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
small_normal = nn.initializers.normal(0.01)
zeros = nn.initializers.zeros_init()
ones = nn.initializers.ones_init()

ACTIVATIONS = {
    'relu': jax.nn.relu,
    'relu6': jax.nn.relu6,
    'leaky_relu': jax.nn.leaky_relu,
    'elu': jax.nn.elu,
    'selu': jax.nn.selu,
    'gelu': functools.partial(jax.nn.gelu, approximate=False),
    'gelu_tanh': functools.partial(jax.nn.gelu, approximate=True),
    'silu': jax.nn.silu,
    'mish': jax.nn.mish,
    'hardswish': jax.nn.hard_swish,
    'softplus': jax.nn.softplus,
    'tanh': jnp.tanh,
    'sigmoid': jax.nn.sigmoid,
    'identity': lambda x: x,
}


def pick(kind: str, name: str, options: dict[str, Any]) -> Any:
    """``options[name]``; ValueError in one line with the nearest and all right names otherwise."""
    if name in options:
        return options[name]
    raise ValueError(unknown(kind, name, options))


def activation(name: str):
    """The elementwise function of that name; ``gelu`` is the exact one. ValueError if unknown."""
    return pick('act', name, ACTIVATIONS)


def compute_dtype(dtype: Any) -> jnp.dtype:
    """The compute dtype of that name or scalar type; ValueError for any but these two.

    float16 is left out on purpose: it needs loss scaling, which the training step does not do.
    """
    allowed = {'float32': jnp.dtype('float32'), 'bfloat16': jnp.dtype('bfloat16')}
    return pick('dtype', dtype if isinstance(dtype, str) else jnp.dtype(dtype).name, allowed)


class Conv(nn.Module):
    """2-D convolution, x_NHWC -> y_NHWF, with the parameters of ``nn.Conv``: kernel HWIO, bias.

    Attributes:
      features: F, the output channels.
      kernel_size: side of the square window.
      strides: step along both sides.
      padding: zeros on every side; None for ``kernel_size // 2`` (torch's usual symmetrical
        padding, which differs from 'SAME' at strides above 1), or 'SAME' or 'VALID'.
      groups: feature groups.
      dilation: of the window; the default padding grows with it.
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    padding: int | str | None = None
    groups: int = 1
    dilation: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Any = kaiming_fan_out
    bias_init: Any = zeros

    @nn.compact
    def __call__(self, x_NHWC):
        k, s = self.kernel_size, self.strides
        kernel = self.param(
            'kernel',
            self.kernel_init,
            (k, k, x_NHWC.shape[-1] // self.groups, self.features),
            jnp.float32,
        )
        kernel = kernel.astype(self.dtype)
        x_NHWC = x_NHWC.astype(self.dtype)
        padding = k // 2 * self.dilation if self.padding is None else self.padding
        if k == 1 and self.groups == 1 and padding in (0, 'SAME', 'VALID'):
            # XLA's CPU convolution is 2 to 4 times slower than the dot it amounts to here.
            y_NHWF = lax.dot_general(x_NHWC[:, ::s, ::s, :], kernel[0, 0], (((3,), (0,)), ((), ())))
        else:
            y_NHWF = lax.conv_general_dilated(
                x_NHWC,
                kernel,
                (s, s),
                padding if isinstance(padding, str) else [(padding,) * 2] * 2,
                rhs_dilation=(self.dilation,) * 2,
                feature_group_count=self.groups,
                dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            )
        if self.use_bias:
            bias = self.param('bias', self.bias_init, (self.features,), jnp.float32)
            y_NHWF += bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y_NHWF


# flax's norms mix float32 statistics with a bfloat16 input, which strict promotion refuses, so they
# run in float32 and the cast comes last; XLA fuses both casts.


def batch_norm(*, train: bool, dtype: Any, **options):
    """Batch norm (Ioffe and Szegedy 2015, arXiv:1502.03167) over all but the last axis of x.

    The running variance is that of the batch as it is, where torch's is scaled by n / (n - 1).
    """
    options = {'momentum': 0.9, 'epsilon': 1e-5, 'use_running_average': not train, **options}
    return lambda x: nn.BatchNorm(**options)(x.astype(jnp.float32)).astype(dtype)


def group_norm(*, dtype: Any, **options):
    """Group norm (Wu and He 2018, arXiv:1803.08494) in as many groups up to 32 as fit the width."""
    options = {'epsilon': 1e-5, **options}
    return lambda x: nn.GroupNorm(math.gcd(32, x.shape[-1]), **options)(
        x.astype(jnp.float32)
    ).astype(dtype)


def layer_norm(*, dtype: Any, **options):
    """Layer norm (Ba et al. 2016, arXiv:1607.06450) over the last axis of x."""
    # E[x^2] - E[x]^2 is off by 5e-4 where the mean is 30 standard deviations, the direct one by
    # 4e-6; it costs a second pass over x, 1 to 2 % of a step of ViT-S on two CPU cores.
    options = {'use_fast_variance': False, **options}
    return lambda x: nn.LayerNorm(**options)(x.astype(jnp.float32)).astype(dtype)


def norm(name: str, *, train: bool, dtype: Any):
    """The constructor of the norm 'batch', 'group', 'layer' or 'none', bound to its policy.

    It is called as ``norm(name='bn1', scale_init=...)(x)``. ValueError if unknown.
    """
    makers = {
        'batch': functools.partial(batch_norm, train=train, dtype=dtype),
        'group': functools.partial(group_norm, dtype=dtype),
        'layer': functools.partial(layer_norm, dtype=dtype),
        'none': lambda **_: lambda x: x,
    }
    return pick('norm', name, makers)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382): drops x whole for some examples.

    Unlike ``nn.Dropout`` it takes the rate as a call argument, a float32 scalar that may be traced,
    so that blocks under ``nn.scan`` can have rates of their own.
    """

    deterministic: bool

    @nn.compact
    def __call__(self, x, rate):
        if self.deterministic:
            return x
        keep = 1.0 - jnp.asarray(rate, jnp.float32)
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        mask = jax.random.bernoulli(self.make_rng('dropout'), keep, shape)
        return x * jnp.where(mask, 1.0 / keep, 0.0).astype(x.dtype)


def head(x_NF, num_classes: int, kernel_init=small_normal):
    """Float32 logits_NK by a dense layer ``head`` of the calling module; x_NF if no classes.

    The layer is computed in float32 whatever the model's dtype: bfloat16 logits have three digits,
    too few for calibration and for confidences near 1.
    """
    x_NF = x_NF.astype(jnp.float32)
    return (
        nn.Dense(num_classes, kernel_init=kernel_init, name='head')(x_NF) if num_classes else x_NF
    )
