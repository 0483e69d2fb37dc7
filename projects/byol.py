"""Bootstrap Your Own Latent: a network learns to predict what its own past says of another view.

Grill et al., `Bootstrap your own latent <https://arxiv.org/abs/2006.07733>`_, 2020. Two augmented
views of an image go through the online network (encoder, projector, predictor) and through the
target network, whose parameters are an exponential mean of the online ones. The loss is that of
equation 2, in both directions (the symmetric loss below it); the mean is that of equation 1, with
a constant decay where the paper's rises to 1. No label plays a part in it: a linear classifier
beside it learns on features whose gradient is stopped, so that accuracy is that of linear
evaluation, online.

    python -m launch.train --config=configs/digits.py --config.model.name=projects.byol \\
        --config.objective.name=projects.byol --config.hparams.target_momentum=0.99 \\
        --workdir=runs/byol
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax import models
from imgjax.config import Field
from imgjax.models.parts import layers
from imgjax.objectives import Inputs, Loss
from imgjax.objectives.parts import classification

HPARAMS = {'target_momentum': Field(
    float, 0, 1, default=0.99, help='share of the target network that a step keeps')}
MEASURES = ('accuracy', 'byol_loss')
VIEWS = 2
VARIANTS = {'byol': {}}


class Model(nn.Module):
    """Any family as the encoder, a projector, a predictor, and a linear classifier beside them.

    Attributes:
      num_classes: K of the classifier, or 0 for the features.
      encoder: name of a family or variant, with its own default options.
      hidden: width inside of projector and predictor.
      projection: width of what they give.
      norm: inside of both, see ``layers.norm``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    encoder: str = 'mlp'
    hidden: int = 256
    projection: int = 64
    norm: str = 'batch'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC, *, train: bool):
        """float (N, H, W, C) -> float32 logits (N, K); out has projection and prediction, too."""
        dtype = layers.compute_dtype(self.dtype)
        encoder = models.create(self.encoder, num_classes=0, dtype=self.dtype)
        features_NF, out = encoder.copy(name='encoder')(image_NHWC, train=train)

        def mlp(x_NF, name):
            x_NF = layers.Dense(self.hidden, dtype=dtype, name=f'{name}1')(x_NF)
            x_NF = layers.norm(self.norm, train=train, dtype=dtype)(name=f'{name}_norm')(x_NF)
            return layers.Dense(self.projection, dtype=dtype, name=f'{name}2')(nn.relu(x_NF))

        out['projection'] = mlp(features_NF, 'projector')
        out['prediction'] = mlp(out['projection'], 'predictor')
        out['logits'] = layers.head(jax.lax.stop_gradient(features_NF), self.num_classes)
        return out['logits'], out


def init(params, batch_stats, key, options):
    return params  # the target network begins as the online one


def loss(params, inputs: Inputs) -> Loss:
    images_NVHWC, targets_NK = inputs.batch['image'], inputs.batch['target']
    images_MHWC = images_NVHWC.reshape(-1, *images_NVHWC.shape[2:])  # M = 2N, views in turns
    (logits_MK, online), batch_stats = inputs.apply(params, images_MHWC)
    (_, target), _ = inputs.apply(inputs.extra, images_MHWC)
    byol_N = sum(distance(by_view(online['prediction'])[:, view],
                          by_view(target['projection'])[:, 1 - view]) for view in (0, 1))
    classifier_N = sum(classification.softmax(by_view(logits_MK)[:, view], targets_NK)
                       for view in (0, 1)) / 2
    measures = {'accuracy': classification.is_hit(logits_MK[::2], targets_NK), 'byol_loss': byol_N}
    return Loss(byol_N + classifier_N, measures, batch_stats, inputs.extra)


def after(extra, params, batch_stats, hparams):
    keep = hparams['target_momentum']
    return jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, extra, params)


def by_view(x_MF: jax.Array) -> jax.Array:
    return x_MF.reshape(-1, 2, x_MF.shape[-1])


def distance(prediction_NF: jax.Array, target_NF: jax.Array) -> jax.Array:
    """Returns the squared distance of both at length 1, 2 - 2 cos, float32 (N,)."""
    prediction_NF, target_NF = (
        x_NF / jnp.maximum(jnp.linalg.norm(x_NF, axis=-1, keepdims=True), 1e-6)
        for x_NF in (prediction_NF.astype(jnp.float32), target_NF.astype(jnp.float32)))
    return 2 - 2 * (prediction_NF * target_NF).sum(-1)
