"""Decodes encoded bytes to uint8 pixels of one size, on the host.

header -> limits -> box -> decoding of no more than the box needs -> resizing. imgjax.data.jpeg
decodes JPEGs, and Pillow all else; Pillow also finds what is wrong with an image that the faster
decoders refuse. imgjax.data.modes converts values of other than 8 bits. Damage that libjpeg repairs
is accepted, as by Pillow; damage outside of what a crop needs can remain unnoticed.
"""

import io
import warnings
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from imgjax.data import crop, jpeg, modes
from imgjax.errors import DataError, one_line

# Pillow's names of the formats, and their usual endings. Pillow reads more formats, some of which
# start other programs or declare a smaller size than they have. TGA is last, as it has no magic.
FORMATS = {
    'JPEG': ('.jpg', '.jpeg', '.jpe', '.jfif', '.mpo'), 'PNG': ('.png', '.apng'),
    'WEBP': ('.webp',), 'BMP': ('.bmp',), 'GIF': ('.gif',), 'TIFF': ('.tif', '.tiff'),
    'AVIF': ('.avif', '.avifs'),
    'JPEG2000': ('.jp2', '.j2k', '.j2c', '.jpc', '.jpf', '.jpx'),
    'PPM': ('.ppm', '.pgm', '.pbm', '.pnm', '.pfm'), 'DIB': ('.dib',), 'PCX': ('.pcx',),
    'QOI': ('.qoi',), 'SGI': ('.sgi', '.rgb', '.rgba', '.bw'),
    'TGA': ('.tga', '.icb', '.vda', '.vst')}
EXTENSIONS = tuple(ending for endings in FORMATS.values() for ending in endings)
EXTENSION_OF = {name: endings[0] for name, endings in FORMATS.items()} | {'MPO': '.jpg'}
# Kinds of images that are sound but need a field of the config.
KINDS_OF_FIELDS = ('without config.data.pixel_range', 'without config.data.background')
KINDS = ('empty', 'not an image', 'of unread numbers', 'truncated', 'damaged', 'too many bytes',
         'too many pixels', 'too many scans', 'too narrow', *KINDS_OF_FIELDS)
MAX_ASPECT = 100
# A progressive JPEG has about ten; a forged one decodes for an hour with a hundred thousand.
MAX_SCANS = 200
_MAGIC = (b'\xff\xd8\xff', b'\x89PNG', b'RIFF', b'BM', b'GIF8', b'II*\0', b'MM\0*')
# The most bytes that the compressed comments of an image may unpack to; Pillow allows 64 MiB.
PngImagePlugin.MAX_TEXT_MEMORY = 8 * 2**20
# They warn of broken metadata, which is not used, and of sizes, which are checked here.
warnings.filterwarnings('ignore', module=r'PIL\.')


class Unreadable(DataError):
    """An image cannot be used; `kind`, one of KINDS, says why."""

    def __init__(self, message: str, kind: str = 'damaged'):
        super().__init__(message)
        self.kind = kind


class _Header(NamedTuple):
    """What is known about an image before it is decoded; width and height are as stored."""

    width: int
    height: int
    orientation: int  # EXIF's 1 to 8; 1 where the config ignores it
    frame: jpeg.Frame | None  # of a JPEG that the fast decoders may be able to decode


class Stored(NamedTuple):
    """How a file stores its image."""

    gray: bool
    format: str  # Pillow's name
    orientation: int  # EXIF's 1 to 8
    transparent: bool  # it has an alpha channel or a transparent colour
    more_than_bytes: bool  # it has more than 8 bits per channel


