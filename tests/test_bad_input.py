"""What bad input gets: one line that names the field or file and the fix, and nothing is lost."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from configs import base
from imgjax import config as config_lib
from imgjax import train
from imgjax.errors import ConfigError, DataError
from imgjax.rundir import checkpoint


@pytest.fixture
def folder(tmp_path):
    """PATH/{train,test}/{a,b}/N.png, 16 images each."""
    rng = np.random.default_rng(0)
    for split in ('train', 'test'):
        for name in ('a', 'b'):
            path = tmp_path / 'images' / split / name
            path.mkdir(parents=True)
            for i in range(16):
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(path / f'{i}.png')
    return tmp_path / 'images'


def config_of(folder, **changes) -> dict:
    config = base.get_config()
    config.update(model=dict(name='tiny_mlp'), batch_size=16, steps=4, log_every=2)
    plain = config.to_dict()
    plain['data'] |= {'name': 'folder', 'path': str(folder)} | changes.pop('data', {})
    plain['checkpoint']['every'] = 2
    return config_lib.checked(plain | changes)


def test_a_folder_trains(folder, tmp_path):
    result = train.run(config_of(folder), str(tmp_path / 'run'))
    assert result['examples'] == 32


@pytest.mark.parametrize('changes, words', [
    ({'model': {'name': 'rasnet50', 'dtype': 'float32', 'options': {}}},
     "config.model: unknown model 'rasnet50'; did you mean 'resnet50'?"),
    ({'model': {'name': 'tiny_mlp', 'dtype': 'float32', 'options': {'depht': 1}}},
     "config.model: model family 'mlp' has no option 'depht'"),
    ({'model': {'name': 'tiny_mlp', 'dtype': 'float32', 'options': {'act': 'rellu'}}},
     "unknown act 'rellu'; did you mean 'relu'?"),
    ({'model': {'name': 'mlp', 'dtype': 'float32', 'options': {'dropout': -0.1}}},
     "option 'dropout' .*takes a number of at least 0 and below 1, got -0.1"),
    ({'model': {'name': 'mlp', 'dtype': 'float32', 'options': {'dropout': True}}},
     "option 'dropout' .*takes a number, got True"),
    ({'model': {'name': 'mlp', 'dtype': 'float32', 'options': {'dropout': None}}},
     "option 'dropout' .*takes a number, got None"),
    ({'model': {'name': 'mlp', 'dtype': 'float32', 'options': {'hidden': 8}}},
     "option 'hidden' .*takes several values, each a whole number, got 8"),
    ({'model': {'name': 'mlp', 'dtype': 'float32', 'options': {'dtype': 'bfloat16'}}},
     "dtype is set by config.model.dtype"),
    ({'model': {'name': 'tiny_vit', 'dtype': 'float32', 'options': {'remat': 1}}},
     "option 'remat' .*takes True or False, got 1"),
    ({'objective': {'name': 'sofmax'}},
     "config.objective.name: there is no objective 'sofmax'; did you mean 'softmax'?"),
    ({'augment': [['mixap', {}]], 'hparams': base.get_config().hparams.to_dict()
      | {'augment': {'mixap': 1.0}}}, "config.augment: unknown augmentation 'mixap'"),
    ({'augment': [['rand_augment', {}]], 'hparams': base.get_config().hparams.to_dict()
      | {'augment': {'rand_augment': 15.0}}},
     'config.hparams.augment.rand_augment: takes 0 to 10 .*, got 15.0'),
    ({'augment': [['mixup', {}]], 'hparams': base.get_config().hparams.to_dict()
      | {'augment': {'mixup': 0.2, 'mixip': 1.0}}},
     "config.hparams.augment.mixip: .* did you mean 'mixup'?"),
    ({'batch_size': 12}, 'config.batch_size: 12 is not divisible by 8 .* 16 is'),
    ({'mesh': {'data': 3, 'fsdp': 1, 'tensor': 1}},
     'config.mesh: data=3 x fsdp=1 x tensor=1 does not make 8 devices'),
    ({'data': {'eval_split': 'val'}}, "no folder 'val' for that split; it has test, train"),
    ({'data': {'resident': 'yes', 'train_crop': 'random_resized', 'image_size': 8}},
     'config.data.resident'),
])
def test_wrong_fields(changes, words, folder, tmp_path):
    with pytest.raises(ConfigError, match=words) as error:
        train.run(config_of(folder, **changes), str(tmp_path / 'run'))
    assert '\n' not in str(error.value)


HARM = {
    'cut': lambda path: os.truncate(path, path.stat().st_size // 2),
    'text': lambda path: path.write_text('this is text'),
    'empty': lambda path: path.write_bytes(b''),
}


@pytest.mark.parametrize('how', [
    {'resident': 'yes'}, {'resident': 'no'}, {'resident': 'no', 'workers': 1}], ids=str)
def test_harmed_images_weigh_nothing_up_to_a_share(how, folder, tmp_path):
    """One of each kind; streamed, the run ends at the first batch with one of them."""
    for number, harm in enumerate(HARM.values(), 7):
        harm(folder / 'train' / 'b' / f'{number}.png')
    run = tmp_path / 'run'
    with pytest.raises(DataError, match='[123] of 32 training images are unreadable') as error:
        train.run(config_of(folder, data=how), str(run))
    assert '\n' not in str(error.value)
    assert 'train/b/' in str(error.value) and 'max_unreadable_share=0.01' in str(error.value)
    if how['resident'] == 'yes':
        assert all(f'train/b/{number}.png' in str(error.value) for number in (7, 8, 9))
    # The share may be another one when a run goes on.
    result = train.run(config_of(folder, data=how | {'max_unreadable_share': 0.1}), str(run))
    assert result['unreadable_images'] == 3 and result['examples'] == 32
    rows = [json.loads(line) for line in (run / 'unreadable.jsonl').read_text().splitlines()]
    assert sorted((os.path.basename(row['file']), row['kind']) for row in rows) == [
        ('7.png', 'truncated'), ('8.png', 'not an image'), ('9.png', 'empty')]


@pytest.mark.parametrize('resident', ['yes', 'no'])
def test_a_harmed_image_of_the_evaluation_ends_it(resident, folder, tmp_path):
    HARM['cut'](folder / 'test' / 'b' / '7.png')
    with pytest.raises(DataError, match=r'test/b/7.png: not a readable image'):
        train.run(config_of(folder, data={'resident': resident}), str(tmp_path / 'run'))


def test_a_class_more_than_the_checkpoint_has(folder, tmp_path):
    run = str(tmp_path / 'run')
    train.run(config_of(folder), run)
    before = checkpoint.steps(run)
    for split in ('train', 'test'):
        shutil.copytree(folder / split / 'a', folder / split / 'c')
    with pytest.raises(ConfigError, match="its model has 2 classes, the dataset has 3 .first 'c'"):
        train.run(config_of(folder), run)
    assert checkpoint.steps(run) == before


def test_other_images_than_the_run_began_with(folder, tmp_path):
    run = str(tmp_path / 'run')
    train.run(config_of(folder), run)
    os.remove(folder / 'train' / 'a' / '3.png')
    with pytest.raises(DataError, match='not the one that this run began with, it has'):
        train.run(config_of(folder), run)


def test_a_directory_with_other_things_in_it(folder, tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    with pytest.raises(ConfigError, match="holds 'images' but no run; take an empty --workdir"):
        train.run(config_of(folder), str(tmp_path))


def test_an_edited_run_directory(folder, tmp_path):
    run = tmp_path / 'run'
    train.run(config_of(folder), str(run))
    text = (run / 'dataset.json').read_text()
    (run / 'dataset.json').write_text(text.replace('8', '80000', 1))
    with pytest.raises(DataError, match='it is not as it was written'):
        train.run(config_of(folder), str(run))
    (run / 'dataset.json').write_text('[1, 2')
    with pytest.raises(DataError, match='dataset.json: cannot be used'):
        train.run(config_of(folder), str(run))


def test_a_resumed_run_may_have_other_devices(folder, tmp_path):
    """The mesh is of the invocation: bit-equal restore, and the run goes on."""
    run = str(tmp_path / 'run')
    config = config_of(folder, mesh={'data': 8, 'fsdp': 1, 'tensor': 1})
    train.run(config, run)
    shutil.rmtree(os.path.join(run, 'checkpoints', '4'))
    result = train.run(config_of(folder, mesh={'data': 2, 'fsdp': 4, 'tensor': 1}), run)
    assert result['step'] == 4
    assert jax.device_count() == 8
