"""How many bytes the nodes of an OCDBT store unpack to, found without unpacking them.

OCDBT is the key-value store of TensorStore in which Orbax stores arrays. Zstandard packs a node,
and TensorStore unpacks the whole node to read one key.
"""

import os
import re

# The header of a packed node: one of three magic numbers, a length, a version, the number of the
# compression. A node is written with up to 8 MiB, and blocks count as if they were full.
_NODE = re.compile(rb'\x0c\xdb(?:\x20\xde|\x12\x34|\x3a\x2a).{8}[\x80-\xff]{0,4}[\x00-\x7f]'
                   rb'(?:\x01|\x81\x80{0,3}\x00)', re.DOTALL)
_NODE_HEAD, _NODE_BYTES = 32, 24 * 2**20
_ZSTD, _ZSTD_SKIPPED = 0xFD2FB528, range(0x184D2A50, 0x184D2A60)
_ZSTD_BLOCK = 128 * 2**10  # the most that a block unpacks to


def check_nodes(paths: list[str]) -> None:
    """Checks how much each packed node in plain files unpacks to, by the headers of its blocks.

    The files' own index of nodes is not used: every place that looks like a node is checked.

    Raises:
      ValueError: a node unpacks to more than a written one can, or has far too many blocks.
    """
    budget = {'blocks': 100_000 + sum(map(os.path.getsize, paths)) // 4096}
    for path in paths:
        with open(path, 'rb', buffering=0) as file:
            base, tail = 0, b''  # the end of the part before, in which a header may begin
            while data := file.read(2**22):
                data = tail + data
                found = _NODE.search(data)
                while found:
                    _walk_frames(file.fileno(), base + found.end(), budget)
                    found = _NODE.search(data, found.start() + 1)
                tail = data[-_NODE_HEAD:]
                base += len(data) - len(tail)


def _walk_frames(file: int, at: int, budget: dict) -> None:
    """Checks the bytes that a frame and those right behind it unpack to (RFC 8878)."""
    total = 0
    while True:
        head = os.pread(file, 18, at)
        magic = int.from_bytes(head[:4], 'little')
        _take_one(budget)
        if magic in _ZSTD_SKIPPED:
            at += 8 + int.from_bytes(head[4:8], 'little')
            continue
        if magic != _ZSTD or len(head) < 6:
            return
        flags = head[4]
        single = flags >> 5 & 1
        at += 5 + (not single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
        last = 0
        while not last:
            block = os.pread(file, 3, at)
            word = int.from_bytes(block, 'little')
            last, kind, size = word & 1, word >> 1 & 3, word >> 3
            if len(block) < 3 or kind == 3 or size > _ZSTD_BLOCK:
                return  # a decoder stops here too
            total += _ZSTD_BLOCK if kind == 2 else size
            at += 3 + (1 if kind == 1 else size)
            _take_one(budget)
            if total > _NODE_BYTES:
                raise ValueError(f'a node of it unpacks to more than {_NODE_BYTES:,} bytes')
        at += 4 * (flags >> 2 & 1)


def _take_one(budget: dict) -> None:
    budget['blocks'] -= 1
    if budget['blocks'] < 0:
        raise ValueError('a node of it is in too many pieces')
