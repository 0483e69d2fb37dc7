"""How the model does on images that were changed a little so that it answers wrongly."""

import functools

import jax
import numpy as np

from imgjax.card.parts import Finding
from imgjax.errors import DataError
from imgjax.evals import pgd, robust_accuracy
from imgjax.process import terminal
from imgjax.report import card_page
from imgjax.report.text import percent

TITLE = 'Attacks'
QUESTION = 'How small a change of an image makes its answer wrong?'

IMAGES = 200  # of the evaluation split, at most
SHOWN = 6  # images with their changes
SIDE = 96  # pixels of a picture's longer side, at most
TINY, SMALL = 16, 64  # pixels of an image's shorter side, below which epsilon is larger


def measure(inputs, images: int = IMAGES) -> dict:
    """Measures the accuracy under attacks, also of a compared model.

    Args:
      inputs: card.inputs.Inputs.
      images: how many images of the evaluation split, at most; never more than IMAGES.

    Raises:
      DataError: images have several labels.
    """
    if inputs.multi_label:
        raise DataError('attacks are measured by the accuracy of one label per image')
    labels_N = np.asarray(inputs.labels_of(inputs.split))
    rows = inputs.subset(len(labels_N), min(images, IMAGES))
    labels_N = labels_N[rows]
    bytes_NHWC = inputs.images(inputs.split, rows)
    images_NHWC = np.asarray(bytes_NHWC, np.float32) / np.float32(255)
    epsilon, l2_epsilon = epsilons(min(images_NHWC.shape[1:3]))
    given = (images_NHWC, labels_N, epsilon)
    with terminal.progress(2 if inputs.other is None else 3, 0, 'measurement') as bar:
        predict = on_unit(inputs.predict)
        found = robust_accuracy.measure(predict, *given, l2_epsilon=l2_epsilon, seed=inputs.seed)
        bar.update()
        # A compared model has its curve only; AutoAttack would take as long again.
        other = None
        if inputs.other is not None:
            other = {'pgd': robust_accuracy.curve(
                pgd.attack, on_unit(inputs.other_predict()), images_NHWC, labels_N,
                [0.0] + [row['epsilon'] for row in found['linf']['pgd']], seed=inputs.seed)}
            bar.update()
        shown = _shown(predict, images_NHWC, labels_N, found, inputs.seed)
        bar.update()
    return found | {'split': inputs.split, 'side': list(images_NHWC.shape[1:3]), 'other': other,
                    'shown': [one | {'image': int(rows[one['image']])} for one in shown]}


def epsilons(side: int) -> tuple[float, float]:
    """Returns the epsilons of the linf and of the l2 ball for images whose shorter side this is.

    They are those of the literature, 1 being the whole range of a pixel: 8/255 and 0.5 for CIFAR,
    4/255 and 3 for ImageNet. Images below 16 pixels, such as digits, get 0.1 and 0.5.
    """
    if side < TINY:
        return 0.1, 0.5
    return (8 / 255, 0.5) if side <= SMALL else (4 / 255, 3.0)


def on_unit(predict: jax.tree_util.Partial) -> jax.tree_util.Partial:
    """Returns `predict`, which takes pixels in 0 to 255, as a function of pixels in 0 to 1."""
    return jax.tree_util.Partial(_on_bytes(predict.func), *predict.args)


@functools.cache
def _on_bytes(function):
    """Returns one function per function, so that what is compiled for it is found again."""
    return lambda *args: function(*args[:-1], 255 * args[-1])


def _shown(predict, images_NHWC, labels_N, found: dict, seed: int) -> list[dict]:
    """Returns a few images with the change that makes their answer wrong.

    They are attacked by PGD with the smallest epsilon of the curve under which one falls.
    """
    epsilon = next((row['epsilon'] for row in found['linf']['pgd']
                    if row['right'] < found['clean']['right']), None)
    if epsilon is None:
        return []
    attacked = pgd.attack(predict, images_NHWC, labels_N, epsilon, seed=seed)
    changed_N = (attacked.images_NHWC != images_NHWC).any(axis=(1, 2, 3))
    rows = np.flatnonzero(changed_N)[:SHOWN]
    answers_N = np.asarray(predict(attacked.images_NHWC[rows])).argmax(axis=1)
    change_NHWC = (attacked.images_NHWC[rows] - images_NHWC[rows]) / (2 * epsilon) + 0.5
    return [{'image': int(row), 'label': int(labels_N[row]), 'answer': int(answers_N[i]),
             'epsilon': epsilon, 'before': _picture(images_NHWC[row]),
             'after': _picture(attacked.images_NHWC[row]), 'change': _picture(change_NHWC[i])}
            for i, row in enumerate(rows)]


def _picture(image_HWC) -> list:
    """Returns an image in 0 to 1 as lists of bytes, scaled down where it is large."""
    return card_page.small(np.rint(255 * np.clip(image_HWC, 0, 1)).astype(np.uint8), SIDE).tolist()


def findings(found: dict) -> list[Finding]:
    clean, standard = found['clean'], found['autoattack']
    told = [Finding('note', f'Of {found["images"]:,} images it answers '
                    f'{percent(clean["robust"], 1)} rightly, and {percent(standard["robust"], 1)} '
                    f'after AutoAttack changed their pixels by at most '
                    f'{shown_epsilon(found["epsilon"])} of their range.')]
    if found['other'] is not None:
        own, theirs = (next(row['robust'] for row in rows if row['epsilon'] == found['epsilon'])
                       for rows in (found['linf']['pgd'], found['other']['pgd']))
        told.append(Finding('note', f'At this epsilon PGD leaves {percent(own, 1)} right, and '
                            f'{percent(theirs, 1)} of the other model.'))
    return told + [Finding('look', f'{sign} The gradient may be masked, and the model less robust '
                           'than the attacks by gradients say.') for sign in found['signs']]


def shown_epsilon(epsilon: float) -> str:
    """Returns 8/255 where epsilon is a whole number of levels, else 0.1."""
    levels = 255 * epsilon
    return f'{levels:.0f}/255' if abs(levels - round(levels)) < 1e-6 else f'{epsilon:.3g}'


def figures(found: dict) -> dict:
    return {'robust_accuracy': found['autoattack']['robust'],
            'robust_epsilon': found['epsilon']}
