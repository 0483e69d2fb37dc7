"""Runs the cells of a study one by one, each as if there were no other: what studies must equal.

    python -m tests.study.alone STUDY FOLDER
"""

import contextlib
import sys

from imgjax import train
from imgjax.errors import DivergedError
from imgjax.study import cells, plan

for cell in cells.cells_of(plan.load(sys.argv[1]), sys.argv[2]):
    with contextlib.suppress(DivergedError):
        train.run_one(cell.config, cell.directory)
