"""Image augmentation on the device: pure functions of a key, applied inside the train step.

Every public function of this folder that begins with one of two parameter lists is an operation,
found by its name; to add an operation, write the function.

  ``(key, images_NHWC, strength, *, ...)`` -> ``images_NHWC``
      an image operation. Randomness is per example: see ``example_keys``.
  ``(key, images_NHWC, targets_NK, strength, *, ...)`` -> ``(images_NHWC, targets_NK)``
      a mixing operation, which moves the targets with the images.

``strength`` is a traced scalar, so that changing it does not recompile; parameters after the ``*``
are static. Strength 0 returns the batch unchanged, bit for bit. Images are float32 in [0, 255], and
targets float32 rows that mixing adds up linearly, whatever they hold: one class, several labels, a
column that says whether the example is real.

An operation annotates its strength and its options with the ranges that they take; see ``ranges``.

An operation of your own is a function of the same form in ``projects/<name>.py``, called ``<name>``
like the file. Among the operations it is ``projects.<name>``, its strength is that of ``<name>``.

What an operation does to the pixels is a function without randomness, with one number per example
where it needs any; the operations of a file and the policies share these functions.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable

import jax
import jax.numpy as jnp

from imgjax.augment import color as color
from imgjax.augment import ranges
from imgjax.augment.keys import example_keys as example_keys
from imgjax.errors import nearest, unknown
from imgjax.process import projects

_IMAGE = ['key', 'images_NHWC', 'strength']
_MIXING = ['key', 'images_NHWC', 'targets_NK', 'strength']


def apply(ops, key, images_NHWC, targets_NK, strengths, view=0,
          differ=()) -> tuple[jax.Array, jax.Array]:
    """Applies the operations in their order.

    >>> bytes_NHWC = jnp.asarray([1, 2, 3], jnp.uint8).reshape(1, 1, 3, 1)
    >>> images_NHWC, targets_NK = apply(
    ...     [['random_flip', {}]], jax.random.key(0), bytes_NHWC, jnp.eye(1), {'random_flip': 1.0})
    >>> images_NHWC.ravel()
    Array([3., 2., 1.], dtype=float32)

    Args:
      ops: sequence of ``(name, static options)``, plain data; see ``check``.
      key: PRNG key of this step. The operation at place i gets ``fold_in(key, i)``.
      images_NHWC: float32 or uint8 in [0, 255], the global batch. The position of an example in it
        decides what happens to the example, whatever the sharding.
      targets_NK: float32; mixing operations add up rows, which need not sum to 1.
      strengths: dict of operation name -> scalar, traced or not; names not in ``ops`` are ignored.
      view: which of several views of one batch this is (a static int).
      differ: names of the operations that differ between views and leave view 0 as it is; views
        share all other draws.

    Returns:
      float32 images_NHWC, and targets_NK.

    Raises:
      ValueError: an operation or option is unknown, an operation has no strength, or a number is
        out of its range (a traced strength cannot be checked here; call `check_strengths` before).
    """
    check(ops)
    check_strengths(ops, {name: strengths[name] for name in map(strength_name, names_in(ops))
                          if isinstance(strengths.get(name), int | float)})
    images_NHWC = jnp.asarray(images_NHWC).astype(jnp.float32)
    for place, (name, options) in enumerate(ops):
        own = strength_name(name)
        if own not in strengths:
            raise ValueError(
                f'augmentation {name!r} has no strength: add it to the hparams next to '
                f'{sorted(strengths)}')
        function, first = _find(name)
        op_key = jax.random.fold_in(key, place)
        if name in differ:
            if view == 0:
                continue
            op_key = jax.random.fold_in(op_key, view)
        strength = jnp.asarray(strengths[own], jnp.float32)
        if first == _MIXING:
            images_NHWC, targets_NK = function(op_key, images_NHWC, targets_NK, strength, **options)
        else:
            images_NHWC = function(op_key, images_NHWC, strength, **options)
    return images_NHWC, targets_NK


def check(ops, side=None) -> None:
    """Checks that ``apply`` takes ``ops``, and runs nothing.

    >>> check([['random_flip', {}], ['pad_crop', {'padding': 4}], ['mixup', {}]])

    Args:
      ops: sequence of ``(name, static options)``, plain data.
      side: the side of the images in pixels, None if unknown; options in pixels may be no larger.

    Raises:
      ValueError: it does not; the line names the operation or option and what it takes.
    """
    for op in ops:
        if isinstance(op, str) or len(op) != 2:
            raise ValueError(f"an augmentation is written ['name', {{options}}], not {op!r}")
        name, options = op
        function, first = _find(name)
        static = list(inspect.signature(function).parameters.values())[len(first):]
        defaults = {p.name: p.default for p in static}
        for option in options:
            if option not in defaults:
                kind = f'option of augmentation {name!r}'
                raise ValueError(unknown(kind, option, sorted(defaults)))
            wanted, given = type(defaults[option]), type(options[option])
            if given is not wanted and not (wanted is float and given is int):
                raise ValueError(f'option {option!r} of augmentation {name!r} is of type '
                                 f'{wanted.__name__}, not {options[option]!r}')
        complete = defaults | options | ({ranges.SIDE: side} if side else {})
        for option in static:
            if wrong := ranges.complaint(option.annotation, complete[option.name], complete):
                raise ValueError(f'option {option.name!r} of augmentation {name!r} {wrong}')


def check_strengths(ops, strengths) -> None:
    """Checks that each strength belongs to an operation and is in its range.

    >>> check_strengths([['random_flip', {}]], {'random_flip': 0.5})

    Args:
      ops: as in ``check``, which has to be called before.
      strengths: dict of operation name -> number.

    Raises:
      ValueError: one does not; the line has its name and the range, or the nearest name.
    """
    there = {strength_name(name): name for name in names_in(ops)}
    for name, strength in strengths.items():
        if name not in there:
            raise ValueError(f'{name}: the strength of an operation that config.augment does not '
                             f'have{nearest(name, there) or "."} Add the operation there, or '
                             f'remove it here (it has {", ".join(there) or "none"})')
        annotation = inspect.signature(_find(there[name])[0]).parameters['strength'].annotation
        if wrong := ranges.complaint(annotation, strength, {}):
            raise ValueError(f'{name}: {wrong}')


def names_in(ops) -> list[str]:
    """Returns the names of operations, in their order."""
    return [name for name, _ in ops]


def strength_name(name: str) -> str:
    """Returns the name under which `strengths` has that of an operation.

    >>> strength_name('mixup'), strength_name('projects.rain')
    ('mixup', 'rain')
    """
    return str(name).rpartition('.')[2]


def names() -> list[str]:
    """Returns the sorted names of all operations.

    >>> [name for name in names() if 'mix' in name]
    ['augmix', 'cutmix', 'mixup', 'mixup_or_cutmix', 'resize_mix']
    """
    return sorted(_operations())


def _operations() -> dict[str, tuple[Callable, list[str]]]:
    """Returns a dict of operation name -> (function, the names of its first parameters)."""
    found: dict[str, tuple[Callable, list[str]]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f'{__name__}.{info.name}')
        for name, function in vars(module).items():
            if not name.startswith('_') and (first := _first_parameters(function)):
                found[name] = function, first
    return found


def _first_parameters(function) -> list[str] | None:
    """Returns the first parameters by which a function is an operation, None for any other."""
    if not inspect.isfunction(function):
        return None
    parameters = list(inspect.signature(function).parameters)
    return next((first for first in (_IMAGE, _MIXING) if parameters[:len(first)] == first), None)


def _find(name) -> tuple[Callable, list[str]]:
    if isinstance(name, str) and '.' in name:
        function = getattr(projects.load(name), strength_name(name), None)
        if not (first := _first_parameters(function)):
            raise ValueError(f'{name.replace(".", "/")}.py: has no operation {strength_name(name)}'
                             f'({", ".join(_IMAGE)}, *, ...)')
        return function, first
    operations = _operations()
    if name not in operations:
        raise ValueError(unknown('augmentation', name, sorted(operations)))
    return operations[name]

