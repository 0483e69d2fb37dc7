"""Wrong labels that were planted are found; bad arrays are refused in one line."""

import json
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_predict
from sklearn.svm import SVC

from imgjax.errors import ConfigError, DataError
from imgjax.evals import blocks, confident_learning, label_errors

# Thresholds: class 0 (0.9 + 0.7 + 0.2) / 3 = 0.6, class 1 (0.8 + 0.6) / 2 = 0.7, class 2 0.7.
SMALL = np.array([[0.9, 0.1, 0.0], [0.7, 0.2, 0.1], [0.2, 0.8, 0.0],
                  [0.1, 0.8, 0.1], [0.4, 0.6, 0.0],
                  [0.1, 0.2, 0.7]])
SMALL_LABELS = np.array([0, 0, 0, 1, 1, 2])


@pytest.fixture(scope='module')
def digits():
    """Returns the digits' labels, and a function from given labels to out-of-fold probabilities."""
    images_ND, labels_N = load_digits(return_X_y=True)

    def probabilities(given_N):
        model = SVC(C=3, probability=True, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', FutureWarning)  # newer versions advise against it
            return cross_val_predict(model, images_ND / 16, given_N, cv=5, method='predict_proba')

    return labels_N, probabilities


@pytest.fixture(scope='module')
def flipped(digits):
    """Returns out-of-fold probabilities, labels of which 5 % are wrong, and which these are."""
    labels_N, probabilities = digits
    rng = np.random.default_rng(0)
    wrong = rng.choice(len(labels_N), round(0.05 * len(labels_N)), replace=False)
    given_N = labels_N.copy()
    given_N[wrong] = (given_N[wrong] + rng.integers(1, 10, len(wrong))) % 10
    return probabilities(given_N), given_N, wrong


def test_by_hand():
    margins_N = confident_learning.margins(SMALL, SMALL_LABELS)
    np.testing.assert_allclose(margins_N, [0.8, 0.5, -0.6, 0.7, 0.2, 0.5])
    np.testing.assert_allclose(confident_learning.self_confidence(SMALL, SMALL_LABELS),
                               [0.9, 0.7, 0.2, 0.8, 0.6, 0.7])
    joint_KK = confident_learning.confident_joint(SMALL, SMALL_LABELS)
    assert joint_KK.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 1]]
    found = label_errors.find(SMALL, SMALL_LABELS)
    assert found.joint.tolist() == [[2, 1, 0], [0, 2, 0], [0, 0, 1]]  # as many as each label has
    assert found.confident.tolist() == [0, 0, 1, 1, -1, 2]
    assert found.ranking.tolist() == [2, 4, 1, 5, 3, 0]
    assert found.suggested.tolist() == [0, 0, 1, 1, 1, 2]
    assert (found.estimated, found.suspected) == (1, 1)


@pytest.mark.parametrize('joint, counts, expected', [
    ([[3, 1], [0, 2]], [8, 4], [[6, 2], [0, 4]]),
    ([[2, 1], [0, 1]], [10, 1], [[7, 3], [0, 1]]),  # 6.67 and 3.33
    ([[1, 1, 1], [0, 1, 0], [1, 0, 1]], [10, 5, 3], [[3, 3, 4], [0, 5, 0], [1, 0, 2]]),
    ([[1, 0], [0, 0]], [4, 0], [[4, 0], [0, 0]]),  # no image of the second class
])
def test_calibration_keeps_the_number_of_images(joint, counts, expected):
    joint_KK = confident_learning.calibrated(np.array(joint), np.array(counts))
    assert joint_KK.sum(axis=1).tolist() == counts
    assert joint_KK.tolist() == expected


def test_planted_errors_are_found(flipped):
    probabilities_NK, given_N, wrong = flipped
    result = label_errors.measure(probabilities_NK, given_N)
    first = result['ranking'][:len(wrong)]
    assert np.isin(first, wrong).mean() >= 0.9
    assert abs(result['estimated'] - len(wrong)) < 0.4 * len(wrong)
    low, high = result['estimated_interval']
    assert low < result['estimated'] < high
    assert low < len(wrong) < high < 2 * low
    assert result['suspected'] <= result['estimated']
    assert sum(pair['count'] for pair in result['pairs']) == result['estimated']
    assert result['share'] == result['estimated'] / len(given_N)
    assert result['agreement'] == np.mean(np.array(result['margins']) >= 0)
    true_N = load_digits().target
    suggested_N = np.array(result['suggested'])
    assert (suggested_N[wrong] == true_N[wrong]).mean() > 0.9
    assert json.loads(json.dumps(result)) == result
    assert result == label_errors.measure(probabilities_NK, given_N)
    other = label_errors.measure(probabilities_NK, given_N, seed=1)
    assert other['estimated_interval'] != result['estimated_interval']


