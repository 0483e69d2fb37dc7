"""Fields of a config that would have no effect: what nothing reads, and what lies past the run.

A field that nothing reads has to keep its value of `configs/base.py`.
"""

import logging
from typing import Any, NamedTuple

from imgjax import config as config_lib
from imgjax import data, optim
from imgjax.errors import ConfigError

log = logging.getLogger('imgjax')


class Reader(NamedTuple):
    """When a field is read: while one of the fields in `when` has one of its values.

    Else it has to stay at `default`.
    """

    default: Any
    when: dict[str, tuple]


_ADAM = ('adam', 'adamw', 'lamb', 'muon')
_WEIGHTS = ('some weights',)  # of init.from_: any but ''
_ABOVE_0 = ('a number above 0',)
_NO_DISK = ('digits', 'synthetic')  # sources that are made here
_SAVES = {'checkpoint.every': _ABOVE_0, 'eval_every': _ABOVE_0}

READERS = {
    'hparams.momentum': Reader(0.9, {'optimizer.name': ('sgd', 'muon')}),
    'optimizer.nesterov': Reader(True, {'optimizer.name': ('sgd', 'muon')}),
    'optimizer.decay_mask': Reader('kernels', {'hparams.weight_decay': _ABOVE_0}),
    'hparams.b1': Reader(0.9, {'optimizer.name': (*_ADAM, 'lion')}),
    'hparams.b2': Reader(0.999, {'optimizer.name': (*_ADAM, 'lion')}),
    'hparams.eps': Reader(1e-8, {'optimizer.name': _ADAM}),
    'hparams.layer_decay': Reader(1.0, {'optimizer.layerwise': (True,)}),
    'hparams.ema_decay': Reader(0.999, {'ema': (True,)}),
    'hparams.focal_gamma': Reader(2.0, {'loss': ('focal',)}),
    'hparams.consistency_weight': Reader(12.0, {'consistency': ('jsd',)}),
    'hparams.end_learning_rate': Reader(0.0, {'schedule.name': ('cosine', 'linear')}),
    'schedule.milestones': Reader([0.5, 0.75], {'schedule.name': ('step',)}),
    'schedule.factor': Reader(0.1, {'schedule.name': ('step',)}),
    'data.crop_min_area': Reader(0.08, {'data.train_crop': ('random_resized',)}),
    'data.train_resize': Reader('bicubic', {'data.train_crop': ('random_resized',)}),
    # Weights may say both of these fields themselves, see interop/preprocessing.py.
    'data.eval_crop_fraction': Reader(0.875, {
        'data.eval_transform': ('pil', 'squash'), 'init.from_': _WEIGHTS}),
    'init.head': Reader('keep', {'init.from_': _WEIGHTS}),
    'init.channels': Reader('same', {'init.from_': _WEIGHTS}),
    'init.resample': Reader(False, {'init.from_': _WEIGHTS}),
    'init.preprocessing': Reader('checkpoint', {'init.from_': _WEIGHTS}),  # what auto is without
    'checkpoint.keep_newest': Reader(2, _SAVES),
    'checkpoint.keep_every': Reader(0, _SAVES),
    'profile.start': Reader(0, {'profile.steps': _ABOVE_0}),
}


def unread(config: dict) -> dict[str, str]:
    """Returns {field: a line about it} of what a config sets and nothing reads."""
    flat = config_lib.flatten(config)
    found = {}
    for name, (default, when) in READERS.items():
        value = flat.get(name, default)
        value = list(value) if isinstance(value, tuple) else value
        if value != default and (name, value) != ('init.preprocessing', 'auto') and not any(
                _has(flat.get(field), values) for field, values in when.items()):
            fix = ' or '.join(f'{"that" if len(when) == 1 else f"config.{field}"} to '
                              f'{" or ".join(map(str, values))}' for field, values in when.items())
            found[name] = _line(name, flat, list(when), fix, value)
    return found | _unread_of_source(flat) | _unread_size(flat)


def _has(value, values: tuple) -> bool:
    return bool(value) if values in (_WEIGHTS, _ABOVE_0) else value in values


def _line(name: str, flat: dict, others: list[str], fix: str, value) -> str:
    there = ' and '.join(f'config.{field} is {flat.get(field)!r}' for field in others)
    return f'config.{name}: nothing reads it while {there}; set {fix}, or leave {value!r} out'


def _unread_of_source(flat: dict) -> dict[str, str]:
    """Returns the fields of config.data that its source does not read."""
    source = flat.get('data.name')
    of_tfds = source not in data.names()
    readers = {
        'data.path': ('', source in _NO_DISK or of_tfds, 'a source on disk such as folder'),
        'data.held_out': (0.1, source in _NO_DISK, 'a source on disk such as folder'),
        'data.data_dir': ('', not of_tfds and source != 'digits', 'a set of TFDS')}
    return {name: _line(name, flat, ['data.name'], f'that to {fix}', flat[name])
            for name, (default, is_unread, fix) in readers.items()
            if is_unread and flat.get(name, default) != default}


def _unread_size(flat: dict) -> dict[str, str]:
    """Returns usual_size where image_size says another one: the config's own, not the weights'."""
    name, size = 'data.usual_size', flat.get('data.image_size')
    usual = flat.get(name, 224)
    if usual == 224 or size in (0, usual) or flat.get('init.from_'):
        return {}
    return {name: _line(name, flat, ['data.image_size'], 'that to 0', usual)}


def say_unread(config: dict) -> None:
    """Warns, in one line, of what a config sets and nothing reads."""
    found = unread(config)
    if found:
        first, *others = found
        more = f'; nor are these read: config.{", config.".join(others)}' if others else ''
        log.warning('%s%s', found[first], more)


def check_length(config: dict) -> None:
    """Checks what is counted in steps against the steps of the run, which are known by now.

    Raises:
      ConfigError: it cannot be meant so. What is only doubtful is warned of.
    """
    schedule, steps = config['schedule'], config['steps']
    share = 'a number below 1, such as 0.05, is a share of the run'
    if optim.count(schedule['head_steps'], steps) > steps:
        raise ConfigError(f'config.schedule.head_steps: {schedule["head_steps"]} of {steps} steps, '
                          f'so only the head would ever train; {share}, and {steps} trains the '
                          'head alone')
    odd = [place for place in schedule['milestones'] if not 0 <= place <= 1]
    if schedule['name'] == 'step' and odd:
        raise ConfigError(f'config.schedule.milestones: takes fractions of the run, 0 to 1, got '
                          f'{odd[0]!r}; step {odd[0]} of {steps} is {odd[0] / steps:.4g}')
    warmup = optim.count(schedule['warmup_steps'], steps)
    if warmup > steps:
        log.warning('config.schedule.warmup_steps: %d of %d steps, so the learning rate ends at '
                    '%.3g of its peak; %s', warmup, steps, steps / warmup, share)
    every = {'log_every': config['log_every'], 'eval_every': config['eval_every'],
             'checkpoint.every': config['checkpoint']['every']}
    late = [f'config.{name} {number}' for name, number in every.items() if number > steps]
    if late:
        log.info('%s: more than the %d steps, so that happens at the end only', ', '.join(late),
                 steps)
    profile = config['profile']
    if profile['steps'] and profile['start'] >= steps:
        log.warning('config.profile.start: %d is past the last of %d steps, nothing is traced',
                    profile['start'], steps)
