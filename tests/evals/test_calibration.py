import json

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import sklearn.metrics

from imgjax.errors import ConfigError, DataError
from imgjax.evals import calibration, intervals, recalibration


def data(images=600, classes=3, several=False, sharpness=2.0, seed=0):
    """Returns (logits_NK, labels) of a model whose logits are `sharpness` times too large."""
    random = np.random.default_rng(seed)
    logits_NK = random.normal(size=(images, classes))
    if several:
        labels = random.uniform(size=logits_NK.shape) < scipy.special.expit(logits_NK)
        return (sharpness * logits_NK).astype(np.float32), labels.astype(np.float32)
    labels_N = (logits_NK + random.gumbel(size=logits_NK.shape)).argmax(1)
    return (sharpness * logits_NK).astype(np.float32), labels_N.astype(np.int32)


def nll(logits_NK, labels):
    return calibration.scores(logits_NK, labels)['nll']


def test_a_confidence_of_one_is_in_the_last_bin():
    assert calibration.ece([0.95, 1.0], [True, False], 10) == pytest.approx(0.475)


def test_rows_by_hand():
    rows = calibration.reliability([0.6, 0.65, 0.3, 1.0], [1, 0, 1, 1], 10)
    assert [row['count'] for row in rows] == [0, 0, 0, 1, 0, 0, 2, 0, 0, 1]
    assert rows[0] == {'low': 0, 'high': 0.1, 'count': 0, 'confidence': None, 'accuracy': None,
                       'accuracy_low': None, 'accuracy_high': None}
    row = rows[6]
    assert (row['low'], row['high'], row['accuracy']) == (0.6, 0.7, 0.5)
    assert row['confidence'] == pytest.approx(0.625)
    assert (row['accuracy_low'], row['accuracy_high']) == pytest.approx(
        tuple(scipy.stats.binomtest(1, 2).proportion_ci(0.95, 'wilson')))
    assert calibration.ece([0.6, 0.65, 0.3, 1.0], [1, 0, 1, 1], 10) == pytest.approx(
        (2 * 0.125 + 0.7 + 0) / 4)


def test_bins_of_equal_mass_hold_equally_many_and_never_split_a_tie():
    confidences_N = np.random.default_rng(0).uniform(0.5, 1, 60)
    rows = calibration.reliability(confidences_N, confidences_N > 0.7, 6, 'mass')
    assert [row['count'] for row in rows] == [10] * 6
    rows = calibration.reliability([0.5] * 5 + [0.9] * 5, [1] * 10, 4, 'mass')
    assert [row['count'] for row in rows if row['count']] == [5, 5]
    rows = calibration.reliability([1.0] * 10, [1] * 10, 5, 'mass')
    assert sum(row['count'] for row in rows) == 10


@pytest.mark.parametrize('several', [False, True])
def test_likelihood_and_brier_score_are_those_of_sklearn(several):
    logits_NK, labels = data(several=several)
    probabilities_NK = recalibration.apply({'method': 'none', 'multi_label': several}, logits_NK)
    found = calibration.scores(logits_NK, labels)
    if several:
        rows = list(zip(labels.T, probabilities_NK.T, strict=True))
        expected = [np.mean([score(*row) for row in rows])
                    for score in (sklearn.metrics.log_loss, sklearn.metrics.brier_score_loss)]
    else:
        expected = [sklearn.metrics.log_loss(labels, probabilities_NK),
                    np.square(probabilities_NK - np.eye(3)[labels]).sum(1).mean()]
    assert [found['nll'], found['brier']] == pytest.approx(expected, abs=1e-9)


def test_two_classes_have_twice_the_binary_brier_score():
    logits_NK, labels_N = data(classes=2)
    positive_N = recalibration.apply({'method': 'none'}, logits_NK)[:, 1]
    binary = sklearn.metrics.brier_score_loss(labels_N, positive_N)
    assert calibration.scores(logits_NK, labels_N)['brier'] == pytest.approx(2 * binary)


def test_a_likelihood_is_not_clipped():
    assert nll(np.array([[2000., 0.]]), np.array([1])) == 2000
    assert nll(np.array([[2000., -2000.]]), np.array([[0., 1.]])) == 2000


