"""What can end a run, and the exit code each end has.

Every message is one line that names the field or the file, and the fix.
"""

import collections
import difflib
from collections.abc import Collection, Iterable


class RunError(Exception):
    """A run that cannot go on; `exit_code` is what the process returns.

    `together` is true where every process of the run raises the same at the same point: each says
    why before it ends. Otherwise the others are told to end by the one that failed.
    """

    exit_code = 1
    together = False


class ConfigError(RunError):
    """A flag, a config field or a run directory that does not fit: nothing was written."""

    exit_code = 2


class OutOfMemoryError(RunError):
    """A step, an evaluation or a set needs more memory than the host or a device has."""

    exit_code = 2


class DataError(RunError):
    """A dataset, an image or a checkpoint that cannot be used."""

    exit_code = 3


class DivergedError(RunError):
    """Too many updates in a row were not finite."""

    exit_code = 4


class LockedError(RunError):
    """Another process is writing to the run directory."""

    exit_code = 5


class DoesNotFitError(RunError):
    """A step that the devices have too little memory for; `result` is printed all the same."""

    def __init__(self, message: str, result: dict):
        super().__init__(message)
        self.result = result


class ReplicaError(RunError):
    """Copies of the state that must be equal are not: a device or its memory has failed."""

    exit_code = 76


class WorkerError(RunError):
    """A decoding process was ended from outside (out of memory, kill -9)."""

    exit_code = 76


class PreemptedError(RunError):
    """Asked to stop; the state is saved and the same command goes on."""

    exit_code = 75
    together = True


# Not an exception: the watchdog ends a process whose main thread is stuck (runtime.watchdog).
WATCHDOG_EXIT_CODE = 76


def one_line(error: BaseException, most: int = 200) -> str:
    """Returns the text of an error on one line, of which it keeps `most` characters."""
    return ' '.join(str(error).split())[:most]


def nearest(name: str, valid: Iterable) -> str:
    """Returns "; did you mean 'x'?" for the valid name that is close, or '' where none is.

    Case makes no difference. The beginning of a name is close to it, and so is a last part that
    no other name has (`seed` to `hparams.seed`); two names whose last parts are not alike are not
    close (`hparams.lr` and `hparams.b1`).
    """
    word, spelled = str(name).lower(), {}
    for one in map(str, valid):
        spelled.setdefault(one.lower(), one)
    of_last = collections.Counter(map(_last_part, spelled))
    for one in list(spelled):
        if of_last[_last_part(one)] == 1:
            spelled.setdefault(_last_part(one), spelled[one])
    close = [one for one in spelled if len(word) > 2 and one.startswith(word)]
    close = close if len(close) == 1 else [
        one for one in difflib.get_close_matches(word, list(spelled), n=3, cutoff=0.6)
        if difflib.SequenceMatcher(None, _last_part(word), _last_part(one)).ratio() > 0.3] or close
    return f'; did you mean {spelled[close[0]]!r}?' if close else ''


def _last_part(name: str) -> str:
    return name.rpartition('.')[2]


def unknown(kind: str, name: str, valid: Collection[str]) -> str:
    """Returns the line for a name that is none of `valid`: the nearest, and all there are."""
    return (f'unknown {kind} {name!r}{nearest(name, valid) or "."} There are '
            f'{", ".join(valid) or "none"}')