def test_two_classes_that_are_mixed_up(digits):
    labels_N, probabilities = digits
    given_N = labels_N.copy()
    wrong = np.flatnonzero(labels_N == 3)[::6]
    given_N[wrong] = 8  # 3s that are labelled 8
    result = label_errors.measure(
        probabilities(given_N), given_N, class_names=['zero', 'one', 'two', 'three', 'four',
                                                      'five', 'six', 'seven', 'eight', 'nine'])
    first, second = result['pairs'][:2]
    assert (first['given'], first['suggested'], first['text']) == (8, 3, 'eight -> three')
    assert abs(first['count'] - len(wrong)) < 0.4 * len(wrong)
    assert second['count'] < first['count'] / 3


def test_clean_and_certain_labels_give_nothing():
    labels_N = np.arange(20) % 4
    result = label_errors.measure(np.eye(4, dtype=np.float32)[labels_N], labels_N)
    assert (result['estimated'], result['suspected'], result['pairs']) == (0, 0, [])
    assert result['share_interval'] == [0, 0]
    assert result['ranking'] == list(range(20))  # ties stay in the order of the images
    assert result['suggested'] == labels_N.tolist()


def test_an_image_that_the_model_agrees_with_is_not_suspected():
    """The last image is a confident example of class 1 alone, but class 0 is more probable."""
    probabilities_NK = np.array(9 * [[1, 0, 0]] + 3 * [[0.3, 0.4, 0.3]] + 3 * [[0, 0, 1]]
                                + [[0.55, 0.45, 0]])
    labels_N = np.repeat([0, 1, 2, 0], [9, 3, 3, 1])
    found = label_errors.find(probabilities_NK, labels_N)
    assert found.confident[-1] == 1
    assert (found.estimated, found.suspected) == (1, 0)
    assert found.suggested.tolist() == labels_N.tolist()


def test_of_two_classes_that_reach_their_thresholds_the_more_probable_counts():
    probabilities_NK = np.array([[0.45, 0.55], [0.45, 0.55], [0.49, 0.51], [0.49, 0.51]])
    labels_N = np.array([0, 0, 1, 1])  # the thresholds are 0.45 and 0.51
    found = label_errors.find(probabilities_NK, labels_N)
    assert found.confident.tolist() == [1, 1, 1, 1]
    joint_KK = confident_learning.confident_joint(probabilities_NK, labels_N)
    assert joint_KK.tolist() == [[1, 2], [0, 2]]
    assert found.joint.tolist() == [[1, 1], [0, 2]]


def test_a_class_without_images_is_left_out():
    """It is never suggested, although the model is sure of it."""
    wide_NK = np.concatenate([SMALL * 0.4, np.full((6, 1), 0.6)], axis=1)
    result = label_errors.measure(wide_NK, SMALL_LABELS, class_names=['a', 'b', 'c', 'zebra'])
    assert result['left_out'] == ['zebra']
    narrow = label_errors.find(SMALL, SMALL_LABELS)
    assert result['ranking'] == narrow.ranking.tolist()
    assert result['suggested'] == narrow.suggested.tolist()
    assert result['estimated'] == 1
    assert (confident_learning.margins(wide_NK, SMALL_LABELS) < 0).all()  # here it counts


@pytest.mark.parametrize('dtype', ['uint8', 'int8', 'int32', 'uint32'])
def test_labels_of_any_integer_type(dtype):
    rng = np.random.default_rng(0)
    labels_N = np.arange(300) % 100
    probabilities_NK = rng.dirichlet(np.ones(100), 300).astype(np.float32)
    probabilities_NK[np.arange(300), (labels_N + (rng.random(300) < 0.2)) % 100] += 0.5
    probabilities_NK /= probabilities_NK.sum(axis=1, keepdims=True)
    expected = label_errors.measure(probabilities_NK, labels_N)
    assert expected['estimated'] > 0
    assert label_errors.measure(probabilities_NK, labels_N.astype(dtype)) == expected


def test_blocks_change_nothing(flipped, monkeypatch):
    whole = label_errors.find(*flipped[:2])
    monkeypatch.setattr(blocks, 'BLOCK', 70)  # seven images at once
    for one, other in zip(whole, label_errors.find(*flipped[:2]), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope='module')
