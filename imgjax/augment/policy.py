"""Policies: operations from a list are drawn for each image and applied to it.

A ``lax.switch`` that differs between examples computes every branch for all of them. So one layer
of a policy is at most one warp, one look-up table and one blend for the whole batch. An example has
the numbers of its own operation in one of these and neutral ones in the others; see ``transform``.
Each layer rounds to whole numbers, as the references work on bytes (an image without an operation
is rounded too, unless the strength is 0).
"""

import math
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from imgjax.augment import color, filter, geometric, tables, tone
from imgjax.augment.keys import between, example_keys, pick, uniforms
from imgjax.augment.mix import beta
from imgjax.augment.ranges import TINY, Byte, Few, Interpolation, Probability, Range, Sigma

_Magnitude = Annotated[
    float, Range(0, 10, "a magnitude; torchvision's of 0 to 30 is three times as much")]


def rand_augment(key, images_NHWC, strength: _Magnitude, *,
                 num_ops: Few = 2,
                 ops: Literal['paper', 'timm', 'timm_increasing'] = 'paper',
                 magnitude_std: Annotated[float, Range(0, 10)] = 0.0,
                 probability: Probability = 1.0, interpolation: Interpolation = 'nearest',
                 fill: Byte = 0.0) -> jax.Array:
    """Applies operations drawn with equal chances, all at one magnitude.

    Cubuk et al., `RandAugment: Practical Automated Data Augmentation with a Reduced Search Space
    <https://arxiv.org/abs/1909.13719>`_, 2019. torchvision's ``magnitude=9`` of 31 steps is
    strength 3 here; timm's ``rand-m9-mstd0.5-inc1`` is strength 9 with ``ops='timm_increasing',
    magnitude_std=0.5, probability=0.5``.

    Args:
      key: PRNG key.
      images_NHWC: float32, 1 or 3 channels.
      strength: the magnitude, scalar in [0, 10]. At 0 the batch stays as it is, though some
        operations have no magnitude: they would come with their full effect.
      num_ops: operations in a row, drawn with replacement.
      ops: ``paper`` (the paper's list, with torchvision's ranges), ``timm`` or
        ``timm_increasing``.
      magnitude_std: each magnitude drawn is normal about the strength with this standard
        deviation, cut off at 0 and 10.
      probability: that an operation drawn is applied; 0.5 in timm, which has no identity in its
        list.
      interpolation: ``nearest`` (torchvision) or ``bilinear``.
      fill: value of the pixels that come from outside, in [0, 255].

    Returns:
      float32 images_NHWC.
    """
    size, height, width, _ = images_NHWC.shape
    space = tables.SPACES[ops](height, width)
    draw_key, normal_key = jax.random.split(key)
    unit_NL3 = uniforms(draw_key, size, 3 * num_ops).reshape(size, num_ops, 3)
    level_NL = jnp.broadcast_to(jnp.asarray(strength, jnp.float32), (size, num_ops))
    if magnitude_std:
        noise_NL = jax.vmap(lambda key: jax.random.normal(key, (num_ops,)))(
            example_keys(normal_key, size))
        level_NL = jnp.clip(level_NL + magnitude_std * noise_NL, 0.0, 10.0)
    op_NL = _which(unit_NL3[:, :, 0], len(space))
    op_NL = jnp.where(unit_NL3[:, :, 2] < probability, op_NL, _NOTHING)
    value_NL = values(space, op_NL, level_NL / 10.0, unit_NL3[:, :, 1])
    out_NHWC = _chain(images_NHWC, tuple(space), op_NL, value_NL, interpolation, fill)
    return jnp.where(strength > 0.0, out_NHWC, images_NHWC)


