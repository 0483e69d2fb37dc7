"""The Square attack: random squares that are kept where they help; it needs no gradient.

Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via random
search", ECCV 2020 (https://arxiv.org/abs/1912.00049), algorithms 2 (linf) and 3 (l2). As it only
asks for answers, it works on models whose gradient leads nowhere: where it finds more than PGD
does, the gradient is masked.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.augment.keys import pick
from imgjax.evals import attacks, norm_balls
from imgjax.evals.attacks import Attacked

SHARE = 0.8  # of the image that the first squares cover
HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which it is halved
BLOCK = 100  # queries before the images that fell are left out of the chunks


class _State(NamedTuple):
    """The best image so far, its margin, and whether it is answered rightly."""

    best_NHWC: jax.Array
    margin_N: jax.Array
    standing_N: jax.Array


def attack(predict: Callable, images_NHWC: np.ndarray, labels_N: np.ndarray, epsilon: float, *,
           norm: str = 'linf', queries: int = 5000, seed: int = 0,
           indices_N: np.ndarray | None = None, at_once: int = 0) -> Attacked:
    """Attacks by random squares that lower the margin of the right class.

    Args:
      predict: jax.tree_util.Partial, (images_NHWC, float32 in 0 to 1) -> logits_NK.
      images_NHWC: float32 (N, H, W, C) in 0 to 1.
      labels_N: int (N,), the right classes.
      epsilon: radius of the ball, 1 is the whole range of a pixel.
      norm: linf or l2.
      queries: how many changed images the model is asked about, for each image.
      seed: of the random numbers.
      indices_N: int (N,), the indices of the images, of which their random numbers are functions;
        None counts them from 0.
      at_once: the most images that are attacked at one time; 0 chooses by the free memory.

    Raises:
      ConfigError: a number is out of its range, or there is no such norm.
      DataError: images or labels cannot be used, or logits are not finite.
    """
    attacks.check(predict, images_NHWC, labels_N, epsilon, norm)
    attacks.check_count('queries', queries)
    at_once = at_once or attacks.images_at_once(predict, images_NHWC)
    indices_N = np.arange(len(labels_N)) if indices_N is None else indices_N
    right_N = attacks.answers(predict, images_NHWC, labels_N, at_once) == labels_N
    sizes = attacks.sizes_of(int(right_N.sum()), at_once)
    best_NHWC = np.array(images_NHWC, np.float32)
    margin_N = np.full(len(labels_N), np.inf, np.float32)
    standing_N = right_N.copy()
    sides_T = sides(queries, images_NHWC.shape[1], images_NHWC.shape[2], norm)
    shapes = _bumps(sides_T, images_NHWC.shape[1:3]) if norm == 'l2' else (None, None)
    for first in range(0, queries, BLOCK):
        for rows, real in attacks.padded(np.flatnonzero(standing_N), sizes):
            chunk = attacks.chunk_of(images_NHWC, labels_N, indices_N, rows, seed, 0)
            start_NHWC = (_start(chunk.keys_N, chunk.images_NHWC, np.float32(epsilon), norm)
                          if first == 0 else jnp.asarray(best_NHWC[rows]))
            state = _State(start_NHWC, jnp.asarray(margin_N[rows]),
                           jnp.ones(len(rows), bool))
            context = (predict, chunk, np.float32(epsilon), sides_T, *shapes)
            state = attacks.repeat(_step, norm, state, context, min(BLOCK, queries - first), first)
            rows = rows[:real]
            best_NHWC[rows], margin_N[rows], standing_N[rows] = (
                np.asarray(part)[:real] for part in state)
    fell_N = right_N & ~standing_N
    return Attacked(np.where(fell_N[:, None, None, None], best_NHWC, images_NHWC), standing_N)


def sides(queries: int, height: int, width: int, norm: str) -> np.ndarray:
    """Returns the side of the square of each query, int32 (queries,), in pixels.

    The share of the image that a square covers begins at 0.8 and is halved at fixed queries; an l2
    square has an odd side of three or more, where the image has as many pixels.
    """
    found = []
    for query in range(queries):
        share = SHARE / 2 ** sum(query - 1 > at for at in HALVED_AT)  # query 0 is the start
        side = round(math.sqrt(share * height * width))
        side = max(side, 3) // 2 * 2 + 1 if norm == 'l2' else max(side, 1)
        found.append(min(side, height, width))
    return np.asarray(found, np.int32)


def bump(side: int) -> np.ndarray:
    """Returns the l2 change of a square, float32 (side, side) of length 1.

    One half rises to its middle in steps, the other falls, as in figure 2 of the paper.
    """
    half = side // 2
    found = np.concatenate([_pyramid(half, side), -_pyramid(side - half, side)])
    return (found / np.sqrt((found ** 2).sum())).astype(np.float32)


def _pyramid(height: int, width: int) -> np.ndarray:
    """Returns rectangles around the middle, the inner ones with the larger values."""
    found = np.zeros((height, width))
    middle, center = height // 2, width // 2
    for ring in range(max(middle, center) + 1):
        found[max(middle - ring, 0):middle + ring + 1,
              max(center - ring, 0):center + ring + 1] += 1 / (ring + 1) ** 2
    length = np.sqrt((found ** 2).sum())
    return found / length if length else found


def _bumps(sides_T: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (the bump of each side in the upper left corner of an image, which one a query has).

    Returns:
      float32 (S, H, W), and int32 (queries,).
    """
    known, which_T = np.unique(sides_T, return_inverse=True)
    bumps_SHW = np.zeros((len(known), *shape), np.float32)
    for place, side in enumerate(known):
        bumps_SHW[place, :side, :side] = bump(int(side))
    return bumps_SHW, which_T.astype(np.int32)


