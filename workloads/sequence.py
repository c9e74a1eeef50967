"""Sequences: a call as a list of kernels over tensors in one address space, ready to be run.

Between the templates, which know one kernel each, and whoever builds a layer of a model: a `Step` names a kernel, its
problem and knobs, how often it runs, and which tensors of it are *values* of the call. A value that one step stores is
what later steps load; all other tensors belong to their step (weights, partial results). `plan` compiles the steps,
puts a layout conversion in front of a step that takes a value in another layout than it lies in, and gives every tensor
an address: bytes of values that are no longer read are given to later ones (`bufferise`).

Two tensors that are one value have the same elements in the order of their template's axes, the last one fastest, and
one element type; the names of the axes may differ. Values that steps only load exist before the call, those that no
later step loads are its results; both keep their bytes from their first use on, as do the values in `kept`, such as
caches that a step stores a part of.

Not modelled: a value that is a part of another, or steps that run side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from hwmodel.machine import Machine
from hwmodel.program import Phase, Program, Tensor
from layouts import Layout, NamedLayout, composition
from layouts.notation import nearest_first
from workloads.bufferise import Allocation, Request, bufferise
from workloads.kernels import KERNELS, Kernel
from workloads.kernels.convert_layout import TileKnobs, between
from workloads.streams import LOAD, STORE, renumbered, touched
from workloads.subspace import ALIGNMENT_BYTES


class Made(NamedTuple):
    """A program, and what it was compiled from: kernel, problem, knobs, machine, seed."""

    inputs: tuple[Any, ...]
    program: Program


@dataclass(frozen=True)
class Step:
    """`count` runs of a kernel; `values`: which of its tensors, by name, are values of the call, by name.

    `note`: what a reader should know of it beside its kernel. `made`: a program that need not be compiled again, as
    long as the step is run for the same machine and seed.
    """

    name: str
    kernel: str
    problem: Any
    knobs: Any
    count: int = 1
    values: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    made: Made | None = field(default=None, repr=False, compare=False)

    def compile(self, machine: Machine, seed: int, kernels: Mapping[str, Kernel] = KERNELS) -> Made:
        """Return the program, and what it is made from. Raises ValueError as the kernel's `compile`."""
        kernel = kernels[self.kernel]
        inputs = kernel, self.problem, self.knobs, machine, seed
        if self.made is not None and self.made.inputs == inputs:
            return self.made
        return Made(inputs, kernel.compile(self.problem, self.knobs, machine, seed))


@dataclass(frozen=True)
class Compiled:
    """A step as a program at its addresses. `values`: the value of every tensor of it; its own are `step.tensor`."""

    name: str
    kernel: str
    count: int
    program: Program
    values: tuple[str, ...]


@dataclass(frozen=True)
class Call:
    """Steps in order, with where their tensors lie in main memory."""

    steps: tuple[Compiled, ...]
    memory: Allocation

    def program(self, name: str = "call") -> Program:
        """Return the call as one program, each step once; its tensors are named `step.tensor`."""
        tensors: list[Tensor] = []
        phases: list[Phase] = []
        for step in self.steps:
            phases += [renumbered(phase, len(tensors)) for phase in step.program.phases]
            tensors += [replace(tensor, name=f"{step.name}.{tensor.name}") for tensor in step.program.tensors]
        return Program(name, tuple(tensors), tuple(phases))


def plan(
    steps: Sequence[Step],
    machine: Machine,
    seed: int = 0,
    *,
    kept: Sequence[str] = (),
    kernels: Mapping[str, Kernel] = KERNELS,
) -> Call:
    """Return the call of the steps, compiled with `seed`.

    Raises ValueError naming the step for an unknown kernel or tensor, for a value whose tensors do not agree, and for
    tensors that main memory has no room for.
    """
    planner = _Planner(machine)
    for step in steps:
        if step.count < 1:
            raise ValueError(f"step {step.name}: count is {step.count}; allowed: from 1")
        if step.kernel not in kernels:
            known = nearest_first(step.kernel, kernels)
            raise ValueError(f"step {step.name}: unknown kernel {step.kernel!r}; known: {known}")
        planner.add(step, step.compile(machine, seed, kernels).program)
    return placed(planner.steps, machine, kept)


def placed(steps: Sequence[Compiled], machine: Machine, kept: Sequence[str] = ()) -> Call:
    """Return the call of compiled steps with addresses for their tensors."""
    memory = _allocate(steps, kept)
    capacity = machine.memory_capacity_bytes
    if memory.high_water_bytes > capacity:
        raise ValueError(
            f"the call needs {memory.high_water_bytes} B of {machine.memory.upper()}, "
            f"{memory.high_water_bytes - capacity} B more than the {capacity} B of {machine.spec.name}"
        )
    address = {place.request.name: place.address for place in memory.placed}
    moved = []
    for step in steps:
        tensors = [
            replace(tensor, base_bytes=address[value])
            for tensor, value in zip(step.program.tensors, step.values, strict=True)
        ]
        moved.append(replace(step, program=replace(step.program, tensors=tuple(tensors))))
    return Call(tuple(moved), memory)


