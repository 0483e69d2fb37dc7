"""Parts of a step: each is one file, found by its name, that declares its numbers and options.

Objectives, optimizers, samplers and metrics are parts; the docstrings of imgjax/objectives,
optimizers, samplers and metrics say what the file of each has to define. A name without a dot is a
file of the package; a name such as `projects.poly` is the file projects/poly.py in the folder where
the command is run.

A part declares its numbers as HPARAMS and its structure as OPTIONS, both {name: Field}. They become
fields of the config: a number is config.hparams.NAME, an option of the objective is
config.objective.options.NAME, and so on.
"""

import importlib
import pkgutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from imgjax import config as config_lib
from imgjax.config import FIELDS, Field, values
from imgjax.errors import ConfigError, nearest
from imgjax.metrics import RESERVED, Metric, accuracy, mean_average_precision
from imgjax.process import projects

PACKAGES = {'objective': 'objectives', 'optimizer': 'optimizers', 'sampler': 'samplers',
            'metric': 'metrics'}
# Metrics that are computed without being named, the second one for images with several labels.
ALWAYS = {'accuracy': accuracy, 'mean_average_precision': mean_average_precision}
_REQUIRED = {'objective': ('loss',), 'optimizer': ('transform',), 'sampler': ('order',),
             'metric': ('METRICS', 'per_example')}


class Chosen(NamedTuple):
    """A part that a config names.

    Attributes:
      kind: a key of PACKAGES.
      name: the name of the part.
      field: the name of the config field that has its options, for errors.
      part: the module.
      options: {name: value} as the config sets them; defaults may be missing.
    """

    kind: str
    name: str
    field: str
    part: Any
    options: dict


def names(kind: str) -> list[str]:
    """Returns the sorted names of all parts of a kind that are files of the package.

    >>> from imgjax import parts
    >>> parts.names('sampler')
    ['class_balanced', 'fold', 'shuffle']
    """
    package = importlib.import_module(f'imgjax.{PACKAGES[kind]}')
    return sorted(info.name for info in pkgutil.iter_modules(package.__path__) if not info.ispkg)


def find(kind: str, name: str):
    """Returns the module of a part.

    Raises:
      ConfigError: no part has that name, or its file lacks what a part of its kind has to define.
    """
    if '.' in name:
        part = _find_in_projects(kind, name)
    elif name in names(kind):
        part = importlib.import_module(f'imgjax.{PACKAGES[kind]}.{name}')
    else:
        part = _find_in_optax(name) if kind == 'optimizer' else None
    if part is None:
        there = names(kind)
        more = _optax_names() if kind == 'optimizer' else []
        raise ConfigError(
            f'config.{_field(kind)}: there is no {kind} {name!r}'
            f'{nearest(name, there + more) or "."} There are {", ".join(there)}'
            f'{", the optimizers of optax" if more else ""} and files of your own, projects.NAME')
    for required in _REQUIRED[kind]:
        if not hasattr(part, required):
            raise ConfigError(f'config.{_field(kind)}: {name} is no {kind}: its file has no '
                              f'{required!r} (imgjax/{PACKAGES[kind]}/__init__.py lists what it '
                              'has to define)')
    return part


def _find_in_projects(kind: str, name: str):
    try:
        return projects.load(name)
    except ValueError as error:
        raise ConfigError(f'config.{_field(kind)}: {error}') from None


def _field(kind: str) -> str:
    return 'metrics' if kind == 'metric' else f'{kind}.name'


def _find_in_optax(name: str):
    from imgjax.optimizers.parts import from_optax
    try:
        return from_optax.find(name)
    except ValueError as error:
        raise ConfigError(f'config.optimizer.name: {error}') from None


def _optax_names() -> list[str]:
    from imgjax.optimizers.parts import from_optax
    return list(from_optax.candidates())


def hparams_of(part) -> dict[str, Field]:
    """Returns {name: Field} of the numbers that a part takes."""
    return getattr(part, 'HPARAMS', {})


def options_of(part) -> dict[str, Field]:
    """Returns {name: Field} of the options that a part takes."""
    return getattr(part, 'OPTIONS', {})


def chosen(config: dict) -> list[Chosen]:
    """Returns the parts of a config, in the order objective, optimizer, sampler, metrics.

    Raises:
      ConfigError: the config names a part that does not exist, or config.metrics holds no pairs.
    """
    found = []
    for kind in ('objective', 'optimizer', 'sampler'):
        group = config.get(kind, {})
        name = group.get('name', FIELDS[f'{kind}.name'].default)
        found.append(Chosen(kind, name, f'config.{kind}.options', find(kind, name),
                            group.get('options', {})))
    values.check_pairs('metrics', 'metric', config.get('metrics', ()))
    return found + [
        Chosen('metric', name, f'config.metrics: {name}', find('metric', name), options)
        for name, options in config.get('metrics', ())]


