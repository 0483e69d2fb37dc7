"""Which methods pass, on a network that reads digits and on made-up results."""

import json
import re

import numpy as np
import pytest

from imgjax.errors import DataError
from imgjax.explain.metrics import baselines, deletion, randomization, road
from imgjax.explain.metrics.means import mean_of
from imgjax.explain.metrics.verdict import verdict


@pytest.fixture(scope='module')
def measured(trained, contributions):
    """Results of the tests of input x gradient, of random maps and of edges."""
    found = {}
    for name, explain in (('contributions', contributions), ('random', baselines.random_map),
                          ('edges', baselines.edges)):
        maps_NHW = explain(*trained)
        found[name] = {'randomization': randomization.measure(explain, *trained, maps_NHW),
                       'deletion': deletion.measure(*trained, maps_NHW),
                       'road': road.measure(*trained, maps_NHW)}
    return found


def test_contributions_pass_and_maps_without_the_model_fail(measured):
    of = {name: verdict(found, measured['random'], measured['edges'])
          for name, found in measured.items()}
    assert of['contributions']['passed'] and not of['contributions']['unsettled']
    assert of['contributions']['why'] == (
        'passes: its maps change when the weights are random and the pixels that it names matter '
        'more to the model than random ones')
    assert len(of['contributions']['differences']) == 4
    for name in ('random', 'edges'):
        assert not of[name]['passed']
        assert of[name]['why'] == 'fails: its maps stay the same when the weights are random'
    json.dumps(of, allow_nan=False)


def results(similarity=0.1, same=0, deletion=0.0, insertion=0.0, road=0.0, spread=0.02):
    """Results of 20 images, whose figures are better than those of `results()` by the arguments."""
    rng = np.random.default_rng(0)
    noise = lambda: spread * rng.normal(size=20)  # noqa: E731
    last = {'same': same, **mean_of(similarity + noise())}
    return {'randomization': {'images': 20, 'stages': [last]},
            'deletion': {'images': 20, 'deletion': mean_of(0.5 - deletion * (1 + noise())),
                         'insertion': mean_of(0.5 + insertion * (1 + noise()))},
            'road': {'images': 20, 'gap': mean_of(road + road * noise())}}


GOOD = {'deletion': 0.1, 'insertion': 0.1, 'road': 0.1}


@pytest.mark.parametrize(('found', 'passed', 'why'), [
    (GOOD, True, 'passes: its maps change when the weights are random and the'),
    (GOOD | {'similarity': 0.9}, False,
     r'fails: its maps stay alike when the weights are random \(rank correlation 0.9'),
    (GOOD | {'similarity': 0.69, 'spread': 0.2}, False, 'fails: its maps stay alike'),
    (GOOD | {'similarity': 1, 'same': 20, 'spread': 0}, False, 'fails: its maps stay the same'),
    (GOOD | {'insertion': 0.0}, False,
     r'fails: the pixels that it names matter no more to the model than random ones \(by ins'),
    (GOOD | {'insertion': -0.1, 'road': -0.1}, False, r'\(by insertion and ROAD\)'),
    # Deletion is shown, and does not decide.
    (GOOD | {'deletion': -0.1}, True, 'passes: '),
])
def test_made_up_results(found, passed, why):
    told = verdict(results(**found), results(), results(**GOOD))
    assert re.search(why, told['why']), told['why']
    assert told['passed'] is passed and not told['unsettled']
    assert len(told['notes']) == 1 and 'not better than the edges' in told['notes'][0]


def test_too_few_images_settle_nothing():
    found, random = results(**GOOD), results()
    found['road']['gap'] = mean_of(np.where(np.arange(20) % 2, 0.5, -0.45))
    told = verdict(found, random)
    assert not told['passed'] and told['unsettled'] and not told['notes']
    assert told['why'].startswith('not settled: ROAD on 20 images cannot tell its maps from random')


def test_what_can_be_judged():
    found = results(**GOOD)
    assert verdict({'deletion': found['deletion']}, results())['why'] == (
        'passes: the pixels that it names matter more to the model than random ones')
    assert verdict({'randomization': found['randomization']}, {})['why'] == (
        'passes: its maps change when the weights are random')
    with pytest.raises(DataError, match='has no test that can be judged'):
        verdict({'deletion': found['deletion']}, {})
    short = {'deletion': found['deletion'] | {'insertion': mean_of(np.zeros(3))}}
    with pytest.raises(DataError, match='deletion: 3 images of the method and 20'):
        verdict(short, results())
