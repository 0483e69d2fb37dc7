"""The entry points as a user calls them: flags, the line for scripts, exit codes, bad input."""

import csv
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent

FLAGS = {
    'train': {'config', 'workdir'},
    'evaluate': {'config', 'workdir', 'step', 'split', 'classes'},
    'explain': {'workdir', 'step', 'images', 'method', 'target', 'layer', 'output', 'seed'},
    'predict': {'workdir', 'step', 'images', 'top_k', 'output', 'temperature', 'set', 'reject'},
    'card': {'config', 'workdir', 'step', 'split', 'output', 'compare', 'only', 'seed', 'images',
             'alpha', 'kept', 'layer', 'label_sets', 'sets', 'strangers'},
    'audit': {'config', 'workdir', 'folds', 'only', 'images', 'apply'},
    'features': {'config', 'workdir', 'step', 'split', 'layer', 'pool', 'output'},
    'inspect': {'workdir'},
    'dryrun': {'config', 'topology', 'num_classes', 'image_size', 'train_examples'},
    'export': {'workdir', 'step', 'format', 'output'},
    'preview': {'config', 'output', 'images', 'steps'},
    'prepare': {'dataset', 'data_dir', 'manual_dir', 'verify', 'source', 'path', 'options',
                'output', 'splits', 'shorter_side', 'quality', 'shard_size', 'workers',
                'pixel_range', 'background'},
    'fields': {'part'},
    'study': {'study', 'workdir', 'cells', 'strategy', 'only', 'list', 'part', 'report'},
    'slurm': {'config', 'study', 'workdir', 'cells', 'name', 'nodes', 'processes', 'gpus', 'time',
              'partition', 'options', 'array', 'array_field', 'grace_seconds', 'heartbeat_seconds',
              'max_requeues', 'python', 'dry_run'},
    'kubernetes': {'config', 'workdir', 'name', 'nodes', 'chips', 'resource', 'node_selector',
                   'image', 'directory', 'python', 'claim', 'mount', 'grace_seconds',
                   'heartbeat_seconds', 'max_restarts', 'output'},
    'tpu': {'config', 'workdir', 'name', 'project', 'zone', 'accelerator', 'version', 'spot',
            'options', 'directory', 'python', 'heartbeat_seconds', 'max_restarts', 'poll_seconds',
            'output'},
}
CONFIG = '--config=tests/drills/config.py'
SHORT = (CONFIG, '--config.steps=20', '--config.eval_every=0', '--config.checkpoint.every=10',
         '--config.log_every=10')


def result_of(process, code=0) -> dict:
    out, err = process.communicate(timeout=200)
    assert process.returncode == code, err[-3000:]
    return json.loads(out.strip().splitlines()[-1])


def complaint_of(process, code) -> str:
    """Returns the one line a process ends with; there is no traceback and no result."""
    out, err = process.communicate(timeout=200)
    assert process.returncode == code, err[-3000:]
    assert not out and 'Traceback' not in err
    return err.strip().splitlines()[-1]


@pytest.fixture(scope='module')
def run(launch, tmp_path_factory):
    """(run directory, result) of a short training."""
    workdir = tmp_path_factory.mktemp('run')
    return workdir, result_of(launch('train', *SHORT, f'--workdir={workdir}'))


def test_files_and_flags_are_the_frozen_list():
    assert {p.stem for p in (ROOT / 'launch').glob('[a-z]*.py')} == set(FLAGS)
    for name, flags in FLAGS.items():
        source = (ROOT / 'launch' / f'{name}.py').read_text()
        defined = re.findall(r"DEFINE_\w+\(\s*'(\w+)'", source)
        assert set(defined) == flags, f'launch.{name}: flags are a promise to scripts'


def test_train_ends_with_one_json_line(run):
    workdir, result = run
    promised = {'split', 'accuracy', 'loss', 'step', 'examples', 'workdir', 'state_digest'}
    assert promised <= set(result)
    assert (result['split'], result['step'], result['examples']) == ('test', 20, 355)
    assert result['workdir'] == str(workdir)


