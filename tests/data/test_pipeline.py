"""Batches are a function of (seed, step): not of workers, hosts, restarts or where they lie."""

import itertools
import threading
import time

import numpy as np
import pytest
from PIL import Image

from configs import base
from imgjax import data
from imgjax.data import pipeline
from tests.data import shuffled

OPTIONS = base.get_config().data.to_dict() | dict(
    name='digits', channels=1, eval_crop_fraction=1.0)


@pytest.fixture(scope='module')
def digits(data_dir):
    return data.open_split('train', OPTIONS)


def assert_equal(a: dict, b: dict):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize('crop', ['center', 'random_resized'])
@pytest.mark.parametrize('workers', [0, 1, 2])
def test_workers_change_nothing(crop, workers, digits):
    options = OPTIONS | {'train_crop': crop, 'image_size': 12}
    batches = shuffled.train_batches(digits, options, 12, batch_size=16, seed=3)
    stream = pipeline.iterate(batches, workers, first=5)
    for step, batch in zip(range(5, 9), stream, strict=False):
        assert_equal(batch, batches[step])


@pytest.mark.parametrize('hosts', [1, 2, 4])
def test_hosts_change_nothing(hosts, digits):
    options = OPTIONS | {'train_crop': 'random_resized', 'image_size': 12}
    whole = shuffled.train_batches(digits, options, 12, batch_size=16, seed=3)[7]
    parts = [shuffled.train_batches(digits, options, 12, batch_size=16, seed=3,
                                    process=(host, hosts))[7] for host in range(hosts)]
    assert_equal(whole, {k: np.concatenate([p[k] for p in parts]) for k in whole})


def test_a_resident_set_gives_the_same_batches(digits):
    held = pipeline.load_all(digits, OPTIONS, 8)
    batches = shuffled.train_batches(digits, OPTIONS, 8, batch_size=100, seed=1)
    draw = shuffled.draw(digits, 100, 1)
    for step in (0, 14, 15, 400):  # 14 holds the border of the first epoch
        index = draw(step * 100 + np.arange(100))
        np.testing.assert_array_equal(held['image'][index], batches[step]['image'])
        np.testing.assert_array_equal(held['label'][index], batches[step]['label'])


@pytest.mark.parametrize('batch_size, hosts', [(355, 1), (100, 1), (64, 2), (512, 4), (1, 1)])
def test_evaluation_sees_every_example_once(batch_size, hosts, data_dir):
    test = data.open_split('test', OPTIONS)
    seen = []
    for host in range(hosts):
        batches = pipeline.eval_batches(
            test, OPTIONS, 8, batch_size=batch_size, process=(host, hosts))
        for batch in (batches[i] for i in range(len(batches))):
            assert len(batch['label']) == batch_size // hosts
            seen += batch['index'][batch['mask']].tolist()
    assert sorted(seen) == list(range(355))


def test_crops_are_of_the_seed(digits):
    options = OPTIONS | {'train_crop': 'random_resized', 'image_size': 12}
    a, b = (shuffled.train_batches(digits, options, 12, batch_size=16, seed=s)[0] for s in (1, 2))
    assert not np.array_equal(a['image'], b['image'])


def test_loading_runs_in_parallel_threads():
    class Slow:
        most, now, lock = 0, 0, threading.Lock()

        def __len__(self):
            return 64

        def __getitem__(self, index):
            with self.lock:
                Slow.now += 1
                Slow.most = max(Slow.most, Slow.now)
            time.sleep(0.01)
            with self.lock:
                Slow.now -= 1
            return {'image': np.zeros((8, 8, 1), np.uint8), 'label': 0, 'name': str(index)}

    source = data.Source(Slow(), ('a', 'b'), '', lambda: np.zeros(64, np.int32))
    stream = pipeline.iterate(
        shuffled.train_batches(source, OPTIONS, 8, batch_size=4, seed=0), workers=0)
    for _ in itertools.islice(stream, 8):
        pass
    assert Slow.most >= 4


def test_the_native_size_is_found(tmp_path):
    def add(name, size):
        path = tmp_path / 'train' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', size).save(path)

    def found(usual_size=224):
        options = OPTIONS | {'name': 'folder', 'path': str(tmp_path), 'usual_size': usual_size}
        return pipeline.native_size(data.open_split('train', options), options)

    add('a/1.png', (8, 8))
    add('b/1.png', (8, 8))
    assert found() == found(7) == 8 and found(6) == 0
    add('b/2.png', (8, 9))
    assert found() == 0
    for name in ('a/1.png', 'b/1.png', 'b/2.png'):
        add(name, (300, 300))
    assert found() == 0  # photographs that happen to be square are not trained on at that size