def pixels(example: dict, options: dict, size: int, rng=None) -> np.ndarray:
    """Returns one example as uint8 (size, size, C).

    With `rng` it is cropped at random, else transformed as for evaluation.

    Args:
      example: {'image': encoded bytes or uint8 (H, W, C), 'name': str}.
      options: config.data.
      size: the side of the result in pixels.
      rng: the np.random.Generator that draws the box of the crop.

    Raises:
      Unreadable: it is no image, damaged, or beyond the limits of `options`; the line names it.
    """
    header = _read_header(example, options)
    width, height = _upright_size(header)
    if rng is not None:
        box = crop.random_box(width, height, rng, options['crop_min_area'])
        method = options['train_resize']
        if method == 'linear':
            return crop.linear(_decode(example, options, header, box, shrink_to=size), size)
        return crop.resize(_decode(example, options, header, box), size, method)
    whole = (0, 0, width, height)
    if not options['image_size'] and (width, height) == (size, size):
        return _decode(example, options, header, whole)
    method = options['eval_resize']
    transform = options['eval_transform']
    if transform in ('pil', 'squash'):
        image = _decode(example, options, header, whole)
        cut = crop.squash if transform == 'squash' else crop.center
        return cut(image, size, options['eval_crop_fraction'], method)
    box = whole if transform == 'tf2_squash' else crop.tf_box(width, height, size)
    part = _decode(example, options, header, box, fast_dct=True)
    return crop.tf_resize(part, size, method, transform.startswith('tf2'))


def whole(example: dict, options: dict) -> np.ndarray:
    """Returns all pixels of an image, uint8 (H, W, C).

    Raises:
      Unreadable: as `pixels` raises it.
    """
    header = _read_header(example, options)
    return _decode(example, options, header, (0, 0, *_upright_size(header)))


def image_size(example: dict, options: dict) -> tuple[int, int]:
    """Returns (width, height) from the header, turned if the config applies EXIF orientations.

    Raises:
      Unreadable: as `pixels` raises it, as far as the header shows it.
    """
    return _upright_size(_read_header(example, options))


def _upright_size(header: _Header) -> tuple[int, int]:
    turned = header.orientation >= 5
    return (header.height, header.width) if turned else (header.width, header.height)


def _read_header(example: dict, options: dict) -> _Header:
    encoded, name = example['image'], example['name']
    if isinstance(encoded, np.ndarray):
        return _Header(encoded.shape[1], encoded.shape[0], 1, None)
    if not encoded:
        raise _unreadable(name, 'empty', '0 bytes')
    if len(encoded) > options['max_bytes']:
        raise _unreadable(name, 'too many bytes', f'{len(encoded)}, more than '
                          f'config.data.max_bytes {options["max_bytes"]}')
    frame = jpeg.read_frame(encoded)
    if frame and not options['exif_orientation']:
        header = _Header(frame.width, frame.height, 1, frame)
    else:
        image = _open(encoded, name)
        try:
            modes.check(image, options)
        except modes.Unknown as error:
            raise _unknown(name, error) from None
        orientation = _orientation(image) if options['exif_orientation'] else 1
        header = _Header(*image.size, orientation, frame)
    width, height = header[:2]
    if width * height > options['max_pixels']:
        raise _unreadable(name, 'too many pixels', f'{width}x{height}, more than '
                          f'config.data.max_pixels {options["max_pixels"]}')
    if max(width, height) > MAX_ASPECT * min(width, height):  # resizing it could fill the memory
        raise _unreadable(name, 'too narrow', f'{width}x{height}, beyond 1:{MAX_ASPECT}')
    several = encoded[:2] == b'\xff\xd8' and not (frame and frame.one_scan)
    if several and encoded.count(b'\xff\xda') > MAX_SCANS:
        raise _unreadable(name, 'too many scans', f'more than {MAX_SCANS}')
    return header


def _decode(example: dict, options: dict, header: _Header, box, *, shrink_to: int = 0,
            fast_dct: bool = False) -> np.ndarray:
    """Returns a box of the upright image, uint8 (h, w, C).

    Args:
      example, options: as in `pixels`.
      header: what `_read_header` returned.
      box: (left, top, width, height).
      shrink_to, fast_dct: arguments of jpeg.decode.
    """
    left, top, w, h = box
    encoded = example['image']
    if header.frame and options['channels'] == 3 and header.orientation == 1:
        part = jpeg.decode(encoded, header.frame, box, shrink_to, fast_dct)
        if part is not None:
            return part
    if isinstance(encoded, np.ndarray) and encoded.shape[-1] == options['channels']:
        return encoded[top:top + h, left:left + w]
    image = crop.as_array(_decode_with_pillow(example, options))
    image = _upright(image, header.orientation)
    return image[top:top + h, left:left + w]


