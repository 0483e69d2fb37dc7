"""Vision transformers, with timm's names and parameter counts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from imgjax.models import layers

_TINY = {'width': 192, 'depth': 12, 'heads': 3}
_SMALL = {'width': 384, 'depth': 12, 'heads': 6}
_BASE = {'width': 768, 'depth': 12, 'heads': 12}
_LARGE = {'width': 1024, 'depth': 24, 'heads': 16}
_HUGE = {'width': 1280, 'depth': 32, 'heads': 16}
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
    'test_vit': {'width': 16, 'depth': 2, 'heads': 2, 'patch_size': 4},
}


def _einsum(q_NLHK, k_NLHK, v_NLHK):
    # jax.nn.dot_product_attention does the same by implicit promotion, which strict mode refuses.
    scores_NHLL = jnp.einsum('nqhk,nvhk->nhqv', q_NLHK, k_NLHK, preferred_element_type=jnp.float32)
    attn_NHLL = jax.nn.softmax(scores_NHLL * q_NLHK.shape[-1] ** -0.5)
    return jnp.einsum('nhqv,nvhk->nqhk', attn_NHLL.astype(v_NLHK.dtype), v_NLHK), attn_NHLL


def _cudnn(q_NLHK, k_NLHK, v_NLHK):
    return jax.nn.dot_product_attention(q_NLHK, k_NLHK, v_NLHK, implementation='cudnn'), None


ATTENTIONS = {'xla': lambda *qkv: (_einsum(*qkv)[0], None), 'cudnn': _cudnn, 'maps': _einsum}
POOLS = {
    'token': lambda x_NLD: x_NLD[:, 0],
    'avg': partial(jnp.mean, axis=1),
    'max': partial(jnp.max, axis=1),
}


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762) with one qkv projection.

    x_NLD -> (y_NLD, attn_NHLL in float32 or None), as ``attend(q, k, v)`` gives them.
    """

    heads: int
    qkv_bias: bool
    attend: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_NLD):
        N, L, D = x_NLD.shape
        dense = partial(nn.Dense, dtype=self.dtype)
        # Fan-in of the joint kernel is Xavier's scale for three separate square ones.
        init = nn.initializers.variance_scaling(1.0, 'fan_in', 'uniform')
        qkv = dense(3 * D, use_bias=self.qkv_bias, kernel_init=init, name='qkv')(x_NLD)
        qkv_NL3HK = qkv.reshape(N, L, 3, self.heads, D // self.heads)
        y_NLHK, attn_NHLL = self.attend(*(qkv_NL3HK[:, :, i] for i in range(3)))
        proj = dense(D, kernel_init=nn.initializers.xavier_uniform(), name='proj')
        return proj(y_NLHK.reshape(N, L, D)), attn_NHLL


class Block(nn.Module):
    """Pre-norm transformer block: (x_NLD, drop_path rate) -> (y_NLD, {suffix in out: array})."""

    attention: Callable
    dense: Callable
    norm: Callable
    act: Callable
    drop: Callable
    drop_path: Callable
    mlp_ratio: float

    @nn.compact
    def __call__(self, x_NLD, rate):
        D = x_NLD.shape[-1]
        y_NLD, attn_NHLL = self.attention(name='attn')(self.norm(name='norm1')(x_NLD))
        x_NLD = x_NLD + self.drop_path()(self.drop()(y_NLD), rate)
        y_NLM = self.dense(round(D * self.mlp_ratio), name='fc1')(self.norm(name='norm2')(x_NLD))
        y_NLD = self.dense(D, name='fc2')(self.drop()(self.act(y_NLM)))
        x_NLD = x_NLD + self.drop_path()(self.drop()(y_NLD), rate)
        return x_NLD, {'': x_NLD} if attn_NHLL is None else {'': x_NLD, '_attn': attn_NHLL}


def sincos_2d(h: int, w: int, width: int, temperature: float = 10_000.0) -> np.ndarray:
    """Fixed float32 position table (1, h * w, width) of MoCo v3 (arXiv:2104.02057).

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

    The image given to ``init`` sets the resolution: learned positions are shaped by it.

    Attributes:
      num_classes: K, or 0 for the features.
      patch_size: side of a patch; must divide the image's.
      width: D of the tokens; divisible by ``heads``.
      depth: number of blocks.
      heads: attention heads.
      mlp_ratio: hidden width of a block's MLP over ``width``.
      qkv_bias: whether queries, keys and values have a bias.
      pos: 'learned' (with an entry for the class token) or 'sincos' (fixed, patches only).
      pool: 'token', a class token, or with none the 'avg' or 'max' of the normed patches.
      attention: 'xla', 'cudnn' (GPU, bfloat16) or 'maps', which adds block00_attn.. to ``out``.
      dropout: rate after positions, attention and both MLP layers.
      drop_path: stochastic depth, rising linearly from 0 to this rate in the last block.
      scan_layers: one traced block scanned over parameters ``blocks`` of leading axis ``depth``,
        not ``block00``..: compiles in constant time.
      remat: recomputes the blocks in the backward pass, for memory.
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
    pool: str = 'token'
    attention: str = 'xla'
    dropout: float = 0.0
    drop_path: float = 0.0
    scan_layers: bool = False
    remat: bool = False
    act: str = 'gelu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC, *, train: bool):
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has embed, block00.. (N, L, D; the class token first), encoded, pre_logits, logits.

        Raises:
          ValueError: the patch size does not divide the image, or the heads the width.
        """
        dtype = layers.compute_dtype(self.dtype)
        drop = partial(nn.Dropout, self.dropout, deterministic=not train)
        norm = partial(layers.layer_norm, epsilon=1e-6, dtype=dtype)
        pool = layers.pick('pool', self.pool, POOLS)
        policy = {
            'attention': partial(
                Attention,
                heads=self.heads,
                qkv_bias=self.qkv_bias,
                attend=layers.pick('attention', self.attention, ATTENTIONS),
                dtype=dtype,
            ),
            'dense': partial(
                nn.Dense,
                dtype=dtype,
                kernel_init=nn.initializers.xavier_uniform(),
                bias_init=nn.initializers.normal(1e-6),
            ),
            'norm': norm,
            'act': layers.activation(self.act),
            'drop': drop,
            'drop_path': partial(layers.DropPath, not train or self.drop_path == 0),
            'mlp_ratio': self.mlp_ratio,
        }
        if self.width % self.heads:
            raise ValueError(f'width {self.width} is not divisible by {self.heads} heads')

        out = {'embed': drop()(self._embed(image_NHWC.astype(dtype), dtype))}
        x_NLD = out['embed']
        # Inside a scan nothing can be merged with the forward pass, and the barrier only costs.
        block = nn.remat(Block, prevent_cse=not self.scan_layers) if self.remat else Block
        rates = np.linspace(0.0, self.drop_path, self.depth, dtype=np.float32)
        names = [f'block{i:02}' for i in range(self.depth)]
        if self.scan_layers:
            splits = {'params': True, 'dropout': True}
            blocks = nn.scan(
                block, variable_axes={'params': 0}, split_rngs=splits, length=self.depth
            )(**policy, name='blocks')
            x_NLD, stacked = blocks(x_NLD, jnp.asarray(rates))
            for i, name in enumerate(names):
                out |= {name + suffix: array[i] for suffix, array in stacked.items()}
        else:
            for name, rate in zip(names, rates, strict=True):
                x_NLD, arrays = block(**policy, name=name)(x_NLD, rate)
                out |= {name + suffix: array for suffix, array in arrays.items()}
        out['encoded'] = norm(name='norm')(x_NLD)
        out['pre_logits'] = pool(out['encoded'])
        out['logits'] = layers.head(out['pre_logits'], self.num_classes, layers.zeros)
        return out['logits'], out

    def _embed(self, x_NHWC, dtype):
        """Tokens x_NLD: a linear map of every patch, positions, and the class token if any."""
        N, H, W, C = x_NHWC.shape
        P, D = self.patch_size, self.width
        if H % P or W % P:
            raise ValueError(f'patches of {P} pixels do not tile an image of {H} by {W}')
        x_NLF = x_NHWC.reshape(N, H // P, P, W // P, P, C).swapaxes(2, 3).reshape(N, -1, P * P * C)
        x_NLD = nn.Dense(D, dtype=dtype, name='patch_embed')(x_NLF)
        if self.pool == 'token':
            token_11D = self.param('cls_token', layers.zeros, (1, 1, D), jnp.float32)
            token_N1D = jnp.broadcast_to(token_11D.astype(dtype), (N, 1, D))
            x_NLD = jnp.concatenate([token_N1D, x_NLD], axis=1)
        L = x_NLD.shape[1]
        if layers.pick('pos', self.pos, {'learned': True, 'sincos': False}):
            init = nn.initializers.normal(0.02)
            pos_1LD = self.param('pos_embedding', init, (1, L, D), jnp.float32)
        else:
            before = L - x_NLF.shape[1]  # the class token has no place
            pos_1LD = jnp.pad(sincos_2d(H // P, W // P, D), ((0, 0), (before, 0), (0, 0)))
        return x_NLD + pos_1LD.astype(dtype)
