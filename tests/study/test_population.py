"""Which cells of a population go on together, and by which numbers each is evaluated."""

import os

import jax
import numpy as np
import pytest

from configs import digits
from imgjax import build, evaluate, train
from imgjax.rundir import result
from imgjax.study import cells, plan, population


@pytest.mark.parametrize('stands, going', [
    ([[], [], [], []], [1, 1, 1, 1]),
    ([[20, 40], [20, 40], [20], [20]], [1, 1, 1, 1]),  # a save was cut
    ([[20], [], [], []], [1, 1, 1, 1]),  # the first one
    ([[20, 40], [], [], []], [0, 1, 1, 1]),  # one that was run alone
    ([[60], [20, 40], [40], [20, 40]], [0, 1, 1, 1]),
    (['done', [20, 40], [], []], [0, 0, 1, 1]),
    (['done', 'diverged', [20], [40]], [0, 0, 0, 1]),
    (['done', 'diverged', 'done', 'done'], [0, 0, 0, 0]),
])
def test_cells_that_have_a_step_in_common_go_on_together(tmp_path, stands, going):
    planned = cells.cells_of(plan.load('tests/study/small.py'), str(tmp_path))[:4]
    for cell, stand in zip(planned, stands, strict=True):
        os.makedirs(cell.directory)
        if isinstance(stand, str):
            result.write(cell.directory, {'state': stand})
            continue
        for step in stand:
            os.makedirs(os.path.join(cell.directory, 'checkpoints', str(step)))
    assert population._active(planned) == list(map(bool, going))


def test_each_member_is_evaluated_with_its_own_numbers():
    """Members share the compiled evaluation, whose loss may depend on a number of theirs."""
    recipe = digits.get_config('mlp')
    recipe.update(steps=10, model=dict(name='tiny_mlp'), objective=dict(name='focal'))
    members = [plan.override(recipe.to_dict(), {'hparams.focal_gamma': gamma})
               for gamma in (0.0, 3.0)]
    sources = build.open_dataset(members[0])
    devices, shared = jax.devices()[:1], {}
    setups = [build.setup(*build.describe(member, *sources), devices, shared)
              for member in members]
    state = train.initial_state(setups[0], evaluate.hparams_on(setups[0]))
    together = evaluate.evaluator(setups[0], sources[1], lambda: None)
    losses = [together(state, 0, own)['loss'] for own in setups]
    for own, found in zip(setups, losses, strict=True):
        alone = evaluate.evaluator(own, sources[1], lambda: None)(state, 0, own)['loss']
        np.testing.assert_array_equal(found, alone)
    assert losses[1].mean() < 0.5 * losses[0].mean()
