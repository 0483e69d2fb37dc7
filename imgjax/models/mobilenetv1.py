"""MobileNet of depthwise separable convolutions, without shortcuts."""

from imgjax.models.parts import mbconv


def _table(*rows) -> tuple:
    return tuple(
        ({'block': 'separable', 'depth': depth, 'strides': strides, 'features': features,
          'last_act': True, 'shortcut': False},)
        for depth, strides, features in rows)


# Blocks, stride and channels of every stage (table 1 of the paper).
STAGES = _table((1, 1, 64), (2, 2, 128), (2, 2, 256), (6, 2, 512), (2, 2, 1024))
VARIANTS = {
    'mobilenetv1_100': {},
    'mobilenetv1_100h': {'head': 1024},
    'mobilenetv1_125': {'width': 1.25, 'stem': 40},
    'tiny_mobilenetv1': {'stem': 8, 'stages': _table((1, 1, 16), (1, 2, 32))},
}
RENAMES = {'head': 'classifier'}


class Model(mbconv.Net):
    """MobileNet (Howard et al. 2017, arXiv:1704.04861).

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      stages: the table of the blocks, see ``parts.mbconv``.
      stem: channels of the first convolution, not scaled by ``width``.
      head: width of a 1x1 convolution before pooling; 0 for none, as in the paper.
      width: factor of the channels of the stages, which are rounded to multiples of 8.
      padding: 'torch', equal on both sides, or 'same', TensorFlow's, which differs at stride 2.
      epsilon: added to the variance in the norms.
      dropout: rate before the head.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    stages: tuple = STAGES
    head: int = 0
    act: str = 'relu6'
