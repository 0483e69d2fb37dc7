"""One table of how imgjax does on a GPU, in ten minutes, without a network; beside torch.

    make gpu
    python -m benchmarks.gpu --rows='train step conv,attention' --minutes=5 --out=runs/gpu.md
    python -m benchmarks.gpu --tiny       # on any CPU, in a few minutes: does every row work?

It takes a checkout of imgjax and the packages that are there: JAX, Flax, Optax and Orbax for most
rows, torch and timm for what is beside ours. A row that needs another says which. Each line is
printed and appended to --out as soon as it is known. What the rows mean is in docs/guides/gpu.md.
"""

import configparser
import contextlib
import datetime
import functools
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from absl import app, flags

from benchmarks import turns

_MINUTES = flags.DEFINE_float('minutes', 10.0, 'Of all rows together.', lower_bound=0)
_ROWS = flags.DEFINE_list('rows', [], 'Only the rows whose names begin so; none takes all.')
_OUT = flags.DEFINE_string('out', 'runs/gpu.md', 'The table is appended here; errors to OUT.log.')
_TINY = flags.DEFINE_bool('tiny', False, 'Tiny models and images, on any device: a trial.')
_PEER_PYTHON = flags.DEFINE_string(
    'peer_python', sys.executable, 'Interpreter that has torch and timm.')
