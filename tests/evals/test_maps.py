import sys
import types

import numpy as np
import pytest
import sklearn.decomposition

from imgjax.errors import ConfigError, DataError
from imgjax.evals import maps

FEATURES_ND = np.random.default_rng(0).normal(size=(200, 6)) * [9, 5, 1, 1, 0.5, 0.1] + 40


def test_pca_is_the_turn_that_shows_most_variance():
    found = maps.pca(FEATURES_ND)
    centred_ND = FEATURES_ND - FEATURES_ND.mean(axis=0)
    values_D = np.linalg.svd(centred_ND, compute_uv=False) ** 2
    np.testing.assert_allclose(found['explained'], values_D[:2] / values_D.sum())
    np.testing.assert_allclose((found['coordinates'] ** 2).sum(axis=0), values_D[:2])
    np.testing.assert_allclose(found['coordinates'].mean(axis=0), 0, atol=1e-12)
    assert found['coordinates'].shape == (200, 2)
    np.testing.assert_array_equal(found['coordinates'], maps.pca(FEATURES_ND)['coordinates'])


def test_pca_of_many_images_is_fitted_to_some_and_projects_all(monkeypatch):
    whole = maps.pca(FEATURES_ND, dims=3)
    monkeypatch.setattr(maps, 'MOST_FITTED', 100)
    monkeypatch.setattr(maps, 'BLOCK', 30)
    part = maps.pca(FEATURES_ND.astype(np.float32), dims=3)
    assert part['coordinates'].shape == (200, 3)
    for k in range(2):
        pair = whole['coordinates'][:, k], part['coordinates'][:, k]
        assert abs(np.corrcoef(*pair)[0, 1]) > 0.98
    rows = maps.subset(200, 100)
    theirs = sklearn.decomposition.PCA(3).fit(FEATURES_ND[rows]).transform(FEATURES_ND)
    np.testing.assert_allclose(part['coordinates'], theirs, atol=1e-4)


def test_trustworthiness_of_a_good_and_of_a_random_map():
    plane_N2 = np.random.default_rng(1).normal(size=(200, 2))
    assert maps.trustworthiness(plane_N2 @ [[0, 2.0], [2, 0]], plane_N2) == 1.0
    shown = maps.trustworthiness(FEATURES_ND, maps.pca(FEATURES_ND)['coordinates'])
    chance = maps.trustworthiness(FEATURES_ND, plane_N2)
    assert shown > 0.9 and 0.4 < chance < 0.6


def test_trustworthiness_of_many_images_is_that_of_a_subset(monkeypatch):
    coordinates_N2 = FEATURES_ND[:, :2]
    rows = maps.subset(200, 80, seed=3)
    expected = maps.trustworthiness(FEATURES_ND[rows], coordinates_N2[rows])
    monkeypatch.setattr(maps, 'MOST', 80)
    assert maps.trustworthiness(FEATURES_ND, coordinates_N2, seed=3) == expected


def test_a_subset_has_the_classes_in_their_shares():
    labels_N = np.random.default_rng(0).permutation(np.repeat([7, 3, 5, 1], [600, 300, 90, 10]))
    rows = maps.subset(1000, 100, seed=1, labels_N=labels_N)
    assert (np.diff(rows) > 0).all() and rows.dtype == np.int64
    assert np.bincount(labels_N[rows], minlength=8).tolist() == [0, 1, 0, 30, 0, 9, 0, 60]
    np.testing.assert_array_equal(rows, maps.subset(1000, 100, seed=1, labels_N=labels_N))
    assert set(rows) != set(maps.subset(1000, 100, seed=2, labels_N=labels_N))
    without = maps.subset(1000, 100, seed=1)
    assert len(set(without)) == 100 and (np.diff(without) > 0).all()
    assert maps.subset(100, 100, labels_N=labels_N[:100]).tolist() == list(range(100))


def test_without_the_package_there_is_no_umap(monkeypatch):
    monkeypatch.setitem(sys.modules, 'umap', None)
    assert maps.umap(FEATURES_ND) is None


def test_umap_is_given_one_job_and_the_seed(monkeypatch):
    given = {}

    class UMAP:
        def __init__(self, **options):
            given.update(options)

        def fit_transform(self, features_ND):
            return features_ND[:, :2]

    monkeypatch.setitem(sys.modules, 'umap', types.SimpleNamespace(UMAP=UMAP))
    np.testing.assert_allclose(maps.umap(FEATURES_ND, seed=5), FEATURES_ND[:, :2], rtol=1e-6)
    assert given == {'n_neighbors': 15, 'n_jobs': 1, 'random_state': 5}


BROKEN_ND = np.where(np.arange(200)[:, None] < 2, np.nan, FEATURES_ND)


@pytest.mark.parametrize('call, error, text', [
    (lambda: maps.pca(FEATURES_ND, dims=0), ConfigError, 'dims: 0'),
    (lambda: maps.pca(FEATURES_ND, dims=7), DataError, '6 features have no 7 components'),
    (lambda: maps.pca(FEATURES_ND[:2]), DataError, '3 images or more'),
    (lambda: maps.pca(FEATURES_ND[0]), DataError, r'shape \(6,\)'),
    (lambda: maps.pca(np.ones((9, 4))), DataError, 'all images have the same features'),
    (lambda: maps.pca(BROKEN_ND), DataError, 'not finite for 2 of 200 images'),
    (lambda: maps.umap(FEATURES_ND[:31]), DataError, '32 images or more'),
    (lambda: maps.umap(BROKEN_ND), DataError, 'features_ND: not finite for 2 of 200'),
    (lambda: maps.umap(np.ones((3001, 2))), DataError, '3,001 images; .* maps.subset'),
    (lambda: maps.subset(200, 9, labels_N=[1, 2]), DataError, 'for each of 200 images'),
    (lambda: maps.trustworthiness(FEATURES_ND, FEATURES_ND[:9]), DataError, '9 points for 200'),
    (lambda: maps.trustworthiness(FEATURES_ND, BROKEN_ND), DataError,
     'coordinates_N2: not finite for 2 of 200'),
    (lambda: maps.trustworthiness(FEATURES_ND[:9], FEATURES_ND[:9]), DataError, '32 images'),
])
def test_bad_input_gives_one_line(call, error, text):
    with pytest.raises(error, match=text) as caught:
        call()
    assert '\n' not in str(caught.value)
