"""The config: how it is checked, frozen, hashed, read and written.

A config has two parts. `hparams` are the numbers that the compiled step receives as arrays; the
rest is structure. A recipe gives plain data, `checked` makes a frozen Config of it, and on disk it
is JSON. The list of its fields is in fields.py. Importing this package does not import JAX.
"""

import copy
import hashlib
import json
import os
from typing import Any

from imgjax.config import values
from imgjax.config.fields import FIELDS, INVOCATION
from imgjax.config.fields import Field as Field
from imgjax.errors import ConfigError, nearest
from imgjax.rundir import redact


class Config(dict):
    """A config, or a group of its fields: frozen, hashable, with the fields as attributes.

    `config.data.image_size` reads a field, `config | {'steps': 9}` returns another config, and
    `plain` returns a copy that can be edited. It is a dict so that `json.dumps` takes it; its lists
    are tuples.

    >>> from imgjax import config
    >>> run = config.Config({'steps': 10, 'data': {'name': 'digits'}})
    >>> run.data.name, (run | {'steps': 20}).steps, run.steps
    ('digits', 20, 10)
    """

    def __init__(self, data=()):
        super().__init__({name: _frozen(value) for name, value in dict(data).items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f'the config has no field {name!r}') from None

    def __or__(self, other) -> 'Config':
        return Config({**self, **other})

    __ior__ = __or__

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has no hash
        return hash(frozenset(self.items()))

    def __reduce__(self):  # pickle, which the decoding processes need, cannot set items one by one
        return Config, (dict(self),)

    def _refuse(self, *_, **__):
        raise TypeError("a config is frozen; config | {'field': value} returns another one")

    __setitem__ = __delitem__ = __setattr__ = __delattr__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


def _frozen(value):
    if isinstance(value, dict):
        return value if isinstance(value, Config) else Config(value)
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def plain(config: dict) -> dict:
    """Returns a copy of a config as dicts and lists, which can be edited."""
    if isinstance(config, dict):
        return {name: plain(value) for name, value in config.items()}
    return list(map(plain, config)) if isinstance(config, list | tuple) else config


def defaults() -> dict:
    """Returns plain data with the default of every field; it names no model and no dataset."""
    config = {}
    for name, field in FIELDS.items():
        put(config, name, copy.copy(field.default))
    return config


def put(config: dict, name: str, value) -> None:
    """Sets a field of a plain config by its dotted name; adds the groups that are missing.

    Raises:
      ConfigError: something other than a group of fields has the name of a group.
    """
    *groups, last = name.split('.')
    for place, group in enumerate(groups):
        config = config.setdefault(group, {})
        if not isinstance(config, dict):
            raise ConfigError(f'config.{".".join(groups[:place + 1])}: takes a group of fields, '
                              f'got {config!r}')
    config[last] = value


def remove(config: dict, name: str) -> None:
    """Removes a field of a plain config by its dotted name."""
    *groups, last = name.split('.')
    for group in groups:
        config = config[group]
    del config[last]


def flatten(config: dict, prefix: str = '') -> dict[str, Any]:
    """Returns {'hparams.seed': 0, ...}; a field of type dict is one entry, a dict.

    >>> from imgjax import config
    >>> config.flatten({'steps': 10, 'hparams': {'seed': 0}})
    {'steps': 10, 'hparams.seed': 0}
    """
    flat = {}
    for key, value in config.items():
        name = f'{prefix}{key}'
        inner = isinstance(value, dict) and not (name in FIELDS and FIELDS[name].type is dict)
        flat.update(flatten(value, f'{name}.') if inner else {name: value})
    return flat


def checked(config) -> Config:
    """Returns the frozen Config of what get_config returned, or of plain data, after all checks.

    Fields that it does not set get their defaults.

    >>> from imgjax import config
    >>> run = config.checked({'model': {'name': 'cnn'}, 'data': {'name': 'digits'}, 'steps': 100})
    >>> run.steps, run.batch_size, run.optimizer.name
    (100, 128, 'adamw')

    Raises:
      ConfigError: a field is unknown or missing, or its value has a wrong type or is out of range.
        The message names the first such field.
    """
    try:
        data = config.to_dict() if hasattr(config, 'to_dict') else config
    except OSError as error:  # the config flag raises it only now if there is no such file
        raise ConfigError(f'--config: {str(error).strip().splitlines()[-1].strip()}') from None
    for name, value in values.not_finite(data):
        raise ConfigError(f'config.{name}: takes a finite number, got {value}')
    try:
        found = json.loads(json.dumps(data))
    except (TypeError, ValueError) as error:
        raise ConfigError(f'config: not plain JSON data ({error})') from None
    if not isinstance(found, dict):
        raise ConfigError(f'config: takes a dict of fields, got {type(found).__name__}')
    flat = flatten(found)
    redact.check_config(flat)
    for name in flat:
        if name not in FIELDS and not name.startswith('hparams.'):  # a part may take it
            raise ConfigError(f'config.{name}: no such field{nearest(name, FIELDS)}')
    for name, field in FIELDS.items():
        if name not in flat:
            flat[name] = json.loads(json.dumps(field.default))
            put(found, name, flat[name])
        values.check_value(f'config.{name}', flat[name], field)
    if not found['init']['weights'] and found['init']['preprocessing'] == 'auto':
        found['init']['preprocessing'] = 'checkpoint'  # no weights: nothing to choose
    values.count_in_whole_steps(found)
    values.check_together(found)
    from imgjax import parts  # only here, as it imports JAX
    return Config(parts.complete(found))


def digest(config: dict) -> str:
    """Returns the hash of a config: 16 hex digits that depend on every field that the result does.

    Fields that have their default, and those of INVOCATION, are left out.
    """
    flat = {name: value for name, value in flatten(Config(config)).items()
            if not name.startswith(INVOCATION) and not _is_default(name, value)}
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:16]


