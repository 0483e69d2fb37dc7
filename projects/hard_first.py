"""The first epochs go from the hardest image to the easiest one; the others are shuffled.

The farther an image lies from the mean of its class, in pixels of a small grey picture, the harder
it is. Against the usual order of a curriculum, easy ones first: Bengio et al.,
`Curriculum Learning <https://doi.org/10.1145/1553374.1553380>`_, 2009; the distance is one of the
scores that need no trained network.

    python -m launch.train --config=configs/digits.py --config.sampler.name=projects.hard_first \\
        --config.sampler.options.epochs=2 --workdir=runs/hard_first
"""

import io

import numpy as np
from PIL import Image

from imgjax.config import Field
from imgjax.data import Source
from imgjax.samplers import Draw, shuffle

OPTIONS = {'epochs': Field(int, 0, default=1, help='how many begin with the hard images'),
           'side': Field(int, 1, 64, default=8, help='pixels of a side of the grey pictures')}


def order(source: Source, options: dict, seed: int) -> Draw:
    hard_first = np.argsort(-hardness(source, options['side']), kind='stable')

    def draw(numbers: np.ndarray) -> np.ndarray:
        epochs, places = np.divmod(numbers, len(hard_first))
        return np.where(epochs < options['epochs'], hard_first[places],
                        shuffle.draw(numbers, len(hard_first), seed))

    return draw


def hardness(source: Source, side: int) -> np.ndarray:
    """Returns the distance of each image from the mean of its class, float64 (N,).

    Raises:
      ValueError: images have several labels.
    """
    if source.multi_label:
        raise ValueError('an image has a distance from one class, and these have several labels; '
                         'take the sampler shuffle or class_balanced')
    labels = source.labels()
    pictures = np.stack([grey(source.examples[index]['image'], side)
                         for index in range(len(labels))])
    distances = np.empty(len(labels))
    for label in np.unique(labels):
        own = labels == label
        distances[own] = np.linalg.norm(pictures[own] - pictures[own].mean(0), axis=1)
    return distances


def grey(image, side: int) -> np.ndarray:
    """Returns an image, encoded or uint8 (H, W, C), as float64 (side * side,); 0 if unreadable."""
    try:
        picture = (Image.fromarray(image.squeeze()) if isinstance(image, np.ndarray)
                   else Image.open(io.BytesIO(image)))
        return np.asarray(picture.convert('L').resize((side, side)), np.float64).ravel()
    except OSError:  # such an image weighs nothing in training
        return np.zeros(side * side)
