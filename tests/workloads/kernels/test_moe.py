"""The kernels of a layer of experts, one by one and as one program."""

from __future__ import annotations

from dataclasses import replace
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
from kernels_ref import moe as exact
from kernels_ref.activation import swiglu
from workloads.kernels import KERNELS, moe_finalize, moe_gemm, moe_layer, moe_permute, moe_route
from workloads.kernels.moe_placement import PLACEMENTS
from workloads.kernels.moe_problem import routing_of
from workloads.model import load_model
from workloads.routing import DISTRIBUTIONS, Routing, contiguous, draw, masked, popularity

Array = np.ndarray[Any, Any]
CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
H100 = Machine(load_machine("h100-sxm").with_overrides({"cores.count": CORES}))  # with a shared cache, without gather
U = {"bf16": 2.0**-8, "fp16": 2.0**-11}
W = 2.0**-24
TINY = 2.0**-24  # the smallest number of fp16
MANY = 200

few = st.integers(1, 24)
dtypes = st.sampled_from(["bf16", "fp16"])
tiles = st.sampled_from([1, 3, 8, 16])


def computed(program: Program, seed: int = 5, given_values: dict[str, Array] | None = None) -> Memory:
    memory = Memory(program)
    rng = np.random.default_rng(seed)
    for tensor in program.tensors:
        if tensor.values is None:
            shape = [tensor.layout.size(axis) for axis in tensor.layout.axes]
            values = rng.standard_normal(shape)
            memory.write(tensor.name, (given_values or {}).get(tensor.name, values))
    run(program, memory, CORES)
    return memory


def routed(pick: st.DrawFn) -> dict[str, Any]:
    experts = pick(st.integers(1, 6))
    topk = pick(st.integers(1, experts))
    return {"tokens": pick(few), "experts": experts, "topk": topk, "dtype": pick(dtypes)}


def routing_knobs(draw: st.DrawFn) -> dict[str, Any]:
    return {"routing": draw(st.sampled_from(DISTRIBUTIONS)), "repeat_percent": draw(st.sampled_from([0, 50]))}


def row_knobs(draw: st.DrawFn) -> dict[str, Any]:
    return {"tile_rows": draw(tiles), "stages": draw(st.integers(1, 3)), "tile_columns": draw(st.sampled_from([5, 64]))}


def tile_knobs(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "tile_m": draw(tiles),
        "tile_n": draw(st.sampled_from([3, 16])),
        "tile_k": draw(st.sampled_from([4, 16])),
        "stages": draw(st.integers(1, 3)),
        "padding": draw(st.sampled_from(moe_gemm.PADDINGS)),
        "schedule": draw(st.sampled_from(PLACEMENTS)),
        "copies": draw(st.integers(0, 3)),
    }


def check_route(data: st.DataObject) -> None:
    """Weights within 1e-5; where scores are nearer to one another than fp32 tells, the choice is by the weight."""
    tokens, experts = data.draw(few), data.draw(st.integers(1, 40))
    problem = moe_route.Problem(tokens, experts, data.draw(st.integers(1, min(experts, 8))))
    scoring, kept = data.draw(st.sampled_from(moe_route.SCORINGS)), data.draw(st.sampled_from(["yes", "no"]))
    layout = data.draw(st.sampled_from(["token expert", "expert token"]))
    knobs = moe_route.Knobs(data.draw(tiles), data.draw(st.integers(1, 3)), scoring, kept, layout)
    program = moe_route.compile(problem, knobs, NPU, 0)
    logits = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-40, 40, (tokens, experts)) / 8
    memory = computed(program, given_values={"logits": logits})
    ids, weights = exact.route(logits, problem.topk, scoring, kept == "yes")
    np.testing.assert_allclose(memory.read("weights"), weights, rtol=1e-5)
    np.testing.assert_array_equal(memory.read("ids"), ids)


