"""Encoded bytes to uint8 pixels of one size, on the host.

header -> limits -> box -> decoding of no more than the box needs -> resizing. A JPEG is decoded by
libjpeg-turbo directly (by nvImageCodec where it is installed, else by simplejpeg, and always by
simplejpeg where restart markers spare the rows above a crop), all else by Pillow, which also says
what is wrong with an image that the faster ones refuse. They agree to the bit. Of damaged data,
what libjpeg mends is accepted, as Pillow does; damage that lies outside of what a crop needs can go
unseen.
"""

import importlib
import importlib.util
import io
import os
import re
import struct
import tempfile
import threading
import warnings
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from imgjax.data import crop
from imgjax.errors import DataError

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff')
# Pillow knows more formats, some of which start other programs.
EXTENSION_OF = {'JPEG': '.jpg', 'PNG': '.png', 'WEBP': '.webp', 'BMP': '.bmp', 'GIF': '.gif',
                'TIFF': '.tif'}
KINDS = ('empty', 'not an image', 'truncated', 'damaged', 'too many bytes', 'too many pixels',
         'too many scans', 'too narrow')
MAX_ASPECT = 100
# A progressive JPEG has about ten; a forged one decodes for an hour with a hundred thousand.
MAX_SCANS = 200
_RESTART, _END = re.compile(rb'\xff[\xd0-\xd7]'), b'\xff\xd9'
_MAGIC = (b'\xff\xd8\xff', b'\x89PNG', b'RIFF', b'BM', b'GIF8', b'II*\0', b'MM\0*')
# What compressed comments may unpack to, in all, before an image is refused; Pillow's is 64 MiB.
PngImagePlugin.MAX_TEXT_MEMORY = 8 * 2**20
# Of broken metadata, which is not used, and of sizes, which are checked here.
warnings.filterwarnings('ignore', module=r'PIL\.')


class Unreadable(DataError):
    """An image that cannot be used; `kind`, one of KINDS, says why."""

    def __init__(self, message: str, kind: str = 'damaged'):
        super().__init__(message)
        self.kind = kind


class _Jpeg(NamedTuple):
    """A frame header that every decoder here takes: 8 bits, Huffman coded, gray or YCbCr/RGB."""

    width: int
    height: int
    at: int  # where the frame header lies
    one_scan: bool  # rows follow each other, so that the last ones may be left undecoded
    restart: int  # rows of pixels between two restart markers, 0 where they do not end with a row
    data: int  # where the entropy-coded data begins


class _Header(NamedTuple):
    """What is known of an image before it is decoded; width and height are those as stored."""

    width: int
    height: int
    orientation: int  # EXIF's 1 to 8, 1 where it is not asked for
    jpeg: _Jpeg | None  # where the fast decoders can be tried


def pixels(example: dict, options: dict, size: int, rng=None) -> np.ndarray:
    """Returns uint8 (size, size, C) of one example: a random crop if `rng` is given, else the
    evaluation's transform.

    Args:
      example: {'image': encoded bytes or uint8 (H, W, C), 'name': str}.
      options: plain config['data'].
      size: side of the result in pixels.
      rng: np.random.Generator that the box of the crop is drawn from.

    Raises:
      Unreadable: no image, damaged or beyond the limits of `options`; one line that names it.
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
    if options['eval_transform'] == 'pil':
        image = _decode(example, options, header, whole)
        return crop.center(image, size, options['eval_crop_fraction'], method)
    part = _decode(example, options, header, crop.tf_box(width, height, size), fast_dct=True)
    return crop.tf_resize(part, size, method, options['eval_transform'] == 'tf2')


def whole(example: dict, options: dict) -> np.ndarray:
    """Returns all of an image's pixels, uint8 (H, W, C).

    Raises:
      Unreadable: as `pixels`.
    """
    header = _read_header(example, options)
    return _decode(example, options, header, (0, 0, *_upright_size(header)))


def image_size(example: dict, options: dict) -> tuple[int, int]:
    """Returns (width, height) from the header, as it is seen: turned if EXIF is asked for.

    Raises:
      Unreadable: as `pixels`, as far as the header says so.
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
    jpeg = _jpeg_header(encoded)
    if jpeg and not options['exif_orientation']:
        header = _Header(jpeg.width, jpeg.height, 1, jpeg)
    else:
        image = _open(encoded, name)
        orientation = _orientation(image) if options['exif_orientation'] else 1
        header = _Header(*image.size, orientation, jpeg)
    width, height = header[:2]
    if width * height > options['max_pixels']:
        raise _unreadable(name, 'too many pixels', f'{width}x{height}, more than '
                          f'config.data.max_pixels {options["max_pixels"]}')
    if max(width, height) > MAX_ASPECT * min(width, height):  # resized, it would fill the memory
        raise _unreadable(name, 'too narrow', f'{width}x{height}, beyond 1:{MAX_ASPECT}')
    several = encoded[:2] == b'\xff\xd8' and not (jpeg and jpeg.one_scan)
    if several and encoded.count(b'\xff\xda') > MAX_SCANS:
        raise _unreadable(name, 'too many scans', f'more than {MAX_SCANS}')
    return header


