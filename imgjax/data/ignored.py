"""Looks at a few images of a split before a run.

It warns of an EXIF orientation or transparency that the config ignores, and refuses a config that
lacks a field which all of these images need.
"""

import concurrent.futures
import logging

import numpy as np

from imgjax.data import decode
from imgjax.errors import DataError

log = logging.getLogger('imgjax')

LOOKED_AT = 256  # the most images of a split, spread over it, whose headers are read
_DECODED = 8  # how many of those with more than 8 bits per channel or transparency are decoded


def look(split: str, examples, options: dict) -> None:
    """Logs how many images of a split have what these options ignore, with an example.

    Args:
      split: the name of the split.
      examples: those of a Source.
      options: config.data.

    Raises:
      Unreadable: every image that was looked at needs pixel_range or background, and the config
        lacks it; the error is that of the first.
    """
    count = len(examples)
    picked = np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(int))
    first = _read(examples, 0)
    if first and isinstance(first['image'], np.ndarray):
        return  # arrays carry neither
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda index: header(_read(examples, int(index))), picked))
    odd = [index for index, (_, stored) in zip(picked, found, strict=True)
           if stored and (stored.more_than_bytes or stored.transparent)]
    if len(odd) == sum(stored is not None for _, stored in found):
        _check(examples, odd[::1 + len(odd) // _DECODED], options)
    warn(f'{split}: ', len(found), found, options)


def header(example: dict | None) -> tuple[str, decode.Stored | None]:
    """Returns (name, how it is stored), or ('', None) for an unreadable image."""
    try:
        return (example['name'], decode.stored(example)) if example else ('', None)
    except DataError:
        return '', None


def warn(before: str, count: int, found: list[tuple[str, decode.Stored | None]],
        options: dict) -> None:
    """Logs a line on ignored EXIF orientations and one on ignored transparency.

    Args:
      before: the beginning of the line.
      count: how many images were looked at.
      found: what `header` returned for them, or for those with either.
      options: config.data.
    """
    turned = [(name, stored.orientation) for name, stored in found
              if stored and stored.orientation > 1]
    if turned and not options['exif_orientation']:
        log.warning('%s%d of %d images looked at carry an EXIF orientation, which is ignored '
                    '(%s: %d); config.data.exif_orientation=True turns them upright',
                    before, len(turned), count, *turned[0])
    transparent = [name for name, stored in found if stored and stored.transparent]
    if transparent and not options['background']:
        ground = (255,) * options['channels']
        log.warning('%s%d of %d images looked at have transparency, which is dropped (%s); '
                    'config.data.background=%s puts them on white', before, len(transparent),
                    count, transparent[0], ground)


def _check(examples, indices: list[int], options: dict) -> None:
    """Raises Unreadable if each of these images needs a field that the config lacks."""
    complaints = []
    for index in indices:
        try:
            decode.whole(examples[int(index)], options)
        except decode.Unreadable as error:
            if error.kind in decode.KINDS_OF_FIELDS:
                complaints.append(error)
    if complaints and len(complaints) == len(indices):
        raise complaints[0]


def _read(examples, index: int) -> dict | None:
    try:
        return examples[index]
    except (DataError, OSError):
        return None
