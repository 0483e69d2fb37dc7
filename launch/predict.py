"""Classifies images with a run directory; nothing else is needed, the dataset neither.

    python -m launch.predict --workdir=runs/digits --images='scans/*.png' --output=predictions.csv
"""

from absl import flags

from imgjax import entry

_WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory.', required=True)
_STEP = flags.DEFINE_string('step', '', 'Which checkpoint: a number, or best, that of the best '
                            'evaluation; the newest when left out.')
_IMAGES = flags.DEFINE_string('images', None, 'A file, a folder, or a glob.', required=True)
_TOP_K = flags.DEFINE_integer('top_k', 5, 'How many classes an image gets.', lower_bound=1)
_OUTPUT = flags.DEFINE_string('output', 'predictions.csv', 'Where to write: .csv or .json.')


def main() -> dict:
    from imgjax.commands import predict
    return predict.predict_images(
        _WORKDIR.value, _IMAGES.value, _TOP_K.value, _OUTPUT.value, _STEP.value)


if __name__ == '__main__':
    entry.main(main)
