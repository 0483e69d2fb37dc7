"""A disk that breaks (EIO) or may no longer be written (EACCES) while a run goes on."""

import errno
import json
import pathlib
import random
import shutil
import subprocess
import time

import pytest

from imgjax.rundir import metrics_log
from tests.drills import test_drills
from tests.drills.test_drills import CONFIG, assert_same, steps_logged, wait_for

launch, undisturbed = test_drills.launch, test_drills.undisturbed  # the fixtures


@pytest.fixture(scope='module')
def library(tmp_path_factory):
    """The compiled failing_disk.c."""
    if shutil.which('cc') is None:
        pytest.skip('making calls fail needs a C compiler (cc)')
    path = tmp_path_factory.mktemp('library') / 'failing_disk.so'
    source = pathlib.Path(__file__).with_name('failing_disk.c')
    subprocess.run(['cc', '-shared', '-fPIC', '-O1', '-o', path, source, '-ldl'], check=True)
    return path


@pytest.mark.parametrize('fault', ['EIO', 'EACCES'])
def test_training_goes_on_and_saves_again(fault, launch, library, tmp_path, undisturbed, seed):
    workdir, switch = tmp_path / 'run', tmp_path / 'switch'
    process = launch('train', CONFIG, f'--workdir={workdir}', environment=dict(
        LD_PRELOAD=str(library), FAIL_BELOW=str(workdir), FAIL_SWITCH=str(switch)))
    first = random.Random(f'{fault} {seed}').randrange(60, 240, 20)
    wait_for(lambda: steps_logged(workdir) >= first, process)
    before = tmp_path / 'before'
    before.write_text(str(getattr(errno, fault)))
    before.replace(switch)  # whole at once
    seen = len(metrics_log.read_rows(str(workdir)))
    time.sleep(1.0)
    assert process.poll() is None, process.communicate()[1][-3000:]
    switch.unlink()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    assert 'was not saved' in err and 'training goes on' in err
    result = json.loads(out.splitlines()[-1])
    assert len(metrics_log.read_rows(str(workdir))) > seen
    assert not list(workdir.glob('checkpoints/*tmp*'))
    assert (workdir / 'checkpoints/800').is_dir(), 'saves did not resume'
    assert_same(result, workdir, undisturbed)
