"""Images with several labels, from the source to the page; and classes that are rare."""

import json
import os

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

from configs import base
from imgjax import config as config_lib
from imgjax import train
from imgjax.commands import predict
from imgjax.data.sources import arrays
from imgjax.metrics import mean_average_precision
from imgjax.rundir import checkpoint

# What can be said of a digit, several at once, or nothing (of 9).
KINDS = {'even': (0, 2, 4, 6, 8), 'below five': (0, 1, 2, 3, 4), 'prime': (2, 3, 5, 7)}


@pytest.fixture(scope='module')
def sources():
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = np.stack([np.isin(digits.target, mine) for mine in KINDS.values()], 1).astype(int)
    held_out = np.arange(len(images)) % 5 == 0
    return tuple(arrays.source(images[pick], labels[pick], tuple(KINDS))
                 for pick in (~held_out, held_out))


def config_of(**changes) -> dict:
    config = base.get_config()
    config.update(
        data=dict(name='arrays', channels=1, mean=(0.3,), std=(0.37,)),
        objective=dict(name='sigmoid'),
        model=dict(name='mlp'), augment=(('mixup', {}),), batch_size=64, eval_batch_size=64,
        steps=300, log_every=50, eval_every=150, schedule=dict(warmup_steps=30),
        checkpoint=dict(every=150))
    config.hparams.augment = dict(mixup=0.1)
    config.update(changes)
    return config_lib.checked(config)


@pytest.fixture(scope='module')
def run(sources, tmp_path_factory):
    workdir = str(tmp_path_factory.mktemp('several') / 'run')
    return workdir, train.run(config_of(), workdir, sources)


def test_several_labels_are_learnt_and_judged_by_their_precision(run):
    workdir, result = run
    assert result['mean_average_precision'] > 0.97
    assert result['accuracy'] > 0.95 and result['examples'] == 360
    with open(os.path.join(workdir, 'metrics.jsonl')) as file:
        rows = [row for row in map(json.loads, file) if row['split'] == 'test']
    assert [row['step'] for row in rows] == [150, 300]
    assert rows[-1]['mean_average_precision'] == result['mean_average_precision']
    best = max(rows, key=lambda row: row['mean_average_precision'])['step']
    assert best in checkpoint.steps(workdir)


def test_the_page_shows_the_precision_of_each_class(run, sources):
    with open(os.path.join(run[0], 'report.html')) as file:
        page = file.read()
    assert 'mean average precision of the classes' in page and 'below five' in page
    labelled = int(sources[1].labels().any(axis=1).sum())
    assert 300 < labelled < 360
    assert 'Images have several labels' in page and f'over the {labelled} of 360 images' in page


def test_the_run_directory_classifies_by_itself(run, tmp_path):
    output = str(tmp_path / 'out.json')
    predict.predict_images(run[0], 'docs/digits', 3, output)
    with open(output) as file:
        rows = json.load(file)
    assert any(sum(row['probabilities']) > 1.5 for row in rows), 'sigmoids, not a distribution'


def test_average_precision_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels_NK = (rng.random((200, 4)) < 0.3).astype(np.float32)
    labels_NK[:, 2] = 0
    scores_NK = rng.random((200, 4)).astype(np.float32)
    found_K = mean_average_precision.by_class(labels_NK, scores_NK)
    assert np.isnan(found_K[2])
    for k in (0, 1, 3):
        assert found_K[k] == average_precision_score(labels_NK[:, k], scores_NK[:, k])
    mean = mean_average_precision.mean(labels_NK, scores_NK)
    assert mean == pytest.approx(found_K[[0, 1, 3]].mean())
    scores_NK[0, 0] = np.nan
    assert mean_average_precision.mean(labels_NK, scores_NK) is None


@pytest.fixture(scope='module')
def imbalanced():
    """(training split, the rare ones of another): 1 of 20 images has a faint mark."""
    rng = np.random.default_rng(0)
    labels = (rng.random(4000) < 0.05).astype(np.int64)
    images = rng.integers(0, 200, (4000, 4, 4), np.uint8)
    images[:, 0, 0] = images[:, 0, 0] // 2 + 50 * labels
    names = ('common', 'rare')
    rare = np.flatnonzero(labels[2000:]) + 2000
    return (arrays.source(images[:2000], labels[:2000], names),
            arrays.source(images[rare], labels[rare], names))


@pytest.mark.parametrize('change', [
    {'hparams': {'class_weights': ('balanced',)}}, {'sampler': {'name': 'class_balanced'}},
], ids=['weights', 'sampler'])
def test_a_rare_class_is_found_more_often(change, imbalanced, tmp_path):
    recalls = []
    for name, changes in (('plain', {}), ('changed', change)):
        config = config_of(steps=500, eval_every=0, objective=dict(name='softmax'), augment=(),
                           model=dict(name='tiny_mlp'), **changes)
        config |= {'hparams': config.hparams | {'augment': {}}}
        recalls.append(train.run(config, str(tmp_path / name), imbalanced)['accuracy'])
    assert recalls[1] > recalls[0] + 0.2
    used = config_lib.read(str(tmp_path / 'changed'))['hparams']['class_weights']
    if 'hparams' in change:  # numbers, as the run used them
        common, rare = used
        assert common == pytest.approx(0.526, abs=0.01) and rare == pytest.approx(10, rel=0.2)
