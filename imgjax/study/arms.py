"""Makes the arms of a study, with their names, from a product, a zip or a draw of values."""

import itertools
import json
import math

import numpy as np

from imgjax.errors import ConfigError, nearest


def named(way: str, value, name: str) -> dict[str, dict]:
    """Returns {name of an arm: the config fields that it sets} for one field of a study file.

    >>> from imgjax.study import arms
    >>> found = arms.named('product', {'hparams.seed': [0, 1], 'batch_size': [64]}, 'mine')
    >>> list(found), found['seed=1 batch_size=64']
    (['seed=0 batch_size=64', 'seed=1 batch_size=64'], {'hparams.seed': 1, 'batch_size': 64})

    Args:
      way: the name of the study file's field: arms, ablate, product, zip or draw.
      value: the value of that field.
      name: the name of the study, for errors.

    Raises:
      ConfigError: the field does not take this value.
    """
    if not isinstance(value, dict):
        raise ConfigError(f'{name}: {way}: takes a dict, got {type(value).__name__}')
    if way == 'arms':
        return value
    if way == 'ablate':
        if 'base' in value:
            raise ConfigError(f'{name}: ablate: adds the arm base by itself, leave it out')
        return {'base': {}} | value
    if way == 'draw':
        return _draw(value, name)
    for field, values in value.items():
        if not isinstance(field, str) or not isinstance(values, list | tuple) or not values:
            raise ConfigError(f'{name}: {way}: takes {{field: [values]}}, got {field!r}: '
                              f'{values!r}')
    if way == 'zip' and len(set(map(len, value.values()))) > 1:
        raise ConfigError(f'{name}: zip: takes the same number of values for each field')
    if not value:
        return {}
    rows = list(zip(*value.values(), strict=True) if way == 'zip'
                else itertools.product(*value.values()))
    return _by_values([dict(zip(value, row, strict=True)) for row in rows], f'{name}: {way}')


def _by_values(rows: list[dict], where: str) -> dict[str, dict]:
    """Names arms by the last word of each field, or by the whole field if two last words agree."""
    fields = list(rows[0]) if rows else []
    short = {field: field.rsplit('.', 1)[-1] for field in fields}
    if len(set(short.values())) < len(fields):
        short = {field: field for field in fields}
    arms = {}
    for row in rows:
        arm = ' '.join(f'{short[field]}={_text(value)}' for field, value in row.items())
        if arm in arms:
            raise ConfigError(f'{where}: gives the arm {arm!r} twice')
        arms[arm] = row
    return arms


def _text(value) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _draw(value: dict, name: str) -> dict[str, dict]:
    from scipy.stats import qmc  # 0.6 s, which a study without a draw saves

    known = ('fields', 'count', 'method', 'seed')
    for key in value:
        if key not in known:
            raise ConfigError(f'{name}: draw.{key}: no such field{nearest(key, known)}')
    fields, count = value.get('fields', {}), value.get('count', 0)
    method, seed = value.get('method', 'random'), value.get('seed', 0)
    if not fields or not isinstance(fields, dict) or type(count) is not int or count < 1:
        raise ConfigError(f'{name}: draw: takes {{field: range}} as fields, and a count of at '
                          f'least 1, got {fields!r} and {count!r}')
    if type(seed) is not int or seed < 0:
        raise ConfigError(f'{name}: draw.seed: takes a whole number of at least 0, got {seed!r}')
    if method not in ('random', 'halton'):
        raise ConfigError(f'{name}: draw.method: takes random or halton, got {method!r}')
    if method == 'halton':
        points = qmc.Halton(len(fields), rng=seed).random(count)
    else:
        points = np.random.default_rng(seed).random((count, len(fields)))
    return _by_values([
        {field: _value_at(spec, float(x), f'{name}: draw.fields.{field}')
         for (field, spec), x in zip(fields.items(), point, strict=True)} for point in points],
        f'{name}: draw')


def _value_at(spec: dict, x: float, where: str):
    """Returns the value at the point x in [0, 1) of a range or a list of values.

    Numbers are rounded to four digits, so that a person can write down the exact value.
    """
    if isinstance(spec, dict) and set(spec) == {'values'}:
        if not isinstance(spec['values'], list | tuple) or not spec['values']:
            raise ConfigError(f'{where}.values: takes a list, got {spec["values"]!r}')
        return spec['values'][int(x * len(spec['values']))]
    if not isinstance(spec, dict) or not (
            {'low', 'high'} <= set(spec) <= {'low', 'high', 'scale'}):
        raise ConfigError(
            f"{where}: takes {{'low', 'high', 'scale'}} or {{'values'}}, got {spec!r}")
    low, high, scale = spec['low'], spec['high'], spec.get('scale', 'linear')
    if not all(type(end) in (int, float) and math.isfinite(end) for end in (low, high)):
        raise ConfigError(f'{where}: takes numbers for low and high, got {spec!r}')
    if scale not in ('linear', 'log') or not low < high or (scale == 'log' and low <= 0):
        raise ConfigError(f'{where}: takes low < high and a scale of linear, or log with both '
                          f'above 0, got {spec!r}')
    value = low * (high / low) ** x if scale == 'log' else low + (high - low) * x
    return float(f'{value:.4g}')
