"""The HTML page of a card or an audit: a single file that asks the network for nothing.

`card/frame.html` is the frame, `card/<part>.html` the fragment of each part. Pictures come from the
dataset while the page is written.
"""

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from imgjax import data
from imgjax.data import decode
from imgjax.errors import DataError
from imgjax.report import page, plots
from imgjax.report.text import MISSING, number, percent
from imgjax.rundir import files

PICTURE_SIDE = 112  # pixels; larger images are scaled down to it
POINT_SIDE = 28  # of the pictures that a map shows under the pointer
PICTURE_BUDGET = 6_000_000  # base64 characters of pictures on a page
# Of the classes on a map: the series of the other pages first, then hues between them.
COLOURS = [f'var(--series-{i})' for i in range(1, 9)] + [
    f'oklch(0.68 0.15 {hue})' for hue in range(15, 360, 29)]


def write_page(path: str, *, title: str, about: dict, inputs, parts: Sequence[dict]) -> None:
    """Writes the page to `path`, which at no time is an incomplete file.

    Args:
      path: the file; its folder exists.
      title: the heading.
      about: {label: value}, what identifies the model and the data.
      inputs: card.inputs.Inputs, from whose splits the pictures are read.
      parts: dicts of name, title, question, found and findings, as card/engine.py makes them.
    """
    text = render_page(title=title, about=about, parts=parts, class_names=inputs.class_names,
                       picture=Pictures(inputs.source_of, inputs.model.setup.config.data))
    with files.replacing(path) as file:
        file.write(text)


def render_page(*, title: str, about: dict, parts: Sequence[dict], class_names: Sequence[str],
                picture: Callable | None = None) -> str:
    """Returns the page as HTML.

    Args:
      title: the heading.
      about: {label: value}.
      parts: as `write_page` takes them.
      class_names: the names of the classes, which parts name by number.
      picture: (split, index) -> what page.picture returns, or None; None for parts that have their
        pictures themselves.
    """
    environment = page.templates()
    environment.filters.update(percent=_percent, number=_number, name=lambda k: class_names[k])
    environment.globals.update(
        picture=picture, curve=_curve, sprite=getattr(picture, 'sprite', None),
        image=picture_of, colours=COLOURS)
    return environment.get_template('card/frame.html').render(
        title=title, about=[(label, value) for label, value in about.items() if value is not None],
        parts=parts, findings=[(part, finding) for kind in ('look', 'good', 'note')
                               for part in parts for finding in part['findings']
                               if finding.kind == kind])


class Pictures:
    """Pictures of examples as data URIs, each read once, as many as fit on the page."""

    def __init__(self, source_of: Callable, options: dict):
        """Takes split -> Source, and config.data."""
        self._source_of = source_of
        self._options = options
        self._known: dict[tuple[str, int], dict | None] = {}
        self._spent = 0
        self.left_out = 0

    def __call__(self, split: str, index: int) -> dict | None:
        """Returns {uri, width, height, small, name}; None when the page is full, and counts it."""
        if (split, index) not in self._known:
            self._known[split, index] = self._made(split, index)
        return self._known[split, index]

    def _made(self, split: str, index: int) -> dict | None:
        if self._spent > PICTURE_BUDGET:
            self.left_out += 1
            return None
        [example] = data.read(self._source_of(split), [index])
        pixels = self._pixels(example)
        shown = thumbnail(pixels) | {'name': str(example['name'])}
        self._spent += len(shown['uri'])
        return shown

    def _pixels(self, example: dict) -> np.ndarray:
        try:
            return decode.whole(example, self._options)
        except DataError:
            return np.zeros((8, 8, self._options['channels']), np.uint8)

    def sprite(self, split: str, indices: Sequence[int]) -> dict:
        """Returns one picture with a small square for each example, in rows of `columns`."""
        columns = 32
        rows = -(-len(indices) // columns)
        channels = self._options['channels']
        sheet = np.zeros((rows * POINT_SIDE, columns * POINT_SIDE, channels), np.uint8)
        for place, example in enumerate(data.read(self._source_of(split), list(indices))):
            square = _picture(self._pixels(example)).resize(
                (POINT_SIDE, POINT_SIDE), Image.Resampling.BOX)
            top, left = (POINT_SIDE * at for at in divmod(place, columns))
            sheet[top:top + POINT_SIDE, left:left + POINT_SIDE] = np.asarray(square).reshape(
                POINT_SIDE, POINT_SIDE, channels)
        self._spent += len(shown := picture_of(sheet)['uri'])
        return {'uri': shown, 'columns': columns, 'rows': rows, 'side': POINT_SIDE}


def thumbnail(pixels: np.ndarray) -> dict:
    """Returns what `picture_of` returns, of at most PICTURE_SIDE pixels a side."""
    return picture_of(small(pixels, PICTURE_SIDE))


def small(pixels: np.ndarray, side: int) -> np.ndarray:
    """Returns pixels, uint8 (H, W) or (H, W, C), scaled down to at most `side` pixels a side."""
    image = _picture(pixels)
    image.thumbnail((side, side))
    return np.asarray(image).reshape(image.height, image.width, *pixels.shape[2:])


def _picture(pixels: np.ndarray) -> Image.Image:
    """Returns pixels, uint8 (H, W), (H, W, 1) or (H, W, 3), as an image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def picture_of(pixels) -> dict:
    """Returns {uri, width, height, small} of pixels: uint8 (H, W), (H, W, 1) or (H, W, 3)."""
    image = _picture(np.asarray(pixels, np.uint8))
    small, content = max(image.size) < 64, io.BytesIO()
    if small:
        image.save(content, 'PNG', optimize=True)
    else:
        image.save(content, 'JPEG', quality=82)
    kind = 'png' if small else 'jpeg'
    return {'uri': f'data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}',
            'width': image.width, 'height': image.height, 'small': small, 'name': ''}


def _curve(name: str, series: dict, scale: str = 'fraction'):
    """Draws {legend: {x, y} or {x, y, low, high}} as an SVG element in CSS colours."""
    arrays = {}
    for legend, one in series.items():
        x, y = (np.asarray(one[axis], np.float64) for axis in ('x', 'y'))
        arrays[legend] = (x, y, np.asarray(one.get('low', y), np.float64),
                          np.asarray(one.get('high', y), np.float64))
    return plots.bands(arrays, name, scale)[0]


def _percent(value, digits: int = 1) -> str:
    return MISSING if value is None else percent(value, digits)


def _number(value) -> str:
    return MISSING if value is None else number(value)
