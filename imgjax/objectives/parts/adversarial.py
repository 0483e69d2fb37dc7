"""The inner attack of adversarial training: images in a ball of pixels that raise a loss."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from imgjax.augment import keys
from imgjax.config import Field
from imgjax.evals import norm_balls
from imgjax.objectives import Inputs
from imgjax.objectives.parts import classification
from imgjax.process import backend

HPARAMS = {
    'epsilon': Field(float, 0, default=8.0, help='radius of the ball in which an image is '
        'attacked, in levels of a pixel (0 to 255)'),
    'step_size': Field(float, 0, default=2.0, help='length of a step of the attack, in levels'),
}
OPTIONS = {
    'steps': Field(int, 1, default=10, help='number of steps of the attack'),
    'norm': Field(str, default='linf', choices=norm_balls.NORMS, help='of the ball: the largest '
        'change of a pixel (linf), or the Euclidean length of all changes (l2)'),
}


def attacked(params, inputs: Inputs, start: Callable, loss: Callable) -> jax.Array:
    """Returns normalised images that raise a loss, float32 (N, H, W, C), without a gradient.

    The first view of each image is attacked, in pixels from 0 to 255. BatchNorm takes its running
    statistics and dropout is off, so that an image is attacked on its own.

    Args:
      params: the parameters of the model.
      inputs: as an objective's `loss` gets them; hparams `epsilon` and `step_size`, options `steps`
        and `norm`.
      start: (keys_N, pixels_NHWC) -> the pixels where the attack starts; it is projected.
      loss: (logits_NK) -> float32 (N,), which the attack raises.
    """
    epsilon, size = (jnp.float32(inputs.hparams[name]) for name in ('epsilon', 'step_size'))
    norm = inputs.options['norm']
    pixels_NHWC = jax.lax.stop_gradient(to_pixels(inputs, inputs.batch['image'][:, 0]))
    params = jax.lax.stop_gradient(params)

    def total(x_NHWC):
        return loss(logits_of(params, inputs, x_NHWC)).sum()

    def step(x_NHWC, _):
        moved_NHWC = x_NHWC + size * norm_balls.ascent(jax.grad(total)(x_NHWC), norm)
        return norm_balls.project(moved_NHWC, pixels_NHWC, epsilon, norm, 255.0), None

    keys_N = keys.example_keys(inputs.key, len(pixels_NHWC))
    x_NHWC = norm_balls.project(start(keys_N, pixels_NHWC), pixels_NHWC, epsilon, norm, 255.0)
    x_NHWC, _ = jax.lax.scan(
        step, x_NHWC, None, length=inputs.options['steps'],
        # XLA's CPU backend runs a convolution inside a loop 8 to 18 times slower.
        unroll=backend.platform() == 'cpu')
    return jax.lax.stop_gradient(normalized(inputs, x_NHWC))


def logits_of(params, inputs: Inputs, pixels_NHWC: jax.Array) -> jax.Array:
    """Returns the logits as in an evaluation, float32 (N, K), for pixels in 0 to 255."""
    (logits_NK, _), _ = inputs.apply(params, normalized(inputs, pixels_NHWC), train=False)
    return logits_NK.astype(jnp.float32)


def hits_of(params, inputs: Inputs, images_NHWC: jax.Array) -> jax.Array:
    """Returns whether the answers as in an evaluation are right, float32 (N,) of 0 and 1."""
    (logits_NK, _), _ = inputs.apply(jax.lax.stop_gradient(params), images_NHWC, train=False)
    return classification.is_hit(logits_NK, inputs.batch['target'])


def to_pixels(inputs: Inputs, images_NHWC: jax.Array) -> jax.Array:
    """Returns normalised images as pixels in 0 to 255."""
    return images_NHWC * inputs.std[None, None, None] + inputs.mean[None, None, None]


def normalized(inputs: Inputs, pixels_NHWC: jax.Array) -> jax.Array:
    """Returns pixels in 0 to 255 as the model takes them."""
    return (pixels_NHWC - inputs.mean[None, None, None]) / inputs.std[None, None, None]
