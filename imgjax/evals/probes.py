"""What a linear classifier reads from features, of one layer or layer by layer.

The probe is multinomial logistic regression, or one logistic regression per class where images have
several labels. Its strength of regularisation is chosen on a part of the training images, as in
Kornblith, Shlens and Le, "Do better ImageNet models transfer better?", CVPR 2019
(https://arxiv.org/abs/1805.08974). The same probe of a baseline, such as the pixels or a network
with random weights, says how much of an accuracy comes from the training.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.errors import ConfigError, DataError
from imgjax.evals.answers import probabilities
from imgjax.evals.checks import check_features, check_labels
from imgjax.evals.intervals import share_of
from imgjax.metrics import mean_average_precision

STRENGTHS = tuple(10.0**power for power in range(2, -7, -1))
HELD_OUT = 0.2  # the share of the training images on which the strength is chosen
MOST_STEPS = 1000  # of L-BFGS for a strength
PATH_TOLERANCE = 1e-4  # of the largest entry of the gradient, for the choice of the strength,
TOLERANCE = 1e-6  # and for the last fit
ROWS = 16_384  # images of a block on the device
HIGHEST = jax.lax.Precision.HIGHEST


class Probe(NamedTuple):
    """A fitted linear classifier.

    Attributes:
      strength: the chosen strength.
      path: a dict per strength, the strongest first: `strength`; `score` on the held-out part,
        accuracy or mean average precision, 0 to 1; `converged`, False if 1,000 steps were too few.
      probabilities_NK: float32 (N, K), of the images to evaluate on: their sum is 1, or each is in
        0 to 1 if images have several labels.
    """

    strength: float
    path: list[dict]
    probabilities_NK: np.ndarray


def measure(train_ND: np.ndarray, train_labels: np.ndarray, eval_ND: np.ndarray,
            eval_labels: np.ndarray, *, strengths: Sequence[float] = STRENGTHS, seed: int = 0,
            most_features: int = 2048, name: str = 'features',
            baseline_ND: tuple[np.ndarray, np.ndarray] | None = None) -> dict:
    """Returns how well a linear probe of the features answers.

    The result can be written as JSON:
      train_images, eval_images, classes, features: int.
      metric: 'accuracy', or 'mean_average_precision' if images have several labels.
      score: float, 0 to 1, on the images to evaluate on.
      low, high: the ends of the 95 % Wilson interval of the accuracy; None for the other metric.
      strength, path: see `Probe`.
      baseline: the result of the baseline, a dict of the same keys; None without one.
      notes: sentences on what was changed or left out.

    >>> import numpy as np
    >>> from imgjax.evals import probes
    >>> labels_N = np.arange(20) % 2
    >>> features_ND = np.random.default_rng(0).normal(size=(20, 4)) + 10 * labels_N[:, None]
    >>> found = probes.measure(features_ND, labels_N, features_ND, labels_N)
    >>> found['metric'], found['score']
    ('accuracy', 1.0)

    Args:
      train_ND: float (N, D), features of the training images.
      train_labels: int (N,), classes from 0; or 0 and 1 of shape (N, K), several per image.
      eval_ND, eval_labels: the same of the images to evaluate on.
      strengths: see `fit`.
      seed: of the held-out part, and of the projection.
      most_features: features above this number are projected, see `project`.
      name: of the layer, for errors and notes.
      baseline_ND: other features of the same images (train, eval).

    Raises:
      ConfigError: `strengths` has no value or one that is not above 0; `most_features` is below 1.
      DataError: the arrays do not fit together, features are not finite, or there are too few
        images or classes.
    """
    classes = check(name, train_ND, train_labels, eval_ND, eval_labels)
    if baseline_ND is not None:
        check('baseline_ND', baseline_ND[0], train_labels, baseline_ND[1], eval_labels)
    if most_features < 1:
        raise ConfigError(f'most_features: {most_features}; give 1 or more')
    multi_label, features, notes = np.ndim(train_labels) == 2, int(train_ND.shape[1]), []
    if features > most_features:
        train_ND, eval_ND = project(train_ND, eval_ND, most_features, seed)
        notes.append(f'{name}: {features:,} features were projected to {most_features:,} random '
                     'directions.')
    if not multi_label and (unseen := np.setdiff1d(eval_labels, train_labels)).size:
        notes.append(f'{name}: of {unseen.size} of the classes to evaluate on no image is there to '
                     'train on.')
    probe = fit(train_ND, train_labels, eval_ND, strengths=strengths, seed=seed, name=name)
    if multi_label:
        score = mean_average_precision.mean(eval_labels, probe.probabilities_NK)
        low = high = None
    else:
        score, low, high = share_of(
            probe.probabilities_NK.argmax(axis=1) == np.asarray(eval_labels))
    return {'train_images': len(train_ND), 'eval_images': len(eval_ND), 'classes': classes,
            'features': features,
            'metric': 'mean_average_precision' if multi_label else 'accuracy', 'score': score,
            'low': low, 'high': high, 'strength': probe.strength, 'path': probe.path,
            'baseline': None if baseline_ND is None else measure(
                baseline_ND[0], train_labels, baseline_ND[1], eval_labels, strengths=strengths,
                seed=seed, most_features=most_features, name='baseline_ND'),
            'notes': notes}


def by_depth(layers: dict[str, tuple[np.ndarray, np.ndarray]], train_labels: np.ndarray,
             eval_labels: np.ndarray, *, strengths: Sequence[float] = STRENGTHS, seed: int = 0,
             most_features: int = 512) -> list[dict]:
    """Returns what `measure` returns for each layer, and `layer`, its name.

    Layers with equally many features share their compiled programs.

    Args:
      layers: the features (train_ND, eval_ND) of each layer by its name.
      train_labels, eval_labels, strengths, seed, most_features: see `measure`.

    Raises:
      ConfigError, DataError: as `measure`, with the name of the layer.
    """
    for layer, (train_ND, eval_ND) in layers.items():  # all, before the work begins
        check(layer, train_ND, train_labels, eval_ND, eval_labels)
    return [{'layer': layer} | measure(train_ND, train_labels, eval_ND, eval_labels, name=layer,
                                       strengths=strengths, seed=seed, most_features=most_features)
            for layer, (train_ND, eval_ND) in layers.items()]


def fit(train_ND: np.ndarray, train_labels: np.ndarray, eval_ND: np.ndarray, *,
        strengths: Sequence[float] = STRENGTHS, seed: int = 0, name: str = 'features') -> Probe:
    """Chooses the strength of a linear probe, fits it on all training images, and predicts.

    The loss is the mean cross-entropy (its sum over the classes if images have several labels) plus
    strength / 2 times the sum of the squared weights; intercepts are free. L-BFGS minimises it from
    the strongest to the weakest strength, each from the weights of the one before. Features are
    standardised with the mean and standard deviation of the images that are fitted. Of equal scores
    the strongest strength is chosen. scikit-learn's C is 1 / (strength x N).

    At the weakest strengths the loss is so flat that the probabilities of float32 are not exact;
    those of 0.1 and above are within about 1e-4.

    Args:
      train_ND, train_labels, eval_ND, name: see `measure`.
      strengths: the strengths to choose from.
      seed: of the held-out part, a fifth of each class (of an image's labels the first counts).

    Raises:
      ConfigError: `strengths` is empty, or has one that is not above 0.
      DataError: every class has one image only, so that none can be held out.
    """
    if not len(strengths) or min(strengths) <= 0:
        raise ConfigError(f'strengths: {list(strengths)}; give one or more numbers above 0')
    multi_label = np.ndim(train_labels) == 2
    targets_NK = (np.asarray(train_labels) > 0).astype(np.float32) if multi_label else (
        np.eye(np.max(train_labels) + 1, dtype=np.float32)[train_labels])
    held_N = _held_out(targets_NK, seed)
    if not targets_NK[held_N].any():
        raise DataError(f'{name}: every class has one training image only, and none can be held '
                        'out to choose the strength; give two or more')
    fitted_ND, held_ND = standardise(train_ND[~held_N], train_ND[~held_N], train_ND[held_N])
    blocks = _blocks(fitted_ND, targets_NK[~held_N])
    weights_DK = np.zeros((train_ND.shape[1] + 1, targets_NK.shape[1]))
    path, weights = [], []
    for strength in sorted(map(float, strengths), reverse=True):
        weights_DK, converged = _minimise(weights_DK, blocks, strength, multi_label, PATH_TOLERANCE)
        held_NK = _predict(weights_DK, held_ND, multi_label)
        score = (mean_average_precision.mean(targets_NK[held_N], held_NK) if multi_label else
                 float((held_NK.argmax(axis=1) == np.asarray(train_labels)[held_N]).mean()))
        path.append({'strength': strength, 'score': score, 'converged': converged})
        weights.append(weights_DK)
    best = int(np.argmax([row['score'] for row in path]))
    strength = path[best]['strength']
    fitted_ND, eval_ND = standardise(train_ND, train_ND, eval_ND)
    weights_DK, _ = _minimise(weights[best], _blocks(fitted_ND, targets_NK), strength, multi_label,
                              TOLERANCE)
    return Probe(strength, path, _predict(weights_DK, eval_ND, multi_label))


def project(train_ND: np.ndarray, eval_ND: np.ndarray, width: int,
            seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns both features in `width` random directions, which about keep distances; float32.

    Source: Li, Hastie and Church, "Very sparse random projections", KDD 2006
    (https://doi.org/10.1145/1150402.1150436), as in scikit-learn.
    """
    from sklearn.random_projection import SparseRandomProjection  # noqa: PLC0415  (1 s)

    projection = SparseRandomProjection(width, random_state=seed, dense_output=True).fit(train_ND)
    return (projection.transform(train_ND).astype(np.float32),
            projection.transform(eval_ND).astype(np.float32))


def standardise(fitted_ND: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Returns the other features, standardised by the mean and sd of the fitted ones; float32.

    A feature that is the same for all fitted images becomes 0.
    """
    mean_D = fitted_ND.mean(axis=0, dtype=np.float64)
    sd_D = fitted_ND.std(axis=0, dtype=np.float64)
    sd_D[sd_D <= 1e-6 * np.abs(mean_D)] = np.inf
    return [((one_ND - mean_D) / sd_D).astype(np.float32) for one_ND in others]


def _blocks(features_ND: np.ndarray, targets_NK: np.ndarray) -> list[tuple]:
    """Returns features and targets in blocks of ROWS images, on the device."""
    return [jax.device_put((features_ND[first:first + ROWS], targets_NK[first:first + ROWS]))
            for first in range(0, len(features_ND), ROWS)]


def _minimise(start_DK: np.ndarray, blocks: list[tuple], strength: float, multi_label: bool,
              tolerance: float) -> tuple[np.ndarray, bool]:
    """Returns the weights, float64 (D + 1, K), that minimise the loss, and whether it converged.

    The last row holds the intercepts.
    """
    from scipy.optimize import minimize  # noqa: PLC0415  (0.3 s)

    count = sum(len(targets_NK) for _, targets_NK in blocks)
    penalty_D1 = np.full((len(start_DK), 1), strength)
    penalty_D1[-1] = 0

    def value_and_gradient(flat):
        weights_DK = flat.reshape(start_DK.shape)
        value = (penalty_D1 * np.square(weights_DK)).sum() / 2
        gradient_DK = penalty_D1 * weights_DK
        for block in blocks:
            losses_N, of_block_DK = _losses(weights_DK.astype(np.float32), *block, multi_label)
            # The sum in float64: L-BFGS compares values that float32 cannot tell apart.
            value += np.asarray(losses_N, np.float64).sum() / count
            gradient_DK += np.asarray(of_block_DK, np.float64) / count
        return value, gradient_DK.ravel()

    result = minimize(value_and_gradient, start_DK.ravel(), jac=True, method='L-BFGS-B',
                      options=dict(maxiter=MOST_STEPS, maxcor=20, gtol=tolerance, ftol=0))
    return result.x.reshape(start_DK.shape), result.nit < MOST_STEPS


@functools.partial(jax.jit, static_argnames='multi_label')
def _losses(weights_DK, features_ND, targets_NK, multi_label):
    """Returns the cross-entropy of each image, and the gradient of its sum."""
    def total(weights_DK):
        logits_NK = _logits(weights_DK, features_ND)
        logs_NK = (targets_NK * jax.nn.log_sigmoid(logits_NK)
                   + (1 - targets_NK) * jax.nn.log_sigmoid(-logits_NK) if multi_label
                   else targets_NK * jax.nn.log_softmax(logits_NK))
        losses_N = -logs_NK.sum(axis=1)
        return losses_N.sum(), losses_N

    gradient_DK, losses_N = jax.grad(total, has_aux=True)(weights_DK)
    return losses_N, gradient_DK


@jax.jit
def _logits(weights_DK, features_ND):
    return jnp.matmul(features_ND, weights_DK[:-1], precision=HIGHEST) + weights_DK[-1:]


def _predict(weights_DK: np.ndarray, features_ND: np.ndarray, multi_label: bool) -> np.ndarray:
    """Returns the probabilities, float32 (N, K)."""
    logits_NK = np.asarray(_logits(weights_DK.astype(np.float32), features_ND))
    return probabilities(logits_NK, multi_label).astype(np.float32)


def _held_out(targets_NK: np.ndarray, seed: int) -> np.ndarray:
    """Returns which images are held out, bool (N,): a share of each class of two images or more."""
    rng = np.random.default_rng(seed)
    class_N = np.where(targets_NK.any(axis=1), targets_NK.argmax(axis=1), -1)  # -1: has no label
    held_N = np.zeros(len(class_N), bool)
    for one in np.unique(class_N):
        members = rng.permutation(np.flatnonzero(class_N == one))
        if len(members) > 1:
            held_N[members[:max(1, round(HELD_OUT * len(members)))]] = True
    return held_N


def check(name: str, train_ND, train_labels, eval_ND, eval_labels) -> int:
    """Checks the arguments of `measure`, and returns the number of classes."""
    for part, features_ND, labels in (('train', train_ND, train_labels),
                                      ('eval', eval_ND, eval_labels)):
        check_features(f'{name} ({part})', features_ND)
        check_labels(np.asarray(labels), len(features_ND), name=f'{name} ({part}), labels')
    if train_ND.shape[1] != eval_ND.shape[1]:
        raise DataError(f'{name}: {train_ND.shape[1]:,} features of the training images, '
                        f'{eval_ND.shape[1]:,} of those to evaluate on; take the same layer')
    if np.shape(train_labels)[1:] != np.shape(eval_labels)[1:]:
        raise DataError(f'{name}: labels of shape {np.shape(train_labels)} to train on and '
                        f'{np.shape(eval_labels)} to evaluate on; give both the same classes')
    if np.ndim(train_labels) == 2:
        with_NK = np.asarray(train_labels) > 0
        if not ((with_NK.any(axis=0) & ~with_NK.all(axis=0)).any() and np.any(eval_labels)):
            raise DataError(f'{name}: no class has images with and without it to train on, or none '
                            'has an image to evaluate on; give more images')
        return int(train_labels.shape[1])
    if len(np.unique(train_labels)) < 2:
        raise DataError(f'{name}: the training images have one class only; give two or more')
    return int(max(np.max(train_labels), np.max(eval_labels))) + 1
