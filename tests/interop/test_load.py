"""Runs that begin with weights: strict, adapted where it is asked for, resumed without them."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from configs import digits
from imgjax import build, models, state, train
from imgjax import config as config_lib
from imgjax.errors import ConfigError, DataError
from imgjax.interop import labels, load, torch_layout
from imgjax.rundir import dataset_info

OPTIONS = {'tiny_vit': {}, 'tiny_resnet': {}}


def config_of(name='tiny_resnet', **init) -> dict:
    config = digits.get_config('resnet')
    config.model = dict(name=name, dtype='float32', options=OPTIONS[name])
    config.update(steps=2, log_every=1, eval_every=0, batch_size=32, checkpoint=dict(every=0))
    config.init.update(init)
    return config_lib.checked(config)


def weights_of(name='tiny_resnet', classes=10, side=8, channels=1, seed=1):
    """Random tensors as timm's model of that name would have them."""
    shapes = shapes_of(name, classes, side, channels)
    rng = np.random.default_rng(seed)
    filled = jax.tree.map(lambda s: rng.uniform(0.1, 1, s.shape).astype(np.float32), shapes)
    return torch_layout.write(filled, RENAMES[name])


@pytest.fixture
def saved(tmp_path):
    """Returns saved(tensors) -> the init.weights of a file with them."""
    def save(tensors, name='w.safetensors', layout='timm'):
        safetensors.numpy.save_file(tensors, tmp_path / name)
        return f'{layout}:{tmp_path / name}'
    return save


RENAMES = {'tiny_resnet': {'head': 'fc'}, 'tiny_vit': {}}
CLASSES = tuple(str(i) for i in range(10))


@functools.cache
def shapes_of(name: str, classes: int, side: int, channels: int):
    model = models.create(name, classes, **OPTIONS[name])
    x = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    return {'params': shapes['params'], 'batch_stats': shapes.get('batch_stats', {})}


def read(config: dict) -> dict:
    """The tensors that a run on 8 x 8 images of the ten digits begins with."""
    config, weights = train._with_weights(config, '/nowhere')
    name = config['model']['name']
    shapes = shapes_of(name, 10, 8, config['data']['channels'])
    return torch_layout.write(load.load(config, weights, shapes, CLASSES), RENAMES[name])


def begun(config: dict) -> dict:
    """The tensors of the state before the first step."""
    config, weights = train._with_weights(config, '/nowhere')
    shape = [8, 8, config['data']['channels']]
    dataset = dataset_info.DatasetInfo(list(CLASSES), shape, 10, 10, '', '')
    setup = build.setup(config, dataset, jax.devices()[:1])
    start = train.initial_state(
        setup, state.hparams_of(config), train.load_weights(setup, weights))
    return torch_layout.write(
        jax.device_get({'params': start.params, 'batch_stats': start.batch_stats}),
        RENAMES[config['model']['name']])


@pytest.mark.parametrize('name', OPTIONS)
def test_every_tensor_is_the_files(name, saved):
    tensors = weights_of(name)
    found = read(config_of(name, weights=saved(tensors)))
    assert set(found) == set(tensors)
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(found[key], tensor, err_msg=key)


def test_cifar_resnets_of_most_repositories(saved):
    tensors = {f'module.{name.replace("fc.", "linear.")}': x for name, x in weights_of().items()}
    found = read(config_of(weights=saved(tensors, layout='cifar')))
    np.testing.assert_array_equal(found['fc.weight'], tensors['module.linear.weight'])


@pytest.mark.parametrize('change, words', [
    (lambda t: t.pop('layer1.0.conv2.weight'), 'layer1.0.conv2.weight is missing'),
    (lambda t: t.update(surplus=np.zeros(3)), 'surplus is left over'),
    (lambda t: t.pop('fc.bias'), "fc.bias is missing; set config.init.head='new'"),
    (lambda t: t.update({'bn1.bias': np.zeros(9, np.float32)}),
     r'bn1.bias has the shape \(9,\), which is \(9,\) here and not \(8,\)'),
    (lambda t: t.update(weights_of(classes=7)), r"fc.\w+ is for 7 classes, the dataset has 10; "
     "set config.init.head='new'"),
    (lambda t: t['bn1.bias'].fill(np.nan), 'bn1.bias holds values that are not finite'),
    (lambda t: t.update(weights_of(channels=3)), "conv1.weight is for 3 channels, the images have "
     "1; set config.init.channels"),
])
def test_what_does_not_fit_is_named(change, words, saved):
    tensors = weights_of()
    change(tensors)
    with pytest.raises(DataError) as caught:
        read(config_of(weights=saved(tensors)))
    assert re.search(words, str(caught.value)) and '\n' not in str(caught.value)
    assert 'w.safetensors: ' in str(caught.value)


