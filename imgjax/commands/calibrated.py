"""What the card of a run gives to predictions: calibrated probabilities, sets and "none of these".

The card writes calibration.json. Its thresholds are those of the model's own probabilities on the
evaluation split, so that the promise of a set holds whatever fit makes the probabilities. Where the
card has the part `ood`, images are rejected by the score that it chose; what this score compares
with are the arrays of reject.safetensors.
"""

import contextlib
import hashlib
import json
import logging
import os
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from imgjax.build import Setup
from imgjax.card import forward
from imgjax.card.parts import ood
from imgjax.errors import ConfigError, DataError
from imgjax.evals import conformal, ood_scores, recalibration, selective
from imgjax.rundir import files
from imgjax.rundir.dataset_info import DatasetInfo

log = logging.getLogger('imgjax')

FILE = 'calibration.json'
ARRAYS = 'reject.safetensors'  # beside it
NONE = 'none of these'
_BYTES = 2**28
_ARRAYS_BYTES = 2**31
FOLDER = 'card'  # of a run directory


class Rejection(NamedTuple):
    """Which images get no answer.

    Attributes:
      score: one of ood_scores.NAMES; it is higher for stranger images.
      layer: the intermediate whose features it reads; '' for a score of the logits.
      fitted: as ood_scores.score takes it.
      most: the largest score of an answer.
    """

    score: str
    layer: str
    fitted: dict[str, np.ndarray]
    most: float


class Fits(NamedTuple):
    """How the answers of a model are calibrated.

    Attributes:
      fit: as recalibration.apply takes it.
      set_fit: as conformal.sets takes it; None writes no sets.
      rejection: which images get no answer; None answers always.
      several: whether an image may have several labels.
    """

    fit: dict
    set_fit: dict | None
    rejection: Rejection | None
    several: bool


def write(folder: str, inputs) -> None:
    """Writes calibration.json into the folder of a card, from its parts `calibration` and `ood`.

    Beside it lie the arrays of the score that `ood` chose, if it has any. Neither is written from
    the images that the model was trained on, on which it is too sure.

    Args:
      folder: the folder of the card.
      inputs: card.inputs.Inputs.
    """
    if inputs.examines_training:
        log.info('%s: is not written, as %s is the split that the model was trained on', FILE,
                 inputs.split)
        return
    with open(os.path.join(folder, 'card.json'), encoding='utf-8') as file:
        parts = json.load(file)['parts']
    found = parts['calibration']
    options = inputs.model.setup.config.data
    content = {'state_digest': inputs.model.state_digest, 'split': inputs.split,
               'data': options.path or options.name, 'images': len(inputs.answers.labels),
               'fit': found['fits'][found['chosen']]}
    if not inputs.multi_label:
        probabilities_NK, labels_N = inputs.probabilities_NK, inputs.answers.labels
        content |= {'label_probabilities': probabilities_NK[
                        np.arange(len(labels_N)), labels_N].tolist(),
                    'confidences': probabilities_NK.max(1).tolist()}
    with contextlib.suppress(FileNotFoundError):  # of another score
        os.unlink(os.path.join(folder, ARRAYS))
    if 'not_measured' not in parts.get('ood', {'not_measured': ''}):
        content['reject'] = _write_rejection(folder, inputs, parts['ood'])
    with files.replacing(os.path.join(folder, FILE)) as file:
        json.dump(content, file)


def _write_rejection(folder: str, inputs, found: dict) -> dict:
    """Writes the arrays of the chosen score, if it has any; returns what calibration.json holds."""
    name, layer, answers = found['chosen'], found['layer'], inputs.eval_answers
    fitted, digest = ood.fit(inputs, name), ''
    if fitted:
        data = safetensors.numpy.save(fitted)
        digest = hashlib.sha256(data).hexdigest()
        with files.replacing(os.path.join(folder, ARRAYS), binary=True) as file:
            file.write(data)
    scores_N = ood_scores.score(name, fitted, answers.features[layer], answers.logits_NK)
    return {'score': name, 'layer': layer if fitted else '', 'digest': digest,
            'scores': scores_N.tolist()}


