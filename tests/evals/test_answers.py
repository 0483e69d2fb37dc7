"""Probabilities, answers and losses by hand; blocks change nothing."""

import numpy as np
import pytest

from imgjax.evals import answers, blocks

LOGITS_NK = np.log([[0.5, 0.3, 0.2], [0.25, 0.5, 0.25], [0.4, 0.2, 0.4]]).astype(np.float32)


def test_one_label_by_hand():
    found = answers.answer(LOGITS_NK, np.array([0, 2, 2]))
    assert found.predictions_N.tolist() == [0, 1, 0]  # the first of equals
    assert found.ranks_N.tolist() == [0, 2, 1]
    np.testing.assert_allclose(found.confidences_N, [0.5, 0.5, 0.4], rtol=1e-6)
    np.testing.assert_allclose(answers.probabilities(LOGITS_NK, False), np.exp(LOGITS_NK), 1e-6)
    np.testing.assert_allclose(answers.nll(LOGITS_NK, np.array([0, 2, 2])),
                               -np.log([0.5, 0.25, 0.4]), rtol=1e-6)


def test_several_labels_by_hand():
    labels_NK = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]], np.float32)
    found = answers.answer(LOGITS_NK, labels_NK)
    assert found.ranks_N.tolist() == [0, 2, 3]  # the last image has no label, and is never right
    sigmoid_NK = np.exp(LOGITS_NK) / (1 + np.exp(LOGITS_NK))
    np.testing.assert_allclose(found.confidences_N, sigmoid_NK.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(answers.probabilities(LOGITS_NK, True), sigmoid_NK, rtol=1e-6)
    right_NK = np.where(labels_NK > 0, sigmoid_NK, 1 - sigmoid_NK)
    np.testing.assert_allclose(answers.nll(LOGITS_NK, labels_NK), -np.log(right_NK).sum(axis=1),
                               rtol=1e-6)


@pytest.mark.parametrize('labels', [np.array([0, 2, 2]), np.eye(3)[[0, 2, 2]]])
def test_blocks_change_nothing(labels, monkeypatch):
    whole = *answers.answer(LOGITS_NK, labels), answers.nll(LOGITS_NK, labels)
    monkeypatch.setattr(blocks, 'BLOCK', 6)
    parts = *answers.answer(LOGITS_NK, labels), answers.nll(LOGITS_NK, labels)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
    assert blocks.blocks(3, 3) == [slice(0, 2), slice(2, 3)]
