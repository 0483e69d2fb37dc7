"""Images that are twice in a dataset, and evaluation images that were trained on."""

import numpy as np

from imgjax.card.parts import Finding, counted
from imgjax.evals import answers as answers_lib
from imgjax.evals import duplicates
from imgjax.report.text import percent

TITLE = 'Duplicates'
QUESTION = 'Which images occur twice, or in both splits?'

SHOWN = 60  # groups on the page
MEMBERS = 12  # images of a group on the page


def measure(inputs) -> dict:
    splits = [(inputs.split, inputs.eval_drawn, inputs.eval_pixels)]
    if inputs.model.train_source is not None and not inputs.examines_training:
        splits.append((inputs.train_split, inputs.train_drawn, inputs.train_pixels))
    hashes_N, descriptors_ND, number_N, is_eval_N, labels, which = _joined(inputs, splits)
    labels_N = labels
    if labels.ndim == 2:  # two images agree if all their labels do
        labels_N = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    found = duplicates.measure(hashes_N, descriptors_ND, labels_N, is_eval_N, seed=inputs.seed)
    without_N = np.array(found.pop('without_leaks'), bool)[is_eval_N]
    groups = found.pop('groups')
    accuracy, after = None, None
    if inputs.has_answers:
        answers, rows = inputs.answers, number_N[is_eval_N]
        right_N = answers_lib.answer(answers.logits_NK[rows], answers.labels[rows]).ranks_N == 0
        accuracy = float(right_N.mean())
        after = float(right_N[without_N].mean()) if without_N.any() else None
    return found | {
        'split': inputs.split, 'train_split': inputs.train_split if len(splits) == 2 else None,
        'evaluated': int(is_eval_N.sum()),
        'saw_training': inputs.model.saw_training,
        'examines_training': inputs.examines_training,
        'compared': {split: [len(drawn), len(inputs.source_of(split).examples)]
                     for split, drawn, _ in splits},
        'accuracy': accuracy, 'accuracy_without_leaks': after,
        'groups': [group | {'members': [
            {'split': which[is_eval_N[i]], 'index': int(number_N[i]),
             'labels': np.atleast_1d(labels[i] if labels.ndim == 1 else np.flatnonzero(
                 labels[i])).tolist()}
            for i in group['indices'][:MEMBERS]], 'size': len(group['indices'])}
            for group in groups[:SHOWN]],
        'every_group': [[[bool(is_eval_N[i]), int(number_N[i])] for i in group['indices']]
                        for group in groups]}


def _joined(inputs, splits):
    """Returns the sound images of all splits as arrays, and {whether evaluated: split}."""
    parts = []
    for split, rows, looked in splits:
        sound = np.flatnonzero(looked.is_sound)
        parts.append((looked.hashes[sound], looked.descriptors[sound], rows[sound],
                      np.full(len(sound), split == inputs.split), looked.labels[sound]))
    hashes_N, descriptors_ND, number_N, is_eval_N, labels = (
        np.concatenate([part[i] for part in parts]) for i in range(5))
    which = {True: inputs.split, False: inputs.train_split}
    return hashes_N, descriptors_ND, number_N, is_eval_N, labels, which


def findings(found: dict) -> list[Finding]:
    exact, near, split, train = (found[name] for name in (
        'exact_leaks', 'near_leaks', 'split', 'train_split'))
    told, sample = [], _sample(found)
    if found['examines_training']:
        told.append(Finding('note', f'{split} is the split that the model was trained on, so that '
                            'leaks were not looked for.'))
    elif train is None:
        told.append(Finding('note', 'Whether evaluation images were trained on is not known: the '
                            'training images are not at hand.'))
    elif exact + near:
        after = found['accuracy_without_leaks']
        rest = '' if after is None else (f' Without them {percent(after, 1)} are right, with them '
                                         f'{percent(found["accuracy"], 1)}.')
        told.append(Finding('look', f'Of {found["evaluated"]:,} images of {split}, {train} has '
                            f'equal pixels for {exact:,} and a nearly equal image for {near:,} '
                            f'more{sample}.{rest}'))
    else:
        told.append(Finding('note' if sample else 'good',
                            f'No image of {split} was found in {train}{sample}.'))
    if train is not None and not found['saw_training']:
        told.append(Finding('note', f'Whether the model was trained on {train} is not known.'))
    if found['conflicts']:
        told.append(Finding('look', counted(found['conflicts'], 'group') + ' of equal or nearly '
                            'equal images have different labels.'))
    count = found['exact_groups'] + found['near_groups']
    if count:
        told.append(Finding('note', f'{counted(count, "group")} of duplicates, '
                            f'{found["exact_groups"]:,} with equal pixels.'))
    return told


def _sample(found: dict) -> str:
    """Returns how much was compared, where that is not all: ', among 10 of the 20 images of x'."""
    parts = [f'{drawn:,} of the {images:,} images of {split}'
             for split, (drawn, images) in found['compared'].items() if drawn < images]
    return f', among {" and ".join(parts)} (--images)' if parts else ''


def figures(found: dict) -> dict:
    return {'duplicate_groups': found['exact_groups'] + found['near_groups'],
            'leaks': found['exact_leaks'] + found['near_leaks'],
            'label_conflicts': found['conflicts']}
