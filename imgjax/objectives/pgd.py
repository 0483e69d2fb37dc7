"""Adversarial training: the cross-entropy of images that were attacked by PGD.

Madry et al., `Towards deep learning models resistant to adversarial attacks
<https://arxiv.org/abs/1706.06083>`_, 2018, equation 2.1: each image is replaced by the one in the
ball around it that the attack finds, from a random start; a step costs about `steps` + 1 times as
much. The attack sees the model as an evaluation does (running statistics of BatchNorm, no dropout);
the loss is that of a training step. The defaults are those of CIFAR-10, 8 of 255 levels. With
norm=l2 and images of 32 pixels, epsilon 128 (0.5 of 1) and a step of 32 are usual.

    python -m launch.train --config=configs/digits.py --config.objective.name=pgd \\
        --config.hparams.epsilon=25.5 --config.hparams.step_size=6 --workdir=runs/robust
"""

from imgjax.evals import norm_balls
from imgjax.objectives import Inputs, Loss
from imgjax.objectives.parts import adversarial, classification

HPARAMS = classification.HPARAMS | adversarial.HPARAMS
OPTIONS = adversarial.OPTIONS
MEASURES = ('accuracy', 'adversarial_accuracy')  # of the images, and of those that were attacked


def loss(params, inputs: Inputs) -> Loss:
    target_NK, norm = inputs.batch['target'], inputs.options['norm']
    attacked_NHWC = adversarial.attacked(
        params, inputs,
        lambda keys_N, pixels_NHWC: norm_balls.random_start(
            keys_N, pixels_NHWC, inputs.hparams['epsilon'], norm, 255.0),
        lambda logits_NK: classification.softmax(logits_NK, target_NK))
    found = classification.loss(
        params, inputs._replace(batch=inputs.batch | {'image': attacked_NHWC[:, None]}),
        classification.softmax)
    return found._replace(measures={
        'accuracy': adversarial.hits_of(params, inputs, inputs.batch['image'][:, 0]),
        'adversarial_accuracy': found.measures['accuracy']})


def evaluate(logits_NK, targets_NK, hparams, options):
    return classification.softmax(logits_NK, targets_NK)
