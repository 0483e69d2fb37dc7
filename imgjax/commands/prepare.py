"""Prepares datasets: downloads TFDS sets as ArrayRecord, or makes a smaller copy of any source."""

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import sys

from imgjax.commands import reduce
from imgjax.config import values
from imgjax.data.sources import tfds as tfds_source
from imgjax.errors import ConfigError, DataError, RunError
from imgjax.process import terminal

# The files of https://image-net.org/download-images (after registration): (bytes, MD5).
IMAGENET = {
    'ILSVRC2012_img_train.tar': (147_897_477_120, '1d675b47d978889d74fa0da5fadfb00e'),
    'ILSVRC2012_img_val.tar': (6_744_924_160, '29b22e2961454d5413ddabcf34fc5622'),
}
NEED_IMAGENET = ('imagenet2012', 'imagenet2012_subset')


def run(*, dataset: str, data_dir: str, manual_dir: str, verify: bool, source: str, path: str,
        options: str, pixel_range: list[str], background: list[str], output: str,
        splits: list[str], shorter_side: int, quality: int, shard_size: int, workers: int) -> dict:
    """Prepares `dataset` or copies `source`; the arguments are the flags of launch.prepare."""
    if bool(dataset) == bool(source):
        raise ConfigError('--dataset, --source: give one of them: a TFDS dataset to prepare, or a '
                          'source to copy')
    if dataset:
        return tfds_set(dataset, data_dir, manual_dir, verify)
    if not output:
        raise ConfigError('--output: empty; name the folder to write the copy to')
    try:
        source_options = json.loads(options)
    except ValueError as error:
        raise ConfigError(f'--options: not JSON ({error}); write it such as '
                          '--options=\'{"image": "photo"}\'') from None
    if not isinstance(source_options, dict):
        raise ConfigError(f'--options: takes a JSON object, got {options}')
    where = dict(name=source, path=path, data_dir=data_dir, channels=3, options=source_options,
                 pixel_range=list(map(_number, pixel_range)),
                 background=list(map(_number, background)))
    values.check_pixel_values(where, '--')
    return reduce.write(where, output, splits, shorter_side=shorter_side, quality=quality,
                        shard_size=shard_size, workers=workers)


def _number(text: str) -> int | float | str:
    """Returns a text as a number; if it is none, the text itself, which the error will show."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def tfds_set(dataset: str, data_dir: str = '', manual_dir: str = '', verify: bool = False) -> dict:
    """Downloads and prepares a TFDS set as ArrayRecord, which training reads without TensorFlow.

    Args:
      dataset: its name in TFDS, or NAME/CONFIG.
      data_dir: the folder to write to; '' is TFDS_DATA_DIR or ~/tensorflow_datasets.
      manual_dir: the folder of files that TFDS does not download; '' is DATA_DIR/downloads/manual.
      verify: whether to check the MD5 of ImageNet's files, too.

    Returns dataset, path, splits ({name: number of examples}) and classes (their number).

    Raises:
      ConfigError: there is no such dataset, it has no images with labels, or TensorFlow is not
        installed and is needed.
      DataError: a file is missing or damaged, or the download failed.
    """
    name, _, config = dataset.partition('/')
    if not re.fullmatch(r'[a-z0-9_]+', name):
        raise ConfigError(f'--dataset: takes a TFDS name of a-z, 0-9 and _, got {dataset!r}')
    place = tfds_source.data_dir({'data_dir': data_dir})
    builder = tfds_source.find_builder(name, place, config, field='--dataset')
    classes, _ = tfds_source.image_classes(builder)
    if not builder.info.splits:
        manual_dir = os.path.expanduser(manual_dir) or os.path.join(place, 'downloads', 'manual')
        if name in NEED_IMAGENET:
            check_imagenet(manual_dir, verify)
            if not importlib.util.find_spec('tensorflow'):
                raise ConfigError(_needs_tensorflow(dataset))
        builder = tfds_source.find_builder(name, place, config, field='--dataset',
                                           file_format='array_record')
        _download_and_prepare(builder, dataset, manual_dir)
    for split in builder.info.splits:
        tfds_source.open_whole(builder, split)  # raises an error if it has another format
    return {'dataset': dataset, 'path': os.fspath(builder.data_path),
            'splits': {split: info.num_examples for split, info in builder.info.splits.items()},
            'classes': classes.num_classes}


def _needs_tensorflow(dataset: str) -> str:
    return (f'--dataset: {dataset!r} is prepared with TensorFlow (training does without); install '
            "it with: pip install 'imgjax[prepare]'")


def _download_and_prepare(builder, dataset: str, manual_dir: str) -> None:
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    manual = manual_dir if os.path.isdir(manual_dir) else None
    try:
        with contextlib.redirect_stdout(sys.stderr):  # only the result may be on stdout
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=manual))
    except RunError:
        raise
    except Exception as error:  # the code of a TFDS builder may raise anything
        text = ' '.join(str(error).split())
        if isinstance(error, ImportError) and 'tensorflow' in text:
            raise ConfigError(_needs_tensorflow(dataset)) from None
        text = text[:300]
        if isinstance(error, ImportError):
            raise ConfigError(f'--dataset: {dataset!r} needs a package that is not here: '
                              f'{text}') from None
        if isinstance(error, AssertionError) and 'anual' in text:
            raise DataError(f'--manual_dir={manual_dir}: {text}') from None
        raise DataError(f'{dataset}: could not be prepared ({type(error).__name__}: {text}); the '
                        'same command tries again') from None


def check_imagenet(manual_dir: str, verify: bool = False) -> None:
    """Checks ImageNet's two files before TFDS spends hours on them.

    Raises:
      DataError: names every file that is missing, has another size or, with `verify`, another MD5.
    """
    wrong = []
    for name, (size, md5) in IMAGENET.items():
        path = os.path.join(manual_dir, name)
        if not os.path.isfile(path):
            wrong.append(f'{name} is missing')
        elif os.path.getsize(path) != size:
            wrong.append(f'{name} has {os.path.getsize(path):,} bytes, not {size:,}')
        elif verify and (found := _md5(path)) != md5:
            wrong.append(f'{name} has the MD5 {found}, not {md5}')
    if wrong:
        raise DataError(f'--manual_dir={manual_dir}: {"; ".join(wrong)}; download from '
                        'https://image-net.org/download-images (docs/guides/imagenet.md)')


def _md5(path: str) -> str:
    mark = hashlib.md5(usedforsecurity=False)
    with open(path, 'rb') as file, terminal.progress(os.path.getsize(path), 0, 'B') as bar:
        while block := file.read(2**24):
            mark.update(block)
            bar.update(len(block))
    return mark.hexdigest()