def metrics(config: dict, multi_label: bool) -> list[Chosen]:
    """Returns the metrics that an evaluation computes: accuracy, and those that the config names.

    For images with several labels mean_average_precision is computed, too.

    Args:
      config: the config of the run.
      multi_label: whether images have several labels.
    """
    own = [one for one in chosen(config) if one.kind == 'metric']
    return [Chosen('metric', name, '', part, {}) for name, part in ALWAYS.items()
            if (multi_label or name == 'accuracy') and name not in [one.name for one in own]] + own


def check_loss(config: dict, found, count: int, extra) -> None:
    """Checks the names and shapes of what an objective's `loss` returned, while it is traced.

    Args:
      config: the config of the run.
      found: the objectives.Loss that it returned.
      count: N, the number of examples.
      extra: the `extra` that it was given.

    Raises:
      ConfigError: names the file and what it has to return.
    """
    name = config['objective']['name']
    declared = getattr(find('objective', name), 'MEASURES', ())
    odd = sorted(set(declared) & {'loss', *RESERVED})
    if odd:
        raise ConfigError(f'{file_of(name)}: MEASURES has {odd[0]!r}, which every run logs; give '
                          'it another name')
    if set(found.measures) != set(declared):
        raise ConfigError(f'{file_of(name)}: `loss` returns the measures {sorted(found.measures)}, '
                          f'but MEASURES names {sorted(declared)}; make them the same')
    for what, array in {'losses_N': found.losses_N, **found.measures}.items():
        _check_length(f'{file_of(name)}: `loss`: {what}', array, (count,))
    check_extra(config, extra, found.extra, 'loss')


def check_extra(config: dict, before, now, function: str) -> None:
    """Raises ConfigError if a function of an objective changed names, shapes or dtypes of `extra`.

    Args:
      config: the config of the run.
      before: the `extra` that the function was given.
      now: the `extra` that it returned.
      function: the name of the function.
    """
    name = config['objective']['name']
    forms = [jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)
             for tree in (before, now)]
    if forms[0] != forms[1]:
        raise ConfigError(f'{file_of(name)}: `{function}` returns an `extra` of another form than '
                          '`init` does; return one of the same names, shapes and dtypes')


def check_columns(metric: Chosen, columns: dict, count: int, others: dict) -> None:
    """Checks what a metric's `per_example` returned, while it is traced.

    Args:
      metric: the metric.
      columns: the columns that it returned.
      count: N, the number of examples.
      others: the columns that the evaluation has already.

    Raises:
      ConfigError: names the file and what it has to return.
    """
    where = f'{file_of(metric.name)}: `per_example`'
    for name, column in columns.items():
        if name in others:
            raise ConfigError(f'{where}: there is a column {name!r} already; give it another name')
        _check_length(f'{where}: {name}', column, (count, *jnp.shape(column)[1:]))
    for name in () if hasattr(metric.part, 'summary') else metric.part.METRICS:
        if name not in columns:
            raise ConfigError(f'{where}: returns {sorted(columns)}, without {name!r} of METRICS; '
                              'return it, or compute it in `summary`')
        _check_length(f'{where}: {name}', columns[name], (count,))


def check_summary(metric: Chosen, given: dict) -> None:
    """Raises ConfigError if a metric's `summary` returned other names than those of METRICS."""
    if set(given) != set(metric.part.METRICS):
        raise ConfigError(f'{file_of(metric.name)}: `summary` returns {sorted(given)}, but METRICS '
                          f'names {sorted(metric.part.METRICS)}; make them the same')


def _check_length(what: str, array, shape: tuple) -> None:
    if jnp.shape(array) != shape:
        raise ConfigError(f'{what} has the shape {jnp.shape(array)}; it takes {shape}, a value for '
                          'each example')


def file_of(name: str) -> str:
    """Returns the path of the file of a part in projects/; for other parts, the name itself."""
    return f'{name.replace(".", "/")}.py' if '.' in name else name


def options_argument(metric: Chosen) -> tuple:
    """Returns (options,) if a metric declares options, which its functions take last, else ()."""
    return (metric.options,) if options_of(metric.part) else ()


def measured(config: dict, multi_label: bool) -> dict[str, Metric]:
    """Returns {name: Metric} for each value that an evaluation computes.

    Raises:
      ConfigError: two metrics compute a value of the same name.
    """
    found = {'loss': Metric(higher_is_better=False)}
    for one in metrics(config, multi_label):
        for name, metric in one.part.METRICS.items():
            if name in found or name in RESERVED:
                raise ConfigError(f'config.metrics: {one.name} computes a value {name!r}, but '
                                  'that name is taken; give it another name in its file')
            found[name] = metric
    return found


def numbers(config: dict) -> dict[str, Field]:
    """Returns {name: Field} of the numbers that the parts of a config take.

    Raises:
      ConfigError: two parts take a number of the same name, or a part takes a number of a name that
        every run has.
    """
    found, owner = {}, {}
    for one in chosen(config):
        for name, field in hparams_of(one.part).items():
            if f'hparams.{name}' in FIELDS:
                raise ConfigError(f'config.hparams.{name}: {one.kind} {one.name} takes a number of '
                                  'a name that every run has; give it another name in its file')
            if name in owner and (field != found[name] or owner[name].kind != one.kind):
                raise ConfigError(
                    f'config.hparams.{name}: {owner[name].kind} {owner[name].name} and {one.kind} '
                    f'{one.name} both take a number of that name; give it another name in one file')
            found[name], owner[name] = field, one
    return found


