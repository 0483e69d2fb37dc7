"""Every family against timm's own network: equal logits from the same weights."""

import copy
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
import torchvision

from imgjax import models
from imgjax.interop import torch_layout

# family: {variant: image side}, at least two that differ in structure, the small ones.
VARIANTS = {
    'resnet': {'resnet18': 64, 'resnet50d': 64, 'resnext50_32x4d': 64, 'seresnet50': 64,
               'ecaresnet50d': 65, 'wide_resnet50_2': 64},
    'alexnet': {'alexnet': 163},
    'vgg': {'vgg11': 65, 'vgg13_bn': 64},
    'googlenet': {'googlenet': 65},
    'inception_v3': {'inception_v3': 96},
    'densenet': {'densenet121': 65, 'densenet161': 64, 'densenet264d': 64},
    'squeezenet': {'squeezenet1_0': 64, 'squeezenet1_1': 65},
    'coatnet': {'coatnet_0_224': 96, 'coatnet_0_rw_224': 64, 'coatnet_1_rw_224': 64},
    'hiera': {'hiera_tiny_224': 96, 'hiera_small_224': 224, 'hiera_base_plus_224': 64},
    'maxvit': {'maxvit_tiny_tf_224': 224, 'maxvit_small_tf_384': 64, 'maxvit_tiny_tf_512': 48},
    'swin': {'swin_tiny_patch4_window7_224': 120, 'swin_base_patch4_window12_384': 96,
             'swin_s3_tiny_224': 224},
    'swinv2': {'swinv2_tiny_window8_256': 120, 'swinv2_tiny_window16_256': 72,
               'swinv2_base_window12to16_192to256': 256},
    'efficientnet': {'efficientnet_b0': 64, 'efficientnet_lite0': 65, 'tf_efficientnet_b1': 64,
                     'tf_efficientnet_b2': 64, 'tf_efficientnet_lite3': 64},
    'mobilenetv1': {'mobilenetv1_100': 64, 'mobilenetv1_100h': 65},
    'mobilenetv2': {'mobilenetv2_050': 64, 'mobilenetv2_110d': 65},
    'mnasnet': {'mnasnet_050': 65, 'mnasnet_small': 64, 'semnasnet_100': 64},
    'efficientnetv2': {'efficientnetv2_rw_s': 65, 'efficientnetv2_s': 64,
                       'tf_efficientnetv2_b0': 64},
    'mobilenetv3': {'mobilenetv3_small_050': 64, 'mobilenetv3_large_075': 65,
                    'mobilenetv3_large_100': 64, 'tf_mobilenetv3_small_075': 64},
    'mobilenetv4': {'mobilenetv4_conv_small': 64, 'mobilenetv4_conv_medium': 65,
                    'mobilenetv4_hybrid_medium': 96},
    'vit': {'vit_tiny_patch16_224': 224, 'deit_tiny_distilled_patch16_224': 224,
            'deit3_small_patch16_224': 224, 'vit_small_patch14_dinov2': 518,
            'vit_base_patch16_siglip_224': 224, 'vit_base_patch32_clip_224': 224},
    'mlp_mixer': {'mixer_s32_224': 224, 'mixer_s16_224': 64},
    'resmlp': {'resmlp_12_224': 224, 'resmlp_24_224': 64},
    'gmlp': {'gmlp_ti16_224': 224, 'gmlp_s16_224': 64},
    'convmixer': {'convmixer_768_32': 64, 'convmixer_1024_20_ks9_p14': 64},
    'convnext': {'convnext_atto': 64, 'convnext_tiny': 65, 'convnext_tiny_hnf': 64,
                 'convnext_atto_ols': 64, 'convnext_nano_ols': 64, 'convnextv2_atto': 64,
                 'convnextv2_tiny': 64, 'test_convnext': 64},
    'metaformer': {'poolformer_s12': 65, 'poolformerv2_s12': 64, 'convformer_s18': 64,
                   'caformer_s18': 66},
    'cait': {'cait_xxs24_224': 64, 'cait_xs24_384': 48},
    'xcit': {'xcit_nano_12_p16_224': 64, 'xcit_tiny_12_p8_224': 40},
    'mobilevit': {'mobilevit_xxs': 96, 'mobilevit_s': 64},
    'mobilevitv2': {'mobilevitv2_050': 96, 'mobilevitv2_075': 64},
    'eva02': {'eva02_tiny_patch14_336': 336, 'eva02_base_patch14_448': 112,
              'eva02_base_patch16_clip_224': 64, 'vit_small_patch16_dinov3': 80,
              'vit_small_plus_patch16_dinov3': 64},
    'beit': {'beit_base_patch16_224': 64, 'beitv2_base_patch16_224': 96},
    'resnetv2': {'resnetv2_50x1_bit': 64, 'resnetv2_50': 65, 'resnetv2_50d': 65, 'resnetv2_18d': 64,
                 'resnetv2_50d_gn': 64},
    'regnet': {'regnetx_002': 64, 'regnety_004': 65, 'regnety_008': 64},
    'repvgg': {'repvgg_a0': 64, 'repvgg_b1g4': 65},
    'nfnet': {'dm_nfnet_f0': 72, 'nfnet_l0': 65, 'eca_nfnet_l0': 64, 'nf_seresnet50': 64},
    'shufflenet_v2': {'shufflenet_v2_x0_5': 64, 'shufflenet_v2_x1_0': 65},
}
# Options of torchvision's models, for what it only builds with pretrained weights otherwise.
TORCHVISION = {'googlenet': {'init_weights': True, 'aux_logits': False}}
# Deep ones that random weights make chaotic: torch's own logits in float32 and float64 differ by as
# much as their standard deviation. Weaker norms calm them and leave 0.1 of it between two images.
DAMPED = {'efficientnetv2_rw_s': 0.85, 'efficientnetv2_s': 0.85}
ROWS = [(family, name, side) for family, row in VARIANTS.items() for name, side in row.items()]


