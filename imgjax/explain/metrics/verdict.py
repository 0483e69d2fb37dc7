"""Whether the maps of a method can be believed, in a sentence for the page.

A method passes two tests. Its maps must change when the weights of the model become random; and the
pixels that they name must matter more to the model than those of a random map.
"""

from collections.abc import Mapping

import numpy as np

from imgjax.errors import DataError
from imgjax.explain.metrics.means import interval

# At a rank correlation of 0.7 two maps share half of the variance of their ranks (0.7 ** 2).
ALIKE = 0.7

# The figure that is compared, per image, and whether the larger one is the better one.
# Deletion is not among them: images without random pixels are unlike all that a network knows (Rong
# et al. 2022, section 3), so that a random map lowers the answer as fast as a right one.
COMPARED = {'insertion': ('deletion', 'insertion', 1), 'ROAD': ('road', 'gap', 1)}


def verdict(found: Mapping[str, dict], random: Mapping[str, dict],
            edges: Mapping[str, dict] | None = None) -> dict:
    """Returns whether a method passes.

    The result can be written as JSON:
      passed: bool.
      unsettled: bool, True for a method that does not pass only because the images are too few: it
        is better than the random map in each test, but an interval of the difference has 0.
      why: a sentence that begins with 'passes: ' or 'fails: ', or 'not settled: '.
      notes: sentences on what is weak without failing.
      differences: a list with a dict per test and map that was compared: `test`, `against`
        ('random' or 'edges'), `difference` (the mean over the images, above 0 where the method is
        better), `low`, `high` (its 95 % bootstrap interval, paired over the images), `better`
        (bool, whether the interval is above 0).

    A method fails if, with all weights random, the upper end of the interval of the rank
    correlation with its maps is not below 0.7; or if in insertion or ROAD its mean difference to
    the random map is not above 0. It is unsettled if the difference is above 0 and its interval is
    not. That it is not better than the edges of the image is a note.

    Args:
      found: of the method, name of the test -> result of its `measure`: 'randomization', 'deletion'
        and 'road', or some of them.
      random: the same of the random map, 'deletion' and 'road'.
      edges: the same of the edges; None leaves the note out.

    Raises:
      DataError: nothing can be compared, or the images of two results differ in their number.
    """
    differences = [_difference(test, found, other, against)
                   for against, other in (('random', random), ('edges', edges or {}))
                   for test, (of, _, _) in COMPARED.items() if of in found and of in other]
    last = found['randomization']['stages'][-1] if 'randomization' in found else None
    if last is None and not any(one['against'] == 'random' for one in differences):
        raise DataError('found: has no test that can be judged; give randomization, or deletion or '
                        'road with those of the random map')
    worse = [one for one in differences if one['against'] == 'random' and not one['better']]
    not_edges = [one['test'] for one in differences
                 if one['against'] == 'edges' and not one['better']]
    upper = None if last is None else last['mean'] if last['high'] is None else last['high']
    unsettled = False
    if last is not None and last['same'] == len(last['per_image']):
        why = 'fails: its maps stay the same when the weights are random'
    elif upper is not None and upper >= ALIKE:
        why = (f'fails: its maps stay alike when the weights are random (rank correlation '
               f'{last["mean"]:.2f})')
    elif any(one['difference'] <= 0 for one in worse):
        tests = [one['test'] for one in worse if one['difference'] <= 0]
        why = ('fails: the pixels that it names matter no more to the model than random ones '
               f'(by {_join(tests)})')
    elif worse:
        unsettled = True
        why = (f'not settled: {_join([one["test"] for one in worse])} on '
               f'{_count(found)} images cannot tell its maps from random ones; take more images')
    else:
        why = 'passes: ' + _join(
            (['its maps change when the weights are random'] if last is not None else [])
            + (['the pixels that it names matter more to the model than random ones']
               if differences else []))
    notes = [f'By {_join(not_edges)} it is not better than the edges of the image.'
             ] if not_edges else []
    return {'passed': why.startswith('passes'), 'unsettled': unsettled, 'why': why, 'notes': notes,
            'differences': differences}


def _difference(test: str, found: Mapping[str, dict], other: Mapping[str, dict],
                against: str) -> dict:
    of, figure, sign = COMPARED[test]
    a_N, b_N = (np.array(result[of][figure]['per_image'], np.float64) for result in (found, other))
    if len(a_N) != len(b_N):
        raise DataError(f'{of}: {len(a_N):,} images of the method and {len(b_N):,} of the map that '
                        'it is compared with; test both on the same images')
    values_N = sign * (a_N - b_N)
    low, high = interval(values_N)
    return {'test': test, 'against': against, 'difference': float(values_N.mean()), 'low': low,
            'high': high, 'better': low is not None and low > 0}


def _count(found: Mapping[str, dict]) -> str:
    return f'{next(iter(found.values()))["images"]:,}'


def _join(parts: list[str]) -> str:
    return ' and '.join([', '.join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