def several():
    """Returns sigmoid probabilities and labels of 3 classes, and the pairs that are wrong."""
    rng = np.random.default_rng(0)
    true_NK = rng.random((400, 3)) < [0.5, 0.3, 0.2]
    noise_NK = rng.normal(size=true_NK.shape)
    probabilities_NK = 1 / (1 + np.exp(-(6 * true_NK - 3 + noise_NK)))
    labels_NK = true_NK.astype(np.float32)
    missing = np.flatnonzero(true_NK[:, 0])[:25]
    extra = np.flatnonzero(~true_NK[:, 2])[:10]
    labels_NK[missing, 0], labels_NK[extra, 2] = 0, 1
    wrong = {(int(i), 0) for i in missing} | {(int(i), 2) for i in extra}
    return probabilities_NK.astype(np.float32), labels_NK, wrong


def test_multi_label(several):
    probabilities_NK, labels_NK, wrong = several
    result = label_errors.measure(probabilities_NK, labels_NK, class_names=['cat', 'dog', 'car'])
    first = {tuple(pair) for pair in result['ranking'][:len(wrong)]}
    assert len(first & wrong) >= 0.9 * len(wrong)
    assert result['labels'] == 1200
    assert abs(result['estimated'] - len(wrong)) < 0.4 * len(wrong)
    assert result['estimated_interval'][0] < len(wrong) < result['estimated_interval'][1]
    texts = [pair['text'] for pair in result['pairs'][:2]]
    assert texts == ['cat: missing', 'car: does not belong']
    assert result['pairs'][0]['class'] == 0
    assert abs(result['pairs'][0]['count'] - 25) < 10
    for (image, k), margin, suggested in zip(
            result['ranking'], result['margins'], result['suggested'], strict=True):
        p = float(probabilities_NK[image, k])
        np.testing.assert_allclose(margin, 2 * p - 1 if labels_NK[image, k] else 1 - 2 * p)
        assert suggested == 1 - labels_NK[image, k]
    assert result['margins'] == sorted(result['margins'])
    assert json.loads(json.dumps(result)) == result


def test_multi_label_leaves_out_a_class_that_no_image_or_every_image_has(several):
    probabilities_NK, labels_NK, _ = several
    labels_NK = np.stack([labels_NK[:, 0], 0 * labels_NK[:, 1], 0 * labels_NK[:, 2] + 1], axis=1)
    result = label_errors.measure(probabilities_NK, labels_NK, class_names=['cat', 'dog', 'car'])
    assert result['left_out'] == ['dog', 'car']
    assert result['labels'] == 400
    assert {k for _, k in result['ranking']} == {0}
    alone = label_errors.measure(probabilities_NK[:, :1], labels_NK[:, :1])
    assert [alone[key] for key in ('ranking', 'estimated', 'share_interval')] == [
        result[key] for key in ('ranking', 'estimated', 'share_interval')]


NAN = np.where(np.arange(6)[:, None] == 4, np.nan, SMALL)
REFUSED = {
    'nan': (NAN, SMALL_LABELS, 'image 4 are not all within 0 to 1'),
    'logits': (SMALL * 9 - 3, SMALL_LABELS, 'not logits'),
    'sum': (SMALL * 0.9, SMALL_LABELS, 'image 0 sum to 0.9, not 1'),
    'empty': (SMALL[:0], SMALL_LABELS[:0], 'at least one of each'),
    'flat': (SMALL[0], SMALL_LABELS, 'give \\(images, classes\\)'),
    'more labels': (SMALL, np.arange(7) % 3, 'for 6 images; give one class'),
    'float labels': (SMALL, SMALL_LABELS * 1.0, 'labels: float64'),
    'another class': (SMALL, SMALL_LABELS + 1, 'labels: 3 of image 5 is no class'),
    'negative': (SMALL, SMALL_LABELS - 1, 'labels: -1 of image 0 is no class'),
    'single column': (np.ones((6, 1)), SMALL_LABELS * 0, 'one class only'),
    'single class': (SMALL, SMALL_LABELS * 0 + 2, 'all images have the label 2'),
    'multi-label shape': (SMALL, np.zeros((6, 2)), 'shape \\(6, 2\\) for 6 images and 3 classes'),
    'multi-label values': (SMALL, SMALL, 'are 0 or 1'),
    'multi-label constant': (SMALL, np.ones((6, 3)), 'in all images or in none'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_bad_arrays(name):
    probabilities, labels, message = REFUSED[name]
    with pytest.raises(DataError, match=message) as caught:
        label_errors.measure(probabilities, labels)
    assert '\n' not in str(caught.value)


def test_class_names_that_do_not_fit():
    with pytest.raises(ConfigError, match='class_names: 2 names for 3 columns'):
        label_errors.measure(SMALL, SMALL_LABELS, class_names=['a', 'b'])
