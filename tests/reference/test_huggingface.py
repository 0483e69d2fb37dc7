"""Weights of transformers' image classifiers: equal logits in our models of the same sizes."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from imgjax import models
from imgjax.interop import files, huggingface, torch_layout

_TINY = {'hidden_size': 192, 'num_hidden_layers': 12, 'num_attention_heads': 3,
         'intermediate_size': 768, 'image_size': 64, 'patch_size': 16}
_SMALL = {'hidden_size': 384, 'num_hidden_layers': 12, 'num_attention_heads': 6, 'mlp_ratio': 4,
          'image_size': 56, 'patch_size': 14, 'layerscale_value': 0.5}
_BEIT = {'hidden_size': 768, 'num_hidden_layers': 12, 'num_attention_heads': 12,
         'intermediate_size': 3072, 'image_size': 64, 'use_relative_position_bias': True,
         'layer_scale_init_value': 0.5}
_EXACT = {'epsilon': 1e-12}
_ATTO = {'hidden_sizes': [40, 80, 160, 320], 'depths': [2, 2, 6, 2]}
# variant: class, its config, options of ours, image side.
MODELS = {
    'vit_tiny_patch16_224': ('ViT', _TINY, _EXACT, 64),
    'deit_tiny_patch16_224': ('ViT', {**_TINY, 'layer_norm_eps': 1e-6}, {}, 64),
    'deit_tiny_distilled_patch16_224': ('DeiT', _TINY, _EXACT, 64),
    'vit_small_patch14_dinov2': ('Dinov2', _SMALL, {'pool': 'token_avg'}, 56),
    'beit_base_patch16_224': ('Beit', _BEIT, _EXACT, 64),
    'swin_tiny_patch4_window7_224': ('Swin', {}, {}, 224),
    'resnet18': ('ResNet', {'hidden_sizes': [64, 128, 256, 512], 'depths': [2, 2, 2, 2],
                            'layer_type': 'basic'}, {}, 65),
    'resnet50': ('ResNet', {}, {}, 64),
    'resnet101': ('ResNet', {'depths': [3, 4, 23, 3], 'downsample_in_bottleneck': True},
                  {'stride_first': True}, 65),
    'convnext_tiny': ('ConvNext', {}, {}, 65),
    'convnext_atto': ('ConvNext', _ATTO, {}, 64),
    'convnextv2_atto': ('ConvNextV2', _ATTO, {}, 64),
    'convnextv2_tiny': ('ConvNextV2', {'depths': [3, 3, 9, 3]}, {}, 64),
}


@functools.cache
def theirs(name: str, side: int):
    """The classifier, randomised so that no statistics, scale or zero-started layer hides."""
    kind, options, _, _ = MODELS[name]
    config = getattr(transformers, f'{kind}Config')(**options, num_labels=7)
    torch.manual_seed(0)
    ending = 'ForImageClassification' + 'WithTeacher' * (kind == 'DeiT')
    model = getattr(transformers, kind + ending)(config).eval()
    randomise(model)
    return model


def randomise(model):
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith('running_var'):
                tensor.uniform_(0.5, 1.5)
            elif 'position' in name or name.endswith(('token', 'grn.weight', 'grn.bias')):
                tensor.normal_(0, 0.5)
            elif tensor.dtype.is_floating_point and tensor.ndim < 2:
                tensor.add_(0.2 * torch.randn_like(tensor))
            elif tensor.ndim > 1:  # theirs begins with 0.02, which leaves little of the image
                tensor.normal_(0, tensor[0].numel() ** -0.5)


def ours(name: str, tensors, classes: int, options: dict, image_NHWC):
    family = models.variants()[name]
    module = importlib.import_module(f'imgjax.models.{family}')
    model = models.create(name, classes, **options)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image_NHWC)
    variables = torch_layout.read(
        huggingface.to_timm(tensors, family, name), shapes, getattr(module, 'RENAMES', {}),
        getattr(module, 'BUFFERS', ()))
    return jax.jit(lambda v, x: model.apply(v, x, train=False)[0])(variables, image_NHWC)


def held(name: str, found, expected):
    error = np.abs(np.asarray(found) - expected).max() / expected.std()
    print(f'{name}: {error:.1e} of the standard deviation')
    assert error <= 1e-4


@pytest.mark.parametrize('name', MODELS)
def test_logits_are_those_of_transformers(name, tmp_path):
    _, _, options, side = MODELS[name]
    model = theirs(name, side)
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(x).logits.numpy()
    image_NHWC = jnp.asarray(x.numpy().transpose(0, 2, 3, 1))
    model.save_pretrained(tmp_path)
    tensors = files.read(f'{tmp_path}/model.safetensors')
    held(name, ours(name, tensors, 7, options, image_NHWC), expected)
    # The modules' own names give the same tensors.
    family = models.variants()[name]
    live = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    one, two = (huggingface.to_timm(names, family, name) for names in (tensors, live))
    assert set(one) == set(two)
    for key, tensor in one.items():
        np.testing.assert_array_equal(tensor, two[key], err_msg=key)


def test_features_of_a_bare_dinov2():
    """Saved without a classifier, and with the token for masked patches."""
    torch.manual_seed(0)
    model = transformers.Dinov2Model(transformers.Dinov2Config(**_SMALL)).eval()
    randomise(model)
    x = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        expected = model(x).pooler_output.numpy()
    tensors = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    assert 'embeddings.mask_token' in tensors
    found = ours('vit_small_patch14_dinov2', tensors, 0, {},
                 jnp.asarray(x.numpy().transpose(0, 2, 3, 1)))
    held('Dinov2Model', found, expected)
