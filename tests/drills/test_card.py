"""Cards, audits and features that are killed, and started again until they are done."""

import json
import os
import random
import signal
import time

import numpy as np
import pytest
from sklearn.datasets import load_digits

# Without the map: where umap-learn is installed, that compiles for 10 s in each process.
PARTS = ('accuracy,calibration,conformal,ood,corruptions,shifts,attacks,explanations,concepts,'
         'label_errors,duplicates,odd_images,probes,representation,filters')
TRAIN = ('--config=configs/digits.py', '--config.augment=()', '--config.data.name=arrays',
         '--config.steps=40', '--config.batch_size=32', '--config.eval_batch_size=100',
         '--config.eval_every=0', '--config.checkpoint.every=20',
         '--config.schedule.warmup_steps=4')


def finish(process) -> dict:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The path of a .npz of 150 and 100 digits, some with wrong labels, some twice."""
    path = tmp_path_factory.mktemp('data') / 'digits.npz'
    digits = load_digits()
    images = np.rint(digits.images[:250] * (255 / 16)).astype(np.uint8)
    labels = digits.target[:250].copy()
    labels[:10] = 9 - labels[:10]
    images[[140, 200]] = images[[20, 30]]
    np.savez(path, train_images=images[:150], train_labels=labels[:150],
             test_images=images[150:], test_labels=labels[150:])
    return path


@pytest.fixture(scope='module')
def run(data, launch, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('run') / 'run'
    finish(launch('train', *TRAIN, f'--config.data.path={data}', f'--workdir={workdir}'))
    return workdir


def parts_of(path) -> str:
    """Returns the parts of a card.json or audit.json as they are written."""
    return path.read_text().partition('"parts": ')[2]


def stored(folder) -> int:
    """Returns how many parts and checkpoints there are, while others come and go."""
    return sum(len(names) + len(files) for place, names, files in os.walk(folder)
               if os.path.basename(place) in ('parts', 'checkpoints'))


def killed(start, folder, kills: int, rng: random.Random) -> None:
    """Starts a command `kills` times and kills it, each time after it has stored a little more."""
    done = 0
    for _ in range(4 * kills):
        process, before = start(), stored(folder)
        more, most = rng.randrange(1, 4), time.monotonic() + rng.uniform(4, 20)
        while stored(folder) < before + more and process.poll() is None and (
                time.monotonic() < most):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        _, err = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), err[-3000:]
        done += process.returncode == -signal.SIGKILL
        if done == kills or process.returncode == 0:
            break
    assert done >= 2, 'it ended before it was killed twice: give it more to do'


@pytest.mark.parametrize('command', ['card', 'audit'])
def test_kills_change_nothing(command, run, data, launch, tmp_path, seed):
    def start(folder):
        if command == 'card':
            return lambda: launch('card', f'--workdir={run}', f'--output={folder}',
                                  '--images=80', f'--only={PARTS}')
        return lambda: launch('audit', *TRAIN, f'--config.data.path={data}', '--folds=2',
                              f'--workdir={folder}')

    mine, other = tmp_path / 'killed', tmp_path / 'undisturbed'
    killed(start(mine), mine, 3, random.Random(seed))
    result, expected = finish(start(mine)()), finish(start(other)())
    assert result['left_out'] == []
    places = ('workdir', 'page', 'relabel')
    assert {name: value for name, value in result.items() if name not in places} == {
        name: value for name, value in expected.items() if name not in places}
    assert parts_of(mine / f'{command}.json') == parts_of(other / f'{command}.json') != ''
    if command == 'audit':
        assert (mine / 'relabel.csv').read_bytes() == (other / 'relabel.csv').read_bytes()


def test_features_that_are_killed_have_the_same_arrays(run, launch, tmp_path):
    def start(output):
        return launch('features', f'--workdir={run}', f'--output={output}', '--layer=hidden1',
                      '--split=train', '--config.eval_batch_size=1')

    output = tmp_path / 'killed.npz'
    process = start(output)
    chunks = tmp_path / 'killed.npz.unfinished' / 'parts'
    while not list(chunks.glob('*.safetensors')) and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not output.exists()
    before = {path.name: path.stat().st_mtime_ns for path in chunks.glob('*.safetensors')}
    assert 0 < len(before) < 19
    finish(start(output))
    finish(start(tmp_path / 'undisturbed.npz'))
    mine, other = np.load(output), np.load(tmp_path / 'undisturbed.npz')
    assert sorted(mine) == sorted(other) and mine['features'].shape == (150, 256)
    for name in mine:
        assert mine[name].dtype == other[name].dtype
        assert mine[name].tobytes() == other[name].tobytes(), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ['killed.npz', 'undisturbed.npz']