def _is_default(name: str, value) -> bool:
    return name in FIELDS and value == FIELDS[name].default


def differences(mine: dict, theirs: dict) -> dict[str, str]:
    """Returns {field: 'field: theirs -> mine'} for each field that differs and changes the result.

    >>> from imgjax import config
    >>> config.differences({'steps': 20, 'batch_size': 8}, {'steps': 10, 'batch_size': 8})
    {'steps': 'steps: 10 -> 20'}
    """
    a, b = flatten(Config(mine)), flatten(Config(theirs))
    return {name: f'{name}: {b.get(name)!r} -> {a.get(name)!r}' for name in {**FIELDS, **a, **b}
            if a.get(name) != b.get(name) and not name.startswith(INVOCATION)}


def read(workdir: str) -> Config | None:
    """Returns the frozen Config that a run directory was started with; None if it has none.

    Raises:
      ConfigError: config.json cannot be read, is not a config of this version, or was edited.
    """
    path = os.path.join(workdir, 'config.json')
    if not os.path.lexists(path):
        return None
    try:
        from imgjax.rundir import files  # only here: a recipe loads without NumPy
        stored = files.read_json(path, 4 * 2**20)
        config = checked(stored['config'])
        intact = digest(config) == stored['hash']
    except (ValueError, KeyError, TypeError, OSError, ConfigError) as error:
        raise ConfigError(f'{path}: cannot be used ({error}); restore it or take a new '
                          '--workdir') from None
    if not intact:
        raise ConfigError(f'{path}: was edited after the run began; restore it or take a new '
                          '--workdir')
    return config


def write(workdir: str, config: dict) -> None:
    """Writes config.json into a run directory, whole or not at all."""
    write_json(os.path.join(workdir, 'config.json'), {'hash': digest(config), 'config': config})


def write_json(path: str, data) -> None:
    """Writes `data` as JSON and renames it to `path`, so that no reader sees an incomplete file."""
    from imgjax.rundir import files
    with files.replacing(path) as file:
        json.dump(data, file, indent=1)
