"""Linear probes against sklearn, and what a user of them relies on."""

import json

import numpy as np
import pytest

from imgjax.errors import ConfigError, DataError
from imgjax.evals import probes


def standardised(train_ND, eval_ND):
    sd_D = train_ND.std(axis=0, dtype=np.float64)
    sd_D[sd_D == 0] = 1
    return [(one_ND - train_ND.mean(axis=0, dtype=np.float64)) / sd_D
            for one_ND in (train_ND, eval_ND)]


def several(labels_N):
    """Labels of several per image: the digit's three lowest bits."""
    return (labels_N[:, None] >> np.arange(3)) & 1


@pytest.mark.parametrize(('strength', 'rows'), [(1.0, 10_000), (0.1, 10_000), (0.1, 250)])
def test_the_probabilities_are_those_of_sklearn(digits, monkeypatch, strength, rows):
    from sklearn.linear_model import LogisticRegression

    monkeypatch.setattr(probes, 'ROWS', rows)
    train_ND, labels_N, eval_ND, _ = digits
    fitted_ND, queries_ND = standardised(train_ND, eval_ND)
    theirs_NK = LogisticRegression(C=1 / (strength * 400), tol=1e-9, max_iter=5000).fit(
        fitted_ND, labels_N).predict_proba(queries_ND)
    ours = probes.fit(train_ND, labels_N, eval_ND, strengths=[strength])
    assert ours.strength == strength and ours.path[0]['converged']
    np.testing.assert_allclose(ours.probabilities_NK, theirs_NK, atol=1e-4)


def test_several_labels_are_as_many_logistic_regressions(digits):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score

    train_ND, labels_N, eval_ND, eval_labels_N = digits
    fitted_ND, queries_ND = standardised(train_ND, eval_ND)
    theirs_NK = np.stack([
        LogisticRegression(C=1 / (0.1 * 400), tol=1e-9, max_iter=5000).fit(
            fitted_ND, label_N).predict_proba(queries_ND)[:, 1] for label_N in several(labels_N).T],
        axis=1)
    labels_NK, eval_NK = several(labels_N), several(eval_labels_N)
    ours = probes.fit(train_ND, labels_NK, eval_ND, strengths=[0.1])
    np.testing.assert_allclose(ours.probabilities_NK, theirs_NK, atol=1e-4)
    result = probes.measure(train_ND, labels_NK > 0, eval_ND, eval_NK > 0, strengths=[0.1])
    assert result['metric'] == 'mean_average_precision' and result['low'] is None
    assert result['score'] == pytest.approx(average_precision_score(eval_NK, theirs_NK), abs=1e-3)


def test_the_strength_is_chosen_on_a_held_out_part(digits):
    train_ND, labels_N, eval_ND, eval_labels_N = digits
    given = (0.001, 100, 0.1)
    result = probes.measure(*digits, strengths=given)
    strengths = [row['strength'] for row in result['path']]
    scores = [row['score'] for row in result['path']]
    assert strengths == [100, 0.1, 0.001] and len(set(scores)) == 3
    assert result['strength'] == strengths[int(np.argmax(scores))]
    assert scores[0] < max(scores) > 0.9
    assert result['low'] < result['score'] < result['high']
    probe = probes.fit(train_ND, labels_N, eval_ND, strengths=given)
    assert result['score'] == (probe.probabilities_NK.argmax(axis=1) == eval_labels_N).mean()
    assert result['path'] == probe.path
    json.dumps(result, allow_nan=False)


def test_of_each_class_a_fifth_is_held_out():
    labels_N = np.array([0] * 10 + [1] * 5 + [2] * 2 + [3])
    held_N = probes._held_out(np.eye(4)[labels_N], seed=0)
    assert np.bincount(labels_N[held_N], minlength=4).tolist() == [2, 1, 1, 0]
    assert (held_N != probes._held_out(np.eye(4)[labels_N], seed=1)).any()


def test_neither_scale_nor_constant_features_matter(digits):
    train_ND, labels_N, eval_ND, _ = digits
    scale_D = np.float32(10) ** np.arange(-6, 6).repeat(6)[:64]
    ours = probes.fit(train_ND, labels_N, eval_ND, strengths=[0.1])
    scaled = probes.fit(
        np.pad(train_ND * scale_D, ((0, 0), (0, 2)), constant_values=0.1), labels_N,
        np.pad(eval_ND * scale_D, ((0, 0), (0, 2)), constant_values=0.3), strengths=[0.1])
    np.testing.assert_allclose(ours.probabilities_NK, scaled.probabilities_NK, atol=2e-3)


