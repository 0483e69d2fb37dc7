"""Weights in a script give what the commands give, and what cannot be used is one line."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from configs import digits, finetune
from imgjax import models, train
from imgjax.commands import evaluate_weights, predict
from imgjax.errors import ConfigError, DataError
from imgjax.interop import export, files, pretrained, torch_layout

CLASSES = [str(i) for i in range(10)]


@pytest.fixture(scope='module')
def run(tmp_path_factory, data_dir):
    """A run of a tiny network on digits, gray and 8 x 8."""
    config = digits.get_config('resnet')
    config.model = dict(name='tiny_resnet', dtype='float32', options={'act': 'tanh'})
    config.update(steps=3, log_every=1, eval_every=0, checkpoint=dict(every=0))
    workdir = str(tmp_path_factory.mktemp('pretrained') / 'run')
    train.run(config, workdir)
    return workdir


@pytest.fixture(scope='module')
def exported(run, tmp_path_factory):
    return export.export(run, 'safetensors', str(tmp_path_factory.mktemp('weights') / 'out'))[
        'output']


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """A folder per class, with images of nothing in colour; their sizes differ."""
    folder, rng = tmp_path_factory.mktemp('photos'), np.random.default_rng(0)
    for i, name in enumerate(CLASSES):
        (folder / name).mkdir()
        for j in range(2):
            Image.fromarray(rng.integers(0, 255, (8 + i, 8 + 3 * j, 3), np.uint8)).save(
                folder / name / f'{j}.png')
    return folder


def paths_of(photos) -> list:
    return sorted(photos.glob('*/*.png'))


def loaded(folder, **more):
    return pretrained.load('tiny_resnet', f'timm:{folder}/model.safetensors', act='tanh', **more)


@pytest.fixture
def changed(exported, tmp_path):
    """Returns changed(change) -> a copy of the export whose config.json and tensors are changed."""
    def change(edit):
        folder = tmp_path / 'changed'
        shutil.copytree(exported, folder)
        described = json.loads((folder / 'config.json').read_text())
        tensors = files.read(str(folder / 'model.safetensors'))
        edit(described, tensors)
        (folder / 'config.json').write_text(json.dumps(described))
        safetensors.numpy.save_file(tensors, folder / 'model.safetensors')
        return folder
    return change


def test_predictions_are_those_of_the_command(run, exported, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, '_BATCH', 16)  # two batches
    predict.predict_images(run, str(photos), 3, str(tmp_path / 'rows.json'))
    rows = json.loads((tmp_path / 'rows.json').read_text())
    found = loaded(exported)
    answers = pretrained.predict(found, [row['image'] for row in rows], top_k=3)
    assert [[name for name, _ in answer] for answer in answers] == [row['classes'] for row in rows]
    np.testing.assert_allclose([[p for _, p in answer] for answer in answers],
                               [row['probabilities'] for row in rows], rtol=1e-5)
    assert found.class_names == tuple(CLASSES) and not found.multi_label
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found.variables))


def test_the_accuracy_is_that_of_evaluate(exported, photos):
    config = finetune.get_config('tiny_resnet')
    config.model.options = {'act': 'tanh'}
    config.init.weights = f'timm:{exported}/model.safetensors'
    config.data.update(path=str(photos), channels=1, mean=(0.5,), std=(0.5,))
    result = evaluate_weights.run(config)
    found, paths = loaded(exported), paths_of(photos)
    images_NHWC = pretrained.images(found, paths)
    logits_NK, out = found.model.apply(found.variables, images_NHWC, train=False)
    labels_N = np.array([int(path.parent.name) for path in paths])
    rows_N = np.arange(len(paths))
    assert result['examples'] == len(paths) == 20
    assert result['accuracy'] == (np.asarray(logits_NK).argmax(-1) == labels_N).mean()
    losses_N = -jax.nn.log_softmax(logits_NK)[rows_N, labels_N]
    np.testing.assert_allclose(result['loss'], float(losses_N.mean()), rtol=1e-5)
    np.testing.assert_allclose(pretrained.apply(found, images_NHWC), logits_NK, rtol=1e-4,
                               atol=1e-5)
    assert out['pre_logits'].shape == (20, 64)


def test_the_preprocessing_is_that_of_the_weights(exported, photos, changed):
    """It is computed by Pillow here: the shorter side to 8 / 0.5, and the middle 8 x 8 of it."""
    found = loaded(exported)
    assert found.data.image_size == 8 and found.data.channels == 1
    assert found.data.eval_crop_fraction == 1.0 and len(found.data.mean) == 1

    def edit(described, _):
        described['pretrained_cfg'].update(mean=[0.25], std=[0.5], crop_pct=0.5)

    path = photos / '0' / '0.png'  # 8 x 8
    images_NHWC = pretrained.images(loaded(changed(edit)), path)
    pixels = np.asarray(Image.open(path).convert('L').resize((16, 16), Image.Resampling.BICUBIC))
    assert images_NHWC.dtype == np.float32 and images_NHWC.shape == (1, 8, 8, 1)
    np.testing.assert_allclose(
        images_NHWC[0, :, :, 0], (pixels[4:12, 4:12] / 255 - 0.25) / 0.5, atol=1e-5)
    again = loaded(exported, data={
        'channels': 1, 'mean': [0.25], 'std': [0.5], 'eval_crop_fraction': 0.5})
    np.testing.assert_array_equal(pretrained.images(again, [path]), images_NHWC)


def test_features(exported, photos):
    found, headless = loaded(exported), loaded(exported, num_classes=0)
    images_NHWC = pretrained.images(headless, paths_of(photos)[:4])
    features_ND = pretrained.apply(headless, images_NHWC)
    _, out = found.model.apply(found.variables, images_NHWC, train=False)
    np.testing.assert_allclose(features_ND, out['pre_logits'], rtol=1e-4, atol=1e-5)
    assert headless.class_names == () and 'head' not in headless.variables['params']
    with pytest.raises(ConfigError, match='has no classifier .num_classes=0.*; load it without'):
        pretrained.predict(headless, paths_of(photos))


def test_other_classifiers(exported, changed, photos, caplog):
    """A new one gives all classes alike; one sigmoid is two classes; none gives the features."""
    found = loaded(exported, num_classes=4)
    (answer,) = pretrained.predict(found, photos / '0' / '0.png')
    assert answer == [(str(i), 0.25) for i in range(4)]
    head = ('fc.weight', 'fc.bias')

    def binary(described, tensors):
        described['label_names'] = ['cat', 'dog']
        tensors.update({name: tensors[name][:1] for name in head})

    one = loaded(folder := changed(binary))
    assert one.class_names == ('cat', 'dog')
    z = pretrained.apply(loaded(exported), pretrained.images(one, photos / '0' / '0.png'))[0, 0]
    (answer,) = pretrained.predict(one, photos / '0' / '0.png')
    np.testing.assert_allclose(dict(answer)['dog'], jax.nn.sigmoid(z), rtol=1e-4)
    shutil.rmtree(folder)
    headless = loaded(changed(lambda _, tensors: [tensors.pop(name) for name in head]))
    assert headless.model.num_classes == 0 and 'has no classifier' in caplog.text


def test_a_new_classifier_with_a_hidden_layer(tmp_path):
    """The hidden layer is new, too, and not zero, so that gradients pass it."""
    model = models.create('tiny_metaformer', 5)
    variables = jax.jit(lambda: model.init(
        jax.random.key(1), np.zeros((1, 32, 32, 3), np.float32), train=False))()
    safetensors.numpy.save_file(torch_layout.write(
        variables, models.module('tiny_metaformer').RENAMES), tmp_path / 'w.safetensors')
    found = pretrained.load('tiny_metaformer', f'timm:{tmp_path}/w.safetensors', num_classes=3,
                            data={'image_size': 32})
    head = found.variables['params']['head']
    assert head['fc2']['kernel'].shape[1] == 3 and not head['fc2']['kernel'].any()
    assert head['fc1']['kernel'].any()
    assert not np.array_equal(head['fc1']['kernel'], variables['params']['head']['fc1']['kernel'])


def test_names_and_several_labels(exported, changed, photos, caplog):
    def edit(described, _):
        described['imgjax']['multi_label'] = True
        described['label_descriptions'] = {name: f'digit {name}' for name in CLASSES}

    path = photos / '3' / '1.png'
    found = loaded(folder := changed(edit))
    (answer,) = pretrained.predict(found, path, top_k=99)
    logits_K = pretrained.apply(found, pretrained.images(found, path))[0]
    assert len(answer) == 10 and answer[0][0].startswith('digit ')
    np.testing.assert_allclose(sorted(p for _, p in answer), np.sort(jax.nn.sigmoid(logits_K)),
                               rtol=1e-5)
    (folder / 'config.json').unlink()
    assert loaded(folder, data={'channels': 1, 'mean': [0.5], 'std': [0.5], 'image_size': 8}
                  ).class_names == tuple(CLASSES)
    assert 'names no classes: they are called by their numbers, 0 to 9' in caplog.text


@pytest.mark.parametrize('name, weights, more, words', [
    ('tiny_resnot', 'timm:x.pth', {}, "unknown model 'tiny_resnot'; did you mean 'tiny_resnet'"),
    ('tiny_resnet', 'tim:x.pth', {}, "takes LAYOUT:WHERE.*did you mean 'timm'"),
    ('tiny_resnet', '', {}, 'weights: takes LAYOUT:WHERE, such as'),
    ('tiny_resnet', 'timm:/no/model.safetensors', {}, 'no such file /no/model.safetensors'),
    ('tiny_resnet', 'timm:resnet18.a1_in1k', {}, "weights of 'resnet18' are not for"),
    ('tiny_resnet', 'timm:{}', {'atc': 'tanh'}, "no option 'atc'; did you mean 'act'"),
    ('tiny_resnet', 'timm:{}', {}, "exported with act='tanh' .*; set config.model.options to"),
    ('tiny_vit', 'timm:{}', {}, "exported from 'tiny_resnet' .*got 'tiny_vit'"),
    ('tiny_resnet', 'timm:{}', {'act': 'tanh', 'data': {'img_size': 9}},
     "config.data.img_size: no such field; did you mean 'data.image_size'"),
    ('tiny_resnet', 'timm:{}', {'num_classes': -1}, 'num_classes: takes None or a whole number'),
])
def test_what_cannot_be_loaded_is_one_line(name, weights, more, words, exported):
    with pytest.raises((ConfigError, DataError)) as caught:
        pretrained.load(name, weights.format(f'{exported}/model.safetensors'), **more)
    assert re.search(words, str(caught.value)) and '\n' not in str(caught.value)


@pytest.mark.parametrize('content, words', [
    (None, 'odd.jpg: cannot be read .No such file'), (b'', 'odd.jpg: not a readable image .empty'),
    (b'text', 'odd.jpg: not a readable image .not an image.*replace or remove it'),
])
def test_images_that_cannot_be_decoded_are_one_line(content, words, exported, photos, tmp_path):
    if content is not None:
        (tmp_path / 'odd.jpg').write_bytes(content)
    with pytest.raises(DataError) as caught:
        pretrained.predict(loaded(exported), [photos / '0' / '0.png', tmp_path / 'odd.jpg'])
    assert re.search(words, str(caught.value)) and '\n' not in str(caught.value)


def test_no_images(exported):
    found = loaded(exported)
    assert pretrained.images(found, []).shape == (0, 8, 8, 1)
    assert pretrained.predict(found, []) == []
