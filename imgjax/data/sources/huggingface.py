"""Datasets that Hugging Face's `datasets` saved with `save_to_disk`, read with that library.

The column `image` holds images; `label` holds a class number, a name, or a list of either, which
makes the set multi-label. Images stay encoded.
"""

import os
from collections.abc import Sequence

import numpy as np

from imgjax.data import Source, label_columns, source_options, split_names, splits
from imgjax.data import labels as labels_lib
from imgjax.data.fingerprint import fingerprint
from imgjax.data.label_columns import LabelColumn
from imgjax.data.sources import parquet
from imgjax.errors import ConfigError, DataError, one_line


class _Examples:
    """Examples from the rows of a Dataset, whose files are mapped into memory."""

    def __init__(self, dataset, column: str, labels: np.ndarray, name: str):
        self._dataset = dataset
        self._column = column
        self._labels = labels
        self._name = name

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        images = self._dataset[[int(index) for index in indices]][self._column]
        return [self._example(index, image) for index, image in zip(indices, images, strict=True)]

    def _example(self, index: int, image: dict | None) -> dict:
        name = f'{self._name}[{index}]'
        if not image or image['bytes'] is None:
            raise DataError(f'{name}: has no bytes; save the set with its images embedded')
        return {'image': image['bytes'], 'label': labels_lib.at(self._labels, index), 'name': name}

    def labels(self) -> np.ndarray:
        return labels_lib.whole(self._labels)


def open_split(split: str, options: dict) -> Source:
    """Opens a split of config.data.path; a Dataset without splits is `train`.

    Where `train` is the only split, `held_out` (or `test`, `val`) is a share of it,
    config.data.held_out.
    Options: image and label, the columns.

    Raises:
      ConfigError: `datasets` is missing, or there is no path, or no such folder, split or column.
      DataError: the set cannot be read.
    """
    settings = source_options(options, image='image', label='label')
    path = splits.data_path(options, 'folder', 'the folder that Dataset.save_to_disk wrote')
    every = _load(path)
    return splits.open_part(
        split, every, f'config.data: {path} has no split {split!r}', options,
        lambda split: _open(every, split, settings, path, options),
        lambda split: label_columns.has_labels(
            _label_column(every, split, settings['label'], path)
            for split in [split] if settings['label'] in every[split].column_names))


def _load(path: str) -> dict:
    """Returns {split: Dataset} of a folder, whose splits may have been saved one by one."""
    try:
        import datasets
    except ImportError:
        raise ConfigError("config.data.name: 'huggingface' needs the library datasets; install it "
                          "with: pip install 'imgjax[huggingface]'") from None
    marks = {'state.json', 'dataset_dict.json'}
    try:
        if not marks & set(os.listdir(path)):
            each = [name for name in sorted(os.listdir(path))
                    if os.path.exists(os.path.join(path, name, 'state.json'))]
            if each:
                return {name: datasets.load_from_disk(os.path.join(path, name)) for name in each}
        every = datasets.load_from_disk(path)
    except FileNotFoundError as error:
        if str(error.filename).endswith('.arrow'):
            raise DataError(f'{error.filename}: is missing; save or copy the set again') from None
        raise _refusal(path, error) from None
    except Exception as error:  # whatever its files make Arrow, JSON or the library raise
        raise _refusal(path, error) from None
    return every if isinstance(every, dict) else {'train': every}


def _refusal(path: str, error: Exception) -> DataError:
    return DataError(f'{path}: not what Dataset.save_to_disk writes '
                     f'({one_line(error)})')


def _open(every: dict, split: str, settings: dict, path: str, options: dict) -> Source:
    import datasets

    features = every[split].features
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    parquet.check_columns(list(features), images, path, settings)
    if not isinstance(features[settings['image']], datasets.Image):
        raise ConfigError(f'config.data.options.image: {path}: column {settings["image"]!r} is no '
                          'column of images; cast it to datasets.Image()')
    dataset = every[split].select_columns([settings['image']]).cast_column(
        settings['image'], datasets.Image(decode=False))
    class_names, labels, multi_label = _labels(every, split, settings['label'], path)
    files = [file['filename'] for file in dataset.cache_files]
    mark = fingerprint([
        '\0'.join([split, *class_names]), np.ascontiguousarray(labels),
        *(f'{os.path.basename(file)} {os.path.getsize(file)}\n' for file in files)])
    examples = _Examples(dataset, settings['image'], labels, f'{path}:{split}')
    left_out = {}
    if splits.reports_unread(split, options):
        parquet.count_unread_columns(
            images, [name for name, kind in features.items()
                     if getattr(getattr(kind, 'feature', kind), 'names', None)], options, left_out)
    return Source(examples, class_names, mark, examples.labels, multi_label, left_out)


def _labels(every: dict, split: str, column: str,
            path: str) -> tuple[tuple[str, ...], np.ndarray, bool]:
    """Returns (class names, labels of the split, multi_label); reads no image."""
    def label_column(name: str) -> LabelColumn:
        return _label_column(every, name, column, path)

    mine = label_column(split)
    order = next((name for name in [split_names.find('train', every), *sorted(every)]
                  if name and column in every[name].column_names), split)
    first = mine if split == order else label_column(order)
    return label_columns.agreed([mine], first, lambda: [
        label_column(name) for name in sorted(set(every) - {split})
        if column in every[name].column_names])


def _label_column(every: dict, split: str, column: str, path: str) -> LabelColumn:
    feature = every[split].features[column]
    feature = getattr(feature, 'feature', feature)
    return LabelColumn(f'{path}: column {column!r} of {split!r}',
                       tuple(getattr(feature, 'names', None) or ()),
                       every[split].select_columns([column])[:][column])
