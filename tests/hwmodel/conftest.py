"""Machines to test on, machine files and what is said of wrong ones, and small programs written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hwmodel.assembler import PhaseAssembler, block
from hwmodel.description import MachineSpec
from hwmodel.machine import Machine
from hwmodel.program import NONE, Buffer, Phase, Program, Schedule, Tensor
from hwmodel.spec import load_machine
from layouts import named

ProgramMaker = Callable[..., Program]
WaitEditor = Callable[..., Program]


@pytest.fixture(scope="session")
def make_machine() -> Callable[..., Machine]:
    """Return a maker of shipped machines with numbers replaced: make_machine(name, {"hbm.stacks": 2})."""
    return lambda name, changes=None: Machine(load_machine(name).with_overrides(changes or {}))


@pytest.fixture(scope="session", params=["h100-sxm", "npu-hbm3"])
def machine(request: pytest.FixtureRequest) -> Machine:
    """A machine with a shared cache, then one without."""
    return Machine(load_machine(request.param))


@pytest.fixture
def load(tmp_path: Path) -> Callable[[object], MachineSpec]:
    """Return a function that writes a description to a file, as a tree or as bytes, and loads it."""

    def load_tree(content: object) -> MachineSpec:
        path = tmp_path / "machine.yaml"
        data = content if isinstance(content, bytes) else yaml.dump(content, Dumper=yaml.CSafeDumper).encode()
        path.write_bytes(data)
        load_machine.cache_clear()
        return load_machine(str(path))

    return load_tree


@pytest.fixture
def refusal(load: Callable[[object], MachineSpec]) -> Callable[[object], str]:
    """Return a function that gives what is said of a wrong description: one short line."""

    def message_of(content: object) -> str:
        with pytest.raises(ValueError) as error:  # noqa: PT011 - the caller checks the message
            load(content)
        message = str(error.value)
        assert "\n" not in message
        assert len(message) < 2000
        return message

    return message_of


@pytest.fixture(scope="session")
def make_program() -> ProgramMaker:
    """Return a maker of programs of one phase over one or more vectors in memory.

    make_program(write, elements=..., tasks=..., shares=...): `write(p, buffers)` writes the streams; `elements` are
    the lengths of the bf16 tensors 0, 1, ...; `tasks` int64[n, columns] has the columns c0, c1, ...; `shares` lists
    the tasks of every core, by default all on the first of 16.
    """

    def make(
        write: Callable[[PhaseAssembler], None],
        *,
        elements: Sequence[int] = (1 << 20,),
        tasks: Any = ((0,),),
        shares: Sequence[Sequence[int]] = (),
        cores: int = 16,
        dynamic: bool = False,
        launches: int = 1,
    ) -> Program:
        bases = np.cumsum([0, *(2 * count for count in elements)]).tolist()
        tensors = tuple(Tensor(f"t{i}", named("x", {"x": count}), "bf16", bases[i]) for i, count in enumerate(elements))
        table = np.array(tasks, np.int64)
        phase = PhaseAssembler("only", tensors, tuple(f"c{i}" for i in range(table.shape[1])))
        write(phase)
        lists = [list(share) for share in shares] or [list(range(len(table)))]
        lists += [[] for _ in range(cores - len(lists))]
        order = np.array([task for share in lists for task in share], np.int64)
        start = np.zeros(0, np.int64) if dynamic else np.cumsum([0, *map(len, lists)])
        return Program("test", tensors, (phase.finish(table, Schedule(order, start)),) * launches)

    return make


@pytest.fixture(scope="session")
def placed() -> Callable[..., tuple[Buffer, ...]]:
    """Return buffers at addresses one after another: placed(("a", rows, columns, dtype, slots), ...)."""

    def place(*requests: tuple[Any, ...]) -> tuple[Buffer, ...]:
        buffers, address = [], 0
        for request in requests:
            buffers.append(replace(block(*request), address=address))
            address += buffers[-1].size_bytes
        return tuple(buffers)

    return place


@pytest.fixture(scope="session")
def shift_wait() -> WaitEditor:
    """Return a function that adds to the value of one wait: shift_wait(program, queue, position, which, by)."""

    def shift(program: Program, queue: int, position: int, which: int, by: int) -> Program:
        phase = program.phases[0]
        streams = [stream.copy() for stream in phase.queues]
        row = phase.expressions[streams[queue][position]["wait_value"][which]].copy()
        row[2] += by  # maximum, modulo, constant, ...
        streams[queue][position]["wait_value"][which] = len(phase.expressions)
        changed: Phase = replace(
            phase, queues=tuple(streams), expressions=np.concatenate([phase.expressions, row[None]])
        )
        return replace(program, phases=(changed, *program.phases[1:]))

    return shift


@pytest.fixture(scope="session")
def list_waits() -> Callable[[Program], list[tuple[int, int, int, str]]]:
    """Return a function that lists (queue, position, which, cause) of every wait of a program's first phase."""

    def waits(program: Program) -> list[tuple[int, int, int, str]]:
        phase = program.phases[0]
        return [
            (queue, position, which, phase.counters[counter].cause)
            for queue, stream in enumerate(phase.queues)
            for position, row in enumerate(stream)
            for which, counter in enumerate(row["wait_counter"].tolist())
            if counter != NONE
        ]

    return waits
