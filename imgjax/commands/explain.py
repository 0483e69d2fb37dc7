"""Explains the answers of a run on image files: maps, pictures and one page."""

import contextlib
import json
import logging
import os
import re

import numpy as np
from PIL import Image

from imgjax import explain
from imgjax.card import explained as explained_lib
from imgjax.card import explanation_tests, forward, functions
from imgjax.card.explained import Explained
from imgjax.card.parts import explanations
from imgjax.commands import predict, run_directory
from imgjax.commands.images_for_tests import images_for_tests
from imgjax.data import ignored, records
from imgjax.errors import ConfigError, DataError, nearest
from imgjax.evals import answers as answers_lib
from imgjax.evals import chunks
from imgjax.process import terminal
from imgjax.report import card_page, overlays
from imgjax.rundir import metrics_log, outputs

log = logging.getLogger('imgjax')

_COMMAND = 'launch.explain'
SHOWN = 60  # images on the page
BLOCK = 64  # images that are in memory at one time
LONGEST = 80  # characters of an image's name in that of a picture


def explain_images(workdir: str, images: str, methods: str = '', target: str = '',
                   output: str = 'explanations', at: int | str | None = None, layer: str = '',
                   seed: int = 0) -> dict:
    """Writes maps of image files by several methods, with the tests of these methods.

    The folder has explain.html, explain.json (answers and tests), maps/<method>.npy, float32
    (N, H, W), and overlays/<pictures>_<method>.png. Rows are those of explain.json, which also has
    `pictures`, the beginning of the names of an image's pictures. What an earlier call left is
    removed.

    Args:
      workdir: the run directory; only its config, class names and checkpoint are read.
      images: a file, a folder or a glob, as predict.predict_images takes it.
      methods: names of explain.METHODS, separated by ','; '' takes the usual ones that work for
        this model, 'all' all that do.
      target: the class that is explained; '' takes the answer of the model for each image.
      output: the folder, new, empty or written by this command.
      at: the step, as `which_step` takes it; None takes the newest step that verifies.
      layer: the intermediate that class activation maps take; '' takes the last with positions.
      seed: decides all random numbers.

    Returns images, methods, left_out, output, page, step, workdir and state_digest.

    Raises:
      ConfigError: a flag is wrong, or a named method does not work for the model.
      DataError: images could not be read, or the checkpoint cannot be used.
    """
    named = check_methods(methods)
    workdir, output = outputs.path('workdir', workdir), outputs.path('output', output)
    own = outputs.check_folder('output', output, _COMMAND)
    paths = predict.list_images(os.path.expanduser(images))
    setup = run_directory.open_run(workdir)
    number = _check_model(setup, workdir, target, layer, named)
    state, meta = run_directory.restore(setup, workdir, run_directory.which_step(
        setup, workdir, at))
    model = explained_lib.of(setup, functions.of(setup, state), layer, seed)
    paths, failed = _readable(model, paths)
    images_NHWC = _read(model, paths[:BLOCK])
    names, refused = explained_lib.usable(
        model, named or (explain.METHODS if methods == 'all' else explained_lib.USUAL),
        explained_lib.normalised(model, images_NHWC),
        _targets(_answers(model, images_NHWC), number))
    if refused and (named or not names):
        name, why = next(iter(refused.items()))
        raise ConfigError(f'--method={name}: {why}')
    for name, why in refused.items():
        log.info('%s is left out: %s', name, why)
    tests_NHWC, of = images_for_tests(workdir, setup, images_NHWC, 'the given images')
    answers_N = explained_lib.logits_of(model.model.predict, tests_NHWC, model.size).argmax(1)
    tested = explanation_tests.measure(
        model, names, explained_lib.normalised(model, tests_NHWC), answers_N)
    with outputs.filling(output, _COMMAND, own) as folder:
        found = tested | {'tested_of': of, 'images': _write(model, folder, paths, names, number)}
        found |= {'left_out': [{'name': name, 'why': why} for name, why in refused.items()],
                  'failed_images': failed,
                  'heading': f'{len(paths):,} image{"" if len(paths) == 1 else "s"}'}
        about = {'workdir': os.path.abspath(workdir), 'step': meta['step'], 'images': len(paths),
                 'explained_class': target or None, 'state_digest': meta['state_digest']}
        _write_page(folder, setup, found, about)
        written = {os.path.relpath(os.path.join(place, name), folder)
                   for place, _, files in os.walk(folder) for name in files}
    _remove_older(output, own, written)
    if failed:
        raise DataError(f'{len(failed)} of {len(paths) + len(failed)} images could not be read, '
                        f'first: {failed[0]}; the others are in {output}')
    return {'images': len(paths), 'methods': names, 'left_out': list(refused),
            'failed_tests': [one['name'] for one in found['methods']
                             if one['verdict'] == 'failed'],
            'output': os.path.abspath(output),
            'page': os.path.abspath(os.path.join(output, 'explain.html')), 'step': meta['step'],
            'workdir': os.path.abspath(workdir), 'state_digest': meta['state_digest']}


