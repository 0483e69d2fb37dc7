"""Removes the prefixes that programs put before names of tensors: module., model., backbone. ...

Nothing is guessed: of all the ways to remove a prefix of most names, it takes the one whose names
are those of the model.
"""

import collections
import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from imgjax.errors import DataError
from imgjax.interop import torch_layout

log = logging.getLogger('imgjax')

# Modules that torch wraps around others, anywhere in a model; names do not contain them.
_WRAPPERS = ('module', '_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module',
             '_forward_module')
# Words in the prefix of the set of weights, of two, that was evaluated.
_AVERAGES = ('ema', 'teacher', 'averaged', 'swa')
_COUNTER = 'n_averaged'  # of torch's AveragedModel
_MAX_DEPTH = 4
_MAX_WAYS = 4  # per depth: those with the most names
# A prefix stands before at least this share of the names.
_MIN_SHARE = 0.2


class _Way(NamedTuple):
    """One way to name the tensors."""

    prefix: str
    names: dict[str, str]  # old -> new, for names with the prefix
    beside: dict[str, str]  # the same for the other names


def without(tensors: Mapping[str, np.ndarray], translate: Callable[[dict], dict],
            wanted: set[str]) -> dict[str, np.ndarray]:
    """Returns the tensors by timm's names, and logs in one line which prefix it removed.

    Tensors without the prefix that are not the model's are left out and counted.

    Args:
      tensors: the tensors by the names in the file.
      translate: converts {name without prefix: tensor} from the layout of the file to timm's.
      wanted: timm's names of the model's tensors.

    Raises:
      DataError: the file holds two sets of weights that fit, or `translate` raises it.
    """
    way, renamed, _ = _best(tensors, translate, wanted)
    translated = translate({new: tensors[old] for old, new in renamed.items()})
    return _model_only(tensors, way, renamed, translated, wanted)


def count(tensors: Mapping[str, np.ndarray], translate: Callable[[dict], dict],
          wanted: set[str]) -> int:
    """Returns how many of the wanted names `without` would find."""
    return _best(tensors, translate, wanted)[2]


def _best(tensors, translate, wanted: set[str]) -> tuple[_Way, dict[str, str], int]:
    """Returns the way with the most wanted names, as (way, {old: new name}, their number)."""
    plain = {name: '.'.join(part for part in name.split('.') if part not in _WRAPPERS)
             for name in tensors if name.rpartition('.')[2] != _COUNTER}
    if len(set(plain.values())) < len(plain):
        plain = {name: name for name in plain}
    firsts = {name.partition('.')[0] for name in wanted}
    found, ways = [], [_Way('', plain, {})]
    for _ in range(_MAX_DEPTH):
        for way in ways:
            for renamed in _with_others(way):
                try:
                    translated = translate({new: tensors[old] for old, new in renamed.items()})
                except DataError:
                    if not way.prefix:
                        raise
                    continue
                found.append((len(wanted & set(translated)), way, renamed))
        if any(score == len(wanted) for score, *_ in found):
            break
        deeper = [inner for way in ways for inner in _deeper(way, firsts)]
        ways = sorted(deeper, key=lambda way: -len(way.names))[:_MAX_WAYS]
    best = max(score for score, *_ in found)
    of_best = {}
    for score, way, renamed in found:
        if score == best:
            of_best.setdefault(way.prefix, (way, renamed, score))
    fits = 2 * best > len(wanted)
    return of_best[_the_one(list(of_best)) if fits else next(iter(of_best))]


def _with_others(way: _Way):
    """Yields all names with those beside unchanged, then with those without their first parts."""
    yield way.names | way.beside
    shorter = {old: new.partition('.')[2] for old, new in way.beside.items() if '.' in new}
    together = way.names | shorter
    if shorter and len(set(together.values())) == len(together):
        yield together


def _deeper(way: _Way, firsts: set[str]):
    """Yields the ways that remove one more part, with which no name of the model begins."""
    counts = collections.Counter(new.partition('.')[0] for new in way.names.values() if '.' in new)
    for first, count in counts.items():
        if count < _MIN_SHARE * len(way.names) or (first in firsts and count < len(way.names)):
            continue
        inside = {old: new.removeprefix(f'{first}.') for old, new in way.names.items()
                  if new.startswith(f'{first}.')}
        beside = {old: new for old, new in way.names.items() if old not in inside}
        taken = set(inside.values())
        beside = {old: new for old, new in (way.beside | beside).items() if new not in taken}
        yield _Way(f'{way.prefix}{first}.', inside, beside)


def _the_one(prefixes: list[str]) -> str:
    """Returns the prefix to use of several that fit equally well."""
    if len(prefixes) == 1 or not prefixes[0]:
        return prefixes[0]
    averages = [prefix for prefix in prefixes if any(word in prefix for word in _AVERAGES)]
    if len(averages) == 1:
        return averages[0]
    raise DataError(f'holds more than one set of weights that fit, {prefixes[0]!r} and '
                    f'{prefixes[1]!r}; save one of them alone')


def _model_only(tensors, way: _Way, renamed: dict, translated: dict, wanted: set[str]) -> dict:
    """Returns the tensors of the model alone, and logs what was removed."""
    wrapped = next((name for name in renamed if any(
        part in _WRAPPERS for part in name.split('.'))), '')
    if wrapped or way.prefix:
        old = wrapped or next(iter(way.names))
        log.info('removed %s from the names of the weights: %r is now %r',
                 f'the prefix {way.prefix!r}' if way.prefix else 'wrappers', old, renamed[old])
    if not way.prefix:
        return translated
    beside = {new: old for old, new in renamed.items() if old not in way.names}
    left_out = [old for new, old in beside.items() if new in translated and new not in wanted
                and not new.endswith(torch_layout.COUNTER)]
    left_out += [old for old in tensors
                 if old not in renamed and old.rpartition('.')[2] != _COUNTER]
    if left_out:
        log.info('left out %d tensors beside the model, such as %r', len(left_out), left_out[0])
    return {name: tensor for name, tensor in translated.items()
            if name in wanted or name not in beside}
