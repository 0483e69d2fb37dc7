"""Folds: every example is left out once, in shares of its class, whatever the seed."""

import numpy as np
import pytest

from imgjax.data import Source
from imgjax.errors import ConfigError, DataError
from imgjax.samplers import fold


def source(labels: np.ndarray) -> Source:
    classes = labels.shape[1] if labels.ndim == 2 else labels.max() + 1
    return Source(range(len(labels)), tuple(map(str, range(classes))), 'x', lambda: labels,
                  labels.ndim == 2)


LABELS = np.repeat([0, 1, 2], [50, 20, 7])


def test_each_example_is_left_out_by_one_fold():
    seen = []
    for k in range(5):
        draw = fold.order(source(LABELS), {'folds': 5, 'fold': k}, seed=3)
        epoch = draw(np.arange(1000))
        seen.append(set(range(len(LABELS))) - set(epoch.tolist()))
    assert sorted(index for one in seen for index in one) == list(range(len(LABELS)))


def test_an_epoch_has_the_other_examples_once_and_the_seed_decides_their_order():
    one, other = (fold.order(source(LABELS), {'folds': 7, 'fold': 2}, seed) for seed in (0, 1))
    kept = np.flatnonzero(fold.folds_of(LABELS, 7) != 2)
    epochs = one(np.arange(2 * len(kept))).reshape(2, -1)
    assert (np.sort(epochs) == kept[None]).all() and (epochs[0] != epochs[1]).any()
    assert (np.sort(other(np.arange(len(kept)))) == kept).all()
    assert (other(np.arange(len(kept))) != epochs[0]).any()


def test_folds_have_equal_shares_of_each_class_and_equal_sizes():
    folds_N = fold.folds_of(LABELS, 5)
    for label in range(3):
        counts = np.bincount(folds_N[LABELS == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(folds_N)
    assert sizes.max() - sizes.min() <= 1
    # Not in the order of the examples: neighbours in a folder are often alike.
    assert (np.diff(folds_N[:50]) != 1).any() and len(set(folds_N[:5].tolist())) < 5


def test_of_several_labels_the_first_counts():
    several = np.eye(3, dtype=np.float32)[LABELS]
    assert (fold.folds_of(several, 4) == fold.folds_of(LABELS, 4)).all()


def test_what_is_refused():
    with pytest.raises(ConfigError, match=r'sampler\.options\.fold: takes 0 to 4 .* got 5'):
        fold.order(source(LABELS), {'folds': 5, 'fold': 5}, 0)
    with pytest.raises(DataError, match='3 images are fewer than 5 folds'):
        fold.folds_of(LABELS[:3], 5)
