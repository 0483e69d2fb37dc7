"""Two models on the same images: hand-counted figures, error rates, other implementations."""

import json
import math

import numpy as np
import pytest
from scipy import special
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from imgjax.errors import DataError
from imgjax.evals import blocks, comparison


def logits(answers, classes=3, confidence=0.9):
    """Returns logits_NK whose softmax has `confidence` for the answer, an equal rest elsewhere."""
    confidence_N = np.broadcast_to(confidence, len(answers))
    probabilities_NK = np.repeat((1 - confidence_N)[:, None] / (classes - 1), classes, axis=1)
    probabilities_NK[np.arange(len(answers)), answers] = confidence_N
    return np.log(probabilities_NK)


LABELS = np.array([0, 0, 0, 1, 1, 1])
A, B = [0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 0, 1]


def test_counts_and_accuracies_by_hand():
    found = comparison.measure(logits(A), logits(B, confidence=0.8), LABELS)
    assert found['counts'] == {'both': 2, 'only_a': 2, 'only_b': 1, 'neither': 1}
    assert found['accuracy']['a'] == pytest.approx(4 / 6)
    assert found['accuracy']['b'] == pytest.approx(3 / 6)
    assert found['accuracy']['difference'] == pytest.approx(1 / 6)
    assert found['accuracy']['p'] == 1.0  # 2 heads of 3 tosses
    assert found['agreement'] == pytest.approx(0.5) and found['different'] == 3
    expected = [-(4 * math.log(0.9) + 2 * math.log(0.05)) / 6,
                -(3 * math.log(0.8) + 3 * math.log(0.1)) / 6]
    assert [found['nll'][name] for name in 'ab'] == pytest.approx(expected)
    assert found['nll']['difference'] == pytest.approx(expected[0] - expected[1])
    assert [row['images'] for row in found['by_class']] == [3, 3, 0]
    assert [row['accuracy_a'] for row in found['by_class']] == [
        pytest.approx(2 / 3), pytest.approx(2 / 3), None]
    assert [row['difference'] for row in found['by_class']] == [pytest.approx(1 / 3), 0, None]
    assert set(found['by_class'][2].values()) == {2, 0, None}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_disagreements_have_the_most_confident_first(monkeypatch):
    confidence_a = np.array([0.9, 0.6, 0.9, 0.9, 0.8, 0.95])
    a_NK, b_NK = logits(A, confidence=confidence_a), logits(B, confidence=0.7)
    found = comparison.measure(a_NK, b_NK, LABELS)['disagreements']
    assert [one['image'] for one in found] == [5, 4, 1]
    assert found[0] == {
        'image': 5, 'answer_a': 0, 'confidence_a': pytest.approx(0.95), 'right_a': False,
        'answer_b': 1, 'confidence_b': pytest.approx(0.7), 'right_b': True}
    monkeypatch.setattr(comparison, 'SHOWN', 2)
    shown = comparison.measure(a_NK, b_NK, LABELS)
    assert shown['disagreements'] == found[:2] and shown['different'] == 3


