"""What both methods of attention maps share: which maps there are, and how they are joined.

Both follow what each token has gathered of every token of the input, from block to block, in a
relevance (N, L, L) that starts as the identity.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from imgjax.errors import DataError
from imgjax.explain import layers


def names_of_maps(apply_fn: Callable, variables: Any, images_NHWC: Any) -> tuple[str, ...]:
    """Returns the names of the attention maps in `out`, the first block first.

    All maps are over the same L tokens: (N, heads, L, L), or (N, heads, 1, L) of blocks that update
    the class token alone. Before such blocks the maps may lack the class token, as in CaiT.

    Raises:
      DataError: there are no maps, or they are of other tokens.
    """
    shapes = layers.attention_names(apply_fn, variables, images_NHWC)
    if not shapes:
        raise DataError(
            "attention maps: the model returns none; build it with model.options.attention='maps', "
            'which vit, beit, eva02, cait and xcit take; for other families take another method')
    most = max(shape[-1] for shape in shapes.values())
    for name, shape in shapes.items():
        if len(shape) != 4 or shape[2:] not in ((most, most), (1, most), (most - 1, most - 1)):
            raise DataError(
                f'attention maps: {name!r} of shape {shape} is not over the same tokens as the '
                'others, or is of windows; the maps of vit, beit, eva02, cait and xcit can be '
                'joined, for other families take another method')
    return tuple(shapes)


def joined(attn_NQL: jax.Array, length: int) -> jax.Array:
    """Returns a map over all tokens, (N, length, length): rows and columns that it lacks are 0."""
    missing = length - attn_NQL.shape[2]  # the class token, which is first
    below = length - missing - attn_NQL.shape[1]
    return jnp.pad(attn_NQL, ((0, 0), (missing, below), (missing, 0)))


def of_patches(apply_fn: Callable, variables: Any, images_NHWC: Any,
               relevance_NLL: jax.Array, class_token: bool) -> jax.Array:
    """Returns the relevance of each patch for what the head reads, float32 (N, h, w).

    It is the mean over the rows of the tokens that the head reads: that of a class token, or those
    of the patches where their mean is pooled.

    Args:
      apply_fn, variables, images_NHWC: see `layers.spatial_layers`.
      relevance_NLL: of all tokens (columns) for all tokens (rows).
      class_token: whether the last block updates the class token alone.

    Raises:
      DataError: the tokens are no patches of the image.
    """
    length = relevance_NLL.shape[-1]
    grid = layers.grid_of_tokens(length, *images_NHWC.shape[1:3])
    rows = (0, 1) if class_token else layers.tokens_read(
        apply_fn, variables, images_NHWC, length)
    if grid is None or rows is None:
        raise DataError(
            f'attention maps: their {length} tokens are not the patches of an image of '
            f'{images_NHWC.shape[1]} by {images_NHWC.shape[2]}; take another method for this model')
    row_NL = relevance_NLL[:, slice(*rows)].mean(axis=1)
    h, w, other = grid
    return row_NL[:, other:].reshape(-1, h, w)
