"""Explains the answers of a run on images: maps, pictures, and the tests of the methods.

    python -m launch.explain --workdir=runs/digits --images=scans --output=explanations
    python -m launch.explain --workdir=runs/digits --images=a.png --method=grad_cam,lrp --target=7
"""

from absl import flags

from imgjax.commands import entry

_WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory.', required=True)
_STEP = flags.DEFINE_string('step', '', 'The step of the checkpoint, or best; newest by default.')
_IMAGES = flags.DEFINE_string('images', None, 'A file, a folder, or a glob.', required=True)
_METHOD = flags.DEFINE_string('method', '', 'Methods, separated by commas, or all; by default the '
                              'usual ones that work for the model.')
_TARGET = flags.DEFINE_string('target', '', 'The class to explain; the answer by default.')
_LAYER = flags.DEFINE_string('layer', '', 'The intermediate of class activation maps; by default '
                             'the last one with positions.')
_OUTPUT = flags.DEFINE_string('output', 'explanations', 'The folder to write.')
_SEED = flags.DEFINE_integer('seed', 0, 'Decides all random numbers.', 0)


def main() -> dict:
    from imgjax.commands import explain
    return explain.explain_images(
        _WORKDIR.value, _IMAGES.value, _METHOD.value, _TARGET.value, _OUTPUT.value, _STEP.value,
        _LAYER.value, _SEED.value)


if __name__ == '__main__':
    entry.main(main)