def _check_model(setup, workdir: str, target: str, layer: str, named: list[str]) -> int | None:
    """Returns the number of the class --target, None for ''; checks the flags by the model.

    Raises:
      ConfigError: there is no such class or layer, nothing reads --layer, or images have several
        labels.
    """
    if setup.dataset.multi_label:
        raise ConfigError(f'--workdir={workdir}: explanations are for models with one label per '
                          'image, and this one has several')
    names = list(setup.dataset.class_names)
    if target and target not in names:
        raise ConfigError(f'--target: the model has no class {target!r}{nearest(target, names)}')
    if layer:
        forward.check_layer(setup, layer)
        if named and not set(named) & set(explain.CAMS):
            raise ConfigError(f'--layer={layer}: is read by {", ".join(explain.CAMS)}, none of '
                              'which --method names')
    return names.index(target) if target else None


def check_methods(methods: str) -> list[str]:
    """Returns the methods that are named, in the order of explain.METHODS; [] for '' and 'all'.

    Raises:
      ConfigError: there is no such method.
    """
    if methods in ('', 'all'):
        return []
    named = [name.strip() for name in methods.split(',') if name.strip()]
    for name in named:
        explain.method(name)
    return [name for name in explain.METHODS if name in named]


def _readable(model: Explained, paths: list[str]) -> tuple[list[str], list[str]]:
    """Returns the paths of the images that can be read, and why each of the others cannot be."""
    good, failed, odd = [], [], []
    options = predict.reading(model.setup)
    with terminal.progress(len(paths), 0, 'image') as bar:
        for path in paths:
            found = predict.read_image(path, model.setup, options, odd)
            if isinstance(found, str):
                failed.append(found)
            else:
                good.append(path)
            bar.update()
    ignored.warn('', len(paths), sorted(odd), options)
    if not good:
        raise DataError(f'none of {len(paths)} images could be read, first: {failed[0]}')
    return good, failed


def _read(model: Explained, paths: list[str]) -> np.ndarray:
    """Returns images as the model takes them, uint8 (N, H, W, C)."""
    options = predict.reading(model.setup)
    return np.stack([predict.read_again(path, model.setup, options) for path in paths])


def _answers(model: Explained, images_NHWC: np.ndarray) -> answers_lib.Predictions:
    """Returns the answers on images in 0 to 255; their labels are not known, and not read."""
    logits_NK = explained_lib.logits_of(model.model.predict, images_NHWC, model.size)
    return answers_lib.answer(logits_NK, np.zeros(len(logits_NK), np.int32))


def _targets(answers: answers_lib.Predictions, target: int | None) -> np.ndarray:
    """Returns the class of each image that is explained."""
    return answers.predictions_N if target is None else np.full_like(answers.predictions_N, target)


