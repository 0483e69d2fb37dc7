import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from imgjax.report import answers as answers_lib
from tests.report.samples import evaluation


def test_the_interval_of_all_right_has_a_width_and_that_of_nothing_is_none():
    low, high = answers_lib.wilson(5, 5)
    assert 0.5 < low < 0.6 and high == 1.0
    assert all(math.isnan(end) for end in answers_lib.wilson(0, 0))


def test_the_interval_is_that_of_scipy():
    for examples in (1, 3, 355, 10**6):
        for correct in {0, 1, examples // 3, examples - 1, examples}:
            theirs = scipy.stats.binomtest(correct, examples).proportion_ci(0.95, method='wilson')
            np.testing.assert_allclose(
                answers_lib.wilson(correct, examples), theirs, rtol=1e-12, atol=1e-15)


def test_per_class_agrees_with_sklearn():
    answers = evaluation(error=0.3)
    theirs = sklearn.metrics.precision_recall_fscore_support(answers.labels, answers.predictions)
    for name, values in zip(('precision', 'recall', 'f1', 'examples'), theirs, strict=True):
        ours = [row[name] for row in answers_lib.per_class(answers)]
        np.testing.assert_allclose(ours, values, err_msg=name)


def test_pairs_are_the_off_diagonal_of_the_matrix():
    answers = evaluation(error=0.3)
    matrix = sklearn.metrics.confusion_matrix(answers.labels, answers.predictions)
    pairs = answers_lib.confused_pairs(answers)
    assert [p['count'] for p in pairs] == sorted((p['count'] for p in pairs), reverse=True)
    for pair in pairs:
        assert pair['count'] == matrix[pair['label'], pair['prediction']]
        matrix[pair['label'], pair['prediction']] = 0
    assert np.array_equal(matrix, np.diag(np.diag(matrix)))


def test_calibration_by_hand():
    answers = answers_lib.Evaluation(
        'test', ['a', 'b'], np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]),
        np.array([0.95, 0.95, 0.55, 1.0]), [], 0.5)
    # [0.9, 1]: two of three right at 2.9 / 3; [0.5, 0.6): one of one right at 0.55.
    ece = 3 / 4 * (2.9 / 3 - 2 / 3) + 1 / 4 * (1 - 0.55)
    result = answers_lib.calibration(answers)
    assert result['ece'] == pytest.approx(ece)
    assert result['gap'] == pytest.approx(3.45 / 4 - 3 / 4)
    assert [row['count'] for row in result['bins']] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 3]
