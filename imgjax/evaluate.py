"""Evaluation: computes every example of a split exactly once, with any batch size and mesh."""

import flax
import jax
import numpy as np

from imgjax import parts, sharding
from imgjax import state as state_lib
from imgjax.config import Config
from imgjax.data import Source, pipeline
from imgjax.errors import ConfigError, first_line
from imgjax.feed import decoding, fits
from imgjax.process import backend, cache, stop, terminal, watchdog

Columns = dict[str, np.ndarray]


def summary(config: Config, columns: Columns) -> dict[str, float]:
    """Returns the numbers of an evaluation: `loss`, the numbers of every metric, and `examples`.

    Means are computed in float64, so that they do not depend on the batch size.

    Args:
      config: the frozen Config of the run.
      columns: arrays over all N images of the split, in the order of the split: `labels` (N,), or
        (N, K) of 0 and 1 if images have several labels; `predictions`, `confidences` and `loss`
        (N,); `probabilities` (N, K) if images have several labels; and the columns of the metrics.
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


def less_memory(config: Config) -> tuple[str, str]:
    """Returns the arguments of `backend.memory_for` for an evaluation."""
    return 'evaluation', f'lower config.eval_batch_size ({config.eval_batch_size})'


def global_batch_size(batch_size: int, mesh) -> int:
    """Returns the batch size, rounded up so that the devices share it; added rows are masked."""
    shares = sharding.batch_parts(mesh)
    return -(-batch_size // shares) * shares


def run(eval_step, state, hparams: dict, batches, count: int, mesh, *, title: str,
        beat=lambda: None) -> Columns | None:
    """Evaluates a state on all batches of a split.

    Args:
      eval_step: as jit_eval_step returns it.
      state: TrainState on the mesh.
      hparams: arrays on the mesh.
      batches: an iterable over data.pipeline.eval_batches, with arrays on the host.
      count: the number of batches.
      mesh: the mesh of the devices.
      title: the description of the progress bar.
      beat: called once per batch.

    Returns the columns over all images, as `summary` takes them, or None if the run was asked to
    stop before the last batch.
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
            if ahead is not None:  # fetched after the next batch is dispatched
                fetched.append(_fetched(ahead))
            ahead = outputs
            bar.update()
            beat()
    fetched.append(_fetched(ahead))
    return {name: np.concatenate([columns[name] for columns in fetched]) for name in fetched[0]}


def split(setup, state, source: Source, title: str, eval_step=None) -> Columns | None:
    """Evaluates a state on a split, whose images are read as config.data of the run says.

    Args:
      setup: build.Setup of the run.
      state: TrainState on the mesh of the run.
      source: the split, with the classes of the run.
      title: the description of the progress bar.
      eval_step: another step than setup.eval_step, as `jit_eval_step` returns it.

    Returns the columns, as `run` does.

    Raises:
      ConfigError: the model does not take images of the size in the config.
      OutOfMemoryError: the batches are too large for the memory.
    """
    batches = _batches(setup, source)
    eval_step = eval_step or jit_eval_step(setup.eval_step, setup.shardings, setup.mesh)
    with (watchdog.watchdog(setup.config.watchdog_seconds) as beat,
          backend.memory_for(*less_memory(setup.config))):
        try:
            return run(eval_step, state, hparams_on(setup),
                       pipeline.iterate(batches, setup.config.data.workers), len(batches),
                       setup.mesh, title=title, beat=beat)
        except (flax.errors.ScopeParamShapeError, TypeError) as error:
            size = setup.dataset.image_shape[0]
            raise ConfigError(
                f'config.data.image_size: the trained {setup.config.model.name} does '
                f'not take images of {size}x{size} ({first_line(error, 150)})') from None


def reading(setup, source: Source) -> dict:
    """Returns config.data for a split; images of another size than the run's are not cropped."""
    options, size = setup.config.data, setup.dataset.image_shape[0]
    if not options.image_size and pipeline.native_size(source, options) != size:
        return whole_images(options, size)
    return options


def _batches(setup, source: Source):
    return pipeline.eval_batches(
        source, reading(setup, source), setup.dataset.image_shape[0],
        batch_size=global_batch_size(setup.config.eval_batch_size, setup.mesh),
        process=sharding.rows_here(setup.mesh))


def evaluator(setup, source: Source, beat):
    """Returns evaluate(state, step, own) -> Columns, or None if the run was asked to stop.

    A set that fits is decoded once, and the step is compiled once. `own` is the Setup of the member
    whose state is evaluated: the members of a population share `setup` except for their hparams.

    Args:
      setup: build.Setup of the run.
      source: the split to evaluate on.
      beat: called once per batch.
    """
    options = setup.config.data
    batches = _batches(setup, source)
    count = len(batches)
    if fits(setup, source):
        stream = batches
        batches = cache.once(
            setup.cache, 'eval set', cache.data(setup.config, setup.dataset, setup.mesh),
            lambda: list(decoding(pipeline.iterate(stream, 0), count, 'batch', beat)))
    eval_step = cache.once(setup.cache, 'eval step', setup.key, lambda: jit_eval_step(
        setup.eval_step, setup.shardings, setup.mesh))

    def run_evaluation(state, step: int, own):
        items = batches if isinstance(batches, list) else pipeline.iterate(
            batches, options.workers)
        with backend.memory_for(*less_memory(setup.config)):
            return run(eval_step, state, hparams_on(own), items, count, setup.mesh,
                       title=f'{options.eval_split} at step {step}', beat=beat)

    return run_evaluation


def whole_images(options: dict, size: int) -> dict:
    """Returns config.data with which images of any size are resized to `size` and not cropped."""
    return options | {'image_size': size, 'eval_crop_fraction': 1.0}


def hparams_on(setup) -> dict:
    """Returns the hparams of a run as arrays on its mesh."""
    return sharding.place(state_lib.hparams_of(setup.config), sharding.replicated(setup.mesh))


def _fetched(outputs: dict) -> Columns:
    outputs = jax.device_get(outputs)
    return {name: column[outputs['mask']] for name, column in outputs.items() if name != 'mask'}


def jit_eval_step(eval_step, state_shardings, mesh):
    """Compiles an eval step that shards the batch over the devices and replicates its results."""
    whole = sharding.replicated(mesh)
    return jax.jit(eval_step, out_shardings=whole, compiler_options=backend.compiler_options(),
                   in_shardings=(state_shardings, sharding.batch_sharding(mesh), whole))
