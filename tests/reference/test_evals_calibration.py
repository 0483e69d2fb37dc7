"""Calibration against netcal 1.4.0 and relplot."""

import numpy as np
import pytest

from imgjax.evals import calibration, recalibration

netcal_metrics = pytest.importorskip('netcal.metrics')
netcal_binning = pytest.importorskip('netcal.binning')
netcal_scaling = pytest.importorskip('netcal.scaling')
relplot = pytest.importorskip('relplot')


def data(images=800, classes=4, seed=0):
    """Returns (logits_NK, labels_N) of a model whose logits are twice too large."""
    random = np.random.default_rng(seed)
    logits_NK = random.normal(size=(images, classes))
    labels_N = (logits_NK + random.gumbel(size=logits_NK.shape)).argmax(1)
    return 2 * logits_NK, labels_N


@pytest.mark.parametrize('binning', ['width', 'mass'])
@pytest.mark.parametrize('bins', [1, 10, 15])
@pytest.mark.parametrize('images', [50, 800])
def test_expected_calibration_errors(binning, bins, images):
    logits_NK, labels_N = data(images)
    probabilities_NK = recalibration.apply({'method': 'none'}, logits_NK)
    confidences_NA, correct_NA = calibration.answers(probabilities_NK, labels_N)
    theirs = netcal_metrics.ECE(bins, equal_intervals=binning == 'width').measure(
        probabilities_NK, labels_N)
    ours = calibration.ece(confidences_NA[:, 0], correct_NA[:, 0], bins, binning)
    print(f'difference {ours - theirs:.1e}')
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_classwise_error():
    logits_NK, labels_N = data()
    probabilities_NK = recalibration.apply({'method': 'none'}, logits_NK)
    theirs = np.mean([netcal_metrics.ECE(15).measure(probabilities_NK[:, k], labels_N == k)
                      for k in range(4)])
    ours = calibration.scores(logits_NK, labels_N)['classwise_ece']
    print(f'difference {ours - theirs:.1e}')
    assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize('images', [100, 3000])
@pytest.mark.parametrize('shift,most', [(0, 1e-6), (0.01, 1e-6), (0.05, 1e-6), (0.25, 1e-4)])
def test_smooth_error(images, shift, most):
    # It cuts the kernel at a distance of 0.5, which counts where the error is large.
    random = np.random.default_rng(0)
    confidences_N = random.uniform(0.26, 0.99, images)
    correct_N = random.uniform(size=images) < confidences_N - shift
    theirs = relplot.smECE(confidences_N, correct_N.astype(float))
    ours = calibration.smooth_ece(confidences_N, correct_N)
    print(f'error {theirs:.3f}, difference {ours - theirs:.1e}')
    assert ours == pytest.approx(theirs, abs=most)


def test_relplot_counts_a_confidence_of_one_by_half():
    # Half of the answers are wrong at 1, the others are calibrated: the error is 1 / 2.
    confidences_N, correct_N = np.repeat([0.5, 1.0], 100), np.append(np.arange(100) % 2, [0] * 100)
    assert calibration.smooth_ece(confidences_N, correct_N) == pytest.approx(1 / 2, abs=0.01)
    assert relplot.smECE(confidences_N, correct_N.astype(float)) == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.filterwarnings('ignore')  # pyro's, of torch
@pytest.mark.parametrize('method,scaling', [
    ('temperature', 'TemperatureScaling'), ('vector', 'LogisticCalibration')])
def test_scaling(method, scaling):
    logits_NK, labels_N = data()
    raw_NK = recalibration.apply({'method': 'none'}, logits_NK)
    logits_NK = np.log(raw_NK)  # as it has no logits, and vector scaling is not free of a shift
    reference = getattr(netcal_scaling, scaling)()
    reference.fit(raw_NK, labels_N)
    theirs_NK = reference.transform(raw_NK)
    ours_NK = recalibration.apply(recalibration.FITS[method](logits_NK, labels_N), logits_NK)
    likelihood = [-np.log(probabilities_NK[np.arange(800), labels_N]).mean()
                  for probabilities_NK in (ours_NK, theirs_NK)]
    print(f'difference of nll {likelihood[0] - likelihood[1]:.1e}, '
          f'of probabilities {np.abs(ours_NK - theirs_NK).max():.1e}')
    assert likelihood[0] <= likelihood[1] + 1e-6
    assert likelihood[0] == pytest.approx(likelihood[1], abs=1e-6)
    np.testing.assert_allclose(ours_NK, theirs_NK, atol=1e-3)


def test_isotonic():
    logits_NK, labels_N = data()
    raw_NK = recalibration.apply({'method': 'none'}, logits_NK)
    reference = netcal_binning.IsotonicRegression(independent_probabilities=True)
    reference.fit(raw_NK, labels_N)
    theirs_NK = reference.transform(raw_NK).clip(1 / 802, 1 - 1 / 802)  # ours stays off 0 and 1
    theirs_NK /= theirs_NK.sum(1, keepdims=True)
    ours_NK = recalibration.apply(recalibration.fit_isotonic(logits_NK, labels_N), logits_NK)
    print(f'difference {np.abs(ours_NK - theirs_NK).max():.1e}')
    np.testing.assert_allclose(ours_NK, theirs_NK, atol=1e-6)
