import json
import time

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from imgjax.errors import ConfigError, DataError
from imgjax.evals import accuracy, average_precision

NAMES = ['ant', 'bee', 'cat']
# Answers 0, 1, 1, 2, 0, of which the third and the last are wrong; the last is the surer one.
LOGITS_NK = np.array([[2, 0, 0], [0, 2, 0], [0, 1, 0], [0, 0, 2], [9, 0, 0]], np.float32)
LABELS_N = np.array([0, 1, 0, 2, 1])


def random_logits(images, classes, right=0.6, seed=0):
    """Returns (logits_NK, labels_N), of which about the share `right` is answered rightly."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(classes, size=images)
    logits_NK = rng.normal(size=(images, classes)).astype(np.float32)
    lucky = rng.random(images) < right
    logits_NK[lucky, labels_N[lucky]] += 10
    return logits_NK, labels_N


def values(rate):
    return rate['value'], rate['low'], rate['high']


def test_by_hand():
    found = accuracy.measure(LOGITS_NK, LABELS_N, class_names=NAMES)
    assert (found['images'], found['left_out'], found['classes']) == (5, 0, 3)
    assert found['top1']['value'] == found['micro_recall']['value'] == pytest.approx(3 / 5)
    assert found['top5'] is found['mean_average_precision'] is found['label_sets'] is None
    assert found['macro_recall']['value'] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert found['errors'] == [4, 2]
    assert found['confusion']['matrix'] == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert found['confusion']['pairs'] == [
        {'label': 0, 'prediction': 1, 'count': 1, 'share': 0.5, 'images': [2]},
        {'label': 1, 'prediction': 0, 'count': 1, 'share': 0.5, 'images': [4]}]
    row = found['per_class'][2]
    low, high = scipy.stats.binomtest(1, 1).proportion_ci(method='wilson')
    assert row['recall_low'] == pytest.approx(low) and row['recall_high'] == pytest.approx(high)
    assert (row['name'], row['examples'], row['answered'], row['f1']) == ('cat', 1, 1, 1.0)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_agrees_with_sklearn():
    logits_NK, labels_N = random_logits(500, 7)
    found = accuracy.measure(logits_NK, labels_N, class_names=list('abcdefg'))
    answers_N = logits_NK.argmax(axis=1)
    assert found['top1']['value'] == pytest.approx((answers_N == labels_N).mean())
    assert found['top5']['value'] == pytest.approx(
        sklearn.metrics.top_k_accuracy_score(labels_N, logits_NK, k=5))
    assert found['macro_recall']['value'] == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(labels_N, answers_N))
    matrix = sklearn.metrics.confusion_matrix(labels_N, answers_N)
    assert found['confusion']['matrix'] == matrix.tolist()
    theirs = sklearn.metrics.precision_recall_fscore_support(labels_N, answers_N)
    for name, column in zip(('precision', 'recall', 'f1', 'examples'), theirs, strict=True):
        np.testing.assert_allclose([row[name] for row in found['per_class']], column, err_msg=name)


def test_intervals_are_those_of_drawn_images():
    logits_NK, labels_N = random_logits(300, 6)
    labels_N[:200] = 0  # imbalanced: macro and micro recall differ
    found = accuracy.measure(logits_NK, labels_N, class_names=list('abcdef'))
    rng, draws = np.random.default_rng(1), []
    ranks_N = (logits_NK > logits_NK[np.arange(300), labels_N][:, None]).sum(axis=1)
    for _ in range(1000):
        rows = rng.integers(300, size=300)
        recalls = [(ranks_N[rows[labels_N[rows] == k]] == 0).mean() for k in range(6)]
        draws.append([(ranks_N[rows] == 0).mean(), (ranks_N[rows] < 5).mean(), np.mean(recalls)])
    lows, highs = np.percentile(draws, (2.5, 97.5), axis=0)
    for i, name in enumerate(('top1', 'top5', 'macro_recall')):
        np.testing.assert_allclose(values(found[name])[1:], [lows[i], highs[i]], atol=0.012)
    again = accuracy.measure(logits_NK, labels_N, class_names=list('abcdef'))
    other = accuracy.measure(logits_NK, labels_N, class_names=list('abcdef'), seed=1)
    assert again == found and other['macro_recall'] != found['macro_recall']


@pytest.mark.parametrize('right, ends', [(True, (0.5655, 1.0)), (False, (0.0, 0.4345))])
def test_the_interval_of_all_or_nothing_has_a_width(right, ends):
    labels_N = np.array([0, 1, 1, 0, 1])
    logits_NK = np.eye(2)[labels_N if right else 1 - labels_N]
    found = accuracy.measure(logits_NK, labels_N, class_names=['a', 'b'])
    assert values(found['top1'])[1:] == pytest.approx(ends, abs=1e-4)
    assert values(found['macro_recall'])[1:] == pytest.approx(ends, abs=1e-4)


def fresh(images):
    return random_logits(images, 10, right=0)


def constant(images):
    return np.zeros((images, 10), np.float32), np.arange(images) % 10


def useful(images):
    return random_logits(images, 10)


def shifted(images):
    logits_NK, labels_N = random_logits(images, 10)
    return logits_NK, (labels_N + 1) % 10


@pytest.mark.parametrize('make, verdict, word', [
    (fresh, 'within', 'nothing shows'), (constant, 'within', 'nothing shows'),
    (useful, 'above', 'is above chance'), (shifted, 'below', 'same order')])
def test_a_model_that_has_learned_nothing_is_exposed(make, verdict, word):
    logits_NK, labels_N = make(1000)
    found = accuracy.measure(logits_NK, labels_N, class_names=[f'c{k}' for k in range(10)])
    chance, majority = found['baselines']
    assert chance['verdict'] == verdict and word in chance['sentence']
    assert chance['value'] == pytest.approx(0.1)
    assert majority['value'] == pytest.approx(np.bincount(labels_N).max() / 1000)
    assert "always answering 'c" in majority['sentence']


def test_equal_logits_are_no_answer_in_the_first_five():
    found = accuracy.measure(*constant(100), class_names=list('abcdefghij'))
    assert found['top1']['value'] == pytest.approx(0.1)
    assert found['top5']['value'] == pytest.approx(0.5)


def test_answers_of_kept_classes():
    logits_NK = np.array([[9, 0, 0, 0], [3, 9, 1, 0], [0, 9, 1, 2], [5, 9, 0, 0]])
    found = accuracy.measure(logits_NK, [1, 0, 3, 2], class_names=list('abcd'), kept=[3, 0, 2])
    assert (found['images'], found['left_out'], found['classes']) == (3, 1, 3)
    assert found['top1']['value'] == pytest.approx(2 / 3)  # never 'b', though it is likeliest
    assert [row['index'] for row in found['per_class']] == [0, 2, 3]
    assert found['confusion']['pairs'] == [
        {'label': 2, 'prediction': 0, 'count': 1, 'share': 1.0, 'images': [3]}]
    assert found['errors'] == [3]
    assert found['baselines'][0]['value'] == pytest.approx(1 / 3)


def test_answers_in_sets_of_labels():
    sets = [[0], [], [1, 2], [0, 1], [0, 1]]
    found = accuracy.measure(LOGITS_NK, LABELS_N, class_names=NAMES, label_sets=sets)['label_sets']
    assert (found['images'], found['left_out']) == (4, 1)
    assert found['accuracy']['value'] == pytest.approx(3 / 4)  # all but the fourth
    kept = accuracy.measure(LOGITS_NK, LABELS_N, class_names=NAMES, kept=[0, 2],
                            label_sets=[[0], [0], [1, 2], [1], [0]])['label_sets']
    assert (kept['images'], kept['left_out']) == (2, 1)  # the first and third; [1] has no answer
    assert kept['accuracy']['value'] == pytest.approx(1 / 2)


def several(images, classes, seed=0):
    rng = np.random.default_rng(seed)
    labels_NK = (rng.random((images, classes)) < 0.3).astype(np.float32)
    return (2 * labels_NK + rng.normal(size=labels_NK.shape) - 1).round(1), labels_NK  # with ties


def test_several_labels_agree_with_sklearn():
    logits_NK, labels_NK = several(300, 6)
    labels_NK[:3] = 0
    labels_NK[:, 5] = 0  # a class without images
    found = accuracy.measure(logits_NK, labels_NK, class_names=list('abcdef'))
    theirs = [sklearn.metrics.average_precision_score(labels_NK[:, k], logits_NK[:, k])
              for k in range(5)]
    np.testing.assert_allclose(
        [row['average_precision'] for row in found['per_class'][:5]], theirs)
    assert found['per_class'][5]['average_precision'] is found['per_class'][5]['recall'] is None
    assert found['mean_average_precision']['value'] == pytest.approx(np.mean(theirs))
    for name, average in (('macro_recall', 'macro'), ('micro_recall', 'micro')):
        assert found[name]['value'] == pytest.approx(sklearn.metrics.recall_score(
            labels_NK[:, :5], logits_NK[:, :5] > 0, average=average))
    labelled_N = labels_NK.any(axis=1)
    likeliest_N = labels_NK[np.arange(300), logits_NK.argmax(axis=1)] > 0
    assert found['top1']['value'] == pytest.approx(likeliest_N[labelled_N].mean())
    assert not likeliest_N[found['errors']].any() and labelled_N[found['errors']].all()
    assert [row['verdict'] for row in found['baselines']] == ['above'] * 3
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_interval_of_mean_average_precision_is_that_of_drawn_images():
    logits_NK, labels_NK = several(150, 3)
    found = accuracy.measure(logits_NK, labels_NK, class_names=list('abc'))
    rng, draws = np.random.default_rng(1), []
    for _ in range(300):
        rows = rng.integers(150, size=150)
        hits_NK = labels_NK[rows] * (logits_NK[rows] > 0)
        draws.append([
            sklearn.metrics.average_precision_score(labels_NK[rows], logits_NK[rows]),
            hits_NK.sum() / labels_NK[rows].sum()])
    lows, highs = np.percentile(draws, (2.5, 97.5), axis=0)
    for i, name in enumerate(('mean_average_precision', 'micro_recall')):
        np.testing.assert_allclose(values(found[name])[1:], [lows[i], highs[i]], atol=0.015)


def test_average_precisions_of_a_draw_are_those_of_the_repeated_images():
    logits_NK, labels_NK = several(40, 1)
    rows = np.random.default_rng(2).integers(40, size=40)
    drawn_ND = np.stack([np.ones(40, int), np.bincount(rows, minlength=40)], 1).astype(np.uint16)
    ours = average_precision.average_precisions(logits_NK[:, 0], labels_NK[:, 0] > 0, drawn_ND)
    theirs = [sklearn.metrics.average_precision_score(labels_NK[r, 0], logits_NK[r, 0])
              for r in (np.arange(40), rows)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_fifty_thousand_images_take_seconds():
    logits_NK, labels_N = random_logits(50_000, 100)
    start = time.perf_counter()
    accuracy.measure(logits_NK, labels_N, class_names=list(map(str, range(100))))
    assert time.perf_counter() - start < 8  # 0.6 s on two idle cores


BROKEN = [
    ({'logits_NK': np.full((5, 3), np.nan)}, DataError, 'logits: not finite for 5 of 5 images'),
    ({'logits_NK': np.zeros((0, 3)), 'labels': LABELS_N[:0]}, DataError, 'shape \\(0, 3\\)'),
    ({'logits_NK': np.zeros((5, 1)), 'class_names': ['a']}, DataError, 'give two or more'),
    ({'class_names': ['a']}, ConfigError, '1 names for 3 columns'),
    ({'labels': LABELS_N[:4]}, DataError, 'for 5 images and 3 classes'),
    ({'labels': LABELS_N + 1}, DataError, 'labels: 3 of image 3 is no class; give .* 0 to 2'),
    ({'labels': LABELS_N / 1}, DataError, 'float64'),
    ({'labels': LOGITS_NK}, DataError, '0 or 1'),
    ({'labels': 0 * LOGITS_NK}, DataError, 'no image has a label'),
    ({'labels': np.eye(3)[LABELS_N], 'kept': [0, 1]}, ConfigError, 'one label each'),
    ({'kept': [1]}, ConfigError, 'two or more'),
    ({'kept': [1, 1, 2]}, ConfigError, 'different'),
    ({'kept': [0, 3]}, ConfigError, 'kept: 3; give .* from 0 to 2'),
    ({'kept': [0, 1], 'labels': np.full(5, 2)}, DataError, 'none of the 5 images'),
    ({'label_sets': [[0]]}, DataError, '1 sets for 5 images'),
    ({'label_sets': [[0], [1], [], [0], [3]]}, DataError, 'image 4 is 3'),
    ({'label_sets': [[]] * 5}, DataError, 'none of 5 images has a right class'),
]


@pytest.mark.parametrize('changed, error, text', BROKEN)
def test_bad_input_gives_one_line(changed, error, text):
    given = {'logits_NK': LOGITS_NK, 'labels': LABELS_N, 'class_names': NAMES} | changed
    with pytest.raises(error, match=text) as caught:
        accuracy.measure(given.pop('logits_NK'), given.pop('labels'), **given)
    assert '\n' not in str(caught.value)
