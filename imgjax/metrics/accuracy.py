"""How often the likeliest class is a label, and how often a label is among the five likeliest.

Of images with several labels each of them counts, and an image without any label counts in neither.
"""

import jax.numpy as jnp
import numpy as np

from imgjax.metrics import Metric
from imgjax.objectives.parts.classification import is_hit

METRICS = {'accuracy': Metric(percent=True), 'top5_accuracy': Metric(percent=True)}


def per_example(logits_NK, targets_NK, out, hparams):
    # The best placed of the labels decides; an image without one is never right.
    own_N1 = jnp.where(targets_NK > 0, logits_NK, -jnp.inf).max(-1, keepdims=True)
    return {'accuracy': is_hit(logits_NK, targets_NK) > 0,
            'top5_accuracy': ((logits_NK > own_N1).sum(-1) < 5) & jnp.isfinite(own_N1[:, 0])}


def summary(columns):
    labels = columns['labels']
    labelled = labels.any(axis=1) if labels.ndim == 2 else np.ones(len(labels), bool)
    return {name: float(columns[name][labelled].mean(dtype=np.float64)) for name in METRICS}