def test_many_differences_are_one_line(saved):
    """Both sides are counted, with a name and a shape of each."""
    with pytest.raises(DataError) as caught:
        read(config_of(weights=saved(weights_of('tiny_vit'))))
    assert re.search(r'[0-9]+ of the [0-9]+ tensors of the model are missing, such as bn1.\w+ '
                     r'\(8,\); [0-9]+ of the [0-9]+ in the file are left over, such as '
                     r'blocks.0.attn.proj.bias \(16,\)', str(caught.value))
    assert len(str(caught.value)) < 500 and '\n' not in str(caught.value)


def with_prefix(prefix: str, tensors: dict) -> dict:
    return {prefix + name: x for name, x in tensors.items()}


def split(tensors: dict, first: str, head: str) -> dict:
    return with_prefix(first, {k: x for k, x in tensors.items() if not k.startswith('fc.')}) | (
        with_prefix(head, {k: x for k, x in tensors.items() if k.startswith('fc.')}))


SURPLUS = {'criterion.weight': np.ones(3, np.float32), 'n_averaged': np.array(3)}


@pytest.mark.parametrize('wrapped, said', [
    (lambda t: with_prefix('module.', t), 'removed wrappers from the names'),
    (lambda t: with_prefix('module._orig_mod.', t), 'removed wrappers from the names'),
    (lambda t: with_prefix('model._orig_mod.', t) | SURPLUS,
     "removed the prefix 'model.' .*left out 1 tensors beside the model, such as 'criterion.w"),
    (lambda t: with_prefix('model.backbone.', t), "removed the prefix 'model.backbone.'"),
    (lambda t: split(t, 'backbone.', ''), "removed the prefix 'backbone.'"),
    (lambda t: split(t, 'backbone.', 'head.'), "removed the prefix 'backbone.'"),
    (lambda t: with_prefix('net.', {k: np.asarray(x + 1) for k, x in t.items()})
     | with_prefix('ema_net.module.', t), "removed the prefix 'ema_net.'.*left out"),
])
def test_what_programs_put_before_names_is_left_out(wrapped, said, saved, caplog):
    tensors = weights_of()
    with caplog.at_level('INFO'):
        found = read(config_of(weights=saved(wrapped(tensors))))
    for key in ('layer1.0.conv2.weight', 'fc.bias', 'bn1.running_var'):
        np.testing.assert_array_equal(found[key], tensors[key], err_msg=key)
    assert re.search(said, caplog.text, re.DOTALL)


def test_two_models_in_one_file_are_refused(saved):
    tensors = weights_of()
    both = with_prefix('left.', tensors) | with_prefix('right.', tensors)
    with pytest.raises(DataError, match="more than one set of weights that fit, 'left.' and 'righ"):
        read(config_of(weights=saved(both)))


def test_names_of_another_layout_are_recognised(saved):
    tensors = {f'model.{name.replace("fc.", "linear.")}': x for name, x in weights_of().items()}
    with pytest.raises(DataError, match='fc.bias is missing.*names are those of cifar: set config.'
                       'init.weights=cifar:/'):
        read(config_of(weights=saved(tensors)))
    tensors = {name.replace('layer', 'block.'): x for name, x in tensors.items()}
    with pytest.raises(DataError) as caught:  # of none
        read(config_of(weights=saved(tensors)))
    assert 'init.weights' not in str(caught.value)
    vit = {'vit.embeddings.cls_token': 'cls_token', 'vit.layernorm.': 'norm.',
           'vit.encoder.layer.': 'blocks.', '.layernorm_before.': '.norm1.',
           '.layernorm_after.': '.norm2.', '.intermediate.dense.': '.mlp.fc1.',
           'vit.embeddings.patch_embeddings.projection.': 'patch_embed.proj.',
           '.attention.output.dense.': '.attn.proj.', '.output.dense.': '.mlp.fc2.'}
    tensors = {}
    for name, x in weights_of('tiny_vit').items():
        for theirs, ours in vit.items():
            name = name.replace(ours, theirs) if theirs[0] == '.' or name.startswith(ours) else name
        tensors[name] = x
    with pytest.raises(DataError,
                       match='its names are those of huggingface: set config.init.weights='
                       'huggingface:/.*w.safetensors'):
        read(config_of('tiny_vit', weights=saved(tensors)))


