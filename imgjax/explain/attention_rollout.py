"""Attention rollout: the attention maps of all blocks multiplied; it depends on no class.

Source: Abnar and Zuidema, "Quantifying attention flow in transformers", ACL 2020
(https://arxiv.org/abs/2005.00928), section 3 and equation 1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from imgjax.errors import DataError
from imgjax.explain import attention, cam, layers

SIGNED = False
TOLERANCE = 0.02  # of the sum of a row of a map, for models that compute in bfloat16


def explain(apply_fn: Callable, variables: Any, images_NHWC: jax.Array,
            targets_N: jax.Array) -> jax.Array:
    """Returns how much of each patch reaches what the head reads, float32 (N, H, W), 0 to 1.

    The map of `raw` is resized to the images, see `cam.upsample`. What the head reads is the class
    token, or the mean of the patches.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out), of a model with attention='maps'.
      variables: what it takes.
      images_NHWC: float32, as the model takes them.
      targets_N: int (N,), checked as for all methods; the maps are the same for all classes.

    Raises:
      DataError: images or targets do not fit, `out` has no attention maps, or they are not over the
        patches of the image, or their rows do not sum to 1 (CaiT's talking heads).
    """
    maps_Nhw = raw(apply_fn, variables, images_NHWC, targets_N)
    return cam.upsample(maps_Nhw, *images_NHWC.shape[1:3])


def raw(apply_fn: Callable, variables: Any, images_NHWC: jax.Array,
        targets_N: jax.Array) -> jax.Array:
    """Returns the rollout on the grid of the patches, float32 (N, h, w); see `explain`."""
    layers.check(apply_fn, variables, images_NHWC, targets_N)
    names = attention.names_of_maps(apply_fn, variables, images_NHWC)
    class_token = layers.attention_names(apply_fn, variables, images_NHWC)[names[-1]][2] == 1

    def chunk(variables, images_NHWC, targets_N):
        maps = layers.values(apply_fn, variables, images_NHWC, names)
        relevance_NLL, far_N = rollout([maps[name] for name in names])
        return attention.of_patches(
            apply_fn, variables, images_NHWC, relevance_NLL, class_token), far_N

    maps_Nhw, far_N = layers.in_chunks(apply_fn, chunk, variables, images_NHWC, targets_N)
    if not float(far_N.max()) <= TOLERANCE:  # also of NaN
        raise DataError(
            'attention maps: their rows are not shares with the sum 1, so that products of them '
            'have no meaning; take attention_gradient, which needs none (as for cait)')
    return maps_Nhw


@jax.jit
def rollout(maps: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns the product of all maps, the last block first, and how far the maps are from shares.

    The map of a block is the mean of its heads, half of it and half of the identity, which stands
    for the residual connection. Tokens that a block does not update stay as they are.

    Args:
      maps: attn_NHQL of each block, the first block first; see `attention.names_of_maps`.

    Returns:
      relevance_NLL, float32, whose rows sum to 1, and float32 (N,): the largest value below 0 and
      the largest difference of the sum of a row from 1.
    """
    length = max(attn_NHQL.shape[-1] for attn_NHQL in maps)
    identity_1LL = jnp.eye(length, dtype=jnp.float32)[None]
    relevance_NLL, far_N = identity_1LL, jnp.float32(0)
    for attn_NHQL in maps:
        far_N = jnp.maximum(far_N, jnp.abs(attn_NHQL.sum(-1) - 1).max(axis=(1, 2)))
        far_N = jnp.maximum(far_N, -attn_NHQL.min(axis=(1, 2, 3)))
        block_NLL = attention.joined(attn_NHQL.mean(axis=1), length) + identity_1LL
        block_NLL /= block_NLL.sum(axis=-1, keepdims=True)
        relevance_NLL = jnp.matmul(block_NLL, relevance_NLL, precision=jax.lax.Precision.HIGHEST)
    return relevance_NLL, far_N