def check_permute(data: st.DataObject) -> None:
    """Every choice's row is its token, bit by bit; what is padding stays as it was."""
    problem = moe_permute.Problem(**routed(data.draw), columns=data.draw(few))
    grouping = data.draw(st.sampled_from(["contiguous", "masked"]))
    layout = data.draw(st.sampled_from(["row column", "column row"]))
    block = data.draw(st.sampled_from([1, 4, 7]))
    knobs = moe_permute.Knobs(
        **routing_knobs(data.draw), **row_knobs(data.draw), groups=grouping, block=block, layout=layout
    )
    seed = data.draw(st.integers(0, 99))
    program = moe_permute.compile(problem, knobs, NPU, seed)
    untouched = np.full([program.tensors[2].layout.size(axis) for axis in ("row", "column")], 7.0)
    memory = computed(program, given_values={"permuted": untouched})
    routing = routing_of(problem, knobs, seed)
    rows = (masked(routing) if grouping == "masked" else contiguous(routing, block)).rows_of(routing)
    x, permuted = memory.read("x"), memory.read("permuted")
    np.testing.assert_array_equal(permuted[rows], np.repeat(x, problem.topk, axis=0))
    padding = np.delete(permuted, rows, axis=0)
    assert (padding.astype(float) == 7).all()
    if grouping == "masked":
        assert permuted.shape[0] == problem.experts * problem.tokens
    else:
        assert permuted.shape[0] % block == 0


def check_finalize(data: st.DataObject) -> None:
    problem = moe_finalize.Problem(**routed(data.draw), columns=data.draw(few))
    grouping = data.draw(st.sampled_from(["contiguous", "masked"]))
    knobs = moe_finalize.Knobs(**routing_knobs(data.draw), **row_knobs(data.draw), groups=grouping, block=4)
    program = moe_finalize.compile(problem, knobs, NPU, data.draw(st.integers(0, 99)))
    memory = computed(program)
    rows = memory.read("rows").astype(float)[program.tensors[moe_finalize.CHOICES].values]
    terms = rows.reshape(problem.tokens, problem.topk, -1) * memory.read("weights").astype(float)[:, :, None]
    expected = terms.sum(axis=1)
    allowed = U[problem.dtype] * np.abs(expected) + 2 * problem.topk * W * np.abs(terms).sum(axis=1) + TINY
    assert (np.abs(memory.read("out").astype(float) - expected) <= allowed).all()


def check_gemm(data: st.DataObject) -> None:
    """Every row of a token is the product with its expert's weights; padding rows are not looked at."""
    problem = moe_gemm.Problem(**routed(data.draw), n=data.draw(few), k=data.draw(few))
    source, seed = data.draw(st.sampled_from(moe_gemm.SOURCES)), data.draw(st.integers(0, 99))
    layout = data.draw(st.sampled_from(["expert n k", "expert k n", "k expert n"]))
    knobs = moe_gemm.Knobs(**routing_knobs(data.draw), **tile_knobs(data.draw), rows=source, layout_b=layout)
    program = moe_gemm.compile(problem, knobs, NPU, seed)
    memory = computed(program)
    routing = routing_of(problem, knobs, seed)
    rows = (masked(routing) if source == "masked" else contiguous(routing, knobs.tile_m)).rows_of(routing)
    a, b, c = (memory.read(name).astype(float) for name in "abc")
    left = a[np.arange(problem.tokens).repeat(problem.topk) if source == "gathered" else rows]
    right = b[routing.ids.ravel()]
    expected = np.einsum("rk,rnk->rn", left, right)
    size = np.einsum("rk,rnk->rn", np.abs(left), np.abs(right))
    allowed = U[problem.dtype] * np.abs(expected) + 1.02 * problem.k * W * size + TINY
    assert (np.abs(c[rows] - expected) <= allowed).all()