TURNED = CLASSES[::-1]


@pytest.mark.parametrize('told, rows, said', [
    ({'label_names': CLASSES}, range(10), None),
    ({'label_names': TURNED}, range(9, -1, -1), "in the order of the dataset .*'0' is output 9"),
    ({'pretrained_cfg': {'label_names': TURNED}}, range(9, -1, -1), 'in the order of'),
    ({'label_names': ['n1' + x for x in TURNED],
      'label_descriptions': {'n1' + x: x for x in TURNED}}, range(9, -1, -1), 'in the order of'),
    ({'id2label': {i: x for i, x in enumerate(TURNED)}}, range(9, -1, -1), 'in the order of'),
    ({'id2label': {i: f'LABEL_{i}' for i in range(10)}}, range(10), 'name no classes'),
    ({'id2label': {i: (i + 1) % 10 for i in range(10)}}, [9, *range(9)], 'in the order of'),
    ({'label2id': {i: (i + 1) % 10 for i in range(10)}}, [*range(1, 10), 0], 'in the order of'),
    ({'label_names': TURNED + ('x',)}, range(10), 'name 11 classes and have 10 outputs: '),
    ({}, range(10), "weights name no classes.*'0', '1', '2' and 7 more"),
])
def test_outputs_are_put_in_the_order_of_the_dataset(told, rows, said, saved, tmp_path, caplog):
    (tmp_path / 'config.json').write_text(json.dumps(told))
    tensors = weights_of()
    with caplog.at_level('INFO'):
        found = read(config_of(weights=saved(tensors)))
    for key in ('fc.weight', 'fc.bias'):
        np.testing.assert_array_equal(found[key], tensors[key][list(rows)])
    assert said is None or re.search(said, caplog.text)


@pytest.mark.parametrize('names, class_names, rows', [
    (('a', 'b', 'c'), ('c', 'a'), [2, 0]),
    (('Golden retriever', 'b'), ('b', 'golden_retriever'), [1, 0]),
    (('A', 'a'), ('a', 'A'), [1, 0]),
    ((' b ', 'a'), ('a', 'b'), [1, 0]),
    (('7', '3'), ('a', 'b'), [0, 1]), (('7', '3'), ('3', '8'), "first '8'"),
    (('a', 'b', 'a'), ('b', 'a', 'c'), "first 'a'"),
    (('a', 'b'), ('b', 'c'), "1 of the 2 of the dataset are not among its 2 label names, .*first "
     "'c' .it has 'a', 'b'.; set config.init.head='new'"),
])
def test_rows_of_a_head_by_name(names, class_names, rows):
    tensors = {'fc.weight': np.arange(2 * len(names)).reshape(len(names), 2), 'x': np.zeros(1)}
    if isinstance(rows, str):
        with pytest.raises(DataError, match=rows):
            labels.in_order_of(tensors, (names,), class_names, ('fc',))
        return
    found = labels.in_order_of(tensors, (names,), class_names, ('fc',))
    np.testing.assert_array_equal(found['fc.weight'], tensors['fc.weight'][rows])
    assert found['x'] is tensors['x']


def test_a_binary_classifier_becomes_one_of_two_classes(caplog):
    """softmax of (0, z) is the sigmoid of z, and so are the sigmoids of (-z, z)."""
    tensors = {'fc.weight': np.ones((1, 2), np.float32), 'fc.bias': np.full(1, 3, np.float32)}
    for softmax, first in ((True, 0), (False, -1)):
        found = labels.in_order_of(tensors, (), ('cat', 'dog'), ('fc',), softmax)
        np.testing.assert_array_equal(found['fc.weight'], [[first, first], [1, 1]])
        np.testing.assert_array_equal(found['fc.bias'], [3 * first, 3])
    assert "the probability of 'dog'" in caplog.text


