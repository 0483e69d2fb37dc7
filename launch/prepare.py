"""Prepares a TFDS set, or a smaller copy of any source as tar files, before a run.

    python -m launch.prepare --dataset=cifar10 --data_dir=DIR
    python -m launch.prepare --source=folder --path=DIR --output=OUT --shorter_side=320
"""

from absl import flags

from imgjax import entry

_FLAGS = (
    flags.DEFINE_string('dataset', '', 'A TFDS set to prepare, NAME or NAME/CONFIG.'),
    flags.DEFINE_string('data_dir', '', 'Where TFDS sets lie; TFDS_DATA_DIR when left out.'),
    flags.DEFINE_string('manual_dir', '', 'Where files lie that TFDS does not download.'),
    flags.DEFINE_bool('verify', False, "Check the MD5 of ImageNet's files first."),
    flags.DEFINE_string('source', '', 'What to copy: config.data.name.'),
    flags.DEFINE_string('path', '', 'Of the source: config.data.path.'),
    flags.DEFINE_string('options', '{}', 'Of the source: config.data.options, as JSON.'),
    flags.DEFINE_list('pixel_range', [], 'As config.data.pixel_range: BLACK,WHITE.'),
    flags.DEFINE_list('background', [], 'As config.data.background: RED,GREEN,BLUE.'),
    flags.DEFINE_string('output', '', 'The folder of the copy.'),
    flags.DEFINE_list('splits', 'train,held_out', 'Which to copy: SPLIT, or NAME=SPLIT.'),
    flags.DEFINE_integer('shorter_side', 320, 'Pixels at most; 0 reduces none.', lower_bound=0),
    flags.DEFINE_integer('quality', 90, 'Of the JPEGs.', lower_bound=1, upper_bound=100),
    flags.DEFINE_integer('shard_size', 2048, 'Images of a file.', lower_bound=1),
    flags.DEFINE_integer('workers', 0, 'Threads; one a core when left out.', lower_bound=0),
)


def main() -> dict:
    from imgjax.commands import prepare
    return prepare.run(**{flag.name: flag.value for flag in _FLAGS})


if __name__ == '__main__':
    entry.main(main)
