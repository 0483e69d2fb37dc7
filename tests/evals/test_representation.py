"""Ranks, alignment, uniformity and CKA: values by hand and what must not change them."""

import json

import numpy as np
import pytest

from imgjax.errors import ConfigError, DataError
from imgjax.evals import representation

RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(60, 5)).astype(np.float32)
OTHER = RNG.normal(size=(60, 8)).astype(np.float32)


@pytest.mark.parametrize(('features', 'expected'), [
    (np.eye(6, 4), 4),  # equal singular values: all four directions
    (np.outer(np.arange(1, 9), [1, 2, 2]), 1),
    (np.diag([3.0, 1.0]), np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))),
    (np.diag([3.0, 1.0])[:, [0, 1, 1, 1]] / [1, *[np.sqrt(3)] * 3],
     np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))),  # wider than it is long
    (np.zeros((5, 3)), np.nan),
])
def test_rank_me_by_hand(features, expected):
    for scale in (1, 1e-6, 1e6):
        np.testing.assert_allclose(representation.rank_me(scale * features), expected, rtol=1e-9)


@pytest.mark.parametrize(('features', 'expected'), [
    ([[1, 0], [-1, 0], [0, 1], [0, -1]], 2),
    ([[1, 0], [-1, 0], [0, 2], [0, -2]], 25 / 17),  # variances 1 and 4
    ([[1, 0, 0, 0, 0], [-1, 0, 0, 0, 0], [0, 2, 0, 0, 0], [0, -2, 0, 0, 0]], 25 / 17),
    ([[7, 0], [8, 0], [9, 0]], 1),
    ([[0.1, 0.3]] * 3, np.nan),
])
def test_participation_ratio_by_hand(features, expected):
    value = representation.participation_ratio(np.array(features, np.float64) + 5)
    np.testing.assert_allclose(value, expected, rtol=1e-9)


def test_alignment_and_uniformity_are_means_over_pairs(monkeypatch):
    monkeypatch.setattr(representation, 'ROWS', 17)
    labels_N = np.arange(60) % 7
    unit_ND = NOISE.astype(np.float64) / np.linalg.norm(NOISE, axis=1, keepdims=True)
    squares_NN = np.square(unit_ND[:, None] - unit_ND[None]).sum(axis=2)
    pairs_NN = ~np.eye(60, dtype=bool)
    alike_NN = pairs_NN & (labels_N[:, None] == labels_N)
    assert representation.alignment(NOISE, labels_N) == pytest.approx(
        squares_NN[alike_NN].mean(), rel=1e-6)
    assert representation.uniformity(NOISE) == pytest.approx(
        np.log(np.exp(-2 * squares_NN[pairs_NN]).mean()), rel=1e-5)


def test_alignment_and_uniformity_at_their_ends():
    poles_ND = np.array([[0, 3], [0, 5], [0, -1], [0, -9]], np.float32)
    assert representation.alignment(poles_ND, np.array([3, 3, 8, 8])) == 0
    assert representation.alignment(poles_ND, np.array([3, 8, 3, 8])) == pytest.approx(4)
    assert np.isnan(representation.alignment(poles_ND, np.arange(4)))
    assert representation.uniformity(np.ones((5, 3))) == pytest.approx(0, abs=1e-6)
    assert representation.uniformity(poles_ND[[0, 2]]) == pytest.approx(-8, abs=2e-3)


