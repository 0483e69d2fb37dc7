"""RegNetX and RegNetY, with timm's names and parameter counts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers
from imgjax.models.parts.attention import SqueezeExcite


def _regnet(depth: int, w0: int, wa: float, wm: float, group_width: int,
            se_ratio: float = 0.0) -> dict[str, Any]:
    return {'depth': depth, 'w0': w0, 'wa': wa, 'wm': wm, 'group_width': group_width,
            'se_ratio': se_ratio}


VARIANTS = {
    'regnetx_002': _regnet(13, 24, 36.44, 2.49, 8),
    'regnetx_004': _regnet(22, 24, 24.48, 2.54, 16),
    'regnetx_006': _regnet(16, 48, 36.97, 2.24, 24),
    'regnetx_008': _regnet(16, 56, 35.73, 2.28, 16),
    'regnetx_016': _regnet(18, 80, 34.01, 2.25, 24),
    'regnetx_032': _regnet(25, 88, 26.31, 2.25, 48),
    'regnetx_040': _regnet(23, 96, 38.65, 2.43, 40),
    'regnetx_064': _regnet(17, 184, 60.83, 2.07, 56),
    'regnetx_080': _regnet(23, 80, 49.56, 2.88, 120),
    'regnetx_120': _regnet(19, 168, 73.36, 2.37, 112),
    'regnetx_160': _regnet(22, 216, 55.59, 2.1, 128),
    'regnetx_320': _regnet(23, 320, 69.86, 2.0, 168),
    'regnety_002': _regnet(13, 24, 36.44, 2.49, 8, 0.25),
    'regnety_004': _regnet(16, 48, 27.89, 2.09, 8, 0.25),
    'regnety_006': _regnet(15, 48, 32.54, 2.32, 16, 0.25),
    'regnety_008': _regnet(14, 56, 38.84, 2.4, 16, 0.25),
    'regnety_016': _regnet(27, 48, 20.71, 2.65, 24, 0.25),
    'regnety_032': _regnet(21, 80, 42.63, 2.66, 24, 0.25),
    'regnety_040': _regnet(22, 96, 31.41, 2.24, 64, 0.25),
    'regnety_064': _regnet(25, 112, 33.22, 2.27, 72, 0.25),
    'regnety_080': _regnet(17, 192, 76.82, 2.19, 56, 0.25),
    'regnety_120': _regnet(19, 168, 73.36, 2.37, 112, 0.25),
    'regnety_160': _regnet(18, 200, 106.23, 2.48, 112, 0.25),
    'regnety_320': _regnet(20, 232, 115.89, 2.53, 232, 0.25),
    'regnety_640': _regnet(20, 352, 147.48, 2.4, 328, 0.25),
    'regnety_1280': _regnet(27, 456, 160.83, 2.52, 264, 0.25),
    'tiny_regnet': {**_regnet(2, 16, 16.0, 2.0, 8, 0.25), 'stem_width': 16, 'stem_strides': 1},
}
RENAMES = {'head': 'head.fc'}


def stages(depth: int, w0: int, wa: float, wm: float,
           group_width: int) -> list[tuple[int, int, int]]:
    """Returns (width, blocks, groups) of every stage, by the paper's quantised linear widths.

    The linear width of block j is w0 + wa * j. It is quantised to the nearest w0 * wm^k by ratio,
    then to a multiple of 8 and of the group width. Blocks of equal width form a stage.

    >>> stages(13, 24, 36.44, 2.49, 8)
    [(24, 1, 3), (56, 1, 7), (152, 4, 19), (368, 7, 46)]
    """
    linear = np.arange(depth) * wa + w0
    power = np.round(np.log(linear / w0) / np.log(wm))
    widths, blocks = np.unique(8 * np.round(w0 * wm**power / 8).astype(int), return_counts=True)
    result = []
    for width, count in zip(widths.tolist(), blocks.tolist(), strict=True):
        group = min(group_width, width)
        result.append((group * round(width / group), count, round(width / group)))
    return result


class Block(nn.Module):
    """1x1, grouped 3x3 of the same width and 1x1: (x_NHWC, drop_path rate) -> y_NHWF."""

    features: int
    strides: int
    groups: int
    se_ratio: float
    conv: Callable
    act: Callable
    residual: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        C = x_NHWC.shape[-1]
        y_NHWF = self.act(self.conv(self.features, 1, name='conv1')(x_NHWC))
        y_NHWF = self.act(self.conv(
            self.features, 3, self.strides, self.groups, name='conv2')(y_NHWF))
        if self.se_ratio:
            reduced = round(C * self.se_ratio)  # a share of C, not of F
            y_NHWF = SqueezeExcite(reduced, self.act, dtype=self.dtype, name='se')(y_NHWF)
        y_NHWF = self.conv(self.features, 1, scale_init=layers.zeros, name='conv3')(y_NHWF)
        if self.strides > 1 or C != self.features:
            x_NHWC = self.conv(self.features, 1, self.strides, name='downsample')(x_NHWC)
        return self.act(self.residual()(x_NHWC, y_NHWF, rate))


class Model(nn.Module):
    """RegNet (Radosavovic et al. 2020, arXiv:2003.13678), Y with squeeze-and-excitation, else X.

    The last norm of a block starts at scale 0, so that every block starts as its shortcut.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      depth: number of all blocks.
      w0: width of the first block, a multiple of 8; see ``stages`` for this and wa, wm.
      wa: slope of the widths.
      wm: ratio of the widths of two stages.
      group_width: channels per group of the 3x3 convolutions.
      se_ratio: width of the squeeze-and-excitation, as a share of the width of the block's input;
        0 for none.
      stem_width: channels of the 3x3 convolution before the stages.
      stem_strides: strides of that convolution; each stage also halves the map.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    depth: int = 21
    w0: int = 80
    wa: float = 42.63
    wm: float = 2.66
    group_width: int = 24
    se_ratio: float = 0.25
    stem_width: int = 32
    stem_strides: int = 2
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    act: str = 'relu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1.., pre_logits and logits.
        """
        dtype = layers.compute_dtype(self.dtype)
        act = layers.activation(self.act)
        norm = partial(layers.BatchNorm, train=train, dtype=dtype)

        def conv(*args, name: str, scale_init: Callable = layers.ones) -> convolve.ConvNorm:
            return convolve.ConvNorm(partial(convolve.grouped, *args, dtype=dtype),
                                     partial(norm, scale_init=scale_init), name=name)

        block = partial(
            nn.remat(Block) if self.remat else Block, se_ratio=self.se_ratio, conv=conv, act=act,
            residual=branches.residual(self.drop_path, train=train), dtype=dtype)

        x_NHWC = act(conv(self.stem_width, 3, self.stem_strides, name='stem')(image_NHWC))
        out = {'stem': x_NHWC}
        rates = iter(branches.drop_path_rates(self.drop_path, self.depth))
        plan = stages(self.depth, self.w0, self.wa, self.wm, self.group_width)
        for i, (width, depth, groups) in enumerate(plan, 1):
            for j in range(1, depth + 1):
                strides = 2 if j == 1 else 1
                x_NHWC = block(width, strides, groups, name=f's{i}.b{j}')(x_NHWC, next(rates))
            out[f'stage{i}'] = x_NHWC
        out['pre_logits'] = x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_NF, self.num_classes)
        return out['logits'], out
