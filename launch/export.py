"""Exports a run's model for other programs, and checks the exported model by running it.

    python -m launch.export --workdir=runs/digits --format=onnx
"""

from absl import flags

from imgjax.commands import entry

_WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory.', required=True)
_FORMAT = flags.DEFINE_string(
    'format', None, 'safetensors (for timm), stablehlo, onnx or savedmodel.', required=True)
_OUTPUT = flags.DEFINE_string('output', '', 'The folder; WORKDIR/export/FORMAT by default.')
_STEP = flags.DEFINE_string('step', '', 'The step of the checkpoint, or best for that of the best '
                            'evaluation; the newest by default.')


def main() -> dict:
    from imgjax.interop import export
    return export.export(_WORKDIR.value, _FORMAT.value, _OUTPUT.value, _STEP.value)


if __name__ == '__main__':
    entry.main(main)
