"""Devices by the name of a topology, 'v5e:16x16' or 'cpu:8'; the TPUs need not exist here."""

import os
import re

import jax
from jax.experimental import topologies

from imgjax.errors import ConfigError, first_line, unknown
from imgjax.perf.chips import CHIPS

_NAMES = f'--topology: takes a chip and its slice, such as v5e:16x16 ({", ".join(CHIPS)}), or cpu:8'


def parse(name: str) -> tuple[str, tuple[int, ...]]:
    """Returns ('v5e', (16, 16)) for 'v5e:16x16'.

    Raises:
      ConfigError: the name has another form, or there is no such chip.
    """
    found = re.fullmatch(r'([a-z0-9]+):(\d+(?:x\d+)*)', name)
    if not found:
        raise ConfigError(f'{_NAMES}; got {name!r}')
    kind, sides = found[1], tuple(map(int, found[2].split('x')))
    if kind not in ('cpu', *CHIPS):
        raise ConfigError(f'--topology: {unknown("chip", kind, (*CHIPS, "cpu"))}')
    if min(sides) < 1 or (kind == 'cpu' and len(sides) > 1):
        raise ConfigError(f'{_NAMES}; got {name!r}')
    return kind, sides


def prepare(name: str) -> None:
    """Makes JAX compute on the CPU and search for no TPU.

    It has to be called before JAX uses a device for the first time.

    Raises:
      ConfigError: see `parse`.
    """
    kind, sides = parse(name)
    jax.config.update('jax_platforms', 'cpu')
    # A program from the cache has no compile time, and may not run on this machine.
    jax.config.update('jax_enable_compilation_cache', False)
    os.environ |= {'JAX_PLATFORMS': 'cpu', 'TPU_SKIP_MDS_QUERY': '1',
                   'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}  # no TPU is used, so libtpu need not lock one
    if kind == 'cpu':
        os.environ['XLA_FLAGS'] = (f'{os.environ.get("XLA_FLAGS", "")} '
                                   f'--xla_force_host_platform_device_count={sides[0]}')


def devices(name: str) -> list:
    """Returns the devices of a topology, after `prepare`.

    Raises:
      ConfigError: there is no such slice, or libtpu is not installed.
    """
    kind, sides = parse(name)
    if kind == 'cpu':
        if sides[0] > len(jax.devices()):
            raise ConfigError(f'--topology: {name} asks for more devices than the '
                              f'{len(jax.devices())} that this process was started with')
        return jax.devices()[:sides[0]]
    wanted = CHIPS[kind].dimensions
    if len(sides) != wanted:
        raise ConfigError(f'--topology: {name}: slices of {kind} have {wanted} dimensions, such as '
                          f'{kind}:{"x".join(["4"] * wanted)}')
    options: dict[str, object] = {}
    if max(sides) < 2 or min(sides[:2]) < 2:  # a slice smaller than one host of 2x2 chips
        options['chips_per_host_bounds'] = (*sides, 1)[:3]
    if kind == 'v4':  # its two cores are one device, as in a run
        options['chip_config_name'] = 'megacore'
    try:
        described = topologies.get_topology_desc(platform='tpu', topology_name=name, **options)
    except Exception as error:  # libtpu raises many types: NotImplementedError, JaxRuntimeError
        text = first_line(error, 200)
        if 'not installed' in text:
            text = "the TPU's compiler is missing; pip install 'imgjax[tpu]'"
        raise ConfigError(f'--topology: {name}: {text}') from None
    return list(described.devices)


def host_memory() -> int:
    """Returns the bytes of memory of this machine; all CPU devices share them."""
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
