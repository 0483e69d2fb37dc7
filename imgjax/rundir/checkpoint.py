"""Checkpoints: Orbax writes and reads them, and digests verify that they are what was saved.

The checkpoint of a step is `<workdir>/checkpoints/<step>/` with two items: `state`, and `meta`, a
JSON with the digest of every leaf. A checkpoint that fails its digests is never used: it is moved
to `damaged/`, and the step before it is restored.
"""

import contextlib
import logging
import os
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from imgjax import sharding
from imgjax.errors import DataError, DivergedError, one_line
from imgjax.process import processes
from imgjax.rundir import digests, files, history

log = logging.getLogger('imgjax')


def directory(workdir: str) -> str:
    """Returns the folder of a run's checkpoints, as the absolute path that Orbax needs."""
    return os.path.abspath(os.path.join(workdir, 'checkpoints'))


def steps(workdir: str) -> list[int]:
    """Returns the steps whose checkpoints are complete on disk, in ascending order."""
    path = directory(workdir)
    names = os.listdir(path) if os.path.isdir(path) else []
    return sorted(int(name) for name in names
                  if files.is_step(name) and os.path.isdir(os.path.join(path, name)))


class _KeepBest(checkpoint_managers.PreservationPolicy):
    """Preserves the step with the best evaluation, the earliest of equal ones.

    Orbax's own BestN forgets the metrics of the steps before a restart; metrics.jsonl has them.
    """

    def __init__(self, score_of):
        self._score_of = score_of

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        known = {info.step: self._score_of(info.step) for info in checkpoints}
        known = {step: value for step, value in known.items() if value is not None}
        best = max(known, key=known.get) if known else None
        return [info.step == best for info in checkpoints]


class Writer:
    """Saves steps in the background; after a failed save (a full disk) the next one tries again.

    Only the first of several processes writes: if another one failed to write, the rest would wait
    for it, and the files do not depend on the number of processes.
    """

    def __init__(self, workdir: str, options: dict, score_of=lambda step: None):
        """Opens the run's checkpoint directory.

        Args:
          workdir: the run directory.
          options: config.checkpoint.
          score_of: returns the score of a step's evaluation, or None without one; the best step is
            preserved by it.
        """
        self._workdir = workdir
        self._options = options
        self._score_of = score_of
        self._manager = self._open() if processes.first() else None
        self._pending: int | None = None

    def _open(self) -> ocp.CheckpointManager:
        policies = [checkpoint_managers.LatestN(self._options['keep_newest'])]
        if self._options['keep_every']:
            policies.append(checkpoint_managers.EveryNSteps(self._options['keep_every']))
        if self._options['keep_best']:
            policies.append(_KeepBest(self._score_of))
        os.makedirs(directory(self._workdir), exist_ok=True)
        purge(self._workdir)
        return ocp.CheckpointManager(
            directory(self._workdir),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1), create=False,
                multiprocessing_options=ocp.options.MultiprocessingOptions(**_alone('save'))))

    def improves(self, step: int) -> bool:
        """Returns whether the evaluation at `step` is better than that of every saved step.

        Every process has to call it.
        """
        def answer() -> str:
            saved = {*steps(self._workdir), self._pending} - {step, None}
            others = [score for score in map(self._score_of, saved) if score is not None]
            mine = self._score_of(step)
            return 'yes' if mine is not None and all(mine > other for other in others) else ''

        return processes.broadcast_from_first(answer) == 'yes'

    def save(self, state, config_hash: str) -> None:
        """Starts saving `state`, after the save before it has ended.

        Every process has to call it.

        Args:
          state: TrainState; it may be donated as soon as this returns.
          config_hash: the hash of the run's config; `restore` refuses the steps of another one.

        Raises:
          ReplicaError: devices that store the same part of the state have different bits.
          DivergedError: a leaf is not finite; such a state is not saved.
        """
        self.wait()
        step = int(jax.device_get(state.step))
        if processes.broadcast_from_first(lambda: 'saved' if step in steps(self._workdir) else ''):
            return
        digests.check_replicas(state)
        host = sharding.to_host(state, processes.first())
        bad = processes.broadcast_from_first(lambda: digests.not_finite(host))
        if bad:
            raise DivergedError(f'{bad!r} is not finite at step {step}, which is not saved')
        if processes.first():
            self._start(step, host, config_hash)

    def _start(self, step: int, host, config_hash: str) -> None:
        leaves = digests.leaf_digests(host)
        meta = {'step': step, 'config_hash': config_hash, 'digests': leaves,
                'state_digest': digests.digest_of(leaves)}
        self._pending = step
        try:
            if self._manager is None:  # after a failed save
                self._manager = self._open()
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(host),
                    meta=ocp.args.JsonSave(meta | {'meta_digest': digests.digest_of(meta)})))
        except Exception as error:  # of many types, each of which means: not saved
            self._failed(error)

    def wait(self) -> bool:
        """Waits for a save that runs; returns whether the newest requested step is on disk."""
        if self._pending is None:
            return True
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            self._failed(error)
            return False
        if self._pending not in steps(self._workdir):
            self._failed(RuntimeError('it is not on disk'))
            return False
        with contextlib.suppress(OSError):  # on a full disk the next save tries again
            open(_saved_mark(self._workdir), 'a').close()
        self._pending = None
        return True

    def _failed(self, error: Exception) -> None:
        """Logs that a save failed, removes what it left, and closes Orbax's manager."""
        log.warning('checkpoint of step %s was not saved (%s); training goes on', self._pending,
                    one_line(error, 300))
        self._pending = None
        manager, self._manager = self._manager, None
        try:
            if manager is not None:
                manager.close()
        except Exception as again:  # the same failure is raised a second time
            log.debug('closing after a failed save: %s', again)
        purge(self._workdir)

    def close(self) -> None:
        """Closes the writer after a save that still runs."""
        self.wait()
        if self._manager is not None:
            self._manager.close()


