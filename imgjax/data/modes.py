"""Converts images of all of Pillow's modes to 8 bits per channel (docs/guides/image_files.md).

Values that are no bytes are converted where the values of black and white are known, and refused
elsewhere: clipped at 255 the image would silently be white, and by their upper bytes black.
"""

from typing import Any

import cv2
import numpy as np
from PIL import Image

# Pillow scales the integers of these formats to 16 bits itself, as their files store the bits.
_SCALED_TO_16 = ('JPEG2000', 'PPM')
_JPEG2000_SIZES = b'\xff\x4f\xff\x51'  # where its code begins, with the block that has the bits
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
# Values of 16 bits of which the two highest are never used more likely have 10, 12 or 14 bits.
_LEAST_WHITE = 2**14
_ONE_COLOUR = 8  # levels that one colour may vary by in a lossy file


class Unknown(ValueError):
    """An image cannot be used before config.data.`field` is set to what `fix` says."""

    def __init__(self, field: str, text: str, fix: str):
        super().__init__(f'{text}; set config.data.{field} to {fix}')
        self.field = field


def check(image: Image.Image, options: dict) -> None:
    """Raises Unknown for an image that these options cannot convert, without reading its pixels."""
    if (image.mode[0] in 'IF' or _is_signed(image)) and not options['pixel_range'] and (
            not _known_white(image)):
        kind = 'float' if image.mode == 'F' else '32-bit or signed'
        raise Unknown('pixel_range', f'{kind} values, of which nobody knows black and white',
                      '(black, white), such as (0, 1)')


def convert(image: Image.Image, encoded, options: dict) -> Image.Image:
    """Returns an image in mode L (1 channel) or RGB (3).

    Args:
      image: the opened image; its pixels need not be loaded yet.
      encoded: the content of the file; anything for an image without a file.
      options: config.data: channels, pixel_range, background.

    Raises:
      Unknown: the values of black and white are unknown, or only one colour is left without the
        transparency.
      ValueError: a value is not finite.
    """
    check(image, options)
    more_than_bytes, scaled = has_more_than_bytes(image), _is_scaled(image, encoded)
    signed = _is_signed(image)
    image.load()  # after this both can no longer be seen
    if image.mode[0] in 'IF' or signed:
        image = _gray(image, options, scaled)
    elif more_than_bytes:
        image = _colours_of_16_bits(image, encoded, options)
    if image.has_transparency_data:
        image = _without_alpha(image, options)
    if image.mode in ('HSV', 'LAB'):  # Pillow converts these to L only through RGB
        image = image.convert('RGB')
    return image.convert('L' if options['channels'] == 1 else 'RGB')


def has_more_than_bytes(image: Image.Image) -> bool:
    """Returns whether a file stores other numbers than bytes; its pixels must not be loaded yet."""
    if image.mode[0] in 'IF' or _is_signed(image):
        return True
    tiles = getattr(image, 'tile', [])
    if image.format == 'PPM':  # Pillow scales a lower maximum
        return any('65535' in str(tile.args) for tile in tiles)
    return image.format in ('PNG', 'SGI', 'TIFF') and any(
        tile.codec_name == 'SGI16' or ';16' in str(tile.args) for tile in tiles)


