"""Ways of doing the same thing, timed in turns, so that a busy machine slows all of them.

A way is run(times) -> seconds: a function of this process, or a process of its own (`Way`) that
answers by `serve`. Both sides speak JSON, a line each: what is wanted, what it says when it is
ready, and then a number of times for every turn.
"""

import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Ended(RuntimeError):
    """A process, `way`, ended before it answered; its own error is on its stderr."""

    def __init__(self, way: 'Way', text: str):
        super().__init__(text)
        self.way = way


class Way:
    """A process of a module of benchmarks/ that does one thing as often as it is asked to.

    It starts at once and imports what it needs; `begin` has it go to work.
    """

    def __init__(self, module: str, wanted: dict, *, python: str = sys.executable,
                 environment: dict[str, str] | None = None, stderr=None):
        """Starts the process.

        Args:
          module: name of the file, without its ending.
          wanted: what the function that it gives to `serve` or `answer` takes.
          python: the interpreter.
          environment: in place of this process's own.
          stderr: a file that takes what it says; None is this process's own stderr.
        """
        # A group of its own: torch's compiler starts processes, which end with it.
        self._process = subprocess.Popen(
            [python, '-m', f'benchmarks.{module}'], text=True, cwd=ROOT, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True)
        self._wanted = wanted
        self._timer: threading.Timer | None = None
        self.ready: dict = {}
        self.memory: dict = {}

    def begin(self, seconds: float | None = None) -> dict:
        """Has it go to work; returns what it says when it is ready, also kept as `ready`.

        Args:
          seconds: it is ended when these are over, then or later; None is never.

        Raises:
          Ended: it came to its end before.
        """
        if seconds is not None:
            self._timer = threading.Timer(max(0.0, seconds), self.end)
            self._timer.daemon = True
            self._timer.start()
        self.ready = self._ask(self._wanted)
        return self.ready

    def run(self, times: int) -> float:
        """Returns the seconds that it takes; what it says of its memory is kept as `memory`."""
        found = self._ask(times)
        self.memory = found['memory']
        return found['seconds']

    def answers(self, seconds: float) -> Iterator[dict]:
        """Has it go to work; yields each line of what it finds, until it has ended.

        Raises:
          Ended: it failed, or was ended after these seconds.
        """
        try:
            found = self.begin(seconds)
            while 'done' not in found:
                yield found
                found = self._read()
        finally:
            self.close()

    def _ask(self, what) -> dict:
        try:
            print(json.dumps(what), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            pass  # reading says so
        return self._read()

    def _read(self) -> dict:
        for line in self._process.stdout:
            if line.startswith('{"'):  # libraries print, too
                return json.loads(line)
        raise Ended(self, f'{" ".join(self._process.args)}: it ended; see its error')

    def end(self) -> None:
        """Kills it and what it started."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        """Lets it end, or has it end."""
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        self.end()
        if self._timer:
            self._timer.cancel()
        self._process.wait()
        self._process.stdout.close()


def serve(start: Callable) -> None:
    """Answers a `Way`.

    Args:
      start: (**what is wanted) -> (run, what it says when it is ready, memory), where run(times)
        returns seconds, and memory() a dict of MB.
    """
    run, ready, memory = start(**json.loads(sys.stdin.readline()))
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        print(json.dumps({'seconds': run(int(line)), 'memory': memory()}), flush=True)


def answer(start: Callable) -> None:
    """Answers `Way.answers`: start(**what is wanted) yields what it finds, dicts one by one."""
    for found in start(**json.loads(sys.stdin.readline())):
        print(json.dumps(found), flush=True)
    print(json.dumps({'done': True}), flush=True)


def in_turns(runs: dict[str, Callable[[int], float]], rounds: int,
             seconds: float) -> dict[str, list[float]]:
    """Returns the seconds of one time, a number for each round, by the names of the runs.

    Args:
      runs: name -> run(times) -> seconds.
      rounds: how often each has its turn, after a first one that does not count.
      seconds: about how long a turn lasts; it is done at least once.
    """
    times = {name: max(1, round(seconds / run(1))) for name, run in runs.items()}
    found = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run(times[name]) / times[name])
    return found


def timed(call: Callable, wait: Callable) -> Callable[[int], float]:
    """Returns run(times) -> seconds of a call; wait(what the last one gave) ends the time."""
    def run(times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            given = call()
        wait(given)
        return time.perf_counter() - began

    return run


def ratio(times: list[float], first: list[float]) -> str:
    """Returns the ratio of the rounds as text: median (lowest to highest)."""
    ratios = [a / b for a, b in zip(times, first, strict=True)]
    return f'{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})'
