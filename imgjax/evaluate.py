"""Evaluation: every example of a split exactly once, for any batch size and device count."""

from typing import NamedTuple

import jax
import numpy as np

from imgjax import metrics, runtime, sharding


class Results(NamedTuple):
    """Per-example results in the order of the split, on the host, each of shape (N,)."""

    labels: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray
    losses: np.ndarray
    top5: np.ndarray

    def summary(self) -> dict:
        """Returns the means, summed in float64 so that no batch size changes them."""
        return {'loss': float(self.losses.mean(dtype=np.float64)),
                'accuracy': float((self.labels == self.predictions).mean(dtype=np.float64)),
                'top5_accuracy': float(self.top5.mean(dtype=np.float64)),
                'examples': len(self.labels)}


def global_batch_size(batch_size: int, mesh) -> int:
    """Returns the batch size, rounded up to what the devices can share; the rest is masked."""
    return -(-batch_size // mesh.size) * mesh.size


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

    Returns None when the job was asked to stop meanwhile.
    """
    parts, ahead = [], None
    with metrics.progress(count, 0, 'batch') as bar:
        bar.set_description(title)
        for batch in batches:
            if runtime.preempted():
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


def _fetched(outputs: dict) -> tuple:
    outputs = jax.device_get(outputs)
    names = ('label', 'prediction', 'confidence', 'loss', 'top5')
    return tuple(outputs[name][outputs['mask']] for name in names)


def jit_eval_step(eval_step, state_shardings, mesh):
    """Compiles an eval step: examples over the devices, results on each of them."""
    return jax.jit(eval_step, in_shardings=(state_shardings, sharding.batch_sharding(mesh)),
                   out_shardings=sharding.replicated(mesh))
