"""Attention maps of all blocks, weighted by their gradients (Chefer et al.).

Source: Chefer, Gur and Wolf, "Generic attention-model explainability for interpreting bi-modal and
encoder-decoder transformers", ICCV 2021 (https://arxiv.org/abs/2103.15679), equations 5 and 6, the
rule for self-attention.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from imgjax.explain import attention, cam, layers

SIGNED = False


def explain(apply_fn: Callable, variables: Any, images_NHWC: jax.Array,
            targets_N: jax.Array) -> jax.Array:
    """Returns the relevance of each patch for the target, float32 (N, H, W), 0 or above.

    The map of `raw` is resized to the images, see `cam.upsample`.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out), of a model with attention='maps'.
      variables: what it takes.
      images_NHWC: float32, as the model takes them.
      targets_N: int (N,), the class of each image.

    Raises:
      DataError: images or targets do not fit, `out` has no attention maps, or they are not over the
        patches of the image, or the gradients are zero for all images or not finite.
    """
    maps_Nhw = raw(apply_fn, variables, images_NHWC, targets_N)
    return cam.upsample(maps_Nhw, *images_NHWC.shape[1:3])


def raw(apply_fn: Callable, variables: Any, images_NHWC: jax.Array,
        targets_N: jax.Array) -> jax.Array:
    """Returns the relevance on the grid of the patches, float32 (N, h, w); see `explain`.

    It is the mean over the rows of the tokens that the head reads: the class token's, or those of
    all patches where their mean is pooled.
    """
    layers.check(apply_fn, variables, images_NHWC, targets_N)
    names = attention.names_of_maps(apply_fn, variables, images_NHWC)
    class_token = layers.attention_names(apply_fn, variables, images_NHWC)[names[-1]][2] == 1

    def chunk(variables, images_NHWC, targets_N):
        maps, gradients = layers.values_and_gradients(
            apply_fn, variables, images_NHWC, targets_N, names)
        relevance_NLL = relevance([maps[name] for name in names],
                                  [gradients[name] for name in names])
        largest_N = jnp.stack([jnp.abs(gradients[name]).max(axis=(1, 2, 3)) for name in names], 1)
        return attention.of_patches(
            apply_fn, variables, images_NHWC, relevance_NLL, class_token), largest_N

    maps_Nhw, largest_N = layers.in_chunks(apply_fn, chunk, variables, images_NHWC, targets_N)
    layers.check_gradient('.._attn', largest_N)
    return maps_Nhw


def relevance(maps: Sequence[jax.Array], gradients: Sequence[jax.Array]) -> jax.Array:
    """Returns what each token has gathered of each other one, float32 (N, L, L).

    R starts as the identity; each block adds A R, where A is the mean over the heads of the values
    of map * gradient that are above 0. The identity is taken away in the end: it would add the
    same number to all patches where the mean of their rows is read, and nothing to them in the
    class token's row.

    Args:
      maps: attn_NHQL of each block, the first block first; see `attention.names_of_maps`.
      gradients: of the target's logit with respect to them.
    """
    length = max(attn_NHQL.shape[-1] for attn_NHQL in maps)
    identity_1LL = jnp.eye(length, dtype=jnp.float32)[None]
    relevance_NLL = jnp.broadcast_to(identity_1LL, (len(maps[0]), length, length))
    for attn_NHQL, gradient_NHQL in zip(maps, gradients, strict=True):
        relevance_NLL = _after_block(relevance_NLL, attn_NHQL, gradient_NHQL)
    return relevance_NLL - identity_1LL


# One program of all blocks takes half a minute before its first run on CPUs, where XLA (of JAX
# 0.10.2) hands the sums of all blocks to YNNPACK together.
@jax.jit
def _after_block(relevance_NLL: jax.Array, attn_NHQL: jax.Array,
                 gradient_NHQL: jax.Array) -> jax.Array:
    block_NQL = jax.nn.relu(attn_NHQL * gradient_NHQL).mean(axis=1)
    return relevance_NLL + jnp.matmul(
        attention.joined(block_NQL, relevance_NLL.shape[-1]), relevance_NLL,
        precision=jax.lax.Precision.HIGHEST)
