"""Scores that tell strangers, images of no known class, from familiar ones: higher is stranger.

Three scores read the logits alone, and three compare the features (the last vector before the
logits) with those of the training images. A score is a function of (fitted, features, logits),
where `fitted` is a dict of arrays that a file can hold; it is {} for the scores of the logits.

  max_softmax   Hendrycks and Gimpel, ICLR 2017 (https://arxiv.org/abs/1610.02136)
  max_logit     Hendrycks et al., ICML 2022 (https://arxiv.org/abs/1911.11132)
  energy        Liu et al., NeurIPS 2020 (https://arxiv.org/abs/2010.03759)
  mahalanobis   Lee et al., NeurIPS 2018 (https://arxiv.org/abs/1807.03888)
  neighbors     Sun et al., ICML 2022 (https://arxiv.org/abs/2204.06507)
  vim           Wang et al., CVPR 2022 (https://arxiv.org/abs/2203.10807)

Everywhere `features_ND` are finite float (N, D) and `logits_NK` finite float (N, K), of the same N
images; the scores are float64 (N,). pytorch-ood 0.4.0 gives the same numbers.
"""

import numpy as np

from imgjax.errors import ConfigError, DataError, unknown
from imgjax.evals.answers import probabilities
from imgjax.evals.blocks import blocks
from imgjax.evals.checks import check_features, check_single_labels

NAMES = ('max_softmax', 'max_logit', 'energy', 'mahalanobis', 'neighbors', 'vim')  # simplest first
OF_LOGITS = NAMES[:3]
RIDGE = 1e-6  # on the diagonal of the scatter matrix, which may have no inverse
NEIGHBORS = 50  # of Sun et al. for CIFAR-10
TINIEST = 1e-12  # of a length that is divided by
ROUNDING = 1e-9  # of a length, relative


def score(name: str, fitted: dict[str, np.ndarray], features_ND: np.ndarray | None,
          logits_NK: np.ndarray | None) -> np.ndarray:
    """Returns the score `name`, one of NAMES, of each image, float64 (N,).

    >>> import numpy as np
    >>> from imgjax.evals import ood_scores
    >>> features_ND = np.random.default_rng(0).normal(size=(100, 2))
    >>> fitted = ood_scores.fit_mahalanobis(features_ND, np.arange(100) % 2)
    >>> known, strange = ood_scores.score(
    ...     'mahalanobis', fitted, np.array([[0.0, 0.0], [9.0, 9.0]]), logits_NK=np.zeros((2, 2)))
    >>> bool(known < strange)
    True

    Args:
      name: of the score.
      fitted: what the `fit_` function of the score returned; {} for the scores of the logits.
      features_ND: features of the same layer as those of the fit.
      logits_NK: the logits of the same images; the features or the logits may be None where the
        score does not read them.

    Raises:
      ConfigError: there is no such score.
    """
    if name not in NAMES:
        raise ConfigError(unknown('score', name, NAMES))
    if name in OF_LOGITS:
        return {'max_softmax': max_softmax, 'max_logit': max_logit, 'energy': energy}[name](
            logits_NK)
    if name == 'vim':
        return vim(fitted, features_ND, logits_NK)
    return {'mahalanobis': mahalanobis, 'neighbors': neighbors}[name](fitted, features_ND)


def max_softmax(logits_NK: np.ndarray) -> np.ndarray:
    """Returns minus the largest probability, -1 to -1 / K."""
    return -probabilities(logits_NK, multi_label=False).max(axis=1)


def max_logit(logits_NK: np.ndarray) -> np.ndarray:
    """Returns minus the largest logit."""
    return -np.asarray(logits_NK, np.float64).max(axis=1)


