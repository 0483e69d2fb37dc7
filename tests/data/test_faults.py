"""Unreadable images weigh nothing and move nothing: the drill with a thousand of twelve kinds."""

import json

import numpy as np
import pytest

from configs import base
from imgjax import data
from imgjax.data import faults, pipeline
from imgjax.errors import DataError
from tests.data import corrupt, shuffled

GOOD, BAD = 400, 1000
OPTIONS = base.get_config().data.to_dict() | dict(
    name='made', image_size=16, train_crop='random_resized', train_resize='linear')


def source(damaged: bool) -> data.Source:
    """1,400 JPEGs; with `damaged`, a thousand of them are broken in one of all ways."""
    def content(index: int) -> bytes:
        if damaged and index % 7 >= 2:
            return corrupt.make(tuple(corrupt.KINDS)[index % len(corrupt.KINDS)], index)
        return corrupt.jpeg(index % 50)

    examples = [{'image': content(i), 'label': i % 3, 'name': f'image {i}'}
                for i in range(GOOD + BAD)]
    return data.Source(examples, ('a', 'b', 'c'), '', lambda: np.arange(GOOD + BAD) % 3)


@pytest.fixture(scope='module')
def sources():
    return source(False), source(True)


def test_there_are_twelve_kinds():
    assert len(corrupt.KINDS) >= 12
    assert sum(i % 7 >= 2 for i in range(GOOD + BAD)) == BAD


def test_order_and_content_of_the_good_ones_do_not_change(sources):
    whole, damaged = (shuffled.train_batches(one, OPTIONS, 16, batch_size=100, seed=1)
                      for one in sources)
    seen = np.zeros(GOOD + BAD, int)
    for step in range(14):  # an epoch
        before, after = whole[step], damaged[step]
        for name in ('position', 'index', 'label'):
            np.testing.assert_array_equal(after[name], before[name])
        good = after['index'] % 7 < 2
        np.testing.assert_array_equal(after['image'][good], before['image'][good])
        assert (after['weight'][good] == 1).all() and not after['fault'][good].any()
        broken = after['fault'] > 0
        np.testing.assert_array_equal(after['weight'], np.where(broken, 0, 1))
        assert not after['image'][broken].any()
        seen[after['index'][broken]] += 1
    assert seen.max() == 1
    # Damage that leaves a decodable image, a flipped bit, is no fault that anyone can see.
    assert seen.sum() > 0.7 * BAD


def test_a_resident_set_has_the_same_faults(sources):
    options = OPTIONS | {'train_crop': 'center'}
    held = pipeline.load_all(sources[1], options, 16)
    batch = shuffled.train_batches(sources[1], options, 16, batch_size=100, seed=1)[3]
    for name in ('image', 'label', 'weight', 'fault'):
        np.testing.assert_array_equal(held[name][batch['index']], batch[name])


def test_each_is_listed_once_over_all_starts(sources, tmp_path):
    stream = shuffled.train_batches(sources[1], OPTIONS, 16, batch_size=100, seed=1)
    batches = [stream[step] for step in range(9)]
    for first in (0, 3):  # the second start repeats steps that the first one did
        note = faults.watch(str(tmp_path), sources[1], share=1.0)
        for step in range(first, first + 6):
            note(batches[step]['index'], batches[step]['fault'])
    with open(tmp_path / faults.FILE) as file:
        rows = [json.loads(line) for line in file]
    wanted = {int(i) for step in range(9)
              for i in batches[step]['index'][batches[step]['fault'] > 0]}
    assert sorted(row['index'] for row in rows) == sorted(wanted)
    assert all(row['file'] == f'image {row["index"]}' for row in rows)
    assert {row['kind'] for row in rows} <= set(pipeline.FAULTS)
    assert len({row['kind'] for row in rows}) >= 4


def test_more_than_the_share_ends_the_run_with_the_list(sources, tmp_path):
    note = faults.watch(str(tmp_path), sources[1], share=0.01)
    none, one = np.zeros(8, np.uint8), np.eye(8, dtype=np.uint8)[0]
    for index in range(14):
        note(np.arange(8) + 8 * index, one)
        note(np.arange(8) + 8 * index, one)  # again in the next epoch
        note(np.arange(8) + 8 * index, none)
    with pytest.raises(DataError, match='15 of 1400 training images are unreadable') as error:
        note(np.arange(8) + 8 * 14, one)
    assert error.value.exit_code == 3 and '\n' not in str(error.value)
    assert 'image 0, image 8' in str(error.value) and faults.FILE in str(error.value)
    with open(tmp_path / faults.FILE, 'a') as file:
        file.write('{"index": 3, "fi')  # a kill in the middle of a line
    assert len(faults.read(str(tmp_path))) == 15
