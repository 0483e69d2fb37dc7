"""MnasNets, found by search: B1, A1 (with squeeze-and-excitation) and the small one."""

from imgjax.models.parts import mbconv


def _table(*rows) -> tuple:
    return tuple(
        ({'block': 'inverted' if expand > 1 else 'separable', 'depth': depth, 'kernel': kernel,
          'strides': strides, 'expand': expand, 'features': features, 'ratio': ratio},)
        for depth, kernel, strides, expand, features, ratio in rows)


# Blocks, kernel, stride, expansion, channels and squeeze-and-excitation of every stage.
_B1 = _table(
    (1, 3, 1, 1, 16, 0),
    (3, 3, 2, 3, 24, 0),
    (3, 5, 2, 3, 40, 0),
    (3, 5, 2, 6, 80, 0),
    (2, 3, 1, 6, 96, 0),
    (4, 5, 2, 6, 192, 0),
    (1, 3, 1, 6, 320, 0),
)
_A1 = _table(
    (1, 3, 1, 1, 16, 0),
    (2, 3, 2, 6, 24, 0),
    (3, 5, 2, 3, 40, 0.25),
    (4, 3, 2, 6, 80, 0),
    (2, 3, 1, 6, 112, 0.25),
    (3, 5, 2, 6, 160, 0.25),
    (1, 3, 1, 6, 320, 0),
)
_SMALL = _table(
    (1, 3, 1, 1, 8, 0),
    (1, 3, 2, 3, 16, 0),
    (2, 3, 2, 6, 16, 0),
    (4, 5, 2, 6, 32, 0.25),
    (3, 3, 1, 6, 32, 0.25),
    (3, 5, 2, 6, 88, 0.25),
    (1, 3, 1, 6, 144, 0),
)
_TINY = _table((1, 3, 1, 1, 8, 0), (2, 5, 2, 3, 16, 0.5))
VARIANTS = {
    f'{prefix}mnasnet_{size}': {'stages': stages, 'width': width, 'stem': stem}
    for prefix, stages in (('', _B1), ('se', _A1))
    for size, width, stem in (
        ('050', 0.5, 16), ('075', 0.75, 24), ('100', 1.0, 32), ('140', 1.4, 48))
} | {
    'mnasnet_small': {'stages': _SMALL, 'stem': 8},
    'tiny_mnasnet': {'stages': _TINY, 'stem': 8, 'head': 16},
}
RENAMES = {'head': 'classifier'}


class Model(mbconv.Net):
    """MnasNet (Tan et al. 2018, arXiv:1807.11626).

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      stages: the table of the blocks, see ``parts.mbconv``.
      stem: channels of the first convolution, not scaled by ``width``.
      head: width of the 1x1 convolution before pooling, not scaled by ``width``; 0 for none.
      width: factor of the channels of the stages, which are rounded to multiples of 8.
      se: squeeze-and-excitation where the table has it: its width is a quarter of the block's
        'input' width or of the 'expanded' width (as in MobileNetV3); 'none' for none.
      padding: 'torch', equal on both sides, or 'same', TensorFlow's, which differs at stride 2.
      epsilon: added to the variance in the norms.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    stages: tuple = _B1
    se: str = 'input'
    drop_path: float = 0.0
    act: str = 'relu'
