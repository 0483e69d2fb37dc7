"""EfficientNets, those of timm and those with TensorFlow's padding, and the Lite ones."""

from imgjax.models.parts import mbconv

# Blocks, kernel, stride, expansion and channels of every stage (table 1 of the paper).
STAGES = tuple(
    ({'block': 'inverted' if expand > 1 else 'separable', 'depth': depth, 'kernel': kernel,
      'strides': strides, 'expand': expand, 'features': features, 'ratio': 0.25},)
    for depth, kernel, strides, expand, features in (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )
)
# Width, depth, channels of the stem and of the hidden layer.
_SIZES = {
    'b0': (1.0, 1.0, 32, 1280),
    'b1': (1.0, 1.1, 32, 1280),
    'b2': (1.1, 1.2, 32, 1408),
    'b3': (1.2, 1.4, 40, 1536),
    'b4': (1.4, 1.8, 48, 1792),
    'b5': (1.6, 2.2, 48, 2048),
    'b6': (1.8, 2.6, 56, 2304),
    'b7': (2.0, 3.1, 64, 2560),
    'lite0': (1.0, 1.0, 32, 1280),
    'lite1': (1.0, 1.1, 32, 1280),
    'lite2': (1.1, 1.2, 32, 1280),
    'lite3': (1.2, 1.4, 32, 1280),
    'lite4': (1.4, 1.8, 32, 1280),
}
_LITE = {'se': 'none', 'act': 'relu6', 'fixed_ends': True}
_TF = {'padding': 'same', 'epsilon': 1e-3}
VARIANTS = {
    f'{prefix}efficientnet_{size}': {
        'width': width, 'depth': depth, 'stem': stem, 'head': head,
        **(_LITE if 'lite' in size else {}), **more}
    for prefix, more in (('', {}), ('tf_', _TF))
    for size, (width, depth, stem, head) in _SIZES.items()
} | {
    'tiny_efficientnet': {
        'stem': 8, 'head': 16,
        'stages': (({'block': 'separable', 'features': 8, 'ratio': 0.5},),
                   ({'block': 'inverted', 'depth': 2, 'kernel': 5, 'strides': 2, 'expand': 2,
                     'features': 16, 'ratio': 0.5},))},
}
RENAMES = {'head': 'classifier'}


class Model(mbconv.Net):
    """EfficientNet (Tan and Le 2019, arXiv:1905.11946).

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      stages: the table of the blocks, see ``parts.mbconv``.
      stem: channels of the first convolution, not scaled by ``width``.
      head: width of the 1x1 convolution before pooling, not scaled by ``width``; 0 for none.
      width: factor of the channels of the stages, which are rounded to multiples of 8.
      depth: factor of the depths of the stages, which are rounded up.
      fixed_ends: whether the first and the last stage keep their depths.
      se: squeeze-and-excitation: its width is a quarter of the block's 'input' width or of the
        'expanded' width (as in MobileNetV3); 'none' for none.
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
    se: str = 'input'
    drop_path: float = 0.0
    act: str = 'silu'
