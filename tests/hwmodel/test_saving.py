"""Programs and results go to a file and back unchanged, and a file that somebody has edited crashes nothing."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import differences, kernels, machines, streams

from hwmodel import engine, reference
from hwmodel.machine import Machine
from hwmodel.npz_file import archive_bytes
from hwmodel.program import Program
from hwmodel.program_ranges import executions_at_most
from hwmodel.result import Result
from hwmodel.saving import HEADER, Saved, archive, load
from hwmodel.spec import load_machine
from workloads.batch import uniform
from workloads.kernels import decode_attention, gemm, kv_append
from workloads.model import load_model

FEW = 2_000  # instructions that a program may run in a test
EDGES = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 16, 255, 2**20, 2**31 - 1, 2**40, 2**62, 2**63 - 1)


def small_machine(name: str = "npu-hbm3") -> Machine:
    return Machine(load_machine(name).with_overrides({"cores.count": 2, "noc.multicast_window": None}))


def some_programs() -> list[Program]:
    machine = small_machine()
    attention = decode_attention.Problem(4, 2, 32, "bf16", (70, 33))
    return [
        gemm.compile(gemm.Problem(40, 30, 150, "bf16"), gemm.Knobs(), machine, 0),
        decode_attention.compile(attention, decode_attention.Knobs(split_tokens=40), machine, 3),
        decode_attention.compile(attention, decode_attention.Knobs(schedule="dynamic"), machine, 3),
        kv_append.compile(kv_append.shape(load_model("tiny"), uniform(3, 20), {}), kv_append.Knobs(), machine, 1),
    ]


PROGRAMS = some_programs()


def written(folder: Path, data: bytes) -> Path:
    path = folder / "some.run"
    path.write_bytes(data)
    return path


def same_program(one: Program, other: Program) -> bool:
    """Return whether two programs are equal field by field, deferred contents as the values they stand for."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return str(value.dtype), value.shape, value.tobytes()
        if isinstance(value, tuple):
            return tuple(plain(part) for part in value)
        if hasattr(value, "values") and hasattr(value, "make"):
            return plain(value.values)
        if hasattr(value, "__dataclass_fields__"):
            return type(value).__name__, [plain(getattr(value, f.name)) for f in fields(value)]
        return value

    return bool(plain(one) == plain(other))


@settings(max_examples=60)
@given(st.one_of(streams(), kernels()), machines(), st.none() | st.floats(0, 1))
def test_a_program_comes_back_field_by_field_and_its_file_byte_by_byte(
    tmp_path_factory: pytest.TempPathFactory, make: Any, machine: Machine, stores: float | None
) -> None:
    program = make(machine) if callable(make) else make[0].compile(*make[1:], machine, 3)
    program = replace(program, earlier_stores=stores)
    data = archive(Saved(program, None, "title", {"knob": "1"}))
    found = load(written(tmp_path_factory.mktemp("runs"), data))
    assert found.program is not None
    assert same_program(found.program, program)
    assert (found.program.hash, found.title, found.settings) == (program.hash, "title", {"knob": "1"})
    assert archive(found) == data


@settings(max_examples=12)
@given(streams(), machines())
def test_a_result_comes_back_in_every_count_and_a_read_program_takes_the_same_time(
    tmp_path_factory: pytest.TempPathFactory, make: Any, machine: Machine
) -> None:
    program = make(machine)
    result = engine.simulate(program, machine)
    data = archive(Saved(program, result))
    found = load(written(tmp_path_factory.mktemp("runs"), data))
    assert found.program is not None
    assert found.result is not None
    assert differences(found.result, result) == []
    assert differences(engine.simulate(found.program, machine), result) == []
    assert archive(found) == data


def test_a_program_without_a_result_and_a_result_without_a_program_have_files_too(tmp_path: Path) -> None:
    program, machine = PROGRAMS[0], small_machine()
    result = engine.simulate(program, machine)
    assert load(written(tmp_path, archive(Saved(program, None)))).result is None
    found = load(written(tmp_path, archive(Saved(None, result))))
    assert found.program is None
    assert found.result is not None
    assert differences(found.result, result) == []


def test_a_result_of_another_program_is_refused(tmp_path: Path) -> None:
    result = engine.simulate(PROGRAMS[0], small_machine())
    with pytest.raises(ValueError, match=r"some.run: result.program_hash: '\w+'; allowed: \w+, that of the program"):
        load(written(tmp_path, archive(Saved(PROGRAMS[1], result))))


def test_accounts_that_do_not_close_are_refused(tmp_path: Path) -> None:
    result = engine.simulate(PROGRAMS[0], small_machine())
    longer: Result = replace(result, makespan_fs=result.makespan_fs + 1)
    with pytest.raises(ValueError, match=r"result.stalls.load: .*; allowed: times from 0 that add up to \d+ fs"):
        load(written(tmp_path, archive(Saved(None, longer))))


