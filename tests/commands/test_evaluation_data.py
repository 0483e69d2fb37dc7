"""Whether data are the same: between processes, and between a run and what it is evaluated on."""

import numpy as np
import pytest
from PIL import Image

from configs import base
from imgjax import config as config_lib
from imgjax import data, train
from imgjax.commands import evaluate, evaluate_weights, evaluation_data
from imgjax.data.sources import arrays
from imgjax.errors import ConfigError, DataError
from imgjax.interop import export
from imgjax.rundir import dataset_info
from imgjax.rundir.dataset_info import DatasetInfo

FACTS = DatasetInfo(['cat', 'dog'], [8, 8, 3], 40, 10, 'a', 'b')


@pytest.mark.parametrize('mine, words', [
    ({}, ''),
    ({'class_names': ['ant', 'cat']}, "than process 0: 'ant' only there, 'dog' only in process 0"),
    ({'class_names': ['dog', 'cat']}, "order than process 0: class 0 is 'dog', there 'cat'"),
    ({'train_examples': 41}, 'has 41 training images, process 0 has 40'),
    ({'eval_examples': 9}, 'has 9 evaluation images, process 0 has 10'),
    ({'eval_fingerprint': 'c'}, 'has other evaluation images than process 0: as many'),
    ({'image_shape': [16, 16, 3]}, 'has images of 16x16x3, process 0 of 8x8x3')])
def test_what_a_process_sees_otherwise(mine, words):
    said = dataset_info.data_difference(FACTS, FACTS._replace(**mine))
    assert words in said and bool(words) == bool(said)


def stripes(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 8, 8, 1) whose column says which of three classes they are of."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = rng.integers(0, 60, (count, 8, 8, 1), np.uint8)
    images[np.arange(count), :, labels] += 180
    return images, labels


NAMES = ('red', 'green', 'blue')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """(run directory, its result) of a script's own arrays; its config names the digits."""
    config = base.get_config()
    config.update(model=dict(name='tiny_mlp'), batch_size=64, steps=20, log_every=20,
                  eval_batch_size=64,
                  data=dict(name='digits', channels=1, mean=(0.3,), std=(0.37,)))
    config.hparams.learning_rate = 0.02
    source = arrays.source(*stripes(512), NAMES)
    workdir = str(tmp_path_factory.mktemp('arrays') / 'run')
    result = train.run(config, workdir, sources=(source, arrays.source(*stripes(96, 1), NAMES)))
    assert 0.5 < result['accuracy'], 'the answers below could be chance'
    return workdir, result


def test_a_run_of_arrays_is_not_evaluated_on_what_its_config_names(run):
    for split in (None, 'train', 'test[:50%]'):
        with pytest.raises(DataError, match=(
                "digits. are not those it was trained with .*has .* images, had .*config.data.path"
                ".*source=")) as error:
            evaluate.evaluate_split(run[0], split=split)
        assert '\n' not in str(error.value)


def test_a_run_of_arrays_is_evaluated_on_arrays(run):
    found = evaluate.evaluate_split(run[0], source=arrays.source(*stripes(96, 1), NAMES))
    assert {k: found[k] for k in ('accuracy', 'loss', 'examples')} == {
        k: run[1][k] for k in ('accuracy', 'loss', 'examples')}


def in_another_order(folder, grey: int = 10) -> str:
    """Writes the images that the run was evaluated on, and some of a class that it does not know.

    Returns the path; the classes stand in another order.
    """
    images, labels = stripes(96, 1)
    order = [2, 0, 3, 1] if grey else [2, 0, 1]  # of red, green, blue, grey in the file
    names = np.array([*NAMES, 'grey'])[np.argsort(order)]
    np.savez(folder / 'other.npz', test_images=np.concatenate([images, stripes(grey, 2)[0]]),
             test_labels=np.concatenate([np.array(order)[labels], np.full(grey, order[-1])]),
             class_names=names)
    return str(folder / 'other.npz')


def test_published_weights_are_evaluated_without_a_run(run, tmp_path, caplog):
    """By the names beside them, in any order; without names by number, for as many classes."""
    export.export(run[0], 'safetensors', str(tmp_path / 'weights'))
    config = base.get_config()
    config.update(
        model=dict(name='tiny_mlp'), eval_batch_size=64,
        init=dict(weights=f'timm:{tmp_path}/weights/model.safetensors', head='new'),
        data=dict(name='arrays', channels=1, path=in_another_order(tmp_path), mean=(0.3,),
                  std=(0.37,)))
    found = evaluate_weights.run(config)
    assert (found['accuracy'], found['loss']) == (run[1]['accuracy'], pytest.approx(run[1]['loss']))
    assert (found['classes_compared'], found['images_left_out']) == (3, 10)
    (tmp_path / 'weights' / 'config.json').unlink()
    with pytest.raises(DataError, match='for 3 classes, the dataset has 4; without class names'):
        evaluate_weights.run(config)
    in_another_order(tmp_path, grey=0)
    assert evaluate_weights.run(config)['accuracy'] < run[1]['accuracy']
    assert 'the weights name no classes' in caplog.text
    config.init.weights = ''
    with pytest.raises(ConfigError, match='--workdir: give a run directory, or weights by'):
        evaluate_weights.run(config)


