"""Conformal sets: hand-computed scores, the papers' loops, and new images that are covered."""

import json
import math

import numpy as np
import pytest

from imgjax.errors import ConfigError
from imgjax.evals import blocks, conformal

ROW = [[0.5, 0.2, 0.3]]


def synthetic(count: int, classes: int = 10, seed: int = 0):
    """Returns probabilities_NK of a model that is right about its doubts, and labels_N."""
    rng = np.random.default_rng(seed)
    logits_NK = 2 * rng.normal(size=(count, classes))
    probabilities_NK = np.exp(logits_NK)
    probabilities_NK /= probabilities_NK.sum(axis=1, keepdims=True)
    labels_N = (probabilities_NK.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return probabilities_NK, np.minimum(labels_N, classes - 1)


@pytest.mark.parametrize('method, u, numbers, expected', [
    ('lac', 0.5, {}, [0.5, 0.8, 0.7]),
    ('aps', 0.0, {}, [0.5, 1.0, 0.8]),
    ('aps', 0.5, {}, [0.25, 0.9, 0.65]),
    ('raps', 0.5, {'k_reg': 1, 'penalty': 0.1}, [0.25, 1.1, 0.75]),
    ('raps', 0.5, {'k_reg': 2, 'penalty': 0.1}, [0.25, 1.0, 0.65]),
])
def test_scores_by_hand(method, u, numbers, expected):
    score_NK = conformal.scores(method, np.array(ROW), np.array([u]), **numbers)
    np.testing.assert_allclose(score_NK, [expected], atol=1e-12)


def test_scores_do_not_depend_on_the_blocks(monkeypatch):
    probabilities_NK, _ = synthetic(50)
    noise_N = conformal.noise(50, 0, 0)
    whole_NK = conformal.scores('raps', probabilities_NK, noise_N, k_reg=1, penalty=0.1)
    monkeypatch.setattr(blocks, 'BLOCK', 70)
    np.testing.assert_array_equal(
        conformal.scores('raps', probabilities_NK, noise_N, k_reg=1, penalty=0.1), whole_NK)


@pytest.mark.parametrize('count, alpha, expected', [
    (9, 0.1, 9), (8, 0.1, math.inf), (19, 0.1, 18), (10, 0.2, 9), (9, 0.7, 3), (1, 0.5, 1),
    (18, 0.05, math.inf), (19, 0.05, 19), (0, 0.5, math.inf)])
def test_quantile_is_an_order_statistic(count, alpha, expected):
    score_N = np.random.default_rng(0).permutation(np.arange(1, count + 1)).astype(float)
    assert conformal.quantile(score_N, alpha) == expected


def paper_set(probabilities_K, u, threshold, k_reg, penalty):
    """The set of algorithm 3 of Angelopoulos et al.; with penalty 0 that of Romano et al.

    Their u is 1 - u here: they keep the last class where u is small.
    """
    order, total, length = np.argsort(-probabilities_K), 0.0, 0
    for rank, k in enumerate(order, start=1):
        cost = penalty * max(0, rank - k_reg)
        if total + probabilities_K[k] + cost > threshold:
            last = (threshold - total - cost) / probabilities_K[k]
            return set(order[:length + 1] if 1 - u <= last else order[:length])
        total, length = total + probabilities_K[k], length + 1
    return set(order)


@pytest.mark.parametrize('method, numbers', [
    ('aps', {}), ('raps', {'k_reg': 2, 'penalty': 0.05}), ('raps', {'k_reg': 0, 'penalty': 0.2})])
def test_sets_are_those_of_the_papers(method, numbers):
    probabilities_NK, labels_N = synthetic(400)
    fitted = conformal.fit(method, probabilities_NK[:200], labels_N[:200], 0.2, **numbers)
    found_MK = conformal.sets(fitted, probabilities_NK[200:], seed=3)
    noise_M = conformal.noise(200, 3, conformal.PREDICTION)
    for row, probabilities_K in enumerate(probabilities_NK[200:]):
        expected = paper_set(probabilities_K, noise_M[row], fitted['thresholds'][0],
                             numbers.get('k_reg', 0), numbers.get('penalty', 0))
        assert set(np.flatnonzero(found_MK[row])) == expected


@pytest.mark.parametrize('method', conformal.METHODS)
def test_new_images_are_covered(method):
    hits = []
    for seed in range(300):
        probabilities_NK, labels_N = synthetic(69, 5, seed)
        fitted = conformal.fit(method, probabilities_NK[:39], labels_N[:39], 0.2, seed=seed)
        found_MK = conformal.sets(fitted, probabilities_NK[39:], seed=seed)
        hits.append(found_MK[np.arange(30), labels_N[39:]].mean())
    n = fitted['images']
    error = np.std(hits) / math.sqrt(300)
    assert 0.8 - 4 * error < np.mean(hits) < 0.8 + 1 / (n + 1) + 4 * error


def test_thresholds_by_class_by_hand():
    probabilities_NK = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    fitted = conformal.fit('lac', probabilities_NK, np.array([0, 0, 0, 1]), 0.4, by_class=True)
    assert fitted['thresholds'] == [pytest.approx(0.4), None]  # 3rd of 3; 2nd of 1
    assert fitted['note'] == ('class 1: in every set, as alpha = 0.4 needs 2 calibration images or '
                              'more')
    found_MK = conformal.sets(fitted, np.array([[0.61, 0.39], [0.59, 0.41]]))
    assert found_MK.tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize('method', conformal.METHODS)
def test_too_few_images_give_sets_of_all_classes_and_say_so(method):
    probabilities_NK, labels_N = synthetic(8)
    fitted = conformal.fit(method, probabilities_NK, labels_N, 0.1)
    assert fitted['thresholds'] == [None]
    assert fitted['note'] == ('every set holds all classes, as alpha = 0.1 needs 9 calibration '
                              'images or more')
    assert conformal.sets(fitted, probabilities_NK).all()


@pytest.mark.parametrize('method, by_class', [
    ('lac', False), ('lac', True), ('aps', False), ('raps', False), ('raps', True)])
def test_fits_survive_json_and_are_repeatable(method, by_class):
    probabilities_NK, labels_N = synthetic(300)
    fitted = conformal.fit(method, probabilities_NK, labels_N, 0.1, by_class=by_class)
    assert conformal.fit(method, probabilities_NK, labels_N, 0.1, by_class=by_class) == fitted
    stored = json.loads(json.dumps(fitted, allow_nan=False))
    found_MK = conformal.sets(fitted, probabilities_NK)
    np.testing.assert_array_equal(conformal.sets(stored, probabilities_NK), found_MK)
    other_MK = conformal.sets(fitted, probabilities_NK, seed=1)
    assert (found_MK != other_MK).any() == (method != 'lac')
    assert len(fitted['thresholds']) == (10 if by_class else 1)


@pytest.mark.parametrize('method', ['aps', 'raps'])
def test_without_noise_sets_are_larger_and_the_order_of_classes_does_not_matter(method):
    probabilities_NK, labels_N = synthetic(1_000)
    plain = conformal.fit(method, probabilities_NK, labels_N, 0.1, randomised=False)
    random = conformal.fit(method, probabilities_NK, labels_N, 0.1)
    plain_MK = conformal.sets(plain, probabilities_NK)
    assert plain_MK.sum() > conformal.sets(random, probabilities_NK).sum()
    order = np.random.default_rng(1).permutation(10)
    turned = conformal.fit(method, probabilities_NK[:, order], np.argsort(order)[labels_N], 0.1,
                           randomised=False)
    np.testing.assert_array_equal(conformal.sets(turned, probabilities_NK[:, order]),
                                  plain_MK[:, order])


def test_raps_without_penalty_is_aps_and_with_a_large_one_has_no_large_sets():
    probabilities_NK, labels_N = synthetic(500)
    given = {name: conformal.fit(name, probabilities_NK, labels_N, 0.1, **numbers)
             for name, numbers in (('aps', {}), ('raps', {'k_reg': 3, 'penalty': 0}))}
    assert given['raps']['thresholds'] == given['aps']['thresholds']
    assert given['raps']['images'] == 500 and given['raps']['tuning_images'] == 0
    large = conformal.fit('raps', probabilities_NK, labels_N, 0.3, k_reg=3, penalty=100.0)
    assert conformal.sets(large, probabilities_NK).sum(axis=1).max() <= 4


def test_raps_chooses_its_numbers_on_images_that_do_not_calibrate():
    probabilities_NK, labels_N = synthetic(500)
    fitted = conformal.fit('raps', probabilities_NK, labels_N, 0.1)
    assert (fitted['images'], fitted['tuning_images']) == (400, 100)
    assert fitted['penalty'] in conformal.PENALTIES
    rank_N = (probabilities_NK > probabilities_NK[np.arange(500), labels_N][:, None]).sum(1) + 1
    k_reg, penalty = conformal.choose_numbers(probabilities_NK, labels_N, 0.1)
    assert k_reg == np.sort(rank_N)[451 - 1]  # ceil(501 * 0.9) is 451
    sizes = [(score_NK <= np.sort(score_NK[np.arange(500), labels_N])[450]).sum() for score_NK in (
        conformal.scores('raps', probabilities_NK, k_reg=k_reg, penalty=one)
        for one in conformal.PENALTIES)]
    assert penalty == conformal.PENALTIES[np.argmin(sizes)] and len(set(sizes)) > 1
    assert conformal.choose_numbers(probabilities_NK, labels_N, 0.1, 7, 0.3) == (7, 0.3)
    assert conformal.choose_numbers(probabilities_NK, labels_N, 0.1, 7)[0] == 7


def test_sets_refuse_another_number_of_classes():
    fitted = conformal.fit('lac', *synthetic(30), 0.1)
    with pytest.raises(ConfigError, match='calibrated for 10 classes, the model has 3'):
        conformal.sets(fitted, np.array(ROW))