def test_where_the_preprocessing_is_from_is_said(saved, tmp_path, caplog):
    config = config_of(weights=saved(weights_of()))
    with caplog.at_level('INFO'):
        taken = train._with_weights(config, '/nowhere')[0]
    assert taken['init']['preprocessing'] == 'config' and taken['data'] == config['data']
    assert re.search(r'preprocessing of the config, since nothing beside .*w.safetensors says what '
                     r'it was trained with: mean \[0.3\], std', caplog.text)
    asked = config | {'init': config['init'] | {'preprocessing': 'checkpoint'}}
    with pytest.raises(ConfigError, match='config.init.preprocessing: nothing beside .*w.safet'):
        train._with_weights(asked, '/nowhere')
    (tmp_path / 'config.json').write_text(json.dumps(
        {'mean': [0.25], 'std': [0.5], 'crop_mode': 'squash', 'interpolation': 'nearest'}))
    caplog.clear()
    with caplog.at_level('INFO'):
        taken = train._with_weights(config, '/nowhere')[0]
    assert taken['init']['preprocessing'] == 'checkpoint'
    assert taken['data'] == config['data'] | {
        'mean': [0.25], 'std': [0.5], 'eval_transform': 'squash'}
    assert "interpolation='nearest' is none of bicubic, bilinear: config.data" in caplog.text
    assert re.search(r'of the weights, .*mean \[0.25\], .*; from the config: image', caplog.text)


def test_runs_without_weights_have_the_hash_they_had():
    assert config_of()['init']['preprocessing'] == 'checkpoint'


def test_weights_that_do_not_fit_end_a_run_early(saved, tmp_path, monkeypatch, data_dir):
    """Before anything is compiled, and before the run directory is this config's."""
    monkeypatch.setattr(train, 'initial_state', None)
    workdir = tmp_path / 'run'
    with pytest.raises(DataError, match='fc.bias is missing'):
        tensors = weights_of()
        del tensors['fc.bias']
        train.run(config_of(weights=saved(tensors)), str(workdir))
    assert not (workdir / 'config.json').exists()


def test_a_new_head(saved):
    tensors = weights_of(classes=1000)
    found = begun(config_of(weights=saved(tensors), head='new'))
    assert found['fc.weight'].shape == (10, 64)
    assert not found['fc.weight'].any() and not found['fc.bias'].any()
    np.testing.assert_array_equal(found['conv1.weight'], tensors['conv1.weight'])
    headless = {name: x for name, x in tensors.items() if not name.startswith('fc.')}
    again = begun(config_of(weights=saved(headless), head='new'))
    np.testing.assert_array_equal(found['conv1.weight'], again['conv1.weight'])


@pytest.mark.parametrize('how', ['mean', 'tile'])
def test_other_channels(how, saved):
    """An image that is equal in all channels gives what it gave."""
    tensors = weights_of(channels=3)
    found = read(config_of(weights=saved(tensors), channels=how))['conv1.weight']
    old = tensors['conv1.weight']
    assert found.shape == (8, 1, 3, 3)
    expected = old.sum(1) if how == 'mean' else 3 * old[:, 0]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)


def test_other_image_sizes_by_resampled_positions(saved):
    tensors = weights_of('tiny_vit', side=16)
    with pytest.raises(DataError, match='set config.init.resample=True'):
        read(config_of('tiny_vit', weights=saved(tensors)))
    found = read(config_of('tiny_vit', weights=saved(tensors), resample=True))['pos_embed']
    np.testing.assert_array_equal(found[:, 0], tensors['pos_embed'][:, 0])  # the class token's
    assert found.shape == (1, 5, 16)
    grid = tensors['pos_embed'][0, 1:].reshape(2, 2, 2, 2, 16).mean((1, 3)).reshape(4, 16)
    assert np.corrcoef(found[0, 1:].ravel(), grid.ravel())[0, 1] > 0.9


