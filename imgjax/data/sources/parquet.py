"""Parquet files as the Hugging Face Hub stores image sets.

Files are `PATH/data/<split>-*.parquet`, `PATH/<split>-*.parquet` or `PATH/<split>/*.parquet`; the
column `image` holds {bytes, path} or bytes, the column `label` a class number (its names in the
file's metadata), a name, or a list of either, which makes the set multi-label.

Parquet has no random access, as one image needs a whole group of rows read and decompressed. So
the encoded images are copied once into one file, which is then read in place.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from imgjax.data import Source, label_columns, records, shards, source_options, split_names, splits
from imgjax.data import left_out as left_out_lib
from imgjax.data.fingerprint import fingerprint
from imgjax.data.label_columns import LabelColumn
from imgjax.errors import ConfigError, DataError, one_line

log = logging.getLogger('imgjax')


def open_split(split: str, options: dict) -> Source:
    """Opens a split of config.data.path.

    Where `train` is the only split, `held_out` (or `test`, `val`) is a share of it,
    config.data.held_out.
    Options: image and label, the columns; cache, the folder of the copy ('' is beside the files, or
    in ~/.cache/imgjax).

    Raises:
      ConfigError: pyarrow is missing, or there is no path, or no such folder, split or column.
      DataError: a file or a row cannot be read.
    """
    settings = source_options(options, image='image', label='label', cache='')
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("config.data.name: 'parquet' needs pyarrow; install it with: "
                          "pip install 'imgjax[parquet]'") from None
    path = splits.data_path(options, 'folder', 'the folder that holds <split>-*.parquet')
    every = shards.files(path, '.parquet')

    def open_one(split: str) -> Source:
        shards.check(split, every[split])
        try:
            return _open(path, every, split, settings, options)
        except pyarrow.ArrowException as error:
            raise DataError(f'{path}: {split}-*.parquet cannot be read '
                            f'({one_line(error)}); download it again') from None

    return splits.open_part(split, every, f'config.data: {path} has no {split}-*.parquet for that '
                            'split', options, open_one,
                            lambda split: label_columns.has_labels(
                                _label_column(path, settings, required=False)
                                for path in every[split]))


def _open(path: str, every: dict[str, list[str]], split: str, settings: dict,
          options: dict) -> Source:
    class_names, labels, multi_label = _labels(every, split, settings)
    column = settings['image']
    mark = records.stamp(every[split], column)
    of_column = '' if column == 'image' else f'.{fingerprint([column])[:8]}'
    name = f'{split}{of_column}'  # runs with other columns have their own copies

    def fits(place: str, index: dict) -> bool:
        copy = _copy_path(place, name, mark)
        return (len(index['size']) == len(labels) and os.path.exists(copy)
                and os.path.getsize(copy) == int(index['size'].sum()))

    place, index = records.cached_index(
        path, f'{name}.parquet', mark,
        lambda place: _copy(every[split], column, place, name, mark), fits, settings['cache'])
    index |= {'labels': labels, 'shard': np.zeros(len(labels), np.uint8),
              'offset': np.cumsum(index['size']) - index['size']}
    examples = records.Ranges([_copy_path(place, name, mark)], index, options)
    left_out = {}
    if splits.reports_unread(split, options):
        import pyarrow.parquet
        schema = pyarrow.parquet.read_schema(every[split][0])
        count_unread_columns(
            [field.name for field in schema if _holds_images(field.type)],
            [name for name in schema.names if _stored_names(schema, name)], options, left_out)
    return Source(examples, class_names, examples.fingerprint(class_names), examples.labels,
                  multi_label, left_out)


def _copy_path(place: str, name: str, mark: str) -> str:
    return os.path.join(place, f'{name}-{mark}.images')


def check_columns(there: Sequence[str], images: Sequence[str], place: str, settings: dict) -> None:
    """Checks that the columns that config.data.options names exist.

    Args:
      there: the names of all columns.
      images: the names of those that can hold images.
      place: what errors call the file or folder.
      settings: the names of the columns image and label.

    Raises:
      ConfigError: one is missing; the line lists the columns and a flag that names another.
    """
    missing = [name for name in ('image', 'label') if settings[name] not in there]
    flags = [f'--config.data.options.{name}={likely[0]}' for name in missing
             if (likely := [one for one in there if (one in images) == (name == 'image')])]
    if missing:
        words = ' and no '.join(f'column {settings[name]!r}' for name in missing)
        raise ConfigError(f'config.data.options.{missing[0]}: {place} has no {words}; it has '
                          f'{", ".join(there)}{"; give it, such as " if flags else ""}'
                          f'{" ".join(flags)}')


def count_unread_columns(images: Sequence[str], classes: Sequence[str], options: dict,
                         left_out: dict) -> None:
    """Counts columns of images or classes that are not read where no option names a column.

    Args:
      images: the columns that can hold images.
      classes: the columns that hold classes.
      options: config.data.
      left_out: where to count them.
    """
    for kind, option, names in (('images', 'image', images), ('classes', 'label', classes)):
        for name in names if option not in options.get('options', {}) else ():
            if name != option:
                left_out_lib.count(left_out, f'columns of {kind} that are not read', name)


def _labels(every: dict[str, list[str]], split: str,
            settings: dict) -> tuple[tuple[str, ...], np.ndarray, bool]:
    """Returns (class names, labels of the split, multi_label), and reads no image.

    Without names in the metadata the classes are those in the labels of all splits.
    """
    def columns(paths: Iterable[str], required: bool = True) -> list[LabelColumn]:
        return [_label_column(path, settings, required) for path in paths]

    mine = columns(every[split])
    # The order of the classes is that of train, or of another split if train has no labels.
    names = [name for name in [split_names.find('train', every), *sorted(every)] if name]
    ordered = (mine[0] if name == split else _label_column(
        every[name][0], settings, required=False) for name in names)
    first = next((column for column in ordered if column.values), mine[0])
    return label_columns.agreed(mine, first, lambda: columns(
        (path for name in sorted(set(every) - {split}) for path in every[name]), required=False))


def _label_column(path: str, settings: dict, required: bool = True) -> LabelColumn:
    """Returns the labels of a file; none if it has no such column and that is not required."""
    import pyarrow.parquet

    column = settings['label']
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            if not required and column not in schema.names:
                return LabelColumn(path, (), [])
            images = [field.name for field in schema if _holds_images(field.type)]
            check_columns(schema.names, images, path, settings)
            return LabelColumn(f'{path}: column {column!r}', _stored_names(schema, column),
                               file.read([column])[0].to_pylist())
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise DataError(f'{path}: cannot be read ({one_line(error)}); '
                        'download it again') from None


def _holds_images(kind) -> bool:
    """Returns whether an Arrow type is bytes, or a struct with bytes."""
    import pyarrow
    if pyarrow.types.is_struct(kind):
        return kind.get_field_index('bytes') >= 0
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def _stored_names(schema, column: str) -> tuple[str, ...]:
    """Returns the class names in the Hub's metadata for a column, or ()."""
    try:
        features = json.loads((schema.metadata or {}).get(b'huggingface', b'{}'))
        feature = features.get('info', {}).get('features', {}).get(column, {})
        feature = feature[0] if isinstance(feature, list) else feature.get('feature', feature)
        names = feature.get('names', ())
        return tuple(names) if all(isinstance(name, str) for name in names) else ()
    except (ValueError, AttributeError, IndexError, TypeError, RecursionError):
        return ()


