"""Encoded bytes to uint8 pixels of one size: decoding, converting and cropping on the host."""

import io
import math

import numpy as np
from PIL import Image

from imgjax.errors import DataError

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff')
MAX_PIXELS = 64_000_000  # a header that claims more is refused before anything is decoded
MAX_BYTES = 32 * 2**20
MAX_ASPECT = 100
# Pillow knows more, some of which start other programs.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF')


def decode(encoded, channels: int, name: str) -> Image.Image:
    """Returns an 8-bit Pillow image in mode L (1 channel) or RGB (3).

    Grayscale, palette, alpha (dropped), CMYK and 16-bit (its upper byte) are converted.

    Args:
      encoded: file content, or uint8 (H, W, C).
      channels: 1 or 3.
      name: what an error calls it.

    Raises:
      DataError: not an image, truncated, or too large; names it.
    """
    try:
        if isinstance(encoded, np.ndarray):
            image = Image.fromarray(encoded.squeeze(-1) if encoded.shape[-1] == 1 else encoded)
        else:
            if len(encoded) > MAX_BYTES:
                raise ValueError(f'{len(encoded)} bytes, more than {MAX_BYTES}')
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
            if math.prod(image.size) > MAX_PIXELS:
                raise ValueError(f'{image.size} is more than {MAX_PIXELS} pixels')
            if max(image.size) > MAX_ASPECT * min(image.size):  # resizing it would not fit memory
                raise ValueError(f'{image.size} is narrower than 1:{MAX_ASPECT}')
            image.load()
        if image.mode.startswith('I'):  # 16 bits a pixel, which convert() would clip at 255
            levels = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
            image = Image.fromarray((levels >> 8).astype(np.uint8))
        return image.convert('L' if channels == 1 else 'RGB')
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, MemoryError,
            Image.DecompressionBombError) as error:
        text = ' '.join(str(error).split())[:200]
        raise DataError(f'{name}: not a readable image ({text}); replace or remove it') from None


def center_crop(image: Image.Image, size: int, fraction: float) -> np.ndarray:
    """Resizes the shorter side to size / fraction (bicubic, antialiased), crops the middle.

    Returns uint8 (size, size, C).
    """
    shorter = max(size, round(size / fraction))
    width, height = image.size
    scale = shorter / min(width, height)
    resized = (max(size, round(width * scale)), max(size, round(height * scale)))
    if resized != image.size:
        image = image.resize(resized, Image.Resampling.BICUBIC)
    left, top = (resized[0] - size) // 2, (resized[1] - size) // 2
    return as_array(image.crop((left, top, left + size, top + size)))


def random_resized_crop(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """Cuts 8 to 100 % of the area at an aspect of 3/4 to 4/3, resized to uint8 (size, size, C).

    The crop of Inception training (Szegedy et al., arXiv:1409.4842).
    """
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1.0)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
            box = (int(left), int(top), int(left) + w, int(top) + h)
            return as_array(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
    return center_crop(image, size, 1.0)  # a shape so long that no such crop fits


def as_array(image: Image.Image) -> np.ndarray:
    """Returns uint8 (H, W, C) of a Pillow image in mode L or RGB."""
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels
