"""Names of other libraries by timm's, and what is said where they do not fit; none is imported."""

import sys

import numpy as np
import pytest

from configs import digits
from imgjax import config as config_lib
from imgjax.errors import ConfigError, DataError
from imgjax.interop import huggingface, keras, load

VIT = {
    'vit.embeddings.cls_token': 'cls_token',
    'vit.embeddings.position_embeddings': 'pos_embed',
    'vit.embeddings.patch_embeddings.projection.weight': 'patch_embed.proj.weight',
    'vit.encoder.layer.3.layernorm_before.weight': 'blocks.3.norm1.weight',
    'vit.encoder.layer.3.attention.output.dense.bias': 'blocks.3.attn.proj.bias',
    'vit.encoder.layer.3.layernorm_after.bias': 'blocks.3.norm2.bias',
    'vit.encoder.layer.3.intermediate.dense.weight': 'blocks.3.mlp.fc1.weight',
    'vit.encoder.layer.3.output.dense.weight': 'blocks.3.mlp.fc2.weight',
    'vit.layernorm.weight': 'norm.weight',
    'classifier.bias': 'head.bias',
}


def numbered(names) -> dict:
    return {name: np.full((1,), i, np.float32) for i, name in enumerate(names)}


def test_names_of_huggingface():
    tensors = numbered(VIT)
    found = huggingface.to_timm(tensors, 'vit', 'vit_tiny_patch16_224')
    assert found == {VIT[name]: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize('names', [
    [f'vit.encoder.layer.0.attention.attention.{part}.bias' for part in ('query', 'key', 'value')],
    [f'vit.layers.0.attention.{part}_proj.bias' for part in 'qkv'],
    [f'encoder.layer.0.attention.attention.{part}.bias' for part in ('query', 'key', 'value')],
])
def test_queries_keys_and_values_are_joined_in_timms_order(names):
    found = huggingface.to_timm(numbered(names), 'vit', 'vit_tiny_patch16_224')
    assert list(found) == ['blocks.0.attn.qkv.bias']
    np.testing.assert_array_equal(found['blocks.0.attn.qkv.bias'], [0, 1, 2])
    del names[1]  # nothing is dropped
    assert len(huggingface.to_timm(numbered(names), 'vit', 'vit_tiny_patch16_224')) == 2


def test_what_huggingface_has_besides():
    kept = huggingface.to_timm(
        numbered(['vit.pooler.dense.weight', 'embeddings.mask_token', 'decoder.weight']), 'vit', '')
    assert list(kept) == ['decoder.weight']
    with pytest.raises(DataError, match='huggingface knows the families beit, convnext, resnet, '
                                        "swin, vit, not 'xcit'"):
        huggingface.to_timm({}, 'xcit', 'xcit_nano_12_p16_224')
    with pytest.raises(DataError, match='more than one tensor is norm.weight'):
        huggingface.to_timm(numbered(['vit.layernorm.weight', 'layernorm.weight']), 'vit', '')


class Weight:
    def __init__(self, path, value):
        self.path, self.value = path, np.asarray(value, np.float32)

    def numpy(self):
        return self.value


class Network:
    """As much of a Keras model as is looked at."""

    def __init__(self, **weights):
        self.weights = [Weight(path, value) for path, value in weights.items()]


def test_names_and_folding_of_keras():
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    network = Network(**{
        'conv3_block2_0_conv/kernel': kernel,
        'conv3_block2_0_conv/bias': np.full(5, 0.5),
        'conv3_block2_0_bn/moving_mean': np.full(5, 2),
        'conv3_block2_0_bn/moving_variance': np.zeros(5),
        'conv3_block2_0_bn/gamma': np.ones(5),
        'predictions/kernel': kernel[0, 0],
        'other/thing': np.zeros(3),
    })
    found = keras.from_model(network, 'ResNet50')
    assert set(found) == {
        'layer2.1.downsample.0.weight', 'layer2.1.downsample.1.running_mean',
        'layer2.1.downsample.1.running_var', 'layer2.1.downsample.1.weight', 'fc.weight',
        'other.thing'}
    assert found['layer2.1.downsample.0.weight'][4, 3, 1, 2] == kernel[1, 2, 3, 4]
    assert found['fc.weight'][4, 3] == kernel[0, 0, 3, 4]
    np.testing.assert_array_equal(found['layer2.1.downsample.1.running_mean'], 1.5)
    np.testing.assert_allclose(found['layer2.1.downsample.1.running_var'], 1e-8)


def test_bgr_and_depthwise_kernels_of_keras():
    kernel = np.arange(9 * 3).reshape(3, 3, 3, 1)
    network = Network(**{'conv1_conv/kernel': kernel})
    straight, turned = (keras.from_model(network, 'ResNet50', bgr)['conv1.weight']
                        for bgr in (False, True))
    np.testing.assert_array_equal(straight[:, ::-1], turned)
    found = keras.from_model(Network(**{'block_13_depthwise/kernel': kernel}), 'MobileNetV2')
    assert list(found) == ['blocks.5.0.conv_dw.weight']
    np.testing.assert_array_equal(found['blocks.5.0.conv_dw.weight'][:, 0],
                                  kernel[..., 0].transpose(2, 0, 1))


def config_of(from_, name='resnet50', **options):
    config = digits.get_config('resnet')
    config.model = dict(name=name, dtype='float32', options=options)
    config.init.weights = from_
    return config_lib.checked(config)


def test_keras_brings_its_preprocessing():
    found = load.find(config_of('keras:ResNet50', stride_first=True))
    assert found.path == 'ResNet50' and found.preprocessing['std'] == [1 / 255] * 3


@pytest.mark.parametrize('from_, words', [
    ('keras:weights.npz', "keras takes the name of an application, .*got 'weights.npz'"),
    ('keras:/tmp/resnet.h5', 'keras takes the name of an application'),
    ('keras:ResNet5', "got 'ResNet5'; did you mean 'ResNet50'"),
    ('keras:ResNet50V2', "got 'ResNet50V2'"),
    ('keras:ResNet50', "fits config.model.name='resnet50' with config.model.options={'stride_first'"
     ": True}, got 'resnet50' with {}"),
    ('keras:DenseNet121', "fits config.model.name='densenet121'"),
])
def test_wrong_words_for_keras(from_, words):
    with pytest.raises(ConfigError, match=words) as caught:
        load.find(config_of(from_))
    assert '\n' not in str(caught.value)


def test_keras_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, 'keras', None)
    with pytest.raises(ConfigError, match='pip install keras') as caught:
        keras.application('ResNet50')
    assert '\n' not in str(caught.value)
