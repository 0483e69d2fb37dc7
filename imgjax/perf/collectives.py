"""Finds the collectives of a compiled program: their kinds, sizes, and how often they run."""

import math
import re
from typing import NamedTuple

from imgjax.perf import hlo

KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')


class Collective(NamedTuple):
    """A collective instruction of a program.

    Attributes:
      kind: one of KINDS.
      group: the number of devices that exchange data with each other.
      bytes: the size of the whole array: the input of an all-reduce or a reduce-scatter, the result
        of an all-gather, and for the other two kinds what one device sends.
      runs: how often it runs per step.
    """

    kind: str
    group: int
    bytes: int
    runs: int


def find(program: hlo.Program, devices: int) -> list[Collective]:
    """Returns the collectives of a program; `runs` counts every iteration of a loop.

    Args:
      program: as hlo.parse returns it.
      devices: the number of devices that the program was compiled for.
    """
    found, chains = [], {}
    into = ('while', 'call', 'conditional', 'async-start', 'fusion')
    for computation, instruction, times in hlo.executed(program, into):
        kind = instruction.opcode.removesuffix('-start')
        if kind not in KINDS:
            continue
        input_bytes = sum(computation[name].bytes for name in instruction.operands)
        output_bytes = instruction.bytes
        if instruction.opcode == 'all-gather-start':
            output_bytes -= input_bytes  # its result also contains the operand
        elif instruction.opcode == 'collective-permute-start':
            output_bytes = input_bytes
        # The TPU's compiler turns an all-reduce whose result is sliced into a reduce-scatter.
        if kind == 'all-reduce' and _is_scattered(computation, instruction):
            kind = 'reduce-scatter'
        group = group_size(instruction.attributes, devices)
        if group == 1:
            continue
        collective = Collective(
            kind, group, input_bytes if kind == 'reduce-scatter' else output_bytes, times)
        # The TPU's compiler may run one collective during several fusions, and names it in each.
        channel = re.search(r'channel_id=(\d+)', instruction.attributes)
        if 'chain_id' in instruction.attributes and channel:
            first = chains.setdefault((kind, channel[1]), collective)
            chains[kind, channel[1]] = min(first, collective, key=lambda part: part.runs)
        else:
            found.append(collective)
    return found + list(chains.values())


def _is_scattered(computation: dict, instruction: hlo.Instruction) -> bool:
    users = [i for i in computation.values() if instruction.name in i.operands]
    return bool(users) and all(user.is_root and user.opcode == 'dynamic-slice' for user in users)


def group_size(attributes: str, devices: int) -> int:
    """Returns the number of devices per group of a collective, from any of XLA's notations.

    >>> group_size('replica_groups={{0,1},{2,3}}', 4)
    2
    >>> group_size('replica_groups=[2,4]<=[8]', 8)
    4
    >>> group_size("replica_groups=mesh['a'=4,'b'=2] {'a'}", 8)
    4
    >>> group_size("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", 8)
    4
    >>> group_size('replica_groups={}', 8)
    8
    """
    listed = re.search(r'replica_groups=\{\{([\d,]*)\}', attributes)
    if listed:
        return len(listed[1].split(','))
    counted = re.search(r'replica_groups=\[(\d+),(\d+)\]<=', attributes)
    if counted:
        return int(counted[2])
    named = re.search(r'replica_groups=mesh\[([^\]]*)\](?:, device_ids=[^{]*)? *\{([^}]*)\}',
                      attributes)
    if named:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", named[2]))
    return devices


def totals(found: list[Collective]) -> dict[str, dict[str, int]]:
    """Returns {kind: {'count', 'bytes'}} per step, the kind with the most bytes first."""
    sums = {}
    for collective in found:
        entry = sums.setdefault(collective.kind, {'count': 0, 'bytes': 0})
        entry['count'] += collective.runs
        entry['bytes'] += collective.runs * collective.bytes
    return dict(sorted(sums.items(), key=lambda item: -item[1]['bytes']))
