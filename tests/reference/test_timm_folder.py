"""An exported folder is built again by timm, from its config.json alone, to the same logits."""

import jax
import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open

from configs import base
from imgjax import build, state
from imgjax import config as config_lib
from imgjax.config import Config
from imgjax.interop import description, export
from imgjax.rundir import dataset_info

# variant: side, channels, options. Fixed sizes, one channel, two heads, another activation.
ROWS = {
    'resnet18': (40, 3, {'act': 'tanh', 'dropout': 0.1}),
    'vit_tiny_patch16_224': (48, 1, {'act': 'silu', 'depth': 3}),
    'deit_tiny_distilled_patch16_224': (32, 3, {}),
    'swin_tiny_patch4_window7_224': (56, 3, {}),
    'mobilenetv3_small_050': (32, 3, {}),
    'efficientnet_b0': (32, 3, {'act': 'relu'}),
    'convnext_atto': (32, 3, {'act': 'relu'}),
    'regnety_002': (32, 3, {'act': 'hardswish'}),
}


@pytest.mark.parametrize('variant', ROWS)
def test_timm_builds_the_same_function(variant, tmp_path):
    side, channels, options = ROWS[variant]
    config = base.get_config()
    config.update(model=dict(name=variant, options=options), steps=1, data=dict(
        channels=channels, mean=(0.4,) * channels, std=(0.2,) * channels, image_size=side))
    config = config_lib.checked(config)
    names = [f'class {k}' for k in range(7)]
    dataset = dataset_info.DatasetInfo(names, [side, side, channels], 9, 9, 'a', 'b')
    setup = build.setup(config, dataset, jax.devices()[:1])
    begin = jax.jit(lambda: state.init(
        setup.model, config, (side, side, channels), state.hparams_of(config)))()
    variables = jax.device_get({'params': begin.params, 'batch_stats': begin.batch_stats})
    run = export._write_safetensors(setup, variables, str(tmp_path))
    config_lib.write_json(str(tmp_path / 'config.json'), description.describe(setup))

    model = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    cfg = model.pretrained_cfg
    assert model.num_classes == 7 and cfg['label_names'] == names
    assert cfg['mean'] == [0.4] * channels
    images_NHWC = np.random.default_rng(0).integers(0, 256, (2, side, side, channels), np.uint8)
    normal = (images_NHWC / np.float32(255) - np.float32(cfg['mean'])) / np.float32(cfg['std'])
    with torch.no_grad():
        expected = model(torch.from_numpy(normal.transpose(0, 3, 1, 2).copy())).numpy()
    found = np.asarray(run(images_NHWC))
    assert np.abs(found - expected).max() <= 1e-4 * max(expected.std(), 1e-3)
    with safe_open(tmp_path / 'model.safetensors', 'pt') as file:
        assert file.metadata() == {'format': 'pt'}


def test_an_option_that_timm_has_not_is_refused_by_timm(tmp_path):
    """Rather than left out, which builds another function."""
    model = Config({'name': 'resnet18', 'options': {'shortcut': 'avg', 'dropout': 0.5}})
    assert description.changed_options(model) == {'shortcut': 'avg'}
    with pytest.raises(TypeError, match='shortcut'):
        timm.create_model('resnet18', shortcut='avg')
