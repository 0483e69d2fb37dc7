"""ConvNeXt and ConvNeXt V2, with timm's names and parameter counts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers


def _sizes(width: int, *depths: int) -> dict[str, tuple[int, ...]]:
    return {'depths': depths, 'widths': tuple(width * 2**i for i in range(len(depths)))}


_ATTO = {**_sizes(40, 2, 2, 6, 2), 'conv_mlp': True}
_FEMTO = {**_sizes(48, 2, 2, 6, 2), 'conv_mlp': True}
_PICO = {**_sizes(64, 2, 2, 6, 2), 'conv_mlp': True}
_NANO = {**_sizes(80, 2, 2, 8, 2), 'conv_mlp': True}
_TINY = _sizes(96, 3, 3, 9, 3)
_SMALL = _sizes(96, 3, 3, 27, 3)
_BASE = _sizes(128, 3, 3, 27, 3)
_LARGE = _sizes(192, 3, 3, 27, 3)
_V2 = {'response_norm': True, 'layer_scale': None}
_TEST = {'epsilon': 1e-5, 'act': 'gelu_tanh'}
VARIANTS = {
    'convnext_atto': _ATTO,
    'convnext_femto': _FEMTO,
    'convnext_pico': _PICO,
    'convnext_nano': _NANO,
    'convnext_atto_ols': {**_ATTO, 'stem': 'tiered'},
    'convnext_femto_ols': {**_FEMTO, 'stem': 'tiered'},
    'convnext_pico_ols': {**_PICO, 'stem': 'tiered'},
    'convnext_nano_ols': {**_NANO, 'stem': 'overlap'},
    'convnext_tiny': _TINY,
    'convnext_tiny_hnf': {**_TINY, 'conv_mlp': True, 'norm_first': True},
    'convnext_small': _SMALL,
    'convnext_base': _BASE,
    'convnext_large': _LARGE,
    'convnext_large_mlp': {**_LARGE, 'head_hidden': 1536},
    'convnext_xlarge': _sizes(256, 3, 3, 27, 3),
    'convnext_xxlarge': {**_sizes(384, 3, 4, 30, 3), 'epsilon': 1e-5},
    'convnextv2_atto': {**_ATTO, **_V2},
    'convnextv2_femto': {**_FEMTO, **_V2},
    'convnextv2_pico': {**_PICO, **_V2},
    'convnextv2_nano': {**_NANO, **_V2},
    'convnextv2_tiny': {**_TINY, **_V2},
    'convnextv2_small': {**_SMALL, **_V2},
    'convnextv2_base': {**_BASE, **_V2},
    'convnextv2_large': {**_LARGE, **_V2},
    'convnextv2_huge': {**_sizes(352, 3, 3, 27, 3), **_V2},
    'test_convnext': {'depths': (1, 2, 4, 2), 'widths': (24, 32, 48, 64), **_TEST},
    'test_convnext2': {'depths': (1, 1, 1, 1), 'widths': (32, 64, 96, 128), **_TEST},
    'tiny_convnext': {**_sizes(8, 1, 1), 'patch_size': 2, 'kernel_size': 3, 'layer_scale': 0.1},
}
# These lie at the top level here, so that only the classifier is named head.
RENAMES = {'head': 'head.fc', 'norm': 'head.norm', 'pre_logits': 'head.pre_logits'}


class GlobalResponseNorm(nn.Module):
    """x_NHWC plus x_NHWC times the norm of its channel over the image, relative to their mean."""

    dtype: Any
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        shape = (x_NHWC.shape[-1],)
        scale_C = self.param('scale', layers.zeros, shape, jnp.float32)
        bias_C = self.param('bias', layers.zeros, shape, jnp.float32)
        x_NHWC = x_NHWC.astype(jnp.float32)
        square_N11C = jnp.sum(jnp.square(x_NHWC), axis=(1, 2), keepdims=True)
        # The root has no gradient at 0, the norm of a channel that is 0 in the whole image.
        norm_N11C = jnp.sqrt(jnp.maximum(square_N11C, 1e-20))
        ratio_N11C = norm_N11C / (norm_N11C.mean(axis=-1, keepdims=True) + self.epsilon)
        factor_N11C = 1.0 + scale_C.reshape(1, 1, 1, -1) * ratio_N11C
        return (x_NHWC * factor_N11C + bias_C.reshape(1, 1, 1, -1)).astype(self.dtype)


class Mlp(nn.Module):
    """Two linear maps of every pixel: x_NHWC -> y_NHWC."""

    linear: Callable
    act: Callable
    response_norm: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        y_NHWF = self.act(self.linear(4 * x_NHWC.shape[-1], name='fc1')(x_NHWC))
        return self.linear(x_NHWC.shape[-1], name='fc2')(self.response_norm(name='grn')(y_NHWF))


class Block(nn.Module):
    """(x_NHWC, drop_path rate) -> y_NHWC: a residual branch of depthwise, norm and MLP."""

    kernel_size: int
    conv: Callable
    norm: Callable
    mlp: Callable
    layer_scale: float | None
    residual: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        C = x_NHWC.shape[-1]
        y_NHWC = self.conv(C, self.kernel_size, groups=C, name='conv_dw')(x_NHWC)
        y_NHWC = self.mlp(name='mlp')(self.norm(name='norm')(y_NHWC))
        y_NHWC = branches.scaled(self, y_NHWC, 'gamma', self.layer_scale)
        return self.residual()(x_NHWC, y_NHWC, rate)


class Model(nn.Module):
    """ConvNeXt (Liu et al. 2022, arXiv:2201.03545).

    With ``response_norm`` and no ``layer_scale`` it is V2 (Woo et al. 2023, arXiv:2301.00808).

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      depths: number of blocks of each stage; each stage but the first halves the map.
      widths: channels of each stage.
      stem: 'patch', or two 3x3 convolutions of stride 2, the first as wide as the second
        ('overlap') or about half of it ('tiered').
      patch_size: side of the patches of the stem 'patch'.
      kernel_size: side of the depthwise convolutions.
      conv_mlp: whether the weights of the MLPs are those of 1x1 convolutions, else of dense layers.
      response_norm: whether the MLPs have global response norm.
      layer_scale: start of a learned factor per channel at the end of a block; None for none.
      epsilon: added to the variance in the norms.
      norm_first: whether in the head the norm comes before the pooling.
      head_hidden: width of a hidden layer of the head; 0 for none.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    stem: str = 'patch'
    patch_size: int = 4
    kernel_size: int = 7
    conv_mlp: bool = False
    response_norm: bool = False
    layer_scale: float | None = 1e-6
    epsilon: float = 1e-6
    norm_first: bool = False
    head_hidden: int = 0
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    act: str = 'gelu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1.., pre_logits and logits.

        Raises:
          ValueError: the image is so small that nothing is left of it.
        """
        dtype = layers.compute_dtype(self.dtype)
        act = layers.activation(self.act)
        init = nn.initializers.normal(0.02)
        conv = partial(convolve.Conv, use_bias=True, dtype=dtype, kernel_init=init)
        dense = partial(layers.Dense, dtype=dtype, kernel_init=init)
        norm = partial(layers.layer_norm, epsilon=self.epsilon, dtype=dtype)
        response_norm = partial(GlobalResponseNorm, dtype)
        block = partial(
            nn.remat(Block) if self.remat else Block, self.kernel_size, conv, norm,
            mlp=partial(Mlp, partial(conv, kernel_size=1) if self.conv_mlp else dense, act,
                        response_norm if self.response_norm else lambda name: lambda x: x),
            layer_scale=self.layer_scale,
            residual=branches.residual(self.drop_path, train=train))

        x_NHWC = self._stem(image_NHWC, conv, norm)
        out = {'stem': x_NHWC}
        rates = iter(branches.drop_path_rates(self.drop_path, sum(self.depths)))
        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if i:
                x_NHWC = norm(name=f'stages.{i}.downsample.0')(x_NHWC)
                x_NHWC = conv(width, 2, 2, padding=0, name=f'stages.{i}.downsample.1')(x_NHWC)
            for j in range(depth):
                x_NHWC = block(name=f'stages.{i}.blocks.{j}')(x_NHWC, next(rates))
            out[f'stage{i + 1}'] = x_NHWC
        if 0 in x_NHWC.shape[1:3]:
            raise ValueError(f'an image of {image_NHWC.shape[1]} by {image_NHWC.shape[2]} pixels '
                             f'is too small for {len(self.depths)} stages')

        exact_norm = partial(layers.layer_norm, epsilon=self.epsilon, dtype=jnp.float32)
        if self.norm_first:
            x_NF = exact_norm(name='norm_pre')(x_NHWC).mean(axis=(1, 2))
        else:
            x_NF = exact_norm(name='norm')(x_NHWC.mean(axis=(1, 2), dtype=jnp.float32))
        if self.head_hidden:
            x_NF = act(dense(self.head_hidden, name='pre_logits.fc')(x_NF)).astype(jnp.float32)
        out['pre_logits'] = x_NF
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(x_NF)
        out['logits'] = layers.head(x_NF, self.num_classes, init)
        return out['logits'], out

    def _stem(self, x_NHWC: jax.Array, conv: Callable, norm: Callable) -> jax.Array:
        width = self.widths[0]
        first = layers.pick('stem', self.stem, {
            'patch': 0, 'overlap': width, 'tiered': layers.multiple_of_8(width // 2)})
        if not first:
            x_NHWC = conv(width, self.patch_size, self.patch_size, padding=0, name='stem.0')(x_NHWC)
            return norm(name='stem.1')(x_NHWC)
        x_NHWC = conv(first, 3, 2, name='stem.0')(x_NHWC)
        return norm(name='stem.2')(conv(width, 3, 2, name='stem.1')(x_NHWC))
