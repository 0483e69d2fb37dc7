"""What the makers publish of each accelerator: the ceilings of `imgjax/perf/roofline.py`."""

from typing import NamedTuple


class Chip(NamedTuple):
    """One chip, which is one device of JAX.

    Attributes:
      flops: peak bfloat16 FLOP/s, dense. float32 models meet it too: by default a TPU multiplies
        their matrices in one bfloat16 pass.
      hbm: bytes of memory.
      hbm_speed: bytes/s between it and the chip.
      link_speed: bytes/s that a chip can send over all of its links to other chips of the slice;
        it receives as many at the same time. Half of what is published as bidirectional.
      dimensions: of a slice.
      source: where that is published.
    """

    flops: float
    hbm: int
    hbm_speed: float
    link_speed: float
    dimensions: int
    source: str


_DOCS = 'https://docs.cloud.google.com/tpu/docs'

CHIPS = {
    # Its six links are 50 GB/s each way by arXiv:2304.01433.
    'v4': Chip(275e12, 32 * 2**30, 1200e9, 300e9, 3, f'{_DOCS}/v4'),
    'v5e': Chip(197e12, 16 * 2**30, 819e9, 200e9, 2, f'{_DOCS}/v5e'),
    'v5p': Chip(459e12, 95 * 2**30, 2765e9, 600e9, 3, f'{_DOCS}/v5p'),
    'v6e': Chip(918e12, 32 * 2**30, 1638e9, 400e9, 2, f'{_DOCS}/v6e'),
}
