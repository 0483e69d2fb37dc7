"""Prints all fields of the config and of the parts: type, default, range and meaning.

    python -m launch.fields
    python -m launch.fields --part=optimizer:prodigy

The whole list is docs/reference/fields.md.
"""

from absl import flags

from imgjax.commands import entry

_PART = flags.DEFINE_string('part', '', 'KIND:NAME, such as optimizer:prodigy or '
                            'objective:projects.poly, to print the fields of that part only.')


def main() -> dict:
    from imgjax.commands import fields
    return fields.run(_PART.value)


if __name__ == '__main__':
    entry.main(main)
