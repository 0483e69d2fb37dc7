"""Real images that some tests want; they are no part of the project.

They lie in $IMGJAX_TEST_DATA, or in ../shared/data beside the checkout.
"""

import functools
import io
import os
import pathlib
import zipfile

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = pathlib.Path(os.environ.get('IMGJAX_TEST_DATA') or ROOT.parent / 'shared' / 'data')
JPEGS, CIFAR = FOLDER / 'imagenet_sample_200.zip', FOLDER / 'cifar10_jpeg.zip'

needs_jpegs, needs_cifar = (
    pytest.mark.skipif(not path.is_file(), reason=f'{path} is not there (set IMGJAX_TEST_DATA)')
    for path in (JPEGS, CIFAR))


@functools.cache
def jpegs() -> tuple[bytes, ...]:
    """Returns 200 JPEGs of ImageNet in the order of their names, () where they are missing."""
    if not JPEGS.is_file():
        return ()
    with zipfile.ZipFile(JPEGS) as archive:
        names = sorted(n for n in archive.namelist() if n.lower().endswith(('.jpeg', '.jpg')))
        return tuple(archive.read(name) for name in names)


def photographs(count: int, height: int, width: int) -> np.ndarray:
    """Returns uint8 (count, height, width, 3), all different; else parts of scikit-learn's two."""
    if jpegs():
        pictures = [Image.open(io.BytesIO(content))
                    for content in jpegs()[::len(jpegs()) // count][:count]]
    else:
        from sklearn.datasets import load_sample_images
        whole = [Image.fromarray(pixels) for pixels in load_sample_images().images]
        pictures = [whole[i % 2].crop((x := 40 * i % 400, y := 30 * i % 200, x + 240, y + 200))
                    for i in range(count)]
    return np.stack([np.asarray(picture.convert('RGB').resize((width, height), Image.BICUBIC))
                     for picture in pictures])
