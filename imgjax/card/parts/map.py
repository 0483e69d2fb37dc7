"""The images as points: a map of the features, and the nearest training images of errors."""

import numpy as np

from imgjax.card.parts import Finding
from imgjax.errors import DataError
from imgjax.evals import answers as answers_lib
from imgjax.evals import maps, neighbors

TITLE = 'Map'
QUESTION = 'Which images are alike for the model?'

MOST = 1_000  # points
WIDTH, HEIGHT, MARGIN = 520, 360, 12  # of the drawing
CLASSES = 20  # in the legend
ERRORS, NEAREST = 8, 6
MISSING = 'UMAP needs the package umap-learn (pip install "imgjax[maps]").'


def measure(inputs, has_umap: bool = False) -> dict:
    """Places the images by PCA and, where `has_umap`, by UMAP."""
    answers, layer = inputs.eval_answers, inputs.layers[-1]
    at = inputs.subset(len(answers.labels), MOST)
    features_ND = answers.features[layer][at]
    rows = inputs.eval_rows[at]
    labels_N = _single(answers.labels)
    predictions_N, _, ranks_N = answers_lib.answer(answers.logits_NK, answers.labels)
    right_N = ranks_N == 0
    flat = maps.pca(features_ND, seed=inputs.seed)
    shown = [{'name': 'PCA', 'at': _placed(np.asarray(flat['coordinates'])),
              'remark': f'PCA shows {100 * sum(flat["explained"]):.0f} % of the variance.'}]
    curved, why = _umap(features_ND, inputs.seed) if has_umap else (None, MISSING)
    if curved is not None:
        trust = maps.trustworthiness(features_ND, curved, inputs.seed)
        shown.insert(0, {'name': 'UMAP', 'at': _placed(curved), 'remark':
                         f'UMAP keeps neighbours with a trustworthiness of {trust:.2f}.'})
    classes = np.unique(labels_N[at]).tolist()
    return {'split': inputs.split, 'train_split': inputs.train_split, 'layer': layer,
            'rows': rows.tolist(), 'labels': labels_N[at].tolist(),
            'wrong': (~right_N)[at].tolist(),
            'predictions': predictions_N[at].tolist(), 'maps': shown,
            'shown_classes': classes[:CLASSES], 'more_classes': max(0, len(classes) - CLASSES),
            'note': why,
            'neighbors': _nearest(inputs, layer, labels_N, predictions_N, right_N)}


def _umap(features_ND: np.ndarray, seed: int) -> tuple[np.ndarray | None, str]:
    """Returns (the coordinates of a UMAP, ''), or (None, why there is none)."""
    try:
        found = maps.umap(features_ND, seed=seed)
    except DataError as error:
        return None, f'There is no UMAP: {error}.'
    return found, '' if found is not None else MISSING


def _single(labels: np.ndarray) -> np.ndarray:
    """Returns one class per image, of several the first one."""
    return labels.astype(np.int64) if labels.ndim == 1 else labels.argmax(1)


def _placed(coordinates_N2: np.ndarray) -> list[list[float]]:
    """Returns coordinates in the drawing; outermost points do not press the others together."""
    low, high = np.percentile(coordinates_N2, [1, 99], axis=0)
    share_N2 = np.clip((coordinates_N2 - low) / np.maximum(high - low, 1e-9), -0.02, 1.02)
    size = np.array([WIDTH, HEIGHT]) - 2 * MARGIN
    return (MARGIN + share_N2 * size).round(1).tolist()


def _nearest(inputs, layer: str, labels_N: np.ndarray, predictions_N: np.ndarray,
             right_N: np.ndarray) -> list[dict]:
    """Returns the most confident errors with the nearest training images."""
    if inputs.model.train_source is None:
        return []
    answers, train = inputs.eval_answers, inputs.train_answers
    confidences_N = inputs.probabilities_of(answers).max(1)
    wrong = np.flatnonzero(~right_N)
    wrong = wrong[np.argsort(-confidences_N[wrong], kind='stable')][:ERRORS]
    if not len(wrong):
        return []
    indices_NC, similarities_NC = neighbors.nearest(
        answers.features[layer][wrong], train.features[layer],
        min(NEAREST, len(train.labels)))
    train_labels_N = _single(train.labels)
    return [{'index': int(inputs.eval_rows[row]), 'label': int(labels_N[row]),
             'prediction': int(predictions_N[row]), 'nearest': [
                 {'index': int(inputs.train_rows[i]), 'label': int(train_labels_N[i]),
                  'similarity': float(one)} for i, one in zip(near, alike, strict=True)]}
            for row, near, alike in zip(wrong, indices_NC, similarities_NC, strict=True)]


def findings(found: dict) -> list[Finding]:
    return []


def figures(found: dict) -> dict:
    return {}
