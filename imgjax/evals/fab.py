"""FAB-T: the fast adaptive boundary attack, which looks for the nearest image of another class.

Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack",
ICML 2020 (https://arxiv.org/abs/1907.02044), in the targeted form that AutoAttack uses
(https://arxiv.org/abs/2003.01690): the boundary to one other class at a time is taken as a plane,
the point and the image are projected onto it within the range of the pixels, and the next point
lies between the two. It has no loss and no step size, so that it fails for other reasons than PGD.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.augment.keys import pick
from imgjax.errors import ConfigError
from imgjax.evals import attacks, norm_balls
from imgjax.evals.attacks import Attacked

BIAS = 0.1  # the largest share of the image's own projection in the next point (alpha_max)
BEYOND = 1.05  # a projection is overshot by this factor (eta)
BACK = 0.9  # a point that is answered wrongly comes nearer to its image by this factor (beta)


class _State(NamedTuple):
    """The point x, the image that was found, and whether none was found so far."""

    x_NHWC: jax.Array
    found_NHWC: jax.Array
    standing_N: jax.Array


def attack(predict: Callable, images_NHWC: np.ndarray, labels_N: np.ndarray, epsilon: float, *,
           norm: str = 'linf', targets: int = 9, steps: int = 100, at_once: int = 0) -> Attacked:
    """Attacks with one other class after the other, those with the largest logits first.

    An image falls when a point that is answered wrongly is at most epsilon away. No random numbers
    are drawn.

    Args:
      predict: jax.tree_util.Partial, (images_NHWC, float32 in 0 to 1) -> logits_NK.
      images_NHWC: float32 (N, H, W, C) in 0 to 1.
      labels_N: int (N,), the right classes.
      epsilon: radius of the ball, 1 is the whole range of a pixel.
      norm: linf or l2.
      targets: how many other classes; at most K - 1 are taken.
      steps: number of steps with each class.
      at_once: the most images that are attacked at one time; 0 chooses by the free memory.

    Raises:
      ConfigError: a number is out of its range, or there is no such norm.
      DataError: images or labels cannot be used, or logits are not finite.
    """
    classes = attacks.check(predict, images_NHWC, labels_N, epsilon, norm)
    attacks.check_count('steps', steps)
    attacks.check_count('targets', targets)
    if classes < 2:
        raise ConfigError('targets: the model has one class only; FAB-T takes two or more')

    def one_round(chunk, number):
        target_N = attacks.targets_of(predict, chunk.images_NHWC, chunk.labels_N,
                                      np.int32(number))
        state = _State(chunk.images_NHWC, chunk.images_NHWC,
                       jnp.ones(len(chunk.images_NHWC), bool))
        context = (predict, chunk.images_NHWC, chunk.labels_N, target_N, np.float32(epsilon))
        state = attacks.repeat(_step, norm, state, context, steps)
        return state.found_NHWC, ~state.standing_N

    return attacks.rounds(one_round, predict, images_NHWC, labels_N,
                          count=min(targets, classes - 1), at_once=at_once)


def to_plane(x_ND: jax.Array, normal_ND: jax.Array, height_N: jax.Array, norm: str) -> jax.Array:
    """Returns the shortest way from points in 0 to 1 to a plane, without leaving 0 to 1.

    The way is d with height + normal · d = 0, or as near to 0 as it can be. Each coordinate goes
    towards the plane at the same pace (linf), or at one in proportion to its part of the normal
    (l2), until it is at the end of its range; the length of the way is where the line pieces of
    normal · d reach the height.

    Args:
      x_ND: float32, the points.
      normal_ND: float32, the normal of each plane, of any length.
      height_N: float32, the linear function at the point, which is 0 on the plane.
      norm: linf or l2, in which the way is the shortest.

    Returns:
      float32 (N, D).
    """
    toward_ND = -jnp.sign(height_N)[:, None] * jnp.sign(normal_ND)
    room_ND = jnp.where(toward_ND > 0, 1 - x_ND, x_ND)
    steep_ND = jnp.abs(normal_ND)
    pace_ND = jnp.ones_like(steep_ND) if norm == 'linf' else steep_ND
    rate_ND = steep_ND * pace_ND
    end_ND = jnp.where(rate_ND > 0, room_ND / jnp.where(pace_ND > 0, pace_ND, 1.0), 0.0)

    order_ND = jnp.argsort(end_ND, axis=1)
    ends_ND, rates_ND = (jnp.take_along_axis(part_ND, order_ND, axis=1)
                         for part_ND in (end_ND, rate_ND))
    ended_ND = jnp.cumsum(rates_ND * ends_ND, axis=1)  # by coordinates that are at their ends
    moving_ND = jnp.cumsum(rates_ND[:, ::-1], axis=1)[:, ::-1] - rates_ND  # those that are not
    reached_ND = ended_ND + moving_ND * ends_ND
    wanted_N1 = jnp.abs(height_N)[:, None]
    piece_N1 = (reached_ND < wanted_N1).sum(axis=1, keepdims=True) - 1  # -1: before the first end
    at_N1 = jnp.maximum(piece_N1, 0)
    before_N1 = piece_N1 < 0
    ended_N1 = jnp.where(before_N1, 0.0, jnp.take_along_axis(ended_ND, at_N1, axis=1))
    moving_N1 = jnp.where(before_N1, rates_ND.sum(axis=1, keepdims=True),
                          jnp.take_along_axis(moving_ND, at_N1, axis=1))
    far_N1 = jnp.where(moving_N1 > 0, (wanted_N1 - ended_N1) / jnp.where(
        moving_N1 > 0, moving_N1, 1.0), jnp.inf)
    return toward_ND * pace_ND * jnp.minimum(far_N1, end_ND)


def _step(state: _State, context, index, norm: str) -> _State:
    predict, images_NHWC, labels_N, target_N, epsilon = context
    shape = images_NHWC.shape

    def lead(x_NHWC):
        logits_NK = predict(x_NHWC).astype(jnp.float32)
        lead_N = attacks.of_class(logits_NK, target_N) - attacks.of_class(logits_NK, labels_N)
        return lead_N.sum(), lead_N

    normal_NHWC, height_N = jax.grad(lead, has_aux=True)(state.x_NHWC)
    image_height_N = height_N + (normal_NHWC * (images_NHWC - state.x_NHWC)).sum(axis=(1, 2, 3))
    normal_ND = normal_NHWC.reshape(shape[0], -1)
    way_NHWC, image_way_NHWC = (
        to_plane(from_NHWC.reshape(shape[0], -1), normal_ND, from_N, norm).reshape(shape)
        for from_NHWC, from_N in ((state.x_NHWC, height_N), (images_NHWC, image_height_N)))
    length_N, image_length_N = (jnp.maximum(norm_balls.lengths(x_NHWC, norm), 1e-8)
                                for x_NHWC in (way_NHWC, image_way_NHWC))
    share_N = jnp.minimum(length_N / (length_N + image_length_N), BIAS)[:, None, None, None]
    x_NHWC = jnp.clip((state.x_NHWC + BEYOND * way_NHWC) * (1 - share_N)
                      + (images_NHWC + BEYOND * image_way_NHWC) * share_N, 0.0, 1.0)

    wrong_N = predict(x_NHWC).argmax(1) != labels_N
    away_NHWC = x_NHWC - images_NHWC
    fell_N = state.standing_N & wrong_N & (norm_balls.lengths(away_NHWC, norm) <= epsilon)
    return _State(pick(wrong_N, images_NHWC + BACK * away_NHWC, x_NHWC),
                  pick(fell_N, x_NHWC, state.found_NHWC), state.standing_N & ~fell_N)