def _alone(purpose: str) -> dict:
    """Returns options for Orbax by which this process waits for no other one at a barrier."""
    place = processes.index()
    return dict(primary_host=place, active_processes={place},
                barrier_sync_key_prefix=f'{purpose}{place}')


def _saved_mark(workdir: str) -> str:
    """Returns the path of a file that exists once a step was saved.

    With it, a directory without checkpoints is not taken for a new run.
    """
    return os.path.join(workdir, 'saved')


def purge(workdir: str) -> None:
    """Removes what killed or failed saves left; only the process with the run lock may call it."""
    for name in os.listdir(directory(workdir)):
        if '.orbax-checkpoint-tmp' in name:
            shutil.rmtree(os.path.join(directory(workdir), name), ignore_errors=True)


class _NotDamaged(DataError):
    """A step cannot be restored, but is not damaged; it stays where it is."""


def restore(workdir: str, step: int, target, config_hash: str) -> tuple[Any, dict]:
    """Returns (state, meta) of one step, verified.

    Args:
      workdir: the run directory, which is only read.
      step: the step to restore.
      target: the state as ShapeDtypeStructs, with the shardings to restore it with.
      config_hash: the hash of the run's config.

    Raises:
      DataError: the step is missing, unreadable, or not what was saved.
      ConfigError: history.json cannot be used.
    """
    path = os.path.join(directory(workdir), str(step))
    if not os.path.isdir(path):
        there = ', '.join(map(str, steps(workdir))) or 'none'
        raise DataError(f'{path}: no such checkpoint; the steps on disk are: {there}')
    expected = history.hash_at(workdir, step, config_hash)
    try:
        leaves = dict(digests.named_leaves(target))
        files.check_files(path, len(leaves))
        with ocp.Checkpointer(
                ocp.CompositeCheckpointHandler(state=ocp.StandardCheckpointHandler(),
                                               meta=ocp.JsonCheckpointHandler()),
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    **_alone('restore'))) as reader:
            meta = reader.restore(
                path, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))['meta']
            _check_meta(path, meta, step, expected)
            if set(leaves) != set(meta['digests']):
                odd = sorted(set(leaves) ^ set(meta['digests']))
                raise _NotDamaged(f'{path}: holds another kind of state ({odd[0]!r}); it was saved '
                                 'by another version of imgjax, use that one')
            files.check_arrays(os.path.join(path, 'state'), {
                name.replace('/', '.'): leaf for name, leaf in leaves.items()})
            # As NumPy arrays: each process reads alone, and verifies them before devices get them.
            blank = jax.tree.map(
                lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), target)
            state = reader.restore(
                path, args=ocp.args.Composite(state=ocp.args.StandardRestore(blank)))['state']
        found = digests.leaf_digests(state)
        bad = [name for name in found if found[name] != meta['digests'][name]]
        if bad:
            raise ValueError(f'{len(bad)} of {len(found)} leaves are not what was saved, first '
                             f'{bad[0]!r}')
    except _NotDamaged:
        raise
    except Exception as error:  # damage can raise any type in a parser
        text = one_line(error, 300)
        outside = isinstance(error, PermissionError | MemoryError) or any(
            word in text for word in ('RESOURCE_EXHAUSTED', 'PERMISSION_DENIED'))
        kind = _NotDamaged if outside else DataError
        raise kind(f'{path}: {"cannot be read" if outside else "damaged"} '
                   f'({type(error).__name__}: {text})') from None
    placed = sharding.place(state, jax.tree.map(lambda leaf: leaf.sharding, target), own=True)
    return placed, meta