def _jpeg_header(encoded: bytes) -> _Jpeg | None:
    """Returns the frame header if the fast decoders can be tried: a whole JPEG of 1 or 3 channels.

    An end marker after the frame header means that nothing was cut off: entropy-coded data cannot
    hold one. Without it, it is Pillow that knows what truncated means.
    """
    if encoded[:2] != b'\xff\xd8':
        return None
    at, frame, interval = 2, None, 0
    while at + 10 < len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        length = encoded[at + 2] << 8 | encoded[at + 3]
        if marker in (0xC0, 0xC1, 0xC2) and not frame:  # baseline, extended, progressive
            bits, height, width, channels = struct.unpack_from('>BHHB', encoded, at + 4)
            if bits != 8 or channels not in (1, 3) or not width or not height:
                return None
            frame = (width, height, at)
            several = marker == 0xC2
        elif marker == 0xDD and length == 4:
            interval = encoded[at + 4] << 8 | encoded[at + 5]
        elif marker == 0xDA:  # start of the first scan
            if not frame or encoded.rfind(_END) < at:
                return None
            one_scan = not several and encoded[at + 4] == channels
            restart = _restart_rows(encoded, frame, channels, interval) if one_scan else 0
            return _Jpeg(*frame, one_scan, restart, data=at + 2 + length)
        elif 0xC0 <= marker <= 0xDF and marker not in (0xC4, 0xDB) or length < 2:
            return None  # arithmetic coding, lossless, or no header at all
        at += 2 + length
    return None


