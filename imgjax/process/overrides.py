"""What flags --config.FIELD=VALUE do to the recipe that --config names."""

import logging

from absl import flags
from ml_collections import config_dict, config_flags

from imgjax import config as config_lib
from imgjax.config import unread
from imgjax.config.fields import PART_FIELDS
from imgjax.errors import ConfigError, nearest
from imgjax.rundir import outputs

log = logging.getLogger('imgjax')

_FREE = tuple(name for name, field in config_lib.FIELDS.items() if field.type is dict)


def explain(arguments: list[str]) -> str:
    """Returns one line for the first `--config.field=...` that cannot have been parsed, or ''.

    Args:
      arguments: of the command, of which one was refused.
    """
    if wrong := unknown_field(arguments):
        return wrong
    for field, value in _given(arguments):
        inner = next((name for name in config_lib.FIELDS if name.startswith(f'{field}.')), '')
        if (inner or field in _FREE) and not value.lstrip().startswith('{'):
            return (f'config.{field}: takes a dict, got {value!r}; one entry of it is set by '
                    f'--config.{inner or f"{field}.NAME"}=VALUE')
        free = next((free for free in _FREE if field.startswith(f'{free}.')), '')
        key, deeper, rest = field.removeprefix(f'{free}.').partition('.')
        if free and deeper:
            return (f'config.{field}: {free} has no dict {key!r} to set {rest!r} in; give '
                    f'--config.{free}.{key}=VALUE')
    return ''


def unknown_field(arguments: list[str]) -> str:
    """Returns one line for the first `--config.field=...` that names no field, or ''."""
    groups = {name.rsplit('.', 1)[0] for name in config_lib.FIELDS if '.' in name}
    for field, _ in _given(arguments):
        # Which numbers there are depends on the parts: parts.complete speaks of a wrong one.
        if not field.startswith(('hparams.', *(f'{free}.' for free in _FREE))) and (
                field not in config_lib.FIELDS and field not in groups):
            return f'config.{field}: no such field{nearest(field, config_lib.FIELDS)}'
    return ''


def _given(arguments: list[str]):
    """Yields (field, text of its value) of each `--config.field=...`."""
    for argument in arguments:
        name, _, value = argument.lstrip('-').partition('=')
        if name.startswith('config.'):
            yield name.removeprefix('config.'), value


def finish(values: flags.FlagValues, arguments: list[str]) -> None:
    """Settles what the overrides of the flag `config` leave open, once all flags are parsed.

    Of steps and epochs the one that was given wins over that of the recipe. What a flag takes away
    from the recipe is said.

    Raises:
      ConfigError: a flag names no field or one that nothing reads, or both of these were given.
    """
    flag = values['config'] if 'config' in values else None
    if flag is None or not isinstance(flag.value, config_dict.ConfigDict):
        return
    if wrong := unknown_field(arguments):
        raise ConfigError(wrong)
    given = config_flags.get_override_values(flag)
    recipe = flag.parser.parse(config_flags.get_config_filename(flag))
    _settle_length(flag.value, given)
    _settle_strengths(flag.value, recipe, given)
    _settle_parts(flag.value, recipe, given)
    for name in _FREE:
        if name in given:
            _say_replaced(name, recipe, flag.value)
    # configs/base.py alone names no model: launch.evaluate lays other data on it.
    if config_lib.flatten(recipe.to_dict()).get('model.name'):
        _check_read(flag.value.to_dict(), recipe.to_dict(), given)


def of_run(flag, workdir: str) -> dict | None:
    """Returns the config of a run directory with the overrides of a flag on top; None without any.

    Raises:
      ConfigError: no run was started there.
    """
    given = config_flags.get_override_values(flag)
    if not given:
        return None
    stored = config_lib.read(outputs.path('workdir', workdir))
    if stored is None:
        raise ConfigError(f'{workdir}: no run was started here yet; give --config')
    config = config_lib.plain(stored)
    _settle_length(config, given)
    for name, value in given.items():
        config_lib.put(config, name, value)
    return config


def _settle_length(config, given: dict) -> None:
    asked = [name for name in ('steps', 'epochs') if given.get(name, 0) > 0]
    if len(asked) == 2:
        raise ConfigError(f'config.epochs: --config.steps={given["steps"]} and --config.epochs='
                          f'{given["epochs"]} were both given; give one of them')
    if asked:
        other = {'steps': 'epochs', 'epochs': 'steps'}[asked[0]]
        if config.get(other, 0) > 0:
            log.info("config.%s: %s replaces the recipe's %s=%s", asked[0],
                     given[asked[0]], other, config[other])
            config[other] = type(config[other])(0)


def _settle_strengths(config, recipe, given: dict) -> None:
    """Leaves out the recipe's strengths of the operations that a flag took out of `augment`."""
    left = {str(entry[0]).rpartition('.')[2] for entry in config.augment
            if isinstance(entry, list | tuple) and entry}
    if 'augment' not in given or not left:  # of none at all checks.check_strengths speaks
        return
    strengths = config.hparams.augment
    lost = [name for name in recipe.hparams.get('augment', {})
            if name in strengths and name not in left and f'hparams.augment.{name}' not in given]
    for name in lost:
        del strengths[name]
    if lost:
        log.info("config.augment: replaces the recipe's; the strengths of %s are left out",
                 ', '.join(lost))


def _settle_parts(config, recipe, given: dict) -> None:
    """Leaves out the recipe's numbers and options of the parts that flags have exchanged."""
    changed = [f'config.{name}' for name in given if name in PART_FIELDS]
    if not changed:
        return
    from imgjax import parts  # which imports JAX
    plain = config.to_dict()
    dropped = parts.drop_unread(recipe.to_dict(), plain, given)
    for field in dropped:
        config_lib.remove(config, field)
    if dropped:
        log.info('%s: replaces a part of the recipe; %s, which only that part read, is left out',
                 ', '.join(changed), ', '.join(dropped))


def _say_replaced(name: str, recipe, config) -> None:
    """Says what a flag of a whole dict took away from the recipe's."""
    group, _, last = name.rpartition('.')
    before, after = (dict(one[group].get(last, {})) for one in (recipe, config))
    lost = {key: value for key, value in before.items() if key not in after}
    if lost:
        key, value = next(iter(after.items()), ('KEY', 'VALUE'))
        log.warning("config.%s: replaces the recipe's, and %s is left out; "
                    '--config.%s.%s=%s adds to it', name, lost, name, key, value)


def _check_read(config: dict, recipe: dict, given: dict) -> None:
    """Refuses what nothing reads, be it a flag's or the recipe's own.

    What a recipe sets and reads may be left over once a flag turns its reader off. A recipe for
    weights is not wrong before it is told which.
    """
    alone = unread.warnings(recipe)
    for name, line in unread.warnings(config).items():
        if name in given or (name in alone and not name.startswith('init.')):
            raise ConfigError(line)