def check_layer(data: st.DataObject) -> None:
    """The whole formula, within the roundings of the tensors between the phases.

    To first order (2 % for the rest): gate and up are off by u of themselves and the rounding of their sums; SwiGLU
    changes by at most 1.1 |up| per unit of gate and |silu(gate)| per unit of up, and is rounded; the second product
    adds these up and is rounded, and so is the weighted sum.
    """
    problem = moe_layer.Problem(
        **routed(data.draw), hidden=data.draw(few), inter=data.draw(few), shared=data.draw(st.sampled_from([0, 0, 9]))
    )
    seed, scoring = data.draw(st.integers(0, 99)), data.draw(st.sampled_from(moe_layer.SCORINGS))
    logits = np.random.default_rng(seed).integers(-40, 40, (problem.tokens, problem.experts)) / 8
    ids, weights = exact.route(logits, problem.topk, scoring)
    problem = replace(problem, routing=Routing(problem.experts, ids, weights))
    knobs = moe_layer.Knobs(
        **tile_knobs(data.draw),
        rows=data.draw(st.sampled_from(moe_layer.SOURCES)),
        fused=data.draw(st.sampled_from(moe_layer.FUSED)),
        scoring=scoring,
        tile_rows=data.draw(tiles),
        tile_columns=data.draw(st.sampled_from([5, 64])),
        layout_w13=data.draw(st.sampled_from(["expert half n k", "expert n half k", "half expert k n"])),
    )
    memory = computed(moe_layer.compile(problem, knobs, NPU, 0), given_values={"logits": logits})
    assert memory.read("ids").tolist() == ids.tolist()
    parts = [(ids, weights, memory.read("w13"), memory.read("w2"))]
    if problem.shared:
        ones = np.ones((problem.tokens, 1))
        parts.append((0 * ones.astype(int), ones, memory.read("shared w13"), memory.read("shared w2")))
    x, out = memory.read("x").astype(float), memory.read("out").astype(float)
    expected = sum(exact.moe(x, *part) for part in parts)
    limit = sum(layer_error(x, *part, U[problem.dtype]) for part in parts)
    assert (np.abs(out - expected) <= 1.02 * limit + U[problem.dtype] * np.abs(expected) + TINY).all()


def layer_error(x: Array, ids: Array, weights: Array, w13: Array, w2: Array, u: float) -> Array:
    left, (first, second) = x[:, None, None], (w13[ids, half].astype(float) for half in (0, 1))
    gate, up = (side @ x[:, None, :, None] for side in (first, second))
    gate, up = gate[..., 0], up[..., 0]
    off = [
        u * np.abs(value) + (x.shape[1] + 1) * W * (np.abs(side) * np.abs(left)).sum(axis=-1) + TINY
        for value, side in ((gate, first), (up, second))
    ]
    activated = np.abs(swiglu(gate, up))
    silu = np.abs(swiglu(gate, np.ones_like(gate)))
    inner = 1.1 * np.abs(up) * off[0] + silu * off[1] + 1.1 * off[0] * off[1] + (u + 8 * W) * activated + TINY
    down = np.abs(w2[ids].astype(float))
    y = np.abs(np.einsum("tjhi,tji->tjh", w2[ids].astype(float), swiglu(gate, up)))
    sums = (w2.shape[2] + 1) * W * np.einsum("tjhi,tji->tjh", down, activated)
    error = np.einsum("tjhi,tji->tjh", down, inner) + u * y + sums + TINY
    return np.einsum("tj,tjh->th", weights, error + 16 * W * y)


CHECKS = {
    "route": check_route,
    "permute": check_permute,
    "finalize": check_finalize,
    "grouped gemm": check_gemm,
    "layer": check_layer,
}


@pytest.mark.parametrize("name", CHECKS)
@settings(max_examples=15)
@given(st.data())
def test_a_kernel_of_experts_computes_its_formula(name: str, data: st.DataObject) -> None:
    CHECKS[name](data)


@pytest.mark.nightly
@pytest.mark.parametrize("name", CHECKS)
@settings(max_examples=MANY)
@given(st.data())
def test_a_kernel_of_experts_computes_its_formula_over_many_examples(name: str, data: st.DataObject) -> None:
    CHECKS[name](data)


def fixed(tokens: int, experts: int, topk: int) -> Routing:
    rng = np.random.default_rng(9)
    return draw(tokens, topk, popularity("zipf", experts, 1.0, rng), rng)


