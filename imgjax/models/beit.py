"""BEiT: vision transformers whose positions are biases on the scores of attention, as timm has."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers, parallel, windows
from imgjax.models.parts.attention import ATTENTIONS, BY_HEADS, Attended, Heads

_BASE = {'width': 768, 'depth': 12, 'heads': 12, 'patch_size': 16}
_LARGE = {'width': 1024, 'depth': 24, 'heads': 16, 'patch_size': 16}
VARIANTS = {
    'beit_base_patch16_224': {**_BASE, 'layer_scale': 0.1},
    'beit_base_patch16_384': {**_BASE, 'layer_scale': 0.1},
    'beit_large_patch16_224': {**_LARGE, 'layer_scale': 1e-5},
    'beit_large_patch16_384': {**_LARGE, 'layer_scale': 1e-5},
    'beit_large_patch16_512': {**_LARGE, 'layer_scale': 1e-5},
    'beitv2_base_patch16_224': {**_BASE, 'layer_scale': 1e-5},
    'beitv2_large_patch16_224': {**_LARGE, 'layer_scale': 1e-5},
    'tiny_beit': {'width': 16, 'depth': 2, 'heads': 2, 'patch_size': 4, 'init_std': 0.1},
}
TENSOR_RULES = BY_HEADS
BUFFERS = ('relative_position_index',)


@functools.cache
def relative_index(h: int, w: int) -> np.ndarray:
    """Returns index_LL: for (query, key) the row in the table of biases; the class token is first.

    The table has a row for each of (2 h - 1) (2 w - 1) offsets of two patches, and three more: for
    the token and a patch, for a patch and the token, and for the token and itself.
    """
    offsets = (2 * h - 1) * (2 * w - 1)
    index_LL = np.full((1 + h * w, 1 + h * w), offsets)
    index_LL[1:, 0] = offsets + 1
    index_LL[0, 0] = offsets + 2
    index_LL[1:, 1:] = windows.relative_index(h, w)
    return index_LL


class Attention(nn.Module):
    """Self-attention with a learned bias for every offset: x_NLD -> (y_NLD, attn_NHLL or None).

    Keys have no bias: it would add the same number to all scores of a query.
    """

    heads: int
    grid: tuple[int, int]
    attend: Callable
    dtype: Any
    kernel_init: Callable
    proj_init: Callable

    @nn.compact
    def __call__(self, x_NLD: jax.Array) -> Attended:
        N, L, D = x_NLD.shape
        dense = partial(layers.Dense, dtype=self.dtype)
        heads = Heads(self.heads, False, self.kernel_init, self.dtype, name='qkv')
        q_bias, v_bias = (
            self.param(name, layers.zeros, (D,), jnp.float32) for name in ('q_bias', 'v_bias'))
        bias_F = jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias]).astype(self.dtype)
        qkv_NL3HK = heads(x_NLD) + bias_F.reshape(1, 1, 3, self.heads, D // self.heads)
        index_LL = relative_index(*self.grid)
        table_RH = self.param('relative_position_bias_table', layers.zeros,
                              (int(index_LL.max()) + 1, self.heads), jnp.float32)
        bias_HLL = table_RH[index_LL].transpose(2, 0, 1)
        y_NLHK, attn_NHLL = self.attend(*(qkv_NL3HK[:, :, i] for i in range(3)), bias_HLL)
        proj = dense(D, kernel_init=self.proj_init, name='proj')
        return parallel.whole(proj(y_NLHK.reshape(N, L, D))), attn_NHLL


class Block(nn.Module):
    """Pre-norm block: (x_NLD, drop_path rate) -> (y_NLD, attn_NHLL or None)."""

    attention: Callable
    hidden: int
    act: Callable
    norm: Callable
    residual: Callable
    layer_scale: float
    kernel_init: Callable
    proj_init: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_NLD: jax.Array, rate: branches.Rate) -> Attended:
        D = x_NLD.shape[-1]
        dense = partial(layers.Dense, dtype=self.dtype)
        scale = partial(branches.scaled, self, start=self.layer_scale)
        attention = self.attention(kernel_init=self.kernel_init, proj_init=self.proj_init,
                                   name='attn')
        y_NLD, attn_NHLL = attention(self.norm(name='norm1')(x_NLD))
        x_NLD = self.residual()(x_NLD, scale(y_NLD, name='gamma_1'), rate)
        y_NLD = self.norm(name='norm2')(x_NLD)
        mlp_in = dense(self.hidden, kernel_init=self.kernel_init, name='mlp.fc1')
        y_NLF = self.act(mlp_in(parallel.whole(y_NLD)))
        mlp_out = dense(D, kernel_init=self.proj_init, name='mlp.fc2')
        y_NLD = parallel.whole(mlp_out(parallel.split(y_NLF, -1)))
        return self.residual()(x_NLD, scale(y_NLD, name='gamma_2'), rate), attn_NHLL


class Model(nn.Module):
    """BEiT (Bao et al. 2021, arXiv:2106.08254) and BEiT v2 (Peng et al. 2022, arXiv:2208.06366).

    The image given to ``init`` sets the resolution: the tables of biases have its shape.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      patch_size: side of a patch in pixels; must divide the sides of the image.
      width: D of the tokens; divisible by ``heads``.
      depth: number of blocks.
      heads: number of attention heads.
      mlp_ratio: hidden width of a block's MLP, as a multiple of ``width``.
      layer_scale: start of a learned factor per channel after attention and MLP.
      init_std: standard deviation of the kernels at the start; in the last layer of a branch of
        block i, counted from 1, it is divided by sqrt(2 i).
      epsilon: added to the variance in the norms.
      pool: 'avg', the norm of the mean of the patches, or 'token', the norm of the class token.
      attention: 'xla', or 'maps', which adds block00_attn.. to ``out``.
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
    heads: int = 12
    mlp_ratio: float = 4.0
    layer_scale: float = 0.1
    init_std: float = 0.02
    epsilon: float = 1e-6
    pool: str = 'avg'
    attention: str = 'xla'
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    act: str = 'gelu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has embed, block00.. (N, L, D; class token first), encoded, pre_logits, logits.

        Raises:
          ValueError: the patch size does not divide the image, or the heads the width.
        """
        dtype = layers.compute_dtype(self.dtype)
        (N, H, W, _), P, D = image_NHWC.shape, self.patch_size, self.width
        if D % self.heads:
            raise ValueError(f'width {D} is not divisible by {self.heads} heads')
        norm = partial(layers.layer_norm, epsilon=self.epsilon, dtype=dtype)
        normal = nn.initializers.normal
        attend = layers.pick('attention', self.attention, {
            name: ATTENTIONS[name] for name in ('xla', 'maps')})  # cuDNN's takes no bias
        block = partial(
            nn.remat(Block) if self.remat else Block, hidden=int(D * self.mlp_ratio), norm=norm,
            attention=partial(Attention, self.heads, (H // P, W // P), attend, dtype),
            act=layers.activation(self.act), layer_scale=self.layer_scale, dtype=dtype,
            kernel_init=normal(self.init_std),
            residual=branches.residual(self.drop_path, train=train))

        x_NLD = convolve.patches(image_NHWC, P, D, dtype=dtype).reshape(N, -1, D)
        token_11D = self.param('cls_token', normal(0.02), (1, 1, D), jnp.float32)
        x_NLD = layers.prepend(token_11D, x_NLD)
        out = {'embed': x_NLD}
        for i, rate in enumerate(branches.drop_path_rates(self.drop_path, self.depth)):
            proj_init = normal(self.init_std / (2 * (i + 1)) ** 0.5)
            x_NLD, attn_NHLL = block(proj_init=proj_init, name=f'blocks.{i}')(x_NLD, rate)
            out[f'block{i:02}'] = x_NLD
            if attn_NHLL is not None:
                out[f'block{i:02}_attn'] = attn_NHLL
        if layers.pick('pool', self.pool, {'token': True, 'avg': False}):
            out['encoded'] = norm(name='norm')(x_NLD)
            x_ND = out['encoded'][:, 0]
        else:
            out['encoded'] = x_NLD
            x_ND = norm(name='fc_norm')(x_NLD[:, 1:].mean(axis=1))
        out['pre_logits'] = x_ND.astype(jnp.float32)
        x_ND = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_ND, self.num_classes, normal(2e-5))
        return out['logits'], out
