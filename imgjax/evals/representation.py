"""How many directions the features of a layer use, and how alike the layers of networks are.

`rank_me` and `participation_ratio` count directions, `alignment` and `uniformity` say how the
features lie on the unit sphere, and `cka` compares the layers of one network or of two. None of
them trains anything. Features of an untrained network have high ranks too: compare networks of one
shape with each other, and read a rank beside the accuracy of a probe.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.errors import ConfigError, DataError
from imgjax.evals.checks import check_features, check_single_labels

BATCH = 1024  # images that CKA compares with each other
MOST_PAIRED = 4096  # images among which `uniformity` takes all pairs
ROWS = 512  # images whose similarities to all others are in memory at one time
HIGHEST = jax.lax.Precision.HIGHEST


def measure(layers: dict[str, np.ndarray], labels_N: np.ndarray | None = None, *,
            other: dict[str, np.ndarray] | None = None, batch: int = BATCH,
            seed: int = 0) -> dict:
    """Returns the ranks of the layers, and how alike the layers are.

    The result can be written as JSON:
      images: int, the number of images.
      layers: a list with a dict per layer: `layer` (its name), `features` (int, D), `rank_me`,
        `participation_ratio`, `alignment` and `uniformity`. Alignment is None without labels; a
        value is None where it is not defined, see the functions.
      cka: float (layers, layers) as a list of lists, symmetric; None for a layer whose features
        are the same for all images.
      other_layers: the names of the layers of the other network; [] without one.
      other_cka: float (layers, other layers) as a list of lists; [] without another network.
      cka_batch: int, the number of images that CKA compares with each other.
      cka_images: int, the number of images that CKA uses; a few are left over from equal batches.
      uniformity_images: int, the number of images that uniformity uses.

    >>> import numpy as np
    >>> from imgjax.evals import representation
    >>> features_ND = np.random.default_rng(0).normal(size=(64, 8))
    >>> found = representation.measure({'stage1': features_ND, 'stage2': features_ND[:, :4]})
    >>> [(one['layer'], round(one['rank_me'])) for one in found['layers']], np.shape(found['cka'])
    ([('stage1', 8), ('stage2', 4)], (2, 2))

    Args:
      layers: the features of each layer by its name, float (N, D); D may differ.
      labels_N: int (N,), the class of each image.
      other: the same for another network, for the same images in the same order.
      batch: see `cka`.
      seed: of the order of the images in CKA, and of the choice of those in uniformity.

    Raises:
      ConfigError: there is no layer, or `batch` is below 4.
      DataError: the layers have different numbers of images, fewer than 4, or values that are not
        finite, or the labels do not fit.
    """
    other = other or {}
    everything = [*layers.items(), *other.items()]
    count = _check(everything, labels_N)
    cka_LL = cka([features_ND for _, features_ND in everything], batch=batch, seed=seed)
    own = len(layers)
    batches, size = _batches(count, batch)
    rows = [{'layer': layer, 'features': int(features_ND.shape[1]),
             'rank_me': _or_none(rank_me(features_ND)),
             'participation_ratio': _or_none(participation_ratio(features_ND)),
             'alignment': None if labels_N is None else _or_none(alignment(features_ND, labels_N)),
             'uniformity': uniformity(features_ND, seed=seed)}
            for layer, features_ND in layers.items()]
    other_cka = _as_lists(cka_LL[:own, own:]) if other else []
    return {'images': count, 'layers': rows, 'cka': _as_lists(cka_LL[:own, :own]),
            'other_layers': list(other), 'other_cka': other_cka, 'cka_batch': size,
            'cka_images': batches * size, 'uniformity_images': min(count, MOST_PAIRED)}


def rank_me(features_ND: np.ndarray) -> float:
    """Returns RankMe, the exponential of the entropy of the singular values, 1 to min(N, D).

    Source: Garrido et al., "RankMe: Assessing the downstream performance of pretrained
    self-supervised representations by their rank", ICML 2023
    (https://arxiv.org/abs/2210.02885). The paper adds 1e-7 to every share; here a share of 0 adds
    nothing to the entropy. As in the paper the mean is not subtracted.

    >>> import numpy as np
    >>> from imgjax.evals import representation
    >>> two_directions_ND = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]] * 8)
    >>> round(representation.rank_me(two_directions_ND), 2)
    2.0

    Args:
      features_ND: float (N, D). The paper takes N = 25,600 images.

    Returns:
      NaN if every feature is 0.
    """
    features_ND = np.asarray(features_ND, np.float64)
    wide = features_ND.shape[1] > len(features_ND)
    gram = features_ND @ features_ND.T if wide else features_ND.T @ features_ND
    eigenvalues = np.linalg.eigvalsh(gram)
    # Smaller ones are rounding errors of float64.
    least = eigenvalues.max() * max(features_ND.shape) * np.finfo(np.float64).eps
    singular = np.sqrt(eigenvalues[eigenvalues > max(least, 0.0)])
    if not len(singular):
        return float('nan')
    shares = singular / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def participation_ratio(features_ND: np.ndarray) -> float:
    """Returns (sum of v)^2 / sum of v^2, for the variances v along the principal axes; 1 to D.

    Source: Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement", 2017
    (https://doi.org/10.1101/214262).

    Args:
      features_ND: float (N, D).

    Returns:
      NaN if all images have the same features.
    """
    centred_ND = np.asarray(features_ND, np.float64)
    centred_ND = centred_ND - centred_ND.mean(axis=0)
    if not np.ptp(features_ND, axis=0).any():
        return float('nan')
    wide = centred_ND.shape[1] > len(centred_ND)
    gram = centred_ND @ centred_ND.T if wide else centred_ND.T @ centred_ND
    return float(np.trace(gram)**2 / np.square(gram).sum())


def alignment(features_ND: np.ndarray, labels_N: np.ndarray) -> float:
    """Returns the mean squared distance of two images of one class, on the unit sphere; 0 to 4.

    The mean is over all pairs of different images of the same class.

    Source: Wang and Isola, "Understanding contrastive representation learning through alignment
    and uniformity on the hypersphere", ICML 2020, with alpha = 2
    (https://arxiv.org/abs/2005.10242); the pairs there are two views of an image.

    Args:
      features_ND: float (N, D); each row is divided by its norm, a row of zeros stays.
      labels_N: int (N,), the class of each image.

    Returns:
      NaN if no class has two images.
    """
    unit_ND = unit_rows(features_ND).astype(np.float64)
    _, class_N = np.unique(labels_N, return_inverse=True)
    counts_K = np.bincount(class_N)
    sums_KD = np.zeros((len(counts_K), unit_ND.shape[1]))
    np.add.at(sums_KD, class_N, unit_ND)
    squares_K = np.bincount(class_N, weights=np.square(unit_ND).sum(axis=1))
    # The squared distances of all pairs of a class have this sum.
    distances_K = 2 * counts_K * squares_K - 2 * np.square(sums_KD).sum(axis=1)
    pairs = (counts_K * (counts_K - 1)).sum()
    return max(0.0, float(distances_K.sum() / pairs)) if pairs else float('nan')


def uniformity(features_ND: np.ndarray, *, seed: int = 0) -> float:
    """Returns the log of the mean of exp(-2 d^2) over all pairs of images; -8 to 0, low is uniform.

    d is the distance of two images on the unit sphere.

    Source: Wang and Isola 2020 with t = 2 (https://arxiv.org/abs/2005.10242).

    Args:
      features_ND: float (N, D), N >= 2; each row is divided by its norm, a row of zeros stays. Of
        more than 4,096 images so many are drawn.
      seed: of the choice.
    """
    if len(features_ND) > MOST_PAIRED:
        chosen = np.random.default_rng(seed).choice(len(features_ND), MOST_PAIRED, replace=False)
        features_ND = features_ND[chosen]
    unit_ND = unit_rows(features_ND)
    count, total = len(unit_ND), 0.0
    for first in range(0, count, ROWS):
        close_M = _closeness(unit_ND[first:first + ROWS], unit_ND)
        total += float(np.asarray(close_M, np.float64).sum())
    return float(np.log((total - count) / (count * (count - 1))))  # an image is no pair with itself


def cka(layers: Sequence[np.ndarray], *, batch: int = BATCH, seed: int = 0) -> np.ndarray:
    """Returns the centred kernel alignment of all pairs of layers, float64 (L, L); 1 is alike.

    It is linear CKA with the unbiased estimate of HSIC, averaged over batches of images. Values of
    unlike layers may be a little below 0. With a batch of N images or more it is CKA of the whole.

    Sources: Kornblith et al., "Similarity of neural network representations revisited", ICML 2019
    (https://arxiv.org/abs/1905.00414); Nguyen, Raghu and Kornblith, "Do wide and deep networks
    learn the same things?", ICLR 2021 (https://arxiv.org/abs/2010.15327).

    >>> import numpy as np
    >>> from imgjax.evals import representation
    >>> features_ND = np.random.default_rng(0).normal(size=(64, 8))
    >>> cka_LL = representation.cka([features_ND, 3 * features_ND, features_ND[::-1]])
    >>> cka_LL.shape, cka_LL[0].round(1).tolist()  # a scale changes nothing, another order does
    ((3, 3), [1.0, 1.0, 0.0])

    Args:
      layers: float (N, D) of each layer; D may differ.
      batch: the most images that are compared with each other, >= 4. The images, in random order,
        form equal batches; the remainder is left out. Memory: 4 bytes x L x batch^2.
      seed: of the order.

    Returns:
      NaN in the row and column of a layer that is the same for all images.

    Raises:
      ConfigError: `batch` is below 4.
    """
    count = len(layers[0])
    batches, size = _batches(count, batch)
    order_N = np.random.default_rng(seed).permutation(count)
    hsic_LL = np.zeros((len(layers), len(layers)))
    scales_L = np.array([np.ptp(layer_ND, axis=0).max() for layer_ND in layers], np.float32)
    for members in order_N[:batches * size].reshape(batches, size):
        grams = jnp.stack([  # the scale cancels, but keeps squares of squares in float32's range
            _centred_gram(np.asarray(layer_ND[members], np.float32) / (scale or np.float32(1)))
            for layer_ND, scale in zip(layers, scales_L, strict=True)])
        hsic_LL += np.asarray(_products(grams), np.float64)
    own_L = np.diag(hsic_LL)
    lengths_L = np.sqrt(np.where((own_L > 0) & (scales_L > 0), own_L, np.nan))
    return hsic_LL / np.outer(lengths_L, lengths_L)


def unit_rows(features_ND: np.ndarray) -> np.ndarray:
    """Returns the features with each row divided by its norm, float32; a row of zeros stays."""
    norms_N1 = np.linalg.norm(np.asarray(features_ND, np.float64), axis=1, keepdims=True)
    return (features_ND / np.where(norms_N1 > 0, norms_N1, 1.0)).astype(np.float32)


@jax.jit
def _closeness(unit_MD, unit_ND):
    """Returns the sum of exp(-2 d^2) over the second features, for each row of the first."""
    similarity_MN = jnp.matmul(unit_MD, unit_ND.T, precision=HIGHEST)
    squares_MN = (jnp.square(unit_MD).sum(axis=1)[:, None]
                  + jnp.square(unit_ND).sum(axis=1)[None, :] - 2 * similarity_MN)
    return jnp.exp(-2 * squares_MN).sum(axis=1)


@jax.jit
def _centred_gram(features_ND):
    """Returns the Gram matrix, centred so that sums of products are unbiased HSIC; float32 (N, N).

    The product of two such matrices, summed and divided by N (N - 3), is the estimate of HSIC of
    Nguyen et al. multiplied out (Szekely and Rizzo, "Partial distance correlation with methods for
    dissimilarities", 2014, https://arxiv.org/abs/1310.2926). The diagonal is 0.
    """
    count = len(features_ND)
    centred_ND = features_ND - features_ND.mean(axis=0, keepdims=True)
    off_diagonal_NN = 1.0 - jnp.eye(count, dtype=jnp.float32)
    gram_NN = jnp.matmul(centred_ND, centred_ND.T, precision=HIGHEST) * off_diagonal_NN
    sums_N = gram_NN.sum(axis=1)
    centred_NN = (gram_NN - sums_N[:, None] / (count - 2) - sums_N[None, :] / (count - 2)
                  + sums_N.sum() / ((count - 1) * (count - 2)))
    return centred_NN * off_diagonal_NN


@jax.jit
def _products(grams_LNN):
    """Returns HSIC between all layers, float32 (L, L)."""
    count = grams_LNN.shape[1]
    flat_LP = grams_LNN.reshape(len(grams_LNN), -1)
    return jnp.matmul(flat_LP, flat_LP.T, precision=HIGHEST) / (count * (count - 3))


def _batches(count: int, batch: int) -> tuple[int, int]:
    """Returns how many batches there are, and how many images each has."""
    if batch < 4:
        raise ConfigError(f'batch: {batch}; CKA compares at least 4 images, give 4 or more')
    batches = min(-(-count // batch), count // 4)
    return batches, count // batches


def _check(layers: list[tuple[str, np.ndarray]], labels_N: np.ndarray | None) -> int:
    """Checks the arguments of `measure`, and returns the number of images."""
    if not layers:
        raise ConfigError('layers: empty; give the features of one layer or more')
    for name, features_ND in layers:
        check_features(name, features_ND)
    first, count = layers[0][0], len(layers[0][1])
    for name, features_ND in layers:
        if len(features_ND) != count:
            raise DataError(f'{name}: features of {len(features_ND):,} images, but {first} has '
                            f'{count:,}; give the same images for all layers')
    if count < 4:
        raise DataError(f'{first}: features of {count} images; CKA takes 4 or more')
    if labels_N is not None:
        check_single_labels(np.asarray(labels_N), count)
    return count


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _as_lists(values: np.ndarray) -> list[list[float | None]]:
    return [[_or_none(float(value)) for value in row] for row in values]
