"""Roofline bounds: each limit of a chip gives a least time that a step takes.

Williams, Waterman and Patterson, `Roofline <https://doi.org/10.1145/1498765.1498785>`_, 2009, with
the interconnect as a third roof.
"""

from imgjax.perf.chips import Chip
from imgjax.perf.collectives import Collective


def sent_bytes(collective: Collective) -> float:
    """Returns the bytes that each device sends in one run of a collective, around a ring.

    With n devices and b bytes: 2 b (n - 1) / n for an all-reduce, b (n - 1) / n for an all-gather,
    a reduce-scatter and an all-to-all, b for a permutation. No algorithm sends less for the first
    three (Patarasuk and Yuan, https://doi.org/10.1016/j.jpdc.2008.09.002, 2009).

    >>> sent_bytes(Collective('all-reduce', group=4, bytes=1000, runs=1))
    1500.0
    """
    share = (collective.group - 1) / collective.group
    factor = {'all-reduce': 2 * share, 'collective-permute': 1.0}.get(collective.kind, share)
    return factor * collective.bytes


def seconds(chip: Chip, flops: float, hbm_bytes: float | None,
            collectives: list[Collective]) -> dict[str, float]:
    """Returns the least seconds of a step by each limit: {'compute', 'hbm', 'interconnect'}.

    Args:
      chip: the chip, of which every device of the slice is one.
      flops: FLOPs of one device.
      hbm_bytes: bytes that one device reads and writes in its memory; None if unknown.
      collectives: of one device; all links are taken to carry them at full speed at once.
    """
    sent = sum(one.runs * sent_bytes(one) for one in collectives)
    return {'compute': flops / chip.flops, 'hbm': (hbm_bytes or 0) / chip.hbm_speed,
            'interconnect': sent / chip.link_speed}
