"""The cells of a study: one arm with one seed, its run directory, and its state.

A cell is identified by what its result depends on: its config, its data and the code. Therefore a
finished cell is never run again, and another study that has the same cell uses its result.
"""

import hashlib
import json
import os
from typing import Any, NamedTuple

from imgjax import build, parts
from imgjax import config as config_lib
from imgjax.config import Config
from imgjax.errors import ConfigError, DataError, nearest
from imgjax.process import cache
from imgjax.rundir import dataset_info, result
from imgjax.study import code as code_lib
from imgjax.study.plan import Arm, Study

ENDED = ('done', 'diverged')  # states of a cell that is not run again


class Cell(NamedTuple):
    """One arm with one seed.

    Attributes:
      arm: the name of the arm.
      seed: the value of hparams.seed.
      config: as build.describe returns it.
      dataset: the description of the dataset.
      sources: the training split and the evaluation split.
      digest: the digest of config and data, 16 hex digits.
      code: the version of the code that it runs, 8 hex digits, see code.py.
      directory: the run directory.
      group: a text that is equal for all cells that one compiled program can run.
    """

    arm: str
    seed: int
    config: Config
    dataset: dataset_info.DatasetInfo
    sources: tuple
    digest: str
    code: str
    directory: str
    group: str


def cells_of(study: Study, folder: str) -> list[Cell]:
    """Returns the cells of a study, one arm after the other, each with its seeds in order.

    Args:
      study: the study, as plan.load returns it.
      folder: the folder of the cells' run directories.

    Raises:
      ConfigError: an arm cannot be run; the message names it.
      DataError: a dataset cannot be read.
    """
    opened, cells = {}, []
    for arm in study.arms:
        try:
            build.check(arm.config)
            data = json.dumps(arm.config.data, sort_keys=True)
            if data not in opened:
                opened[data] = build.open_dataset(arm.config)
            config, dataset = build.describe(arm.config, *opened[data])
        except (ConfigError, DataError) as error:
            raise type(error)(f'{study.name}: arm {arm.name!r}: {error}') from None
        _check_measured(study, arm, config, dataset)
        code = code_lib.version(config)
        group = json.dumps([cache.structure(config), cache.data(config, dataset)])
        for seed in arm.seeds:
            own = config | {'name': f'{study.name} · {arm.name} · seed {seed}',
                            'hparams': config.hparams | {'seed': seed}}
            digest = hashlib.sha256(json.dumps([
                config_lib.digest(own), dataset.train_fingerprint, dataset.eval_fingerprint,
            ]).encode()).hexdigest()[:16]
            directory = os.path.join(os.path.abspath(folder), f'{digest}-{code}')
            cells.append(Cell(arm.name, seed, own, dataset, opened[data], digest, code, directory,
                              group))
    _check_distinct(study, cells)
    _check_comparable(study, cells)
    return cells


def data_order(config: Config) -> str:
    """Returns a text that is equal for two cells of a group if they see the same batches."""
    return json.dumps([config.hparams.seed, config.sampler], sort_keys=True)


def _check_measured(study: Study, arm: Arm, config: Config,
                    dataset: dataset_info.DatasetInfo) -> None:
    """Checks that an arm measures the study's metric, also at the steps of halving."""
    if study.metric == 'mean_average_precision' and not dataset.multi_label:
        raise ConfigError(f'{study.name}: metric: mean_average_precision is of images with several '
                          f'labels, those of arm {arm.name!r} have one; take accuracy or loss')
    known = parts.measured(config, dataset.multi_label)
    if study.metric not in known:
        raise ConfigError(f'{study.name}: metric: arm {arm.name!r} has no {study.metric!r}'
                          f'{nearest(study.metric, known) or "."} It has {", ".join(known)}')
    every = config.eval_every
    for step in study.halving['steps'] if study.halving else ():
        if not every or step % every or step >= config.steps:
            raise ConfigError(
                f'{study.name}: halving.steps: takes multiples of eval_every ({every}) below the '
                f'{config.steps} steps of arm {arm.name!r}, got {step}')


def _check_comparable(study: Study, cells: list[Cell]) -> None:
    sets = {cell.arm: cell.dataset.eval_fingerprint for cell in cells}
    for first, second in study.comparisons:
        if sets[first] != sets[second]:
            raise ConfigError(f'{study.name}: comparisons: {first!r} and {second!r} are evaluated '
                              'on different images; give both the same data.eval_split')


def _check_distinct(study: Study, cells: list[Cell]) -> None:
    seen = {}
    for cell in cells:
        other = seen.setdefault(cell.digest, cell)
        if other is not cell:
            raise ConfigError(f'{study.name}: the arms {other.arm!r} and {cell.arm!r} are the same '
                              f'run with seed {cell.seed}; take one away')


def state_of(cell: Cell) -> tuple[str, dict[str, Any], str]:
    """Returns (a state of report.findings.STATES, the result or {}, a remark or '')."""
    found = result.read(cell.directory)
    if found is None:
        return ('older', {}, _older(cell)) if _older(cell) else ('missing', {}, '')
    if found['state'] == 'done':
        return 'done', found, ''
    return found['state'], {}, str(found.get('error', ''))


def _older(cell: Cell) -> str:
    """Returns the names of this cell's finished run directories of other versions of the code."""
    folder, mine = os.path.split(cell.directory)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return ', '.join(sorted(
        name for name in names if name.startswith(f'{cell.digest}-') and name != mine
        and (result.read(os.path.join(folder, name)) or {}).get('state') == 'done'))
