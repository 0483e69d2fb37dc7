"""Where commands write: a command replaces and removes only what the same command wrote.

An output folder is new, empty, or has a MARKER, which names the command and the files that it
wrote. An output file is new, empty, or begins or ends as the command writes it. Anything else is
refused in one line, before any work.
"""

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from typing import IO

from imgjax.errors import ConfigError
from imgjax.rundir import files as files_lib

MARKER = '.imgjax.json'
_MARKER_BYTES = 2**20
_LOOKED_AT = 64 * 2**10  # bytes that are read at each end of a file


def path(flag: str, text: str) -> str:
    """Returns a path with `~` expanded and without a slash at its end.

    Raises:
      ConfigError: it is empty, or names the home of an unknown user.
    """
    if not text:
        raise ConfigError(f'--{flag}: empty; name a path')
    found = os.path.expanduser(text)
    if found.startswith('~'):
        user = text.partition('/')[0].removeprefix('~')
        raise ConfigError(f'--{flag}={text}: there is no user {user!r}; a name in this folder that '
                          f'begins with ~ is written ./{text}')
    return found.rstrip('/') or '/'


def check_folder(flag: str, folder: str, command: str, names: tuple[str, ...] = ()) -> list[str]:
    """Returns the files in `folder` that its marker names; writes nothing.

    Args:
      flag: the flag that names the folder.
      folder: the folder, as `path` returns it.
      command: the command that writes into it, such as 'launch.export'.
      names: files and folders that the command will write there.

    Raises:
      ConfigError: it may not be written, or holds something that the command did not write.
    """
    where = f'--{flag}={folder}'
    check_not_of_run(where, folder)
    return check_content(where, folder, command, names)


def check_content(where: str, folder: str, command: str, names: tuple[str, ...] = ()) -> list[str]:
    """Does what `check_folder` does for a folder that may be one of a run's own.

    Args:
      where: what errors begin with.
      folder: the folder.
      command: the command that writes into it.
      names: files and folders that the command will write there.

    Raises:
      ConfigError: as `check_folder` raises it.
    """
    if not os.path.lexists(folder):
        _check_writable(where, _nearest_folder(where, folder))
        return []
    if not os.path.isdir(folder):
        raise ConfigError(f'{where}: is no folder; take a new or empty one')
    entries = sorted(_entries(where, folder))
    own = marked(folder, command)
    if own is None:
        if entries and not (entries == ['lock'] and is_lock(folder)):
            raise ConfigError(f'{where}: holds {entries[0]!r}, which {command} did not write '
                              'there; take a new or empty folder')
        own = []
    written = {name.partition('/')[0] for name in own}
    for name in names:
        if name in entries and (name not in written or os.path.islink(os.path.join(folder, name))):
            raise ConfigError(f'{where}: {command} did not write its {name!r}; move it away or '
                              'take another folder')
    _check_writable(where, folder)
    return own


def check_not_of_run(where: str, place: str) -> None:
    """Checks that a path is not one of a run directory's own files and folders, or inside of one.

    Args:
      where: what errors begin with, such as '--output=runs/a'.
      place: the path.

    Raises:
      ConfigError: it is.
    """
    inner = os.path.realpath(place)
    while (above := os.path.dirname(inner)) != inner:
        is_run = all(os.path.isfile(os.path.join(above, name))
                     for name in ('config.json', 'dataset.json'))
        if is_run and files_lib.is_of_run(os.path.basename(inner)):
            raise ConfigError(f'{where}: {os.path.basename(inner)!r} is a name of the run '
                              f'directory {above} itself; take another one')
        inner = above


def marked(folder: str, command: str) -> list[str] | None:
    """Returns the files that the marker of a folder names; None unless `command` wrote it."""
    try:
        found = files_lib.read_json(os.path.join(folder, MARKER), _MARKER_BYTES)
        own = found['files'] if found['command'] == command else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return own if isinstance(own, list) and all(isinstance(name, str) for name in own) else None


def is_lock(folder: str) -> bool:
    """Returns whether a folder has a lock file that lock.run_lock wrote."""
    try:
        text = files_lib.read(os.path.join(folder, 'lock'), 1000)
    except (OSError, ValueError):
        return False
    return not text or text.startswith(b'process ')


def mark(folder: str, command: str, files=()) -> None:
    """Writes the marker of a folder that `check_folder` has checked."""
    with files_lib.replacing(os.path.join(folder, MARKER)) as file:
        json.dump({'command': command, 'files': sorted(files)}, file, indent=1)


