"""SHAP: Shapley values of a hierarchy of rectangles, by the package shap.

The image is halved again and again, and the Owen values of these parts are estimated, which the
package calls its partition explainer. It needs numba, so it is an extra. Source: Lundberg and Lee,
"A unified approach to interpreting model predictions", NeurIPS 2017
(https://arxiv.org/abs/1705.07874).
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from imgjax.errors import ConfigError
from imgjax.explain import copies, layers

SIGNED = True

EVALUATIONS = 500
BATCH = 256  # evaluations after which shap chooses the next rectangles; the values depend on it


def explain(apply_fn: Callable, variables: Any, images_NHWC, targets_N, *,
            evaluations: int = EVALUATIONS, baseline: float = 0.0) -> np.ndarray:
    """Returns the values summed over the channels, float32 (N, H, W).

    The values of an image add up to its logit minus that of the baseline.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out), hashable.
      variables: what it takes.
      images_NHWC: float32, as the model takes them.
      targets_N: int (N,), the class of each image.
      evaluations: on how many versions of an image the model is evaluated, about; more give finer
        rectangles.
      baseline: the value of the pixels that are left out; 0 is the mean colour.

    Raises:
      ConfigError: shap is not installed, `evaluations` is below 2, or `baseline` is not finite.
      DataError: images or targets do not fit, or the logits are not finite.
    """
    try:
        import shap
    except ImportError:
        raise ConfigError("partition_shap: needs the package shap; pip install 'imgjax[shap]', or "
                          'take occlusion') from None
    if evaluations < 2 or not np.isfinite(baseline):
        raise ConfigError(f'evaluations: {evaluations}, baseline: {baseline:g}; give 2 or more '
                          'evaluations and a finite baseline')
    layers.check(apply_fn, variables, images_NHWC, targets_N)
    images_NHWC = np.asarray(images_NHWC, np.float32)
    shape = images_NHWC.shape[1:]
    masker = shap.maskers.Image(np.full(shape, baseline, np.float32), shape)
    # shap keeps what it finds of the baseline, so its function returns the logits of all classes.
    explainer = shap.PartitionExplainer(partial(_logits, apply_fn, variables, shape), masker)
    found_NHW = np.empty(images_NHWC.shape[:3], np.float32)
    for row, target in enumerate(np.asarray(targets_N, np.int32)):
        with _fixed_order():
            values = explainer(images_NHWC[row:row + 1], max_evals=evaluations, silent=True,
                               batch_size=BATCH, outputs=target[None]).values
        found_NHW[row] = np.asarray(values).reshape(shape).sum(axis=-1)
    return found_NHW


def _logits(apply_fn: Callable, variables: Any, shape: tuple[int, ...], versions) -> np.ndarray:
    """Returns the logits of versions of one image, float32 (S, K)."""
    versions = np.asarray(versions, np.float32).reshape(-1, 1, *shape)
    # shap asks for any number of versions; powers of two keep the compiled programs few.
    rows = np.minimum(np.arange(2 ** (len(versions) - 1).bit_length()), len(versions) - 1)
    found = copies.each(copies.logits, apply_fn, variables,
                        [partial(versions.__getitem__, row) for row in rows],
                        np.zeros(1, np.int32), (1, *shape))
    return np.concatenate(list(found))[:len(versions)]


@contextlib.contextmanager
def _fixed_order() -> Iterator[None]:
    """Lets shap order equal rectangles in the same way each time: it takes np.random for that."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)