def _restart_rows(encoded: bytes, frame, channels: int, interval: int) -> int:
    """Returns the rows of pixels in a restart interval (in MCUs), 0 unless they are whole ones."""
    width, _, at = frame
    factors = encoded[at + 11:at + 11 + 3 * channels:3] if channels > 1 else b'\x11'
    across = -(-width // (8 * max(1, *(f >> 4 for f in factors))))  # MCUs in a row
    rows, rest = divmod(interval, across)
    return 0 if rest else rows * 8 * max(f & 15 for f in factors)


def _cut_rows(encoded: bytes, jpeg: _Jpeg, top: int, bottom: int) -> tuple[bytearray, int] | None:
    """Returns (a JPEG of the rows from one at or above `top` to `bottom`, the rows cut off above).

    Decoding can start at any restart marker (ITU-T T.81, E.2.4), and nothing between may look like
    one. None where there is nothing to cut off, or not the markers that the header speaks of.
    """
    before = top // jpeg.restart if jpeg.restart else 0  # intervals to leave out
    if not before:
        return None
    end = encoded.rfind(_END)
    ends = [found.start() for found in _RESTART.finditer(encoded, jpeg.data, end)]
    if len(ends) != (jpeg.height - 1) // jpeg.restart:
        return None
    ends.append(end)
    last = (bottom - 1) // jpeg.restart
    begin = ends[before - 1] + 2
    cut = bytearray().join((encoded[:jpeg.data], encoded[begin:ends[last]], _END))
    for number, at in enumerate(ends[before:last]):
        cut[jpeg.data + at - begin + 1] = 0xD0 + number % 8
    struct.pack_into('>H', cut, jpeg.at + 5, bottom - before * jpeg.restart)
    return cut, before * jpeg.restart


def _decode(example: dict, options: dict, header: _Header, box, *, shrink_to: int = 0,
            fast_dct: bool = False) -> np.ndarray:
    """Returns uint8 (h, w, C) of a box of the upright image.

    Args:
      example, options, header: as above.
      box: (left, top, width, height).
      shrink_to: halves a JPEG's box, in its DCT, as long as no side falls below this; 0 never.
        Its edges move to the nearest pixel that is left.
      fast_dct: decode a JPEG as TensorFlow does, with the less exact of libjpeg's transforms.
    """
    left, top, w, h = box
    encoded = example['image']
    if header.jpeg and options['channels'] == 3 and header.orientation == 1:
        part = _decode_jpeg(encoded, header.jpeg, box, shrink_to, fast_dct)
        if part is not None:
            return part
    if isinstance(encoded, np.ndarray) and encoded.shape[-1] == options['channels']:
        return encoded[top:top + h, left:left + w]
    image = crop.as_array(_decode_with_pillow(example, options['channels']))
    image = _upright(image, header.orientation)
    return image[top:top + h, left:left + w]


def _decode_jpeg(encoded: bytes, jpeg: _Jpeg, box, shrink_to: int,
                 fast_dct: bool) -> np.ndarray | None:
    """Returns the box's pixels, uint8 (h, w, 3), or None if the fast decoder refuses the image."""
    left, top, w, h = box
    shrink = 1
    while shrink < 8 and shrink_to and min(w, h) >= 2 * shrink * shrink_to:
        shrink *= 2
    # Of several scans the damaged ones are smoothed over, differently at the border of a region.
    # Where rows can be cut off, simplejpeg is the faster one: nvImageCodec gains nothing from it.
    if (shrink == 1 and jpeg.one_scan and not jpeg.restart and not fast_dct
            and nvimgcodec is not None):
        return _decode_with_nvimgcodec(encoded, box)
    margin = 2 * shrink  # as chroma is interpolated between rows
    rows, above = min(jpeg.height, top + h + margin) if jpeg.one_scan else jpeg.height, 0
    if cut := _cut_rows(encoded, jpeg, max(0, top - margin), rows):
        encoded, above = cut
    elif rows < jpeg.height:
        # simplejpeg has no word for it, but decoding ends where the header says the image does.
        encoded = bytearray(encoded)
        struct.pack_into('>H', encoded, jpeg.at + 5, rows)
    image = np.empty((-(-(rows - above) // shrink), -(-jpeg.width // shrink), 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(encoded, fastdct=fast_dct, min_height=image.shape[0],
                               min_width=image.shape[1], buffer=image)
    except ValueError as error:
        # All rows are there if the last complaint is that data was left over. Any other one is
        # for Pillow: libjpeg mends some damage, and TurboJPEG does not say which.
        if rows == jpeg.height or 'extraneous bytes before marker' not in str(error):
            return None
    top, bottom, left, right = (
        round(edge / shrink) for edge in (top, top + h, left, left + w))
    above //= shrink
    return image[top - above:bottom - above, left:right]


def _decode_with_nvimgcodec(encoded: bytes, box) -> np.ndarray | None:
    left, top, w, h = box
    # Two threads in one decoder end in a deadlock, and a fork leaves its threads behind.
    if getattr(_local, 'process', None) != os.getpid():
        _local.process = os.getpid()
        _local.decoder = nvimgcodec.Decoder(
            device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY, max_num_cpu_threads=1,
            backends=[nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)])
        _local.parameters = nvimgcodec.DecodeParams(apply_exif_orientation=False)
    try:
        region = nvimgcodec.Region(top, left, top + h, left + w)
        stream = nvimgcodec.CodeStream(encoded).get_sub_code_stream(region=region)
        image = _local.decoder.decode(stream, params=_local.parameters)
    except RuntimeError:
        return None
    return None if image is None else np.asarray(image)


def _open(encoded: bytes, name: str) -> Image.Image:
    """Returns the opened image, of which only the header was read."""
    try:
        return Image.open(io.BytesIO(encoded), formats=tuple(EXTENSION_OF))
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged bytes
        raise _refusal(name, encoded, error) from None


def _decode_with_pillow(example: dict, channels: int) -> Image.Image:
    """Returns an image in mode L (1 channel) or RGB (3), as it is stored.

    Palettes, alpha (dropped), CMYK and 16 bits (the upper byte) are converted.
    """
    encoded, name = example['image'], example['name']
    try:
        if isinstance(encoded, np.ndarray):
            image = Image.fromarray(encoded.squeeze(-1) if encoded.shape[-1] == 1 else encoded)
        else:
            image = Image.open(io.BytesIO(encoded), formats=tuple(EXTENSION_OF))
            image.load()
        if image.mode.startswith('I'):  # 16 bits a pixel, which convert() would clip at 255
            levels = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
            image = Image.fromarray((levels >> 8).astype(np.uint8))
        return image.convert('L' if channels == 1 else 'RGB')
    except Exception as error:  # as above
        raise _refusal(name, encoded, error) from None


def stored(example: dict) -> tuple[bool, str, int]:
    """Returns (whether it is gray, Pillow's name of the format, EXIF orientation 1 to 8).

    Raises:
      Unreadable: no image, as far as its header says.
    """
    image = _open(example['image'], example['name'])
    gray = image.mode in ('1', 'L', 'LA') or image.mode.startswith('I')
    return gray, image.format, _orientation(image)


def _orientation(image: Image.Image) -> int:
    """Returns EXIF's orientation, 1 where there is none that makes sense.

    Pillow turns a TIFF in any case, so its size and its pixels are those of an upright one.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata of an image that may be sound
        return 1
    return orientation if orientation in range(1, 9) and image.format != 'TIFF' else 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns (H, W, C) from the way it is stored to the way it is seen."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def _refusal(name: str, encoded, error: Exception) -> Unreadable:
    """Returns what to raise for an error of Pillow's."""
    text = ' '.join(str(error).split())
    if isinstance(error, Image.DecompressionBombError):
        kind = 'too many pixels'
    elif isinstance(error, UnidentifiedImageError):  # its text names an object in memory
        known = encoded.startswith(_MAGIC)
        kind, text = ('damaged', 'in its header') if known else ('not an image', 'no known format')
    elif isinstance(error, EOFError) or 'truncated' in text.lower():
        kind = 'truncated'
    else:
        kind = 'damaged'
    return _unreadable(name, kind, text or type(error).__name__)


def _unreadable(name: str, kind: str, text: str) -> Unreadable:
    return Unreadable(
        f'{name}: not a readable image ({kind}: {text[:200]}); replace or remove it', kind)


def _import_nvimgcodec():
    """Returns NVIDIA's nvImageCodec with its libjpeg-turbo part, or None where it is missing.

    Its other parts look for CUDA's libraries, and complain on stderr where there are none: it is
    shown a folder without them.
    """
    try:
        package = importlib.util.find_spec('nvidia.nvimgcodec')
    except ModuleNotFoundError:
        package = None
    if package is None:
        return None
    folder = os.path.join(os.path.dirname(package.origin), 'extensions')
    parts = [name for name in os.listdir(folder) if name.startswith('libjpeg_turbo_ext')]
    with tempfile.TemporaryDirectory() as only:
        for name in parts:
            os.symlink(os.path.join(folder, name), os.path.join(only, name))
        settings = {'NVIMGCODEC_EXTENSIONS_PATH': only, 'PYNVIMGCODEC_VERBOSITY': '0'}
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            module = importlib.import_module('nvidia.nvimgcodec')
        except ImportError:  # built for another system
            return None
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
    return module if parts else None


nvimgcodec = _import_nvimgcodec()  # where it is None, simplejpeg decodes
_local = threading.local()
