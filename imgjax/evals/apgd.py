"""Auto-PGD: projected gradient descent with momentum whose step size needs no choice.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", ICML 2020 (https://arxiv.org/abs/2003.01690), algorithm 1. At checkpoints
that come ever closer, the step of an image is halved and it goes back to its best point, if the
loss rose too rarely, or the best loss is as it was while the step was too.

Its losses are the cross-entropy and the difference of logits ratio (DLR, equation 6), which does
not change when all logits are multiplied, so that overconfidence does not mask its gradient. With
`targets` the ratio is that of single other classes in turn (equation 7).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.augment.keys import pick
from imgjax.errors import ConfigError
from imgjax.evals import attacks, norm_balls
from imgjax.evals.attacks import Attacked

LOSSES = ('ce', 'dlr')
MOMENTUM = 0.75  # the share of the new step, after the first one
RISES = 0.75  # a step is halved where the loss rose in at most this share of the steps
FIRST, SHORTER, SHORTEST = 0.22, 0.03, 0.06  # of all steps: the windows between checkpoints


class _State(NamedTuple):
    """The iterate, the one before it, and what the checkpoints look at, each per image."""

    x_NHWC: jax.Array
    before_NHWC: jax.Array
    best_NHWC: jax.Array
    best_gradient_NHWC: jax.Array
    best_loss_N: jax.Array
    last_loss_N: jax.Array
    rises_N: jax.Array  # steps since the last checkpoint that raised the loss
    size_N: jax.Array
    checked_loss_N: jax.Array  # the best loss at the last checkpoint
    halved_N: jax.Array  # whether the step was halved there
    found_NHWC: jax.Array
    standing_N: jax.Array


def attack(predict: Callable, images_NHWC: np.ndarray, labels_N: np.ndarray, epsilon: float, *,
           norm: str = 'linf', loss: str = 'ce', targets: int = 0, steps: int = 100,
           restarts: int = 1, seed: int = 0, indices_N: np.ndarray | None = None,
           at_once: int = 0) -> Attacked:
    """Attacks as Auto-PGD does.

    Args:
      predict: jax.tree_util.Partial, (images_NHWC, float32 in 0 to 1) -> logits_NK.
      images_NHWC: float32 (N, H, W, C) in 0 to 1.
      labels_N: int (N,), the right classes.
      epsilon: radius of the ball, 1 is the whole range of a pixel.
      norm: linf or l2.
      loss: ce (cross-entropy) or dlr, which takes three classes or more.
      targets: how many other classes the images are driven to in turn, those with the largest
        logits first; it takes the loss dlr and four classes or more, and at most K - 1 are taken.
        0 drives the images away from their own class.
      steps: number of steps.
      restarts: how often an image that stands is attacked anew (with each target).
      seed: of the starts, which are random and at the border of the ball.
      indices_N: int (N,), the indices of the images, of which their random numbers are functions;
        None counts them from 0.
      at_once: the most images that are attacked at one time; 0 chooses by the free memory.

    Raises:
      ConfigError: a number is out of its range, there is no such norm or loss, or the loss takes
        more classes.
      DataError: images or labels cannot be used, or logits are not finite.
    """
    classes = attacks.check(predict, images_NHWC, labels_N, epsilon, norm)
    attacks.check_count('steps', steps)
    attacks.check_count('restarts', restarts)
    _check_loss(loss, targets, classes)
    targets = min(targets, classes - 1)

    def one_round(chunk, number):
        target_N = chunk.labels_N
        if targets:
            target_N = attacks.targets_of(predict, chunk.images_NHWC, chunk.labels_N,
                                          np.int32(number // restarts))
        context = (predict, chunk.images_NHWC, chunk.labels_N, target_N, np.float32(epsilon),
                   windows(steps))
        state = _begin(chunk.keys_N, chunk.images_NHWC, np.float32(epsilon), norm)
        state = attacks.repeat(_step, (norm, 'targeted' if targets else loss), state, context,
                               steps + 1)
        return state.found_NHWC, ~state.standing_N

    return attacks.rounds(one_round, predict, images_NHWC, labels_N,
                          count=max(1, targets) * restarts, seed=seed, indices_N=indices_N,
                          at_once=at_once)


def windows(steps: int) -> np.ndarray:
    """Returns int32 (steps + 1,): at a checkpoint the steps since the last one, else 0.

    >>> [(step, size) for step, size in enumerate(windows(50).tolist()) if size]
    [(11, 11), (21, 10), (30, 9), (38, 8), (45, 7)]
    """
    first, shorter, shortest = (max(1, int(share * steps)) for share in (FIRST, SHORTER, SHORTEST))
    sizes_T = np.zeros(steps + 1, np.int32)
    at, size = first, first
    while at <= steps:
        sizes_T[at] = size
        size = max(size - shorter, shortest)
        at += size
    return sizes_T


def ratio(logits_NK: jax.Array, labels_N: jax.Array) -> jax.Array:
    """Returns the DLR loss of each image, float32 (N,): above 0 where the answer is wrong.

    It is (the largest other logit - the logit of the label) / (the largest logit - the third).
    """
    sorted_NK = jnp.sort(logits_NK, axis=1)
    other_N = attacks.others(logits_NK, labels_N).max(axis=1)
    return ((other_N - attacks.of_class(logits_NK, labels_N))
            / (sorted_NK[:, -1] - sorted_NK[:, -3] + norm_balls.TINY))


def targeted_ratio(logits_NK: jax.Array, labels_N: jax.Array, target_N: jax.Array) -> jax.Array:
    """Returns the targeted DLR loss of each image, float32 (N,).

    It is (the logit of the target - that of the label) / (the largest logit - the mean of the third
    and the fourth).
    """
    sorted_NK = jnp.sort(logits_NK, axis=1)
    return ((attacks.of_class(logits_NK, target_N) - attacks.of_class(logits_NK, labels_N))
            / (sorted_NK[:, -1] - (sorted_NK[:, -3] + sorted_NK[:, -4]) / 2 + norm_balls.TINY))


def _check_loss(loss: str, targets: int, classes: int) -> None:
    if loss not in LOSSES:
        raise ConfigError(f'loss: {loss!r}; give ce or dlr')
    if targets < 0 or (targets and loss != 'dlr'):
        raise ConfigError(f'targets: {targets} with the loss {loss}; give loss=dlr, and 0 or more')
    if loss == 'dlr' and classes < (4 if targets else 3):
        raise ConfigError(f'loss: dlr takes {"four" if targets else "three"} classes or more'
                          f'{" with targets" if targets else ""}, and the model has {classes}; '
                          'give loss=ce')


@functools.partial(jax.jit, static_argnames='norm')
def _begin(keys_N, images_NHWC, epsilon, norm: str) -> _State:
    x_NHWC = norm_balls.random_border(keys_N, images_NHWC, epsilon, norm)
    N = len(images_NHWC)
    lowest_N = jnp.full(N, -jnp.inf, jnp.float32)
    return _State(x_NHWC, x_NHWC, x_NHWC, jnp.zeros_like(x_NHWC), lowest_N, -lowest_N,
                  jnp.zeros(N, jnp.int32), jnp.full(N, 2 * epsilon), lowest_N, jnp.ones(N, bool),
                  images_NHWC, jnp.ones(N, bool))


def _step(state: _State, context, index, options: tuple[str, str]) -> _State:
    predict, images_NHWC, labels_N, target_N, epsilon, windows_T = context
    norm, kind = options

    def loss(x_NHWC):
        logits_NK = predict(x_NHWC).astype(jnp.float32)
        loss_N = {'ce': lambda: attacks.cross_entropy(logits_NK, labels_N),
                  'dlr': lambda: ratio(logits_NK, labels_N),
                  'targeted': lambda: targeted_ratio(logits_NK, labels_N, target_N)}[kind]()
        return loss_N.sum(), (loss_N, logits_NK.argmax(1) == labels_N)

    gradient_NHWC, (loss_N, right_N) = jax.grad(loss, has_aux=True)(state.x_NHWC)
    better_N = loss_N > state.best_loss_N
    best_NHWC = pick(better_N, state.x_NHWC, state.best_NHWC)
    best_gradient_NHWC = pick(better_N, gradient_NHWC, state.best_gradient_NHWC)
    best_loss_N = jnp.where(better_N, loss_N, state.best_loss_N)
    rises_N = state.rises_N + (loss_N > state.last_loss_N).astype(jnp.int32)

    window = jnp.asarray(windows_T)[index]
    checked = window > 0
    stalls_N = (rises_N.astype(jnp.float32) <= RISES * window.astype(jnp.float32)) | (
        ~state.halved_N & (best_loss_N <= state.checked_loss_N))
    halve_N = checked & stalls_N
    size_N = jnp.where(halve_N, state.size_N / 2, state.size_N)
    x_NHWC = pick(halve_N, best_NHWC, state.x_NHWC)
    gradient_NHWC = pick(halve_N, best_gradient_NHWC, gradient_NHWC)

    share = jnp.where(index > 0, jnp.float32(MOMENTUM), jnp.float32(1))
    step_NHWC = size_N[:, None, None, None] * norm_balls.ascent(gradient_NHWC, norm)
    plain_NHWC = norm_balls.project(x_NHWC + step_NHWC, images_NHWC, epsilon, norm)
    next_NHWC = norm_balls.project(
        x_NHWC + share * (plain_NHWC - x_NHWC) + (1 - share) * (x_NHWC - state.before_NHWC),
        images_NHWC, epsilon, norm)
    return _State(
        next_NHWC, x_NHWC, best_NHWC, best_gradient_NHWC, best_loss_N, loss_N,
        jnp.where(checked, 0, rises_N), size_N,
        jnp.where(checked, best_loss_N, state.checked_loss_N),
        jnp.where(checked, stalls_N, state.halved_N),
        pick(state.standing_N & ~right_N, state.x_NHWC, state.found_NHWC),
        state.standing_N & right_N)
