"""Whether the model can tell images of no class that it knows: strangers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.card import explained, forward, functions
from imgjax.card.parts import Finding, counted
from imgjax.errors import DataError
from imgjax.evals import ood, ood_scores, strangers
from imgjax.evals.answers import probabilities
from imgjax.evals.chunks import chunks
from imgjax.explain import concepts
from imgjax.report import card_page
from imgjax.report.text import percent

TITLE = 'Strangers'
QUESTION = 'Does it notice images of no class that it knows?'

TITLES = {'max_softmax': 'largest probability', 'max_logit': 'largest logit', 'energy': 'energy',
          'mahalanobis': 'Mahalanobis distance', 'neighbors': 'nearest neighbours', 'vim': 'ViM'}
MADE = 512  # strangers of each kind that are made from images of the split
MOST = 2_000  # familiar images, and images of a set of strangers
TRAIN_MOST = 10_000  # images that the scores of features are fitted on
CHUNK = 256
SHARES = (0.01, 0.05, 0.1)  # of familiar images that are rejected
BINS = 24
SHOWN, SIDE = 3, 64  # the most familiar strangers of each kind, and their largest side in pixels
GOOD, BAD = 0.9, 0.75  # of the mean auroc


def measure(inputs, other_set: str = '', content: str = '', note: str = '') -> dict:
    """Measures all scores on all kinds of strangers, and chooses the score that finds most.

    Args:
      inputs: card.inputs.Inputs.
      other_set: the name of a set of strangers, whose images are inputs.stranger_images, uint8
        (M, H, W, C); '' for none.
      content: a digest of these images, so that others are measured anew.
      note: a sentence on images that were left out of this set.

    Raises:
      DataError: images have several labels.
    """
    if inputs.multi_label:
        raise DataError('strangers are told by scores of models with one label per image; this one '
                        'has several')
    layer = _layer(inputs)
    familiar = inputs.eval_answers
    at = inputs.subset(len(familiar.labels), MOST)
    fits, notes = _fit_all(inputs)
    notes += [note] if note else []
    if len(at) < len(familiar.labels):
        notes.append(f'The familiar images are {len(at):,} of {len(familiar.labels):,}, drawn by '
                     'the seed.')
    scores_of = functools.partial(_scores, fits)
    familiar_scores = scores_of(familiar.features[layer][at], familiar.logits_NK[at])
    other = inputs.other_predict()
    of_other = {} if other is None else _of_logits(other, inputs.images(
        inputs.split, inputs.eval_rows[at]))
    kinds, strange, pixels, theirs = [], {}, {}, {}
    for kind, what, images_NHWC in _sets(inputs, other_set, notes):
        if other is not None:
            theirs[kind] = _of_logits(other, images_NHWC)
        logits_NK, features_ND = _answers(inputs, images_NHWC, layer)
        strange[kind] = scores_of(features_ND, logits_NK)
        confidences_N = probabilities(logits_NK, multi_label=False).max(axis=1)
        kinds.append({'kind': kind, 'what': what, 'images': len(images_NHWC),
                      'confidence': float(confidences_N.mean())})
        pixels[kind] = images_NHWC, logits_NK.argmax(1), confidences_N
    rows = {name: {kind: ood.measure(familiar_scores[name], strange[kind][name], inputs.seed)
                   for kind in strange} for name in fits}
    means = {name: {word: float(np.mean([one[word]['value'] for one in of_kind.values()]))
                    for word in ood.MEASURES} for name, of_kind in rows.items()}
    best = ood.chosen({name: mean['auroc'] for name, mean in means.items()})
    own_N, others = familiar_scores[best], {kind: strange[kind][best] for kind in strange}
    return {
        'split': inputs.split, 'layer': layer, 'images': len(own_N), 'kinds': kinds,
        'train_images': _train_rows(inputs) if len(fits) > len(ood_scores.OF_LOGITS) else 0,
        'other': {name: {kind: ood.measure(scores_N, one[name], inputs.seed)
                         for kind, one in theirs.items()} for name, scores_N in of_other.items()},
        'titles': TITLES, 'rows': rows, 'means': means, 'chosen': best, 'shares': list(SHARES),
        'rejected': {kind: ood.curve(own_N, others[kind], SHARES) for kind in others},
        'curves': _curves(own_N, others), 'histogram': _histogram(own_N, others),
        'pictures': {kind: _pictures(own_N, others[kind], *pixels[kind]) for kind in others},
        'rejects': inputs.model.step is not None and not inputs.examines_training,
        'notes': notes}


def fit(inputs, name: str) -> dict[str, np.ndarray]:
    """Returns what a score compares with, as `measure` fits it; {} for a score of the logits."""
    return _fit_all(inputs, (name,))[0][name]


def _layer(inputs) -> str:
    return 'pre_logits' if 'pre_logits' in inputs.layers else inputs.layers[-1]


def _train_rows(inputs) -> int:
    return min(len(inputs.train_answers.labels), TRAIN_MOST)


def _fit_all(inputs, names=ood_scores.NAMES) -> tuple[dict[str, dict], list[str]]:
    """Returns {score: its arrays}, and sentences on the scores that are left out."""
    found: dict[str, dict] = {name: {} for name in names if name in ood_scores.OF_LOGITS}
    wanted = [name for name in names if name not in found]
    which = ', '.join(TITLES[name] for name in wanted)
    if wanted and inputs.examines_training:
        return found, [f'Left out: {which}. They compare with the training images, which are those '
                       f'of {inputs.split} itself.']
    if wanted and inputs.model.train_source is None:
        return found, [f'Left out: {which}. They compare with training images, and none are at '
                       'hand.']
    if not wanted:
        return found, []
    layer, answers, notes = _layer(inputs), inputs.train_answers, []
    at = inputs.subset(len(answers.labels), TRAIN_MOST)
    if len(at) < len(answers.labels):
        notes.append(f'The scores of features are fitted on {len(at):,} of '
                     f'{len(answers.labels):,} training images, drawn by the seed.')
    features_ND, logits_NK = answers.features[layer][at], answers.logits_NK[at]
    if 'mahalanobis' in wanted:
        try:
            found['mahalanobis'] = ood_scores.fit_mahalanobis(features_ND, answers.labels[at])
        except DataError as error:  # fewer images than dimensions
            notes.append(f'Left out: the Mahalanobis distance. {error}.')
    if 'neighbors' in wanted:
        found['neighbors'] = ood_scores.fit_neighbors(features_ND)
    if 'vim' in wanted:
        head = _head(inputs, features_ND, logits_NK)
        if head is None:
            notes.append(f'Left out: ViM. The logits of this model are no linear function of '
                         f'{layer}.')
        else:
            try:
                found['vim'] = ood_scores.fit_vim(features_ND, logits_NK, *head)
            except DataError as error:  # fewer images than dimensions
                notes.append(f'Left out: ViM. {error}.')
    return found, notes


def _head(inputs, features_ND, logits_NK) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the kernel and the bias of the head; None if they do not give the logits."""
    try:
        concepts.head_of(inputs.params(), features_ND, logits_NK)
    except DataError:
        return None
    head = inputs.params()['head']
    kernel_DK = np.asarray(head['kernel']).reshape(features_ND.shape[1], -1)
    return kernel_DK, np.asarray(head.get('bias', np.zeros(kernel_DK.shape[1])))