def auto_augment(key, images_NHWC, strength: Probability, *,
                 policy: Literal['imagenet', 'cifar10'] = 'imagenet',
                 interpolation: Interpolation = 'nearest', fill: Byte = 0.0) -> jax.Array:
    """Applies one of the 25 learned sub-policies, two operations with a probability each.

    Cubuk et al., `AutoAugment: Learning Augmentation Policies from Data
    <https://arxiv.org/abs/1805.09501>`_, 2018.

    Args:
      key: PRNG key.
      images_NHWC: float32, 1 or 3 channels.
      strength: the probability that an image is put through a sub-policy, scalar in [0, 1].
      policy: ``imagenet`` or ``cifar10``.
      interpolation: ``nearest`` (torchvision) or ``bilinear``.
      fill: value of the pixels that come from outside, in [0, 255].

    Returns:
      float32 images_NHWC.
    """
    size, height, width, _ = images_NHWC.shape
    space = tables.auto(height, width)
    names = list(space)
    rows = tables.POLICIES[policy]
    op_P2 = jnp.asarray([[names.index(name) for name, _, _ in row] for row in rows], jnp.int32)
    chance_P2 = jnp.asarray([[chance for _, chance, _ in row] for row in rows], jnp.float32)
    level_P2 = jnp.asarray([[(level or 0) / 9 for _, _, level in row] for row in rows], jnp.float32)

    unit_N6 = uniforms(key, size, 6)
    row_N = _which(unit_N6[:, 0], len(rows))
    op_N2 = jnp.where(unit_N6[:, 2:4] < chance_P2[row_N], op_P2[row_N], _NOTHING)
    value_N2 = values(space, op_N2, level_P2[row_N], unit_N6[:, 4:])
    out_NHWC = _chain(images_NHWC, tuple(names), op_N2, value_N2, interpolation, fill)
    return pick(unit_N6[:, 1] < strength, out_NHWC, images_NHWC)


def trivial_augment_wide(key, images_NHWC, strength: Probability, *,
                         interpolation: Interpolation = 'nearest', fill: Byte = 0.0) -> jax.Array:
    """Applies one operation at one of 31 magnitudes, both drawn with equal chances.

    Müller and Hutter, `TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation
    <https://arxiv.org/abs/2103.10158>`_, 2021.

    Args:
      key: PRNG key.
      images_NHWC: float32, 1 or 3 channels.
      strength: the probability that an image is changed, scalar in [0, 1].
      interpolation: ``nearest`` (torchvision) or ``bilinear``.
      fill: value of the pixels that come from outside, in [0, 255].

    Returns:
      float32 images_NHWC.
    """
    size, height, width, _ = images_NHWC.shape
    space = tables.wide(height, width)
    unit_N4 = uniforms(key, size, 4)
    op_N1 = _which(unit_N4[:, :1], len(space))
    level_N1 = _which(unit_N4[:, 1:2], 31).astype(jnp.float32) / 30.0
    value_N1 = values(space, op_N1, level_N1, unit_N4[:, 2:3])
    out_NHWC = _chain(images_NHWC, tuple(space), op_N1, value_N1, interpolation, fill)
    return pick(unit_N4[:, 3] < strength, out_NHWC, images_NHWC)


def augmix(key, images_NHWC, strength: Annotated[float, Range(0, 10, 'the severity')], *,
           width: Few = 3, depth: Annotated[int, Range(0, 100)] = 0,
           alpha: Annotated[float, Range(TINY, 100)] = 1.0, all_ops: bool = False,
           interpolation: Interpolation = 'bilinear', fill: Byte = 0.0) -> jax.Array:
    """Mixes each image with a mixture of chains of operations on it.

    Hendrycks et al., `AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty
    <https://arxiv.org/abs/1912.02781>`_, 2019, algorithm 1, without its loss.

    Args:
      key: PRNG key.
      images_NHWC: float32, 1 or 3 channels.
      strength: the severity, scalar in [0, 10], 3 in the paper: every magnitude is uniform in
        [0, strength]. At 0 the batch stays as it is.
      width: number of chains.
      depth: operations in a chain; 0 draws 1, 2 or 3 for each.
      alpha: of the Dirichlet distribution of the chains' weights and the Beta distribution of the
        weight of all against the image.
      all_ops: whether to draw brightness, colour, contrast and sharpness too, which ImageNet-C
        tests with.
      interpolation: ``bilinear`` (the paper) or ``nearest``.
      fill: value of the pixels that come from outside, in [0, 255].

    Returns:
      float32 images_NHWC, not rounded.
    """
    size, rows, columns, _ = images_NHWC.shape
    space = (tables.mixing_chain_all if all_ops else tables.mixing_chain)(rows, columns)
    longest = depth or 3
    draw_key, depth_key, weight_key, beta_key = jax.random.split(key, 4)
    unit_NWD3 = uniforms(draw_key, size, width * longest * 3).reshape(size, width, longest, 3)
    op_NWD = _which(unit_NWD3[..., 0], len(space))
    if not depth:
        depth_NW = 1 + _which(uniforms(depth_key, size, width), 3)
        op_NWD = jnp.where(jnp.arange(3)[None, None] < depth_NW[:, :, None], op_NWD, _NOTHING)
    level_NWD = unit_NWD3[..., 1] * (strength / 10.0)
    value_NWD = values(space, op_NWD, level_NWD, unit_NWD3[..., 2])
    weight_NW = _dirichlet(weight_key, size, width, alpha)
    share_N = jax.vmap(beta, in_axes=(0, None))(example_keys(beta_key, size), alpha)

    def add_chain(total_NHWC, chain):
        op_ND, value_ND, weight_N = chain
        out_NHWC = _chain(images_NHWC, tuple(space), op_ND, value_ND, interpolation, fill)
        return total_NHWC + weight_N[:, None, None, None] * out_NHWC, None

    chains = [jnp.moveaxis(x, 1, 0) for x in (op_NWD, value_NWD, weight_NW)]
    mixture_NHWC, _ = jax.lax.scan(add_chain, jnp.zeros_like(images_NHWC), chains)
    share_N111 = share_N[:, None, None, None]
    out_NHWC = jnp.clip((1.0 - share_N111) * images_NHWC + share_N111 * mixture_NHWC, 0.0, 255.0)
    return jnp.where(strength > 0.0, out_NHWC, images_NHWC)


