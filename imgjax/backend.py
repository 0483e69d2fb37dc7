"""What the CPU backend needs to be told to be fast; other backends are told nothing.

A loop of one's own calls `keep_memory()` before all else and compiles its step by
`jax.jit(step, compiler_options=compiler_options())`. `python -m benchmarks.train_step
--peers=plain` and `python -m benchmarks.layers --plain` time what it is worth.
"""

import contextlib
import contextvars
import ctypes
import importlib.metadata
import importlib.util

import jax

_COMPILER_OPTIONS = {
    'cpu': {
        # XLA hands dots, convolutions and sums over axes to YNNPACK. Its sums are the faster ones,
        # its convolutions, above all their kernels' gradients, the slower ones.
        'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE',
        # The pass that removes lax.optimization_barrier before fusion: layers.once and nn.remat
        # would do nothing.
        'xla_disable_hlo_passes': 'cse_barrier_expander',
    },
}

# glibc's malloc.h, of which Python knows nothing.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


_made_for = contextvars.ContextVar('made_for', default='')


def platform() -> str:
    """Returns the platform that programs are made for: 'cpu', 'gpu' or 'tpu'.

    It decides which forms a model is traced in. It is the one this process computes on, but inside
    `made_for`.
    """
    return _made_for.get() or jax.default_backend()


@contextlib.contextmanager
def made_for(name: str):
    """Has programs be traced for platform `name`, whose devices need not be here.

    jax.jit keeps what it has traced: a function traced outside is not traced anew.
    """
    token = _made_for.set(name)
    try:
        yield
    finally:
        _made_for.reset(token)


def compiler_options() -> dict[str, str]:
    """Returns what jax.jit's compiler_options are for a program worth compiling well."""
    return _COMPILER_OPTIONS.get(platform(), {})


def keep_memory() -> None:
    """Has this process keep the memory that it frees, where the devices are the host's cores.

    XLA frees a step's temporaries, glibc returns them to the system, and the next step faults every
    page in again. Only glibc's main arena can keep large blocks, and only the main thread surely
    has it, so the steps are run by the thread that calls them and no longer ahead of it. (One arena
    for all threads keeps them too, but the threads wait for it: compiling took 10 to 50 % longer,
    and small models' steps 30 to 70 %.) It has an effect only before the first use of a device.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)  # glibc only
    if mallopt is None or not _is_cpu_only():
        return
    jax.config.update('jax_cpu_enable_async_dispatch', False)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
    mallopt(_M_TOP_PAD, 64 * 2**20)


def _is_cpu_only() -> bool:
    # jax.default_backend() would start the threads that this is for.
    platforms = jax.config.jax_platforms
    if platforms:
        return platforms == 'cpu'
    return not (importlib.metadata.entry_points(group='jax_plugins')
                or importlib.util.find_spec('libtpu'))
