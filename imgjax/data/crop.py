"""Crops and resizes images. Boxes are (left, top, width, height).

Everything here works on pixels in memory; decode.py decides which pixels are decoded.
"""

import functools
import math

import cv2
import numpy as np
from PIL import Image

# As many threads as there are cores decode a batch; more threads of OpenCV would slow them down.
cv2.setNumThreads(0)

FILTERS = {'bicubic': Image.Resampling.BICUBIC, 'bilinear': Image.Resampling.BILINEAR}
_TF_PADDING = 32
_TF_TABLE = 1024  # TensorFlow rounds a cubic's place between two pixels to this part


def random_box(width: int, height: int, rng: np.random.Generator,
               min_area: float = 0.08) -> tuple[int, int, int, int]:
    """Returns a random box with a share of `min_area` to 1 of the area and an aspect of 3/4 to 4/3.

    It is the crop of Inception training (Szegedy et al., arXiv:1409.4842), and the middle square
    where the image is so long that none of ten draws fits.
    """
    for _ in range(10):
        area = width * height * rng.uniform(min_area, 1.0)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
            return (int(left), int(top), w, h)
    side = min(width, height)
    return ((width - side) // 2, (height - side) // 2, side, side)


def resize(pixels: np.ndarray, size: int, method: str) -> np.ndarray:
    """Resizes uint8 (H, W, C) to (size, size, C), antialiased, with Pillow.

    As in torchvision's RandomResizedCrop, pixels that were cut off before have no influence.
    """
    return as_array(_image(pixels).resize((size, size), FILTERS[method]))


def linear(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resizes uint8 (H, W, C) to (size, size, C) from the four nearest pixels, not antialiased."""
    resized = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR)
    return resized.reshape(size, size, pixels.shape[-1])  # OpenCV drops a single channel


def center(pixels: np.ndarray, size: int, fraction: float, method: str) -> np.ndarray:
    """Resizes the shorter side to size / fraction, antialiased, and cuts out uint8 (size, size, C).

    It rounds as timm does: floor(size / fraction), then torchvision's Resize, which rounds the
    longer side down, and CenterCrop, which rounds half a pixel to the even number.
    """
    height, width = pixels.shape[:2]
    shorter = max(size, math.floor(size / fraction))
    longer = int(shorter * max(width, height) / min(width, height))
    resized = (shorter, longer) if width <= height else (longer, shorter)
    image = _image(pixels)
    if resized != image.size:
        image = image.resize(resized, FILTERS[method])
    left, top = (round((side - size) / 2) for side in resized)
    return as_array(image.crop((left, top, left + size, top + size)))


def squash(pixels: np.ndarray, size: int, fraction: float, method: str) -> np.ndarray:
    """Resizes both sides to size / fraction, antialiased, and cuts out uint8 (size, size, C).

    It changes the aspect, and with a fraction of 1 cuts nothing off; timm's crop_mode 'squash'.
    """
    side = max(size, math.floor(size / fraction))
    image = _image(pixels)
    if image.size != (side, side):
        image = image.resize((side, side), FILTERS[method])
    left = round((side - size) / 2)
    return as_array(image.crop((left, left, left + size, left + size)))


def tf_box(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Returns the middle square on which TensorFlow's EfficientNets are evaluated.

    Its side is the shorter side times size / (size + 32) (github.com/tensorflow/tpu,
    models/official/efficientnet/preprocessing.py).
    """
    share = np.float32(size / (size + _TF_PADDING))  # TensorFlow multiplies in float32
    side = max(1, int(share * np.float32(min(width, height))))
    return ((width - side + 1) // 2, (height - side + 1) // 2, side, side)


def tf_resize(pixels: np.ndarray, size: int, method: str, half_pixel: bool) -> np.ndarray:
    """Resizes uint8 (H, W, C) to (size, size, C) as TensorFlow does, not antialiased.

    TensorFlow returns floats; here they are rounded to whole numbers of 0 to 255.

    Args:
      pixels: the whole image to resize.
      size: the side of the result in pixels.
      method: 'bicubic' or 'bilinear'.
      half_pixel: True is `tf.image.resize` of TensorFlow 2 (a cubic with a = -0.5). False is
        `tf.image.resize_bicubic` and `resize_bilinear` of TensorFlow 1, which map pixel 0 to pixel
        0 (a = -0.75) and with which the first EfficientNets and MobileNets were trained.
    """
    height, width, channels = pixels.shape
    rows = _tf_weights(height, size, method, half_pixel) @ pixels.reshape(height, -1)
    columns = _tf_weights(width, size, method, half_pixel)
    resized = columns @ rows.reshape(size, width, channels)  # one product per row
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=256)
def _tf_weights(length: int, size: int, method: str, half_pixel: bool) -> np.ndarray:
    """Returns float32 (size, length): the weight of each input pixel in each output pixel."""
    shift = np.float32(0.5 if half_pixel else 0)
    place = (np.arange(size, dtype=np.float32) + shift) * np.float32(length / size) - shift
    low = np.floor(place).astype(np.int64)
    part = (place - low).astype(np.float32)
    if method == 'bicubic':
        part = np.rint(part * _TF_TABLE) / _TF_TABLE
        a = -0.5 if half_pixel else -0.75
        taps = [(tap, _cubic(np.abs(part - tap), a)) for tap in (-1, 0, 1, 2)]
    else:
        taps = [(0, 1 - part), (1, part)]
    weights = np.zeros((size, length))
    for tap, weight in taps:
        source = np.clip(low + tap, 0, length - 1)
        if half_pixel and method == 'bicubic':  # taps beyond the border get no weight,
            weight = np.where(source == low + tap, weight, 0)
        np.add.at(weights, (np.arange(size), source), weight)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)  # and the rest sums to 1


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic (doi:10.1109/TASSP.1981.1163711, equation 4, its -1/2 written a)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def as_array(image: Image.Image) -> np.ndarray:
    """Returns a Pillow image in mode L or RGB as uint8 (H, W, C)."""
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels
