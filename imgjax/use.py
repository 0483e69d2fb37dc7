"""What can be done with a run directory besides training: evaluate, predict, inspect. Read-only."""

import concurrent.futures
import csv
import glob
import json
import logging
import os

import jax
import numpy as np

from imgjax import (
    backend,
    build,
    checkpoint,
    data,
    evaluate,
    metrics,
    outputs,
    same_data,
    sharding,
    step,
    trust,
)
from imgjax import config as config_lib
from imgjax import state as state_lib
from imgjax.data import Source, decode, ignored, image_files, left_out, records, splits
from imgjax.errors import ConfigError, DataError

log = logging.getLogger('imgjax')

PREDICT_BATCH = 64
# How a file of predictions begins: CSV of some or of no readable images, and JSON.
_MARKS = (b'image,class_1,probability_1,', b'image,error', b'[\n {\n  "image": ')


def open_run(workdir: str) -> build.Job:
    """Builds a run from its directory alone, on the devices that are here."""
    backend.keep_memory()
    trust.check_run(workdir)
    config = config_lib.read(workdir) if os.path.isdir(workdir) else None
    if config is None:
        raise ConfigError(f'--workdir={workdir}: no run directory')
    # The devices that are here, not those it was trained on.
    config = config | {'mesh': {'data': -1, 'fsdp': 1, 'tensor': 1}}
    return build.job(config, build.read_facts(workdir))


def restore(job: build.Job, workdir: str, at: int | None):
    """Returns (state, meta) of one step, or of the newest that verifies."""
    if at is not None:
        return checkpoint.restore(workdir, at, job.target, config_lib.digest(job.config))
    restored = checkpoint.restore_newest(
        workdir, job.target, config_lib.digest(job.config), put_aside=False)
    if restored is None:
        raise DataError(f'{workdir}: no checkpoint was saved yet')
    return restored


def which_step(job: build.Job, workdir: str, at: int | str | None) -> int | None:
    """Returns the step that `at` names, None for the newest.

    Args:
      job: the run.
      workdir: the run directory.
      at: a number, 'best' for that of the best evaluation (the earliest of equals), or None or ''.

    Raises:
      ConfigError: it is neither.
      DataError: the best evaluation has no checkpoint, or there is no evaluation.
    """
    if at is None or at == '':
        return None
    if at != 'best':
        if not trust.is_step(str(at)):
            raise ConfigError(f'--step: takes the number of a step, or best, got {at!r}')
        return int(at)
    best, there = best_evaluated(job, workdir), checkpoint.steps(workdir)
    if best in there:
        return best
    split = job.config['data']['eval_split']
    missing = f'{split!r} was not evaluated yet (config.eval_every)' if best is None else (
        f'the best evaluation is that of step {best}, which was not saved '
        '(config.checkpoint.keep_best)')
    raise DataError(f'{workdir}: --step=best: {missing}; give one of the steps on disk: '
                    f'{", ".join(map(str, there)) or "none"}')


def best_evaluated(job: build.Job, workdir: str) -> int | None:
    """Returns the step of a run's best evaluation, the earliest of equals; None without any."""
    scores = metrics.scores(metrics.read_rows(workdir), job.config['data']['eval_split'])
    return max(sorted(scores), key=scores.get) if scores else None


def evaluate_split(workdir: str, at: int | str | None = None, split: str | None = None,
                   changes: dict | None = None, by: str = 'name',
                   source: Source | None = None) -> dict:
    """Evaluates a checkpoint, on the data of its run or on others.

    Classes are matched by name. What is compared, and what is left out, is said in one line.

    Args:
      workdir: the run directory.
      at: which step, as of `which_step`; None takes the newest that verifies.
      split: of the run's dataset or of the one that `changes` name; None takes config's eval_split.
      changes: fields of the config that name other data or how they are read: {'data.path': ...}.
        Without any that names data, the dataset has to be the one that the run was trained on.
        Of another dataset without a second split all images are taken, unless a split is named.
      by: 'name', or 'number' for data whose classes are the run's under other names.
      source: what to evaluate on, as of data.arrays.source, in place of all that.

    Returns split, data, accuracy, loss, step, examples, workdir, state_digest, top5_accuracy,
    classes, classes_compared and images_left_out.
    """
    workdir, changes = outputs.path('workdir', workdir), changes or {}
    job = open_run(workdir)
    at = which_step(job, workdir, at)
    config = same_data.with_changes(job.config, changes)
    options = config['data']
    asked, split = split, split or options['eval_split']
    place = options['path'] or options['name']
    if source is not None:
        place = 'arrays of a script'
    elif same_data.names_data(changes) and (asked or 'data.eval_split' in changes):
        source = data.open_split(split, options)
    elif same_data.names_data(changes):
        source, split = same_data.other_split(options, job.facts.eval_fingerprint, split)
    else:
        source = same_data.own_split(workdir, options, job.facts, split)
    source, found = same_data.compare_classes(source, job.facts, split, by)
    state, meta = restore(job, workdir, at)
    if config != job.config:
        side = options['image_size'] or job.facts.image_shape[0]
        job = build.job(config, job.facts._replace(
            image_shape=[side, side, job.facts.image_shape[2]]))
    return {'split': split, 'data': place,
            **evaluate.split(job, state, source, split).summary(), **found, 'step': meta['step'],
            'workdir': os.path.abspath(workdir), 'state_digest': meta['state_digest']}


