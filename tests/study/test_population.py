"""Which cells of a population go on together."""

import os

import pytest

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
    assert population._in_step(planned) == list(map(bool, going))
