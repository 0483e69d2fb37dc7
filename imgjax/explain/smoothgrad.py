"""SmoothGrad: the mean gradient of noisy copies of the image.

Source: Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017
(https://arxiv.org/abs/1706.03825), section 3.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from imgjax.errors import ConfigError, DataError
from imgjax.explain import copies, layers
from imgjax.explain.metrics.order import generator, indices_of

SIGNED = False

SAMPLES = 32
NOISE = 0.15  # the paper finds 10 to 20 % of the range of the image to be best


def explain(apply_fn: Callable, variables: Any, images_NHWC, targets_N, *, samples: int = SAMPLES,
            noise: float = NOISE, seed: int = 0, indices_N=None) -> np.ndarray:
    """Returns the largest absolute value of `attributions` over the channels, float32 (N, H, W).

    The arguments and the errors are those of `attributions`.
    """
    return np.abs(attributions(apply_fn, variables, images_NHWC, targets_N, samples=samples,
                               noise=noise, seed=seed, indices_N=indices_N)).max(axis=-1)


def attributions(apply_fn: Callable, variables: Any, images_NHWC, targets_N, *,
                 samples: int = SAMPLES, noise: float = NOISE, seed: int = 0,
                 indices_N=None) -> np.ndarray:
    """Returns the mean gradients of noisy copies, float32 (N, H, W, C).

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out), hashable.
      variables: what it takes.
      images_NHWC: float32, as the model takes them.
      targets_N: int (N,), the class of each image.
      samples: how many copies, 1 or more.
      noise: the standard deviation, as a share of the range of values of each image; 0 or above.
        An image of one value gets no noise.
      seed: of the noise, 0 or above.
      indices_N: int (N,), the place of each image in its data set, on which its noise depends; None
        takes 0 to N - 1.

    Raises:
      ConfigError: `samples`, `noise` or `seed` is out of its range.
      DataError: images, targets or indices do not fit, or the gradient is zero for all images or
        not finite.
    """
    if samples < 1 or not 0 <= noise < np.inf or seed < 0:
        raise ConfigError(f'samples: {samples}, noise: {noise:g}, seed: {seed}; give 1 or more '
                          'samples, and noise and a seed of 0 or above')
    layers.check(apply_fn, variables, images_NHWC, targets_N)
    images_NHWC = np.asarray(images_NHWC, np.float32)
    scale_N111 = np.float32(noise) * np.ptp(images_NHWC, axis=(1, 2, 3), keepdims=True)
    places_N = indices_of(indices_N, len(images_NHWC))
    if len(places_N) != len(images_NHWC):
        raise DataError(f'indices: {len(places_N):,} for {len(images_NHWC):,} images; give the '
                        'place of each image in its data set')
    streams = [generator(seed, index, 'smoothgrad') for index in places_N]

    def noisy() -> np.ndarray:
        drawn = [rng.standard_normal(images_NHWC.shape[1:], np.float32) for rng in streams]
        return images_NHWC + scale_N111 * np.stack(drawn)

    total = np.zeros(images_NHWC.shape, np.float64)
    for found in copies.each(copies.gradient, apply_fn, variables, [noisy] * samples, targets_N,
                             images_NHWC.shape):
        total += found
    layers.check_gradient('image', total)
    return (total / samples).astype(np.float32)
