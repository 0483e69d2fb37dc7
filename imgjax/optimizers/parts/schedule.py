"""Learning-rate schedules: pure functions of the step and of traced learning rates."""

import logging
import math

import jax.numpy as jnp

from imgjax.config import FIELDS, Config
from imgjax.errors import ConfigError, unknown

log = logging.getLogger('imgjax')

SCHEDULES = FIELDS['schedule.name'].choices


def learning_rate(schedule, step, total_steps, hparams):
    """Returns the learning rate of one step.

    All schedules first warm up: at step s < W the rate is ``peak * (s + 1) / W``. After that,

    - ``constant`` stays at the peak;
    - ``cosine`` decreases along half a cosine, to the end value at ``total_steps``
      (Loshchilov and Hutter, `SGDR <https://arxiv.org/abs/1608.03983>`_, 2016);
    - ``linear`` decreases linearly, to the end value at ``total_steps``;
    - ``step`` is the peak, times ``factor`` for each milestone passed.

    >>> schedule = Config({'name': 'cosine', 'warmup_steps': 10})
    >>> hparams = {'learning_rate': 0.1, 'end_learning_rate': 0.0}
    >>> [round(float(learning_rate(schedule, s, 110, hparams)), 4) for s in (0, 9, 60, 110)]
    [0.01, 0.1, 0.05, 0.0]

    Args:
      schedule: dict of ``name``, one of ``SCHEDULES``; ``warmup_steps`` W (default 0), or below
        1 the share of total_steps that W is; for ``step`` ``milestones``, fractions of total_steps,
        and ``factor`` (default 0.1); ``head_steps`` is read by finetune.py.
      step: int32 scalar, traced or not, the number of updates done so far.
      total_steps: int, the number of updates of the run.
      hparams: dict with ``learning_rate`` (the peak) and, for cosine and linear,
        ``end_learning_rate`` (a rate, not a fraction of the peak), traced or not.

    Returns:
      float32 scalar.

    Raises:
      ValueError: the name of the schedule, or a key of `schedule`, is unknown.
    """
    name = _known('schedule', schedule.name, SCHEDULES)
    for key in schedule:
        _known('key of the schedule', key,
               ('name', 'warmup_steps', 'milestones', 'factor', 'head_steps'))
    step = jnp.asarray(step, jnp.int32)
    warmup = count(schedule.get('warmup_steps', 0), total_steps)
    peak = jnp.asarray(hparams['learning_rate'], jnp.float32)
    if name == 'constant':
        rate = peak
    elif name == 'step':
        rate = peak * _steps_down(schedule, step, total_steps)
    else:
        end = jnp.asarray(hparams['end_learning_rate'], jnp.float32)
        left = 1.0 - _progress(step, warmup, total_steps)
        if name == 'cosine':
            left = 0.5 * (1.0 - jnp.cos(math.pi * left))
        rate = end + (peak - end) * left
    ramp = peak * ((step + 1).astype(jnp.float32) / max(warmup, 1))
    return jnp.where(step < warmup, ramp, rate)


def count(steps_or_share, total_steps: int) -> int:
    """Returns the number of steps that `schedule.warmup_steps` or `head_steps` means.

    >>> count(50, 1000), count(0.05, 1000), count(0.05, 40)
    (50, 50, 2)
    """
    if steps_or_share >= 1:
        return int(steps_or_share)
    return round(steps_or_share * total_steps)


def check(config: Config) -> None:
    """Checks config.schedule against the number of steps of the run.

    A warm-up longer than the run is valid, but probably a mistake, and causes a warning.

    Raises:
      ConfigError: more steps train the head alone than the run has, or a milestone is not
        in [0, 1].
    """
    schedule, steps = config.schedule, config.steps
    share = 'a number below 1, such as 0.05, is a share of the run'
    if count(schedule.head_steps, steps) > steps:
        raise ConfigError(f'config.schedule.head_steps: {schedule.head_steps} of {steps} steps, '
                          f'so only the head would ever train; {share}, and {steps} trains the '
                          'head alone')
    odd = [place for place in schedule.milestones if not 0 <= place <= 1]
    if schedule.name == 'step' and odd:
        raise ConfigError(f'config.schedule.milestones: takes fractions of the run, 0 to 1, got '
                          f'{odd[0]!r}; step {odd[0]} of {steps} is {odd[0] / steps:.4g}')
    warmup = count(schedule.warmup_steps, steps)
    if warmup > steps:
        log.warning('config.schedule.warmup_steps: %d of %d steps, so the learning rate ends at '
                    '%.3g of its peak; %s', warmup, steps, steps / warmup, share)


def _progress(step, warmup, total_steps):
    """Returns the share of the steps after the warm-up that is done, in [0, 1]."""
    done = (step - warmup).astype(jnp.float32) / max(total_steps - warmup, 1)
    return jnp.clip(done, 0.0, 1.0)


def _steps_down(schedule, step, total_steps):
    places = [round(milestone * total_steps) for milestone in schedule.milestones]
    passed = jnp.sum(step >= jnp.asarray(places, jnp.int32), dtype=jnp.float32)
    return jnp.float32(schedule.get('factor', 0.1)) ** passed


def _known(kind, name, known):
    if name in known:
        return name
    raise ValueError(unknown(kind, name, known))
