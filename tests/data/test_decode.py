"""Pixels are Pillow's whoever decodes, transforms are timm's and TensorFlow's, damage is named."""

import concurrent.futures
import copy
import functools
import io
import json
import math
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from imgjax.data import crop, decode, jpeg
from tests import real
from tests.data import corrupt
from tests.data.corrupt import chunk, encoded

OPTIONS = dict(image_size=224, channels=3, eval_crop_fraction=0.875, crop_min_area=0.08,
               train_resize='bicubic',
               eval_resize='bicubic', eval_transform='pil', exif_orientation=False,
               pixel_range=[], background=[],
               max_pixels=64_000_000, max_bytes=32 * 2**20)
AS_IS = OPTIONS | {'image_size': 0}
RAW = np.random.default_rng(0).integers(0, 255, (20, 30, 4), np.uint8)
RGB = Image.fromarray(RAW[..., :3])
NVIMGCODEC = jpeg.nvimgcodec


@pytest.fixture(params=['simplejpeg', 'nvimgcodec'])
def decoder(request, monkeypatch):
    if request.param == 'nvimgcodec' and NVIMGCODEC is None:
        pytest.skip('nvidia-nvimgcodec-cu12 is not installed')
    monkeypatch.setattr(jpeg, 'nvimgcodec', NVIMGCODEC if request.param == 'nvimgcodec' else None)


def pixels(image, size, rng=None, **options):
    return decode.pixels({'image': image, 'name': 'a/7.jpg'}, OPTIONS | options, size, rng)


def whole(image, **options):
    """Decodes a square image as it is."""
    size = decode.image_size({'image': image, 'name': ''}, AS_IS | options)[0]
    return pixels(image, size, image_size=0, **options)


def pillows(content: bytes, mode='RGB') -> Image.Image:
    return Image.open(io.BytesIO(content)).convert(mode)


def timms(image: Image.Image, size: int, fraction: float, filter) -> np.ndarray:
    """Resize(floor(size / fraction)) and CenterCrop(size) of torchvision, on a Pillow image."""
    shorter = math.floor(size / fraction)
    w, h = image.size
    size_2 = (shorter, int(shorter * h / w)) if w <= h else (int(shorter * w / h), shorter)
    left, top = (int(round((side - size) / 2.0)) for side in size_2)
    return np.asarray(image.resize(size_2, filter).crop((left, top, left + size, top + size)))


SQUARE = RGB.resize((24, 24))


@pytest.mark.parametrize('size, fraction', [(48, 1.0), (48, 0.875)])
def test_squashing_is_timms(size, fraction):
    """timm's Resize to a pair, and CenterCrop; of it TensorFlow 2 has the whole image only."""
    rng = np.random.default_rng(0)
    image_HWC = rng.integers(0, 256, (70, 101, 3), np.uint8)
    side = int(size / fraction)
    left = round((side - size) / 2)
    expected = np.asarray(Image.fromarray(image_HWC).resize((side, side), Image.BILINEAR))
    found = pixels(image_HWC, size, eval_transform='squash', eval_crop_fraction=fraction,
                   eval_resize='bilinear')
    np.testing.assert_array_equal(found, expected[left:left + size, left:left + size])
    np.testing.assert_array_equal(
        pixels(image_HWC, size, eval_transform='tf2_squash', eval_resize='bilinear'),
        crop.tf_resize(image_HWC, size, 'bilinear', half_pixel=True))


