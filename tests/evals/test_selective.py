import itertools
import json

import numpy as np
import pytest

from imgjax.errors import ConfigError, DataError
from imgjax.evals import selective


def test_the_curve_and_its_area_by_hand():
    confidences_N, correct_N = np.array([0.9, 0.6, 0.8, 0.7]), np.array([1, 0, 0, 1])
    np.testing.assert_allclose(selective.risk(confidences_N, correct_N), [0, 1/2, 1/3, 1/2])
    assert selective.aurc(confidences_N, correct_N) == pytest.approx((1/2 + 1/3 + 1/2) / 4)
    best = (0 + 0 + 1/3 + 2/4) / 4  # both errors last
    assert selective.excess_aurc(confidences_N, correct_N) == pytest.approx(4/3 / 4 - best)


def test_equal_confidences_count_as_the_mean_over_their_orders():
    confidences_N, correct_N = np.array([0.9, 0.5, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0, 0])
    orders = [selective.risk(np.array([0.9, *order, 0.1]), correct_N)
              for order in itertools.permutations([0.5, 0.49, 0.48])]
    np.testing.assert_allclose(selective.risk(confidences_N, correct_N), np.mean(orders, 0))


def test_perfect_confidences_have_no_excess():
    assert selective.excess_aurc([0.9, 0.8, 0.1], [True, True, False]) == 0
    worst = selective.excess_aurc([0.1, 0.2, 0.9], [True, True, False])
    random = selective.excess_aurc([0.5, 0.5, 0.5], [True, True, False])
    assert worst > random > 0


@pytest.mark.parametrize('share,rejected', [(0, 0), (0.29, 29), (0.5, 50), (0.999, 99)])
def test_a_threshold_rejects_the_share(share, rejected):
    confidences_N = np.random.default_rng(0).permutation(100) / 100
    threshold = selective.threshold(confidences_N, share)
    assert (confidences_N < threshold).sum() == rejected


def test_ties_never_reject_more_than_the_share():
    confidences_N = np.array([0.1, 0.5, 0.5, 0.5, 0.9])
    for share, rejected in [(0.2, 1), (0.4, 1), (0.79, 1), (0.8, 4)]:
        assert (confidences_N < selective.threshold(confidences_N, share)).sum() == rejected


def test_measure_has_accuracies_and_a_thin_curve():
    random = np.random.default_rng(0)
    confidences_N = random.uniform(size=1000)
    correct_N = random.uniform(size=1000) < confidences_N
    found = selective.measure(confidences_N, correct_N)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for row in found['at']:
        kept_N = confidences_N >= row['threshold']
        assert kept_N.sum() == row['images'] == round(row['coverage'] * 1000)
        assert row['accuracy'] == pytest.approx(correct_N[kept_N].mean())
    assert [row['coverage'] for row in found['at']] == [1, 0.95, 0.9, 0.8, 0.5]
    assert len(found['curve']) == 200
    assert found['curve'][-1]['coverage'] == 1
    assert found['curve'][-1]['risk'] == pytest.approx(1 - correct_N.mean())
    for point in found['curve']:
        kept_N = confidences_N >= point['threshold']
        assert point['coverage'] == pytest.approx(kept_N.mean())
        assert point['risk'] == pytest.approx(1 - correct_N[kept_N].mean())


def test_one_image_is_enough():
    found = selective.measure([0.3], [False])
    assert found['aurc'] == 1 and found['excess_aurc'] == 0 and len(found['curve']) == 1


@pytest.mark.parametrize('function,arguments,error,text', [
    (selective.measure, ([], []), DataError, 'one answer or more'),
    (selective.measure, ([0.1, np.nan], [0, 1]), DataError, r'1 of 2 images \(image 1\)'),
    (selective.measure, ([0.1], [2]), DataError, '0 and 1'),
    (selective.measure, ([0.1], [0, 1]), DataError, 'give two arrays'),
    (selective.threshold, ([0.1], 1), ConfigError, 'share'),
    (selective.threshold, ([0.1], np.nan), ConfigError, 'share'),
    (selective.threshold, ([], 0.1), DataError, 'one answer or more'),
])
def test_bad_input_is_refused_in_one_line(function, arguments, error, text):
    with pytest.raises(error, match=text) as raised:
        function(*map(np.asarray, arguments))
    assert '\n' not in str(raised.value)
