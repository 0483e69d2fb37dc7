"""Damaged image files of many kinds, the same at every call: `make(kind, index) -> bytes`.

Made of real JPEGs where there are some (tests/real.py), else of generated pictures.
"""

import functools
import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

from tests import real

PNG_START = b'\x89PNG\r\n\x1a\n'


@functools.cache
def picture(index: int) -> Image.Image:
    """Returns an RGB picture of about 60 to 130 pixels a side."""
    rng = np.random.default_rng(index)
    height, width = rng.integers(60, 130, 2)
    coarse = rng.integers(0, 256, (6, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@functools.cache
def jpeg(index: int) -> bytes:
    """Returns a sound JPEG; every third is generated, of which every other one is progressive."""
    if real.jpegs() and index % 3:
        return real.jpegs()[index % len(real.jpegs())]
    return encoded(picture(index), 'JPEG', quality=60 + index % 36, subsampling=index % 4 % 3,
                   progressive=index % 2 == 1)


def chunk(name: bytes, content: bytes) -> bytes:
    """Returns a PNG chunk with its length and checksum."""
    checksum = zlib.crc32(name + content)
    return struct.pack('>I', len(content)) + name + content + struct.pack('>I', checksum)


def frame_header(data: bytes) -> int:
    """Returns where the SOF marker of a JPEG lies."""
    at = 2
    while data[at + 1] not in (0xC0, 0xC1, 0xC2):
        at += 2 + int.from_bytes(data[at + 2:at + 4])
    return at


def scan(data: bytes) -> int:
    """Returns where the entropy-coded data of a JPEG's first scan begins."""
    at = data.index(b'\xff\xda', frame_header(data))
    return at + 2 + int.from_bytes(data[at + 2:at + 4])


def _replace(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new):]


def truncated(rng, index):
    data = jpeg(index)
    return data[:rng.choice((2, 3, 11, 100, 500, len(data) - 2, len(data) - 1,
                             rng.randrange(len(data)), rng.randrange(scan(data), len(data))))]


def truncated_with_an_end(rng, index):
    data = jpeg(index)
    return data[:rng.randrange(scan(data), len(data) - 2)] + b'\xff\xd9'


def zeroed(rng, index):
    data = jpeg(index)
    at = rng.randrange(scan(data), len(data) - 2)
    return _replace(data, at, bytes(min(rng.randrange(16, 4096), len(data) - 2 - at)))


def flipped(rng, index):
    data = bytearray(jpeg(index))
    for _ in range(rng.randrange(1, 20)):
        data[rng.randrange(scan(data), len(data) - 2)] ^= 1 << rng.randrange(8)
    return bytes(data)


def flipped_header(rng, index):
    data = bytearray(jpeg(index))
    first = scan(data)
    for _ in range(rng.randrange(1, 6)):
        data[rng.randrange(2, first)] ^= 1 << rng.randrange(8)
    return bytes(data)


def wrong_magic(rng, index):
    return bytes(rng.randrange(128) for _ in range(rng.randrange(1, 4))) + jpeg(index)[3:]


def empty(rng, index):
    return b''


def text(rng, index):
    return rng.choice((
        b'<!DOCTYPE html><html><title>404 Not Found</title></html>', b'\n', b'\0' * 1000,
        b'{"error": "quota"}', b'version https://git-lfs.github.com/spec/v1\noid sha256:12\n',
        b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', b'GIF8', b'RIFF', b'BM', b'\xff\xd8'))


def size_lies(rng, index):
    data = jpeg(index)
    size = rng.choice(((65535, 65535), (0, 0), (0, 100), (65500, 4), (1, 60000), (3, 3),
                       (5000, 5000)))
    return _replace(data, frame_header(data) + 5, struct.pack('>HH', *size))


def components_lie(rng, index):
    data = jpeg(index)
    return _replace(data, frame_header(data) + 9, bytes([rng.choice((0, 1, 2, 4, 200))]))


def cut_png(rng, index):
    data = encoded(picture(index), 'PNG')
    return data[:rng.choice((8, 20, 33, len(data) - 12, len(data) - 1, rng.randrange(len(data))))]


def bad_png_checksum(rng, index):
    data = encoded(picture(index), 'PNG')
    at = rng.choice((29, data.index(b'IDAT') + rng.randrange(4, 200), len(data) - 2))
    return _replace(data, at, bytes([data[at] ^ 0x55]))


def png_lies(rng, index):
    width, height = rng.choice(((60000, 60000), (0, 5), (2**31 - 1, 1), (7000, 7000)))
    head = struct.pack('>IIBBBBB', width, height, rng.choice((8, 16, 3)), rng.choice((2, 0, 3, 9)),
                       0, 0, 0)
    return (PNG_START + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(bytes(10000)))
            + chunk(b'IEND', b''))


def png_comments(rng, index):
    comment = chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(2**20 - 8)))
    data = encoded(picture(index), 'PNG')
    return data[:33] + comment * 100 + data[33:]


