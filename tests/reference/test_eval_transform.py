"""The evaluation's transforms against TensorFlow itself, on real JPEGs; skipped where it is not."""

import numpy as np
import pytest

from imgjax.data import crop, decode
from tests import real

tf = pytest.importorskip('tensorflow')

OPTIONS = dict(image_size=224, channels=3, eval_crop_fraction=0.875, crop_min_area=0.08,
               train_resize='bicubic',
               eval_resize='bicubic', eval_transform='tf', exif_orientation=False,
               pixel_range=[], background=[],
               max_pixels=64_000_000, max_bytes=32 * 2**20)
V1 = {'bicubic': tf.compat.v1.image.resize_bicubic, 'bilinear': tf.compat.v1.image.resize_bilinear}


def resized(image, size: int, method: str, transform: str) -> np.ndarray:
    """Returns TensorFlow's floats, cut to 0 ... 255 as ours are."""
    if transform == 'tf':
        image = V1[method]([image], [size, size])[0]
    else:
        image = tf.image.resize(image, [size, size], method)
    return np.clip(image.numpy(), 0, 255)


def window(encoded: bytes, size: int) -> list[int]:
    height, width, _ = tf.io.extract_jpeg_shape(encoded).numpy()
    side = tf.cast(size / (size + 32) * tf.cast(min(height, width), tf.float32), tf.int32).numpy()
    return [(height - side + 1) // 2, (width - side + 1) // 2, side, side]


@real.needs_jpegs
@pytest.mark.parametrize('size', [224, 160, 299])
def test_pixels_are_tensorflows(size):
    for i, encoded in enumerate(real.jpegs()):
        top, left, h, w = window(encoded, size)
        image = tf.image.decode_jpeg(encoded, channels=3)[top:top + h, left:left + w]
        for transform in ('tf', 'tf2'):
            for method in ('bicubic', 'bilinear'):
                options = OPTIONS | {'eval_resize': method, 'eval_transform': transform}
                ours = decode.pixels({'image': encoded, 'name': str(i)}, options, size)
                difference = np.abs(ours - resized(image, size, method, transform))
                assert difference.max() <= 0.51, i  # half a level is our rounding to uint8


@real.needs_jpegs
def test_only_the_outermost_columns_differ_from_the_fused_decode_and_crop():
    """decode_and_crop_jpeg interpolates no chroma from beyond some of its windows' edges."""
    differing = 0
    for encoded in real.jpegs():
        top, left, h, w = window(encoded, 224)
        cut = tf.image.decode_and_crop_jpeg(encoded, [top, left, h, w], channels=3).numpy()
        options = OPTIONS | {'image_size': 0, 'eval_transform': 'pil'}
        header = decode._read_header({'image': encoded, 'name': ''}, options)
        ours = decode._decode({'image': encoded, 'name': ''}, options, header, (left, top, w, h),
                              fast_dct=True)
        np.testing.assert_array_equal(cut[:, 1:-1], ours[:, 1:-1])
        differing += not np.array_equal(cut, ours)
        assert np.abs(cut.astype(int) - ours).max() <= 16
    assert differing <= 0.1 * len(real.jpegs())


@pytest.mark.parametrize('transform', ['tf', 'tf2'])
@pytest.mark.parametrize('method', ['bicubic', 'bilinear'])
@pytest.mark.parametrize('shape', [(7, 5), (1, 1), (2, 3), (31, 64), (300, 200)])
def test_resizing_is_tensorflows_also_upwards(shape, method, transform):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    ours = crop.tf_resize(image, 32, method, transform == 'tf2')
    assert np.abs(ours - resized(image, 32, method, transform)).max() <= 0.51
