"""Coverage and size of conformal sets over random halves."""

import json
import math

import numpy as np
import pytest

from imgjax.errors import ConfigError, DataError
from imgjax.evals import conformal, conformal_coverage
from tests.evals.test_conformal import synthetic


@pytest.mark.parametrize('method', conformal.METHODS)
@pytest.mark.parametrize('alpha', [0.1, 0.25])
def test_coverage_over_splits_is_what_is_promised(method, alpha):
    probabilities_NK, labels_N = synthetic(1_000)
    found = conformal_coverage.coverage_over_splits(method, probabilities_NK, labels_N, alpha=alpha)
    n = found['calibration_images']
    assert n == (400 if method == 'raps' else 500)
    error = found['coverage_sd'] / math.sqrt(found['splits'])
    assert 1 - alpha - 4 * error < found['coverage'] < 1 - alpha + 1 / (n + 1) + 4 * error
    spread = math.sqrt(alpha * (1 - alpha) * 2 / n)  # of n new images and n calibration images
    assert found['coverage_sd'] == pytest.approx(spread, rel=0.15)


def test_by_class_covers_a_class_that_the_model_misjudges():
    probabilities_NK, labels_N = synthetic(2_000, 4)
    labels_N[(labels_N == 1) & (np.arange(2_000) % 2 == 0)] = 0  # half of class 1 is said to be 0
    over_all, by_class = (conformal_coverage.coverage_over_splits(
        'lac', probabilities_NK, labels_N, splits=100, by_class=one) for one in (False, True))
    assert over_all['worst_class']['class'] == 0
    assert over_all['worst_class']['coverage'] < 0.87
    assert over_all['worst_class']['images'] == (labels_N == 0).sum()
    assert min(by_class['coverage_by_class']) > 0.89
    assert max(by_class['coverage_by_class']) < 0.92


def test_measure_is_json_and_its_parts_agree():
    probabilities_NK, labels_N = synthetic(200)
    found = conformal_coverage.measure(probabilities_NK, labels_N, splits=20, seed=5)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found['methods']) == set(found['fits']) == {'lac', 'aps', 'raps', 'lac_by_class'}
    assert (found['images'], found['classes'], found['left_out']) == (200, 10, {})
    for name, one in found['methods'].items():
        assert one['empty'] + one['singletons'] == pytest.approx(
            sum(part['share'] for part in one['by_size'] if part['low'] == 0))
        assert sum(part['share'] for part in one['by_size']) == pytest.approx(1)
        assert one['coverage'] == pytest.approx(
            sum(part['share'] * part['coverage'] for part in one['by_size'])), name
        gaps = [abs(part['coverage'] - 0.9) for part in one['by_size'] if part['share'] >= 0.01]
        assert one['size_violation'] == max(gaps)
    assert found['fits']['lac'] == conformal.fit('lac', probabilities_NK, labels_N, 0.1, seed=5)


def test_a_perfect_model_has_singletons():
    labels_N = np.arange(40) % 4
    sure_NK = np.full((40, 4), 0.01)
    sure_NK[np.arange(40), labels_N] = 0.97
    found = conformal_coverage.coverage_over_splits('lac', sure_NK, labels_N, splits=1)
    assert (found['coverage'], found['size'], found['singletons'], found['empty']) == (1, 1, 1, 0)
    assert found['coverage_sd'] is None and found['by_size'][0]['coverage'] == 1


def test_a_class_without_images_leaves_out_the_thresholds_per_class():
    probabilities_NK, labels_N = synthetic(100)
    labels_N[labels_N == 3] = 4
    found = conformal_coverage.measure(probabilities_NK, labels_N, splits=5)
    assert found['left_out'] == {'lac_by_class': 'a class has no image to calibrate its threshold'}
    assert 'lac_by_class' not in found['methods'] and 'lac_by_class' not in found['fits']
    assert found['methods']['lac']['coverage_by_class'][3] is None
    with pytest.raises(DataError, match='class 3 has no image to calibrate its threshold'):
        conformal.fit('lac', probabilities_NK, labels_N, 0.1, by_class=True)


def test_many_scores_take_fewer_splits(monkeypatch):
    monkeypatch.setattr(conformal_coverage, 'COMPARED', 12_000)
    assert conformal_coverage.coverage_over_splits('lac', *synthetic(100))['splits'] == 12


NAN = np.full((30, 10), np.nan)


@pytest.mark.parametrize('change, error, line', [
    ({'method': 'rap'}, ConfigError, "unknown method 'rap'; did you mean 'raps'?"),
    ({'alpha': 0}, ConfigError, 'alpha: takes a number above 0 and below 1, got 0'),
    ({'alpha': 1.0}, ConfigError, 'alpha: takes a number above 0 and below 1, got 1.0'),
    ({'alpha': math.nan}, ConfigError, 'alpha: takes'),
    ({'splits': 0}, ConfigError, 'splits: takes 1 or more, got 0'),
    ({'k_reg': 3}, ConfigError, 'k_reg: takes 0 or more and only for raps, got 3 for lac'),
    ({'method': 'raps', 'penalty': -1.0}, ConfigError, 'penalty: takes 0 or more'),
    ({'labels_N': np.zeros((30, 10), bool)}, DataError, 'give one class per image (several labels'),
    ({'labels_N': np.zeros(29, int)}, DataError, 'labels: shape (29,) for 30 images'),
    ({'labels_N': np.zeros(30)}, DataError, 'labels: float64'),
    ({'labels_N': np.full(30, 10)}, DataError, 'labels: 10 of image 0 is no class'),
    ({'probabilities_NK': NAN}, DataError, 'image 0 are not all within 0 to 1'),
    ({'probabilities_NK': np.full((30, 10), 0.2)}, DataError, 'sum to 2, not 1; give the outputs'),
    ({'probabilities_NK': np.zeros((0, 10))}, DataError, 'probabilities: shape (0, 10)'),
    ({'probabilities_NK': np.ones((30, 1))}, DataError, 'give two or more'),
    ({'probabilities_NK': np.full((9, 10), 0.1), 'labels_N': np.zeros(9, int)}, DataError,
     '9 images are too few for random halves; give 20 or more'),
])
def test_bad_input_is_refused_in_one_line(change, error, line):
    probabilities_NK, labels_N = synthetic(30)
    given = {'method': 'lac', 'probabilities_NK': probabilities_NK, 'labels_N': labels_N, **change}
    with pytest.raises(error) as raised:
        conformal_coverage.coverage_over_splits(**given)
    assert line in str(raised.value) and '\n' not in str(raised.value)
