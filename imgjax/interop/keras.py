"""Weights of keras.applications by timm's names.

Keras is imported only for its own weights, with its JAX backend. The tables follow the sources of
keras.applications, which differ from timm's models of the same name:

- ResNet: the stride is in the first 1x1 convolution (`stride_first=True`). Convolutions have a
  bias, which is subtracted from the mean of the norm after them. Norms have an epsilon
  of 1.001e-5, whose difference to ours is added to the variance (in DenseNet too).
- MobileNetV2: TensorFlow's padding and an epsilon of 1e-3 (`padding='same', epsilon=1e-3`);
  EfficientNets have both in timm's variants tf_efficientnet_*.
- VGG: the map is flattened with its channels last, so the first dense layer is reordered.
- ResNet and VGG take BGR: the channels of the first kernel are reversed, so that ours take RGB.
- EfficientNet and ConvNeXt normalize the image inside; here PREPROCESSING does it.
"""

import os
import re
from collections.abc import Callable

import jax
import numpy as np

from imgjax.errors import ConfigError, DataError, nearest, one_line

# {application: (our variant, the config.model.options that it needs)}.
APPLICATIONS: dict[str, tuple[str, dict]] = {
    **{f'ResNet{depth}': (f'resnet{depth}', {'stride_first': True}) for depth in (50, 101, 152)},
    **{f'DenseNet{depth}': (f'densenet{depth}', {}) for depth in (121, 169, 201)},
    **{f'VGG{depth}': (f'vgg{depth}', {}) for depth in (16, 19)},
    **{f'EfficientNetB{size}': (f'tf_efficientnet_b{size}', {}) for size in range(8)},
    **{f'ConvNeXt{size}': (f'convnext_{size.lower()}', {})
       for size in ('Tiny', 'Small', 'Base', 'Large', 'XLarge')},
    'MobileNetV2': ('mobilenetv2_100', {'padding': 'same', 'epsilon': 1e-3}),
}
_IMAGENET = {'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}
_CAFFE = {'mean': [123.68 / 255, 116.779 / 255, 103.939 / 255], 'std': [1 / 255] * 3}
# Fields of config.data that the weights were trained with.
PREPROCESSING = {
    'ResNet': _CAFFE,
    'VGG16': _CAFFE,
    'VGG19': _CAFFE,
    'DenseNet': _IMAGENET,
    'EfficientNet': _IMAGENET,
    'ConvNeXt': _IMAGENET,
    'MobileNetV2': {'mean': [0.5] * 3, 'std': [0.5] * 3},
}
# By how much the epsilon of Keras's batch norms is above ours.
_EPSILON = {'ResNet': 1e-8, 'DenseNet': 1e-8}
# Constants, not parameters.
UNUSED = r'normalization(_\d+)?/(mean|variance|count)'
_DEPTHWISE = ('_depthwise', '_dwconv')  # of Keras's DepthwiseConv2D: (h, w, C, 1)
_LEAVES = {'kernel': 'weight', 'gamma': 'weight', 'beta': 'bias', 'moving_mean': 'running_mean',
           'moving_variance': 'running_var', 'variable': 'gamma'}


def _less(template: str) -> Callable:
    """Returns a replacement with the first number of the match minus 1, and its other groups."""
    return lambda match: template.format(int(match[1]) - 1, *match.groups()[1:])


def _vgg(*depths: int):
    """Returns pairs for VGG; the numbers count layers, activations and the poolings of stages."""
    return (*((rf'^block{stage + 1}_conv{layer + 1}$',
               f'features.{2 * (sum(depths[:stage]) + layer) + stage}')
              for stage, depth in enumerate(depths) for layer in range(depth)),
            (r'^fc([12])$', r'pre_logits.fc\1'),
            (r'^predictions$', 'head.fc'))


def _blocks(expand, expand_bn, depthwise, depthwise_bn, project, project_bn):
    """Returns pairs for the layers of blocks, which after stage 0 begin with a 1x1 convolution."""
    first = {depthwise: 'conv_dw', depthwise_bn: 'bn1', project: 'conv_pw', project_bn: 'bn2'}
    others = {expand: 'conv_pw', expand_bn: 'bn1', depthwise: 'conv_dw', depthwise_bn: 'bn2',
              project: 'conv_pwl', project_bn: 'bn3'}
    return (*((rf'^(blocks\.0\.\d+\.){old}$', rf'\1{new}') for old, new in first.items()),
            *((rf'^(blocks\.[1-9]\.\d+\.){old}$', rf'\1{new}') for old, new in others.items()))


# Keras numbers the blocks throughout, timm within each stage.
_MOBILE = [f'blocks.{stage}.{block}.' for stage, depth in enumerate((2, 3, 4, 3, 3, 1), 1)
           for block in range(depth)]
# Names of layers. Each pair is applied to the result of those before it.
NAMES = {
    'ResNet': (
        (r'^conv1_(conv|bn)$', r'\g<1>1'),
        (r'^conv(\d)_block(\d+)_', lambda m: f'layer{int(m[1]) - 1}.{int(m[2]) - 1}.'),
        (r'\.0_(conv|bn)$', lambda m: f'.downsample.{("conv", "bn").index(m[1])}'),
        (r'\.([123])_(conv|bn)$', r'.\2\1'),
        (r'^predictions$', 'fc'),
    ),
    'DenseNet': (
        (r'_bn$', '_norm'),
        (r'^conv1_(conv|norm)$', r'features.\g<1>0'),
        (r'^conv(\d)_block(\d+)_', _less('features.denseblock{}.denselayer{}.')),
        (r'\.0_norm$', '.norm1'),
        (r'\.1_norm$', '.norm2'),
        (r'\.([12])_conv$', r'.conv\1'),
        (r'^pool(\d)_(conv|norm)$', _less('features.transition{}.{}')),
        (r'^bn$', 'features.norm5'),
        (r'^predictions$', 'classifier'),
    ),
    'VGG16': _vgg(2, 2, 3, 3, 3),
    'VGG19': _vgg(2, 2, 4, 4, 4),
    'MobileNetV2': (
        (r'^Conv1$', 'conv_stem'), (r'^bn_Conv1$', 'bn1'),
        (r'^Conv_1$', 'conv_head'), (r'^Conv_1_bn$', 'bn2'),
        (r'^expanded_conv_', 'blocks.0.0.'),
        (r'^block_(\d+)_', lambda m: _MOBILE[int(m[1]) - 1]),
        *_blocks('expand', 'expand_BN', 'depthwise', 'depthwise_BN', 'project', 'project_BN'),
        (r'^predictions$', 'classifier'),
    ),
    'EfficientNet': (
        (r'^stem_conv$', 'conv_stem'), (r'^stem_bn$', 'bn1'),
        (r'^top_conv$', 'conv_head'), (r'^top_bn$', 'bn2'),
        (r'^block(\d)([a-z])_', lambda m: f'blocks.{int(m[1]) - 1}.{ord(m[2]) - ord("a")}.'),
        (r'\.se_(reduce|expand)$', r'.se.conv_\1'),
        *_blocks('expand_conv', 'expand_bn', 'dwconv', 'bn', 'project_conv', 'project_bn'),
        (r'^predictions$', 'classifier'),
    ),
    'ConvNeXt': (
        (r'^convnext_[a-z]+_', ''),
        (r'^stem_conv$', 'stem.0'),
        (r'^stem_layernorm$', 'stem.1'),
        (r'^downsampling_(layernorm|conv)_(\d)$', lambda m: 'stages.{}.downsample.{}'.format(
            int(m[2]) + 1, ('layernorm', 'conv').index(m[1]))),
        (r'^stage_(\d)_block_(\d+)_', r'stages.\1.blocks.\2.'),
        (r'\.layer_scale$', ''),
        (r'\.depthwise_conv$', '.conv_dw'),
        (r'\.layernorm$', '.norm'),
        (r'\.pointwise_conv_([12])$', r'.mlp.fc\1'),
        (r'^head_layernorm$', 'head.norm'),
        (r'^head_dense$', 'head.fc'),
    ),
}


def check(name: str, variant: str, options: dict) -> dict:
    """Returns the fields of config.data that an application needs.

    Raises:
      ConfigError: no such application, or config.model is not the model that its weights fit.
    """
    kind = _kind(name)
    ours, needed = APPLICATIONS[name]
    if variant != ours or any(options.get(key) != value for key, value in needed.items()):
        raise ConfigError(f'config.init.weights: keras:{name} fits config.model.name={ours!r} with '
                          f'config.model.options={needed}, got {variant!r} with {dict(options)}')
    return PREPROCESSING[kind]


def application(name: str, weights: str = 'imagenet') -> dict[str, np.ndarray]:
    """Returns the tensors of keras.applications.<name>, for RGB images.

    They are for the variant and the options in APPLICATIONS, after PREPROCESSING.

    Raises:
      ConfigError: no such application, or Keras is not installed.
      DataError: the weights cannot be had here.
    """
    kind = _kind(name)
    os.environ['KERAS_BACKEND'] = 'jax'
    try:
        import keras
    except ImportError as error:
        raise ConfigError(f'config.init.weights: keras cannot be imported ({error}); '
                          'pip install keras') from None
    with jax.transfer_guard('allow'):  # a run forbids implicit transfers
        try:
            model = getattr(keras.applications, name)(weights=weights)
        except Exception as error:  # of HTTP, of its cache, of h5py
            text = one_line(error, 160)
            raise DataError(f'config.init.weights: the weights of keras:{name} cannot be had here '
                            f'({type(error).__name__}: {text})') from None
        return from_model(model, name, bgr=PREPROCESSING[kind] is _CAFFE)


def from_model(model, name: str, bgr: bool = False) -> dict[str, np.ndarray]:
    """Returns the tensors of a Keras model that keras.applications.<name> made.

    Args:
      model: with its classifier.
      name: a key of APPLICATIONS.
      bgr: whether it takes BGR, so that the channels of the first kernel have to be reversed.

    Raises:
      DataError: two of its weights would have the same name.
    """
    kind, found = _kind(name), {}
    for weight in model.weights:
        if re.fullmatch(UNUSED, weight.path):
            continue
        *_, layer, leaf = weight.path.split('/')
        leaf = re.sub(r'^variable(_\d+)?$', 'variable', leaf)  # layer scales are numbered
        new = f'{_renamed(layer, kind)}.{_LEAVES.get(leaf, leaf)}'
        if new in found:
            raise DataError(f'keras:{name}: more than one weight is {new}, {weight.path} is one')
        found[new] = _laid_out(np.asarray(weight.numpy()), layer, leaf)
        if leaf == 'moving_variance':
            found[new] = found[new] + np.float32(_EPSILON.get(kind, 0))
    if kind == 'ResNet':
        found = _without_biases(found)
    if kind.startswith('VGG'):
        found = _dense_as_convolutions(found)
    if bgr:
        first = 'conv1.weight' if kind == 'ResNet' else 'features.0.weight'
        found[first] = found[first][:, ::-1]
    return found


def _kind(name: str) -> str:
    if name not in APPLICATIONS:
        raise ConfigError(f'config.init.weights: keras takes the name of an application, '
                          f'{", ".join(APPLICATIONS)}, got {name!r}{nearest(name, APPLICATIONS)}')
    return next(kind for kind in NAMES if name.startswith(kind))


def _renamed(layer: str, kind: str) -> str:
    for pattern, replacement in NAMES[kind]:
        layer = re.sub(pattern, replacement, layer)
    return layer


def _laid_out(array: np.ndarray, layer: str, leaf: str) -> np.ndarray:
    """Transposes kernels (h, w, I, O) to (O, I, h, w), and dense ones (I, O) to (O, I)."""
    if leaf != 'kernel':
        return array
    if array.ndim == 2:
        return array.T
    return array.transpose((2, 3, 0, 1) if layer.endswith(_DEPTHWISE) else (3, 2, 0, 1))


def _without_biases(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Subtracts the biases of convolutions from the running means of the norms after them."""
    tensors = dict(tensors)
    for name in list(tensors):
        norm = re.sub(r'\bconv(\d)\.bias$', r'bn\1.running_mean', name)
        norm = re.sub(r'\bdownsample\.0\.bias$', 'downsample.1.running_mean', norm)
        if norm != name and norm in tensors:
            tensors[norm] = tensors[norm] - tensors.pop(name)
    return tensors


def _dense_as_convolutions(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Reshapes VGG's dense layers to convolutions; the first one reads a map (h, w, 512)."""
    tensors = dict(tensors)
    for name, channels in (('pre_logits.fc1.weight', 512), ('pre_logits.fc2.weight', 4096)):
        side = round((tensors[name].shape[1] / channels) ** 0.5)
        map_OHWI = tensors[name].reshape(-1, side, side, channels)
        tensors[name] = map_OHWI.transpose(0, 3, 1, 2)
    return tensors
