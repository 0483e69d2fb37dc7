"""Every mode that Pillow opens is right, by a rule written down, or refused with the fix."""

import doctest
import logging
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from imgjax.commands import reduce
from imgjax.data import decode, faults, ignored, modes
from imgjax.data.sources import arrays
from imgjax.errors import DataError
from tests.data.corrupt import chunk, encoded
from tests.data.test_decode import OPTIONS

LEVELS = np.arange(240, dtype=np.uint8).reshape(12, 20) + 8  # 8 to 247
COLOURS = np.stack([LEVELS, LEVELS[::-1], LEVELS[:, ::-1]], axis=-1)
ALPHA = np.where(np.arange(20) < 7, 0, 255).astype(np.uint8) * np.ones((12, 1), np.uint8)
GRAY, RGB = Image.fromarray(LEVELS), Image.fromarray(COLOURS)
RGBA = Image.fromarray(np.dstack([COLOURS, ALPHA]))
ART = Image.fromarray(np.dstack([COLOURS * 0, ALPHA]))  # black on nothing
PA = RGBA.convert('LA').convert('PA')
PA.putalpha(Image.fromarray(ALPHA))
WIDE = LEVELS.astype(np.uint16) * 257
WHITE = {'background': [255, 255, 255]}
# Pillow's own conversion rounds.
NEARLY = ('RGBa', 'CMYK')


def decoded(image, **options) -> np.ndarray:
    return decode.whole({'image': image, 'name': 'a/7'}, OPTIONS | options)


def on_white(colours: np.ndarray) -> np.ndarray:
    return np.where(ALPHA[..., None] > 0, colours, 255)


def tiff(values: np.ndarray, **tags) -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        info[{'photometric': 262}[name]] = value
    return encoded(Image.fromarray(values), 'TIFF', tiffinfo=info)


