"""Dry runs: against a count by hand, what does not fit, what is refused."""

import importlib.util
import json

import jax
import pytest

from configs import digits, imagenet_vit_b16
from imgjax import config as config_lib
from imgjax.errors import ConfigError, DoesNotFitError
from imgjax.perf import chips, dryrun, topology
from imgjax.process import backend
from imgjax.rundir import metrics_log

GIB = 2**30


@pytest.fixture(scope='module')
def found():
    """The result of a small ViT on eight devices."""
    config = digits.get_config('vit')
    config.augment, config.hparams.augment = (), {}
    return config, dryrun.run(config, 'cpu:8', classes=10, image_size=8)


def test_a_small_vit_by_hand(found):
    """Within 2 %, as dot products and bytes are written down on paper."""
    config, result = found
    width, depth, patch, tokens = 64, 2, 2, 16
    numbers = patch**2 * width + width + tokens * width  # patches, positions
    numbers += depth * (12 * width**2 + 13 * width)  # qkv, projection, MLP; biases and norms
    numbers += 2 * width + 10 * width + 10  # last norm and head
    a_token = 2 * depth * 12 * width**2
    attention = depth * 2 * 2 * tokens**2 * width  # queries by keys, weights by values
    forward = tokens * a_token + attention + 2 * tokens * patch**2 * width + 2 * 10 * width
    # Backward is twice as much, but that nobody asks for the gradient of the pixels.
    step = 3 * forward - 2 * tokens * patch**2 * width
    images = config.batch_size // 8
    assert result['devices'] == 8 and result['fits'] is True
    assert result['parameters'] == numbers and result['parameter_bytes'] == 4 * numbers
    assert result['optimizer_bytes'] == pytest.approx(2 * 4 * numbers, rel=0.02)
    assert result['flops'] == result['model_flops'] == pytest.approx(images * step, rel=0.02)
    assert list(result['collectives']) == ['all-reduce'], 'the gradients, and scalars'
    assert result['collectives']['all-reduce']['bytes'] == pytest.approx(4 * numbers, rel=0.02)
    state = result['parameter_bytes'] + result['optimizer_bytes']
    assert result['peak_bytes'] >= state + result['activation_bytes']


def test_result_is_json_and_a_cpu_has_no_bounds(found):
    assert json.loads(json.dumps(metrics_log.jsonable(found[1])))['step_seconds_bound'] is None
    assert 'verdict            fits' in dryrun.table(found[1])


def test_fsdp_cuts_what_a_device_holds(found):
    config = config_lib.checked(found[0])
    config |= {'mesh': config.mesh | {'fsdp': 8}}
    result = dryrun.run(config, 'cpu:8', classes=10, image_size=8)
    assert result['optimizer_bytes'] < found[1]['optimizer_bytes'] / 4
    assert {'all-gather', 'all-reduce'} & set(result['collectives'])


def test_imagenet_needs_no_imagenet():
    """`epochs`, classes and sizes are known where the dataset is not."""
    config = config_lib.checked(imagenet_vit_b16.get_config())
    config |= {'steps': 0, 'epochs': 2.0}
    described, dataset = dryrun._described(config, 0, 0, 0)
    assert dataset.image_shape == [224, 224, 3] and len(dataset.class_names) == 1000
    assert described['steps'] == round(2 * 1_281_167 / 1024)
    config |= {'data': config.data | {'name': 'no_such_set'}}
    _, dataset = dryrun._described(config, 7, 0, 0)
    assert len(dataset.class_names) == 7 and dataset.train_examples == 7000


FORMS = [
    ('RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. '
     'Used 17.50G of 15.75G hbm. Exceeded hbm capacity by 1.75G.', 17.5 * GIB),
    ('RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries '
     '(72.56G) exceeds available HBM (15.75G).', 72.56 * GIB + 1000),
    ('RESOURCE_EXHAUSTED: some other words', None)]


@pytest.mark.parametrize('message, needed', FORMS)
def test_every_form_of_a_refusal(message, needed):
    assert dryrun.needed_bytes(message, 1000) == (needed and round(needed))


