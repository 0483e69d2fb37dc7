"""Settings that make the CPU backend fast (others need none), and the free memory of devices.

A training loop of your own calls `keep_memory()` before all else and compiles its step by
`jax.jit(step, compiler_options=compiler_options())`. `python -m benchmarks.train_step
--peers=plain` and `python -m benchmarks.layers --plain` measure the gain.
"""

import contextlib
import contextvars
import ctypes
import importlib.metadata
import importlib.util
import math
from collections.abc import Iterator
from typing import Any

import jax

from imgjax.errors import ConfigError, OutOfMemoryError, first_line, one_line

_COMPILER_OPTIONS = {
    'cpu': {
        # XLA hands dots, convolutions and sums over axes to YNNPACK, whose sums are faster than
        # XLA's own; its convolutions, above all the gradients of their kernels, are slower.
        'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE',
        # This pass removes lax.optimization_barrier before fusion, and layers.once and nn.remat
        # would then have no effect.
        'xla_disable_hlo_passes': 'cse_barrier_expander',
    },
}

# From glibc's malloc.h; Python has no names for them.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


_made_for = contextvars.ContextVar('made_for', default='')


def platform() -> str:
    """Returns the platform that programs are traced for: 'cpu', 'gpu', 'tpu' or 'onnx'.

    Models choose the form of a layer by it. It is the platform that this process computes on,
    except inside `made_for`.
    """
    return _made_for.get() or jax.default_backend()


def devices() -> list:
    """Returns jax.devices().

    Raises:
      ConfigError: JAX_PLATFORMS asks for a kind of device that is not here.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the second where JAX has no plugin for them
        asked, reason = _platforms(), one_line(error)
        raise ConfigError(
            f'JAX_PLATFORMS={asked or ""}: no such device can be used here '
            f'({reason or "jax has no plugin for it, such as jax[cuda13]"}); unset it to take the '
            'devices that are here, or run where there is one') from None


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that the host or a device has too little memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError)
        and any(words in str(error) for words in ('RESOURCE_EXHAUSTED', 'OUT_OF_MEMORY')))


@contextlib.contextmanager
def memory_for(what: str, advice: str) -> Iterator[None]:
    """Turns the errors for too little memory that its block raises into one line.

    Args:
      what: what the block does, such as 'a training step'.
      advice: how to need less memory.

    Raises:
      OutOfMemoryError: in place of the errors of JAX and NumPy.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error, 200).rstrip('.')
        raise OutOfMemoryError(
            f'{what} takes more memory than there is ({reason}); {advice}') from None


def free_memory(devices) -> int | None:
    """Returns how many bytes are free on the device with the fewest; None if unknown.

    A CPU device has the memory of the host. On Linux that is what the kernel calls available,
    within the limits of the process's control groups (of a container or a Slurm job), plus what
    this process has freed without returning it.
    """
    stats = [device.memory_stats() or {} for device in devices]
    if devices[0].platform != 'cpu':
        known = [of['bytes_limit'] - of['bytes_in_use'] for of in stats if 'bytes_limit' in of]
        return min(known, default=None)
    try:
        with open('/proc/meminfo', encoding='ascii') as file:
            available = {line.split()[0]: int(line.split()[1]) * 2**10 for line in file}
        return int(min(available['MemAvailable:'], _free_in_groups())) + _freed_not_returned()
    except (OSError, ValueError, KeyError):  # not Linux
        return None


def _free_in_groups(groups: str = '/proc/self/cgroup', root: str = '/sys/fs/cgroup') -> float:
    """Returns how many bytes the process's control groups leave it; inf without a limit."""
    with open(groups, encoding='utf-8') as file:
        lines = [line.rstrip('\n').split(':', 2) for line in file]
    free = math.inf
    for _, controllers, group in lines:
        if not controllers:  # version 2
            free = min(free, _free_in(root, group, 'max', 'current', ''))
        elif 'memory' in controllers.split(','):  # version 1
            free = min(free, _free_in(f'{root}/memory', group, 'limit_in_bytes', 'usage_in_bytes',
                                      'total_'))
    return free


def _free_in(root: str, group: str, limit: str, usage: str, prefix: str) -> float:
    """Returns how many bytes a control group and those above it leave, by their files."""
    free = math.inf
    while group:
        folder = f'{root}{group}'.rstrip('/')
        with contextlib.suppress(OSError, ValueError):  # 'max', or the root, which has no files
            most, used = (_number(f'{folder}/memory.{name}') for name in (limit, usage))
            with open(f'{folder}/memory.stat', encoding='ascii') as file:
                stat = dict(line.split() for line in file)
            # The kernel frees its cache of files as soon as a process asks for memory.
            cached = sum(int(stat.get(f'{prefix}{name}_file', 0)) for name in (
                'inactive', 'active'))
            free = min(free, max(0, most - used + cached))
        group = group.rpartition('/')[0] or ('/' if group != '/' else '')
    return free


def _number(path: str) -> int:
    with open(path, encoding='ascii') as file:
        return int(file.read())


class _Mallinfo(ctypes.Structure):
    """mallinfo2 of glibc's malloc.h."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        'arena', 'ordblks', 'smblks', 'hblks', 'hblkhd', 'usmblks', 'fsmblks', 'uordblks',
        'fordblks', 'keepcost')]


def _freed_not_returned() -> int:
    """Returns about how many bytes the process has freed and not returned (see keep_memory).

    glibc also counts pages as free that were never touched, so that the resident memory of the
    process is a second limit.
    """
    mallinfo = getattr(ctypes.CDLL(None), 'mallinfo2', None)
    if mallinfo is None:  # no glibc, or one before 2.33
        return 0
    mallinfo.restype = _Mallinfo
    found = mallinfo()
    with open('/proc/self/status', encoding='utf-8') as file:
        resident = next((int(line.split()[1]) * 2**10 for line in file
                         if line.startswith('RssAnon:')), 0)
    return max(0, min(found.fordblks, resident - found.uordblks))


@contextlib.contextmanager
def made_for(name: str) -> Iterator[None]:
    """Lets its block trace programs for the platform `name`, whose devices need not be here.

    A function that jax.jit traced outside of the block is not traced again inside.
    """
    token = _made_for.set(name)
    try:
        yield
    finally:
        _made_for.reset(token)


def compiler_options() -> dict[str, str]:
    """Returns the compiler_options of jax.jit for programs whose speed matters."""
    return _COMPILER_OPTIONS.get(platform(), {})


def keep_memory() -> None:
    """Makes this process keep the memory that it frees, where its devices are the host's cores.

    XLA frees the temporaries of a step, glibc returns them to the system, and the next step faults
    in every page again. Only glibc's main arena can keep large blocks, and only the main thread is
    certain to use it; so steps run in the thread that calls them, and no longer ahead of it. (One
    arena for all threads keeps the blocks too, but threads wait for it: compiling took 10 to 50 %
    longer, and the steps of small models 30 to 70 %.) It must be called before a device is used.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)  # glibc only
    if mallopt is None or not _is_cpu_only():
        return
    jax.config.update('jax_cpu_enable_async_dispatch', False)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
    mallopt(_M_TOP_PAD, 64 * 2**20)


def _platforms() -> str | None:
    config: Any = jax.config  # whose flags are attributes that its class does not name
    return config.jax_platforms


def _is_cpu_only() -> bool:
    # jax.default_backend() would start the threads that keep_memory has to come before.
    platforms = _platforms()
    if platforms:
        return platforms == 'cpu'
    return not (importlib.metadata.entry_points(group='jax_plugins')
                or importlib.util.find_spec('libtpu'))
