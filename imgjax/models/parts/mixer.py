"""What MLP-Mixer, gMLP and ResMLP share: blocks over the patches of an image, then their mean."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers


def forward(model: nn.Module, image_NHWC: jax.Array, block: Callable, norm: Callable, *,
            train: bool) -> layers.Outputs:
    """Returns (logits, out) of a model of blocks over patches, for its ``__call__`` to return.

    Args:
      model: the calling module, which gets the layers; it has the options num_classes, patch_size,
        width, depth, dropout and drop_path.
      image_NHWC: of the compute dtype.
      block: constructor of a block, (x_NLD, drop_path rate) -> y_NLD.
      norm: constructor of the norm after the blocks.
      train: whether dropout is active.
    """
    x_NHWD = convolve.patches(
        image_NHWC, model.patch_size, model.width, dtype=image_NHWC.dtype, name='stem.proj')
    x_NLD = x_NHWD.reshape(image_NHWC.shape[0], -1, model.width)
    out = {'embed': x_NLD}
    for i, rate in enumerate(branches.drop_path_rates(model.drop_path, model.depth)):
        x_NLD = block(name=f'blocks.{i}')(x_NLD, rate)
        out[f'block{i:02}'] = x_NLD
    out['encoded'] = norm(name='norm')(x_NLD)
    out['pre_logits'] = out['encoded'].mean(axis=1, dtype=jnp.float32)
    x_ND = nn.Dropout(model.dropout, deterministic=not train)(out['pre_logits'])
    out['logits'] = layers.head(x_ND, model.num_classes, layers.zeros)
    return out['logits'], out
