"""What both versions of Swin share: their stages, and the mean of the last map."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers

normal = nn.initializers.normal(0.02)  # where kernels and tables of biases start


def forward(model: nn.Module, image_NHWC: jax.Array, block: type[nn.Module], attention: Callable,
            merge: Callable, norm: Callable, *, train: bool) -> layers.Outputs:
    """Returns (logits, out) of either version, for its ``__call__`` to return.

    Args:
      model: the calling module, which gets the layers; it has the options of ``swin.Model``.
      image_NHWC: float.
      block: the version's ``Block``.
      attention: stage, from 0 -> the constructor of its attention.
      merge: (x_NHWC, features, name) -> the map at half its size.
      norm: constructor of a norm.
      train: whether dropout is active.
    """
    dtype, act = layers.compute_dtype(model.dtype), layers.activation(model.act)
    block = partial(
        nn.remat(block) if model.remat else block, norm=norm,
        residual=branches.residual(model.drop_path, train=train))
    x_NHWC = norm(name='patch_embed.norm')(convolve.patches(
        image_NHWC, model.patch_size, model.width, dtype=dtype, kernel_init=layers.torch_uniform))
    out = {'stem': x_NHWC}
    rates = iter(branches.drop_path_rates(model.drop_path, sum(model.depths)))
    for i, depth in enumerate(model.depths):
        C = model.width * 2**i
        if C % model.heads[i]:
            raise ValueError(f'{C} channels are not divisible by {model.heads[i]} heads')
        if i:
            x_NHWC = merge(x_NHWC, C, f'layers.{i}.downsample')
        mlp = partial(layers.Mlp, int(C * model.mlp_ratio), act, dtype=dtype, kernel_init=normal)
        for j in range(depth):
            x_NHWC, attn_NGHLL = block(
                model.windows[i], shift=j % 2 == 1, attention=attention(i), mlp=mlp,
                name=f'layers.{i}.blocks.{j}')(x_NHWC, next(rates))
            if attn_NGHLL is not None:
                out[f'stage{i + 1}_block{j}_attn'] = attn_NGHLL
        out[f'stage{i + 1}'] = x_NHWC
    x_NHWC = norm(name='norm')(x_NHWC)
    out['pre_logits'] = x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)
    x_NF = nn.Dropout(model.dropout, deterministic=not train)(out['pre_logits'])
    out['logits'] = layers.head(x_NF, model.num_classes, normal)
    return out['logits'], out
