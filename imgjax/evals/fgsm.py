"""The fast gradient sign method: one step uphill in the loss, to the border of the ball.

Goodfellow et al., "Explaining and harnessing adversarial examples", ICLR 2015
(https://arxiv.org/abs/1412.6572). With the norm `l2` the step is along the gradient itself.
"""

from collections.abc import Callable

import numpy as np

from imgjax.evals import pgd
from imgjax.evals.attacks import Attacked


def attack(predict: Callable, images_NHWC: np.ndarray, labels_N: np.ndarray, epsilon: float, *,
           norm: str = 'linf', at_once: int = 0) -> Attacked:
    """Attacks by one step of the length epsilon from the image; see `pgd.attack`."""
    return pgd.attack(predict, images_NHWC, labels_N, epsilon, norm=norm, steps=1,
                      step_size=epsilon, random=False, at_once=at_once)
