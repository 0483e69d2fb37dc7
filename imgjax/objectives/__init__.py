"""Objectives: what a step minimises, one file each.

An objective is a file of this folder, or of the user's `projects/` folder, with

    def loss(params, inputs: Inputs) -> Loss       the loss of each example; the only one required
    def evaluate(logits_NK, targets_NK, hparams, options) -> losses_N
                                                   the loss column of an evaluation; without it that
                                                   is cross-entropy, without smoothing or weights
    def init(params, batch_stats, key, options) -> extra
                                                   what TrainState.extra begins with: a momentum
                                                   encoder, a queue, a centre
    def constants(options, num_classes, image_shape) -> pytree of NumPy arrays
                                                   what never changes, as a frozen teacher's weights
    def after(extra, params, batch_stats, hparams) -> extra
                                                   called with the updated parameters
    def gradient(value_and_grad, params, hparams) -> ((loss, aux), grads)
                                                   in place of value_and_grad(params), which is of
                                                   the whole batch, accumulated and summed over the
                                                   devices; it may be called several times

    HPARAMS = {'rho': Field(float, 0, default=0.05)}   numbers in config.hparams, which are traced
    OPTIONS = {'queue': Field(int, 0, default=256)}    config.objective.options, which is structure
    MEASURES = ('accuracy',)                           the names in Loss.measures
    VIEWS = 2                                          augmented views of an image, 1 without it
    VIEWS_DIFFER_IN = ('augmix',)                      the operations of config.augment that differ
                                                       between views, and leave the first one as it
                                                       is; without it every operation differs
    MULTI_LABEL = True                                 where an image may have several labels

Everything in it is pure and runs under jit, vmap and shardings.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Inputs(NamedTuple):
    """What the loss of a batch, or of a part of an accumulated one, may depend on.

    Attributes:
      apply: (params, images_NHWC, batch_stats=None, train=True, key=None) ->
        ((logits_NK, out), batch_stats): the model. None takes `batch_stats` and `key` of here, and
        gradients stop at the parameters that config.optimizer.freeze names.
      batch: image, float32 (N, V, H, W, C), V normalised views; target, float32 (N, K); weight,
        float32 (N,), 0 for an image that could not be read, with mean 1 over the whole batch.
      batch_stats: of the model, {} without BatchNorm.
      extra: of the objective, as `init` or the part of the batch before returned it.
      constants: as `constants` returned them, {} without.
      hparams: dict of scalars, all numbers of config.hparams.
      options: of the objective.
      key: for dropout, of this step and part of the batch.
    """

    apply: Callable
    batch: dict[str, jax.Array]
    batch_stats: Any
    extra: Any
    constants: Any
    hparams: dict[str, Any]
    options: dict[str, Any]
    key: jax.Array


class Loss(NamedTuple):
    """What an objective says of a batch.

    Attributes:
      losses_N: float32, the loss of each example; the step takes their mean, weighted.
      measures: float32 (N,) by name, logged as weighted means; the names are MEASURES.
      batch_stats: as the model leaves them.
      extra: as the next part of the batch, or the next step, finds it.
    """

    losses_N: jax.Array
    measures: dict[str, jax.Array]
    batch_stats: Any
    extra: Any
