"""Integrated gradients: the mean gradient on the way from a baseline to the image, times that way.

Source: Sundararajan et al., "Axiomatic attribution for deep networks", ICML 2017
(https://arxiv.org/abs/1703.01365), equation 1. The integral is a Gauss-Legendre quadrature, as in
the package captum.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from imgjax.errors import ConfigError
from imgjax.explain import copies, layers

SIGNED = True

STEPS = 50


def explain(apply_fn: Callable, variables: Any, images_NHWC, targets_N, *, steps: int = STEPS,
            baseline: float = 0.0) -> np.ndarray:
    """Returns the sum of `attributions` over the channels, float32 (N, H, W).

    The arguments and the errors are those of `attributions`.

    >>> import numpy as np
    >>> from imgjax.explain import integrated_gradients
    >>> def apply_fn(weights, images_NHWC):  # the logit of class k is pixel k
    ...     return images_NHWC[:, 0, :, 0] @ weights, {}
    >>> images_NHWC = np.array([3.0, 5.0], np.float32).reshape(1, 1, 2, 1)
    >>> maps_NHW = integrated_gradients.explain(
    ...     apply_fn, np.eye(2, dtype=np.float32), images_NHWC, np.array([1]))
    >>> maps_NHW.round(2)
    array([[[0., 5.]]], dtype=float32)
    """
    return attributions(apply_fn, variables, images_NHWC, targets_N, steps=steps,
                        baseline=baseline).sum(axis=-1)


def attributions(apply_fn: Callable, variables: Any, images_NHWC, targets_N, *,
                 steps: int = STEPS, baseline: float = 0.0) -> np.ndarray:
    """Returns the integrated gradients, float32 (N, H, W, C).

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out), hashable.
      variables: what it takes.
      images_NHWC: float32, as the model takes them.
      targets_N: int (N,), the class of each image.
      steps: at how many points between the baseline and the image the gradient is taken.
      baseline: the value of all pixels of the baseline; 0 is the mean colour.

    Raises:
      ConfigError: `steps` is below 1, or `baseline` is not finite.
      DataError: images or targets do not fit, or the gradient is zero for all images or not finite.
    """
    if steps < 1 or not np.isfinite(baseline):
        raise ConfigError(f'steps: {steps}, baseline: {baseline:g}; give 1 or more steps and a '
                          'finite baseline')
    layers.check(apply_fn, variables, images_NHWC, targets_N)
    images_NHWC = np.asarray(images_NHWC, np.float32)
    points_S, weights_S = np.polynomial.legendre.leggauss(steps)
    shares_S, weights_S = (points_S + 1) / 2, weights_S / 2
    way_NHWC = images_NHWC - np.float32(baseline)

    def at(share: float) -> np.ndarray:
        return np.float32(baseline) + np.float32(share) * way_NHWC

    total = np.zeros(images_NHWC.shape, np.float64)
    gradients = copies.each(copies.gradient, apply_fn, variables,
                            [partial(at, share) for share in shares_S], targets_N,
                            images_NHWC.shape)
    for weight, found in zip(weights_S, gradients, strict=True):
        total += weight * found
    layers.check_gradient('image', total)
    return (way_NHWC * total).astype(np.float32)


def completeness(apply_fn: Callable, variables: Any, images_NHWC, targets_N, *, steps: int = STEPS,
                 baseline: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Returns how far the sum of the attributions is from the change of the logit.

    By the axiom of completeness (section 3, proposition 1) they are equal; a difference is the
    error of the quadrature, and more steps make it smaller.

    Returns:
      The absolute difference, and the logit of the image minus that of the baseline, float64 (N,).

    The arguments and the errors are those of `attributions`.
    """
    found = attributions(apply_fn, variables, images_NHWC, targets_N, steps=steps,
                         baseline=baseline)
    images_NHWC = np.asarray(images_NHWC, np.float32)
    image_N, baseline_N = copies.each(copies.logit, apply_fn, variables, [
        lambda: images_NHWC, lambda: np.full_like(images_NHWC, baseline)], targets_N,
        images_NHWC.shape)
    change_N = image_N.astype(np.float64) - baseline_N
    return np.abs(found.sum(axis=(1, 2, 3), dtype=np.float64) - change_N), change_N
