"""How the cells of one structure are run: what is chosen, why, and what the program sends."""

import types

import jax
import pytest

from imgjax.errors import ConfigError
from imgjax.perf import collectives, hlo
from imgjax.process import backend
from imgjax.study import cells, plan, population, strategy


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
    with pytest.raises(ConfigError, match="--strategy=vmap: not for the 1 cells like 'base'"):
        strategy.check([planned[:1]], 'vmap', {})
    choice = strategy.choose(planned[:1], 'vmap', {})
    assert choice.strategy == 'loop' and choice.why == 'there is one cell of this structure'


def test_a_program_that_needs_more_than_is_free_is_not_run(monkeypatch):
    sizes = types.SimpleNamespace(
        temp_size_in_bytes=60, output_size_in_bytes=50, alias_size_in_bytes=10)
    compiled = types.SimpleNamespace(memory_analysis=lambda: sizes)
    mesh = jax.make_mesh((2,), (population.AXIS,), devices=jax.devices()[:2])
    monkeypatch.setattr(backend, 'free_memory', lambda mesh: 200)
    population._check_memory(compiled, mesh)
    monkeypatch.setattr(backend, 'free_memory', lambda mesh: 199)
    with pytest.raises(MemoryError, match='a program of 200 bytes, 199 are free'):
        population._check_memory(compiled, mesh)
