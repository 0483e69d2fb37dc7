"""Exports that need a package of others: ONNX in onnxruntime, SavedModel in TensorFlow."""

import pytest

from configs import digits
from imgjax import train
from imgjax.interop import export

pytest.importorskip('tensorflow')

# One of each kind: convolutions, depthwise ones, attention, windows.
VARIANTS = ('tiny_resnet', 'tiny_mobilenetv2', 'tiny_vit', 'tiny_convnext')


@pytest.fixture(scope='module', params=VARIANTS)
def run(request, tmp_path_factory, data_dir):
    config = digits.get_config('resnet')
    config.model = dict(name=request.param, dtype='float32', options={})
    config.update(steps=3, log_every=1, eval_every=0, checkpoint=dict(every=0))
    workdir = str(tmp_path_factory.mktemp('export') / 'run')
    train.run(config, workdir)
    return workdir


@pytest.mark.parametrize('format', ['onnx', 'savedmodel'])
def test_what_is_written_gives_the_models_logits(run, format, tmp_path):
    result = export.export(run, format, str(tmp_path / 'out'))
    assert result['max_difference'] <= 1e-4 and result['bytes'] > 1000
