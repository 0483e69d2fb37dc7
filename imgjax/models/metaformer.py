"""MetaFormers: PoolFormer, PoolFormer V2, ConvFormer and CAFormer, with timm's names."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers
from imgjax.models.parts.attention import ATTENTIONS, Attended

_S, _M = (64, 128, 320, 512), (96, 192, 384, 768)
_POOL = {
    size: {'depths': (depth, depth, 3 * depth, depth), 'widths': widths}
    for size, depth, widths in (
        ('s12', 2, _S), ('s24', 4, _S), ('s36', 6, _S), ('m36', 6, _M), ('m48', 8, _M))}
_FORM = {
    's18': {'depths': (3, 3, 9, 3), 'widths': _S},
    's36': {'depths': (3, 12, 18, 3), 'widths': _S},
    'm36': {'depths': (3, 12, 18, 3), 'widths': (96, 192, 384, 576)},
    'b36': {'depths': (3, 12, 18, 3), 'widths': (128, 256, 512, 768)}}
_V2 = {'mixers': ('pool',) * 4, 'norm': 'group', 'mlp_head': False}
_V1 = {**_V2, 'act': 'gelu', 'bias': True, 'epsilon': 1e-5, 'norm_down': False, 'res_scales': 0}
_SCALES = {'s12': 1e-5, 's24': 1e-5, 's36': 1e-6, 'm36': 1e-6, 'm48': 1e-6}
VARIANTS = {
    **{f'poolformer_{size}': {**options, **_V1, 'layer_scale': _SCALES[size]}
       for size, options in _POOL.items()},
    **{f'poolformerv2_{size}': {**options, **_V2} for size, options in _POOL.items()},
    **{f'convformer_{size}': {**options, 'mixers': ('conv',) * 4}
       for size, options in _FORM.items()},
    **{f'caformer_{size}': options for size, options in _FORM.items()},
    'tiny_metaformer': {'depths': (1, 1), 'widths': (8, 16), 'mixers': ('conv', 'attention'),
                        'head_dim': 8, 'res_scales': 1},
}
RENAMES = {'head': 'head.fc', 'norm': 'head.norm'}


def star_relu(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    """Returns s relu(x)^2 + b, with s and b the parameters ``name.scale`` and ``name.bias``."""
    scale_1 = module.param(f'{name}.scale', layers.ones, (1,), jnp.float32)
    bias_1 = module.param(f'{name}.bias', layers.zeros, (1,), jnp.float32)
    scale, bias = (y.astype(x.dtype).reshape((1,) * x.ndim) for y in (scale_1, bias_1))
    return scale * jnp.square(jax.nn.relu(x)) + bias


class Pooling(nn.Module):
    """The mean of the 3x3 neighbourhood of each pixel minus the pixel: x_NHWC -> y_NHWC, None."""

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> Attended:
        y_NHWC = nn.avg_pool(x_NHWC.astype(jnp.float32), (3, 3), padding='SAME',
                             count_include_pad=False)
        return y_NHWC.astype(x_NHWC.dtype) - x_NHWC, None


class SeparableConv(nn.Module):
    """Pointwise to twice the channels, 7x7 depthwise, pointwise back: x_NHWC -> y_NHWC, None."""

    conv: Callable
    activate: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> Attended:
        C = x_NHWC.shape[-1]
        y_NHWF = self.activate(self, 'act1', self.conv(2 * C, 1, name='pwconv1')(x_NHWC))
        y_NHWF = self.conv(2 * C, 7, groups=2 * C, name='dwconv')(y_NHWF)
        return self.conv(C, 1, name='pwconv2')(y_NHWF), None


class Attention(nn.Module):
    """Self-attention over all pixels, without biases: x_NHWC -> y_NHWC, attn_NHLL or None."""

    head_dim: int
    attend: Callable
    dense: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> Attended:
        N, H, W, C = x_NHWC.shape
        if C % self.head_dim:
            raise ValueError(f'width {C} is not divisible by heads of {self.head_dim}')
        qkv = self.dense(3 * C, name='qkv')(x_NHWC)
        qkv_NL3HK = qkv.reshape(N, H * W, 3, -1, self.head_dim)
        y_NLHK, attn_NHLL = self.attend(*(qkv_NL3HK[:, :, i] for i in range(3)))
        return self.dense(C, name='proj')(y_NLHK.reshape(N, H, W, C)), attn_NHLL


class Mlp(nn.Module):
    """Two linear maps of every pixel: x_NHWC -> y_NHWC."""

    linear: Callable
    activate: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        C = x_NHWC.shape[-1]
        y_NHWF = self.activate(self, 'act', self.linear(4 * C, name='fc1')(x_NHWC))
        return self.linear(C, name='fc2')(y_NHWF)


class Block(nn.Module):
    """(x_NHWC, drop_path rate) -> y_NHWC, attn_NHLL or None: token mixer, then MLP."""

    mixer: Callable
    mlp: Callable
    norm: Callable
    layer_scale: float | None
    res_scale: float | None
    residual: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> Attended:
        y_NHWC, attn_NHLL = self.mixer(name='token_mixer')(self.norm(name='norm1')(x_NHWC))
        x_NHWC = self._add(1, x_NHWC, y_NHWC, rate)
        y_NHWC = self.mlp(name='mlp')(self.norm(name='norm2')(x_NHWC))
        return self._add(2, x_NHWC, y_NHWC, rate), attn_NHLL

    def _add(self, i: int, x_NHWC: jax.Array, y_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        # These names have dots, as interop takes a parameter named scale for that of a norm.
        x_NHWC = branches.scaled(self, x_NHWC, f'res_scale{i}.scale', self.res_scale)
        y_NHWC = branches.scaled(self, y_NHWC, f'layer_scale{i}.scale', self.layer_scale)
        return self.residual()(x_NHWC, y_NHWC, rate)


class MlpHead(nn.Module):
    """Float32 logits_NK by an MLP with a norm and dropout before its last layer."""

    num_classes: int
    act: Callable
    drop: Callable

    @nn.compact
    def __call__(self, x_NF: jax.Array) -> jax.Array:
        init = nn.initializers.normal(0.02)
        y_NH = self.act(layers.Dense(4 * x_NF.shape[-1], kernel_init=init, name='fc1')(x_NF))
        y_NH = layers.layer_norm(epsilon=1e-6, dtype=jnp.float32, name='norm')(y_NH)
        return layers.head(self.drop()(y_NH), self.num_classes, init, name='fc2')


class Model(nn.Module):
    """MetaFormer (Yu et al. 2021, arXiv:2111.11418, and 2022, arXiv:2210.13452).

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      depths: number of blocks of each stage; each stage but the first halves the map.
      widths: channels of each stage.
      mixers: 'pool', 'conv' or 'attention' for each stage.
      norm: norm of the blocks, 'layer' or 'group' (one group: over the whole example).
      epsilon: added to the variance in the norms of the blocks.
      bias: whether the norms and MLPs of the blocks have biases.
      norm_down: whether a norm comes after the stem and before each other strided convolution.
      layer_scale: start of a learned factor per channel at the end of both branches; None for none.
      res_scales: number of the last stages that have such factors, from 1, on their shortcuts.
      mlp_head: whether the head is an MLP, not a dense layer.
      head_dim: channels of an attention head; divides the width.
      attention: 'xla', 'cudnn' (GPU, bfloat16) or 'maps', which adds stage3_block0_attn.. to
        ``out``.
      dropout: rate before the last layer.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: 'star_relu', that of the paper, with two learned numbers per layer (in the head the plain
        square of relu), or any of ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (64, 128, 320, 512)
    mixers: tuple[str, ...] = ('conv', 'conv', 'attention', 'attention')
    norm: str = 'layer'
    epsilon: float = 1e-6
    bias: bool = False
    norm_down: bool = True
    layer_scale: float | None = None
    res_scales: int = 2
    mlp_head: bool = True
    head_dim: int = 32
    attention: str = 'xla'
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    act: str = 'star_relu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1.., pre_logits (the input of an MLP head) and logits.

        Raises:
          ValueError: a side of the image is below 3 pixels, or the heads do not divide the width.
        """
        dtype = layers.compute_dtype(self.dtype)
        plain = {'star_relu': lambda x: jnp.square(jax.nn.relu(x)), **layers.ACTIVATIONS}
        act = layers.pick('act', self.act, plain)
        activate = star_relu if self.act == 'star_relu' else lambda module, name, x: act(x)
        init = nn.initializers.normal(0.02)
        conv = partial(convolve.Conv, dtype=dtype, kernel_init=init)
        dense = partial(layers.Dense, use_bias=False, dtype=dtype, kernel_init=init)
        attend = layers.pick('attention', self.attention, ATTENTIONS)
        mixers = {'pool': Pooling, 'conv': partial(SeparableConv, conv, activate),
                  'attention': partial(Attention, self.head_dim, attend, dense)}
        norm = layers.pick('norm', self.norm, {
            'layer': layers.layer_norm, 'group': partial(layers.group_norm, groups=1)})
        norm_down = layers.norm('none', train=train, dtype=dtype)
        if self.norm_down:
            norm_down = partial(layers.layer_norm, epsilon=1e-6, use_bias=False, dtype=dtype)
        block = partial(
            nn.remat(Block) if self.remat else Block, layer_scale=self.layer_scale,
            norm=partial(norm, epsilon=self.epsilon, use_bias=self.bias, dtype=dtype),
            residual=branches.residual(self.drop_path, train=train))

        if min(image_NHWC.shape[1:3]) < 3:
            raise ValueError(f'images of {image_NHWC.shape[1:3]} pixels are too small: each side '
                             f'must have 3')
        x_NHWC = conv(self.widths[0], 7, 4, padding=2, use_bias=True, name='stem.conv')(image_NHWC)
        x_NHWC = norm_down(name='stem.norm')(x_NHWC)
        out = {'stem': x_NHWC}
        rates = iter(branches.drop_path_rates(self.drop_path, sum(self.depths)))
        stages = zip(self.depths, self.widths, self.mixers, strict=True)
        for i, (depth, width, mixer) in enumerate(stages):
            if i:
                x_NHWC = norm_down(name=f'stages.{i}.downsample.norm')(x_NHWC)
                down = conv(width, 3, 2, use_bias=True, name=f'stages.{i}.downsample.conv')
                x_NHWC = down(x_NHWC)
            linear = dense if mixer == 'attention' else partial(conv, kernel_size=1)
            for j in range(depth):
                x_NHWC, attn_NHLL = block(
                    mixer=layers.pick('mixer', mixer, mixers),
                    mlp=partial(Mlp, partial(linear, use_bias=self.bias), activate),
                    res_scale=1.0 if i >= len(self.depths) - self.res_scales else None,
                    name=f'stages.{i}.blocks.{j}')(x_NHWC, next(rates))
                if attn_NHLL is not None:
                    out[f'stage{i + 1}_block{j}_attn'] = attn_NHLL
            out[f'stage{i + 1}'] = x_NHWC
        x_NF = x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)
        out['pre_logits'] = layers.layer_norm(epsilon=1e-6, dtype=jnp.float32, name='norm')(x_NF)
        drop = partial(nn.Dropout, self.dropout, deterministic=not train)
        if self.mlp_head and self.num_classes:
            out['logits'] = MlpHead(self.num_classes, act, drop, name='head')(out['pre_logits'])
        else:
            out['logits'] = layers.head(drop()(out['pre_logits']), self.num_classes, init)
        return out['logits'], out
