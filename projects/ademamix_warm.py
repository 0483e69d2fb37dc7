"""AdEMAMix whose slow mean of the gradient comes in little by little.

Pagliardini et al., `The AdEMAMix Optimizer <https://arxiv.org/abs/2409.03137>`_, 2024, section 3:
AdamW's update with alpha times a second, much slower mean of the gradient, where alpha rises
linearly over the first steps, as a large one from the start makes training diverge. Optax has the
optimizer with a constant alpha (`ademamix`); this file adds the warm-up.

    python -m launch.train --config=configs/digits.py \\
        --config.optimizer.name=projects.ademamix_warm --config.hparams.alpha_warmup_steps=1500 \\
        --workdir=runs/ademamix_warm
"""

import jax.numpy as jnp
import optax

from imgjax.config import Field
from imgjax.optimizers.parts import adam

HPARAMS = adam.HPARAMS | {
    'b3': Field(float, 0, 1, default=0.999, help='decay of the slow mean of the gradient'),
    'alpha': Field(float, 0, default=5.0, help='factor of the slow mean after its warm-up'),
    'alpha_warmup_steps': Field(float, 0, default=1000.0, help='steps in which alpha rises from 0'),
}


def transform(options, hparams, learning_rate, decay_mask):
    def alpha(step):
        return hparams['alpha'] * jnp.minimum(
            1.0, step / jnp.maximum(hparams['alpha_warmup_steps'], 1.0))

    return optax.contrib.ademamix(
        learning_rate, hparams['b1'], hparams['b2'], hparams['b3'], alpha, hparams['eps'],
        weight_decay=hparams['weight_decay'], mask=decay_mask)
