"""Draws the images that a config trains on: with crops, augmentation and mixed targets.

    python -m launch.preview --config=configs/digits.py --output=preview.png
"""

from absl import flags
from ml_collections import config_flags

from imgjax.commands import entry

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'A file of configs/, as PATH or PATH:ARGUMENT.',
    accept_new_attributes=True, lock_config=False)
_OUTPUT = flags.DEFINE_string('output', 'preview.png', 'The file: .png, .jpg, .pdf or .svg.')
_IMAGES = flags.DEFINE_integer('images', 8, 'The number of images.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 5, 'For how many steps each image is drawn.', lower_bound=1)
flags.mark_flag_as_required('config')


def main() -> dict:
    from imgjax.commands import preview
    return preview.draw(_CONFIG.value, _OUTPUT.value, _IMAGES.value, _STEPS.value)


if __name__ == '__main__':
    entry.main(main)
