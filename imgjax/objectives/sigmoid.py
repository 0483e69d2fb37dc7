"""Binary cross-entropy of each class, summed over the classes; an image may have several labels.

big_vision sums over the classes, too. timm takes the mean over the K classes, so that its learning
rates are meant for a loss that is K times smaller.
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
