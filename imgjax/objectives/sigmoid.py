"""Binary cross-entropy of each class, summed over the classes; an image may have several labels.

The sum is big_vision's; timm takes the mean, so its learning rates are for a loss K times as small.
Beyer et al., `Are we done with ImageNet? <https://arxiv.org/abs/2006.07159>`_, 2020.
"""

from imgjax.objectives import Inputs, Loss
from imgjax.objectives.parts import classification

HPARAMS = classification.HPARAMS
MEASURES = classification.MEASURES
MULTI_LABEL = True


def loss(params, inputs: Inputs) -> Loss:
    return classification.loss(params, inputs, classification.sigmoid)


def evaluate(logits_NK, targets_NK, hparams, options):
    return classification.sigmoid(logits_NK, targets_NK)