def _open(encoded: bytes, name: str) -> Image.Image:
    """Returns the image with only its header read."""
    try:
        return Image.open(io.BytesIO(encoded), formats=tuple(FORMATS))
    except Exception as error:  # on damaged bytes Pillow's parsers raise many types
        raise _refusal(name, encoded, error) from None


def _decode_with_pillow(example: dict, options: dict) -> Image.Image:
    """Returns an image in mode L (1 channel) or RGB (3), in its stored orientation."""
    encoded, name = example['image'], example['name']
    try:
        if isinstance(encoded, np.ndarray):
            image = Image.fromarray(encoded.squeeze(-1) if encoded.shape[-1] == 1 else encoded)
        else:
            image = Image.open(io.BytesIO(encoded), formats=tuple(FORMATS))
        return modes.convert(image, encoded, options)
    except modes.Unknown as error:
        raise _unknown(name, error) from None
    except Exception as error:  # as above
        raise _refusal(name, encoded, error) from None


def stored(example: dict) -> Stored:
    """Returns how a file stores its image, by its header.

    Raises:
      Unreadable: the header is not that of an image.
    """
    image = _open(example['image'], example['name'])
    gray = image.mode in ('1', 'L', 'LA', 'La') or image.mode[0] in 'IF'
    return Stored(gray, image.format, _orientation(image), image.has_transparency_data,
                  modes.has_more_than_bytes(image))


def _orientation(image: Image.Image) -> int:
    """Returns EXIF's orientation, or 1 where it is missing or invalid.

    It is 1 for a TIFF, which Pillow always turns upright.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata of an image that may be sound
        return 1
    return orientation if orientation in range(1, 9) and image.format != 'TIFF' else 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns (H, W, C) from its stored orientation to the upright one."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def _refusal(name: str, encoded, error: Exception) -> Unreadable:
    """Returns the error to raise in place of one of Pillow's."""
    text = one_line(error)
    if isinstance(error, Image.DecompressionBombError):
        kind = 'too many pixels'
    elif isinstance(error, UnidentifiedImageError):  # its text names an object in memory
        numbers = _numbers(encoded)
        if numbers:
            kind, text = 'of unread numbers', (f'{numbers}, which Pillow does not read; save it '
                                               'with whole numbers of 8 or 16 bits')
        elif encoded.startswith(_MAGIC):
            kind, text = 'damaged', 'in its header, or of a kind that Pillow does not read'
        else:
            kind, text = 'not an image', 'no known format'
    elif isinstance(error, EOFError) or 'truncated' in text.lower():
        kind = 'truncated'
    else:
        kind = 'damaged'
    return _unreadable(name, kind, text or type(error).__name__)


def _numbers(encoded: bytes) -> str:
    """Returns the kind of numbers in a TIFF or PFM in words; '' for other files."""
    if encoded[:2] == b'PF' and encoded[2:3].isspace():
        return 'a PFM of 3 channels of 32-bit float'
    try:
        header = TiffImagePlugin.ImageFileDirectory_v2(encoded[:8])
        file = io.BytesIO(encoded)
        file.seek(header.next)
        header.load(file)
        channels, bits = header.get(277, 1), header.get(258, (1,))
        kind = {1: 'whole', 2: 'signed', 3: 'float'}[header.get(339, (1,))[0]]
        if kind == 'whole' and max(bits) <= 16:
            return ''
        return f'a TIFF of {channels} channels of {bits[0]}-bit {kind} numbers'
    except Exception:  # another format, or damaged
        return ''


def _unknown(name: str, error: modes.Unknown) -> Unreadable:
    return Unreadable(f'{name}: {error}', f'without config.data.{error.field}')


def _unreadable(name: str, kind: str, text: str) -> Unreadable:
    return Unreadable(
        f'{name}: not a readable image ({kind}: {text[:200]}); replace or remove it', kind)
