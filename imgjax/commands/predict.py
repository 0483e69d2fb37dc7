"""Classifies image files with the model of a run."""

import concurrent.futures
import csv
import glob
import json
import logging
import os

import jax
import jax.numpy as jnp
import numpy as np

from imgjax import build, evaluate, sharding, step
from imgjax.card import forward
from imgjax.commands import calibrated, predict_page, run_directory
from imgjax.data import decode, ignored, image_files, left_out, records, splits
from imgjax.errors import ConfigError, DataError
from imgjax.process import backend, terminal
from imgjax.rundir import outputs

log = logging.getLogger('imgjax')

PREDICT_BATCH = 64
# What a file of predictions begins with: CSV with readable images, CSV with none, JSON, HTML.
_FIRST_BYTES = (b'image,class_1,probability_1,', b'image,error', b'[\n {\n  "image": ',
                b'<title>Predictions of ')


def predict_images(workdir: str, images: str, top_k: int, output: str,
                   at: int | str | None = None, temperature: str = '', alpha: float = 0.0,
                   reject: float = 0.0) -> dict:
    """Classifies image files and writes the most probable classes of each.

    With `alpha` each row also has a set of classes, and with `reject` an answer, which may be
    'none of these'; both come from the card of the run.

    An image that cannot be read gets a row with its error, and the others are classified; then
    DataError is raised after all rows are written.

    Args:
      workdir: the run directory; only its config, class names and checkpoint are read.
      images: a file, a folder (all folders below it are searched, too) or a glob.
      top_k: number of classes per image.
      output: a path that ends in .csv, .json or .html, a page with a map beside every answer; an
        existing file is replaced if it has predictions.
      at: the step, as `which_step` takes it; None takes the newest step that verifies.
      temperature: 'card' for the fit that the card has chosen, a number that divides the logits,
        or '' for the probabilities of the model.
      alpha: the share of images whose set may miss the right class; 0 writes no sets.
      reject: the share of images like those of the evaluation split that get no answer, those that
        are strangest by the score that the card chose; 0 answers all.

    Returns images (their number), output, step, workdir and state_digest.

    Raises:
      ConfigError: there are no such images, or `output` is not valid.
      DataError: images could not be read, or the checkpoint cannot be used.
    """
    if not output.endswith(('.csv', '.json', '.html')):
        raise ConfigError(f'--output={output}: takes a name ending in .csv, .json or .html')
    workdir, output = outputs.path('workdir', workdir), outputs.path('output', output)
    outputs.check_file('output', output, 'launch.predict', _FIRST_BYTES)
    paths = list_images(os.path.expanduser(images))
    setup = run_directory.open_run(workdir)
    step = run_directory.which_step(setup, workdir, at)
    state, meta = run_directory.restore(setup, workdir, step)
    fits = calibrated.read(workdir, meta, temperature, alpha, reject, setup)
    top_k = min(top_k, len(setup.dataset.class_names))
    rows = _classify_paths(setup, state, paths, top_k, fits)
    about = {'workdir': os.path.abspath(workdir), 'step': meta['step'],
             'state_digest': meta['state_digest']}
    if output.endswith('.html'):
        _write_page(output, setup, state, paths, rows, about)
    else:
        _write_predictions(output, rows)
    failed = [row for row in rows if row['error']]
    if failed:
        raise DataError(f'{len(failed)} of {len(rows)} images could not be read, first: '
                        f'{failed[0]["error"]}; the others are in {output}')
    return {'images': len(rows), 'output': os.path.abspath(output), **about}


def list_images(images: str) -> list[str]:
    """Returns the sorted paths that a file, a folder or a glob names.

    In a folder, and all folders below it, only files with the ending of an image are taken; the
    files that a path or a glob names are taken whatever their ending is.

    Raises:
      ConfigError: there are no images, or the path is an archive.
    """
    if os.path.isdir(images):
        found = image_files.below(images)
        more = left_out.sentence(found.left_out)
        if not found.names:
            raise ConfigError(f'--images={images}: no such images{more and f"; {more}"}')
        log.info('%s images in %s%s', f'{len(found.names):,}', images, more and f'; {more}')
        return sorted(os.path.join(images, name) for name in found.names)
    splits.check_unpacked(images, '--images=', 'the folder that it makes')
    # The name of an existing file may have characters that a glob would read as a pattern.
    pattern = glob.escape(images) if os.path.exists(images) else images
    paths = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not paths:
        raise ConfigError(f'--images={images}: no such images')
    return paths


