"""Google's files of ViT and Big Transfer as timm reads them, of Mixer as its Flax network does."""

import importlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
from flax import linen as nn

from imgjax import models
from imgjax.interop import files, google, torch_layout

CLASSES = 10


def random_arrays(shapes: dict[str, tuple[int, ...]]):
    """Arrays of those shapes, of which none leaves its trace small."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in shapes.items():
        x = rng.standard_normal(shape)
        if name.endswith('kernel'):
            heads = len(shape) == 3 and not name.endswith('out/kernel')  # are two axes of outputs
            x *= (np.prod(shape[1:] if heads else shape[-1]) / x.size) ** 0.5
        else:
            x = 0.2 * x + name.endswith(('scale', 'gamma'))
            x *= 0.5 if '/c/' in name else 1  # lest BiT's blocks make float32's noise grow
        arrays[name] = x.astype(np.float32)
    return arrays


def dense(prefix: str, *shape: int, bias=None) -> dict:
    return {f'{prefix}/kernel': shape, f'{prefix}/bias': bias or shape[-1:]}


def norm(prefix: str, width: int) -> dict:
    return {f'{prefix}/scale': (width,), f'{prefix}/bias': (width,)}


def attention(prefix: str, width: int, heads: int) -> dict:
    each = (heads, width // heads)
    maps = [dense(f'{prefix}/{name}', width, *each, bias=each)
            for name in ('query', 'key', 'value')]
    return {k: v for m in maps for k, v in m.items()} | dense(f'{prefix}/out', *each, width)


def vit(form: str, width: int, heads: int, depth: int, patch: int, patches: int) -> dict:
    """Shapes by Google's names, in the `form` of one of its repositories."""
    ours = form in ('augreg', 'opt')
    prefix = {'augreg': '', 'opt': 'opt/target/', 'siglip': 'params/img/'}.get(form, 'params/')
    token = form != 'siglip'
    shapes = dense('embedding', patch, patch, 3, width) | norm('Transformer/encoder_norm', width)
    shapes |= dense('head', width, CLASSES)
    if token:
        shapes['cls'] = (1, 1, width)
    else:
        shapes['MAPHead_0/probe'] = (1, 1, width)
        shapes |= attention('MAPHead_0/MultiHeadDotProductAttention_0', width, heads)
        shapes |= norm('MAPHead_0/LayerNorm_0', width)
        shapes |= dense('MAPHead_0/MlpBlock_0/Dense_0', width, 4 * width)
        shapes |= dense('MAPHead_0/MlpBlock_0/Dense_1', 4 * width, width)
    positions = 'Transformer/posembed_input/pos_embedding' if ours else 'pos_embedding'
    shapes[positions] = (1, patches + token, width)
    mha, mlp, second = (1, 3, 2) if ours else (0, 0, 1)
    for i in range(depth):
        block = f'Transformer/encoderblock_{i}'
        shapes |= norm(f'{block}/LayerNorm_0', width) | norm(f'{block}/LayerNorm_{second}', width)
        shapes |= attention(f'{block}/MultiHeadDotProductAttention_{mha}', width, heads)
        shapes |= dense(f'{block}/MlpBlock_{mlp}/Dense_0', width, 4 * width)
        shapes |= dense(f'{block}/MlpBlock_{mlp}/Dense_1', 4 * width, width)
    return {prefix + name: shape for name, shape in shapes.items()}


def scanned(arrays: dict, depth: int) -> dict:
    """The same with the blocks' arrays stacked."""
    one = 'Transformer/encoderblock_0/'
    stacked = {name.replace(one, 'Transformer/encoderblock/'): np.stack(
        [arrays[name.replace(one, f'Transformer/encoderblock_{i}/')] for i in range(depth)])
        for name in arrays if one in name}
    return {name: x for name, x in arrays.items() if 'encoderblock_' not in name} | stacked


def bit(depths=(3, 4, 6, 3)) -> dict:
    """Shapes of Big Transfer's BiT-M-R50x1."""
    conv, gn = 'standardized_conv2d/kernel', 'group_norm'

    def group_norm(prefix, width):
        return {f'{prefix}/gamma': (width,), f'{prefix}/beta': (width,)}

    shapes = {f'resnet/root_block/{conv}': (7, 7, 3, 64)} | group_norm(f'resnet/{gn}', 2048)
    shapes |= dense('resnet/head/conv2d', 1, 1, 2048, CLASSES)
    before = 64
    for i, depth in enumerate(depths):
        width = 64 * 2**i
        for j in range(depth):
            unit = f'resnet/block{i + 1}/unit{j + 1:02}'
            shapes |= {f'{unit}/a/{conv}': (1, 1, before, width),
                       f'{unit}/b/{conv}': (3, 3, width, width),
                       f'{unit}/c/{conv}': (1, 1, width, 4 * width)}
            for name, channels in (('a', before), ('b', width), ('c', width)):
                shapes |= group_norm(f'{unit}/{name}/{gn}', channels)
            if not j:
                shapes[f'{unit}/a/proj/{conv}'] = (1, 1, before, 4 * width)
            before = 4 * width
    return shapes