@pytest.mark.parametrize('message, needed', FORMS[1:])
def test_what_the_compiler_refuses_does_not_fit(found, monkeypatch, message, needed):
    """The first try is refused, also in words nobody knows; the first change then fits."""
    whole, calls = jax.stages.Lowered.compile, []

    def compile_or_refuse(self, *args, **kwargs):
        calls.append(self)
        if len(calls) == 1:
            raise jax.errors.JaxRuntimeError(message)
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(jax.stages.Lowered, 'compile', compile_or_refuse)
    with pytest.raises(DoesNotFitError, match='config.model.options.remat=True') as caught:
        dryrun.run(found[0], 'cpu:8', classes=10, image_size=8)
    result = caught.value.result
    assert (result['peak_bytes'] is None) == (needed is None)
    assert caught.value.exit_code == 1 and result['fits'] is False
    assert result['collectives'] is None and result['flops'] == found[1]['flops']
    assert [one['change'] for one in result['tries']] == ['model.options.remat=True']
    again = result['tries'][0]
    assert again['fits'] and again['flops'] > again['model_flops'] == result['model_flops']
    assert 'does not fit' in dryrun.table(result)


def test_changes_are_tried_from_cheap_to_dear(found):
    changes = [change for change, _ in dryrun._changes(config_lib.checked(found[0]), 8)]
    remat, fsdp = 'model.options.remat=True', 'mesh.fsdp=8'
    assert changes[:4] == [remat, fsdp, f'{remat} {fsdp}', f'{remat} {fsdp} batch_size=32']
    assert changes[-1].endswith('batch_size=8'), 'one image a device is the least'


def test_exit_code_and_json_of_what_does_not_fit(launch):
    """No host has the memory for 2**30 images; it is only compiled."""
    run = launch('dryrun', '--config=configs/digits.py:mlp', '--topology=cpu:8',
                 f'--config.batch_size={8 * (2**27 + 1)}')
    out, err = run.communicate(timeout=120)
    assert run.returncode == 1, err
    result = json.loads(out.splitlines()[-1])
    assert result['fits'] is False and result['devices'] == 8
    assert result['peak_bytes'] > result['hbm_bytes']
    assert [one['change'] for one in result['tries']] == ['mesh.fsdp=8']
    assert 'Traceback' not in err and 'does not fit' in err.splitlines()[-1]


@pytest.mark.parametrize('name, words', [
    ('v5e', 'such as v5e:16x16'), ('v5f:2x4', "did you mean 'v5"), ('cpu:2x4', 'or cpu:8'),
    ('v5e:2x2x2', 'slices of v5e have 2 dimensions'), ('v5p:4x4', 'have 3 dimensions'),
    ('cpu:64', 'more devices than the 8'), ('v5e:0x4', 'such as v5e:16x16')])
def test_wrong_topologies_are_one_line(name, words):
    with pytest.raises(ConfigError, match=words) as caught:
        topology.devices(name)
    assert '\n' not in str(caught.value)


def test_batch_that_does_not_divide():
    config = digits.get_config('mlp')
    config.batch_size = 12
    with pytest.raises(ConfigError, match='config.batch_size: 12 is not divisible by 8'):
        dryrun.run(config, 'cpu:8', classes=10, image_size=8)


def test_chips_are_published_figures():
    for chip in chips.CHIPS.values():
        assert {chips.peak_flops(kind) for kind in chip.kinds} == {chip.flops}
        assert chip.source.startswith('https://')
        assert 1e11 < chip.link_speed < chip.hbm_speed < 1e13


def test_a_platform_is_a_matter_of_the_context():
    assert backend.platform() == 'cpu' and backend.compiler_options()
    with backend.made_for('tpu'):
        assert backend.platform() == 'tpu' and not backend.compiler_options()
    assert backend.platform() == 'cpu'


@pytest.mark.skipif(not importlib.util.find_spec('libtpu'), reason="takes imgjax[tpu]: libtpu")
def test_a_tpu_that_is_not_there(launch):
    run = launch('dryrun', '--config=configs/digits.py:mlp', '--topology=v5e:2x2')
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result['devices'] == 4 and result['hbm_bytes'] == 16 * GIB and result['fits']
    assert set(result['bounds']) == {'compute', 'hbm', 'interconnect'}
    assert result['step_seconds_bound'] == max(result['bounds'].values()) > 0
    assert result['collectives']['all-reduce']['bytes'] == pytest.approx(
        result['parameter_bytes'], rel=0.5)  # bfloat16 or float32
