"""The page of predictions: each image with its answer and a map of what speaks for it."""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from imgjax import build, explain
from imgjax.card import explained as explained_lib
from imgjax.card import explanation_tests, functions
from imgjax.commands.images_for_tests import images_for_tests
from imgjax.evals import chunks
from imgjax.process import terminal
from imgjax.report import card_page, overlays

log = logging.getLogger('imgjax')

# The first of these that passes its tests on the model; where none does, the first that works.
METHODS = ('grad_cam', 'attention_gradient', 'integrated_gradients', 'occlusion')
SHOWN = 200  # images on a page
BLOCK = 64  # images that are in memory at one time


def render(workdir: str, setup: build.Setup, state, paths: Sequence[str], rows: Sequence[dict],
           read: Callable, about: dict) -> str:
    """Returns the page as HTML.

    Args:
      workdir: the run directory.
      setup: the run.
      state: TrainState on its mesh.
      paths: the image files.
      rows: of predict.predict_images, one per file.
      read: (path) -> pixels of the image as the model takes them, uint8 (H, W, C).
      about: {label: value}, what identifies the model and the images.
    """
    readable = [(path, row) for path, row in zip(paths, rows, strict=True) if not row['error']]
    model = explained_lib.of(setup, functions.of(setup, state))
    names, class_names = [], list(setup.dataset.class_names)
    tested: dict = {'methods': [], 'tested_of': ''}
    several = setup.dataset.multi_label
    shown: list[dict] = []
    with terminal.progress(min(SHOWN, len(readable)), 0, 'map') as bar:
        for part in chunks.chunks(min(SHOWN, len(readable)), BLOCK):
            images_NHWC = np.stack([read(path) for path, _ in readable[part]])
            normal_NHWC = explained_lib.normalised(model, images_NHWC)
            targets_N = np.array([
                class_names.index(row['classes'][0]) for _, row in readable[part]])
            if not shown and not several:
                tested = _chosen(model, workdir, images_NHWC)
                names = [one['name'] for one in tested['methods']]
            maps = {name: explained_lib.maps(model, name, normal_NHWC, targets_N,
                                             np.arange(len(readable))[part]) for name in names}
            for place, (_, row) in enumerate(readable[part]):
                pictures = {name: overlays.overlay(images_NHWC[place], maps[name][place],
                                                   explain.method(name).SIGNED) for name in names}
                shown.append(row | explained_lib.shown(images_NHWC[place], pictures))
                bar.update()
    if len(readable) > SHOWN:
        log.info('the page has the first %d of %s images; predictions of all are in a .csv or '
                 '.json', SHOWN, f'{len(readable):,}')
    note = 'Maps are for models with one label per image.' if several else '' if (
        tested['methods'] or not shown) else 'No method of explanation works for this model.'
    found = {'images': shown, 'note': note, 'tested': tested,
             'not_shown': len(readable) - len(shown),
             'errors': [row['error'] for row in rows if row['error']]}
    section = {'name': 'predictions', 'title': 'Predictions', 'findings': [],
               'question': 'What is on the images, and what speaks for it?', 'found': found}
    return card_page.render_page(title=f'Predictions of {setup.config.name or about["workdir"]}',
                                 about=about, parts=[section], class_names=class_names)


def _chosen(model, workdir: str, images_NHWC: np.ndarray) -> dict:
    """Returns how the chosen method does in its tests, as explanation_tests.measure returns it."""
    tests_NHWC, of = images_for_tests(workdir, model.setup, images_NHWC, 'these images')
    answers_N = explained_lib.logits_of(model.model.predict, tests_NHWC, model.size).argmax(1)
    normal_NHWC = explained_lib.normalised(model, tests_NHWC)
    found: list[dict] = []
    for name in explained_lib.usable(model, METHODS, normal_NHWC, answers_N)[0]:
        found.append({'tested_of': of} | explanation_tests.measure(
            model, [name], normal_NHWC, answers_N))
        if found[-1]['methods'][0]['verdict'] == 'passed':
            return found[-1]
    return found[0] if found else {'methods': [], 'tested_of': of}
