"""What may change with any version of JAX stands in one file per use, and a test uses it.

The files' own tests are tests/process/test_coordinator.py and test_backend.py, and in tests/perf
test_collectives.py, test_dryrun.py, test_flops.py and test_jaxpr_text.py.
"""

import re

import jax
import pytest

from tests.conftest import ROOT
from tests.test_imports import files, imported

# What is used -> the one file that may use it. A module by its name, else words of the source.
MODULES = {
    'jax._src': 'imgjax/process/coordinator.py',
    'jax.experimental.topologies': 'imgjax/perf/topology.py',
    'jax.experimental.mesh_utils': 'imgjax/sharding.py',
    'jax.experimental.jax2tf': 'imgjax/interop/export.py',
    'jax.extend': 'imgjax/perf/flops.py',
}
WORDS = {
    'xla_cpu_experimental_ynn_fusion_type': 'imgjax/process/backend.py',
    'cse_barrier_expander': 'imgjax/process/backend.py',
    'xla_force_host_platform_device_count': 'imgjax/perf/topology.py',
    'xla_backend_optimization_level': 'imgjax/train.py',
    'hlo.parse(': 'imgjax/perf/dryrun.py',
    ' scan[': 'imgjax/perf/jaxpr_text.py',
    'jax_enable_preemption_service': 'imgjax/process/processes.py',
    'jax_cpu_enable_async_dispatch': 'imgjax/process/backend.py',
    'jax_compilation_cache_max_size': 'imgjax/process/compile_cache.py',
}
SOURCES = {str(path.relative_to(ROOT)): path for place in ('imgjax', 'launch', 'configs')
           for path in files(place)}


@pytest.mark.parametrize('module', MODULES)
def test_a_module_is_imported_in_one_file(module):
    users = [name for name, path in SOURCES.items() if any(
        one == module or one.startswith(f'{module}.') for one in imported(path))
        or re.search(rf'\b{re.escape(module)}\.\w', path.read_text())]
    assert users == [MODULES[module]]


def test_no_other_internal_module_is_imported():
    found = {one for path in SOURCES.values() for one in imported(path)
             if re.match(r'jax\.(_src|experimental|extend|interpreters|core)\b|jaxlib\b', one)}
    assert {one for one in found if not any(
        one == module or one.startswith(f'{module}.') for module in MODULES)} <= {
            'jax.experimental'}


@pytest.mark.parametrize('words', WORDS)
def test_a_flag_or_a_format_is_known_to_one_file(words):
    assert [name for name, path in SOURCES.items() if words in path.read_text()] == [WORDS[words]]


def test_every_option_of_jax_exists():
    """Some are set on machines only that no test has."""
    set_or_read = re.compile(r"\bconfig\.update\(\s*'(jax_\w+)'|\bjax\.config\.(jax_\w+)")
    used = {first or second for path in SOURCES.values()
            for first, second in set_or_read.findall(path.read_text())}
    assert 'jax_cuda_visible_devices' in used
    assert used <= set(jax.config.values), 'this version of JAX has no such option'
