"""Parts of a step: one file each, found by name, with their numbers and options declared in it.

An objective, an optimizer, a sampler and a metric are parts (imgjax/objectives, optimizers,
samplers and metrics say what each has to hold). A name without a dot is a file of the package; a
name such as `projects.poly` is the file projects/poly.py where the command is run.

A part declares its numbers as HPARAMS and its structure as OPTIONS, both {name: Field}. The config
takes them in: numbers as config.hparams.NAME, options as config.objective.options.NAME and so on.
"""

import importlib
import pkgutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from imgjax import config as config_lib
from imgjax.config import FIELDS, Field
from imgjax.errors import ConfigError, nearest
from imgjax.metrics import RESERVED, Metric, accuracy, mean_average_precision
from imgjax.process import projects

PACKAGES = {'objective': 'objectives', 'optimizer': 'optimizers', 'sampler': 'samplers',
            'metric': 'metrics'}
_REQUIRED = {'objective': ('loss',), 'optimizer': ('transform',), 'sampler': ('order',),
             'metric': ('METRICS', 'per_example')}


class Chosen(NamedTuple):
    """A part as a config has it.

    Attributes:
      kind: a key of PACKAGES.
      name: of the part.
      field: of the config, that holds its options.
      part: the module.
      options: of the config, before defaults are filled in.
    """

    kind: str
    name: str
    field: str
    part: Any
    options: dict


def names(kind: str) -> list[str]:
    """Returns the names of the parts of a kind that are files of the package, sorted."""
    package = importlib.import_module(f'imgjax.{PACKAGES[kind]}')
    return sorted(info.name for info in pkgutil.iter_modules(package.__path__) if not info.ispkg)


def find(kind: str, name: str):
    """Returns the module of a part.

    Raises:
      ConfigError: there is none of that name, or it lacks what a part of its kind has to hold.
    """
    if '.' in name:
        part = _of_project(kind, name)
    elif name in names(kind):
        part = importlib.import_module(f'imgjax.{PACKAGES[kind]}.{name}')
    else:
        part = _of_optax(name) if kind == 'optimizer' else None
    if part is None:
        there = names(kind)
        more = _optax_names() if kind == 'optimizer' else []
        raise ConfigError(
            f'config.{_field(kind)}: there is no {kind} {name!r}{nearest(name, there + more)}; '
            f'there are {", ".join(there)}{", those of optax" if more else ""} and those of a file '
            'of your own, projects.NAME')
    for required in _REQUIRED[kind]:
        if not hasattr(part, required):
            raise ConfigError(f'config.{_field(kind)}: {name} is no {kind}: its file has no '
                              f'{required!r} (imgjax/{PACKAGES[kind]}/__init__.py says what it '
                              'holds)')
    return part


def _of_project(kind: str, name: str):
    try:
        return projects.load(name)
    except ValueError as error:
        raise ConfigError(f'config.{_field(kind)}: {error}') from None


def _field(kind: str) -> str:
    return 'metrics' if kind == 'metric' else f'{kind}.name'


def _of_optax(name: str):
    from imgjax.optimizers.parts import from_optax
    try:
        return from_optax.find(name)
    except ValueError as error:
        raise ConfigError(f'config.optimizer.name: {error}') from None


def _optax_names() -> list[str]:
    from imgjax.optimizers.parts import from_optax
    return list(from_optax.candidates())


def hparams_of(part) -> dict[str, Field]:
    """Returns the numbers that a part takes."""
    return getattr(part, 'HPARAMS', {})


def options_of(part) -> dict[str, Field]:
    """Returns the options that a part takes."""
    return getattr(part, 'OPTIONS', {})


def chosen(config: dict) -> list[Chosen]:
    """Returns the parts of a config, in the order objective, optimizer, sampler, metrics.

    Raises:
      ConfigError: there is no part of a name.
    """
    found = []
    for kind in ('objective', 'optimizer', 'sampler'):
        group = config.get(kind, {})
        name = group.get('name', FIELDS[f'{kind}.name'].default)
        found.append(Chosen(kind, name, f'config.{kind}.options', find(kind, name),
                            group.get('options', {})))
    return found + [
        Chosen('metric', name, f'config.metrics: {name}', find('metric', name), options)
        for name, options in config.get('metrics', ())]


def metrics(config: dict, multi_label: bool) -> list[Chosen]:
    """Returns the metrics of a config: accuracy, mean_average_precision, and those that it names.

    Args:
      config: checked.
      multi_label: whether images have several labels.
    """
    own = [one for one in chosen(config) if one.kind == 'metric']
    always = {'accuracy': accuracy} | (
        {'mean_average_precision': mean_average_precision} if multi_label else {})
    return [Chosen('metric', name, '', part, {}) for name, part in always.items()
            if name not in [one.name for one in own]] + own


