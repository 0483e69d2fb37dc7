"""A smaller copy of any source, as tar files that imgjax.data.sources.tar reads."""

import concurrent.futures
import io
import json
import logging
import os
import re
import tarfile

import numpy as np
from PIL import ExifTags, Image

from imgjax import config as config_lib
from imgjax import data
from imgjax.data import Source, classes, decode, split_names
from imgjax.errors import ConfigError, DataError
from imgjax.process import lock, terminal
from imgjax.rundir import files, outputs

log = logging.getLogger('imgjax')


def write(options: dict, output: str, splits: list[str], *, shorter_side: int, quality: int,
          shard_size: int = 2048, workers: int = 0) -> dict:
    """Makes a copy of a source as tar files, its images made smaller.

    Files depend on the source and the settings alone. A copy that was cut off goes on: whole files
    are kept, and it ends with the same bytes.

    Args:
      options: of config.data, those that say what the source is; others are as by default.
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
      DataError: not one image can be read, or no split has the classes of all.
    """
    options = {name.removeprefix('data.'): field.default
               for name, field in config_lib.FIELDS.items()
               if name.startswith('data.') and not name.endswith(('name', '_split'))} | options
    pairs = dict(_output_split(entry) for entry in splits)
    evaluated = [spec for spec in pairs.values()
                 if any(map(split_names.is_held_out, split_names.bare(spec)))]
    if evaluated:
        options = options | {'eval_split': '+'.join(evaluated)}  # else what is held out is left out
    output = outputs.path('output', output)
    _check_output(output, options['path'])
    sources = {name: data.open_split(spec, options) for name, spec in pairs.items()}
    class_names = max((source.class_names for source in sources.values()), key=len)
    sources = {name: classes.renumbered(source, class_names, name)
               for name, source in sources.items()}
    made = outputs.make_folder(output)
    with lock.run_lock(output):
        said = {name: options[name] for name in ('pixel_range', 'background') if options[name]}
        try:
            _begin(output, sources, dict(shorter_side=shorter_side, quality=quality,
                                         shard_size=shard_size, **said))
        finally:
            outputs.remove_unused(output, made)
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


def _check_output(output: str, path: str) -> None:
    """Checks that the copy has a folder of its own, before the source is listed."""
    if _stored(output) is None:
        outputs.check_folder('output', output, 'launch.prepare')
    source = os.path.realpath(os.path.expanduser(path))
    if path and os.path.isdir(source) and os.path.commonpath(
            [source, os.path.realpath(output)]) == source:
        raise ConfigError(f'--output={output}: lies in the source, --path={path}, which would have '
                          'other images then; take a folder outside')


def _stored(output: str) -> dict | None:
    """Returns what a copy that was begun in a folder was made of; None where there is none."""
    path = os.path.join(output, 'prepared.json')
    if not os.path.lexists(path):
        return None
    try:
        stored = files.read_json(path)
        return {'settings': dict(stored['settings']), 'splits': dict(stored['splits']),
                'class_names': list(stored['class_names'])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f'{path}: cannot be used ({error}); take another --output') from None


def _begin(output: str, sources: dict[str, Source], settings: dict) -> None:
    """Notes what the copy is made of, or checks that it is what was begun there."""
    path = os.path.join(output, 'prepared.json')
    class_names = list(next(iter(sources.values())).class_names)
    if any('\n' in name or name != name.strip() or not name for name in class_names):
        raise DataError('a class name is empty, has blanks around it or a line break; rename it')
    begun = {'settings': settings, 'class_names': class_names, 'splits': {}}
    stored = _stored(output)
    if stored is not None:
        begun['splits'] = stored['splits']
        if any(stored[key] != begun[key] for key in ('settings', 'class_names')):
            raise ConfigError(f'--output={output}: holds a copy made with '
                              f'{json.dumps(stored["settings"])}, or of other classes; give the '
                              'same flags or take another --output')
    for name, source in sources.items():
        before = begun['splits'].setdefault(name, source.fingerprint)
        if before != source.fingerprint:
            raise ConfigError(f'--output={output}: its {name!r} was made of other images; take '
                              'another --output')
    config_lib.write_json(path, begun)
    with files.replacing(os.path.join(output, 'classnames.txt')) as file:
        file.writelines(f'{name}\n' for name in class_names)


def _copy_split(output: str, split: str, source: Source, options: dict, shorter_side: int,
                quality: int, shard_size: int, workers: int) -> int:
    """Writes the files of a split that are not there yet; returns how many images all hold."""
    total = len(source.examples)
    shards = -(-total // shard_size)
    left_out = 0
    with (concurrent.futures.ThreadPoolExecutor(workers) as threads,
          terminal.progress(total, 0, 'images') as bar):
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

    What is small enough keeps its bytes; an array becomes a PNG, and so does what pixel_range or
    background of `options` change. Others are resized by Pillow
    (bicubic, antialiased) as they are stored and become JPEGs (4:2:0) that keep their EXIF
    orientation; grayscale stays so. Restart markers, a few in every row of blocks, let a crop be
    decoded without most of what surrounds it.

    Args:
      example: {'image': file content or uint8 (H, W, C), 'name': str}.
      options: config.data of the source, its limits.
      shorter_side: pixels; 0 reduces nothing.
      quality: of the JPEGs, 1 to 100.

    Raises:
      decode.Unreadable: it is no sound image, or beyond the limits.
    """
    encoded, file = example['image'], io.BytesIO()
    small = not shorter_side or min(decode.image_size(example, options)) <= shorter_side
    if isinstance(encoded, np.ndarray):
        transparent = encoded.shape[-1] == 4
        stored = decode.Stored(encoded.shape[-1] == 1, 'PNG', 1, transparent, False)
    else:
        stored = decode.stored(example)
    painted = stored.transparent and options['background']
    kept = not isinstance(encoded, np.ndarray) and not painted and not (
        stored.more_than_bytes and options['pixel_range'])
    gray = stored.gray and not (painted and len(set(painted)) > 1)
    # Decoded in any case: a copy holds no image that a run would find broken.
    pixels = decode.whole(example, options | {'channels': 1 if gray else 3})
    if small and kept:
        return encoded, decode.EXTENSION_OF[stored.format]
    image = Image.fromarray(pixels[..., 0] if gray else pixels)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = stored.orientation
    more = {'exif': exif} if stored.orientation > 1 else {}
    if small:
        image.save(file, 'PNG', **more)
        return file.getvalue(), '.png'
    scale = shorter_side / min(image.size)
    image = image.resize(tuple(max(shorter_side, round(side * scale)) for side in image.size),
                         Image.Resampling.BICUBIC)
    image.save(file, 'JPEG', quality=quality, subsampling='4:2:0',
               restart_marker_blocks=_interval(-(-image.width // (8 if gray else 16))), **more)
    return file.getvalue(), '.jpg'


def _interval(across: int) -> int:
    """Returns how many of the blocks of a row lie between two restart markers: 3, or the next more
    that divides the row, as all rows shall be cut alike. Each costs about 4 bytes."""
    return next(blocks for blocks in range(min(3, across), across + 1) if not across % blocks)


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
        with files.replacing(f'{path}.unreadable') as file:
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
        with files.replacing(path) as file:
            file.writelines(f'{line}\n' for line in lines)
    return len(lines)
