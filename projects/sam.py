"""Sharpness-aware minimisation: the gradient where the loss nearby is highest.

Foret et al., `Sharpness-Aware Minimization <https://arxiv.org/abs/2010.01412>`_, 2021: the gradient
is taken at w + e(w), where e(w) = rho * g / |g| and g is the gradient at w (equations 2 and 3, with
p = 2); a step costs twice as much. Loss, measures and batch statistics are those at w. The loss
is that of `softmax`; with rho 0 the objective is `softmax`.

    python -m launch.train --config=configs/digits.py --config.objective.name=projects.sam \\
        --config.hparams.rho=0.05 --workdir=runs/sam
"""

import jax
import jax.numpy as jnp
import optax

from imgjax.config import Field
from imgjax.objectives import softmax

HPARAMS = softmax.HPARAMS | {'rho': Field(
    float, 0, default=0.05, help='distance in the parameters at which the gradient is taken')}
MEASURES = softmax.MEASURES

loss = softmax.loss
evaluate = softmax.evaluate


def gradient(value_and_grad, params, hparams):
    found, grads = value_and_grad(params)
    scale = hparams['rho'] / jnp.maximum(optax.tree.norm(grads), 1e-12)
    _, grads = value_and_grad(jax.tree.map(lambda w, g: w + scale * g, params, grads))
    return found, grads
