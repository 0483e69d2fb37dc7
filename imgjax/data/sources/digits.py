"""scikit-learn's handwritten digits as a TFDS dataset: 1,797 scans of 8x8, bundled, no download.

Test data of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits" (UCI, 1998).
"""

import contextlib
import fcntl
import io
import logging
import os

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from imgjax.data import Source, source_options
from imgjax.data.sources import tfds as tfds_source

log = logging.getLogger('imgjax')


class ImgjaxDigits(tfds.core.GeneratorBasedBuilder):
    """8x8 handwritten digits; every fifth scan of each class is the test split."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict({
                'image': tfds.features.Image(shape=(8, 8, 1), encoding_format='png'),
                'label': tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
            }),
            supervised_keys=('image', 'label'),
            homepage='https://archive.ics.uci.edu/dataset/80',
        )

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(False), 'test': self._generate_examples(True)}

    def _generate_examples(self, held_out: bool):
        from sklearn.datasets import load_digits  # takes 2 s to import, at the first start only

        digits = load_digits()
        seen = np.zeros(10, int)
        for index, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            seen[label] += 1
            if (seen[label] % 5 == 0) == held_out:
                pixels = np.rint(image * (255 / 16)).astype(np.uint8)  # 0 to 16 levels of ink
                encoded = io.BytesIO()
                # TFDS would need TensorFlow to encode an array; it takes encoded bytes as they are.
                Image.fromarray(pixels).save(encoded, 'PNG')
                yield index, {'image': encoded.getvalue(), 'label': int(label)}


def open_split(split: str, options: dict) -> Source:
    """Opens 'train' (1,442 images) or 'test' (355), and prepares the files if they are missing."""
    source_options(options)
    place = tfds_source.data_dir(options)
    os.makedirs(place, exist_ok=True)
    # Two first runs at the same time must not both prepare the files, which takes 0.5 s.
    with open(os.path.join(place, 'imgjax_digits.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        builder = ImgjaxDigits(data_dir=place, file_format='array_record')
        if not builder.info.splits:
            log.info('preparing the digits that come with scikit-learn in %s', place)
            tfds.disable_progress_bar()
            # Its text says that a dataset is downloaded, and stdout is for results.
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare()
    return tfds_source.open_builder(builder, split, options)
