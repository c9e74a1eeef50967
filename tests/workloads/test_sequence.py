from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import Program, Tensor
from hwmodel.reference import simulate
from hwmodel.result import Result
from hwmodel.spec import load_machine
from layouts import Layout, NamedLayout, named
from workloads.kernels import KERNELS, gemm, mla_decode, sparse_attention
from workloads.kernels import decode_attention as attention
from workloads.kernels.latent import Heads
from workloads.placement import ALIGNMENT_BYTES
from workloads.sequence import Call, Step, plan
from workloads.sequence_result import simulate_call
from workloads.values import matrices

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
TILES = {"tile_m": 16, "tile_n": 16, "tile_k": 16}


def product(name: str, m: int, n: int, k: int, a: str, c: str, count: int = 1, **knobs: Any) -> Step:
    values = {"a": a, "c": c}
    return Step(name, "gemm", gemm.Problem(m, n, k, "bf16"), gemm.Knobs(**TILES, **knobs), count, values)


def tensor(tensors: tuple[Tensor, ...], name: str) -> Tensor:
    return next(tensor for tensor in tensors if tensor.name == name)


def chain(sizes: list[int], layouts: list[tuple[str, str]]) -> list[Step]:
    """A product after another, on 24 rows: v0 -> v1 -> v2 ...; layouts of (a, c) of each."""
    return [
        product(f"p{i}", 24, n, k, f"v{i}", f"v{i + 1}", layout_a=a, layout_c=c)
        for i, (k, n, (a, c)) in enumerate(zip(sizes, sizes[1:], layouts, strict=False))
    ]


def computed(call: Call) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return what the call leaves in the last step's c, and what a chain of rounded products gives."""
    program = call.program()
    memory = Memory(program)
    rng = np.random.default_rng(5)
    products = [step for step in call.steps if step.kernel == "gemm"]
    expected = None
    for step in products:
        tensors = {tensor.name: tensor for tensor in program.tensors}
        if expected is None:
            a = tensors[f"{step.name}.a"]
            memory.write(a.name, rng.integers(-2, 3, [a.layout.size(axis) for axis in a.layout.axes]))
            expected = memory.read(a.name).astype(float)
        b = tensors[f"{step.name}.b"]
        memory.write(b.name, rng.integers(-1, 2, [b.layout.size(axis) for axis in b.layout.axes]))
        exact = expected @ memory.read(b.name).astype(float).T
        expected = exact.astype(memory.read(f"{step.name}.c").dtype).astype(float)
    assert expected is not None
    run(program, memory, CORES)
    return memory.read(f"{products[-1].name}.c").astype(float), expected


@settings(max_examples=25)
@given(
    st.lists(st.sampled_from([8, 20, 32]), min_size=3, max_size=6),
    st.lists(st.tuples(st.sampled_from(["m k", "k m"]), st.sampled_from(["m n", "n m"])), min_size=5, max_size=5),
)
def test_a_chain_of_products_gives_the_product_whatever_the_layouts(
    sizes: list[int], layouts: list[tuple[str, str]]
) -> None:
    call = plan(chain(sizes, layouts), NPU)
    found, expected = computed(call)
    assert (found == expected).all()
    pairs = pairwise(layouts[: len(sizes) - 1])
    differ = [(c == "m n") != (a == "m k") for (_, c), (a, _) in pairs]
    assert sum(step.kernel == "convert-layout" for step in call.steps) == sum(differ)


def test_tensors_in_use_together_lie_apart_and_dead_ones_give_their_bytes_away() -> None:
    call = plan(chain([32] * 6, [("m k", "m n")] * 5), NPU)
    spans = {p.request.name: (p.address, p.end, p.request.first, p.request.last) for p in call.memory.placed}
    assert [spans[f"v{i}"][2:] for i in range(6)] == [(0, 4), (0, 1), (1, 2), (2, 3), (3, 4), (4, 4)]
    assert spans["p2.b"][2:] == (0, 4)
    for name, (start, end, first, last) in spans.items():
        assert start % ALIGNMENT_BYTES == 0
        for other, (start_, end_, first_, last_) in spans.items():
            if name != other and first <= last_ and first_ <= last:
                assert end <= start_ or end_ <= start, (name, other)
    assert call.memory.high_water_bytes == call.memory.bound_bytes == 8 * ALIGNMENT_BYTES  # 5 b, v0 and two more


