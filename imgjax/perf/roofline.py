"""Roofline bounds: each limit of a chip gives a lower bound for the time of a step.

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
    """Returns lower bounds for the seconds of a step: {'compute', 'hbm', 'interconnect'}.

    >>> from imgjax.perf import chips, roofline
    >>> from imgjax.perf.collectives import Collective
    >>> gather = Collective('all-gather', group=4, bytes=1e9, runs=1)
    >>> found = roofline.seconds(chips.CHIPS['v5e'], 197e12, 819e9 / 2, [gather])
    >>> {limit: round(one, 5) for limit, one in found.items()}
    {'compute': 1.0, 'hbm': 0.5, 'interconnect': 0.00375}

    Args:
      chip: the kind of chip; each device of the slice is one chip.
      flops: the FLOPs of one device per step.
      hbm_bytes: the bytes that one device reads and writes in its memory per step; None if unknown.
      collectives: the collectives of one device; the bound assumes that all links send them at full
        speed at the same time.
    """
    sent = sum(collective.runs * sent_bytes(collective) for collective in collectives)
    return {'compute': flops / chip.flops, 'hbm': (hbm_bytes or 0) / chip.hbm_speed,
            'interconnect': sent / chip.link_speed}
