"""Sequences: a call as a list of kernels over tensors in one address space, ready to be run.

Between the templates, which know one kernel each, and whoever builds a layer of a model: a `Step` names a kernel, its
problem and knobs, how often it runs, and which tensors of it are *values* of the call. A value that one step stores is
what later steps load; all other tensors belong to their step (weights, partial results). `plan` compiles the steps,
puts a layout conversion in front of a step that takes a value in another layout than it lies in, and gives every tensor
an address: bytes of values that are no longer read are given to later ones (`bufferise`).

Two tensors that are one value have the same elements in the order of their template's axes, the last one fastest, and
one element type; the names of the axes may differ. A tensor that is only a part of a value, or has its axes in another
order, says so by a `Part` instead of the value's name; where it fits, it takes the strides of the whole. Values that
steps only load exist before the call, those that no later step loads are its results; both keep their bytes from their
first use on, as do the values in `kept`, such as caches that a step stores a part of.

A step that runs several times has its tensors once: weights and caches of equal layers are one set of bytes here, and
`held_bytes` says what all runs hold: what kernels keep of their own tensors, and values that are `held`. All else is
there once. Not modelled: steps that run side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from hwmodel.machine import Machine
from hwmodel.program import Phase, Program, Tensor
from layouts import Layout, NamedLayout
from layouts.notation import nearest_first
from workloads.bufferise import Allocation, Request, bufferise
from workloads.kernels import KERNELS, Kernel
from workloads.kernels.convert_layout import TileKnobs, between
from workloads.streams import LOAD, STORE, renumbered, touched
from workloads.subspace import ALIGNMENT_BYTES
from workloads.values import Laid, Part, flat, matrices, packed, part_of, reordered


class Made(NamedTuple):
    """A program, and what it was compiled from: kernel, problem, knobs, machine, seed."""

    inputs: tuple[Any, ...]
    program: Program


@dataclass(frozen=True)
class Step:
    """`count` runs of a kernel; `values`: which of its tensors, by name, are values of the call, or parts of them.

    `note`: what a reader should know of it beside its kernel. `made`: a program that need not be compiled again, as
    long as the step is run for the same machine and seed.
    """

    name: str
    kernel: str
    problem: Any
    knobs: Any
    count: int = 1
    values: Mapping[str, str | Part] = field(default_factory=dict)
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
    """A step as a program at its addresses. `values`: the value of every tensor of it; its own are `step.tensor`.

    `offsets`: where in its value each tensor begins, in bytes.
    """

    name: str
    kernel: str
    count: int
    program: Program
    values: tuple[str, ...]
    offsets: tuple[int, ...]

    @property
    def spans(self) -> Iterator[tuple[str, int]]:
        """The value of every tensor, with the byte of it behind which nothing of the tensor lies."""
        for value, offset, tensor in zip(self.values, self.offsets, self.program.tensors, strict=True):
            yield value, offset + tensor.size_bytes


@dataclass(frozen=True)
class Call:
    """Steps in order, with where their tensors lie in main memory.

    `held`: values that every run has for itself, and stay: weights and caches, with how many bytes of them do.
    """

    steps: tuple[Compiled, ...]
    memory: Allocation
    held: Mapping[str, int] = field(default_factory=dict)

    @property
    def held_bytes(self) -> int:
        """What all runs hold: weights and caches of every layer, each as often as it is."""
        counts = {value: step.count for step in self.steps for value in step.values}
        return sum(counts[value] * size for value, size in self.held.items())

    @property
    def transient_bytes(self) -> int:
        """The most that all else takes at a time: activations, tables and partial results, of one run of each step."""
        passing = [placed.request for placed in self.memory.placed if placed.request.name not in self.held]
        change = np.zeros(len(self.steps) + 1, np.int64)
        for request in passing:
            change[request.first] += request.size_bytes
            change[request.last + 1] -= request.size_bytes
        return int(np.cumsum(change).max())

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
        planner.add(step, step.compile(machine, seed, kernels).program, kernels[step.kernel].keeps)
    return placed(planner.steps, machine, kept, planner.held)


def placed(
    steps: Sequence[Compiled], machine: Machine, kept: Sequence[str] = (), held: Mapping[str, int] | None = None
) -> Call:
    """Return the call of compiled steps with addresses for their tensors; `held` as in `Call`."""
    held = held or {}
    memory = _allocate(steps, {*kept, *held})
    capacity = machine.memory_capacity_bytes
    if memory.high_water_bytes > capacity:
        raise ValueError(
            f"the call needs {memory.high_water_bytes} B of {machine.memory.upper()}, "
            f"{memory.high_water_bytes - capacity} B more than the {capacity} B of {machine.spec.name}"
        )
    address = {place.request.name: place.address for place in memory.placed}
    room = machine.spec.shared_cache.distinct_bytes if machine.spec.shared_cache else 0
    moved, passed, since = [], 0, dict[str, int]()  # bytes that went through the cache so far, and by when one stored
    for step in steps:
        touches = _touches(step.program)
        stored = {step.values[tensor] for queue, tensor in touches if queue == STORE}
        passed_on = {value for value, then in since.items() if passed - then < room} - stored
        tensors = [
            replace(
                tensor, base_bytes=address[value] + offset, resident="cache" if value in passed_on else tensor.resident
            )
            for tensor, value, offset in zip(step.program.tensors, step.values, step.offsets, strict=True)
        ]
        moved.append(replace(step, program=replace(step.program, tensors=_residing(tensors, step.values, machine))))
        passed += sum(step.program.tensors[tensor].size_bytes for tensor in {tensor for _, tensor in touches})
        again = passed_on.intersection(step.values)
        since |= dict.fromkeys((stored | again) - {*kept, *held}, passed)
    return Call(tuple(moved), memory, held)


def _residing(tensors: Sequence[Tensor], values: Sequence[str], machine: Machine) -> tuple[Tensor, ...]:
    """Return the placed tensors of a step, in the shared cache only as far as what lies there fits it, the first first.

    Templates decide it by the bytes of each tensor, and what a step before has stored or found is there as well, until
    more bytes than the cache holds have passed. What parts of one value have lies between the first and the last byte
    of them, with gaps in which others of them lie: it is there once, all of it or nothing.
    """
    spans: dict[str, tuple[int, int]] = {}
    for tensor, value in zip(tensors, values, strict=True):
        if tensor.resident == "cache":
            begin, end = tensor.base_bytes, tensor.base_bytes + tensor.size_bytes
            first, last = spans.get(value, (begin, end))
            spans[value] = min(first, begin), max(last, end)
    left = machine.spec.shared_cache.distinct_bytes if machine.spec.shared_cache else 0
    far = set()
    for value, (begin, end) in spans.items():
        if end - begin <= left:
            left -= end - begin
        else:
            far.add(value)
    return tuple(
        replace(tensor, resident=machine.memory) if tensor.resident == "cache" and value in far else tensor
        for tensor, value in zip(tensors, values, strict=True)
    )


class _Taken(NamedTuple):
    """A tensor of a step as it lies in a value, and where in it that begins."""

    tensor: Tensor
    value: str
    offset_bytes: int = 0


class _Planner:
    """Adds steps one by one; knows where every value lies, and which copies of it in other layouts there are."""

    def __init__(self, machine: Machine) -> None:
        self.steps: list[Compiled] = []
        # bytes that stay, by value, first row and column, and field where several tensors are one value
        self._held: dict[tuple[str, int, int, str], int] = {}
        self._machine = machine
        self._tensors: dict[str, Tensor] = {}  # of values
        self._copies: dict[tuple[str, Any, Any], str] = {}  # value, part of it, key of a layout -> that in this layout

    @property
    def held(self) -> dict[str, int]:
        """The bytes that stay of each value; steps may each hold a part of one."""
        found: dict[str, int] = {}
        for (value, *_), size in self._held.items():
            found[value] = found.get(value, 0) + size
        return found

    def _hold(self, tensor: Tensor, part: Part, field: str = "") -> None:
        key, size = (part.value, part.row, part.column, field), tensor.layout.layout.size * tensor.element_bytes
        self._held[key] = max(self._held.get(key, 0), size)

    def add(self, step: Step, program: Program, keeps: Sequence[str] = ()) -> None:
        names = [tensor.name for tensor in program.tensors]
        for name in step.values:
            if name not in names:
                raise ValueError(f"step {step.name}: no tensor {name!r}; known: {nearest_first(name, names)}")
        if step.name in (other.name for other in self.steps):
            raise ValueError(f"step {step.name}: there is another of this name")
        stored = {tensor for queue, tensor in _touches(program) if queue == STORE}
        pools = _pools([tensor for tensor in program.tensors if tensor.name not in step.values])
        taken = []
        for number, tensor in enumerate(program.tensors):
            given = step.values.get(tensor.name)
            if given is None:
                pool, offset_bytes = pools[tensor.name]
                taken.append(_Taken(tensor, f"{step.name}.{pool}", offset_bytes))
                if pool in keeps:
                    self._hold(tensor, Part(taken[-1].value), tensor.name)
                continue
            try:
                taken.append(self._take(step, tensor, given, number in stored))
            except ValueError as error:
                raise ValueError(f"step {step.name}: {error}") from None
        self._append(step.name, step.kernel, step.count, program, taken)

    def _append(self, name: str, kernel: str, count: int, program: Program, taken: Sequence[_Taken]) -> None:
        program = replace(program, tensors=tuple(one.tensor for one in taken))
        values, offsets = tuple(one.value for one in taken), tuple(one.offset_bytes for one in taken)
        self.steps.append(Compiled(name, kernel, count, program, values, offsets))

    def _take(self, step: Step, tensor: Tensor, given: str | Part, is_stored: bool) -> _Taken:
        """Return the tensor as a part of its value, or of a copy that is converted here to the layout it needs."""
        part = given if isinstance(given, Part) else Part(given)
        known = self._tensors.setdefault(part.value, _whole(part, tensor))
        if known.dtype != tensor.dtype:
            raise ValueError(f"tensor {tensor.name} is of {tensor.dtype}, value {part.value} of {known.dtype}")
        if part.held:
            self._hold(tensor, part)
        lies = part_of(known, part, tensor)
        if tensor.layout in (lies.layout, packed(lies.layout)):
            if is_stored:  # copies are of what was there before
                self._copies = {key: copy for key, copy in self._copies.items() if key[0] != part.value}
            return _Taken(_with(tensor, lies.layout), part.value, lies.offset * tensor.element_bytes)
        if is_stored:
            raise ValueError(
                f"tensor {tensor.name} stores {tensor.layout.text}, value {part.value} lies as {lies.layout.text}; "
                "give what is stored a name of its own"
            )
        axes = part.axes or tensor.layout.axes
        key = part.value, (part.shape, part.row, part.rows, part.column), flat(reordered(tensor.layout, axes)).key
        if key not in self._copies:
            self._copies[key] = self._convert(step, tensor, lies, part, axes)
        return _Taken(tensor, self._copies[key])

    def _convert(self, step: Step, tensor: Tensor, lies: Laid, part: Part, axes: tuple[str, ...]) -> str:
        source, target = matrices(reordered(lies.layout, axes), reordered(tensor.layout, axes))
        program = between(source, target, tensor.dtype, TileKnobs(), self._machine)
        copy = f"{part.value} for {step.name}.{tensor.name}"
        begin, end = program.tensors
        taken = _Taken(begin, part.value, lies.offset * tensor.element_bytes), _Taken(end, copy)
        which = f"{tensor.name} of " if part.shape else ""  # a step may take several parts of one value
        self._append(f"{which}{part.value} to {step.name}", "convert-layout", step.count, program, taken)
        return copy


def _pools(tensors: Sequence[Tensor]) -> dict[str, tuple[str, int]]:
    """Return, of every tensor of a step alone, the value it lies in and where in it, in bytes.

    A tensor is a value of its own, but those that lie inside one another are one: the fields of a record, `cache nope`
    and `cache scale`, are `cache`.
    """
    found: dict[str, tuple[str, int]] = {}
    pool: list[Tensor] = []
    end = 0
    for tensor in [*sorted(tensors, key=lambda tensor: tensor.base_bytes), None]:
        if pool and (tensor is None or tensor.base_bytes >= end):
            name = pool[0].name.split()[0] if len(pool) > 1 else pool[0].name
            found |= {one.name: (name, one.base_bytes - pool[0].base_bytes) for one in pool}
            pool = []
        if tensor is not None:
            end = max(end if pool else 0, tensor.base_bytes + tensor.size_bytes)
            pool.append(tensor)
    return found


def _whole(part: Part, tensor: Tensor) -> Tensor:
    """Return the value as its first tensor tells how it lies: as that tensor, or row by row where it is only a part."""
    if part.shape is None:
        return replace(tensor, layout=reordered(tensor.layout, part.axes)) if part.axes else tensor
    rows, columns = part.shape
    return replace(tensor, layout=NamedLayout(("row", "column"), Layout((rows, columns), (columns, 1))))


def _with(tensor: Tensor, layout: NamedLayout) -> Tensor:
    return tensor if layout == tensor.layout else replace(tensor, layout=layout)


def _allocate(steps: Sequence[Compiled], kept: Set[str]) -> Allocation:
    """Return addresses for all values, each in use for a span of steps."""
    events: dict[str, list[tuple[int, int]]] = {}  # in order: step, queue
    sizes: dict[str, int] = {}
    for number, step in enumerate(steps):
        for queue, tensor in _touches(step.program):
            events.setdefault(step.values[tensor], []).append((number, queue))
        for value, end in step.spans:
            sizes[value] = max(sizes.get(value, 0), end)
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
