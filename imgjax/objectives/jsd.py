"""Cross-entropy, and a penalty where three views of an image, two of them by `augmix`, disagree.

The cross-entropy is computed on the first view, to which `augmix` is not applied. Hendrycks et al.,
`AugMix <https://arxiv.org/abs/1912.02781>`_, 2020, equations 1 and 2.
"""

import jax
import jax.numpy as jnp

from imgjax.config import Field
from imgjax.objectives import Inputs, Loss
from imgjax.objectives.parts import classification

HPARAMS = classification.HPARAMS | {
    'consistency_weight': Field(float, 0, default=12.0, help='factor of the penalty '
        'for views that disagree')}
MEASURES = classification.MEASURES
VIEWS = 3
VIEWS_DIFFER_IN = ('augmix',)


def loss(params, inputs: Inputs) -> Loss:
    weight = inputs.hparams['consistency_weight']
    return classification.loss(params, inputs, classification.softmax,
                               lambda logits_NVK: weight * jensen_shannon(logits_NVK))


def evaluate(logits_NK, targets_NK, hparams, options):
    return classification.softmax(logits_NK, targets_NK)


def jensen_shannon(logits_NVK: jax.Array) -> jax.Array:
    """Returns the Jensen-Shannon divergence between the views of each image, 0 where they agree.

    It is the mean of the Kullback-Leibler divergences of the V softmax distributions from their
    mean, in nats, between 0 and log V.

    >>> jensen_shannon(jnp.array([[[0.0, 1.0], [0.0, 1.0]]]))
    Array([0.], dtype=float32)

    Args:
      logits_NVK: logits of V views of N images; they are cast to float32.

    Returns:
      float32 (N,).
    """
    log_NVK = jax.nn.log_softmax(logits_NVK.astype(jnp.float32))
    log_mean_N1K = jax.nn.logsumexp(log_NVK, axis=1, keepdims=True) - jnp.log(
        jnp.float32(log_NVK.shape[1]))
    return (jnp.exp(log_NVK) * (log_NVK - log_mean_N1K)).sum(axis=-1).mean(axis=-1)
