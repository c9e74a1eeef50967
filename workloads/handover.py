"""What must be known of two phases before a tile of one may be handed to the other in the scratchpad.

`produced` reads the first phase: which buffer the tiles of a tensor are stored from, which counter says that tile k is
there, and which instruction is the first to write its block. `consumed` reads the second: which buffer they are loaded
to, which counter says that tile k is done with, and which instruction is the first to read it. Both walk what every
core executes, so what they return holds for all tiles, not for a pattern of them. ValueError says why a phase gives no
such answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hwmodel.program import QUEUES, Expression, Instruction, Op, Phase, walk
from workloads.streams import LOAD, STORE

Region = tuple[int, ...]  # the starts and the extents of a tile
Place = tuple[int, int]  # queue, position in its stream


@dataclass(frozen=True)
class Side:
    """`transfer`: the store, or the load. `counter`: tiles that are ready, or free again. `user`: the first to write,
    or to read, a block. `regions`: of all tiles, core by core."""

    transfer: Place
    buffer: int
    counter: int
    user: Place
    regions: tuple[tuple[Region, ...], ...]


def produced(phase: Phase, tensor: int, shares: Sequence[Sequence[int]]) -> Side:
    """Return how the first phase makes the tiles that it stores to a tensor."""
    store = _only(phase, STORE, tensor)
    instruction = phase.decoded[STORE][store]
    buffer = instruction.operands[0][0]
    if len(instruction.waits) != 1:
        raise ValueError(f"phase {phase.name}: the store waits for {len(instruction.waits)} counters; allowed: one")
    ready = instruction.waits[0][0]
    regions = []
    for tasks in shares:
        found = []
        for k, variables in enumerate(_executions(phase, STORE, store, tasks)):
            if _number(instruction, buffer, variables) != k or instruction.waits[0][1](variables) != k + 1:
                raise ValueError(f"phase {phase.name}: tile {k} of a core is not stored as its number {k}")
            found.append(_region(phase, instruction, variables))
        regions.append(tuple(found))
    queue = _queue_that_signals(phase, ready)
    user = _first_user(phase, queue, buffer, ready, shares, (STORE, store))
    return Side((STORE, store), buffer, ready, user, tuple(regions))


def consumed(phase: Phase, tensor: int, shares: Sequence[Sequence[int]]) -> Side:
    """Return how the second phase uses the tiles that it loads from a tensor."""
    load = _only(phase, LOAD, tensor)
    instruction = phase.decoded[LOAD][load]
    buffer = instruction.operands[0][0]
    slots = phase.buffers[buffer].slots
    frees = dict(instruction.waits)
    regions = []
    for tasks in shares:
        found = []
        for k, variables in enumerate(_executions(phase, LOAD, load, tasks)):
            if _number(instruction, buffer, variables) != k:
                raise ValueError(f"phase {phase.name}: tile {k} of a core is not loaded as its number {k}")
            frees = {c: value for c, value in frees.items() if value(variables) == k - slots + 1}
            found.append(_region(phase, instruction, variables))
        regions.append(tuple(found))
    if not frees:
        raise ValueError(f"phase {phase.name}: the load waits for no counter of the tiles that are free again")
    free = next(iter(frees))
    queue = _queue_that_signals(phase, free)
    user = _first_user(phase, queue, buffer, free, shares, (LOAD, load))
    return Side((LOAD, load), buffer, free, user, tuple(regions))


def check_progress(phase: Phase, shares: Sequence[Sequence[int]]) -> None:
    """Raise ValueError if the queues of a core would wait for each other for ever."""
    for tasks in shares:
        counters = [0] * len(phase.counters)
        streams = [_steps(phase, queue, tasks) for queue in range(len(QUEUES))]
        heads = [next(stream, None) for stream in streams]
        moved = True
        while moved:
            moved = False
            for queue, stream in enumerate(streams):
                while (head := heads[queue]) is not None and all(counters[c] >= value for c, value in head[0]):
                    for counter in head[1]:
                        counters[counter] += 1
                    heads[queue] = next(stream, None)
                    moved = True
        stuck = [QUEUES[queue] for queue, head in enumerate(heads) if head is not None]
        if stuck:
            raise ValueError(f"phase {phase.name}: queues {', '.join(stuck)} would wait for each other for ever")


def _steps(phase: Phase, queue: int, tasks: Sequence[int]) -> Iterator[tuple[list[tuple[int, int]], tuple[int, ...]]]:
    """Yield what each execution waits for, counters with their values, and what it signals."""
    for instruction, variables in walk(phase, queue, tasks):
        yield [(counter, value(variables)) for counter, value in instruction.waits], instruction.signals


def _only(phase: Phase, queue: int, tensor: int) -> int:
    """Return where in its queue the one instruction stands that moves tiles of a tensor."""
    op = Op.LOAD if queue == LOAD else Op.STORE
    found = [
        position
        for position, instruction in enumerate(phase.decoded[queue])
        if instruction.op is op and phase.tiles["tensor"][instruction.tile] == tensor
    ]
    if len(found) != 1:
        raise ValueError(f"phase {phase.name}: {len(found)} instructions {op.name.lower()} the tensor; allowed: one")
    if phase.tiles["index"][phase.decoded[queue][found[0]].tile] >= 0:
        raise ValueError(f"phase {phase.name}: the tensor is reached through an index tensor")
    return found[0]


def _executions(phase: Phase, queue: int, position: int, tasks: Sequence[int]) -> Iterator[list[int]]:
    wanted = phase.decoded[queue][position]
    return (variables for instruction, variables in walk(phase, queue, tasks) if instruction is wanted)


def _number(instruction: Instruction, buffer: int, variables: list[int]) -> int:
    """Return the number of the block that an instruction uses, before it is taken modulo the slots."""
    slots = [slot for number, slot in instruction.operands if number == buffer]
    return _affine(slots[0], variables)


def _affine(expression: Expression, variables: list[int]) -> int:
    return expression.constant + sum(c * variables[i] for i, c in expression.terms)


def _region(phase: Phase, instruction: Instruction, variables: list[int]) -> Region:
    tile = phase.tiles[instruction.tile]
    numbers = [*tile["start"].tolist(), *tile["extent"].tolist()]
    return tuple(phase.expression(number)(variables) for number in numbers if number >= 0)


def _queue_that_signals(phase: Phase, counter: int) -> int:
    found = [queue for queue, stream in enumerate(phase.decoded) if any(counter in i.signals for i in stream)]
    if len(found) != 1:
        raise ValueError(f"phase {phase.name}: {len(found)} queues signal {phase.counters[counter].name}; allowed: one")
    return found[0]


def _first_user(
    phase: Phase,
    queue: int,
    buffer: int,
    counter: int,
    shares: Sequence[Sequence[int]],
    transfer: Place,
) -> Place:
    """Return the one instruction that is the first to use every block.

    Raises ValueError if another queue uses one, but for the `transfer`, or if a block of tile k is used before the
    counter has said k, or after it has said more: then others could not rely on what the counter says.
    """
    for other, stream in enumerate(phase.decoded):
        uses = [p for p, i in enumerate(stream) if buffer in dict(i.operands) and (other, p) != transfer]
        if uses and other != queue:
            raise ValueError(
                f"phase {phase.name}: queue {QUEUES[other]} uses buffer {phase.buffers[buffer].name} beside "
                f"{QUEUES[queue]}"
            )
    first: set[int] = set()
    for tasks in shares:
        first |= _first_of_core(phase, queue, buffer, counter, tasks)
    if len(first) != 1:
        raise ValueError(
            f"phase {phase.name}: {len(first)} instructions are the first to use a block of "
            f"{phase.buffers[buffer].name}; allowed: one"
        )
    return queue, first.pop()


def _first_of_core(phase: Phase, queue: int, buffer: int, counter: int, tasks: Sequence[int]) -> set[int]:
    """Return the positions of the instructions that are the first to use a block, of one core."""
    positions = {id(instruction): position for position, instruction in enumerate(phase.decoded[queue])}
    first, signalled, last = set(), 0, -1
    for instruction, variables in walk(phase, queue, tasks):
        slots = [slot for number, slot in instruction.operands if number == buffer]
        numbers = {_affine(slot, variables) for slot in slots}
        if numbers and numbers != {signalled}:
            raise ValueError(
                f"phase {phase.name}: block {min(numbers)} of {phase.buffers[buffer].name} is used when "
                f"{phase.counters[counter].name} is {signalled}"
            )
        if numbers and signalled > last:
            first.add(positions[id(instruction)])
            last = signalled
        signalled += instruction.signals.count(counter)
    return first