def test_preprocessing_comes_with_the_weights(saved, tmp_path, data_dir):
    config = config_of(weights=saved(weights_of()))
    stored = {'pretrained_cfg': {'mean': [0.25], 'std': [0.5], 'input_size': [1, 8, 8],
                                 'crop_pct': 0.95, 'interpolation': 'bilinear'}}
    (tmp_path / 'config.json').write_text(json.dumps(stored))
    found = train._with_weights(config, '/nowhere')[0]['data']
    assert found == config['data'] | dict(
        mean=[0.25], std=[0.5], image_size=8, eval_crop_fraction=0.95, eval_resize='bilinear')
    kept = config | {'init': config['init'] | {'preprocessing': 'config'}}
    assert train._with_weights(kept, '/nowhere')[0] == kept
    for wrong in ({'mean': [0.25], 'std': [0.0]}, {'mean': [0.25], 'std': [1], 'crop_pct': 99}):
        (tmp_path / 'config.json').write_text(json.dumps(wrong))
        with pytest.raises(DataError, match='preprocessing beside .*w.safetensors cannot be used'):
            train._with_weights(config, '/nowhere')
    for half in ({'mean': [0.25]}, {'std': [0.5], 'crop_pct': None}):
        (tmp_path / 'config.json').write_text(json.dumps(half))
        assert train._with_weights(config, '/nowhere')[0]['data'] == config['data']
    for broken in ('[]', '{"mean": 3, "std": 1}', '{'):
        (tmp_path / 'config.json').write_text(broken)
        with pytest.raises(DataError, match="not a config.json of timm.*preprocessing='config'"):
            train._with_weights(config, '/nowhere')
        assert train._with_weights(kept, '/nowhere')[0] == kept


def test_a_run_goes_on_without_the_file(saved, tmp_path, data_dir):
    config = config_of(weights=saved(weights_of()))
    (tmp_path / 'config.json').write_text(json.dumps({'mean': [0.25], 'std': [0.5]}))
    workdir = str(tmp_path / 'run')
    first = train.run(config, workdir)
    (tmp_path / 'w.safetensors').unlink()
    (tmp_path / 'config.json').unlink()
    again = train.run(config, workdir)
    assert again['state_digest'] == first['state_digest'] and again['step'] == 2
    with pytest.raises(DataError, match='no such file'):
        train.run(config, str(tmp_path / 'other'))


@pytest.mark.parametrize('from_, words', [
    ('tim:resnet18', "takes LAYOUT:WHERE.*did you mean 'timm'"),
    ('resnet18', 'takes LAYOUT:WHERE'), ('timm:', 'takes LAYOUT:WHERE'),
    ('timm:/', '/ is a folder; give the file of weights in it'),
    ('timm:../no_such_folder/x', 'no such file'), ('timm:a b', 'timm takes a file'),
    ('torchvision:resnet18', 'torchvision takes a file'),
    ('timm:resnet18.a1_in1k', "weights of 'resnet18' are not for"),
])
def test_wrong_words(from_, words):
    with pytest.raises((ConfigError, DataError), match=words) as caught:
        load.find(config_of(weights=from_))
    assert '\n' not in str(caught.value)


def demanding(name: str, from_: str, **options) -> dict:
    config = digits.get_config('resnet')
    config.model = dict(name=name, dtype='float32', options=options)
    config.init.weights = from_
    return config_lib.checked(config)


@pytest.mark.parametrize('layout, name, right, told', [
    ('torchvision', 'mobilenetv3_small_100', {'epsilon': 1e-3}, {}),
    ('torchvision', 'efficientnetv2_rw_s', {'epsilon': 1e-3}, {}),
    ('torchvision', 'efficientnet_b6', {'epsilon': 1e-3}, {}),
    ('google', 'vit_tiny_patch16_224', {'act': 'gelu_tanh'}, {}),
    ('google', 'mixer_b16_224', {'act': 'gelu_tanh'}, {}),
    ('huggingface', 'vit_tiny_patch16_224', {'epsilon': 1e-12}, {'layer_norm_eps': 1e-12}),
    ('huggingface', 'vit_small_patch14_dinov2', {'pool': 'token_avg'},
     {'architectures': ['Dinov2ForImageClassification']}),
    ('huggingface', 'resnet50', {'stride_first': True}, {'downsample_in_bottleneck': True}),
])
def test_weights_of_another_function_are_refused(layout, name, right, told, saved, tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps(told))
    from_ = saved({'x': np.zeros(1, np.float32)}, layout=layout)
    (key, value), = right.items()
    with pytest.raises(ConfigError, match=re.escape(f'take {key}={value!r}')) as caught:
        load.find(demanding(name, from_))
    assert '\n' not in str(caught.value)
    load.find(demanding(name, from_, **right))