class _Planner:
    """Adds steps one by one; knows where every value lies, and which copies of it in other layouts there are."""

    def __init__(self, machine: Machine) -> None:
        self.steps: list[Compiled] = []
        self._machine = machine
        self._tensors: dict[str, Tensor] = {}  # of values
        self._copies: dict[tuple[str, Any], str] = {}  # value, key of a layout -> value in that layout

    def add(self, step: Step, program: Program) -> None:
        names = [tensor.name for tensor in program.tensors]
        for name in step.values:
            if name not in names:
                raise ValueError(f"step {step.name}: no tensor {name!r}; known: {nearest_first(name, names)}")
        if step.name in (other.name for other in self.steps):
            raise ValueError(f"step {step.name}: there is another of this name")
        stored = {tensor for queue, tensor in _touches(program) if queue == STORE}
        values = []
        for number, tensor in enumerate(program.tensors):
            value = step.values.get(tensor.name)
            if value is None:
                values.append(f"{step.name}.{tensor.name}")
            else:
                values.append(self._take(step, tensor, value, number in stored))
        self.steps.append(Compiled(step.name, step.kernel, step.count, program, tuple(values)))

    def _take(self, step: Step, tensor: Tensor, value: str, is_stored: bool) -> str:
        """Return the value to use: itself, or a copy of it in the layout of `tensor`, converted here if need be."""
        known = self._tensors.setdefault(value, tensor)
        sizes = [(t.layout.layout.size, t.dtype) for t in (known, tensor)]
        if sizes[0] != sizes[1]:
            shown = [f"{size} elements of {dtype}" for size, dtype in sizes]
            raise ValueError(f"step {step.name}: tensor {tensor.name} has {shown[1]}, value {value} has {shown[0]}")
        key = flat(tensor.layout).key
        if key == flat(known.layout).key:
            if is_stored:  # copies are of what was there before
                self._copies = {pair: copy for pair, copy in self._copies.items() if pair[0] != value}
            return value
        if is_stored:
            raise ValueError(
                f"step {step.name}: tensor {tensor.name} stores {tensor.layout.text}, value {value} lies as "
                f"{known.layout.text}; give what is stored a name of its own"
            )
        if (value, key) not in self._copies:
            self._copies[value, key] = self._convert(step, known, tensor, value)
        return self._copies[value, key]

    def _convert(self, step: Step, known: Tensor, tensor: Tensor, value: str) -> str:
        source, target = matrices(known.layout, tensor.layout)
        program = between(source, target, tensor.dtype, TileKnobs(), self._machine)
        copy = f"{value} for {step.name}.{tensor.name}"
        name = f"{value} to {step.name}"
        self.steps.append(Compiled(name, "convert-layout", step.count, program, (value, copy)))
        return copy


def flat(layout: NamedLayout) -> Layout:
    """Return the layout over the elements in order, the last axis fastest."""
    inner = layout.layout
    if not isinstance(inner.shape, tuple) or not isinstance(inner.stride, tuple):
        return inner
    return Layout(inner.shape[::-1], inner.stride[::-1], inner.offset, inner.stages)


def matrices(one: NamedLayout, other: NamedLayout) -> tuple[NamedLayout, NamedLayout]:
    """Return two layouts of the same elements as layouts of one matrix, as near to a square as their axes allow."""
    total = one.layout.size
    tails = {1}
    for layout in (one, other):
        tail = 1
        for axis in reversed(layout.axes):
            tail *= layout.size(axis)
            tails.add(tail)
    for columns in sorted(tails, key=lambda tail: max(tail, total // tail)):
        try:
            return _matrix(one, columns), _matrix(other, columns)
        except ValueError:  # these columns cut a digit of one of the layouts
            continue
    raise ValueError(f"layouts {one.text} and {other.text} are not layouts of one matrix")


def _matrix(layout: NamedLayout, columns: int) -> NamedLayout:
    rows = layout.layout.size // columns
    found = composition(flat(layout), Layout((columns, rows), (1, columns)))
    assert isinstance(found.shape, tuple)
    assert isinstance(found.stride, tuple)
    return NamedLayout(("row", "column"), Layout(found.shape[::-1], found.stride[::-1], found.offset, found.stages))


def _allocate(steps: Sequence[Compiled], kept: Sequence[str]) -> Allocation:
    """Return addresses for all values, each in use for a span of steps."""
    events: dict[str, list[tuple[int, int]]] = {}  # in order: step, queue
    sizes: dict[str, int] = {}
    for number, step in enumerate(steps):
        for queue, tensor in _touches(step.program):
            events.setdefault(step.values[tensor], []).append((number, queue))
        for value, tensor_ in zip(step.values, step.program.tensors, strict=True):
            sizes[value] = max(sizes.get(value, 0), tensor_.size_bytes)
    requests = []
    for value, size in sizes.items():
        happened, first, last = events.get(value, []), 0, len(steps) - 1
        if value not in kept and happened and happened[0][1] == STORE:
            first = happened[0][0]
            last = happened[-1][0] if happened[-1][1] == LOAD else last
        requests.append(Request(value, size, first=first, last=last))
    return bufferise(requests, ALIGNMENT_BYTES)


def _touches(program: Program) -> list[tuple[int, int]]:
    """Return (queue, tensor) of what each phase loads and then of what it stores, phase by phase."""
    return [
        (queue, tensor)
        for phase in program.phases
        for queue in (LOAD, STORE)
        for tensor in sorted(touched(phase, queue))
    ]