ROUTING = fixed(40, 32, 2)
TOUCHED = int(np.count_nonzero(ROUTING.counts))
SIZES: dict[str, Any] = {"tokens": 40, "experts": 32, "topk": 2, "dtype": "bf16", "routing": ROUTING}
CHOICES = 40 * 2
LARGE = {"tile_m": 64, "tile_n": 64, "tile_k": 64}  # an expert is one tile
# problem, knobs, bytes loaded and stored by tensor
COMPULSORY: dict[str, tuple[Any, Any, Any, dict[str, int], dict[str, int]]] = {
    "moe-route": (
        moe_route,
        moe_route.Problem(40, 32, 2),
        moe_route.Knobs(),
        {"logits": 40 * 32 * 4},
        {"weights": CHOICES * 4, "ids": CHOICES * 4},
    ),
    "moe-permute": (
        moe_permute,
        moe_permute.Problem(**SIZES, columns=48),
        moe_permute.Knobs(),
        {"x": CHOICES * 96},
        {"permuted": CHOICES * 96},
    ),
    "moe-finalize": (
        moe_finalize,
        moe_finalize.Problem(**SIZES, columns=48),
        moe_finalize.Knobs(),
        {"rows": CHOICES * 96, "weights": CHOICES * 4},
        {"out": 40 * 96},
    ),
    "grouped-gemm": (
        moe_gemm,
        moe_gemm.Problem(**SIZES, n=24, k=48),
        moe_gemm.Knobs(**LARGE),
        {"a": CHOICES * 96, "b": TOUCHED * 24 * 96},
        {"c": CHOICES * 48},
    ),
    "moe": (
        moe_layer,
        moe_layer.Problem(**SIZES, hidden=48, inter=24, shared=16),
        moe_layer.Knobs(**LARGE),
        {
            "x": CHOICES * 96 + 2 * 40 * 96,  # permuted; by the two halves of the shared expert
            "logits": 40 * 32 * 4,
            "permuted": 2 * CHOICES * 96,  # by both halves
            "w13": TOUCHED * 2 * 24 * 96,
            "gate and up": 2 * CHOICES * 48,
            "activated": CHOICES * 48,
            "w2": TOUCHED * 48 * 48,
            "y": CHOICES * 96,
            "weights": CHOICES * 4,
            "shared w13": 2 * 16 * 96,
            "shared gate and up": 2 * 40 * 32,
            "shared activated": 40 * 32,
            "shared w2": 48 * 32,
            "shared y": 40 * 96,
        },
        {
            "weights": CHOICES * 4,
            "ids": CHOICES * 4,
            "permuted": CHOICES * 96,
            "gate and up": 2 * CHOICES * 48,
            "activated": CHOICES * 48,
            "y": CHOICES * 96,
            "shared gate and up": 2 * 40 * 32,
            "shared activated": 40 * 32,
            "shared y": 40 * 96,
            "out": 40 * 96,
        },
    ),
}


@pytest.mark.parametrize("name", COMPULSORY)
@pytest.mark.parametrize("machine", [NPU, H100], ids=["npu", "h100"])
def test_bytes_are_those_by_hand_and_the_bound_holds(name: str, machine: Machine) -> None:
    module, problem, knobs, loaded, stored = COMPULSORY[name]
    assert KERNELS[name].compile is module.compile
    result = simulate(module.compile(problem, knobs, machine, 0), machine)
    assert {t.name: t.load_useful_bytes for t in result.traffic if t.load_useful_bytes} == loaded
    assert {t.name: t.store_useful_bytes for t in result.traffic if t.store_useful_bytes} == stored
    assert result.bound.total_fs <= result.makespan_fs


