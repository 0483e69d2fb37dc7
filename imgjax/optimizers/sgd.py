"""Stochastic gradient descent with momentum; weight decay is added to the gradient."""

import optax

from imgjax.config import Field
from imgjax.optimizers.parts import decay

HPARAMS = decay.HPARAMS | {
    'momentum': Field(float, 0, 1, default=0.9, help='share of the update before that is added; 0 '
        'is plain SGD')}
OPTIONS = {'nesterov': Field(bool, default=True, help='use Nesterov momentum')}


def transform(options, hparams, learning_rate, decay_mask):
    return optax.chain(
        optax.add_decayed_weights(hparams['weight_decay'], decay_mask),
        optax.trace(hparams['momentum'], nesterov=options['nesterov']),
        optax.scale_by_learning_rate(learning_rate))
