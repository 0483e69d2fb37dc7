"""What the makers publish about each accelerator: the limits of its speed and its memory.

`imgjax/perf/roofline.py` bounds a step by them, and a run's MFU is its FLOP/s over `peak_flops`.
"""

from typing import NamedTuple


class Chip(NamedTuple):
    """One chip, which is one device of JAX.

    Attributes:
      flops: peak dense bfloat16 FLOP/s. float32 models reach it too: by default a TPU multiplies
        their matrices in one bfloat16 pass.
      hbm: bytes of memory.
      hbm_speed: bytes/s between the memory and the chip.
      link_speed: bytes/s that a chip can send over all of its links to other chips of the slice,
        while it receives as many. Half of what is published as bidirectional.
      dimensions: the number of dimensions of a slice.
      source: the page that publishes these figures.
      kinds: beginnings of the names that JAX gives such a device (`device_kind`).
    """

    flops: float
    hbm: int
    hbm_speed: float
    link_speed: float
    dimensions: int
    source: str
    kinds: tuple[str, ...]


_DOCS = 'https://docs.cloud.google.com/tpu/docs'

CHIPS = {
    # Its six links are 50 GB/s each way by arXiv:2304.01433.
    'v4': Chip(275e12, 32 * 2**30, 1200e9, 300e9, 3, f'{_DOCS}/v4', ('TPU v4',)),
    'v5e': Chip(197e12, 16 * 2**30, 819e9, 200e9, 2, f'{_DOCS}/v5e',
                ('TPU v5 lite', 'TPU v5e')),
    'v5p': Chip(459e12, 95 * 2**30, 2765e9, 600e9, 3, f'{_DOCS}/v5p', ('TPU v5',)),
    'v6e': Chip(918e12, 32 * 2**30, 1638e9, 400e9, 2, f'{_DOCS}/v6e', ('TPU v6 lite',)),
}
# Peak dense bfloat16 FLOP/s by the beginning of `device_kind`, for GPUs from their data sheets.
_PEAK_FLOPS = {
    'NVIDIA A100': 312e12,
    'NVIDIA H100 PCIe': 756e12,
    'NVIDIA H100': 989e12,
    'NVIDIA H200': 989e12,
    'NVIDIA L4': 121e12,
    'NVIDIA B200': 2250e12,
    'TPU v3': 123e12,
    **{kind: chip.flops for chip in CHIPS.values() for kind in chip.kinds},
}


def peak_flops(device_kind: str) -> float | None:
    """Returns the peak FLOP/s of a device; None if it is unknown, as of a CPU.

    The longest name in the table that `device_kind` begins with counts.

    >>> peak_flops('TPU v5p slice'), peak_flops('TPU v5 lite')
    (459000000000000.0, 197000000000000.0)
    """
    fitting = [name for name in _PEAK_FLOPS if device_kind.startswith(name)]
    return _PEAK_FLOPS[max(fitting, key=len)] if fitting else None
