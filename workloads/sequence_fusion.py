"""Fusion in a sequence: neighbouring steps become one where the value between them need not go to memory.

The pass over a planned call. A pair of steps is tried if both run equally often and the second alone loads what the
first alone stores; `fusion` says whether its programs go together. What came of every pair that was tried stands in
`notes`, with what it saves or why not. Fused steps are tried again with the step behind them. The tensors that are left
are placed anew.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from itertools import accumulate

from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.units import FS_PER_US
from workloads.fusion import fuse
from workloads.sequence import Call, Compiled, placed
from workloads.streams import LOAD, STORE, renumbered, touched


@dataclass(frozen=True)
class FusedCall:
    """The call with fewer steps. Savings are of the whole call: bytes asked of memory, and time of launches."""

    call: Call
    notes: tuple[str, ...]
    saved_bytes: int
    saved_launch_fs: int


def fuse_steps(call: Call, machine: Machine, kept: Sequence[str] = ()) -> FusedCall:
    """Return the call with steps fused where that goes; values in `kept` are stored all the same."""
    left = list(call.steps)
    notes: list[str] = []
    done: list[Compiled] = []
    saved_bytes = saved_fs = 0
    while left:
        step = left.pop(0)
        values = _between([*done, step, *left], len(done), {*kept, *call.held}) if left else []
        for value in values:
            pair = f"{step.name} + {left[0].name}"
            try:
                fused, size_bytes, launch_fs = _fused(step, left[0], machine)
            except ValueError as error:
                notes.append(f"{pair}: {value} goes through memory: {error}")
                continue
            saved_bytes, saved_fs = saved_bytes + step.count * size_bytes, saved_fs + step.count * launch_fs
            notes.append(f"{pair}: {value} is handed over, saves {size_bytes} B and {launch_fs / FS_PER_US:g} us")
            left[0] = fused
            break
        else:
            done.append(step)
    return FusedCall(placed(done, machine, kept, call.held), tuple(notes), saved_bytes, saved_fs)


def _between(steps: Sequence[Compiled], number: int, kept: Set[str]) -> list[str]:
    """Return the values that step `number` stores and the next one loads, and no other step or end of the call uses."""
    step, following = steps[number : number + 2]
    if step.count != following.count:
        return []
    elsewhere = {value for i, other in enumerate(steps) if i not in (number, number + 1) for value in other.values}
    stored, loaded = _moved(step, STORE), _moved(following, LOAD)
    return [value for value in stored if value in loaded and value not in elsewhere and value not in kept]


def _moved(step: Compiled, queue: int) -> list[str]:
    tensors = {tensor for phase in step.program.phases for tensor in touched(phase, queue)}
    return [step.values[tensor] for tensor in sorted(tensors)]


def _fused(step: Compiled, following: Compiled, machine: Machine) -> tuple[Compiled, int, int]:
    """Return two steps as one, and what that saves per run.

    They are looked at with every value at an address of its own: bytes that a plan has given to two values in turn
    would look like one tensor.
    """
    sizes: dict[str, int] = {}
    for value, size in (*step.spans, *following.spans):
        sizes[value] = max(sizes.get(value, 0), size)
    address = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))
    place_at: dict[int, tuple[str, int]] = {}
    tensors = []
    for part in (step, following):
        for tensor, value, offset in zip(part.program.tensors, part.values, part.offsets, strict=True):
            tensors.append(replace(tensor, base_bytes=address[value] + offset))
            place_at[tensors[-1].base_bytes] = value, offset
    behind = len(step.program.tensors)
    phases = [*step.program.phases, *(renumbered(phase, behind) for phase in following.program.phases)]
    name = f"{step.kernel} + {following.kernel}"
    found = fuse(Program(name, tuple(tensors), tuple(phases)), len(step.program.phases) - 1, machine)
    values, offsets = zip(*(place_at[tensor.base_bytes] for tensor in found.program.tensors), strict=True)
    fused = Compiled(f"{step.name} + {following.name}", name, step.count, found.program, values, offsets)
    return fused, found.saved_bytes, found.saved_launch_fs
