"""Projected gradient descent: many small steps uphill in the loss, inside of the ball.

Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018
(https://arxiv.org/abs/1706.06083).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.augment.keys import pick
from imgjax.evals import attacks, norm_balls
from imgjax.evals.attacks import Attacked


class _State(NamedTuple):
    """The iterate x, the image that was found, and whether none was found so far."""

    x_NHWC: jax.Array
    found_NHWC: jax.Array
    standing_N: jax.Array


def attack(predict: Callable, images_NHWC: np.ndarray, labels_N: np.ndarray, epsilon: float, *,
           norm: str = 'linf', steps: int = 20, step_size: float | None = None, restarts: int = 1,
           random: bool = True, seed: int = 0, indices_N: np.ndarray | None = None,
           at_once: int = 0) -> Attacked:
    """Attacks with the cross-entropy; an image falls as soon as one iterate is answered wrongly.

    Args:
      predict: jax.tree_util.Partial, (images_NHWC, float32 in 0 to 1) -> logits_NK.
      images_NHWC: float32 (N, H, W, C) in 0 to 1.
      labels_N: int (N,), the right classes.
      epsilon: radius of the ball, 1 is the whole range of a pixel.
      norm: linf or l2.
      steps: number of steps.
      step_size: length of a step; None takes 2.5 epsilon / steps, as the paper does (appendix).
      restarts: how often an image that stands is attacked anew, each time from another start.
      random: whether the start is drawn from the ball, or is the image.
      seed: of the starts.
      indices_N: int (N,), the indices of the images, of which their random numbers are functions;
        None counts them from 0.
      at_once: the most images that are attacked at one time; 0 chooses by the free memory.

    Raises:
      ConfigError: a number is out of its range, or there is no such norm.
      DataError: images or labels cannot be used, or logits are not finite.
    """
    attacks.check(predict, images_NHWC, labels_N, epsilon, norm)
    attacks.check_count('steps', steps)
    attacks.check_count('restarts', restarts)
    size = 2.5 * epsilon / steps if step_size is None else step_size

    def one_round(chunk, number):
        x_NHWC = (_start(chunk.keys_N, chunk.images_NHWC, np.float32(epsilon), norm) if random
                  else chunk.images_NHWC)
        state = _State(x_NHWC, chunk.images_NHWC, jnp.ones(len(x_NHWC), bool))
        context = (predict, chunk.images_NHWC, chunk.labels_N, np.float32(epsilon),
                   np.float32(size))
        # A step asks whether the iterate before it is answered rightly, so there is one more.
        state = attacks.repeat(_step, norm, state, context, steps + 1)
        return state.found_NHWC, ~state.standing_N

    return attacks.rounds(one_round, predict, images_NHWC, labels_N, count=restarts, seed=seed,
                          indices_N=indices_N, at_once=at_once)


_start = jax.jit(norm_balls.random_start, static_argnums=3)


def _step(state: _State, context, index, norm: str) -> _State:
    predict, images_NHWC, labels_N, epsilon, size = context

    def loss(x_NHWC):
        logits_NK = predict(x_NHWC)
        return attacks.cross_entropy(logits_NK, labels_N).sum(), logits_NK.argmax(1) == labels_N

    gradient_NHWC, right_N = jax.grad(loss, has_aux=True)(state.x_NHWC)
    found_NHWC = pick(state.standing_N & ~right_N, state.x_NHWC, state.found_NHWC)
    x_NHWC = norm_balls.project(state.x_NHWC + size * norm_balls.ascent(gradient_NHWC, norm),
                                images_NHWC, epsilon, norm)
    return _State(x_NHWC, found_NHWC, state.standing_N & right_N)
