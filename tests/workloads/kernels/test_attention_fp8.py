"""Caches in e4m3 under the three attention kernels: values, traffic, time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel import functional
from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from kernels_ref.attention import attention, fp8_attention
from kernels_ref.quant import fp8_tensor
from workloads.kernels import cascade_decode, decode_attention, prefill_attention
from workloads.kernels.attention_problem import types_of

CORES = 3
H100 = Machine(load_machine("h100-sxm").with_overrides({"cores.count": CORES}))
LARGEST = {"q": 2.0, "k": 0.7, "v": 5.0}  # what the random numbers are multiplied by, so that no scale is another's

Values = np.ndarray[Any, Any]
Tolerance = Callable[..., Values]


@dataclass(frozen=True)
class Case:
    """A program, what is in its memory, and the queries, keys and values that this stands for, by sequence."""

    kernel: Any
    problem: Any
    knobs: Any
    program: Program
    memory: Memory
    q: list[Values]
    keys: list[Values]
    values: list[Values]

    @property
    def computed(self) -> Values:
        run(self.program, self.memory, CORES)
        return self.memory.read("out").astype(float)

    def exact(self, tiles: list[Any] | None = None, peak: float = 256.0) -> Values:
        """Return the formula's values: with weights rounded to e4m3 tile by tile, or without `tiles` not rounded."""
        p = self.problem
        rules: dict[str, Any] = {"soft_cap": p.soft_cap, "window": getattr(p, "window", 0)}
        rules |= {"causal": not getattr(p, "bidirectional", 0)}
        rules |= {"sinks": self.memory.read("sinks") if p.sinks else None}
        operands = self.q, self.keys, self.values, p.head_dim**-0.5
        found = attention(*operands, **rules) if tiles is None else fp8_attention(*operands, tiles, peak=peak, **rules)
        return np.concatenate(found)


def made(kernel: Any, problem: Any, knobs: Any, machine: Machine = H100, seed: int = 0) -> Case:
    """Return a program with an e4m3 cache, filled: keys and values quantised, queries as the problem has them."""
    program = kernel.compile(problem, knobs, machine, seed)
    memory, rng, tensors = Memory(program), np.random.default_rng(3), {t.name: t for t in program.tensors}

    def drawn(name: str) -> Values:
        layout = tensors[name].layout
        return rng.standard_normal([layout.size(axis) for axis in layout.axes])

    if "kv" in tensors:
        pool = drawn("kv")
        side = tensors["kv"].layout.axes.index("kv")
        sides = {"k": np.take(pool, [0], side) * LARGEST["k"], "v": np.take(pool, [1], side) * LARGEST["v"]}
        stored = {name: fp8_tensor(values) for name, values in sides.items()}
        memory.write("kv", np.concatenate([stored["k"][0], stored["v"][0]], side))
    else:
        stored = {name: fp8_tensor(drawn(name) * LARGEST[name]) for name in ("k", "v")}
        for name, (elements, _) in stored.items():
            memory.write(name, elements)
    memory.write("q", drawn("q") * LARGEST["q"])
    queries, scale = memory.read("q").astype(float), 1.0
    if problem.q_fp8 or knobs.products == "fp8":
        elements, scale = fp8_tensor(drawn("q") * LARGEST["q"] if problem.q_fp8 else queries)
        queries = elements * scale
        if problem.q_fp8:
            memory.write("q", elements)
    memory.write("scales", np.array([scale, stored["k"][1], stored["v"][1]]))
    if problem.sinks:
        memory.write("sinks", drawn("sinks"))
    lengths = problem.lengths if hasattr(problem, "lengths") else [getattr(problem, "q_len", 1)] * len(problem.contexts)
    sides = {name: elements * factor for name, (elements, factor) in stored.items()}
    keys, values = (gathered(kernel, problem, knobs, program, sides[name]) for name in ("k", "v"))
    return Case(kernel, problem, knobs, program, memory, np.split(queries, np.cumsum(lengths)[:-1]), keys, values)


