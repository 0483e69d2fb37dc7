"""The result of a study, as plain data that its page and its tables are made from."""

from typing import Any, NamedTuple

import numpy as np

from imgjax.report.statistics import Comparison, Interval

# The states of a cell and their meaning on the page. Only a cell that is done has a score.
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
      arm: the name of the arm.
      seed: the value of hparams.seed.
      state: one of STATES.
      directory: the run directory, '' where it does not exist.
      score: the value of the study's metric; NaN unless the cell is done.
      seconds: the time on the devices, from the first step to the last evaluation; NaN if unknown.
      remark: one line that says why the cell is not done, or ''.
    """

    arm: str
    seed: int
    state: str
    directory: str
    score: float
    seconds: float
    remark: str


class Curve(NamedTuple):
    """A measure of an arm against the training step, for the seeds that are done.

    Attributes:
      steps: int (T,), increasing.
      values_TS: float64 (T, S), one column per seed; NaN where a run has no value at a step.
    """

    steps: np.ndarray
    values_TS: np.ndarray


class Arm(NamedTuple):
    """Runs that differ only in their seed.

    Attributes:
      name: the name in the study file.
      fields: {'hparams.weight_decay': 0.05, ...}, what the arm changes in the study's base.
      cells: one per seed, in the order of the seeds.
      score: the mean and interval over the seeds that are done; None if none is done.
      curves: {('train', 'loss'): Curve, ('test', 'accuracy'): Curve, ...}.
      class_scores_K: float64 (K,), the share of each class's images that is classified correctly,
        averaged over the seeds; NaN for a class without images. None where images have several
        labels.
      seconds: the time on the devices of all cells that are done.
    """

    name: str
    fields: dict[str, Any]
    cells: list[Cell]
    score: Interval | None
    curves: dict[tuple[str, str], Curve]
    class_scores_K: np.ndarray | None
    seconds: float


class Axis(NamedTuple):
    """A config field that a grid varies, and its values in the order of the study."""

    field: str
    values: list


class Picture(NamedTuple):
    """An image that two arms classify differently.

    Attributes:
      png: a PNG of the pixels that the networks see, before normalisation.
      name: the name of the image's file.
      label: the name of the true class.
      first: the number of seeds of the first arm that classify it correctly.
      second: the number of seeds of the second arm that classify it correctly.
      first_answer: the most frequent answer of the first arm's seeds, a class name.
      second_answer: the most frequent answer of the second arm's seeds, a class name.
    """

    png: bytes
    name: str
    label: str
    first: int
    second: int
    first_answer: str
    second_answer: str


class Findings(NamedTuple):
    """A study and its result.

    Attributes:
      name: the name of the study file.
      question: the first line of the file's docstring.
      text: the rest of the docstring.
      metric: the name of the metric, such as accuracy or loss.
      split: the split on which the metric is computed.
      higher_is_better: whether a higher value of the metric is better.
      percent: whether the metric is a share, shown in percent.
      examples: the number of images in the split.
      seeds: the number of seeds per arm.
      arms: the arms in the study's order.
      comparisons: the planned comparisons in the study's order. A comparison with a cell that is
        not done has no figures; its `missing` names the cells.
      missing: one line for each reason why no winner may be named; [] if the study is complete.
      grid: the one or two axes of a grid study; its arms are in the order of itertools.product. []
        if the study is not a grid.
      class_names: the K names of the classes.
      pictures: {(first, second): the images on which these two arms disagree most, the largest
        disagreement first}.
      cost: seconds for the cells that this study has run itself: {'device_seconds',
        'compile_seconds', 'wall_seconds', 'solo_seconds': the estimate for running the same cells
        one by one, None where no single run was timed, 'cells_run': the number of these cells}.
      strategies: one line for each group of cells: how they were run, and why.
      environment: {name: value} of the machine and the packages.
      code: the versions of the code that the cells ran, only one if all run the same modules.
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
