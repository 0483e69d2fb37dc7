"""Decodes a box of a JPEG with libjpeg-turbo, and no more of the image than the box needs.

nvImageCodec decodes where it is installed. simplejpeg decodes elsewhere, and wherever restart
markers allow to skip what surrounds a box, or the image is shrunk. Both agree with Pillow to the
bit, and Pillow decodes what they refuse, or finds what is wrong.
"""

import importlib
import importlib.util
import os
import re
import struct
import tempfile
import threading
from typing import Any, NamedTuple

import numpy as np
import simplejpeg

_RESTART, _END = re.compile(rb'\xff[\xd0-\xd7]'), b'\xff\xd9'


class Frame(NamedTuple):
    """A frame header that all decoders here can read: 8 bits, Huffman coded, gray or YCbCr/RGB."""

    width: int
    height: int
    at: int  # the offset of the frame header
    one_scan: bool  # the rows are in order, so that the last ones need not be decoded
    tile: tuple[int, int]  # width and height in pixels between two restart markers
    data: int  # the offset of the entropy-coded data


def read_frame(encoded: bytes) -> Frame | None:
    """Returns the frame header of a complete JPEG of 1 or 3 channels, which may be decoded fast.

    An end marker after the frame header shows that the file is complete, as entropy-coded data
    cannot contain one. Without it Pillow decides whether the file is truncated.
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
            tile = _tile(encoded, frame, channels, interval) if one_scan else (0, 0)
            return Frame(*frame, one_scan, tile, data=at + 2 + length)
        elif 0xC0 <= marker <= 0xDF and marker not in (0xC4, 0xDB) or length < 2:
            return None  # arithmetic coding, lossless, or no header at all
        at += 2 + length
    return None


def _tile(encoded: bytes, frame, channels: int, interval: int) -> tuple[int, int]:
    """Returns (width, height) in pixels of an interval in MCUs, (0, 0) if it is no rectangle."""
    width, _, at = frame
    factors = encoded[at + 11:at + 11 + 3 * channels:3] if channels > 1 else b'\x11'
    block_w, block_h = 8 * max(f >> 4 for f in factors), 8 * max(f & 15 for f in factors)
    across = -(-width // block_w) if block_w else 0  # MCUs in a row
    if not interval or not across:
        return 0, 0
    if not interval % across:
        return across * block_w, interval // across * block_h
    return (0, 0) if across % interval else (interval * block_w, block_h)


def _cut(encoded: bytes, jpeg: Frame, box) -> tuple[bytearray, tuple[int, int, int, int]] | None:
    """Returns (a JPEG of the tiles that a box touches, its (left, top, width, height)).

    Decoding can start at any restart marker (ITU-T T.81, E.2.4), and no other data looks like one.
    None if there is nothing to cut off, or if the number of markers is not that of the header.
    """
    left, top, right, bottom = box
    tile_w, tile_h = jpeg.tile
    if not tile_w:
        return None
    across = -(-jpeg.width // tile_w)
    first, last, above = left // tile_w, (right - 1) // tile_w, top // tile_h
    if not above and last - first + 1 == across:
        return None
    end = encoded.rfind(_END)
    ends = [found.start() for found in _RESTART.finditer(encoded, jpeg.data, end)]
    if len(ends) != across * -(-jpeg.height // tile_h) - 1:
        return None
    ends.append(end)
    cut, number = bytearray(encoded[:jpeg.data]), 0
    for row in range(above, (bottom - 1) // tile_h + 1):
        begin, stop = row * across + first, row * across + last
        start = ends[begin - 1] + 2 if begin else jpeg.data
        shift = len(cut) - start
        cut += encoded[start:ends[stop] + 2]  # with the marker after it
        for at in ends[begin:stop + 1]:
            cut[at + shift + 1] = 0xD0 + number % 8
            number += 1
    cut[-2:] = _END
    left, right = first * tile_w, min(jpeg.width, (last + 1) * tile_w)
    struct.pack_into('>HH', cut, jpeg.at + 5, bottom - above * tile_h, right - left)
    return cut, (left, above * tile_h, right - left, bottom - above * tile_h)


def decode(encoded: bytes, jpeg: Frame, box, shrink_to: int = 0,
           fast_dct: bool = False) -> np.ndarray | None:
    """Returns the pixels of a box, uint8 (h, w, 3), or None if the fast decoder refuses the image.

    Args:
      encoded: the content of the file.
      jpeg: what `read_frame` returned for it.
      box: (left, top, width, height) in pixels of the stored image.
      shrink_to: the DCT halves the box as long as no side gets smaller than this; 0 never does. The
        edges of the box move to the nearest remaining pixel.
      fast_dct: whether to decode as TensorFlow does, with the less exact of libjpeg's transforms.
    """
    left, top, w, h = box
    shrink = 1
    while shrink < 8 and shrink_to and min(w, h) >= 2 * shrink * shrink_to:
        shrink *= 2
    # With several scans libjpeg smooths damage, and does so differently at the border of a region.
    # Where tiles can be cut off simplejpeg is faster, as nvImageCodec gains nothing from that.
    if (shrink == 1 and jpeg.one_scan and not jpeg.tile[0] and not fast_dct
            and nvimgcodec is not None):
        return _decode_with_nvimgcodec(encoded, box)
    margin = 2 * shrink  # as chroma is interpolated between pixels
    rows = min(jpeg.height, top + h + margin) if jpeg.one_scan else jpeg.height
    around = (max(0, left - margin), max(0, top - margin), min(jpeg.width, left + w + margin), rows)
    part = (0, 0, jpeg.width, rows)
    if cut := _cut(encoded, jpeg, around):
        encoded, part = cut
    elif rows < jpeg.height:
        # simplejpeg has no option for it, but decoding ends where the image ends by its header.
        encoded = bytearray(encoded)
        struct.pack_into('>H', encoded, jpeg.at + 5, rows)
    image = np.empty((-(-part[3] // shrink), -(-part[2] // shrink), 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(encoded, fastdct=fast_dct, min_height=image.shape[0],
                               min_width=image.shape[1], buffer=image)
    except ValueError as error:
        # All rows are decoded if the last complaint is about remaining data. After any other one
        # Pillow decodes: libjpeg repairs some damage, and TurboJPEG does not report which.
        if rows == jpeg.height or 'extraneous bytes before marker' not in str(error):
            return None
    top, bottom, left, right = (
        round(edge / shrink) for edge in (top, top + h, left, left + w))
    before, above = part[0] // shrink, part[1] // shrink
    return image[top - above:bottom - above, left - before:right - before]


def _decode_with_nvimgcodec(encoded: bytes, box) -> np.ndarray | None:
    left, top, w, h = box
    # Two threads in one decoder can deadlock, and after a fork its threads are missing.
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
    # np.asarray would read __array_interface__, which leaks 32 bytes per call (0.9.0).
    return None if image is None else image.__array__()


def _import_nvimgcodec() -> Any:
    """Returns NVIDIA's nvImageCodec with its libjpeg-turbo part, or None where it is missing.

    Its other parts look for CUDA's libraries and complain on stderr if they find none, so it loads
    its parts from a folder without them.
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
