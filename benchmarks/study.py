"""How much faster is a study than as many runs one by one?

    python -m benchmarks.study --cells=32 --steps=800 --strategy=vmap
    python -m benchmarks.study --family=cnn --strategy=loop

In turns: N processes of launch.train on a family of configs/digits.py, each with another seed, and
one of launch.study with the same N cells. The runs share what XLA compiles by a cache on disk,
which is empty at first, as they would for a user; --nocache has each compile for itself. Prints the
seconds of both and their ratio, a line a repeat, then the median.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags

_FAMILY = flags.DEFINE_string('family', 'mlp', 'Of configs/digits.py.')
_CELLS = flags.DEFINE_integer('cells', 8, 'Seeds.')
_STRATEGY = flags.DEFINE_string('strategy', 'auto', 'Of launch.study.')
_CACHE = flags.DEFINE_bool('cache', True, 'Keep compiled programs on disk.')
_STEPS = flags.DEFINE_integer('steps', 0, 'Of a run; 0 leaves those of the config.')
_REPEATS = flags.DEFINE_integer('repeats', 3, 'Of both.')

STUDY = '''"""Many seeds?"""
from configs import digits


def get_study():
    base = digits.get_config({family!r})
    base.steps = {steps} or base.steps
    return dict(base=base, arms={{'base': {{}}}}, seeds={cells})
'''


def timed(cache: str, *commands: list[str]) -> float:
    """Returns the seconds that the commands take one after the other."""
    environment = os.environ | {'JAX_COMPILATION_CACHE_DIR': cache} | (
        {} if _CACHE.value else {'JAX_ENABLE_COMPILATION_CACHE': 'false'})
    began = time.monotonic()
    for command in commands:
        subprocess.run([sys.executable, '-m', *command], check=True, env=environment,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def repeat(folder: str) -> tuple[float, float]:
    """Returns the seconds of runs one by one, and of a study of them."""
    study = os.path.join(folder, 'study.py')
    with open(study, 'w', encoding='utf-8') as file:
        file.write(STUDY.format(family=_FAMILY.value, cells=_CELLS.value, steps=_STEPS.value))
    alone = timed(f'{folder}/cache_alone', *([
        'launch.train', f'--config=configs/digits.py:{_FAMILY.value}',
        f'--workdir={folder}/alone{seed}', f'--config.hparams.seed={seed}',
        *([f'--config.steps={_STEPS.value}'] if _STEPS.value else [])]
        for seed in range(_CELLS.value)))
    together = timed(f'{folder}/cache_study', [
        'launch.study', f'--study={study}', f'--workdir={folder}/study',
        f'--strategy={_STRATEGY.value}'])
    return alone, together


def main(_) -> None:
    ratios = []
    for _ in range(_REPEATS.value):
        folder = tempfile.mkdtemp()
        alone, together = repeat(folder)
        shutil.rmtree(folder)
        ratios.append(alone / together)
        print(f'{_CELLS.value} runs of {_FAMILY.value}: {alone:.1f} s alone, {together:.1f} s as a '
              f'study: {ratios[-1]:.2f} x', flush=True)
    print(f'median {statistics.median(ratios):.2f} x')


if __name__ == '__main__':
    app.run(main)
