"""Makes a smaller copy of any source, as tar files that imgjax.data.sources.tar reads."""

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
    """Writes a copy of a source with smaller images as tar files.

    The bytes of the files depend on the source and the settings alone. If the command was
    interrupted, the next call goes on: complete files stay, and the bytes are the same in the end.

    Args:
      options: the fields of config.data that name the source; the others have their defaults.
      output: the folder of the copy.
      splits: a list of split names, or NAME=SPLIT where SPLIT may be a slice such as train[:90%].
      shorter_side: pixels that the shorter side is reduced to; smaller images keep their bytes. 0
        reduces no image.
      quality: the quality of the JPEGs, 1 to 100.
      shard_size: the number of images per file.
      workers: the number of threads; 0 is one per core.

    Returns output, splits ({name: number of images}), classes (their number) and unreadable (the
    number of images that are left out; OUTPUT/unreadable.txt names them).

    Raises:
      ConfigError: `output` has other files, or a copy with other settings.
      DataError: no image of a split can be read, or no split has the classes of all splits.
    """
    options = {name.removeprefix('data.'): field.default
               for name, field in config_lib.FIELDS.items()
               if name.startswith('data.') and not name.endswith(('name', '_split'))} | options
    pairs = dict(_output_split(entry) for entry in splits)
    evaluated = [spec for spec in pairs.values()
                 if any(map(split_names.is_held_out, split_names.bare(spec)))]
    if evaluated:  # without it, held-out images are left out
        options = options | {'eval_split': '+'.join(evaluated)}
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
    for name, count in counts.items():
        if not count:
            raise DataError(f'{output}: not one image of {name!r} could be read; see '
                            f'{output}/unreadable.txt')
    if unreadable:
        log.warning('%d images could not be read and are left out: %s/unreadable.txt',
                    unreadable, output)
    return {'output': os.path.abspath(output), 'splits': counts,
            'classes': len(class_names), 'unreadable': unreadable}


def _output_split(entry: str) -> tuple[str, str]:
    name, _, spec = entry.partition('=')
    if not re.fullmatch(r'[a-z0-9_]+', name):
        raise ConfigError(f'--splits: takes names of a-z, 0-9 and _, or NAME=SPLIT such as '
                          f'train=train[:90%], got {entry!r}')
    return name, spec or name


def _check_output(output: str, path: str) -> None:
    """Checks, before the source is listed, that `output` may be written and lies outside of it."""
    if _read_prepared(output) is None:
        outputs.check_folder('output', output, 'launch.prepare')
    source = os.path.realpath(os.path.expanduser(path))
    if path and os.path.isdir(source) and os.path.commonpath(
            [source, os.path.realpath(output)]) == source:
        raise ConfigError(f'--output={output}: lies in the source, --path={path}, which would have '
                          'other images then; take a folder outside')


def _read_prepared(output: str) -> dict | None:
    """Returns the prepared.json of a copy that was begun in a folder; None if there is none."""
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
    """Writes prepared.json, or checks that a copy that was begun has the same source and settings.
    """
    path = os.path.join(output, 'prepared.json')
    class_names = list(next(iter(sources.values())).class_names)
    if any('\n' in name or name != name.strip() or not name for name in class_names):
        raise DataError('a class name is empty, has blanks around it or a line break; rename it')
    begun = {'settings': settings, 'class_names': class_names, 'splits': {}}
    stored = _read_prepared(output)
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
    """Writes the missing files of a split; returns the number of images in all its files."""
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
    """Returns (file content, extension, label), or the error of an unreadable image in one line."""
    try:
        example = source.examples[row]
        return *reduce(example, options, shorter_side, quality), example['label']
    except decode.Unreadable as error:
        return str(error)


def reduce(example: dict, options: dict, shorter_side: int, quality: int) -> tuple[bytes, str]:
    """Returns (file content, extension) of an image whose shorter side is at most `shorter_side`.

    An image that is small enough keeps its bytes; a small array becomes a PNG, and so does a small
    image that pixel_range or background of `options` changes. Larger images are resized by Pillow
    (bicubic, antialiased) in the orientation in which they are stored, and become JPEGs (4:2:0)
    that keep their EXIF orientation. A grayscale image stays grayscale. Restart markers, a few in
    every row of blocks, allow to decode a crop without most of the pixels around it.

    Args:
      example: {'image': file content or uint8 (H, W, C), 'name': str}.
      options: config.data of the source, with its limits.
      shorter_side: in pixels; 0 reduces no image.
      quality: the quality of the JPEGs, 1 to 100.

    Raises:
      decode.Unreadable: the image is damaged, or exceeds the limits.
    """
    encoded, file = example['image'], io.BytesIO()
    small = not shorter_side or min(decode.image_size(example, options)) <= shorter_side
    if isinstance(encoded, np.ndarray):
        transparent = encoded.shape[-1] == 4
        stored = decode.Stored(encoded.shape[-1] == 1, 'PNG', 1, transparent, False)
    else:
        stored = decode.stored(example)
    painted = stored.transparent and options['background']
    keeps_bytes = not isinstance(encoded, np.ndarray) and not painted and not (
        stored.more_than_bytes and options['pixel_range'])
    gray = stored.gray and not (painted and len(set(painted)) > 1)
    # Decoded in any case, so that a copy has no image that a run could not read.
    pixels = decode.whole(example, options | {'channels': 1 if gray else 3})
    if small and keeps_bytes:
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
    blocks_across = -(-image.width // (8 if gray else 16))
    image.save(file, 'JPEG', quality=quality, subsampling='4:2:0',
               restart_marker_blocks=_blocks_between_markers(blocks_across), **more)
    return file.getvalue(), '.jpg'


def _blocks_between_markers(across: int) -> int:
    """Returns the number of blocks between two restart markers, for rows of `across` blocks.

    It is the smallest divisor of `across` that is at least 3 (or `across`, if that is less): a
    divisor puts the markers at the same places in all rows. A marker takes about 4 bytes.
    """
    return next(blocks for blocks in range(min(3, across), across + 1) if not across % blocks)


def _write_shard(path: str, rows: range, encoded, bar) -> None:
    unreadable = []
    # A new TarInfo has no time and no user, so that equal input gives equal bytes.
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
    if unreadable:  # written first, so that no complete file lacks its list
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
    """Writes unreadable.txt from the lists of all files; returns the number of its lines."""
    notes = sorted(name for name in os.listdir(output) if name.endswith('.tar.unreadable'))
    lines = [line for name in notes for line in _lines(os.path.join(output, name))]
    path = os.path.join(output, 'unreadable.txt')
    if lines:
        with files.replacing(path) as file:
            file.writelines(f'{line}\n' for line in lines)
    return len(lines)
