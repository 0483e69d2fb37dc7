"""Reads the study file: a question, its arms, their seeds, and the planned comparisons.

A file of `configs/studies/` has a docstring, whose first line is the question, and `get_study()`,
which returns a dict:

    base          a config (of some get_config), which every arm changes
    one of
      arms        {name: {field: value}}, or a whole config in place of the fields
      ablate      the same, and an arm `base` that each of them is compared with
      product     {field: values}: every combination
      zip         {field: values}: the first values together, the second ones, ...
      draw        {'fields': {field: {'low', 'high', 'scale': 'linear' or 'log'} or {'values'}},
                  'count', 'method': 'random' or 'halton', 'seed'}
    seeds         how many (0, 1, ...), a list, or {arm: list}
    metric        accuracy (if left out), top5_accuracy, loss, mean_average_precision, or a number
                  of a metric that the arms have (config.metrics)
    split         the split of the metric; the base's config.data.eval_split if left out
    comparisons   [(arm, arm), ...]: the differences to test
    halving       {'steps': [...], 'keep': 0.5}: at each of these steps only this share of the arms
                  continues, the best by the mean over their seeds; no arm stops if left out
"""

import copy
import importlib.util
import logging
import os
from typing import Any, NamedTuple

from imgjax import config as config_lib
from imgjax import parts
from imgjax.config import Config, unread
from imgjax.config.fields import PART_FIELDS
from imgjax.errors import ConfigError, first_line, nearest
from imgjax.study import arms as arms_lib

log = logging.getLogger('imgjax.study')

_WAYS = ('arms', 'ablate', 'product', 'zip', 'draw')
_KEYS = ('base', *_WAYS, 'seeds', 'metric', 'split', 'comparisons', 'halving')


class Arm(NamedTuple):
    """Runs that differ only in their seed.

    Attributes:
      name: the name in the study file.
      fields: {'hparams.weight_decay': 0.05, ...}, what the arm changes in the base. If the arm is a
        whole config, the fields in which such arms differ from each other or from the base.
      config: checked, with the seed of the base.
      seeds: the values of hparams.seed, one per cell.
    """

    name: str
    fields: dict[str, Any]
    config: Config
    seeds: list[int]


class Study(NamedTuple):
    """The content of a study file.

    Attributes:
      name: the name of the file without its ending.
      question: the first line of the docstring.
      text: the rest of the docstring.
      arms: the arms in the order of the file.
      metric: the name of the metric, one of those that parts.measured returns.
      comparisons: pairs of arm names; the difference is the first minus the second.
      grid: {field: values} of `product`, whose arms are in the order of itertools.product; else {}.
      halving: {'steps': [...], 'keep': share}, or None.
    """

    name: str
    question: str
    text: str
    arms: list[Arm]
    metric: str
    comparisons: list[tuple[str, str]]
    grid: dict[str, list]
    halving: dict | None


def load(study_file: str) -> Study:
    """Reads a study file, PATH or PATH:ARGUMENT of its get_study.

    Raises:
      ConfigError: there is no such file, or a field is wrong; the message names the field.
    """
    path, _, argument = study_file.partition(':')
    if not os.path.isfile(path):
        raise ConfigError(f'--study: no such file {path!r}')
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(f'study_{name}', path)
    if spec is None:
        raise ConfigError(f'--study: takes a Python file, got {path!r}')
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        found = module.get_study(*([argument] if argument else []))
    except Exception as error:  # whatever a file's own code raises
        raise ConfigError(f'--study={study_file}: {type(error).__name__}: '
                          f'{first_line(error)}') from error
    return read(found, f'{name}:{argument}' if argument else name, module.__doc__ or '')


def read(found: dict, name: str, docstring: str = '') -> Study:
    """Makes a Study from the dict that a get_study returned; it raises the errors of `load`."""
    if not isinstance(found, dict):
        raise ConfigError(f'{name}: get_study returns a dict, got {type(found).__name__}')
    for key in found:
        if key not in _KEYS:
            raise ConfigError(f'{name}: {key!r}: no such field of a study{nearest(key, _KEYS)}')
    ways = [way for way in _WAYS if way in found]
    if len(ways) != 1:
        raise ConfigError(f'{name}: takes one of {", ".join(_WAYS)}, got {ways or "none"}')
    metric = found.get('metric', 'accuracy')
    if not isinstance(metric, str):
        raise ConfigError(f'{name}: metric: takes the name of a metric, got {metric!r}')
    arms = _arms(found, ways[0], name)
    grid = {field: list(values) for field, values in found.get('product', {}).items()}
    comparisons = found.get('comparisons')
    if comparisons is None:
        comparisons = [('base', arm.name) for arm in arms[1:]] if ways[0] == 'ablate' else []
    if not isinstance(comparisons, list | tuple) or not all(map(_is_pair, comparisons)):
        raise ConfigError(f'{name}: comparisons: takes pairs of names of arms, got {comparisons!r}')
    question, _, text = docstring.strip().partition('\n')
    study = Study(name, question, text.strip(), arms, metric,
                  [tuple(pair) for pair in comparisons], grid, found.get('halving'))
    _check_comparisons(study)
    _check_halving(study)
    return study


def _is_pair(pair) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(
        isinstance(arm, str) for arm in pair)


