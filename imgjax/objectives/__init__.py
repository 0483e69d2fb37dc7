"""Objectives: what a step minimises, one file each.

An objective is a file of this folder, or of the user's `projects/` folder, with

    def loss(params, inputs: Inputs) -> Loss       returns the loss of each example; the only
                                                   function that is required
    def evaluate(logits_NK, targets_NK, hparams, options) -> losses_N
                                                   returns the loss column of an evaluation; without
                                                   this function it is the cross-entropy, without
                                                   label smoothing and class weights
    def init(params, batch_stats, key, options) -> extra
                                                   returns the initial TrainState.extra, such as a
                                                   momentum encoder, a queue or a centre
    def constants(options, num_classes, image_shape) -> pytree of NumPy arrays
                                                   returns arrays that never change, such as the
                                                   weights of a frozen teacher
    def after(extra, params, batch_stats, hparams) -> extra
                                                   is called after each update, with the updated
                                                   parameters
    def gradient(value_and_grad, params, hparams) -> ((loss, aux), grads)
                                                   is called in place of value_and_grad(params), and
                                                   may call that several times; each call computes
                                                   the gradient of the whole batch, accumulated and
                                                   summed over the devices

    HPARAMS = {'rho': Field(float, 0, default=0.05)}   numbers in config.hparams, which are traced
    OPTIONS = {'queue': Field(int, 0, default=256)}    config.objective.options, which is structure
    MEASURES = ('accuracy',)                           the names in Loss.measures
    VIEWS = 2                                          number of augmented views per image; 1 if it
                                                       is not defined
    VIEWS_DIFFER_IN = ('augmix',)                      operations of config.augment that differ
                                                       between the views and are not applied to the
                                                       first view; all other operations are the same
                                                       in all views. If it is not defined, every
                                                       operation differs
    MULTI_LABEL = True                                 images may have several labels

All functions but `constants` are pure and run under jit, vmap and shardings; `constants` runs once,
outside of jit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Inputs(NamedTuple):
    """What the loss of a batch may depend on; with accumulation, of one part of the batch.

    Attributes:
      apply: applies the model: (params, images_NHWC, batch_stats=None, train=True, key=None) ->
        ((logits_NK, out), batch_stats). None takes the `batch_stats` and the `key` of this tuple.
        No gradient flows to the parameters that config.optimizer.freeze names.
      batch: image, float32 (N, V, H, W, C), V normalised views; target, float32 (N, K); weight,
        float32 (N,), 0 for an image that could not be read, with mean 1 over the whole batch.
      batch_stats: the statistics of the model's BatchNorm; {} without BatchNorm.
      extra: what `init`, or `loss` for the part of the batch before this one, returned as `extra`.
      constants: what `constants` returned; {} where the objective does not define it.
      hparams: all of config.hparams as arrays: scalars, `class_weights` (K,) or (0,), and the dict
        `augment` of scalars.
      options: the options of the objective.
      key: the random key of dropout, another one for each step and each part of the batch.
      mean: float32 (C,), what the images were normalised with, in levels of a pixel (0 to 255): a
        pixel is image * std + mean.
      std: float32 (C,), likewise.
    """

    apply: Callable
    batch: dict[str, jax.Array]
    batch_stats: Any
    extra: Any
    constants: Any
    hparams: dict[str, Any]
    options: dict[str, Any]
    key: jax.Array
    mean: jax.Array
    std: jax.Array


class Loss(NamedTuple):
    """What the `loss` of an objective returns for a batch.

    Attributes:
      losses_N: float32, the loss of each example; the step minimises their weighted mean.
      measures: {name: float32 (N,)}, logged as weighted means; the names are those of MEASURES.
      batch_stats: the updated statistics that the model returned.
      extra: the `extra` that the next part of the batch, or the next step, is given.
    """

    losses_N: jax.Array
    measures: dict[str, jax.Array]
    batch_stats: Any
    extra: Any
