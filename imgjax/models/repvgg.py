"""RepVGG: trained with three branches a block, evaluated as a plain stack of 3x3 convolutions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers

_A, _B = {'depths': (2, 4, 14, 1)}, {'depths': (4, 6, 16, 1)}
VARIANTS = {
    'repvgg_a0': {**_A, 'widths': (48, 96, 192, 1280), 'stem_width': 48},
    'repvgg_a1': {**_A, 'widths': (64, 128, 256, 1280)},
    'repvgg_a2': {**_A, 'widths': (96, 192, 384, 1408)},
    'repvgg_b0': {**_B, 'widths': (64, 128, 256, 1280)},
    'repvgg_b1': {**_B, 'widths': (128, 256, 512, 2048)},
    'repvgg_b1g4': {**_B, 'widths': (128, 256, 512, 2048), 'groups': 4},
    'repvgg_b2': {**_B, 'widths': (160, 320, 640, 2560)},
    'repvgg_b2g4': {**_B, 'widths': (160, 320, 640, 2560), 'groups': 4},
    'repvgg_b3': {**_B, 'widths': (192, 384, 768, 2560)},
    'repvgg_b3g4': {**_B, 'widths': (192, 384, 768, 2560), 'groups': 4},
    'tiny_repvgg': {'depths': (2, 1), 'widths': (8, 16), 'stem_width': 8, 'stem_strides': 1},
}
RENAMES = {'head': 'head.fc'}
EPSILON = 1e-5  # of the norms


class Block(nn.Module):
    """Sum of a 3x3 and a 1x1 convolution and, where shapes allow, the identity, each with a norm.

    (x_NHWC, drop_path rate) -> y_NHWF. If ``fused`` it is one 3x3 convolution.
    """

    features: int
    strides: int
    groups: int
    fused: bool
    norm: Callable
    act: Callable
    residual: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        if self.fused:
            conv = convolve.Conv(self.features, 3, self.strides, groups=self.groups, use_bias=True,
                                 dtype=self.dtype, name='reparam_conv')
            return self.act(conv(x_NHWC))

        def branch(kernel_size: int, name: str) -> jax.Array:
            conv = partial(convolve.grouped, self.features, kernel_size, self.strides, self.groups,
                           dtype=self.dtype)
            return convolve.ConvNorm(conv, self.norm, name=name)(x_NHWC)

        y_NHWF = branch(3, 'conv_kxk') + branch(1, 'conv_1x1')
        if self.strides == 1 and x_NHWC.shape[-1] == self.features:
            y_NHWF = self.residual()(self.norm(name='identity')(x_NHWC), y_NHWF, rate)
        return self.act(y_NHWF)


class Model(nn.Module):
    """RepVGG (Ding et al. 2021, arXiv:2101.03697).

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      depths: number of blocks of each stage; each stage halves the map.
      widths: channels of each stage, at least as many numbers as stages.
      groups: number of groups of the convolutions in every second block of a stage.
      stem_width: channels of the block before the stages.
      stem_strides: strides of that block.
      fused: whether the model is the plain form for evaluation, whose variables ``fuse`` gives.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block, of the convolutions beside an identity;
        it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    depths: tuple[int, ...] = (2, 4, 14, 1)
    widths: tuple[int, ...] = (64, 128, 256, 1280)
    groups: int = 1
    stem_width: int = 64
    stem_strides: int = 2
    fused: bool = False
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    act: str = 'relu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1.., pre_logits and logits.

        Raises:
          ValueError: the fused form is trained with stochastic depth.
        """
        if self.fused and train and self.drop_path:
            raise ValueError('drop_path needs the branches: a fused RepVGG cannot train with it')
        dtype = layers.compute_dtype(self.dtype)
        block = partial(
            nn.remat(Block) if self.remat else Block, fused=self.fused, dtype=dtype,
            norm=partial(layers.BatchNorm, train=train, epsilon=EPSILON, dtype=dtype),
            act=layers.activation(self.act),
            residual=branches.residual(self.drop_path, train=train))

        x_NHWC = block(self.stem_width, self.stem_strides, 1, name='stem')(image_NHWC, 0.0)
        out = {'stem': x_NHWC}
        rates = iter(branches.drop_path_rates(self.drop_path, sum(self.depths)))
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                groups = self.groups if j % 2 else 1
                x_NHWC = block(self.widths[i], 1 if j else 2, groups,
                               name=f'stages.{i}.{j}')(x_NHWC, next(rates))
            out[f'stage{i + 1}'] = x_NHWC
        out['pre_logits'] = x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_NF, self.num_classes)
        return out['logits'], out


def fuse(variables: dict[str, Any]) -> dict[str, Any]:
    """Returns the variables of ``Model(..., fused=True)`` from those of the trained form.

    In evaluation a norm is a linear map of each channel, so a branch is a convolution with a bias,
    and the kernels of the branches, aligned at their centres, add up to one kernel. The sum is in
    float64. The logits of both forms are equal up to rounding.
    """
    params, stats = variables['params'], variables['batch_stats']
    fused = {name: block if name.startswith('head') else _fuse(block, stats[name])
             for name, block in params.items()}
    return {'params': fused}


def _fuse(block: dict[str, Any], stats: dict[str, Any]) -> dict[str, Any]:
    kernel_HWIF = _double(block['conv_kxk']['conv']['kernel'])
    branches = [(kernel_HWIF, block['conv_kxk']['bn'], stats['conv_kxk']['bn']),
                (_centred(_double(block['conv_1x1']['conv']['kernel'][0, 0])),
                 block['conv_1x1']['bn'], stats['conv_1x1']['bn'])]
    if 'identity' in block:
        inputs, features = kernel_HWIF.shape[2:]
        one_IF = np.tile(np.eye(inputs), features // inputs)  # group by group
        branches.append((_centred(one_IF), block['identity'], stats['identity']))
    kernel, bias = 0.0, 0.0
    for kernel_HWIF, norm, stat in branches:
        factor_F = _double(norm['scale']) / np.sqrt(_double(stat['var']) + EPSILON)
        kernel = kernel + kernel_HWIF * factor_F
        bias = bias + _double(norm['bias']) - _double(stat['mean']) * factor_F
    return {'reparam_conv': {'kernel': np.float32(kernel), 'bias': np.float32(bias)}}


def _double(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64)


def _centred(kernel_IF: np.ndarray) -> np.ndarray:
    """Returns a 1x1 kernel as a 3x3 one."""
    return np.pad(kernel_IF[None, None], ((1, 1), (1, 1), (0, 0), (0, 0)))
