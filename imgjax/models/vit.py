"""Vision transformers, with timm's names and parameter counts."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers
from imgjax.models.parts.attention import ATTENTIONS, BY_HEADS, Attention, attend

_TINY = {'width': 192, 'depth': 12, 'heads': 3}
_SMALL = {'width': 384, 'depth': 12, 'heads': 6}
_BASE = {'width': 768, 'depth': 12, 'heads': 12}
_LARGE = {'width': 1024, 'depth': 24, 'heads': 16}
_HUGE = {'width': 1280, 'depth': 32, 'heads': 16}
_DEIT3 = {'layer_scale': 1e-6, 'pos_tokens': False}
_CLIP = {'pre_norm': True, 'epsilon': 1e-5}
VARIANTS = {
    'vit_tiny_patch16_224': {**_TINY, 'patch_size': 16},
    'vit_small_patch16_224': {**_SMALL, 'patch_size': 16},
    'vit_small_patch32_224': {**_SMALL, 'patch_size': 32},
    'vit_base_patch8_224': {**_BASE, 'patch_size': 8},
    'vit_base_patch16_224': {**_BASE, 'patch_size': 16},
    'vit_base_patch16_384': {**_BASE, 'patch_size': 16},
    'vit_base_patch32_224': {**_BASE, 'patch_size': 32},
    'vit_large_patch16_224': {**_LARGE, 'patch_size': 16},
    'vit_large_patch32_224': {**_LARGE, 'patch_size': 32},
    'vit_huge_patch14_224': {**_HUGE, 'patch_size': 14},
    'deit_tiny_patch16_224': {**_TINY, 'patch_size': 16},
    'deit_small_patch16_224': {**_SMALL, 'patch_size': 16},
    'deit_base_patch16_224': {**_BASE, 'patch_size': 16},
    'deit_tiny_distilled_patch16_224': {**_TINY, 'patch_size': 16, 'distilled': True},
    'deit_small_distilled_patch16_224': {**_SMALL, 'patch_size': 16, 'distilled': True},
    'deit_base_distilled_patch16_224': {**_BASE, 'patch_size': 16, 'distilled': True},
    'deit3_small_patch16_224': {**_SMALL, 'patch_size': 16, **_DEIT3},
    'deit3_base_patch16_224': {**_BASE, 'patch_size': 16, **_DEIT3},
    'deit3_large_patch16_224': {**_LARGE, 'patch_size': 16, **_DEIT3},
    'vit_small_patch14_dinov2': {**_SMALL, 'patch_size': 14, 'layer_scale': 1e-5},
    'vit_base_patch14_dinov2': {**_BASE, 'patch_size': 14, 'layer_scale': 1e-5},
    'vit_large_patch14_dinov2': {**_LARGE, 'patch_size': 14, 'layer_scale': 1e-5},
    'vit_base_patch16_clip_224': {**_BASE, 'patch_size': 16, **_CLIP},
    'vit_base_patch32_clip_224': {**_BASE, 'patch_size': 32, **_CLIP},
    'vit_large_patch14_clip_224': {**_LARGE, 'patch_size': 14, **_CLIP},
    'vit_base_patch16_siglip_224': {**_BASE, 'patch_size': 16, 'pool': 'map'},
    'vit_large_patch16_siglip_256': {**_LARGE, 'patch_size': 16, 'pool': 'map'},
    'tiny_vit': {'width': 16, 'depth': 2, 'heads': 2, 'patch_size': 4},
}
TENSOR_RULES = BY_HEADS
POOLS = {
    'token': lambda x_NLD: x_NLD[:, 0],
    'avg': partial(jnp.mean, axis=1),
    'max': partial(jnp.max, axis=1),
    'token_avg': lambda x_NLD: jnp.concatenate([x_NLD[:, 0], x_NLD[:, 1:].mean(axis=1)], axis=-1),
}
_WITH_TOKEN = ('token', 'token_avg')


class AttentionPool(nn.Module):
    """Pooling by a learned query, x_NLD -> y_ND (SigLIP, Zhai et al. 2023, arXiv:2303.15343)."""

    heads: int
    mlp: Callable
    norm: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_NLD: jax.Array) -> jax.Array:
        N, L, D = x_NLD.shape
        xavier = nn.initializers.xavier_uniform()
        dense = partial(layers.Dense, dtype=self.dtype, kernel_init=xavier)
        latent_11D = self.param('latent', nn.initializers.normal(D**-0.5), (1, 1, D), jnp.float32)
        q_11HK = dense(D, name='q')(latent_11D.astype(self.dtype)).reshape(1, 1, self.heads, -1)
        q_N1HK = jnp.broadcast_to(q_11HK, (N, *q_11HK.shape[1:]))
        kv_NL2HK = dense(2 * D, name='kv')(x_NLD).reshape(N, L, 2, self.heads, -1)
        y_N1HK, _ = attend(q_N1HK, kv_NL2HK[:, :, 0], kv_NL2HK[:, :, 1])
        y_ND = dense(D, name='proj')(y_N1HK.reshape(N, D))
        return y_ND + self.mlp(name='mlp')(self.norm(name='norm')(y_ND))


class Block(nn.Module):
    """Pre-norm transformer block: (x_NLD, drop_path rate) -> (y_NLD, {suffix in out: array})."""

    attention: Callable
    mlp: Callable
    norm: Callable
    drop: Callable
    residual: Callable
    layer_scale: Callable

    @nn.compact
    def __call__(self, x_NLD: jax.Array,
                 rate: branches.Rate) -> tuple[jax.Array, dict[str, jax.Array]]:
        y_NLD, attn_NHLL = self.attention(name='attn')(self.norm(name='norm1')(x_NLD))
        y_NLD = self.layer_scale(name='ls1')(self.drop()(y_NLD))
        x_NLD = self.residual()(x_NLD, y_NLD, rate)
        y_NLD = self.mlp(name='mlp')(self.norm(name='norm2')(x_NLD))
        x_NLD = self.residual()(x_NLD, self.layer_scale(name='ls2')(y_NLD), rate)
        return x_NLD, {'': x_NLD} if attn_NHLL is None else {'': x_NLD, '_attn': attn_NHLL}


def sincos_2d(h: int, w: int, width: int, temperature: float = 10_000.0) -> np.ndarray:
    """Returns the fixed float32 positions (1, h * w, width) of MoCo v3 (arXiv:2104.02057).

    The quarters of the last axis are sin x, cos x, sin y, cos y. ValueError unless 4 | width.
    """
    if width % 4:
        raise ValueError(f"pos 'sincos' needs a width divisible by 4, not {width}")
    omega_F = temperature ** (-np.arange(width // 4) / max(1, width // 4 - 1))
    y_LF, x_LF = (grid.reshape(-1, 1) * omega_F for grid in np.mgrid[:h, :w])
    table_LD = np.concatenate([np.sin(x_LF), np.cos(x_LF), np.sin(y_LF), np.cos(y_LF)], axis=1)
    return table_LD[None].astype(np.float32)


class Model(nn.Module):
    """Vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929); its head starts at zero.

    The image given to ``init`` sets the resolution: the learned positions have its shape.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      patch_size: side of a patch in pixels; must divide the sides of the image.
      width: D of the tokens; divisible by ``heads``.
      depth: number of blocks.
      heads: number of attention heads.
      mlp_ratio: hidden width of a block's MLP, as a multiple of ``width``.
      qkv_bias: whether queries, keys and values have a bias.
      pos: 'learned' or 'sincos' (fixed, patches only).
      pos_tokens: whether tokens other than patches also have a learned position (not in DeiT III,
        Touvron et al. 2022, arXiv:2204.07118).
      pre_norm: whether a norm follows the embedding, whose linear map has no bias (CLIP).
      layer_scale: start of a learned factor per channel after attention and MLP (Touvron et al.
        2021, arXiv:2103.17239); None for none.
      epsilon: added to the variance in the norms.
      pool: 'token', a class token, 'token_avg', it and the mean of the others, concatenated; or
        without one 'avg' or 'max' of the normed patches, or 'map', attention by a learned query.
      distilled: whether a second token has its own head (DeiT, Touvron et al. 2020,
        arXiv:2012.12877): in training ``out`` has its logits_dist, which also get a loss, and in
        evaluation the logits are the mean of both heads.
      attention: 'xla', 'cudnn' (GPU, bfloat16) or 'maps', which adds block00_attn.. to ``out``.
      dropout: rate after positions, attention and both MLP layers.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      scan_layers: whether one block is scanned over parameters ``blocks`` with a leading axis of
        ``depth``, in place of ``blocks.0``..: it compiles in constant time.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    patch_size: int = 16
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    pos: str = 'learned'
    pos_tokens: bool = True
    pre_norm: bool = False
    layer_scale: float | None = None
    epsilon: float = 1e-6
    pool: str = 'token'
    distilled: bool = False
    attention: str = 'xla'
    dropout: float = 0.0
    drop_path: float = 0.0
    scan_layers: bool = False
    remat: bool = False
    act: str = 'gelu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has embed, block00.. (N, L, D; other tokens first), encoded, pre_logits, logits.

        Raises:
          ValueError: the patch size does not divide the image, or the heads the width.
        """
        dtype = layers.compute_dtype(self.dtype)
        drop = partial(nn.Dropout, self.dropout, deterministic=not train)
        norm = partial(layers.layer_norm, epsilon=self.epsilon, dtype=dtype)
        mlp = partial(layers.Mlp, round(self.width * self.mlp_ratio), drop=drop, dtype=dtype,
                      act=layers.activation(self.act), bias_init=nn.initializers.normal(1e-6))
        policy = {
            'attention': partial(
                Attention, heads=self.heads, qkv_bias=self.qkv_bias, dtype=dtype,
                attend=layers.pick('attention', self.attention, ATTENTIONS)),
            'mlp': mlp,
            'norm': norm,
            'drop': drop,
            'residual': branches.residual(self.drop_path, train=train),
            'layer_scale': branches.layer_scale(self.layer_scale),
        }
        layers.pick('pool', self.pool, POOLS | {'map': None})
        if self.width % self.heads:
            raise ValueError(f'width {self.width} is not divisible by {self.heads} heads')

        out = {'embed': drop()(self._embed(image_NHWC.astype(dtype), dtype))}
        x_NLD = norm(name='norm_pre')(out['embed']) if self.pre_norm else out['embed']
        for name, arrays in self._blocks(policy, x_NLD):
            x_NLD = arrays['']
            out |= {name + suffix: array for suffix, array in arrays.items()}
        out['encoded'] = norm(name='norm')(x_NLD)
        if self.pool == 'map':
            pool = AttentionPool(self.heads, mlp, norm, dtype, name='attn_pool')
        else:
            pool = POOLS[self.pool]
        out['pre_logits'] = pool(out['encoded'])
        out['logits'] = layers.head(out['pre_logits'], self.num_classes, layers.zeros)
        if self.distilled:
            second_ND = out['encoded'][:, 1]
            second_NK = layers.head(second_ND, self.num_classes, layers.zeros, name='head_dist')
            if not self.num_classes:
                out['pre_logits'] = (out['pre_logits'] + second_ND) / 2
            elif train:
                out['logits_dist'] = second_NK
            if not train or not self.num_classes:
                out['logits'] = (out['logits'] + second_NK) / 2
        return out['logits'], out

    def _blocks(self, policy: dict[str, Any],
                x_NLD: jax.Array) -> Iterator[tuple[str, dict[str, jax.Array]]]:
        """Yields (name in out, arrays) of each block."""
        # Inside a scan XLA cannot merge the recomputation with the forward pass: no barrier.
        block = nn.remat(Block, prevent_cse=not self.scan_layers) if self.remat else Block
        rates = branches.drop_path_rates(self.drop_path, self.depth)
        if self.scan_layers:
            splits = {'params': True, 'dropout': True}
            blocks = nn.scan(
                block, variable_axes={'params': 0}, split_rngs=splits, length=self.depth
            )(**policy, name='blocks')
            _, stacked = blocks(x_NLD, jnp.asarray(rates, jnp.float32))
            for i in range(self.depth):
                yield f'block{i:02}', {suffix: array[i] for suffix, array in stacked.items()}
        else:
            for i, rate in enumerate(rates):
                x_NLD, arrays = block(**policy, name=f'blocks.{i}')(x_NLD, rate)
                yield f'block{i:02}', arrays

    def _embed(self, x_NHWC: jax.Array, dtype: Any) -> jax.Array:
        """Returns the tokens x_NLD: a linear map of every patch, positions, and other tokens."""
        N, H, W, _ = x_NHWC.shape
        P, D = self.patch_size, self.width
        x_NLD = convolve.patches(
            x_NHWC, P, D, use_bias=not self.pre_norm, dtype=dtype).reshape(N, -1, D)
        names = ['cls_token'] * (self.pool in _WITH_TOKEN) + ['dist_token'] * self.distilled
        tokens = [self.param(name, layers.zeros, (1, 1, D), jnp.float32) for name in names]
        if layers.pick('pos', self.pos, {'learned': True, 'sincos': False}):
            length = x_NLD.shape[1] + len(tokens) * self.pos_tokens
            init = nn.initializers.normal(0.02)
            pos_1LD = self.param('pos_embed', init, (1, length, D), jnp.float32)
        else:
            pos_1LD = jnp.asarray(sincos_2d(H // P, W // P, D))
        before = pos_1LD.shape[1] - x_NLD.shape[1]  # tokens that have a position
        x_NLD = x_NLD + pos_1LD[:, before:].astype(dtype)
        for i, token_11D in reversed(list(enumerate(tokens))):
            if before:
                token_11D = token_11D + pos_1LD[:, i:i + 1]
            x_NLD = layers.prepend(token_11D, x_NLD)
        return x_NLD