def _check_meta(path: str, meta: dict, step: int, config_hash: str) -> None:
    claimed = {k: v for k, v in meta.items() if k != 'meta_digest'}
    if meta['meta_digest'] != digests.digest_of(claimed) or meta['step'] != step:
        raise ValueError('its meta data is not what was saved')
    if meta['config_hash'] != config_hash:
        raise _NotDamaged(f'{path}: it is whole, but of a run of another config, '
                          f'{meta["config_hash"]}, not {config_hash}; if this run went on with '
                          'other settings, restore its history.json, else move the step away')


def restore_newest(workdir: str, target, config_hash: str, *,
                   put_aside: bool) -> tuple[Any, dict] | None:
    """Returns (state, meta) of the newest step that verifies; None before the first save.

    Args:
      workdir: the run directory.
      target, config_hash: as in `restore`.
      put_aside: whether to move what does not verify to <workdir>/damaged; it needs the run lock.

    Raises:
      DataError: steps were saved, but none is usable.
    """
    found = restore_common({workdir: config_hash}, target, put_aside=put_aside)
    return found[0] if found else None


def restore_common(runs: dict[str, str], target, *,
                   put_aside: bool) -> list[tuple[Any, dict]] | None:
    """Returns (state, meta) of each run, at the newest step that verifies in all of them.

    It is None where one of them has saved nothing yet, or where they have no step in common.

    Args:
      runs: {run directory: hash of its config}.
      target, put_aside: as in `restore_newest`.

    Raises:
      DataError: steps were saved, but none is usable.
    """
    problem = None
    common = set.intersection(*(set(steps(workdir)) for workdir in runs))
    for step in sorted(common, reverse=True):
        found = []
        for workdir, config_hash in runs.items():
            try:
                found.append(restore(workdir, step, target, config_hash))
            except _NotDamaged:
                raise
            except DataError as error:
                problem = error
                log.warning('%s; trying the step before it', error)
                if put_aside:
                    _put_aside(workdir, step)
                break
        if len(found) == len(runs):
            return found
    none = all(os.path.exists(_saved_mark(workdir)) and not steps(workdir) for workdir in runs)
    if problem or none:
        places = ', '.join(map(directory, list(runs)[:3])) + (', ...' if len(runs) > 3 else '')
        raise DataError(
            f'{places}: steps were saved here but none is usable '
            f'({problem or "none is there"}); bring one back, or start again in a new --workdir')
    return None


def drop_after(workdir: str, step: int) -> None:
    """Removes the steps after `step`, which will be computed again; it needs the run lock.

    Orbax saves no step before the newest one on disk.
    """
    for later in steps(workdir):
        if later > step:
            shutil.rmtree(os.path.join(directory(workdir), str(later)))
    if step == 0:
        with contextlib.suppress(FileNotFoundError):
            os.remove(_saved_mark(workdir))


def _put_aside(workdir: str, step: int) -> None:
    """Moves a step to damaged/<step>, <step>.1 ..., so that nothing is overwritten."""
    damaged = os.path.join(workdir, 'damaged')
    os.makedirs(damaged, exist_ok=True)
    os.replace(os.path.join(directory(workdir), str(step)), files.free_path(damaged, str(step)))
