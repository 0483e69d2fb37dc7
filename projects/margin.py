"""How far the label's logit lies above the best of the others, and how long the features are.

The margin is that of multi-class learning: Crammer and Singer, `On the Algorithmic Implementation
of Multiclass Kernel-based Vector Machines <https://jmlr.org/papers/v2/crammer01a.html>`_, 2001,
section 2; it is below 0 where the answer is wrong. Both are means over the images of the split; an
image without a label, or with all labels, has no margin and is left out of that mean.

    python -m launch.train --config=configs/digits.py \\
        --config.metrics="(('projects.margin', {}),)" --config.best_metric=margin \\
        --workdir=runs/margin
"""

import jax.numpy as jnp
import numpy as np

from imgjax.metrics import Metric

METRICS = {'margin': Metric(), 'feature_norm': Metric(higher_is_better=False)}


def per_example(logits_NK, targets_NK, out, hparams):
    own_N = jnp.where(targets_NK > 0, logits_NK, -jnp.inf).max(-1)
    best_other_N = jnp.where(targets_NK > 0, -jnp.inf, logits_NK).max(-1)
    features_NF = out['pre_logits'].reshape(len(logits_NK), -1).astype(jnp.float32)
    return {'margin': own_N - best_other_N,
            'feature_norm': jnp.linalg.norm(features_NF, axis=-1)}


def summary(columns):
    finite_N = np.isfinite(columns['margin'])
    return {'margin': float(columns['margin'][finite_N].mean(dtype=np.float64)),
            'feature_norm': float(columns['feature_norm'].mean(dtype=np.float64))}