def complete(config: dict) -> dict:
    """Returns a plain config with the numbers and options of its parts checked.

    Those that it does not set get their defaults.

    Raises:
      ConfigError: no part takes a number or option, or its value has a wrong type or is out of
        range. The message names it.
    """
    taken = numbers(config)
    common = [name.removeprefix('hparams.') for name in FIELDS if name.startswith('hparams.')]
    for name in config['hparams']:
        if name not in taken and name not in common:
            said = ', '.join(f'{one.kind} {one.name}' for one in chosen(config))
            raise ConfigError(
                f'config.hparams.{name}: nothing reads it ({said})'
                + (_parts_that_take(name) or nearest(f'hparams.{name}', [
                    f'hparams.{one}' for one in [*common, *taken]]) or '; leave it out'))
    hparams = config['hparams'] | {
        name: _plain(field.default) for name, field in taken.items()
        if name not in config['hparams']}
    for name, field in taken.items():
        _check(f'config.hparams.{name}', hparams[name], field)
    config = config | {'hparams': hparams}
    for one in chosen(config):
        for name in one.options:
            if name not in options_of(one.part):
                there = ', '.join(options_of(one.part)) or 'no options'
                raise ConfigError(f'{one.field}.{name}: {one.kind} {one.name} has no such option'
                                  f'{nearest(name, options_of(one.part)) or "."} It takes {there}')
    metrics = [[name, _options(find('metric', name), options, f'config.metrics: {name}')]
               for name, options in config['metrics']]
    config = config | {'metrics': metrics} | {
        one.kind: config[one.kind] | {'options': _options(one.part, one.options, one.field)}
        for one in chosen(config) if one.kind != 'metric'}
    return config | {'fingerprints': _source_digests(config) | config['fingerprints']}


def _parts_that_take(name: str) -> str:
    """Returns the end of a message: which parts of the package take a number; '' if none does."""
    takers = {kind: [part for part in names(kind) if name in hparams_of(find(kind, part))]
              for kind in PACKAGES}
    words = [f'{kind} {" or ".join(found)}' for kind, found in takers.items() if found]
    return f'; {", ".join(words)} would; leave it out' if words else ''


def _options(part, given: dict, field: str) -> dict:
    whole = {name: _plain(one.default) for name, one in options_of(part).items()} | given
    for name, one in options_of(part).items():
        _check(f'{field}.{name}', whole[name], one)
    return whole


def _check(name: str, value, field: Field) -> None:
    """Checks the value of a part's field; of a tuple, each number has to be in the range."""
    if value is None:
        raise ConfigError(f'{name}: missing; it takes {field.type.__name__}'
                          + (f' ({field.help})' if field.help else ''))
    if value == ['balanced'] and name == 'config.hparams.class_weights':
        return  # build.describe fills it in
    values.check_value(name, value, field)
    for one in value if field.type is tuple else ():
        values.check_value(name, one, field._replace(type=float))


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _source_digests(config: dict) -> dict[str, str]:
    """Returns {name: digest of the source} for each part, model and source in projects/."""
    named = {one.name: one.field for one in chosen(config)}
    named |= {config[kind]['name']: f'config.{kind}.name' for kind in ('model', 'data')}
    named |= {name: 'config.augment' for name, _ in config['augment']}
    found = {}
    for name, field in named.items():
        if str(name).startswith('projects.'):
            try:
                found[name] = projects.digest(name)
            except ValueError as error:
                raise ConfigError(f'{field}: {error}') from None
    return found


def changed_sources(config: dict) -> list[str]:
    """Returns the files of projects/ whose code has changed since a config was made."""
    return [file_of(name) for name, digest in _source_digests(config).items()
            if config['fingerprints'].get(name, digest) != digest]


def drop_unread(before: dict, after: dict, given=()) -> list[str]:
    """Removes the fields that only a replaced part read; returns their names.

    Args:
      before: nested dict of fields, such as a recipe's.
      after: the same with other parts; it is changed in place.
      given: names of fields that are not removed, even if no part reads them.
    """
    old, new = chosen(before), chosen(after)
    read_by_old, read_by_new = ({name for one in found for name in hparams_of(one.part)}
                                for found in (old, new))
    dropped = [f'hparams.{name}' for name in after.get('hparams', {})
               if name in read_by_old - read_by_new]
    for was, now in zip(old[:3], new[:3], strict=True):
        if was.name != now.name:
            dropped += [f'{now.kind}.options.{name}' for name in now.options
                        if name in options_of(was.part) and name not in options_of(now.part)]
    dropped = [field for field in dropped if field not in given]
    for field in dropped:
        config_lib.remove(after, field)
    return dropped