def three_augment(key, images_NHWC, strength: Probability, *,
                  threshold: Annotated[float, Range(0, 256)] = 128.0,
                  min_sigma: Annotated[float, Range(TINY, 'max_sigma')] = 0.1,
                  max_sigma: Sigma = 2.0) -> jax.Array:
    """Applies one of grayscale, solarize and Gaussian blur, drawn with equal chances.

    Touvron et al., `DeiT III: Revenge of the ViT <https://arxiv.org/abs/2204.07118>`_, 2022,
    section 4; the paper has flips and ``color_jitter`` of 0.3 beside it.

    Args:
      key: PRNG key.
      images_NHWC: float32, 1 or 3 channels.
      strength: the probability that an image is changed, scalar in [0, 1].
      threshold: the least value that solarize inverts.
      min_sigma: least standard deviation of the blur in pixels, above 0.
      max_sigma: largest standard deviation of the blur in pixels.

    Returns:
      float32 images_NHWC.
    """
    unit_N3 = uniforms(key, images_NHWC.shape[0], 3)
    which_N = _which(unit_N3[:, 0], 3)
    gray_NHWC = jnp.broadcast_to(color.luma(images_NHWC), images_NHWC.shape)
    solar_NHWC = tone.invert_above(images_NHWC, jnp.full_like(unit_N3[:, 0], threshold))
    blurred_NHWC = filter.blur(images_NHWC, between(unit_N3[:, 1], min_sigma, max_sigma),
                               radius=math.ceil(3 * max_sigma))
    out_NHWC = pick(which_N == 0, gray_NHWC, pick(which_N == 1, solar_NHWC, blurred_NHWC))
    return pick(unit_N3[:, 2] < strength, out_NHWC, images_NHWC)


_NOTHING = -1  # the number of no operation


def values(space, op, level, unit) -> jax.Array:
    """Returns the value of each operation drawn.

    Args:
      space: dict of name -> Range.
      op: int32 array of places in the space; what is no place gets any finite value.
      level: float32 array of the same shape, the magnitude on the scale 0 to 1.
      unit: float32 array uniform in [0, 1), for the sign.
    """
    def of(row):
        value = row.start + (row.end - row.start) * level
        value = row.whole(value) if row.whole else value
        return jnp.where(unit < 0.5, -value, value) if row.signed else value
    return jnp.select([op == i for i in range(len(space))], [of(row) for row in space.values()],
                      0.0)


