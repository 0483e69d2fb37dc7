"""CaiT: deep vision transformers with blocks of their own for the class token, as timm has them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers
from imgjax.models.parts.attention import ATTENTIONS, Attended

_XXS = {'width': 192, 'heads': 4}
_S = {'width': 384, 'heads': 8}
_M = {'width': 768, 'heads': 16}
VARIANTS = {
    'cait_xxs24_224': _XXS,
    'cait_xxs24_384': _XXS,
    'cait_xxs36_224': {**_XXS, 'depth': 36},
    'cait_xxs36_384': {**_XXS, 'depth': 36},
    'cait_xs24_384': {'width': 288, 'heads': 6},
    'cait_s24_224': _S,
    'cait_s24_384': _S,
    'cait_s36_384': {**_S, 'depth': 36, 'layer_scale': 1e-6},
    'cait_m36_384': {**_M, 'depth': 36, 'layer_scale': 1e-6},
    'cait_m48_448': {**_M, 'depth': 48, 'layer_scale': 1e-6},
    'tiny_cait': {'width': 16, 'heads': 4, 'depth': 2, 'token_depth': 1, 'patch_size': 4,
                  'layer_scale': 0.1},
}
normal = nn.initializers.normal(0.02)


class TalkingHeads(nn.Module):
    """Self-attention with linear maps over the heads before and after the softmax.

    x_NLD -> (y_NLD, attn_NHLL in float32, after the second map); Shazeer et al. 2020,
    arXiv:2003.02436.
    """

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x_NLD: jax.Array) -> Attended:
        N, L, D = x_NLD.shape
        dense = partial(layers.Dense, kernel_init=normal, dtype=self.dtype)
        qkv_NL3HK = dense(3 * D, name='qkv')(x_NLD).reshape(N, L, 3, self.heads, D // self.heads)
        q_NLHK, k_NLHK, v_NLHK = (qkv_NL3HK[:, :, i] for i in range(3))
        scores_NLLH = jnp.einsum(
            'nqhk,nvhk->nqvh', q_NLHK, k_NLHK, preferred_element_type=jnp.float32)
        scores_NLLH *= (D // self.heads) ** -0.5
        # Scores and maps stay float32, as in all attention of this package.
        talk = partial(layers.Dense, self.heads, kernel_init=normal, dtype=jnp.float32)
        attn_NLLH = jax.nn.softmax(talk(name='proj_l')(scores_NLLH), axis=2)
        attn_NLLH = talk(name='proj_w')(attn_NLLH)
        y_NLHK = jnp.einsum('nqvh,nvhk->nqhk', attn_NLLH.astype(self.dtype), v_NLHK)
        return dense(D, name='proj')(y_NLHK.reshape(N, L, D)), attn_NLLH.transpose(0, 3, 1, 2)


class ClassAttention(nn.Module):
    """Attention of the first token to all: x_NLD -> (y_N1D, attn_NH1L in float32 or None)."""

    heads: int
    attend: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_NLD: jax.Array) -> Attended:
        N, L, D = x_NLD.shape
        dense = partial(layers.Dense, D, kernel_init=normal, dtype=self.dtype)
        q_N1HK = dense(name='q')(x_NLD[:, :1]).reshape(N, 1, self.heads, -1)
        k_NLHK, v_NLHK = (dense(name=name)(x_NLD).reshape(N, L, self.heads, -1) for name in 'kv')
        y_N1HK, attn_NH1L = self.attend(q_N1HK, k_NLHK, v_NLHK)
        return dense(name='proj')(y_N1HK.reshape(N, 1, D)), attn_NH1L


class Block(nn.Module):
    """Pre-norm block: (x_NLD, drop_path rate) -> (y_NLD, attention maps or None).

    With ``others_NLD``, for class attention, attention is over x and the others, but only x is
    updated.
    """

    attention: Callable
    mlp: Callable
    norm: Callable
    residual: Callable
    layer_scale: float

    @nn.compact
    def __call__(self, x_NLD: jax.Array, rate: branches.Rate,
                 others_NLD: jax.Array | None = None) -> Attended:
        scale = partial(branches.scaled, self, start=self.layer_scale)
        y_NLD = x_NLD if others_NLD is None else jnp.concatenate([x_NLD, others_NLD], axis=1)
        y_NLD, attn = self.attention(name='attn')(self.norm(name='norm1')(y_NLD))
        x_NLD = self.residual()(x_NLD, scale(y_NLD, name='gamma_1'), rate)
        y_NLD = self.mlp(name='mlp')(self.norm(name='norm2')(x_NLD))
        return self.residual()(x_NLD, scale(y_NLD, name='gamma_2'), rate), attn


class Model(nn.Module):
    """Class-attention image transformer (Touvron et al. 2021, arXiv:2103.17239).

    The image given to ``init`` sets the resolution: the learned positions have its shape.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      patch_size: side of a patch in pixels; must divide the sides of the image.
      width: D of the tokens; divisible by ``heads``.
      depth: number of blocks of the patches alone.
      token_depth: number of blocks of the class token after them, which leave the patches.
      heads: number of attention heads.
      mlp_ratio: hidden width of a block's MLP, as a multiple of ``width``.
      layer_scale: start of a learned factor per channel after attention and MLP.
      epsilon: added to the variance in the norms.
      attention: 'xla', or 'maps', which adds block00_attn.. and token00_attn.. to ``out``.
      dropout: rate before the head.
      drop_path: rate of stochastic depth, the same in all blocks of patches, as in the paper.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    patch_size: int = 16
    width: int = 192
    depth: int = 24
    token_depth: int = 2
    heads: int = 4
    mlp_ratio: float = 4.0
    layer_scale: float = 1e-5
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

        ``out`` has embed, block00.. (N, L, D; patches), token00.. (N, 1, D), encoded (N, D; the
        normed token), pre_logits and logits.

        Raises:
          ValueError: the patch size does not divide the image, or the heads the width.
        """
        dtype = layers.compute_dtype(self.dtype)
        N, D = image_NHWC.shape[0], self.width
        if D % self.heads:
            raise ValueError(f'width {D} is not divisible by {self.heads} heads')
        attend = layers.pick('attention', self.attention, {
            name: ATTENTIONS[name] for name in ('xla', 'maps')})
        norm = partial(layers.layer_norm, epsilon=self.epsilon, dtype=dtype)
        block = partial(
            nn.remat(Block) if self.remat else Block, norm=norm, layer_scale=self.layer_scale,
            mlp=partial(layers.Mlp, int(D * self.mlp_ratio), layers.activation(self.act),
                        kernel_init=normal, dtype=dtype))

        x_NLD = convolve.patches(image_NHWC, self.patch_size, D, dtype=dtype).reshape(N, -1, D)
        pos_1LD = self.param('pos_embed', normal, (1, *x_NLD.shape[1:]), jnp.float32)
        x_NLD = x_NLD + pos_1LD.astype(dtype)
        out = {'embed': x_NLD}
        for i in range(self.depth):
            x_NLD, attn_NHLL = block(
                partial(TalkingHeads, self.heads, dtype), name=f'blocks.{i}',
                residual=branches.residual(self.drop_path, train=train),
            )(x_NLD, self.drop_path)
            out[f'block{i:02}'] = x_NLD
            if self.attention == 'maps':
                out[f'block{i:02}_attn'] = attn_NHLL
        token_11D = self.param('cls_token', normal, (1, 1, D), jnp.float32)
        token_N1D = jnp.broadcast_to(token_11D.astype(dtype), (N, 1, D))
        for i in range(self.token_depth):
            token_N1D, attn_NH1L = block(
                partial(ClassAttention, self.heads, attend, dtype), name=f'blocks_token_only.{i}',
                residual=partial(branches.Residual, deterministic=True),
            )(token_N1D, 0.0, x_NLD)
            out[f'token{i:02}'] = token_N1D
            if self.attention == 'maps':
                out[f'token{i:02}_attn'] = attn_NH1L
        out['encoded'] = norm(name='norm')(token_N1D[:, 0])
        out['pre_logits'] = out['encoded'].astype(jnp.float32)
        x_ND = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_ND, self.num_classes, normal)
        return out['logits'], out
