"""torchvision's networks against ours: equal logits from the same weights."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision

from imgjax import models
from imgjax.interop import torch_layout
from imgjax.interop import torchvision as layout

# (torchvision's name, ours, image side, options of torchvision's).
ROWS = [
    ('alexnet', 'alexnet', 163, {}),
    ('convnext_tiny', 'convnext_tiny', 64, {}),
    ('densenet121', 'densenet121', 64, {}),
    ('efficientnet_b0', 'efficientnet_b0', 64, {}),
    ('efficientnet_b1', 'efficientnet_b1', 65, {}),
    ('efficientnet_v2_s', 'efficientnetv2_s', 64, {}),
    ('googlenet', 'googlenet', 65, {'init_weights': False}),
    ('inception_v3', 'inception_v3', 96, {'init_weights': False}),
    ('mnasnet1_0', 'mnasnet_100', 64, {}),
    ('mobilenet_v2', 'mobilenetv2_100', 65, {}),
    ('mobilenet_v3_large', 'mobilenetv3_large_100', 64, {}),
    ('mobilenet_v3_small', 'mobilenetv3_small_100', 65, {}),
    ('regnet_x_800mf', 'regnetx_008', 64, {}),
    ('regnet_y_400mf', 'regnety_004', 65, {}),
    ('resnet18', 'resnet18', 64, {}),
    ('resnext50_32x4d', 'resnext50_32x4d', 64, {}),
    ('wide_resnet50_2', 'wide_resnet50_2', 65, {}),
    ('shufflenet_v2_x0_5', 'shufflenet_v2_x0_5', 64, {}),
    ('squeezenet1_1', 'squeezenet1_1', 65, {}),
    ('swin_t', 'swin_tiny_patch4_window7_224', 224, {}),
    ('swin_v2_t', 'swinv2_tiny_window8_256', 256, {}),
    ('vgg11', 'vgg11', 64, {}),
    ('vgg11_bn', 'vgg11_bn', 224, {}),
    ('vit_b_32', 'vit_base_patch32_224', 64, {'image_size': 64}),
]
# Options of ours.
OPTIONS = {name: {'epsilon': 1e-3} for name in
           ('efficientnet_v2_s', 'mobilenet_v3_large', 'mobilenet_v3_small')}
# Gain of random weights; 2 where it is not here. These are deep enough for it to make noise of
# float32's last bit grow to the size of the logits.
GAINS = {'efficientnet_v2_s': 1.2, 'mobilenet_v3_large': 1.4}


def randomised(name: str, options: dict):
    """The reference, so that no statistics, scale or zero-started layer hides."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, **options)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith('running_var'):
                tensor.uniform_(0.5, 1.5)
            elif key.endswith(('relative_coords_table', 'relative_position_index')):
                continue
            elif key.endswith(('layer_scale', 'logit_scale', 'pos_embedding', 'class_token')):
                tensor.add_(0.2 * torch.randn_like(tensor))
            elif tensor.ndim > 1:  # torchvision's start leaves no trace of the image
                tensor.normal_(0, (GAINS.get(name, 2) / tensor[0].numel()) ** 0.5)
            elif tensor.dtype.is_floating_point:
                tensor.add_(0.2 * torch.randn_like(tensor))
    return model.eval()


@pytest.mark.parametrize('name, variant, side, options', ROWS, ids=[row[0] for row in ROWS])
def test_logits_are_those_of_the_reference(name, variant, side, options):
    reference = randomised(name, options)
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference(x).numpy()
    family = models.variants()[variant]
    module = importlib.import_module(f'imgjax.models.{family}')
    model = models.create(variant, 1000, **OPTIONS.get(name, {}))
    image_NHWC = jnp.asarray(x.numpy().transpose(0, 2, 3, 1))
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image_NHWC)
    tensors = {key: tensor.numpy() for key, tensor in reference.state_dict().items()}
    variables = torch_layout.read(layout.to_timm(tensors, family, variant), shapes,
                                  getattr(module, 'RENAMES', {}), getattr(module, 'BUFFERS', ()))
    logits = np.asarray(
        jax.jit(lambda v, x: model.apply(v, x, train=False)[0])(variables, image_NHWC))
    error = np.abs(logits - expected).max() / expected.std()
    spread = np.abs(expected[0] - expected[1]).max() / expected.std()
    print(f'{name}: {error:.1e} of the standard deviation; two images differ by {spread:.1e}')
    assert spread > 1e-2 and error <= 1e-4


def test_densenets_of_its_server():
    """Their names are older than the code, which renames them where it reads them."""
    tensors = randomised('densenet121', {}).state_dict()
    tensors = {key: tensor.numpy() for key, tensor in tensors.items()}
    old = {key.replace('norm1.', 'norm.1.').replace('norm2.', 'norm.2.')
           .replace('conv1.', 'conv.1.').replace('conv2.', 'conv.2.'): x
           for key, x in tensors.items()}
    assert 'features.denseblock1.denselayer1.norm.1.weight' in old
    assert set(layout.to_timm(old, 'densenet', 'densenet121')) == set(tensors)