def transform(bytes_NHWC, names, op_N, value_N, *, interpolation: str, fill: float) -> jax.Array:
    """Applies one operation to each image.

    XLA CPU, two cores, two layers of the paper's list: 4.2 times as fast as a ``lax.switch`` over
    the same functions under vmap (256x32x32x3: 100 against 415 ms of processor time, 128x224x224x3:
    2.3 against 9.3 s; medians of interleaved runs).

    Args:
      bytes_NHWC: uint8, 1 or 3 channels.
      names: the operations that op_N counts in. Values are pixels to the right or down for
        ``translate_x`` and ``translate_y``, degrees clockwise for ``rotate``, factors for
        ``shear_x`` and ``shear_y``, the factor less 1 for ``brightness``, ``color``, ``contrast``
        and ``sharpness``, bits for ``posterize``, the threshold for ``solarize``, what is added for
        ``solarize_add``; ``identity``, ``autocontrast``, ``equalize`` and ``invert`` have none.
      op_N: int32 place in names; any other number is no operation.
      value_N: float32.
      interpolation: ``nearest`` or ``bilinear``.
      fill: value of the pixels that come from outside.

    Returns:
      uint8 bytes_NHWC.

    Raises:
      ValueError: another interpolation.
    """
    def now(name):
        return op_N == names.index(name) if name in names else jnp.zeros(op_N.shape, bool)

    def value(name, neutral):
        return jnp.where(now(name), value_N, neutral)

    size, height, width, channels = bytes_NHWC.shape
    matrix_N23 = geometric.affine_matrix(
        height, width, radians=value('rotate', 0.0) * (math.pi / 180.0),
        shear_x=value('shear_x', 0.0), shear_y=value('shear_y', 0.0),
        right=value('translate_x', 0.0), down=value('translate_y', 0.0))
    bytes_NHWC = tone.to_bytes(geometric.affine(
        bytes_NHWC.astype(jnp.float32), matrix_N23, interpolation=interpolation, fill=fill))

    count_NVC = tone.histogram(bytes_NHWC)
    table_NV1C = tone.ramp(size, channels)
    table_NV1C = tone.keep_bits(table_NV1C, value('posterize', 8.0))
    table_NV1C = tone.invert_above(table_NV1C, value('solarize', 256.0))
    table_NV1C = tone.invert_above(table_NV1C, jnp.where(now('invert'), 0.0, 256.0))
    table_NV1C = tone.add_below(table_NV1C, value('solarize_add', 0.0))
    table_NV1C = color.brighten(table_NV1C, 1.0 + value('brightness', 0.0))
    mean_N111 = color.mean_luma(bytes_NHWC.astype(jnp.float32))
    table_NV1C = color.change_contrast(table_NV1C, 1.0 + value('contrast', 0.0), mean_N111)
    table_NV1C = pick(
        now('autocontrast'), tone.stretch(table_NV1C, *tone.occupied(count_NVC)), table_NV1C)
    table_NV1C = pick(now('equalize'), tone.levelling_table(count_NVC), table_NV1C)
    bytes_NHWC = tone.look_up(bytes_NHWC, tone.to_bytes(table_NV1C))

    images_NHWC = bytes_NHWC.astype(jnp.float32)
    target_NHWC = pick(now('sharpness'), filter.smooth(images_NHWC), color.luma(images_NHWC))
    factor_N = 1.0 + value('color', 0.0) + value('sharpness', 0.0)
    return tone.to_bytes(color.blend(images_NHWC, target_NHWC, factor_N))


def _chain(images_NHWC, names, op_ND, value_ND, interpolation, fill):
    """Applies ``transform`` D times to float32 images; returns float32 whole numbers."""
    def layer(bytes_NHWC, drawn):
        return transform(bytes_NHWC, names, *drawn, interpolation=interpolation, fill=fill), None

    bytes_NHWC, _ = jax.lax.scan(layer, tone.to_bytes(images_NHWC), (op_ND.T, value_ND.T))
    return bytes_NHWC.astype(jnp.float32)


def _dirichlet(key, size, width, alpha):
    """Draws float32 weight_NW from the symmetric Dirichlet distribution."""
    if alpha == 1.0:  # the paper's: 3 s less to compile, and no loop that devices wait in
        wait_NW = -jnp.log1p(-uniforms(key, size, width))
        return wait_NW / jnp.sum(wait_NW, axis=1, keepdims=True)
    return jax.vmap(lambda key: jax.random.dirichlet(key, jnp.full(width, alpha)))(
        example_keys(key, size))


def _which(unit, count):
    """Maps numbers uniform in [0, 1) to int32 0 .. count - 1."""
    return jnp.floor(unit * count).astype(jnp.int32)