@pytest.mark.parametrize('several', [False, True])
def test_the_classwise_error_is_the_mean_of_binary_ones(several):
    logits_NK, labels = data(classes=70, several=several)  # more than a block
    probabilities_NK = recalibration.apply({'method': 'none', 'multi_label': several}, logits_NK)
    truth_NK = labels if several else np.eye(70)[labels]
    errors = [calibration.ece(probabilities_NK[:, k], truth_NK[:, k]) for k in range(70)]
    assert calibration.scores(logits_NK, labels)['classwise_ece'] == pytest.approx(np.mean(errors))


@pytest.mark.parametrize('confidences,right,expected', [
    ([0.5] * 4 + [1.0] * 4, [0, 1, 0, 1, 0, 0, 0, 0], 0.5),
    ([0.0] * 4 + [0.5] * 4, [1, 0, 1, 0, 0, 1, 0, 1], 0.25),
    ([0.8] * 5, [1, 1, 1, 1, 0], 0.0),
    ([1.0] * 10, [1] * 9 + [0], 0.1),
    ([1.0] * 10, [0] * 10, 1.0),
])
def test_a_smooth_error_by_hand(confidences, right, expected):
    # Answers of one confidence keep their mean error whatever the bandwidth, also at 0 and 1.
    assert calibration.smooth_ece(confidences, right) == pytest.approx(expected, abs=2e-3)


def test_the_smooth_error_is_the_integral_of_the_paper():
    random = np.random.default_rng(1)
    confidences_N = np.append(random.uniform(0.3, 1, 150), np.ones(50))
    correct_N = random.uniform(size=200) < confidences_N ** 2 - 0.1

    def integral(bandwidth):  # the reflected kernel, written out
        t_T1 = np.linspace(0, 1, 501)[:, None]
        images = [(confidences_N + 2 * m, -confidences_N + 2 * m) for m in (-1, 0, 1)]
        kernel_TN = sum(scipy.stats.norm.pdf(t_T1, at_N, bandwidth) for pair in images
                        for at_N in pair)
        return np.trapezoid(np.abs(kernel_TN @ (confidences_N - correct_N) / 200), dx=1 / 500)

    expected = scipy.optimize.brentq(lambda bandwidth: integral(bandwidth) - bandwidth, 0.02, 0.5,
                                     xtol=1e-5)
    assert calibration.smooth_ece(confidences_N, correct_N) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize('several', [False, True])
def test_measure_chooses_a_fit_that_helps_new_images(several):
    logits_NK, labels = data(2000, several=several)
    found = calibration.measure(logits_NK[:1000], labels[:1000], bins=10)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found['chosen'] != 'none' and found['left_out'] is None
    assert list(found['methods']) == list(found['fits']) == list(recalibration.FITS)
    assert found['methods']['none'] == {
        name: row['value'] for name, row in found['scores'].items()}
    assert found['scores']['gap']['value'] == pytest.approx(
        found['confidence'] - found['accuracy'])
    answers = 3000 if several else 1000
    for score, rows in zip(('ece', 'ece_mass'), found['reliability'].values(), strict=True):
        assert sum(row['count'] for row in rows) == answers
        error = sum(row['count'] * abs(row['confidence'] - row['accuracy'])
                    for row in rows if row['count']) / answers
        assert error == pytest.approx(found['scores'][score]['value'])
    chosen = found['fits'][found['chosen']]
    new_NK, new_labels = logits_NK[1000:], labels[1000:]
    confidences_NA, correct_NA = calibration.answers(
        recalibration.apply(chosen, new_NK), new_labels)
    assert calibration.ece(confidences_NA.ravel(), correct_NA.ravel()) < 0.06
    assert calibration.scores(new_NK, new_labels)['ece'] > 0.1


def test_measure_leaves_good_probabilities_alone_and_repeats_itself():
    logits_NK, labels_N = data(300, sharpness=1.0)
    found = calibration.measure(logits_NK, labels_N, seed=3)
    assert found['chosen'] == 'none'
    assert found == calibration.measure(logits_NK, labels_N, seed=3)
    other = calibration.measure(logits_NK, labels_N, seed=4)
    assert other['methods']['none'] == found['methods']['none']
    assert other['methods']['temperature'] != found['methods']['temperature']
    assert other['scores'] != found['scores']


