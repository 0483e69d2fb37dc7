"""Residual networks without norms, with timm's names and parameter counts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers, pooling
from imgjax.models.parts.attention import ECA, SqueezeExcite

_DEPTHS = {f'f{i}': tuple((i + 1) * depth for depth in (1, 2, 6, 3)) for i in range(8)}
_DM = {'gamma_in_act': True, 'padding': 'SAME', 'skip_init': True}
_LIGHT = {'group_width': 64, 'bottle_ratio': 0.25, 'act': 'silu'}
_RESNET = {'widths': (256, 512, 1024, 2048), 'stem_width': 64, 'stem': 'imagenet',
           'group_width': 0, 'bottle_ratio': 0.25, 'extra_conv': False, 'features': 0,
           'se_ratio': 1 / 16, 'act': 'relu'}
_50, _101 = {**_RESNET, 'depths': (3, 4, 6, 3)}, {**_RESNET, 'depths': (3, 4, 23, 3)}
VARIANTS = {
    **{f'dm_nfnet_{size}': {'depths': _DEPTHS[size], **_DM} for size in list(_DEPTHS)[:7]},
    **{f'nfnet_{size}': {'depths': depths} for size, depths in _DEPTHS.items()},
    'nfnet_l0': {**_LIGHT, 'features': 2304, 'se_ratio': 0.25},
    'eca_nfnet_l0': {**_LIGHT, 'features': 2304, 'attention': 'eca'},
    'eca_nfnet_l1': {**_LIGHT, 'depths': _DEPTHS['f1'], 'attention': 'eca'},
    'eca_nfnet_l2': {**_LIGHT, 'depths': _DEPTHS['f2'], 'attention': 'eca'},
    'eca_nfnet_l3': {**_LIGHT, 'depths': _DEPTHS['f3'], 'attention': 'eca'},
    'nf_resnet50': {**_50, 'attention': 'none'},
    'nf_resnet101': {**_101, 'attention': 'none'},
    'nf_seresnet50': {**_50, 'attention': 'se'},
    'nf_seresnet101': {**_101, 'attention': 'se'},
    'nf_ecaresnet50': {**_50, 'attention': 'eca'},
    'nf_ecaresnet101': {**_101, 'attention': 'eca'},
    'tiny_nfnet': {'depths': (1, 1), 'widths': (16, 32), 'stem_width': 8, 'stem': 'cifar',
                   'group_width': 8, 'features': 64, 'skip_init': True, 'act': 'silu'},
}
RENAMES = {'head': 'head.fc'}
# 1 / the standard deviation of act(x) for standard normal x. These are the published estimates from
# random numbers, correct to three digits; the last three, not published, are integrals.
GAMMAS = {
    'identity': 1.0,
    'elu': 1.2716004848480225,
    'gelu': 1.7015043497085571,
    'leaky_relu': 1.70590341091156,
    'relu': 1.7139588594436646,
    'relu6': 1.7131484746932983,
    'selu': 1.0008515119552612,
    'sigmoid': 4.803835391998291,
    'silu': 1.7881293296813965,
    'softplus': 1.9203323125839233,
    'tanh': 1.5939117670059204,
    'gelu_tanh': 1.7009165617,
    'hardswish': 1.8138714738,
    'mish': 1.5920253811,
}


class Block(nn.Module):
    """The shortcut plus alpha times convolutions of x / its expected standard deviation.

    (x_NHWC, drop_path rate) -> y_NHWF.

    Attributes:
      features: F.
      strides: of the first 3x3 convolution.
      beta: 1 / the standard deviation of x that the architecture implies.
    """

    features: int
    strides: int
    beta: float
    alpha: float
    group_width: int
    bottle_ratio: float
    extra_conv: bool
    skip_init: bool
    conv: Callable
    act: Callable
    attention: Callable
    residual: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        y_NHWC = self.act(x_NHWC) * self.beta
        if self.strides > 1 or x_NHWC.shape[-1] != self.features:
            x_NHWC = self._shortcut(y_NHWC)
        width, groups = int(self.features * self.bottle_ratio), 1
        if self.group_width:
            groups = max(1, width // self.group_width)
            width = groups * self.group_width
        y_NHWC = self.conv(width, 1, name='conv1')(y_NHWC)
        y_NHWC = self.conv(width, 3, self.strides, groups=groups, name='conv2')(self.act(y_NHWC))
        if self.extra_conv:
            y_NHWC = self.conv(width, 3, groups=groups, name='conv2b')(self.act(y_NHWC))
        start = layers.ones if self.skip_init else layers.zeros
        y_NHWC = self.conv(self.features, 1, gain_init=start, name='conv3')(self.act(y_NHWC))
        y_NHWC = self.attention(name='attn_last')(y_NHWC)
        if self.skip_init:
            gain = self.param('skipinit_gain', layers.zeros, (), jnp.float32)
            y_NHWC = y_NHWC * gain.astype(y_NHWC.dtype)
        return self.residual()(x_NHWC, y_NHWC * self.alpha, rate)

    def _shortcut(self, y_NHWC: jax.Array) -> jax.Array:
        if self.strides > 1:
            y_NHWC = pooling.avg_pool_inside(y_NHWC, self.strides)
        return self.conv(self.features, 1, name='downsample.conv')(y_NHWC)


def _se(name: str, ratio: float, dtype: Any) -> Callable:
    def apply(x_NHWC: jax.Array) -> jax.Array:
        reduced = layers.multiple_of_8(x_NHWC.shape[-1] * ratio)
        return 2.0 * SqueezeExcite(reduced, dtype=dtype, name=name)(x_NHWC)
    return apply


class Model(nn.Module):
    """Norm-free network: NFNet (Brock et al. 2021, arXiv:2102.06171) or NF-ResNet (2101.08692).

    Kernels are standardised, see ``convolve.StdConv``, and the gamma of an activation restores the
    variance after it. Blocks start as their shortcut. Channel attention is multiplied by 2, as its
    gates start near 1/2.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      depths: number of blocks of each stage; each stage but the first halves the map.
      widths: output channels of each stage, at least as many numbers as stages.
      stem_width: channels before the first stage.
      stem: 'quad' (four 3x3, the first and last of stride 2), 'imagenet' (7x7 of stride 2, then max
        pooling) or 'cifar' (3x3, full resolution).
      group_width: channels per group of the 3x3 convolutions; 0 for one group.
      bottle_ratio: width of the 3x3 convolutions, as a share of the width of the block.
      extra_conv: whether a block has a second 3x3 convolution.
      features: channels of a 1x1 convolution after the stages; 0 for none.
      attention: channel attention at the end of a block, 'none', 'se' or 'eca'.
      se_ratio: width of the squeeze-and-excitation, as a share of the width of the block.
      gamma_in_act: whether gammas multiply the activations, as published, else the kernels.
      padding: None, torch's, or 'SAME', TensorFlow's, see ``convolve.Conv``.
      skip_init: whether one learned number, which starts at 0, multiplies the branch of a block;
        else the gains of its last convolution start at 0.
      alpha: weight of the branch of a block.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``; squeeze-and-excitation has ReLU.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    depths: tuple[int, ...] = (1, 2, 6, 3)
    widths: tuple[int, ...] = (256, 512, 1536, 1536)
    stem_width: int = 128
    stem: str = 'quad'
    group_width: int = 128
    bottle_ratio: float = 0.5
    extra_conv: bool = True
    features: int = 3072
    attention: str = 'se'
    se_ratio: float = 0.5
    gamma_in_act: bool = False
    padding: str | None = None
    skip_init: bool = False
    alpha: float = 0.2
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    act: str = 'gelu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1.., final (the last convolution, if any), pre_logits and logits.
        """
        dtype = layers.compute_dtype(self.dtype)
        function = act = layers.activation(self.act)
        gamma = GAMMAS[self.act]
        if self.gamma_in_act:
            act = lambda x: function(x) * gamma  # noqa: E731
        conv = partial(convolve.StdConv, padding=self.padding, use_bias=True, epsilon=1e-5,
                       gamma=1.0 if self.gamma_in_act else gamma, dtype=dtype,
                       kernel_init=nn.initializers.variance_scaling(1.0, 'fan_in', 'normal'))
        block = partial(
            nn.remat(Block) if self.remat else Block, alpha=self.alpha, conv=conv, act=act,
            group_width=self.group_width, bottle_ratio=self.bottle_ratio,
            extra_conv=self.extra_conv, skip_init=self.skip_init,
            residual=branches.residual(self.drop_path, train=train),
            attention=layers.pick('attention', self.attention, {
                'none': lambda name: lambda x: x,
                'se': partial(_se, ratio=self.se_ratio, dtype=dtype),
                'eca': lambda name: lambda x: 2.0 * ECA(dtype, name=name)(x)}))

        x_NHWC = self._stem(image_NHWC, conv, act)
        out = {'stem': x_NHWC}
        rates = iter(branches.drop_path_rates(self.drop_path, sum(self.depths)))
        variance = 1.0
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                strides = 2 if i > 0 and j == 0 else 1
                x_NHWC = block(self.widths[i], strides, variance**-0.5,
                               name=f'stages.{i}.{j}')(x_NHWC, next(rates))
                # The first shortcut of a stage is a convolution, whose output has variance 1.
                variance = (variance if j else 1.0) + self.alpha**2
            out[f'stage{i + 1}'] = x_NHWC
        if self.features:
            out['final'] = x_NHWC = conv(self.features, 1, name='final_conv')(x_NHWC)
        out['pre_logits'] = act(x_NHWC).mean(axis=(1, 2), dtype=jnp.float32)
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_NF, self.num_classes)
        return out['logits'], out

    def _stem(self, x_NHWC: jax.Array, conv: Callable, act: Callable) -> jax.Array:
        width = self.stem_width
        stem = layers.pick('stem', self.stem, {'quad': 1, 'imagenet': 2, 'cifar': 3})
        if stem == 3:
            return conv(width, 3, name='stem.conv')(x_NHWC)
        if stem == 2:
            x_NHWC = conv(width, 7, 2, name='stem.conv')(x_NHWC)
            return pooling.max_pool(x_NHWC, 3, 2, padding=1)
        for i, strides in enumerate((2, 1, 1, 2), 1):
            x_NHWC = conv(width * 2**i // 16, 3, strides, name=f'stem.conv{i}')(x_NHWC)
            x_NHWC = act(x_NHWC) if i < 4 else x_NHWC
        return x_NHWC
