"""Datasets made ready before a run: TFDS sets as ArrayRecord, and smaller copies of any source."""

import concurrent.futures
import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import re
import sys
import tarfile

import numpy as np
from PIL import ExifTags, Image

from imgjax import config as config_lib
from imgjax import data, metrics, runtime
from imgjax.data import Source, decode
from imgjax.data import tfds as tfds_source
from imgjax.errors import ConfigError, DataError, RunError

log = logging.getLogger('imgjax')

# What https://image-net.org/download-images gives after registration: bytes and MD5.
IMAGENET = {
    'ILSVRC2012_img_train.tar': (147_897_477_120, '1d675b47d978889d74fa0da5fadfb00e'),
    'ILSVRC2012_img_val.tar': (6_744_924_160, '29b22e2961454d5413ddabcf34fc5622'),
}
NEED_IMAGENET = ('imagenet2012', 'imagenet2012_subset')


def run(*, dataset: str, data_dir: str, manual_dir: str, verify: bool, source: str, path: str,
        options: str, output: str, splits: list[str], shorter_side: int, quality: int,
        shard_size: int, workers: int) -> dict:
    """Does what the flags of launch.prepare ask for: prepares `dataset`, or copies `source`."""
    if bool(dataset) == bool(source):
        raise ConfigError('--dataset, --source: give one: a TFDS set to prepare, or a source to '
                          'make a copy of')
    if dataset:
        return tfds_set(dataset, data_dir, manual_dir, verify)
    if not output:
        raise ConfigError('--output: empty; name the folder that the copy shall have')
    try:
        source_options = json.loads(options)
    except ValueError as error:
        raise ConfigError(f'--options: not JSON ({error}); write it such as '
                          '--options=\'{"image": "photo"}\'') from None
    if not isinstance(source_options, dict):
        raise ConfigError(f'--options: takes a JSON object, got {options}')
    where = dict(name=source, path=path, data_dir=data_dir, channels=3, options=source_options)
    return copy(where, output, splits, shorter_side=shorter_side, quality=quality,
                shard_size=shard_size, workers=workers)