def parts_of(data: bytes) -> tuple[dict[str, np.ndarray], Any]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        arrays = {n.removesuffix(".npy"): np.load(io.BytesIO(file.read(n))) for n in file.namelist() if n != HEADER}
        return arrays, json.loads(file.read(HEADER))


def edited(program: Program, edit: Callable[[dict[str, Any], Any], None]) -> bytes:
    arrays, header = parts_of(archive(Saved(program, None)))
    edit(arrays, header)
    return archive_bytes(arrays, {HEADER: json.dumps(header)})


def first(name: str, place: int, value: int) -> Callable[[dict[str, Any], Any], None]:
    def edit(arrays: dict[str, Any], header: Any) -> None:
        arrays[name].reshape(-1)[place] = value

    return edit


def leaf(value: Any, *path: Any) -> Callable[[dict[str, Any], Any], None]:
    def edit(arrays: dict[str, Any], header: Any) -> None:
        for key in path[:-1]:
            header = header[key]
        header[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (leaf("other", "format"), "run.json: not the description of a rowhit run"),
        (leaf(2, "version"), "version: 2; allowed: 1"),
        (leaf("fp7", "program", "tensors", 0, "dtype"), "program.tensors[0].dtype: 'fp7'; allowed: bf16, "),
        (leaf(-1, "program", "tensors", 0, "base_bytes"), "program.tensors[0].base_bytes: -1; allowed: an integer"),
        (leaf("rom", "program", "tensors", 0, "resident"), "program.tensors[0].resident: 'rom'; allowed: hbm, sram"),
        (leaf(0, "program", "tensors", 1, "base_bytes"), "begins at 0 B; allowed: from"),
        (leaf(1.5, "program", "earlier_stores"), "program.earlier_stores: 1.5; allowed: a share from 0.0 to 1.0"),
        (leaf([1, 1], "program", "tensors", 0, "stride"), "puts two elements in one place"),
        (leaf(0, "program", "phases", 0, "buffers", 0, "slots"), "buffers[0].slots: 0; allowed: an integer from 1"),
        (leaf(2, "program", "phases", 0, "buffers", 0, "pitch_bytes"), "blocks 2 B apart; allowed: from"),
        (leaf("x", "program", "phases", 0, "buffers", 0, "layout"), "program.phases[0].buffers[0]: layout text 'x': "),
        (leaf([["a", "why"]], "program", "phases", 0, "counters"), "counters[0]: ['a', 'why']; allowed: a name and"),
        (leaf(["fly"], "program", "phases", 0, "functions"), "phase multiply: unknown function 'fly'; known: "),
        (leaf(10**30, "program", "phases", 0, "tasks"), "program.phases[0].tasks: "),
        (leaf([], "program", "phases"), "3 tensors and 0 phases; allowed: from 1"),
        (first("phase 0 load", 0, 7), "queue load, instruction 0: op 7; allowed: 0 (LOOP), 1 (END), 2 (LOAD)"),
        (first("phase 0 load", 0, 4), "queue load, instruction 0: op 4; allowed: 0 (LOOP), 1 (END), 2 (LOAD)"),
        (first("phase 0 order", 0, 5), "phase multiply: schedule: an order of "),
        (first("phase 0 start", 0, 1), "phase multiply: schedule: the cores' tasks start at [1, "),
        (first("phase 0 tasks", 1, -1), "axis m: start -"),
        (first("phase 0 tasks", 1, 2**62), "an amount of up to "),
        (first("phase 0 expressions", 1, -3), "expression 0: modulo -3; allowed: from 0"),
        (first("phase 0 tiles", 0, 9), "tile 0: tensor 9; allowed: 0 to 2"),
        (first("phase 0 tiles", 1, 999), "tile 0: start [999, "),
    ],
)  # fmt: skip
def test_what_is_no_program_is_refused_in_a_line(
    tmp_path: Path, edit: Callable[[dict[str, Any], Any], None], message: str
) -> None:
    path = written(tmp_path, edited(PROGRAMS[0], edit))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_index_beyond_what_it_is_looked_up_in_is_refused(tmp_path: Path) -> None:
    number = next(i for i, tensor in enumerate(PROGRAMS[1].tensors) if tensor.values is not None)
    with pytest.raises(ValueError, match=r"tensor page table: entry 1 1000; allowed: 0 to \d+"):
        load(written(tmp_path, edited(PROGRAMS[1], first(f"tensor {number}", 1, 1000))))


