"""Cross-entropy of a softmax over the classes, with soft targets; each image has one label."""

from imgjax.objectives import Inputs, Loss
from imgjax.objectives.parts import classification

HPARAMS = classification.HPARAMS
MEASURES = classification.MEASURES


def loss(params, inputs: Inputs) -> Loss:
    return classification.loss(params, inputs, classification.softmax)


def evaluate(logits_NK, targets_NK, hparams, options):
    return classification.softmax(logits_NK, targets_NK)
