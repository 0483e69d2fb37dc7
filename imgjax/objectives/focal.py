"""Focal loss: the binary cross-entropy of each class times (1 - p)^gamma, summed over the classes.

p is the probability that the model gives to the right answer, present or absent, for a class. With
gamma 0 the loss is that of `sigmoid`. An image may have several labels. Lin et al., `Focal Loss for
Dense Object Detection <https://arxiv.org/abs/1708.02002>`_, 2017.
"""

import functools

import jax
import optax

from imgjax.config import Field
from imgjax.objectives import Inputs, Loss
from imgjax.objectives.parts import classification

HPARAMS = classification.HPARAMS | {
    'focal_gamma': Field(float, 0, default=2.0, help='the exponent gamma of the focal loss')}
MEASURES = classification.MEASURES
MULTI_LABEL = True


def loss(params, inputs: Inputs) -> Loss:
    return classification.loss(params, inputs, functools.partial(
        focal, gamma=inputs.hparams['focal_gamma']))


def evaluate(logits_NK, targets_NK, hparams, options):
    return focal(logits_NK, targets_NK, gamma=hparams['focal_gamma'])


def focal(logits_NK: jax.Array, targets_NK: jax.Array, weights_1K=1.0, *, gamma) -> jax.Array:
    """Returns the focal loss, float32 (N,).

    Args:
      logits_NK: float.
      targets_NK: float, 1 for each label of an image.
      weights_1K: a factor per class, or 1.0.
      gamma: scalar of at least 0, traced or not.
    """
    terms_NK = optax.losses.sigmoid_focal_loss(logits_NK, targets_NK, gamma=gamma)
    return (terms_NK * weights_1K).sum(axis=-1)
