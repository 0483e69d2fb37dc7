"""Published limits of each accelerator: its speed and its memory.

`imgjax/perf/roofline.py` computes the bounds of a step from them. A run's MFU is its FLOP/s divided
by `peak_flops`.
"""

from typing import NamedTuple


class Chip(NamedTuple):
    """One chip, which is one device of JAX.

    >>> from imgjax.perf import chips
    >>> chips.CHIPS['v5e'].flops, chips.CHIPS['v5e'].hbm // 2**30
    (197000000000000.0, 16)

    Attributes:
      flops: peak dense bfloat16 FLOP/s. It is also the limit of float32 models, because by default
        a TPU multiplies their matrices in one bfloat16 pass.
      hbm: bytes of memory.
      hbm_speed: bytes/s between the memory and the chip.
      link_speed: bytes/s that a chip can send over all of its links to other chips of the slice,
        while it receives at the same speed. It is half of the published bidirectional figure.
      dimensions: the number of dimensions of a slice.
      source: the page that publishes these figures.
      kinds: prefixes of the names that JAX gives such a device (`device_kind`).
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
    # By arXiv:2304.01433 it has six links of 50 GB/s in each direction.
    'v4': Chip(275e12, 32 * 2**30, 1200e9, 300e9, 3, f'{_DOCS}/v4', ('TPU v4',)),
    'v5e': Chip(197e12, 16 * 2**30, 819e9, 200e9, 2, f'{_DOCS}/v5e',
                ('TPU v5 lite', 'TPU v5e')),
    'v5p': Chip(459e12, 95 * 2**30, 2765e9, 600e9, 3, f'{_DOCS}/v5p', ('TPU v5',)),
    'v6e': Chip(918e12, 32 * 2**30, 1638e9, 400e9, 2, f'{_DOCS}/v6e', ('TPU v6 lite',)),
}
# Peak dense bfloat16 FLOP/s by a prefix of `device_kind`; those of GPUs are from data sheets.
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
    """Returns the peak FLOP/s of a device; None if it is unknown, as for a CPU.

    The longest prefix in the table that fits `device_kind` is used.

    >>> peak_flops('TPU v5p slice'), peak_flops('TPU v5 lite')
    (459000000000000.0, 197000000000000.0)
    """
    prefixes = [prefix for prefix in _PEAK_FLOPS if device_kind.startswith(prefix)]
    return _PEAK_FLOPS[max(prefixes, key=len)] if prefixes else None