def test_a_step_takes_the_addresses_of_its_values() -> None:
    call = plan(chain([32, 48, 16], [("m k", "m n")] * 2), NPU)
    first, second = (step.program.tensors for step in call.steps)
    assert tensor(first, "c").base_bytes == tensor(second, "a").base_bytes
    assert len({one.base_bytes for one in (*first, *second)}) == 5


@pytest.mark.parametrize("kernel", ["mla-decode", "sparse-attention"])
def test_the_fields_of_a_record_lie_in_a_sequence_as_in_the_kernel_alone_and_are_held_together(kernel: str) -> None:
    heads, knobs = Heads(16, 512, 64, 512, 1.0, "bf16"), {"record": "fp8_ds_mla", "head_tile": 16, "tile": 16}
    contexts = (300, 70)
    module = {"mla-decode": mla_decode, "sparse-attention": sparse_attention}[kernel]
    sizes = (heads, 1, contexts) if kernel == "mla-decode" else (heads, 64, 1, contexts)
    step = Step("s", kernel, module.Problem(*sizes), module.Knobs(**knobs), count=2)
    alone = step.compile(NPU, 0).program
    call = plan([product("p", 24, 16, 32, "x", "y"), step], NPU)
    (placed,) = [one.program for one in call.steps if one.name == "s"]
    fields = [(one, other) for one, other in zip(alone.tensors, placed.tensors, strict=True) if "cache" in one.name]
    assert len(fields) == 3
    assert len({there.base_bytes - here.base_bytes for here, there in fields}) == 1
    tokens = -(-300 // 64) * 64 + -(-70 // 64) * 64
    assert call.held == {"s.cache": 656 * tokens, "p.b": 16 * 32 * 2}
    assert call.held_bytes == 2 * 656 * tokens + 16 * 32 * 2


def test_what_a_step_has_stored_is_found_in_the_shared_cache_as_far_as_it_fits() -> None:
    steps = [product("p", 512, 256, 64, "x", "y"), product("q", 512, 32, 256, "y", "z")]
    for capacity, resident in (("50 MiB", "cache"), ("320 KiB", "hbm")):
        spec = load_machine("h100-sxm").with_overrides({"cores.count": CORES, "shared_cache.capacity": capacity})
        first, second = (step.program.tensors for step in plan(steps, Machine(spec)).steps)
        assert tensor(first, "a").resident == tensor(first, "b").resident == tensor(second, "b").resident == "hbm"
        assert tensor(second, "a").resident == resident  # of 256 KiB
    between = [product("r", 512, 4096, 4096, "x1", "y1"), product("s", 512, 4096, 4096, "y1", "y2")]
    late = plan([steps[0], *between, steps[1]], Machine(spec.with_overrides({"shared_cache.capacity": "50 MiB"})))
    assert tensor(late.steps[2].program.tensors, "a").resident == "cache"  # just stored
    assert tensor(late.steps[3].program.tensors, "a").resident == "hbm"  # 80 MiB ago
    kept = plan(steps, Machine(spec.with_overrides({"shared_cache.capacity": "50 MiB"})), kept=["y"]).steps[1]
    assert tensor(kept.program.tensors, "a").resident == "hbm"


def test_a_value_is_converted_once_for_all_steps_that_take_it_in_one_layout() -> None:
    steps = [product(name, 24, 16, 32, "x", name, layout_a=a) for name, a in (("q", "m k"), ("k", "k m"), ("v", "k m"))]
    call = plan(steps, NPU)
    assert [step.name for step in call.steps] == ["q", "x to k", "k", "v"]
    converted = call.steps[1].program.tensors[1]
    assert [tensor(step.program.tensors, "a").base_bytes for step in call.steps[2:]] == [converted.base_bytes] * 2


def test_a_value_that_is_stored_again_is_converted_again() -> None:
    there = {"layout_a": "k m", "layout_c": "m n"}
    steps = [product("p", 24, 32, 32, "y", "x"), product("q", 24, 16, 32, "x", "z", **there)]
    steps += [product("r", 24, 32, 32, "y", "x"), product("s", 24, 16, 32, "x", "w", **there)]
    names = [step.name for step in plan(steps, NPU).steps]
    assert names == ["p", "x to q", "q", "r", "x to s", "s"]


def test_a_value_that_steps_store_parts_of_is_kept_when_asked() -> None:
    steps = chain([32, 32, 32, 32], [("m k", "m n")] * 3)
    spans = {p.request.name: (p.request.first, p.request.last) for p in plan(steps, NPU, kept=("v1",)).memory.placed}
    assert spans["v1"] == (0, 2)
    assert spans["v2"] == (1, 2)


def test_axes_of_other_names_are_one_value_where_their_elements_lie_alike() -> None:
    problem = attention.Problem(8, 2, 64, "bf16", (70, 40))
    project = product("project", 2, 512, 96, "x", "q")
    attend = Step("attend", "decode-attention", problem, attention.Knobs(), 1, {"q": "q", "out": "heads"})
    output = product("output", 2, 96, 512, "heads", "y")
    assert [step.kernel for step in plan([project, attend, output], NPU).steps] == ["gemm", "decode-attention", "gemm"]
    turned = replace(project, knobs=replace(project.knobs, layout_c="n m"))
    assert [step.name for step in plan([turned, attend], NPU).steps] == ["project", "q to attend", "attend"]


@given(
    st.sampled_from(["a b c", "c a b", "b//2 a c b%2", "a c//4 b c%4"]),
    st.sampled_from(["r s", "s r", "s//8 r s%8", "r//2 s r%2"]),
)
def test_two_layouts_become_layouts_of_one_matrix(one: str, other: str) -> None:
    first = named(one, {"a": 3, "b": 4, "c": 16})
    second = named(other, {"r": 12, "s": 16})
    found = matrices(first, second)
    rows, columns = found[0].size("row"), found[0].size("column")
    assert (rows, columns) == (12, 16)
    grid = np.arange(192).reshape(rows, columns)
    a, b, c = np.unravel_index(grid, (3, 4, 16))
    r, s = np.unravel_index(grid, (12, 16))
    row, column = np.indices((rows, columns))
    assert (found[0].offsets(row=row, column=column) == first.offsets(a=a, b=b, c=c)).all()
    assert (found[1].offsets(row=row, column=column) == second.offsets(r=r, s=s)).all()


def test_a_conversion_moves_its_value_once_each_way() -> None:
    steps = [product("up", 64, 1024, 32, "x", "h", layout_c="n m"), product("down", 64, 32, 1024, "h", "y")]
    (conversion,) = (step for step in plan(steps, NPU).steps if step.kernel == "convert-layout")
    source, target = simulate(conversion.program, NPU).traffic
    assert source.load_fetched_bytes == source.load_useful_bytes == 64 * 1024 * 2
    assert target.store_written_bytes == target.store_useful_bytes == 64 * 1024 * 2


def test_one_run_of_a_step_is_simulated_and_counted() -> None:
    steps = [product("up", 24, 32, 32, "x", "y", 4), product("down", 24, 32, 32, "y", "z", 3)]
    steps.append(product("head", 24, 64, 32, "z", "logits"))
    call = plan(steps, NPU)
    runs: list[Program] = []

    def counted(program: Program, machine: Machine) -> Result:
        runs.append(program)
        return simulate(program, machine)

    found = simulate_call(call, NPU, 5_000_000_000, counted)
    assert len(runs) == 3
    every = simulate_call(call, NPU, 5_000_000_000, counted, every_run=True)
    assert len(runs) == 3 + 8
    assert every.text() == found.text()
    assert [(line.name, line.count) for line in found.lines] == [("up", 4), ("down", 3), ("head", 1)]
    up, down, head = (simulate(step.program, NPU) for step in call.steps)
    assert found.total_fs == 4 * up.makespan_fs + 3 * down.makespan_fs + head.makespan_fs + 5_000_000_000
    assert found.launch_fs == 8 * NPU.spec.launch.latency + 5_000_000_000
    burst = up.burst_bytes
    assert found.lines[0].moved_bytes == (up.dram.reads + up.dram.writes) * burst
    assert found.moved_bytes == sum(line.count * line.moved_bytes for line in found.lines)
    table = found.text().splitlines()
    assert table[0].split()[:3] == ["step", "kernel", "runs"]
    assert [row.split()[0] for row in table[1:]] == ["up", "down", "head", "launch", "total"]
    bound_fs = 4 * up.bound.total_fs + 3 * down.bound.total_fs + head.bound.total_fs + 5_000_000_000
    assert table[-1].split()[1:4] == ["8", f"{bound_fs / 1e9:.2f}", f"{found.total_fs / 1e9:.2f}"]


def test_runs_of_a_step_that_differ_are_an_error() -> None:
    call = plan([product("up", 24, 32, 32, "x", "y", 2)], NPU)
    results = iter(
        [
            simulate(call.steps[0].program, NPU),
            simulate(plan(chain([32, 48], [("m k", "m n")]), NPU).steps[0].program, NPU),
        ]
    )
    with pytest.raises(AssertionError, match=r"^runs of .* differ$"):
        simulate_call(call, NPU, run=lambda program, machine: next(results), every_run=True)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step("p", "gem", None, None), "step p: unknown kernel 'gem'; known: gemm, "),
        (replace(product("p", 8, 8, 8, "x", "y"), values={"d": "x"}), "step p: no tensor 'd'; known: "),
        (product("p", 8, 8, 8, "x", "y", 0), "step p: count is 0; allowed: from 1"),
        (product("first", 8, 8, 8, "x", "y"), "step first: there is another of this name"),
        (product("p", 8, 8, 9, "v1", "y"), "step p: tensor a has 72 elements of bf16, value v1 has 64 elements"),
        (product("p", 8, 8, 8, "y", "v1", layout_c="n m"), "step p: tensor c stores n m, value v1 lies as m n; give"),
    ],
)
def test_what_does_not_go_together_is_named(step: Step, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        plan([product("first", 8, 8, 8, "v0", "v1"), step], NPU)
    assert "\n" not in str(error.value)


def test_a_call_that_memory_has_no_room_for_is_refused() -> None:
    half = [product(f"p{i}", 1 << 17, 1 << 17, 8, f"a{i}", f"c{i}") for i in range(3)]
    small = [replace(step, knobs=gemm.Knobs(tile_m=1 << 9, tile_n=1 << 9)) for step in half]
    tight = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
    with pytest.raises(ValueError, match=r"^the call needs \d+ B of HBM, \d+ B more than the \d+ B of npu-hbm3$"):
        plan(small, tight)


def test_a_value_that_lies_with_gaps_is_one_to_steps_that_agree_on_them() -> None:
    gaps = NamedLayout(("m", "k"), Layout((24, 32), (40, 1)))

    def compile(problem: Any, knobs: Any, machine: Machine, seed: int) -> Program:
        program = KERNELS["gemm"].compile(problem, knobs, machine, seed)
        tensors = [replace(one, layout=gaps) if one.name == "a" else one for one in program.tensors]
        return replace(program, tensors=tuple(tensors))

    kernels = {"gemm": replace(KERNELS["gemm"], compile=compile)}
    call = plan([product(name, 24, 16, 32, "x", name) for name in "qk"], NPU, kernels=kernels)
    assert [step.name for step in call.steps] == ["q", "k"]
    assert len({tensor(step.program.tensors, "a").base_bytes for step in call.steps}) == 1
