"""Converts Google's .npz files of ViT, Big Transfer and MLP-Mixer to timm's tensors.

The files are those of the repositories vision_transformer (ViT and AugReg, MLP-Mixer), big_transfer
(BiT, in resnetv2 here) and big_vision (ViT, SigLIP). Kernels have their output channels last,
and those of attention an axis of heads.
"""

import re
from collections.abc import Callable

import numpy as np

from imgjax.interop import names

_LEAF = r'(kernel|bias|scale)'
# AugReg numbers norm, attention, norm and MLP of a block together, big_vision each kind by itself.
_BLOCK = r'Transformer/encoderblock_(\d+)/'
_VIT = (
    ('cls', 'cls_token'),
    (r'(?:Transformer/posembed_input/)?pos_embedding', 'pos_embed'),
    (r'embedding/' + _LEAF, r'patch_embed.proj.\1'),
    (_BLOCK + r'LayerNorm_0/' + _LEAF, r'blocks.\1.norm1.\2'),
    (_BLOCK + r'MultiHeadDotProductAttention_[01]/(query|key|value)/' + _LEAF,
     r'blocks.\1.attn.\2.\3'),
    (_BLOCK + r'MultiHeadDotProductAttention_[01]/out/' + _LEAF, r'blocks.\1.attn.proj.\2'),
    (_BLOCK + r'LayerNorm_[12]/' + _LEAF, r'blocks.\1.norm2.\2'),
    (_BLOCK + r'MlpBlock_[03]/Dense_0/' + _LEAF, r'blocks.\1.mlp.fc1.\2'),
    (_BLOCK + r'MlpBlock_[03]/Dense_1/' + _LEAF, r'blocks.\1.mlp.fc2.\2'),
    (r'Transformer/encoder_norm/' + _LEAF, r'norm.\1'),
    (r'MAPHead_0/probe', 'attn_pool.latent'),
    (r'MAPHead_0/MultiHeadDotProductAttention_0/query/' + _LEAF, r'attn_pool.q.\1'),
    (r'MAPHead_0/MultiHeadDotProductAttention_0/(key|value)/' + _LEAF, r'attn_pool.\1.\2'),
    (r'MAPHead_0/MultiHeadDotProductAttention_0/out/' + _LEAF, r'attn_pool.proj.\1'),
    (r'MAPHead_0/LayerNorm_0/' + _LEAF, r'attn_pool.norm.\1'),
    (r'MAPHead_0/MlpBlock_0/Dense_0/' + _LEAF, r'attn_pool.mlp.fc1.\1'),
    (r'MAPHead_0/MlpBlock_0/Dense_1/' + _LEAF, r'attn_pool.mlp.fc2.\1'),
    (r'head/' + _LEAF, r'head.\1'),
)
_UNIT = r'resnet/block(\d)/unit(\d+)/'
_PLACES = {'a': 1, 'b': 2, 'c': 3}


def _unit(name: str) -> Callable:
    """Returns a replacement with stages and blocks numbered from 0 in place of 1."""
    return lambda m: (f'stages.{int(m[1]) - 1}.blocks.{int(m[2]) - 1}.'
                      + name.format(_PLACES[m[3]], *m.groups()[3:]))


