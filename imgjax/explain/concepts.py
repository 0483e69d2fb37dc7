"""The channels that decide: what each channel before the head adds to the logit of a class.

Where the last layer is linear, a logit is a sum over the channels d of the layer before it,

    logit_k = bias_k + sum_d kernel_dk a_d

so each term says exactly what a channel speaks for, without any approximation. Softmax does not see
what is added to all logits alike; so here the kernel has its mean over the classes subtracted, and
a contribution is to what a logit has above the mean of all logits. How few channels are enough is
measured as by Wong et al. 2021 (https://arxiv.org/abs/2105.04857): by the accuracy of a head
that keeps the largest terms alone. What a channel stands for is seen from the images that excite it
most (`imgjax.evals.filters.most_exciting`).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from imgjax.errors import ConfigError, DataError

TOLERANCE = 1e-2  # of the largest logit: accelerators round the factors of a product


class Head(NamedTuple):
    """A linear layer whose outputs are the logits, less their mean over the classes.

    Attributes:
      kernel_DK: float64 (D, K).
      bias_K: float64 (K,).
    """

    kernel_DK: np.ndarray
    bias_K: np.ndarray


class Terms(NamedTuple):
    """The largest terms of one logit of each image, or of the difference of two.

    Attributes:
      channels_NM: int64 (N, M), the channels, the largest term first.
      terms_NM: float64 (N, M), what they add, in logits.
    """

    channels_NM: np.ndarray
    terms_NM: np.ndarray


def head_of(params: Mapping, features_ND: np.ndarray, logits_NK: np.ndarray) -> Head:
    """Returns the head of a model, after a check that it makes these logits of these features.

    Args:
      params: the parameters; the head is params['head'], with a kernel (D, K) or (1, 1, D, K), as
        in the families of imgjax.models.
      features_ND: float (N, D), the layer before the head, 'pre_logits'.
      logits_NK: float (N, K), the logits of the same images.

    Raises:
      DataError: there is no head of one kernel, or the logits are not a linear map of the features.
    """
    found = params.get('head')
    if not isinstance(found, Mapping) or 'kernel' not in found:
        raise DataError('the model has no parameters head/kernel; the channels that decide are '
                        'those before a single linear layer of this name')
    kernel_DK = np.asarray(found['kernel'], np.float64)
    features_ND, logits_NK = (np.asarray(x, np.float64) for x in (features_ND, logits_NK))
    (N, D), K = features_ND.shape, logits_NK.shape[1]
    if kernel_DK.shape[:-2] not in ((), (1, 1)) or kernel_DK.shape[-2:] != (D, K):
        raise DataError(f'head/kernel: shape {kernel_DK.shape} for {D} features and {K} classes; '
                        f'give the features before the head, or a head of shape ({D}, {K})')
    kernel_DK = kernel_DK.reshape(D, K)
    bias_K = np.asarray(found.get('bias', np.zeros(K)), np.float64)
    if not N or not np.isfinite(features_ND).all() or not np.isfinite(logits_NK).all():
        raise DataError(f'features and logits of {N} images; give at least one image, and finite '
                        'values: where they are not finite, use an earlier checkpoint')
    error = np.abs(features_ND @ kernel_DK + bias_K - logits_NK).max()
    if error > TOLERANCE * max(1.0, np.abs(logits_NK).max()):
        raise DataError(
            f'the logits are not a linear map of the features, they differ by up to {error:.2g}: '
            'the head has an activation or a second classifier; take an explanation of pixels')
    return Head(kernel_DK - kernel_DK.mean(1, keepdims=True), bias_K - bias_K.mean())


def of_classes(head: Head, features_ND: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Returns what each channel adds to the logit of a class, in the mean over images of the class.

    Args:
      head: the head.
      features_ND: float (N, D), the layer before the head.
      labels_N: int (N,).

    Returns:
      terms_KD, float64 (K, D), in logits; 0 for a class without an image.
    """
    features_ND = np.asarray(features_ND, np.float64)
    K, D = head.kernel_DK.shape[::-1]
    sums_KD = np.zeros((K, D))
    np.add.at(sums_KD, labels_N, features_ND)
    counts_K = np.bincount(labels_N, minlength=K)
    return sums_KD / np.maximum(1, counts_K)[:, None] * head.kernel_DK.T


def needed(terms_KD: np.ndarray, share: float = 0.9) -> np.ndarray:
    """Returns how many channels make a share of all that speaks for a class, int64 (K,).

    They are the fewest whose terms have this share of the sum of the positive terms; 0 for a class
    for which no channel speaks.

    Args:
      terms_KD: what `of_classes` returns.
      share: above 0, at most 1.

    Raises:
      ConfigError: the share is not in this range.
    """
    if not 0 < share <= 1:
        raise ConfigError(f'share: {share} is not above 0 and at most 1; take 0.9')
    sorted_KD = -np.sort(-np.maximum(0.0, terms_KD), axis=1)
    reached_KD = np.cumsum(sorted_KD, axis=1)
    total_K1 = reached_KD[:, -1:]
    enough = share * total_K1 * (1 - 1e-12)  # so that the sum of all is never too little
    return np.where(total_K1[:, 0] > 0, (reached_KD < enough).sum(1) + 1, 0)


def accuracies(head: Head, terms_KD: np.ndarray, features_ND: np.ndarray, labels_N: np.ndarray,
               counts: Sequence[int]) -> list[float]:
    """Returns the accuracies of heads that keep a few channels of each class.

    Args:
      head: the head.
      terms_KD: what `of_classes` returns, best of other images; for each class the channels with
        the largest absolute terms are kept.
      features_ND: float (N, D), the layer before the head.
      labels_N: int (N,).
      counts: how many channels each class keeps.
    """
    order_KD = np.argsort(-np.abs(terms_KD), axis=1, kind='stable')
    places_KD = np.argsort(order_KD, axis=1)  # the rank of each channel
    features_ND = np.asarray(features_ND, np.float64)
    found = []
    for count in counts:
        kernel_DK = np.where(places_KD.T < count, head.kernel_DK, 0.0)
        predictions_N = (features_ND @ kernel_DK + head.bias_K).argmax(1)
        found.append(float((predictions_N == labels_N).mean()))
    return found


def of_images(head: Head, features_ND: np.ndarray, classes_N: np.ndarray, count: int,
              rather_than_N: np.ndarray | None = None) -> Terms:
    """Returns the channels that speak most for a class of each image.

    Args:
      head: the head.
      features_ND: float (N, D), the layer before the head.
      classes_N: int (N,), the class of each image that is explained, for instance the answer.
      count: M, how many channels of each image; at most D.
      rather_than_N: int (N,), another class of each image, for instance the label. Then a term is
        what a channel adds to the logit of the first class less that of the second.

    Raises:
      ConfigError: the count is below 1 or above D.
    """
    D = len(head.kernel_DK)
    if not 1 <= count <= D:
        raise ConfigError(f'count: {count}; give 1 to {D}, the number of channels')
    weights_ND = head.kernel_DK.T[classes_N]
    if rather_than_N is not None:
        weights_ND = weights_ND - head.kernel_DK.T[rather_than_N]
    terms_ND = weights_ND * np.asarray(features_ND, np.float64)
    channels_NM = np.argsort(-terms_ND, axis=1, kind='stable')[:, :count]
    return Terms(channels_NM, np.take_along_axis(terms_ND, channels_NM, axis=1))
