"""The parts of a card, one file each.

A part is a file of this folder with

    TITLE                          the heading of its section
    QUESTION                       what it answers, in one sentence
    def measure(inputs) -> dict    plain data: numbers, texts, lists; inputs are card.inputs.Inputs
    def findings(found) -> list    of Finding, what a reader should know, from what `measure` gave
    def figures(found) -> dict     the numbers for the last line of the command

and a page fragment imgjax/report/card/<name>.html, which shows what `measure` gave. A part that
cannot be computed raises DataError, which the page shows in its place. A result is measured again
when the code changes that the file imports; CODE may name further modules.
"""

from typing import NamedTuple

# The parts in the order of the page.
NAMES = ('accuracy', 'calibration', 'conformal', 'ood', 'corruptions', 'shifts', 'prepared_sets',
         'attacks', 'explanations', 'concepts', 'label_errors', 'duplicates', 'odd_images',
         'probes', 'representation', 'map', 'filters', 'comparison')
# Those that also show the model of --compare.
COMPARING = ('ood', 'corruptions', 'shifts', 'attacks', 'explanations', 'representation',
             'comparison')


class Finding(NamedTuple):
    """A sentence of the summary: `kind` is good, look (at this) or note."""

    kind: str
    text: str


def counted(count: int, one: str, many: str = '') -> str:
    """Returns '1 image' or '2,000 images'; the plural of a word is that with an s by default."""
    return f'{count:,} {one if count == 1 else many or one + "s"}'
