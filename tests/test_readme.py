"""The README's commands, as written, in a copy of the checkout."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from imgjax import metrics

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()
BLOCKS = re.findall(r'```(sh|python)\n(.*?)```', README, re.DOTALL)


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A copy of what git knows, with this environment as its .venv where it is a `make` one."""
    path = tmp_path_factory.mktemp('readme') / 'imgjax'
    shutil.copytree(ROOT, path, ignore=shutil.ignore_patterns(
        '.git', '.venv', 'runs', '__pycache__', '*.egg-info', '.pytest_cache'))
    if (pathlib.Path(sys.prefix) / 'installed').exists():
        (path / '.venv').symlink_to(sys.prefix)
    return path


def test_readme_is_short_and_names_what_is_there():
    assert len(README.splitlines()) < 200
    for name in re.findall(r'`((?:imgjax|configs|launch|tests|benchmarks|docs)/[\w/.]*)`', README):
        assert (ROOT / name).exists(), name
    assert [kind for kind, _ in BLOCKS][:1] == ['sh'] and 'make train' in BLOCKS[0][1]


def test_commands_run_as_written(checkout):
    """One shell a block, in order; `make test` is what runs this, and benchmarks take hours."""
    env = {k: v for k, v in os.environ.items()
           if k not in ('XLA_FLAGS', 'TFDS_DATA_DIR', 'JAX_PLATFORMS')}
    for kind, text in BLOCKS:
        if kind == 'python':
            text = f"python - <<'END'\n{text}END\n"
        lines = [line for line in text.splitlines()
                 if not line.startswith(('make test', 'python -m benchmarks'))]
        script = 'set -e\n[ ! -e .venv ] || . .venv/bin/activate\n' + '\n'.join(lines)
        done = subprocess.run(['bash', '-c', script], cwd=checkout, env=env, text=True,
                              capture_output=True)
        assert done.returncode == 0, f'{text}\n{done.stderr[-3000:]}'
    assert (checkout / 'runs' / 'digits' / 'report.html').exists()
    rows = metrics.read_rows(str(checkout / 'runs' / 'digits'))
    assert rows[-1]['accuracy'] >= 0.985, 'what the first command promises'
    assert (checkout / 'predictions.csv').exists()


def test_own_images_train_as_the_readme_says(checkout, tmp_path):
    """Photos of many sizes; three steps of the 64,000."""
    command, = re.findall(r'^    (python -m launch.train .*?DIR\b.*?)\n\n', README, re.M | re.S)
    rng = np.random.default_rng(0)
    for split in ('train', 'test'):
        for name in ('cat', 'dog'):
            (tmp_path / split / name).mkdir(parents=True)
            for i, size in enumerate([(40, 60, 3), (33, 20, 3), (50, 50, 3)]):
                image = Image.fromarray(rng.integers(0, 255, size, np.uint8))
                image.save(tmp_path / split / name / f'{i}.jpg')
    command = command.replace('DIR', str(tmp_path)) + ' --config.steps=3 --config.batch_size=8'
    done = subprocess.run(
        ['bash', '-c', f'[ ! -e .venv ] || . .venv/bin/activate\n{command}'], cwd=checkout,
        text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])['examples'] == 6
