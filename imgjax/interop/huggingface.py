"""Renames state dicts of image classifiers of Hugging Face's transformers to timm's names.

The tables follow its modelling files, with both the names that are in the files on the Hub, which
`save_pretrained` still writes (`vit.encoder.layer.0.attention.attention.query.weight`), and those
that version 5 gives the modules of some families (`vit.layers.0.attention.q_proj.weight`).
"""

import importlib
import json
import logging
import os
import re
from collections.abc import Callable

import numpy as np

from imgjax.errors import DataError

log = logging.getLogger('imgjax')


def _next(template: str) -> Callable:
    """Returns a replacement with the first number of the match plus 1, and its other groups."""
    return lambda match: template.format(int(match[1]) + 1, *match.groups()[1:])


# Parts of transformers. Each pair is applied to the result of those before it.
_BLOCK = (
    (r'\.attention\.(?:attention|self)\.(query|key|value)\.', r'.attn.\1.'),
    (r'\.attention\.q_proj\.', '.attn.query.'),
    (r'\.attention\.k_proj\.', '.attn.key.'),
    (r'\.attention\.v_proj\.', '.attn.value.'),
    (r'\.attention\.(?:output\.dense|o_proj)\.', '.attn.proj.'),
    (r'(\d)\.(?:attention\.|self\.|relative_position_bias\.)*relative_position_bias_table$',
     r'\1.attn.relative_position_bias_table'),
    (r'\.intermediate\.dense\.', '.mlp.fc1.'),
    (r'\.output\.dense\.', '.mlp.fc2.'),
    (r'\.layernorm_before\.', '.norm1.'),
    (r'\.layernorm_after\.', '.norm2.'),
    (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
)
_TOKENS = (
    *_BLOCK,
    (r'^embeddings\.cls_token$', 'cls_token'),
    (r'^embeddings\.distillation_token$', 'dist_token'),
    (r'^embeddings\.position_embeddings$', 'pos_embed'),
    (r'^(?:encoder\.layer|layers)\.(\d+)\.', r'blocks.\1.'),
    (r'^layernorm\.', 'norm.'),
    (r'^(?:cls_)?classifier\.', 'head.'),
)
NAMES = {
    'vit': (
        *_TOKENS,
        (r'\.layer_scale([12])\.lambda1$', r'.ls\1.gamma'),
        (r'^distillation_classifier\.', 'head_dist.'),
    ),
    'beit': (
        *_TOKENS,
        (r'\.attn\.(q)uery\.bias$', r'.attn.\1_bias'),
        (r'\.attn\.(v)alue\.bias$', r'.attn.\1_bias'),
        (r'\.lambda_([12])$', r'.gamma_\1'),
        (r'^pooler\.layernorm\.', 'fc_norm.'),
    ),
    'swin': (
        *_BLOCK,
        (r'^embeddings\.norm\.', 'patch_embed.norm.'),
        (r'^encoder\.layers\.', 'layers.'),
        # In timm the layer before a stage belongs to that stage.
        (r'^layers\.(\d+)\.downsample\.', _next('layers.{}.downsample.')),
        (r'^layernorm\.', 'norm.'),
        (r'^classifier\.', 'head.fc.'),
    ),
    'resnet': (
        (r'^embedder\.embedder\.convolution\.', 'conv1.'),
        (r'^embedder\.embedder\.normalization\.', 'bn1.'),
        (r'^encoder\.stages\.(\d+)\.layers\.', _next('layer{}.')),
        (r'\.shortcut\.convolution\.', '.downsample.0.'),
        (r'\.shortcut\.normalization\.', '.downsample.1.'),
        (r'\.layer\.(\d+)\.convolution\.', _next('.conv{}.')),
        (r'\.layer\.(\d+)\.normalization\.', _next('.bn{}.')),
        (r'^classifier\.1\.', 'fc.'),
    ),
    'convnext': (
        (r'^embeddings\.patch_embeddings\.', 'stem.0.'),
        (r'^embeddings\.layernorm\.', 'stem.1.'),
        (r'^encoder\.stages\.(\d+)\.layers\.(\d+)\.', r'stages.\1.blocks.\2.'),
        (r'^encoder\.stages\.(\d+)\.downsampling_layer\.', r'stages.\1.downsample.'),
        (r'\.dwconv\.', '.conv_dw.'),
        (r'\.layernorm\.', '.norm.'),
        (r'\.pwconv([12])\.', r'.mlp.fc\1.'),
        (r'\.grn\.', '.mlp.grn.'),
        (r'\.layer_scale_parameter$', '.gamma'),
        (r'^layernorm\.', 'head.norm.'),
        (r'^classifier\.', 'head.fc.'),
    ),
}
# Tensors that no classifier has: those for masked images, and the pooler of a model that was saved
# without a classifier.
UNUSED = (r'embeddings\.mask_token', r'embeddings\.position_ids', r'pooler\.dense\.(weight|bias)',
          r'.*\.relative_position_index', r'.*\.num_batches_tracked')
_PREFIX = re.compile(r'^(vit|deit|dinov2|beit|swin|resnet|convnext|convnextv2)\.')


# Pillow's numbers of what images are resized with.
_RESAMPLE = {2: 'bilinear', 3: 'bicubic'}


def demands(family: str, variant: str, folder: str) -> tuple[dict, dict]:
    """Returns (config.model.options, config.data's fields) that the weights are for.

    They are read from the config.json and preprocessor_config.json beside the file, where these
    are: timm's norms have an epsilon of 1e-6, most of transformers' 1e-12.

    Raises:
      DataError: one of them cannot be read.
    """
    del variant
    stored, options = _json(folder, 'config.json'), {}
    try:
        if family in ('vit', 'beit') and 'layer_norm_eps' in stored:
            options |= {'epsilon': float(stored['layer_norm_eps'])}
        if family == 'vit' and stored.get('architectures') == ['Dinov2ForImageClassification']:
            options |= {'pool': 'token_avg'}  # its head sees the class token and the patches' mean
        if family == 'resnet' and stored.get('downsample_in_bottleneck'):
            options |= {'stride_first': True}
        return options, _fields(_json(folder, 'preprocessor_config.json'))
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise DataError(f'{folder}: config.json or preprocessor_config.json is not of '
                        f'transformers ({error!r})') from None


def _json(folder: str, name: str) -> dict:
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding='utf-8') as file:
            stored = json.load(file)
    except (OSError, ValueError) as error:
        raise DataError(f'{path}: cannot be read ({error})') from None
    return stored if isinstance(stored, dict) else {}


