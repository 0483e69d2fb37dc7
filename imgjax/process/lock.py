"""The run lock: one process at a time may write to a run directory."""

import contextlib
import datetime
import fcntl
import os
import socket
from collections.abc import Iterator
from typing import TextIO

from imgjax.errors import ConfigError, LockedError
from imgjax.process import processes


@contextlib.contextmanager
def run_lock(workdir: str) -> Iterator[None]:
    """Locks a run directory for this process; the kernel unlocks it when the process ends.

    Raises:
      LockedError: another process has locked it; the line names that process.
    """
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(_locked(workdir))
        while not _is_lock_of(workdir, file):  # the process before has just removed its lock file
            file = opened.enter_context(_locked(workdir))
        now = datetime.datetime.now().isoformat(timespec='seconds')
        file.truncate(0)
        several = f', the first of {processes.count()}' if processes.count() > 1 else ''
        file.write(f'process {os.getpid()} on {socket.gethostname()} since {now}{several}')
        file.flush()
        yield


def _locked(workdir: str) -> TextIO:
    """Returns the lock file of a run directory, which it has locked."""
    try:
        file = open(os.path.join(workdir, 'lock'), 'a+', encoding='utf-8',
                    opener=lambda name, how: os.open(
                        name, how | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640))
    except OSError as error:
        raise ConfigError(f'{workdir}: may not be written ({error.strerror}); take another folder, '
                          'or change its permissions') from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with file:
            file.seek(0)
            raise LockedError(
                f'{workdir}: locked by {file.read(200).strip() or "another process"}; wait for it, '
                'stop it, or take another --workdir') from None
    except OSError as error:
        raise ConfigError(f'--workdir={workdir}: its file system gives no locks '
                          f'({error.strerror}); take one that does') from None
    return file


def _is_lock_of(workdir: str, file) -> bool:
    try:
        return os.path.samestat(os.lstat(os.path.join(workdir, 'lock')), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