def inspect_run(workdir: str) -> dict:
    """Restores and verifies every step on disk, and says so a line each on stderr.

    Returns the newest sound step and its state_digest, all steps with `verified`, the step of the
    best evaluation if it is one of them, the parameter count and the config hash.
    """
    workdir = outputs.path('workdir', workdir)
    job = open_run(workdir)
    config_hash = config_lib.digest(job.config)
    found, best = [], best_evaluated(job, workdir)
    for at in checkpoint.steps(workdir):
        try:
            _, meta = checkpoint.restore(workdir, at, job.target, config_hash)
            found.append({'step': at, 'verified': True, 'state_digest': meta['state_digest']})
            log.info('step %d: verified, %s%s', at, meta['state_digest'],
                     ', of the best evaluation' if at == best else '')
        except DataError as error:
            found.append({'step': at, 'verified': False, 'error': str(error)})
            log.info('step %d: %s', at, error)
    sound = [entry for entry in found if entry['verified']]
    newest = sound[-1] if sound else {'step': None, 'state_digest': None}
    best = best if best in [entry['step'] for entry in sound] else None
    parameters = state_lib.parameter_count(job.target)
    log.info('%s parameters, config %s', f'{parameters:,}', config_hash)
    return {'step': newest['step'], 'state_digest': newest['state_digest'], 'steps': found,
            'best_step': best, 'parameters': parameters, 'config_hash': config_hash,
            'workdir': os.path.abspath(workdir)}


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
    job = open_run(workdir)
    state, meta = restore(job, workdir, which_step(job, workdir, at))
    rows = _classified(job, state, paths, min(top_k, len(job.facts.class_names)))
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


def _classified(job: build.Job, state, paths: list[str], top_k: int) -> list[dict]:
    """Returns a row for each path: image, classes, probabilities, error.

    All threads decode a batch while the one before it is classified.
    """
    size, options = job.facts.image_shape[0], job.config['data']
    if not options['image_size']:  # trained on images of one size: bring others to it, whole
        options = evaluate.whole_images(options, size)
    classify, odd, rows = _classifier(job, state, top_k), [], []

    def read(path: str) -> np.ndarray | str:
        shown = records.shown(path)
        try:
            with open(path, 'rb') as file:
                example = {'image': file.read(options['max_bytes'] + 1), 'name': shown}
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
          metrics.progress(len(paths), 0, 'image') as bar):
        ahead = threads.map(read, parts[0])
        for part, following in zip(parts, [*parts[1:], []], strict=True):
            found, ahead = list(ahead), threads.map(read, following)
            rows += classify(part, found)
            bar.update(len(part))
    ignored.say('', len(paths), sorted(odd), options)
    return rows


def _classifier(job: build.Job, state, top_k: int):
    """Returns classify(paths, the pixels or the error of each) -> a row each."""
    names = job.facts.class_names

    def top(state, images_NHWC):
        logits_NK = step.predict(job.model, job.config, state, images_NHWC)
        several = job.facts.multi_label
        return jax.lax.top_k(
            jax.nn.sigmoid(logits_NK) if several else jax.nn.softmax(logits_NK), top_k)

    top = jax.jit(top, out_shardings=sharding.replicated(job.mesh),
                  compiler_options=backend.compiler_options())
    count = evaluate.global_batch_size(PREDICT_BATCH, job.mesh)

    def classify(paths: list[str], found: list[np.ndarray | str]) -> list[dict]:
        images_NHWC = np.zeros((count, *job.facts.image_shape), np.uint8)
        errors = [one if isinstance(one, str) else '' for one in found]
        for row, one in enumerate(found):
            if not errors[row]:
                images_NHWC[row] = one
        placed = jax.device_put(images_NHWC, sharding.batch_sharding(job.mesh))
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