@functools.lru_cache(1)  # some have a hundred million parameters
def theirs(variant: str, side: int):
    """The reference, randomised so that no statistics, scale or zero-started layer hides."""
    torch.manual_seed(0)
    if timm.is_model(variant):
        try:
            model = timm.create_model(variant, img_size=side)
        except TypeError:  # takes any
            model = timm.create_model(variant)
    else:
        model = torchvision.models.get_model(variant, weights=None, **TORCHVISION.get(variant, {}))
    known = timm.is_model(variant)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith('running_var'):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim > 1 and not known:  # torchvision's start leaves no trace of the image
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
            elif tensor.dtype.is_floating_point and (tensor.ndim < 2 or not tensor.std() > 1e-3):
                tensor.add_(0.2 * torch.randn_like(tensor))  # norms, biases, all near zero
            if variant in DAMPED and tensor.ndim == 1 and name.endswith('weight'):
                tensor.mul_(DAMPED[variant])
    return model.eval()


def ours(family: str, variant: str, reference, image_NHWC):
    """Our model and its variables from the reference's weights, every tensor accounted for."""
    module = importlib.import_module(f'imgjax.models.{family}')
    renames, buffers = getattr(module, 'RENAMES', {}), getattr(module, 'BUFFERS', ())
    model = models.create(variant, getattr(reference, 'num_classes', 1000))
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image_NHWC)
    tensors = {name: x.numpy().copy() for name, x in reference.state_dict().items()}
    variables = torch_layout.read(tensors, shapes, renames, buffers)
    written = torch_layout.write(variables, renames)
    assert set(written) == {name for name in tensors if not name.endswith(buffers or ('\0',))}
    for name, tensor in written.items():
        if not name.endswith('num_batches_tracked'):
            np.testing.assert_array_equal(tensor, tensors[name], err_msg=name)
    return model, variables, renames


def images(side: int, count: int = 2):
    x = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))
    return x, jnp.asarray(x.numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize('family, variant, side', ROWS, ids=[row[1] for row in ROWS])
def test_logits_are_those_of_the_reference(family, variant, side):
    reference = theirs(variant, side)
    x, image_NHWC = images(side)
    with torch.no_grad():
        expected = reference(x).numpy()
    model, variables, _ = ours(family, variant, reference, image_NHWC)
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False)[0])(variables, image_NHWC)
    error = np.abs(np.asarray(logits) - expected).max() / expected.std()
    print(f'{variant}: {error:.1e} of the standard deviation')
    assert error <= 1e-4


@pytest.mark.parametrize('family, variant', [
    ('resnet', 'resnet18'), ('mobilenetv2', 'mobilenetv2_050'), ('densenet', 'densenet121')])
def test_training_updates_the_statistics_as_torch_does(family, variant):
    reference = copy.deepcopy(theirs(variant, 64))
    x, image_NHWC = images(64, 4)
    model, variables, renames = ours(family, variant, reference, image_NHWC)
    for module in reference.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        reference.train()(x)
    _, updated = jax.jit(lambda v, x: model.apply(
        v, x, train=True, rngs={'dropout': jax.random.key(0)}, mutable=['batch_stats']))(
            variables, image_NHWC)
    found = torch_layout.write(variables | updated, renames)
    for name, tensor in reference.state_dict().items():
        if name.endswith(('running_mean', 'running_var')):
            np.testing.assert_allclose(
                found[name], tensor.numpy(), rtol=1e-3, atol=1e-4, err_msg=name)
