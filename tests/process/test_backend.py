"""What the CPU backend is told has the effect that it is told for."""

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from imgjax.models.parts import layers
from imgjax.process import backend
from tests.conftest import ROOT

# Prints the page faults of ten calls that each need 128 MB for a moment, after those in which the
# memory that is kept grows to its size.
FAULTS = '''
import resource, sys
from imgjax.process import backend
if sys.argv[1] == 'keep':
    backend.keep_memory()
import jax, jax.numpy as jnp
call = jax.jit(lambda x, kernel: jnp.abs(x @ kernel) @ kernel)
x, kernel = jnp.ones((2**20, 16)), jnp.ones((16, 16))
def faults_after(calls):
    for _ in range(calls):
        call(x, kernel).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults_after(40)
print(faults_after(10) - before)
'''


def test_convolutions_are_xlas_own():
    def gradient(x, kernel):
        return jax.grad(lambda kernel: jax.lax.conv_general_dilated(
            x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')).sum())(kernel)

    shapes = jnp.ones((2, 16, 16, 64)), jnp.ones((3, 3, 64, 64))
    told = jax.jit(gradient, compiler_options=backend.compiler_options())
    assert 'ynn' not in told.lower(*shapes).compile().as_text()


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc only')
def test_freed_memory_is_kept():
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, '-c', FAULTS, how], cwd=ROOT, check=True,
                              capture_output=True, text=True)
        return int(done.stdout)

    assert faults('keep') < faults('free') / 10, 'a page fault for every page of every step'


def test_what_is_computed_once_is_a_border_to_fusion():
    def chain(x):
        for _ in range(4):
            x = layers.once(x + 1)
            x = x + jnp.sin(x).sum(axis=-1, keepdims=True)
        return x

    told = jax.jit(chain, compiler_options=backend.compiler_options())
    text = told.lower(jnp.ones((8, 8))).compile().as_text()
    assert text.count(' opt-barrier(') == 4, 'XLA removes the barriers before it fuses'


@pytest.mark.parametrize('version, limits, free', [
    (2, {'job': ('1000', '700')}, 300 + 90),  # what is kept of files counts as free
    (2, {'job': ('max', '700')}, math.inf),
    (2, {'job': ('max', '700'), '': ('800', '750')}, 50 + 90),  # of the group above
    (1, {'job': ('1000', '700')}, 300 + 90),
    (1, {'': ('1000', '990')}, 10 + 90),  # in a container, whose own group is the root
    (2, {}, math.inf),
])
def test_control_groups_limit_free_memory(version, limits, free, tmp_path):
    names = {1: ('limit_in_bytes', 'usage_in_bytes', 'total_'), 2: ('max', 'current', '')}[version]
    root = tmp_path / 'memory' if version == 1 else tmp_path
    for group, values in limits.items():
        (root / group).mkdir(parents=True, exist_ok=True)
        for name, value in zip(names, values, strict=False):
            (root / group / f'memory.{name}').write_text(f'{value}\n')
        (root / group / 'memory.stat').write_text(
            f'anon 5\n{names[2]}inactive_file 60\n{names[2]}active_file 30\n')
    groups = tmp_path / 'groups'
    groups.write_text({1: '9:cpu,memory:/job\n8:pids:/other\n', 2: '0::/job\n'}[version])
    assert backend._free_in_groups(str(groups), str(tmp_path)) == free


@pytest.mark.skipif(not backend._freed_not_returned(), reason='glibc since 2.33 on Linux only')
def test_memory_that_is_kept_is_free():
    code = ('from imgjax.process import backend; backend.keep_memory(); import numpy as np; '
            'a = np.ones(2**24); before = backend._freed_not_returned(); del a; '
            'print((backend._freed_not_returned() - before) / 2**27)')
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True, capture_output=True,
                          text=True)
    assert 0.8 < float(done.stdout) < 1.2