def test_evaluate_and_inspect_agree_with_train(run, launch):
    workdir, result = run
    evaluated = result_of(launch('evaluate', f'--workdir={workdir}/', '--step=best', devices=8))
    assert evaluated['state_digest'] == result['state_digest']
    assert evaluated['accuracy'] == result['accuracy']
    assert evaluated['loss'] == pytest.approx(result['loss'], rel=1e-5)
    inspected = result_of(launch('inspect', f'--workdir={workdir}'))
    assert inspected['state_digest'] == result['state_digest']
    assert [(s['step'], s['verified']) for s in inspected['steps']] == [(10, True), (20, True)]
    stored = json.loads((workdir / 'config.json').read_text())
    assert inspected['config_hash'] == stored['hash']
    assert inspected['parameters'] == result['parameters'] and inspected['best_step'] == 20


def test_evaluate_another_step_and_split(run, launch):
    workdir, _ = run
    result = result_of(launch('evaluate', f'--workdir={workdir}', '--step=10', '--split=train'))
    assert (result['split'], result['step'], result['examples']) == ('train', 10, 1442)


@pytest.fixture
def images(tmp_path) -> str:
    """A folder with an image of each kind that is converted, and one whose name is no UTF-8."""
    folder = tmp_path / 'images'
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (12, 9, 4), np.uint8)
    Image.fromarray(pixels[..., 0]).save(folder / 'gray.png')
    Image.fromarray(pixels).save(folder / 'rgba.png')
    Image.fromarray(pixels[..., :3]).convert('P').save(folder / 'palette.png')
    Image.fromarray(pixels, 'CMYK').save(folder / 'cmyk.jpg')
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / 'sixteen.png')
    Image.fromarray(pixels[:1, :1, :3]).save(folder / 'one_pixel.png')
    shutil.copy(folder / 'gray.png', os.fsencode(folder) + b'/z\xf1.png')
    return str(folder)


def test_predict_from_the_run_directory_alone(run, launch, images, tmp_path):
    workdir = tmp_path / 'moved'
    shutil.copytree(run[0], workdir)
    output = tmp_path / 'predictions.csv'
    output.write_text('image,class_1,probability_1,error\n')  # of the call before
    result = result_of(launch('predict', f'--workdir={workdir}', f'--images={images}',
                              f'--output={output}', '--top_k=3'))
    assert result['images'] == 7
    with open(output, newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['image'].rsplit('/')[-1] for row in rows] == [
        'cmyk.jpg', 'gray.png', 'one_pixel.png', 'palette.png', 'rgba.png', 'sixteen.png',
        'z?.png']
    for row in rows:
        probabilities = [float(row[f'probability_{k}']) for k in (1, 2, 3)]
        assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) <= 1.001
        assert row['class_1'] in map(str, range(10)) and not row['error']
    gray, sixteen = rows[1], rows[5]
    assert gray['probability_1'] == sixteen['probability_1'], '16 bits lose their lower byte'


