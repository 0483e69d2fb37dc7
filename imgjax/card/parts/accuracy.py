"""How often the model is right, and what it confuses."""

import numpy as np

from imgjax.card.parts import Finding, counted
from imgjax.evals import accuracy
from imgjax.evals import answers as answers_lib
from imgjax.evals import label_sets as label_sets_lib
from imgjax.report.text import percent

TITLE = 'Accuracy'
QUESTION = 'How often is it right, and what does it confuse?'

SHOWN = 24  # errors on the page


def measure(inputs, kept=None, label_sets: str = '', content: str = '') -> dict:
    """Measures the answers on the evaluation split.

    Args:
      inputs: card.inputs.Inputs.
      kept: names of the classes to which the answers are restricted; None for all.
      label_sets: a JSON file with the right classes of each image, see evals/label_sets.py.
    """
    answers = inputs.answers
    sets = label_sets_lib.read(label_sets, inputs.names_of(inputs.split)) if (
        label_sets) else None
    numbers = None if kept is None else inputs.class_numbers(kept, '--kept')
    found = accuracy.measure(answers.logits_NK, answers.labels, class_names=inputs.class_names,
                             seed=inputs.seed, kept=numbers, label_sets=sets)
    rows = found['errors'][:SHOWN]
    logits_MK = answers.logits_NK[rows].copy()
    if numbers is not None:
        logits_MK[:, np.setdiff1d(np.arange(logits_MK.shape[1]), numbers)] = -1e9
    shown = answers_lib.answer(logits_MK, answers.labels[rows])
    return found | {'split': inputs.split, 'restricted': kept is not None, 'shown': [
        {'index': row, 'label': _label(answers.labels[row]), 'prediction': int(prediction),
         'confidence': float(confidence)} for row, prediction, confidence in zip(
             rows, shown.predictions_N, shown.confidences_N, strict=True)]}


def _label(label) -> int:
    """Returns the class of an image, of several the first one."""
    return int(label) if label.ndim == 0 else int(label.argmax())


def findings(found: dict) -> list[Finding]:
    top = found['top1']
    text = (f'{percent(top["value"], 1)} of {found["images"]:,} {found["split"]} images are right '
            f'(95 % interval {percent(top["low"], 1)} to {percent(top["high"], 1)}).')
    beaten = all(one['verdict'] == 'above' for one in found['baselines'] if one['rate'] == 'top1')
    told = [Finding('good' if beaten else 'look', text)]
    told += [Finding('look', one['sentence']) for one in found['baselines']
             if one['verdict'] != 'above']
    classes = [row for row in found['per_class'] if row['recall'] is not None]
    worst = min(classes, key=lambda row: row['recall'])
    if worst['recall_high'] < found['macro_recall']['low']:
        told.append(Finding('look', f'The class {worst["name"]!r} is found least often: '
                            f'{percent(worst["recall"], 1)} of its {worst["examples"]:,} images.'))
    pairs = found['confusion']['pairs'] if found['confusion'] else []
    if pairs and pairs[0]['count'] > 1:
        names = {row['index']: row['name'] for row in found['per_class']}
        label, answered = (names[pairs[0][which]] for which in ('label', 'prediction'))
        told.append(Finding('note', f'The most frequent error is {label!r} taken for {answered!r}: '
                            f'{counted(pairs[0]["count"], "image")}.'))
    if found['restricted']:
        told.append(Finding('note', f'These figures are of {found["classes"]:,} classes (--kept) '
                            f'without {counted(found["left_out"], "image")} of others; the other '
                            'parts are of all classes.'))
    return told


def figures(found: dict) -> dict:
    named = {'accuracy': found['top1'], 'top5_accuracy': found['top5'],
             'macro_recall': found['macro_recall'],
             'mean_average_precision': found['mean_average_precision']}
    given = {name: one['value'] for name, one in named.items() if one}
    sets = found['label_sets']
    return given | ({'label_sets_accuracy': sets['accuracy']['value']} if sets else {})