def test_trips_without_end_are_refused(tmp_path: Path) -> None:
    def edit(arrays: dict[str, Any], header: Any) -> None:
        arrays["phase 0 expressions"].reshape(-1, 2 + 2 + 6 + len(header["program"]["phases"][0]["columns"]))[:, 2] = (
            2**40
        )

    with pytest.raises(ValueError, match=r"\(LOOP\): \d+ trips; allowed: up to \d+"):
        load(written(tmp_path, edited(PROGRAMS[0], edit)))


@pytest.mark.parametrize("value", [True, 0, 1.5, "x", []])
def test_a_value_in_place_of_a_table_of_the_program_is_refused_by_its_path(tmp_path: Path, value: object) -> None:
    def edit_program(arrays: dict[str, Any], header: Any) -> None:
        header["program"] = value

    def edit_tensor(arrays: dict[str, Any], header: Any) -> None:
        header["program"]["tensors"][0] = value

    def edit_buffer(arrays: dict[str, Any], header: Any) -> None:
        header["program"]["phases"][0]["buffers"][0] = value

    for edit, path in ((edit_program, "program"), (edit_tensor, "tensors[0]"), (edit_buffer, "buffers[0]")):
        with pytest.raises(ValueError, match=re.escape(f"{path}: {value!r}; allowed: a table with the keys ")):
            load(written(tmp_path, edited(PROGRAMS[0], edit)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no saved run: File is not a zip file"),
        (b"PK\x03\x04", "no saved run: File is not a zip file"),
        (archive(Saved(PROGRAMS[0], None))[:-200], "no saved run: "),
        (archive_bytes({}, {"other.json": "{}"}), "no saved run: no run.json in it"),
        (archive_bytes({}, {HEADER: "{"}), "run.json: Expecting property name"),
        (archive_bytes({}, {HEADER: "[" * 100_000}), "run.json: nested too deep"),
        (archive_bytes({}, {HEADER: '{"format": NaN}'}), "run.json: NaN; allowed: finite numbers"),
        (archive_bytes({}, {HEADER: "x" * (1 << 25)}), "run.json: more than 16777216 B; allowed: up to that"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_saved_run_is_refused_in_a_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = written(tmp_path, data)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@st.composite
def edits(draw: st.DrawFn) -> tuple[int, bytes]:
    """The number of a program, and its file with some numbers changed."""
    number = draw(st.integers(0, len(PROGRAMS) - 1))
    arrays, header = parts_of(archive(Saved(PROGRAMS[number], None)))
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.integers(0, 3)):
            table = arrays[draw(st.sampled_from(sorted(name for name, array in arrays.items() if array.size)))]
            place, limits = draw(st.integers(0, table.size - 1)), np.iinfo(table.dtype)
            old = int(table.flat[place])
            new = draw(st.sampled_from([old + 1, old - 1, 2 * old, *EDGES]))
            table.flat[place] = min(max(new, limits.min), limits.max)
        else:
            *path, last = draw(st.sampled_from(list(_leaves(header["program"]))))
            at = header["program"]
            for key in path:
                at = at[key]
            at[last] = draw(st.sampled_from([*EDGES, None, True, 0.5, "", "x", "bf16", "cache", [], [1], {}]))
    return number, archive_bytes(arrays, {HEADER: json.dumps(header)})


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Any:
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(part, (*path, key))
    else:
        yield path


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns, or what it is refused with."""
    try:
        return function(*arguments)
    except (ValueError, RuntimeError) as error:  # too large for the machine, or a deadlock
        return f"{type(error).__name__}: {error}"


@settings(max_examples=150)
@given(edits())
def test_a_file_with_numbers_changed_is_refused_in_a_line_or_runs_alike_on_both_engines(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[int, bytes]
) -> None:
    machine = small_machine()
    read = outcome(lambda path: load(path).program, written(tmp_path_factory.mktemp("runs"), case[1]))
    if isinstance(read, str):
        assert "\n" not in read
        return
    program = read
    assert program is not None
    if sum(executions_at_most(phase) for phase in program.phases) > FEW:
        return  # allowed, and too long for a test
    one, other = outcome(engine.simulate, program, machine), outcome(reference.simulate, program, machine)
    if isinstance(one, Result) and isinstance(other, Result):
        assert differences(one, other) == []
    else:
        assert one == other


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_file_with_bytes_changed_is_refused_in_a_line_or_says_the_same(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(archive(Saved(PROGRAMS[0], None)))
    for place, value in changes:
        data[place % len(data)] = value
    found = outcome(load, written(tmp_path_factory.mktemp("runs"), bytes(data)))
    if isinstance(found, str):
        assert "\n" not in found
    else:
        assert same_program(found.program, PROGRAMS[0])
