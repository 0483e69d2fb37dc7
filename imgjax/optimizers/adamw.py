"""Adam with decoupled weight decay. https://arxiv.org/abs/1711.05101"""

import optax

from imgjax.optimizers.parts import adam

HPARAMS = adam.HPARAMS


def transform(options, hparams, learning_rate, decay_mask):
    return optax.chain(
        adam.direction(hparams),
        optax.add_decayed_weights(hparams['weight_decay'], decay_mask),
        optax.scale_by_learning_rate(learning_rate))
