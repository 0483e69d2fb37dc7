"""Losses of a classifier that is trained on labels, and what they share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from imgjax.config import Field
from imgjax.objectives import Inputs, Loss

HPARAMS = {
    'label_smoothing': Field(
        float, 0, 1, default=0.0, help='this share of the target is spread evenly over the classes'
        ' (Szegedy et al., https://arxiv.org/abs/1512.00567)'),
    'class_weights': Field(
        tuple, 0, default=(), help='a factor per class for its term of the loss, as (0.5, 2.0); () '
        "gives all classes the same factor, ('balanced',) factors inverse to their frequency, with "
        'mean 1 over the labels'),
}
MEASURES = ('accuracy',)


def loss(params, inputs: Inputs, losses: Callable, penalty: Callable | None = None) -> Loss:
    """Returns the loss of a classifier on the labels of a batch.

    Where a model has two classifiers (`out['logits_dist']`, a distilled DeiT), both are trained on
    the labels and the loss is the mean of their losses: equation 3 of Touvron et al. 2020
    (arXiv:2012.12877) without a teacher.

    Args:
      params: the parameters of the model.
      inputs: as an objective's `loss` gets them; all views of an image go through the model, and
        the labels' loss is that of the first view.
      losses: (logits_NK, targets_NK, weights_1K) -> losses_N; the targets are smoothed already.
      penalty: logits_NVK -> a penalty for each example, float32 (N,), which is added; None adds
        nothing.
    """
    batch = inputs.batch
    views = batch['image'].shape[1]
    images_NHWC = batch['image'].reshape(-1, *batch['image'].shape[2:])
    (logits, out), batch_stats = inputs.apply(params, images_NHWC)

    def of_head(logits):
        logits_NVK = logits.reshape(-1, views, logits.shape[-1])
        found_N = losses(
            logits_NVK[:, 0].astype(jnp.float32),
            optax.smooth_labels(batch['target'].astype(jnp.float32),
                                inputs.hparams['label_smoothing']),
            class_weights(inputs.hparams))
        return found_N if penalty is None else found_N + penalty(logits_NVK)

    losses_N = of_head(logits)
    if 'logits_dist' in out:  # the mean of both, as the evaluation takes the mean
        losses_N = (losses_N + of_head(out['logits_dist'])) / 2
        logits = (logits + out['logits_dist']) / 2
    measures = {'accuracy': is_hit(logits[::views], batch['target'])}
    return Loss(losses_N, measures, batch_stats, inputs.extra)


def class_weights(hparams: dict) -> jax.Array | float:
    """Returns float32 (1, K), the factor of each class, or 1.0 if all have the same weight."""
    weights_K = hparams['class_weights']
    return weights_K[None, :] if weights_K.shape[0] else 1.0


def is_hit(logits_NK: jax.Array, targets_NK: jax.Array) -> jax.Array:
    """Returns float32 (N,): 1 where the class of the highest logit has the highest target, else 0.

    For an image with several labels each label counts as right; an image without a label always
    has 0.

    >>> import jax.numpy as jnp
    >>> from imgjax.objectives.parts import classification
    >>> logits_NK = jnp.array([[2.0, 0.0], [1.0, 0.0]])
    >>> classification.is_hit(logits_NK, jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    Array([1., 0.], dtype=float32)
    """
    predicted_N1 = jnp.argmax(logits_NK, -1, keepdims=True)
    own_N = jnp.take_along_axis(targets_NK, predicted_N1, axis=1)[:, 0]
    return ((own_N >= targets_NK.max(-1)) & (own_N > 0)).astype(jnp.float32)


def softmax(logits_NK: jax.Array, targets_NK: jax.Array, weights_1K=1.0) -> jax.Array:
    """Returns the cross-entropy of a softmax with soft targets, in nats, float32 (N,).

    >>> softmax(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]]))
    Array([0.6931472], dtype=float32)
    """
    return optax.softmax_cross_entropy(logits_NK, targets_NK * weights_1K)


def sigmoid(logits_NK: jax.Array, targets_NK: jax.Array, weights_1K=1.0) -> jax.Array:
    """Returns the binary cross-entropy of each class, summed over the classes, float32 (N,).

    >>> import jax.numpy as jnp
    >>> from imgjax.objectives.parts import classification
    >>> classification.sigmoid(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]])).round(3)
    Array([1.386], dtype=float32)
    """
    return (optax.sigmoid_binary_cross_entropy(logits_NK, targets_NK) * weights_1K).sum(axis=-1)
