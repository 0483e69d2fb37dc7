"""Finds the model in a training checkpoint: its state_dict and the names of its classes."""

import logging
from typing import Any, NamedTuple

from imgjax.errors import DataError
from imgjax.interop import pickles

log = logging.getLogger('imgjax')

# Keys under which programs store model.state_dict(). A moving average comes first, as in timm,
# since it is what was evaluated.
AVERAGES = ('state_dict_ema', 'model_ema', 'ema_state_dict', 'model_ema_state_dict', 'ema_model',
            'ema', 'params_ema')
MODELS = ('state_dict', 'model_state_dict', 'model_state', 'model', 'net', 'network', 'module',
          'weights', 'params', 'teacher', 'student')
# Keys of class names, in order or by number, and of class numbers by name.
_NAMES = ('label_names', 'class_names', 'classes', 'CLASSES', 'id2label', 'idx_to_class')
_NUMBERS = ('class_to_idx', 'label2id')
_GROUPS = ('meta', 'dataset_meta', 'hyper_parameters', 'config')
# Quantized, sparse and other tensors, and NumPy's arrays.
_ODD_TENSORS = ('torch.Tensor of', 'torch._utils._rebuild', 'numpy._core.multiarray._reconstruct',
                'numpy.core.multiarray._reconstruct')
_MAX_DEPTH = 3


class StateDict(NamedTuple):
    """The tensors by name, and the class names in the order of the outputs (() without any)."""

    tensors: dict[str, Any]
    label_names: tuple[str, ...]


def choose(saved, path: str) -> StateDict:
    """Returns the model in what torch.save wrote, and logs in one line what it chose.

    That is the first of AVERAGES and MODELS with tensors, except an average with fewer tensors than
    the model beside it (of parameters without statistics); else the dict with the most tensors.

    Args:
      saved: what pickles.follow returned.
      path: the path of the file, for messages.

    Raises:
      DataError: there is no model, or its tensors cannot be read; the line has the fix.
    """
    found = _state_dicts(saved)
    if not found:
        raise DataError(f'{path}: {_what(saved)}')
    names = [name for name in (*AVERAGES, *MODELS) if name in found]
    model = next((name for name in MODELS if name in found), None)
    partial = [name for name in names if name in AVERAGES and model
               and _count(found[name]) < _count(found[model])]
    if partial:
        log.warning('%s: its moving average %r has %d tensors of %d in %r, and is left out', path,
                    partial[0], _count(found[partial[0]]), _count(found[model]), model)
    names = [name for name in names if name not in partial]
    taken = names[0] if names else max(found, key=lambda name: _count(found[name]))
    if taken:
        others = [name for name in found if name and name != taken]
        log.info('%s: the weights are its %r%s%s', path, taken,
                 ', the moving average' if taken in AVERAGES else '',
                 f'; it also holds {", ".join(map(repr, others[:4]))}' if others else '')
    tensors, other = {}, {}
    for name, value in found[taken].items():
        (tensors if isinstance(value, pickles.Tensor) else other)[name] = value
    odd = [name for name, value in other.items() if _is_odd(value)]
    if odd:
        raise DataError(f'{path}: {len(odd)} of its tensors are of a kind that is not read, such '
                        f'as {odd[0]!r} ({other[odd[0]].name}); save them as plain float32')
    if other and set(other) - set(found):
        beside = sorted(map(str, set(other) - set(found)))
        log.info('%s: left out %d entries beside the tensors, such as %r', path, len(beside),
                 beside[0])
    return StateDict(tensors, _label_names(saved))


def _state_dicts(saved, depth: int = 0) -> dict[str, dict]:
    """Returns the dicts that hold tensors by name, each by its key; that of `saved` is ''."""
    if not isinstance(saved, dict) or depth > _MAX_DEPTH:
        return {}
    found = {'': saved} if _count(saved) else {}
    for name, value in saved.items():
        if isinstance(name, str) and isinstance(value, dict):
            inner = _state_dicts(value, depth + 1)
            if inner:  # a dict nested deeper gets its outermost key
                known = [key for key in ('', *AVERAGES, *MODELS) if key in inner]
                best = max(inner, key=lambda key: _count(inner[key]))
                found[name] = inner[known[0] if known else best]
    return found


def _count(part: dict) -> int:
    return sum(isinstance(name, str) and (isinstance(value, pickles.Tensor) or _is_odd(value))
               for name, value in part.items())


def _is_odd(value) -> bool:
    return isinstance(value, pickles.Opaque) and value.name.startswith(_ODD_TENSORS)


def _what(saved) -> str:
    """Returns what the file has in place of a state_dict, with the fix."""
    places = [saved] if not isinstance(saved, dict) else [
        saved[name] for name in (*MODELS, *AVERAGES) if name in saved]
    whole = [value.name for value in places if isinstance(value, pickles.Opaque)]
    if whole:
        return (f'holds a whole pickled module ({whole[0][:80]}), which is a program; save its '
                "model.state_dict() where its code is: torch.save(model.state_dict(), "
                "'weights.pth')")
    return ('holds no tensors by name, but a '
            f'{"dict" if isinstance(saved, dict) else type(saved).__name__.lower()}; save '
            "model.state_dict() with torch.save(model.state_dict(), 'weights.pth')")


def _label_names(saved, depth: int = 0) -> tuple[str, ...]:
    if not isinstance(saved, dict):
        return ()
    for key in (*_NAMES, *_NUMBERS):
        names = in_order(saved.get(key), numbers=key in _NUMBERS)
        if names:
            return names
    if depth == 0:
        for group in _GROUPS:
            names = _label_names(saved.get(group), 1)
            if names:
                return names
    return ()


def in_order(labels, numbers: bool = False) -> tuple[str, ...]:
    """Returns class names in the order of their numbers, () if a number has no name.

    Args:
      labels: a list of names, or {number: name}; numbers may be text, and names integers.
      numbers: whether `labels` is {name: number} where both are possible, as in {'0': 1, '1': 0}.
    """
    if isinstance(labels, list | tuple) and not isinstance(labels, pickles.Opaque | pickles.Global):
        names = list(labels)
    elif isinstance(labels, dict) and labels:
        pairs = list(labels.items()), [(name, number) for number, name in labels.items()]
        names = _by_number(pairs[numbers]) or _by_number(pairs[not numbers])
    else:
        return ()
    return tuple(map(str, names)) if all(type(name) in (str, int) for name in names) else ()


def _by_number(pairs: list) -> list:
    """Returns the names of (number, name) pairs by number; [] if the numbers are not 0, 1, ..."""
    try:
        names = {int(number): name for number, name in pairs}
    except (TypeError, ValueError):
        return []
    return [names[i] for i in range(len(names))] if sorted(names) == list(range(len(pairs))) else []
