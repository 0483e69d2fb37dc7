"""Classifies images with the model of a run; needs its run directory, but not its dataset.

    python -m launch.predict --workdir=runs/digits --images='scans/*.png' --output=predictions.csv
    python -m launch.predict --workdir=runs/digits --images=scans --temperature=card --set=0.1
"""

from absl import flags

from imgjax.commands import entry

_WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory.', required=True)
_STEP = flags.DEFINE_string('step', '', 'The step of the checkpoint, or best for that of the best '
                            'evaluation; the newest by default.')
_IMAGES = flags.DEFINE_string('images', None, 'A file, a folder, or a glob.', required=True)
_TOP_K = flags.DEFINE_integer('top_k', 5, 'The number of classes per image.', lower_bound=1)
_OUTPUT = flags.DEFINE_string('output', 'predictions.csv', 'The file to write: .csv, .json, '
                             'or .html with a map beside every answer.')

_TEMPERATURE = flags.DEFINE_string('temperature', '', '`card` for the calibration that launch.card '
                                   'has chosen, or a number that divides the logits.')
_SET = flags.DEFINE_float('set', 0.0, 'Write a set of classes that misses the right one in this '
                          'share of the images; it needs the card of the run.')
_REJECT = flags.DEFINE_float('reject', 0.0, 'Answer `none of these` where an image is stranger '
                             'than all but this share of the evaluated images; it needs the card '
                             'of the run.')


def main() -> dict:
    from imgjax.commands import predict
    return predict.predict_images(
        _WORKDIR.value, _IMAGES.value, _TOP_K.value, _OUTPUT.value, _STEP.value,
        _TEMPERATURE.value, _SET.value, _REJECT.value)


if __name__ == '__main__':
    entry.main(main)
