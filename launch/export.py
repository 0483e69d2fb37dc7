"""Writes a run's model for other programs, and runs what it wrote before it says done.

    python -m launch.export --workdir=runs/digits --format=onnx
"""

from absl import flags

from imgjax import entry

_WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory.', required=True)
_FORMAT = flags.DEFINE_string(
    'format', None, 'safetensors (for timm), stablehlo, onnx or savedmodel.', required=True)
_OUTPUT = flags.DEFINE_string('output', '', 'The folder; WORKDIR/export/FORMAT when left out.')
_STEP = flags.DEFINE_string('step', '', 'Which checkpoint: a number, or best, that of the best '
                            'evaluation; the newest when left out.')


def main() -> dict:
    from imgjax.interop import export
    return export.export(_WORKDIR.value, _FORMAT.value, _OUTPUT.value, _STEP.value)


if __name__ == '__main__':
    entry.main(main)
