"""Losses: one number an example, from logits and target distributions."""

import jax.numpy as jnp
import optax

from imgjax.errors import unknown

NAMES = ('softmax', 'sigmoid', 'focal')


def per_example(name, logits_NK, targets_NK, *, label_smoothing=0.0, gamma=2.0):
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
        probability of each class by itself (``sigmoid``, ``focal``).
      label_smoothing: scalar in [0, 1], traced or not: this much of the targets is spread evenly
        over the K classes. Szegedy et al., `Rethinking the Inception Architecture
        <https://arxiv.org/abs/1512.00567>`_, 2015.
      gamma: scalar >= 0, traced or not; read by ``focal`` only.

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
    if name == 'softmax':
        return optax.softmax_cross_entropy(logits_NK, targets_NK)
    if name == 'sigmoid':
        return optax.sigmoid_binary_cross_entropy(logits_NK, targets_NK).sum(axis=-1)
    gamma = jnp.asarray(gamma, jnp.float32)
    return optax.losses.sigmoid_focal_loss(logits_NK, targets_NK, gamma=gamma).sum(axis=-1)

