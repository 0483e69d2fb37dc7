"""How much simple classifiers make of the model's features."""

from imgjax.card.parts import Finding
from imgjax.errors import DataError
from imgjax.evals import few_shot, neighbors, probes
from imgjax.report.text import percent

TITLE = 'Features'
QUESTION = 'How accurate is a simple classifier on its features, layer by layer?'

MOST = 2_000  # images of each split for the probes of all layers


def measure(inputs) -> dict:
    train, evaluated = inputs.train_answers, inputs.eval_answers
    last = inputs.layers[-1]
    found = {'split': inputs.split, 'layer': last, 'several': inputs.multi_label}
    pixels = inputs.grey_pictures()
    features = train.features[last], evaluated.features[last]
    found['linear'] = probes.measure(
        features[0], train.labels, features[1], evaluated.labels, seed=inputs.seed, name=last,
        baseline_ND=pixels)
    at, of = inputs.subset(len(train.labels), MOST), inputs.subset(len(evaluated.labels), MOST)
    found['depth_images'] = [len(at), len(of)]
    found['depth'] = probes.by_depth(
        {name: (train.features[name][at], evaluated.features[name][of])
         for name in inputs.layers}, train.labels[at], evaluated.labels[of], seed=inputs.seed)
    if inputs.multi_label:
        return found | {'neighbors': None, 'few_shot': None}
    found['neighbors'] = neighbors.measure(
        features[0], train.labels, features[1], evaluated.labels, baseline_ND=pixels, name=last)
    try:
        found['few_shot'] = few_shot.measure(
            features[0], train.labels, features[1], evaluated.labels, name=last)
    except DataError as error:  # a class has no image for a single shot
        found['few_shot'] = {'rows': [], 'notes': [str(error)]}
    return found


def findings(found: dict) -> list[Finding]:
    linear = found['linear']
    score, baseline = linear['score'], linear['baseline']['score']
    name = 'accuracy' if linear['metric'] == 'accuracy' else 'mean average precision'
    text = (f'A linear classifier on {found["layer"]} reaches {percent(score, 1)} {name}, on small '
            f'grey pictures {percent(baseline, 1)}.')
    low = score if linear['low'] is None else linear['low']
    told = [Finding('good' if low > baseline else 'look', text if low > baseline else
                    f'{text} That the features are better than the pixels is not '
                    'shown.')]
    depth = {one['layer']: one['score'] for one in found['depth']}
    best = max(depth, key=depth.get)
    if best != found['layer'] and depth[best] > depth[found['layer']] + 0.01:
        told.append(Finding('note', f'A linear classifier is better on the layer {best} '
                            f'({percent(depth[best], 1)}) than on the last one '
                            f'({percent(depth[found["layer"]], 1)}).'))
    return told


def figures(found: dict) -> dict:
    given = {'linear_probe': found['linear']['score']}
    if found['neighbors']:
        given['neighbors'] = max(row['weighted'] for row in found['neighbors']['rows'])
    return given
