"""Prints the fields of the config, and the numbers and options of each part, as Markdown."""

import math
import sys

from imgjax import parts
from imgjax.config import FIELDS, Field
from imgjax.errors import ConfigError

_INTRODUCTION = """# Fields of the config

Made by `python -m launch.fields`; `--config.FIELD=VALUE` sets one on any command that takes a
config. `hparams` are the numbers that the compiled step receives as arrays: changing one compiles
nothing again.
"""


def run(part: str = '') -> dict:
    """Prints the tables of all fields, or of one part, on stderr; returns the number of fields.

    Args:
      part: KIND:NAME; '' prints every common field, and every part of the package.

    Raises:
      ConfigError: there is no such kind or no such part.
    """
    if part:
        kind, _, name = part.partition(':')
        if kind not in parts.PACKAGES:
            raise ConfigError(f'--part: takes KIND:NAME with a kind of '
                              f'{", ".join(parts.PACKAGES)}, got {part!r}')
        text = of_part(kind, name)
    else:
        text = whole()
    print(text, file=sys.stderr)
    return {'fields': sum(line.startswith('| `') for line in text.splitlines())}


def whole() -> str:
    """Returns the text of docs/reference/fields.md."""
    groups: dict[str, dict[str, Field]] = {}
    for name, field in FIELDS.items():
        groups.setdefault(name.rpartition('.')[0], {})[name] = field
    sections = [_INTRODUCTION]
    for group, fields in groups.items():
        sections.append(f'## {f"config.{group}" if group else "config"}\n\n{_table(fields)}')
    sections.append('## Parts\n\nWhat the chosen parts take besides; a part of your own '
                    '(`projects.NAME`) declares the same in its file. Every optimizer of optax and '
                    'optax.contrib is there by its name, too; `--part=optimizer:NAME` prints what '
                    'it takes.\n')
    for kind in parts.PACKAGES:
        sections += [of_part(kind, name) for name in parts.names(kind)]
    return '\n'.join(sections)


def of_part(kind: str, name: str) -> str:
    """Returns a heading, the first line of a part's docstring, and a table of its fields."""
    part = parts.find(kind, name)
    options = 'metrics' if kind == 'metric' else f'{kind}.options'
    fields = {f'hparams.{one}': field for one, field in parts.hparams_of(part).items()}
    fields |= {f'{options}.{one}': field for one, field in parts.options_of(part).items()}
    about = (part.__doc__ or '').strip().splitlines()
    table = f'\n\n{_table(fields)}' if fields else '\n'
    return f'### {kind} `{name}`\n\n{about[0] if about else ""}{table}'


def _table(fields: dict[str, Field]) -> str:
    rows = ['| field | type | default | takes | meaning |', '|---|---|---|---|---|']
    for name, field in fields.items():
        cells = (f'`{name}`', field.type.__name__, f'`{field.default!r}`', _takes(field),
                 field.help.replace('|', '\\|'))
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows) + '\n'


def _takes(field: Field) -> str:
    if field.choices:
        return ', '.join(f'`{choice}`' for choice in field.choices)
    if math.isinf(field.low) and math.isinf(field.high):
        return ''
    low = '' if math.isinf(field.low) else f'{field.low:g}'
    high = '' if math.isinf(field.high) else f'{field.high:g}'
    return f'{low} to {high}' if low and high else f'at least {low}' if low else f'at most {high}'
