"""Adapts weights to a model with another head, other input channels or another image size.

Each change is made only where the config asks for it. Names and layouts here are those of torch
(torch_layout.py).
"""

import logging
import math

import jax
import numpy as np

from imgjax.errors import DataError
from imgjax.interop import torch_layout

log = logging.getLogger('imgjax')

# Ends of the names of tables over a grid of patches, which are resampled to another image size.
_POSITIONS = ('pos_embed',)
_RELATIVE = ('relative_position_bias_table',)


def far_off(tensors: dict[str, np.ndarray], ours: dict[str, tuple[int, ...]],
            heads: tuple[str, ...], buffers: tuple[str, ...]) -> bool:
    """Returns whether weights are so different from the model that `adapt` cannot help.

    Args:
      tensors, ours, heads: as in `adapt`.
      buffers: ends of the names of tensors that are no parameters.
    """
    others = tuple(f'{head}.' for head in heads)
    unused = (torch_layout.COUNTER, *buffers)
    theirs = {name for name in tensors
              if not name.startswith(others) and not name.endswith(unused)}
    wanted = {name for name in ours if not name.startswith(others)}
    shapes = [name for name in theirs & wanted
              if tensors[name].shape != ours[name] and not name.endswith(_POSITIONS + _RELATIVE)]
    return len(theirs ^ wanted) + len(shapes) > torch_layout.MAX_LISTED


def adapt(tensors: dict[str, np.ndarray], ours: dict[str, tuple[int, ...]], heads: tuple[str, ...],
          options: dict) -> dict[str, np.ndarray]:
    """Returns tensors that are changed as config.init says.

    Args:
      tensors: the weights, by name.
      ours: the shapes of the model's tensors, by name.
      heads: prefixes of the names of classifiers.
      options: config.init.

    Raises:
      DataError: a shape differs, and the options do not ask to adapt it; the line says how to.
    """
    tensors = dict(tensors)
    for name, shape in ours.items():
        if name.startswith(tuple(f'{head}.' for head in heads)):
            if options['head'] == 'new':
                tensors.pop(name, None)
            elif name in tensors and tensors[name].shape != shape:
                raise DataError(
                    f'{name} is for {tensors[name].shape[0]} classes, the dataset has {shape[0]}; '
                    "set config.init.head='new' for a newly initialised classifier")
        elif name in tensors and tensors[name].shape != shape:
            tensors[name] = _adapted(name, tensors[name], shape, options)
    if options['head'] == 'new':  # that of the weights may have another form
        tensors = {name: tensor for name, tensor in tensors.items()
                   if name in ours or not name.startswith(tuple(f'{head}.' for head in heads))}
    return tensors


def _adapted(name: str, tensor: np.ndarray, shape: tuple[int, ...], options: dict) -> np.ndarray:
    """Returns a tensor of `shape`, or `tensor` itself where no change applies."""
    if name.endswith(_POSITIONS + _RELATIVE) and tensor.shape[-1:] == shape[-1:]:
        if not options['resample']:
            raise DataError(f'{name} is {tensor.shape} and this image size takes {shape}; set '
                            'config.init.resample=True, or the image size of the weights')
        resampled = (_positions if name.endswith(_POSITIONS) else _relative)(tensor, shape)
        log.info('%s is resampled from %s to %s', name, tensor.shape, shape)
        return resampled
    # A convolution over pixels, (O, I, h, w), of which only the input channels differ.
    others = tensor.shape[:1] + tensor.shape[2:]
    if tensor.ndim == 4 and others == shape[:1] + shape[2:] and tensor.shape[1] in (1, 3):
        old, new = tensor.shape[1], shape[1]
        if options['channels'] == 'same':
            raise DataError(f'{name} is for {old} channels, the images have {new}; set '
                            "config.init.channels to 'mean' or 'tile', or config.data.channels")
        log.info('%s: adapted from %d to %d input channels (config.init.channels=%s)', name, old,
                 new, options['channels'])
        # Scaled, so that an image with equal channels gives the same result as before.
        if options['channels'] == 'mean':
            tensor = np.repeat(tensor.mean(1, keepdims=True), new, axis=1)
        else:
            tensor = tensor[:, np.arange(new) % old]
        return (tensor * np.float32(old / new)).astype(np.float32)
    return tensor


def _positions(table_1LD: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resamples positions of a square grid; those of other tokens before them stay."""
    old, new = table_1LD.shape[1], shape[1]
    tokens = next((n for n in range(8) if _is_square(old - n) and _is_square(new - n)), None)
    if table_1LD.ndim != 3 or tokens is None:
        raise DataError(f'positions of shape {table_1LD.shape} cannot be resampled to {shape}')
    grid = _resized(table_1LD[0, tokens:], math.isqrt(old - tokens), math.isqrt(new - tokens))
    return np.concatenate([table_1LD[:, :tokens], grid[None]], axis=1)


def _relative(table_LH: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resamples biases of (2s - 1) x (2s - 1) offsets; those of other tokens after them stay."""
    from scipy.interpolate import RegularGridInterpolator  # takes 0.3 s, and few runs need it

    old, new = table_LH.shape[0], shape[0]
    tokens = next((n for n in (0, 3) if _is_square(old - n) and _is_square(new - n)), None)
    if tokens is None:
        raise DataError(f'biases of shape {table_LH.shape} cannot be resampled to {shape}')
    old_side, new_side = math.isqrt(old - tokens), math.isqrt(new - tokens)
    if old_side == 1:  # a window of one pixel has no other offset
        return np.concatenate([np.repeat(table_LH[:1], new_side**2, axis=0), table_LH[1:]])
    at_S = _spread(old_side // 2, new_side // 2)
    wanted_2YX = np.clip(np.mgrid[:new_side, :new_side] - new_side // 2, at_S[0], at_S[-1])
    grid_SSH = table_LH[:old - tokens].reshape(old_side, old_side, -1)
    grid_YXH = RegularGridInterpolator((at_S, at_S), grid_SSH)(np.moveaxis(wanted_2YX, 0, -1))
    grid_LH = grid_YXH.reshape(new_side**2, -1).astype(np.float32)
    return np.concatenate([grid_LH, table_LH[old - tokens:]])


def _spread(old: int, new: int) -> np.ndarray:
    """Returns the places of the offsets -old..old among -new..new, float64.

    They grow in a geometric progression, so that small offsets hardly change, as in the code of
    BEiT (Bao et al. 2021, arXiv:2106.08254) and in timm, which has the same bounds of the ratio.
    """
    from scipy.optimize import brentq

    def distances(ratio):
        return np.cumsum(ratio ** np.arange(old))

    low, high = 1.01, 1.5
    if distances(low)[-1] >= new:
        ratio = low
    elif distances(high)[-1] <= new:
        ratio = high
    else:
        ratio = brentq(lambda ratio: distances(ratio)[-1] - new, low, high)
    return np.concatenate([-distances(ratio)[::-1], [0], distances(ratio)])


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _resized(table_LD: np.ndarray, old: int, new: int) -> np.ndarray:
    """Resizes a table over old x old places to new x new, bicubically and antialiased."""
    grid_HWD = table_LD.reshape(old, old, -1)
    with jax.transfer_guard('allow'):  # a run forbids implicit transfers in its loop
        resized = jax.image.resize(grid_HWD, (new, new, grid_HWD.shape[-1]), 'cubic')
        return np.asarray(resized, np.float32).reshape(new * new, -1)
