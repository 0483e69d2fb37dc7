"""Class activation maps against grad-cam and torchcam, attention maps against their definitions.

The models are timm's with random weights, and ours with the same ones.
"""

import functools

import jax
import numpy as np
import pytest

pytest.importorskip('pytorch_grad_cam')
pytest.importorskip('torchcam')

import pytorch_grad_cam  # noqa: E402
import torch  # noqa: E402
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402
from torchcam import methods as torchcam_methods  # noqa: E402

from imgjax import models  # noqa: E402
from imgjax.explain import (  # noqa: E402
    attention_gradient,
    attention_rollout,
    eigen_cam,
    grad_cam,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
)
from tests.reference import test_zoo as zoo  # noqa: E402

TARGETS_N = np.array([3, 141])
CAMS = {'GradCAM': grad_cam, 'GradCAMPlusPlus': grad_cam_plus_plus, 'LayerCAM': layer_cam,
        'HiResCAM': hires_cam, 'EigenCAM': eigen_cam}
HEAD_SCALE = 100_000  # see `pair`


@functools.lru_cache(3)
def pair(family: str, variant: str, side: int, **options):
    """timm's model, its images, and (apply_fn, variables, images) of ours.

    The weights of the head are larger than at the start, so that gradients are: grad-cam adds 1e-6
    to a sum of their squares.
    """
    reference = zoo.theirs(variant, side)
    with torch.no_grad():
        for name, tensor in reference.named_parameters():
            if name in ('fc.weight', 'head.weight', 'head.fc.weight'):
                tensor.normal_(0, HEAD_SCALE * tensor.shape[1] ** -0.5,
                               generator=torch.Generator().manual_seed(2))
    x, image_NHWC = zoo.images(side)
    _, variables, _ = zoo.ours(family, variant, reference, image_NHWC)
    model = models.create(variant, 1000, **options)

    def apply_fn(variables, images_NHWC):
        return model.apply(variables, images_NHWC, train=False)

    return reference, x, (apply_fn, variables, image_NHWC)


def close(name: str, ours, theirs, tolerance: float = 1e-4) -> None:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(f'{name}: largest difference {difference:.1e} of the largest value')
    assert difference <= tolerance


def scaled(maps_NHW):
    """From 0 to 1, as grad-cam returns its maps, once before and once after resizing."""
    maps_NHW = np.asarray(maps_NHW, np.float64)
    maps_NHW = maps_NHW - maps_NHW.min(axis=(1, 2), keepdims=True)
    return maps_NHW / (1e-7 + maps_NHW.max(axis=(1, 2), keepdims=True))


def tokens_to_map(x_NLD):
    x_NLD = x_NLD[:, 1:]
    side = int(x_NLD.shape[1] ** 0.5)
    return x_NLD.reshape(len(x_NLD), side, side, -1).permute(0, 3, 1, 2)


def channels_first(x_NHWC):
    return x_NHWC.permute(0, 3, 1, 2)


# The layer of timm's model whose output is that of ours.
# HiResCAM has no map before a layer norm: it takes an earlier layer.
MODELS = {
    'resnet18': ('resnet', 64, lambda model: model.layer4[-1], None, ''),
    'resnet18 early': ('resnet', 64, lambda model: model.layer2[-1], None, 'stage2'),
    'vit_tiny_patch16_224': ('vit', 64, lambda model: model.blocks[-2], tokens_to_map, ''),
    'swin_tiny_patch4_window7_224': (
        'swin', 96, lambda model: model.layers[-1].blocks[-1], channels_first, ''),
    'vit_tiny_patch16_224 early': (
        'vit', 64, lambda model: model.blocks[-3], tokens_to_map, 'block09'),
    'swin_tiny_patch4_window7_224 early': (
        'swin', 96, lambda model: model.layers[-2], channels_first, 'stage3'),
}
ROWS = [(row, method) for row in MODELS for method in CAMS
        if method != 'HiResCAM' or row.startswith('resnet') or row.endswith('early')]