@functools.partial(jax.jit, static_argnames='norm')
def _start(keys_N, images_NHWC, epsilon, norm: str):
    """Returns the first images: vertical stripes (linf), or a grid of bumps (l2)."""
    _, H, W, C = images_NHWC.shape
    if norm == 'linf':
        sign_NWC = _signs(keys_N, (W, C))
        delta_NHWC = jnp.broadcast_to(epsilon * sign_NWC[:, None], images_NHWC.shape)
    else:
        side = max(1, H // 5, W // 5)
        rows, columns = H // side, W // side
        sign_NRQC = _signs(keys_N, (rows, columns, C))
        top, left = (H - side * rows) // 2, (W - side * columns) // 2
        sign_NHWC = jnp.repeat(jnp.repeat(sign_NRQC, side, axis=1), side, axis=2)
        tile_HW1 = jnp.asarray(np.tile(bump(side), (rows, columns)))[..., None]
        delta_NHWC = jnp.pad(sign_NHWC * tile_HW1[None], (
            (0, 0), (top, H - side * rows - top), (left, W - side * columns - left), (0, 0)))
        delta_NHWC = epsilon * norm_balls.ascent(delta_NHWC, norm)
    return norm_balls.project(images_NHWC + delta_NHWC, images_NHWC, epsilon, norm)


def _step(state: _State, context, index, norm: str) -> _State:
    predict, chunk, epsilon, sides_T, bumps_SHW, which_T = context
    keys_N = jax.vmap(jax.random.fold_in, in_axes=(0, None))(chunk.keys_N, index + 1)
    side = jnp.asarray(sides_T)[index]
    if norm == 'linf':
        made_NHWC = _linf_square(keys_N, state.best_NHWC, epsilon, side)
    else:
        made_NHWC = _l2_square(keys_N, state.best_NHWC - chunk.images_NHWC, epsilon, side,
                               jnp.asarray(bumps_SHW)[jnp.asarray(which_T)[index]])
        made_NHWC = chunk.images_NHWC + made_NHWC
    made_NHWC = norm_balls.project(made_NHWC, chunk.images_NHWC, epsilon, norm)
    # The first query is about the start itself, whose margin is not known.
    made_NHWC = jnp.where(index == 0, state.best_NHWC, made_NHWC)

    logits_NK = predict(made_NHWC).astype(jnp.float32)
    margin_N = attacks.of_class(logits_NK, chunk.labels_N) - attacks.others(
        logits_NK, chunk.labels_N).max(axis=1)
    right_N = logits_NK.argmax(1) == chunk.labels_N
    better_N = state.standing_N & ((margin_N < state.margin_N) | ~right_N)
    return _State(pick(better_N, made_NHWC, state.best_NHWC),
                  jnp.where(better_N, margin_N, state.margin_N), state.standing_N & right_N)


def _linf_square(keys_N, best_NHWC, epsilon, side):
    """Returns the images with a square whose pixels go to one end of the ball, channel-wise."""
    _, H, W, C = best_NHWC.shape
    unit_ND = jax.vmap(lambda key: jax.random.uniform(key, (2 + C,)))(keys_N)
    inside_NHW1 = _window(unit_ND[:, 0], unit_ND[:, 1], side, H, W)[0]
    sign_N11C = jnp.where(unit_ND[:, 2:] < 0.5, -1.0, 1.0)[:, None, None]
    return best_NHWC + jnp.where(inside_NHW1, 2 * epsilon * sign_N11C, 0.0)


def _l2_square(keys_N, delta_NHWC, epsilon, side, bump_HW):
    """Returns the changes with one window emptied, whose length another window gets.

    The other window gets a bump, added to the direction that it had.
    """
    _, H, W, C = delta_NHWC.shape
    unit_ND = jax.vmap(lambda key: jax.random.uniform(key, (5 + C,)))(keys_N)
    to_NHW1, top_N, left_N = _window(unit_ND[:, 0], unit_ND[:, 1], side, H, W)
    from_NHW1 = _window(unit_ND[:, 2], unit_ND[:, 3], side, H, W)[0]

    def length_of(x_NHWC, inside_NHW1):
        return jnp.sqrt((jnp.where(inside_NHW1, x_NHWC, 0.0) ** 2).sum(axis=(1, 2), keepdims=True))

    def placed(top, left, turned):
        own_HW = jnp.where(turned, _turned(bump_HW), bump_HW)
        return jnp.roll(own_HW, (top, left), axis=(0, 1))

    bump_NHW = jax.vmap(placed)(top_N, left_N, unit_ND[:, 4] < 0.5)
    sign_N11C = jnp.where(unit_ND[:, 5:] < 0.5, -1.0, 1.0)[:, None, None]
    old_NHWC = delta_NHWC / (norm_balls.TINY + length_of(delta_NHWC, to_NHW1))
    new_NHWC = jnp.where(to_NHW1, bump_NHW[..., None] * sign_N11C + old_NHWC, 0.0)
    unused_N111 = jnp.maximum(epsilon ** 2 - (delta_NHWC ** 2).sum(
        axis=(1, 2, 3), keepdims=True), 0.0)
    budget_N11C = jnp.sqrt(unused_N111 / C + length_of(delta_NHWC, to_NHW1 | from_NHW1) ** 2)
    new_NHWC = new_NHWC * (budget_N11C / (norm_balls.TINY + length_of(new_NHWC, to_NHW1)))
    changed_NHWC = jnp.where(to_NHW1, new_NHWC, jnp.where(from_NHW1, 0.0, delta_NHWC))
    return epsilon * norm_balls.ascent(changed_NHWC, 'l2')


def _turned(bump_HW):
    """Returns the bump with rows and columns exchanged, where the image has room for it."""
    H, W = bump_HW.shape
    side = min(H, W)
    return jnp.zeros_like(bump_HW).at[:side, :side].set(bump_HW[:side, :side].T)


def _window(row_unit_N, column_unit_N, side, H: int, W: int):
    """Returns a random window per image: bool (N, H, W, 1), and its upper left corners."""
    top_N, left_N = ((unit_N * (size + 1 - side).astype(jnp.float32)).astype(jnp.int32)
                     for unit_N, size in ((row_unit_N, H), (column_unit_N, W)))
    row_H, column_W = (jnp.arange(size, dtype=jnp.int32)[None] for size in (H, W))
    in_rows_NH, in_columns_NW = ((at >= first_N[:, None]) & (at < first_N[:, None] + side)
                                 for at, first_N in ((row_H, top_N), (column_W, left_N)))
    return (in_rows_NH[:, :, None] & in_columns_NW[:, None])[..., None], top_N, left_N


def _signs(keys_N, shape: tuple[int, ...]):
    """Returns random -1 and 1 per image, float32 (N, *shape)."""
    unit = jax.vmap(lambda key: jax.random.uniform(key, shape))(keys_N)
    return jnp.where(unit < 0.5, -1.0, 1.0)