@pytest.mark.parametrize('content, mode', [
    (encoded(SQUARE, 'PNG'), 'RGB'),
    (encoded(SQUARE, 'JPEG'), 'RGB'),
    (encoded(SQUARE.convert('L'), 'JPEG'), 'L'),
    (encoded(SQUARE.convert('CMYK'), 'JPEG'), 'CMYK'),
    (encoded(SQUARE, 'WEBP'), 'RGB'),
    (encoded(SQUARE, 'BMP'), 'RGB'),
    (encoded(SQUARE, 'TIFF', compression='tiff_lzw'), 'RGB'),
    (encoded(SQUARE.quantize(8), 'GIF', save_all=True, append_images=[RGB]), 'P'),
    (encoded(SQUARE.convert('P'), 'PNG'), 'P'),
    (encoded(SQUARE.quantize(8), 'PNG', transparency=bytes(range(0, 256, 32))), 'P'),
    (encoded(SQUARE.convert('L'), 'PNG'), 'L'),
    (encoded(SQUARE.convert('1'), 'PNG'), '1'),
    (encoded(Image.fromarray(RAW[:20, :20]), 'PNG'), 'RGBA'),
    (encoded(SQUARE.convert('LA'), 'PNG'), 'LA'),
    (encoded(Image.new('RGB', (1, 1), (9, 9, 9)), 'PNG'), 'RGB'),
], ids=lambda value: value if isinstance(value, str) else '')
@pytest.mark.parametrize('channels', [1, 3])
def test_every_format_is_decoded_as_pillow_does(content, mode, channels, decoder):
    assert Image.open(io.BytesIO(content)).mode == mode
    expected = np.asarray(pillows(content, 'L' if channels == 1 else 'RGB'))
    image = whole(content, channels=channels)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, expected.reshape(*expected.shape[:2], channels))
    for resize in ('bicubic', 'bilinear', 'linear'):
        cut = pixels(content, 16, np.random.default_rng(1), channels=channels, train_resize=resize)
        assert cut.shape == (16, 16, channels) and cut.dtype == np.uint8


@pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
def test_of_16_bits_the_upper_byte_is_kept(kind):
    content = encoded(Image.fromarray(RAW[:20, :20, 0].astype(np.uint16) * 257), kind)
    np.testing.assert_array_equal(whole(content, channels=1)[..., 0], RAW[:20, :20, 0])


