"""What the card of a run gives to predictions: calibrated probabilities, sets and "none of these".

The card writes calibration.json. Its thresholds are those of the model's own probabilities on the
evaluation split, so that the promise of a set holds whatever fit makes the probabilities.
"""

import json
import logging
import os
from typing import NamedTuple

import numpy as np

from imgjax.errors import ConfigError, DataError
from imgjax.evals import conformal, recalibration, selective
from imgjax.rundir import files
from imgjax.rundir.dataset_info import DatasetInfo

log = logging.getLogger('imgjax')

FILE = 'calibration.json'
NONE = 'none of these'
_BYTES = 2**28
FOLDER = 'card'  # of a run directory


class Fits(NamedTuple):
    """How the answers of a model are calibrated.

    Attributes:
      fit: as recalibration.apply takes it.
      set_fit: as conformal.sets takes it; None writes no sets.
      least: the least confidence of an answer; None answers always.
      several: whether an image may have several labels.
    """

    fit: dict
    set_fit: dict | None
    least: float | None
    several: bool


def write(folder: str, inputs) -> None:
    """Writes calibration.json into the folder of a card, from its part `calibration`.

    It is not written from the images that the model was trained on, on which it is too sure.

    Args:
      folder: the folder of the card.
      inputs: card.inputs.Inputs.
    """
    if inputs.examines_training:
        log.info('%s: is not written, as %s is the split that the model was trained on', FILE,
                 inputs.split)
        return
    with open(os.path.join(folder, 'card.json'), encoding='utf-8') as file:
        found = json.load(file)['parts']['calibration']
    options = inputs.model.setup.config.data
    content = {'state_digest': inputs.model.state_digest, 'split': inputs.split,
               'data': options.path or options.name, 'images': len(inputs.answers.labels),
               'fit': found['fits'][found['chosen']]}
    if not inputs.multi_label:
        probabilities_NK, labels_N = inputs.probabilities_NK, inputs.answers.labels
        content |= {'label_probabilities': probabilities_NK[
                        np.arange(len(labels_N)), labels_N].tolist(),
                    'confidences': probabilities_NK.max(1).tolist()}
    with files.replacing(os.path.join(folder, FILE)) as file:
        json.dump(content, file)


def read(workdir: str, meta: dict, temperature: str, alpha: float, reject: float,
         dataset: DatasetInfo) -> Fits | None:
    """Returns what the flags of launch.predict ask for; None if they ask for nothing.

    Args:
      workdir: the run directory, in whose `card` the card lies.
      meta: what was saved with the state; its state_digest has to be that of the card.
      temperature, alpha, reject: as predict.predict_images takes them.
      dataset: of the run.

    Raises:
      ConfigError: a flag is out of its range, or images have several labels.
      DataError: there is no card of this checkpoint.
    """
    if not (temperature or alpha or reject):
        return None
    for flag, value in (('set', alpha), ('reject', reject)):
        if not 0 <= value < 1:
            raise ConfigError(f'--{flag}: takes a share, 0 to below 1, got {value:g}')
        if value and dataset.multi_label:
            raise ConfigError(f'--{flag}: is for images with one label each')
    fit = {'method': 'none', 'multi_label': dataset.multi_label}
    if temperature and temperature != 'card':
        fit = fit | {'method': 'temperature', 'temperature': _number(temperature)}
    if temperature != 'card' and not (alpha or reject):
        return Fits(fit, None, None, dataset.multi_label)
    stored = _stored(workdir, meta, dataset)
    log.info('calibrated on the %s images of %s of %s', f'{stored["images"]:,}', stored['split'],
             stored['data'])
    if temperature == 'card':
        fit = stored['fit']
    set_fit = None
    if alpha:
        classes = len(dataset.class_names)
        threshold = conformal.quantile(1 - np.array(stored['label_probabilities']), alpha)
        if not np.isfinite(threshold):
            log.warning('--set=%g: %d images are too few for sets that miss so rarely, so that '
                        'each set has all classes', alpha, stored['images'])
        set_fit = {'method': 'lac', 'alpha': alpha, 'by_class': False, 'randomised': False,
                   'k_reg': 0, 'penalty': 0.0, 'classes': classes,
                   'images': len(stored['label_probabilities']), 'tuning_images': 0,
                   'thresholds': [float(threshold) if np.isfinite(threshold) else None],
                   'note': ''}
    least = selective.threshold(np.array(stored['confidences']), reject) if reject else None
    return Fits(fit, set_fit, least, dataset.multi_label)


