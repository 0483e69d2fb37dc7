"""The tests of explanations on a model, beside a random map and the edges of the image."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from imgjax import explain
from imgjax.card import explained as explained_lib
from imgjax.card.explained import Explained
from imgjax.explain import integrated_gradients
from imgjax.explain.metrics import (
    agreement,
    baselines,
    deletion,
    infidelity,
    randomization,
    road,
    sensitivity_n,
)
from imgjax.explain.metrics import verdict as verdict_lib
from imgjax.process import terminal

FEWEST = 8  # images, below which no verdict is given
IMAGES = 24  # on which methods are tested
STAGES = 3  # of the layers that become random one after the other
VERDICTS = {'passes': 'passed', 'fails': 'failed', 'not settled': 'undecided'}


def measure(model: Explained, names: Sequence[str], images_NHWC: np.ndarray,
            targets_N: np.ndarray) -> dict:
    """Tests methods on images. The result can be written as JSON:

      tested_on: how many images.
      methods: a list with a dict per method: `name`, `does` (a line on the method), `signed`,
        `verdict` ('passed', 'failed', 'undecided'), `why`, `notes`, and the figures `deletion`,
        `insertion`, `road`, `sensitivity_n`, `infidelity` (the share of the change that the map
        does not tell) and `similarity` (with all weights random), means over the images or None.
      baselines: the same of a random map and of the edges, without a verdict and a similarity.
      agreement: the rank correlation of the maps of each pair of methods, a list of rows; None for
        one method.
      completeness: of integrated gradients, the median error as a share of the change of the logit;
        None without this method.

    Args:
      model: the model.
      names: the methods.
      images_NHWC: float32, normalised.
      targets_N: int (N,), the class that is explained.
    """
    apply_fn, variables = model.model.apply_fn, model.model.variables
    targets_N = np.asarray(targets_N, np.int32)
    given: Any = (apply_fn, variables, images_NHWC, targets_N)
    shared = (sensitivity_n.changes(*given, seed=model.seed),
              infidelity.changes(*given, seed=model.seed))
    tests = {name: _tests(given, maps_NHW, shared, model.seed) for name, maps_NHW in (
        ('random map', baselines.random_map(*given, seed=model.seed)),
        ('edges', baselines.edges(*given)))}
    found, maps = [], {}
    with terminal.progress(len(names), 0, 'test') as bar:
        for name in names:
            bar.set_description(name)
            maps[name] = explained_lib.maps(model, name, images_NHWC, targets_N)
            of_method = _tests(given, maps[name], shared, model.seed)
            of_method['randomization'] = randomization.measure(
                explained_lib.method(model, name), explained_lib.apply_fn(model, name), variables,
                images_NHWC, targets_N, maps[name], stages=STAGES, seed=model.seed)
            found.append(_row(name, of_method) | _judged(of_method, tests, len(images_NHWC)))
            bar.update()
    return {'tested_on': len(images_NHWC), 'methods': found,
            'baselines': [_row(name, one) | {'verdict': None} for name, one in tests.items()],
            'agreement': _agreement(maps) if len(maps) > 1 else None,
            'completeness': _completeness(model, *given) if (
                'integrated_gradients' in names) else None}


def _tests(given: Any, maps_NHW: np.ndarray, shared: tuple, seed: int) -> dict[str, dict]:
    apply_fn, variables, images_NHWC, targets_N = given
    both = (apply_fn, variables, images_NHWC, targets_N, maps_NHW)
    return {'deletion': deletion.measure(*both, seed=seed), 'road': road.measure(*both, seed=seed),
            'sensitivity_n': sensitivity_n.measure(shared[0], maps_NHW),
            'infidelity': infidelity.measure(shared[1], maps_NHW)}


def _row(name: str, tests: dict[str, dict]) -> dict:
    stages = tests.get('randomization', {}).get('stages', [])
    signed = name not in explain.METHODS or explain.method(name).SIGNED
    return {'name': name, 'does': explain.DOES.get(name, ''), 'signed': signed,
            'deletion': tests['deletion']['deletion']['mean'],
            'insertion': tests['deletion']['insertion']['mean'],
            'road': tests['road']['gap']['mean'],
            # Both ask for contributions to the logit, which a map without signs does not give.
            'sensitivity_n': tests['sensitivity_n']['overall']['mean'] if signed else None,
            'infidelity': tests['infidelity']['share']['mean'] if signed else None,
            'similarity': stages[-1]['mean'] if stages else None}


def _judged(of_method: dict, tests: dict[str, dict], images: int) -> dict:
    if images < FEWEST:
        return {'verdict': 'undecided', 'notes': [],
                'why': f'not decided: there are {images} images, a verdict takes {FEWEST} or more.'}
    found = verdict_lib.verdict(of_method, tests['random map'], tests['edges'])
    return {'verdict': VERDICTS[found['why'].partition(':')[0]], 'why': found['why'] + '.',
            'notes': found['notes'] + of_method['randomization']['notes']}


def _agreement(maps: dict[str, np.ndarray]) -> list[list[float | None]]:
    found = {(one['a'], one['b']): one['correlation']['mean']
             for one in agreement.measure(maps)['pairs']}
    return [[1.0 if a == b else found.get((a, b), found.get((b, a))) for b in maps] for a in maps]


def _completeness(model: Explained, apply_fn, variables, images_NHWC, targets_N) -> float:
    error_N, change_N = integrated_gradients.completeness(
        apply_fn, variables, images_NHWC, targets_N)
    return float(np.median(np.asarray(error_N) / np.maximum(np.abs(change_N), 1e-12)))
