"""How many answers attacks leave right, and signs that the attacks fail where the model does not.

The accuracy under an attack is an upper bound of the robust accuracy: a better attack may find
more. `signs` looks for a masked gradient, one that leads an attack nowhere though wrong answers are
near, by the checks of Carlini et al. 2019, "On evaluating adversarial robustness"
(https://arxiv.org/abs/1902.06705, section 4), and Athalye et al., ICML 2018
(https://arxiv.org/abs/1802.00420, section 3.1).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.errors import ConfigError
from imgjax.evals import apgd, attacks, autoattack, fgsm, pgd
from imgjax.evals.intervals import share_of

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of epsilon, for the curves
L2_FACTORS = (0.25, 0.5, 1.0, 2.0)  # of the l2 epsilon
STEPS = (2, 5, 10, 20, 40)  # of PGD at epsilon
LARGE = 0.5  # at which any image can be made grey
MARGIN = 0.02  # of all images, and more than one: what is more than chance
ZEROS = 0.1  # of the right images: more gradients of 0 are a sign
REMAIN = 0.05  # of all images: more right answers at LARGE are a sign, or more than one class has


def measure(predict: Callable, images_NHWC: np.ndarray, labels_N: np.ndarray, epsilon: float, *,
            l2_epsilon: float, seed: int = 0) -> dict:
    """Returns the accuracy under attacks of several kinds and strengths, and signs of masking.

    The result can be written as JSON:
      epsilon, l2_epsilon: what was given; images, classes: int.
      clean: accuracy of the images themselves: `robust`, `low`, `high`, `right`.
      linf: {fgsm, pgd, apgd: rows of `curve`} at 0.25 to 4 times epsilon.
      l2: {pgd: rows of `curve`} at 0.25 to 2 times l2_epsilon.
      steps: a list with a row per number of steps of PGD at epsilon: `steps` and those of a row.
      large: a row of PGD at epsilon 0.5.
      zero_gradients: int, right images whose cross-entropy has the gradient 0.
      autoattack: the row of its standard version at epsilon, with `after`: {attack: right images}.
      signs: sentences, from `signs`; [] if none was found.
      notes: sentences on what was left out.

    Args:
      predict: jax.tree_util.Partial, (images_NHWC, float32 in 0 to 1) -> logits_NK.
      images_NHWC: float32 (N, H, W, C) in 0 to 1.
      labels_N: int (N,), the right classes.
      epsilon: radius of the linf ball, above 0; 1 is the whole range of a pixel.
      l2_epsilon: radius of the l2 ball, above 0.
      seed: of all random numbers.

    Raises:
      ConfigError: an epsilon is not above 0.
      DataError: images or labels cannot be used, or logits are not finite.
    """
    if not (epsilon > 0 and l2_epsilon > 0):
        raise ConfigError(f'epsilon and l2_epsilon: {epsilon} and {l2_epsilon}; give numbers '
                          'above 0')
    classes = attacks.check(predict, images_NHWC, labels_N, epsilon)
    given = (predict, images_NHWC, labels_N)
    shared: dict[str, Any] = {'at_once': attacks.images_at_once(predict, images_NHWC)}
    drawn = {**shared, 'seed': seed}
    epsilons = [factor * epsilon for factor in FACTORS]
    standard = autoattack.attack(*given, epsilon, **drawn)
    found = {
        'epsilon': epsilon, 'l2_epsilon': l2_epsilon, 'images': len(labels_N), 'classes': classes,
        'clean': _row(standard.clean_N),
        'linf': {'fgsm': curve(fgsm.attack, *given, epsilons, **shared),
                 'pgd': curve(pgd.attack, *given, epsilons, **drawn),
                 'apgd': curve(apgd.attack, *given, epsilons, **drawn)},
        'l2': {'pgd': curve(pgd.attack, *given, [factor * l2_epsilon for factor in L2_FACTORS],
                            norm='l2', **drawn)},
        'steps': [{'steps': steps, **_row(pgd.attack(
            *given, epsilon, steps=steps, **drawn).right_N)} for steps in STEPS],
        'large': {'epsilon': LARGE, **_row(pgd.attack(*given, LARGE, **drawn).right_N)},
        'zero_gradients': zero_gradients(predict, images_NHWC, labels_N,
                                         standard.clean_N, shared['at_once']),
        'autoattack': {'epsilon': epsilon, **_row(standard.right_N),
                       'after': standard.right_after},
        'notes': standard.notes}
    return found | {'signs': signs(found)}


def curve(attack: Callable, predict: Callable, images_NHWC: np.ndarray, labels_N: np.ndarray,
          epsilons: Sequence[float], **options) -> list[dict]:
    """Returns the accuracy under an attack at each epsilon, with 95 % Wilson intervals.

    Args:
      attack: such as pgd.attack.
      predict: as the attack takes it.
      images_NHWC: float32 (N, H, W, C) in 0 to 1.
      labels_N: int (N,).
      epsilons: radii of the ball.
      **options: of the attack.

    Returns:
      A list of dicts: `epsilon`, `robust` (the share of all images that are still right, 0 to 1),
      `low`, `high`, and `right`, how many images they are.
    """
    return [{'epsilon': float(epsilon),
             **_row(attack(predict, images_NHWC, labels_N, epsilon, **options).right_N)}
            for epsilon in epsilons]


def zero_gradients(predict: Callable, images_NHWC: np.ndarray, labels_N: np.ndarray,
                   right_N: np.ndarray, at_once: int) -> int:
    """Returns how many of the right images have a cross-entropy whose gradient is 0 everywhere."""
    count = 0
    rows_N = np.flatnonzero(right_N)
    for rows, real in attacks.padded(rows_N, attacks.sizes_of(len(rows_N), at_once)[:1]):
        count += int(np.asarray(_is_zero(
            predict, jnp.asarray(images_NHWC[rows], jnp.float32),
            jnp.asarray(labels_N[rows], jnp.int32)))[:real].sum())
    return count


def signs(found: dict) -> list[str]:
    """Returns a sentence for each sign of a masked gradient in what `measure` gave."""
    images = found['images']
    fgsm_rows, pgd_rows, apgd_rows = (found['linf'][name] for name in ('fgsm', 'pgd', 'apgd'))
    told = []
    right = found['clean']['right']
    if found['zero_gradients'] > ZEROS * right:
        told.append(f'The gradient is 0 everywhere for {found["zero_gradients"]:,} of the '
                    f'{right:,} images that it answers rightly, so that an attack by gradients '
                    'cannot begin.')
    large = found['large']
    if large['low'] > max(REMAIN, 1 / found['classes']):
        told.append(f'At epsilon {large["epsilon"]}, where every image can be made grey, PGD '
                    f'leaves {large["right"]:,} of {images:,} answers right; it should leave none.')
    stronger = [(one, many) for one, many in zip(fgsm_rows, pgd_rows, strict=True)
                if _is_more(many['right'] - one['right'], images)]
    if stronger:
        one, many = stronger[0]
        told.append(f'One step (FGSM) leaves {one["right"]:,} answers right at epsilon '
                    f'{one["epsilon"]:.3g}, and 20 steps of PGD more of them, {many["right"]:,}.')
    for name, rows in (('PGD', pgd_rows), ('Auto-PGD', apgd_rows)):
        rises = [(a, b) for a, b in zip(rows, rows[1:], strict=False)
                 if _is_more(b['right'] - a['right'], images)]
        if rises:
            told.append(f'{name} leaves more answers right at epsilon {rises[0][1]["epsilon"]:.3g} '
                        f'than at {rises[0][0]["epsilon"]:.3g}.')
    longer = [(a, b) for a, b in zip(found['steps'], found['steps'][1:], strict=False)
              if _is_more(b['right'] - a['right'], images)]
    if longer:
        told.append(f'PGD leaves more answers right with {longer[0][1]["steps"]} steps than with '
                    f'{longer[0][0]["steps"]}.')
    after = found['autoattack']['after']
    by_gradient = min(right, *(count for name, count in after.items() if name != 'square'))
    if _is_more(by_gradient - after['square'], images):
        told.append(f'The Square attack, which needs no gradient, finds {by_gradient:,} - '
                    f'{after["square"]:,} = {by_gradient - after["square"]:,} wrong answers that '
                    'the attacks by gradients did not find.')
    return told


def _is_more(difference: int, images: int) -> bool:
    return difference > max(1, MARGIN * images)


def _row(right_N: np.ndarray) -> dict:
    share, low, high = share_of(right_N)
    return {'robust': share, 'low': low, 'high': high, 'right': int(right_N.sum())}


@jax.jit
def _is_zero(predict, images_NHWC, labels_N):
    gradient_NHWC = jax.grad(lambda x_NHWC: attacks.cross_entropy(
        predict(x_NHWC), labels_N).sum())(images_NHWC)
    return (gradient_NHWC == 0).all(axis=(1, 2, 3))