def _arms(found: dict, way: str, name: str) -> list[Arm]:
    named = arms_lib.named(way, found[way], name)
    if not named:
        raise ConfigError(f'{name}: {way}: gives no arm')
    if 'base' not in found and not all(map(_is_config, named.values())):
        raise ConfigError(f'{name}: base: missing; it takes a config')
    arms = []
    for arm, fields in named.items():
        if not isinstance(arm, str) or not arm.strip() or not arm.isprintable():
            raise ConfigError(f'{name}: {way}: takes printable names of arms, got {arm!r}')
        whole = _is_config(fields)
        if not whole and not (isinstance(fields, dict)
                              and all(isinstance(field, str) for field in fields)):
            raise ConfigError(f'{name}: arm {arm!r}: takes {{field: value}}, got {fields!r}')
        split = {'data.eval_split': found['split']} if 'split' in found else {}
        try:
            config = override(_plain(fields if whole else found['base']),
                              split | ({} if whole else fields))
            if not whole:
                _check_read(fields, config)
        except ConfigError as error:
            raise ConfigError(f'{name}: arm {arm!r}: {error}') from None
        seeds = _seeds(found.get('seeds', 1), arm, name)
        arms.append(Arm(arm, None if whole else dict(fields), config, seeds))
    return _with_differences(arms, [_plain(found['base'])] if 'base' in found else [])


def _check_read(fields: dict, config: Config) -> None:
    """Checks that the run reads each field of an arm; otherwise two arms would be the same."""
    for name, line in unread.warnings(config).items():
        if name in fields:
            raise ConfigError(line)


def _with_differences(arms: list[Arm], base: list[dict]) -> list[Arm]:
    whole = {arm.name: config_lib.flatten(arm.config) for arm in arms if arm.fields is None}
    others = [*whole.values(), *(config_lib.flatten(Config(one)) for one in base)]
    common = {'name'} | {field for field, value in others[0].items() if all(
        field in flat and flat[field] == value for flat in others)}
    return [arm._replace(fields={field: value for field, value in whole[arm.name].items()
                                 if field not in common}) if arm.name in whole else arm
            for arm in arms]


def _is_config(fields) -> bool:
    return hasattr(fields, 'to_dict') or (isinstance(fields, dict) and 'hparams' in fields)


def _plain(config) -> dict:
    try:
        return copy.deepcopy(config.to_dict() if hasattr(config, 'to_dict') else dict(config))
    except (TypeError, ValueError):
        raise ConfigError(f'base: takes a config, got {type(config).__name__}') from None


def override(config: dict, fields: dict) -> Config:
    """Returns a config with fields set, {'hparams.seed': 1, 'model.options.act': 'relu'}, checked.

    Raises:
      ConfigError: no such field, or a value that it does not take.
    """
    given, config = config, config_lib.plain(config)
    free = ('hparams.', *(f'{name}.' for name, field in config_lib.FIELDS.items()
                          if field.type is dict))
    for name, value in fields.items():
        if name not in config_lib.FIELDS and not name.startswith(free):
            raise ConfigError(
                f'config.{name}: no such field{nearest(name, config_lib.FIELDS)}')
        config_lib.put(config, name, value)
    dropped = parts.drop_unread(given, config, fields)
    if dropped:
        log.info('%s: replaces a part of the base; %s, which only that part read, is left out',
                 ', '.join(f'config.{name}' for name in fields if name in PART_FIELDS),
                 ', '.join(dropped))
    return config_lib.checked(config)


def _seeds(seeds, arm: str, name: str) -> list[int]:
    if isinstance(seeds, dict):
        if arm not in seeds:
            raise ConfigError(f'{name}: seeds: none for the arm {arm!r}')
        seeds = seeds[arm]
    most = config_lib.FIELDS['hparams.seed'].high
    listed = list(range(seeds)) if type(seeds) is int else seeds
    if not (isinstance(listed, list | tuple | range) and listed
            and all(type(seed) is int and 0 <= seed <= most for seed in listed)):
        raise ConfigError(f'{name}: seeds: takes a number of seeds, or a list of whole numbers of '
                          f'0 to {most}, got {seeds!r}')
    seeds = sorted(listed)  # comparisons are seed by seed
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f'{name}: seeds: {arm!r} has one twice, {seeds}')
    return seeds


def _check_comparisons(study: Study) -> None:
    arms = {arm.name: arm for arm in study.arms}
    for pair in study.comparisons:
        if pair[0] == pair[1]:
            raise ConfigError(f'{study.name}: comparisons: takes pairs of two arms, got {pair!r}')
        for arm in pair:
            if arm not in arms:
                raise ConfigError(
                    f'{study.name}: comparisons: no arm {arm!r}{nearest(arm, arms)}')
        first, second = (arms[arm].seeds for arm in pair)
        if len(first) != len(second) or (first != second and set(first) & set(second)):
            raise ConfigError(f'{study.name}: comparisons: {pair[0]!r} and {pair[1]!r} are '
                              'compared seed by seed; give both the same seeds, or equally many '
                              'of which none is the same')
    if len(set(map(frozenset, study.comparisons))) < len(study.comparisons):
        raise ConfigError(f'{study.name}: comparisons: one of them is given twice')


def _check_halving(study: Study) -> None:
    halving = study.halving
    if halving is None:
        return
    if not isinstance(halving, dict) or set(halving) != {'steps', 'keep'}:
        raise ConfigError(f"{study.name}: halving: takes {{'steps': [...], 'keep': share}}")
    steps, keep = halving['steps'], halving['keep']
    if not (isinstance(steps, list | tuple) and steps and all(type(step) is int for step in steps)
            and sorted(set(steps)) == list(steps) and steps[0] > 0):
        raise ConfigError(f'{study.name}: halving.steps: takes growing numbers of steps, '
                          f'got {steps!r}')
    if type(keep) is not float or not 0 < keep < 1:
        raise ConfigError(f'{study.name}: halving.keep: takes a share between 0 and 1, '
                          f'got {keep!r}')
