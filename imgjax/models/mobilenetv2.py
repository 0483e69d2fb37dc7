"""MobileNetV2 of inverted residuals."""

from imgjax.models.parts import mbconv


def _table(*rows) -> tuple:
    return tuple(
        ({'block': 'inverted' if expand > 1 else 'separable', 'expand': expand, 'depth': depth,
          'features': features, 'strides': strides},)
        for expand, features, depth, strides in rows)


# Expansion, channels, blocks and stride of every stage (table 2 of the paper).
STAGES = _table(
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
VARIANTS = {
    'mobilenetv2_035': {'width': 0.35, 'stem': 16},
    'mobilenetv2_050': {'width': 0.5, 'stem': 16},
    'mobilenetv2_075': {'width': 0.75, 'stem': 24},
    'mobilenetv2_100': {},
    'mobilenetv2_140': {'width': 1.4, 'stem': 48, 'head': 1792},
    'mobilenetv2_110d': {'width': 1.1, 'depth': 1.2, 'fixed_ends': True},
    'mobilenetv2_120d': {'width': 1.2, 'depth': 1.4, 'fixed_ends': True},
    'tiny_mobilenetv2': {'stem': 8, 'head': 32, 'stages': _table((1, 8, 1, 1), (4, 16, 2, 2))},
}
RENAMES = {'head': 'classifier'}


class Model(mbconv.Net):
    """MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381).

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      stages: the table of the blocks, see ``parts.mbconv``.
      stem: channels of the first convolution, not scaled by ``width``.
      head: width of the 1x1 convolution before pooling, not scaled by ``width``; 0 for none.
      width: factor of the channels of the stages, which are rounded to multiples of 8.
      depth: factor of the depths of the stages, which are rounded up.
      fixed_ends: whether the first and the last stage keep their depths.
      padding: 'torch', equal on both sides, or 'same', TensorFlow's, which differs at stride 2.
      epsilon: added to the variance in the norms.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    stages: tuple = STAGES
    depth: float = 1.0
    fixed_ends: bool = False
    drop_path: float = 0.0
    act: str = 'relu6'
