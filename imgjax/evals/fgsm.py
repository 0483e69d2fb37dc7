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
    """Attacks by one step of the length epsilon from the image; see `pgd.attack`.

    >>> import jax
    >>> import numpy as np
    >>> from imgjax.evals import fgsm
    >>> def predict(images_NHWC):  # bright images are of class 0
    ...     light_N = images_NHWC.mean(axis=(1, 2, 3))
    ...     return jax.numpy.stack([light_N - 0.5, 0.5 - light_N], axis=1)
    >>> images_NHWC = np.full((2, 4, 4, 1), [[[[0.55]]], [[[0.9]]]], np.float32)
    >>> found = fgsm.attack(jax.tree_util.Partial(predict), images_NHWC, np.array([0, 0]), 0.1)
    >>> found.right_N.tolist()
    [False, True]
    """
    return pgd.attack(predict, images_NHWC, labels_N, epsilon, norm=norm, steps=1,
                      step_size=epsilon, random=False, at_once=at_once)
