"""ConvMixer: patches, then depthwise and pointwise convolutions at one resolution."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers

VARIANTS = {
    'convmixer_768_32': {
        'width': 768, 'depth': 32, 'kernel_size': 7, 'patch_size': 7, 'act': 'relu'},
    'convmixer_1024_20_ks9_p14': {'width': 1024, 'depth': 20, 'patch_size': 14},
    'convmixer_1536_20': {'width': 1536, 'depth': 20},
    'tiny_convmixer': {'width': 16, 'depth': 2, 'kernel_size': 3, 'patch_size': 2},
}


class Block(nn.Module):
    """(x_NHWC, drop_path rate) -> y_NHWC: a depthwise residual branch, then a pointwise layer."""

    kernel_size: int
    conv: Callable
    norm: Callable
    act: Callable
    residual: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        C = x_NHWC.shape[-1]
        depthwise = self.conv(C, self.kernel_size, padding='SAME', groups=C, name='0.fn.0')
        y_NHWC = self.norm(name='0.fn.2')(self.act(depthwise(x_NHWC)))
        x_NHWC = self.residual()(x_NHWC, y_NHWC, rate)
        return self.norm(name='3')(self.act(self.conv(C, 1, name='1')(x_NHWC)))


class Model(nn.Module):
    """ConvMixer (Trockman and Kolter 2022, arXiv:2201.09792).

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      patch_size: side of a patch; pixels left over at the lower and right border are not used.
      width: number of channels.
      depth: number of blocks.
      kernel_size: side of the depthwise convolutions.
      dropout: rate before the head.
      drop_path: rate of stochastic depth of the depthwise branch in the last block; it rises
        linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    patch_size: int = 7
    width: int = 1536
    depth: int = 20
    kernel_size: int = 9
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    act: str = 'gelu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, block00.., pre_logits and logits.

        Raises:
          ValueError: the image is smaller than a patch.
        """
        dtype = layers.compute_dtype(self.dtype)
        act = layers.activation(self.act)
        conv = partial(convolve.Conv, use_bias=True, dtype=dtype, kernel_init=layers.torch_uniform)
        norm = partial(layers.BatchNorm, train=train, dtype=dtype)
        block = partial(
            nn.remat(Block) if self.remat else Block, self.kernel_size, conv, norm, act,
            residual=branches.residual(self.drop_path, train=train))

        P, (H, W) = self.patch_size, image_NHWC.shape[1:3]
        if min(H, W) < P:
            raise ValueError(f'an image of {H} by {W} is smaller than a patch of {P} pixels')
        x_NHWC = conv(self.width, P, P, padding=0, name='stem.0')(image_NHWC)
        x_NHWC = norm(name='stem.2')(act(x_NHWC))
        out = {'stem': x_NHWC}
        for i, rate in enumerate(branches.drop_path_rates(self.drop_path, self.depth)):
            x_NHWC = block(name=f'blocks.{i}')(x_NHWC, rate)
            out[f'block{i:02}'] = x_NHWC
        out['pre_logits'] = x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_NF, self.num_classes)
        return out['logits'], out
