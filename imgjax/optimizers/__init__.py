"""Optimizers: how a gradient changes the parameters, one file each.

An optimizer is a file of this folder, or of the user's `projects/` folder, with

    def transform(options, hparams, learning_rate, decay_mask) -> optax transformation
                            complete, sign included; `decay_mask` is what optax calls a mask of the
                            parameters that decay, by config.optimizer.decay_mask
    def eval_params(opt_state, params) -> params
                            what is evaluated and exported in place of the parameters that train

and HPARAMS and OPTIONS as of an objective (imgjax/objectives). Every other name is one of optax or
optax.contrib, with optax's names of its numbers (`parts/from_optax.py`).

The transformation is built inside of the step from traced numbers, so one compiled step serves
every value, and `vmap` over the hparams trains several runs at once. Its update gets optax's extra
arguments `value` (the loss), `grad`, `value_fn` and `obj_fn` (params -> loss of the batch) and
`grad_fn` (params -> gradient of the batch).
"""

import jax.numpy as jnp
import optax

from imgjax import parts as parts_lib
from imgjax.config import Config
from imgjax.optimizers.parts import decay, from_optax


def optimizer(config: Config, hparams: dict,
              learning_rate) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer that config.optimizer names; cheap, meant to be built in the step.

    The gradients are clipped by their global norm, hparams['clip_norm'] (0: no clipping), then go
    through the named optimizer.

    Args:
      config: config.optimizer.
      hparams: dict of scalars, traced or not: clip_norm and those of the optimizer.
      learning_rate: scalar, traced or not.

    Returns:
      a transformation whose `update` needs the parameters. The state is a pytree whose structure
      depends on config and parameters only, so any hparams serve for `init`.
    """
    part = parts_lib.find('optimizer', config.name)
    rate = jnp.asarray(learning_rate, jnp.float32)
    mask = decay.mask(config.decay_mask)
    # optax skips what is a Python 0.0; arrays make all hparams the same to it.
    numbers = {name: jnp.asarray(hparams[name], jnp.float32) for name in parts_lib.hparams_of(part)}
    return _promoting(optax.chain(
        _clip(jnp.asarray(hparams['clip_norm'], jnp.float32)),
        part.transform(config.options, numbers, rate, mask)))


def eval_params(config: Config, opt_state, params):
    """Returns the parameters that are evaluated: those that train, or what the optimizer says.

    Weights that were not trained here have no state of an optimizer, (), and are evaluated as they
    are.
    """
    part = parts_lib.find('optimizer', config.name)
    if not hasattr(part, 'eval_params') or opt_state == ():
        return params
    return part.eval_params(opt_state[1], params)


def _promoting(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    # The caller's strict modes hold everywhere else.
    tx = optax.with_extra_args_support(tx)

    def init(params):
        with from_optax.relaxed():
            return tx.init(params)

    def update(grads, state, params=None, **extra):
        with from_optax.relaxed():
            return tx.update(grads, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)


def _clip(clip_norm) -> optax.GradientTransformation:
    # Not a large number for "off": a gradient whose norm overflows would silently become 0.
    return optax.clip_by_global_norm(jnp.where(clip_norm > 0.0, clip_norm, jnp.inf))
