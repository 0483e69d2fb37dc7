"""Optimizers: how a gradient changes the parameters, one file each.

An optimizer is a file of this folder, or of the user's `projects/` folder, with

    def transform(options, hparams, learning_rate, decay_mask) -> optax transformation
                            is required. The transformation is complete: its updates are added to
                            the parameters, with learning rate and sign. `decay_mask` is a mask in
                            optax's sense: config.optimizer.decay_mask chooses the parameters that
                            weight decay applies to
    def eval_params(opt_state, params) -> params
                            returns the parameters that are evaluated and exported in place of the
                            trained ones

and with HPARAMS and OPTIONS, which are declared as for an objective (imgjax/objectives). Every
other name is that of an optimizer of optax or optax.contrib, whose numbers have optax's names
(`parts/from_optax.py`).

The transformation is built inside the step from traced numbers, so that one compiled step serves
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
    """Returns the optimizer that config.optimizer names; it is cheap and is built inside the step.

    The gradients are clipped to the global norm hparams['clip_norm'] (0: no clipping) and then
    given to the named optimizer.

    Args:
      config: config.optimizer.
      hparams: dict of scalars, traced or not: clip_norm and the numbers of the optimizer.
      learning_rate: scalar, traced or not.

    Returns:
      a transformation whose `update` needs the parameters. The structure of its state depends on
      config and parameters only, so that `init` may be called with any hparams.
    """
    part = parts_lib.find('optimizer', config.name)
    rate = jnp.asarray(learning_rate, jnp.float32)
    mask = decay.mask(config.decay_mask)
    # optax leaves out a transformation whose number is a Python 0.0; with arrays it never does, so
    # that the state has the same structure for all hparams.
    numbers = {name: jnp.asarray(hparams[name], jnp.float32) for name in parts_lib.hparams_of(part)}
    return _promoting(optax.chain(
        _clip(jnp.asarray(hparams['clip_norm'], jnp.float32)),
        part.transform(config.options, numbers, rate, mask)))


def eval_params(config: Config, opt_state, params):
    """Returns the parameters that are evaluated: params, or what the optimizer's eval_params gives.

    Args:
      config: config.optimizer.
      opt_state: the state of the optimizer; () for weights that were not trained here, which are
        evaluated as they are.
      params: the trained parameters.
    """
    part = parts_lib.find('optimizer', config.name)
    if not hasattr(part, 'eval_params') or opt_state == ():
        return params
    return part.eval_params(opt_state[1], params)


def _promoting(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    # optax needs type and rank promotion; all other code runs in the strict modes of the caller.
    tx = optax.with_extra_args_support(tx)

    def init(params):
        with from_optax.relaxed():
            return tx.init(params)

    def update(grads, state, params=None, **extra):
        with from_optax.relaxed():
            return tx.update(grads, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)


def _clip(clip_norm) -> optax.GradientTransformation:
    # Infinity, and not a large number, means "off": with a number, a gradient whose norm overflows
    # would silently become 0.
    return optax.clip_by_global_norm(jnp.where(clip_norm > 0.0, clip_norm, jnp.inf))