_COMPILE = flags.DEFINE_string('compile', 'max-autotune', 'Mode of torch.compile, beside eager.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'How often each way has its turn.', lower_bound=1)
_SECONDS = flags.DEFINE_float('seconds', 1.0, 'About how long a turn lasts.')

# Requirement of setup.cfg -> module, where they differ.
MODULES = {'absl-py': 'absl', 'opencv-python-headless': 'cv2', 'pillow': 'PIL',
           'orbax-checkpoint': 'orbax', 'scikit-learn': 'sklearn',
           'tensorflow-datasets': 'tensorflow_datasets'}
VERSIONS = ('jax', 'jaxlib', 'jax-cuda13-plugin', 'jax-cuda12-plugin', 'flax', 'optax',
            'orbax-checkpoint', 'numpy', 'torch', 'timm', 'triton', 'nvidia-cudnn-cu13',
            'nvidia-cudnn-cu12')

# The networks, as both timm and imgjax call them: (name, side of the images, images of a batch).
STEPS = [('resnet50', 224, 256), ('vit_small_patch16_224', 224, 1024),
         ('vit_base_patch16_224', 224, 256), ('convnext_tiny', 224, 256),
         ('efficientnetv2_s', 224, 256)]
# What a trial has in their place.
TINY_STEPS = [('vit_tiny_patch16_224', 32, 4), ('resnet18', 32, 4)]
_DETERMINISTIC = '--xla_gpu_deterministic_ops=true'


class Row(NamedTuple):
    """A row of the table.

    Attributes:
      name: what it is called in the table.
      seconds: how long it may take; it is skipped where less time is left.
      measure: (job) -> findings, see gpu_parts.py.
    """

    name: str
    seconds: float
    measure: Callable


class Job:
    """What a row measures with: its processes, and when they have to be done."""

    def __init__(self, tiny: bool, log=None):
        self.tiny = tiny
        self.until = float('inf')
        self.memory: list[dict] = []  # findings of the train steps for the last row
        self._log = log
        self._open: list[tuple[turns.Way, object]] = []

    def way(self, module: str, wanted: dict, python: str = '', xla_flags: str = '') -> turns.Way:
        """Starts a process of benchmarks/, which ends with the row."""
        environment = os.environ | {'PYTHONPATH': os.pathsep.join(
            part for part in (str(turns.ROOT), os.environ.get('PYTHONPATH')) if part)}
        if self.tiny:
            xla_flags += ' --xla_backend_optimization_level=0'
        else:
            environment = {'JAX_PLATFORMS': 'cuda',  # or it would measure the CPU
                           'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'} | environment
        environment['XLA_FLAGS'] = f'{environment.get("XLA_FLAGS", "")} {xla_flags}'.strip()
        errors = tempfile.TemporaryFile('w+', encoding='utf-8', errors='replace')
        way = turns.Way(module, wanted, python=python or sys.executable, environment=environment,
                        stderr=errors)
        self._open.append((way, errors))
        return way

    def left(self) -> float:
        return self.until - time.monotonic()

    def parts(self, row: str, xla_flags: str = '', **options) -> Iterator[dict]:
        """Yields the findings of a function of gpu_parts.py."""
        way = self.way('gpu_parts', {
            'row': row, 'tiny': self.tiny, 'rounds': _ROUNDS.value if not self.tiny else 2,
            'seconds': 0.01 if self.tiny else _SECONDS.value, **options}, xla_flags=xla_flags)
        yield from way.answers(self.left())

    def reason(self, ended: turns.Way) -> str:
        """Returns why a process of the row ended, in a line."""
        errors = next(errors for way, errors in self._open if way is ended)
        errors.seek(0)
        text = errors.read()
        if missing := re.findall(r"ModuleNotFoundError: No module named '(\w+)", text):
            return f'not measured: needs {package_of(missing[-1])}'
        if self.left() <= 0:
            return 'not measured: the time of the row was over'
        said = re.findall(r'^[\w.]*(?:Error|Exception)\b.*$', text, re.M)
        return f'not measured: {said[-1][:200] if said else "its process was killed"}'

    def close(self, row: str) -> None:
        """Ends the row's processes and keeps what they said in the log."""
        for way, errors in self._open:
            way.close()
            errors.seek(0)
            if self._log:
                self._log.write(f'--- {row}\n{errors.read()}')
                self._log.flush()
            errors.close()
        self._open = []


def package_of(module: str) -> str:
    """Returns what pip calls the package of a module."""
    return {module: package for package, module in MODULES.items()}.get(module, module)


def fill(rows: Sequence[Row], job: Job, write: Callable[[str], None], minutes: float) -> None:
    """Measures the rows in their order; a line of the table is written as soon as it is known.

    A row for which there is no more time is skipped; shorter ones after it may still fit.
    """
    end = time.monotonic() + 60 * minutes
    for row in rows:
        left = end - time.monotonic()
        if row.seconds > left:
            write(line(row.name, {'way': '', 'said': (
                f'skipped: it may take {row.seconds:.0f} s, {max(left, 0):.0f} are left')}))
            continue
        began = time.monotonic()
        job.until = began + row.seconds
        try:
            for found in row.measure(job):
                write(line(row.name, found))
        except turns.Ended as error:
            write(line(row.name, {'way': '', 'said': job.reason(error.way), 'beside': (
                f'after {time.monotonic() - began:.0f} s of {row.seconds:.0f}')}))
        finally:
            job.close(row.name)


def line(name: str, found: dict) -> str:
    """Returns a line of the table."""
    said, ratio = found.get('said', ''), ''
    if 'times' in found:
        times, amount = found['times'], found.get('amount')
        if amount:
            middle, low, high = (amount / seconds for seconds in (
                statistics.median(times), max(times), min(times)))
        else:
            middle, low, high = (1e3 * seconds for seconds in (
                statistics.median(times), min(times), max(times)))
        said = f'{_short(middle)} ({_short(low)} to {_short(high)}) {found.get("unit", "ms")}'
        if 'first' in found:
            ratio = turns.ratio(times, found['first'])
    return f'| {name} | {found["way"]} | {said} | {ratio} | {found.get("beside", "")} |'


def _short(number: float) -> str:
    return f'{number:,.0f}' if number >= 100 else f'{number:.3g}'


# The rows.


def resume(job: Job) -> Iterator[dict]:
    """A state that is saved, and trained on in another process, beside one trained through."""
    for flag in [''] if job.tiny else [_DETERMINISTIC, '']:
        with tempfile.TemporaryDirectory() as workdir:
            [first] = job.parts('resume_begin', flag, workdir=workdir)
            [rest] = job.parts('resume_rest', flag, workdir=workdir)
        through, again = first['through']
        yield {'way': f'{first["steps"]} steps, stopped at half, {flag or "no XLA flag"}',
               'said': 'equal' if through == rest['resumed'] else 'NOT equal',
               'beside': f'{through[:8]} and {rest["resumed"][:8]}; run through twice: '
                         + ('equal' if through == again else 'NOT equal')}


def resume_run(job: Job) -> Iterator[dict]:
    yield from job.parts('resume_run', '' if job.tiny else _DETERMINISTIC)


def train_step(job: Job, name: str, size: int, batch: int) -> Iterator[dict]:
    """Ours, then eager torch and compiled torch, each in turns with ours."""
    wanted = {'name': name, 'size': size, 'batch': batch, 'dtype': 'bfloat16'}
    ours = job.way('step_ours', wanted | {'side': _side(job)})
    # They import while ours compiles, and take no memory of the device before they begin.
    modes = {f'torch {mode or "eager"}': job.way(
        'step_torch', wanted | {'compile': mode}, _PEER_PYTHON.value)
        for mode in ('', _COMPILE.value)}
    ours.begin(job.left())
    yield _step_finding(job, name, 'ours', ours, ours, {
        'ours': turns.in_turns({'ours': ours.run}, *_turn(job))['ours']}, batch)
    for title, way in modes.items():
        try:
            way.begin(job.left())
            times = turns.in_turns({'ours': ours.run, title: way.run}, *_turn(job))
            yield _step_finding(job, name, title, way, ours, times, batch)
        except turns.Ended as error:
            yield {'way': title, 'said': job.reason(error.way)}
        way.close()  # its memory is free for the next one


def _step_finding(job: Job, name: str, title: str, way: turns.Way, ours: turns.Way,
                  times: dict, batch: int) -> dict:
    facts, seconds = ours.ready, statistics.median(times[title])
    reached = facts['flops'] / seconds
    beside = [f'b{batch}', f'{1e3 * seconds:.1f} ms',
              f'MFU {reached / facts["ceiling"]:.0%} of the product']
    if facts['peak']:
        beside.append(f'{reached / facts["peak"]:.0%} of the data sheet')
    beside.append(f'compiled in {way.ready["compile"]:.0f} s')
    if way.ready['parameters'] != facts['parameters']:
        beside.append(f'NOT the same network: {way.ready["parameters"]:,} parameters, '
                      f'ours {facts["parameters"]:,}')
    job.memory.append({'way': f'{name} b{batch}, {title}', 'peak': way.memory['peak'],
                       'reserved': way.memory.get('reserved'),
                       'program': way.ready.get('program')})
    return {'way': title, 'times': times[title], 'first': times['ours'],
            'amount': batch, 'unit': 'images/s', 'beside': ', '.join(beside)}


def _side(job: Job) -> int:
    return 512 if job.tiny else 0


def _turn(job: Job) -> tuple[int, float]:
    return (1, 0.0) if job.tiny else (_ROUNDS.value, _SECONDS.value)


def step_variant(job: Job, name: str, size: int, batch: int, title: str,
                 options: dict, xla_flags: str = '') -> Iterator[dict]:
    """A step of ours with another option of the model or XLA, in turns with the one as it is."""
    wanted = {'name': name, 'size': size, 'batch': batch, 'dtype': 'bfloat16'}
    wanted['side'] = _side(job)
    ways = {'ours': job.way('step_ours', wanted),
            title: job.way('step_ours', wanted | {'options': options}, xla_flags=xla_flags)}
    for way in ways.values():
        way.begin(job.left())
    times = turns.in_turns({of: way.run for of, way in ways.items()}, *_turn(job))
    for of, way in ways.items():
        yield _step_finding(job, name, of, way, ways['ours'], times, batch)


def memory(job: Job) -> Iterator[dict]:
    """The most memory of each train step above."""
    if not job.memory:
        yield {'way': '', 'said': 'not measured: no train step was'}
    for found in {found['way']: found for found in job.memory}.values():
        beside = [f'{found[name]:,.0f} MB {words}' for name, words in (
            ('program', "by XLA's plan of the program"), ('reserved', 'reserved')) if found[name]]
        yield {'way': found['way'], 'said': f'{found["peak"]:,.0f} MB', 'beside': ', '.join(beside)}


def _part(name: str) -> Callable:
    return lambda job: job.parts(name)


def rows(tiny: bool = False) -> list[Row]:
    """Returns the rows, the most important first."""
    steps = TINY_STEPS if tiny else STEPS
    found = [
        Row('exact resume', 110, resume),
        Row('exact resume of a run', 90, resume_run),
        Row('matrix product, bf16', 30, _part('ceiling')),
        *(Row(f'train step {name}', 150, functools.partial(
            train_step, name=name, size=size, batch=batch)) for name, size, batch in steps),
        Row('attention', 60, _part('attentions')),
        Row('convolution', 75, _part('convolutions')),
        Row('dispatch', 45, _part('dispatches')),
        Row('study', 45, _part('studies')),
        Row('augmentation', 45, _part('augmentation')),
        Row('corruptions', 60, _part('corruption')),
        Row('card', 90, _part('card')),
        Row('variant vit_base_patch16_224', 120, lambda job: step_variant(
            job, *STEPS[2], 'cuDNN attention', {'attention': 'cudnn'})),
        Row('variant resnet50', 120, lambda job: step_variant(
            job, *STEPS[0], 'deterministic', {}, _DETERMINISTIC)),
        Row('memory', 0, memory),
    ]
    if tiny:  # cuDNN is not there; and compiling is all that takes time
        found = [row._replace(seconds=min(240, 240 * row.seconds)) for row in found
                 if not row.name.startswith('variant')]
    return found


# The head.


def requirements() -> dict[str, str]:
    """Returns what setup.cfg asks for: name -> the whole requirement, without its marker."""
    parser = configparser.ConfigParser()
    parser.read(turns.ROOT / 'setup.cfg')
    asked = [line.partition(';')[0].strip()
             for line in parser['options']['install_requires'].splitlines() if line.strip()]
    return {re.match(r'[\w-]+', line)[0]: line for line in asked}


def missing(asked: dict[str, str]) -> list[str]:
    """Returns the requirements whose module is not here."""
    return [line for name, line in asked.items()
            if importlib.util.find_spec(MODULES.get(name, name)) is None]


def versions() -> dict[str, str]:
    """Returns the versions of what is here of VERSIONS."""
    found = {}
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def device() -> str:
    """Returns name, driver and memory of the GPUs here; '' without one."""
    if shutil.which('nvidia-smi') is None:
        return ''
    done = subprocess.run(
        ['nvidia-smi', '--query-gpu=name,driver_version,memory.total', '--format=csv,noheader'],
        capture_output=True, text=True)
    return '; '.join(done.stdout.split('\n')).strip('; ') if done.returncode == 0 else ''


def head(gpu: str, lacking: Iterable[str], peers: dict[str, str]) -> str:
    """Returns what stands over the table."""
    name, _, rest = gpu.partition(', ')
    lacking = list(lacking)
    packages = ', '.join(f'{name} {version}' for name, version in peers.items())
    return '\n'.join([
        f'## imgjax on {name or "a CPU, tiny: no figure here means anything"}', '',
        f'{datetime.date.today()}; {f"driver, memory: {rest}; " if rest else ""}'
        f'Python {sys.version.split()[0]}, {packages}.', '',
        f'Missing of setup.cfg, needed as wheels for a whole run: {" ".join(lacking)}' if lacking
        else 'All of setup.cfg is here.', '',
        'Figures are medians (lowest to highest) of the rounds; a ratio is of the time to that of '
        'the first way, below 1 is faster.', '',
        '| row | way | measured | time / first | beside |', '|---|---|---|---|---|'])


def main(_) -> None:
    gpu = device()
    if not gpu and not _TINY.value:
        raise app.UsageError('nvidia-smi finds no GPU here; --tiny tries the table on a CPU')
    declared = rows(_TINY.value)
    chosen = [row for row in declared
              if not _ROWS.value or row.name.startswith(tuple(_ROWS.value))]
    if not chosen:
        raise app.UsageError(f'--rows: none begins so; they are '
                             f'{", ".join(row.name for row in declared)}')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # its processes end with it
    os.makedirs(os.path.dirname(os.path.abspath(_OUT.value)), exist_ok=True)
    peers = versions() if _PEER_PYTHON.value == sys.executable else versions() | json.loads(
        subprocess.run([_PEER_PYTHON.value, '-c', 'import json; from benchmarks import gpu; '
                        "print(json.dumps({name: version for name, version in gpu.versions()"
                        ".items() if name in ('torch', 'timm', 'triton')}))"],
                       cwd=turns.ROOT, capture_output=True, text=True, check=True).stdout)
    with (open(_OUT.value, 'a', encoding='utf-8') as table,
          open(f'{_OUT.value}.log', 'a', encoding='utf-8') as log):
        def write(text: str) -> None:
            print(text, flush=True)
            print(text, file=table, flush=True)

        write(head('' if _TINY.value else gpu, missing(requirements()), peers))
        fill(chosen, Job(_TINY.value, log), write, _MINUTES.value)
        write('')


if __name__ == '__main__':
    app.run(main)
