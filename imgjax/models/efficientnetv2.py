"""EfficientNetV2, its base form for small images, and timm's first readings of the paper."""

from imgjax.models.parts import mbconv


def _table(*rows) -> tuple:
    return tuple(
        ({'block': block, 'depth': depth, 'strides': strides, 'expand': expand,
          'features': features, 'ratio': 0.25 if block == 'inverted' else 0.0,
          'shortcut': True},)
        for block, depth, strides, expand, features in rows)


# Block, number of blocks, strides, expansion and channels of each stage (for S table 4).
_S = _table(
    ('plain', 2, 1, 1, 24),
    ('fused', 4, 2, 4, 48),
    ('fused', 4, 2, 4, 64),
    ('inverted', 6, 2, 4, 128),
    ('inverted', 9, 1, 6, 160),
    ('inverted', 15, 2, 6, 256),
)
_RW_S = _table(
    ('fused', 2, 1, 1, 24),
    ('fused', 4, 2, 4, 48),
    ('fused', 4, 2, 4, 64),
    ('inverted', 6, 2, 4, 128),
    ('inverted', 9, 1, 6, 160),
    ('inverted', 15, 2, 6, 272),
)
_RW_M = _table(
    ('fused', 3, 1, 1, 24),
    ('fused', 5, 2, 4, 48),
    ('fused', 5, 2, 4, 64),
    ('inverted', 8, 2, 4, 128),
    ('inverted', 15, 1, 6, 160),
    ('inverted', 24, 2, 6, 272),
)
_M = _table(
    ('plain', 3, 1, 1, 24),
    ('fused', 5, 2, 4, 48),
    ('fused', 5, 2, 4, 80),
    ('inverted', 7, 2, 4, 160),
    ('inverted', 14, 1, 6, 176),
    ('inverted', 18, 2, 6, 304),
    ('inverted', 5, 1, 6, 512),
)
_L = _table(
    ('plain', 4, 1, 1, 32),
    ('fused', 7, 2, 4, 64),
    ('fused', 7, 2, 4, 96),
    ('inverted', 10, 2, 4, 192),
    ('inverted', 19, 1, 6, 224),
    ('inverted', 25, 2, 6, 384),
    ('inverted', 7, 1, 6, 640),
)
_BASE = _table(
    ('plain', 1, 1, 1, 16),
    ('fused', 2, 2, 4, 32),
    ('fused', 2, 2, 4, 48),
    ('inverted', 3, 2, 4, 96),
    ('inverted', 5, 1, 6, 112),
    ('inverted', 8, 2, 6, 192),
)
_TINY = _table(('plain', 1, 1, 1, 8), ('fused', 1, 2, 2, 16), ('inverted', 2, 2, 2, 16))
_SML = {
    's': {'stages': _S, 'stem': 24},
    'm': {'stages': _M, 'stem': 24},
    'l': {'stages': _L, 'stem': 32},
}
_TF = {'padding': 'same', 'epsilon': 1e-3}
_B = {'stages': _BASE, 'stem': 32, 'share': 0.0, **_TF}
VARIANTS = {
    **{f'efficientnetv2_{size}': options for size, options in _SML.items()},
    **{f'tf_efficientnetv2_{size}': {**options, **_TF} for size, options in _SML.items()},
    'tf_efficientnetv2_b0': _B,
    'tf_efficientnetv2_b1': {**_B, 'depth': 1.1},
    'tf_efficientnetv2_b2': {**_B, 'width': 1.1, 'depth': 1.2, 'head': 1408},
    'tf_efficientnetv2_b3': {**_B, 'width': 1.2, 'depth': 1.4, 'head': 1536, 'stem': 40},
    'efficientnetv2_rw_t': {'stages': _S, 'stem': 24, 'width': 0.8, 'depth': 0.9, 'head': 1024},
    'efficientnetv2_rw_s': {'stages': _RW_S, 'stem': 24, 'head': 1792},
    'efficientnetv2_rw_m': {'stages': _RW_M, 'stem': 32, 'width': 1.2, 'head': 2152},
    'tiny_efficientnetv2': {'stages': _TINY, 'stem': 8, 'head': 16},
}
RENAMES = {'head': 'classifier'}


class Model(mbconv.Net):
    """EfficientNetV2 (Tan and Le 2021, arXiv:2104.00298).

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      stages: the table of the blocks, see ``parts.mbconv``.
      stem: channels of the first convolution, not scaled by ``width``.
      head: width of the 1x1 convolution before pooling, not scaled by ``width``; 0 for none.
      width: factor of the channels of the stages, which are rounded to multiples of 8.
      share: a number of channels is rounded up where the nearest multiple of 8 is less than this
        share of it.
      depth: factor of the depths of the stages, which are rounded up.
      se: squeeze-and-excitation of the inverted residuals: its width is a quarter of the block's
        'input' width or of the 'expanded' width (as in MobileNetV3); 'none' for none.
      padding: 'torch', equal on both sides, or 'same', TensorFlow's, which differs at stride 2.
      epsilon: added to the variance in the norms.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    stages: tuple = _S
    stem: int = 24
    share: float = 0.9
    depth: float = 1.0
    se: str = 'input'
    drop_path: float = 0.0
    act: str = 'silu'
