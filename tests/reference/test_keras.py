"""Weights of keras.applications: equal logits in our models, from random networks of its own."""

import importlib
import os

os.environ['KERAS_BACKEND'] = 'jax'

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from imgjax import models  # noqa: E402
from imgjax.config import Config  # noqa: E402
from imgjax.interop import keras as bridge  # noqa: E402
from imgjax.interop import (
    load,
    torch_layout,  # noqa: E402
)

keras = pytest.importorskip('keras')

# Application: image side, and options of ours for images that are not of 224 pixels. Odd sides and
# even ones have another TensorFlow padding.
MODELS = {
    'ResNet50': (65, {}),
    'ResNet101': (64, {}),
    'MobileNetV2': (64, {}),
    'EfficientNetB0': (64, {}),
    'EfficientNetB1': (65, {}),
    'DenseNet121': (65, {}),
    'VGG16': (64, {'grid': 2}),
    'VGG19': (32, {'grid': 1}),
    'ConvNeXtTiny': (64, {}),
}


@pytest.fixture(autouse=True)
def not_strict():
    """Keras promotes dtypes and ranks."""
    with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
        yield


def theirs(name: str, side: int):
    """The network, randomised so that no statistics, scale or zero-started layer hides."""
    keras.utils.set_random_seed(0)
    keras.backend.clear_session()
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(side, side, 3), classes=7, classifier_activation=None)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        value, leaf = weight.numpy(), weight.path.rpartition('/')[2]
        if weight.path.startswith('normalization'):
            continue
        if leaf == 'moving_variance':
            value = rng.uniform(0.5, 1.5, value.shape)
        elif leaf.startswith('variable'):  # layer scales
            value = rng.uniform(0.2, 0.8, value.shape)
        elif value.ndim < 2:
            value = value + 0.2 * rng.normal(size=value.shape)
        weight.assign(value.astype(np.float32))
    return model


def after_preprocessing(model, x_NHWC):
    """What the layers inside of the network make of the image before its first convolution."""
    first = next(layer for layer in model.layers
                 if layer.name in ('stem_conv_pad',) or layer.name.endswith('_stem'))
    return keras.Model(model.input, first.input)(x_NHWC)


def ours(name: str, tensors, options: dict, image_NHWC):
    variant, needed = bridge.APPLICATIONS[name]
    module = importlib.import_module(f'imgjax.models.{models.variants()[variant]}')
    model = models.create(variant, 7, **needed, **options)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image_NHWC)
    variables = torch_layout.read(tensors, shapes, getattr(module, 'RENAMES', {}))
    return jax.jit(lambda v, x: model.apply(v, x, train=False)[0])(variables, image_NHWC)


@pytest.mark.parametrize('name', MODELS)
def test_logits_are_those_of_keras(name):
    side, options = MODELS[name]
    model = theirs(name, side)
    x_NHWC = jnp.asarray(np.random.default_rng(1).normal(size=(2, side, side, 3)), jnp.float32)
    inside = name.startswith(('EfficientNet', 'ConvNeXt'))
    if inside:
        x_NHWC = 255 * jax.nn.sigmoid(x_NHWC)
    expected = np.asarray(model(x_NHWC, training=False))
    image_NHWC = after_preprocessing(model, x_NHWC) if inside else x_NHWC
    # Where TensorFlow is there too, Keras's preprocessing may give its tensors.
    image_NHWC = jnp.asarray(np.asarray(image_NHWC))
    found = ours(name, bridge.from_model(model, name), options, image_NHWC)
    error = np.abs(np.asarray(found) - expected).max() / expected.std()
    print(f'{name}: {error:.1e} of the standard deviation')
    assert error <= 1e-4


@pytest.mark.parametrize('name, side, options', [
    ('ResNet50', 64, {}), ('VGG16', 32, {'grid': 1}), ('DenseNet121', 64, {}),
    ('MobileNetV2', 64, {})])
def test_images_are_prepared_as_keras_does(name, side, options):
    """Bytes through preprocess_input, and through config.data's mean and std."""
    model = theirs(name, side)
    bytes_NHWC = np.random.default_rng(1).integers(0, 256, (2, side, side, 3)).astype(np.float32)
    module = {'ResNet50': 'resnet', 'VGG16': 'vgg16', 'DenseNet121': 'densenet',
              'MobileNetV2': 'mobilenet_v2'}[name]
    prepared_NHWC = getattr(keras.applications, module).preprocess_input(bytes_NHWC.copy())
    expected = np.asarray(model(prepared_NHWC, training=False))
    fields = bridge.check(name, *bridge.APPLICATIONS[name])
    image_NHWC = (bytes_NHWC / 255 - np.float32(fields['mean'])) / np.float32(fields['std'])
    tensors = bridge.from_model(model, name, bgr=name.startswith(('ResNet', 'VGG')))
    found = ours(name, tensors, options, jnp.asarray(image_NHWC, jnp.float32))
    error = np.abs(np.asarray(found) - expected).max() / expected.std()
    print(f'{name}: {error:.1e} of the standard deviation')
    assert error <= 1e-4


def test_an_application_with_its_own_initial_weights():
    tensors = bridge.application('MobileNetV2', weights=None)
    variant, needed = bridge.APPLICATIONS['MobileNetV2']
    assert tensors['conv_stem.weight'].shape == (32, 3, 3, 3)
    assert tensors['classifier.weight'].shape == (1000, 1280)
    assert (variant, needed) == ('mobilenetv2_100', {'padding': 'same', 'epsilon': 1e-3})


def test_a_run_begins_with_them(monkeypatch):
    """Through load, where a run forbids transfers; the weights are random here."""
    made = []

    def application(name):
        made.append(bridge_application(name, weights=None))
        return made[0]

    bridge_application = bridge.application
    monkeypatch.setattr(bridge, 'application', application)
    options = {'padding': 'same', 'epsilon': 1e-3}
    init = {'weights': 'keras:MobileNetV2', 'head': 'new', 'channels': 'same', 'resample': False}
    config = Config({'init': init, 'model': {'name': 'mobilenetv2_100', 'options': options}})
    model = models.create('mobilenetv2_100', 7, **options)
    target = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    target = jax.device_get(target)
    with jax.transfer_guard('disallow'):
        found = load.load(config, load.find(config), target)
    stem = found['params']['conv_stem']['kernel']
    np.testing.assert_array_equal(stem.transpose(3, 2, 0, 1), made[0]['conv_stem.weight'])
    assert found['params']['head']['kernel'].shape == (1280, 7)
