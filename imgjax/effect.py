"""Fields of a config that would have no effect: what nothing reads, and what lies past the run.

A field that nothing reads has to keep its value of `configs/base.py`.
"""

import logging
from typing import Any, NamedTuple

from imgjax import config as config_lib
from imgjax import optim
from imgjax.errors import ConfigError

log = logging.getLogger('imgjax')


class Reader(NamedTuple):
    """When a field is read: while `field` has one of `values`; else it has to stay at `default`."""

    default: Any
    field: str
    values: tuple


_ADAM = ('adam', 'adamw', 'lamb', 'muon')
_ANY = ('some weights',)  # of init.from_: any but ''
_WITHOUT_PATH = ('digits', 'synthetic')  # sources that are not on disk

READERS = {
    'hparams.momentum': Reader(0.9, 'optimizer.name', ('sgd', 'muon')),
    'optimizer.nesterov': Reader(True, 'optimizer.name', ('sgd', 'muon')),
    'hparams.b1': Reader(0.9, 'optimizer.name', (*_ADAM, 'lion')),
    'hparams.b2': Reader(0.999, 'optimizer.name', (*_ADAM, 'lion')),
    'hparams.eps': Reader(1e-8, 'optimizer.name', _ADAM),
    'hparams.layer_decay': Reader(1.0, 'optimizer.layerwise', (True,)),
    'hparams.ema_decay': Reader(0.999, 'ema', (True,)),
    'hparams.focal_gamma': Reader(2.0, 'loss', ('focal',)),
    'hparams.consistency_weight': Reader(12.0, 'consistency', ('jsd',)),
    'hparams.end_learning_rate': Reader(0.0, 'schedule.name', ('cosine', 'linear')),
    'schedule.milestones': Reader([0.5, 0.75], 'schedule.name', ('step',)),
    'schedule.factor': Reader(0.1, 'schedule.name', ('step',)),
    'data.crop_min_area': Reader(0.08, 'data.train_crop', ('random_resized',)),
    'init.head': Reader('keep', 'init.from_', _ANY),
    'init.channels': Reader('same', 'init.from_', _ANY),
    'init.resample': Reader(False, 'init.from_', _ANY),
}


def unread(config: dict) -> dict[str, str]:
    """Returns {field: a line about it} of what a config sets and nothing reads."""
    flat = config_lib.flatten(config)
    found = {}
    for name, (default, field, values) in READERS.items():
        value, other = flat.get(name, default), flat.get(field)
        if (list(value) if isinstance(value, tuple) else value) == default or other in values:
            continue
        if values == _ANY and other:
            continue
        found[name] = (f'config.{name}: nothing reads it while config.{field} is {other!r}; set '
                       f'that to {" or ".join(map(str, values))}, or leave {value!r} out')
    if flat.get('data.path') and flat.get('data.name') in _WITHOUT_PATH:
        found['data.path'] = (f'config.data.path: nothing reads it while config.data.name is '
                              f'{flat["data.name"]!r}; set that to a source on disk such as folder')
    return found


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
    profile = config['profile']
    if profile['steps'] and profile['start'] >= steps:
        log.warning('config.profile.start: %d is past the last of %d steps, nothing is traced',
                    profile['start'], steps)
