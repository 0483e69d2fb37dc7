"""AutoAttack: four attacks in turn, each on the images that still stand.

Croce and Hein, ICML 2020 (https://arxiv.org/abs/2003.01690), in the standard version, by which
https://robustbench.github.io compares models: Auto-PGD with the cross-entropy, Auto-PGD with the
targeted DLR loss, FAB-T (both with nine other classes) and the Square attack with 5,000 queries.
None of them has a number to choose. Models that answer at random need another version.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from imgjax.evals import apgd, attacks, fab, square
from imgjax.evals.attacks import Attacked

ATTACKS = ('apgd-ce', 'apgd-t', 'fab-t', 'square')
TARGETS = 9


class AutoAttacked(NamedTuple):
    """What the attacks found.

    Attributes:
      images_NHWC: as of attacks.Attacked.
      right_N: as of attacks.Attacked.
      clean_N: bool (N,), whether the image itself is answered rightly.
      right_after: {attack: number of images that are right after it}, in the order of the attacks.
      notes: sentences on what was left out.
    """

    images_NHWC: np.ndarray
    right_N: np.ndarray
    clean_N: np.ndarray
    right_after: dict[str, int]
    notes: list[str]


def attack(predict: Callable, images_NHWC: np.ndarray, labels_N: np.ndarray, epsilon: float, *,
           norm: str = 'linf', seed: int = 0, at_once: int = 0) -> AutoAttacked:
    """Attacks by the standard version of AutoAttack.

    The targeted DLR loss takes four classes; with fewer, `apgd-t` is left out, and a note says so.

    Args:
      predict: jax.tree_util.Partial, (images_NHWC, float32 in 0 to 1) -> logits_NK.
      images_NHWC: float32 (N, H, W, C) in 0 to 1.
      labels_N: int (N,), the right classes.
      epsilon: radius of the ball, 1 is the whole range of a pixel.
      norm: linf or l2.
      seed: of all random numbers.
      at_once: the most images that are attacked at one time; 0 chooses by the free memory.

    Raises:
      ConfigError: epsilon is out of its range, or there is no such norm.
      DataError: images or labels cannot be used, or logits are not finite.
    """
    classes = attacks.check(predict, images_NHWC, labels_N, epsilon, norm)
    at_once = at_once or attacks.images_at_once(predict, images_NHWC)
    clean_N = attacks.answers(predict, images_NHWC, labels_N, at_once) == labels_N
    left_out = ['apgd-t'] if classes < 4 else []
    right_N, found_NHWC = clean_N.copy(), np.array(images_NHWC, np.float32)
    right_after = {}
    for name in ATTACKS:
        rows = np.flatnonzero(right_N)
        if name in left_out:
            continue
        if len(rows):
            attacked = _one(name, predict, images_NHWC[rows], labels_N[rows], epsilon, norm, seed,
                            rows, at_once)
            fell = rows[~attacked.right_N]
            found_NHWC[fell] = attacked.images_NHWC[~attacked.right_N]
            right_N[fell] = False
        right_after[name] = int(right_N.sum())
    return AutoAttacked(found_NHWC, right_N, clean_N, right_after, [
        f'AutoAttack leaves out {name}: its loss takes four classes or more, and the model has '
        f'{classes}.' for name in left_out])


def _one(name: str, predict: Callable, images_NHWC: np.ndarray, labels_N: np.ndarray,
         epsilon: float, norm: str, seed: int, indices_N: np.ndarray, at_once: int) -> Attacked:
    drawn = {'seed': seed, 'indices_N': indices_N}
    chosen: dict[str, tuple[Callable, dict]] = {
        'apgd-ce': (apgd.attack, drawn),
        'apgd-t': (apgd.attack, {'loss': 'dlr', 'targets': TARGETS, **drawn}),
        'fab-t': (fab.attack, {'targets': TARGETS}),
        'square': (square.attack, drawn)}
    function, options = chosen[name]
    return function(predict, images_NHWC, labels_N, epsilon, norm=norm, at_once=at_once, **options)
