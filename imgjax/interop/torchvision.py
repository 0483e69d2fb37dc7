"""Converts state_dicts of torchvision.models (0.28, and the files on its server) to timm's tensors.

regnet_x_400mf has another width than timm's regnetx_004, which rounds as the paper does.
"""

import re

import numpy as np

from imgjax.interop import names

_SAME = ()


def _stages(rows, stages: int = 4):
    """Returns rows for each stage {i}: {A} is the index of its blocks, {B} of the layers before."""
    return tuple((pattern.replace('{A}', str(2 * i + 1)).replace('{B}', str(2 * i)),
                  replacement.replace('{i}', str(i)))
                 for i in range(stages) for pattern, replacement in rows)


_LAYER = r'encoder\.layers\.encoder_layer_(\d+)\.'
_VIT = (
    ('class_token', 'cls_token'),
    (r'conv_proj\.(.*)', r'patch_embed.proj.\1'),
    (r'encoder\.pos_embedding', 'pos_embed'),
    (_LAYER + r'ln_([12])\.(.*)', r'blocks.\1.norm\2.\3'),
    (_LAYER + r'self_attention\.in_proj_(weight|bias)', r'blocks.\1.attn.qkv.\2'),
    (_LAYER + r'self_attention\.out_proj\.(.*)', r'blocks.\1.attn.proj.\2'),
    (_LAYER + r'mlp\.(?:0|linear_1)\.(.*)', r'blocks.\1.mlp.fc1.\2'),  # linear_ in older files
    (_LAYER + r'mlp\.(?:3|linear_2)\.(.*)', r'blocks.\1.mlp.fc2.\2'),
    (r'encoder\.ln\.(.*)', r'norm.\1'),
    (r'heads\.head\.(.*)', r'head.\1'),
)
_VGG = (
    (r'classifier\.0\.(.*)', r'pre_logits.fc1.\1'),
    (r'classifier\.3\.(.*)', r'pre_logits.fc2.\1'),
    (r'classifier\.6\.(.*)', r'head.fc.\1'),
)
_CONVNEXT = (
    (r'features\.0\.([01])\.(.*)', r'stem.\1.\2'),
    *_stages((
        (r'features\.{B}\.([01])\.(.*)', r'stages.{i}.downsample.\1.\2'),
        (r'features\.{A}\.(\d+)\.layer_scale', r'stages.{i}.blocks.\1.gamma'),
        (r'features\.{A}\.(\d+)\.block\.0\.(.*)', r'stages.{i}.blocks.\1.conv_dw.\2'),
        (r'features\.{A}\.(\d+)\.block\.2\.(.*)', r'stages.{i}.blocks.\1.norm.\2'),
        (r'features\.{A}\.(\d+)\.block\.3\.(.*)', r'stages.{i}.blocks.\1.mlp.fc1.\2'),
        (r'features\.{A}\.(\d+)\.block\.5\.(.*)', r'stages.{i}.blocks.\1.mlp.fc2.\2'),
    )),
    (r'classifier\.0\.(.*)', r'head.norm.\1'),
    (r'classifier\.2\.(.*)', r'head.fc.\1'),
)
_SWIN = (
    (r'features\.0\.0\.(.*)', r'patch_embed.proj.\1'),
    (r'features\.0\.2\.(.*)', r'patch_embed.norm.\1'),
    *_stages((
        (r'features\.{B}\.(norm|reduction)\.(.*)', r'layers.{i}.downsample.\1.\2'),
        (r'features\.{A}\.(\d+)\.mlp\.0\.(.*)', r'layers.{i}.blocks.\1.mlp.fc1.\2'),
        (r'features\.{A}\.(\d+)\.mlp\.3\.(.*)', r'layers.{i}.blocks.\1.mlp.fc2.\2'),
        (r'features\.{A}\.(\d+)\.(.*)', r'layers.{i}.blocks.\1.\2'),
    )),
    (r'head\.(.*)', r'head.fc.\1'),
)
_REGNET_PARTS = {
    'proj.0': 'downsample.conv', 'proj.1': 'downsample.bn', 'f.a.0': 'conv1.conv',
    'f.a.1': 'conv1.bn', 'f.b.0': 'conv2.conv', 'f.b.1': 'conv2.bn', 'f.c.0': 'conv3.conv',
    'f.c.1': 'conv3.bn', 'f.se.fc1': 'se.fc1', 'f.se.fc2': 'se.fc2',
}
_REGNET = (
    (r'stem\.0\.(.*)', r'stem.conv.\1'),
    (r'stem\.1\.(.*)', r'stem.bn.\1'),
    (r'trunk_output\.block(\d)\.block\1-(\d+)\.'
     r'(proj\.[01]|f\.[abc]\.[01]|f\.se\.fc[12])\.(.*)',
     lambda m: f's{m[1]}.b{int(m[2]) + 1}.{_REGNET_PARTS[m[3]]}.{m[4]}'),
    (r'fc\.(.*)', r'head.fc.\1'),
)


