"""What the step makes of weights, of several labels, of class weights and of several views."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base
from imgjax import build, state, step
from imgjax import config as config_lib
from imgjax.errors import ConfigError
from imgjax.objectives import jsd
from imgjax.objectives.parts import classification
from imgjax.rundir import dataset_info

SIZE, CLASSES = 16, 5
rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 255, (SIZE, 8, 8, 1), np.uint8)
LABELS = rng.integers(0, CLASSES, SIZE).astype(np.int32)
SEVERAL = (rng.random((SIZE, CLASSES)) < 0.4).astype(np.float32)


def config_of(**changes) -> dict:
    config = base.get_config()
    config.update(model=dict(name='tiny_mlp'), batch_size=SIZE, steps=10,
                  data=dict(channels=1, mean=(0.5,), std=(0.5,)), optimizer=dict(name='sgd'))
    config.hparams.augment = dict(mixup=0.4, random_flip=0.5, augmix=3.0)
    plain = config.to_dict()
    plain['hparams'] |= changes.pop('hparams', {})
    plain['objective'] |= {'name': changes.pop('objective', 'softmax')}
    return config_lib.checked(plain | changes)


def dataset_of(multi_label=False) -> dataset_info.DatasetInfo:
    names = [str(k) for k in range(CLASSES)]
    return dataset_info.DatasetInfo(names, [8, 8, 1], 100, 10, 'a', 'b', multi_label)


def after(config: dict, batch: dict, multi_label=False):
    """Returns (loss, parameters) after one step; without augmentation, no key plays a part."""
    setup = build.setup(config, dataset_of(multi_label), jax.devices()[:1])
    hparams = state.hparams_of(config)
    now, measured = jax.jit(lambda batch, hparams: setup.train_step(
        state.init(setup.model, config, (8, 8, 1), hparams), batch, hparams))(batch, hparams)
    assert not any(now.skipped.values())
    return float(measured['loss']), jax.device_get(now.params)


def begin_of(model, config: dict):
    """Returns the state before the first step."""
    return jax.jit(lambda hparams: state.init(model, config, (8, 8, 1), hparams))(
        state.hparams_of(config))


def batch_of(rows=slice(None), weight=None, labels=LABELS) -> dict:
    images = IMAGES[rows]
    weight = np.ones(len(images)) if weight is None else weight
    return {'image': images, 'label': labels[rows], 'weight': np.asarray(weight, np.float32)}


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


@pytest.mark.parametrize('objective, parts', [
    ('softmax', 1), ('softmax', 4), ('sigmoid', 4), ('focal', 4)])
def test_an_image_of_weight_zero_is_as_if_it_were_not_there(objective, parts):
    readable = np.arange(SIZE) % 3 > 0
    blank = batch_of(weight=readable)
    blank['image'] = np.where(readable[:, None, None, None], IMAGES, np.uint8(0))
    config = config_of(objective=objective, accumulation_steps=parts,
                       hparams={'label_smoothing': 0.1})
    alone = config_of(objective=objective, batch_size=int(readable.sum()),
                      hparams={'label_smoothing': 0.1})
    assert_close(after(config, blank), after(alone, batch_of(readable)))


def test_of_an_image_mixed_with_an_unreadable_one_its_own_share_counts():
    weight = np.ones(SIZE)
    weight[3] = 0
    config = config_of(augment=[['mixup', {}]])
    key, _ = step.keys(state.hparams_of(config), jnp.int32(0))
    shown = jax.device_get(step.augmented_batch(
        config, CLASSES, key, batch_of(weight=weight), state.hparams_of(config)))
    share = shown['weight'] / shown['weight'].max()
    own = share[4]  # mixed with 3
    assert 0 < own < 1 and share[3] == pytest.approx(1 - own, abs=1e-5)
    np.testing.assert_allclose(np.delete(share, [3, 4]), 1.0, rtol=1e-6)
    np.testing.assert_allclose(shown['target'][4], np.eye(CLASSES)[LABELS[4]], atol=1e-6)
    np.testing.assert_allclose(shown['target'][3], np.eye(CLASSES)[LABELS[2]], atol=1e-6)
    assert shown['weight'].mean() == pytest.approx(1)


def test_a_batch_of_unreadable_images_changes_nothing_and_is_finite():
    loss, params = after(config_of(), batch_of(weight=np.zeros(SIZE)))
    assert loss == 0
    begin = begin_of(build.setup(config_of(), dataset_of()).model, config_of())
    assert_close(params, jax.device_get(begin.params))


def test_several_labels_are_trained_on_with_mixup():
    config = config_of(objective='sigmoid', augment=[['mixup', {}]])
    key, _ = step.keys(state.hparams_of(config), jnp.int32(0))
    shown = jax.device_get(step.augmented_batch(
        config, CLASSES, key, batch_of(labels=SEVERAL), state.hparams_of(config)))
    share = (shown['target'] - np.roll(SEVERAL, 1, 0))[(SEVERAL - np.roll(SEVERAL, 1, 0)) == 1]
    np.testing.assert_allclose(
        shown['target'], share[0] * SEVERAL + (1 - share[0]) * np.roll(SEVERAL, 1, 0), atol=1e-5)
    loss, _ = after(config, batch_of(labels=SEVERAL), multi_label=True)
    assert loss == pytest.approx(CLASSES * np.log(2), rel=0.6)
    with pytest.raises(ConfigError, match='objective.name: softmax takes one label for each'):
        after(config_of(), batch_of(labels=SEVERAL), multi_label=True)


def test_class_weights_are_of_the_class():
    weights = [0.0, 2.0, 1.0, 0.5, 1.0]
    config = config_of(hparams={'class_weights': weights})
    rows = [int(np.flatnonzero(LABELS == k)[0]) for k in (1, 3)]
    scaled = [after(config, batch_of([row]))[0] / after(config_of(), batch_of([row]))[0]
              for row in rows]
    np.testing.assert_allclose(scaled, [2.0, 0.5], rtol=1e-4)
    with pytest.raises(ConfigError, match='class_weights: takes a number for each of 5 classes'):
        after(config_of(hparams={'class_weights': [1.0]}), batch_of())


def test_each_part_of_a_batch_updates_the_batch_statistics():
    """Part p holds the images p, p + 2, ...; the second begins with the statistics of the first."""
    config = config_of(model={'name': 'tiny_resnet', 'dtype': 'float32', 'options': {}},
                       accumulation_steps=2)
    setup = build.setup(config, dataset_of(), jax.devices()[:1])
    begin = begin_of(setup.model, config)
    now, _ = jax.jit(setup.train_step)(begin, batch_of(), state.hparams_of(config))
    expected = begin.batch_stats
    apply = jax.jit(lambda stats, images: setup.model.apply(
        {'params': begin.params, 'batch_stats': stats}, images, train=True,
        mutable=['batch_stats']))
    for part in (IMAGES[0::2], IMAGES[1::2]):
        _, updates = apply(expected, part / np.float32(127.5) - 1)
        expected = updates['batch_stats']
    assert_close(now.batch_stats, expected)


@pytest.mark.parametrize('several', [False, True])
def test_what_the_eval_step_says_of_known_logits(several, monkeypatch):
    """Image n has its highest logit at class 0, then 1, 2 ...; its label is n."""
    logits_NK = np.tile(np.arange(8, 0, -1, dtype=np.float32), (8, 1))
    monkeypatch.setattr(step, 'predict', lambda *_: (jnp.asarray(logits_NK), {}))
    eval_step = step.make_eval_step(types.SimpleNamespace(num_classes=8), config_of(
        objective='sigmoid' if several else 'softmax'))
    labels = np.arange(8, dtype=np.int32)
    found = eval_step(None, {'image': np.zeros(8), 'mask': np.ones(8, bool),
                             'label': np.eye(8, dtype=np.float32) if several else labels}, {})
    assert found['predictions'].tolist() == [0] * 8
    assert found['accuracy'].tolist() == [True] + [False] * 7
    assert found['top5_accuracy'].tolist() == [True] * 5 + [False] * 3
    p_K = 1 / (1 + np.exp(-logits_NK[0])) if several else np.exp(logits_NK[0] - 8) / np.exp(
        logits_NK[0] - 8).sum()
    np.testing.assert_allclose(found['confidences'], p_K[0], rtol=1e-5)
    if not several:
        np.testing.assert_allclose(found['loss'], -np.log(p_K), rtol=1e-5)


def test_is_hit():
    logits = jnp.array([[0.0, 2.0, 1.0]] * 4)
    targets = jnp.array([[0.0, 1, 1], [1, 0, 0], [0, 0, 0], [0.4, 0.6, 0]])
    assert classification.is_hit(logits, targets).tolist() == [1, 0, 0, 1]


def test_three_views_shall_agree():
    """AugMix's consistency: one view without it, two with draws of their own, the rest shared."""
    ops = [['random_flip', {}], ['augmix', {'width': 1, 'depth': 1}]]
    config = config_of(augment=ops, objective='jsd', hparams={'label_smoothing': 0.1})
    hparams = state.hparams_of(config)
    key, _ = step.keys(hparams, jnp.int32(0))

    def views_of(config):
        shown = jax.jit(lambda batch: step.augmented_batch(
            config, CLASSES, key, batch, hparams))(batch_of())
        return np.moveaxis(jax.device_get(shown['image']), 1, 0)

    views, flipped = views_of(config), views_of(config_of(augment=ops[:1]))
    assert views.shape == (3, SIZE, 8, 8, 1) and flipped.shape == (1, SIZE, 8, 8, 1)
    np.testing.assert_array_equal(views[0], flipped[0])
    assert not np.array_equal(views[1], views[0]) and not np.array_equal(views[1], views[2])
    loss, alone = (after(config_of(augment=ops, objective='jsd', hparams={
        'label_smoothing': 0.1, 'consistency_weight': weight}), batch_of())[0]
        for weight in (1e5, 0.0))  # the views of a new model hardly differ
    model = build.setup(config, dataset_of()).model
    begin = begin_of(model, config)
    apply = jax.jit(lambda view: model.apply({'params': begin.params}, view, train=False)[0])
    logits = [apply(view) for view in views]
    assert loss - alone == pytest.approx(
        1e5 * jsd.jensen_shannon(jnp.stack(logits, 1)).mean().item(), rel=1e-3) and loss > alone
    targets = jax.nn.one_hot(batch_of()['label'], CLASSES, dtype=jnp.float32)
    of_view = [classification.softmax(one, optax.smooth_labels(targets, 0.1)).mean().item()
               for one in logits]
    assert alone == pytest.approx(of_view[0], rel=1e-6), 'the labels are those of the first view'
    assert of_view[1] != pytest.approx(of_view[0], rel=1e-6)
    with pytest.raises(ConfigError, match='config.augment: objective jsd takes views that differ'):
        after(config_of(objective='jsd'), batch_of())
