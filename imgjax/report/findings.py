"""What a study found: the plain data that its page and its tables are made of."""

from typing import Any, NamedTuple

import numpy as np

from imgjax.report.statistics import Comparison, Interval

# What a cell can be; only a cell that is done has a score.
STATES = {
    'done': 'finished',
    'missing': 'not run to the end',
    'diverged': 'diverged, the updates no longer finite',
    'failed': 'ended by an error',
    'stopped': 'stopped early, as the study asks for (successive halving)',
    'older': 'run by another version of the code',
}


class Cell(NamedTuple):
    """One arm with one seed.

    Attributes:
      arm: its name.
      seed: hparams.seed.
      state: one of STATES.
      directory: the run directory, '' where there is none.
      score: of the study's metric; NaN unless it is done.
      seconds: on the devices, from the first step to the last evaluation; NaN where unknown.
      remark: why it is not done, in a line, or ''.
    """

    arm: str
    seed: int
    state: str
    directory: str
    score: float
    seconds: float
    remark: str


class Curve(NamedTuple):
    """A measure of an arm against the training step, over the seeds that are done.

    Attributes:
      steps: int (T,), increasing.
      values_TS: float64, a column a seed; NaN where a run has no value.
    """

    steps: np.ndarray
    values_TS: np.ndarray


class Arm(NamedTuple):
    """Runs that differ in their seed alone.

    Attributes:
      name: as the study calls it.
      fields: {'hparams.weight_decay': 0.05, ...}, how it differs from the study's base.
      cells: in the order of the seeds.
      score: over the seeds that are done; None without any.
      curves: {('train', 'loss'): Curve, ('test', 'accuracy'): Curve, ...}.
      class_scores_K: share of each class that is answered rightly, the mean over the seeds,
        float64; NaN for a class without images; None where images have several labels.
      seconds: of its cells that are done.
    """

    name: str
    fields: dict[str, Any]
    cells: list[Cell]
    score: Interval | None
    curves: dict[tuple[str, str], Curve]
    class_scores_K: np.ndarray | None
    seconds: float


class Axis(NamedTuple):
    """A field that a grid varies, and its values in the order of the study."""

    field: str
    values: list


class Picture(NamedTuple):
    """An image that two arms answer differently.

    Attributes:
      png: its pixels as the networks see them, before normalisation.
      name: of its file.
      label: the right class.
      first: how many of the seeds of the first arm are right about it.
      second: how many of the second's.
      first_answer: the commonest answer of the first arm's seeds.
      second_answer: of the second's.
    """

    png: bytes
    name: str
    label: str
    first: int
    second: int
    first_answer: str
    second_answer: str


class Findings(NamedTuple):
    """A study and what it found.

    Attributes:
      name: the study's file name.
      question: first line of its docstring.
      text: the rest of it.
      metric: the name of a number, such as accuracy or loss.
      split: what the metric is of.
      higher_is_better: of the metric.
      percent: whether it is a share, shown in percent.
      examples: images in the split.
      seeds: how many of each arm.
      arms: in the study's order.
      comparisons: those planned, in the study's order; one lacks its figures where a cell of it is
        not done (statistics.compare says which).
      missing: a line for each reason why no winner may be named; [] where the study is complete.
      grid: the one or two axes of a grid whose arms these are, in the order of itertools.product;
        [] where the study is none.
      class_names: of the classes.
      pictures: {(first, second): images on which these arms disagree most, the most telling first}.
      cost: of the cells that the study has run itself: {'device_seconds', 'compile_seconds',
        'wall_seconds', 'solo_seconds': what as many runs one by one would have taken, None where
        nothing was run alone to tell, 'cells_run': how many they are}.
      strategies: a line for each group of cells: how they were run, and why.
      environment: flat, of the machine.
      code: the versions of the code that the cells are of, one where all run the same modules.
      notes: what a reader must know before believing the figures, such as early stopping.
    """

    name: str
    question: str
    text: str
    metric: str
    split: str
    higher_is_better: bool
    percent: bool
    examples: int
    seeds: int
    arms: list[Arm]
    comparisons: list[Comparison]
    missing: list[str]
    grid: list[Axis]
    class_names: list[str]
    pictures: dict[tuple[str, str], list[Picture]]
    cost: dict[str, float | None]
    strategies: list[str]
    environment: dict[str, Any]
    code: str
    notes: list[str]
