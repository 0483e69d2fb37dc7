"""Every test runs on eight virtual CPU devices, in JAX's strict modes."""

import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys

os.environ['JAX_PLATFORMS'] = 'cpu'
# Compiles are most of the test time; these make them three times as fast. What tests/drills/
# test_drills.py kills, golden values and the README's commands are compiled as a user's runs are.
FAST = '--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1'
if importlib.metadata.version('jaxlib').startswith('0.10.'):  # later ones have no other emitters
    FAST += ' --xla_cpu_use_fusion_emitters=false'
os.environ['XLA_FLAGS'] = ' '.join([
    os.environ.get('XLA_FLAGS', ''), '--xla_force_host_platform_device_count=8', FAST])

import jax  # noqa: E402  (after the device count is set)
import pytest  # noqa: E402

jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')

ROOT = pathlib.Path(__file__).parent.parent
# These take longest. They begin first: the last file to end leaves the other process idle.
LONGEST = ('tests/study/test_engine.py', 'tests/test_docs.py', 'tests/card/test_card.py',
           'tests/card/test_audit.py', 'tests/card/test_explanations.py', 'tests/test_sharding.py',
           'tests/test_readme.py', 'tests/test_projects_examples.py', 'tests/test_train.py',
           'tests/test_launch.py', 'tests/test_multi_label.py', 'tests/optimizers/test_finetune.py',
           'tests/drills/test_drills.py', 'tests/drills/test_studies.py',
           'tests/drills/test_processes.py')


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition('::')[0], len(LONGEST)))


@pytest.fixture(scope='session', autouse=True)
def data_dir(tmp_path_factory):
    """Where TFDS sets of the tests are prepared."""
    path = str(tmp_path_factory.mktemp('tfds'))
    os.environ['TFDS_DATA_DIR'] = path
    return path


@pytest.fixture(scope='session')
def compiled(tmp_path_factory):
    """The environment by which processes share what XLA compiles, which would dominate."""
    place = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:  # the folder of all of pytest's processes
        place = place.parent
    return dict(JAX_COMPILATION_CACHE_DIR=str(place / 'xla'),
                JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0',
                JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES='-1')


def starter(compiled: dict, xla_flags: str):
    """Returns start(module, *flags, devices=1, environment={}) -> Popen of a launch.<module>."""
    def start(module: str, *flags: str, devices: int = 1, environment=()) -> subprocess.Popen:
        env = os.environ | compiled | {
            'JAX_NUMPY_RANK_PROMOTION': 'raise', 'JAX_NUMPY_DTYPE_PROMOTION': 'strict',
            'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices} {xla_flags}',
        } | dict(environment)
        return subprocess.Popen(
            [sys.executable, '-m', f'launch.{module}', *flags], cwd=ROOT, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return start


@pytest.fixture(scope='session')
def launch(compiled, data_dir):
    """What `starter` returns, of processes that compile fast; see FAST."""
    return starter(compiled, FAST)


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A copy of what git knows, with this environment as its .venv where it is a `make` one."""
    path = tmp_path_factory.mktemp('readme') / 'imgjax'
    shutil.copytree(ROOT, path, ignore=shutil.ignore_patterns(
        '.git', '.venv*', 'runs', '__pycache__', '*.egg-info', '.pytest_cache'))
    if (pathlib.Path(sys.prefix) / 'installed').exists():
        (path / '.venv').symlink_to(sys.prefix)
    return path
