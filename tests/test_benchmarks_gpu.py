"""The table of `make gpu`: its order, what a missing package leaves, what a cut run keeps."""

import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import gpu, turns


def filled(rows, minutes=1.0):
    lines = []
    gpu.fill(rows, gpu.Job(tiny=True), lines.append, minutes)
    return lines


def told(way, said):
    return lambda job: iter([{'way': way, 'said': said}])


def test_rows_are_declared_the_most_important_first():
    names = [row.name for row in gpu.rows()]
    assert names == [
        'exact resume', 'exact resume of a run', 'matrix product, bf16', 'train step resnet50',
        'train step vit_small_patch16_224', 'train step vit_base_patch16_224',
        'train step convnext_tiny', 'train step efficientnetv2_s', 'attention', 'convolution',
        'dispatch', 'study', 'augmentation', 'corruptions', 'card',
        'variant vit_base_patch16_224', 'variant resnet50', 'memory']
    assert all(row.seconds < 600 for row in gpu.rows())


def test_findings_become_lines():
    assert gpu.line('study', {'way': '8', 'times': [0.5, 1.0, 2.0], 'first': [1.0, 2.0, 1.0],
                              'amount': 100, 'unit': 'images/s', 'beside': 'b8'}) == (
        '| study | 8 | 100 (50 to 200) images/s | 0.50 (0.50 to 2.00) | b8 |')
    assert gpu.line('attention', {'way': 'xla', 'times': [0.001, 0.0012, 0.3]}) == (
        '| attention | xla | 1.2 (1 to 300) ms |  |  |')


def test_missing_packages_are_named_and_the_rows_go_on(tmp_path, monkeypatch):
    asked = {'array_record': 'array_record>=0.6', 'opencv-python-headless': 'opencv>=4'}
    assert gpu.missing(asked | {'no-such-thing': 'no-such-thing>=2'}) == ['no-such-thing>=2']
    assert len(gpu.requirements()) > 20 and gpu.requirements()['jax'].startswith('jax>=')
    # A process in which a package cannot be imported, as on a machine that lacks it.
    (tmp_path / 'sitecustomize.py').write_text('import sys\nsys.modules["cv2"] = None\n')
    code = 'raise ModuleNotFoundError("No module named \'cv2\'")'
    (tmp_path / 'jax.py').write_text(code)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    lines = filled([gpu.Row('lacking', 30, lambda job: job.parts('ceiling')),
                    gpu.Row('after', 1, told('x', 'y'))])
    assert lines[0].startswith('| lacking |  | not measured: needs opencv-python-headless |')
    assert lines[1] == '| after | x | y |  |  |'


def test_what_fits_no_more_is_skipped_and_shorter_rows_are_not():
    lines = filled([gpu.Row('long', 90, told('x', 'y')), gpu.Row('short', 10, told('x', 'y'))])
    assert lines == ['| long |  | skipped: it may take 90 s, 60 are left |  |  |',
                     '| short | x | y |  |  |']


def test_a_row_ends_with_its_time():
    lines = filled([gpu.Row('slow', 0.1, lambda job: job.parts('ceiling'))])
    assert 'the time of the row was over' in lines[0]


def test_a_cut_run_keeps_its_first_rows(tmp_path):
    script = tmp_path / 'cut.py'
    script.write_text(f'''
import sys, time
sys.path.insert(0, {str(turns.ROOT)!r})
from absl import app
from benchmarks import gpu
def first(job):
    yield {{'way': 'x', 'said': 'y'}}
    time.sleep(60)
gpu.rows = lambda tiny: [gpu.Row('first', 30, first), gpu.Row('second', 30, first)]
app.run(gpu.main)
''')
    table = tmp_path / 'table.md'
    process = subprocess.Popen([sys.executable, str(script), '--tiny', f'--out={table}'],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 15
    while time.monotonic() < until and not (
            table.exists() and '| first' in table.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait(15)
    text = table.read_text()
    assert text.startswith('## imgjax on a CPU') and '| first | x | y |' in text
    assert 'second' not in text


def test_without_a_gpu_it_says_so():
    if gpu.device():
        pytest.skip('there is one here')
    done = subprocess.run([sys.executable, '-m', 'benchmarks.gpu'], cwd=turns.ROOT, text=True,
                          capture_output=True, env=os.environ | {'PYTHONPATH': str(turns.ROOT)})
    assert done.returncode and 'nvidia-smi finds no GPU here' in done.stdout + done.stderr