@pytest.mark.parametrize('several', [False, True])
def test_a_draw_has_the_scores_of_its_images(several):
    logits_NK, labels = data(100, several=several)
    counts_ND = next(intervals.draws(100, 500, np.random.default_rng(0))).astype(float)
    drawn = calibration._scores(logits_NK, labels, 15, counts_ND)
    rows = np.repeat(np.arange(100), counts_ND[:, 7].astype(int))
    expected = calibration.scores(logits_NK[rows], labels[rows])
    for name in ('nll', 'brier', 'ece', 'classwise_ece', 'gap'):
        assert drawn[name][7] == pytest.approx(expected[name]), name
    assert drawn['smooth_ece'][7] == pytest.approx(expected['smooth_ece'], rel=0.2)
    assert drawn['ece_mass'].std() == pytest.approx(drawn['ece'].std(), rel=0.5)


def test_an_interval_has_the_width_of_the_standard_error():
    logits_NK, labels_N = data(2000)
    losses_N = scipy.special.logsumexp(logits_NK, 1) - logits_NK[np.arange(2000), labels_N]
    row = calibration.measure(logits_NK, labels_N)['scores']['nll']
    half = 1.96 * float(losses_N.std()) / 2000 ** 0.5
    assert [row['low'], row['high']] == pytest.approx(
        [float(losses_N.mean()) - half, float(losses_N.mean()) + half], abs=0.12 * half)


@pytest.mark.parametrize('several', [False, True])
def test_a_rare_class_leaves_out_the_fits_per_class(several):
    logits_NK, labels = data(100, several=several)
    labels = labels.copy()
    if several:
        labels[:, 1] = 1  # there is no image without
    else:
        labels[labels == 1] = 0
        labels[:3] = 1
    found = calibration.measure(logits_NK, labels)
    assert list(found['methods']) == list(found['fits']) == ['none', 'temperature']
    assert f'{"without" if several else "with"} label 1' in found['left_out']


IMAGES = np.zeros((4, 2), np.float32)
LABELS = np.array([0, 1, 0, 1], np.int32)


@pytest.mark.parametrize('function,arguments,error,text', [
    (calibration.measure, (IMAGES[:3], LABELS[:3]), DataError, '3 images are too few'),
    (calibration.measure, (IMAGES[:0], LABELS[:0]), DataError, 'at least one of each'),
    (calibration.measure, (IMAGES[:, :1], 0 * LABELS), DataError, 'one class only'),
    (calibration.measure, (IMAGES + np.nan, LABELS), DataError, 'not finite for 4 of 4 images'),
    (calibration.measure, (IMAGES, LABELS + 1), DataError, 'labels: 2 of image 1 is no class'),
    (calibration.measure, (IMAGES, LABELS - 1), DataError, 'labels: -1 of image 0 is no class'),
    (calibration.measure, (IMAGES, LABELS.astype(float)), DataError, 'labels: float64'),
    (calibration.measure, (IMAGES, LABELS[:3]), DataError, 'for 4 images'),
    (calibration.measure, (IMAGES, IMAGES + 0.5), DataError, '0 or 1'),
        (calibration.ece, ([0.5], [1], 0), ConfigError, 'bins'),
    (calibration.ece, ([0.5], [1], 5, 'depth'), ConfigError, "'depth'"),
    (calibration.ece, ([1.5], [1]), DataError, 'between 0 and 1'),
    (calibration.smooth_ece, ([np.nan], [1]), DataError, 'confidences: not finite'),
    (calibration.smooth_ece, ([], []), DataError, 'one answer or more'),
    (calibration.reliability, ([0.5], [2]), DataError, '0 and 1'),
    (calibration.reliability, ([0.5], [1, 1]), DataError, 'give two arrays'),
])
def test_bad_input_is_refused_in_one_line(function, arguments, error, text):
    with pytest.raises(error, match=text) as raised:
        function(*arguments)
    assert '\n' not in str(raised.value)


def test_no_fit_is_made_where_all_answers_are_right():
    labels_N = np.arange(40) % 4
    found = calibration.measure(3.0 * np.eye(4)[labels_N], labels_N)
    assert list(found['fits']) == ['none'] and found['chosen'] == 'none'
    assert found['left_out'].startswith('All answers are right')
