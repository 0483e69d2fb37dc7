"""Labels that are probably wrong, judged by models that were not trained on the image."""

import logging

import numpy as np

from imgjax.card.parts import Finding, counted
from imgjax.errors import DataError
from imgjax.evals import label_errors
from imgjax.report.text import percent

log = logging.getLogger('imgjax')

TITLE = 'Labels'
QUESTION = 'Which labels are probably wrong?'

SHOWN = 100  # images on the page, those whose label contradicts the model
RARE = 5  # images of a class; labels of classes with fewer are not judged
WEAK = 0.5  # a model that agrees with fewer of the labels cannot judge them
UNSURE = 0.8  # below this agreement the estimate is too high, see imgjax/evals/label_errors.py
FEWEST = 8  # that are shown also where no label contradicts the model


def measure(inputs) -> dict:
    found = {}
    for split, answers in inputs.out_of_sample.items():
        rows, several = _judged(answers), answers.labels.ndim == 2
        if not len(rows):
            log.warning('%s: its labels are not judged, as no class has %d images', split, RARE)
            continue
        labels = answers.labels[rows]
        probabilities_NK = inputs.probabilities_of(answers)[rows]
        one = label_errors.measure(probabilities_NK, labels, class_names=inputs.class_names,
                                   seed=inputs.seed)
        margins = one.pop('margins')
        ranking, suggested = one.pop('ranking'), one.pop('suggested')
        against = int(np.sum(np.asarray(margins) < 0))
        count = max(one['suspected'], min(SHOWN, against), min(FEWEST, len(ranking)))
        one['suspects'] = [
            _of_pair(rows, pair, margins[place], suggested[place], inputs.class_names) if several
            else {'index': int(rows[pair]), 'margin': margins[pair], 'given': int(labels[pair]),
                  'suggested': suggested[pair],
                  'probability': float(probabilities_NK[pair, suggested[pair]])}
            for place, pair in enumerate(ranking[:count])]
        one['weak'] = one['agreement'] < WEAK
        one['why_left_out'] = ('no image has them, or all images do' if several else
                               f'they have fewer than {RARE} images')
        found[split] = one
        one['seen'] = split == inputs.split and inputs.examines_training
        one['known_unseen'] = inputs.model.saw_training
    if not found:
        raise DataError(f'labels are not judged, as no class has {RARE} images')
    return {'splits': found, 'folds': len(inputs.out_of_sample) > 1}


def _judged(answers) -> np.ndarray:
    """Returns the images whose labels are judged, int (M,): those that can be decoded.

    The labels of a class with a few images are not judged: hardly any model has seen the class.
    """
    is_judged_N = np.isfinite(answers.logits_NK).all(1)
    if answers.labels.ndim == 1:
        is_judged_N &= np.bincount(answers.labels)[answers.labels] >= RARE
    return np.flatnonzero(is_judged_N)


def _of_pair(rows: np.ndarray, pair, margin: float, suggested: int, class_names) -> dict:
    """Returns a suspect of a set with several labels: one class of one image."""
    index, number = pair
    return {'index': int(rows[index]), 'margin': margin, 'class': number,
            'text': f'{class_names[number]}: {"missing" if suggested else "does not belong"}'}


def findings(found: dict) -> list[Finding]:
    told = []
    for split, one in found['splits'].items():
        low, high = one['estimated_interval']
        agrees = percent(one['agreement'], 1)
        worst = f'; most often {one["pairs"][0]["text"]}' if one['pairs'] else ''
        if rare := len(one['left_out']):
            told.append(Finding('note', f'The labels of {counted(rare, "class", "classes")} of '
                                f'{split} are not judged, as {one["why_left_out"]}.'))
        if one['seen']:
            told.append(Finding('note', f'The model was trained on {split}: it may have learned '
                                'wrong labels, which are not found then; launch.audit judges '
                                'them.'))
        if one['weak']:
            told.append(Finding('note', f'The labels of {split} are not judged: the model agrees '
                                f'with only {agrees} of them.'))
        elif not one['estimated']:
            told.append(Finding('good', f'No label of {split} is suspected to be wrong.'))
        elif one['agreement'] < UNSURE:
            told.append(Finding('look', f'Of {one["labels"]:,} labels of {split} probably far '
                                f'fewer than the estimated {one["estimated"]:,} are wrong, as the '
                                f'model agrees with only {agrees} of them{worst}.'))
        else:
            told.append(Finding('look', f'About {one["estimated"]:,} of {one["labels"]:,} labels '
                                f'of {split} are probably wrong ({low:,.0f} to '
                                f'{high:,.0f}){worst}.'))
    return told


def figures(found: dict) -> dict:
    return {f'{split}_labels_suspected': one['suspected']
            for split, one in found['splits'].items() if not one['weak']}