def ours(path: str, variant: str, image_NHWC, **options):
    """Logits of our network with that file."""
    family = models.variants()[variant]
    module = importlib.import_module(f'imgjax.models.{family}')
    model = models.create(variant, CLASSES, **options)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image_NHWC)
    tensors = google.to_timm(files.read(path), family, variant)
    variables = torch_layout.read(tensors, shapes, getattr(module, 'RENAMES', {}))
    return np.asarray(jax.jit(lambda v, x: model.apply(v, x, train=False)[0])(
        variables, image_NHWC))


def compare(name, logits, expected):
    error = np.abs(logits - expected).max() / expected.std()
    spread = np.abs(expected[0] - expected[1]).max() / expected.std()
    print(f'{name}: {error:.1e} of the standard deviation; two images differ by {spread:.1e}')
    assert spread > 1e-2 and error <= 1e-4


TINY = dict(width=192, heads=3, depth=12, patch=16, patches=16)
BASE = dict(width=768, heads=12, depth=12, patch=16, patches=16)


@pytest.mark.parametrize('variant, form, sizes', [
    ('vit_tiny_patch16_224', 'augreg', TINY),
    ('vit_tiny_patch16_224', 'opt', TINY),
    ('vit_tiny_patch16_224', 'big_vision', TINY),
    ('vit_tiny_patch16_224', 'scanned', TINY),
    ('vit_base_patch16_siglip_224', 'siglip', BASE),
    ('resnetv2_50x1_bit', 'bit', None),
])
def test_logits_are_those_of_timm_with_the_same_file(variant, form, sizes, tmp_path):
    path = str(tmp_path / 'w.npz')
    arrays = random_arrays(bit() if sizes is None else vit(form, **sizes))
    np.savez(path, **(scanned(arrays, sizes['depth']) if form == 'scanned' else arrays))
    options = {} if sizes is None else {'img_size': 64}
    reference = timm.create_model(variant, num_classes=CLASSES, **options)
    reference.load_pretrained(path)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference.eval()(x).numpy()
    compare(form, ours(path, variant, jnp.asarray(x.numpy().transpose(0, 2, 3, 1))), expected)


class GoogleMlp(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        y = nn.gelu(nn.Dense(self.width)(x))
        return nn.Dense(x.shape[-1])(y)


class MixerBlock(nn.Module):
    @nn.compact
    def __call__(self, x_NLD):
        y_NDL = jnp.swapaxes(nn.LayerNorm()(x_NLD), 1, 2)
        x_NLD += jnp.swapaxes(GoogleMlp(256, name='token_mixing')(y_NDL), 1, 2)
        return x_NLD + GoogleMlp(2048, name='channel_mixing')(nn.LayerNorm()(x_NLD))


class GoogleMixer(nn.Module):
    """Mixer-S/32, whose modules and parameters are named as in vision_transformer."""

    @nn.compact
    def __call__(self, image_NHWC):
        x_NHWD = nn.Conv(512, (32, 32), (32, 32), name='stem')(image_NHWC)
        x_NLD = x_NHWD.reshape(x_NHWD.shape[0], -1, 512)
        for _ in range(8):
            x_NLD = MixerBlock()(x_NLD)
        x_ND = nn.LayerNorm(name='pre_head_layer_norm')(x_NLD).mean(1)
        return nn.Dense(CLASSES, name='head')(x_ND)


def test_mixer_is_that_of_flax(tmp_path):
    """timm reads no such file of Mixer."""
    network = GoogleMixer()
    image_NHWC = jax.random.normal(jax.random.key(1), (2, 96, 64, 3))
    shapes = jax.eval_shape(network.init, jax.random.key(0), image_NHWC)['params']
    arrays = random_arrays({name: leaf.shape for name, leaf in
                            flax.traverse_util.flatten_dict(shapes, sep='/').items()})
    assert 'MixerBlock_0/token_mixing/Dense_0/kernel' in arrays
    path = str(tmp_path / 'w.npz')
    np.savez(path, **arrays)
    variables = {'params': flax.traverse_util.unflatten_dict(arrays, sep='/')}
    expected = np.asarray(jax.jit(network.apply)(variables, image_NHWC))
    compare('mixer', ours(path, 'mixer_s32_224', image_NHWC, act='gelu_tanh'), expected)