_BIT = (
    (r'resnet/root_block/standardized_conv2d/kernel', 'stem.conv.kernel'),
    (_UNIT + r'([abc])/standardized_conv2d/kernel', _unit('conv{}.kernel')),
    (_UNIT + r'([abc])/group_norm/(gamma|beta)', _unit('norm{}.{}')),
    (_UNIT + r'(a)/proj/standardized_conv2d/kernel', _unit('downsample.conv.kernel')),
    (r'resnet/group_norm/(gamma|beta)', r'norm.\1'),
    (r'resnet/head/conv2d/(kernel|bias)', r'head.fc.\1'),
)
_MIXER = (
    (r'stem/' + _LEAF, r'stem.proj.\1'),
    (r'MixerBlock_(\d+)/LayerNorm_0/' + _LEAF, r'blocks.\1.norm1.\2'),
    (r'MixerBlock_(\d+)/token_mixing/Dense_0/' + _LEAF, r'blocks.\1.mlp_tokens.fc1.\2'),
    (r'MixerBlock_(\d+)/token_mixing/Dense_1/' + _LEAF, r'blocks.\1.mlp_tokens.fc2.\2'),
    (r'MixerBlock_(\d+)/LayerNorm_1/' + _LEAF, r'blocks.\1.norm2.\2'),
    (r'MixerBlock_(\d+)/channel_mixing/Dense_0/' + _LEAF, r'blocks.\1.mlp_channels.fc1.\2'),
    (r'MixerBlock_(\d+)/channel_mixing/Dense_1/' + _LEAF, r'blocks.\1.mlp_channels.fc2.\2'),
    (r'pre_head_layer_norm/' + _LEAF, r'norm.\1'),
    (r'head/' + _LEAF, r'head.\1'),
)
# Other contents of a file: the state of an optimizer, SigLIP's text tower and loss.
_NONE = ((r'opt/state/.*', None), (r'params/txt/.*|params/[tb]', None))
# Prefixes of the names, which depend on the code that wrote the file.
_PREFIX = r'(?:opt/target/|params/img/|params/)?'
TABLES = {
    'mlp_mixer': (*_NONE, *((_PREFIX + theirs, ours) for theirs, ours in _MIXER)),
    'resnetv2': _BIT,
    'vit': (*_NONE, *((_PREFIX + theirs, ours) for theirs, ours in _VIT)),
}
_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'gamma': 'weight', 'beta': 'bias'}
# Maps that timm joins: {name of the attention: (name of the joined map, names of its parts)}.
_FUSED = {'attn': ('qkv', ('query', 'key', 'value')), 'attn_pool': ('kv', ('key', 'value'))}


def demands(family: str, variant: str, folder: str) -> tuple[dict, dict]:
    """Returns (config.model.options, fields of config.data) that the weights need.

    Google's ViT and Mixer use the approximation of GELU by tanh, and timm does not.
    """
    del variant, folder
    options = {'act': 'gelu_tanh'} if family in ('vit', 'mlp_mixer') else {}
    return options, {'mean': [0.5] * 3, 'std': [0.5] * 3}


def to_timm(tensors: dict[str, np.ndarray], family: str, variant: str) -> dict[str, np.ndarray]:
    """Returns the tensors by timm's names and in its shapes.

    Raises:
      DataError: a family without such files.
    """
    table = names.table_of('google', TABLES, family)
    result = {}
    for name, tensor in names.renamed(_unstacked(tensors), table).items():
        module, _, leaf = name.rpartition('.')
        if module and '/' not in name:  # others have no row, or are a token or a table
            name = f'{module}.{_LEAVES.get(leaf, leaf)}'
            tensor = _laid_out(module.rpartition('.')[2], leaf, tensor)
        result[name] = tensor
    return _fused(result)


def _unstacked(tensors) -> dict[str, np.ndarray]:
    """Splits the tensors of scanned blocks, whose first axis is that of the blocks."""
    result = {}
    for name, tensor in tensors.items():
        before, stacked, after = name.partition('Transformer/encoderblock/')
        if stacked and tensor.ndim:
            result |= {f'{before}Transformer/encoderblock_{i}/{after}': part
                       for i, part in enumerate(tensor)}
        else:
            result[name] = tensor
    return result


def _laid_out(module: str, leaf: str, tensor: np.ndarray) -> np.ndarray:
    """(H, W, I, O) -> (O, I, H, W) and (I, O) -> (O, I), with heads and channels as one axis."""
    if leaf == 'bias':
        return tensor.reshape(-1)
    if leaf != 'kernel':
        return tensor
    if tensor.ndim == 4:
        return tensor.transpose(3, 2, 0, 1)
    if tensor.ndim == 3:  # (D, heads, channels), or (heads, channels, D) of the way back
        shape = (-1, tensor.shape[-1]) if module == 'proj' else (tensor.shape[0], -1)
        return tensor.reshape(shape).T
    return tensor.T


def _fused(tensors) -> dict[str, np.ndarray]:
    """Joins the maps of attention that read the same input, where all of them exist."""
    result = dict(tensors)
    for name in tensors:
        match = re.fullmatch(r'((?:.*\.)?(attn|attn_pool)\.)value\.(weight|bias)', name)
        if not match:
            continue
        fused, maps = _FUSED[match[2]]
        parts = [f'{match[1]}{part}.{match[3]}' for part in maps]
        if len({tensors[part].shape if part in tensors else None for part in parts}) == 1:
            result[f'{match[1]}{fused}.{match[3]}'] = np.concatenate(
                [result.pop(part) for part in parts])
    return result
