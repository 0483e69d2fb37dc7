"""How the cells of one structure are run: what is chosen, why, and what the program sends."""

import pytest

from imgjax import collectives, hlo
from imgjax.errors import ConfigError
from imgjax.study import cells, plan, strategy


@pytest.fixture(scope='module')
def planned(tmp_path_factory):
    return cells.cells_of(plan.load('tests/study/small.py'), str(tmp_path_factory.mktemp('cells')))


@pytest.mark.parametrize('members', [4, 8])
def test_devices_that_share_a_study_send_each_other_nothing(planned, members):
    """One member a device, or two by vmap."""
    shared = {}
    seconds, compiling = strategy._time_population(planned[:members], 4, shared)
    assert seconds > 0 and compiling > 0
    program, _ = shared['population'][1]
    text = program.as_text()
    assert 'num_partitions=4' in text
    assert collectives.find(hlo.parse(text), 4) == []


def test_a_wish_is_refused_for_a_whole_group_and_not_for_what_it_leaves_over(planned):
    strategy.check([planned], 'vmap', {})
    with pytest.raises(ConfigError, match="--strategy=vmap: not for the 1 cells of 'base' and its"):
        strategy.check([planned[:1]], 'vmap', {})
    choice = strategy.choose(planned[:1], 'vmap', {})
    assert choice.strategy == 'loop' and choice.why == 'there is one cell of this structure'
