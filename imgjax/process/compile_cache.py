"""JAX's persistent compilation cache, in a folder that only this user can write to.

An entry is an executable that JAX loads and runs, so the cache is used only where nobody else can
write. JAX_COMPILATION_CACHE_DIR names another folder, whose safety is then the user's concern;
JAX_ENABLE_COMPILATION_CACHE=false turns the cache off.
"""

import hashlib
import importlib.metadata
import logging
import os
import platform
import stat
from typing import Any

import jax

log = logging.getLogger('imgjax')

_MAX_BYTES = 4 * 2**30  # of the folder of a version; JAX removes the least recently used entries
_MIN_SECONDS = 0.2  # of compiling; a faster program is not worth a file


def enable() -> None:
    """Turns the cache on for this process, or logs in one line why the folder is not safe.

    Programs from the cache give the same bits as newly compiled ones. No device is touched.
    """
    config: Any = jax.config  # whose flags are attributes that its class does not name
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    try:
        place = directory()
        _make(place)
    except (OSError, ValueError) as error:
        log.warning('compiled programs are not kept for the next start: %s', error)
        return
    jax.config.update('jax_compilation_cache_dir', place)
    jax.config.update('jax_compilation_cache_max_size', _MAX_BYTES)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', _MIN_SECONDS)


def directory() -> str:
    """Returns the cache folder for this version of JAX and jaxlib and this kind of CPU.

    Raises:
      ValueError: this user has no home directory.
    """
    home = os.environ.get('XDG_CACHE_HOME', '')
    if not os.path.isabs(home):  # as the XDG specification says
        home = os.path.expanduser('~/.cache')
    if not os.path.isabs(home):
        raise ValueError('no home directory; set XDG_CACHE_HOME')
    versions = [importlib.metadata.version(name) for name in ('jax', 'jaxlib')]
    return os.path.join(
        os.path.realpath(home), 'imgjax', 'xla', '-'.join([*versions, _cpu()]))


def _cpu() -> str:
    """Returns 12 hex digits for the kind of CPU, as code compiled for one may crash on another."""
    kind = [platform.machine(), platform.processor()]
    try:
        with open('/proc/cpuinfo', encoding='utf-8', errors='replace') as file:
            for line in file.read().partition('\n\n')[0].splitlines():
                name, _, value = line.partition(':')
                if name.strip() in ('vendor_id', 'cpu family', 'model', 'model name', 'flags',
                                    'Features', 'CPU part', 'CPU implementer'):
                    kind.append(' '.join(sorted(value.split())))
    except OSError:  # not Linux
        pass
    return hashlib.sha256('\n'.join(kind).encode()).hexdigest()[:12]


def _make(place: str) -> None:
    """Makes the folder, and checks that only this user can write in it and in those above it.

    Raises:
      OSError: it cannot be made.
      ValueError: another user could put files there.
    """
    home = os.path.dirname(os.path.dirname(os.path.dirname(place)))
    os.makedirs(home, 0o700, exist_ok=True)
    parts, at = [], place
    while at != home:
        parts.append(at)
        at = os.path.dirname(at)
    for path in reversed(parts):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            raise ValueError(f'{path} is a link or no directory; remove it')
        if found.st_uid != os.geteuid():
            raise ValueError(f'{path} is not yours')
        if found.st_mode & (0o077 if path == place else 0o022):
            raise ValueError(f'others may use {path}; chmod 700 it')
    while True:  # who can rename a folder above can also put another in its place
        found = os.stat(at)
        if found.st_uid not in (0, os.geteuid()) or (
                found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX):
            raise ValueError(f'others may write to {at}')
        if at == os.path.dirname(at):
            return
        at = os.path.dirname(at)
