"""Lists the checkpoints of a run directory, and checks each against its digests.

    python -m launch.inspect --workdir=runs/digits

It ends with 0 also where a checkpoint is damaged: the last line says which are verified.
"""

from absl import flags

from imgjax.commands import entry

_WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory.', required=True)


def main() -> dict:
    from imgjax.commands import inspect
    return inspect.inspect_run(_WORKDIR.value)


if __name__ == '__main__':
    entry.main(main)