def png_of_16_bits(values: np.ndarray, transparent: bytes = b'') -> bytes:
    """Returns a PNG of uint16 (H, W, C); Pillow writes none of several channels."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in values)
    header = struct.pack('>IIBBBBB', width, height, 16, kind, 0, 0, 0)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header)
            + (chunk(b'tRNS', transparent) if transparent else b'')
            + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b''))


def tiff_of_12_bits() -> bytes:
    """Returns a TIFF of 2x1 pixels of 12 bits: 0x800 and 0xfff."""
    tags = [(256, 3, 2), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8),
            (277, 3, 1), (278, 3, 1), (279, 4, 3)]
    entries = b''.join(struct.pack('<HHII', tag, kind, 1, value) for tag, kind, value in tags)
    return (b'II*\0' + struct.pack('<I', 12) + b'\x80\x0f\xff\0' + struct.pack('<H', len(tags))
            + entries + bytes(4))


def tiff_of(values: np.ndarray, sample_format: int) -> bytes:
    """Returns a TIFF of (H, W, C) of any numbers; Pillow writes few of them.

    Args:
      values: little-endian.
      sample_format: 1 for whole numbers, 2 for signed ones, 3 for floats.
    """
    height, width, channels = values.shape
    begin = 8 + 2 + 12 * 10 + 4  # of the pixels; two lists of a number a channel come before them
    lists = [values.dtype.itemsize * 8] * channels + [sample_format] * channels
    size, pixels = struct.pack(f'<{len(lists)}H', *lists), values.tobytes()
    places = [lists[0], sample_format] if channels == 1 else [begin, begin + 2 * channels]
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, places[0]), (259, 3, 1, 1),
            (262, 3, 1, 1 if channels == 1 else 2), (273, 4, 1, begin + len(size)),
            (277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(pixels)),
            (339, 3, channels, places[1])]
    return (b'II*\0' + struct.pack('<I', 8) + struct.pack('<H', len(tags))
            + b''.join(struct.pack('<HHII', *tag) for tag in tags) + bytes(4) + size + pixels)


def ppm(values: np.ndarray, white: int, plain: bool = False) -> bytes:
    """Returns a PPM of (H, W, 3), of bytes, or of words where `plain`."""
    height, width, _ = values.shape
    words = ' '.join(map(str, values.ravel().tolist())).encode()
    return (f'P{3 if plain else 6}\n# of 65535\n{width} {height}\n{white}\n'.encode()
            + (words if plain else values.astype('>u2').tobytes()))


WIDE_COLOURS = COLOURS.astype(np.uint16) * 257
COLOURS_OF_12 = (COLOURS * np.float64(4095 / 255)).round().astype(np.uint16)
# Name -> (file, options, what it is), as RGB or gray.
RIGHT = {
    '1': (encoded(GRAY.convert('1'), 'PNG'), {}, np.asarray(GRAY.convert('1').convert('L'))),
    'L': (encoded(GRAY, 'PNG'), {}, LEVELS),
    'L, one level transparent': (encoded(GRAY, 'PNG', transparency=8), WHITE,
                                 np.where(LEVELS == 8, 255, LEVELS)),
    'LA': (encoded(RGBA.convert('LA'), 'PNG'), {}, np.asarray(RGBA.convert('L'))),
    'LA on white': (encoded(RGBA.convert('LA'), 'PNG'), WHITE,
                    on_white(np.asarray(RGBA.convert('L').convert('RGB')))),
    'La': (RGBA.convert('LA').convert('La'), WHITE,
           on_white(np.asarray(RGBA.convert('L').convert('RGB')))),
    'P': (encoded(GRAY.convert('P'), 'PNG'), {}, LEVELS),
    'P, one colour transparent': (encoded(GRAY.convert('P'), 'PNG', transparency=8), WHITE,
                                  np.where(LEVELS == 8, 255, LEVELS)),
    'P, a palette of alpha': (
        encoded(GRAY.convert('P'), 'PNG', transparency=bytes([0] * 100 + [255] * 156)), WHITE,
        np.where(LEVELS < 100, 255, LEVELS)),
    'P in a GIF': (encoded(GRAY.convert('P'), 'GIF', transparency=8), WHITE,
                   np.where(LEVELS == 8, 255, LEVELS)),
    'PA': (encoded(PA, 'TIFF'), WHITE,
           on_white(np.asarray(RGBA.convert('L').convert('RGB')))),
    'RGB': (encoded(RGB, 'PNG'), {}, COLOURS),
    'RGB, one colour transparent': (
        encoded(RGB, 'PNG', transparency=tuple(map(int, COLOURS[0, 0]))), WHITE,
        np.where((COLOURS == COLOURS[0, 0]).all(-1, keepdims=True), 255, COLOURS)),
    'RGBA': (encoded(RGBA, 'PNG'), {}, COLOURS),
    'RGBA on white': (encoded(RGBA, 'PNG'), WHITE, on_white(COLOURS)),
    'RGBA in a WebP': (encoded(RGBA, 'WEBP', lossless=True, exact=True), WHITE, on_white(COLOURS)),
    'RGBA as an array': (np.asarray(RGBA), WHITE, on_white(COLOURS)),
    'RGBa': (RGBA.convert('RGBa'), WHITE, on_white(COLOURS)),
    'RGBX': (RGB.convert('RGBX'), {}, COLOURS),
    'CMYK': (encoded(RGB.convert('CMYK'), 'TIFF'), {}, COLOURS),
    'YCbCr': (encoded(RGB.convert('YCbCr'), 'TIFF'), {},
              np.asarray(RGB.convert('YCbCr').convert('RGB'))),
    'HSV': (RGB.convert('HSV'), {}, np.asarray(RGB.convert('HSV').convert('RGB'))),
    'black art on white': (encoded(ART, 'PNG'), WHITE, on_white(COLOURS * 0)),
    'I;16': (encoded(Image.fromarray(WIDE), 'PNG'), {}, LEVELS),
    'I;16 in a TIFF': (tiff(WIDE), {}, LEVELS),
    'I;16B': (tiff(WIDE.astype('>u2')), {}, LEVELS),
    'I;16L': (Image.frombytes('I;16L', GRAY.size, WIDE.tobytes()), {}, LEVELS),
    'I;16N': (Image.frombytes('I;16N', GRAY.size, WIDE.tobytes()), {}, LEVELS),
    'I;16, 0 is white': (tiff(WIDE, photometric=0), {}, 255 - LEVELS),
    'I;16, one level transparent': (
        png_of_16_bits(WIDE[..., None], struct.pack('>H', WIDE[0, 0])), WHITE,
        np.where(LEVELS == 8, 255, LEVELS)),
    'I;16, nothing but black': (encoded(Image.fromarray(WIDE * 0), 'PNG'), {}, LEVELS * 0),
    'I;16 in a PGM': (b'P5 20 12 4095 ' + (LEVELS * np.float64(4095 / 255)).round().astype(
        '>u2').tobytes(), {'pixel_range': [0, 9]}, LEVELS),
    'F in a PFM': (b'Pf 20 12 -1.0 ' + (LEVELS[::-1] / np.float32(255)).tobytes(),
                   {'pixel_range': [0, 1]}, LEVELS),
    'I;16 in a JPEG 2000': (encoded(Image.fromarray(WIDE), 'JPEG2000'), {}, LEVELS),
    '12 bits in 16': (tiff(WIDE // 16), {'pixel_range': [0, 4095]}, LEVELS),
    '12 bits in a PGM of 16': (b'P5 20 12 65535 ' + (WIDE // 16).astype('>u2').tobytes(),
                               {'pixel_range': [0, 4095]}, LEVELS),
    '12 bits in a JPEG 2000 of 16': (encoded(Image.fromarray(WIDE // 16), 'JPEG2000'),
                                     {'pixel_range': [0, 4095]}, LEVELS),
    '12 bits in a TIFF': (tiff_of_12_bits(), {}, np.array([[128, 255]])),
    '12 bits of colour in 16': (png_of_16_bits(COLOURS.astype(np.uint16) * 257 // 16),
                                {'pixel_range': [0, 4095]}, COLOURS),
    'RGB of 16 bits': (png_of_16_bits(COLOURS.astype(np.uint16) * 257), {}, COLOURS),
    'RGBA of 16 bits': (png_of_16_bits(np.asarray(RGBA).astype(np.uint16) * 257), WHITE,
                        on_white(COLOURS)),
    'RGBA of 16 bits, its range': (png_of_16_bits(np.asarray(RGBA).astype(np.uint16) * 257),
                                   WHITE | {'pixel_range': [0, 65535]}, on_white(COLOURS)),
    'RGB of 16 bits, one transparent': (
        png_of_16_bits(COLOURS.astype(np.uint16) * 257,
                       (COLOURS[0, 0].astype(np.uint16) * 257).astype('>u2').tobytes()), WHITE,
        np.where((COLOURS == COLOURS[0, 0]).all(-1, keepdims=True), 255, COLOURS)),
    'RGB of 16 bits in a TIFF': (tiff_of(WIDE_COLOURS, 1), {}, COLOURS),
    'RGB of 16 bits in a PPM': (ppm(WIDE_COLOURS, 65535), {}, COLOURS),
    'RGB of 12 bits in a PPM': (ppm(COLOURS_OF_12, 4095), {'pixel_range': [0, 9]}, COLOURS),
    '12 bits of colour in a PPM of 16': (ppm(COLOURS_OF_12, 65535), {'pixel_range': [0, 4095]},
                                         COLOURS),
    '12 bits of colour in a plain PPM of 16': (
        ppm(COLOURS_OF_12, 65535, plain=True), {'pixel_range': [0, 4095]}, COLOURS),
    'signed bytes': (tiff_of((LEVELS.astype(int) - 128).astype(np.int8)[..., None], 2),
                     {'pixel_range': [-128, 127]}, LEVELS),
    'I': (tiff(LEVELS.astype(np.int32) * 1000 - 5), {'pixel_range': [-5, 254995]}, LEVELS),
    'F, 0 to 1': (tiff(LEVELS / np.float32(255)), {'pixel_range': [0, 1]}, LEVELS),
    'F, 0 to 4000': (tiff(LEVELS * np.float32(4000 / 255)), {'pixel_range': [0, 4000]}, LEVELS),
    'F, 0 is white': (tiff(LEVELS / np.float32(255), photometric=0), {'pixel_range': [0, 1]},
                      255 - LEVELS),
    'F, beyond its range': (tiff(LEVELS / np.float32(127.5)), {'pixel_range': [0.5, 1]},
                            np.clip(LEVELS.astype(int) * 4 - 255, 0, 255)),
}


@pytest.mark.parametrize('name', RIGHT)
@pytest.mark.parametrize('channels', [1, 3])
def test_every_mode_is_right(name, channels):
    image, options, expected = RIGHT[name]
    if expected.ndim == 2:
        expected = np.stack([expected] * 3, axis=-1)
    if channels == 1:
        expected = np.asarray(Image.fromarray(expected.astype(np.uint8)).convert('L'))[..., None]
        options = options | {'background': options.get('background', [])[:1]}
    options = OPTIONS | {'channels': channels} | options
    if isinstance(image, Image.Image):  # a mode that no file of ours has
        found = np.asarray(modes.convert(image, b'', options))
        found = found.reshape(*found.shape[:2], channels)
    else:
        found = decoded(image, **options)
    np.testing.assert_allclose(found, expected.astype(int), rtol=0,
                               atol=1 if channels == 1 or name in NEARLY else 0)


def test_the_table_has_every_mode():
    missing = {mode for mode in Image.MODES if not any(name.split(',')[0].split(' ')[0] == mode
                                                       for name in RIGHT)}
    assert missing == {'LAB'}  # below: it needs a library of colour profiles


def test_lab_is_converted():
    lab = Image.frombytes('LAB', (2, 1), bytes([0, 0, 0, 255, 0, 0]))
    for channels, options in ((3, OPTIONS), (1, OPTIONS | {'channels': 1})):
        found = np.asarray(modes.convert(lab, b'', options)).reshape(2, channels)
        np.testing.assert_allclose(found, [[0] * channels, [255] * channels], atol=2)


REFUSED = {
    'float': (tiff(LEVELS / np.float32(255)), 'float values.*config.data.pixel_range to '),
    'int32': (tiff(LEVELS.astype(np.int32)), '32-bit or signed.*config.data.pixel_range to '),
    '12 bits in 16': (tiff(WIDE // 16), r'above 3967; .*pixel_range to \(0, 4095\), or to '),
    '12 bits in a PGM of 16': (b'P5 20 12 65535 ' + (WIDE // 16).astype('>u2').tobytes(),
                               r'to \(0, 4095\), or to '),
    '12 bits in a JPEG 2000': (encoded(Image.fromarray(WIDE // 16), 'JPEG2000'),
                               r'to \(0, 4095\), or to '),
    '14 bits in a PNG': (encoded(Image.fromarray(WIDE // 4), 'PNG'), r'to \(0, 16383\), or to '),
    '8 bits in 16': (encoded(Image.fromarray(WIDE // 257), 'PNG'), r'to \(0, 255\), or to '),
    '12 bits of colour': (png_of_16_bits(COLOURS.astype(np.uint16) * 16), r'to \(0, 4095\)'),
    '8 bits of colour': (png_of_16_bits(COLOURS.astype(np.uint16)), r'to \(0, 255\)'),
    '12 bits of colour in a TIFF': (tiff_of(COLOURS_OF_12, 1), r'to \(0, 4095\)'),
    '12 bits of colour in a PPM of 16': (ppm(COLOURS_OF_12, 65535), r'to \(0, 4095\)'),
    'signed bytes': (tiff_of(LEVELS.view(np.int8)[..., None], 2), '32-bit or signed values'),
    'black art': (encoded(ART, 'PNG'), r'transparency alone; set config.data.background to \(255'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_nobody_can_know_is_refused_with_the_fix(name):
    image, words = REFUSED[name]
    with pytest.raises(decode.Unreadable, match=f'^a/7: .*{words}') as caught:
        decoded(image)
    assert caught.value.kind in decode.KINDS_OF_FIELDS and '\n' not in str(caught.value)


@pytest.mark.parametrize('image, words', [
    (tiff_of(COLOURS / np.float32(255), 3), 'a TIFF of 3 channels of 32-bit float numbers'),
    (tiff_of(COLOURS / 255, 3), 'a TIFF of 3 channels of 64-bit float numbers'),
    (tiff_of((LEVELS / 255)[..., None], 3), 'a TIFF of 1 channels of 64-bit float numbers'),
    (tiff_of(COLOURS.astype(np.int16), 2), 'a TIFF of 3 channels of 16-bit signed numbers'),
    (tiff_of(COLOURS.astype(np.uint32), 1), 'a TIFF of 3 channels of 32-bit whole numbers'),
    (b'PF 20 12 -1.0 ' + (COLOURS / np.float32(255)).tobytes(), 'a PFM of 3 channels of 32-bit'),
])
def test_numbers_that_are_not_read_are_named(image, words):
    with pytest.raises(decode.Unreadable, match=f'of unread numbers: {words}') as caught:
        decoded(image, pixel_range=[0, 1])
    assert 'save it with whole numbers of 8 or 16 bits' in str(caught.value)
    assert caught.value.kind == 'of unread numbers' and '\n' not in str(caught.value)


def test_values_that_are_not_finite_are_refused():
    values = LEVELS / np.float32(255)
    values[3, 3] = np.nan
    with pytest.raises(decode.Unreadable, match='damaged: values that are not finite'):
        decoded(tiff(values), pixel_range=[0, 1])


def test_arrays_of_other_numbers_take_the_same_range(tmp_path):
    values = np.stack([LEVELS, LEVELS[::-1]])
    np.savez(tmp_path / 'a.npz', train_images=values / 255.0, train_labels=np.arange(2))
    options = OPTIONS | {'path': str(tmp_path / 'a.npz'), 'name': 'arrays', 'options': {},
                         'held_out': 0.1}
    with pytest.raises(DataError, match='float64 .*config.data.pixel_range'):
        arrays.open_split('train', options)
    source = arrays.open_split('train', options | {'pixel_range': [0, 1]})
    np.testing.assert_array_equal(source.examples[1]['image'][..., 0], values[1])


@pytest.mark.parametrize('side', [0, 6])
def test_a_copy_has_the_pixels_of_its_options(side):
    options = OPTIONS | WHITE | {'pixel_range': [0, 1]}
    for image, kept in ((encoded(RGBA, 'PNG'), False), (tiff(LEVELS / np.float32(255)), False),
                        (encoded(RGB, 'PNG'), True)):
        copy, ending = reduce.reduce({'image': image, 'name': ''}, options, side, 100)
        assert (copy == image) == (kept and not side)
        before, after = decoded(image, **options), decoded(copy)  # as it is, without options
        if not side:
            np.testing.assert_array_equal(after, before)
        assert abs(after.mean() - before.mean()) < 4


def test_what_is_ignored_is_said_once(caplog):
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [encoded(RGB, 'JPEG'), encoded(RGB, 'JPEG', exif=exif), encoded(RGBA, 'PNG'), b'no']
    examples = [{'image': image, 'name': f'{i}.jpg'} for i, image in enumerate(files)]
    with caplog.at_level(logging.WARNING, 'imgjax'):
        ignored.look('train', examples, OPTIONS)
    assert [line.split(';')[0] for line in caplog.messages] == [
        'train: 1 of 4 images looked at carry an EXIF orientation, which is ignored (1.jpg: 6)',
        'train: 1 of 4 images looked at have transparency, which is dropped (2.jpg)']
    caplog.clear()
    with caplog.at_level(logging.WARNING, 'imgjax'):
        ignored.look('train', examples, OPTIONS | WHITE | {'exif_orientation': True})
        ignored.look('train', [{'image': np.asarray(RGBA), 'name': ''}], OPTIONS)
    assert not caplog.messages


def test_a_split_that_lacks_a_field_is_refused_before_any_work():
    right, wrong = encoded(RGBA, 'PNG'), encoded(ART, 'PNG')
    examples = [{'image': wrong, 'name': f'{i}.png'} for i in range(40)]
    with pytest.raises(decode.Unreadable, match='^0.png: .* set config.data.background to'):
        ignored.look('train', examples, OPTIONS)
    examples[::3] = [{'image': right, 'name': ''}] * 14
    ignored.look('train', examples, OPTIONS)  # not all of them
    ignored.look('train', [{'image': encoded(RGB, 'PNG'), 'name': ''}] * 39 + [
        {'image': wrong, 'name': 'icon.png'}], OPTIONS)  # it is among the share that may be bad
    with pytest.raises(DataError, match=r'\(without config.data.background: 9\), more than .*; set '
                                        'config.data.background, repair them'):
        raise DataError(faults._complaint(
            [{'file': 'a', 'kind': 'without config.data.background'}] * 9, 40, 0.01, 'PATH'))


def test_doctests():
    assert doctest.testmod(modes).failed == 0
