"""MLP-Mixer: dense layers over the patches and over the channels in turns."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import convolve, layers

_SMALL = {'width': 512, 'depth': 8}
_BASE = {'width': 768, 'depth': 12}
_LARGE = {'width': 1024, 'depth': 24}
VARIANTS = {
    'mixer_s32_224': {**_SMALL, 'patch_size': 32},
    'mixer_s16_224': {**_SMALL, 'patch_size': 16},
    'mixer_b32_224': {**_BASE, 'patch_size': 32},
    'mixer_b16_224': {**_BASE, 'patch_size': 16},
    'mixer_l32_224': {**_LARGE, 'patch_size': 32},
    'mixer_l16_224': {**_LARGE, 'patch_size': 16},
    'tiny_mlp_mixer': {'width': 16, 'depth': 2, 'patch_size': 4},
}


class Block(nn.Module):
    """(x_NLD, drop_path rate) -> y_NLD: both MLPs after a norm, around shortcuts."""

    tokens: int
    channels: int
    mlp: Callable
    norm: Callable
    residual: Callable

    @nn.compact
    def __call__(self, x_NLD, rate):
        y_NDL = self.norm(name='norm1')(x_NLD).swapaxes(1, 2)
        y_NDL = self.mlp(self.tokens, name='mlp_tokens')(y_NDL)
        x_NLD = self.residual()(x_NLD, y_NDL.swapaxes(1, 2), rate)
        y_NLD = self.mlp(self.channels, name='mlp_channels')(self.norm(name='norm2')(x_NLD))
        return self.residual()(x_NLD, y_NLD, rate)


def run(model, image_NHWC, block, norm, *, train: bool):
    """Returns what every model of blocks over patches does, for its ``model`` to return.

    Args:
      model: has num_classes, patch_size, width, depth, dropout and drop_path, and gets the layers.
      image_NHWC: of the compute dtype.
      block: constructor of a block, (x_NLD, drop_path rate) -> y_NLD.
      norm: constructor of the norm after them.
      train: whether dropout is active.
    """
    x_NHWD = convolve.patches(
        image_NHWC, model.patch_size, model.width, dtype=image_NHWC.dtype, name='stem.proj')
    x_NLD = x_NHWD.reshape(image_NHWC.shape[0], -1, model.width)
    out = {'embed': x_NLD}
    for i in range(model.depth):
        rate = model.drop_path * i / max(1, model.depth - 1)
        x_NLD = block(name=f'blocks.{i}')(x_NLD, rate)
        out[f'block{i:02}'] = x_NLD
    out['encoded'] = norm(name='norm')(x_NLD)
    out['pre_logits'] = out['encoded'].mean(axis=1, dtype=jnp.float32)
    x_ND = nn.Dropout(model.dropout, deterministic=not train)(out['pre_logits'])
    out['logits'] = layers.head(x_ND, model.num_classes, layers.zeros)
    return out['logits'], out


class Model(nn.Module):
    """MLP-Mixer (Tolstikhin et al. 2021, arXiv:2105.01601); its head starts at zero.

    The image given to ``init`` sets the resolution: the MLPs over patches are shaped by it.

    Attributes:
      num_classes: K, or 0 for the features.
      patch_size: side of a patch; must divide the image's.
      width: D of the tokens.
      depth: number of blocks.
      token_ratio: hidden width of the MLP over patches, over ``width``.
      mlp_ratio: the same of the MLP over channels.
      dropout: rate before the head.
      drop_path: stochastic depth, rising linearly from 0 to this rate in the last block.
      remat: recomputes the blocks in the backward pass, for memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    token_ratio: float = 0.5
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    act: str = 'gelu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC, *, train: bool):
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has embed, block00.. (N, L, D), encoded, pre_logits and logits.

        Raises:
          ValueError: the patch size does not divide the image.
        """
        dtype = layers.compute_dtype(self.dtype)
        norm = partial(layers.layer_norm, epsilon=1e-6, dtype=dtype)
        block = partial(
            nn.remat(Block) if self.remat else Block,
            tokens=int(self.width * self.token_ratio),
            channels=int(self.width * self.mlp_ratio),
            mlp=partial(layers.Mlp, act=layers.activation(self.act), dtype=dtype,
                        bias_init=nn.initializers.normal(1e-6)),
            norm=norm,
            residual=partial(layers.Residual, not train or self.drop_path == 0))

        return run(self, image_NHWC.astype(dtype), block, norm, train=train)
