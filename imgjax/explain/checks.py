"""What explanations demand of images and targets. Each check raises DataError in one line."""

import jax.numpy as jnp
import numpy as np

from imgjax.errors import DataError, first_few


def check_images(images_NHWC, smallest: int = 1) -> None:
    """Checks images: float (N, H, W, C), finite, one image or more, sides of `smallest` or more.

    Args:
      images_NHWC: the images, normalised as the model takes them.
      smallest: the least side in pixels that the method takes.
    """
    shape = np.shape(images_NHWC)
    if len(shape) != 4 or 0 in shape:
        raise DataError(f'images: shape {shape}; give (images, height, width, channels), at least '
                        'one of each')
    if min(shape[1:3]) < smallest:
        raise DataError(f'images: {shape[1]}x{shape[2]} pixels, the method takes {smallest} or '
                        'more a side; take another method, or larger images')
    images_NHWC = np.asarray(images_NHWC)
    if not jnp.issubdtype(images_NHWC.dtype, jnp.floating):
        raise DataError(f'images: {images_NHWC.dtype}; give float32, normalised as the model takes '
                        'them')
    finite_N = np.isfinite(images_NHWC.astype(np.float32)).reshape(shape[0], -1).all(axis=1)
    bad = np.flatnonzero(~finite_N)
    if len(bad):
        raise DataError(f'images: not finite for {len(bad):,} of {shape[0]:,} (image '
                        f'{first_few(bad, 3)}); leave these out')


def check_targets(targets_N, images: int, classes: int) -> None:
    """Checks targets: int (N,), each from 0 to K - 1.

    Args:
      targets_N: the class of each image.
      images: N.
      classes: K.
    """
    targets_N = np.asarray(targets_N)
    if targets_N.shape != (images,) or not np.issubdtype(targets_N.dtype, np.integer):
        raise DataError(f'targets: shape {targets_N.shape} of {targets_N.dtype} for {images:,} '
                        'images; give one class per image, as integers')
    wrong = np.flatnonzero((targets_N < 0) | (targets_N >= classes))
    if len(wrong):
        raise DataError(f'targets: {targets_N[wrong[0]]} of image {wrong[0]} is no class; give '
                        f'integers from 0 to {classes - 1}')