def _blocks(before: str, places: dict[str, str], between: str, parts: dict[str, str]):
    """Returns one row for all blocks, named by before, place, between, part and leaf."""
    place, part = ('|'.join(map(re.escape, words)) for words in (places, parts))
    return (rf'{before}({place}){between}({part})\.(\w+)',
            lambda m: f'blocks.{places[m[1]]}.{parts[m[2]]}.{m[3]}')


def _chain(*depths: int) -> dict[str, str]:
    """Returns the places of blocks that torchvision numbers from 1 over stages of these depths."""
    stages = [f'{i}.{j}' for i, depth in enumerate(depths) for j in range(depth)]
    return {str(n): stage for n, stage in enumerate(stages, 1)}


_STEM = (r'features\.0\.0\.(.*)', r'conv_stem.\1'), (r'features\.0\.1\.(.*)', r'bn1.\1')
_FIRST = {'1': '0.0'}
_MOBILENETV2 = (
    *_STEM,
    _blocks(r'features\.', _FIRST, r'\.conv\.', {
        '0.0': 'conv_dw', '0.1': 'bn1', '1': 'conv_pw', '2': 'bn2'}),
    _blocks(r'features\.', _chain(1, 2, 3, 4, 3, 3, 1), r'\.conv\.', {
        '0.0': 'conv_pw', '0.1': 'bn1', '1.0': 'conv_dw', '1.1': 'bn2', '2': 'conv_pwl',
        '3': 'bn3'}),
    (r'features\.18\.0\.(.*)', r'conv_head.\1'),
    (r'features\.18\.1\.(.*)', r'bn2.\1'),
    (r'classifier\.1\.(.*)', r'classifier.\1'),
)
# With squeeze-and-excitation, which comes before the last convolution, and without.
_SEPARABLE = {
    '0.0': 'conv_dw', '0.1': 'bn1', '1.fc1': 'se.conv_reduce', '1.fc2': 'se.conv_expand',
    '1.0': 'conv_pw', '1.1': 'bn2', '2.0': 'conv_pw', '2.1': 'bn2'}
_INVERTED = {
    '0.0': 'conv_pw', '0.1': 'bn1', '1.0': 'conv_dw', '1.1': 'bn2', '2.fc1': 'se.conv_reduce',
    '2.fc2': 'se.conv_expand', '2.0': 'conv_pwl', '2.1': 'bn3', '3.0': 'conv_pwl', '3.1': 'bn3'}


def _mobilenetv3(*depths: int):
    last, stage = sum(depths) + 1, len(depths)
    return (
        *_STEM,
        _blocks(r'features\.', _FIRST, r'\.block\.', _SEPARABLE),
        _blocks(r'features\.', _chain(*depths), r'\.block\.', _INVERTED),
        (rf'features\.{last}\.0\.(.*)', rf'blocks.{stage}.0.conv.\1'),
        (rf'features\.{last}\.1\.(.*)', rf'blocks.{stage}.0.bn1.\1'),
        (r'classifier\.0\.(.*)', r'conv_head.\1'),
        (r'classifier\.3\.(.*)', r'classifier.\1'),
    )


def _of_stages(first: int, last: int, before: int = 1) -> dict[str, str]:
    """Returns the places of blocks in stages that torchvision numbers from `before`."""
    return {f'{i}.{j}': f'{i - before}.{j}' for i in range(first, last + 1) for j in range(48)}


