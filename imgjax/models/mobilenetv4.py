"""MobileNetV4 of universal inverted bottlenecks, and its hybrid form with mobile attention."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, layers, mbconv
from imgjax.models.parts.attention import ATTENTIONS, Attended, attend


def _conv(depth: int, kernel: int, strides: int, features: int) -> dict[str, Any]:
    return {'block': 'plain', 'depth': depth, 'kernel': kernel, 'strides': strides,
            'features': features}


def _fused(depth: int, kernel: int, strides: int, expand: float, features: int) -> dict[str, Any]:
    return {'block': 'fused', 'depth': depth, 'kernel': kernel, 'strides': strides,
            'expand': expand, 'features': features}


def _uib(features: int, depth: int, first: int, kernel: int, strides: int,
         expand: float) -> dict[str, Any]:
    return {'block': 'universal', 'depth': depth, 'first': first, 'kernel': kernel,
            'strides': strides, 'expand': expand, 'features': features}


def _mqa(features: int, heads: int, key_width: int, key_strides: int) -> dict[str, Any]:
    return {'block': 'attention', 'heads': heads, 'key_width': key_width,
            'key_strides': key_strides, 'features': features}


def _uibs(features: int, *rows: tuple[int, ...]) -> tuple[dict[str, Any], ...]:
    """Returns a stage whose blocks all have the same channels."""
    return tuple(_uib(features, *row) if len(row) == 5 else _mqa(features, *row) for row in rows)


# A row of _uibs is either number of blocks, kernels of the depthwise convolutions at the start and
# in the middle (0 for none), strides and expansion; or heads, their width and the strides of the
# keys. They are timm's.
_LAST = (_conv(1, 1, 1, 960),)
_SMALL = (
    (_conv(1, 3, 2, 32), _conv(1, 1, 1, 32)),
    (_conv(1, 3, 2, 96), _conv(1, 1, 1, 64)),
    _uibs(96, (1, 5, 5, 2, 3), (4, 0, 3, 1, 2), (1, 3, 0, 1, 4)),
    _uibs(128, (1, 3, 3, 2, 6), (1, 5, 5, 1, 4), (1, 0, 5, 1, 4), (1, 0, 5, 1, 3), (2, 0, 3, 1, 4)),
    _LAST,
)
_MEDIUM = (
    (_fused(1, 3, 2, 4, 48),),
    _uibs(80, (1, 3, 5, 2, 4), (1, 3, 3, 1, 2)),
    _uibs(160, (1, 3, 5, 2, 6), (2, 3, 3, 1, 4), (1, 3, 5, 1, 4), (1, 3, 3, 1, 4), (1, 3, 0, 1, 4),
          (1, 0, 0, 1, 2), (1, 3, 0, 1, 4)),
    _uibs(256, (1, 5, 5, 2, 6), (1, 5, 5, 1, 4), (2, 3, 5, 1, 4), (1, 0, 0, 1, 4), (1, 3, 0, 1, 4),
          (1, 3, 5, 1, 2), (1, 5, 5, 1, 4), (2, 0, 0, 1, 4), (1, 5, 0, 1, 2)),
    _LAST,
)
_LARGE = (
    (_fused(1, 3, 2, 4, 48),),
    _uibs(96, (1, 3, 5, 2, 4), (1, 3, 3, 1, 4)),
    _uibs(192, (1, 3, 5, 2, 4), (3, 3, 3, 1, 4), (1, 3, 5, 1, 4), (5, 5, 3, 1, 4), (1, 3, 0, 1, 4)),
    _uibs(512, (4, 5, 5, 2, 4), (1, 5, 0, 1, 4), (1, 5, 3, 1, 4), (2, 5, 0, 1, 4), (1, 5, 3, 1, 4),
          (1, 5, 5, 1, 4), (3, 5, 0, 1, 4)),
    _LAST,
)
_HYBRID_MEDIUM = (
    *_MEDIUM[:2],
    _uibs(160, (1, 3, 5, 2, 6), (1, 0, 0, 1, 2), (1, 3, 3, 1, 4), (1, 3, 5, 1, 4), (4, 64, 2),
          (1, 3, 3, 1, 4), (4, 64, 2), (1, 3, 0, 1, 4), (4, 64, 2), (1, 3, 3, 1, 4), (4, 64, 2),
          (1, 3, 0, 1, 4)),
    _uibs(256, (1, 5, 5, 2, 6), (1, 5, 5, 1, 4), (2, 3, 5, 1, 4), (1, 0, 0, 1, 2), (1, 3, 5, 1, 2),
          (1, 0, 0, 1, 2), (1, 0, 0, 1, 4), (4, 64, 1), (1, 3, 0, 1, 4), (4, 64, 1),
          (1, 5, 5, 1, 4), (4, 64, 1), (1, 5, 0, 1, 4), (4, 64, 1), (1, 5, 0, 1, 4)),
    _LAST,
)
_HYBRID_LARGE = (
    *_LARGE[:2],
    _uibs(192, (1, 3, 5, 2, 4), (3, 3, 3, 1, 4), (1, 3, 5, 1, 4), (2, 5, 3, 1, 4), (8, 48, 2),
          (1, 5, 3, 1, 4), (8, 48, 2), (1, 5, 3, 1, 4), (8, 48, 2), (1, 5, 3, 1, 4), (8, 48, 2),
          (1, 3, 0, 1, 4)),
    _uibs(512, (4, 5, 5, 2, 4), (1, 5, 0, 1, 4), (1, 5, 3, 1, 4), (2, 5, 0, 1, 4), (1, 5, 3, 1, 4),
          (1, 5, 5, 1, 4), (8, 64, 1), (1, 5, 0, 1, 4), (8, 64, 1), (1, 5, 0, 1, 4), (8, 64, 1),
          (1, 5, 0, 1, 4), (8, 64, 1), (1, 5, 0, 1, 4)),
    _LAST,
)
_TINY = (
    (_fused(1, 3, 1, 2, 8),),
    _uibs(16, (1, 3, 5, 2, 2), (1, 3, 0, 1, 2), (2, 8, 2), (1, 0, 0, 1, 2)),
)
VARIANTS = {
    'mobilenetv4_conv_small_035': {'stages': _SMALL, 'width': 0.35},
    'mobilenetv4_conv_small_050': {'stages': _SMALL, 'width': 0.5},
    'mobilenetv4_conv_small': {'stages': _SMALL},
    'mobilenetv4_conv_medium': {'stages': _MEDIUM},
    'mobilenetv4_conv_large': {'stages': _LARGE, 'stem': 24},
    'mobilenetv4_hybrid_medium_075': {
        'stages': _HYBRID_MEDIUM, 'width': 0.75, 'layer_scale': 1e-5},
    'mobilenetv4_hybrid_medium': {'stages': _HYBRID_MEDIUM, 'layer_scale': 1e-5},
    'mobilenetv4_hybrid_large_075': {
        'stages': _HYBRID_LARGE, 'width': 0.75, 'stem': 24, 'layer_scale': 1e-5, 'act': 'gelu'},
    'mobilenetv4_hybrid_large': {
        'stages': _HYBRID_LARGE, 'stem': 24, 'layer_scale': 1e-5, 'act': 'gelu'},
    'tiny_mobilenetv4': {'stages': _TINY, 'stem': 8, 'head': 32, 'layer_scale': 0.1},
}
RENAMES = {'head': 'classifier'}


class Universal(mbconv.Block):
    """Inverted residual whose depthwise convolutions, before and in the middle, may be absent.

    Attributes:
      first: kernel size of the first one, 0 for none; ``kernel`` is that of the middle one, which
        has the strides if it is there.
    """

    layer_scale: Callable = branches.layer_scale(None)
    first: int = 0

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        def layer(y_NHWC: jax.Array, features: int, kernel: int, strides: int, name: str,
                  act: Callable = layers.ACTIVATIONS['identity']) -> jax.Array:
            groups = 1 if kernel == 1 else features
            y_NHWC = self.conv(features, kernel, strides, groups, name=f'{name}.conv')(y_NHWC)
            return act(self.norm(name=f'{name}.bn')(y_NHWC))

        y_NHWC, inputs = x_NHWC, x_NHWC.shape[-1]
        width = layers.multiple_of_8(inputs * self.expand, mbconv.LEAST)
        if self.first:
            strides = 1 if self.kernel else self.strides
            y_NHWC = layer(y_NHWC, inputs, self.first, strides, 'dw_start')
        y_NHWC = layer(y_NHWC, width, 1, 1, 'pw_exp', self.act)
        if self.kernel:
            y_NHWC = layer(y_NHWC, width, self.kernel, self.strides, 'dw_mid', self.act)
        y_NHWF = layer(y_NHWC, self.features, 1, 1, 'pw_proj')
        return self._add_shortcut(x_NHWC, self.layer_scale(name='layer_scale')(y_NHWF), rate)


class MobileAttention(mbconv.Block):
    """Attention of many queries to one set of keys and values (Shazeer 2019, arXiv:1911.02150).

    It returns (y_NHWF, attn_NHLL in float32), not y_NHWF alone, if ``attend`` gives maps.

    Attributes:
      key_width: width of keys, values and queries.
      key_strides: strides of a depthwise 3x3 convolution before keys and values; 1 for none.
    """

    layer_scale: Callable = branches.layer_scale(None)
    attend: Callable = attend
    heads: int = 4
    key_width: int = 64
    key_strides: int = 1

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array | Attended:
        N, H, W, C = x_NHWC.shape
        # Xavier's variance, as no ReLU follows these convolutions.
        conv = partial(self.conv, kernel_init=nn.initializers.xavier_uniform())

        def project(y_NHWC: jax.Array, name: str) -> jax.Array:
            if self.key_strides > 1:
                y_NHWC = conv(C, 3, self.key_strides, C, name=f'{name}.down_conv')(y_NHWC)
                y_NHWC = self.norm(name=f'{name}.norm')(y_NHWC)
            y_NHWK = conv(self.key_width, 1, name=f'{name}.proj')(y_NHWC)
            y_NL1K = y_NHWK.reshape(N, -1, 1, self.key_width)
            return jnp.broadcast_to(y_NL1K, (N, y_NL1K.shape[1], self.heads, self.key_width))

        y_NHWC = self.norm(name='norm')(x_NHWC)
        q_NHWK = conv(self.heads * self.key_width, 1, name='attn.query.proj')(y_NHWC)
        q_NLHK = q_NHWK.reshape(N, H * W, self.heads, self.key_width)
        y_NLHK, attn_NHLL = self.attend(
            q_NLHK, project(y_NHWC, 'attn.key'), project(y_NHWC, 'attn.value'))
        y_NHWK = y_NLHK.reshape(N, H, W, self.heads * self.key_width)
        y_NHWF = conv(self.features, 1, name='attn.output.proj')(y_NHWK)
        y_NHWF = self._add_shortcut(x_NHWC, self.layer_scale(name='layer_scale')(y_NHWF), rate)
        return y_NHWF if attn_NHLL is None else (y_NHWF, attn_NHLL)


class Model(mbconv.Net):
    """MobileNetV4 (Qin et al. 2024, arXiv:2404.10518).

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      stages: the table of the blocks, see ``parts.mbconv``.
      stem: channels of the first convolution, not scaled by ``width``.
      head: width of the hidden layer after pooling, not scaled by ``width``; 0 for none.
      width: factor of the channels of the stages, which are rounded to multiples of 8.
      layer_scale: start of a learned factor per channel at the end of 'universal' and 'attention'
        blocks (Touvron et al. 2021, arXiv:2103.17239); None for none.
      attention: 'xla', 'cudnn' (GPU, bfloat16) or 'maps', which adds stage3_block4_attn.. to
        ``out``.
      padding: 'torch', equal on both sides, or 'same', TensorFlow's, which differs at stride 2.
      epsilon: added to the variance in the norms.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    stages: tuple = _SMALL
    layer_scale: float | None = None
    attention: str = 'xla'
    drop_path: float = 0.0

    hidden = 'normed'

    def _block(self, name: str) -> Callable:
        own = {'layer_scale': branches.layer_scale(self.layer_scale)}
        if name == 'universal':
            return partial(self._remat(Universal), **own)
        if name == 'attention':
            own['attend'] = layers.pick('attention', self.attention, ATTENTIONS)
            return partial(self._remat(MobileAttention), **own)
        return super()._block(name)
