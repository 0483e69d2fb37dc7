"""The operations that policies choose from, as data.

A space is a dict of operation name -> Magnitudes. From magnitude 0 to 10 the value of an operation
goes linearly from ``start`` to ``end``; ``policy.transform`` gives its meaning.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp


class Magnitudes(NamedTuple):
    start: float = 0.0  # the value at magnitude 0
    end: float = 0.0  # at magnitude 10
    signed: bool = False  # half of the draws change the sign
    whole: Callable | None = None  # how the reference rounds it


Space = dict[str, Magnitudes]


def paper(height, width) -> Space:
    """Returns the 14 operations of RandAugment with the ranges of torchvision."""
    return {
        'identity': Magnitudes(),
        'shear_x': Magnitudes(0.0, 0.3, signed=True),
        'shear_y': Magnitudes(0.0, 0.3, signed=True),
        'translate_x': Magnitudes(0.0, 150 / 331 * width, signed=True, whole=jnp.trunc),
        'translate_y': Magnitudes(0.0, 150 / 331 * height, signed=True, whole=jnp.trunc),
        'rotate': Magnitudes(0.0, 30.0, signed=True),
        'brightness': Magnitudes(0.0, 0.9, signed=True),
        'color': Magnitudes(0.0, 0.9, signed=True),
        'contrast': Magnitudes(0.0, 0.9, signed=True),
        'sharpness': Magnitudes(0.0, 0.9, signed=True),
        'posterize': Magnitudes(8, 4, whole=jnp.round),
        'solarize': Magnitudes(255.0, 0.0),
        'autocontrast': Magnitudes(),
        'equalize': Magnitudes(),
    }


def timm(height, width) -> Space:
    """Returns the 15 operations of timm's ``rand-...`` with its ranges."""
    return {
        'autocontrast': Magnitudes(),
        'equalize': Magnitudes(),
        'invert': Magnitudes(),
        'rotate': Magnitudes(0.0, 30.0, signed=True),
        'posterize': Magnitudes(0, 4, whole=jnp.floor),
        'solarize': Magnitudes(0, 256, whole=jnp.floor),
        'solarize_add': Magnitudes(0, 110, whole=jnp.floor),
        'color': Magnitudes(-0.9, 0.9),
        'contrast': Magnitudes(-0.9, 0.9),
        'brightness': Magnitudes(-0.9, 0.9),
        'sharpness': Magnitudes(-0.9, 0.9),
        'shear_x': Magnitudes(0.0, 0.3, signed=True),
        'shear_y': Magnitudes(0.0, 0.3, signed=True),
        'translate_x': Magnitudes(0.0, 0.45 * width, signed=True),
        'translate_y': Magnitudes(0.0, 0.45 * height, signed=True),
    }


def timm_increasing(height, width) -> Space:
    """Returns timm's operations where a larger magnitude always changes more (its ``inc1``)."""
    return timm(height, width) | {
        'posterize': Magnitudes(4, 0, whole=jnp.ceil),
        'solarize': Magnitudes(256, 0, whole=jnp.ceil),
        **{name: Magnitudes(0.0, 0.9, signed=True)
           for name in ('color', 'contrast', 'brightness', 'sharpness')},
    }


def auto(height, width) -> Space:
    """Returns the operations of AutoAugment's policies."""
    space = paper(height, width) | {'invert': Magnitudes()}
    return {name: row for name, row in space.items() if name != 'identity'}


def wide(height, width) -> Space:
    """Returns the operations of TrivialAugment with its wide ranges, shifts in pixels."""
    return paper(height, width) | {
        'shear_x': Magnitudes(0.0, 0.99, signed=True),
        'shear_y': Magnitudes(0.0, 0.99, signed=True),
        'translate_x': Magnitudes(0.0, 32.0, signed=True, whole=jnp.trunc),
        'translate_y': Magnitudes(0.0, 32.0, signed=True, whole=jnp.trunc),
        'rotate': Magnitudes(0.0, 135.0, signed=True),
        'posterize': Magnitudes(8, 2, whole=jnp.round),
        **{name: Magnitudes(0.0, 0.99, signed=True)
           for name in ('brightness', 'color', 'contrast', 'sharpness')},
    }


def mixing_chain(height, width) -> Space:
    """Returns the 9 operations of AugMix, without those that ImageNet-C tests."""
    all_operations = mixing_chain_all(height, width)
    tested = ('brightness', 'color', 'contrast', 'sharpness')
    return {name: row for name, row in all_operations.items() if name not in tested}