def _scores(fits: dict[str, dict], features_ND, logits_NK) -> dict[str, np.ndarray]:
    return {name: ood_scores.score(name, fitted, features_ND, logits_NK)
            for name, fitted in fits.items()}


def _sets(inputs, other_set: str, notes: list[str]):
    """Yields (kind, what it is, images uint8 (N, H, W, C)); says in `notes` what is left out."""
    if other_set:
        yield 'your strangers', f'the images of {other_set}', inputs.stranger_images
    at = inputs.subset(len(inputs.eval_rows), MADE)
    rows_N, labels_N = inputs.eval_rows[at], inputs.eval_answers.labels[at]
    images_NHWC = inputs.images(inputs.split, rows_N)
    for kind, what in strangers.KINDS.items():
        try:
            made_NHWC = strangers.make(kind, images_NHWC, labels_N, rows_N, inputs.seed)
        except DataError as error:  # a blend takes images of two classes
            notes.append(f'Left out: {error}.')
            continue
        yield kind, what, made_NHWC


def _answers(inputs, images_NHWC, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logits and the features of images, float32 (N, K) and (N, D)."""
    found, size = [], _size(inputs.predict, images_NHWC)
    for at in chunks(len(images_NHWC), size):
        part = images_NHWC[at]
        filled = np.pad(part, ((0, size - len(part)), (0, 0), (0, 0), (0, 0)))
        found.append([array[:len(part)] for array in jax.device_get(
            _forward(inputs.apply, filled, layer=layer))])
    logits_NK, features_ND = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    forward.check_finite(logits_NK, 'strangers')
    return logits_NK, features_ND


def _size(predict, images_NHWC) -> int:
    return functions.images_at_once(predict, images_NHWC.shape[1:], CHUNK)


def _of_logits(predict, images_NHWC) -> dict[str, np.ndarray]:
    """Returns the scores that need no features, of another model."""
    logits_NK = explained.logits_of(predict, images_NHWC, _size(predict, images_NHWC))
    return {name: ood_scores.score(name, {}, np.zeros((len(logits_NK), 1)), logits_NK)
            for name in ood_scores.OF_LOGITS}


@functools.partial(jax.jit, static_argnames='layer')
def _forward(apply, images_NHWC, layer: str):
    logits_NK, out = apply(images_NHWC.astype(jnp.float32))
    return logits_NK, forward.pooled(out[layer]).astype(jnp.float32)


def _curves(familiar_N, strange: dict[str, np.ndarray]) -> dict:
    shares = np.concatenate([np.linspace(0, 0.1, 11), np.linspace(0.15, 1, 18)])
    return {kind: {'x': shares.tolist(), 'y': ood.curve(familiar_N, scores_M, shares.tolist())}
            for kind, scores_M in strange.items()}


def _histogram(familiar_N, strange: dict[str, np.ndarray]) -> dict:
    """Returns the share of images in each bin of the score; the outer bins hold the tails."""
    everything = np.concatenate([familiar_N, *strange.values()])
    low, high = np.percentile(everything, (2, 98))
    edges = np.linspace(low, max(high, low + 1e-9), BINS + 1)
    middles = ((edges[1:] + edges[:-1]) / 2).tolist()
    return {name: {'x': middles, 'y': (np.histogram(np.clip(scores_N, edges[0], edges[-1]), edges)[
        0] / len(scores_N)).tolist()} for name, scores_N in {
            **strange, 'familiar images': familiar_N}.items()}


def _pictures(familiar_N, strange_M, images_NHWC, classes_M, confidences_M) -> list[dict]:
    """Returns the strangers with the lowest scores, and how familiar images compare."""
    return [{'pixels': card_page.small(images_NHWC[i], SIDE).tolist(), 'answer': int(classes_M[i]),
             'confidence': float(confidences_M[i]),
             'stranger': float((familiar_N > strange_M[i]).mean())}
            for i in np.argsort(strange_M, kind='stable')[:SHOWN]]


def findings(found: dict) -> list[Finding]:
    best = found['chosen']
    mean, of_kind = found['means'][best]['auroc'], found['rows'][best]
    told = [Finding(
        'good' if mean >= GOOD else 'look' if mean < BAD else 'note',
        f'The score that finds most strangers is {found["titles"][best]}: it is higher for the '
        f'stranger in {percent(mean, 1)} of the pairs with a familiar image, on average over '
        f'{counted(len(of_kind), "kind")} of strangers.')]
    at = found['shares'].index(0.05)
    rejected = {kind: shares[at] for kind, shares in found['rejected'].items()}
    worst = min(rejected, key=rejected.get)
    taken = ('launch.predict --reject=0.05 takes it (with the part calibration)' if found['rejects']
             else 'A threshold that 5 % of the familiar images exceed')
    told.append(Finding('note', f'{taken} {"and " if found["rejects"] else ""}rejects '
                        f'{percent(rejected[worst], 1)} ({worst}) to '
                        f'{percent(max(rejected.values()), 1)} of the strangers.'))
    missed = [kind for kind, one in of_kind.items() if one['auroc']['low'] <= 0.5]
    if missed:
        told.append(Finding('look', f'It is not shown to be better than guessing for '
                            f'{", ".join(missed)}.'))
    sure = max(found['kinds'], key=lambda one: one['confidence'])
    told.append(Finding('note', f'Of the strangers it is most confident about {sure["kind"]}: '
                        f'{percent(sure["confidence"], 1)} on average.'))
    return told + [Finding('note', note) for note in found['notes']]


def figures(found: dict) -> dict:
    means = found['means'][found['chosen']]
    return {'stranger_score': found['chosen'], 'stranger_auroc': means['auroc'],
            'stranger_fpr95': means['fpr95']}
