"""What the decoded images of a split look like: hashes, descriptors, brightness, size."""

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from imgjax import data
from imgjax.data import Source, decode, records
from imgjax.errors import DataError
from imgjax.evals import duplicates, near_duplicates, odd_images
from imgjax.process import terminal

CHUNK = 32  # images that a thread reads and decodes in one go
AHEAD = 4  # chunks per core that are read ahead


class PixelTable(NamedTuple):
    """Numbers that describe the pixels of N images, each at its stored size.

    Attributes:
      hashes: uint64 (N,), of shape and pixels; 0 for an image that cannot be decoded.
      descriptors: float32 (N, D), as near_duplicates.describe returns them; zeros likewise.
      described: float32 (N, M), the values of `names_of(described_as)`.
      described_as: uint8, the packed names of these values.
      labels: int32 (N,), or float32 (N, K) of 0 and 1 where images have several labels.
      names: uint8, the packed names of the images.
      faults: uint8, the packed reasons, '' for an image that is sound.
    """

    hashes: np.ndarray
    descriptors: np.ndarray
    described: np.ndarray
    described_as: np.ndarray
    labels: np.ndarray
    names: np.ndarray
    faults: np.ndarray

    @property
    def is_sound(self) -> np.ndarray:
        """Whether an image can be decoded, bool (N,)."""
        return self.hashes != 0

    def table(self) -> dict[str, np.ndarray]:
        """Returns {name of a value: float32 (N,)}, as odd_images.odd takes them."""
        return dict(zip(records.unpacked(self.described_as), self.described.T, strict=True))


def describe(source: Source, options: dict, title: str) -> dict[str, np.ndarray]:
    """Decodes all images of a split with all cores; returns the fields of PixelTable.

    Args:
      source: the split.
      options: config.data.
      title: the description of the progress bar.

    Raises:
      DataError: no image can be decoded.
    """
    found = _each(source, options, title, _described)
    sound = next((one for one in found if not one['fault']), None)
    if sound is None:
        raise DataError(f'none of the {len(found):,} images can be decoded, first: '
                        f'{found[0]["fault"]}')
    blank, values = np.zeros_like(sound['descriptor']), list(sound['values'])
    return {
        'hashes': np.array([one['hash'] for one in found], np.uint64),
        'descriptors': np.stack([one.get('descriptor', blank) for one in found]),
        'described': np.array([[one['values'].get(name, np.nan) for name in values]
                               for one in found], np.float32),
        'described_as': records.pack_names(values),
        'labels': np.array([one['label'] for one in found],
                           np.float32 if source.multi_label else np.int32),
        'names': records.pack_names([one['name'] for one in found]),
        'faults': records.pack_names([one['fault'] for one in found])}


def faults(source: Source, options: dict, title: str) -> np.ndarray:
    """Decodes all images of a split as `describe` does; returns the packed reasons alone."""
    return records.pack_names(_each(source, options, title, lambda pixels_HWC: {},
                                    lambda one: one['fault']))


def _described(pixels_HWC: np.ndarray) -> dict:
    return {'hash': int(duplicates.pixel_hash(pixels_HWC), 16),
            'descriptor': near_duplicates.describe(pixels_HWC[None])[0],
            'values': odd_images.describe(pixels_HWC, *pixels_HWC.shape[:2])}


def _each(source: Source, options: dict, title: str, describe: Callable,
          keep: Callable = lambda one: one) -> list:
    """Returns keep(found) of each image: name, label, fault, and what `describe` returns."""
    count = len(source.examples)
    rest = iter([range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)])

    def look_at(rows: Sequence[int]) -> list:
        found = []
        for example in data.read(source, list(rows)):
            one = {'name': str(example['name']), 'label': example['label'], 'fault': '',
                   'hash': 0, 'values': {}}
            try:
                one |= describe(decode.whole(example, options))
            except decode.Unreadable as error:
                one['fault'] = str(error)
            found.append(keep(one))
        return found

    found: list = []
    with (concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads,
          terminal.progress(count, 0, 'image') as bar):
        bar.set_description(title)
        # Not threads.map: it would read the whole split ahead of a slow consumer.
        waiting = collections.deque(
            threads.submit(look_at, rows)
            for rows in itertools.islice(rest, AHEAD * (os.cpu_count() or 1)))
        while waiting:
            found += waiting.popleft().result()
            waiting.extend(threads.submit(look_at, rows) for rows in itertools.islice(rest, 1))
            bar.update(len(found) - bar.n)
    return found