def _remove_older(output: str, own: list[str], written: set[str]) -> None:
    """Removes maps and pictures that an earlier call wrote and this one did not."""
    for name in own:
        folder, _, file = name.partition('/')
        if (folder in ('maps', 'overlays') and name not in written and '/' not in file
                and not os.path.islink(os.path.join(output, folder))):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(output, name))
    outputs.mark(output, _COMMAND, written)


def _write(model: Explained, folder: str, paths: list[str], names: list[str],
           target: int | None) -> list[dict]:
    """Writes the maps and pictures of all images; returns what the page shows of each."""
    shape = (len(paths), *model.setup.dataset.image_shape[:2])
    os.makedirs(os.path.join(folder, 'maps'))
    os.makedirs(os.path.join(folder, 'overlays'))
    arrays = {name: np.lib.format.open_memmap(
        os.path.join(folder, 'maps', f'{name}.npy'), 'w+', np.float32, shape) for name in names}
    shown: list[dict] = []
    with terminal.progress(len(paths) * len(names), 0, 'map') as bar:
        for rows in chunks.chunks(len(paths), BLOCK):
            images_NHWC = _read(model, paths[rows])
            answers = _answers(model, images_NHWC)
            targets_N = _targets(answers, target)
            normal_NHWC, numbers = explained_lib.normalised(model, images_NHWC), range(
                len(paths))[rows]
            for name in names:
                arrays[name][rows] = explained_lib.maps(
                    model, name, normal_NHWC, targets_N, np.asarray(numbers))
                bar.update(len(images_NHWC))
            for place, number in enumerate(numbers):
                stem = f'{number + 1:04}_{_stem(paths[number])}'
                one = {'name': records.shown(paths[number]), 'pictures': stem,
                       'prediction': int(answers.predictions_N[place]),
                       'confidence': float(answers.confidences_N[place]),
                       'target': int(targets_N[place])}
                pictures = {name: overlays.overlay(
                    images_NHWC[place], arrays[name][number], explain.method(name).SIGNED)
                    for name in names}
                _write_pictures(folder, stem, pictures)
                if number < SHOWN:
                    one |= explained_lib.shown(images_NHWC[place], pictures)
                shown.append(one)
    for array in arrays.values():
        array.flush()
    return shown


def _stem(path: str) -> str:
    """Returns the name of a file without its ending, as a part of another file's name."""
    stem = os.path.splitext(os.path.basename(records.shown(path)))[0]
    return re.sub(r'[^\w.-]', '_', stem, flags=re.ASCII)[:LONGEST]


def _write_pictures(folder: str, stem: str, pictures: dict[str, np.ndarray]) -> None:
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(os.path.join(folder, 'overlays', f'{stem}_{name}.png'))


def _write_page(folder: str, setup, found: dict, about: dict) -> None:
    names = list(setup.dataset.class_names)
    with open(os.path.join(folder, 'explain.json'), 'w', encoding='utf-8') as file:
        plain = [{**{key: value for key, value in one.items() if key not in (
            'picture', 'overlays')}, 'prediction': names[one['prediction']],
            'target': names[one['target']]} for one in found['images']]
        json.dump(metrics_log.jsonable({'about': about, **found, 'images': plain}), file, indent=1)
    count = len(found['images'])
    found = found | {'images': found['images'][:SHOWN], 'not_shown': max(0, count - SHOWN),
                     'confused': []}
    section = {'name': 'explanations', 'title': explanations.TITLE,
               'question': explanations.QUESTION, 'found': found,
               'findings': explanations.findings(found)}
    text = card_page.render_page(title=f'Explanations of {setup.config.name or about["workdir"]}',
                                 about=about, parts=[section], class_names=names)
    with open(os.path.join(folder, 'explain.html'), 'w', encoding='utf-8') as file:
        file.write(text)
