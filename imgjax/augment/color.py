"""Functions of the pixel values."""

import jax.numpy as jnp


def normalize(images_NHWC, mean, std):
    """Returns ``(images / 255 - mean) / std`` as float32.

    Not an operation of ``apply``: training and evaluation both end with it.

    >>> normalize(jnp.full((1, 1, 1, 1), 255, jnp.uint8), (0.5,), (0.25,)).ravel()
    Array([2.], dtype=float32)

    Args:
      images_NHWC: uint8 or float32 in [0, 255].
      mean: one number a channel, on the scale 0 to 1.
      std: one number a channel, on the scale 0 to 1.

    Raises:
      ValueError: mean or std are not as long as the images have channels.
    """
    channels = images_NHWC.shape[-1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f'normalize takes one mean and one std a channel: the images have {channels} channels, '
            f'got {len(mean)} and {len(std)}')
    mean_111C, std_111C = (jnp.asarray(x, jnp.float32)[None, None, None] for x in (mean, std))
    return (images_NHWC.astype(jnp.float32) / 255.0 - mean_111C) / std_111C
