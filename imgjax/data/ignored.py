"""What a few images of a split say before a run: what they carry and a config ignores (an EXIF
orientation, transparency), and whether it lacks a field that all of them need."""

import concurrent.futures
import logging

import numpy as np

from imgjax.data import decode
from imgjax.errors import DataError

log = logging.getLogger('imgjax')

LOOKED_AT = 256  # images of a split, spread over it, at most; only their headers are decoded


_DECODED = 8  # of those that are not 8 bits a channel, or transparent


def look(split: str, examples, options: dict) -> None:
    """Logs how many images of a split carry what these options ignore, with an example.

    Args:
      split: its name.
      examples: of a Source.
      options: plain config['data'].

    Raises:
      Unreadable: all images that need pixel_range or background lack it; the first one.
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
    _check(examples, odd[::1 + len(odd) // _DECODED], options)
    say(f'{split}: ', len(found), found, options)


def header(example: dict | None) -> tuple[str, decode.Stored | None]:
    """Returns (name, how it is stored); what is unreadable is said where it is decoded."""
    try:
        return (example['name'], decode.stored(example)) if example else ('', None)
    except DataError:
        return '', None


def say(before: str, count: int, found: list[tuple[str, decode.Stored | None]],
        options: dict) -> None:
    """Logs one line for each of the two that images have and `options` ignore.

    Args:
      before: what the line begins with.
      count: of images looked at.
      found: of `header`, of all of these or of those that have either.
      options: plain config['data'].
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
    """Raises Unreadable where each of these images lacks a field of the config."""
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