def test_the_baseline_goes_through_the_same_probe(digits):
    train_ND, labels_N, eval_ND, eval_labels_N = digits
    some = (train_ND[:, 20:24], eval_ND[:, 20:24])
    result = probes.measure(*digits, strengths=[1, 0.1], baseline_ND=some)
    assert result['baseline'] == probes.measure(
        some[0], labels_N, some[1], eval_labels_N, strengths=[1, 0.1], name='baseline_ND')
    assert result['baseline']['score'] < result['score'] - 0.2


def test_every_layer_has_its_probe(digits):
    train_ND, labels_N, eval_ND, eval_labels_N = digits
    layers = {'few': (train_ND[:, 20:24], eval_ND[:, 20:24]), 'pixels': (train_ND, eval_ND)}
    few, pixels = probes.by_depth(layers, labels_N, eval_labels_N, strengths=[0.1],
                                  most_features=40)
    assert (few['layer'], few['features'], few['notes']) == ('few', 4, [])
    assert pixels['features'] == 64 and pixels['score'] > few['score']
    assert pixels['notes'] == ['pixels: 64 features were projected to 40 random directions.']


def test_classes_without_training_images_count_as_errors(digits):
    train_ND, labels_N, eval_ND, eval_labels_N = digits
    seen_N = labels_N < 8
    result = probes.measure(train_ND[seen_N], labels_N[seen_N], eval_ND, eval_labels_N,
                            strengths=[0.1])
    assert result['classes'] == 10 and result['score'] <= (eval_labels_N < 8).mean()
    assert 'of 2 of the classes to evaluate on no image is there' in result['notes'][0]


def nan_in(features_ND):
    features_ND = features_ND.copy()
    features_ND[3] = np.nan
    return features_ND


BAD = [
    (lambda t, y, e, m: (nan_in(t), y, e, m), r'block3 \(train\): not finite for 1 of 400 images'),
    (lambda t, y, e, m: (t, y, nan_in(e), m), r'block3 \(eval\): not finite for 1 of 200 images'),
    (lambda t, y, e, m: (t, y, e[1:], m),
     r'block3 \(eval\), labels: shape \(200,\) for 199 images; give one class'),
    (lambda t, y, e, m: (t, y, e[:, 1:], m), 'block3: 64 features of the training images, 63 of'),
    (lambda t, y, e, m: (t[0], y, e, m), r'block3 \(train\): shape \(64,\); give'),
    (lambda t, y, e, m: (t, 0 * y, e, m), 'block3: the training images have one class only'),
    (lambda t, y, e, m: (t, y * 0.5, e, m), 'labels: float64; give the classes as integers from 0'),
    (lambda t, y, e, m: (t, several(y), e, m), r'labels of shape \(400, 3\) to train on and'),
    (lambda t, y, e, m: (t, several(y)[1:], e, several(m)), r'shape \(399, 3\) for 400 images'),
    (lambda t, y, e, m: (t, 0 * several(y), e, several(m)), 'block3: no class has images with and'),
    (lambda t, y, e, m: (t[:10], np.arange(10), e, m), 'every class has one training image only'),
]


@pytest.mark.parametrize(('change', 'line'), BAD)
def test_bad_arrays(digits, change, line):
    train_ND, labels, eval_ND, eval_labels = change(*digits)
    with pytest.raises(DataError, match=line) as raised:
        probes.by_depth({'block3': (train_ND, eval_ND)}, labels, eval_labels, strengths=[1])
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize(('call', 'error', 'line'), [
    (lambda d: probes.measure(*d, strengths=[]), ConfigError, r'strengths: \[\]; give one or more'),
    (lambda d: probes.measure(*d, strengths=[1, 0]), ConfigError, r'strengths: \[1, 0\]; give'),
    (lambda d: probes.measure(*d, most_features=0), ConfigError, 'most_features: 0; give 1'),
    (lambda d: probes.measure(*d, baseline_ND=(d[0][1:], d[2])), DataError, 'baseline_ND '),
])
def test_bad_arguments(digits, call, error, line):
    with pytest.raises(error, match=line) as raised:
        call(digits)
    assert '\n' not in str(raised.value)
