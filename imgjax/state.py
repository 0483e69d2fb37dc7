"""The train state: one pytree of everything that a step reads and changes."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from imgjax import optimizers, parts
from imgjax.config import Config

# What was not finite where an update was skipped; of several causes the first one is counted.
SKIP_CAUSES = ('loss', 'gradient', 'update')


_EXTRA = 2**31 - 1  # folded into the key of the seed, for the initial `extra` of an objective


@flax.struct.dataclass
class TrainState:
    """The state of a run after some number of steps.

    It has no random key: the keys of a step are computed from (hparams.seed, step).

    Attributes:
      step: int32 (), the number of updates done, with those that were skipped.
      params: the parameters, float32 leaves.
      batch_stats: the statistics of BatchNorm, float32 leaves; {} without BatchNorm.
      opt_state: the state of the optimizer.
      ema: the exponential mean of params; {} without config.ema.
      extra: the state of the objective, such as a momentum encoder; {} if it has none.
      skipped: {cause: int32 ()}, the number of updates that were not finite and not applied, for
        each of SKIP_CAUSES.
      skipped_in_a_row: int32 (), how many of the newest updates were skipped.
      skipped_at: int32 (), the step whose update was skipped last; -1 if none was.
      window: {name: float32 ()}, the sums of `measures`, and their `count`, since the last logged
        step.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    extra: Any
    skipped: dict[str, jax.Array]
    skipped_in_a_row: jax.Array
    skipped_at: jax.Array
    window: dict[str, jax.Array]


def init(model, config: Config, image_shape: tuple[int, int, int], hparams: dict) -> TrainState:
    """Returns the state before the first step; a function of the config and hparams['seed'].

    Args:
      model: a Flax module of imgjax.models.
      config: the frozen Config of the run.
      image_shape: (H, W, C).
      hparams: arrays, as `hparams_of` returns them.
    """
    images_NHWC = jnp.zeros((1, *image_shape), jnp.float32)
    variables = model.init(jax.random.key(hparams['seed']), images_NHWC, train=False)
    params, batch_stats = variables['params'], variables.get('batch_stats', {})
    optimizer = optimizers.optimizer(config.optimizer, hparams, jnp.float32(0))
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if config.ema else {},  # a copy, as below
        extra=extra_of(config, params, batch_stats, hparams),
        skipped={cause: zero for cause in SKIP_CAUSES},
        skipped_in_a_row=zero,
        skipped_at=zero - 1,
        window={name: jnp.zeros((), jnp.float32) for name in (*measures(config), 'count')},
    )


def extra_of(config: Config, params, batch_stats, hparams: dict):
    """Returns the initial state of the objective for these parameters; {} if it has no state."""
    objective = parts.find('objective', config.objective.name)
    if not hasattr(objective, 'init'):
        return {}
    key = jax.random.fold_in(jax.random.key(hparams['seed']), _EXTRA)
    # Copies: the step donates its input, and no buffer may be donated twice.
    return jax.tree.map(jnp.copy, objective.init(
        params, batch_stats, key, config.objective.options))


def measures(config: Config) -> tuple[str, ...]:
    """Returns the names of a step's measures: loss, the objective's MEASURES, and grad_norm."""
    objective = parts.find('objective', config.objective.name)
    return ('loss', *getattr(objective, 'MEASURES', ()), 'grad_norm')


def hparams_of(config: Config) -> dict:
    """Returns config.hparams as NumPy arrays: the seed is int32, all others are float32.

    All are scalars, except for tuples: `class_weights` is (K,), or (0,) if there are none.
    """
    numbers = dict(config.hparams)
    seed, strengths = np.int32(numbers.pop('seed')), numbers.pop('augment')
    arrays = {name: np.asarray(value, np.float32)[()] for name, value in numbers.items()}
    return {'seed': seed, **arrays,
            'augment': {name: np.float32(value) for name, value in strengths.items()}}


def abstract(model, config: Config, image_shape: tuple[int, int, int]) -> TrainState:
    """Returns the shapes and dtypes of the state as ShapeDtypeStructs, without computing it."""
    hparams = jax.eval_shape(lambda: hparams_of(config))
    return jax.eval_shape(lambda h: init(model, config, image_shape, h), hparams)


def step_of(state: TrainState) -> int:
    """Returns the number of updates that a state has seen; fetches it from the device."""
    return int(jax.device_get(state.step))


def parameter_count(state: TrainState) -> int:
    """Returns the number of elements of all parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))
