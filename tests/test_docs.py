"""The guides of docs/: their commands run as written, and what they link to is there."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from imgjax import models
from imgjax.perf import flops
from tests.conftest import FAST

ROOT = pathlib.Path(__file__).parent.parent
# The tutorials are executed by `make docs`.
PAGES = sorted((ROOT / 'docs').glob('guides/*.md')) + sorted((ROOT / 'docs').glob('*.md'))


@pytest.fixture
def images(tmp_path):
    """A folder of two classes, of 8x8 photographs of nothing."""
    rng = np.random.default_rng(0)
    for name in ('cat', 'dog'):
        (tmp_path / 'images' / name).mkdir(parents=True)
        for i in range(40):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(
                tmp_path / 'images' / name / f'{i}.jpg')
    return tmp_path / 'images'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_links_and_names(page):
    text = page.read_text()
    assert not re.search(r'^\s*%(?!%)', text, re.M), 'a line that begins with % is a comment there'
    for link in re.findall(r'\]\(([^)#:]+)\)', text):
        assert (page.parent / link).exists(), link
    for name in re.findall(r'`((?:imgjax|configs|launch|tests|benchmarks|docs)/[\w/.]*)`', text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_commands_run_as_written(page, checkout, images, compiled):
    """One shell for the page; a python block is a script of its own, run in its place."""
    script = ['set -e']
    for kind, text in re.findall(r'```(sh|python)\n(.*?)```', page.read_text(), re.DOTALL):
        script.append(text if kind == 'sh' else f"python - <<'END'\n{text}END\n")
    env = {k: v for k, v in os.environ.items() if k != 'JAX_PLATFORMS'}
    path = f'{pathlib.Path(sys.executable).parent}:{env["PATH"]}'
    # Compiles are most of what the commands cost, and how fast their programs are is not tested.
    env |= compiled | {'DIR': str(images), 'PATH': path,
                       'XLA_FLAGS': FAST}
    if not (checkout / '.venv').exists():  # an environment that `make` did not make
        script = [part.replace('. .venv/bin/activate\n', '') for part in script]
    done = subprocess.run(['bash', '-c', '\n'.join(script)], cwd=checkout, env=env, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    if page.stem == 'weights':
        assert (checkout / 'runs/second/export/stablehlo/model.stablehlo').exists()
    if page.stem == 'data':
        assert (checkout / 'preview.png').exists() and (checkout / 'runs/mine/report.html').exists()


def test_the_table_of_models_has_every_variant_and_right_numbers():
    """docs/reference/models.md is made by `python -m benchmarks.models`; a few rows are counted."""
    text = (ROOT / 'docs' / 'reference' / 'models.md').read_text()
    rows = {cells[1].strip('` '): cells for cells in (
        line.split('|') for line in text.splitlines() if line.startswith('| `'))}
    assert set(rows) == {name for name in models.variants() if not name.startswith('tiny_')}
    for name, classes in (('resnet18', 1000), ('vit_tiny_patch16_224', 1000), ('mlp', 10)):
        model, side = models.create(name, num_classes=classes), int(rows[name][3])
        image = jax.ShapeDtypeStruct((1, side, side, 3), 'float32')
        variables = jax.eval_shape(
            lambda image, model=model: model.init(jax.random.key(0), image, train=False), image)
        traced = jax.make_jaxpr(lambda variables, image, model=model: model.apply(
            variables, image, train=False)[0])(variables, image)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
        assert float(rows[name][2]) == round(parameters / 1e6, 2)
        assert float(rows[name][4]) == round(flops.count(traced) / 1e9, 2)
    published = (ROOT / 'docs' / 'reference' / 'published.csv').read_text().splitlines()[1:]
    assert {line.split(',')[0] for line in published} <= set(rows)
