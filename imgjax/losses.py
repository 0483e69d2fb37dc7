"""Losses: one number an example, from logits and target distributions."""

import jax
import jax.numpy as jnp
import optax

from imgjax.errors import unknown

NAMES = ('softmax', 'sigmoid', 'focal')


def per_example(name, logits_NK, targets_NK, *, label_smoothing=0.0, gamma=2.0,
                class_weights_K=None):
    """Returns the loss of every example; the mean over the batch is left to the caller.

    ``softmax``
        cross-entropy with soft targets.
    ``sigmoid``
        binary cross-entropy, summed over the classes (as big_vision does; timm takes the mean,
        so its learning rates are for a loss K times as small). Beyer et al., `Are we done with
        ImageNet? <https://arxiv.org/abs/2006.07159>`_, 2020.
    ``focal``
        the binary cross-entropy of each class times (1 - p)^gamma, where p is the probability
        given to the right answer, summed over the classes; with gamma 0 it is ``sigmoid``. Lin
        et al., `Focal Loss for Dense Object Detection <https://arxiv.org/abs/1708.02002>`_, 2017.

    >>> per_example('softmax', jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]]))
    Array([0.6931472], dtype=float32)

    Args:
      name: one of ``NAMES``.
      logits_NK: float32, bfloat16 or float16; computed in float32.
      targets_NK: float, a distribution over the classes in every row (``softmax``), or the
        probability of each class by itself (``sigmoid``, ``focal``), as of images with several
        labels.
      label_smoothing: scalar in [0, 1], traced or not: this much of the targets is spread evenly
        over the K classes. Szegedy et al., `Rethinking the Inception Architecture
        <https://arxiv.org/abs/1512.00567>`_, 2015.
      gamma: scalar >= 0, traced or not; read by ``focal`` only.
      class_weights_K: float32, a factor of each class's term of the loss (as PyTorch's `weight`),
        traced or not; None leaves them alike.

    Returns:
      loss_N, float32.

    Raises:
      ValueError: an unknown name.
    """
    if name not in NAMES:
        raise ValueError(unknown('loss', name, NAMES))
    logits_NK = logits_NK.astype(jnp.float32)
    targets_NK = optax.smooth_labels(
        targets_NK.astype(jnp.float32), jnp.asarray(label_smoothing, jnp.float32))
    weights_1K = 1.0 if class_weights_K is None else class_weights_K[None, :]
    if name == 'softmax':
        return optax.softmax_cross_entropy(logits_NK, targets_NK * weights_1K)
    if name == 'sigmoid':
        terms_NK = optax.sigmoid_binary_cross_entropy(logits_NK, targets_NK)
    else:
        gamma = jnp.asarray(gamma, jnp.float32)
        terms_NK = optax.losses.sigmoid_focal_loss(logits_NK, targets_NK, gamma=gamma)
    return (terms_NK * weights_1K).sum(axis=-1)


def agreement(logits_NVK):
    """Returns how far the views of each image are from saying the same, 0 where they agree.

    The Jensen-Shannon divergence of V softmax distributions: the mean of their Kullback-Leibler
    divergences from their own mean, in nats, between 0 and log V. Hendrycks et al., `AugMix
    <https://arxiv.org/abs/1912.02781>`_, 2020, equation 2.

    >>> agreement(jnp.array([[[0.0, 1.0], [0.0, 1.0]]]))
    Array([0.], dtype=float32)

    Args:
      logits_NVK: V views of N images; computed in float32.

    Returns:
      divergence_N, float32.
    """
    log_NVK = jax.nn.log_softmax(logits_NVK.astype(jnp.float32))
    log_mean_N1K = jax.nn.logsumexp(log_NVK, axis=1, keepdims=True) - jnp.log(
        jnp.float32(log_NVK.shape[1]))
    return (jnp.exp(log_NVK) * (log_NVK - log_mean_N1K)).sum(axis=-1).mean(axis=-1)
