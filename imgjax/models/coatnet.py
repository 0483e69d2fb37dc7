"""CoAtNets, those of the paper and timm's own (rw), with timm's names and parameter counts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers, windows
from imgjax.models.parts.attention import ATTENTIONS, Attended
from imgjax.models.parts.coat import MBConv, halve, hidden_layer, stem

_96 = {'widths': (96, 192, 384, 768), 'stem': (64, 64)}
_128 = {'widths': (128, 256, 512, 1024), 'stem': (128, 128)}
_192 = {'widths': (192, 384, 768, 1536), 'stem': (192, 192)}
_DEEP = {'depths': (2, 6, 14, 2)}
_RW = {'form': 'rw', 'acts': ('silu', 'gelu', 'relu', 'tanh'), 'se_early': True,
       'shortcut_bias': False}
_RW2 = {'form': 'rw', 'acts': ('silu', 'gelu', 'silu', 'tanh')}
VARIANTS = {
    'coatnet_0_224': {**_96, 'depths': (2, 3, 5, 2)},
    'coatnet_1_224': {**_96, **_DEEP},
    'coatnet_2_224': {**_128, **_DEEP},
    'coatnet_3_224': {**_192, **_DEEP},
    'coatnet_4_224': {**_192, 'depths': (2, 12, 28, 2)},
    'coatnet_0_rw_224': {
        **_96, **_RW, 'depths': (2, 3, 7, 2), 'stem': (32, 64), 'pool_first': True},
    'coatnet_1_rw_224': {**_96, **_RW, **_DEEP, 'stem': (32, 64)},
    'coatnet_2_rw_224': {**_128, **_RW2, **_DEEP, 'stem': (64, 128)},
    'coatnet_3_rw_224': {**_192, **_RW2, **_DEEP, 'stem': (96, 192), 'layer_scale': 1e-6},
    'tiny_coatnet': {'widths': (16, 32), 'depths': (1, 2), 'conv_stages': 1, 'stem': (8, 16),
                     'head_width': 8},
}
RENAMES = {'head': 'head.fc', 'hidden.norm': 'head.norm', 'hidden.fc': 'head.pre_logits.fc'}
BUFFERS = ('relative_position_index',)

_xavier = nn.initializers.xavier_uniform()


class Attention(nn.Module):
    """Self-attention over all pixels, x_NHWC -> (y_NHWF, attn_NHLL).

    The scores have a learned bias for every head and offset of the query from the key.

    Attributes:
      features: F, the output channels.
      width: channels of all heads together.
      heads: number of attention heads; divides ``width``.
    """

    features: int
    width: int
    heads: int
    attend: Callable
    conv: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> Attended:
        N, H, W, _ = x_NHWC.shape
        qkv_NLH3K = self.conv(3 * self.width, name='qkv')(x_NHWC).reshape(
            N, H * W, self.heads, 3, -1)
        table_RH = self.param('rel_pos.relative_position_bias_table', nn.initializers.normal(0.02),
                              ((2 * H - 1) * (2 * W - 1), self.heads), jnp.float32)
        bias_HLL = table_RH[windows.relative_index(H, W)].transpose(2, 0, 1)
        y_NLHK, attn_NHLL = self.attend(*(qkv_NLH3K[:, :, :, i] for i in range(3)), bias_HLL)
        y_NHWF = self.conv(self.features, name='proj')(y_NLHK.reshape(N, H, W, self.width))
        return y_NHWF, attn_NHLL


class Transformer(nn.Module):
    """Pre-norm transformer block over a map: (x_NHWC, drop_path rate) -> (y_NHWF, attn_NHLL)."""

    features: int
    strides: int
    attention: Callable
    conv: Callable
    norm: Callable
    act: Callable
    layer_scale: Callable
    residual: Callable
    shortcut_bias: bool

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> Attended:
        F = self.features
        if self.strides == 2:
            y_NHWC = halve(self.norm(name='norm1.norm')(x_NHWC))
            x_NHWC = halve(x_NHWC)
            if x_NHWC.shape[-1] != F:
                x_NHWC = self.conv(F, use_bias=self.shortcut_bias, name='shortcut.expand')(x_NHWC)
        else:
            y_NHWC = self.norm(name='norm1')(x_NHWC)
        y_NHWF, attn = self.attention(F, name='attn')(y_NHWC)
        x_NHWF = self.residual()(x_NHWC, self.layer_scale(name='ls1')(y_NHWF), rate)
        mlp = partial(self.conv, bias_init=nn.initializers.normal(1e-6))
        y_NHWF = self.act(mlp(4 * F, name='mlp.fc1')(self.norm(name='norm2')(x_NHWF)))
        y_NHWF = self.layer_scale(name='ls2')(mlp(F, name='mlp.fc2')(y_NHWF))
        return self.residual()(x_NHWF, y_NHWF, rate), attn


class Model(nn.Module):
    """CoAtNet (Dai et al. 2021, arXiv:2106.04803): MBConv blocks, then attention over all pixels.

    The image given to ``init`` sets the resolution: the relative positions have its shape.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      widths: channels of each stage; each stage halves the map.
      depths: number of blocks of each stage.
      conv_stages: number of stages of MBConv blocks; the stages after them have attention.
      stem: channels of the two convolutions of the stem, which also halves the map.
      form: 'paper', or 'rw', which timm's own weights have: the channels grow at the end of a
        branch, not at its start, MBConv has an activation after the first norm and no biases, and
        the head has no hidden layer.
      pool_first: whether MBConv halves the map by pooling before its first convolution, not by the
        strides of the 3x3 one.
      se_early: whether squeeze and excitation comes before the last norm of an MBConv, not after.
      shortcut_bias: whether the projection in the shortcut of a transformer block has a bias.
      layer_scale: start of a factor per channel after attention and MLP; None for no factors.
      head_width: channels of an attention head; divides the channels of the attention.
      acts: activations of the convolutions, the MLPs, squeeze and excitation, and the head.
      act: one activation for all four, see ``layers.ACTIVATIONS``; None for ``acts``.
      attention: 'xla', or 'maps', which adds stage3_block0_attn.. (N, H, L, L) to ``out``.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    widths: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 3, 5, 2)
    conv_stages: int = 2
    stem: tuple[int, int] = (64, 64)
    form: str = 'paper'
    pool_first: bool = False
    se_early: bool = False
    shortcut_bias: bool = True
    layer_scale: float | None = None
    head_width: int = 32
    acts: tuple[str, str, str, str] = ('gelu', 'gelu', 'silu', 'tanh')
    act: str | None = None
    attention: str = 'xla'
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1.., pre_logits and logits.

        Raises:
          ValueError: the stages cannot halve the image, or the heads do not divide the channels.
        """
        dtype = layers.compute_dtype(self.dtype)
        acts = self.acts if self.act is None else (self.act,) * 4
        conv_act, mlp_act, se_act, head_act = map(layers.activation, acts)
        paper = layers.pick('form', self.form, {'paper': True, 'rw': False})
        conv = partial(convolve.Conv, dtype=dtype)
        batch_norm = partial(layers.BatchNorm, train=train, epsilon=1e-5, dtype=dtype)
        norm = partial(layers.layer_norm, epsilon=1e-6, dtype=dtype)
        residual = branches.residual(self.drop_path, train=train)
        mbconv = partial(
            nn.remat(MBConv) if self.remat else MBConv, conv=conv, norm=batch_norm, act=conv_act,
            se_act=se_act, residual=residual, paper=paper, se_early=self.se_early,
            pool_first=self.pool_first)
        pointwise = partial(conv, kernel_size=1, use_bias=True, kernel_init=_xavier)
        attend = layers.pick('attention', self.attention, ATTENTIONS)
        transformer = partial(
            nn.remat(Transformer) if self.remat else Transformer, conv=pointwise, norm=norm,
            act=mlp_act, layer_scale=branches.layer_scale(self.layer_scale), residual=residual,
            shortcut_bias=self.shortcut_bias)
        H, W = image_NHWC.shape[1:3]
        shrink = 2 ** (1 + len(self.depths))
        if H % shrink or W % shrink:
            raise ValueError(f'the sides of images must be multiples of {shrink}, not {H} by {W}')

        x_NHWC = stem(image_NHWC, self.stem, conv, batch_norm, conv_act)
        out = {'stem': x_NHWC}
        rates = iter(branches.drop_path_rates(self.drop_path, sum(self.depths)))
        for i, (depth, F) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            for j in range(depth):
                rate, strides = next(rates), 1 if j else 2
                name = f'stages.{i - 1}.blocks.{j}'
                if i <= self.conv_stages:
                    x_NHWC, attn = mbconv(F, strides, name=name)(x_NHWC, rate), None
                else:
                    width = F if paper else x_NHWC.shape[-1]
                    if width % self.head_width:
                        raise ValueError(f'{width} channels are not heads of {self.head_width}')
                    attention = partial(Attention, width=width, heads=width // self.head_width,
                                        attend=attend, conv=pointwise)
                    x_NHWC, attn = transformer(F, strides, attention, name=name)(x_NHWC, rate)
                if attn is not None:
                    out[f'stage{i}_block{j}_attn'] = attn
            out[f'stage{i}'] = x_NHWC
        if paper:
            x_NF = hidden_layer(x_NHWC.mean(axis=(1, 2), dtype=jnp.float32), norm, head_act)
        else:
            x_NF = norm(name='norm')(x_NHWC).mean(axis=(1, 2), dtype=jnp.float32)
        out['pre_logits'] = x_NF
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(x_NF)
        out['logits'] = layers.head(x_NF, self.num_classes)
        return out['logits'], out
