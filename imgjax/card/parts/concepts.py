"""Which channels before the head decide for a class, and the images that excite them most."""

import numpy as np

from imgjax.card import forward
from imgjax.card.parts import Finding, counted
from imgjax.errors import DataError
from imgjax.evals import answers as answers_lib
from imgjax.evals import filters
from imgjax.explain import concepts
from imgjax.report.text import percent

TITLE = 'Concepts'
QUESTION = 'Which channels decide, and what do they stand for?'

LAYER = 'pre_logits'
CLASSES = 12  # those that are shown, the least accurate first
CHANNELS = 3  # of each class, and of each error
IMAGES = 6  # that excite a channel most
ERRORS = 6  # the most confident ones
MOST = 2_000  # images on which accuracies are measured
SHARE = 0.9


def measure(inputs) -> dict:
    """Finds the channels that decide for each class and for the most confident errors.

    Args:
      inputs: card.inputs.Inputs.

    Raises:
      DataError: images have several labels, or the model has no layer 'pre_logits' before a single
        linear layer.
    """
    if inputs.multi_label:
        raise DataError('the channels that decide are shown for images with one label each')
    if LAYER not in forward.layers(inputs.model.setup):
        raise DataError(f'the model has no intermediate {LAYER!r}, the layer before its head')
    features_ND, logits_NK = inputs.features_of(LAYER), inputs.eval_answers.logits_NK
    labels_N = inputs.eval_answers.labels
    head = concepts.head_of(inputs.params(), features_ND, logits_NK)
    split, rows, exciting_ND, of_labels_N, note = _exciting(inputs, features_ND)
    terms_KD = concepts.of_classes(head, exciting_ND, of_labels_N)
    needed_K = concepts.needed(terms_KD, SHARE)
    at = inputs.subset(len(labels_N), MOST)
    D = features_ND.shape[1]
    counts = sorted({*(2**i for i in range(D.bit_length()) if 2**i < D), D})
    found = {
        'split': inputs.split, 'shown_split': split, 'note': note, 'channels': D,
        'images': len(rows), 'measured_on': len(at), 'share': SHARE,
        'counts': counts, 'accuracies': concepts.accuracies(
            head, terms_KD, features_ND[at], labels_N[at], counts),
        'dead': int((~exciting_ND.any(0)).sum())}
    answers = answers_lib.answer(logits_NK, labels_N)
    chosen, accuracies_K = _worst(labels_N, answers.ranks_N, terms_KD)
    shown = [(k, np.argsort(-terms_KD[k], kind='stable')[:CHANNELS]) for k in chosen]
    errors = _errors(inputs, head, features_ND, labels_N, answers)
    classes = [{
        'class': k, 'accuracy': accuracies_K[k], 'needed': int(needed_K[k]), 'channels': [
            {'channel': int(d), 'term': float(terms_KD[k, d]), 'share': _share(terms_KD[k], d),
             'low': bool(exciting_ND[of_labels_N == k, d].mean() < 0)}
            for d in some if terms_KD[k, d] > 0]} for k, some in shown]
    sides = sorted({(one['channel'], one['low']) for group in (*classes, *errors)
                    for one in group['channels']})
    return found | {
        'needed': float(np.median(needed_K[needed_K > 0])) if (needed_K > 0).any() else 0.0,
        'classes': classes,
        'classes_not_shown': int((needed_K > 0).sum()) - len(shown), 'errors': errors,
        'exciting': _images(exciting_ND, rows, of_labels_N, sides)}


def _exciting(inputs, features_ND: np.ndarray) -> tuple:
    """Returns split, rows, features and labels of the images that show what a channel stands for.

    They are training images where there are some, which have made the channel what it is.
    """
    own = (inputs.split, inputs.eval_rows, features_ND, inputs.eval_answers.labels)
    if inputs.model.train_source is None:
        return *own, f'There are no training images at hand; the images are of {inputs.split}.'
    if inputs.examines_training:
        return *own, ''
    if LAYER not in inputs.layers:
        return *own, (f'Features of training images are not at hand; the images are of '
                      f'{inputs.split}.')
    train = inputs.train_answers
    return (inputs.model.train_split, inputs.train_rows, train.features[LAYER], train.labels, '')


