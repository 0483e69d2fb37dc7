"""Top-1 and top-5 accuracy: the likeliest class, or one of the five likeliest, is a label.

If an image has several labels, any one of them is enough. Images without a label are left out of
both means.
"""

import jax.numpy as jnp
import numpy as np

from imgjax.metrics import Metric, labelled
from imgjax.objectives.parts.classification import is_hit

METRICS = {'accuracy': Metric(percent=True), 'top5_accuracy': Metric(percent=True)}


def per_example(logits_NK, targets_NK, out, hparams):
    # The label with the highest logit decides; an image without a label is never right.
    own_N1 = jnp.where(targets_NK > 0, logits_NK, -jnp.inf).max(-1, keepdims=True)
    return {'accuracy': is_hit(logits_NK, targets_NK) > 0,
            'top5_accuracy': ((logits_NK > own_N1).sum(-1) < 5) & jnp.isfinite(own_N1[:, 0])}


def summary(columns):
    known = labelled(columns['labels'])
    return {name: float(columns[name][known].mean(dtype=np.float64)) for name in METRICS}