def test_predict_goes_on_after_a_bad_image(run, launch, images, tmp_path):
    (tmp_path / 'images' / 'text.png').write_text('no image')
    whole = (tmp_path / 'images' / 'cmyk.jpg').read_bytes()
    (tmp_path / 'images' / 'cut.jpg').write_bytes(whole[:len(whole) // 2])
    output = tmp_path / 'p.json'
    line = complaint_of(launch('predict', f'--workdir={run[0]}', f'--images={images}/*',
                               f'--output={output}'), 3)
    assert '2 of 9 images' in line and 'cut.jpg' in line
    rows = json.loads(output.read_text())
    assert sum(bool(row['error']) for row in rows) == 2
    assert all(len(row['classes']) == 5 for row in rows if not row['error'])


@pytest.mark.parametrize('module, flags, words', [
    ('train', (CONFIG, '--config.hparams.learning_rte=1'),
     ['config.hparams.learning_rte', "did you mean 'hparams.learning_rate'?"]),
    ('train', (CONFIG, '--config.batch_size=many'), ['config.batch_size', 'many']),
    ('train', (CONFIG, '--config.batch_size=0'), ['config.batch_size: takes at least 1, got 0']),
    ('train', (CONFIG, '--confg=x'), ['confg', 'config']),
    ('train', ('--config=configs/nothing.py',), ['configs/nothing.py']),
    ('train', ('--config=configs/digits.py:vgg',), ['digits takes one of mlp, cnn', "'vgg'"]),
    ('train', (), ['no run was started here yet; give --config']),
    ('train', (CONFIG, 'stray'), ["'stray' is no flag"]),
    ('evaluate', (), ['no run directory']),
    ('evaluate', (CONFIG,), ['--config: a run has its own; leave it out']),
    ('inspect', (), ['no run directory']),
    ('predict', ('--images=/nothing/*.png',), ['--images=/nothing/*.png: no such images']),
    ('predict', ('--images=README.md', '--output=x.txt'), ['ending in .csv, .json or .html']),
    ('predict', ('--images=README.md', '--output=tests/golden_digits.json'),
     ['--output=tests/golden_digits.json: is there already, and launch.predict did not write it']),
])
def test_wrong_calls_end_in_one_line(module, flags, words, launch, tmp_path):
    workdir = tmp_path / 'run'
    line = complaint_of(launch(module, *flags, f'--workdir={workdir}'), 2)
    assert all(word in line for word in words), line
    assert not workdir.exists(), 'nothing is written'


def test_an_accelerator_that_is_not_here_is_one_line(launch, tmp_path):
    """JAX answers with an assertion for `cuda` without its plugin, and an error for `tpu`."""
    for platform in ('cuda', 'tpu'):
        line = complaint_of(launch('train', CONFIG, f'--workdir={tmp_path / "run"}',
                                   environment={'JAX_PLATFORMS': platform}), 2)
        assert f'JAX_PLATFORMS={platform}: no such device' in line and 'unset it' in line
    assert not (tmp_path / 'run').exists()


def test_a_directory_of_another_config_is_left_alone(run, launch):
    workdir, result = run
    line = complaint_of(launch('train', *SHORT, '--config.hparams.learning_rate=0.5',
                               f'--workdir={workdir}'), 2)
    assert 'belongs to another config (hparams.learning_rate: 0.001 -> 0.5)' in line
    assert result_of(launch('inspect', f'--workdir={workdir}'))['state_digest'] == (
        result['state_digest'])


def test_a_missing_workdir_flag_is_named(launch):
    assert '--workdir' in complaint_of(launch('train', CONFIG), 2)


GOLDEN = json.loads((ROOT / 'tests' / 'golden_digits.json').read_text())


@pytest.mark.parametrize('family', GOLDEN['losses'])
def test_the_golden_first_ten_losses(family, launch, tmp_path):
    """What digits trains like. A change here changes every run: data order, augmentation,
    initial values, the loss or the optimizer. If that was meant, write the new numbers down.

    Equal bits are promised for one version of jaxlib and one kind of vector instructions; between
    them 1e-5 of a loss is allowed. (Measured: no bit moved from jaxlib 0.10.2 to 0.12.0.1 with
    AVX2, 1.0e-7 of a loss from AVX2 to SSE4.2.)"""
    result_of(launch('train', f'--config=configs/digits.py:{family}', '--config.steps=10',
                     '--config.log_every=1', '--config.eval_every=0',
                     '--config.checkpoint.every=0', f'--workdir={tmp_path}',
                     environment={'XLA_FLAGS': ''}))
    rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    losses = [row['loss'] for row in rows if row['split'] == 'train']
    same_machine = GOLDEN['made_with'] == machine()
    assert losses == pytest.approx(GOLDEN['losses'][family], rel=0 if same_machine else 1e-5), (
        test_the_golden_first_ten_losses.__doc__)


def machine() -> str:
    """What the last bits of a sum depend on."""
    import jaxlib
    with open('/proc/cpuinfo') as file:
        wide = 'avx512f' in file.read()
    return f'jaxlib {jaxlib.__version__}, {"AVX-512" if wide else "AVX2"}'


def test_ctrl_c_while_a_command_is_imported(tmp_path):
    (tmp_path / 'absl.py').write_text('print(1, flush=True)\nimport time\ntime.sleep(60)')
    process = subprocess.Popen(
        [sys.executable, '-m', 'launch.train'], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=f'{tmp_path}:{ROOT}'))
    assert process.stdout.readline() == '1\n'
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (75, 'imgjax: asked to stop; nothing had to be saved\n')


def test_help_needs_no_device():
    """On a platform that there is not: whatever asks JAX for a device fails."""
    done = subprocess.run([sys.executable, '-m', 'launch.train', '--help'], cwd=ROOT,
                          env=os.environ | {'JAX_PLATFORMS': 'none_such'},
                          capture_output=True, text=True)
    assert '--workdir' in done.stdout and done.stderr == ''
