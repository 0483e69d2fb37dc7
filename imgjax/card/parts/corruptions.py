"""How the model does on images with noise, blur, weather and the like."""

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.card import functions
from imgjax.card.parts import Finding
from imgjax.errors import DataError
from imgjax.evals import corruption_error, corruptions
from imgjax.process import terminal
from imgjax.report import card_page
from imgjax.report.text import percent

TITLE = 'Corruptions'
QUESTION = 'How many answers are still right under noise, blur, weather and compression?'

IMAGES = 1_000  # of the evaluation split, at most
CHUNK, CHUNK_PIXELS = 256, 2**22  # images and pixels that are corrupted at one time, at most
SHOWN_SEVERITY = 3  # of the pictures
SIDE = 64  # pixels of a picture's longer side, at most


def measure(inputs, images: int = IMAGES) -> dict:
    """Measures the accuracy under all corruptions and severities, also of a compared model.

    Args:
      inputs: card.inputs.Inputs.
      images: how many images of the evaluation split, at most; never more than IMAGES.

    Raises:
      DataError: images have several labels.
    """
    if inputs.multi_label:
        raise DataError('corruptions are measured by the accuracy of one label per image')
    rows = inputs.subset(len(inputs.labels_of(inputs.split)), min(images, IMAGES))
    images_NHWC = inputs.images(inputs.split, rows)
    labels_N = np.asarray(inputs.labels_of(inputs.split))[rows]
    models = [inputs.predict] + ([] if inputs.other is None else [inputs.other_predict()])
    names, notes = list(corruptions.NAMES), []
    if images_NHWC.shape[3] == 1:
        names.remove('saturate')
        notes.append('saturate is left out: it does not change grey images.')
    key = jax.random.key(inputs.seed)
    chunks = _chunks(images_NHWC, min(functions.images_at_once(
        model, images_NHWC.shape[1:], CHUNK) for model in models))
    clean = _right(models, chunks, labels_N)
    right = {name: {} for name in names}
    with terminal.progress(len(names), 0, 'corruption') as bar:
        for name in names:
            bar.set_description(name)
            for severity in corruptions.SEVERITIES:
                changed = ((corruptions.corrupt(name, severity, chunk_NHWC, key, index_N), index_N)
                           for chunk_NHWC, index_N in chunks)
                right[name][severity] = _right(models, changed, labels_N)
            bar.update()
    accuracies = [{name: {severity: both[m] for severity, both in by_severity.items()}
                   for name, by_severity in right.items()} for m in range(len(models))]
    baseline = corruption_error.own_error(clean[0])
    other = None
    if len(models) > 1:
        baseline = corruption_error.Baseline(
            'the other model', corruption_error.mean_errors(accuracies[1]), 1 - clean[1])
        other = corruption_error.measure(accuracies[1], clean[1], len(rows))
    found = corruption_error.measure(accuracies[0], clean[0], len(rows), baseline=baseline)
    return found | {
        'split': inputs.split, 'side': list(images_NHWC.shape[1:3]), 'other': other,
        'small': min(images_NHWC.shape[1:3]) <= corruptions.SMALL, 'notes': notes + found['notes'],
        'shown': {'severity': SHOWN_SEVERITY, 'image': int(rows[0]),
                  'clean': _picture(images_NHWC[0]),
                  **{'pictures': {name: _picture(corruptions.corrupt(
                      name, SHOWN_SEVERITY, chunks[0][0], key, chunks[0][1])[0])
                      for name in names}}}}


def _chunks(images_NHWC, at_once: int) -> list[tuple]:
    """Returns (images, their indices) in chunks of equal size; the first image fills the last."""
    count, height, width, _ = images_NHWC.shape
    most = max(1, min(at_once, CHUNK_PIXELS // (height * width)))
    size = -(-count // -(-count // most))
    indices = np.zeros(-(-count // size) * size, np.int64)
    indices[:count] = np.arange(count)
    return [(images_NHWC[index_N], index_N) for index_N in indices.reshape(-1, size)]


def _right(models, chunks, labels_N) -> list[float]:
    """Returns the accuracy of each model."""
    answers = [[] for _ in models]
    for chunk_NHWC, _ in chunks:
        for model, found in zip(models, answers, strict=True):
            found.append(_answers(model, jnp.asarray(chunk_NHWC, jnp.float32)))
    return [float(np.mean(np.concatenate(found)[:len(labels_N)] == labels_N))
            for found in answers]


@jax.jit
def _answers(predict, images_NHWC):
    return jnp.argmax(predict(images_NHWC), axis=1)


def _picture(image_HWC) -> list:
    """Returns an image in 0 to 255 as lists of bytes, scaled down where it is large."""
    return card_page.small(np.rint(np.asarray(image_HWC)).astype(np.uint8), SIDE).tolist()


def findings(found: dict) -> list[Finding]:
    clean, common = found['clean']['accuracy'], found['common']['accuracy']
    text = (f'Under the 15 common corruptions it is right in {percent(common, 1)} of the answers, '
            f'without them in {percent(clean, 1)}')
    if found['other'] is None:
        told = [Finding('note', f'{text}.')]
    else:
        theirs = found['other']['common']['accuracy']
        told = [Finding('note', f'{text}; the other model is right in {percent(theirs, 1)} under '
                        'them.')]
    worst = next(row for row in found['corruptions'] if row['name'] == found['worst'])
    mean, last = worst['accuracy'], worst['severities'][-1]['accuracy']
    told.append(Finding(
        'look' if mean < clean / 2 else 'note',
        f'The corruption that costs most is {worst["name"].replace("_", " ")}: '
        f'{percent(mean, 1)} on average, {percent(last, 1)} at severity 5.'))
    return told


def figures(found: dict) -> dict:
    given = {'mean_corruption_accuracy': found['common']['accuracy'],
             'mean_corruption_error': found['common']['error'],
             'worst_corruption_accuracy': min(row['accuracy'] for row in found['corruptions'])}
    if found['mce'] is not None:
        given['mce'] = found['mce']
    return given