def reading(setup: build.Setup) -> dict:
    """Returns config.data for images of any size."""
    options = setup.config.data
    if options.image_size:
        return options
    # Trained on images of one size: others are resized to it, uncropped.
    return evaluate.whole_images(options, setup.dataset.image_shape[0])


def read_image(path: str, setup: build.Setup, options: dict, odd: list) -> np.ndarray | str:
    """Returns an image file as the model takes it, uint8 (H, W, C), or why it cannot be read.

    Args:
      path: the file.
      setup: the run.
      options: what `reading` returns.
      odd: gets (name, decode.Stored) of a turned or transparent image.
    """
    shown = records.shown(path)
    try:
        with open(path, 'rb') as file:
            example = {'image': file.read(options['max_bytes'] + 1), 'name': shown}
        pixels = decode.pixels(example, options, setup.dataset.image_shape[0])
    except OSError as error:
        return f'{shown}: cannot be read ({error.strerror})'
    except DataError as error:
        return str(error)
    name, stored = ignored.header(example)
    if stored and (stored.orientation > 1 or stored.transparent):
        odd.append((name, stored))
    return pixels


def read_again(path: str, setup: build.Setup, options: dict) -> np.ndarray:
    """Returns an image file that `read_image` could read before.

    Raises:
      DataError: it cannot be read any more.
    """
    found = read_image(path, setup, options, [])
    if isinstance(found, str):
        raise DataError(f'{found}; it was there a moment ago')
    return found


def _classify_paths(setup: build.Setup, state, paths: list[str], top_k: int,
                    fits: calibrated.Fits | None) -> list[dict]:
    """Returns one row per path: {'image', 'classes', 'probabilities', 'error'}.

    With `fits` it also has 'set' and 'answer', see calibrated.answer.

    Threads decode the next batch while a batch is classified.
    """
    options = reading(setup)
    classify, odd, rows = _classifier(setup, state, top_k, fits), [], []

    def read(path: str) -> np.ndarray | str:
        return read_image(path, setup, options, odd)

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


def _classifier(setup: build.Setup, state, top_k: int, fits: calibrated.Fits | None):
    """Returns classify(paths, [pixels or error of each]) -> one row per path."""
    names = setup.dataset.class_names

    def top(state, images_NHWC):
        logits_NK, out = step.predict(setup.model, setup.config, state, images_NHWC)
        if fits is not None:
            layer = fits.rejection.layer if fits.rejection else ''
            return logits_NK, forward.pooled(out[layer]).astype(jnp.float32) if layer else None
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
        answers, more = jax.device_get(top(state, placed)), {}
        if fits is not None:
            logits_NK, features_ND = answers
            answers, more = calibrated.answer(fits, logits_NK, top_k, names, features_ND)
        probabilities, classes = answers
        return [{'image': name, 'error': error,
                 'classes': [] if error else [names[i] for i in classes[row]],
                 'probabilities': [] if error else [float(p) for p in probabilities[row]],
                 **{word: value[row] if not error else value[row][:0]
                    for word, value in more.items()}}
                for row, (name, error) in enumerate(zip(
                    map(records.shown, paths), errors, strict=True))]

    return classify


def _write_page(output: str, setup: build.Setup, state, paths: list[str], rows: list[dict],
                about: dict) -> None:
    options = reading(setup)
    text = predict_page.render(about['workdir'], setup, state, paths, rows,
                               lambda path: read_again(path, setup, options), about)
    with outputs.replacing(output) as file:
        file.write(text)


def _write_predictions(output: str, rows: list[dict]) -> None:
    """Writes all rows, or no file, as CSV (class_1, probability_1, class_2, ...) or JSON."""
    if output.endswith('.json'):
        with outputs.replacing(output) as file:
            json.dump(rows, file, indent=1)
        return
    top_k = max(len(row['classes']) for row in rows)
    more = [word for word in ('answer', 'set') if word in rows[0]]
    header = ['image', *(f'{word}_{k}' for k in range(1, top_k + 1)
                         for word in ('class', 'probability')), 'error', *more]
    with outputs.replacing(output, newline='') as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            pairs = [cell for pair in zip(row['classes'], row['probabilities'], strict=True)
                     for cell in pair]
            writer.writerow([
                row['image'], *pairs, *[''] * (2 * top_k - len(pairs)), row['error'],
                *('|'.join(row[word]) if word == 'set' else row[word] for word in more)])
