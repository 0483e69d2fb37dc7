"""What a split leaves out, counted by kind, and the sentence about it for the log."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from imgjax.data.labels import present

# {kind: (how many, an example)}. The kind follows the number: 'dead links', 'with other endings'.
LeftOut = Mapping[str, tuple[int, str]]
ABSENT = 'classes without images'


def count(left_out: dict[str, tuple[int, str]], kind: str, example: str, number: int = 1) -> None:
    """Adds `number` to a kind, which keeps its first example."""
    before, first = left_out.get(kind, (0, example))
    left_out[kind] = before + number, first


def count_absent(left_out: dict[str, tuple[int, str]], class_names: Sequence[str],
                 labels: np.ndarray) -> None:
    """Counts the classes without an example among `labels`, none where there are no labels."""
    absent = np.flatnonzero(~present(labels, len(class_names)))
    if len(absent) and len(labels):
        count(left_out, ABSENT, class_names[absent[0]], len(absent))


def added_up(several: Iterable[LeftOut]) -> dict[str, tuple[int, str]]:
    """Returns the sums over what several splits leave out."""
    total = {}
    for one in several:
        for kind, (number, example) in one.items():
            count(total, kind, example, number)
    return total


def sentence(left_out: LeftOut) -> str:
    """Returns a sentence such as 'left out: 4 with other endings (dog/notes.txt)', or ''."""
    parts = [f'{number:,} {kind} ({example})' for kind, (number, example) in left_out.items()]
    return f'left out: {", ".join(parts)}' if parts else ''
