"""Fields that a config sets and nothing reads: a likely mistake, which is reported in a warning."""

from typing import Any

from imgjax.config import Config, flatten
from imgjax.config.fields import FIELDS, Field
from imgjax.errors import ConfigError


def warnings(config: dict) -> dict[str, str]:
    """Returns {field: a warning of one line} for each common field that is set and not read.

    A field is set if it does not have its default. (A number or option that no part takes is an
    error, see parts.complete.)
    """
    flat = _part_defaults(config) | flatten(Config(config))
    found = {}
    for name, field in FIELDS.items():
        value = flat.get(name, field.default)
        if not field.when or value == field.default or (name, value) == (
                'init.preprocessing', 'checkpoint') or any(
                    _is_one_of(flat.get(other), values) for other, values in field.when.items()):
            continue
        # Without the numbers of parts that were not chosen: to set them would be refused.
        when = {other: values for other, values in field.when.items() if other in flat}
        when = when or field.when
        fix = ' or '.join(
            f'{"that" if len(when) == 1 else f"config.{other}"} to '
            f'{_values_in_words(other, values)}'
            for other, values in when.items())
        found[name] = _unread_line(name, flat, list(when), fix, value)
    return found | _unread_of_source(flat) | _unread_size(flat)


def _part_defaults(config: dict) -> dict[str, Any]:
    """Returns {'hparams.NAME': default} of the numbers of the parts that a config names.

    It is empty if the parts cannot be found, which `checked` reports.
    """
    from imgjax import parts  # only here, as it imports JAX
    try:
        return {f'hparams.{name}': field.default for name, field in parts.numbers(config).items()}
    except ConfigError:
        return {}


def _values_in_words(name: str, values: tuple) -> str:
    if values == (True,) and FIELDS.get(name, Field(float)).type is not bool:
        return 'a value'
    return ' or '.join(map(str, values))


def _is_one_of(value, values: tuple) -> bool:
    return bool(value) if values == (True,) else value in values


def _unread_line(name: str, flat: dict, others: list[str], fix: str, value) -> str:
    there = ' and '.join(f'config.{field} is {flat.get(field)!r}' for field in others)
    return f'config.{name}: nothing reads it while {there}; set {fix}, or leave {value!r} out'


def _unread_of_source(flat: dict) -> dict[str, str]:
    """Returns the fields of config.data that are set and that its source does not read."""
    from imgjax import data
    source = str(flat.get('data.name'))
    of_tfds = '.' not in source and source not in data.names()
    on_disk = source not in ('digits', 'synthetic')
    read = {
        'data.path': (on_disk and not of_tfds, 'a source on disk such as folder'),
        'data.held_out': (on_disk, 'a source on disk such as folder'),
        'data.data_dir': (of_tfds or source == 'digits', 'a set of TFDS')}
    return {name: _unread_line(name, flat, ['data.name'], f'that to {fix}', flat[name])
            for name, (is_read, fix) in read.items()
            if not is_read and flat.get(name, FIELDS[name].default) != FIELDS[name].default}


def _unread_size(flat: dict) -> dict[str, str]:
    """Returns usual_size where config.data.image_size, not the weights, sets another size."""
    name, size = 'data.usual_size', flat.get('data.image_size')
    usual = flat.get(name, 224)
    if usual == 224 or size in (0, usual) or flat.get('init.weights'):
        return {}
    return {name: _unread_line(name, flat, ['data.image_size'], 'that to 0', usual)}
