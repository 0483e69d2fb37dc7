"""Odd images, rare classes, and labels that occur together."""

import collections

import numpy as np

from imgjax.card.parts import Finding, counted
from imgjax.data import labels_are_cheap, records
from imgjax.errors import DataError
from imgjax.evals import odd_images

TITLE = 'Odd images'
QUESTION = 'Which images are blank, tiny, unlike their class; which classes are rare?'

SHOWN = 60  # images for each reason


def measure(inputs) -> dict:
    splits = {inputs.split: (inputs.eval_drawn, inputs.eval_pixels)}
    if inputs.model.train_source is not None:
        splits[inputs.train_split] = (inputs.train_drawn, inputs.train_pixels)
    found = {}
    for split, (rows, looked) in splits.items():
        faults = records.unpacked(looked.faults)
        sound = np.flatnonzero(looked.is_sound)
        odd = odd_images.odd({name: column[sound] for name, column in looked.table().items()})
        # Labels that lie among the images are those of the images that were looked at.
        labels = inputs.labels_of(split) if labels_are_cheap(inputs.source_of(split)) else (
            looked.labels)
        one = {'images': len(rows), 'unreadable': [
                   {'index': int(rows[i]), 'fault': faults[i]}
                   for i in np.setdiff1d(np.arange(len(rows)), sound)[:SHOWN].tolist()],
               'unreadable_count': len(rows) - len(sound),
               'odd': [entry | {'index': int(rows[sound[entry['index']]])} for entry in odd],
               'imbalance': odd_images.imbalance(labels, inputs.class_names)}
        if inputs.multi_label:
            one['co_occurrence'] = odd_images.co_occurrence(labels)
        elif inputs.has_answers:
            answers, of = ((inputs.eval_answers, inputs.eval_rows) if split == inputs.split else
                           (inputs.train_answers, inputs.train_rows))
            one |= _far(answers.features[inputs.layers[-1]], answers.labels, of)
        found[split] = one
    return {'splits': found, 'layer': inputs.layers[-1]}


def _far(features_ND: np.ndarray, labels_N: np.ndarray, rows: np.ndarray) -> dict:
    """Returns the images that are far from their class, and why there are none."""
    some = np.flatnonzero(features_ND.any(1))  # features that are all 0 have no direction
    try:
        far = odd_images.far_from_class(features_ND[some], labels_N[some])
    except DataError as error:
        return {'far': [], 'far_note': str(error)}
    zeros = len(features_ND) - len(some)
    return {'far': [entry | {'index': int(rows[some[entry['index']]])} for entry in far['far']],
            'far_note': f'{counted(zeros, "image")} whose features are all 0 left out' if zeros
            else ''}


def findings(found: dict) -> list[Finding]:
    told, clean = [], True
    for split, one in found['splits'].items():
        if one['unreadable_count']:
            told.append(Finding('look', f'{counted(one["unreadable_count"], "image")} of {split} '
                                f'cannot be decoded, first: {one["unreadable"][0]["fault"]}'))
        reasons = collections.Counter(entry['reason'] for entry in one['odd'])
        if reasons:
            listed = ', '.join(f'{count:,} {reason}' for reason, count in reasons.most_common())
            told.append(Finding('look', f'Odd images of {split}: {listed}.'))
        if one.get('far'):
            told.append(Finding('note', f'Far from the other images of their class: '
                                f'{counted(len(one["far"]), "image")} of {split}.'))
        uneven = one['imbalance']
        if absent := len(uneven['without_images']):
            told.append(Finding('look', f'{counted(absent, "class", "classes")} without an image '
                                f'in {split}.'))
        if uneven['ratio'] is not None and uneven['ratio'] >= 5:
            told.append(Finding('look', f'The largest class of {split} has {uneven["ratio"]:.0f} '
                                'times the images of the smallest one.'))
        clean = clean and not reasons and not one.get('far') and not one['unreadable_count']
    if clean:
        far = any('far' in one for one in found['splits'].values())
        told.append(Finding('good', 'No image is blank, tiny, very dark, very bright or very '
                            f'blurred{", or far from its class" if far else ""}.'))
    return told


def figures(found: dict) -> dict:
    return {f'{split}_odd_images': len({entry['index'] for entry in one['odd']})
            + one['unreadable_count'] for split, one in found['splits'].items()}
