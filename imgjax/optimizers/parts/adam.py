"""Code that the optimizers with Adam's two moments share."""

import optax

from imgjax.config import Field
from imgjax.optimizers.parts import decay

HPARAMS = decay.HPARAMS | {
    'b1': Field(float, 0, 1, default=0.9, help='decay of the running mean of the gradient'),
    'b2': Field(float, 0, 1, default=0.999, help='decay of the running mean of the '
        'squared gradient'),
    'eps': Field(float, 0, default=1e-8, help='added to the square root of that second '
        'mean, which the update is divided by'),
}


def direction(hparams: dict) -> optax.GradientTransformation:
    """Returns Adam's transformation of a gradient, without learning rate and sign."""
    return optax.scale_by_adam(hparams['b1'], hparams['b2'], hparams['eps'])
