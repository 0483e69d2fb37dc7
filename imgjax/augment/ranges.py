"""What numbers an operation takes: written beside each of its parameters, checked before any work.

An annotation says the range of a number, or the words that an option may be:

    def solarize(key, images_NHWC, strength: Probability, *, threshold: Byte = 128.0)
"""

import math
from typing import Annotated, Literal, NamedTuple

from imgjax.errors import nearest


class Range(NamedTuple):
    """The smallest and the largest value; either may be the name of another option.

    `meaning` says in an error what the number is.
    """

    low: float | str
    high: float | str = math.inf
    meaning: str = ''


TINY = 1e-6  # the smallest value of what must be above 0

Probability = Annotated[float, Range(0, 1, 'a probability')]
Share = Annotated[float, Range(0, 1, 'a share of the full effect')]
Alpha = Annotated[float, Range(0, meaning='alpha of a Beta distribution')]
Byte = Annotated[float, Range(0, 255, 'a pixel value')]
AtLeast0 = Annotated[float, Range(0)]
Sigma = Annotated[float, Range(TINY, 100, 'a standard deviation in pixels')]
Degrees = Annotated[float, Range(0, 360)]
Interpolation = Literal['nearest', 'bilinear']


def complaint(annotation, value, options: dict) -> str:
    """Returns what is wrong with a number or a word, such as 'takes 0 to 1, got 3', or ''.

    Args:
      annotation: of the parameter; what is neither a range nor a list of words takes everything.
      value: of the parameter.
      options: of the operation, complete, for a range that ends at another one.
    """
    words = getattr(annotation, '__args__', ()) if _is_words(annotation) else ()
    if words and value not in words:
        return f'takes {", ".join(words)}, got {value!r}{nearest(value, words)}'
    for limits in getattr(annotation, '__metadata__', ()):
        low, high = (options[end] if isinstance(end, str) else end for end in limits[:2])
        if not low <= value <= high:  # also of nan
            ends = [f'{end} ({at:g})' if isinstance(end, str) else f'{at:g}'
                    for end, at in zip(limits[:2], (low, high), strict=True)]
            meant = f' ({limits.meaning})' if limits.meaning else ''
            span = f'at least {ends[0]}' if math.isinf(high) else f'{ends[0]} to {ends[1]}'
            return f'takes {span}{meant}, got {value!r}'
        if math.isinf(value):
            return f'takes a finite number, got {value!r}'
    return ''


def _is_words(annotation) -> bool:
    return getattr(annotation, '__origin__', None) is Literal