def gathered(kernel: Any, problem: Any, knobs: Any, program: Program, side: Values) -> list[Values]:
    """Return the keys or the values of every sequence: [context, heads_kv, dim]."""
    if not knobs.page_size:
        return np.split(side, np.cumsum(problem.contexts)[:-1])
    table = next(tensor.values for tensor in program.tensors if tensor.name == "page table")
    assert table is not None
    is_cascade = kernel is cascade_decode
    runs, first = [], 0
    for tokens in problem.runs if is_cascade else problem.contexts:
        pages = table[first : first + -(-tokens // knobs.page_size)]
        first += len(pages)
        found = side[pages, 0].transpose(0, 2, 1, 3)  # page, token, head, dim
        runs.append(found.reshape(-1, problem.heads_kv, side.shape[-1])[:tokens])
    if not is_cascade:
        return runs
    shared, own = runs[: problem.prefixes], runs[problem.prefixes :]
    return [np.concatenate([shared[i // problem.together], mine]) for i, mine in enumerate(own)]


def parts_of(tokens: int, limit: int, tile: int) -> list[list[int]]:
    """Return the tiles of the parts of so many tokens."""
    found = []
    for start in range(0, tokens, limit or tokens):
        part = min(limit or tokens, tokens - start)
        found.append([min(tile, part - begin) for begin in range(0, part, tile)])
    return found


def tiles_of(case: Case) -> list[Any]:
    """Return the tiles of the parts of every sequence's keys; those before the first that is loaded are one more."""
    problem, knobs, found = case.problem, case.knobs, []
    for context in problem.contexts:
        if case.kernel is cascade_decode:
            shared = parts_of(problem.prefix, knobs.split_prefix, knobs.tile)
            found.append([*shared, *parts_of(context - problem.prefix, knobs.split_tokens, knobs.tile)])
            continue
        if case.kernel is prefill_attention:
            found.append(parts_of(context, knobs.split_tokens, knobs.tile_kv))
            continue
        before = max(0, context - problem.q_len - problem.window + 1) if problem.window else 0
        first, *rest = parts_of(context - before, knobs.split_tokens, knobs.tile)
        found.append([[before, *first], *rest])
    return found


def check_values(tolerance: Tolerance, case: Case) -> None:
    """Compare with the formula; where products are fp8, weights within the errors of fp32 may round either way."""
    limit = tolerance(case.problem, case.q, case.keys, case.values)
    if types_of(case.problem, case.knobs.products).widens:
        assert (np.abs(case.computed - case.exact()) <= limit).all()
    else:
        tiles = tiles_of(case)
        assert (np.abs(case.computed - case.exact(tiles)) <= limit + slack(tolerance, case, tiles)).all()


def slack(tolerance: Tolerance, case: Case, tiles: list[Any]) -> Values:
    """Return by how much a result changes where every weight that may be rounded up or down is.

    Rounding is monotone: a weight with a relative error is between what a higher and a lower peak make of it.
    """
    operands = case.q, case.keys, case.values
    fp32 = tolerance(replace(case.problem, dtype="fp32"), *operands)
    error = float(fp32.max() / min(float(np.abs(v).max()) for v in case.values))
    magnitudes = replace(case, values=[np.abs(v) for v in case.values])
    up, down = (magnitudes.exact(tiles, 256.0 * (1 + e)) * (1 + e) for e in (error, -error))
    return up - down


def run_by_priority(program: Program, memory: Memory, order: tuple[int, ...]) -> None:
    """Run a program on one core where the first queue in `order` that need not wait always runs next."""
    for phase in program.phases:
        core = functional._Core(program, phase, memory)
        queues = {number: core._queue(number, phase.schedule.order.tolist()) for number in order}
        while queues:
            for number in list(queues):
                before = list(core._counters)
                waits = next(queues[number], None)
                if waits is None:
                    del queues[number]
                if waits is None or core._counters != before:
                    break
            else:
                raise AssertionError("deadlock")


@pytest.mark.parametrize(("kv_dtype", "products"), [("", "fp8"), ("fp8_e4m3", "fp8"), ("fp8_e4m3", "16-bit")])
@pytest.mark.parametrize("pipeline", ["two-stage", "warp-specialised"])
def test_whichever_queue_runs_ahead_the_values_are_the_same(kv_dtype: str, products: str, pipeline: str) -> None:
    problem = prefill_attention.Problem(2, 1, 8, "bf16", (7, 14), 5, 0, 1, 3, 0, 16, kv_dtype)
    knobs = prefill_attention.Knobs(tile_q=4, tile_kv=4, pipeline=pipeline, split_tokens=6, products=products)
    outputs = set()
    for order in permutations(range(4)):
        program = prefill_attention.compile(problem, knobs, H100, 0)
        memory, rng = Memory(program), np.random.default_rng(3)
        for tensor in program.tensors:
            if tensor.name in ("q", "k", "v", "sinks", "scales"):
                memory.write(tensor.name, 1 + rng.random([tensor.layout.size(axis) for axis in tensor.layout.axes]))
        run_by_priority(program, memory, order)
        outputs.add(memory.read("out").tobytes())
    assert len(outputs) == 1


PRODUCTS = st.sampled_from(["fp8", "16-bit"])
DTYPES = st.sampled_from(["bf16", "fp16"])


@st.composite
def decodes(draw: st.DrawFn) -> Case:
    heads_kv, q_len, products = draw(st.integers(1, 2)), draw(st.sampled_from([1, 1, 3])), draw(PRODUCTS)
    problem = decode_attention.Problem(
        heads_kv * draw(st.integers(1, 5)),
        heads_kv,
        draw(st.sampled_from([8, 16, 72])),
        draw(DTYPES),
        tuple(draw(st.lists(st.integers(q_len, 70), min_size=1, max_size=3))),
        q_len,
        draw(st.sampled_from([0, 0, 5, 40])),
        draw(st.integers(0, 1)),
        draw(st.sampled_from([0, 0, 3])),
        draw(st.sampled_from([0, 0, 24])),
        "fp8_e4m3",
        draw(st.integers(0, 1)) if products == "fp8" else 0,
    )
    knobs = decode_attention.Knobs(
        draw(st.sampled_from(["page kv token head dim", "head kv page dim token"])),
        draw(st.sampled_from([1, 7, 16])),
        tile=draw(st.sampled_from([1, 5, 16, 64])),
        stages=draw(st.integers(1, 3)),
        split_tokens=draw(st.sampled_from([0, 0, 6, 50])),
        epilogue=draw(st.sampled_from(["overlapped", "exposed"])),
        products=products,
    )
    return made(decode_attention, problem, knobs, seed=draw(st.integers(0, 3)))


@st.composite
def prefills(draw: st.DrawFn) -> Case:
    heads_kv, q_len, products = draw(st.integers(1, 2)), draw(st.sampled_from([0, 5])), draw(PRODUCTS)
    bidirectional, split_tokens = draw(st.sampled_from([0, 0, 1])), draw(st.sampled_from([0, 0, 7, 20]))
    windows = [0] if bidirectional or split_tokens else [0, 4, 19]  # parts begin where a window does
    problem = prefill_attention.Problem(
        heads_kv * draw(st.integers(1, 4)),
        heads_kv,
        draw(st.sampled_from([8, 16])),
        draw(DTYPES),
        tuple(draw(st.lists(st.integers(q_len or 1, 60), min_size=1, max_size=3))),
        q_len,
        draw(st.sampled_from(windows)),
        draw(st.integers(0, 1)),
        draw(st.sampled_from([0, 0, 3])),
        bidirectional,
        draw(st.sampled_from([0, 0, 24])),
        "fp8_e4m3",
        draw(st.integers(0, 1)) if products == "fp8" else 0,
    )
    knobs = prefill_attention.Knobs(
        tile_q=draw(st.sampled_from([5, 12, 33])),
        tile_kv=draw(st.sampled_from([1, 5, 16, 64])),
        stages=draw(st.integers(1, 3)),
        packing=draw(st.sampled_from(["group", "head"])),
        pipeline=draw(st.sampled_from(["two-stage", "warp-specialised"])),
        epilogue=draw(st.sampled_from(["overlapped", "exposed"])),
        page_size=draw(st.sampled_from([0, 0, 4, 7])),
        layout_k=draw(st.sampled_from(["token head dim", "head dim token"])),
        split_tokens=split_tokens,
        products=products,
    )
    return made(prefill_attention, problem, knobs, seed=draw(st.integers(0, 3)))


@st.composite
def cascades(draw: st.DrawFn) -> Case:
    heads_kv, prefix, products = draw(st.integers(1, 2)), draw(st.integers(1, 50)), draw(PRODUCTS)
    problem = cascade_decode.Problem(
        heads_kv * draw(st.integers(1, 4)),
        heads_kv,
        draw(st.sampled_from([8, 16])),
        draw(DTYPES),
        tuple(prefix + own for own in draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))),
        prefix,
        draw(st.integers(0, 3)),
        draw(st.integers(0, 1)),
        draw(st.sampled_from([0, 0, 3])),
        draw(st.sampled_from([0, 0, 24])),
        "fp8_e4m3",
        draw(st.integers(0, 1)) if products == "fp8" else 0,
    )
    knobs = cascade_decode.Knobs(
        page_size=draw(st.sampled_from([1, 7, 16])),
        tile=draw(st.sampled_from([1, 5, 64])),
        stages=draw(st.integers(1, 3)),
        split_tokens=draw(st.sampled_from([0, 6])),
        tile_q=draw(st.sampled_from([4, 7, 64])),
        split_prefix=draw(st.sampled_from([0, 0, 9])),
        products=products,
    )
    return made(cascade_decode, problem, knobs, seed=draw(st.integers(0, 3)))


@settings(max_examples=15)
@given(decodes())
def test_a_decode_step_over_an_fp8_cache_computes_the_formula(attention_tolerance: Tolerance, case: Case) -> None:
    check_values(attention_tolerance, case)


@settings(max_examples=15)
@given(prefills())
def test_a_prefill_over_an_fp8_cache_computes_the_formula(attention_tolerance: Tolerance, case: Case) -> None:
    check_values(attention_tolerance, case)


@settings(max_examples=15)
@given(cascades())
def test_a_cascade_over_an_fp8_cache_computes_the_formula(attention_tolerance: Tolerance, case: Case) -> None:
    check_values(attention_tolerance, case)


@pytest.mark.nightly
@settings(max_examples=600, derandomize=False)
@given(st.one_of(decodes(), prefills(), cascades()))
def test_kernels_over_an_fp8_cache_compute_the_formula_for_very_many(
    attention_tolerance: Tolerance, case: Case
) -> None:
    check_values(attention_tolerance, case)


def decode_case(**more: Any) -> Case:
    problem = decode_attention.Problem(4, 2, 16, "fp16", (70, 33), kv_dtype="fp8_e4m3")
    return made(decode_attention, problem, decode_attention.Knobs(tile=8, **more))


def test_weights_rounded_against_another_maximum_or_not_at_all_are_found_out(attention_tolerance: Tolerance) -> None:
    """The comparison can fail."""
    case = decode_case(split_tokens=24)
    tiles = tiles_of(case)
    limit = attention_tolerance(case.problem, case.q, case.keys, case.values)
    limit = limit + slack(attention_tolerance, case, tiles)
    assert (np.abs(case.computed - case.exact(tiles)) <= limit).all()
    for other in (None, [[[context]] for context in case.problem.contexts]):
        assert not (np.abs(case.computed - case.exact(other)) <= limit).all()


@settings(max_examples=8)
@given(
    st.sampled_from(["fp8", "16-bit"]),
    st.integers(1, 4),
    st.sampled_from(["static", "balanced", "dynamic"]),
    st.sampled_from(["page kv token head dim", "head kv page dim token"]),
    st.sampled_from(["swizzled", "row-major"]),
)
def test_stages_schedule_layouts_and_epilogue_change_no_bit_over_an_fp8_cache(
    products: str, stages: int, schedule: str, layout: str, sram_layout: str
) -> None:
    plain = decode_case(products=products)
    where = {"layout": layout, "sram_layout": sram_layout}
    other = decode_case(products=products, stages=stages, schedule=schedule, epilogue="exposed", **where)
    assert plain.computed.tobytes() == other.computed.tobytes()


def moved(program: Program, machine: Machine) -> dict[str, tuple[int, int]]:
    result = simulate(program, machine)
    assert result.bound.total_fs <= result.makespan_fs
    return {traffic.name: (traffic.load_useful_bytes, traffic.store_useful_bytes) for traffic in result.traffic}


@pytest.mark.parametrize(("products", "q_fp8"), [("fp8", 0), ("fp8", 1), ("16-bit", 0)])
def test_an_fp8_cache_is_a_byte_per_element_and_three_scales_per_item(products: str, q_fp8: int) -> None:
    contexts, items = (100, 37), 2 * 2 * 2  # sequences, KV heads, and parts or tiles of queries
    rows = 2 * 8 * 64  # of all query heads of a token each
    decode = decode_attention.Problem(8, 2, 64, "bf16", contexts, kv_dtype="fp8_e4m3", q_fp8=q_fp8)
    program = decode_attention.compile(decode, decode_attention.Knobs(products=products), H100, 0)
    found = moved(program, H100)
    assert found["kv"] == (2 * 2 * 137 * 64, 0)
    assert (found["q"], found["out"]) == ((rows * (1 if q_fp8 else 2), 0), (0, rows * 2))
    assert found["scales"] == (items // 2 * 3 * 4, 0)
    prefill = prefill_attention.Problem(8, 2, 64, "bf16", (40, 40), kv_dtype="fp8_e4m3", q_fp8=q_fp8, bidirectional=1)
    program = prefill_attention.compile(prefill, prefill_attention.Knobs(tile_q=80, products=products), H100, 0)
    found = moved(program, H100)
    assert found["k"] == found["v"] == (2 * 2 * 80 * 64, 0)  # twice: for both tiles of queries
    assert found["scales"] == (items * 3 * 4, 0)


def times(kernel: Any, problem: Any, knobs: Any, machine: Machine) -> dict[str, int]:
    """Return the makespans with a cache of 16 bits, and of 8 bits by `products`, in fs."""
    found = {}
    narrow = replace(problem, kv_dtype="fp8_e4m3")
    quantised = replace(narrow, q_fp8=1)
    for name, p, products in (("16", problem, "fp8"), ("fp8", quantised, "fp8"), ("16-bit", narrow, "16-bit")):
        result = simulate(kernel.compile(p, replace(knobs, products=products), machine, 0), machine)
        assert result.bound.total_fs <= result.makespan_fs
        found[name] = result.makespan_fs
    return found


def test_half_the_bytes_of_a_cache_make_a_decode_step_faster() -> None:
    problem = decode_attention.Problem(8, 2, 128, "bf16", (2048,) * 3)
    found = times(
        decode_attention, problem, decode_attention.Knobs(split_tokens=1024), Machine(load_machine("h100-sxm"))
    )
    assert found["fp8"] < found["16"]


def test_fp8_products_make_a_long_prefill_faster_and_widening_makes_it_slower() -> None:
    problem = prefill_attention.Problem(4, 1, 128, "bf16", (512,), bidirectional=1)
    knobs = prefill_attention.Knobs(tile_q=64, tile_kv=64, epilogue="exposed")
    found = times(prefill_attention, problem, knobs, H100)
    assert found["fp8"] < found["16"] < found["16-bit"]


def test_both_matmuls_run_at_the_rate_of_what_they_multiply() -> None:
    problem = prefill_attention.Problem(4, 1, 64, "bf16", (512,), bidirectional=1, kv_dtype="fp8_e4m3")
    matrix = {}
    for products in ("fp8", "16-bit"):
        program = prefill_attention.compile(problem, prefill_attention.Knobs(tile_q=64, products=products), H100, 0)
        matrix[products] = simulate(program, H100).bound.by_resource["matrix"]
    rates = H100.spec.cores.matrix
    assert rates.fp8 is not None
    wide, narrow = (r.macs_per_cycle * (r.sustained_percent or 100) for r in (rates, rates.fp8))
    assert matrix["16-bit"] / matrix["fp8"] == pytest.approx(narrow / wide, rel=0.02)  # cycles are whole
