"""What the mobile networks share: their blocks, and the network that a table of blocks gives.

A table is a tuple of stages, a stage a tuple of rows, and a row a dict: ``block`` (a key of
``BLOCKS``), ``depth`` (the number of these blocks, of which the first has the row's ``strides``)
and the options of that block, among them ``features``.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers
from imgjax.models.parts.attention import SqueezeExcite

# A number of channels is rounded up where the nearest multiple of 8 is less than this share of it.
LEAST = 0.9


class Block(nn.Module):
    """What the blocks share: (x_NHWC, drop_path rate) -> y_NHWF.

    Attributes:
      expand: width inside the block, as a multiple of the width of its input.
      ratio: width of the squeeze-and-excitation, as a share of the width that ``squeeze`` takes;
        0 for none.
      shortcut: whether x is added to y where both have one shape.
    """

    features: int
    conv: Callable
    norm: Callable
    act: Callable
    squeeze: Callable
    residual: Callable
    kernel: int = 3
    strides: int = 1
    expand: float = 1
    ratio: float = 0.0
    shortcut: bool = True

    def _excite(self, y_NHWC: jax.Array, inputs: int) -> jax.Array:
        if not self.ratio:
            return y_NHWC
        return self.squeeze(self.ratio, inputs, y_NHWC.shape[-1], self.act)(y_NHWC)

    def _add_shortcut(self, x_NHWC: jax.Array, y_NHWF: jax.Array, rate: branches.Rate) -> jax.Array:
        if not self.shortcut or self.strides > 1 or x_NHWC.shape[-1] != self.features:
            return y_NHWF
        return self.residual()(x_NHWC, y_NHWF, rate)


class Plain(Block):
    """Convolution, norm and activation; it has a shortcut only where the table says so."""

    shortcut: bool = False

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        y_NHWF = self.conv(self.features, self.kernel, self.strides, name='conv')(x_NHWC)
        return self._add_shortcut(x_NHWC, self.act(self.norm(name='bn1')(y_NHWF)), rate)


class Separable(Block):
    """Depthwise convolution, then a 1x1 one (Howard et al. 2017, arXiv:1704.04861).

    Attributes:
      last_act: whether an activation follows the second convolution, too.
    """

    last_act: bool = False

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        width = x_NHWC.shape[-1]
        y_NHWC = self.conv(width, self.kernel, self.strides, width, name='conv_dw')(x_NHWC)
        y_NHWC = self._excite(self.act(self.norm(name='bn1')(y_NHWC)), width)
        y_NHWF = self.norm(name='bn2')(self.conv(self.features, 1, name='conv_pw')(y_NHWC))
        return self._add_shortcut(x_NHWC, self.act(y_NHWF) if self.last_act else y_NHWF, rate)


class Inverted(Block):
    """Inverted residual (Sandler et al. 2018, arXiv:1801.04381): 1x1, depthwise and linear 1x1."""

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        inputs = x_NHWC.shape[-1]
        width = layers.multiple_of_8(inputs * self.expand, LEAST)
        y_NHWC = self.act(self.norm(name='bn1')(self.conv(width, 1, name='conv_pw')(x_NHWC)))
        y_NHWC = self.conv(width, self.kernel, self.strides, width, name='conv_dw')(y_NHWC)
        y_NHWC = self._excite(self.act(self.norm(name='bn2')(y_NHWC)), inputs)
        y_NHWF = self.norm(name='bn3')(self.conv(self.features, 1, name='conv_pwl')(y_NHWC))
        return self._add_shortcut(x_NHWC, y_NHWF, rate)


class Fused(Block):
    """Inverted residual whose first two convolutions are one full one (arXiv:2104.00298)."""

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        inputs = x_NHWC.shape[-1]
        width = layers.multiple_of_8(inputs * self.expand, LEAST)
        y_NHWC = self.conv(width, self.kernel, self.strides, name='conv_exp')(x_NHWC)
        y_NHWC = self._excite(self.act(self.norm(name='bn1')(y_NHWC)), inputs)
        y_NHWF = self.norm(name='bn2')(self.conv(self.features, 1, name='conv_pwl')(y_NHWC))
        return self._add_shortcut(x_NHWC, y_NHWF, rate)


BLOCKS = {'plain': Plain, 'separable': Separable, 'inverted': Inverted, 'fused': Fused}


def _excitation(ratio: float, inputs: int, width: int, act: Callable, *, of: str, mixed: bool,
                dtype: Any) -> SqueezeExcite:
    if of == 'input':
        options = {'reduced': round(inputs * ratio), 'act': act}
    else:
        gate = jax.nn.hard_sigmoid
        act = jax.nn.relu if mixed else act
        options = {'reduced': layers.multiple_of_8(width * ratio, LEAST), 'act': act, 'gate': gate}
    return SqueezeExcite(**options, names=('conv_reduce', 'conv_expand'), dtype=dtype, name='se')


class Net(nn.Module):
    """A strided 3x3 convolution, the stages of a table, and a hidden layer before the head.

    The ``Model`` of a family is a subclass with its tables and documents the options.
    """

    num_classes: int
    stages: tuple = ()
    stem: int = 32
    head: int = 1280
    width: float = 1.0
    padding: str = 'torch'
    epsilon: float = 1e-5
    dropout: float = 0.0
    remat: bool = False
    act: str | None = 'relu'
    dtype: Any = 'float32'

    # A family that declares one of these as a field makes it an option.
    depth = 1.0
    fixed_ends = False
    share = LEAST
    se = 'none'
    drop_path = 0.0
    # The hidden layer: 'map' (before pooling, with a norm), or after pooling 'pooled' (with a bias)
    # or 'normed'.
    hidden = 'map'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1.., conv_head if that is before pooling, pre_logits and logits.
        """
        shared = self._shared_options(train)
        conv, norm = shared['conv'], shared['norm']
        act = layers.activation(self.act or 'hardswish')

        x_NHWC = act(norm(name='bn1')(conv(self.stem, 3, 2, name='conv_stem')(image_NHWC)))
        out = {'stem': x_NHWC}
        stages = self._stages()
        rates = iter(branches.drop_path_rates(self.drop_path, sum(map(len, stages))))
        for i, blocks in enumerate(stages):
            for j, (kind, options) in enumerate(blocks):
                own = options.pop('act', 'hardswish')
                options['act'] = layers.activation(self.act or own)
                block = self._block(kind)
                y = block(**shared, **options, name=f'blocks.{i}.{j}')(x_NHWC, next(rates))
                if isinstance(y, tuple):
                    y, out[f'stage{i + 1}_block{j}_attn'] = y
                x_NHWC = y
            out[f'stage{i + 1}'] = x_NHWC

        if self.head and self.hidden == 'map':
            x_NHWC = act(norm(name='bn2')(conv(self.head, 1, name='conv_head')(x_NHWC)))
            out['conv_head'] = x_NHWC
        x_NF = x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)
        if self.head and self.hidden != 'map':
            biased = self.hidden == 'pooled'
            x_N11F = conv(self.head, 1, use_bias=biased, name='conv_head')(x_NF[:, None, None])
            x_N11F = act(x_N11F if biased else norm(name='norm_head')(x_N11F))
            x_NF = x_N11F[:, 0, 0].astype(jnp.float32)
        out['pre_logits'] = x_NF
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(x_NF)
        init = nn.initializers.variance_scaling(1 / 3, 'fan_out', 'uniform')
        out['logits'] = layers.head(x_NF, self.num_classes, init)
        return out['logits'], out

    def _shared_options(self, train: bool) -> dict[str, Any]:
        """Returns the options that all blocks share."""
        dtype = layers.compute_dtype(self.dtype)
        padding = layers.pick('padding', self.padding, {'torch': None, 'same': 'SAME'})
        squeeze = partial(_excitation, of=self.se, mixed=self.act is None, dtype=dtype)
        return {
            'conv': partial(convolve.grouped, padding=padding, dtype=dtype),
            'norm': partial(layers.BatchNorm, train=train, epsilon=self.epsilon, dtype=dtype),
            'squeeze': layers.pick('se', self.se, {
                'none': lambda *_: lambda x: x, 'input': squeeze, 'expanded': squeeze}),
            'residual': branches.residual(self.drop_path, train=train),
        }

    def _block(self, name: str) -> Callable:
        return self._remat(layers.pick('block', name, BLOCKS))

    def _remat(self, Block: type[nn.Module]) -> Callable:
        return nn.remat(Block) if self.remat else Block

    def _stages(self) -> list[list[tuple[str, dict[str, Any]]]]:
        """Returns the table, scaled in width and depth, as lists of (name of a block, options)."""
        stages = []
        for i, rows in enumerate(self.stages):
            ends = self.fixed_ends and i in (0, len(self.stages) - 1)
            stages.append([])
            for row in rows:
                row = dict(row)
                row['features'] = layers.multiple_of_8(row['features'] * self.width, self.share)
                block = row.pop('block')
                depth = math.ceil(row.pop('depth', 1) * (1 if ends else self.depth))
                stages[i].append((block, row))
                stages[i] += [(block, {**row, 'strides': 1}) for _ in range(depth - 1)]
        return stages
