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
training also ``logits_dist`` of a second classifier, which is also trained on the labels. Its
collections are ``params`` and ``batch_stats``, its only other random stream is ``dropout``, and
``num_classes=0`` gives the features in place of the logits. A field ``dtype`` is given
config.model.dtype; a model without it computes in float32. All models have derivatives of both
modes: ``jax.grad``, ``jax.jvp``, ``jax.jacfwd`` and, combined, products with the Hessian.

A family of the user's own is a file ``projects/<file>.py`` in the directory of the command, named
``projects.<file>``. It may have no ``VARIANTS``; where these have an entry ``<file>``, its name
stands for that variant.
"""

import importlib
import pkgutil
import re
import types
import typing

from flax import linen as nn

from imgjax.errors import nearest
from imgjax.process import projects

_TYPES = {bool: 'True or False', int: 'a whole number', float: 'a number', str: 'a word'}
_RATES = ('dropout', 'drop_path')  # options that take a number from 0 to below 1


def families() -> list[str]:
    """Returns the names of the model families of this package, sorted; imports none of them."""
    return sorted(
        found.name
        for found in pkgutil.iter_modules(__path__)
        if not found.ispkg and re.fullmatch('[a-z0-9_]+', found.name)
    )


def variants() -> dict[str, str]:
    """Returns name of a variant -> name of its family, for all families of this package.

    >>> from imgjax import models
    >>> models.variants()['resnet50']
    'resnet'
    """
    return {name: family for family in families() for name in _import(family).VARIANTS}


def module(name: str) -> types.ModuleType:
    """Returns the file of a family, by its name, by that of a variant, or by `projects.<file>`.

    Raises:
      ValueError: no model has that name, or the user's file is missing, does not import or has no
        ``Model``; in one line.
    """
    if isinstance(name, str) and name.startswith('projects.'):
        own = projects.load(name)
        model = getattr(own, 'Model', None)
        if not (isinstance(model, type) and issubclass(model, nn.Module)):
            raise ValueError(f'{name.replace(".", "/")}.py: has no Model; define `class '
                             'Model(nn.Module)` of flax.linen with the field num_classes')
        return own
    if not isinstance(name, str) or not re.fullmatch('[a-z0-9_]+', name):
        raise ValueError(f'model name {name!r} is refused: only a-z, 0-9 and _ may occur in one')
    known = variants()
    family = known.get(name, name)
    if family not in families():
        raise ValueError(
            f'unknown model {name!r}{nearest(name, [*known, *families()]) or "."} '
            f'The families are {", ".join(families())}')
    return _import(family)


def tensor_rules(name: str) -> tuple:
    """Returns how the family of a model is split over the mesh axis `tensor`; () for not at all."""
    return getattr(module(name), 'TENSOR_RULES', ())


def options(name: str) -> list[str]:
    """Returns the options that ``create`` takes for that model, sorted.

    >>> from imgjax import models
    >>> models.options('mlp')
    ['act', 'dropout', 'dtype', 'hidden']
    """
    return _options(module(name))


def _options(family: types.ModuleType) -> list[str]:
    return sorted(set(family.Model.__dataclass_fields__) - {'num_classes', 'name', 'parent'})


def create(name: str, num_classes: int, **options) -> nn.Module:
    """Builds the model of that name; no parameter exists and no device is touched before ``init``.

    >>> import jax
    >>> from imgjax import models
    >>> model = models.create('mlp', num_classes=10, hidden=(64,))
    >>> (logits_NK, out), variables = jax.eval_shape(  # shapes only; without it, arrays
    ...     lambda: model.init_with_output(
    ...         jax.random.key(0), jax.numpy.zeros((2, 8, 8, 1)), train=False))
    >>> logits_NK.shape, sorted(out), sorted(variables)
    ((2, 10), ['hidden1', 'logits', 'pre_logits'], ['params'])

    Args:
      name: a variant's name, or a family's for its ``Model`` with default options, or
        ``projects.<file>`` for that of the user's file.
      num_classes: width K of the logits, or 0 for the features themselves.
      **options: options of the family's ``Model``, which win over the variant's.

    Raises:
      ValueError: an unknown name or option, in one line with the nearest right ones; a value that
        the option does not take; or a user's file that cannot be used.
    """
    family = module(name)
    title = name if '.' in name else family.__name__.rpartition('.')[2]
    valid = _options(family)
    for option, value in options.items():
        if option not in valid:
            raise ValueError(
                f'model family {title!r} has no option {option!r}{nearest(option, valid) or "."} '
                f'There are {", ".join(valid) or "none"}')
        expected = _expected(option, family.Model.__dataclass_fields__[option].type, value)
        if expected:
            raise ValueError(f'option {option!r} of model family {title!r} takes {expected}, '
                             f'got {value!r}')
    variant = getattr(family, 'VARIANTS', {}).get(name.rpartition('.')[2], {})
    return family.Model(num_classes, **{**variant, **options})


def _expected(option: str, kind, value) -> str:
    """Returns in words what an option takes where `value` is something else, or ''.

    Only annotations that are a plain type or a tuple of one are checked.
    """
    if typing.get_origin(kind) is tuple:
        inner, *more = typing.get_args(kind)
        if more == [...] and inner in _TYPES:
            fits = isinstance(value, list | tuple) and all(_is_a(inner, one) for one in value)
            return '' if fits else f'several values, each {_TYPES[inner]}'
    if kind in _TYPES and not _is_a(kind, value):
        return _TYPES[kind]
    if option in _RATES and not (_is_a(float, value) and 0 <= value < 1):
        return 'a number of at least 0 and below 1'
    return ''


def _is_a(kind: type, value) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _import(family: str) -> types.ModuleType:
    return importlib.import_module(f'{__name__}.{family}')
