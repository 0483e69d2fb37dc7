"""The rows of a run: metrics.jsonl, TensorBoard, and lines for people."""

import contextlib
import json
import logging
import math
import os
import socket
import time
from typing import Any

from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from imgjax.metrics import RESERVED
from imgjax.rundir import files

log = logging.getLogger('imgjax')


def read_rows(workdir: str) -> list[dict]:
    """Returns the rows of metrics.jsonl; lines that are no rows are left out and logged."""
    path = os.path.join(workdir, 'metrics.jsonl')
    lines = files.read_rows(path)
    rows = [row for row in lines if _is_row(row)]
    if len(rows) < len(lines):
        log.warning('%s: left out %d lines that are JSON but no rows', path, len(lines) - len(rows))
    return rows


def _is_row(row) -> bool:
    if not (isinstance(row, dict) and type(row.get('step')) is int and row['step'] >= 0
            and isinstance(row.get('split'), str) and isinstance(row.get('perf', {}), dict)):
        return False
    perf = row.get('perf', {})
    numbers = [*perf.values(), *(v for k, v in row.items() if k not in ('split', 'perf'))]
    return all(value is None or isinstance(value, int | float) for value in numbers)


def scores(rows: list[dict], split: str, metric: str, higher_is_better: bool) -> dict[int, float]:
    """Returns {step: the score of its evaluation}; a higher score is better.

    Of a metric of which lower is better it is the negative.
    """
    sign = 1 if higher_is_better else -1
    found = {row['step']: row.get(metric) for row in rows if row['split'] == split}
    return {step: sign * score for step, score in found.items() if score is not None}


class Log:
    """The rows of a run in metrics.jsonl, and TensorBoard events that are made from them.

    A row is {'step', 'split', numbers ..., 'perf': {...}}; NaN and infinity are null. A full disk
    does not stop a run: rows stay in memory until they can be written.
    """

    def __init__(self, workdir: str, step: int, write: bool = True):
        """Opens the log to continue after `step`, and drops later rows, whose work was lost.

        Without `write` the rows are only in memory, as in all but the first of several processes.
        """
        self._writes = write
        self.rows = [row for row in read_rows(workdir) if row['step'] <= step]
        self.workdir = workdir
        self._path = os.path.join(workdir, 'metrics.jsonl')
        self._board = os.path.join(workdir, 'tensorboard')
        self._events: RecordWriter | None = None
        # Of the newest row with a time; evaluations have none. Without any it is that of the first.
        times = [row['perf']['time'] for row in self.rows if row.get('perf', {}).get('time')]
        self._wall_time = times[0] if times else time.time()
        self._waiting = list(self.rows)
        if write:
            self._write_whole_file()

    def _write_whole_file(self) -> None:
        text = ''.join(json.dumps(row) + '\n' for row in self.rows)
        with files.replacing(self._path) as file:
            file.write(text)
        os.makedirs(self._board, exist_ok=True)
        for name in os.listdir(self._board):
            if name.startswith('events.out.tfevents'):
                os.remove(os.path.join(self._board, name))
        self._size = len(text.encode())
        waiting, self._waiting = self._waiting, []
        for row in waiting:
            self._write_events(row)

    def has(self, step: int, split: str) -> bool:
        """Returns whether there is a row of that step and split."""
        return any((row['step'], row['split']) == (step, split) for row in self.rows)

    def write(self, row: dict) -> None:
        """Appends a row, whose numbers are Python's."""
        row = jsonable(row)
        self.rows.append(row)
        if self._writes:
            self._wall_time = time.time()
            self._waiting.append(row)
            self._write_events(row)
            self.sync()

    def sync(self) -> None:
        """Writes the waiting rows to the disk; if they do not fit, they go on waiting."""
        if not self._waiting or not self._writes:
            return
        data = ''.join(json.dumps(row) + '\n' for row in self._waiting).encode()
        try:
            with open(self._path, 'r+b', buffering=0, opener=files.opener) as file:
                file.truncate(self._size)  # removes the part of a row that a full disk left
                file.seek(self._size)
                if file.write(data) != len(data):
                    raise OSError('the disk is full')
                os.fsync(file.fileno())
        except OSError as error:
            log.warning('%s: %d rows wait for space (%s)', self._path, len(self._waiting), error)
            return
        self._size += len(data)
        self._waiting = []

    def _write_events(self, row: dict) -> None:
        perf = row.get('perf', {})
        wall_time = self._wall_time = perf.get('time', self._wall_time)
        numbers = {f'{row["split"]}/{k}': v for k, v in row.items() if k not in ('step', 'split')}
        numbers |= {f'perf/{k}': v for k, v in perf.items() if k != 'time'}
        try:
            if self._events is None:
                name = f'events.out.tfevents.{int(time.time())}.{socket.gethostname()}'
                self._events = RecordWriter(os.path.join(self._board, name))
                self._events.write(event_pb2.Event(
                    wall_time=time.time(), file_version='brain.Event:2').SerializeToString())
            for tag, value in numbers.items():
                if isinstance(value, int | float):
                    self._events.write(event_pb2.Event(
                        wall_time=wall_time, step=row['step'],
                        summary=scalar(tag, value)).SerializeToString())
            self._events.flush()
        except OSError as error:  # metrics.jsonl has the row; the events are made again on resume
            log.warning('%s: events are missing (%s)', self._board, error)

    def close(self) -> None:
        """Writes the waiting rows and closes the events."""
        self.sync()
        if self._events is not None:
            with contextlib.suppress(OSError):  # on a full disk; they are made again from the rows
                self._events.close()


def jsonable(value) -> Any:
    """Returns plain data with None in place of every number that JSON cannot hold."""
    if isinstance(value, dict):
        return {k: jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def measured(row: dict) -> list[str]:
    """Returns the names in a row that the objective or a metric has measured, the loss first.

    Without top5_accuracy, which is 1 of up to five classes.
    """
    names = [name for name in row
             if name not in (*RESERVED, 'top5_accuracy') and not name.startswith('skipped')]
    return sorted(names, key=lambda name: name != 'loss')


def line(row: dict, total: int) -> str:
    """Returns a row as a line for people.

    >>> from imgjax.rundir import metrics_log
    >>> metrics_log.line({'step': 100, 'split': 'test', 'loss': 0.25, 'accuracy': 0.9375}, 500)
    'step 100/500 · test · loss 0.2500 · accuracy 0.9375'
    """
    words = [f'step {row["step"]}/{total}', row['split']]
    words += [f'{name} {row[name]:.4f}' for name in measured(row) if row[name] is not None]
    perf = row.get('perf', {})
    if 'images_per_second' in perf:
        words.append(f'{perf["images_per_second"]:,.0f} images/s')
        words.append(f'step {perf["step_time"] * 1e3:.1f} ms')
        words.append(f'infeed stall {perf["infeed_stall"]:.1%}')
        words.append('MFU n/a' if perf['mfu'] is None else f'MFU {perf["mfu"]:.1%}')
    if row.get('skipped_updates'):
        words.append(f'{row["skipped_updates"]:.0f} updates skipped')
    return ' · '.join(words)
