"""The sign of a running mean of the gradient, with decoupled weight decay. https://arxiv.org/abs/2302.06675"""

import optax

from imgjax.optimizers.parts import adam, decay

HPARAMS = decay.HPARAMS | {name: adam.HPARAMS[name] for name in ('b1', 'b2')}


def transform(options, hparams, learning_rate, decay_mask):
    return optax.chain(
        optax.scale_by_lion(hparams['b1'], hparams['b2']),
        optax.add_decayed_weights(hparams['weight_decay'], decay_mask),
        optax.scale_by_learning_rate(learning_rate))