def _worst(labels_N: np.ndarray, ranks_N: np.ndarray,
           terms_KD: np.ndarray) -> tuple[list[int], dict[int, float]]:
    """Returns the classes that are shown, the least accurate first, and accuracies of all."""
    present = [int(k) for k in np.unique(labels_N) if (terms_KD[k] > 0).any()]
    accuracies_K = {k: float((ranks_N[labels_N == k] == 0).mean()) for k in present}
    return sorted(present, key=accuracies_K.__getitem__)[:CLASSES], accuracies_K


def _share(terms_D: np.ndarray, channel: int) -> float:
    """Returns the share of a channel in all that speaks for a class."""
    return float(max(0.0, terms_D[channel]) / np.maximum(0.0, terms_D).sum())


def _errors(inputs, head: concepts.Head, features_ND: np.ndarray, labels_N: np.ndarray,
            answers: answers_lib.Predictions) -> list[dict]:
    """Returns the most confident errors, and the channels that spoke for the answer."""
    wrong = np.flatnonzero(answers.ranks_N > 0)
    wrong = wrong[np.argsort(-answers.confidences_N[wrong], kind='stable')][:ERRORS]
    given_N = answers.predictions_N[wrong]
    terms = concepts.of_images(head, features_ND[wrong], given_N,
                               min(CHANNELS, features_ND.shape[1]), labels_N[wrong])
    return [{
        'index': int(inputs.eval_rows[row]), 'label': int(labels_N[row]),
        'prediction': int(given_N[i]), 'confidence': float(answers.confidences_N[row]),
        'channels': [{'channel': int(d), 'term': float(term),
                      'low': bool(features_ND[row, d] < 0)} for d, term in zip(
            terms.channels_NM[i], terms.terms_NM[i], strict=True) if term > 0]}
        for i, row in enumerate(wrong)]


def _images(features_ND: np.ndarray, rows: np.ndarray, labels_N: np.ndarray,
            sides: list[tuple[int, bool]]) -> dict[str, dict]:
    """Returns the images that excite a channel most, or least, by a text as JSON has no other keys.

    A channel that is below 0 for the images of a class speaks for it by its low values.
    """
    if not sides:
        return {}
    signs_S = np.array([-1 if low else 1 for _, low in sides])
    top = filters.most_exciting(features_ND[:, [channel for channel, _ in sides]] * signs_S,
                                min(IMAGES, len(rows)))
    return {f'{"low" if low else "high"} {channel}': {
        'images': rows[top[i]].tolist(), 'labels': labels_N[top[i]].tolist()}
        for i, (channel, low) in enumerate(sides)}


def findings(found: dict) -> list[Finding]:
    full = found['accuracies'][-1]
    enough = next(count for count, accuracy in zip(found['counts'], found['accuracies'],
                                                   strict=True) if accuracy >= full - 0.01)
    every = found['channels']
    kept = ('With fewer channels of each class the accuracy falls by more than a point from the '
            f'{percent(full, 1)} with all.' if enough == every else
            f'With the {counted(enough, "channel")} of each class that count most, the accuracy is '
            f'within a point of the {percent(full, 1)} with all.')
    told = [Finding('note', (
        f'{found["needed"]:.0f} of {counted(every, "channel")} give {percent(found["share"], 0)} '
        f'of what speaks for a class, in the median class. {kept}'))]
    if found['dead']:
        told.append(Finding('look', f'{counted(found["dead"], "channel")} of {found["channels"]:,} '
                            f'before the head are 0 for all {found["images"]:,} images of '
                            f'{found["shown_split"]}: they decide nothing.'))
    return told


def figures(found: dict) -> dict:
    return {'concept_channels': found['needed']}
