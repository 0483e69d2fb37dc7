"""TFDS datasets prepared as ArrayRecord, read in random access and without TensorFlow."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from imgjax.data import Source, source_options, splits
from imgjax.data import labels as labels_lib
from imgjax.data.fingerprint import fingerprint
from imgjax.errors import ConfigError, DataError, nearest, one_line

# array_record 0.8 takes 10 us to read one record, and 5 ns more for each record of its file (CIFAR
# is one file of 50,000 records: 0.25 ms). Reading many at once starts threads, which takes 1 ms,
# but takes the second part once per file. It is cheaper from this product on: the records that it
# saves, times the records of a file.
WORTH_THREADS = 200_000
# Labels are stored among the images, so that reading all labels reads the whole split. For larger
# splits this is not done.
CHEAP_BYTES = 8 * 2**30
# For smaller ones it is done at each start, to report the classes without images.
QUICK_BYTES, QUICK_EXAMPLES = 2**30, 100_000


class _Examples:
    """Records of a TFDS data source as examples; images stay encoded."""

    def __init__(self, data_source, prefix: str, split, classes: int, multi_label: bool):
        """Takes raw records, serialized tf.train.Example, as TFDS parses them ten times slower."""
        self._data_source = data_source
        self._prefix = prefix
        self._files = max(1, split.num_shards)
        self.labels_are_cheap = split.num_bytes < CHEAP_BYTES
        self.labels_are_quick = (split.num_bytes < QUICK_BYTES
                                 and split.num_examples < QUICK_EXAMPLES)
        self._classes = classes
        self._multi_label = multi_label

    def __len__(self) -> int:
        return len(self._data_source)

    def _fields(self, record: bytes):
        from tensorflow_datasets.proto import tf_example_pb2
        return tf_example_pb2.Example.FromString(record).features.feature

    def _numbers(self, fields) -> list[int]:
        return fields['labels' if self._multi_label else 'label'].int64_list.value

    def _example(self, index: int, record: bytes) -> dict:
        fields = self._fields(record)
        name = f'{self._prefix}/{index}'
        images, numbers = fields['image'].bytes_list.value, list(self._numbers(fields))
        if (len(images) != 1 or not (self._multi_label or len(numbers) == 1)
                or not all(0 <= number < self._classes for number in numbers)):
            raise DataError(f'{name}: has {len(images)} image and the labels {numbers}; take a '
                            f'split whose labels are 0 to {self._classes - 1}')
        label = (labels_lib.at(labels_lib.from_lists([numbers], self._classes), 0)
                 if self._multi_label else int(numbers[0]))
        return {'image': images[0], 'label': label, 'name': name}

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._example(index, self._data_source[index])

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        indices = [int(index) for index in indices]
        return [self._example(index, record)
                for index, record in zip(indices, self._records(indices), strict=True)]

    def _records(self, indices: Sequence[int]):
        spared = len(indices) - self._files
        if spared * len(self) / self._files < WORTH_THREADS:
            return (self._data_source[index] for index in indices)
        return self._data_source.__getitems__(indices)

    def has_labels(self) -> bool:
        """Returns whether any of 100 examples, spread over the split, has a label other than -1."""
        spread = np.unique(np.linspace(0, len(self) - 1, min(len(self), 100)).astype(int))
        return any(number >= 0 for index in spread.tolist()
                   for number in self._numbers(self._fields(self._data_source[index])))

    def labels(self) -> np.ndarray:
        lists = [list(self._numbers(self._fields(record)))
                 for start in range(0, len(self), 1024)
                 for record in self._records(range(start, min(start + 1024, len(self))))]
        if self._multi_label:
            return labels_lib.whole(labels_lib.from_lists(lists, self._classes))
        return np.array(lists, np.int32).reshape(len(self))


def data_dir(options: dict) -> str:
    """Returns the folder of TFDS datasets: by the config, TFDS_DATA_DIR, or TFDS's own default."""
    return os.path.expanduser(options['data_dir'] or os.environ.get('TFDS_DATA_DIR', '')
                              or '~/tensorflow_datasets')