@pytest.mark.parametrize('told, options, words', [
    ({'model_options': {'act': 'tanh'}}, {'act': 'tanh'}, None), ({'model_options': {}}, {}, None),
    ({'model_options': {}}, {'act': 'relu'}, None), (None, {'act': 'tanh'}, None),
    ({'model_options': {'act': 'tanh'}}, {}, "exported with act='tanh' .*config.json.; set config."
     "model.options to {'act': 'tanh'}"),
    ({'model_options': {}}, {'act': 'tanh'}, "exported with act='relu'"),
    ({'model_options': {'widths': [8, 32]}}, {}, 'exported with widths='),
])
def test_an_export_is_read_back_as_the_model_it_was(told, options, words, saved, tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps(
        {'architecture': 'tiny_resnet'} | ({'imgjax': told} if told else {})))
    config = demanding('tiny_resnet', saved({'x': np.zeros(1, np.float32)}), **options)
    if words is None:
        load.find(config)
        return
    with pytest.raises(ConfigError, match=words):
        load.find(config)
    with pytest.raises(ConfigError, match="exported from 'tiny_resnet' .*, got 'resnet18'"):
        load.find(demanding('resnet18', config['init']['weights']))


def test_what_needs_no_option_is_let_through(saved):
    for layout, name in (('torchvision', 'efficientnet_b0'), ('torchvision', 'resnet18'),
                         ('google', 'resnetv2_50x1_bit'), ('huggingface', 'vit_tiny_patch16_224')):
        load.find(demanding(name, saved({'x': np.zeros(1, np.float32)}, layout=layout)))


@pytest.mark.parametrize('stored, fields', [
    ({'image_mean': [0.5] * 3, 'image_std': [0.25] * 3, 'resample': 2,
      'size': {'height': 224, 'width': 224}},
     {'mean': [0.5] * 3, 'std': [0.25] * 3, 'eval_resize': 'bilinear', 'image_size': 224,
      'eval_transform': 'squash', 'eval_crop_fraction': 1.0}),
    ({'image_mean': [127.5] * 3, 'image_std': [51] * 3, 'do_rescale': False, 'resample': 1},
     {'mean': [0.5] * 3, 'std': [0.2] * 3}),
    ({'do_normalize': False, 'rescale_factor': 1 / 127.5}, {'mean': [0.0] * 3, 'std': [0.5] * 3}),
    ({'size': 384}, {'image_size': 384, 'eval_transform': 'squash', 'eval_crop_fraction': 1.0}),
    ({'size': {'height': 256, 'width': 256}, 'do_center_crop': True, 'crop_size': 224},
     {'image_size': 224, 'eval_transform': 'squash', 'eval_crop_fraction': 0.875}),
    ({'size': {'shortest_edge': 384}, 'crop_pct': 0.875, 'do_normalize': False},
     {'mean': [0.0] * 3, 'std': [1.0] * 3, 'image_size': 384, 'eval_transform': 'squash',
      'eval_crop_fraction': 1.0}),
    ({'size': {'shortest_edge': 256}, 'do_center_crop': True, 'resample': 3,
      'crop_size': {'height': 224, 'width': 224}},
     {'eval_resize': 'bicubic', 'image_size': 224, 'eval_crop_fraction': 0.875}),
    ({'size': {'shortest_edge': 224}, 'crop_pct': 0.875},
     {'image_size': 224, 'eval_crop_fraction': 0.875}),
    ({}, {}),
])
def test_transformers_preprocessing_comes_along(stored, fields, saved, tmp_path):
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(stored))
    from_ = saved({'x': np.zeros(1, np.float32)}, layout='huggingface')
    assert load.find(demanding('resnet18', from_)).preprocessing == fields


@pytest.mark.parametrize('text', [
    '[1', '{"size": {"width": 3}}', '{"image_mean": 3}', '{"size": Infinity}',
    '{"size": {"height": 0}, "do_center_crop": true, "crop_size": 224}'])
def test_a_preprocessor_config_that_is_none(text, saved, tmp_path):
    (tmp_path / 'preprocessor_config.json').write_text(text)
    from_ = saved({'x': np.zeros(1, np.float32)}, layout='huggingface')
    with pytest.raises(DataError, match='preprocessor_config.json') as caught:
        load.find(demanding('resnet18', from_))
    assert '\n' not in str(caught.value)


def test_torchvisions_inception_brings_its_mean(saved):
    from_ = saved({'x': np.zeros(1, np.float32)}, layout='torchvision')
    assert load.find(demanding('inception_v3', from_)).preprocessing['mean'] == [0.5] * 3
