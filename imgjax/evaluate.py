"""Evaluation: every example of a split exactly once, for any batch size and device count."""

import flax
import jax
import numpy as np

from imgjax import parts, sharding
from imgjax import state as state_lib
from imgjax.config import Config
from imgjax.data import Source, pipeline
from imgjax.errors import ConfigError
from imgjax.process import backend, stop, terminal, watchdog

Columns = dict[str, np.ndarray]


def summary(config: Config, columns: Columns) -> dict[str, float]:
    """Returns the numbers of an evaluation: loss, those of every metric, and `examples`.

    Means are summed in float64, so that no batch size changes them.

    Args:
      config: checked.
      columns: arrays over all images of the split in its order: `labels` (N,), or (N, K) of 0 and 1
        where images have several; `predictions`, `confidences`, `loss`, `probabilities` (N, K) of
        several labels, and those of the metrics.
    """
    found = {'loss': float(columns['loss'].mean(dtype=np.float64))}
    for metric in parts.metrics(config, 'probabilities' in columns):
        if hasattr(metric.part, 'summary'):
            given = metric.part.summary(columns, *parts.options_argument(metric))
            parts.check_summary(metric, given)
            found |= given
        else:
            found |= {name: float(columns[name].mean(dtype=np.float64))
                      for name in metric.part.METRICS}
    return found | {'examples': len(columns['labels'])}


def labelled(columns: Columns) -> np.ndarray:
    """Returns bool (N,): which images have a label, all where each has one."""
    labels = columns['labels']
    return labels.any(axis=1) if labels.ndim == 2 else np.ones(len(labels), bool)


def less_memory(config: Config) -> tuple[str, str]:
    """Returns what `backend.memory_for` says of an evaluation."""
    return 'evaluation', f'lower config.eval_batch_size ({config.eval_batch_size})'


def global_batch_size(batch_size: int, mesh) -> int:
    """Returns the batch size, rounded up to what the devices can share; the rest is masked."""
    parts = sharding.batch_parts(mesh)
    return -(-batch_size // parts) * parts


def run(eval_step, state, hparams: dict, batches, count: int, mesh, *, title: str,
        beat=lambda: None) -> Columns | None:
    """Evaluates a state.

    Args:
      eval_step: as jit_eval_step returns it.
      state: TrainState on the mesh.
      hparams: arrays on the mesh.
      batches: iterable of data.pipeline.eval_batches, host arrays.
      count: how many batches there are.
      mesh: where it runs.
      title: what the progress bar calls it.
      beat: called once a batch.

    Returns None when the run was asked to stop meanwhile.
    """
    fetched, ahead = [], None
    with terminal.progress(count, 0, 'batch') as bar:
        bar.set_description(title)
        for batch in batches:
            if stop.preempted():
                return None
            outputs = eval_step(state, sharding.to_device(
                {name: batch[name] for name in ('image', 'label', 'mask')},
                sharding.batch_sharding(mesh)), hparams)
            if ahead is not None:  # fetched when the next batch is under way
                fetched.append(_fetched(ahead))
            ahead = outputs
            bar.update()
            beat()
    fetched.append(_fetched(ahead))
    return {name: np.concatenate([columns[name] for columns in fetched]) for name in fetched[0]}


def split(setup, state, source: Source, title: str) -> Columns | None:
    """Evaluates a state on a split, read as config.data of the run says.

    Args:
      setup: build.Setup.
      state: TrainState on its mesh.
      source: whose classes are those of the run.
      title: what the progress bar calls it.

    Raises:
      ConfigError: the model does not take images of the size that the config says.
      OutOfMemoryError: the batches are too large.
    """
    options, size = setup.config.data, setup.dataset.image_shape[0]
    if not options.image_size and pipeline.native_size(source, options) != size:
        options = whole_images(options, size)
    batches = pipeline.eval_batches(
        source, options, size,
        batch_size=global_batch_size(setup.config.eval_batch_size, setup.mesh),
        process=sharding.rows_here(setup.mesh))
    with (watchdog.watchdog(setup.config.watchdog_seconds) as beat,
          backend.memory_for(*less_memory(setup.config))):
        try:
            return run(jit_eval_step(setup.eval_step, setup.shardings, setup.mesh), state,
                       hparams_on(setup), pipeline.iterate(batches, options.workers),
                       len(batches), setup.mesh, title=title, beat=beat)
        except (flax.errors.ScopeParamShapeError, TypeError) as error:
            raise ConfigError(
                f'config.data.image_size: {setup.config.model.name} as it was trained does '
                f'not take images of {size}x{size} ({str(error).splitlines()[0][:150]})') from None


def whole_images(options: dict, size: int) -> dict:
    """Returns config.data of a set of images of one size, with which others are brought to it."""
    return options | {'image_size': size, 'eval_crop_fraction': 1.0}


def hparams_on(setup) -> dict:
    """Returns the hparams of a run as arrays on its mesh."""
    return sharding.place(state_lib.hparams_of(setup.config), sharding.replicated(setup.mesh))


def _fetched(outputs: dict) -> Columns:
    outputs = jax.device_get(outputs)
    return {name: column[outputs['mask']] for name, column in outputs.items() if name != 'mask'}


def jit_eval_step(eval_step, state_shardings, mesh):
    """Compiles an eval step: examples over the devices, results on each of them."""
    whole = sharding.replicated(mesh)
    return jax.jit(eval_step, out_shardings=whole, compiler_options=backend.compiler_options(),
                   in_shardings=(state_shardings, sharding.batch_sharding(mesh), whole))