def _number(temperature: str) -> float:
    try:
        found = float(temperature)
    except ValueError:
        found = 0.0
    if not 0 < found < float('inf'):
        raise ConfigError(f'--temperature: takes card, or a number above 0, got {temperature!r}')
    return found


def _stored(workdir: str, meta: dict, dataset: DatasetInfo) -> dict:
    path = os.path.join(workdir, FOLDER, FILE)
    again = f'run launch.card --workdir={workdir}'
    if not os.path.lexists(path):
        raise DataError(f'{path}: there is no card of this run yet; {again}')
    try:
        stored = files.read_json(path, min(_BYTES, os.lstat(path).st_size))
        _check(stored, dataset)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f'{path}: cannot be used ({error}); {again}') from None
    if stored['state_digest'] != meta['state_digest']:
        raise DataError(f'{path}: is the card of another checkpoint than step {meta["step"]}; '
                        f'{again} --step={meta["step"]}')
    return stored


def _check(stored: dict, dataset: DatasetInfo) -> None:
    """Checks the content of calibration.json.

    Raises:
      ValueError: it is not what `write` writes, for these classes.
    """
    classes = len(dataset.class_names)
    probe = np.zeros((1, classes))
    try:
        found = recalibration.apply(stored['fit'], probe)
    except (ConfigError, DataError, IndexError, AttributeError) as error:
        raise ValueError(str(error)) from None
    if found.shape != probe.shape or not np.isfinite(found).all() or (
            stored['fit'].get('temperature', 1) <= 0):
        raise ValueError('its fit gives no probabilities')
    if stored['fit'].get('multi_label') != dataset.multi_label:
        raise ValueError('its fit is for another kind of labels')
    if type(stored['images']) is not int or not all(
            isinstance(stored[name], str) for name in ('split', 'data')):
        raise ValueError('it does not say which images it is from')
    for name in () if dataset.multi_label else ('label_probabilities', 'confidences'):
        values = np.array(stored[name], np.float64)
        if values.ndim != 1 or not len(values) or not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f'{name} are no probabilities')


def answer(fits: Fits, logits_NK: np.ndarray, top_k: int, names) -> tuple[tuple, dict]:
    """Returns ((probabilities, classes), more), the most probable classes of each image.

    `more` has, if the fits have them, 'set': for each image the names of the classes in its set,
    and 'answer': the name of the likeliest class, or NONE.

    Args:
      fits: the fits.
      logits_NK: float32 (N, K).
      top_k: the number of classes per image.
      names: the names of the classes.
    """
    probabilities_NK = recalibration.apply(fits.fit, logits_NK)
    classes = np.argsort(-probabilities_NK, axis=1, kind='stable')[:, :top_k]
    found = np.take_along_axis(probabilities_NK, classes, 1), classes
    own_NK = recalibration.apply({'method': 'none', 'multi_label': fits.several}, logits_NK)
    more = {}
    if fits.least is not None:
        more['answer'] = [NONE if confidence < fits.least else names[row[0]]
                          for confidence, row in zip(own_NK.max(1), classes, strict=True)]
    if fits.set_fit is not None:
        more['set'] = [[names[k] for k in np.flatnonzero(row)]
                       for row in conformal.sets(fits.set_fit, own_NK)]
    return found, more
