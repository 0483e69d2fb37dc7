"""The scores, joints and counts of label errors are those of cleanlab."""

import numpy as np
import pytest

from imgjax.evals import confident_learning, label_errors

pytest.importorskip('cleanlab')
from cleanlab import count, rank  # noqa: E402
from cleanlab.multilabel_classification import rank as multi_label_rank  # noqa: E402

# (classes, images, share of wrong labels, strength of the model)
SETS = [(2, 400, 0.05, 2.0), (3, 50, 0.2, 1.0), (10, 2000, 0.1, 3.0), (10, 2000, 0.4, 1.0),
        (40, 3000, 0.1, 2.0)]


def example(classes, images, share, strength, seed):
    """Returns probabilities (N, K) and labels (N,) of an imbalanced set, each class with images."""
    rng = np.random.default_rng(seed)
    true_N = np.concatenate([np.arange(classes), rng.choice(
        classes, images - classes, p=rng.dirichlet(np.ones(classes)))])
    logits_NK = rng.normal(size=(images, classes)) + strength * np.eye(classes)[true_N]
    probabilities_NK = np.exp(logits_NK) / np.exp(logits_NK).sum(axis=1, keepdims=True)
    wrong_N = rng.random(images) < share
    wrong_N[:classes] = False
    return probabilities_NK, np.where(wrong_N, rng.integers(0, classes, images), true_N)


def assert_equal_but_for_ties(ours_KK, theirs_KK, joint_KK):
    """Checks that two calibrated joints are equal, or both nearest to the joint before rounding.

    A row often has equal remainders. cleanlab rounds up those that an unstable sort puts last,
    which differs between processors.
    """
    sums_K1 = theirs_KK.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(ours_KK.sum(axis=1, keepdims=True), sums_K1)
    exact_KK = joint_KK / joint_KK.sum(axis=1, keepdims=True) * sums_K1
    np.testing.assert_allclose(np.abs(ours_KK - exact_KK).sum(axis=1),
                               np.abs(theirs_KK - exact_KK).sum(axis=1), rtol=0, atol=1e-9)
    assert np.abs(ours_KK - theirs_KK).max() <= 1


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('sizes', SETS)
def test_one_label(sizes, seed):
    probabilities_NK, labels_N = example(*sizes, seed)
    margins_N = confident_learning.margins(probabilities_NK, labels_N)
    np.testing.assert_allclose(
        (margins_N + 1) / 2, rank.get_normalized_margin_for_each_label(labels_N, probabilities_NK),
        rtol=0, atol=1e-12)
    np.testing.assert_array_equal(
        confident_learning.self_confidence(probabilities_NK, labels_N),
        rank.get_self_confidence_for_each_label(labels_N, probabilities_NK))
    np.testing.assert_array_equal(
        confident_learning.confident_joint(probabilities_NK, labels_N),
        count.compute_confident_joint(labels_N, probabilities_NK, calibrate=False))
    found = label_errors.find(probabilities_NK, labels_N)
    assert_equal_but_for_ties(
        found.joint, count.compute_confident_joint(labels_N, probabilities_NK, calibrate=True),
        confident_learning.confident_joint(probabilities_NK, labels_N))
    estimated = count.num_label_issues(
        labels_N, probabilities_NK, estimation_method='off_diagonal_calibrated')
    assert abs(found.estimated - estimated) <= (1 if sizes[0] >= 10 else 0)
    surely_wrong = (found.confident >= 0) & (found.confident != labels_N) & (found.margins < 0)
    assert surely_wrong.sum() == count.num_label_issues(
        labels_N, probabilities_NK, estimation_method='off_diagonal')


@pytest.mark.parametrize('seed', range(4))
def test_several_labels(seed):
    rng = np.random.default_rng(seed)
    true_NK = rng.random((600, 4)) < [0.5, 0.3, 0.1, 0.05]
    probabilities_NK = 1 / (1 + np.exp(-(4 * true_NK - 2 + rng.normal(size=(600, 4)))))
    labels_NK = (true_NK ^ (rng.random((600, 4)) < 0.05)).astype(np.float32)
    lists = [np.flatnonzero(label_K).tolist() for label_K in labels_NK]
    found = label_errors.find(probabilities_NK, labels_NK)
    for method, ours_NK in (
            ('normalized_margin', (found.margins + 1) / 2),
            ('self_confidence', np.where(labels_NK > 0, probabilities_NK, 1 - probabilities_NK))):
        np.testing.assert_allclose(ours_NK, multi_label_rank.get_label_quality_scores_per_class(
            lists, probabilities_NK, method=method), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.joint, count.compute_confident_joint(
        lists, probabilities_NK, multi_label=True, calibrate=True))
