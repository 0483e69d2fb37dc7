"""What a model answers on a split: logits and, where asked for, named intermediates."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgjax import evaluate, step
from imgjax.build import Setup
from imgjax.data import Source
from imgjax.errors import ConfigError, DataError, PreemptedError, nearest


class Answers(NamedTuple):
    """What a model answered on N images.

    Attributes:
      logits_NK: float32 (N, K).
      labels: int32 (N,), or float32 (N, K) of 0 and 1 where images have several labels.
      features: {layer: float32 (N, D)}, the chosen intermediates, as `pooled` makes them.
    """

    logits_NK: np.ndarray
    labels: np.ndarray
    features: dict[str, np.ndarray]


def layers(setup: Setup) -> dict[str, tuple[int, ...]]:
    """Returns {name: shape without the first axis} of the model's intermediates, input first."""
    order: list[str] = []

    def forward(variables, images_NHWC):
        _, out = setup.model.apply(variables, images_NHWC, train=False)
        order.extend(out)  # a dict that JAX returns is sorted by name
        return out

    variables = {'params': setup.target.params, 'batch_stats': setup.target.batch_stats}
    image = jax.ShapeDtypeStruct((1, *setup.dataset.image_shape), jnp.float32)
    out = jax.eval_shape(forward, variables, image)
    return {name: out[name].shape[1:] for name in order if hasattr(out[name], 'shape')}


def check_layer(setup: Setup, layer: str) -> None:
    """Checks that the model has an intermediate of this name.

    Raises:
      ConfigError: it has none; the message lists those that it has.
    """
    known = layers(setup)
    if layer not in known:
        raise ConfigError(f'--layer: {setup.config.model.name} has no intermediate {layer!r}'
                          f'{nearest(layer, known) or "."} It has {", ".join(known)}')


def check_finite(logits_NK: np.ndarray, split: str) -> None:
    """Checks the logits of a split.

    Raises:
      DataError: some are not finite.
    """
    bad_N = ~np.isfinite(logits_NK).all(1)
    if bad_N.any():
        raise DataError(f'{split}: the logits of {bad_N.sum():,} of {len(bad_N):,} images are not '
                        f'finite, first of image {bad_N.argmax()}; the model has diverged')


def pooled(x):
    """Returns an intermediate (N, ..., D) as (N, D), the mean over all axes between."""
    return x if x.ndim == 2 else x.mean(tuple(range(1, x.ndim - 1)))


def collector(setup: Setup, chosen: Sequence[str] = (), pool: bool = True) -> Callable:
    """Returns collect(state, source, title) -> Answers; the program is compiled once.

    `collect` raises PreemptedError if the process was asked to stop, and the errors of
    `evaluate.split`.

    Args:
      setup: the run, or one with the same programs.
      chosen: names of intermediates, see `layers`.
      pool: whether intermediates are pooled; otherwise they have their own shapes.
    """
    def eval_step(state, batch, hparams):
        logits_NK, out = step.predict(setup.model, setup.config, state, batch['image'])
        columns = {f'out.{name}': (pooled(out[name]) if pool else out[name]).astype(jnp.float32)
                   for name in chosen}
        return {'labels': batch['label'], 'mask': batch['mask'], 'logits': logits_NK} | columns

    compiled = evaluate.jit_eval_step(eval_step, setup.shardings, setup.mesh)

    def collect(state, source: Source, title: str) -> Answers:
        found = evaluate.split(setup, state, source, title, compiled)
        if found is None:
            raise PreemptedError('asked to stop; the same command goes on')
        return Answers(found['logits'], found['labels'],
                       {name: found[f'out.{name}'] for name in chosen})

    return collect


def by_depth(setup: Setup, most: int) -> list[str]:
    """Returns up to `most` intermediates, spread evenly over the depth, without the logits.

    Of a stage and its blocks only the stage is taken. The last one is always among them.

    Raises:
      DataError: there is none.
    """
    known = layers(setup)
    names = [name for name, shape in known.items() if name != 'logits' and 0 not in shape]
    stages = {name for name in names if name.startswith('stage') and '_' not in name}
    names = [name for name in names if name.partition('_')[0] not in stages or name in stages]
    if not names:
        raise DataError(f'{setup.config.model.name} names no intermediate in its `out`; a card '
                        'needs one')
    chosen = np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int))
    return [names[i] for i in chosen]
