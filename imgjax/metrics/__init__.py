"""Metrics: what an evaluation measures, one file each.

A metric is a file of this folder, or of the user's `projects/` folder, with

    METRICS = {'accuracy': Metric(percent=True)}   the values that it computes, by name

    def per_example(logits_NK, targets_NK, out, hparams) -> dict[str, Array]
        returns columns, arrays (N, ...) with an entry per image, and runs on the device; logits are
        float32 (N, K); targets are float32 (N, K), 1 for a label of the image; out has the named
        intermediates of the model
    def summary(columns) -> dict[str, float]
        returns the values. It is given NumPy columns over all images of the split: the columns of
        every metric, and `labels`, `predictions`, `confidences`, `loss` and, if images have several
        labels, `probabilities`. Without this function, a value is the mean of the column of the
        same name

    HPARAMS, OPTIONS   declared as for an objective (imgjax/objectives); if there are OPTIONS, both
                       functions take the options of the metric as their last argument

`accuracy` is always computed, and so is `mean_average_precision` if images have several labels;
config.metrics adds others: (('projects.margin', {}),).
"""

from typing import NamedTuple

import numpy as np

# Names in a row of metrics.jsonl besides those of measures and metrics, which may not have them.
RESERVED = ('step', 'split', 'examples', 'count', 'grad_norm', 'learning_rate', 'perf',
            'skipped_updates', 'skipped', 'skipped_in_a_row', 'skipped_at')


class Metric(NamedTuple):
    """How a value of a metric is compared and shown.

    Attributes:
      higher_is_better: whether a higher value is better; if not, a lower one is.
      percent: whether the value is a share, in [0, 1], that is shown in percent.
    """

    higher_is_better: bool = True
    percent: bool = False


def labelled(labels: np.ndarray) -> np.ndarray:
    """Returns bool (N,): whether an image has a label; all True if every image has one label.

    Args:
      labels: the column `labels`: (N,), or (N, K) of 0 and 1 if images have several labels.
    """
    return np.asarray(labels.any(axis=1)) if labels.ndim == 2 else np.ones(len(labels), bool)
