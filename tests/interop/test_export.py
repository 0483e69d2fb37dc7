"""What launch.export writes is the model; what is not the model is removed."""

import json
import os
import sys

import jax
import numpy as np
import pytest

from configs import digits
from imgjax import train
from imgjax.commands import run_directory
from imgjax.errors import ConfigError, DataError
from imgjax.interop import export, files
from imgjax.rundir import outputs


@pytest.fixture(scope='module')
def run(tmp_path_factory, data_dir):
    """A run in bfloat16 of a model with batch statistics, and a mean of its parameters."""
    config = digits.get_config('resnet')
    config.model = dict(name='tiny_resnet', dtype='bfloat16', options={'act': 'tanh'})
    config.update(steps=3, log_every=1, eval_every=0, ema=True, checkpoint=dict(every=0))
    workdir = str(tmp_path_factory.mktemp('export') / 'run')
    train.run(config, workdir)
    return workdir


def umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def test_safetensors_are_timms(run, tmp_path):
    result = export.export(run, 'safetensors', str(tmp_path / 'out'))
    assert result['max_difference'] == 0 and result['step'] == 3
    assert sorted(os.listdir(tmp_path / 'out')) == [
        '.imgjax.json', 'config.json', 'model.safetensors']
    tensors = files.read(str(tmp_path / 'out' / 'model.safetensors'))
    assert {'conv1.weight', 'layer2.0.downsample.1.running_var', 'fc.bias'} <= set(tensors)
    assert tensors['conv1.weight'].shape == (8, 1, 3, 3)
    described = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert described['architecture'] == 'tiny_resnet' and described['num_classes'] == 10
    assert described['pretrained_cfg']['input_size'] == [1, 8, 8]
    assert described['pretrained_cfg']['crop_mode'] == 'center'
    assert described['model_args'] == {'act_layer': 'tanh'}
    assert described['imgjax']['model_options'] == {'act': 'tanh'}
    assert 'resize the shorter side to 8 pixels' in described['preprocessing']['rule']
    for name in ('config.json', 'model.safetensors'):
        assert (tmp_path / 'out' / name).stat().st_mode & 0o777 == 0o666 & ~umask()
    # What evaluation uses is the mean of the parameters.
    state, _ = run_directory.restore(run_directory.open_run(run), run, None)
    np.testing.assert_array_equal(
        tensors['conv1.weight'].transpose(2, 3, 1, 0), state.ema['conv1']['kernel'])


def test_stablehlo_takes_any_batch(run, tmp_path):
    export.export(run, 'stablehlo', str(tmp_path / 'out'))
    again = jax.export.deserialize(bytearray((tmp_path / 'out/model.stablehlo').read_bytes()))
    assert set(again.platforms) == {'cpu', 'cuda', 'tpu'}
    images_NHWC = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    assert again.call(images_NHWC).shape == (5, 10)
    assert export.export(run, 'stablehlo')['output'] == f'{run}/export/stablehlo'
    # A second format lies beside the first, which stays as it is.
    first = (tmp_path / 'out/model.stablehlo').read_bytes()
    export.export(run, 'safetensors', f'{tmp_path}/out/')
    assert sorted(os.listdir(tmp_path / 'out')) == [
        '.imgjax.json', 'config.json', 'model.safetensors', 'model.stablehlo']
    assert (tmp_path / 'out/model.stablehlo').read_bytes() == first


def test_nothing_else_is_overwritten(run, tmp_path):
    with pytest.raises(ConfigError, match=f'--output={run}: holds .* did not write there'):
        export.export(run, 'safetensors', f'{run}/')
    with pytest.raises(ConfigError, match='is a name of the run directory'):
        export.export(run, 'safetensors', f'{run}/checkpoints/4')
    out = tmp_path / 'out'
    out.mkdir()
    outputs.mark(str(out), 'launch.export', ['config.json', 'model.onnx'])
    (out / 'config.json').write_text('{"architecture": "resnet18"}')
    with pytest.raises(ConfigError, match=r'its model.onnx is of another model'):
        export.export(run, 'safetensors', str(out))
    assert sorted(os.listdir(out)) == ['.imgjax.json', 'config.json']


def test_an_export_that_differs_is_removed(run, tmp_path, monkeypatch):
    monkeypatch.setitem(export._WRITERS, 'stablehlo', lambda setup, variables, folder: (
        lambda images: np.zeros((len(images), 10), np.float32)))
    with pytest.raises(DataError, match='differs from the live one'):
        export.export(run, 'stablehlo', str(tmp_path / 'out'))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize('format, words', [
    ('onx', '--format: takes one of'), ('onnx', 'needs onn.*; install it with: pip install onnx'),
    ('savedmodel', 'needs tensorflow; install it with')])
def test_wrong_or_missing(format, words, run, tmp_path, monkeypatch):
    for name in ('tensorflow', 'jax2onnx', 'onnxruntime'):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=words.replace('onn.*', '(jax2onnx|onnxruntime)')):
        export.export(run, format, str(tmp_path / 'out'))
    assert not os.listdir(tmp_path)