def pair(count, seed, better=0.0):
    """Returns logits of two equally good models, or b better, and labels_N."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(4, size=count)
    common_NK = 1.2 * np.eye(4)[labels_N] + rng.normal(size=(count, 4))
    a_NK, b_NK = (common_NK + 0.7 * rng.normal(size=(count, 4)) for _ in range(2))
    return a_NK, b_NK + better * np.eye(4)[labels_N], labels_N


def test_the_models_change_places():
    a_NK, b_NK, labels_N = pair(300, 0, better=0.3)
    one, other = (comparison.measure(*models, labels_N) for models in ((a_NK, b_NK), (b_NK, a_NK)))
    for name in ('accuracy', 'nll'):
        assert one[name]['difference'] == -other[name]['difference'] != 0
        assert one[name]['low'] == pytest.approx(-other[name]['high'], abs=4e-3)
    assert one['accuracy']['p'] == pytest.approx(other['accuracy']['p'])
    assert one['counts']['only_a'] == other['counts']['only_b']
    for row, turned in zip(one['by_class'], other['by_class'], strict=True):
        assert (row['low'], row['high']) == pytest.approx((-turned['high'], -turned['low']))


def test_a_model_does_not_differ_from_itself():
    a_NK, _, labels_N = pair(100, 0)
    found = comparison.measure(a_NK, a_NK + 3, labels_N)  # the softmax is the same
    assert found['accuracy']['p'] == found['agreement'] == 1
    assert (found['accuracy']['low'], found['accuracy']['high']) == (0, 0)
    assert found['nll']['difference'] == pytest.approx(0, abs=1e-12)
    assert found['disagreements'] == []
    assert all(row['low'] < 0 < row['high'] and row['p_holm'] == 1 for row in found['by_class'])


def test_intervals_are_those_of_a_normal_sum_and_hold_the_difference(monkeypatch):
    monkeypatch.setattr(comparison, 'RESAMPLES', 4_999)
    a_NK, b_NK, labels_N = pair(1_000, 0, better=0.5)
    found = comparison.measure(a_NK, b_NK, labels_N)
    hit_N = (a_NK.argmax(1) == labels_N).astype(int) - (b_NK.argmax(1) == labels_N)
    nll_N = np.subtract(*(-special.log_softmax(one_NK, axis=1)[np.arange(1_000), labels_N]
                          for one_NK in (a_NK, b_NK)))
    for name, values_N in (('accuracy', hit_N), ('nll', nll_N)):
        half = 1.96 * values_N.std(ddof=1) / math.sqrt(1_000)
        mean = values_N.mean()
        ends = [found[name]['low'], found[name]['high']]
        np.testing.assert_allclose(ends, [mean - half, mean + half], atol=0.1 * half)
        assert found[name]['high'] < 0 if name == 'accuracy' else found[name]['low'] > 0
    assert comparison.measure(a_NK, b_NK, labels_N) == found
    assert comparison.measure(a_NK, b_NK, labels_N, seed=1)['nll']['low'] != found['nll']['low']


def test_error_rates_over_many_test_sets(monkeypatch):
    monkeypatch.setattr(comparison, 'RESAMPLES', 499)
    p_values, rejected, covered = [], 0, 0
    for seed in range(150):
        a_NK, b_NK, labels_N = pair(200, seed)
        found = comparison.measure(a_NK, b_NK, labels_N)
        p_values.append(found['accuracy']['p'])
        rejected += min(row['p_holm'] for row in found['by_class']) < 0.05
        covered += found['nll']['low'] <= 0 <= found['nll']['high']
    assert np.mean(np.array(p_values) < 0.05) < 0.08  # an exact test: 0.05 at most
    assert rejected / 150 < 0.08
    assert 0.9 < covered / 150 < 0.98


@pytest.mark.parametrize('only_a, only_b', [(0, 0), (5, 0), (8, 2), (30, 41), (300, 200)])
def test_mcnemar_is_that_of_statsmodels(only_a, only_b):
    expected = mcnemar([[7, only_a], [only_b, 9]], exact=True).pvalue
    assert comparison.mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('p_C', [[0.01, 0.04, 0.03], [0.5, 0.9], [0.2], [0.01, 0.01, 0.001, 1.0]])
def test_holm_is_that_of_statsmodels(p_C, monkeypatch):
    monkeypatch.setattr('gc.collect', lambda: 0)  # which multipletests calls, 0.1 s each time
    np.testing.assert_allclose(comparison.holm(np.array(p_C)),
                               multipletests(p_C, method='holm')[1], rtol=1e-12)


@pytest.mark.parametrize('only_a, only_b, count', [(3, 1, 10), (0, 0, 5), (40, 55, 1_000)])
def test_paired_interval_is_walds_with_half_an_image_more_in_each_count(only_a, only_b, count):
    p, q, n = (only_a + 0.5) / (count + 2), (only_b + 0.5) / (count + 2), count + 2
    half = 1.959964 * math.sqrt((p + q - (p - q)**2) / n)
    assert comparison.paired_interval(only_a, only_b, count) == pytest.approx(
        (p - q - half, p - q + half), abs=1e-6)


def test_paired_interval_stays_inside():
    assert comparison.paired_interval(1, 0, 1)[1] == 1.0
    assert comparison.paired_interval(0, 2, 2)[0] == -1.0


def test_several_labels_are_right_if_the_answer_is_one_of_them():
    labels_NK = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]], bool)
    a_NK = np.array([[2.0, 1.0, 0.0], [3.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    b_NK = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 2.0], [0.0, 1.0, 0.0]])
    found = comparison.measure(a_NK, b_NK, labels_NK)
    assert found['counts'] == {'both': 1, 'only_a': 0, 'only_b': 1, 'neither': 1}
    assert [row['images'] for row in found['by_class']] == [1, 2, 1]
    assert [row['difference'] for row in found['by_class']] == [0, -0.5, -1]
    p_NK = special.expit(a_NK)
    expected = -np.log(np.where(labels_NK, p_NK, 1 - p_NK)).sum(axis=1).mean()
    assert found['nll']['a'] == pytest.approx(expected)
    assert found['disagreements'][0]['confidence_a'] == pytest.approx(special.expit(3.0))


@pytest.mark.parametrize('several', [False, True])
def test_blocks_and_narrow_types_change_nothing(several, monkeypatch):
    a_NK, b_NK, labels_N = pair(50, 0)
    a_NK, b_NK = a_NK.astype(np.float16), b_NK.astype(np.float32)
    labels = np.eye(4, dtype=bool)[labels_N] if several else labels_N
    whole = comparison.measure(a_NK.astype(np.float64), b_NK.astype(np.float64), labels)
    monkeypatch.setattr(blocks, 'BLOCK', 28)
    assert comparison.measure(a_NK, b_NK, labels) == whole


def test_a_single_image_has_no_interval():
    found = comparison.measure(logits([0]), logits([1]), np.array([0]))
    assert found['accuracy']['difference'] == 1 and found['accuracy']['low'] is None
    assert found['nll']['high'] is None


GOOD = logits(A)


@pytest.mark.parametrize('change, line', [
    ({'logits_b_NK': GOOD[:5]}, 'the logits have the shapes (6, 3) and (5, 3)'),
    ({'logits_b_NK': logits(A, 4)}, 'compare two models of the same classes on the same images'),
    ({'logits_b_NK': GOOD * np.nan},
     'logits of model b: not finite for 6 of 6 images (image 0, 1, 2 and 3 more)'),
    ({'logits_a_NK': GOOD[:0], 'logits_b_NK': GOOD[:0]}, 'logits of model a: shape (0, 3)'),
    ({'logits_a_NK': GOOD[0], 'logits_b_NK': GOOD[0]}, 'logits of model a: shape (3,)'),
    ({'labels_N': LABELS[:5]}, 'labels: shape (5,) for 6 images and 3 classes'),
    ({'labels_N': LABELS + 2}, 'labels: 3 of image 3 is no class; give integers from 0 to 2'),
    ({'labels_N': LABELS * 1.0}, 'labels: float64'),
])
def test_bad_input_is_refused_in_one_line(change, line):
    given = {'logits_a_NK': GOOD, 'logits_b_NK': GOOD, 'labels_N': LABELS, **change}
    with pytest.raises(DataError) as raised:
        comparison.measure(**given)
    assert line in str(raised.value) and '\n' not in str(raised.value)
