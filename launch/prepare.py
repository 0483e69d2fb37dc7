"""Prepares a TFDS dataset, or writes a smaller copy of any dataset as tar files.

    python -m launch.prepare --dataset=cifar10 --data_dir=DIR
    python -m launch.prepare --source=folder --path=DIR --output=OUT --shorter_side=320
"""

from absl import flags

from imgjax.commands import entry

_FLAGS = (
    flags.DEFINE_string('dataset', '', 'The TFDS dataset to prepare, NAME or NAME/CONFIG.'),
    flags.DEFINE_string('data_dir', '', 'The folder of TFDS datasets; TFDS_DATA_DIR by default.'),
    flags.DEFINE_string('manual_dir', '', 'The folder of files that TFDS cannot download.'),
    flags.DEFINE_bool('verify', False, "Check the MD5 of ImageNet's files first."),
    flags.DEFINE_string('source', '', 'The kind of dataset to copy, as config.data.name.'),
    flags.DEFINE_string('path', '', 'The path of the dataset to copy, as config.data.path.'),
    flags.DEFINE_string('options', '{}', 'Options of the source, as config.data.options, in JSON.'),
    flags.DEFINE_list('pixel_range', [], 'BLACK,WHITE, as config.data.pixel_range.'),
    flags.DEFINE_list('background', [], 'RED,GREEN,BLUE, as config.data.background.'),
    flags.DEFINE_string('output', '', 'The folder of the copy.'),
    flags.DEFINE_list('splits', 'train,held_out', 'The splits to copy, as SPLIT or NAME=SPLIT.'),
    flags.DEFINE_integer('shorter_side', 320, 'At most so many pixels; 0: any.', lower_bound=0),
    flags.DEFINE_integer('quality', 90, 'JPEG quality.', lower_bound=1, upper_bound=100),
    flags.DEFINE_integer('shard_size', 2048, 'Images per tar file.', lower_bound=1),
    flags.DEFINE_integer('workers', 0, 'Threads; 0: one per core.', lower_bound=0),
)


def main() -> dict:
    from imgjax.commands import prepare
    return prepare.run(**{flag.name: flag.value for flag in _FLAGS})


if __name__ == '__main__':
    entry.main(main)
