"""The numbers that an operation takes, annotated at its parameters and checked before any work.

An annotation gives the range of a number, or the words that an option may be:

    def solarize(key, images_NHWC, strength: Probability, *, threshold: Byte = 128.0)
"""

from typing import Annotated, Literal, NamedTuple

from imgjax.errors import nearest

SIDE = "the image's side"
_LARGEST_SIDE = 4096  # the largest side that an image can have, where its own is unknown


class Range(NamedTuple):
    """The smallest and the largest value; either may be the name of another option, or SIDE.

    `meaning` describes the number in an error.
    """

    low: float | str
    high: float | str
    meaning: str = ''


TINY = 1e-6  # the smallest value of a number that has to be above 0

Probability = Annotated[float, Range(0, 1, 'a probability')]
Share = Annotated[float, Range(0, 1, 'a share of the full effect')]
Alpha = Annotated[float, Range(0, 100, 'alpha of a Beta distribution')]
Byte = Annotated[float, Range(0, 255, 'a pixel value')]
Change = Annotated[float, Range(0, 10, 'a change of a factor that is 1')]
Pixels = Annotated[float, Range(0, SIDE, 'pixels')]
WholePixels = Annotated[int, Range(0, SIDE, 'pixels')]
Few = Annotated[int, Range(1, 100, 'how many')]
Sigma = Annotated[float, Range(TINY, 100, 'a standard deviation in pixels')]
Degrees = Annotated[float, Range(0, 360)]
Interpolation = Literal['nearest', 'bilinear']


def complaint(annotation, value, options: dict) -> str:
    """Returns what is wrong with a number or a word, such as 'takes 0 to 1, got 3', or ''.

    Args:
      annotation: that of the parameter; without a range or a list of words every value is right.
      value: the value of the parameter.
      options: all options of the operation, for ranges that end at another option, and SIDE if it
        is known.
    """
    words = getattr(annotation, '__args__', ()) if _is_words(annotation) else ()
    if words and value not in words:
        return f'takes {", ".join(words)}, got {value!r}{nearest(value, words)}'
    for limits in getattr(annotation, '__metadata__', ()):
        low, high = ({SIDE: _LARGEST_SIDE, **options}[end] if isinstance(end, str) else end
                     for end in limits[:2])
        if not low <= value <= high:  # also of nan
            ends = [f'{end} ({at:g})' if isinstance(end, str) else f'{at:g}'
                    for end, at in zip(limits[:2], (low, high), strict=True)]
            meant = f' ({limits.meaning})' if limits.meaning else ''
            return f'takes {ends[0]} to {ends[1]}{meant}, got {value!r}'
    return ''


def _is_words(annotation) -> bool:
    return getattr(annotation, '__origin__', None) is Literal
