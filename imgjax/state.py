"""The train state: everything that a step reads and writes, as one pytree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from imgjax import optim

# What a step measures; `window` sums them since the last logged step.
MEASURES = ('loss', 'accuracy', 'grad_norm')
# What of an update was not finite, the first of these that was not.
SKIP_CAUSES = ('loss', 'gradient', 'update')


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
      skipped: non-finite updates that were not applied, int32 () for each of SKIP_CAUSES.
      skipped_in_a_row: int32 ().
      skipped_at: int32 (), the step whose update was skipped last; -1 before any.
      window: sums of MEASURES and their `count` since the last logged step, float32 ().
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    skipped: dict[str, jax.Array]
    skipped_in_a_row: jax.Array
    skipped_at: jax.Array
    window: dict[str, jax.Array]


def init(model, config: dict, image_shape: tuple[int, int, int], hparams: dict) -> TrainState:
    """Returns the state before the first step; a function of the config and hparams['seed'].

    Args:
      model: a Flax module of imgjax.models.
      config: plain config.
      image_shape: (H, W, C).
      hparams: arrays, as from `hparams_of`.
    """
    images_NHWC = jnp.zeros((1, *image_shape), jnp.float32)
    variables = model.init(jax.random.key(hparams['seed']), images_NHWC, train=False)
    params = variables['params']
    optimizer = optim.optimizer(config['optimizer'], hparams, jnp.float32(0))
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=params,
        batch_stats=variables.get('batch_stats', {}),
        opt_state=optimizer.init(params),
        # A copy: the step donates its input, and no buffer may be donated twice.
        ema=jax.tree.map(jnp.copy, params) if config['ema'] else {},
        skipped={cause: zero for cause in SKIP_CAUSES},
        skipped_in_a_row=zero,
        skipped_at=zero - 1,
        window={name: jnp.zeros((), jnp.float32) for name in (*MEASURES, 'count')},
    )


def hparams_of(config: dict) -> dict:
    """Returns config['hparams'] as NumPy arrays: the seed int32, all else float32.

    All are scalars but `class_weights`, (K,), or (0,) where the classes weigh alike.
    """
    numbers = dict(config['hparams'])
    arrays = {'seed': np.int32(numbers.pop('seed')),
              'class_weights': np.asarray(numbers.pop('class_weights'), np.float32)}
    return arrays | jax.tree.map(np.float32, numbers)


def abstract(model, config: dict, image_shape: tuple[int, int, int]) -> TrainState:
    """Returns the state as ShapeDtypeStructs, without computing it."""
    hparams = jax.eval_shape(lambda: hparams_of(config))
    return jax.eval_shape(lambda h: init(model, config, image_shape, h), hparams)


def step_of(state: TrainState) -> int:
    """Returns how many updates a state has seen, fetched from the device."""
    return int(jax.device_get(state.step))


def parameter_count(state: TrainState) -> int:
    """Returns the number of trained numbers."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))