def check_loss(config: dict, found, count: int, extra) -> None:
    """Checks the names and shapes of what an objective's `loss` returned, while it is traced.

    Args:
      config: checked.
      found: objectives.Loss.
      count: N, of examples.
      extra: that it was given.

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
    """Checks that a function of an objective keeps the form of `extra`; raises ConfigError."""
    name = config['objective']['name']
    forms = [jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)
             for tree in (before, now)]
    if forms[0] != forms[1]:
        raise ConfigError(f'{file_of(name)}: `{function}` returns an `extra` of another form than '
                          '`init` does; return one of the same names, shapes and dtypes')


def check_columns(metric: Chosen, columns: dict, count: int, others: dict) -> None:
    """Checks what a metric's `per_example` returned, while it is traced.

    Args:
      metric: of the config.
      columns: that it returned.
      count: N, of examples.
      others: the columns that are there.

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
    """Checks the names that a metric's `summary` returned; raises ConfigError."""
    if set(given) != set(metric.part.METRICS):
        raise ConfigError(f'{file_of(metric.name)}: `summary` returns {sorted(given)}, but METRICS '
                          f'names {sorted(metric.part.METRICS)}; make them the same')


def _check_length(what: str, array, shape: tuple) -> None:
    if jnp.shape(array) != shape:
        raise ConfigError(f'{what} has the shape {jnp.shape(array)}; it takes {shape}, a value for '
                          'each example')


def file_of(name: str) -> str:
    """Returns where a part of that name is written."""
    return f'{name.replace(".", "/")}.py' if '.' in name else name


def options_argument(metric: Chosen) -> tuple:
    """Returns the last argument of a metric's functions: its options, if it declares any."""
    return (metric.options,) if options_of(metric.part) else ()


def measured(config: dict, multi_label: bool) -> dict[str, Metric]:
    """Returns what an evaluation measures, by name.

    Raises:
      ConfigError: two metrics give a number of one name.
    """
    found = {'loss': Metric(higher_is_better=False)}
    for one in metrics(config, multi_label):
        for name, metric in one.part.METRICS.items():
            if name in found or name in RESERVED:
                raise ConfigError(f'config.metrics: {one.name} gives a number {name!r}, and there '
                                  'is one of that name; give it another in its file')
            found[name] = metric
    return found


def numbers(config: dict) -> dict[str, Field]:
    """Returns the numbers that the parts of a config take, by name.

    Raises:
      ConfigError: two parts take a number of one name, or a part takes one that every run has.
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
    """Returns a plain config with the numbers and options of its parts checked and filled in.

    Raises:
      ConfigError: names the number or option that no part takes, is ill-typed or out of range.
    """
    taken = numbers(config)
    common = [name.removeprefix('hparams.') for name in FIELDS if name.startswith('hparams.')]
    for name in config['hparams']:
        if name not in taken and name not in common:
            said = ', '.join(f'{one.kind} {one.name}' for one in chosen(config))
            raise ConfigError(
                f'config.hparams.{name}: nothing reads it ({said})'
                f'{_takers(name) or _nearest_number(name, [*common, *taken])}; leave it out')
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
                                  f'{nearest(name, options_of(one.part))}; it takes {there}')
    metrics = [[name, _options(find('metric', name), options, f'config.metrics: {name}')]
               for name, options in config['metrics']]
    config = config | {'metrics': metrics} | {
        one.kind: config[one.kind] | {'options': _options(one.part, one.options, one.field)}
        for one in chosen(config) if one.kind != 'metric'}
    return config | {'fingerprints': _of_sources(config) | config['fingerprints']}


def _takers(name: str) -> str:
    """Returns which parts of the package take a number, in words; '' for none."""
    takers = {kind: [part for part in names(kind) if name in hparams_of(find(kind, part))]
              for kind in PACKAGES}
    words = [f'{kind} {" or ".join(found)}' for kind, found in takers.items() if found]
    return f'; {", ".join(words)} would' if words else ''


def _nearest_number(name: str, there: list[str]) -> str:
    return nearest(f'hparams.{name}', [f'hparams.{one}' for one in there])


def _options(part, given: dict, field: str) -> dict:
    whole = {name: _plain(one.default) for name, one in options_of(part).items()} | given
    for name, one in options_of(part).items():
        _check(f'{field}.{name}', whole[name], one)
    return whole


def _check(name: str, value, field: Field) -> None:
    """Checks a value of a part's field; numbers of a tuple are each in the range."""
    if value is None:
        raise ConfigError(f'{name}: missing; it takes {field.type.__name__} ({field.help})')
    if value == ['balanced'] and name == 'config.hparams.class_weights':
        return  # build.describe fills it in
    config_lib.check_value(name, value, field)
    for one in value if field.type is tuple else ():
        config_lib.check_value(name, one, field._replace(type=float))


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _of_sources(config: dict) -> dict[str, str]:
    """Returns {name: digest of its source} of the parts, model and data of the user's projects."""
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
    """Returns the files of projects/ whose code is not the one that a config was made with."""
    return [file_of(name) for name, digest in _of_sources(config).items()
            if config['fingerprints'].get(name, digest) != digest]


def drop_unread(before: dict, after: dict, given=()) -> list[str]:
    """Takes out of a config what only a part has read that was exchanged; returns the fields.

    Args:
      before: nested dict of fields, such as a recipe's.
      after: the same with other parts; changed in place.
      given: fields that stay, whoever reads them.
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
        *groups, last = field.split('.')
        inner = after
        for group in groups:
            inner = inner[group]
        del inner[last]
    return dropped
