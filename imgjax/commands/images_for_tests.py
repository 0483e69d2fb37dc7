"""The images on which explanations are tested: of the run's dataset, where it is at hand."""

import logging

import numpy as np

from imgjax.card import explanation_tests, functions
from imgjax.commands import evaluation_data
from imgjax.errors import ConfigError, DataError

log = logging.getLogger('imgjax')


def images_for_tests(workdir: str, setup, given_NHWC: np.ndarray,
                     given: str) -> tuple[np.ndarray, str]:
    """Returns images, uint8 (N, H, W, C), and where they are from.

    Of the evaluation split they are spread evenly over its length. Where the split cannot be
    opened, which is said, they are the first of those that are explained.

    Args:
      workdir: the run directory.
      setup: the run.
      given_NHWC: the images that are explained, uint8.
      given: what these are called.
    """
    options = setup.config.data
    try:
        with evaluation_data.quietly():
            source = evaluation_data.own_split(
                workdir, options, options, setup.dataset, options.eval_split)
        rows = np.unique(np.linspace(0, len(source.examples) - 1, explanation_tests.IMAGES).round())
        return functions.images(setup, source, rows.astype(int)), options.eval_split
    except (ConfigError, DataError) as error:
        log.info('the methods are tested on the images that are explained, as the dataset of the '
                 'run is not at hand: %s', error)
        return given_NHWC[:explanation_tests.IMAGES], given
