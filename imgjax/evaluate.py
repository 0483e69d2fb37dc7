"""Evaluation: every example of a split exactly once, for any batch size and device count."""

from typing import NamedTuple

import flax
import jax
import numpy as np

from imgjax import sharding
from imgjax.data import Source, pipeline
from imgjax.errors import ConfigError
from imgjax.process import backend, stop, terminal, watchdog


class Results(NamedTuple):
    """Per-example results in the order of the split, on the host, each of shape (N,).

    Of images with several labels, `labels` is (N, K) of 0 and 1 and `probabilities` (N, K);
    otherwise `labels` is (N,) and there are none.
    """

    labels: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray
    losses: np.ndarray
    hits: np.ndarray
    top5: np.ndarray
    probabilities: np.ndarray | None = None

    def summary(self) -> dict:
        """Returns the means, summed in float64 so that no batch size changes them.

        Where images have several labels, or none, accuracy is how often the likeliest class is one
        of them, over the images that have any.
        """
        labelled = self.labelled()
        means = {'loss': float(self.losses.mean(dtype=np.float64)),
                 'accuracy': float(self.hits[labelled].mean(dtype=np.float64)),
                 'top5_accuracy': float(self.top5[labelled].mean(dtype=np.float64)),
                 'examples': len(self.labels)}
        if self.probabilities is not None:
            means['mean_average_precision'] = mean_average_precision(
                self.labels, self.probabilities)
        return means

    def labelled(self) -> np.ndarray:
        """Returns bool (N,): which images have a label, all where each has one."""
        several = self.probabilities is not None
        return self.labels.any(axis=1) if several else np.ones(len(self.labels), bool)


def average_precisions(labels_NK: np.ndarray, probabilities_NK: np.ndarray) -> np.ndarray:
    """Returns the average precision of each class, float64 (K,); NaN of one without positives.

    The area under the precision-recall steps, without interpolation (scikit-learn's definition).
    """
    from sklearn.metrics import average_precision_score  # takes seconds to import

    return np.array([
        average_precision_score(label_N, score_N) if label_N.any() else np.nan
        for label_N, score_N in zip(labels_NK.T > 0, probabilities_NK.T, strict=True)])


def mean_average_precision(labels_NK: np.ndarray, probabilities_NK: np.ndarray) -> float | None:
    """Returns the mean over the classes that have positives; None if the scores are not finite."""
    if not np.isfinite(probabilities_NK).all():
        return None
    return float(np.nanmean(average_precisions(labels_NK, probabilities_NK)))


def less_memory(config: dict) -> tuple[str, str]:
    """Returns what `backend.memory_for` says of an evaluation."""
    return 'evaluation', f'lower config.eval_batch_size ({config["eval_batch_size"]})'


def global_batch_size(batch_size: int, mesh) -> int:
    """Returns the batch size, rounded up to what the devices can share; the rest is masked."""
    parts = sharding.batch_parts(mesh)
    return -(-batch_size // parts) * parts


def run(eval_step, state, batches, count: int, mesh, *, title: str,
        beat=lambda: None) -> Results | None:
    """Evaluates a state.

    Args:
      eval_step: as jit_eval_step returns it.
      state: TrainState on the mesh.
      batches: iterable of data.pipeline.eval_batches, host arrays.
      count: how many batches there are.
      mesh: where it runs.
      title: what the progress bar calls it.
      beat: called once a batch.

    Returns None when the run was asked to stop meanwhile.
    """
    parts, ahead = [], None
    with terminal.progress(count, 0, 'batch') as bar:
        bar.set_description(title)
        for batch in batches:
            if stop.preempted():
                return None
            outputs = eval_step(state, sharding.to_device(
                {name: batch[name] for name in ('image', 'label', 'mask')},
                sharding.batch_sharding(mesh)))
            if ahead is not None:  # fetched when the next batch is under way
                parts.append(_fetched(ahead))
            ahead = outputs
            bar.update()
            beat()
    parts.append(_fetched(ahead))
    return Results(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def split(setup, state, source: Source, title: str) -> Results | None:
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
    options, size = setup.config['data'], setup.dataset.image_shape[0]
    if not options['image_size'] and pipeline.native_size(source, options) != size:
        options = whole_images(options, size)
    batches = pipeline.eval_batches(
        source, options, size,
        batch_size=global_batch_size(setup.config['eval_batch_size'], setup.mesh),
        process=sharding.rows_here(setup.mesh))
    with (watchdog.watchdog(setup.config['watchdog_seconds']) as beat,
          backend.memory_for(*less_memory(setup.config))):
        try:
            return run(jit_eval_step(setup.eval_step, setup.shardings, setup.mesh), state,
                       pipeline.iterate(batches, options['workers']), len(batches), setup.mesh,
                       title=title, beat=beat)
        except (flax.errors.ScopeParamShapeError, TypeError) as error:
            raise ConfigError(
                f'config.data.image_size: {setup.config["model"]["name"]} as it was trained does '
                f'not take images of {size}x{size} ({str(error).splitlines()[0][:150]})') from None


def whole_images(options: dict, size: int) -> dict:
    """Returns config.data of a set of images of one size, with which others are brought to it."""
    return options | {'image_size': size, 'eval_crop_fraction': 1.0}


def _fetched(outputs: dict) -> tuple:
    outputs = jax.device_get(outputs)
    names = ('label', 'prediction', 'confidence', 'loss', 'hit', 'top5', 'probability')
    return tuple(outputs[name][outputs['mask']] for name in names if name in outputs)


def jit_eval_step(eval_step, state_shardings, mesh):
    """Compiles an eval step: examples over the devices, results on each of them."""
    return jax.jit(eval_step, in_shardings=(state_shardings, sharding.batch_sharding(mesh)),
                   out_shardings=sharding.replicated(mesh),
                   compiler_options=backend.compiler_options())
