"""Prints every field of the config: its type, default, range and meaning, and those of the parts.

    python -m launch.fields
    python -m launch.fields --part=optimizer:prodigy

The whole list is docs/fields.md.
"""

from absl import flags

from imgjax import entry

_PART = flags.DEFINE_string('part', '', 'KIND:NAME, such as optimizer:prodigy or '
                            'objective:projects.poly: what that part alone takes.')


def main() -> dict:
    from imgjax.commands import fields
    return fields.run(_PART.value)


if __name__ == '__main__':
    entry.main(main)