_EFFICIENT_ENDS = (
    *_STEM,
    (r'features\.[78]\.0\.(\w+)', r'conv_head.\1'),
    (r'features\.[78]\.1\.(\w+)', r'bn2.\1'),
    (r'classifier\.1\.(.*)', r'classifier.\1'),
)
_EFFICIENTNET = (
    *_EFFICIENT_ENDS,
    _blocks(r'features\.', _of_stages(1, 1), r'\.block\.', _SEPARABLE),
    _blocks(r'features\.', _of_stages(2, 7), r'\.block\.', _INVERTED),
)
_EFFICIENTNETV2 = (
    *_EFFICIENT_ENDS,
    _blocks(r'features\.', _of_stages(1, 1), r'\.block\.', {'0.0': 'conv', '0.1': 'bn1'}),
    _blocks(r'features\.', _of_stages(2, 3), r'\.block\.', {
        '0.0': 'conv_exp', '0.1': 'bn1', '1.0': 'conv_pwl', '1.1': 'bn2'}),
    _blocks(r'features\.', _of_stages(4, 7), r'\.block\.', _INVERTED),
)
_MNASNET = (
    (r'layers\.0\.(\w+)', r'conv_stem.\1'),
    (r'layers\.1\.(\w+)', r'bn1.\1'),
    _blocks(r'layers', {'': '0.0'}, r'\.', {
        '3': 'conv_dw', '4': 'bn1', '6': 'conv_pw', '7': 'bn2'}),
    _blocks(r'layers\.', _of_stages(8, 13, before=7), r'\.layers\.', {
        '0': 'conv_pw', '1': 'bn1', '3': 'conv_dw', '4': 'bn2', '6': 'conv_pwl', '7': 'bn3'}),
    (r'layers\.14\.(\w+)', r'conv_head.\1'),
    (r'layers\.15\.(\w+)', r'bn2.\1'),
    (r'classifier\.1\.(.*)', r'classifier.\1'),
)
_MOBILENETV3_SMALL = _mobilenetv3(1, 2, 3, 2, 3)
TABLES = {
    'alexnet': _SAME,
    'convnext': _CONVNEXT,
    # norm.1 and the like in the files on its server.
    'densenet': ((r'(.*\.denselayer\d+\.(?:norm|conv))\.([12]\..*)', r'\1\2'),),
    'efficientnet': _EFFICIENTNET,
    'efficientnetv2': _EFFICIENTNETV2,
    'googlenet': ((r'aux[12]\..*', None),),  # heads for training only
    'inception_v3': ((r'AuxLogits\..*', None),),
    'mnasnet': _MNASNET,
    'mobilenetv2': _MOBILENETV2,
    'mobilenetv3': _mobilenetv3(1, 2, 3, 4, 2, 3),  # the large one
    'regnet': _REGNET,
    'resnet': _SAME,
    'shufflenet_v2': _SAME,
    'squeezenet': _SAME,
    'swin': _SWIN,
    'swinv2': _SWIN,
    'vgg': _VGG,
    'vit': _VIT,
}


def demands(family: str, variant: str, folder: str) -> tuple[dict, dict]:
    """Returns (config.model.options, fields of config.data) that the weights need."""
    del folder
    if family in ('mobilenetv3', 'efficientnetv2') or re.fullmatch('efficientnet_b[567]', variant):
        return {'epsilon': 1e-3}, {}
    if family in ('googlenet', 'inception_v3'):
        # With weights they first normalize the image again (transform_input) to this.
        return {}, {'mean': [0.5] * 3, 'std': [0.5] * 3}
    return {}, {}


def to_timm(tensors: dict[str, np.ndarray], family: str, variant: str) -> dict[str, np.ndarray]:
    """Returns the tensors by timm's names and in its shapes.

    Raises:
      DataError: torchvision does not have the family with the same weights.
    """
    table = names.table_of('torchvision', TABLES, family)
    if family == 'mobilenetv3' and 'small' in variant:
        table = _MOBILENETV3_SMALL
    tensors = names.renamed(tensors, table)
    reshaped = {}
    for name, tensor in tensors.items():
        reshaped |= _RESHAPED.get(family, _as_it_is)(name, tensor)
    return reshaped


def _as_it_is(name, tensor) -> dict[str, np.ndarray]:
    return {name: tensor}


def _convnext(name, tensor) -> dict[str, np.ndarray]:
    """Reshapes the layer scales, which torchvision stores with axes for height and width."""
    return {name: tensor.reshape(-1) if name.endswith('.gamma') else tensor}


def _mobilenetv3_head(name, tensor) -> dict[str, np.ndarray]:
    """Reshapes the hidden layer after the pooling to the convolution that it is here."""
    if name == 'conv_head.weight' and tensor.ndim == 2:
        tensor = tensor[:, :, None, None]
    return {name: tensor}


def _vgg(name, tensor) -> dict[str, np.ndarray]:
    """Reshapes the dense layers before the head to convolutions, the first over 7 x 7 pixels."""
    if name == 'pre_logits.fc1.weight' and tensor.ndim == 2 and tensor.shape[1] % 49 == 0:
        tensor = tensor.reshape(tensor.shape[0], -1, 7, 7)
    elif name == 'pre_logits.fc2.weight' and tensor.ndim == 2:
        tensor = tensor[:, :, None, None]
    return {name: tensor}


def _swinv2(name, tensor) -> dict[str, np.ndarray]:
    """Splits the bias into those of queries and values; that of keys is not used."""
    if not name.endswith('.attn.qkv.bias') or tensor.shape[0] % 3:
        return {name: tensor}
    q, _, v = np.split(tensor, 3)
    prefix = name.removesuffix('qkv.bias')
    return {f'{prefix}q_bias': q, f'{prefix}v_bias': v}


_RESHAPED = {'convnext': _convnext, 'mobilenetv3': _mobilenetv3_head, 'swinv2': _swinv2,
             'vgg': _vgg}
