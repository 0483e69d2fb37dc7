"""Where commands write: what the same command did not write is neither replaced nor taken away.

A folder is new, empty, or has a MARKER, which names the command and the files that are its own. A
file is new, empty, or looks as that command writes it. Anything else is refused in one line, before
any work.
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
_LOOKED_AT = 64 * 2**10  # bytes at either end of a file


def path(flag: str, text: str) -> str:
    """Returns a path without a slash at its end, in which `~` is the user's home.

    Raises:
      ConfigError: it is empty, or of a user that there is none of.
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
      flag: which names the folder.
      folder: as of `path`.
      command: what writes into it, such as 'launch.export'.
      names: files and folders that it will write there.

    Raises:
      ConfigError: it may not be written, or holds what the command did not write.
    """
    said = f'--{flag}={folder}'
    check_not_of_run(said, folder)
    if not os.path.lexists(folder):
        _check_writable(said, _nearest_folder(said, folder))
        return []
    if not os.path.isdir(folder):
        raise ConfigError(f'{said}: is no folder; take a new or empty one')
    entries = sorted(_entries(said, folder))
    own = marked(folder, command)
    if own is None:
        if entries and not (entries == ['lock'] and is_lock(folder)):
            raise ConfigError(f'{said}: holds {entries[0]!r}, which {command} did not write there; '
                              'take a new or empty folder')
        own = []
    kept = {name.partition('/')[0] for name in own}
    for name in names:
        if name in entries and (name not in kept or os.path.islink(os.path.join(folder, name))):
            raise ConfigError(f'{said}: its {name!r} is not of {command}; move it away or take '
                              'another folder')
    _check_writable(said, folder)
    return own


def check_not_of_run(said: str, place: str) -> None:
    """Checks that a path does not lie where a run directory has its own files and folders.

    Args:
      said: flag and path, as the error shall name them.
      place: the path.

    Raises:
      ConfigError: it does.
    """
    inner = os.path.realpath(place)
    while (above := os.path.dirname(inner)) != inner:
        is_run = all(os.path.isfile(os.path.join(above, name))
                     for name in ('config.json', 'dataset.json'))
        if is_run and files_lib.is_of_run(os.path.basename(inner)):
            raise ConfigError(f'{said}: {os.path.basename(inner)!r} is a name of the run directory '
                              f'{above} itself; take another one')
        inner = above


def marked(folder: str, command: str) -> list[str] | None:
    """Returns the files that the marker of a folder names; None where it is not of `command`."""
    try:
        found = files_lib.read_json(os.path.join(folder, MARKER), _MARKER_BYTES)
        own = found['files'] if found['command'] == command else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return own if isinstance(own, list) and all(isinstance(name, str) for name in own) else None


def is_lock(folder: str) -> bool:
    """Does a folder have a lock that lock.run_lock wrote?"""
    try:
        text = files_lib.read(os.path.join(folder, 'lock'), 1000)
    except (OSError, ValueError):
        return False
    return not text or text.startswith(b'process ')


def mark(folder: str, command: str, files=()) -> None:
    """Writes the marker of a folder, which `check_folder` has passed."""
    with files_lib.replacing(os.path.join(folder, MARKER)) as file:
        json.dump({'command': command, 'files': sorted(files)}, file, indent=1)


@contextlib.contextmanager
def filling(folder: str, command: str, own: list[str]) -> Iterator[str]:
    """Yields an empty folder, whose files come to lie in `folder` when the block ends.

    Each file is replaced whole, and those that have no new one stay. After an error all is as
    before; what a kill leaves is a folder that begins with '.unfinished'.

    Args:
      folder: which `check_folder` has passed; made where it is missing, also above.
      command: what writes into it.
      own: as `check_folder` returned.
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
    """Makes a folder, and those above it that are missing; returns them, the innermost first."""
    made, at = [], os.path.abspath(folder)
    while not os.path.lexists(at):
        made.append(at)
        at = os.path.dirname(at)
    os.makedirs(folder, mode, exist_ok=True)
    return made


def remove_folders(made: list[str]) -> None:
    """Takes away the folders that `make_folder` made, as far as they are empty."""
    with contextlib.suppress(OSError):
        for folder in made:
            os.rmdir(folder)


def remove_unused(folder: str, made: list[str]) -> None:
    """Takes away the lock of a folder that holds nothing else, and what `make_folder` made."""
    with contextlib.suppress(OSError):
        if os.listdir(folder) == ['lock'] and is_lock(folder):
            os.unlink(os.path.join(folder, 'lock'))
            remove_folders(made)


def check_file(flag: str, file: str, command: str, marks: tuple[bytes, ...],
               makes_folder: bool = False) -> None:
    """Checks that a file may be written; writes nothing.

    Args:
      flag: which names the file.
      file: as of `path`.
      command: what writes it.
      marks: of which each file that the command writes has one at its beginning or end.
      makes_folder: the folder is made where it is missing.

    Raises:
      ConfigError: it may not be written, or is no file of the command.
    """
    said, file = f'--{flag}={file}', os.path.realpath(file)
    folder = os.path.dirname(file)
    check_not_of_run(said, file)
    if makes_folder:
        folder = _nearest_folder(said, file)
    elif not os.path.isdir(folder):
        raise ConfigError(f'{said}: no such folder as {folder}; make it first')
    _check_writable(said, folder)
    if not os.path.lexists(file):
        return
    if os.path.isdir(file):
        raise ConfigError(f'{said}: is a folder; name a file in it')
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise ConfigError(f'{said}: is no plain file; take another name')
    if os.path.getsize(file) and not any(mark in _ends(said, file) for mark in marks):
        raise ConfigError(f'{said}: is there already, and {command} did not write it; move it away '
                          'or take another name')


@contextlib.contextmanager
def replacing(file: str, binary: bool = False, **options) -> Iterator[IO]:
    """Opens what takes the place of `file`, which `check_file` has passed, when the block ends.

    As trust.replacing, but beside files of the user's, of which none may be in the way. A link is
    followed.
    """
    file = os.path.realpath(file)
    with tempfile.TemporaryDirectory(prefix='.unfinished-', dir=os.path.dirname(file)) as new:
        at = os.path.join(new, os.path.basename(file))
        with files_lib.replacing(at, binary, **options) as opened:
            yield opened
        os.replace(at, file)


def _entries(said: str, folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise ConfigError(f'{said}: cannot be read ({error.strerror})') from None


def _ends(said: str, file: str) -> bytes:
    try:
        with open(file, 'rb') as opened:
            begin = opened.read(_LOOKED_AT)
            opened.seek(max(0, os.path.getsize(file) - _LOOKED_AT))
            return begin + b'\0' + opened.read(_LOOKED_AT)
    except OSError as error:
        raise ConfigError(f'{said}: cannot be read ({error.strerror})') from None


def _nearest_folder(said: str, missing: str) -> str:
    """Returns the innermost folder above that is there."""
    at = os.path.dirname(os.path.abspath(missing))
    while not os.path.lexists(at):
        at = os.path.dirname(at)
    if not os.path.isdir(at):
        raise ConfigError(f'{said}: {at} is no folder; take another path')
    return at


def _check_writable(said: str, folder: str) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f'{said}: {folder} may not be written; take another place, or change its '
                          'permissions')


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