def test_other_data_are_compared_by_the_names_of_classes(run, tmp_path, caplog):
    """Another order changes nothing; images of another class are left out."""
    changes = {'data.name': 'arrays', 'data.path': in_another_order(tmp_path)}
    with caplog.at_level('INFO', 'imgjax'):
        found = evaluate.evaluate_split(run[0], changes=changes)
    assert found['data'] == changes['data.path'] and found['split'] == 'test'
    assert (found['examples'], found['images_left_out']) == (96, 10)
    assert (found['classes'], found['classes_compared']) == (3, 3)
    assert (found['accuracy'], found['loss']) == (run[1]['accuracy'], run[1]['loss'])
    assert 'classes compared: 3 of 3; not in the run: grey; 10 images' in caplog.text
    with pytest.raises(DataError, match='has 4 classes, the model 3; .*matched by name'):
        evaluate.evaluate_split(run[0], changes=changes, by='number')


def test_other_names_for_the_same_classes_are_compared_by_number_if_asked(run):
    source = arrays.source(*stripes(96, 1), ('rot', 'gruen', 'blau'))
    with pytest.raises(DataError, match='none of the 3 classes of the model .red, green, blue.'):
        evaluate.evaluate_split(run[0], source=source)
    assert evaluate.evaluate_split(run[0], source=source, by='number')['loss'] == run[1]['loss']


def test_a_set_of_one_split_is_taken_whole_unless_it_is_the_runs_own(tmp_path):
    for name in ('cat', 'dog'):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.new('RGB', (4, 4)).save(tmp_path / name / f'{i}.png')
    options = base.get_config().data.to_dict() | {'name': 'folder', 'path': str(tmp_path)}
    source, split = evaluation_data.other_split(options, '', 'held_out')
    assert (len(source.examples), split) == (20, 'train+held_out')
    own = data.open_split('held_out', options).fingerprint
    source, split = evaluation_data.other_split(options, own, 'held_out')
    assert (len(source.examples), split) == (2, 'held_out')
    (tmp_path / 'test').mkdir()
    for name in ('cat', 'dog'):
        (tmp_path / name).rename(tmp_path / 'test' / name)
    source, split = evaluation_data.other_split(options, '', 'held_out')
    assert (len(source.examples), split) == (20, 'held_out')


@pytest.mark.parametrize('changes, words', [
    ({'hparams.seed': 1}, 'config.hparams.seed: a run is evaluated as it was trained'),
    ({'data.train_crop': 'center'}, 'config.data.train_crop: a run is evaluated'),
    ({'data.channels': 3}, 'config.data.channels: a run is evaluated'),
    ({'data.pth': '/x'}, "config.data.pth: no such field; did you mean 'data.path'?"),
    ({'eval_batch_size': 0}, 'config.eval_batch_size: takes at least 1, got 0')])
def test_what_an_evaluation_does_not_take(changes, words):
    config = config_lib.checked(base.get_config().to_dict() | {'steps': 1})
    with pytest.raises(ConfigError) as error:
        evaluation_data.with_changes(config, changes)
    assert words in str(error.value)


def test_another_way_to_read_the_images_names_no_other_data(tmp_path):
    """A set of one split: its held-out share is evaluated, not the images of the training."""
    images, labels = stripes(60)
    np.savez(tmp_path / 'set.npz', train_images=images.astype(np.uint16) * 16,
             train_labels=labels)
    config = base.get_config()
    config.update(model=dict(name='tiny_mlp'), batch_size=16, steps=4, log_every=4,
                  data=dict(name='arrays', path=str(tmp_path / 'set.npz'), channels=1,
                            mean=(0.3,), std=(0.37,), pixel_range=(0, 4095)))
    result = train.run(config, str(tmp_path / 'run'))
    again = evaluate.evaluate_split(str(tmp_path / 'run'), changes={'data.pixel_range': (0, 4000)})
    assert again['examples'] == result['examples'] < 60
    assert again['loss'] != result['loss']


def test_options_of_another_source_do_not_come_along():
    config = config_lib.checked(base.get_config().to_dict() | {'steps': 1})
    config |= {'data': config.data | {'name': 'tar', 'path': '/x', 'options': {'cache': 'y'}}}
    changed = evaluation_data.with_changes(config, {'data.path': '/z', 'data.options.cache': 'q'})
    assert changed['data']['options'] == {'cache': 'q'} and changed['data']['path'] == '/z'
    changed = evaluation_data.with_changes(config, {'data.name': 'digits'})
    assert (changed['data']['options'], changed['data']['path']) == ({}, '')
    assert config['data']['options'] == {'cache': 'y'}, 'the config of the run stays'
