"""Every kernel that takes rows in tiles obeys the same laws: values, compulsory traffic, and a bound below the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from kernels_ref import activation as exact_activation
from kernels_ref import norm as exact_norm
from kernels_ref import rope as exact_rope
from workloads.batch import Batch
from workloads.kernels import KERNELS, activation, norm, residual_add, rope, softmax
from workloads.kernels.rowwise import bands
from workloads.model import load_model

Array = np.ndarray[Any, Any]
CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
ULP = {"bf16": 2.0**-7, "fp16": 2.0**-10}  # of a number, relative, at most
LEAST = {"bf16": 2.0**-133, "fp16": 2.0**-24}  # the smallest number
MANY = 300  # examples per kernel in the nightly run

sizes = st.integers(1, 37)
dtypes = st.sampled_from(["bf16", "fp16"])
tiles = st.sampled_from([1, 2, 5, 8])
stages = st.integers(1, 3)


@dataclass(frozen=True)
class Case:
    """`draw` a problem with knobs, `expected` results by tensor from a memory, `inputs` in the order of the program.

    `compulsory`: bytes loaded and stored by tensor, by hand, for `plain`: a problem with knobs.
    """

    module: Any
    draw: Callable[[st.DrawFn], tuple[Any, Any]]
    expected: Callable[[Any, Any, Memory], dict[str, Array]]
    plain: tuple[Any, Any]
    loaded: dict[str, int]
    stored: dict[str, int]
    cancels: bool = False  # terms may cancel, so that the rounding of fp32 shows


def draw_norm(draw: st.DrawFn) -> tuple[Any, Any]:
    problem = norm.Problem(draw(sizes), draw(sizes), draw(dtypes), draw(st.booleans()), draw(st.floats(1e-6, 1e-2)))
    layout = draw(st.sampled_from(["row column", "column row"]))
    return problem, norm.Knobs(draw(tiles), draw(stages), layout)


def expect_norm(problem: Any, _: Any, memory: Memory) -> dict[str, Array]:
    x, weight = memory.read("x").astype(float), memory.read("weight")[0].astype(float)
    if not problem.residual:
        return {"out": exact_norm.rms_norm(x, weight, problem.eps)}
    total = x + memory.read("residual").astype(float)
    # what is normed is what is stored
    return {"total": total, "out": exact_norm.rms_norm(memory.read("total").astype(float), weight, problem.eps)}


def draw_add(draw: st.DrawFn) -> tuple[Any, Any]:
    layout = draw(st.sampled_from(["row column", "column row"]))
    knobs = residual_add.Knobs(draw(tiles), draw(stages), draw(st.sampled_from([3, 16, 64])), layout)
    return residual_add.Problem(draw(sizes), draw(sizes), draw(dtypes)), knobs


def expect_add(_: Any, __: Any, memory: Memory) -> dict[str, Array]:
    return {"out": memory.read("x").astype(float) + memory.read("residual").astype(float)}


def draw_softmax(draw: st.DrawFn) -> tuple[Any, Any]:
    problem = softmax.Problem(draw(sizes), draw(sizes), draw(dtypes), draw(st.sampled_from([1.0, 0.25, 5.0])))
    return problem, softmax.Knobs(draw(tiles), draw(stages), draw(st.sampled_from(["row column", "column row"])))


def expect_softmax(problem: Any, _: Any, memory: Memory) -> dict[str, Array]:
    return {"out": exact_norm.softmax(memory.read("x"), problem.scale)}


def draw_swiglu(draw: st.DrawFn) -> tuple[Any, Any]:
    inter = draw(sizes)
    digit = next(d for d in (8, 3, 1) if inter % d == 0)
    layouts = ["row half inter", "half row inter", "row inter half", f"row inter//{digit} half inter%{digit}"]
    knobs = activation.Knobs(draw(tiles), draw(stages), draw(st.sampled_from([3, 16, 64])))
    return activation.Problem(draw(sizes), inter, draw(dtypes)), replace(knobs, layout=draw(st.sampled_from(layouts)))


def expect_swiglu(_: Any, __: Any, memory: Memory) -> dict[str, Array]:
    both = memory.read("gate and up")
    return {"out": exact_activation.swiglu(both[:, 0], both[:, 1])}


def draw_rope(draw: st.DrawFn) -> tuple[Any, Any]:
    positions = draw(st.lists(st.integers(0, 50), min_size=1, max_size=20))
    problem = rope.Problem(tuple(positions), draw(st.integers(1, 5)), 2 * draw(st.integers(1, 9)), draw(dtypes))
    style, table = draw(st.sampled_from(rope.STYLES)), draw(st.sampled_from(rope.TABLES))
    layout = draw(st.sampled_from(["token head dim", "head token dim", "dim token head"]))
    return problem, rope.Knobs(draw(tiles), draw(stages), style, table, layout)


def expect_rope(problem: Any, knobs: Any, memory: Memory) -> dict[str, Array]:
    rows = memory.read("angles")[list(problem.positions)]
    x = memory.read("x").transpose(1, 0, 2)  # from head, token, dim
    return {"out": exact_rope.rope(x, rows[:, 0], rows[:, 1], knobs.style).transpose(1, 0, 2)}


CASES = {
    "rms-norm": Case(
        norm,
        draw_norm,
        expect_norm,
        (norm.Problem(30, 64, "bf16", True), norm.Knobs()),
        {"x": 30 * 128, "residual": 30 * 128, "weight": CORES * 128},
        {"out": 30 * 128, "total": 30 * 128},
        cancels=True,
    ),
    "residual-add": Case(
        residual_add,
        draw_add,
        expect_add,
        (residual_add.Problem(30, 64, "bf16"), residual_add.Knobs()),
        {"x": 30 * 128, "residual": 30 * 128},
        {"out": 30 * 128},
        cancels=True,
    ),
    "softmax": Case(
        softmax,
        draw_softmax,
        expect_softmax,
        (softmax.Problem(30, 64, "bf16"), softmax.Knobs()),
        {"x": 30 * 128},
        {"out": 30 * 128},
    ),
    "swiglu": Case(
        activation,
        draw_swiglu,
        expect_swiglu,
        (activation.Problem(30, 64, "bf16"), activation.Knobs()),
        {"gate and up": 2 * 30 * 128},
        {"out": 30 * 128},
    ),
    "rope": Case(
        rope,
        draw_rope,
        expect_rope,
        (rope.Problem(tuple(range(30)), 4, 64, "bf16"), rope.Knobs()),
        {"x": 30 * 4 * 128, "angles": 30 * 2 * 32 * 4},
        {"out": 30 * 4 * 128},
        cancels=True,
    ),
}


def computed(program: Program, seed: int = 5) -> Memory:
    memory = Memory(program)
    rng = np.random.default_rng(seed)
    for tensor in program.tensors:
        if tensor.values is None:
            memory.write(tensor.name, rng.standard_normal([tensor.layout.size(axis) for axis in tensor.layout.axes]))
    run(program, memory, CORES)
    return memory


def check_values(case: Case, problem: Any, knobs: Any) -> None:
    """Results are within two units in the last place of the formula; where terms below 8 cancel, within 2**-21 more."""
    memory = computed(case.module.compile(problem, knobs, NPU, 0))
    for name, expected in case.expected(problem, knobs, memory).items():
        error = np.abs(memory.read(name).astype(float) - expected)
        allowed = 2 * ULP[problem.dtype] * np.abs(expected) + 2 * LEAST[problem.dtype] + case.cancels * 2.0**-21
        assert (error <= allowed).all(), name


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25)
@given(st.data())
def test_a_kernel_computes_its_formula(name: str, data: st.DataObject) -> None:
    case = CASES[name]
    check_values(case, *data.draw(st.composite(case.draw)()))


@pytest.mark.nightly
@pytest.mark.parametrize("name", CASES)
@settings(max_examples=MANY)
@given(st.data())
def test_a_kernel_computes_its_formula_over_many_examples(name: str, data: st.DataObject) -> None:
    case = CASES[name]
    check_values(case, *data.draw(st.composite(case.draw)()))


@pytest.mark.parametrize("name", CASES)
def test_every_byte_is_moved_once_and_the_bound_holds(name: str) -> None:
    case = CASES[name]
    result = simulate(case.module.compile(*case.plain, NPU, 0), NPU)
    assert {t.name: t.load_useful_bytes for t in result.traffic if t.load_useful_bytes} == case.loaded
    assert {t.name: t.store_useful_bytes for t in result.traffic if t.store_useful_bytes} == case.stored
    assert result.bound.total_fs <= result.makespan_fs


@pytest.mark.parametrize("name", CASES)
def test_tiles_and_stages_change_no_bit_and_their_keys_tell_them_apart(name: str) -> None:
    case = CASES[name]
    problem, knobs = case.plain
    others = [knobs, replace(knobs, tile_rows=3), replace(knobs, stages=4)]
    outputs = set()
    for other in others:
        memory = computed(case.module.compile(problem, other, NPU, 0))
        outputs.add(memory.read("out").tobytes())
    assert len(outputs) == 1
    assert len({case.module.canonical(problem, other) for other in others}) == len(others)


@pytest.mark.parametrize("name", CASES)
def test_a_tile_that_does_not_fit_is_an_error_in_one_line(name: str) -> None:
    case = CASES[name]
    problem, knobs = case.plain
    with pytest.raises(ValueError, match=r"B more than the 2097152 B .*; sized by tile_rows=1048576, ") as error:
        case.module.compile(problem, replace(knobs, tile_rows=1 << 20), NPU, 0)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"^tile_rows: 0; allowed: an integer from 1"):
        case.module.compile(problem, replace(knobs, tile_rows=0), NPU, 0)


@given(sizes, sizes, st.integers(1, 40), st.integers(1, 9))
def test_bands_cover_every_element_once_and_differ_by_a_row(rows: int, columns: int, tile: int, cores: int) -> None:
    items = bands(rows, columns, tile, cores)
    covered = np.zeros((rows, columns), int)
    for row, count, column in zip(items["row"], items["rows"], items["column"], strict=True):
        covered[row : row + count, column : column + tile] += 1
    assert (covered == 1).all()
    assert np.ptp(items["rows"]) <= 1
    assert items["rows"].min() >= 1
    across = -(-columns // tile)
    assert len(items["row"]) == across * min(rows, max(1, cores // across))


def test_a_sum_wider_than_its_tiles_uses_all_cores_for_one_row() -> None:
    program = residual_add.compile(residual_add.Problem(1, 60, "bf16"), residual_add.Knobs(tile_columns=20), NPU, 0)
    assert len(program.phases[0].tasks) == 3


def test_sizes_come_from_the_options_or_else_from_the_model() -> None:
    llama = load_model("llama-3.1-8b")
    assert norm.shape(llama, None, {"rows": 3}) == norm.Problem(3, 4096, "bf16")
    assert norm.shape(None, None, {"rows": 3, "columns": 5, "residual": 1}) == norm.Problem(3, 5, "bf16", True)
    assert residual_add.shape(llama, None, {"rows": 2}) == residual_add.Problem(2, 4096, "bf16")
    assert activation.shape(llama, None, {"rows": 2}) == activation.Problem(2, 14336, "bf16")
    assert softmax.shape(None, None, {"rows": 2, "columns": 7}) == softmax.Problem(2, 7, "bf16")
    assert rope.shape(llama, Batch((5, 6), "test"), {}) == rope.Problem((4, 5), 40, 128, "bf16")
    with pytest.raises(ValueError, match=r"^options: size columns is missing; kernel rms-norm needs it, or a model"):
        norm.shape(None, None, {"rows": 3})
    with pytest.raises(ValueError, match=r"^options: size residual is 2; allowed: 0 or 1"):
        norm.shape(llama, None, {"rows": 3, "residual": 2})
    with pytest.raises(ValueError, match=r"^model: kernel rope needs one"):
        rope.shape(None, None, {})
    with pytest.raises(ValueError, match=r"^batch: kernel rope needs one"):
        rope.shape(llama, None, {})
    with pytest.raises(ValueError, match=r"^model: head_dim is 7; kernel rope needs an even one"):
        rope.compile(rope.Problem((0,), 1, 7, "bf16"), rope.Knobs(), NPU, 0)


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_is_registered_with_its_optional_sizes(name: str) -> None:
    kernel = KERNELS[name]
    assert kernel.compile is CASES[name].module.compile
    assert kernel.name == name
    assert set(kernel.optional) <= {"columns", "inter", "residual"}