@pytest.mark.parametrize('row, method', ROWS)
def test_maps_are_those_of_grad_cam(row, method):
    family, side, target, reshape, layer = MODELS[row]
    reference, x, ours = pair(family, row.split()[0], side)
    cam = getattr(pytorch_grad_cam, method)(
        model=reference, target_layers=[target(reference)], reshape_transform=reshape)
    with cam:
        # The layer's own map, before it is scaled; and grad-cam's result.
        kept = []
        image = cam.get_cam_image
        cam.get_cam_image = lambda *args: kept.append(image(*args)) or kept[-1]
        theirs_NHW = cam(x, [ClassifierOutputTarget(int(target)) for target in TARGETS_N])
    raw_Nhw = kept[0]
    if method == 'EigenCAM':  # whose sign is arbitrary there
        flip_N = np.abs(raw_Nhw.min(axis=(1, 2))) > raw_Nhw.max(axis=(1, 2))
        raw_Nhw = np.where(flip_N[:, None, None], -raw_Nhw, raw_Nhw)
    module = CAMS[method]
    found_NHW = np.asarray(module.explain(*ours, TARGETS_N, layer=layer))
    if not module.SIGNED:
        raw_Nhw = np.maximum(raw_Nhw, 0)
    wanted_NHW = torch.nn.functional.interpolate(
        torch.from_numpy(raw_Nhw)[None].float(), (side, side), mode='bilinear')[0].numpy()
    # Where activations are below 0 a denominator of Grad-CAM++ can come near 0: of activations that
    # differ by 4e-7 (ViT) its formula in float64 gives maps that differ by 6e-4.
    singular = method == 'GradCAMPlusPlus' and reshape is not None
    tolerance = 3e-3 if singular else 1e-4
    close(f'{row}, {method}', found_NHW, wanted_NHW, tolerance)
    if not module.SIGNED and method != 'EigenCAM':
        close(f'{row}, {method}, scaled', scaled(found_NHW), theirs_NHW, tolerance)


@pytest.mark.parametrize('method', ['GradCAM', 'LayerCAM'])
def test_maps_are_those_of_torchcam(method):
    """Its GradCAMpp (0.4.1) divides a copy of the weights and leaves these as squares."""
    reference, x, ours = pair('resnet', 'resnet18', 64)
    with getattr(torchcam_methods, method)(reference, 'layer4') as cam:
        theirs_Nhw = cam(TARGETS_N.tolist(), reference(x.requires_grad_()), normalized=False)[0]
    wanted_NHW = torch.nn.functional.interpolate(
        torch.relu(theirs_Nhw)[None], (64, 64), mode='bilinear')[0].detach().numpy()
    close(f'resnet18, {method} of torchcam', CAMS[method].explain(*ours, TARGETS_N), wanted_NHW)


@pytest.fixture(scope='module', params=['vit_tiny_patch16_224', 'beit_base_patch16_224'])
def attention(request):
    """timm's attention maps, by hand from its queries and keys, and their gradients."""
    family = request.param.split('_')[0]
    reference, x, ours = pair(family, request.param, 64, attention='maps')
    maps = []

    def hook(module, inputs, output):
        maps.append(output)
        output.retain_grad()

    for block in reference.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(hook)
    logits = reference(x)
    logits[np.arange(2), TARGETS_N].sum().backward()
    first = 1 if family == 'beit' else 0  # BEiT pools the mean of the patches
    rows = slice(1, None) if first else slice(0, 1)
    return request.param, ours, [m.detach() for m in maps], [m.grad for m in maps], rows


def test_rollout_is_the_product_of_the_maps(attention):
    name, ours, maps, _, rows = attention
    identity = torch.eye(maps[0].shape[-1])
    relevance = identity
    for m in maps:
        relevance = (0.5 * m.mean(1) + 0.5 * identity) @ relevance
    wanted = relevance[:, rows, 1:].mean(1).reshape(2, 4, 4)
    close(f'{name}, rollout', attention_rollout.raw(*ours, TARGETS_N), wanted)


def test_attention_gradient_is_that_of_its_rule(attention):
    name, ours, maps, gradients, rows = attention
    identity = torch.eye(maps[0].shape[-1])
    relevance = identity
    for m, g in zip(maps, gradients, strict=True):
        relevance = relevance + (m * g).clamp(min=0).mean(1) @ relevance
    wanted = (relevance - identity)[:, rows, 1:].mean(1).reshape(2, 4, 4)
    close(f'{name}, attention x gradient', attention_gradient.raw(*ours, TARGETS_N), wanted)


def test_logits_are_the_same_with_maps():
    _, _, (apply_fn, variables, image_NHWC) = pair('vit', 'vit_tiny_patch16_224', 64)
    _, _, (with_maps, _, _) = pair('vit', 'vit_tiny_patch16_224', 64, attention='maps')
    plain_NK, mapped_NK = (
        jax.jit(lambda v, x, f=f: f(v, x)[0])(variables, image_NHWC) for f in (apply_fn, with_maps))
    close('vit_tiny_patch16_224, logits with maps', mapped_NK, plain_NK)
