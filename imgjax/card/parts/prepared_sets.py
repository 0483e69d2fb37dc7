"""Prepared sets that --sets names: ImageNet-C, -A, -R, -V2, Sketch, or folders of one's own.

A set has some classes of the model. Both accuracies are measured: over all answers of the model,
and with its answers restricted to the classes of the set, as Hendrycks et al. do for ImageNet-A
(https://arxiv.org/abs/1907.07174) and -R (https://arxiv.org/abs/2006.16241). The images of the
evaluation split that have these classes are measured in the same two ways.

Effective robustness (Taori et al. 2020, https://arxiv.org/abs/2007.00644) is the gap that is left
after that of other models of the same accuracy; it takes many models and is not claimed here.
"""

import logging
import math
import os
from collections.abc import Callable, Sequence

import numpy as np

from imgjax import data
from imgjax.card import forward, other_sets, store
from imgjax.card.inputs import chosen
from imgjax.card.other_sets import FLAG, Cell
from imgjax.card.parts import Finding, counted
from imgjax.data import Source
from imgjax.errors import DataError
from imgjax.evals import shape_bias
from imgjax.evals.intervals import share_of
from imgjax.report.text import percent
from imgjax.study import code

log = logging.getLogger('imgjax')

TITLE = 'Prepared sets'
QUESTION = 'How accurate is it on other images of the same classes?'


def measure(inputs, paths: Sequence[str] = (), content: str = '') -> dict:
    """Evaluates the model on the sets of `paths`; `content` is their digest, for the key alone.

    Raises:
      ConfigError: a path is no folder of a set.
      DataError: images have several labels, or no set has images of the model's classes.
    """
    if inputs.multi_label:
        raise DataError(f'{FLAG}: takes models with one label per image')
    collect = forward.collector(inputs.model.setup)
    sets, cells_of = [], other_sets.check(paths)
    for name, (place, cells) in zip(_names(list(cells_of)), cells_of.items(), strict=True):
        try:
            sets.append({'name': name, 'path': place, 'fault': ''} | _set(inputs, collect, cells))
        except DataError as error:
            log.warning('%s is left out: %s', place, error)
            sets.append({'name': name, 'path': place, 'fault': str(error)})
    if all(one['fault'] for one in sets):
        raise DataError('; '.join(one['fault'] for one in sets) or f'{FLAG}: names no set')
    return {'split': inputs.split, 'sets': sets}


def findings(found: dict) -> list[Finding]:
    told = []
    for one in found['sets']:
        if one['fault']:
            told.append(Finding('look', f'{one["name"]} is not measured: {one["fault"]}.'))
            continue
        if one['left_out']:
            told.append(Finding('note', f'Of {one["name"]} {counted(one["left_out"], "image")} of '
                                'classes that the model does not have are left out.'))
        right, own, gap = one['restricted'], one['own'], one['gap']
        where = f'On {one["name"]} {percent(right["value"], 1)} of the answers are right'
        if gap is None:
            told.append(Finding('note', f'{where}; {found["split"]} has no images of its classes.'))
        else:
            told.append(Finding(
                'look' if gap['low'] > 0 else 'note', f'{where}, on the same classes of '
                f'{found["split"]} {percent(own["restricted"]["value"], 1)}: a gap of '
                f'{100 * gap["value"]:.1f} points (95 % interval {100 * gap["low"]:.1f} to '
                f'{100 * gap["high"]:.1f}).'))
        if one['cells']:
            worst = min(one['cells'], key=lambda cell: cell['restricted']['value'])
            told.append(Finding('note', f'The worst of {one["name"]} is {worst["corruption"]} of '
                                f'severity {worst["severity"]}: '
                                f'{percent(worst["restricted"]["value"], 1)} right.'))
    return told


def figures(found: dict) -> dict:
    return {f'{one["name"]}_accuracy': one['restricted']['value'] for one in found['sets']
            if not one['fault']}


def _names(places: list[str]) -> list[str]:
    """Returns the names of the folders, with the folder above where two have the same name."""
    names = [os.path.basename(place) for place in places]
    return [name if names.count(name) == 1 else
            os.path.join(os.path.basename(os.path.dirname(place)), name)
            for name, place in zip(names, places, strict=True)]


