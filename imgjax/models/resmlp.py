"""ResMLP: one dense layer over the patches, an MLP over the channels, and no norm."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, layers
from imgjax.models.parts.mixer import forward

VARIANTS = {
    'resmlp_12_224': {'depth': 12, 'layer_scale': 1e-4},
    'resmlp_24_224': {'depth': 24, 'layer_scale': 1e-5},
    'resmlp_36_224': {'depth': 36, 'layer_scale': 1e-6},
    'resmlp_big_24_224': {'depth': 24, 'layer_scale': 1e-6, 'width': 768, 'patch_size': 8},
    'tiny_resmlp': {'depth': 2, 'layer_scale': 0.1, 'width': 16, 'patch_size': 4},
}


class Affine(nn.Module):
    """x_NLD times a factor plus an offset per channel, in place of a norm."""

    dtype: Any

    @nn.compact
    def __call__(self, x_NLD: jax.Array) -> jax.Array:
        shape = (1, 1, x_NLD.shape[-1])
        alpha_11D = self.param('alpha', layers.ones, shape, jnp.float32)
        beta_11D = self.param('beta', layers.zeros, shape, jnp.float32)
        return (x_NLD.astype(jnp.float32) * alpha_11D + beta_11D).astype(self.dtype)


class Block(nn.Module):
    """(x_NLD, drop_path rate) -> y_NLD: residual branches of a layer over patches and of an MLP."""

    hidden: int
    layer_scale: float | None
    act: Callable
    affine: Callable
    residual: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_NLD: jax.Array, rate: branches.Rate) -> jax.Array:
        xavier = nn.initializers.xavier_uniform()
        over_patches = layers.Dense(
            x_NLD.shape[1], dtype=self.dtype, kernel_init=xavier, name='linear_tokens')
        y_NLD = over_patches(self.affine(name='norm1')(x_NLD).swapaxes(1, 2)).swapaxes(1, 2)
        y_NLD = branches.scaled(self, y_NLD, 'ls1', self.layer_scale)
        x_NLD = self.residual()(x_NLD, y_NLD, rate)
        over_channels = layers.Mlp(
            self.hidden, self.act, dtype=self.dtype, bias_init=nn.initializers.normal(1e-6),
            name='mlp_channels')
        y_NLD = over_channels(self.affine(name='norm2')(x_NLD))
        return self.residual()(x_NLD, branches.scaled(self, y_NLD, 'ls2', self.layer_scale), rate)


class Model(nn.Module):
    """ResMLP (Touvron et al. 2021, arXiv:2105.03404); its head starts at zero.

    The image given to ``init`` sets the resolution: the layers over patches have its shape.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      patch_size: side of a patch in pixels; must divide the sides of the image.
      width: D of the tokens.
      depth: number of blocks.
      mlp_ratio: hidden width of the MLP, as a multiple of ``width``.
      layer_scale: start of a learned factor per channel at the end of both branches, smaller for
        deeper networks; None for none.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    patch_size: int = 16
    width: int = 384
    depth: int = 24
    mlp_ratio: float = 4.0
    layer_scale: float | None = 1e-5
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
        affine = partial(Affine, dtype)
        block = partial(
            nn.remat(Block) if self.remat else Block, hidden=int(self.width * self.mlp_ratio),
            layer_scale=self.layer_scale, act=layers.activation(self.act), dtype=dtype,
            affine=affine,
            residual=branches.residual(self.drop_path, train=train))

        return forward(self, image_NHWC.astype(dtype), block, affine, train=train)