def _images(path: str, column: str) -> Iterator[bytes]:
    """Yields the encoded images of a file, b'' for a row without one."""
    import pyarrow
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        kind = file.schema_arrow.field(column).type
        if pyarrow.types.is_struct(kind):
            if kind.get_field_index('bytes') < 0:
                raise ConfigError(f'config.data.options.image: {path}: column {column!r} has no '
                                  f'field bytes, it is {kind}')
            column = f'{column}.bytes'
        elif not (pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
            raise ConfigError(f'config.data.options.image: {path}: column {column!r} is {kind}; '
                              'images are bytes, or {bytes, path}')
        for batch in file.iter_batches(batch_size=64, columns=[column]):
            values = batch.column(0)
            values = values.field('bytes') if pyarrow.types.is_struct(values.type) else values
            yield from (value.as_py() or b'' for value in values)


def _copy(paths: list[str], column: str, place: str, name: str,
          mark: str) -> dict[str, np.ndarray]:
    """Writes the encoded images of `paths` into one file, and removes older copies."""
    copy = _copy_path(place, name, mark)
    need = sum(os.path.getsize(path) for path in paths)
    free = shutil.disk_usage(place).free
    if need > 0.98 * free:
        raise DataError(f'{place}: a copy in random access takes {need / 2**30:.1f} GiB, free are '
                        f'{free / 2**30:.1f}; set config.data.options.cache to another folder')
    log.info('%s: copying %.1f GiB of images for random access, once', place, need / 2**30)
    old = [entry.path for entry in os.scandir(place)
           if re.fullmatch(rf'{re.escape(name)}-[0-9a-f]{{16}}\.images(\.tmp)?', entry.name)]
    sizes, names = [], []
    try:
        with open(f'{copy}.tmp', 'wb') as file:
            for path in paths:
                for row, image in enumerate(_images(path, column)):
                    file.write(image)
                    sizes.append(len(image))
                    names.append(f'{os.path.basename(path)}[{row}]')
        if not sizes:
            raise DataError(f'{paths[0]}: has no rows')
        if not any(sizes):
            raise DataError(f'{paths[0]}: column {column!r} stores no bytes; save the set with its '
                            'images embedded')
    except BaseException:
        os.remove(f'{copy}.tmp')
        raise
    os.replace(f'{copy}.tmp', copy)
    for path in set(old) - {copy, f'{copy}.tmp'}:
        os.remove(path)  # of files that have changed, or of a run that was killed
    return {'size': np.array(sizes, np.int64), 'names': records.pack_names(names)}
