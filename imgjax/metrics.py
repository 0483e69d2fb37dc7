"""What a run says while it goes: metrics.jsonl, TensorBoard, the terminal, throughput and MFU."""

import contextlib
import json
import logging
import math
import os
import socket
import sys
import time

import jax
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from imgjax import alive, trust

log = logging.getLogger('imgjax')

# Dense bfloat16 FLOP/s of one chip, from the makers' data sheets; MFU is against these. A device
# that is not here (a CPU) has no MFU in its rows, only the FLOP/s it reached.
PEAK_FLOPS = {
    'NVIDIA A100': 312e12,
    'NVIDIA H100 PCIe': 756e12,
    'NVIDIA H100': 989e12,
    'NVIDIA H200': 989e12,
    'NVIDIA L4': 121e12,
    'NVIDIA B200': 2250e12,
    'TPU v3': 123e12,
    'TPU v4': 275e12,
    'TPU v5 lite': 197e12,
    'TPU v5e': 197e12,
    'TPU v5': 459e12,
    'TPU v6 lite': 918e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Returns the peak of a device kind, by the longest name in the table that it begins with."""
    fitting = [name for name in PEAK_FLOPS if device_kind.startswith(name)]
    return PEAK_FLOPS[max(fitting, key=len)] if fitting else None


def performance(*, steps: int, seconds: float, stalled: float, batch_size: int,
                flops: float | None, compile_seconds: float) -> dict:
    """Returns the `perf` part of a row; it is the only part that differs between equal runs.

    Args:
      steps: steps in this stretch of the run.
      seconds: what they took.
      stalled: seconds of it that the loop waited for data.
      batch_size: examples of a step over all devices.
      flops: of one step over all devices; None if XLA did not tell.
      compile_seconds: tracing and compiling the step, once a process.
    """
    reached = flops * steps / seconds if flops else None
    peak = peak_flops(jax.devices()[0].device_kind)
    return {
        'time': time.time(),
        'images_per_second': batch_size * steps / seconds,
        'step_time': seconds / steps,
        'infeed_stall': stalled / seconds,
        'compile_time': compile_seconds,
        'flops_per_second': reached,
        'mfu': reached / (peak * jax.device_count()) if reached and peak else None,
    }


def read_rows(workdir: str) -> list[dict]:
    """Returns the rows of metrics.jsonl; a line that a crash cut short is left out, and said."""
    path = os.path.join(workdir, 'metrics.jsonl')
    lines = trust.read_rows(path)
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


def scores(rows: list[dict], split: str) -> dict[int, float]:
    """Returns {step: what its evaluation is judged by, the higher the better}.

    That is the mean average precision, where images have several labels, else the accuracy.
    """
    found = {row['step']: row.get('mean_average_precision', row.get('accuracy'))
             for row in rows if row['split'] == split}
    return {step: score for step, score in found.items() if score is not None}


class Log:
    """The rows of a run on disk, and as TensorBoard events made from them.

    A row is {'step', 'split', numbers ..., 'perf': {...}}; NaN and infinity are null. A full disk
    does not stop a run: rows wait in memory until they can be written.
    """

    def __init__(self, workdir: str, step: int, write: bool = True):
        """Opens the log to go on after `step`: rows beyond it are of work that was lost.

        Without `write` the rows are only kept, as in all but the first of several processes.
        """
        self._writes = write
        self.rows = [row for row in read_rows(workdir) if row['step'] <= step]
        self.workdir = workdir
        self._path = os.path.join(workdir, 'metrics.jsonl')
        self._board = os.path.join(workdir, 'tensorboard')
        self._events = None
        # Of the newest row that has one: evaluations have none. Before any it is that of the first.
        times = [row['perf']['time'] for row in self.rows if row.get('perf', {}).get('time')]
        self._wall_time = times[0] if times else time.time()
        self._waiting = list(self.rows)
        if write:
            self._write_whole_file()

    def _write_whole_file(self) -> None:
        text = ''.join(json.dumps(row) + '\n' for row in self.rows)
        with trust.replacing(self._path) as file:
            file.write(text)
        os.makedirs(self._board, exist_ok=True)
        for name in os.listdir(self._board):
            if name.startswith('events.out.tfevents'):
                os.remove(os.path.join(self._board, name))
        self._size = len(text.encode())
        waiting, self._waiting = self._waiting, []
        for row in waiting:
            self._write_events(row)

    def score(self, step: int, split: str) -> float | None:
        """Returns what the row of that step and split is judged by; None without such a row."""
        return scores(self.rows, split).get(step)

    def write(self, row: dict) -> None:
        """Appends a row; its numbers are Python's."""
        row = jsonable(row)
        self.rows.append(row)
        if self._writes:
            self._wall_time = time.time()
            self._waiting.append(row)
            self._write_events(row)
            self.sync()

    def sync(self) -> None:
        """Brings the rows that wait to the disk; what does not fit waits on."""
        if not self._waiting or not self._writes:
            return
        data = ''.join(json.dumps(row) + '\n' for row in self._waiting).encode()
        try:
            with open(self._path, 'r+b', buffering=0, opener=trust.opener) as file:
                file.truncate(self._size)  # takes away the part of a row that a full disk left
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
        """Writes what waits."""
        self.sync()
        if self._events is not None:
            with contextlib.suppress(OSError):  # on a full disk; they are made again from the rows
                self._events.close()


def jsonable(value):
    """Returns plain data with null for every number that JSON does not know."""
    if isinstance(value, dict):
        return {k: jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def line(row: dict, total: int) -> str:
    """Returns a row as a line for people."""
    words = [f'step {row["step"]}/{total}', row['split']]
    words += [f'{name} {row[name]:.4f}' for name in ('loss', 'accuracy')
              if row.get(name) is not None]
    perf = row.get('perf', {})
    if 'images_per_second' in perf:
        words.append(f'{perf["images_per_second"]:,.0f} images/s')
        words.append(f'step {perf["step_time"] * 1e3:.1f} ms')
        words.append(f'infeed stall {perf["infeed_stall"]:.1%}')
        words.append('MFU n/a' if perf['mfu'] is None else f'MFU {perf["mfu"]:.1%}')
    if row.get('skipped_updates'):
        words.append(f'{row["skipped_updates"]:.0f} updates skipped')
    return ' · '.join(words)


def progress(total: int, initial: int, unit: str, scale: int = 1) -> alive.Bar:
    """Returns a progress bar on stderr; where that is no terminal, alive.speak says the same.

    Args:
      total: steps in all.
      initial: steps done before.
      unit: what is counted.
      scale: units a step (images of a batch).
    """
    # Some terminals without a window say they are 0 wide; a bar would show nothing there.
    shown = sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    return alive.Bar(
        total=total * scale, initial=initial * scale, unit=unit, unit_scale=True, file=sys.stderr,
        disable=not shown, dynamic_ncols=True, leave=False)
