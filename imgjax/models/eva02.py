"""EVA-02 and DINOv3: vision transformers with rotary positions, with timm's names and counts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers
from imgjax.models.parts.attention import ATTENTIONS, Attended

_SMALL = {'width': 384, 'depth': 12, 'heads': 6}
_BASE = {'width': 768, 'depth': 12, 'heads': 12}
_LARGE = {'width': 1024, 'depth': 24, 'heads': 16}
_SPLIT = {'joint_qkv': False, 'mlp': 'normed'}
_CLIP = {**_SPLIT, 'attention_norm': True, 'pool': 'token', 'norm_pooled': False}
_DINO = {'patch_size': 16, 'mlp_ratio': 4.0, 'mlp': 'plain', 'act': 'gelu', 'qkv_bias': False,
         'layer_scale': 1e-5, 'rotary': 'centred', 'learned_positions': False, 'registers': 4,
         'norm_pooled': False, 'epsilon': 1e-5}
VARIANTS = {
    'eva02_tiny_patch14_336': {'width': 192, 'depth': 12, 'heads': 3},
    'eva02_small_patch14_336': _SMALL,
    'eva02_base_patch14_448': {**_BASE, **_SPLIT},
    'eva02_large_patch14_448': {**_LARGE, **_SPLIT},
    'eva02_base_patch16_clip_224': {**_BASE, **_CLIP, 'patch_size': 16},
    'eva02_large_patch14_clip_224': {**_LARGE, **_CLIP},
    'vit_small_patch16_dinov3': {**_SMALL, **_DINO},
    'vit_small_plus_patch16_dinov3': {**_SMALL, **_DINO, 'mlp': 'swiglu', 'act': 'silu'},
    'vit_base_patch16_dinov3': {**_BASE, **_DINO},
    'vit_large_patch16_dinov3': {**_LARGE, **_DINO},
    'tiny_eva02': {'width': 16, 'depth': 2, 'heads': 2, 'patch_size': 4, **_SPLIT,
                   'init_std': 0.1},
}
ROTARY = {'grid': 10_000.0, 'centred': 100.0}
MLPS = {name: name for name in ('plain', 'packed', 'swiglu', 'normed')}


def angles(kind: str, h: int, w: int, width: int) -> np.ndarray:
    """Returns angles (h * w, width / 2) by which pairs of channels of a head are rotated.

    The first half is for y, the second for x, each at ``width / 4`` frequencies that fall
    geometrically. With 'grid' a side always counts as 16 patches, so that EVA-02 keeps its
    positions at other resolutions; with 'centred' a side is two full turns (DINOv3).
    """
    omega_F = ROTARY[kind] ** (-np.arange(width // 4) / (width // 4))
    if kind == 'grid':
        sides = [np.arange(side) * 16 / side for side in (h, w)]
    else:
        sides = [2 * np.pi * ((2 * np.arange(side) + 1) / side - 1) for side in (h, w)]
    positions_2HW = np.stack(np.meshgrid(*sides, indexing='ij'))
    return (positions_2HW.reshape(2, -1).T[:, :, None] * omega_F).reshape(h * w, -1)


def rotate(x_NLHK: jax.Array, angles_LF: np.ndarray, halves: bool) -> jax.Array:
    """Returns x_NLHK with rotated pairs of channels (Su et al. 2021, arXiv:2104.09864).

    Pairs are the channels i and i + K / 2 if ``halves``, else 2 i and 2 i + 1.
    """
    cos, sin = (jnp.asarray(f(angles_LF), jnp.float32)[None, :, None] for f in (np.cos, np.sin))
    axis = 3 if halves else 4
    pairs = (2, -1) if halves else (-1, 2)
    a, b = jnp.unstack(x_NLHK.astype(jnp.float32).reshape(*x_NLHK.shape[:3], *pairs), axis=axis)
    rotated = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=axis)
    return rotated.reshape(x_NLHK.shape).astype(x_NLHK.dtype)


class Block(nn.Module):
    """Pre-norm block: (x_NLD, drop_path rate) -> (y_NLD, attn_NHLL or None).

    ``rotary`` is the kind of angles, the rows and the columns of patches; ``proj_init`` is the
    initializer of the last layer of a branch.
    """

    heads: int
    hidden: int
    rotary: tuple[str, int, int]
    joint_qkv: bool
    qkv_bias: bool
    attention_norm: bool
    mlp: str
    attend: Callable
    act: Callable
    norm: Callable
    residual: Callable
    layer_scale: float | None
    kernel_init: Callable
    proj_init: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_NLD: jax.Array, rate: branches.Rate) -> Attended:
        scale = partial(branches.scaled, self, start=self.layer_scale)
        y_NLD, attn_NHLL = self._attention(self.norm(name='norm1')(x_NLD))
        x_NLD = self.residual()(x_NLD, scale(y_NLD, name='gamma_1'), rate)
        y_NLD = self._mlp(self.norm(name='norm2')(x_NLD))
        return self.residual()(x_NLD, scale(y_NLD, name='gamma_2'), rate), attn_NHLL

    def _dense(self, features: int, name: str, use_bias: bool = True,
               init: Callable | None = None) -> nn.Dense:
        return layers.Dense(features, use_bias, dtype=self.dtype, name=name,
                            kernel_init=init or self.kernel_init)

    def _attention(self, x_NLD: jax.Array) -> Attended:
        """Keys have no bias: it would add the same number to all scores of a query."""
        N, L, D = x_NLD.shape
        if self.joint_qkv:
            qkv = jnp.split(self._dense(3 * D, 'attn.qkv', False)(x_NLD), 3, axis=-1)
            for i, name in ((0, 'attn.q_bias'), (2, 'attn.v_bias')) if self.qkv_bias else ():
                bias_D = self.param(name, layers.zeros, (D,), jnp.float32)
                qkv[i] += bias_D.astype(self.dtype)[None, None]
        else:
            qkv = [self._dense(D, f'attn.{name}_proj', self.qkv_bias and name != 'k')(x_NLD)
                   for name in 'qkv']
        q_NLHK, k_NLHK, v_NLHK = (y.reshape(N, L, self.heads, D // self.heads) for y in qkv)
        kind, h, w = self.rotary
        # Other tokens have no position: their angle is 0.
        angles_LF = np.pad(angles(kind, h, w, D // self.heads), ((L - h * w, 0), (0, 0)))
        q_NLHK, k_NLHK = (rotate(y, angles_LF, kind == 'centred') for y in (q_NLHK, k_NLHK))
        y_NLHK, attn_NHLL = self.attend(q_NLHK, k_NLHK, v_NLHK)
        y_NLD = y_NLHK.reshape(N, L, D)
        if self.attention_norm:
            y_NLD = self.norm(name='attn.norm')(y_NLD)
        return self._dense(D, 'attn.proj', init=self.proj_init)(y_NLD), attn_NHLL

    def _mlp(self, x_NLD: jax.Array) -> jax.Array:
        if self.mlp == 'plain':
            y_NLF = self.act(self._dense(self.hidden, 'mlp.fc1')(x_NLD))
        elif self.mlp == 'packed':
            gate_NLF, y_NLF = jnp.split(self._dense(2 * self.hidden, 'mlp.fc1')(x_NLD), 2, axis=-1)
            y_NLF = self.act(gate_NLF) * y_NLF
        else:
            gate_NLF = self._dense(self.hidden, 'mlp.fc1_g')(x_NLD)
            y_NLF = self.act(gate_NLF) * self._dense(self.hidden, 'mlp.fc1_x')(x_NLD)
        if self.mlp == 'normed':
            y_NLF = self.norm(name='mlp.norm')(y_NLF)
        return self._dense(x_NLD.shape[-1], 'mlp.fc2', init=self.proj_init)(y_NLF)


class Model(nn.Module):
    """EVA-02 (Fang et al. 2023, arXiv:2303.11331), DINOv3 (Simeoni et al. 2025, arXiv:2508.10104).

    The image given to ``init`` sets the resolution if ``learned_positions``.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      patch_size: side of a patch in pixels; must divide the sides of the image.
      width: D of the tokens; divisible by 4 times ``heads``.
      depth: number of blocks.
      heads: number of attention heads.
      mlp_ratio: hidden width of a block's MLP, as a multiple of ``width``.
      mlp: 'plain', or a SwiGLU (Shazeer 2020, arXiv:2002.05202): 'packed' has one matrix for gate
        and value, 'swiglu' two, 'normed' two and a norm before the last layer.
      joint_qkv: whether queries, keys and values have one matrix.
      qkv_bias: whether queries and values have a bias.
      attention_norm: whether a norm comes before the last layer of attention.
      rotary: 'grid' or 'centred', see ``angles``.
      learned_positions: whether learned positions are also added to the tokens.
      registers: number of register tokens (Darcet et al. 2023, arXiv:2309.16588).
      layer_scale: start of a factor per channel after attention and MLP; None for no factors.
      init_std: standard deviation of the kernels at the start; in the last layer of a branch of
        block i, counted from 1, it is divided by sqrt(2 i).
      epsilon: added to the variance in the norms.
      pool: 'avg', the mean of the patches, or 'token', the class token.
      norm_pooled: whether the last norm comes after the pooling, not before it.
      attention: 'xla', 'cudnn' (GPU, bfloat16) or 'maps', which adds block00_attn.. to ``out``.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``; in a SwiGLU that of the gate.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    patch_size: int = 14
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 8 / 3
    mlp: str = 'packed'
    joint_qkv: bool = True
    qkv_bias: bool = True
    attention_norm: bool = False
    rotary: str = 'grid'
    learned_positions: bool = True
    registers: int = 0
    layer_scale: float | None = None
    init_std: float = 0.02
    epsilon: float = 1e-6
    pool: str = 'avg'
    norm_pooled: bool = True
    attention: str = 'xla'
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    act: str = 'silu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has embed, block00.. (N, L, D; class token, registers, patches), encoded,
        pre_logits, logits. ValueError if patch_size does not divide the image or 4 heads the width.
        """
        dtype = layers.compute_dtype(self.dtype)
        (N, H, W, _), P, D = image_NHWC.shape, self.patch_size, self.width
        if D % (4 * self.heads):
            raise ValueError(f'width {D} is not divisible by 4 times {self.heads} heads')
        layers.pick('rotary', self.rotary, ROTARY)
        normal = nn.initializers.normal
        norm = partial(layers.layer_norm, epsilon=self.epsilon, dtype=dtype)
        block = partial(
            nn.remat(Block) if self.remat else Block, heads=self.heads,
            hidden=int(D * self.mlp_ratio), rotary=(self.rotary, H // P, W // P),
            joint_qkv=self.joint_qkv, qkv_bias=self.qkv_bias, attention_norm=self.attention_norm,
            mlp=layers.pick('mlp', self.mlp, MLPS), act=layers.activation(self.act), norm=norm,
            attend=layers.pick('attention', self.attention, ATTENTIONS), dtype=dtype,
            layer_scale=self.layer_scale, kernel_init=normal(self.init_std),
            residual=branches.residual(self.drop_path, train=train))

        x_NLD = convolve.patches(image_NHWC, P, D, dtype=dtype).reshape(N, -1, D)
        for name, count in (('reg_token', self.registers), ('cls_token', 1)):
            if count:
                tokens_1LD = self.param(name, normal(0.02), (1, count, D), jnp.float32)
                x_NLD = layers.prepend(tokens_1LD, x_NLD)
        if self.learned_positions:
            pos_1LD = self.param('pos_embed', normal(0.02), (1, *x_NLD.shape[1:]), jnp.float32)
            x_NLD = x_NLD + pos_1LD.astype(dtype)
        out = {'embed': x_NLD}
        for i, rate in enumerate(branches.drop_path_rates(self.drop_path, self.depth)):
            proj_init = normal(self.init_std / (2 * (i + 1)) ** 0.5)
            x_NLD, attn_NHLL = block(proj_init=proj_init, name=f'blocks.{i}')(x_NLD, rate)
            out[f'block{i:02}'] = x_NLD
            if attn_NHLL is not None:
                out[f'block{i:02}_attn'] = attn_NHLL
        out['encoded'] = x_NLD if self.norm_pooled else norm(name='norm')(x_NLD)
        if layers.pick('pool', self.pool, {'token': True, 'avg': False}):
            x_ND = out['encoded'][:, 0]
        else:
            x_ND = out['encoded'][:, 1 + self.registers:].mean(axis=1)
        x_ND = norm(name='fc_norm')(x_ND) if self.norm_pooled else x_ND
        out['pre_logits'] = x_ND.astype(jnp.float32)
        x_ND = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_ND, self.num_classes, normal(2e-5))
        return out['logits'], out
