"""Reads a compiled program from XLA's text: instructions, how often each runs, memory traffic.

XLA's own cost analysis counts the body of a loop only once, and does not distinguish a TPU's
on-chip memory from HBM. The text has both the iterations and the memory spaces.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_ARRAY = re.compile(r'\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](?:\{([^}]*)\})?')
_NAME = re.compile(r'%([\w.-]+)')
_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.-]+) \(.*\{$')
_CALLED = {
    'while': r'body=%([\w.-]+)',
    'call': r'to_apply=%([\w.-]+)',
    'fusion': r'calls=%([\w.-]+)',
    'async-start': r'calls=%([\w.-]+)',
    'conditional': r'(?:true|false)_computation=%([\w.-]+)|branch_computations=\{([^}]*)\}',
}
# Instructions that name a value or wait for it, and move no bytes.
_FREE = {'parameter', 'constant', 'get-tuple-element', 'tuple', 'bitcast', 'after-all', 'while',
         'call', 'conditional', 'async-start', 'iota', 'partition-id', 'replica-id',
         'opt-barrier'}
_SLICES = ('slice', 'dynamic-slice', 'gather')


class Array(NamedTuple):
    """One array of an instruction's result: its size in bytes, and whether it is in main memory."""

    bytes: int
    in_hbm: bool


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      name: the name of its result.
      opcode: such as 'fusion'.
      arrays: the arrays of its result, several for a tuple.
      operands: the names of its operands.
      inside: the text between the parentheses after the opcode.
      attributes: the text after these parentheses.
      is_root: whether its result is the result of the computation.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    inside: str
    attributes: str
    is_root: bool

    @property
    def bytes(self) -> int:
        """The size of the result in bytes, in any memory."""
        return sum(array.bytes for array in self.arrays)


class Program(NamedTuple):
    """Computations by name, each {instruction name: Instruction}, and the name of the entry."""

    entry: str
    computations: dict[str, dict[str, Instruction]]


def parse(text: str) -> Program:
    """Parses a program, the text that `compiled.as_text()` returns."""
    computations, entry, current = {}, '', None
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif current is not None and ' = ' in line:
            instruction = _instruction(line.strip())
            current[instruction.name] = instruction
    return Program(entry, computations)


def _instruction(line: str) -> Instruction:
    name, _, rest = line.partition(' = ')
    shape, rest = _through(rest) if rest.startswith('(') else rest.split(' ', 1)
    opcode, _, _ = rest.strip().partition('(')
    inside, attributes = _through(rest.strip()[len(opcode):])
    arrays = tuple(_array(*found.groups()) for found in _ARRAY.finditer(shape))
    return Instruction(name.removeprefix('ROOT ').lstrip('%'), opcode, arrays,
                       tuple(_NAME.findall(inside)), inside[1:-1], attributes,
                       name.startswith('ROOT '))


