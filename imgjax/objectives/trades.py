"""TRADES: the cross-entropy of the images, and a penalty where attacked images are answered else.

Zhang et al., `Theoretically principled trade-off between robustness and accuracy
<https://arxiv.org/abs/1901.08573>`_, 2019, equation 5: beta times the Kullback-Leibler divergence
of the answer to the attacked image from that to the image, which the attack raises from a start
near the image. The attack sees the model as an evaluation does (running statistics of BatchNorm, no
dropout), as in the authors' code. Images and attacked images then go through the model as one
batch, so that BatchNorm takes the statistics of both; there they go one after the other.
"""

import jax
import jax.numpy as jnp

from imgjax.config import Field
from imgjax.objectives import Inputs, Loss
from imgjax.objectives.parts import adversarial, classification

HPARAMS = classification.HPARAMS | adversarial.HPARAMS | {
    'beta': Field(float, 0, default=6.0, help='factor of the penalty for attacked images that '
        'are answered differently')}
OPTIONS = adversarial.OPTIONS
MEASURES = ('accuracy', 'adversarial_accuracy')  # of the images, and of those that were attacked
START = 0.255  # levels, the standard deviation of the start, 0.001 of the range in the paper


def loss(params, inputs: Inputs) -> Loss:
    images_NHWC = inputs.batch['image'][:, 0]
    clean_NK = jax.lax.stop_gradient(adversarial.logits_of(
        params, inputs, adversarial.to_pixels(inputs, images_NHWC)))

    def start(keys_N, pixels_NHWC):
        normal_NHWC = jax.vmap(lambda key: jax.random.normal(key, pixels_NHWC.shape[1:]))(keys_N)
        return pixels_NHWC + START * normal_NHWC

    attacked_NHWC = adversarial.attacked(
        params, inputs, start, lambda logits_NK: divergence(clean_NK, logits_NK))
    both_NVHWC = jnp.stack([images_NHWC, attacked_NHWC], axis=1)
    found = classification.loss(
        params, inputs._replace(batch=inputs.batch | {'image': both_NVHWC}),
        classification.softmax,
        lambda logits_NVK: inputs.hparams['beta'] * divergence(logits_NVK[:, 0], logits_NVK[:, 1]))
    return found._replace(measures=found.measures | {
        'adversarial_accuracy': adversarial.hits_of(params, inputs, attacked_NHWC)})


def evaluate(logits_NK, targets_NK, hparams, options):
    return classification.softmax(logits_NK, targets_NK)


def divergence(logits_NK: jax.Array, others_NK: jax.Array) -> jax.Array:
    """Returns the Kullback-Leibler divergence of answers from others, in nats, float32 (N,).

    It is the sum over the classes of p log(p / q), p and q being softmax distributions.

    >>> divergence(jnp.array([[0.0, 1.0]]), jnp.array([[0.0, 1.0]]))
    Array([0.], dtype=float32)

    Args:
      logits_NK: logits of p, which are cast to float32.
      others_NK: logits of q, likewise.
    """
    log_NK, other_log_NK = (jax.nn.log_softmax(x_NK.astype(jnp.float32))
                            for x_NK in (logits_NK, others_NK))
    return (jnp.exp(log_NK) * (log_NK - other_log_NK)).sum(axis=-1)
