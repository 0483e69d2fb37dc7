"""Model families, one file each, found by file name; importing this package touches no device.

What families share is in ``parts``.

>>> from imgjax import models
>>> model = models.create('resnet18', num_classes=10, act='silu')
>>> model.depths
(2, 2, 2, 2)

A family is a file of this folder that holds ``VARIANTS``, a dict of variant name -> options of
``Model``, and ``Model(num_classes, **options)``, a flax.linen module called as
``model.apply(variables, image_NHWC, train=...) -> (logits_NK, out)``: the images are normalised
floats of any channel count, the logits float32, and ``out`` names the intermediate arrays, in
training also ``logits_dist`` of a second classifier, which is trained on the labels as well. Its
collections are ``params`` and ``batch_stats``, its only other random stream is ``dropout``, and
``num_classes=0`` gives the features in place of the logits. All have derivatives of both modes:
``jax.grad``, ``jax.jvp``, ``jax.jacfwd`` and, by one over the other, products with the Hessian.
"""

import importlib
import pkgutil
import re
import typing

from flax import linen as nn

from imgjax.errors import nearest, unknown

_WORDS = {bool: 'True or False', int: 'a whole number', float: 'a number', str: 'a word'}
_RATES = ('dropout', 'drop_path')  # shares of what is dropped in training


def families() -> list[str]:
    """The names of the model families, sorted; imports none of them."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(__path__)
        if not module.ispkg and re.fullmatch('[a-z0-9_]+', module.name)
    )


def variants() -> dict[str, str]:
    """Every variant's name -> the family it belongs to; imports every family."""
    return {name: family for family in families() for name in _family(family).VARIANTS}


def tensor_rules(name: str) -> tuple:
    """How the family of a variant is cut over the mesh axis `tensor`; () where it does not say."""
    return getattr(_family(variants().get(name, name)), 'TENSOR_RULES', ())


def options(name: str) -> list[str]:
    """The options that ``create`` takes for that variant or family, sorted."""
    return _options(_family(variants().get(name, name)))


def _options(module) -> list[str]:
    return sorted(set(module.Model.__dataclass_fields__) - {'num_classes', 'name', 'parent'})


def create(name: str, num_classes: int, **options) -> nn.Module:
    """Builds the model of that name; no parameter exists and no device is touched before ``init``.

    Args:
      name: a variant's name, or a family's for its ``Model`` with default options.
      num_classes: width K of the logits, or 0 for the features themselves.
      **options: options of the family's ``Model``, which win over the variant's.

    Raises:
      ValueError: an unknown name or option, in one line with the nearest right ones; or a value
        that the option does not take.
    """
    if not isinstance(name, str) or not re.fullmatch('[a-z0-9_]+', name):
        raise ValueError(f'model name {name!r} is refused: only a-z, 0-9 and _ may occur in one')
    known = variants()
    family = known.get(name, name)
    if family not in families():
        raise ValueError(
            f'unknown model {name!r}{nearest(name, [*known, *families()])} '
            f'families: {", ".join(families())}')
    module = _family(family)
    valid = _options(module)
    for option, value in options.items():
        if option not in valid:
            raise ValueError(unknown(f'option of model family {family!r}', option, valid))
        wanted = _complaint(option, module.Model.__dataclass_fields__[option].type, value)
        if wanted:
            raise ValueError(f'option {option!r} of model family {family!r} takes {wanted}, '
                             f'got {value!r}')
    return module.Model(num_classes, **{**module.VARIANTS.get(name, {}), **options})


def _complaint(option: str, kind, value) -> str:
    """Returns what an option takes, in words, where `value` is not that; else ''.

    Of annotations that are no plain type or tuple of one, what a value may be is not looked at.
    """
    if typing.get_origin(kind) is tuple:
        inner, *more = typing.get_args(kind)
        if more == [...] and inner in _WORDS:
            fits = isinstance(value, list | tuple) and all(_is_a(inner, one) for one in value)
            return '' if fits else f'several values, each {_WORDS[inner]}'
    if kind in _WORDS and not _is_a(kind, value):
        return _WORDS[kind]
    if option in _RATES and not 0 <= value < 1:
        return 'a number of at least 0 and below 1'
    return ''


def _is_a(kind: type, value) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _family(family: str):
    return importlib.import_module(f'{__name__}.{family}')