def _fields(stored: dict) -> dict:
    """Returns fields of config.data from a preprocessor_config.json.

    A size of height and width is that of the whole image, squashed; one of the shortest edge keeps
    the aspect, but for ConvNeXt's, which squashes at 384 pixels and above.
    """
    fields = {}
    # Ours are on the scale 0 to 1; theirs are on that which bytes are brought to.
    rescaled = stored.get('do_rescale') is not False
    factor = stored.get('rescale_factor', 1 / 255) if rescaled else 1
    white = round(255 * float(factor), 6)
    if stored.get('do_normalize') is False:
        fields |= {'mean': [0.0] * 3, 'std': [1 / white] * 3}
    elif 'image_mean' in stored:
        fields |= {'mean': [float(x) / white for x in stored['image_mean']],
                   'std': [float(x) / white for x in stored['image_std']]}
    if stored.get('resample') in _RESAMPLE:
        fields |= {'eval_resize': _RESAMPLE[stored['resample']]}
    elif 'resample' in stored:
        log.warning('preprocessor_config.json: resample=%r is neither 2 (bilinear) nor 3 '
                    '(bicubic): config.data.eval_resize is used instead', stored['resample'])
    size, crop = stored.get('size'), stored.get('crop_size')
    convnext = 'crop_pct' in stored
    if isinstance(size, int):  # in old files
        size = {'shortest_edge': size} if convnext else {'height': size, 'width': size}
    if not size:
        return fields
    side = int(size.get('shortest_edge') or size['height'])
    whole = 'shortest_edge' not in size or (convnext and side >= 384)
    fields |= {'eval_transform': 'squash'} if whole else {}
    if stored.get('do_center_crop') and crop:
        inner = int(crop if isinstance(crop, int) else crop['height'])
        return fields | {'image_size': inner, 'eval_crop_fraction': min(1.0, inner / side)}
    share = float(stored.get('crop_pct') or 1.0) if not whole else 1.0
    return fields | {'image_size': side, 'eval_crop_fraction': share}


def to_timm(tensors: dict[str, np.ndarray], family: str, variant: str) -> dict[str, np.ndarray]:
    """Returns the tensors by timm's names and in its shapes; unknown names stay.

    Raises:
      DataError: a family that is not in NAMES.
    """
    if family not in NAMES:
        raise DataError(f'config.init.weights: huggingface knows the families '
                        f'{", ".join(sorted(NAMES))}, not {family!r}')
    found = {}
    for name, tensor in tensors.items():
        new = _PREFIX.sub('', name)
        if any(re.fullmatch(pattern, new) for pattern in UNUSED):
            continue
        for pattern, replacement in NAMES[family]:
            new = re.sub(pattern, replacement, new)
        if new in found:
            raise DataError(f'config.init.weights: more than one tensor is {new}, {name} is one')
        found[new] = tensor
    found = _joined(found)
    return _shaped(found, variant) if family == 'convnext' else found


def _joined(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Joins the maps to queries, keys and values where all three exist."""
    tensors = dict(tensors)
    for name in list(tensors):
        if '.attn.query.' not in name:
            continue
        three = [name.replace('.query.', f'.{part}.') for part in ('query', 'key', 'value')]
        if all(part in tensors for part in three):
            tensors[name.replace('.query.', '.qkv.')] = np.concatenate(
                [tensors.pop(part) for part in three])
    return tensors


def _shaped(tensors: dict[str, np.ndarray], variant: str) -> dict[str, np.ndarray]:
    """Reshapes ConvNeXt's response norms to vectors, and MLPs to 1x1 convolutions as in timm."""
    options = importlib.import_module('imgjax.models.convnext').VARIANTS.get(variant, {})
    shaped = {}
    for name, tensor in tensors.items():
        if '.grn.' in name:
            tensor = tensor.reshape(-1)
        elif re.search(r'\.mlp\.fc[12]\.weight$', name) and options.get('conv_mlp'):
            tensor = tensor[:, :, None, None]
        shaped[name] = tensor
    return shaped
