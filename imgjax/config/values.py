"""Checks of the values in a config: types, ranges, and fields that have to fit together."""

import math

from imgjax.config.fields import STEPS_OR_SHARE, Field
from imgjax.errors import ConfigError, nearest


def not_finite(data, prefix: str = ''):
    """Yields (name, value) of each field that is NaN or infinite."""
    if isinstance(data, float) and not math.isfinite(data):
        yield prefix.rstrip('.'), data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from not_finite(value, f'{prefix}{key}.')
    elif isinstance(data, list | tuple):
        for value in data:
            yield from not_finite(value, prefix)


def count_in_whole_steps(config: dict) -> None:
    """Converts whole values of the fields STEPS_OR_SHARE to int, so that 50.0 and 50 hash alike.

    Raises:
      ConfigError: a value above 1 is not a whole number.
    """
    for name in STEPS_OR_SHARE:
        group, _, last = name.partition('.')
        value = config[group][last]
        if value >= 1 and value != int(value):
            raise ConfigError(f'config.{name}: takes a whole number of steps, or a share of the '
                              f'run below 1, got {value!r}')
        if value == int(value):
            config[group][last] = int(value)


def check_value(name: str, value, field: Field) -> None:
    """Raises ConfigError if a value has another type than its field, or is not a valid value."""
    kind = list if field.type is tuple else field.type  # as JSON has it
    whole = isinstance(value, int) and not isinstance(value, bool)
    fits = whole or isinstance(value, float) if kind is float else (
        whole if kind is int else isinstance(value, kind))
    if not fits or (kind is float and whole and abs(value) > 2**1000):  # too large for a float
        raise ConfigError(f'{name}: takes {field.type.__name__}, got {value!r}')
    if field.choices and value not in field.choices:
        words = ', '.join(map(repr, field.choices))
        raise ConfigError(f'{name}: takes one of {words}, got '
                          f'{value!r}{nearest(value, field.choices)}')
    if kind in (int, float) and not field.low <= value <= field.high:
        limits = f'at least {field.low}' if math.isinf(field.high) else (
            f'{field.low} to {field.high}')
        raise ConfigError(f'{name}: takes {limits}, got {value!r}')


def check_together(config: dict) -> None:
    """Checks the fields whose valid values depend on other fields."""
    data = config['data']
    for name in ('mean', 'std'):
        if len(data[name]) != data['channels']:
            raise ConfigError(
                f'config.data.{name}: takes {data["channels"]} numbers, one per channel '
                f'(config.data.channels), got {data[name]}')
    if (config['steps'] > 0) == (config['epochs'] > 0):
        raise ConfigError('config.steps: set either steps or epochs above 0')
    if config['batch_size'] % config['accumulation_steps']:
        raise ConfigError(
            f'config.accumulation_steps: batch_size {config["batch_size"]} is not divisible by '
            f'{config["accumulation_steps"]}')
    numbers = {
        'data.mean': data['mean'], 'data.std': data['std'],
        'schedule.milestones': config['schedule']['milestones'],
        **{f'hparams.augment.{k}': [v] for k, v in config['hparams']['augment'].items()}}
    for name, values in numbers.items():
        if not all(map(_is_number, values)):
            raise ConfigError(f'config.{name}: takes numbers, got {values!r}')
    if config['batch_size'] % data['aug_repeats']:
        raise ConfigError(f'config.data.aug_repeats: batch_size {config["batch_size"]} is not '
                          f'divisible by {data["aug_repeats"]}')
    check_pixel_values(data)
    if min(data['std']) <= 0:
        raise ConfigError(f'config.data.std: takes numbers above 0, got {data["std"]}')
    check_pairs('augment', 'operation', config['augment'])
    check_pairs('metrics', 'metric', config['metrics'])
    for operation, _ in config['augment']:
        name = str(operation).rpartition('.')[2]
        if name not in config['hparams']['augment']:
            raise ConfigError(f'config.hparams.augment.{name}: missing; it takes the strength '
                              '(a number) of that operation in config.augment')


def check_pairs(field: str, kind: str, entries) -> None:
    """Raises ConfigError unless the value of a field is ((name, {options}), ...)."""
    for entry in entries if isinstance(entries, list | tuple) else [entries]:
        if not (isinstance(entry, list | tuple) and len(entry) == 2 and isinstance(entry[0], str)
                and isinstance(entry[1], dict)):
            raise ConfigError(
                f'config.{field}: takes (("{kind}", {{options}}), ...), got {entry!r}')


def check_pixel_values(data: dict, field: str = 'config.data.') -> None:
    """Checks pixel_range and background of a plain config's `data`.

    Args:
      data: with channels, pixel_range and background.
      field: what an error writes before the name of the field.

    Raises:
      ConfigError: names the field.
    """
    black_white, ground = data['pixel_range'], data['background']
    if black_white and not (len(black_white) == 2 and all(map(_is_number, black_white))
                            and -math.inf < black_white[0] < black_white[1] < math.inf):
        raise ConfigError(f'{field}pixel_range: takes black and white, two numbers of which the '
                          f'second is larger, such as (0, 4095), or nothing; got {black_white!r}')
    if ground and not (len(ground) == data['channels'] and all(
            type(value) is int and 0 <= value <= 255 for value in ground)):
        raise ConfigError(f'{field}background: takes a whole number of 0 to 255 for each of '
                          f'{data["channels"]} channels, or nothing; got {ground!r}')


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