def tfds_set(dataset: str, data_dir: str = '', manual_dir: str = '', verify: bool = False) -> dict:
    """Downloads and prepares a TFDS set as ArrayRecord, which training reads without TensorFlow.

    Args:
      dataset: TFDS's name of it, or NAME/CONFIG.
      data_dir: where it shall lie; '' is TFDS_DATA_DIR or ~/tensorflow_datasets.
      manual_dir: where files lie that TFDS does not download; '' is DATA_DIR/downloads/manual.
      verify: of ImageNet's files, checks the MD5 too.

    Returns dataset, path, splits (examples of each) and classes.

    Raises:
      ConfigError: no such dataset, no images with labels in it, or TensorFlow is needed.
      DataError: a file is missing or damaged, or the download fails.
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
        tfds_source.open_builder(builder, split)  # says what to do if it is of another format
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
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=manual))
    except RunError:
        raise
    except Exception as error:  # the code of any of a thousand builders
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
                        'https://image-net.org/download-images (docs/imagenet.md)')


def _md5(path: str) -> str:
    mark = hashlib.md5(usedforsecurity=False)
    with open(path, 'rb') as file, metrics.progress(os.path.getsize(path), 0, 'B') as bar:
        while block := file.read(2**24):
            mark.update(block)
            bar.update(len(block))
    return mark.hexdigest()


def copy(options: dict, output: str, splits: list[str], *, shorter_side: int, quality: int,
         shard_size: int = 2048, workers: int = 0) -> dict:
    """Makes a copy of a source as tar files that imgjax.data.tar reads, its images made smaller.

    Files depend on the source and the settings alone. A copy that was cut off goes on: whole files
    are kept, and it ends with the same bytes.

    Args:
      options: of config['data'], those that say what the source is; others are as by default.
      output: the folder of the copy.
      splits: each a split, or NAME=SPLIT where SPLIT may be a slice such as train[:90%].
      shorter_side: pixels that the shorter side is reduced to; smaller images keep their bytes,
        all of them where it is 0.
      quality: of the JPEGs, 1 to 100.
      shard_size: images of a file.
      workers: threads; 0 is one a core.

    Returns output, splits (images of each), classes and unreadable: how many images are left out,
    which OUTPUT/unreadable.txt names.

    Raises:
      ConfigError: what is in `output` is no such copy, or one with other settings.
      DataError: not one image can be read.
    """
    options = {name.removeprefix('data.'): field.before
               for name, field in config_lib.FIELDS.items()
               if name.startswith('data.') and field.before is not None} | options
    pairs = dict(_output_split(entry) for entry in splits)
    sources = {name: data.open_split(spec, options) for name, spec in pairs.items()}
    output = os.path.expanduser(output)
    os.makedirs(output, exist_ok=True)
    with runtime.run_lock(output):
        _begin(output, sources, dict(shorter_side=shorter_side, quality=quality,
                                     shard_size=shard_size))
        counts = {name: _copy_split(output, name, source, options, shorter_side, quality,
                                    shard_size, workers or os.cpu_count())
                  for name, source in sources.items()}
        unreadable = _gather_unreadable(output)
    first = next(iter(sources.values()))
    for name, count in counts.items():
        if not count:
            raise DataError(f'{output}: not one image of {name!r} could be read; see '
                            f'{output}/unreadable.txt')
    if unreadable:
        log.warning('%d images could not be read and are left out: %s/unreadable.txt',
                    unreadable, output)
    return {'output': os.path.abspath(output), 'splits': counts,
            'classes': len(first.class_names), 'unreadable': unreadable}


def _output_split(entry: str) -> tuple[str, str]:
    name, _, spec = entry.partition('=')
    if not re.fullmatch(r'[a-z0-9_]+', name):
        raise ConfigError(f'--splits: takes names of a-z, 0-9 and _, or NAME=SPLIT such as '
                          f'train=train[:90%], got {entry!r}')
    return name, spec or name


def _begin(output: str, sources: dict[str, Source], settings: dict) -> None:
    """Notes what the copy is made of, or checks that it is what was begun there."""
    path = os.path.join(output, 'prepared.json')
    class_names = list(next(iter(sources.values())).class_names)
    if any(list(source.class_names) != class_names for source in sources.values()):
        raise ConfigError(f'--splits: {", ".join(sources)} have other classes')
    if any('\n' in name or name != name.strip() or not name for name in class_names):
        raise DataError('a class name is empty, has blanks around it or a line break; rename it')
    begun = {'settings': settings, 'class_names': class_names, 'splits': {}}
    if os.path.exists(path):
        try:
            with open(path, encoding='utf-8') as file:
                stored = json.load(file)
            same = all(stored[key] == begun[key] for key in ('settings', 'class_names'))
            begun['splits'] = dict(stored['splits'])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f'{path}: cannot be used ({error}); take another --output') from None
        if not same:
            raise ConfigError(f'--output={output}: holds a copy made with '
                              f'{json.dumps(stored["settings"])}, or of other classes; give the '
                              'same flags or take another --output')
    elif other := sorted(set(os.listdir(output)) - {'lock', 'prepared.json.tmp'}):
        raise ConfigError(f'--output={output}: holds {other[0]!r} but no copy; take an empty one')
    for name, source in sources.items():
        before = begun['splits'].setdefault(name, source.fingerprint)
        if before != source.fingerprint:
            raise ConfigError(f'--output={output}: its {name!r} was made of other images; take '
                              'another --output')
    config_lib.write_json(path, begun)
    with open(os.path.join(output, 'classnames.txt'), 'w', encoding='utf-8') as file:
        file.writelines(f'{name}\n' for name in class_names)


def _copy_split(output: str, split: str, source: Source, options: dict, shorter_side: int,
                quality: int, shard_size: int, workers: int) -> int:
    """Writes the files of a split that are not there yet; returns how many images all hold."""
    total = len(source.examples)
    shards = -(-total // shard_size)
    left_out = 0
    with (concurrent.futures.ThreadPoolExecutor(workers) as threads,
          metrics.progress(total, 0, 'images') as bar):
        for shard in range(shards):
            path = os.path.join(output, f'{split}-{shard:05d}-of-{shards:05d}.tar')
            rows = range(shard * shard_size, min((shard + 1) * shard_size, total))
            if not os.path.exists(path):
                encoded = threads.map(
                    lambda row: _reduced(source, row, options, shorter_side, quality), rows)
                try:
                    _write_shard(path, rows, encoded, bar)
                except BaseException:
                    threads.shutdown(cancel_futures=True)
                    raise
            else:
                bar.update(len(rows))
            left_out += len(_lines(f'{path}.unreadable'))
    return total - left_out


def _reduced(source: Source, row: int, options: dict, shorter_side: int, quality: int):
    """Returns (file content, extension, label), or the line that says why there is none."""
    try:
        example = source.examples[row]
        return *reduce(example, options, shorter_side, quality), example['label']
    except decode.Unreadable as error:
        return str(error)


def reduce(example: dict, options: dict, shorter_side: int, quality: int) -> tuple[bytes, str]:
    """Returns (file content, extension) of an image whose shorter side is at most `shorter_side`.

    What is small enough keeps its bytes; an array becomes a PNG. Others are resized by Pillow
    (bicubic, antialiased) as they are stored and become JPEGs (4:2:0) that keep their EXIF
    orientation; grayscale stays so. A restart marker after every row of blocks lets a crop be
    decoded without the rows above it.

    Args:
      example: {'image': file content or uint8 (H, W, C), 'name': str}.
      options: config['data'] of the source, its limits.
      shorter_side: pixels; 0 reduces nothing.
      quality: of the JPEGs, 1 to 100.

    Raises:
      decode.Unreadable: it is no sound image, or beyond the limits.
    """
    encoded, file = example['image'], io.BytesIO()
    small = not shorter_side or min(decode.image_size(example, options)) <= shorter_side
    if isinstance(encoded, np.ndarray):
        gray, kind, orientation = encoded.shape[-1] == 1, 'PNG', 1
    else:
        gray, kind, orientation = decode.stored(example)
    # Decoded in any case: a copy holds no image that a run would find broken.
    pixels = decode.whole(example, options | {'channels': 1 if gray else 3})
    if small and not isinstance(encoded, np.ndarray):
        return encoded, decode.EXTENSION_OF[kind]
    image = Image.fromarray(pixels[..., 0] if gray else pixels)
    if small:
        image.save(file, 'PNG')
        return file.getvalue(), '.png'
    scale = shorter_side / min(image.size)
    image = image.resize(tuple(max(shorter_side, round(side * scale)) for side in image.size),
                         Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    more = {'exif': exif} if orientation > 1 else {}
    image.save(file, 'JPEG', quality=quality, subsampling='4:2:0', restart_marker_rows=1,
               **more)
    return file.getvalue(), '.jpg'


def _write_shard(path: str, rows: range, encoded, bar) -> None:
    unreadable = []
    # Equal input gives equal bytes: tarfile's own TarInfo has no time and no user.
    with open(f'{path}.tmp', 'wb') as file:
        with tarfile.open(fileobj=file, mode='w', format=tarfile.USTAR_FORMAT) as tar:
            for row, result in zip(rows, encoded, strict=True):
                if isinstance(result, str):
                    unreadable.append(result)
                else:
                    image, extension, label = result
                    _add(tar, f'{row:08d}{extension}', image)
                    if isinstance(label, int):
                        _add(tar, f'{row:08d}.cls', str(label).encode())
                    else:
                        numbers = np.flatnonzero(label).tolist()
                        _add(tar, f'{row:08d}.json', json.dumps({'label': numbers}).encode())
                bar.update(1)
        file.flush()
        os.fsync(file.fileno())
    if unreadable:  # noted first: a file that is there has its note
        with open(f'{path}.unreadable', 'w', encoding='utf-8') as file:
            file.writelines(f'{line}\n' for line in unreadable)
    os.replace(f'{path}.tmp', path)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _lines(path: str) -> list[str]:
    if not os.path.exists(path):
        return []
    with open(path, encoding='utf-8') as file:
        return file.read().splitlines()


def _gather_unreadable(output: str) -> int:
    """Writes unreadable.txt of the notes of all files; returns its lines."""
    notes = sorted(name for name in os.listdir(output) if name.endswith('.tar.unreadable'))
    lines = [line for name in notes for line in _lines(os.path.join(output, name))]
    path = os.path.join(output, 'unreadable.txt')
    if lines:
        with open(path, 'w', encoding='utf-8') as file:
            file.writelines(f'{line}\n' for line in lines)
    return len(lines)
