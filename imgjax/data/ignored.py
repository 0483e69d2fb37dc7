"""What images carry that a config ignores: an EXIF orientation, transparency. Said once a split."""

import concurrent.futures
import logging
from collections.abc import Iterable

import numpy as np

from imgjax.data import decode
from imgjax.errors import DataError

log = logging.getLogger('imgjax')

LOOKED_AT = 256  # images of a split, spread over it, at most; only their headers are decoded


def warn(split: str, examples, options: dict) -> None:
    """Logs how many images of a split carry what these options ignore, with an example.

    Args:
      split: its name.
      examples: of a Source.
      options: plain config['data'].
    """
    count = len(examples)
    picked = np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(int))
    first = _read(examples, 0)
    if first and isinstance(first['image'], np.ndarray):
        return  # arrays carry neither
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda index: of(_read(examples, int(index)), options), picked))
    say(f'{split}: ', found, options)


def of(example: dict | None, options: dict) -> tuple[str, int, bool]:
    """Returns (name, EXIF orientation that is ignored or 1, whether transparency is dropped)."""
    try:
        stored = decode.stored(example) if example else None
    except DataError:
        stored = None
    if stored is None:  # unreadable, which is said where it is decoded
        return '', 1, False
    return (example['name'], 1 if options['exif_orientation'] else stored.orientation,
            stored.transparent and not options['background'])


def say(before: str, found: Iterable[tuple[str, int, bool]], options: dict) -> None:
    """Logs one line for each of the two that something in `found`, rows of `of`, has."""
    found = list(found)
    turned = [(name, orientation) for name, orientation, _ in found if orientation > 1]
    if turned:
        log.warning('%s%d of %d images looked at carry an EXIF orientation, which is ignored '
                    '(%s: %d); config.data.exif_orientation=True turns them upright',
                    before, len(turned), len(found), *turned[0])
    transparent = [name for name, _, dropped in found if dropped]
    if transparent:
        ground = ', '.join(['255'] * options['channels'])
        log.warning('%s%d of %d images looked at have transparency, which is dropped (%s); '
                    'config.data.background=(%s%s) puts them on white', before, len(transparent),
                    len(found), transparent[0], ground, ',' if options['channels'] == 1 else '')


def _read(examples, index: int) -> dict | None:
    try:
        return examples[index]
    except (DataError, OSError):
        return None
