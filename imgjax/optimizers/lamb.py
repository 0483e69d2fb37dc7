"""Adam whose update is scaled per layer to the norm of the parameters. https://arxiv.org/abs/1904.00962

Where a scan stacked several layers in one array, each layer is scaled by itself.
"""

import jax
import optax

from imgjax.optimizers.parts import adam, decay

HPARAMS = adam.HPARAMS


def transform(options, hparams, learning_rate, decay_mask):
    return optax.chain(
        adam.direction(hparams),
        optax.add_decayed_weights(hparams['weight_decay'], decay_mask),
        _trust_ratio(),
        optax.scale_by_learning_rate(learning_rate))


def _trust_ratio():
    """Returns optax's scale_by_trust_ratio, applied to each layer also where layers are stacked."""
    layer = optax.scale_by_trust_ratio()

    def update(updates, params):
        def one(path, update, param):
            def scale(update, param):
                return layer.update(update, layer.init(param), param)[0]
            return (jax.vmap(scale) if decay.layer_axes(path) else scale)(update, param)
        return jax.tree_util.tree_map_with_path(one, updates, params)

    return optax.stateless(update)
