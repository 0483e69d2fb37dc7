"""Metrics: what an evaluation measures, one file each.

A metric is a file of this folder, or of the user's `projects/` folder, with

    METRICS = {'accuracy': Metric(percent=True)}   the numbers it gives, by name

    def per_example(logits_NK, targets_NK, out, hparams) -> dict[str, Array]
        columns of an array for each image, computed on the device: logits float32 (N, K); targets
        float32 (N, K), 1 for a label of the image; out, the named intermediates of the model
    def summary(columns) -> dict[str, float]
        the numbers, from NumPy columns over all images of the split: those of every metric, and
        `labels`, `predictions`, `confidences`, `loss` and, of images with several labels,
        `probabilities`. Without it, a number is the mean of the column of its name.

    HPARAMS, OPTIONS   as of an objective (imgjax/objectives); with OPTIONS both functions take the
                       options of the metric as their last argument

`accuracy` is always measured, and `mean_average_precision` of images with several labels;
config.metrics adds others: (('projects.margin', {}),).
"""

from typing import NamedTuple

# What a row of metrics.jsonl has besides measures: no measure and no metric may have such a name.
RESERVED = ('step', 'split', 'examples', 'count', 'grad_norm', 'learning_rate', 'perf',
            'skipped_updates', 'skipped', 'skipped_in_a_row', 'skipped_at')


class Metric(NamedTuple):
    """How a number is compared and shown.

    Attributes:
      higher_is_better: else lower is.
      percent: whether it is a share, shown in percent.
    """

    higher_is_better: bool = True
    percent: bool = False
