"""Why the model answers as it does: maps of its errors, beside the tests of the methods."""

import numpy as np

from imgjax import explain
from imgjax.card import explained as explained_lib
from imgjax.card import explanation_tests
from imgjax.card.parts import Finding, counted
from imgjax.errors import DataError
from imgjax.evals import answers as answers_lib
from imgjax.report import overlays

TITLE = 'Explanations'
QUESTION = 'Which pixels does it look at, and can these maps be believed?'

CODE = tuple(f'imgjax.explain.{name}' for name in explain.METHODS)
SHOWN = 8  # of the most confident errors, or of the images where there is no error
PAIRS, OF_PAIR = 3, 2  # pairs of classes that are confused, and images of each


def measure(inputs) -> dict:
    """Explains the most confident errors and tests the methods on images drawn by the seed.

    The answers of a compared model are shown, too.

    Args:
      inputs: card.inputs.Inputs.

    Raises:
      DataError: images have several labels.
    """
    if inputs.multi_label:
        raise DataError('explanations are for images with one label each')
    model = explained_lib.of(inputs.model.setup, inputs.model_functions, seed=inputs.seed)
    rows = inputs.subset(len(inputs.answers.labels), explanation_tests.IMAGES)
    images_NHWC = explained_lib.normalised(model, inputs.images(inputs.split, rows))
    answers = answers_lib.answer(inputs.answers.logits_NK, inputs.answers.labels)
    targets_N = answers.predictions_N[rows]
    names, refused = explained_lib.usable(model, explained_lib.USUAL, images_NHWC, targets_N)
    tested = explanation_tests.measure(model, names, images_NHWC, targets_N)
    return tested | {
        'split': inputs.split, 'tested_of': inputs.split, 'failed_images': [],
        **_shown(inputs, model, names, answers),
        'left_out': [{'name': name, 'why': why} for name, why in refused.items()],
        **_confused(inputs, model, tested, answers)}


def _shown(inputs, model, names: list[str], answers) -> dict:
    """Returns the most confident errors with their maps; without errors the least confident."""
    wrong = np.flatnonzero(answers.ranks_N > 0)
    rows = wrong[np.argsort(-answers.confidences_N[wrong], kind='stable')][:SHOWN]
    heading = 'The most confident errors'
    if not len(rows):
        heading = 'The least confident answers; all are right'
        rows = np.argsort(answers.confidences_N, kind='stable')[:SHOWN]
    images_NHWC = inputs.images(inputs.split, rows)
    normal_NHWC, targets_N = explained_lib.normalised(model, images_NHWC), (
        answers.predictions_N[rows])
    maps = {name: explained_lib.maps(model, name, normal_NHWC, targets_N, rows) for name in names}
    other = inputs.other_predict()
    others = explained_lib.logits_of(other, images_NHWC, model.size).argmax(1) if other else None
    shown = []
    for place, row in enumerate(rows.tolist()):
        pictures = {name: overlays.overlay(images_NHWC[place], maps[name][place],
                                           explain.method(name).SIGNED) for name in names}
        shown.append({
            'index': row, 'label': int(inputs.answers.labels[row]),
            'prediction': int(targets_N[place]), 'target': int(targets_N[place]),
            'confidence': float(answers.confidences_N[row]),
            **explained_lib.shown(images_NHWC[place], pictures),
            **({} if others is None else {'other': int(others[place])})})
    return {'heading': heading, 'images': shown, 'not_shown': 0}


def _confused(inputs, model, tested: dict, answers) -> dict:
    """Returns the pairs that are confused most, with maps for both classes of a pair."""
    labels_N, found = inputs.answers.labels, []
    wrong = np.flatnonzero(answers.ranks_N > 0)
    sound = [one['name'] for one in tested['methods'] if one['verdict'] != 'failed'] or [
        one['name'] for one in tested['methods']]
    # One that depends on the class, and the smoothest of these: it is the easiest to read.
    sound = [name for name in ('grad_cam', 'attention_gradient', 'occlusion',
                               'integrated_gradients', *sound) if name in sound]
    if not len(wrong) or not sound:
        return {'confused': [], 'confused_method': ''}
    pairs, counts = np.unique(np.stack([labels_N[wrong], answers.predictions_N[wrong]], 1), axis=0,
                              return_counts=True)
    for at in np.argsort(-counts, kind='stable')[:PAIRS]:
        label, prediction = pairs[at].tolist()
        rows = wrong[(labels_N[wrong] == label) & (answers.predictions_N[wrong] == prediction)]
        rows = rows[np.argsort(-answers.confidences_N[rows], kind='stable')][:OF_PAIR]
        found.append({'label': label, 'prediction': prediction, 'count': int(counts[at]),
                      'images': _both(inputs, model, sound[0], rows, label, prediction)})
    return {'confused': found, 'confused_method': sound[0]}


def _both(inputs, model, name: str, rows, label: int, prediction: int) -> list[dict]:
    """Returns images with the maps of a method for two classes."""
    images_NHWC, signed = inputs.images(inputs.split, rows), explain.method(name).SIGNED
    normal_NHWC = explained_lib.normalised(model, images_NHWC)
    for_label, for_prediction = (explained_lib.maps(
        model, name, normal_NHWC, np.full(len(rows), number), rows)
        for number in (label, prediction))
    return [{'index': int(row), **explained_lib.pictures(
        picture=images_NHWC[i],
        for_label=overlays.overlay(images_NHWC[i], for_label[i], signed),
        for_prediction=overlays.overlay(images_NHWC[i], for_prediction[i], signed))}
        for i, row in enumerate(rows)]


def findings(found: dict) -> list[Finding]:
    failed = [one['name'].replace('_', ' ') for one in found['methods']
              if one['verdict'] == 'failed']
    passed = [one['name'].replace('_', ' ') for one in found['methods']
              if one['verdict'] == 'passed']
    told = []
    if failed:
        told.append(Finding('look', f'{counted(len(failed), "explanation")} of '
                            f'{len(found["methods"])} fail their tests on this model: '
                            f'{", ".join(failed)}.'))
    if passed:
        told.append(Finding('good', f'The maps of {", ".join(passed)} pass their tests on '
                            f'{found["tested_on"]} images.'))
    if not failed and not passed:
        told.append(Finding('look', 'No method of explanation could be shown to work on '
                            f'{found["tested_on"]} images.'))
    return told


def figures(found: dict) -> dict:
    return {'explanations_passed': [one['name'] for one in found['methods']
                                    if one['verdict'] == 'passed'],
            'explanations_failed': [one['name'] for one in found['methods']
                                    if one['verdict'] == 'failed']}
