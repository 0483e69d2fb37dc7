"""TFDS sets, prepared before a run."""

import hashlib
import importlib
import io
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from configs import base
from imgjax import data
from imgjax.commands import prepare
from imgjax.errors import ConfigError, DataError

ROOT = pathlib.Path(__file__).parents[2]
OPTIONS = base.get_config().data.to_dict()
SETTINGS = dict(shorter_side=32, quality=90, shard_size=4)


class ImgjaxStripes(tfds.core.GeneratorBasedBuilder):
    """Ten images; `VERSION` and the split generators are all a set needs."""

    VERSION = tfds.core.Version('1.0.0')
    encode = True  # else pixels, which TFDS encodes by TensorFlow

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, description='x', features=tfds.features
                                     .FeaturesDict({
                                         'image': tfds.features.Image(shape=(4, 4, 3)),
                                         'label': tfds.features.ClassLabel(names=['a', 'b'])}))

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples()}

    def _generate_examples(self):
        for i in range(10):
            image = np.full((4, 4, 3), i, np.uint8)
            yield i, {'image': encoded(image, 'PNG') if self.encode else image, 'label': i % 2}


class ImgjaxTexts(ImgjaxStripes):
    """No images."""

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, description='x', features=tfds.features
                                     .FeaturesDict({'text': tfds.features.Text()}))


class ImgjaxManual(ImgjaxStripes):
    """Files that are not downloaded."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = 'Ask the authors.'

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples()} if dl_manager.manual_dir else {}


def encoded(image, kind='JPEG', **more) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, kind, **more)
    return file.getvalue()


def test_a_tfds_set_is_prepared_and_read(tmp_path):
    result = prepare.tfds_set('imgjax_stripes', str(tmp_path))
    assert result['splits'] == {'train': 10} and result['classes'] == 2
    source = data.open_split('train', OPTIONS | {
        'name': 'imgjax_stripes', 'data_dir': str(tmp_path), 'eval_split': 'train[80%:]'})
    assert len(source.examples) == 10
    again = prepare.tfds_set('imgjax_stripes', str(tmp_path))
    assert again == result


def test_tfds_sets_that_cannot_be_prepared(tmp_path, monkeypatch):
    place = str(tmp_path)
    monkeypatch.setattr(ImgjaxStripes, 'encode', False)
    for module in [name for name in sys.modules if name.split('.')[0] == 'tensorflow']:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, 'tensorflow', None)
    with pytest.raises(ConfigError, match=r"TensorFlow .*pip install 'imgjax\[prepare\]'"):
        prepare.tfds_set('imgjax_stripes', place)
    with pytest.raises(ConfigError, match="--dataset: 'cifr10' is no TFDS dataset; did you"):
        prepare.tfds_set('cifr10', place)
    with pytest.raises(ConfigError, match='has the features text; an image, and label'):
        prepare.tfds_set('imgjax_texts', place)
    with pytest.raises(ConfigError, match="no such configuration"):
        prepare.tfds_set('imgjax_stripes/huge', place)
    with pytest.raises(ConfigError, match='--dataset: takes a TFDS name'):
        prepare.tfds_set('../evil', place)
    with pytest.raises(DataError, match='--manual_dir=.*Ask the authors'):
        prepare.tfds_set('imgjax_manual', place)

    def broken(self):
        raise KeyError('of the builder')

    monkeypatch.setattr(ImgjaxStripes, '_generate_examples', broken)
    with pytest.raises(DataError, match='imgjax_stripes: could not be prepared'):
        prepare.tfds_set('imgjax_stripes', place)


def test_imagenets_files_are_checked_before_hours_are_spent(tmp_path, monkeypatch):
    with pytest.raises(DataError, match='train.tar is missing; ILSVRC2012_img_val.tar is missing'):
        prepare.tfds_set('imagenet2012', str(tmp_path), str(tmp_path))
    for name, (size, _) in prepare.IMAGENET.items():
        with open(tmp_path / name, 'wb') as file:
            file.truncate(size)  # takes no space
    prepare.check_imagenet(str(tmp_path))
    os.truncate(tmp_path / 'ILSVRC2012_img_val.tar', 99)
    with pytest.raises(DataError, match='val.tar has 99 bytes, not 6,744,924,160; download'):
        prepare.check_imagenet(str(tmp_path))
    small = {'ILSVRC2012_img_val.tar': (99, hashlib.md5(bytes(99)).hexdigest())}
    monkeypatch.setattr(prepare, 'IMAGENET', small)
    prepare.check_imagenet(str(tmp_path), verify=True)
    monkeypatch.setattr(prepare, 'IMAGENET', {'ILSVRC2012_img_val.tar': (99, '0' * 32)})
    with pytest.raises(DataError, match='val.tar has the MD5 [0-9a-f]{32}, not 0000'):
        prepare.check_imagenet(str(tmp_path), verify=True)
    prepare.check_imagenet(str(tmp_path))


@pytest.mark.parametrize('flags, words', [
    ({}, '--dataset, --source: give one'),
    ({'dataset': 'mnist', 'source': 'folder'}, '--dataset, --source: give one'),
    ({'source': 'folder'}, '--output: empty'),
    ({'source': 'folder', 'output': 'x', 'options': '{'}, '--options: not JSON'),
    ({'source': 'folder', 'output': 'x', 'options': '[]'}, '--options: takes a JSON object'),
    ({'source': 'folder', 'output': 'x', 'pixel_range': ['0', 'no']}, "--pixel_range: .* 'no'"),
    ({'source': 'folder', 'output': 'x', 'pixel_range': ['1', '0.5']}, '--pixel_range: .*, 0.5'),
    ({'source': 'folder', 'output': 'x', 'background': ['0', '256', '0']}, '--background: .*256'),
    ({'source': 'folder', 'output': 'x'}, 'config.data.path: empty'),
])
def test_wrong_flags(flags, words):
    every = dict(dataset='', data_dir='', manual_dir='', verify=False, source='', path='',
                 options='{}', pixel_range=[], background=[], output='',
                 splits=['train'], workers=0, **SETTINGS)
    with pytest.raises(ConfigError, match=words) as caught:
        prepare.run(**every | flags)
    assert '\n' not in str(caught.value)


def test_the_guides_validation_images_get_class_folders(tmp_path):
    """docs/guides/imagenet.md, run as it is written, on three of the 50,000."""
    guide = (ROOT / 'docs' / 'guides' / 'imagenet.md').read_text()
    code, = re.findall(r'```python\n(.*?)```', guide, re.DOTALL)
    for name in ('ILSVRC2012_val_00000001', 'ILSVRC2012_val_00000002', 'ILSVRC2012_val_00050000'):
        (tmp_path / 'IMAGENET' / 'val').mkdir(parents=True, exist_ok=True)
        (tmp_path / 'IMAGENET' / 'val' / f'{name}.JPEG').write_bytes(b'x')
    twice = f'{code}\n{code}'  # again, it finds nothing to do
    subprocess.run([sys.executable, '-c', twice], cwd=tmp_path, check=True)
    place = tmp_path / 'IMAGENET' / 'val'
    found = sorted(str(p.relative_to(place)) for p in place.rglob('*.JPEG'))
    assert found == ['n01751748/ILSVRC2012_val_00000001.JPEG',
                     'n02437616/ILSVRC2012_val_00050000.JPEG',
                     'n09193705/ILSVRC2012_val_00000002.JPEG']
    flags = {flag for flag in re.findall(r'--(\w+)=', guide) if not flag.startswith('config')}
    assert flags <= {flag.name for flag in importlib.import_module('launch.prepare')._FLAGS} | {
        'workdir'}
