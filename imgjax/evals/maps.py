"""Features of images as points of a plane: PCA and UMAP, and how far such a map can be trusted.

* PCA (Pearson 1901, https://doi.org/10.1080/14786440109462720) is linear: distances in the map are
  never larger than those of the features, and it says what share of the variance is seen.
* UMAP (McInnes et al. 2018, https://arxiv.org/abs/1802.03426) keeps neighbours together. Distances
  between its clusters, their sizes and densities mean nothing. It needs the extra `maps`.
* Trustworthiness (Venna and Kaski 2001, https://doi.org/10.1007/3-540-44668-0_68) is 1 if all
  neighbours in the map are neighbours by the features as well, and about 0.5 for points that are
  placed at random.
"""

import warnings

import numpy as np

from imgjax.errors import ConfigError, DataError
from imgjax.evals.checks import check_features

MOST = 3_000  # images for UMAP and trustworthiness, which compare each with each
MOST_FITTED = 10_000  # images to which the components of PCA are fitted
BLOCK = 10_000  # images that are projected at once
NEIGHBOURS = 15
FEWEST = 2 * NEIGHBOURS + 2  # images that UMAP and trustworthiness need


def pca(features_ND: np.ndarray, dims: int = 2, seed: int = 0) -> dict:
    """Returns the principal components of the images.

    They are fitted to 10,000 images, drawn by the seed, where there are more. The sign of a
    component has no meaning, but is always the same.

    Args:
      features_ND: float (N, D).
      dims: how many components.
      seed: of the drawn images, and of the randomised decomposition of large matrices.

    Returns:
      `coordinates`, float64 (N, dims), with mean 0 over the fitted images, and `explained`, a list
      of the share of the variance that each component has, 0 to 1.

    Raises:
      DataError: there are too few images or features, features are not finite, or all images have
        the same.
      ConfigError: dims is below 1.
    """
    from sklearn.decomposition import PCA  # noqa: PLC0415  (1 s)

    features_ND = np.asarray(features_ND)
    if dims < 1:
        raise ConfigError(f'dims: {dims}; give 1 or more')
    check_features('features_ND', features_ND, dims + 1)
    if features_ND.shape[1] < dims:
        raise DataError(f'features_ND: {features_ND.shape[1]} features have no {dims} components; '
                        'lower dims')
    if (features_ND == features_ND[:1]).all():
        raise DataError('features_ND: all images have the same features; the network has collapsed')
    fitted = PCA(dims, random_state=seed).fit(
        features_ND[subset(len(features_ND), MOST_FITTED, seed)].astype(np.float64))
    coordinates_N2 = np.concatenate([
        fitted.transform(features_ND[start:start + BLOCK].astype(np.float64))
        for start in range(0, len(features_ND), BLOCK)])
    return {'coordinates': coordinates_N2, 'explained': fitted.explained_variance_ratio_.tolist()}


def umap(features_ND: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """Returns the UMAP of the images, float64 (N, 2), or None where umap-learn is missing.

    The package comes with `pip install imgjax[maps]`. The first call of a process takes ten seconds
    or more, as Numba compiles it. The map is the same for the same seed, package and machine.

    Args:
      features_ND: float (N, D), of 32 to 3,000 images; `subset` draws them.
      seed: of UMAP.

    Raises:
      DataError: there are fewer or more images, or features are not finite.
    """
    features_ND = np.asarray(features_ND)
    check_features('features_ND', features_ND, FEWEST)
    if len(features_ND) > MOST:
        raise DataError(f'features_ND: {len(features_ND):,} images; UMAP takes {MOST:,} at most, '
                        'draw them with maps.subset')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            from umap import UMAP  # noqa: PLC0415  (10 s)
        except ModuleNotFoundError as error:
            if error.name != 'umap':
                raise
            return None
        coordinates_N2 = UMAP(n_neighbors=NEIGHBOURS, n_jobs=1, random_state=seed).fit_transform(
            features_ND.astype(np.float32))
    return coordinates_N2.astype(np.float64)


def trustworthiness(features_ND: np.ndarray, coordinates_N2: np.ndarray, seed: int = 0) -> float:
    """Returns the trustworthiness of a map for 15 neighbours, 0 to 1.

    Args:
      features_ND: float (N, D). Of more than 3,000 images a `subset` is compared.
      coordinates_N2: float (N, 2), the same images in the map.
      seed: of the subset.

    Raises:
      DataError: there are fewer than 32 images, values are not finite, or the lengths differ.
    """
    from sklearn import manifold  # noqa: PLC0415  (1 s)

    features_ND, coordinates_N2 = np.asarray(features_ND), np.asarray(coordinates_N2)
    if len(features_ND) != len(coordinates_N2):
        raise DataError(f'coordinates_N2: {len(coordinates_N2):,} points for {len(features_ND):,} '
                        'images; give the features of the indices that the map shows')
    check_features('features_ND', features_ND, FEWEST)
    check_features('coordinates_N2', coordinates_N2, FEWEST)
    rows_M = subset(len(features_ND), MOST, seed)
    return float(manifold.trustworthiness(
        features_ND[rows_M].astype(np.float64), coordinates_N2[rows_M].astype(np.float64),
        n_neighbors=NEIGHBOURS))


def subset(count: int, most: int, seed: int = 0, labels_N: np.ndarray | None = None) -> np.ndarray:
    """Returns at most `most` of `count` images, int64 (M,), ascending.

    Args:
      count: N, the number of images.
      most: the number of images to draw; all are taken if there are no more.
      seed: of the draw.
      labels_N: int (N,), the classes: each gives its share of the subset, to within one image. None
        draws without regard to classes.

    Raises:
      DataError: the labels do not have one entry per image.
    """
    if labels_N is not None and np.shape(labels_N) != (count,):
        raise DataError(f'labels_N: shape {np.shape(labels_N)}; give one class for each of '
                        f'{count:,} images')
    if count <= most:
        return np.arange(count)
    shuffled_N = np.random.default_rng(seed).permutation(count)
    if labels_N is None:
        return np.sort(shuffled_N[:most])
    # The i-th of n images of a class is at (i + 1/2) / n: the lowest places have all classes alike.
    _, class_N, size_C = np.unique(
        np.asarray(labels_N)[shuffled_N], return_inverse=True, return_counts=True)
    order_N = np.argsort(class_N, kind='stable')
    rank_N = np.empty(count, np.int64)
    rank_N[order_N] = np.arange(count) - np.repeat(np.cumsum(size_C) - size_C, size_C)
    place_N = (rank_N + 0.5) / size_C[class_N]
    return np.sort(shuffled_N[np.argsort(place_N, kind='stable')[:most]])
