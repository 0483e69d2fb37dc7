"""The errors that end a run, each with its exit code.

Every message is one line that names the field or the file, and the fix.
"""

import collections
import difflib
from collections.abc import Collection, Iterable


class RunError(Exception):
    """A run cannot go on; the process ends with `exit_code`.

    `together` is true where every process of the run raises the same error at the same point, and
    each ends by itself. Otherwise the process that failed makes the others end.
    """

    exit_code = 1
    together = False


class ConfigError(RunError):
    """A flag, a config field or a run directory does not fit; nothing was written."""

    exit_code = 2


class OutOfMemoryError(RunError):
    """A step, an evaluation or a set needs more memory than the host or a device has."""

    exit_code = 2


class DataError(RunError):
    """A dataset, an image or a checkpoint cannot be used."""

    exit_code = 3


class DivergedError(RunError):
    """Too many updates in a row were not finite."""

    exit_code = 4


class LockedError(RunError):
    """Another process is writing to the run directory."""

    exit_code = 5


class DoesNotFitError(RunError):
    """The devices have too little memory for a step; `result` is printed all the same."""

    def __init__(self, message: str, result: dict):
        super().__init__(message)
        self.result = result


class ReplicaError(RunError):
    """Copies of the state differ that must be equal: a device or its memory has failed."""

    exit_code = 76


class WorkerError(RunError):
    """A decoding process was ended from outside (out of memory, kill -9)."""

    exit_code = 76


class PreemptedError(RunError):
    """The run was asked to stop; its state is saved, and the same command continues it."""

    exit_code = 75
    together = True


# The watchdog ends a process whose main thread hangs (process/watchdog.py). ReplicaError and
# WorkerError have the same code: each says that the same command has to be started again.
WATCHDOG_EXIT_CODE = 76


def one_line(error: BaseException, most: int = 200) -> str:
    """Returns the text of an error on one line, of which it keeps `most` characters."""
    return ' '.join(str(error).split())[:most]


def first_line(error: BaseException, most: int = 300) -> str:
    """Returns the first line of an error's text, at most `most` characters; else its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()[:most]


def first_few(names: Iterable, most: int = 5, total: int | None = None) -> str:
    """Returns the first names in one text, and how many more there are.

    >>> first_few(['a', 'b', 'c'], most=2)
    'a, b and 1 more'

    Args:
      names: the names, or only the first ones where it takes time to find a name.
      most: the most names in the text.
      total: the number of all names; None takes that of `names`.
    """
    names = list(map(str, names))
    more = (len(names) if total is None else total) - most
    return ', '.join(names[:most]) + (f' and {more:,} more' if more > 0 else '')


def nearest(name: str, valid: Iterable) -> str:
    """Returns "; did you mean 'x'?" with the closest valid name, or '' if none is close.

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
        if difflib.SequenceMatcher(None, _last_part(word), _last_part(one)).ratio() > 0.4] or close
    return f'; did you mean {spelled[close[0]]!r}?' if close else ''


def _last_part(name: str) -> str:
    return name.rpartition('.')[2]


def unknown(kind: str, name: str, valid: Collection[str]) -> str:
    """Returns the error for a name that is not valid: the closest valid name, and all of them."""
    return (f'unknown {kind} {name!r}{nearest(name, valid) or "."} There are '
            f'{", ".join(valid) or "none"}')