def gif(rng, index):
    data = encoded(picture(index).quantize(16), 'GIF')
    image = data.index(b',', 13 + 48)
    return rng.choice((data[:13], data[:image] + b';', data[:image + 5], data[:len(data) // 2],
                       data[:6] + b'\xff' * 4 + data[10:image + 5] + b'\xff' * 4 + data[image + 9:],
                       _replace(data, image + 11, b'\xff' * 20)))


def bmp(rng, index):
    data = encoded(picture(index), 'BMP')
    at, new = rng.choice(((10, b'\xff\xff\xff\x7f'), (10, b'\0\0\0\0'), (14, b'\x03\0\0\0'),
                          (18, b'\xff\xff\xff\x7f'), (22, b'\0\0\0\x80'), (28, b'\x07\0'),
                          (30, b'\x01\0\0\0')))
    return rng.choice((_replace(data, at, new), data[:rng.randrange(2, len(data))]))


def webp(rng, index):
    data = encoded(picture(index), 'WEBP', lossless=index % 2 == 0, quality=50)
    at = rng.randrange(12, len(data))
    return rng.choice((data[:at], _replace(data, at, bytes([data[at] ^ 0xFF])),
                       _replace(data, 24, b'\xff' * 6)))


def tiff(rng, index):
    data = encoded(picture(index), 'TIFF', compression=rng.choice((None, 'tiff_lzw', 'jpeg')))
    if index % 2:
        return data[:rng.randrange(4, len(data))]
    for _ in range(4):
        at = rng.randrange(4, len(data))
        data = _replace(data, at, bytes([rng.randrange(256)]))
    return data


def metadata(rng, index):
    """Broken EXIF in a sound image."""
    exif = b'Exif\0\0' + rng.choice((b'', b'MM\0*', b'II*\0\x08\0\0\0\xff\xff' + bytes(40),
                                     b'II*\0\xff\xff\xff\x7f'))
    data = jpeg(index)
    return data[:2] + b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif + data[2:]


def scans(rng, index):
    """A progressive JPEG that repeats its last scan thousands of times."""
    data = encoded(picture(index), 'JPEG', progressive=True)
    last = data.rindex(b'\xff\xda')
    return data[:-2] + data[last:-2] * 5000 + b'\xff\xd9'


KINDS = {function.__name__: function for function in (
    truncated, truncated_with_an_end, zeroed, flipped, flipped_header, wrong_magic, empty, text,
    size_lies, components_lie, cut_png, bad_png_checksum, png_lies, png_comments, gif, bmp, webp,
    tiff, metadata, scans)}


def make(kind: str, index: int) -> bytes:
    """Returns the damaged file number `index` of a kind of KINDS."""
    return KINDS[kind](random.Random(f'{kind} {index}'), index)
