"""Mean corruption errors, by hand and beside a baseline."""

import json

import numpy as np
import pytest

from imgjax.errors import ConfigError, DataError
from imgjax.evals import corruption_error
from imgjax.evals.corruptions import COMMON, NAMES, SEVERITIES
from imgjax.evals.intervals import wilson

# The same accuracies for all corruptions: 0.85, 0.75, ..., 0.45, with the mean 0.65.
SAME = {name: {severity: 0.95 - severity / 10 for severity in SEVERITIES} for name in NAMES}


def test_the_means_are_those_of_the_paper():
    accuracies = SAME | {'fog': dict.fromkeys(SEVERITIES, 0.2)}
    baseline = corruption_error.Baseline(
        'another', dict.fromkeys(NAMES, 0.7) | {'fog': 0.5}, clean=0.3)
    found = corruption_error.measure(accuracies, 0.9, 400, baseline=baseline)
    json.dumps(found)
    by_name = {row['name']: row for row in found['corruptions']}
    assert by_name['fog']['ce'] == pytest.approx(0.8 / 0.5)
    assert by_name['snow']['ce'] == pytest.approx(0.35 / 0.7)
    assert by_name['snow']['relative_ce'] == pytest.approx((0.35 - 0.1) / (0.7 - 0.3))
    assert found['mce'] == pytest.approx((14 * 0.5 + 1.6) / 15)
    assert found['relative_mce'] == pytest.approx((14 * 0.625 + 0.7 / 0.2) / 15)
    assert found['common']['accuracy'] == pytest.approx((14 * 0.65 + 0.2) / 15)
    assert found['common']['added_error'] == pytest.approx(0.9 - found['common']['accuracy'])
    assert found['baseline'] == 'another' and found['worst'] == 'fog' and found['notes'] == []
    weather = next(one for one in found['categories'] if one['name'] == 'weather')
    assert weather['accuracy'] == pytest.approx((3 * 0.65 + 0.2) / 4)
    assert weather['by_severity'][0] == pytest.approx((3 * 0.85 + 0.2) / 4)


def test_intervals_are_wilsons_for_the_number_of_images():
    found = corruption_error.measure(SAME, 1.0, 400)
    for one, right in ((found['corruptions'][0]['severities'][1], 300), (found['common'], 260),
                       (found['clean'], 400)):
        low, high = wilson(right, 400)
        assert (one['low'], one['high']) == pytest.approx((float(low), float(high)))


def test_the_interval_of_a_mean_is_wide_enough_when_corruptions_fail_together():
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(400):  # every image is right under all corruptions, or under none
        share = float((rng.random(60) < 0.7).mean())
        found = corruption_error.measure(
            {name: dict.fromkeys(SEVERITIES, share) for name in COMMON}, 1.0, 60)
        missed += not found['common']['low'] <= 0.7 <= found['common']['high']
    assert missed / 400 < 0.08


def test_alexnet_has_an_mce_of_one_beside_itself():
    alexnet = corruption_error.ALEXNET
    assert list(alexnet.errors) == list(COMMON)
    own = {name: dict.fromkeys(SEVERITIES, 1 - error) for name, error in alexnet.errors.items()}
    found = corruption_error.measure(own, 1 - alexnet.clean, 50_000, baseline=alexnet)
    assert found['mce'] == pytest.approx(1) and found['relative_mce'] == pytest.approx(1)


def test_what_has_no_ratio_is_said():
    found = corruption_error.measure(SAME, 0.9, 10, baseline=corruption_error.ALEXNET)
    assert found['mce'] is not None
    assert found['notes'] == [
        'No CE of speckle_noise, gaussian_blur, spatter, saturate: AlexNet on ImageNet-C has no '
        'figure for them.']
    own = corruption_error.measure(SAME, 0.9, 10, baseline=corruption_error.own_error(0.9))
    assert own['mce'] == pytest.approx(0.35 / 0.1) and own['relative_mce'] is None
    assert 'No relative CE of any corruption' in own['notes'][0]
    perfect = corruption_error.measure(SAME, 1.0, 10, baseline=corruption_error.own_error(1.0))
    assert perfect['mce'] is None and 'No CE of any corruption' in perfect['notes'][0]


def test_missing_corruptions_are_said():
    few = {'fog': SAME['fog'], 'saturate': SAME['saturate']}
    found = corruption_error.measure(few, 0.9, 10)
    assert found['common']['accuracy'] == pytest.approx(0.65)
    assert 'gaussian_noise' in found['notes'][0] and 'fog' not in found['notes'][0]
    only_extra = corruption_error.measure({'saturate': SAME['saturate']}, 0.9, 10)
    assert only_extra['common'] is None and only_extra['mce'] is None


def test_mean_errors_make_a_baseline():
    errors = corruption_error.mean_errors(SAME)
    assert list(errors) == list(NAMES) and errors['fog'] == pytest.approx(0.35)


@pytest.mark.parametrize('accuracies, images, error, words', [
    ({}, 10, DataError, '0 corruptions'),
    (SAME, 0, DataError, '0 images'),
    ({'fogg': SAME['fog']}, 10, ConfigError, "did you mean 'fog'"),
    ({'fog': {3: 0.5}}, 10, DataError, r'severities \[3\]'),
    ({'fog': dict.fromkeys(SEVERITIES, 50.0)}, 10, DataError, 'not within 0 to 1'),
    ({'fog': dict.fromkeys(SEVERITIES, float('nan'))}, 10, DataError, 'not within 0 to 1')])
def test_errors_name_the_field(accuracies, images, error, words):
    with pytest.raises(error, match=words):
        corruption_error.measure(accuracies, 0.9, images)


def test_a_clean_accuracy_in_percent_is_refused():
    with pytest.raises(DataError, match='clean_accuracy: 90'):
        corruption_error.measure(SAME, 90, 10)