def test_a_gathering_and_fusing_layer_leaves_out_the_tensors_between() -> None:
    problem = moe_layer.Problem(**SIZES, hidden=48, inter=24)
    plain = moe_layer.compile(problem, moe_layer.Knobs(**LARGE), NPU, 0)
    names = ["route", "permute", "gemm1", "activation", "gemm2", "finalize"]
    assert [phase.name for phase in plain.phases] == names
    short = moe_layer.compile(problem, moe_layer.Knobs(**LARGE, rows="gathered", fused="yes"), NPU, 0)
    assert [phase.name for phase in short.phases] == ["route", "gemm1", "gemm2", "finalize"]
    gone = {t.name for t in plain.tensors} - {t.name for t in short.tensors}
    assert gone == {"permuted", "gate and up"}
    moved = [
        sum(t.load_useful_bytes + t.store_useful_bytes for t in simulate(program, NPU).traffic)
        for program in (plain, short)
    ]
    # the permutation reads and writes every row once and gemm1 reads it twice, now once; gate and up go to and fro
    assert moved[0] - moved[1] == CHOICES * (3 * 96 + 4 * 48)


def test_padding_that_is_computed_costs_whole_tiles() -> None:
    problem = moe_gemm.Problem(**SIZES, n=24, k=48)
    for rows in ("contiguous", "gathered"):
        phase = moe_gemm.compile(problem, moe_gemm.Knobs(**LARGE, rows=rows, padding="computed"), NPU, 0).phases[0]
        column = {name: phase.tasks[:, i] for i, name in enumerate(phase.columns)}
        assert column["computed"].tolist() == [64] * TOUCHED
        real = ROUTING.counts[ROUTING.counts > 0].tolist()
        assert column["rows"].tolist() == ([64] * TOUCHED if rows == "contiguous" else real)


def test_the_seed_draws_the_routing_unless_it_is_given() -> None:
    sizes = {"tokens": 20, "experts": 8, "topk": 2, "n": 8, "k": 8}
    problem = moe_gemm.shape(None, None, sizes)
    assert len({moe_gemm.compile(problem, moe_gemm.Knobs(), NPU, seed).hash for seed in range(4)}) == 4
    ready = replace(problem, routing=fixed(20, 8, 2))
    assert len({moe_gemm.compile(ready, moe_gemm.Knobs(), NPU, seed).hash for seed in range(4)}) == 1
    assert repr(ready) != repr(replace(problem, routing=fixed(20, 8, 2)).routing)


def test_canonical_keys_are_equal_exactly_for_knobs_of_one_meaning() -> None:
    problem = moe_gemm.Problem(tokens=40, experts=32, topk=2, dtype="bf16", n=24, k=48)
    key = moe_gemm.canonical(problem, moe_gemm.Knobs())
    assert moe_gemm.canonical(problem, moe_gemm.Knobs(copies=3)) == key
    assert moe_gemm.canonical(problem, moe_gemm.Knobs(skew_percent=50)) == key
    assert moe_gemm.canonical(problem, moe_gemm.Knobs(layout_b="expert n k//8 k%8")) == key
    same: list[dict[str, Any]] = [{}, {"copies": 3}, {"skew_percent": 50}]
    assert len({moe_gemm.compile(problem, moe_gemm.Knobs(**change), NPU, 0).hash for change in same}) == 1
    changes: list[dict[str, Any]] = [
        {"copies": 3, "schedule": "pinned"},
        {"schedule": "pinned"},
        {"routing": "zipf"},
        {"routing": "zipf", "skew_percent": 50},
        {"repeat_percent": 5},
        {"rows": "gathered"},
        {"padding": "computed"},
        {"layout_b": "expert k n"},
        {"tile_m": 32},
    ]
    keys = {moe_gemm.canonical(problem, moe_gemm.Knobs(**change)) for change in changes}
    assert len(keys | {key}) == len(changes) + 1
    layer = moe_layer.Problem(tokens=40, experts=32, topk=2, dtype="bf16", hidden=48, inter=24)
    others = [
        {"fused": "yes"},
        {"rows": "masked"},
        {"tile_rows": 4},
        {"layout_w2": "n expert k"},
        {"scoring": "sigmoid"},
    ]
    layers = {moe_layer.canonical(layer, moe_layer.Knobs(**other)) for other in others}  # type: ignore[arg-type]
    assert len(layers | {moe_layer.canonical(layer, moe_layer.Knobs())}) == len(others) + 1
    permuted = moe_permute.Problem(tokens=40, experts=32, topk=2, dtype="bf16", columns=48)
    wide = moe_permute.canonical(permuted, moe_permute.Knobs(tile_columns=48))
    assert moe_permute.canonical(permuted, moe_permute.Knobs()) == wide
    masked_keys = {moe_permute.canonical(permuted, moe_permute.Knobs(groups="masked", block=b)) for b in (8, 16)}
    assert len(masked_keys) == 1
    tokens = {rows: moe_finalize.Knobs(tile_rows=rows) for rows in (1, 2, 3, 4)}
    finalised = [moe_finalize.canonical(permuted, each) for each in tokens.values()]
    assert finalised[0] == finalised[1] == finalised[2] != finalised[3]
    assert len({moe_finalize.compile(permuted, tokens[rows], NPU, 0).hash for rows in (1, 2, 3)}) == 1
    route = moe_route.Problem(40, 32, 2)
    ways = [moe_route.Knobs(), moe_route.Knobs(scoring="sigmoid"), moe_route.Knobs(renormalise="no")]
    assert len({moe_route.canonical(route, way) for way in ways}) == 3


