import numpy as np
import pytest
import scipy.optimize
import sklearn.isotonic
import sklearn.metrics

from imgjax.errors import ConfigError, DataError
from imgjax.evals import calibration, recalibration
from tests.evals.test_calibration import IMAGES, LABELS, data, nll


@pytest.mark.parametrize('several', [False, True])
def test_the_temperature_is_that_of_lowest_likelihood(several):
    logits_NK, labels = data(several=several)
    found = recalibration.fit_temperature(logits_NK, labels)['temperature']
    best = scipy.optimize.minimize_scalar(
        lambda value: nll(logits_NK / value, labels), bounds=(0.1, 10), method='bounded',
        options={'xatol': 1e-8}).x
    assert found == pytest.approx(best, rel=1e-5)
    assert 1.7 < found < 2.3  # logits twice too large
    twice = recalibration.fit_temperature(2 * logits_NK, labels)['temperature']
    assert twice == pytest.approx(2 * found, rel=1e-5)


@pytest.mark.parametrize('labels,temperature', [([0, 1], 0.01), ([1, 0], 100)])
def test_a_temperature_has_bounds(labels, temperature):
    found = recalibration.fit_temperature(np.float32([[1, 0], [0, 1]]), np.array(labels))
    assert found['temperature'] == pytest.approx(temperature)


@pytest.mark.parametrize('several', [False, True])
def test_vector_scaling_has_the_lowest_likelihood(several):
    logits_NK, labels = data(several=several)
    logits_NK = logits_NK * np.float32([1, 2, 0.5]) + np.float32([0, 1, -1])
    found = recalibration.fit_vector(logits_NK, labels)
    best = scipy.optimize.minimize(
        lambda values: nll(logits_NK * values[:3] + values[3:], labels), [1, 1, 1, 0, 0, 0]).fun
    ours = nll(logits_NK * np.array(found['weight']) + np.array(found['bias']), labels)
    assert ours == pytest.approx(best, abs=1e-6)
    np.testing.assert_allclose(np.array(found['weight']) * [1, 2, 0.5], 0.5, atol=0.15)


@pytest.mark.parametrize('several', [False, True])
def test_isotonic_is_that_of_sklearn_kept_off_0_and_1(several):
    logits_NK, labels = data(several=several)
    raw_NK = recalibration.apply({'method': 'none', 'multi_label': several}, logits_NK)
    truth_NK = labels if several else np.eye(3)[labels]
    expected_NK = np.stack([
        sklearn.isotonic.IsotonicRegression().fit_transform(raw_NK[:, k], truth_NK[:, k])
        for k in range(3)], 1).clip(1 / 602, 1 - 1 / 602)
    if not several:
        expected_NK /= expected_NK.sum(1, keepdims=True)
    found_NK = recalibration.apply(recalibration.fit_isotonic(logits_NK, labels), logits_NK)
    np.testing.assert_allclose(found_NK, expected_NK, atol=1e-9)


@pytest.mark.parametrize('several', [False, True])
def test_halves_share_each_class_equally(several):
    _, labels = data(301, several=several)
    in_first_N = recalibration.first_half(labels, 0)
    for group in np.unique(labels, axis=0):
        of_group_N = (labels == group).reshape(301, -1).all(1)
        assert abs((of_group_N & in_first_N).sum() - (of_group_N & ~in_first_N).sum()) <= 1
    assert (in_first_N != recalibration.first_half(labels, 1)).any()


def test_scores_of_a_fit_are_of_images_that_it_did_not_see():
    logits_NK, labels_N = data(200)
    crossed = calibration.measure(logits_NK, labels_N)['methods']
    for name, fit in list(recalibration.FITS.items())[1:]:
        seen_NK = recalibration.apply(fit(logits_NK, labels_N), logits_NK)
        assert crossed[name]['nll'] > sklearn.metrics.log_loss(labels_N, seen_NK) + 1e-3, name


@pytest.mark.parametrize('function,arguments,error,text', [
    (recalibration.fit_isotonic, (IMAGES, LABELS[:3]), DataError, 'for 4 images'),
    (recalibration.apply, ({'method': 'magic'}, IMAGES), ConfigError, "'magic'"),
    (recalibration.apply, ({}, IMAGES), ConfigError, 'unknown method None'),
    (recalibration.apply, ({'method': 'none'}, IMAGES + np.nan), DataError, 'not finite'),
    (recalibration.apply, ({'method': 'vector', 'weight': [1]}, IMAGES), DataError,
     'other classes'),
])
def test_bad_input_is_refused_in_one_line(function, arguments, error, text):
    with pytest.raises(error, match=text) as raised:
        function(*arguments)
    assert '\n' not in str(raised.value)
