"""Images of a folder that a model should not know: --strangers."""

import concurrent.futures
import hashlib
import logging
import os
from typing import NamedTuple

import numpy as np

from imgjax.card.inputs import Inputs
from imgjax.commands import predict
from imgjax.data import ignored, image_files, left_out
from imgjax.errors import ConfigError, DataError
from imgjax.evals import ood
from imgjax.process import terminal

log = logging.getLogger('imgjax')

FLAG = '--strangers'
MOST = 2_000  # images that are read, drawn by the seed


class StrangerSet(NamedTuple):
    """Images of a folder.

    Attributes:
      images_NHWC: uint8, at the size of the model's input.
      content: a digest of the images.
      note: which images of the folder they are not, in a sentence; '' where they are all.
    """

    images_NHWC: np.ndarray
    content: str
    note: str


def files_of(path: str) -> list[str]:
    """Returns the image files below a folder, relative to it.

    Raises:
      ConfigError: it is no folder, or has no images.
    """
    path = os.path.expanduser(path)
    if not os.path.isdir(path):
        raise ConfigError(f'{FLAG}={path}: no such folder; name a folder of images that show none '
                          "of the model's classes")
    found = image_files.below(path)
    more = left_out.sentence(found.left_out)
    if not found.names:
        raise ConfigError(f'{FLAG}={path}: no images there{more and f"; {more}"}')
    return found.names


def opened(path: str, inputs: Inputs) -> StrangerSet:
    """Reads images of a folder and of all folders below it, at most MOST.

    Raises:
      ConfigError: it is no folder, has no images, or its folders are called like classes of the
        model.
      DataError: no image can be read.
    """
    names, path = files_of(path), os.path.expanduser(path)
    folders = {part for name in names for part in name.split('/')[:-1]}
    ood.check_strangers(sorted(folders), inputs.class_names)
    rows, setup, odd = inputs.subset(len(names), MOST), inputs.model.setup, []
    options = predict.reading(setup)
    with (concurrent.futures.ThreadPoolExecutor() as threads,
          terminal.progress(len(rows), 0, 'stranger') as bar):
        found = []
        for one in threads.map(lambda row: predict.read_image(
                os.path.join(path, names[row]), setup, options, odd), rows.tolist()):
            found.append(one)
            bar.update()
    ignored.warn(path, len(rows), sorted(odd), options)
    images = [one for one in found if not isinstance(one, str)]
    faults = [one for one in found if isinstance(one, str)]
    if not images:
        raise DataError(f'{FLAG}={path}: none of {len(found)} images can be read, first: '
                        f'{faults[0]}')
    note = ''
    if len(images) < len(names):
        note = (f'Of the {len(names):,} images of {path}, {len(images):,} are taken'
                + (', drawn by the seed' if len(rows) < len(names) else '')
                + (f'; {len(faults):,} cannot be read, first: {faults[0]}' if faults else '') + '.')
        log.warning('%s', note)
    images_NHWC = np.stack(images)
    return StrangerSet(images_NHWC, hashlib.sha256(images_NHWC).hexdigest()[:16], note)
