"""Poly-1 loss: cross-entropy plus poly_epsilon * (1 - p), where p is the label's probability.

Leng et al., `PolyLoss <https://arxiv.org/abs/2204.12511>`_, 2022, the loss L_Poly-1. Cross-entropy
is a sum of powers of 1 - p; this changes the factor of the first power and keeps the others. The
paper takes 2 on ImageNet and -1 for detection; 0 is cross-entropy.

    python -m launch.train --config=configs/digits.py --config.objective.name=projects.poly \\
        --config.hparams.poly_epsilon=2 --workdir=runs/poly
"""

import functools

import jax
import optax

from imgjax.config import Field
from imgjax.objectives import Inputs, Loss
from imgjax.objectives.parts import classification

HPARAMS = classification.HPARAMS | {
    'poly_epsilon': Field(float, -1, default=2.0, help='added to the factor of 1 - p')}
MEASURES = classification.MEASURES


def loss(params, inputs: Inputs) -> Loss:
    return classification.loss(params, inputs, functools.partial(
        poly, epsilon=inputs.hparams['poly_epsilon']))


def evaluate(logits_NK, targets_NK, hparams, options):
    return poly(logits_NK, targets_NK, epsilon=hparams['poly_epsilon'])


def poly(logits_NK: jax.Array, targets_NK: jax.Array, weights_1K=1.0, *, epsilon) -> jax.Array:
    """Returns the loss of each example, float32 (N,); `epsilon` is a scalar, traced or not."""
    return optax.losses.poly_loss_cross_entropy(
        logits_NK, targets_NK * weights_1K, epsilon=epsilon)
