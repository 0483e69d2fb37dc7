"""UMAP as umap-learn computes it."""

import warnings

import numpy as np
import pytest

from imgjax.evals import maps

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    umap_learn = pytest.importorskip('umap')


def clusters():
    """Returns (features_ND, labels_N): three clusters far from each other."""
    rng = np.random.default_rng(0)
    labels_N = np.arange(180) % 3
    return rng.normal(size=(180, 10)) + 20 * np.eye(10)[labels_N], labels_N


def test_umap_is_that_of_the_package_and_of_the_seed():
    features_ND, _ = clusters()
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # ours are silenced
        found, again, other = (maps.umap(features_ND, seed) for seed in (0, 0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        theirs_N2 = umap_learn.UMAP(random_state=0, n_jobs=1).fit_transform(
            features_ND.astype(np.float32))
    np.testing.assert_array_equal(found, theirs_N2)
    np.testing.assert_array_equal(found, again)
    assert np.abs(found - other).max() > 0.1


def test_umap_keeps_neighbours_together():
    features_ND, labels_N = clusters()
    coordinates_N2 = maps.umap(features_ND)
    distance_NN = np.linalg.norm(coordinates_N2[:, None] - coordinates_N2[None], axis=-1)
    np.fill_diagonal(distance_NN, np.inf)
    assert (labels_N[distance_NN.argmin(axis=1)] == labels_N).all()
    random_N2 = np.random.default_rng(0).normal(size=(180, 2))
    assert maps.trustworthiness(features_ND, coordinates_N2) > 0.8 > maps.trustworthiness(
        features_ND, random_N2)


def test_umap_takes_the_fewest_images_that_it_says_it_takes():
    coordinates_N2 = maps.umap(clusters()[0][:maps.FEWEST])
    assert coordinates_N2.shape == (maps.FEWEST, 2) and np.isfinite(coordinates_N2).all()
