"""What can end a run, and the exit code each end has.

Every message is one line that names the field or the file, and the fix.
"""

import difflib


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


def nearest(name: str, valid) -> str:
    """Returns "; did you mean 'x'?" for the closest valid name, or ''."""
    close = difflib.get_close_matches(str(name).lower(), list(valid), n=1, cutoff=0.4)
    return f'; did you mean {close[0]!r}?' if close else ''


def unknown(kind: str, name: str, valid) -> str:
    """Returns the line for a name that is none of `valid`: the nearest, and all there are."""
    return (f'unknown {kind} {name!r}{nearest(name, valid) or "."} There are '
            f'{", ".join(valid) or "none"}')
