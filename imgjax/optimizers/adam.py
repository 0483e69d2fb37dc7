"""Adam; weight decay is added to the gradient. https://arxiv.org/abs/1412.6980"""

import optax

from imgjax.optimizers.parts import adam

HPARAMS = adam.HPARAMS


def transform(options, hparams, learning_rate, decay_mask):
    return optax.chain(
        optax.add_decayed_weights(hparams['weight_decay'], decay_mask),
        adam.direction(hparams),
        optax.scale_by_learning_rate(learning_rate))