def to_bytes(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """Maps values of any dtype so that black is 0 and white 255; others are clipped to uint8.

    >>> to_bytes(np.array([0.0, 0.5, 1.0, 2.0]), 0, 1)
    array([  0, 128, 255, 255], dtype=uint8)

    Raises:
      ValueError: a value is not finite.
    """
    levels = (values.astype(np.float64) - black) * (255 / (white - black))
    if not np.isfinite(levels).all():
        raise ValueError('values that are not finite')
    return np.clip(np.floor(levels + 0.5), 0, 255).astype(np.uint8)


def _is_signed(image: Image.Image) -> bool:
    """Returns whether a TIFF has signed bytes, which Pillow reads as unsigned ones."""
    return image.mode == 'L' and getattr(image, 'tag_v2', {}).get(_SAMPLE_FORMAT, (1,))[0] == 2


def _known_white(image: Image.Image) -> int:
    """Returns the largest value that a gray image can have, 0 where its file does not give it."""
    if image.mode.startswith('I;16'):
        bits = getattr(image, 'tag_v2', {}).get(_BITS_PER_SAMPLE, (16,))[0]
        return 2**bits - 1
    return 65535 if image.mode == 'I' and image.format in (*_SCALED_TO_16, 'PNG') else 0


def _is_scaled(image: Image.Image, encoded) -> bool:
    """Returns whether Pillow will scale gray values of fewer bits to 16."""
    if image.mode == 'F' or image.format not in _SCALED_TO_16:
        return False
    if image.format == 'PPM':
        tiles = getattr(image, 'tile', [])
        return not any('16' in str(tile.args) or '65535' in str(tile.args) for tile in tiles)
    return encoded[encoded.find(_JPEG2000_SIZES) + 42] % 128 != 15  # the bits minus 1


def _gray(image: Image.Image, options: dict, scaled: bool) -> Image.Image:
    """Converts an image of one channel whose values are no bytes to mode L, or LA if transparent.

    `scaled` says that Pillow scaled its values, so that 65535 is white.
    """
    values, tags = np.asarray(image), getattr(image, 'tag_v2', {})
    if values.dtype == np.int32 and tags.get(_SAMPLE_FORMAT, (2,))[0] == 1:
        values = values.view(np.uint32)
    if _is_signed(image):
        values = values.view(np.int8)
    white = _known_white(image)
    if options['pixel_range'] and not scaled:
        levels = to_bytes(values, *options['pixel_range'])
    elif white == 65535:
        if not scaled:
            _check_used(int(values.max()))
        levels = (values >> 8).astype(np.uint8)  # as Pillow does with colours of 16 bits
    else:
        levels = to_bytes(values, 0, white)
    if tags.get(_PHOTOMETRIC) == 0:  # the smallest value is white
        levels = 255 - levels
    hole = image.info.get('transparency')
    image = Image.fromarray(levels)
    if hole is not None:
        image.putalpha(Image.fromarray(np.where(values == hole, 0, 255).astype(np.uint8)))
    return image


def _check_used(highest: int) -> None:
    """Raises Unknown where the values use only a small part of 16 bits."""
    if 0 < highest < _LEAST_WHITE:
        likely = next(2**bits - 1 for bits in (8, 10, 12, 14) if highest < 2**bits)
        raise Unknown('pixel_range', f'16 bits of which no value is above {highest}',
                      f'(0, {likely}), or to (0, 65535) if the image is that dark')


def _colours_of_16_bits(image: Image.Image, encoded: bytes, options: dict) -> Image.Image:
    """Converts a colour image of 16 bits, of which Pillow has the upper bytes, by its pixel range.

    Pillow has no mode for more than 8 bits of colour; OpenCV reads them.
    """
    hole = image.info.get('transparency')
    if isinstance(hole, tuple):
        image.info['transparency'] = tuple(value >> 8 for value in hole)
    mode = 'RGBA' if image.has_transparency_data else 'RGB'
    upper = np.asarray(image.convert(mode))
    if not options['pixel_range'] and upper[..., :3].max() >= _LEAST_WHITE >> 8:
        return image
    if image.format == 'PPM':
        encoded += b'\n'  # OpenCV needs an end after the last number in words
    values: Any = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is not None and values.ndim == 3:
        order = cv2.COLOR_BGRA2RGBA if values.shape[2] == 4 else cv2.COLOR_BGR2RGB
        values = cv2.cvtColor(values, order)[..., :3]
    as_pillow = values is not None and values.dtype == np.uint16 and (
        np.rint(values / 257) if image.format == 'PPM' else values >> 8)
    if not np.array_equal(as_pillow, upper[..., :3]):
        raise ValueError('16 bits of colour that OpenCV reads otherwise than Pillow')
    if not options['pixel_range']:
        _check_used(int(values.max()))
        return image
    colours = to_bytes(values, *options['pixel_range'])
    return Image.fromarray(np.concatenate([colours, upper[..., 3:]], axis=-1))


def _without_alpha(image: Image.Image, options: dict) -> Image.Image:
    """Puts the image on the background; without one it returns the colours as they are stored."""
    if image.mode == 'La':
        image = image.convert('LA')
    upright = image.convert('RGBA')
    if options['background']:
        ground = (*options['background'], *options['background'] * 2)[:3]
        canvas = Image.new('RGBA', image.size, (*ground, 255))
        canvas.alpha_composite(upright)
        return canvas.convert('RGB')
    extrema: Any = upright.getextrema()  # (least, most) of each channel
    *colours, (least, most) = extrema
    if least < most and all(high - low <= _ONE_COLOUR for low, high in colours):
        raise Unknown('background', 'one colour, whose shapes are in the transparency alone',
                      '(255, 255, 255) for a white ground')
    return upright if image.mode == 'RGBa' else image
