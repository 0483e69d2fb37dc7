"""The README's commands, as written, in a copy of the checkout."""

import json
import os
import pathlib
import re
import subprocess

import numpy as np
from PIL import Image

from imgjax import models
from imgjax.rundir import metrics_log

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()
BLOCKS = re.findall(r'```(sh|python)\n(.*?)```', README, re.DOTALL)


def test_readme_is_short_and_names_what_is_there():
    assert len(README.splitlines()) < 150
    for name in re.findall(r'`((?:imgjax|configs|launch|tests|benchmarks|docs)/[\w/.]*)`', README):
        assert (ROOT / name).exists(), name
    count = sum(not name.startswith('tiny_') for name in models.variants())
    assert f'{len(models.families())} families, {count} variants' in README
    assert f'{count} models' in README
    for link in re.findall(r'\]\(([^)#:]+)', README + (ROOT / 'CONTRIBUTING.md').read_text()):
        assert (ROOT / link).exists(), link
    assert [kind for kind, _ in BLOCKS][:1] == ['sh'] and 'make train' in BLOCKS[0][1]


def test_commands_run_as_written(checkout, compiled):
    """One shell a block, in order; `make test` is what runs this, and benchmarks take hours."""
    env = {k: v for k, v in os.environ.items()
           if k not in ('XLA_FLAGS', 'TFDS_DATA_DIR', 'JAX_PLATFORMS')} | compiled
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
    rows = metrics_log.read_rows(str(checkout / 'runs' / 'digits'))
    assert rows[-1]['accuracy'] >= 0.985, 'what the first command promises'
    assert (checkout / 'runs' / 'cnn' / 'card' / 'card.html').exists()
    assert (checkout / 'explanations').is_dir()


def test_own_images_train_as_the_readme_says(checkout, tmp_path):
    """Photos of many sizes, without a second split."""
    preview, command = re.findall(
        r'^    (python -m launch\.\w+ .*\bDIR)$', README, re.M)
    rng = np.random.default_rng(0)
    for name in ('cat', 'dog'):
        (tmp_path / name).mkdir()
        for i in range(12):
            image = Image.fromarray(rng.integers(0, 255, (40 + i, 60, 3), np.uint8))
            image.save(tmp_path / name / f'{i}.jpg')
    script = f'[ ! -e .venv ] || . .venv/bin/activate\n{preview}\n{command}'.replace(
        'DIR', str(tmp_path)) + (' --config.epochs=0 --config.steps=3 --config.batch_size=8'
                                 ' --config.data.image_size=32')
    done = subprocess.run(['bash', '-c', script], cwd=checkout, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    first, last = map(json.loads, done.stdout.splitlines())
    assert (checkout / 'preview.png').exists() and first['train_examples'] == 22
    assert last['examples'] == 2 and last['step'] == 3