@contextlib.contextmanager
def filling(folder: str, command: str, own: list[str]) -> Iterator[str]:
    """Yields an empty folder, and moves its files to `folder` when the block ends.

    Each file is replaced as a whole, and other files stay. After an error everything is as before;
    a killed process leaves a folder whose name begins with '.unfinished'.

    Args:
      folder: a folder that `check_folder` has checked; it is made where it is missing.
      command: the command that writes into it.
      own: what `check_folder` returned.
    """
    made, fresh = make_folder(folder), marked(folder, command) is None
    try:
        with tempfile.TemporaryDirectory(prefix='.unfinished-', dir=folder) as new:
            mark(folder, command, own)
            yield new
            files = [os.path.relpath(os.path.join(place, name), new)
                     for place, _, names in os.walk(new) for name in names]
            mark(folder, command, {*own, *files})
            fresh = False
            for name in files:
                os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
                os.chmod(os.path.join(new, name), 0o666 & ~_umask())  # some libraries write 0600
                os.replace(os.path.join(new, name), os.path.join(folder, name))
    except BaseException:
        if fresh:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, MARKER))
        remove_folders(made)
        raise


def make_folder(folder: str, mode: int = 0o777) -> list[str]:
    """Makes a folder and the missing ones above it; returns those it made, the innermost first."""
    made, at = [], os.path.abspath(folder)
    while not os.path.lexists(at):
        made.append(at)
        at = os.path.dirname(at)
    os.makedirs(folder, mode, exist_ok=True)
    return made


def remove_folders(made: list[str]) -> None:
    """Removes the folders that `make_folder` made, as far as they are empty."""
    with contextlib.suppress(OSError):
        for folder in made:
            os.rmdir(folder)


def remove_unused(folder: str, made: list[str]) -> None:
    """Removes the lock of a folder that holds nothing else, and the folders `make_folder` made."""
    with contextlib.suppress(OSError):
        if os.listdir(folder) == ['lock'] and is_lock(folder):
            os.unlink(os.path.join(folder, 'lock'))
            remove_folders(made)


def check_file(flag: str, file: str, command: str, marks: tuple[bytes, ...],
               makes_folder: bool = False) -> None:
    """Checks that a file may be written; writes nothing.

    Args:
      flag: the flag that names the file.
      file: the file, as `path` returns it.
      command: the command that writes it.
      marks: each file that the command writes has one of these at its beginning or end.
      makes_folder: whether the command makes the folder where it is missing.

    Raises:
      ConfigError: it may not be written, or the command did not write it.
    """
    where, file = f'--{flag}={file}', os.path.realpath(file)
    folder = os.path.dirname(file)
    check_not_of_run(where, file)
    if makes_folder:
        folder = _nearest_folder(where, file)
    elif not os.path.isdir(folder):
        raise ConfigError(f'{where}: no such folder as {folder}; make it first')
    _check_writable(where, folder)
    if not os.path.lexists(file):
        return
    if os.path.isdir(file):
        raise ConfigError(f'{where}: is a folder; name a file in it')
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise ConfigError(f'{where}: is no plain file; take another name')
    if os.path.getsize(file) and not any(mark in _ends(where, file) for mark in marks):
        raise ConfigError(f'{where}: is there already, and {command} did not write it; move it '
                          'away or take another name')


@contextlib.contextmanager
def replacing(file: str, binary: bool = False, **options) -> Iterator[IO]:
    """Opens a new file that takes the place of `file`, which `check_file` has checked.

    It is files.replacing for a folder with files of the user's, none of which may be overwritten. A
    link is followed.
    """
    file = os.path.realpath(file)
    with tempfile.TemporaryDirectory(prefix='.unfinished-', dir=os.path.dirname(file)) as new:
        at = os.path.join(new, os.path.basename(file))
        with files_lib.replacing(at, binary, **options) as opened:
            yield opened
        os.replace(at, file)


def _entries(where: str, folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise ConfigError(f'{where}: cannot be read ({error.strerror})') from None


def _ends(where: str, file: str) -> bytes:
    try:
        with open(file, 'rb') as opened:
            begin = opened.read(_LOOKED_AT)
            opened.seek(max(0, os.path.getsize(file) - _LOOKED_AT))
            return begin + b'\0' + opened.read(_LOOKED_AT)
    except OSError as error:
        raise ConfigError(f'{where}: cannot be read ({error.strerror})') from None


def _nearest_folder(where: str, missing: str) -> str:
    """Returns the innermost existing folder above a missing path."""
    at = os.path.dirname(os.path.abspath(missing))
    while not os.path.lexists(at):
        at = os.path.dirname(at)
    if not os.path.isdir(at):
        raise ConfigError(f'{where}: {at} is no folder; take another path')
    return at


def _check_writable(where: str, folder: str) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f'{where}: {folder} may not be written; take another place, or change '
                          'its permissions')


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
