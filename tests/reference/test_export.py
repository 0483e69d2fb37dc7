"""Exports that need a package of others: ONNX in onnxruntime, SavedModel in TensorFlow."""

import json
import types

import numpy as np
import pytest

from configs import digits
from imgjax import train
from imgjax.interop import export
from imgjax.models.parts import pooling
from imgjax.process import backend

pytest.importorskip('tensorflow')
jax2onnx = pytest.importorskip('jax2onnx')
onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')

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


@pytest.mark.parametrize('pool', [
    lambda x: pooling.max_pool(x, 3, 2, 1), lambda x: pooling.max_pool(x, 3, 2, 0, ceil=True),
    lambda x: pooling.avg_pool(x, 3, 2, 1)])
def test_pooling_keeps_its_borders_in_onnx(pool):
    image = types.SimpleNamespace(shape=('batch', 10, 10, 4), dtype=np.float32)
    with backend.made_for('onnx'):
        model = jax2onnx.to_onnx(pool, [image], input_names=['x'], output_names=['y'])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x_NHWC = np.random.default_rng(0).normal(size=(2, 10, 10, 4)).astype(np.float32)
    found, = session.run(None, {'x': x_NHWC})
    np.testing.assert_allclose(found, pool(x_NHWC), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('format', ['onnx', 'savedmodel'])
def test_what_is_written_gives_the_models_logits(run, format, tmp_path):
    result = export.export(run, format, str(tmp_path / 'out'))
    assert result['max_difference'] <= 1e-4 and result['bytes'] > 1000
    if format == 'onnx':
        stored = onnx.load(str(tmp_path / 'out' / 'model.onnx'), load_external_data=False)
        said = {entry.key: json.loads(entry.value) for entry in stored.metadata_props}
        assert said['label_names'] == [str(digit) for digit in range(10)]
        assert said['preprocessing']['shorter_side'] == 8