def test_uniformity_of_many_images_draws_some(monkeypatch):
    whole = representation.uniformity(NOISE)
    monkeypatch.setattr(representation, 'MOST_PAIRED', 30)
    draws = [representation.uniformity(NOISE, seed=seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert draws == pytest.approx([whole] * 3, abs=0.3)


def hsic(k_NN, l_NN):
    """Equation 3 of Nguyen et al. as it stands."""
    n, one_N = len(k_NN), np.ones(len(k_NN))
    k_NN, l_NN = k_NN * (1 - np.eye(n)), l_NN * (1 - np.eye(n))
    return (np.trace(k_NN @ l_NN) + k_NN.sum() * l_NN.sum() / ((n - 1) * (n - 2))
            - 2 / (n - 2) * one_N @ k_NN @ l_NN @ one_N) / (n * (n - 3))


@pytest.mark.parametrize('batch', [4, 15, 25, 60, 1000])
def test_cka_is_the_ratio_of_the_sums_of_hsic(batch):
    layers = [NOISE + 3, OTHER, np.maximum(NOISE @ OTHER[:5], 0)]
    batches, size = representation._batches(60, batch)
    assert size <= batch and batches * size > 60 - batches
    order_N = np.random.default_rng(7).permutation(60)[:batches * size].reshape(batches, size)
    sums_LL = np.zeros((3, 3))
    for members in order_N:
        grams = [(layer[members] @ layer[members].T).astype(np.float64) for layer in layers]
        sums_LL += [[hsic(first, second) for second in grams] for first in grams]
    scale_L = np.sqrt(np.diag(sums_LL))
    np.testing.assert_allclose(representation.cka(layers, batch=batch, seed=7),
                               sums_LL / np.outer(scale_L, scale_L), atol=2e-5)


def test_cka_of_what_is_alike_and_of_what_is_not():
    rotation_DD, _ = np.linalg.qr(RNG.normal(size=(5, 5)))
    turned_ND = (1e4 * (NOISE @ rotation_DD) + 17).astype(np.float32)
    cka_LL = representation.cka([NOISE, turned_ND, OTHER, np.full((60, 2), 0.1, np.float32)])
    np.testing.assert_allclose(cka_LL[0, 1], 1, atol=1e-4)  # no change by rotation, scale, shift
    assert abs(cka_LL[0, 2]) < 0.15  # the biased estimate is 0.1 to 0.2 here
    assert np.isnan(cka_LL[3]).all() and np.isnan(cka_LL[:, 3]).all()


def test_cka_of_a_constant_layer_is_not_that_of_its_rounding_errors():
    constant_ND = np.full((1000, 3), [1000.1, 70.7, -1e4 / 3], np.float32)
    assert np.isnan(representation.cka([constant_ND])).all()


def test_batches_of_fewer_than_eight_images():
    assert [representation._batches(count, 4) for count in (4, 5, 7, 8, 9)] == [
        (1, 4), (1, 5), (1, 7), (2, 4), (2, 4)]


def test_the_result_is_of_all_layers():
    layers = {'stem': NOISE, 'head': OTHER, 'dead': np.zeros((60, 3), np.float32)}
    result = representation.measure(layers, np.arange(60) % 4, other={'stem': OTHER}, batch=30)
    json.dumps(result, allow_nan=False)
    assert [row['layer'] for row in result['layers']] == ['stem', 'head', 'dead']
    assert np.shape(result['cka']) == (3, 3) and np.shape(result['other_cka']) == (3, 1)
    assert result['cka'][0][0] == pytest.approx(1) == pytest.approx(result['other_cka'][1][0])
    assert result['cka'][0][1] == result['cka'][1][0] == pytest.approx(result['other_cka'][0][0])
    assert result['other_layers'] == ['stem']
    assert (result['images'], result['cka_batch'], result['cka_images']) == (60, 30, 60)
    assert result['cka'][2] == [None] * 3 and result['layers'][2]['rank_me'] is None
    assert representation.measure({'stem': NOISE})['layers'][0]['alignment'] is None


@pytest.mark.parametrize(('arguments', 'error', 'line'), [
    (dict(layers={}), ConfigError, 'layers: empty; give the features of one layer or more'),
    (dict(layers={'a': NOISE, 'b': OTHER[:50]}), DataError,
     'b: features of 50 images, but a has 60; give the same images'),
    (dict(layers={'a': NOISE}, other={'b': OTHER * np.inf}), DataError,
     'b: not finite for 60 of 60 images'),
    (dict(layers={'a': NOISE[:3]}), DataError, 'a: features of 3 images; CKA takes 4 or more'),
    (dict(layers={'a': NOISE[:0]}), DataError, r'a: shape \(0, 5\); give'),
    (dict(layers={'a': NOISE}, labels_N=np.arange(59)), DataError,
     r'labels: shape \(59,\) for 60 images'),
    (dict(layers={'a': NOISE}, batch=3), ConfigError, 'batch: 3; CKA compares at least 4 images'),
])
def test_bad_input(arguments, error, line):
    with pytest.raises(error, match=line) as raised:
        representation.measure(**arguments)
    assert '\n' not in str(raised.value)