def read(workdir: str, meta: dict, temperature: str, alpha: float, reject: float,
         setup: Setup) -> Fits | None:
    """Returns what the flags of launch.predict ask for; None if they ask for nothing.

    Args:
      workdir: the run directory, in whose `card` the card lies.
      meta: what was saved with the state; its state_digest has to be that of the card.
      temperature, alpha, reject: as predict.predict_images takes them.
      setup: the run.

    Raises:
      ConfigError: a flag is out of its range, or images have several labels.
      DataError: there is no card of this checkpoint.
    """
    if not (temperature or alpha or reject):
        return None
    dataset = setup.dataset
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
    if alpha and fit['method'] not in ('none', 'temperature'):
        log.info("--set: by the model's own probabilities; class_1 is by the fit %s, which may put "
                 'another class first', fit['method'])
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
    rejection = _rejection(workdir, stored, reject, setup) if reject else None
    return Fits(fit, set_fit, rejection, dataset.multi_label)


def _number(temperature: str) -> float:
    try:
        found = float(temperature)
    except ValueError:
        found = 0.0
    if not 0 < found < float('inf'):
        raise ConfigError(f'--temperature: takes card, or a number above 0, got {temperature!r}')
    return found


def _rejection(workdir: str, stored: dict, share: float, setup: Setup) -> Rejection:
    """Returns which images are rejected, so that `share` of those like the evaluation split are.

    Raises:
      DataError: the arrays of the score cannot be used.
    """
    again = f'run launch.card --workdir={workdir}'
    if 'reject' not in stored:
        log.info('--reject: by the largest probability, as the card has no part ood; %s', again)
        least = selective.threshold(np.array(stored['confidences']), share)
        return Rejection('max_softmax', '', {}, -least)
    name, layer, digest, scores = (stored['reject'][word] for word in (
        'score', 'layer', 'digest', 'scores'))
    log.info('--reject: by the score %s, which the card chose', name)
    fitted = {}
    path = os.path.join(workdir, FOLDER, ARRAYS)
    try:
        if name not in ood_scores.OF_LOGITS:
            data = files.read(path, min(_ARRAYS_BYTES, os.lstat(path).st_size))
            if hashlib.sha256(data).hexdigest() != digest:
                raise ValueError('it is not the one that belongs to calibration.json')
            fitted = safetensors.numpy.load(data)
            shape = forward.layers(setup).get(layer)
            if shape is None:
                raise ValueError(f'the model has no intermediate {layer!r}')
            ood_scores.check_fitted(name, fitted, shape[-1])
    except (OSError, ValueError, TypeError, KeyError, DataError,
            safetensors.SafetensorError) as error:
        raise DataError(f'{path}: cannot be used ({error}); {again}') from None
    return Rejection(name, layer, fitted, -selective.threshold(-np.array(scores), share))


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
    if 'reject' in stored:
        found = stored['reject']
        scores = np.array(found['scores'], np.float64)
        if found['score'] not in ood_scores.NAMES or not all(
                isinstance(found[name], str) for name in ('layer', 'digest')):
            raise ValueError('it does not say by which score images are rejected')
        if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
            raise ValueError('the scores of its images are not finite')


def answer(fits: Fits, logits_NK: np.ndarray, top_k: int, names,
           features_ND: np.ndarray | None = None) -> tuple[tuple, dict]:
    """Returns ((probabilities, classes), more), the most probable classes of each image.

    `more` has, if the fits have them, 'set': for each image the names of the classes in its set,
    and 'answer': the name of the likeliest class, or NONE.

    Args:
      fits: the fits.
      logits_NK: float32 (N, K).
      top_k: the number of classes per image.
      names: the names of the classes.
      features_ND: float32 (N, D), of the layer that the rejection reads, if it reads one.
    """
    probabilities_NK = recalibration.apply(fits.fit, logits_NK)
    classes = np.argsort(-probabilities_NK, axis=1, kind='stable')[:, :top_k]
    found = np.take_along_axis(probabilities_NK, classes, 1), classes
    more = {}
    if fits.rejection is not None:
        name, _, fitted, most = fits.rejection
        scores_N = ood_scores.score(name, fitted, features_ND, logits_NK)
        more['answer'] = [NONE if score > most else names[row[0]]
                          for score, row in zip(scores_N, classes, strict=True)]
    if fits.set_fit is not None:
        own_NK = recalibration.apply({'method': 'none', 'multi_label': fits.several}, logits_NK)
        more['set'] = [[names[k] for k in np.flatnonzero(row)]
                       for row in conformal.sets(fits.set_fit, own_NK)]
    return found, more
