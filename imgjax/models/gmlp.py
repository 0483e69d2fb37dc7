"""gMLP: MLPs over the channels, gated by a dense layer over the patches."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, layers
from imgjax.models.parts.mixer import forward

VARIANTS = {
    'gmlp_ti16_224': {'width': 128},
    'gmlp_s16_224': {'width': 256},
    'gmlp_b16_224': {'width': 512},
    'tiny_gmlp': {'width': 16, 'depth': 2, 'mlp_ratio': 4.0, 'patch_size': 4, 'gate_std': 0.02},
}


class SpatialGate(nn.Module):
    """One half of the channels times a dense layer over patches of the other: x_NLF -> y_NLG."""

    std: float
    dtype: Any

    @nn.compact
    def __call__(self, x_NLF: jax.Array) -> jax.Array:
        u_NLG, v_NLG = jnp.split(x_NLF, 2, axis=-1)
        v_NLG = layers.layer_norm(epsilon=1e-5, dtype=self.dtype, name='norm')(v_NLG)
        over_patches = layers.Dense(
            x_NLF.shape[1], dtype=self.dtype, kernel_init=nn.initializers.normal(self.std),
            bias_init=layers.ones, name='proj')
        return u_NLG * over_patches(v_NLG.swapaxes(1, 2)).swapaxes(1, 2)


class GatedMlp(nn.Module):
    """Dense layer, activation, gate, dense layer: x_NLD -> y_NLD."""

    hidden: int
    act: Callable
    gate: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_NLD: jax.Array) -> jax.Array:
        dense = partial(layers.Dense, dtype=self.dtype, bias_init=nn.initializers.normal(1e-6),
                        kernel_init=nn.initializers.xavier_uniform())
        y_NLG = self.gate(name='gate')(self.act(dense(self.hidden, name='fc1')(x_NLD)))
        return dense(x_NLD.shape[-1], name='fc2')(y_NLG)


class Block(nn.Module):
    """(x_NLD, drop_path rate) -> y_NLD: a residual branch of norm and gated MLP."""

    mlp: Callable
    norm: Callable
    residual: Callable

    @nn.compact
    def __call__(self, x_NLD: jax.Array, rate: branches.Rate) -> jax.Array:
        y_NLD = self.mlp(name='mlp_channels')(self.norm(name='norm')(x_NLD))
        return self.residual()(x_NLD, y_NLD, rate)


class Model(nn.Module):
    """gMLP (Liu et al. 2021, arXiv:2105.08050); its head starts at zero.

    The image given to ``init`` sets the resolution: the gates have its shape.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      patch_size: side of a patch in pixels; must divide the sides of the image.
      width: D of the tokens.
      depth: number of blocks.
      mlp_ratio: hidden width of a block before the gate halves it, as a multiple of ``width``.
      gate_std: standard deviation of the gates' weights at the start; near 0 all gates start at 1
        and patches are independent, which the paper finds to matter.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    patch_size: int = 16
    width: int = 256
    depth: int = 30
    mlp_ratio: float = 6.0
    gate_std: float = 1e-6
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
          ValueError: the patch size does not divide the image, or the hidden width is odd.
        """
        dtype = layers.compute_dtype(self.dtype)
        hidden = int(self.width * self.mlp_ratio)
        if hidden % 2:
            raise ValueError(f'the hidden width, {hidden}, cannot be split into halves')
        norm = partial(layers.layer_norm, epsilon=1e-6, dtype=dtype)
        mlp = partial(GatedMlp, hidden, layers.activation(self.act), dtype=dtype,
                      gate=partial(SpatialGate, self.gate_std, dtype))
        block = partial(nn.remat(Block) if self.remat else Block, mlp=mlp, norm=norm,
                        residual=branches.residual(self.drop_path, train=train))

        return forward(self, image_NHWC.astype(dtype), block, norm, train=train)