def test_sizes_come_from_the_options_or_else_from_the_model() -> None:
    llama = load_model("llama-3.1-8b")
    sizes = {"tokens": 20, "experts": 8, "topk": 2}
    assert moe_permute.shape(llama, None, sizes).columns == 4096
    assert moe_layer.shape(llama, None, sizes | {"inter": 5, "shared": 3}).hidden == 4096
    assert moe_route.shape(None, None, sizes) == moe_route.Problem(20, 8, 2)
    for module, name in ((moe_finalize, "columns"), (moe_layer, "hidden")):
        extra = {"inter": 5} if module is moe_layer else {}
        with pytest.raises(ValueError, match=rf"^options: size {name} is missing; kernel moe.* needs it, or a model"):
            module.shape(None, None, sizes | extra)
    for module in (moe_route, moe_permute):
        with pytest.raises(ValueError, match=r"^options: size topk is 9; allowed: at most the experts \(8\)"):
            module.shape(llama, None, sizes | {"topk": 9})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeat_percent": 101}, r"^repeat_percent: 101; allowed: an integer from 0 to 100"),
        ({"skew_percent": 10000}, r"^skew_percent: 10000; allowed: an integer from 0 to 9999"),
        ({"routing": "zip"}, r"^routing: unknown 'zip'; known: zipf"),
        ({"schedule": "pined"}, r"^schedule: unknown 'pined'; known: pinned"),
        ({"rows": "mask"}, r"^rows: unknown 'mask'; known: masked"),
        ({"layout_b": "n k"}, r"^layout_b: notation 'n k': axis expert is missing"),
        ({"tile_m": 1 << 14}, r"phase multiply needs .*; sized by tile_m=16384, tile_n=128, tile_k=64, stages=3$"),
    ],
)
def test_a_knob_out_of_range_is_named_with_what_is_allowed(change: dict[str, Any], message: str) -> None:
    problem = moe_gemm.Problem(tokens=40, experts=32, topk=2, dtype="bf16", n=24, k=48)
    with pytest.raises(ValueError, match=message) as error:
        moe_gemm.compile(problem, moe_gemm.Knobs(**change), NPU, 0)
    assert "\n" not in str(error.value)


def test_a_routing_of_other_sizes_and_too_little_room_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^routing: tokens, topk and experts are \(40, 2, 32\); allowed: \(41, 2, 32\)"
    ):
        moe_gemm.Problem(**SIZES | {"tokens": 41}, n=24, k=48)
    problem = moe_gemm.Problem(**SIZES, n=24, k=48, max_rows=1)
    with pytest.raises(ValueError, match=r"^routing: expert \d+ has \d+ tokens; at most 1 have room"):
        moe_gemm.compile(problem, moe_gemm.Knobs(rows="masked"), NPU, 0)
