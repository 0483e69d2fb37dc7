"""EigenCAM: the first principal component of the activations of a layer; it depends on no class.

Sources: Muhammad and Yeasin, "Eigen-CAM: class activation map using principal components", IJCNN
2020 (https://arxiv.org/abs/2008.00299); for the sign Chung and Ying, "Seg-Eigen-CAM", Applied
Sciences 15 (13), 2025 (https://doi.org/10.3390/app15137562), equation 13.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import scipy.linalg

from imgjax.explain import cam, layers

SIGNED = False


def explain(apply_fn: Callable, variables: Any, images_NHWC: jax.Array, targets_N: jax.Array, *,
            layer: str = '') -> jax.Array:
    """Returns the maps of `raw` at the size of the images, float32 (N, H, W), see `cam.upsample`.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out).
      variables: what it takes.
      images_NHWC: float32, as the model takes them.
      targets_N: int (N,), checked as for all methods; the maps are the same for all classes.
      layer: the name of an intermediate in `out`; '' takes that of `layers.last_spatial`.

    Raises:
      ConfigError: `out` has no such layer.
      DataError: images or targets do not fit, the layer has no positions, or its activations are
        not finite.
    """
    a_NhwC = layers.activations(apply_fn, variables, images_NHWC, targets_N, layer)
    return cam.upsample(raw(np.asarray(a_NhwC)), *images_NHWC.shape[1:3])


def raw(a_NhwC: np.ndarray) -> np.ndarray:
    """Returns the map on the layer's grid, float32 (N, h, w), 0 or above.

    It is the projection of the activations at each position on their first principal component over
    the positions of the image; values below 0 are set to 0. The mean over the positions is taken
    away before, as the package grad-cam does and the paper does not: after a ReLU, the component of
    the paper is mostly that mean. The sign of a component is arbitrary. It is chosen so that the
    largest absolute value of the projection is positive.

    Args:
      a_NhwC: float32, activations of a layer.
    """
    N, h, w, C = a_NhwC.shape
    maps_NL = np.empty((N, h * w), np.float32)
    for i in range(N):
        centred_LC = a_NhwC[i].reshape(-1, C).astype(np.float64)
        centred_LC -= centred_LC.mean(axis=0)
        # The smaller of the two square matrices has the component.
        if h * w <= C:
            value, vector_L = _largest(centred_LC @ centred_LC.T)
            projection_L = np.sqrt(max(value, 0)) * vector_L
        else:
            projection_L = centred_LC @ _largest(centred_LC.T @ centred_LC)[1]
        maps_NL[i] = projection_L * np.sign(projection_L[np.abs(projection_L).argmax()])
    return np.maximum(maps_NL, 0).reshape(N, h, w)


def _largest(matrix: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the largest eigenvalue of a symmetric matrix and its unit vector."""
    last = len(matrix) - 1
    values, vectors = scipy.linalg.eigh(matrix, subset_by_index=[last, last])
    return values[0], vectors[:, 0]
