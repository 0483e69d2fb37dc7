"""What the optimizers with Adam's moments share."""

import optax

from imgjax.config import Field
from imgjax.optimizers.parts import decay

HPARAMS = decay.HPARAMS | {
    'b1': Field(float, 0, 1, default=0.9, help='decay of the mean of the gradient'),
    'b2': Field(float, 0, 1, default=0.999, help='decay of the mean of its square'),
    'eps': Field(float, 0, default=1e-8, help='added to the root of the mean of the square'),
}


def direction(hparams: dict) -> optax.GradientTransformation:
    """Returns Adam's transformation of a gradient, before learning rate and sign."""
    return optax.scale_by_adam(hparams['b1'], hparams['b2'], hparams['eps'])
