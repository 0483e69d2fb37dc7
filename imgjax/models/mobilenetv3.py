"""MobileNetV3, large and small, found by search: its hidden layer follows the pooling."""

from imgjax.models.parts import mbconv


def _table(*stages) -> tuple:
    return tuple(
        tuple({'block': block, 'depth': depth, 'kernel': kernel, 'strides': strides,
               'expand': expand, 'features': features, 'ratio': ratio, 'act': act}
              for block, depth, kernel, strides, expand, features, ratio, act in rows)
        for rows in stages)


# A stage is a list of rows: block, number of blocks, kernel, strides, expansion, channels, squeeze-
# and-excitation and activation (tables 1 and 2 of the paper).
_LARGE = _table(
    [('separable', 1, 3, 1, 1, 16, 0, 'relu')],
    [('inverted', 1, 3, 2, 4, 24, 0, 'relu'),
     ('inverted', 1, 3, 1, 3, 24, 0, 'relu')],
    [('inverted', 3, 5, 2, 3, 40, 0.25, 'relu')],
    [('inverted', 1, 3, 2, 6, 80, 0, 'hardswish'),
     ('inverted', 1, 3, 1, 2.5, 80, 0, 'hardswish'),
     ('inverted', 2, 3, 1, 2.3, 80, 0, 'hardswish')],
    [('inverted', 2, 3, 1, 6, 112, 0.25, 'hardswish')],
    [('inverted', 3, 5, 2, 6, 160, 0.25, 'hardswish')],
    [('plain', 1, 1, 1, 1, 960, 0, 'hardswish')],
)
_SMALL = _table(
    [('separable', 1, 3, 2, 1, 16, 0.25, 'relu')],
    [('inverted', 1, 3, 2, 4.5, 24, 0, 'relu'),
     ('inverted', 1, 3, 1, 3.67, 24, 0, 'relu')],
    [('inverted', 1, 5, 2, 4, 40, 0.25, 'hardswish'),
     ('inverted', 2, 5, 1, 6, 40, 0.25, 'hardswish')],
    [('inverted', 2, 5, 1, 3, 48, 0.25, 'hardswish')],
    [('inverted', 3, 5, 2, 6, 96, 0.25, 'hardswish')],
    [('plain', 1, 1, 1, 1, 576, 0, 'hardswish')],
)
_TINY = _table(
    [('separable', 1, 3, 1, 1, 8, 0, 'relu')],
    [('inverted', 2, 5, 2, 3, 16, 0.25, 'hardswish')],
)
_SIZES = {
    'large_075': {'stages': _LARGE, 'width': 0.75},
    'large_100': {'stages': _LARGE},
    'small_050': {'stages': _SMALL, 'width': 0.5, 'head': 1024},
    'small_075': {'stages': _SMALL, 'width': 0.75, 'head': 1024},
    'small_100': {'stages': _SMALL, 'head': 1024},
}
_TF = {'padding': 'same', 'epsilon': 1e-3}
VARIANTS = {
    **{f'mobilenetv3_{size}': options for size, options in _SIZES.items()},
    **{f'tf_mobilenetv3_{size}': {**options, **_TF}
       for size, options in _SIZES.items() if size != 'small_050'},
    'tiny_mobilenetv3': {'stages': _TINY, 'stem': 8, 'head': 32},
}
RENAMES = {'head': 'classifier'}


class Model(mbconv.Net):
    """MobileNetV3 (Howard et al. 2019, arXiv:1905.02244).

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      stages: the table of the blocks, see ``parts.mbconv``.
      stem: channels of the first convolution, not scaled by ``width``.
      head: width of the hidden layer after pooling, not scaled by ``width``; 0 for none.
      width: factor of the channels of the stages, which are rounded to multiples of 8.
      se: squeeze-and-excitation where the table has it: 'expanded', a quarter of the expanded width
        and a hard sigmoid, 'input', EfficientNet's form with the input's width, or 'none'.
      padding: 'torch', equal on both sides, or 'same', TensorFlow's, which differs at stride 2.
      epsilon: added to the variance in the norms.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``; None for those of the paper: the table's, relu in
        the squeeze-and-excitation and hardswish elsewhere.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    stages: tuple = _LARGE
    stem: int = 16
    se: str = 'expanded'
    drop_path: float = 0.0
    act: str | None = None

    hidden = 'pooled'
