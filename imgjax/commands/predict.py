"""Classifies image files with the model of a run."""

import concurrent.futures
import csv
import glob
import json
import logging
import os

import jax
import numpy as np

from imgjax import build, evaluate, sharding, step
from imgjax.commands import run_directory
from imgjax.data import decode, ignored, image_files, left_out, records, splits
from imgjax.errors import ConfigError, DataError
from imgjax.process import backend, terminal
from imgjax.rundir import outputs

log = logging.getLogger('imgjax')

PREDICT_BATCH = 64
# How a file of predictions begins: CSV of some or of no readable images, and JSON.
_MARKS = (b'image,class_1,probability_1,', b'image,error', b'[\n {\n  "image": ')


def predict_images(workdir: str, images: str, top_k: int, output: str,
                   at: int | str | None = None) -> dict:
    """Classifies image files and writes the most probable classes of each.

    An image that cannot be read gets a row with its error, and the others are classified; the
    call then ends in a DataError after everything is written.

    Args:
      workdir: the run directory: its config, class names and checkpoint are all that is needed.
      images: a file, a folder (searched in depth) or a glob.
      top_k: classes of an image.
      output: path ending in .csv or .json; one that is there is replaced if it holds predictions.
      at: which step, as of `which_step`; None takes the newest that verifies.
    """
    if not output.endswith(('.csv', '.json')):
        raise ConfigError(f'--output={output}: takes a name ending in .csv or .json')
    workdir, output = outputs.path('workdir', workdir), outputs.path('output', output)
    outputs.check_file('output', output, 'launch.predict', _MARKS)
    paths = _list_images(os.path.expanduser(images))
    setup = run_directory.open_run(workdir)
    step = run_directory.which_step(setup, workdir, at)
    state, meta = run_directory.restore(setup, workdir, step)
    rows = _classified(setup, state, paths, min(top_k, len(setup.dataset.class_names)))
    _write_predictions(output, rows)
    failed = [row for row in rows if row['error']]
    if failed:
        raise DataError(f'{len(failed)} of {len(rows)} images could not be read, first: '
                        f'{failed[0]["error"]}; the others are in {output}')
    return {'images': len(rows), 'output': os.path.abspath(output), 'step': meta['step'],
            'workdir': os.path.abspath(workdir), 'state_digest': meta['state_digest']}


def _list_images(images: str) -> list[str]:
    """Returns the sorted paths that a file, a folder or a glob stands for.

    Of a folder the images, also deeper ones; a file and a glob are taken at their word.

    Raises:
      ConfigError: there are none, or an archive is named.
    """
    if os.path.isdir(images):
        found = image_files.below(images)
        more = left_out.sentence(found.left_out)
        if not found.names:
            raise ConfigError(f'--images={images}: no such images{more and f"; {more}"}')
        log.info('%s images in %s%s', f'{len(found.names):,}', images, more and f'; {more}')
        return sorted(os.path.join(images, name) for name in found.names)
    splits.check_unpacked(images, '--images=', 'the folder that it makes')
    # A name may hold what a glob would read as a pattern.
    pattern = glob.escape(images) if os.path.exists(images) else images
    paths = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not paths:
        raise ConfigError(f'--images={images}: no such images')
    return paths


def _classified(setup: build.Setup, state, paths: list[str], top_k: int) -> list[dict]:
    """Returns a row for each path: image, classes, probabilities, error.

    All threads decode a batch while the one before it is classified.
    """
    size, options = setup.dataset.image_shape[0], setup.config.data
    if not options.image_size:  # trained on images of one size: bring others to it, whole
        options = evaluate.whole_images(options, size)
    classify, odd, rows = _classifier(setup, state, top_k), [], []

    def read(path: str) -> np.ndarray | str:
        shown = records.shown(path)
        try:
            with open(path, 'rb') as file:
                example = {'image': file.read(options.max_bytes + 1), 'name': shown}
            pixels = decode.pixels(example, options, size)
        except OSError as error:
            return f'{shown}: cannot be read ({error.strerror})'
        except DataError as error:
            return str(error)
        name, stored = ignored.header(example)
        if stored and (stored.orientation > 1 or stored.transparent):
            odd.append((name, stored))
        return pixels

    parts = [paths[start:start + PREDICT_BATCH] for start in range(0, len(paths), PREDICT_BATCH)]
    with (concurrent.futures.ThreadPoolExecutor() as threads,
          terminal.progress(len(paths), 0, 'image') as bar):
        ahead = threads.map(read, parts[0])
        for part, following in zip(parts, [*parts[1:], []], strict=True):
            found, ahead = list(ahead), threads.map(read, following)
            rows += classify(part, found)
            bar.update(len(part))
    ignored.warn('', len(paths), sorted(odd), options)
    return rows


def _classifier(setup: build.Setup, state, top_k: int):
    """Returns classify(paths, the pixels or the error of each) -> a row each."""
    names = setup.dataset.class_names

    def top(state, images_NHWC):
        logits_NK, _ = step.predict(setup.model, setup.config, state, images_NHWC)
        several = setup.dataset.multi_label
        return jax.lax.top_k(
            jax.nn.sigmoid(logits_NK) if several else jax.nn.softmax(logits_NK), top_k)

    top = jax.jit(top, out_shardings=sharding.replicated(setup.mesh),
                  compiler_options=backend.compiler_options())
    count = evaluate.global_batch_size(PREDICT_BATCH, setup.mesh)

    def classify(paths: list[str], found: list[np.ndarray | str]) -> list[dict]:
        images_NHWC = np.zeros((count, *setup.dataset.image_shape), np.uint8)
        errors = [one if isinstance(one, str) else '' for one in found]
        for row, one in enumerate(found):
            if not errors[row]:
                images_NHWC[row] = one
        placed = jax.device_put(images_NHWC, sharding.batch_sharding(setup.mesh))
        probabilities, classes = jax.device_get(top(state, placed))
        return [{'image': name, 'error': error,
                 'classes': [] if error else [names[i] for i in classes[row]],
                 'probabilities': [] if error else [float(p) for p in probabilities[row]]}
                for row, (name, error) in enumerate(zip(
                    map(records.shown, paths), errors, strict=True))]

    return classify


def _write_predictions(output: str, rows: list[dict]) -> None:
    """Writes the rows as CSV (class_1, probability_1, class_2, ...) or JSON, whole or not."""
    if output.endswith('.json'):
        with outputs.replacing(output) as file:
            json.dump(rows, file, indent=1)
        return
    top_k = max(len(row['classes']) for row in rows)
    header = ['image', *(f'{word}_{k}' for k in range(1, top_k + 1)
                         for word in ('class', 'probability')), 'error']
    with outputs.replacing(output, newline='') as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            pairs = [cell for pair in zip(row['classes'], row['probabilities'], strict=True)
                     for cell in pair]
            writer.writerow([row['image'], *pairs, *[''] * (2 * top_k - len(pairs)), row['error']])
