"""XCiT: transformers whose attention is between channels, not tokens, as timm has them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from imgjax.models.cait import ClassAttention
from imgjax.models.parts import branches, convolve, layers
from imgjax.models.parts.attention import ATTENTIONS, Attended

_SIZES = {
    'nano_12': {'width': 128, 'depth': 12, 'heads': 4, 'norm_patches': False},
    'tiny_12': {'width': 192, 'depth': 12, 'heads': 4},
    'tiny_24': {'width': 192, 'depth': 24, 'heads': 4, 'layer_scale': 1e-5},
    'small_12': {'width': 384, 'depth': 12, 'heads': 8},
    'small_24': {'width': 384, 'depth': 24, 'heads': 8, 'layer_scale': 1e-5},
    'medium_24': {'width': 512, 'depth': 24, 'heads': 8, 'layer_scale': 1e-5},
    'large_24': {'width': 768, 'depth': 24, 'heads': 16, 'layer_scale': 1e-5},
}
VARIANTS = {
    f'xcit_{size}_p{patch}_{side}': {**options, 'patch_size': patch}
    for size, options in _SIZES.items() for patch in (16, 8) for side in (224, 384)
}
VARIANTS['tiny_xcit'] = {'width': 16, 'depth': 2, 'heads': 2, 'patch_size': 4, 'init_std': 0.1}


def fourier(h: int, w: int, width: int = 32) -> np.ndarray:
    """Returns float32 waves (h, w, 2 * width) of y, then of x, alternating sine and cosine.

    A side of any length is one full turn at the highest frequency; the frequencies fall
    geometrically from 1 towards 1 / 10,000.
    """
    omega_F = 10_000.0 ** (-2 * np.arange(width // 2) / width)

    def waves(side: int) -> np.ndarray:
        angles_LF = (2 * np.pi * np.arange(1, side + 1) / side)[:, None] * omega_F
        return np.stack([np.sin(angles_LF), np.cos(angles_LF)], axis=-1).reshape(side, width)

    y_HWF = np.broadcast_to(waves(h)[:, None], (h, w, width))
    x_HWF = np.broadcast_to(waves(w)[None], (h, w, width))
    return np.concatenate([y_HWF, x_HWF], axis=-1).astype(np.float32)


class CrossCovariance(nn.Module):
    """Attention between the channels of a head, x_NLD -> y_NLD, linear in the number of tokens."""

    heads: int
    kernel_init: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_NLD: jax.Array) -> jax.Array:
        N, L, D = x_NLD.shape
        dense = partial(layers.Dense, kernel_init=self.kernel_init, dtype=self.dtype)
        qkv_NL3HK = dense(3 * D, name='qkv')(x_NLD).reshape(N, L, 3, self.heads, D // self.heads)
        q_NLHK, k_NLHK, v_NLHK = (qkv_NL3HK[:, :, i] for i in range(3))
        temperature_H11 = self.param('temperature', layers.ones, (self.heads, 1, 1), jnp.float32)

        def unit(x_NLHK: jax.Array) -> jax.Array:
            """Returns each channel, scaled to length 1 over the tokens."""
            x_NLHK = x_NLHK.astype(jnp.float32)
            squares_N1HK = jnp.sum(jnp.square(x_NLHK), axis=1, keepdims=True)
            return (x_NLHK * jax.lax.rsqrt(jnp.maximum(squares_N1HK, 1e-24))).astype(self.dtype)

        scores_NHKK = jnp.einsum(
            'nlhq,nlhv->nhqv', unit(q_NLHK), unit(k_NLHK), preferred_element_type=jnp.float32)
        attn_NHKK = jax.nn.softmax(scores_NHKK * temperature_H11[None]).astype(self.dtype)
        y_NLHK = jnp.einsum('nhqv,nlhv->nlhq', attn_NHKK, v_NLHK)
        return dense(D, name='proj')(y_NLHK.reshape(N, L, D))


class Block(nn.Module):
    """Attention between channels, convolutions between neighbours and an MLP: x_NLD -> y_NLD.

    Attributes:
      grid: height and width in patches.
      conv: constructor of the two depthwise 3x3 convolutions.
      batch_norm: constructor of the norm between the two.
    """

    attention: Callable
    mlp: Callable
    conv: Callable
    batch_norm: Callable
    act: Callable
    norm: Callable
    residual: Callable
    layer_scale: float
    grid: tuple[int, int]

    @nn.compact
    def __call__(self, x_NLD: jax.Array, rate: branches.Rate) -> jax.Array:
        scale = partial(branches.scaled, self, start=self.layer_scale)
        y_NLD = self.attention(name='attn')(self.norm(name='norm1')(x_NLD))
        x_NLD = self.residual()(x_NLD, scale(y_NLD, name='gamma1'), rate)
        y_NLD = self._neighbours(self.norm(name='norm3')(x_NLD))
        x_NLD = self.residual()(x_NLD, scale(y_NLD, name='gamma3'), rate)
        y_NLD = self.mlp(name='mlp')(self.norm(name='norm2')(x_NLD))
        return self.residual()(x_NLD, scale(y_NLD, name='gamma2'), rate)

    def _neighbours(self, x_NLD: jax.Array) -> jax.Array:
        N, L, D = x_NLD.shape
        conv = partial(self.conv, D, 3, groups=D, use_bias=True)
        y_NHWD = self.act(conv(name='local_mp.conv1')(x_NLD.reshape(N, *self.grid, D)))
        y_NHWD = self.batch_norm(name='local_mp.bn')(y_NHWD)
        return conv(name='local_mp.conv2')(y_NHWD).reshape(N, L, D)


class ClassBlock(nn.Module):
    """Attention and MLP of the first token: x_NLD -> (y_NLD, attn_NH1L in float32 or None).

    The patches are only normed, for the next block and the head.
    """

    attention: Callable
    mlp: Callable
    norm: Callable
    layer_scale: float
    norm_patches: bool

    @nn.compact
    def __call__(self, x_NLD: jax.Array) -> Attended:
        scale = partial(branches.scaled, self, start=self.layer_scale)
        y_NLD = self.norm(name='norm1')(x_NLD)
        token_N1D, attn_NH1L = self.attention(name='attn')(y_NLD)
        y_NLD = jnp.concatenate([token_N1D, y_NLD[:, 1:]], axis=1)
        x_NLD = x_NLD + scale(y_NLD, name='gamma1')
        norm = self.norm(name='norm2')
        if self.norm_patches:
            x_NLD = norm(x_NLD)
        else:
            x_NLD = jnp.concatenate([norm(x_NLD[:, :1]), x_NLD[:, 1:]], axis=1)
        token_N1D = scale(self.mlp(name='mlp')(x_NLD[:, :1]), name='gamma2')
        # As in the reference, the patches are added to themselves.
        return x_NLD + jnp.concatenate([token_N1D, x_NLD[:, 1:]], axis=1), attn_NH1L


class Model(nn.Module):
    """Cross-covariance image transformer (El-Nouby et al. 2021, arXiv:2106.09681).

    No parameter depends on the image's size.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      patch_size: side of a patch, 2^n: n 3x3 convolutions of stride 2 make the patches.
      width: D of the tokens; divisible by ``heads`` and half ``patch_size``.
      depth: number of blocks of the patches alone.
      token_depth: number of blocks of the class token after them.
      heads: number of attention heads.
      mlp_ratio: hidden width of a block's MLP, as a multiple of ``width``.
      norm_patches: whether the blocks of the class token norm the patches a second time.
      layer_scale: start of a learned factor per channel after each branch of a block.
      init_std: standard deviation of the dense kernels at the start.
      epsilon: of the layer norms.
      attention: of the class token, 'xla' or 'maps', which adds token00_attn.. to ``out``.
      dropout: rate before the head.
      drop_path: rate of stochastic depth, the same in all blocks of patches, as in the paper.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    patch_size: int = 16
    width: int = 384
    depth: int = 12
    token_depth: int = 2
    heads: int = 8
    mlp_ratio: float = 4.0
    norm_patches: bool = True
    layer_scale: float = 1.0
    init_std: float = 0.02
    epsilon: float = 1e-6
    attention: str = 'xla'
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    act: str = 'gelu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has embed, block00.. (N, L, D; patches), token00.. (N, 1 + L, D; class token
        first), encoded (N, D; the normed token), pre_logits and logits.

        Raises:
          ValueError: the patch size is no power of two or does not divide the image, or the heads
            or half the patch size do not divide the width.
        """
        dtype = layers.compute_dtype(self.dtype)
        N, P, D = image_NHWC.shape[0], self.patch_size, self.width
        steps = P.bit_length() - 1
        if P < 2 or P != 2**steps:
            raise ValueError(f'patch_size {P} is no power of two: strides of 2 make the patches')
        if image_NHWC.shape[1] % P or image_NHWC.shape[2] % P:
            raise ValueError(f'patches of {P} pixels do not tile an image of '
                             f'{image_NHWC.shape[1]} by {image_NHWC.shape[2]}')
        if D % self.heads or D % (P // 2):
            raise ValueError(f'width {D} is not divisible by {self.heads} heads and by {P // 2}')
        act, init = layers.activation(self.act), nn.initializers.normal(self.init_std)
        conv = partial(convolve.Conv, dtype=dtype)
        batch_norm = partial(layers.BatchNorm, train=train, dtype=dtype)
        norm = partial(layers.layer_norm, epsilon=self.epsilon, dtype=dtype)
        mlp = partial(layers.Mlp, int(D * self.mlp_ratio), act, kernel_init=init, dtype=dtype)
        attend = layers.pick('attention', self.attention, {
            name: ATTENTIONS[name] for name in ('xla', 'maps')})

        x_NHWD = image_NHWC.astype(dtype)
        for i in range(steps):
            x_NHWD = conv(D >> (steps - 1 - i), 3, 2, name=f'patch_embed.proj.{2 * i}.0')(x_NHWD)
            x_NHWD = batch_norm(name=f'patch_embed.proj.{2 * i}.1')(x_NHWD)
            x_NHWD = act(x_NHWD) if i + 1 < steps else x_NHWD
        grid = x_NHWD.shape[1:3]
        waves_1HWF = jnp.asarray(fourier(*grid))[None]
        x_NHWD += conv(D, 1, use_bias=True, name='pos_embed.token_projection')(waves_1HWF)
        x_NLD = x_NHWD.reshape(N, -1, D)
        out = {'embed': x_NLD}
        for i in range(self.depth):
            block = nn.remat(Block) if self.remat else Block
            x_NLD = block(
                partial(CrossCovariance, self.heads, init, dtype), mlp, conv, batch_norm, act, norm,
                branches.residual(self.drop_path, train=train), self.layer_scale, grid,
                name=f'blocks.{i}')(x_NLD, self.drop_path)
            out[f'block{i:02}'] = x_NLD
        token_11D = self.param('cls_token', nn.initializers.normal(0.02), (1, 1, D), jnp.float32)
        x_NLD = layers.prepend(token_11D, x_NLD)
        for i in range(self.token_depth):
            x_NLD, attn_NH1L = ClassBlock(
                partial(ClassAttention, self.heads, attend, dtype), mlp, norm, self.layer_scale,
                self.norm_patches, name=f'cls_attn_blocks.{i}')(x_NLD)
            out[f'token{i:02}'] = x_NLD
            if attn_NH1L is not None:
                out[f'token{i:02}_attn'] = attn_NH1L
        out['encoded'] = norm(name='norm')(x_NLD[:, 0])
        out['pre_logits'] = out['encoded'].astype(jnp.float32)
        x_ND = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_ND, self.num_classes, nn.initializers.normal(0.02))
        return out['logits'], out