def test_arrays_pass_through():
    np.testing.assert_array_equal(whole(RAW[:20, :20, :3]), RAW[:20, :20, :3])
    np.testing.assert_array_equal(whole(RAW[:20, :20, :1], channels=3)[..., 2], RAW[:20, :20, 0])


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
def test_exif_orientation_is_a_choice(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(corrupt.picture(1), kind, exif=exif)
    seen = corrupt.encoded(
        Image.fromarray(np.asarray(_turned(pillows(content), orientation))), 'PNG')
    example = {'image': content, 'name': ''}
    turn = OPTIONS | {'exif_orientation': True}
    assert decode.image_size(example, turn) == pillows(seen).size
    assert decode.image_size(example, OPTIONS) == pillows(content).size
    for rng in (lambda: None, lambda: np.random.default_rng(3)):
        np.testing.assert_array_equal(pixels(content, 32, rng(), exif_orientation=True),
                                      pixels(seen, 32, rng()))
        np.testing.assert_array_equal(pixels(content, 32, rng()),
                                      pixels(encoded(pillows(content), 'PNG'), 32, rng()))


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """What each number means by EXIF 2.32, 4.6.5.1: where row 0 and column 0 are seen."""
    turns = {2: 'FLIP_LEFT_RIGHT', 3: 'ROTATE_180', 4: 'FLIP_TOP_BOTTOM', 5: 'TRANSPOSE',
             6: 'ROTATE_270', 7: 'TRANSVERSE', 8: 'ROTATE_90'}
    return image if orientation == 1 else image.transpose(
        getattr(Image.Transpose, turns[orientation]))


@functools.cache
def jpegs() -> list[bytes]:
    """Every subsampling, baseline, progressive, with restarts, gray, at odd sizes; and real ones"""
    source = np.asarray(corrupt.picture(5).resize((260, 200)))
    found = list(real.jpegs())
    for w, h in ((1, 1), (7, 9), (17, 33), (100, 75), (131, 200)):
        part = np.ascontiguousarray(source[:h, :w])
        image = Image.fromarray(part)
        for chroma in ('444', '422', '420', '440', '411'):
            found.append(simplejpeg.encode_jpeg(part, quality=85, colorsubsampling=chroma))
        for subsampling in (0, 1, 2):
            found.append(encoded(image, 'JPEG', progressive=True, subsampling=subsampling))
        found.append(encoded(image, 'JPEG', restart_marker_blocks=3))
        found.append(encoded(image.convert('L'), 'JPEG'))
    return found


def test_boxes_are_cut_out_of_what_pillow_decodes(decoder):
    """Decoding no more than a box needs leaves no trace at its border."""
    rng = np.random.default_rng(0)
    for content in jpegs():
        expected = np.asarray(pillows(content))
        height, width = expected.shape[:2]
        frame = jpeg.read_frame(content)
        assert (frame.width, frame.height) == (width, height)
        for full in (True, False):
            w, h = (width, height) if full else map(int, rng.integers(1, (width + 1, height + 1)))
            left, top = map(int, rng.integers(0, (width - w + 1, height - h + 1)))
            part = jpeg.decode(content, frame, (left, top, w, h))
            np.testing.assert_array_equal(part, expected[top:top + h, left:left + w])


@pytest.mark.parametrize('subsampling, block', [(0, (8, 8)), (1, (16, 8)), (2, (16, 16)),
                                                ('gray', (8, 8))])
def test_what_surrounds_a_box_is_cut_off_where_restart_markers_allow(subsampling, block, decoder):
    rng = np.random.default_rng(0)
    more = {} if subsampling == 'gray' else {'subsampling': subsampling}
    for size in ((131, 197), (33, 64), (160, 49)):
        image = corrupt.picture(5).resize(size).convert('L' if subsampling == 'gray' else 'RGB')
        across = -(-size[0] // block[0])
        parts = [n for n in range(1, across + 1) if not across % n]
        for blocks in (*parts, 2 * across):
            content = encoded(image, 'JPEG', restart_marker_blocks=blocks, **more)
            frame, expected = jpeg.read_frame(content), np.asarray(pillows(content))
            assert frame.tile == (min(blocks, across) * block[0],
                                  max(1, blocks // across) * block[1])
            for _ in range(25):
                w, h = (int(rng.integers(1, side + 1)) for side in size)
                left, top = int(rng.integers(size[0] - w + 1)), int(rng.integers(size[1] - h + 1))
                part = jpeg.decode(content, frame, (left, top, w, h))
                np.testing.assert_array_equal(part, expected[top:top + h, left:left + w])
                for settings in ((8, False), (0, True)):  # shrunk, and TensorFlow's transform
                    np.testing.assert_array_equal(*(
                        jpeg.decode(content, header, (left, top, w, h), *settings)
                        for header in (frame, frame._replace(tile=(0, 0)))))
            box = (size[0] - 5, 41, size[0] - 3, 46)
            cut, found = jpeg._cut(content, frame, box)
            tile_w, tile_h = frame.tile
            left = (size[0] - 5) // tile_w * tile_w
            right = min(size[0], -(-(size[0] - 3) // tile_w) * tile_w)
            assert found == (left, 41 // tile_h * tile_h, right - left, 46 - found[1])
            assert len(cut) < len(content)
            first = content.index(b'\xff\xd0', frame.data)
            without = content[:first] + content[first + 2:]
            assert jpeg._cut(without, frame, box) is None
            assert jpeg._cut(content, frame, (0, 0, *size)) is None, 'nothing to cut off'
        for blocks in {across - 1, across + 1, 2 * across + 1} - {1}:
            content = encoded(image, 'JPEG', restart_marker_blocks=blocks, **more)
            frame = jpeg.read_frame(content)
            assert frame.tile == (0, 0) and jpeg._cut(content, frame, box) is None
    assert jpeg.read_frame(encoded(image, 'JPEG')).tile == (0, 0)


def test_threads_do_not_disturb_each_other(decoder):
    one_by_one = [pixels(c, 64, np.random.default_rng(i)) for i, c in enumerate(jpegs()[-40:])]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            found = threads.map(lambda i: pixels(jpegs()[-40:][i], 64, np.random.default_rng(i)),
                                range(40))
            for a, b in zip(found, one_by_one, strict=True):
                np.testing.assert_array_equal(a, b)


BOXES = [(236, 137, 227, 188), (102, 0, 382, 372), (233, 47, 259, 254)]


def test_the_random_boxes_are_those_that_runs_began_with():
    """Golden: the draws are part of what a run is."""
    rng = np.random.Generator(np.random.Philox(key=[3, 7]))
    assert [crop.random_box(500, 375, rng) for _ in range(3)] == BOXES
    assert crop.random_box(900, 10, np.random.default_rng(0)) == (445, 0, 10, 10)


@pytest.mark.parametrize('method', ['bicubic', 'bilinear'])
def test_a_crop_is_cut_and_then_resized_as_torchvision_does(method, decoder):
    for seed, content in enumerate(jpegs()[-30:] + list(real.jpegs())[:20]):
        image = pillows(content)
        left, top, w, h = crop.random_box(*image.size, np.random.default_rng(seed))
        expected = image.crop((left, top, left + w, top + h)).resize(
            (48, 48), getattr(Image.Resampling, method.upper()))
        found = pixels(content, 48, np.random.default_rng(seed), train_resize=method)
        np.testing.assert_array_equal(found, np.asarray(expected))


def test_linear_takes_the_four_nearest_and_halves_large_jpegs(decoder):
    ramp = np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))[..., None]
    np.testing.assert_array_equal(crop.linear(ramp, 8)[0, :, 0], np.arange(8, 256, 32))
    content = encoded(corrupt.picture(3).resize((900, 700)), 'JPEG', quality=95)
    found = pixels(content, 64, np.random.default_rng(5), train_resize='linear')
    smooth = pixels(content, 64, np.random.default_rng(5), train_resize='bilinear')
    assert np.abs(found.astype(int) - smooth).mean() < 3  # half a pixel apart at most
    box, header = (8, 16, 600, 520), jpeg.read_frame(content)
    shrunk = jpeg.decode(content, header, box, 64, False)
    assert shrunk.shape == (65, 75, 3)


@pytest.mark.parametrize('size, fraction', [(224, 0.875), (160, 0.875), (299, 0.875), (96, 1.0)])
@pytest.mark.parametrize('method', ['bicubic', 'bilinear'])
@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_evaluation_is_timms(size, fraction, method, mode, monkeypatch):
    monkeypatch.setattr(jpeg, 'nvimgcodec', NVIMGCODEC)
    every = 1 if method == 'bicubic' else 5
    for content in (real.jpegs() or jpegs())[::every]:
        found = pixels(content, size, eval_crop_fraction=fraction, eval_resize=method,
                       channels=len(mode) if mode == 'L' else 3)
        expected = timms(pillows(content, mode), size, fraction,
                         getattr(Image.Resampling, method.upper()))
        np.testing.assert_array_equal(found.squeeze(), expected)


def test_size_0_resizes_only_what_has_another_size():
    content = encoded(corrupt.picture(1).resize((32, 32)), 'PNG')
    np.testing.assert_array_equal(pixels(content, 32, image_size=0), np.asarray(pillows(content)))
    np.testing.assert_array_equal(pixels(content, 16, image_size=0), pixels(content, 16))


Y, X = np.mgrid[:7, :5]
TF_IMAGE = ((37 * Y * Y + 91 * X + 53 * X * Y) % 256).astype(np.uint8)[..., None]
TF_PIXELS = {  # TensorFlow 2.21's, rounded
    ('bicubic', 'tf'): [[0, 127, 100, 82], [132, 87, 140, 191], [65, 119, 140, 43],
                        [141, 32, 171, 108]],
    ('bicubic', 'tf2'): [[17, 143, 102, 101], [142, 52, 151, 167], [80, 144, 210, 29],
                         [93, 119, 196, 129]],
    ('bilinear', 'tf'): [[0, 114, 100, 85], [120, 94, 132, 169], [78, 104, 130, 59],
                         [131, 64, 158, 107]],
    ('bilinear', 'tf2'): [[28, 130, 109, 104], [133, 67, 142, 160], [85, 135, 186, 40],
                          [96, 118, 185, 127]],
}


@pytest.mark.parametrize('method, transform', TF_PIXELS)
def test_tensorflows_resizing(method, transform):
    """Golden; tests/reference compares with TensorFlow itself."""
    found = crop.tf_resize(TF_IMAGE, 4, method, half_pixel=transform == 'tf2')
    np.testing.assert_array_equal(found[..., 0], TF_PIXELS[method, transform])


def test_tensorflows_evaluation_cuts_the_padded_middle():
    assert crop.tf_box(500, 375, 224) == (86, 24, 328, 328)
    content = encoded(corrupt.picture(2).resize((300, 200)), 'PNG')
    left, top, w, h = crop.tf_box(300, 200, 64)
    part = np.asarray(pillows(content))[top:top + h, left:left + w]
    for transform in ('tf', 'tf2'):
        found = pixels(content, 64, eval_transform=transform)
        np.testing.assert_array_equal(
            found, crop.tf_resize(part, 64, 'bicubic', transform == 'tf2'))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b''.join((corrupt.PNG_START, chunk(b'IHDR', header), *chunks,
                     chunk(b'IDAT', zlib.compress(bytes(10**7))), chunk(b'IEND', b'')))


TEXT = chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(2**20 - 8)))
SMALL = encoded(SQUARE, 'PNG')
JPEG = encoded(corrupt.picture(0), 'JPEG')
WEBP = encoded(SQUARE, 'WEBP', lossless=True)
HUGE = {  # each claims about 60,000 x 60,000 pixels, or unpacks to 100 MB of comments
    'png': png(60000, 60000),
    'png of 12000': png(12000, 12000),
    'png comments': SMALL[:33] + TEXT * 100 + SMALL[33:],
    'gif': b'GIF89a' + struct.pack('<HHBBB', 60000, 60000, 0, 0, 0) + b',' + struct.pack(
        '<HHHHB', 0, 0, 60000, 60000, 0) + b'\x08' + b'\xff\x55' * 100 + b'\0;',
    'bmp': b'BM' + struct.pack('<IIIIiiHHIIIIII', 99, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0,
                               0, 0) + bytes(1000),
    'webp': WEBP[:21] + struct.pack('<I', 16382 | 16382 << 14) + WEBP[25:],
    'jpeg': corrupt._replace(JPEG, corrupt.frame_header(JPEG) + 5, b'\xea\x60\xea\x60'),
    'tiff': (b'II*\0\x08\0\0\0\x03\0' + struct.pack('<HHII', 256, 4, 1, 60000) + struct.pack(
        '<HHII', 257, 4, 1, 60000) + struct.pack('<HHII', 259, 3, 1, 1) + bytes(4)),
}


@pytest.mark.parametrize('name', decode.FORMATS)
@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_every_format_that_is_listed_is_read(name, mode):
    gradient = np.add.outer(np.arange(20), np.arange(30))[..., None] * np.array([3, 2, 1])
    image = Image.fromarray(gradient.astype(np.uint8)).convert('RGB' if name == 'QOI' else mode)
    content = encoded(image, name)
    found = decode.whole({'image': content, 'name': ''}, OPTIONS)
    np.testing.assert_allclose(found, np.asarray(image.convert('RGB')), rtol=0,
                               atol=14 if name in ('JPEG', 'WEBP', 'AVIF') else 0)
    kind = decode.stored({'image': content, 'name': ''}).format
    assert decode.EXTENSION_OF[kind] in decode.FORMATS[name]


@pytest.mark.parametrize('content, kind', [
    (b'', 'empty'), (b'this is text', 'not an image'), (b'<html>', 'not an image'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'not an image'),
    (JPEG[:len(JPEG) // 2], 'truncated'), (JPEG[:-2], 'truncated'), (SMALL[:60], 'truncated'),
    (JPEG[:30], 'truncated'), (bytes(OPTIONS['max_bytes'] + 1), 'too many bytes'),
    (encoded(Image.new('1', (9000, 9000)), 'PNG'), 'too many pixels'),
    (encoded(Image.new('L', (1, 30000)), 'PNG'), 'too narrow'),
    (encoded(Image.new('RGB', (1, 30000)), 'JPEG'), 'too narrow'),
    (corrupt.make('scans', 0), 'too many scans'),
    *((content, 'damaged' if name in ('png comments', 'tiff') else 'too many pixels')
      for name, content in HUGE.items()),
], ids=lambda value: value if isinstance(value, str) else '')
def test_what_is_no_image_is_named(content, kind, decoder):
    for rng in (None, np.random.default_rng(0)):
        with pytest.raises(decode.Unreadable) as caught:
            pixels(content, 32, rng)
        assert caught.value.kind == kind and kind in decode.KINDS
        assert str(caught.value).startswith(f'a/7.jpg: not a readable image ({kind}: ')
        assert '; replace or remove it' in str(caught.value) and '\n' not in str(caught.value)
    again = copy.copy(caught.value)  # as it is rebuilt when it comes from another process
    assert (str(again), again.kind) == (str(caught.value), kind)


def test_limits_are_the_configs():
    with pytest.raises(decode.Unreadable, match='24x24, more than config.data.max_pixels 575'):
        pixels(SMALL, 16, max_pixels=575)
    with pytest.raises(decode.Unreadable, match=f'{len(SMALL)}, more than config.data.max_bytes 9'):
        pixels(SMALL, 16, max_bytes=9)


# Not getrusage: its peak is also that of the process which this one was forked from.
PEAK = "int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) // 1024"

# Prints its peak memory in MiB, after refusing the file named, if one is.
REFUSE = f'''
import sys
from imgjax.data import decode
for path in sys.argv[1:]:
    try:
        decode.pixels({{'image': open(path, 'rb').read(), 'name': path}}, {OPTIONS!r}, 32)
    except decode.Unreadable:
        pass
    else:
        sys.exit('decoded')
print({PEAK})
'''


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, '-W', 'error', '-c', code, *arguments], text=True,
                          cwd=real.ROOT, capture_output=True, timeout=300, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path):
    import_only = int(run(REFUSE))
    for name, content in HUGE.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert int(run(REFUSE, str(path))) - import_only < 64, name


# Of 1,000 files: what each becomes, in two ways; warnings are errors, and nothing else may escape.
DAMAGED = f'''
import collections, json
import numpy as np
from imgjax.data import decode
from tests.data import corrupt
options = {OPTIONS | {'max_pixels': 10**7}!r}
found = collections.defaultdict(collections.Counter)
for kind in corrupt.KINDS:
    for index in range(1000 // len(corrupt.KINDS)):
        example = {{'image': corrupt.make(kind, index), 'name': 'place/7.jpg'}}
        for way in (0, 1):
            rng = np.random.default_rng(index) if way else None
            try:
                options['train_resize'] = ('linear', 'bicubic')[index % 2]
                image = decode.pixels(example, options, 48, rng)
                assert image.shape == (48, 48, 3) and image.dtype == np.uint8
                found[kind]['decoded'] += 1
            except decode.Unreadable as error:
                text = str(error)
                assert text.startswith('place/7.jpg: not a readable') and '\\n' not in text
                assert len(text) < 320 and error.kind in decode.KINDS, text
                found[kind][error.kind] += 1
found['memory'] = {PEAK}
print(json.dumps(found))
'''


def test_a_thousand_damaged_files_are_decoded_or_named():
    found = json.loads(run(DAMAGED))
    assert found.pop('memory') < 700
    assert len(found) >= 12 and sum(sum(f.values()) for f in found.values()) == 2000
    for kind in ('empty', 'text', 'wrong_magic', 'components_lie', 'png_lies', 'png_comments',
                 'gif', 'scans'):
        assert 'decoded' not in found[kind], kind
    # libjpeg mends these: missing blocks become gray, wrong ones have wrong colours.
    for kind in ('truncated_with_an_end', 'zeroed', 'flipped'):
        assert found[kind]['decoded'] >= 60, kind
    assert found['metadata'] == {'decoded': 100}  # EXIF is not needed
    assert found['truncated'].get('decoded', 0) <= 4  # nothing but zeros or the end was cut off


@pytest.mark.skipif(NVIMGCODEC is None, reason='nvidia-nvimgcodec-cu12 is not installed')
def test_damaged_files_are_judged_alike_by_both_decoders(monkeypatch):
    def outcome(content, rng):
        try:
            return pixels(content, 64, rng, max_pixels=10**7)
        except decode.Unreadable as error:
            return error.kind

    for kind in ('truncated', 'truncated_with_an_end', 'zeroed', 'flipped', 'size_lies'):
        for index in range(12):
            content, both = corrupt.make(kind, index), []
            for module in (NVIMGCODEC, None):
                monkeypatch.setattr(jpeg, 'nvimgcodec', module)
                both.append([outcome(content, None), outcome(content, np.random.default_rng(1))])
            for a, b in zip(*both, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=f'{kind} {index}')


@pytest.mark.skipif(NVIMGCODEC is None, reason='nvidia-nvimgcodec-cu12 is not installed')
def test_nvimgcodec_does_not_complain_about_missing_cuda():
    code = 'from imgjax.data import decode; import os; print(sorted(os.environ))'
    done = subprocess.run([sys.executable, '-c', code], cwd=real.ROOT, capture_output=True,
                          text=True, check=True)
    assert done.stderr == '' and 'NVIMGCODEC' not in done.stdout
