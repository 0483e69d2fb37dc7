"""Names of tensors without what programs put in front: module., model., backbone. and so on.

Nothing is guessed: of all the ways to leave out what stands in front of most names, the one is
taken whose names are the model's.
"""

import collections
import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from imgjax.errors import DataError
from imgjax.interop import torch_layout

log = logging.getLogger('imgjax')

# Modules that torch wraps around others, anywhere in a model; they are no part of a name.
_WRAPPERS = ('module', '_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module',
             '_forward_module')
# Of two sets of weights, the one that was evaluated.
_AVERAGES = ('ema', 'teacher', 'averaged', 'swa')
_COUNTER = 'n_averaged'  # of torch's AveragedModel
_MAX_DEPTH = 4
_MAX_WAYS = 4  # at a depth, those with the most names
# A prefix stands before at least this share of the names.
_MIN_SHARE = 0.2


class _Way(NamedTuple):
    """One way to name the tensors."""

    prefix: str
    names: dict[str, str]  # old -> new, of those that had the prefix
    beside: dict[str, str]  # of the others


def without(tensors: Mapping[str, np.ndarray], translate: Callable[[dict], dict],
            wanted: set[str]) -> dict[str, np.ndarray]:
    """Returns the tensors by timm's names, and says in one line which prefix was left out.

    What had not that prefix and is not the model's is left out too, with its count.

    Args:
      tensors: by the names in the file.
      translate: from {name: tensor} in the file's layout, less the prefix, to timm's.
      wanted: names of the model's tensors, as timm has them.

    Raises:
      DataError: the file holds two sets of weights that fit; what `translate` raises.
    """
    way, renamed, _ = _best(tensors, translate, wanted)
    translated = translate({new: tensors[old] for old, new in renamed.items()})
    return _said(tensors, way, renamed, translated, wanted)


def count(tensors: Mapping[str, np.ndarray], translate: Callable[[dict], dict],
          wanted: set[str]) -> int:
    """Returns how many of the wanted names `without` would find."""
    return _best(tensors, translate, wanted)[2]


def _best(tensors, translate, wanted: set[str]) -> tuple[_Way, dict[str, str], int]:
    """Returns the way that gives the most of the wanted names, the new name of each old one (in the
    file's layout), and how many of the wanted names there are."""
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
    """Yields all names with those beside as they are, then less their first parts."""
    yield way.names | way.beside
    shorter = {old: new.partition('.')[2] for old, new in way.beside.items() if '.' in new}
    together = way.names | shorter
    if shorter and len(set(together.values())) == len(together):
        yield together


def _deeper(way: _Way, firsts: set[str]):
    """Yields the ways that leave out one more part, which the model's names do not begin with."""
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
    """Returns which of several prefixes is taken, all of which fit as well."""
    if len(prefixes) == 1 or not prefixes[0]:
        return prefixes[0]
    averages = [prefix for prefix in prefixes if any(word in prefix for word in _AVERAGES)]
    if len(averages) == 1:
        return averages[0]
    raise DataError(f'holds more than one set of weights that fit, {prefixes[0]!r} and '
                    f'{prefixes[1]!r}; save one of them alone')


def _said(tensors, way: _Way, renamed: dict, translated: dict, wanted: set[str]) -> dict:
    """Returns the tensors without what is beside the model, and says what was done."""
    wrapped = next((name for name in renamed if any(
        part in _WRAPPERS for part in name.split('.'))), '')
    if wrapped or way.prefix:
        old = wrapped or next(iter(way.names))
        log.info('names of weights without %s: %r is %r',
                 repr(way.prefix) if way.prefix else 'their wrappers', old, renamed[old])
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