def find_builder(name: str, place: str, config: str = '', *, field: str = 'config.data.name',
                 **more) -> Any:
    """Returns TFDS's builder of a dataset, which may not be prepared yet.

    Raises:
      ConfigError: TFDS has no such dataset or config; the line begins with `field`.
    """
    import tensorflow_datasets as tfds  # takes a second to import, and most runs do not need it

    from imgjax import data
    try:
        return tfds.builder(f'{name}/{config}' if config else name, data_dir=place, try_gcs=False,
                            **more)
    except tfds.core.DatasetNotFoundError:
        own = data.names() if field == 'config.data.name' else []
        every = [*own, *tfds.list_builders(with_community_datasets=False)]
        nothing = f'neither one of {", ".join(own)} nor a' if own else 'no'
        raise ConfigError(f'{field}: {name!r} is {nothing} TFDS dataset'
                          f'{nearest(name, every)}') from None
    except ValueError as error:
        raise ConfigError(f'{field}: {name!r} has no such configuration: '
                          f'{one_line(error)}') from None


def open_split(split: str, options: dict) -> Source:
    """Opens a split of the TFDS dataset options['name']; it never downloads.

    Options: config, the name of its configuration ('' is the default one).

    Raises:
      ConfigError: TFDS has no such dataset, or it has no such split, or no image and label.
      DataError: it is not prepared here, or not as ArrayRecord.
    """
    config = source_options(options, config='')['config']
    name, place = options['name'], data_dir(options)
    builder = find_builder(name, place, config)
    if not builder.info.splits:
        full = f'{name}/{config}' if config else name
        raise DataError(f'{place}: {full} is not prepared here; prepare it with: '
                        f'python -m launch.prepare --dataset={full} --data_dir={place}')
    return open_builder(builder, split, options)


def open_builder(builder, split: str, options: dict) -> Source:
    """Opens a split of a prepared TFDS builder; it raises what `open_split` raises."""
    return splits.open_part(split, builder.info.splits, f'config.data: {builder.name!r} has no '
                            f'split {split!r}', options, lambda split: open_whole(builder, split),
                            lambda split: _has_labels(builder, split))


def _has_labels(builder, split: str) -> bool:
    examples: Any = open_whole(builder, split).examples
    return examples.has_labels()


def open_whole(builder, split: str) -> Source:
    """Opens a whole split of a prepared TFDS builder; it raises what `open_split` raises."""
    import tensorflow_datasets as tfds

    info = builder.info
    if info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise DataError(
            f'{builder.data_path}: is {info.file_format.value}, which has no random access; '
            'convert it with: python -m tensorflow_datasets.scripts.convert_format '
            f'--dataset_dir={builder.data_path} --out_file_format=array_record')
    classes, multi_label = image_classes(builder)
    missing = [path for path in map(os.fspath, info.splits[split].filepaths)
               if '://' not in path and not os.path.exists(path)]
    if missing:
        raise DataError(f'{missing[0]}: is missing ({len(missing):,} of '
                        f'{len(info.splits[split].filepaths):,} files are); prepare the set again')
    try:
        data_source = builder.as_data_source(
            split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise DataError(f'{builder.data_path}: cannot be read ({one_line(error)}); '
                        'prepare it again') from None
    # Without the bytes, as preparing a set again with another encoder gives the same pixels.
    shards = {key: value.num_examples for key, value in info.splits.items()}
    mark = fingerprint([f'{builder.name} {builder.version} {split} {sorted(shards.items())}'])
    examples = _Examples(data_source, f'{builder.name}/{split}', info.splits[split],
                         classes.num_classes, multi_label)
    return Source(examples, tuple(classes.names), mark, examples.labels, multi_label)


def image_classes(builder) -> tuple[Any, bool]:
    """Returns (the ClassLabel, multi_label) of a builder's features.

    Raises:
      ConfigError: they are not an image and its classes.
    """
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    if 'image' in features and isinstance(features['image'], tfds.features.Image):
        if isinstance(features.get('label'), tfds.features.ClassLabel):
            return features['label'], False
        inner = getattr(features.get('labels'), 'feature', None)
        if isinstance(inner, tfds.features.ClassLabel):
            return inner, True
    raise ConfigError(f'config.data.name: {builder.name!r} has the features '
                      f'{", ".join(features)}; an image, and label (a class) or labels (a sequence '
                      'of classes), are needed')
