"""TFDS datasets prepared as ArrayRecord, read in random access and without TensorFlow."""

import hashlib
import os

from imgjax.data import Source
from imgjax.errors import ConfigError, DataError, nearest


class _Examples:
    """A TFDS data source, in this package's form; images stay encoded."""

    def __init__(self, data_source, prefix: str):
        self._data_source = data_source
        self._prefix = prefix

    def __len__(self) -> int:
        return len(self._data_source)

    def __getitem__(self, index: int) -> dict:
        example = self._data_source[index]
        return {'image': example['image'], 'label': int(example['label']),
                'name': f'{self._prefix}/{index}'}


def data_dir(options: dict) -> str:
    """Returns where TFDS sets lie: config, else TFDS_DATA_DIR, else TFDS's own default."""
    return os.path.expanduser(options['data_dir'] or os.environ.get('TFDS_DATA_DIR', '')
                              or '~/tensorflow_datasets')


def open_split(split: str, options: dict) -> Source:
    """Opens a split (such as 'train' or 'train[:90%]') of the TFDS set options['name'].

    Raises:
      ConfigError: TFDS has no such dataset, or it has no such split, or no image and label.
      DataError: it was never prepared here, or not as ArrayRecord.
    """
    import tensorflow_datasets as tfds  # takes a second, and most runs do without

    name, place = options['name'], data_dir(options)
    try:
        builder = tfds.builder(name, data_dir=place, try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        from imgjax import data
        every = [*data.names(), *tfds.list_builders(with_community_datasets=False)]
        raise ConfigError(
            f'config.data.name: {name!r} is neither one of {", ".join(data.names())} nor a TFDS '
            f'dataset{nearest(name, every)}') from None
    if not builder.info.splits:
        raise DataError(
            f'{place}: {name} is not prepared here; prepare it with: python -c "import '
            f"tensorflow_datasets as tfds; tfds.builder('{name}', data_dir='{place}', "
            'file_format=\'array_record\').download_and_prepare()"')
    return open_builder(builder, split)


def open_builder(builder, split: str) -> Source:
    """Opens a split of a prepared TFDS builder; errors as in `open_split`."""
    import tensorflow_datasets as tfds

    info = builder.info
    if info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise DataError(
            f'{builder.data_path}: is {info.file_format.value}, which has no random access; '
            'convert it with: python -m tensorflow_datasets.scripts.convert_format '
            f'--dataset_dir={builder.data_path} --out_file_format=array_record')
    if not {'image', 'label'} <= set(info.features):
        raise ConfigError(f'config.data.name: {builder.name!r} has the features '
                          f'{", ".join(info.features)}; image and label are needed')
    try:
        data_source = builder.as_data_source(
            split=split, decoders={'image': tfds.decode.SkipDecoding()})
    except (ValueError, KeyError):
        raise ConfigError(
            f'config.data: {builder.name!r} has no split {split!r}; it has '
            f'{", ".join(sorted(info.splits))}{nearest(split, info.splits)}') from None
    # Not the bytes: preparing a set again with another encoder gives the same pixels.
    shards = {key: value.num_examples for key, value in info.splits.items()}
    fingerprint = hashlib.sha256(
        f'{builder.name} {builder.version} {split} {sorted(shards.items())}'.encode())
    return Source(
        _Examples(data_source, f'{builder.name}/{split}'), tuple(info.features['label'].names),
        fingerprint.hexdigest()[:16])
