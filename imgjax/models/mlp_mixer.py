"""MLP-Mixer: dense layers over the patches and over the channels in turns."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from imgjax.models.parts import branches, layers
from imgjax.models.parts.mixer import forward

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
    """(x_NLD, drop_path rate) -> y_NLD: two residual branches, each of a norm and an MLP."""

    tokens: int
    channels: int
    mlp: Callable
    norm: Callable
    residual: Callable

    @nn.compact
    def __call__(self, x_NLD: jax.Array, rate: branches.Rate) -> jax.Array:
        y_NDL = self.norm(name='norm1')(x_NLD).swapaxes(1, 2)
        y_NDL = self.mlp(self.tokens, name='mlp_tokens')(y_NDL)
        x_NLD = self.residual()(x_NLD, y_NDL.swapaxes(1, 2), rate)
        y_NLD = self.mlp(self.channels, name='mlp_channels')(self.norm(name='norm2')(x_NLD))
        return self.residual()(x_NLD, y_NLD, rate)


class Model(nn.Module):
    """MLP-Mixer (Tolstikhin et al. 2021, arXiv:2105.01601); its head starts at zero.

    The image given to ``init`` sets the resolution: the MLPs over patches have its shape.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      patch_size: side of a patch in pixels; must divide the sides of the image.
      width: D of the tokens.
      depth: number of blocks.
      token_ratio: hidden width of the MLP over patches, as a multiple of ``width``.
      mlp_ratio: hidden width of the MLP over channels, as a multiple of ``width``.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
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
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
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
            residual=branches.residual(self.drop_path, train=train))

        return forward(self, image_NHWC.astype(dtype), block, norm, train=train)
