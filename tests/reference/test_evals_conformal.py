"""Conformal sets: equal to those of MAPIE 1.6 with the same probabilities and random numbers."""

import numpy as np
import pytest

from imgjax.evals import conformal

pytest.importorskip('mapie')

from mapie.classification import SplitConformalClassifier  # noqa: E402
from mapie.conformity_scores.sets.raps import RAPSConformityScore  # noqa: E402
from sklearn.base import BaseEstimator, ClassifierMixin  # noqa: E402
from sklearn.model_selection import StratifiedShuffleSplit  # noqa: E402

CLASSES = 10


class Given(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose inputs are its probabilities."""

    classes_ = np.arange(CLASSES)

    def fit(self, x_NK, y_N):
        return self

    def predict_proba(self, x_NK):
        return x_NK

    def predict(self, x_NK):
        return x_NK.argmax(axis=1)

    def __sklearn_is_fitted__(self):
        return True


class Noise(np.random.RandomState):
    """Draws the given arrays where MAPIE asks for uniform numbers, in their order."""

    def uniform(self, low=0.0, high=1.0, size=None):
        return self.given.pop(0).reshape(size)


@pytest.fixture(scope='module')
def data():
    rng = np.random.default_rng(0)
    logits_NK = 2 * rng.normal(size=(1_500, CLASSES))
    probabilities_NK = np.exp(logits_NK)
    probabilities_NK /= probabilities_NK.sum(axis=1, keepdims=True)
    labels_N = (probabilities_NK.cumsum(axis=1) < rng.random((1_500, 1))).sum(axis=1)
    return (probabilities_NK[:500], labels_N[:500]), probabilities_NK[500:]


def mapie_sets(method, calibration, probabilities_MK, alpha, noise, last):
    """Returns the sets, bool (M, K), and MAPIE's object with what it calibrated."""
    state = Noise(0)
    state.given = list(noise)
    classifier = SplitConformalClassifier(Given(), confidence_level=1 - alpha, random_state=state,
                                          conformity_score=method).conformalize(*calibration)
    _, sets_MK1 = classifier.predict_set(probabilities_MK, {'include_last_label': last})
    return sets_MK1[:, :, 0], classifier._conformity_score


@pytest.mark.parametrize('alpha', [0.1, 0.2, 0.35])
@pytest.mark.parametrize('method', ['lac', 'aps'])
def test_sets_are_equal(method, alpha, data):
    calibration, probabilities_MK = data
    noise = (conformal.noise(500, 0, conformal.CALIBRATION),
             conformal.noise(1_000, 0, conformal.PREDICTION))
    expected_MK, score = mapie_sets(method, calibration, probabilities_MK, alpha, noise,
                                    'randomized')
    fitted = conformal.fit(method, *calibration, alpha)
    assert abs(fitted['thresholds'][0] - score.quantiles_[0]) < 1e-14
    np.testing.assert_array_equal(conformal.sets(fitted, probabilities_MK), expected_MK)


@pytest.mark.parametrize('last, u', [(True, 1.0), (False, 0.0)])
def test_aps_sets_without_noise_are_equal(last, u, data):
    """MAPIE's sets with and without the class that crosses the threshold are those of u = 1 and 0.

    With u = 0 MAPIE adds the most probable class to a set that would be empty.
    """
    calibration, probabilities_MK = data
    noise_N = conformal.noise(500, 0, conformal.CALIBRATION)
    expected_MK, _ = mapie_sets('aps', calibration, probabilities_MK, 0.2, [noise_N], last)
    threshold = conformal.fit('aps', *calibration, 0.2)['thresholds'][0]
    found_MK = conformal.scores('aps', probabilities_MK, np.full(1_000, u)) <= threshold
    found_MK[np.arange(1_000), probabilities_MK.argmax(axis=1)] = True
    np.testing.assert_array_equal(found_MK, expected_MK)


@pytest.mark.parametrize('penalty', [None, 0.02, 0.002])
@pytest.mark.parametrize('alpha', [0.1, 0.2, 0.35])
def test_raps_is_equal_where_mapie_follows_the_paper(alpha, penalty, data, monkeypatch):
    """Equal numbers, threshold, and sets; but for a noisy last class beyond k_reg + 1.

    There MAPIE 1.6 divides by the probability of that class minus the penalties of its rank, where
    algorithm 3 of the paper divides by the probability alone.
    """
    if penalty is not None:  # None: the one that MAPIE chooses
        monkeypatch.setattr(RAPSConformityScore, '_find_lambda_star', lambda *args: penalty)
    (probabilities_NK, labels_N), probabilities_MK = data
    rest, tuning = next(StratifiedShuffleSplit(1, test_size=0.1, random_state=0).split(
        probabilities_NK, labels_N))
    noise = [conformal.noise(450, 0, conformal.CALIBRATION),
             conformal.noise(1_000, 0, conformal.PREDICTION)]
    plain_MK, score = mapie_sets('raps', (probabilities_NK, labels_N), probabilities_MK, alpha,
                                 noise, False)
    k_reg, penalty = int(score.k_star[0]), float(score.lambda_star)
    assert conformal.choose_numbers(probabilities_NK[tuning], labels_N[tuning], alpha)[0] == k_reg
    calibration = probabilities_NK[rest], labels_N[rest]
    score_NK = conformal.scores('raps', calibration[0], noise[0], k_reg=k_reg, penalty=penalty)
    threshold = conformal.quantile(score_NK[np.arange(450), calibration[1]], alpha)
    assert abs(threshold - score.quantiles_[0]) < 1e-14

    found_MK = conformal.scores('raps', probabilities_MK, k_reg=k_reg,
                                penalty=penalty) <= threshold
    found_MK[np.arange(1_000), probabilities_MK.argmax(axis=1)] = True
    np.testing.assert_array_equal(found_MK, plain_MK)

    noisy_MK, _ = mapie_sets('raps', (probabilities_NK, labels_N), probabilities_MK, alpha, noise,
                             'randomized')
    found_MK = conformal.scores('raps', probabilities_MK, noise[1], k_reg=k_reg,
                                penalty=penalty) <= threshold
    differ_M = (found_MK != noisy_MK).any(axis=1)
    last_M = np.maximum(found_MK, noisy_MK).sum(axis=1)
    assert not differ_M[last_M <= k_reg + 1].any()
    assert differ_M.mean() < 0.01
