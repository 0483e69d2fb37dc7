"""The train state: everything that a step reads and writes, as one pytree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from imgjax import optimizers, parts
from imgjax.config import Config

# Why an update was skipped: what was not finite; the first of these counts.
SKIP_CAUSES = ('loss', 'gradient', 'update')


_EXTRA = 2**31 - 1  # folded into the seed's key for what an objective begins with


@flax.struct.dataclass
class TrainState:
    """A point of a run.

    There is no random key in it: the keys of a step come from (hparams.seed, step).

    Attributes:
      step: int32 (), updates done, those skipped included.
      params: float32 leaves.
      batch_stats: float32 leaves, {} without BatchNorm.
      opt_state: what optax keeps.
      ema: mean of params, {} when the config keeps none.
      extra: of the objective, such as a momentum encoder; {} where it has none.
      skipped: non-finite updates that were not applied, int32 () for each of SKIP_CAUSES.
      skipped_in_a_row: int32 ().
      skipped_at: int32 (), the step whose update was skipped last; -1 before any.
      window: sums of `measures` and their `count` since the last logged step, float32 ().
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
      config: checked.
      image_shape: (H, W, C).
      hparams: arrays, as from `hparams_of`.
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
    """Returns what the objective begins with from these parameters, {} where it keeps nothing."""
    objective = parts.find('objective', config.objective.name)
    if not hasattr(objective, 'init'):
        return {}
    key = jax.random.fold_in(jax.random.key(hparams['seed']), _EXTRA)
    # Copies: the step donates its input, and no buffer may be donated twice.
    return jax.tree.map(jnp.copy, objective.init(
        params, batch_stats, key, config.objective.options))


def measures(config: Config) -> tuple[str, ...]:
    """Returns the names of what a step measures: the loss, those of the objective, grad_norm."""
    objective = parts.find('objective', config.objective.name)
    return ('loss', *getattr(objective, 'MEASURES', ()), 'grad_norm')


def hparams_of(config: Config) -> dict:
    """Returns config.hparams as NumPy arrays: the seed int32, all else float32.

    All are scalars but those that are tuples, such as `class_weights`, (K,), or (0,) without any.
    """
    numbers = dict(config.hparams)
    seed, strengths = np.int32(numbers.pop('seed')), numbers.pop('augment')
    arrays = {name: np.asarray(value, np.float32)[()] for name, value in numbers.items()}
    return {'seed': seed, **arrays,
            'augment': {name: np.float32(value) for name, value in strengths.items()}}


def abstract(model, config: Config, image_shape: tuple[int, int, int]) -> TrainState:
    """Returns the state as ShapeDtypeStructs, without computing it."""
    hparams = jax.eval_shape(lambda: hparams_of(config))
    return jax.eval_shape(lambda h: init(model, config, image_shape, h), hparams)


def step_of(state: TrainState) -> int:
    """Returns how many updates a state has seen, fetched from the device."""
    return int(jax.device_get(state.step))


def parameter_count(state: TrainState) -> int:
    """Returns the number of trained numbers."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))