def energy(logits_NK: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Returns the energy, -T log(sum_k exp(logit_k / T)), equation 4 of Liu et al.

    >>> import numpy as np
    >>> from imgjax.evals import ood_scores
    >>> ood_scores.energy(np.array([[5.0, 0.0], [0.1, 0.0]])).round(2)  # the second is stranger
    array([-5.01, -0.74])
    """
    from scipy import special  # noqa: PLC0415  (0.3 s)

    return -temperature * special.logsumexp(np.asarray(logits_NK, np.float64) / temperature, axis=1)


def fit_mahalanobis(features_ND: np.ndarray, labels_N: np.ndarray) -> dict[str, np.ndarray]:
    """Fits normal distributions of the classes that share one covariance.

    As in pytorch-ood, the covariance is the sum over the images, not their mean, plus RIDGE on its
    diagonal: this scales all scores by about 1 / N and changes no order.

    Args:
      features_ND: features of the training images.
      labels_N: int (N,), their classes; one without images has no distribution.

    Returns:
      center: float64 (D,), the mean of all images.
      whitening: float64 (D, D); (features - center) @ whitening has the unit covariance.
      means: float64 (C, D), the means of the C classes with images, centred and whitened.

    Raises:
      DataError: the arrays do not fit together, or features are not finite.
    """
    from scipy import linalg  # noqa: PLC0415  (0.2 s)

    check_features('training features', features_ND)
    check_single_labels(labels_N, len(features_ND))
    x_ND = np.asarray(features_ND, np.float64)
    center_D = x_ND.mean(axis=0)
    x_ND = x_ND - center_D
    present, class_N = np.unique(labels_N, return_inverse=True)
    means_CD = np.stack([x_ND[class_N == row].mean(axis=0) for row in range(len(present))])
    x_ND -= means_CD[class_N]
    try:
        lower_DD = linalg.cholesky(x_ND.T @ x_ND + RIDGE * np.eye(x_ND.shape[1]), lower=True)
    except linalg.LinAlgError:
        raise DataError(f'features: their covariance over {len(x_ND):,} images cannot be inverted '
                        f'in {x_ND.shape[1]:,} dimensions; give more images') from None
    whitening_DD = linalg.solve_triangular(lower_DD, np.eye(len(lower_DD)), lower=True).T
    return {'center': center_D, 'whitening': np.ascontiguousarray(whitening_DD),
            'means': means_CD @ whitening_DD}


def mahalanobis(fitted: dict[str, np.ndarray], features_ND: np.ndarray) -> np.ndarray:
    """Returns half the squared Mahalanobis distance to the nearest mean of a class."""
    x_ND = (np.asarray(features_ND, np.float64) - fitted['center']) @ fitted['whitening']
    return _least_squared(x_ND, fitted['means'], 0) / 2


def fit_neighbors(features_ND: np.ndarray, k: int | None = None) -> dict[str, np.ndarray]:
    """Keeps the training features, scaled to length 1.

    Args:
      features_ND: features of the training images.
      k: which neighbour gives the distance, 1 to N; None takes 50, or one in 20 of fewer than 1,000
        images.

    Returns:
      rows: (N, D), of the dtype of the features.
      k: int64 (1,).

    Raises:
      DataError: features are not finite, or there are fewer than `k` images.
    """
    check_features('training features', features_ND)
    k = k or max(1, min(NEIGHBORS, len(features_ND) // 20))
    if k > len(features_ND):
        raise DataError(f'training features: {len(features_ND):,} images have no neighbour {k:,}; '
                        'give more images or a smaller k')
    return {'rows': _unit(features_ND).astype(features_ND.dtype), 'k': np.array([k], np.int64)}


def neighbors(fitted: dict[str, np.ndarray], features_ND: np.ndarray) -> np.ndarray:
    """Returns the distance to the k-th nearest training image, 0 to 2, of unit features."""
    squared_N = _least_squared(_unit(features_ND), np.asarray(fitted['rows'], np.float64),
                               int(fitted['k'][0]) - 1)
    return np.sqrt(np.maximum(squared_N, 0))


def fit_vim(features_ND: np.ndarray, logits_NK: np.ndarray, kernel_DK: np.ndarray,
            bias_K: np.ndarray, dimension: int | None = None) -> dict[str, np.ndarray]:
    """Finds the principal space of the training features, and how to scale what lies outside.

    Args:
      features_ND: features of the training images.
      logits_NK: their logits, features @ kernel + bias.
      kernel_DK: the weights of the head, float (D, K).
      bias_K: its bias, float (K,).
      dimension: of the principal space, 0 to D - 1; None takes `principal_dimension`.

    Returns:
      origin: float64 (D,), from which features are measured; there all logits are 0, or nearly.
      residual: float64 (D, D - dimension), an orthonormal base of what lies outside.
      alpha: float64 (1,), equation 7: the scale of the virtual logit.

    Raises:
      DataError: the arrays do not fit together, features are not finite, or none has a part outside
        of the principal space.
    """
    check_features('training features', features_ND)
    D = features_ND.shape[1]
    if kernel_DK.shape != (D, logits_NK.shape[1]) or bias_K.shape != kernel_DK.shape[1:]:
        raise DataError(f'head: a kernel {kernel_DK.shape} and a bias {bias_K.shape} for {D:,} '
                        f'features and {logits_NK.shape[1]:,} logits; give (features, logits)')
    if dimension is None:
        dimension = principal_dimension(D)
    kernel_DK = np.asarray(kernel_DK, np.float64)
    origin_D = -np.linalg.pinv(kernel_DK.T) @ np.asarray(bias_K, np.float64)
    x_ND = np.asarray(features_ND, np.float64) - origin_D
    _, vectors_DD = np.linalg.eigh(x_ND.T @ x_ND / len(x_ND))  # ascending eigenvalues
    residual_DR = np.ascontiguousarray(vectors_DD[:, :D - dimension])
    length = np.linalg.norm(x_ND @ residual_DR, axis=1).mean()
    if length <= ROUNDING * np.linalg.norm(x_ND, axis=1).mean():
        raise DataError(f'training features: nothing of them lies outside of {dimension:,} '
                        'dimensions; give more images')
    return {'origin': origin_D, 'residual': residual_DR, 'alpha': np.array(
        [np.asarray(logits_NK, np.float64).max(axis=1).mean() / length])}


def principal_dimension(features: int) -> int:
    """Returns 1,000 for more than 1,500 features, 512 for 768 or more (the paper), else half."""
    return 1000 if features > 1500 else 512 if features >= 768 else features // 2


def vim(fitted: dict[str, np.ndarray], features_ND: np.ndarray,
        logits_NK: np.ndarray) -> np.ndarray:
    """Returns the virtual logit plus the energy; the softmax of the virtual one has this order."""
    x_ND = np.asarray(features_ND, np.float64) - fitted['origin']
    virtual_N = fitted['alpha'][0] * np.linalg.norm(x_ND @ fitted['residual'], axis=1)
    return virtual_N + energy(logits_NK)


def check_fitted(name: str, fitted: dict[str, np.ndarray], features: int) -> None:
    """Checks arrays that were read from a file against what the `fit_` function returns.

    Args:
      name: of the score, one of NAMES.
      fitted: the arrays.
      features: D, or 0 for a score of the logits.

    Raises:
      DataError: arrays are missing, or have another shape or dtype, or are not finite.
    """
    D = features
    shapes = {
        'mahalanobis': {'center': (D,), 'whitening': (D, D), 'means': (None, D)},
        'neighbors': {'rows': (None, D), 'k': (1,)},
        'vim': {'origin': (D,), 'residual': (D, None), 'alpha': (1,)}}.get(name, {})
    if name not in NAMES or sorted(shapes) != sorted(fitted):
        raise DataError(f'the score {name!r}: has the arrays {sorted(fitted)}, not '
                        f'{sorted(shapes)}; fit it again')
    for key, shape in shapes.items():
        array = fitted[key]
        fits = array.ndim == len(shape) and all(
            size and size == (wanted or size)
            for size, wanted in zip(array.shape, shape, strict=True))
        if not fits or array.dtype.kind != ('i' if key == 'k' else 'f') or not np.isfinite(
                array).all():
            raise DataError(f'the score {name!r}: {key} is {array.dtype.name}{list(array.shape)}, '
                            f'or not finite, for {D:,} features; fit it again')
    if name == 'neighbors' and not 1 <= fitted['k'][0] <= len(fitted['rows']):
        raise DataError(f'the score {name!r}: k is {fitted["k"][0]} for {len(fitted["rows"]):,} '
                        'images; fit it again')


def _unit(features_ND: np.ndarray) -> np.ndarray:
    """Returns the rows scaled to length 1, float64; a row of zeros stays as it is."""
    x_ND = np.asarray(features_ND, np.float64)
    return x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), TINIEST)


def _least_squared(x_ND: np.ndarray, rows_MD: np.ndarray, place: int) -> np.ndarray:
    """Returns the squared distance of each x to a row, the nearest for place 0, float64 (N,)."""
    found_N, length_M = np.empty(len(x_ND)), np.square(rows_MD).sum(axis=1)
    for at in blocks(len(x_ND), len(rows_MD)):
        x_BD = x_ND[at]
        squared_BM = length_M[None] - 2 * (x_BD @ rows_MD.T) + np.square(x_BD).sum(1)[:, None]
        found_N[at] = (squared_BM.min(axis=1) if place == 0 else
                       np.partition(squared_BM, place, axis=1)[:, place])
    return found_N
