"""The outputs of a model on changed images, and what is demanded of the arrays."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.errors import DataError, first_few
from imgjax.explain import copies
from imgjax.explain.checks import check_images, check_targets


class Outputs(NamedTuple):
    """What a model says of S versions of each of N images.

    Attributes:
      logits_NS: float32, the logit of the target.
      probabilities_NS: float32, the softmax of the target, 0 to 1.
      answers_NS: int32, the class with the largest logit.
    """

    logits_NS: np.ndarray
    probabilities_NS: np.ndarray
    answers_NS: np.ndarray


def outputs(apply_fn: Callable, variables: Any, versions: Iterable[np.ndarray],
            targets_N: np.ndarray) -> Outputs:
    """Returns the outputs on versions of images, which are made when they are needed.

    All chunks have one size, so that all tests of a model share one compiled program.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out), hashable.
      variables: what it takes.
      versions: for each of the N images its versions, float32 (S, H, W, C), with the same S.
      targets_N: int (N,), the class of each image.
    """
    targets_N = np.asarray(targets_N)
    buffer_BHWC, filled, found = np.zeros(0, np.float32), 0, []
    classes_B = np.zeros(0, np.int32)

    def run():
        logit, probability, answer = _outputs(apply_fn, variables, buffer_BHWC, classes_B)
        found.append((np.asarray(logit)[:filled], np.asarray(probability)[:filled],
                      np.asarray(answer)[:filled]))

    for block_SHWC, target in zip(versions, targets_N, strict=True):
        if not buffer_BHWC.size:
            size = _size(apply_fn, variables, block_SHWC.shape[1:])
            size = min(size, 2 ** (len(block_SHWC) * len(targets_N) - 1).bit_length())
            buffer_BHWC = np.zeros((size, *block_SHWC.shape[1:]), np.float32)
            classes_B = np.zeros(size, np.int32)
        start = 0
        while start < len(block_SHWC):
            rows = min(size - filled, len(block_SHWC) - start)
            buffer_BHWC[filled:filled + rows] = block_SHWC[start:start + rows]
            classes_B[filled:filled + rows] = target
            start, filled = start + rows, filled + rows
            if filled == size:
                run()
                filled = 0
    if filled:
        run()
    return Outputs(*(np.concatenate(parts).reshape(len(targets_N), -1)
                     for parts in zip(*found, strict=True)))


def check(apply_fn: Callable, variables: Any, images_NHWC: np.ndarray, targets_N: np.ndarray,
          maps: np.ndarray | None = None) -> None:
    """Checks images, targets and maps of images.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out).
      variables: what it takes.
      images_NHWC: float32 (N, H, W, C).
      targets_N: int (N,), classes.
      maps: float (N, H, W), or (N, H, W, C); None for none.

    Raises:
      DataError: there are no images, a target is no class of the model, or the maps do not have the
        size of the images or are not finite.
    """
    check_images(images_NHWC)
    image = jax.ShapeDtypeStruct((1, *np.shape(images_NHWC)[1:]), jnp.float32)
    classes = jax.eval_shape(apply_fn, variables, image)[0].shape[-1]
    check_targets(targets_N, len(images_NHWC), classes)
    if maps is not None:
        check_maps(maps, np.shape(images_NHWC))


def check_maps(maps: np.ndarray, shape_NHWC: tuple[int, ...]) -> None:
    """Raises DataError where maps do not have the size of the images, or are not finite."""
    if np.shape(maps) not in (tuple(shape_NHWC), tuple(shape_NHWC[:3])):
        raise DataError(f'maps_NHW: shape {np.shape(maps)} for images of the shape '
                        f'{tuple(shape_NHWC)}; give a value per pixel of each image')
    finite_N = np.isfinite(np.asarray(maps)).reshape(len(maps), -1).all(axis=1)
    if not finite_N.all():
        raise DataError(f'maps_NHW: not finite for {(~finite_N).sum():,} of {len(maps):,} images '
                        f'(image {first_few(np.flatnonzero(~finite_N), 3)}); leave these images '
                        'out')


def _size(apply_fn: Callable, variables: Any, shape_HWC: tuple[int, ...]) -> int:
    return copies.at_once(copies.logit, apply_fn, variables, (1, *shape_HWC))


@functools.partial(jax.jit, static_argnums=0)
def _outputs(apply_fn, variables, images_BHWC, targets_B):
    logits_BK = apply_fn(variables, images_BHWC)[0].astype(jnp.float32)
    logit_B = jnp.take_along_axis(logits_BK, targets_B[:, None], axis=1)[:, 0]
    probability_B = jnp.exp(logit_B - jax.nn.logsumexp(logits_BK, axis=1))
    return logit_B, probability_B, logits_BK.argmax(axis=1).astype(jnp.int32)