def mixing_chain_all(height, width) -> Space:
    """Returns the 13 operations of AugMix, as torchvision's ``all_ops``."""
    space = paper(height, width) | {
        'translate_x': Magnitudes(0.0, width / 3, signed=True, whole=jnp.trunc),
        'translate_y': Magnitudes(0.0, height / 3, signed=True, whole=jnp.trunc),
        'posterize': Magnitudes(4, 0, whole=jnp.round),
    }
    return {name: row for name, row in space.items() if name != 'identity'}


SPACES = {'paper': paper, 'timm': timm, 'timm_increasing': timm_increasing}

# Sub-policies of AutoAugment: two times (operation, probability, magnitude of 0 to 9 or None).
# Cubuk et al., https://arxiv.org/abs/1805.09501, tables 7 and 9 (magnitudes as in torchvision).
POLICIES = {
    'imagenet': (
        (('posterize', 0.4, 8), ('rotate', 0.6, 9)),
        (('solarize', 0.6, 5), ('autocontrast', 0.6, None)),
        (('equalize', 0.8, None), ('equalize', 0.6, None)),
        (('posterize', 0.6, 7), ('posterize', 0.6, 6)),
        (('equalize', 0.4, None), ('solarize', 0.2, 4)),
        (('equalize', 0.4, None), ('rotate', 0.8, 8)),
        (('solarize', 0.6, 3), ('equalize', 0.6, None)),
        (('posterize', 0.8, 5), ('equalize', 1.0, None)),
        (('rotate', 0.2, 3), ('solarize', 0.6, 8)),
        (('equalize', 0.6, None), ('posterize', 0.4, 6)),
        (('rotate', 0.8, 8), ('color', 0.4, 0)),
        (('rotate', 0.4, 9), ('equalize', 0.6, None)),
        (('equalize', 0.0, None), ('equalize', 0.8, None)),
        (('invert', 0.6, None), ('equalize', 1.0, None)),
        (('color', 0.6, 4), ('contrast', 1.0, 8)),
        (('rotate', 0.8, 8), ('color', 1.0, 2)),
        (('color', 0.8, 8), ('solarize', 0.8, 7)),
        (('sharpness', 0.4, 7), ('invert', 0.6, None)),
        (('shear_x', 0.6, 5), ('equalize', 1.0, None)),
        (('color', 0.4, 0), ('equalize', 0.6, None)),
        (('equalize', 0.4, None), ('solarize', 0.2, 4)),
        (('solarize', 0.6, 5), ('autocontrast', 0.6, None)),
        (('invert', 0.6, None), ('equalize', 1.0, None)),
        (('color', 0.6, 4), ('contrast', 1.0, 8)),
        (('equalize', 0.8, None), ('equalize', 0.6, None)),
    ),
    'cifar10': (
        (('invert', 0.1, None), ('contrast', 0.2, 6)),
        (('rotate', 0.7, 2), ('translate_x', 0.3, 9)),
        (('sharpness', 0.8, 1), ('sharpness', 0.9, 3)),
        (('shear_y', 0.5, 8), ('translate_y', 0.7, 9)),
        (('autocontrast', 0.5, None), ('equalize', 0.9, None)),
        (('shear_y', 0.2, 7), ('posterize', 0.3, 7)),
        (('color', 0.4, 3), ('brightness', 0.6, 7)),
        (('sharpness', 0.3, 9), ('brightness', 0.7, 9)),
        (('equalize', 0.6, None), ('equalize', 0.5, None)),
        (('contrast', 0.6, 7), ('sharpness', 0.6, 5)),
        (('color', 0.7, 7), ('translate_x', 0.5, 8)),
        (('equalize', 0.3, None), ('autocontrast', 0.4, None)),
        (('translate_y', 0.4, 3), ('sharpness', 0.2, 6)),
        (('brightness', 0.9, 6), ('color', 0.2, 8)),
        (('solarize', 0.5, 2), ('invert', 0.0, None)),
        (('equalize', 0.2, None), ('autocontrast', 0.6, None)),
        (('equalize', 0.2, None), ('equalize', 0.6, None)),
        (('color', 0.9, 9), ('equalize', 0.6, None)),
        (('autocontrast', 0.8, None), ('solarize', 0.2, 8)),
        (('brightness', 0.1, 3), ('color', 0.7, 0)),
        (('solarize', 0.4, 5), ('autocontrast', 0.9, None)),
        (('translate_y', 0.9, 9), ('translate_y', 0.7, 9)),
        (('autocontrast', 0.9, None), ('solarize', 0.8, 3)),
        (('equalize', 0.8, None), ('invert', 0.1, None)),
        (('translate_y', 0.7, 9), ('autocontrast', 0.9, None)),
    ),
}
