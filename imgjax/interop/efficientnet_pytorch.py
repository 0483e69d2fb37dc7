"""Renames state_dicts of efficientnet_pytorch and efficientnet_lite_pytorch to timm's names.

Their weights are from TensorFlow and need its padding and epsilon, as timm's variants
tf_efficientnet_* do.
"""

import math
import re

import numpy as np

from imgjax.errors import DataError
from imgjax.interop import names
from imgjax.models import efficientnet

_ENDS = {'_conv_stem': 'conv_stem', '_bn0': 'bn1', '_conv_head': 'conv_head', '_bn1': 'bn2',
         '_fc': 'classifier'}
_SQUEEZE = {'_se_reduce': 'se.conv_reduce', '_se_expand': 'se.conv_expand'}
# The first stage's blocks do not expand.
_SEPARABLE = {'_depthwise_conv': 'conv_dw', '_bn1': 'bn1', '_project_conv': 'conv_pw',
              '_bn2': 'bn2', **_SQUEEZE}
_INVERTED = {'_expand_conv': 'conv_pw', '_bn0': 'bn1', '_depthwise_conv': 'conv_dw', '_bn1': 'bn2',
             '_project_conv': 'conv_pwl', '_bn2': 'bn3', **_SQUEEZE}


def demands(family: str, variant: str, folder: str) -> tuple[dict, dict]:
    """Returns (config.model.options, fields of config.data) that the weights need."""
    del variant, folder
    return {'padding': 'same', 'epsilon': 1e-3} if family == 'efficientnet' else {}, {}


def to_timm(tensors: dict[str, np.ndarray], family: str, variant: str) -> dict[str, np.ndarray]:
    """Returns the tensors by timm's names.

    Raises:
      DataError: another family than efficientnet.
    """
    if family != 'efficientnet':
        raise DataError('config.init.weights: efficientnet_pytorch knows the family efficientnet, '
                        f'not {family!r}')
    places = _places(variant)

    def of_block(match: re.Match) -> str:
        place = places.get(int(match[1]), f'block {match[1]}')
        parts = _SEPARABLE if place.startswith('0.') else _INVERTED
        return f'blocks.{place}.{parts.get(match[2], match[2])}.{match[3]}'

    return names.renamed(tensors, (
        (r'_blocks\.(\d+)\.(\w+)\.(\w+)', of_block),
        (rf'({"|".join(_ENDS)})\.(\w+)', lambda match: f'{_ENDS[match[1]]}.{match[2]}')))


def _places(variant: str) -> dict[int, str]:
    """Returns {number: 'stage.block'} of the blocks, which these packages number throughout."""
    options: dict = efficientnet.VARIANTS.get(variant, {})
    stages = options.get('stages', efficientnet.STAGES)
    found = []
    for stage, (row,) in enumerate(stages):
        fixed = options.get('fixed_ends') and stage in (0, len(stages) - 1)
        factor = 1 if fixed else options.get('depth', 1)
        found += [f'{stage}.{block}' for block in range(math.ceil(row.get('depth', 1) * factor))]
    return dict(enumerate(found))