def _through(text: str) -> tuple[str, str]:
    """Splits a text after the parenthesis that closes its first parenthesis."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == '(') - (letter == ')')
        if not depth:
            return text[:i + 1], text[i + 1:]
    return text, ''


def _array(dtype: str, sizes: str, layout: str | None) -> Array:
    count = 1
    for size in sizes.replace('<=', '').split(','):
        count *= int(size or 1)
    digits = re.search(r'\d+', dtype)  # the types token and opaque have none
    bits = 8 if dtype == 'pred' else int(digits[0]) if digits else 0
    return Array(-(-count * bits // 8), 'S(' not in (layout or ''))


def called(instruction: Instruction) -> list[str]:
    """Returns the names of the computations that an instruction runs."""
    pattern = _CALLED.get(instruction.opcode)
    found = re.findall(pattern, instruction.attributes) if pattern else []
    names = []
    for groups in found:
        groups = (groups,) if isinstance(groups, str) else groups
        names += [name.strip().lstrip('%') for text in groups if text for name in text.split(',')]
    return names


def trips(program: Program, loop: Instruction) -> int:
    """Returns how often the body of a while loop runs; 1 where the text does not show it.

    The CPU's compiler writes the number. The TPU's compiler writes only the condition; for lax.scan
    this is that a counter, which starts at 0, is below a constant.
    """
    known = re.search(r'known_trip_count[^\d]*(\d+)', loop.attributes)
    if known:
        return int(known[1])
    condition = re.search(r'condition=%([\w.-]+)', loop.attributes)
    limits = [int(instruction.inside)
              for instruction in program.computations[condition[1]].values()
              if instruction.opcode == 'constant' and instruction.inside.isdigit()]
    return max(limits, default=1)


def executed(program: Program, into=('while', 'call', 'conditional', 'async-start'),
             name: str = '', times: int = 1) -> Iterator[tuple[dict, Instruction, int]]:
    """Yields (computation, instruction, how often it runs).

    Each branch of a conditional counts as if it ran every time.

    Args:
      program: as `parse` returns it.
      into: the opcodes whose computations are included.
      name: the computation to begin with; '' is the entry.
      times: how often that computation runs.
    """
    computation = program.computations[name or program.entry]
    for instruction in computation.values():
        yield computation, instruction, times
        if instruction.opcode in into:
            inner = times * (trips(program, instruction) if instruction.opcode == 'while' else 1)
            for body in called(instruction):
                yield from executed(program, into, body, inner)


def traffic(program: Program) -> int:
    """Returns the bytes that one run reads from and writes to main memory.

    Every instruction outside of a fusion reads its operands and writes its result once; from an
    operand that is only sliced it reads the slices. On-chip memory and the padding of tiles are not
    counted. A collective inside a fusion counts as traffic of the interconnect only.
    """
    return sum(times * _moved(program, computation, instruction)
               for computation, instruction, times in executed(program))


def _moved(program: Program, computation: dict, instruction: Instruction) -> int:
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith(('-done', '-update')) or (
            'AllocateBuffer' in instruction.attributes):
        return 0
    sources = [computation[name] for name in instruction.operands if name in computation]
    if opcode == 'fusion':
        return _moved_by_fusion(program, instruction, sources)
    if opcode in ('dynamic-update-slice', 'scatter'):  # they update the array in place
        return 2 * sources[1].bytes if instruction.arrays[0].in_hbm else 0
    written = instruction.arrays
    if opcode == 'copy-start' or opcode.endswith('slice-start'):
        # The result is (destination, source, flag), or for a slice (source, destination, flag).
        written = instruction.arrays[:1] if opcode == 'copy-start' else instruction.arrays[1:2]
        return written[0].bytes * (written[0].in_hbm + all(
            array.in_hbm for source in sources[:1] for array in source.arrays))
    if opcode.endswith('-start'):  # a collective: its result has the inputs, then the outputs
        written = written[len(sources):] or written
    read = [array for source in sources for array in source.arrays]
    if opcode in _SLICES:
        read = [Array(instruction.bytes, read[0].in_hbm), *read[1:]]
    return sum(array.bytes for array in (*read, *written) if array.in_hbm)


def _moved_by_fusion(program: Program, fusion: Instruction, sources: list[Instruction]) -> int:
    body = program.computations[called(fusion)[0]]
    parameters = {instruction.inside: instruction for instruction in body.values()
                  if instruction.opcode == 'parameter'}
    read = sum(
        min(source.bytes, _read_bytes(program, body, parameters[str(number)].name))
        for number, source in enumerate(sources)
        if all(array.in_hbm for array in source.arrays))
    written = _written_bytes(program, body)
    written = written if len(written) == len(fusion.arrays) else [a.bytes for a in fusion.arrays]
    return read + sum(size for size, array in zip(written, fusion.arrays, strict=True)
                      if array.in_hbm)


def _read_bytes(program: Program, body: dict, name: str) -> int:
    """Returns how many bytes of a value the instructions of a fused computation read."""
    total = 0
    for user in body.values():
        if name not in user.operands:
            continue
        first = user.operands[0] == name
        if user.opcode in ('bitcast', 'get-tuple-element'):
            total += _read_bytes(program, body, user.name)
        elif user.opcode in _SLICES and first:
            total += user.bytes
        elif (user.opcode == 'dynamic-update-slice' and first) or user.opcode == 'tuple' or (
                _is_carried(user)):
            continue  # it passes the value on without reading it
        elif user.opcode == 'fusion':
            inner = program.computations[called(user)[0]]
            for number, operand in enumerate(user.operands):
                if operand == name:
                    total += sum(_read_bytes(program, inner, i.name) for i in inner.values()
                                 if i.opcode == 'parameter' and i.inside == str(number))
        else:
            return body[name].bytes
    return total


def _is_carried(instruction: Instruction) -> bool:
    # It is a collective that runs during a fusion; collectives.find counts it.
    return 'chain_id' in instruction.attributes or instruction.opcode == 'custom-call'


def _written_bytes(program: Program, body: dict) -> list[int]:
    """Returns how many bytes a fused computation writes for each array of its result."""
    def bytes_of(instruction: Instruction) -> int:
        if instruction.opcode == 'bitcast' and instruction.operands[0] in body:
            return bytes_of(body[instruction.operands[0]])
        if instruction.opcode == 'dynamic-update-slice':
            return body[instruction.operands[1]].bytes
        if instruction.opcode == 'parameter' or _is_carried(instruction):
            return 0
        return instruction.bytes

    root = next(instruction for instruction in body.values() if instruction.is_root)
    if root.opcode == 'tuple':
        return [bytes_of(body[name]) for name in root.operands]
    if root.opcode == 'fusion':
        return _written_bytes(program, program.computations[called(root)[0]])
    return [bytes_of(root)]