def _set(inputs, collect: Callable, cells: list[Cell]) -> dict:
    """Returns the figures of a set; of a tree of corruptions the means over its cells."""
    rows = [_cell(inputs, collect, cell) for cell in cells]
    kept = np.unique(np.concatenate([row.pop('kept') for row in rows]))
    tree = bool(cells[0].corruption)
    answers = inputs.answers
    own = None
    if (of_K := np.isin(answers.labels, kept)).any():
        own = _accuracies(answers.logits_NK[of_K], answers.labels[of_K], kept)
    found = {'classes': len(kept), 'all_classes': len(inputs.class_names), 'own': own,
             'by_number': rows[0]['by_number'], 'not_known': rows[0]['not_known'],
             'images': sum(row['images'] for row in rows),
             'of_images': sum(row['of_images'] for row in rows),
             'left_out': sum(row['left_out'] for row in rows),
             'cells': rows if tree else [], 'cue_conflict': rows[0]['cue_conflict']}
    for name in ('all', 'restricted'):
        found[name] = _mean([row[name] for row in rows]) if tree else rows[0][name]
    found['gap'] = None if own is None else _gap(own['restricted'], found['restricted'])
    return found


def _cell(inputs, collect: Callable, cell: Cell) -> dict:
    """Returns the figures of a cell, stored in the folder of the card."""
    model = inputs.model
    other = other_sets.opened(cell, model.setup.config.data, inputs.class_names)
    version = code.version_of('imgjax.card.parts.prepared_sets')
    key = store.key_of(version, inputs.key, other.source.fingerprint)

    def make() -> dict:
        rows = inputs.subset(len(other.source.examples), inputs.most)
        source = chosen(other.source, rows)
        title = f'{cell.corruption} {cell.severity}' if cell.corruption else (
            os.path.basename(cell.path))
        answers = collect(model.state, source, title)
        forward.check_finite(answers.logits_NK, cell.path)
        kept = np.unique(other.source.labels())
        if len(kept) < 2:
            raise DataError(f'{FLAG}={cell.path}: has images of one class of the model only '
                            f'({inputs.class_names[kept[0]]}), so that answers restricted to it '
                            'are always right; add other classes')
        return {'corruption': cell.corruption, 'severity': cell.severity, 'kept': kept.tolist(),
                'by_number': other.by_number, 'not_known': other.compared.split_only[:20],
                'images': len(rows), 'of_images': len(other.source.examples),
                'left_out': other.compared.left_out,
                'cue_conflict': _cue_conflict(answers.logits_NK, source, inputs.class_names),
                **_accuracies(answers.logits_NK, answers.labels, kept)}

    return store.result(inputs.folder, f'set-{store.key_of(cell.path)}', key, make)


def _accuracies(logits_NK: np.ndarray, labels_N: np.ndarray, kept: np.ndarray) -> dict:
    """Returns the accuracy over `all` answers and over those `restricted` to the classes `kept`."""
    restricted_N = kept[logits_NK[:, kept].argmax(axis=1)]
    found = {name: dict(zip(('value', 'low', 'high'), share_of(answers_N == labels_N), strict=True))
             for name, answers_N in (('all', logits_NK.argmax(axis=1)),
                                     ('restricted', restricted_N))}
    return found | {'count': len(labels_N)}


def _mean(shares: list[dict]) -> dict:
    """Returns the mean of the accuracies of cells; cells of the same images share their noise.

    The ends are the means of the ends, which is the interval if the cells go together fully.
    """
    return {end: float(np.mean([one[end] for one in shares])) for end in ('value', 'low', 'high')}


def _gap(own: dict, other: dict) -> dict:
    """Returns own - other with Newcombe's 95 % interval (method 10).

    Newcombe, Statistics in Medicine 17:873, 1998
    (https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I).
    """
    value = own['value'] - other['value']
    return {'value': value,
            'low': value - math.hypot(own['value'] - own['low'], other['high'] - other['value']),
            'high': value + math.hypot(own['high'] - own['value'], other['value'] - other['low'])}


def _cue_conflict(logits_NK: np.ndarray, source: Source, class_names: list[str]) -> dict | None:
    """Returns the shape bias where the names of the files are cat1-truck3.png; otherwise None.

    Answers are restricted to the classes that are named. A name with another class, or none, means
    that this is no set of conflicts.
    """
    number_of = {name: number for number, name in enumerate(class_names)}
    cues = []
    for first in range(0, len(source.examples), 256):
        rows = list(range(first, min(first + 256, len(source.examples))))
        for example in data.read(source, rows):
            found = shape_bias.cues_of_name(os.path.basename(str(example['name'])))
            if found is None or not set(found) <= set(number_of):
                return None
            cues.append([number_of[name] for name in found])
    shapes_N, textures_N = np.array(cues, np.int64).T
    named = np.unique(cues)
    answers_N = named[logits_NK[:, named].argmax(axis=1)]
    return shape_bias.bias_of(answers_N, shapes_N, textures_N)
