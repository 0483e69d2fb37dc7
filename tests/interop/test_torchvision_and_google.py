"""Layouts of torchvision and Google by names and shapes alone; tests/reference has their logits."""

import re

import numpy as np
import pytest

from imgjax.errors import DataError
from imgjax.interop import efficientnet_pytorch, google, names, torchvision


def numbers(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_torchvision_by_name():
    theirs = {'features.0.weight': numbers(4, 3, 3, 3), 'classifier.0.weight': numbers(5, 4 * 49),
              'classifier.3.weight': numbers(5, 5), 'classifier.6.bias': numbers(7)}
    found = torchvision.to_timm(theirs, 'vgg', 'vgg11')
    assert {name: x.shape for name, x in found.items()} == {
        'features.0.weight': (4, 3, 3, 3), 'pre_logits.fc1.weight': (5, 4, 7, 7),
        'pre_logits.fc2.weight': (5, 5, 1, 1), 'head.fc.bias': (7,)}
    # The channels were the slowest axis of what the first dense layer saw.
    assert found['pre_logits.fc1.weight'][0, 1, 0, 0] == 49


@pytest.mark.parametrize('family, theirs, name', [
    ('convnext', 'features.0.1.bias', 'stem.1.bias'),
    ('convnext', 'features.4.1.weight', 'stages.2.downsample.1.weight'),
    ('convnext', 'features.5.8.block.3.weight', 'stages.2.blocks.8.mlp.fc1.weight'),
    ('densenet', 'features.denseblock1.denselayer2.norm.1.bias',
     'features.denseblock1.denselayer2.norm1.bias'),
    ('efficientnet', 'features.3.1.block.2.fc1.weight', 'blocks.2.1.se.conv_reduce.weight'),
    ('efficientnet', 'features.8.0.weight', 'conv_head.weight'),
    ('efficientnetv2', 'features.3.2.block.1.0.weight', 'blocks.2.2.conv_pwl.weight'),
    ('mnasnet', 'layers.13.0.layers.6.weight', 'blocks.6.0.conv_pwl.weight'),
    ('mobilenetv2', 'features.11.conv.1.0.weight', 'blocks.4.0.conv_dw.weight'),
    ('mobilenetv2', 'features.19.conv.1.0.weight', 'features.19.conv.1.0.weight'),
    ('mobilenetv3', 'features.15.block.3.0.weight', 'blocks.5.2.conv_pwl.weight'),
    ('regnet', 'trunk_output.block3.block3-11.f.b.0.weight', 's3.b12.conv2.conv.weight'),
    ('resnet', 'layer1.0.conv1.weight', 'layer1.0.conv1.weight'),
    ('swin', 'features.2.norm.weight', 'layers.1.downsample.norm.weight'),
    ('swin', 'features.7.1.mlp.3.bias', 'layers.3.blocks.1.mlp.fc2.bias'),
    ('vit', 'encoder.layers.encoder_layer_11.mlp.linear_1.bias', 'blocks.11.mlp.fc1.bias'),
    ('vit', 'what.ever', 'what.ever'),
])
def test_a_name_of_torchvision(family, theirs, name):
    assert list(torchvision.to_timm({theirs: numbers(3)}, family, '')) == [name]


@pytest.mark.parametrize('variant, theirs, name', [
    ('tf_efficientnet_lite0', '_bn0.running_var', 'bn1.running_var'),
    ('tf_efficientnet_lite0', '_fc.bias', 'classifier.bias'),
    ('tf_efficientnet_lite0', '_blocks.0._project_conv.weight', 'blocks.0.0.conv_pw.weight'),
    ('tf_efficientnet_lite0', '_blocks.4._bn0.bias', 'blocks.2.1.bn1.bias'),
    ('tf_efficientnet_lite2', '_blocks.1._expand_conv.weight', 'blocks.1.0.conv_pw.weight'),
    ('tf_efficientnet_b1', '_blocks.1._se_reduce.bias', 'blocks.0.1.se.conv_reduce.bias'),
    ('tf_efficientnet_b1', '_blocks.22._bn2.bias', 'blocks.6.1.bn3.bias'),
    ('tf_efficientnet_b0', '_blocks.99._bn2.bias', 'blocks.block 99.bn3.bias'),
    ('tf_efficientnet_b0', 'what.ever', 'what.ever'),
])
def test_a_name_of_efficientnet_pytorch(variant, theirs, name):
    found = efficientnet_pytorch.to_timm({theirs: numbers(3)}, 'efficientnet', variant)
    assert list(found) == [name]


def test_torchvision_leaves_out_only_what_is_listed():
    theirs = {'aux1.fc1.bias': numbers(2), 'aux3.bias': numbers(2), 'AuxLogits.fc.bias': numbers(2)}
    assert set(torchvision.to_timm(theirs, 'googlenet', '')) == {'aux3.bias', 'AuxLogits.fc.bias'}


def test_biases_of_swin_v2_without_that_of_the_keys():
    found = torchvision.to_timm({'features.1.0.attn.qkv.bias': numbers(6)}, 'swinv2', '')
    assert {name: x.tolist() for name, x in found.items()} == {
        'layers.0.blocks.0.attn.q_bias': [0, 1], 'layers.0.blocks.0.attn.v_bias': [4, 5]}


def test_google_by_name():
    block = 'Transformer/encoderblock_3/'
    mha = block + 'MultiHeadDotProductAttention_1/'
    theirs = {f'{mha}{name}/kernel': numbers(6, 2, 3) for name in ('query', 'key', 'value')}
    theirs |= {f'{mha}{name}/bias': numbers(2, 3) for name in ('query', 'key', 'value')}
    theirs |= {f'{mha}out/kernel': numbers(2, 3, 6), f'{block}LayerNorm_2/scale': numbers(6),
               'embedding/kernel': numbers(4, 5, 3, 6), 'cls': numbers(1, 1, 6),
               'head/kernel': numbers(6, 9), 'pre_logits/kernel': numbers(6, 6)}
    found = google.to_timm(theirs, 'vit', 'vit_tiny_patch16_224')
    assert {name: x.shape for name, x in found.items()} == {
        'blocks.3.attn.qkv.weight': (18, 6), 'blocks.3.attn.qkv.bias': (18,),
        'blocks.3.attn.proj.weight': (6, 6), 'blocks.3.norm2.weight': (6,),
        'patch_embed.proj.weight': (6, 3, 4, 5), 'cls_token': (1, 1, 6), 'head.weight': (9, 6),
        'pre_logits/kernel': (6, 6)}
    kernel = numbers(6, 2, 3)
    np.testing.assert_array_equal(found['blocks.3.attn.qkv.weight'][6 + 4], kernel[:, 1, 1])
    np.testing.assert_array_equal(
        found['blocks.3.attn.proj.weight'][:, 4], numbers(2, 3, 6)[1, 1])


def test_google_scanned_and_with_other_towers():
    theirs = {'params/img/Transformer/encoderblock/LayerNorm_0/scale': numbers(2, 5),
              'params/txt/head/bias': numbers(2), 'params/t': numbers(1)}
    found = google.to_timm(theirs, 'vit', '')
    assert sorted(found) == ['blocks.0.norm1.weight', 'blocks.1.norm1.weight']
    assert found['blocks.1.norm1.weight'].tolist() == [5, 6, 7, 8, 9]


def test_google_attention_that_lacks_a_map_is_not_joined():
    mha = 'Transformer/encoderblock_0/MultiHeadDotProductAttention_0/'
    theirs = {f'{mha}{name}/bias': numbers(2, 3) for name in ('query', 'value')}
    assert set(google.to_timm(theirs, 'vit', '')) == {
        'blocks.0.attn.query.bias', 'blocks.0.attn.value.bias'}


@pytest.mark.parametrize('theirs, name', [
    ('resnet/block2/unit03/b/group_norm/gamma', 'stages.1.blocks.2.norm2.weight'),
    ('resnet/block4/unit01/a/proj/standardized_conv2d/kernel',
     'stages.3.blocks.0.downsample.conv.weight'),
    ('resnet/head/conv2d/bias', 'head.fc.bias'),
    ('resnet/block1/unit01/d/group_norm/gamma', 'resnet/block1/unit01/d/group_norm/gamma'),
])
def test_a_name_of_big_transfer(theirs, name):
    assert list(google.to_timm({theirs: numbers(1)}, 'resnetv2', '')) == [name]


@pytest.mark.parametrize('layout', [torchvision, google])
def test_families_without_such_weights(layout):
    with pytest.raises(DataError) as caught:
        layout.to_timm({}, 'rnn', 'rnn')
    message = str(caught.value)
    name = layout.__name__.rpartition('.')[2]
    assert f"no names of {name} are known for model family 'rnn'" in message
    assert message.endswith(', '.join(sorted(layout.TABLES))) and '\n' not in message


def test_two_tensors_of_one_name():
    theirs = {'head.bias': numbers(2), 'heads.head.bias': numbers(2)}
    with pytest.raises(DataError, match='head.bias and heads.head.bias are both head.bias'):
        torchvision.to_timm(theirs, 'vit', '')


@pytest.mark.parametrize('layout', [torchvision, google])
def test_every_row_is_a_regular_expression_with_its_groups(layout):
    for family, table in layout.TABLES.items():
        for pattern, replacement in table:
            groups = re.compile(pattern).groups
            if isinstance(replacement, str):
                used = {int(n) for n in re.findall(r'\\(\d)', replacement)}
                assert used == set(range(1, groups + 1)), (family, pattern)


def test_the_first_row_that_matches_wins():
    table = (('a', None), ('(.)', r'\1\1'), ('b', 'c'))
    assert set(names.renamed({'a': 1, 'b': 2, 'long': 3}, table)) == {'bb', 'long'}
