"""Strangers, images of no known class, that are made from familiar images.

The far ones have no object at all. The near ones have the colours or the parts of the familiar
images but, to most people, none of their classes. They are no substitute for images of other
classes that the model may meet: a score that finds them may miss those.
"""

import numpy as np

from imgjax.errors import ConfigError, DataError

# {kind: what it is}, the far ones first.
KINDS = {
    'gaussian noise': 'normal noise with the mean and the deviation of an image, per channel',
    'uniform noise': 'values from 0 to 255, equally likely',
    'shuffled pixels': 'the pixels of an image in another order',
    'shuffled patches': '4 x 4 squares of an image in another order',
    'blend': 'the mean of two images of different classes',
    'inverted': 'the negative of an image, 255 minus each value'}
GRID = 4  # patches per side


def make(kind: str, images_NHWC: np.ndarray, labels_N: np.ndarray, rows_N: np.ndarray,
         seed: int = 0) -> np.ndarray:
    """Returns a stranger for each image, uint8 (N, H, W, C).

    Its random numbers are a function of (seed, kind, row), whatever the other images are; only
    `blend` reads other images.

    Args:
      kind: one of KINDS.
      images_NHWC: uint8, familiar images.
      labels_N: int (N,), their classes.
      rows_N: int (N,), the numbers of the images in their split.
      seed: of all random numbers.

    Raises:
      ConfigError: there is no such kind.
      DataError: the images have one class only, and a blend takes two; or they are not uint8.
    """
    if kind not in KINDS:
        raise ConfigError(f'kind: no strangers {kind!r}; there are {", ".join(KINDS)}')
    if images_NHWC.dtype != np.uint8 or images_NHWC.ndim != 4:
        raise DataError(f'images: {images_NHWC.dtype} of shape {images_NHWC.shape}; give uint8 '
                        '(images, height, width, channels)')
    if kind == 'inverted':
        return 255 - images_NHWC
    if kind == 'blend' and len(np.unique(labels_N)) < 2:
        raise DataError('blend: all images have the same class; give images of two or more')
    made_NHWC = np.empty_like(images_NHWC)
    for place, row in enumerate(rows_N.tolist()):
        rng = np.random.Generator(np.random.Philox(
            key=[seed, row], counter=[0, 0, 0, list(KINDS).index(kind)]))
        image_HWC = images_NHWC[place]
        if kind == 'blend':
            others = np.flatnonzero(labels_N != labels_N[place])
            other_HWC = images_NHWC[others[rng.integers(len(others))]]
            made_NHWC[place] = (image_HWC.astype(np.uint16) + other_HWC) // 2
        else:
            made_NHWC[place] = _MAKERS[kind](image_HWC, rng)
    return made_NHWC


def _gaussian(image_HWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise_HWC = rng.normal(image_HWC.mean((0, 1)), image_HWC.std((0, 1)), image_HWC.shape)
    return np.rint(np.clip(noise_HWC, 0, 255)).astype(np.uint8)


def _uniform(image_HWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, image_HWC.shape, np.uint8)


def _pixels(image_HWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(image_HWC.reshape(-1, image_HWC.shape[2])).reshape(image_HWC.shape)


def _patches(image_HWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffles squares; rows and columns that a division leaves over stay in their place."""
    H, W, C = image_HWC.shape
    rows, columns = min(GRID, H), min(GRID, W)
    h, w = H // rows, W // columns
    made_HWC = image_HWC.copy()
    inner = image_HWC[:h * rows, :w * columns].reshape(rows, h, columns, w, C)
    patches = inner.transpose(0, 2, 1, 3, 4).reshape(rows * columns, h, w, C)
    patches = rng.permutation(patches).reshape(rows, columns, h, w, C)
    made_HWC[:h * rows, :w * columns] = patches.transpose(0, 2, 1, 3, 4).reshape(
        h * rows, w * columns, C)
    return made_HWC


_MAKERS = {'gaussian noise': _gaussian, 'uniform noise': _uniform, 'shuffled pixels': _pixels,
           'shuffled patches': _patches}
