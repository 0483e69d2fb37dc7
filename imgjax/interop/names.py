"""Renames tensors by the tables of a layout."""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from imgjax.errors import DataError

# Rows of (a regular expression for a whole name, its replacement). The replacement is a template of
# the new name, a function of the match, or None for a tensor that is no parameter here.
Table = Sequence[tuple[str, str | Callable[[re.Match], str] | None]]


def table_of(layout: str, tables: Mapping[str, Table], family: str) -> Table:
    """Returns the table of a family.

    Raises:
      DataError: the layout has none for it; the line lists the families that it has.
    """
    if family not in tables:
        raise DataError(f'config.init.weights: no names of {layout} are known for model family '
                        f'{family!r}, but for {", ".join(sorted(tables))}')
    return tables[family]


def renamed(tensors: Mapping[str, np.ndarray], table: Table) -> dict[str, np.ndarray]:
    """Returns tensors renamed by the first row that matches each; others keep their names.

    Raises:
      DataError: two tensors would have the same name.
    """
    result, old_names = {}, {}
    for old, tensor in tensors.items():
        new = _renamed(old, table)
        if new is None:
            continue
        if new in result:
            raise DataError(f'{old_names[new]} and {old} are both {new}')
        result[new], old_names[new] = tensor, old
    return result


def _renamed(name: str, table: Table) -> str | None:
    for pattern, replacement in table:
        match = re.fullmatch(pattern, name)
        if match:
            if replacement is None:
                return None
            return replacement(match) if callable(replacement) else match.expand(replacement)
    return name
