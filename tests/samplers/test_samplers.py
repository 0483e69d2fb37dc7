"""What stands at each position: a pure function, balanced where asked, repeated where asked."""

import numpy as np
import pytest

from configs import base
from imgjax import build, data
from imgjax.config import Config
from imgjax.data import pipeline
from imgjax.samplers import shuffle

OPTIONS = base.get_config().data.to_dict() | dict(name='made', channels=1)
SHUFFLE, BALANCED, REPEATED = ('shuffle', 1), ('class_balanced', 1), ('class_balanced', 2)
COUNTS = (50, 7, 1, 30)


def source(labels) -> data.Source:
    """One pixel an image, which holds its index."""
    labels = np.asarray(labels)
    examples = [{'image': np.full((1, 1, 1), i, np.uint8), 'label': label, 'name': str(i)}
                for i, label in enumerate(labels)]
    return data.Source(examples, ('a', 'b', 'c', 'd'), '', lambda: labels, labels.ndim == 2)


IMBALANCED = source(np.random.default_rng(0).permutation(np.repeat(np.arange(4), COUNTS)))


def draw_of(sampler, seed=3, batch_size=16, of=IMBALANCED):
    """Returns positions -> indices of (the name of a sampler, aug_repeats)."""
    name, repeats = sampler
    config = {'sampler': {'name': name, 'options': {}}, 'hparams': {'seed': seed},
              'data': {'aug_repeats': repeats}, 'batch_size': batch_size}
    return build.draw(Config(config), of)


def drawn(sampler, first, count, **how) -> np.ndarray:
    return draw_of(sampler, **how)(np.arange(first, first + count))


def test_every_epoch_holds_every_example_once_in_its_own_order():
    epochs = shuffle.draw(np.arange(3 * 101), 101, seed=5).reshape(3, 101)
    for epoch in epochs:
        assert sorted(epoch) == list(range(101))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert not np.array_equal(epochs[0], shuffle.draw(np.arange(101), 101, seed=6))


def test_the_order_is_the_one_that_runs_began_with():
    """Golden: resuming a run of an older version needs the same order."""
    assert shuffle.draw(np.arange(6), 10, seed=0).tolist() == [0, 2, 9, 1, 8, 5]
    assert drawn(BALANCED, 0, 8).tolist() == [77, 54, 56, 21, 25, 61, 18, 21]


@pytest.mark.parametrize('sampler', [SHUFFLE, BALANCED, REPEATED],
                         ids=['shuffle', 'balanced', 'repeated'])
def test_the_stream_is_a_function_of_the_position(sampler):
    whole = drawn(sampler, 0, 4000)
    np.testing.assert_array_equal(drawn(sampler, 1234, 500), whole[1234:1734])
    np.testing.assert_array_equal(drawn(sampler, 7, 1), whole[7:8])
    assert not np.array_equal(drawn(sampler, 0, 4000, seed=4), whole)


def test_classes_are_equally_frequent_and_their_examples_too():
    labels = IMBALANCED.labels()
    indices = drawn(BALANCED, 0, 4 * 150)
    classes = labels[indices].reshape(150, 4)
    np.testing.assert_array_equal(np.sort(classes), np.tile(np.arange(4), (150, 1)))
    assert len({tuple(block) for block in classes}) > 10, 'the classes come in changing order'
    seen = np.bincount(indices, minlength=len(labels))
    for label, count in enumerate(COUNTS):  # each example as often as its class went round
        assert set(seen[labels == label]) <= {150 // count, -(-150 // count)}


def test_an_image_of_several_labels_is_drawn_for_each():
    labels = np.zeros((20, 4), np.float32)
    labels[:18, 0] = labels[17:, 1] = labels[5, 2] = 1  # nothing has the last class
    indices = drawn(BALANCED, 0, 300, of=source(labels)).reshape(100, 3)
    found = labels[indices].sum(1)
    assert (found[:, :3] >= 1).all()
    assert (indices == 5).sum(1).min() >= 1


def test_repeats_stand_apart_in_the_batch_and_an_epoch_takes_as_many_steps():
    batches = drawn(('shuffle', 4), 0, 22 * 16).reshape(22, 4, 4)
    np.testing.assert_array_equal(batches, np.repeat(batches[:, :1], 4, axis=1))
    assert sorted(batches[:, 0].ravel()) == list(range(88)), '22 steps of 4 images are an epoch'


@pytest.mark.parametrize('hosts, workers', [(1, 0), (2, 0), (4, 0), (1, 2)])
def test_hosts_and_workers_change_nothing(hosts, workers):
    whole = drawn(REPEATED, 16 * 5, 16)
    parts = []
    for host in range(hosts):
        batches = pipeline.train_batches(
            IMBALANCED, draw_of(REPEATED), OPTIONS, 1, batch_size=16, seed=3, process=(host, hosts))
        batch = next(pipeline.iterate(batches, workers, first=5))
        np.testing.assert_array_equal(batch['image'].ravel(), batch['index'])
        parts.append(batch['index'])
    np.testing.assert_array_equal(np.concatenate(parts), whole)
