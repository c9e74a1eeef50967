"""Experts in narrow formats: every pass of the layer computes its formula on what the pass before has stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import DTYPES, Program
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from kernels_ref import quant
from kernels_ref.activation import swiglu
from kernels_ref.moe import route
from workloads.kernels import KERNELS, moe_gemm, moe_layer
from workloads.kernels.moe_formats import FORMATS, OF_FP16, activation_tensors, stacked
from workloads.kernels.moe_placement import PLACEMENTS
from workloads.kernels.moe_problem import routing_of
from workloads.kernels.tuning.experts import MANY_ROWS
from workloads.routing import Routing, contiguous, masked

Array = np.ndarray[Any, Any]
CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
B200 = Machine(load_machine("b200-sxm").with_overrides({"cores.count": CORES}))  # applies scales itself, has no gather
H100 = Machine(load_machine("h100-sxm").with_overrides({"cores.count": CORES}))
U = {"bf16": 2.0**-8, "fp16": 2.0**-11}
W = 2.0**-24
TINY = 2.0**-24  # the smallest number of fp16
NARROW = [name for name in FORMATS if name != "16-bit"]
GIVEN = 0.02  # the scale of activations that is given: some values exceed the largest
few = st.integers(1, 20)
depths = st.one_of(st.integers(1, 40), st.sampled_from([128, 150, 256]))


@dataclass(frozen=True)
class Operand:
    """A matrix as its format stores it, what it is worth, and the scale of the tensor."""

    elements: Array
    scales: Array | None
    worth: Array
    tensor: float = 1.0


def four_bits(elements: Array) -> Array:
    return quant.pack(quant.e2m1_codes(elements))


def activations(form: str, x: Array) -> Operand:
    """Return activations as the pass of a format makes them."""
    k = x.shape[1]
    if form == "fp8":
        elements = quant.fp8_static(x, float(np.float32(GIVEN)))
        return Operand(elements, None, elements, float(np.float32(GIVEN)))
    if form == "w8a8-block":
        elements, scales = quant.fp8_rows(x)
        return Operand(elements, scales, elements * quant.spread(scales, 128, k))
    if form == "nvfp4":
        elements, scales, tensor = quant.nvfp4(x, tensor=float(np.float32(GIVEN)))
        return Operand(four_bits(elements), scales, elements * quant.spread(scales, 16, k), tensor)
    if form in ("mxfp8", "w4a8-mxfp4-mxfp8"):
        elements, scales = quant.mx(x, quant.E4M3)
        return Operand(elements, scales, elements * quant.spread(scales, 32, k))
    return Operand(x, None, x)


def weights(form: str, w: Array, dtype: str) -> Operand:
    """Return the weights of an expert (of a half of them) in a format."""
    n, k = w.shape
    if form == "fp8":
        elements, tensor = quant.fp8_tensor(w)
        return Operand(elements, None, elements, tensor)
    if form == "w8a8-block":
        elements, scales = quant.fp8_squares(w)
        return Operand(elements, scales, elements * quant.squares(scales, 128, n, k))
    if form in ("nvfp4", "w4a16-nvfp4"):
        elements, scales, tensor = quant.nvfp4(w)
        return Operand(four_bits(elements), scales, elements * quant.spread(scales, 16, k), tensor)
    if form == "w8a16-fp8":
        elements, scales = quant.fp8_rows(w)
        scales = scales.astype(DTYPES[dtype]).astype(float)
        worth = (elements * quant.spread(scales, 128, k)).astype(DTYPES[dtype]).astype(float)
        return Operand(elements, scales, worth)
    if form in ("w4a16", "w4a16-g32"):
        group = 32 if form == "w4a16-g32" else 128
        integers, scales = quant.int4_groups(w, group)
        worth = (integers * quant.spread(scales, group, k)).astype(DTYPES[dtype]).astype(float)
        return Operand(quant.pack(integers + 8), scales, worth)
    elements, scales = quant.mx(w, quant.E4M3 if form == "mxfp8" else quant.E2M1)
    return Operand(elements if form == "mxfp8" else four_bits(elements), scales, elements * quant.spread(scales, 32, k))


def experts(form: str, shape: tuple[int, ...], rng: Any, dtype: str) -> Operand:
    """Return the weights of all experts, [experts, (2,) n, k]; the halves of one share the scale of the tensor."""
    made = [weights(form, rng.standard_normal((int(np.prod(shape[1:-1])), shape[-1])), dtype) for _ in range(shape[0])]
    if len(shape) == 4:  # blocks of rows do not reach from one half into the other
        made = [halves(form, rng.standard_normal(shape[1:]), dtype) for _ in range(shape[0])]
    scales = None if made[0].scales is None else np.stack([one.scales for one in made])  # type: ignore[misc]
    worth = np.stack([one.worth.reshape(shape[1:]) * one.tensor for one in made])
    tensors = np.array([one.tensor for one in made])
    stored = np.stack([one.elements.reshape(*shape[1:-1], -1) for one in made])
    return Operand(stored, scales, worth, tensors)  # type: ignore[arg-type]


def halves(form: str, w: Array, dtype: str) -> Operand:
    if form in ("fp8", "nvfp4", "w4a16-nvfp4"):
        one = weights(form, w.reshape(-1, w.shape[-1]), dtype)
        scales = None if one.scales is None else one.scales.reshape(2, w.shape[1], -1)
        return Operand(one.elements, scales, one.worth, one.tensor)
    both = [weights(form, half, dtype) for half in w]
    scales = None if both[0].scales is None else np.stack([half.scales for half in both])  # type: ignore[misc]
    return Operand(np.stack([half.elements for half in both]), scales, np.stack([half.worth for half in both]))


def computed(program: Program, machine: Machine, values: dict[str, Array | None]) -> Memory:
    memory = Memory(program)
    for tensor in program.tensors:
        found = values.get(tensor.name)
        if tensor.values is None and found is not None:
            memory.write(tensor.name, found)
    run(program, memory, machine.spec.cores.count)
    return memory


def sum_error(k: int, left: Array, right: Array) -> Array:
    """|error| of k sums in fp32 and four roundings more of scales and their products, of |a| and |b|^T."""
    allowed: Array = 1.02 * (k + 6) * W * np.einsum("rk,r...nk->r...n", np.abs(left), np.abs(right)) + TINY
    return allowed


def tile_knobs(draw: Any, tile_n: int | None = None) -> dict[str, Any]:
    return {
        "tile_m": draw(st.sampled_from([3, 16])),
        "tile_n": tile_n or draw(st.sampled_from([16, 128, 136])),
        "tile_k": draw(st.sampled_from([32, 128])),
        "stages": draw(st.integers(1, 3)),
        "expanded": draw(st.integers(1, 2)),
        "accumulators": draw(st.integers(2, 4)),
        "padding": draw(st.sampled_from(moe_gemm.PADDINGS)),
        "schedule": draw(st.sampled_from(PLACEMENTS)),
        "sram_layout": "row-major",  # values do not depend on it, and the search for another takes seconds
    }


def sizes(draw: Any, form: str) -> dict[str, Any]:
    number = draw(st.integers(1, 4))
    dtype = draw(st.sampled_from(["bf16", "fp16"])) if form in OF_FP16 else "bf16"
    topk = draw(st.integers(1, number))
    return {"tokens": draw(few), "experts": number, "topk": topk, "dtype": dtype, "format": form}


def check_gemm(form: str, data: st.DataObject) -> None:
    problem = moe_gemm.Problem(**sizes(data.draw, form), n=data.draw(st.integers(1, 150)), k=data.draw(depths))
    source, seed = data.draw(st.sampled_from(moe_gemm.SOURCES)), data.draw(st.integers(0, 99))
    machine = data.draw(st.sampled_from([NPU, B200]))
    knobs = moe_gemm.Knobs(**tile_knobs(data.draw), rows=source)
    routing = routing_of(problem, knobs, seed)
    rows = (masked(routing) if source == "masked" else contiguous(routing, knobs.tile_m)).rows_of(routing)
    program = moe_gemm.compile(problem, knobs, machine, seed)
    rng = np.random.default_rng(seed)
    count = program.tensors[0].layout.size("row")
    a = activations(form, rng.standard_normal((count, problem.k)).astype(DTYPES[problem.dtype]).astype(float))
    b = experts(form, (problem.experts, problem.n, problem.k), rng, problem.dtype)
    of_sums = np.stack([np.full(problem.experts, a.tensor), b.tensor * np.ones(problem.experts)], axis=1)
    values = {"a": a.elements, "scales a": a.scales, "b": b.elements, "scales b": b.scales, "scales": of_sums}
    c = computed(program, machine, values).read("c").astype(float)[rows]
    left = a.worth[np.arange(problem.tokens).repeat(problem.topk) if source == "gathered" else rows] * a.tensor
    right = b.worth[routing.ids.ravel()]
    expected = np.einsum("rk,rnk->rn", left, right)
    allowed = U[problem.dtype] * np.abs(expected) + sum_error(problem.k, left, right)
    assert (np.abs(c - expected) <= allowed).all()


def quantised(memory: Memory, form: str, name: str, rows: Array) -> Array:
    """Check that a pass has made of activations what the quantiser does, bit for bit; return what they are worth."""
    source = memory.read(name).astype(float)[rows]
    if not FORMATS[form].quantise:
        return source
    made = activations(form, source)
    np.testing.assert_array_equal(memory.read(f"quantised {name}").astype(float)[rows], made.elements)
    if made.scales is not None:
        stored = memory.read(f"scales quantised {name}").astype(float)[rows, : made.scales.shape[1]]
        np.testing.assert_array_equal(stored, made.scales)
    return made.worth * made.tensor


def check_mlp(
    memory: Memory, layer: tuple[str, bool, float], prefix: str, places: tuple[str, Array, Array], w13: Array, w2: Array
) -> None:
    """Products, activation and passes, each within the roundings of its own.

    `layer`: format, whether SwiGLU is fused, unit roundoff; `places`: source, its rows, those of the rest; weights of
    each row's expert.
    """
    (form, fused, u), (source, of_source, of_rest) = layer, places
    left = quantised(memory, form, source, of_source)
    both = np.einsum("rk,rhnk->rhn", left, w13)
    off = sum_error(left.shape[1], left, w13)
    activated = memory.read(f"{prefix}activated").astype(float)[of_rest]
    if not fused:
        stored = memory.read(f"{prefix}gate and up").astype(float)[of_rest]
        assert (np.abs(stored - both) <= u * np.abs(both) + off).all()
        both, off = stored, np.zeros_like(off)
    gate, up = both[:, 0], both[:, 1]
    expected, silu = swiglu(gate, up), np.abs(swiglu(gate, np.ones_like(gate)))
    inner = 1.1 * np.abs(up) * off[:, 0] + silu * off[:, 1] + 1.1 * off[:, 0] * off[:, 1]  # slope of silu below 1.1
    assert (np.abs(activated - expected) <= 1.02 * inner + (u + 16 * W) * np.abs(expected) + TINY).all()
    left = quantised(memory, form, f"{prefix}activated", of_rest)
    y = np.einsum("rk,rnk->rn", left, w2)
    allowed = u * np.abs(y) + sum_error(left.shape[1], left, w2)
    assert (np.abs(memory.read(f"{prefix}y").astype(float)[of_rest] - y) <= allowed).all()


def check_layer(form: str, data: st.DataObject) -> None:
    fused, source = data.draw(st.sampled_from(moe_layer.FUSED)), data.draw(st.sampled_from(moe_gemm.SOURCES))
    whole = fused == "yes" and form == "w8a8-block"
    inter, shared = (128, 128) if whole else (data.draw(depths), data.draw(st.sampled_from([0, 9])))
    problem = moe_layer.Problem(**sizes(data.draw, form), hidden=data.draw(depths), inter=inter, shared=shared)
    seed, machine = data.draw(st.integers(0, 99)), data.draw(st.sampled_from([NPU, B200]))
    rng = np.random.default_rng(seed)
    logits = rng.integers(-40, 40, (problem.tokens, problem.experts)) / 8
    ids, shares = route(logits, problem.topk)
    routing = Routing(problem.experts, ids.astype(np.int32), shares.astype(np.float32))
    problem = moe_layer.Problem(**{**vars(problem), "routing": routing})
    chosen = tile_knobs(data.draw, 128 if whole else None)
    if fused == "yes":
        chosen["expanded"] = 1  # tiles of both halves, twice in 16 bits, exceed a scratchpad
    knobs = moe_layer.Knobs(
        **chosen, rows=source, fused=fused, tile_rows=5, tile_columns=data.draw(st.sampled_from([5, 64]))
    )
    program = moe_layer.compile(problem, knobs, machine, 0)
    x = rng.standard_normal((problem.tokens, problem.hidden)).astype(DTYPES[problem.dtype]).astype(float)
    values: dict[str, Array | None] = {"x": x, "logits": logits}
    sets = {"": (problem.experts, problem.inter)} | ({"shared ": (1, shared)} if shared else {})
    made = {}
    for prefix, (number, width) in sets.items():
        pairs = (("w13", (number, 2, width, problem.hidden)), ("w2", (number, problem.hidden, width)))
        for order, (name, shape) in enumerate(pairs, 1):
            made[prefix + name] = b = experts(form, shape, rng, problem.dtype)
            values |= {prefix + name: b.elements, f"scales {prefix}{name}": b.scales}
            given_scale = np.full(number, np.float32(GIVEN if FORMATS[form].quantise else 1))  # of activations
            values[f"{prefix}scales {order}"] = np.stack([given_scale, b.tensor * np.ones(number)], axis=1)
    values |= {t.name: np.array([[GIVEN]]) for t in program.tensors if t.name.startswith("scale of ")}
    memory = computed(program, machine, values)
    rows = (masked(routing) if source == "masked" else contiguous(routing, knobs.tile_m)).rows_of(routing)
    tokens = np.arange(problem.tokens)
    from_tokens, passes = source == "gathered", bool(FORMATS[form].quantise)
    u = U[problem.dtype]
    layer = form, fused == "yes", u
    of_choices = tokens.repeat(problem.topk)
    w13, w2 = (made[name].worth[ids.ravel()] for name in ("w13", "w2"))
    places = ("x", of_choices, rows) if from_tokens or passes else ("permuted", rows, rows)
    check_mlp(memory, layer, "", places, w13, w2)
    if passes and not from_tokens:  # each choice's row is its token, quantised
        parts = activation_tensors(FORMATS[form], "quantised permuted", 1, problem.hidden, problem.dtype, gathered=True)
        for name, width in ((tensor.name, tensor.layout.size(tensor.layout.axes[1])) for tensor in parts):
            of_tokens = memory.read(name.replace("permuted", "x"))[of_choices]
            np.testing.assert_array_equal(memory.read(name)[rows, :width], of_tokens)
    terms = memory.read("y").astype(float)[rows].reshape(problem.tokens, problem.topk, -1) * shares[:, :, None]
    expected, size = terms.sum(axis=1), np.abs(terms).sum(axis=1)
    if shared:
        w13, w2 = (np.repeat(made[f"shared {name}"].worth, problem.tokens, axis=0) for name in ("w13", "w2"))
        check_mlp(memory, layer, "shared ", ("x", tokens, tokens), w13, w2)
        expected = expected + memory.read("shared y").astype(float)
        size = size + np.abs(memory.read("shared y").astype(float))
    allowed = u * np.abs(expected) + (2 * problem.topk + 32) * W * size + TINY
    assert (np.abs(memory.read("out").astype(float) - expected) <= allowed).all()


CHECKS = {"grouped-gemm": check_gemm, "moe": check_layer}


@pytest.mark.parametrize("form", NARROW)
@pytest.mark.parametrize("name", CHECKS)
@settings(max_examples=4)  # of every format
@given(st.data())
def test_experts_of_a_narrow_format_compute_its_formulas(name: str, form: str, data: st.DataObject) -> None:
    CHECKS[name](form, data)


@pytest.mark.nightly
@pytest.mark.parametrize("form", NARROW)
@pytest.mark.parametrize("name", CHECKS)
@settings(max_examples=200)
@given(st.data())
def test_many_experts_of_a_narrow_format_compute_its_formulas(name: str, form: str, data: st.DataObject) -> None:
    CHECKS[name](form, data)


def narrowed(form: str) -> dict[str, Any]:
    """Return a problem of 30 tokens that go to 2 of 8 experts, those of 1 to 7: hidden 256, inter 128."""
    ids = np.stack([np.arange(30) % 7 + 1, (np.arange(30) + 3) % 7 + 1], axis=1).astype(np.int32)
    routing = Routing(8, ids, np.full((30, 2), 0.5, np.float32))
    return {"tokens": 30, "experts": 8, "topk": 2, "dtype": "bf16", "format": form, "routing": routing}


HIDDEN, INTER, CHOICES, TOUCHED = 256, 128, 60, 7
# by hand: bytes of activations [rows, k] and of their scales, of weights [n, k] of an expert and of theirs
BYTES: dict[str, Any] = {
    "fp8": (lambda r, k: (r * k, 0), lambda n, k: (n * k, 0)),
    "w8a8-block": (lambda r, k: (r * k, 4 * r * (k // 128)), lambda n, k: (n * k, 4 * (n // 128) * (k // 128))),
    "nvfp4": (lambda r, k: (r * k // 2, r * k // 16), lambda n, k: (n * k // 2, n * k // 16)),
    "mxfp8": (lambda r, k: (r * k, r * k // 32), lambda n, k: (n * k, n * k // 32)),
    "w4a16": (lambda r, k: (2 * r * k, 0), lambda n, k: (n * k // 2, 2 * n * (k // 128))),
    "w4a16-g32": (lambda r, k: (2 * r * k, 0), lambda n, k: (n * k // 2, 2 * n * (k // 32))),
    "w8a16-fp8": (lambda r, k: (2 * r * k, 0), lambda n, k: (n * k, 2 * n * (k // 128))),
    "w4a16-mxfp4": (lambda r, k: (2 * r * k, 0), lambda n, k: (n * k // 2, n * k // 32)),
    "w4a16-nvfp4": (lambda r, k: (2 * r * k, 0), lambda n, k: (n * k // 2, n * k // 16)),
    "w4a8-mxfp4-mxfp8": (lambda r, k: (r * k, r * k // 32), lambda n, k: (n * k // 2, n * k // 32)),
}


@pytest.mark.parametrize("form", NARROW)
@pytest.mark.parametrize("machine", [NPU, B200], ids=["npu", "b200"])
def test_bytes_of_every_pass_are_those_by_hand_and_the_bound_holds(form: str, machine: Machine) -> None:
    problem = moe_layer.Problem(**narrowed(form), hidden=HIDDEN, inter=INTER)
    knobs = moe_layer.Knobs(
        tile_m=16, tile_n=256, tile_k=128, stages=2, expanded=1
    )  # an expert is one tile of either half
    program = moe_layer.compile(problem, knobs, machine, 0)
    result = simulate(program, machine)
    assert result.bound.total_fs <= result.makespan_fs
    of_a, of_b = BYTES[form]
    passes = bool(FORMATS[form].quantise)
    first, second = (f"quantised {name}" if passes else name for name in ("permuted", "activated"))
    loaded = {"gate and up": 4 * CHOICES * INTER, "y": 2 * CHOICES * HIDDEN}
    stored = {"gate and up": 4 * CHOICES * INTER, "activated": 2 * CHOICES * INTER}
    stored |= {"y": 2 * CHOICES * HIDDEN, "out": 2 * 30 * HIDDEN, "weights": 4 * CHOICES, "ids": 4 * CHOICES}
    loaded |= {"logits": 30 * 8 * 4, "weights": 4 * CHOICES}
    for name, k, times in ((first, HIDDEN, 2), (second, INTER, 1)):  # both halves read the activations
        size, scales = of_a(CHOICES, k)
        loaded |= {name: times * size, f"scales {name}": times * scales}
        stored |= {name: size, f"scales {name}": scales}
    if passes:  # of tokens once each, and their rows are permuted
        (size, scales), (asked, scales_asked) = of_a(30, HIDDEN), of_a(CHOICES, HIDDEN)
        loaded |= {"x": 2 * 30 * HIDDEN, "activated": 2 * CHOICES * INTER}
        stored |= {"quantised x": size, "scales quantised x": scales}
        loaded |= {"quantised x": asked, "scales quantised x": scales_asked}
    else:
        loaded |= {"x": 2 * CHOICES * HIDDEN}
    for name, n, k, times in (("w13", INTER, HIDDEN, 2), ("w2", HIDDEN, INTER, 1)):
        size, scales = of_b(n, k)
        loaded |= {name: TOUCHED * times * size, f"scales {name}": TOUCHED * times * scales}
    if FORMATS[form].scaled:  # two scales for every item of a product, one for every item of a pass
        loaded |= {"scales 1": 2 * TOUCHED * 8, "scales 2": TOUCHED * 8}
        items = {phase.name: len(phase.tasks) for phase in program.phases}
        given = ("x", "activated") if passes else ()
        loaded |= {f"scale of {name}": 4 * items[f"quantise {name}"] for name in given}
    for moved, expected in (("load", loaded), ("store", stored)):
        found = {t.name: getattr(t, f"{moved}_useful_bytes") for t in result.traffic}
        assert {name: size for name, size in found.items() if size} == {n: size for n, size in expected.items() if size}


@pytest.mark.parametrize("form", [name for name in NARROW if FORMATS[name].quantise])
@pytest.mark.parametrize("rows", moe_gemm.SOURCES)
def test_tokens_are_quantised_once_for_routed_and_shared_experts(form: str, rows: str) -> None:
    problem = moe_layer.Problem(**narrowed(form), hidden=HIDDEN, inter=INTER, shared=INTER)
    program = moe_layer.compile(problem, moe_layer.Knobs(rows=rows, tile_k=128, stages=2, expanded=1), B200, 0)
    found = {traffic.name: traffic for traffic in simulate(program, B200).traffic}
    assert found["x"].load_useful_bytes == 2 * 30 * HIDDEN
    assert found["quantised x"].store_useful_bytes == BYTES[form][0](30, HIDDEN)[0]


def test_a_unit_that_applies_scales_spends_no_vector_time_on_expert_weights() -> None:
    problem = moe_gemm.Problem(**narrowed("w4a8-mxfp4-mxfp8"), n=INTER, k=HIDDEN)
    vector = []
    for machine in (B200, H100):
        program = moe_gemm.compile(problem, moe_gemm.Knobs(), machine, 0)
        vector.append(simulate(program, machine).stalls["vector"]["useful"])
    assert vector[0] < vector[1] / 4


@given(st.integers(1, 5), st.integers(1, 300), st.integers(1, 9))
def test_stacked_matrices_lie_one_after_another_and_never_overlap(number: int, rows: int, columns: int) -> None:
    one = FORMATS["mxfp8"].b.scale_layout(rows, 32 * columns)
    many = stacked(one, {"expert": number, "half": 2})
    assert many.axes == ("expert", "half", "row", "col")
    assert many.is_injective
    last = many.offset(expert=number - 1, half=1, row=0, col=0)
    assert last == (2 * number - 1) * one.cosize


def test_a_format_is_named_in_the_options_and_another_is_refused() -> None:
    sizes_of: dict[str, Any] = {"tokens": 4, "experts": 8, "topk": 2}
    assert moe_layer.shape(None, None, sizes_of | {"inter": 8, "hidden": 8, "format": "fp8"}).format == "fp8"
    assert moe_gemm.shape(None, None, sizes_of | {"n": 8, "k": 8}).format == "16-bit"
    with pytest.raises(ValueError, match=r"^options: unknown format 'fp9'; known: fp8"):
        moe_layer.shape(None, None, sizes_of | {"inter": 8, "hidden": 8, "format": "fp9"})
    with pytest.raises(ValueError, match=r"^options: unknown format 'bf16'; known: .*16-bit"):
        moe_layer.shape(None, None, sizes_of | {"inter": 8, "hidden": 8, "format": "bf16"})
    half = moe_gemm.Problem(tokens=4, experts=8, topk=2, dtype="fp16", n=8, k=8, format="nvfp4")
    with pytest.raises(ValueError, match=r"^options: format nvfp4 with a model of fp16; allowed: bf16"):
        moe_gemm.compile(half, moe_gemm.Knobs(), NPU, 0)
    blocks = moe_layer.Problem(**narrowed("w8a8-block"), hidden=HIDDEN, inter=INTER)
    with pytest.raises(ValueError, match=r"^fused: both halves of tile_n 64 have scales of 128 rows"):
        moe_layer.compile(blocks, moe_layer.Knobs(tile_n=64, fused="yes"), NPU, 0)
    for name in CHECKS:
        assert KERNELS[name].optional["format"] == "16-bit"


def test_a_tile_of_k_is_whole_blocks_and_keys_tell_formats_knobs_apart() -> None:
    problem = moe_gemm.Problem(**narrowed("w8a8-block"), n=INTER, k=HIDDEN)
    key = moe_gemm.canonical(problem, moe_gemm.Knobs())
    assert moe_gemm.canonical(problem, moe_gemm.Knobs(tile_k=512, expanded=3)) == key
    assert moe_gemm.canonical(problem, moe_gemm.Knobs(accumulators=2)) != key
    problem = moe_gemm.Problem(**narrowed("w4a16"), n=INTER, k=HIDDEN)
    keys = [moe_gemm.canonical(problem, moe_gemm.Knobs(tile_k=k)) for k in (1, 128, 129, 256)]
    assert keys[0] == keys[1] != keys[2] == keys[3]
    assert moe_gemm.canonical(problem, moe_gemm.Knobs(accumulators=2)) == moe_gemm.canonical(problem, moe_gemm.Knobs())


@pytest.mark.parametrize(
    ("form", "on_b200", "on_h100"),
    [
        ("16-bit", 64, 64),
        ("fp8", 128, 128),
        ("w8a8-block", 128, 128),
        ("mxfp8", 128, 128),
        ("nvfp4", 256, 128),
        ("w4a8-mxfp4-mxfp8", 128, 128),
        ("w4a16", 128, 128),
        ("w4a16-mxfp4", 128, 128),
    ],
)
def test_a_tile_is_as_deep_as_a_line_of_its_wider_operand(form: str, on_b200: int, on_h100: int) -> None:
    """128 bytes; a block of 128 elements where the vector unit makes them 16 bits wide."""
    assert [FORMATS[form].line(machine) for machine in (B200, H100)] == [on_b200, on_h100]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["t4", "mi300x", "b200-sxm"])
def test_formats_fit_small_scratchpads_where_their_tiles_may_be_half_as_deep(form: str, name: str) -> None:
    machine = Machine(load_machine(name))
    problem = moe_gemm.Problem(tokens=2048, experts=8, topk=2, dtype="bf16", n=512, k=1024, format=form)
    knobs = KERNELS["grouped-gemm"].suggested(problem, machine)
    if form in ("w4a16", "w8a16-fp8") and name != "b200-sxm":  # a block of scales of 128 elements, twice, in 16 bits
        with pytest.raises(ValueError, match="needs"):
            moe_gemm.compile(problem, knobs, machine, 0)
    else:
        moe_gemm.compile(problem, knobs, machine, 0)


@pytest.mark.parametrize("form", [name for name, form in FORMATS.items() if form.expands])
def test_expansion_and_product_take_turns_only_where_fewer_stages_do_not_fit_either(form: str) -> None:
    problem = moe_gemm.Problem(tokens=1024, experts=8, topk=2, dtype="bf16", n=2048, k=2048, format=form)
    assert KERNELS["grouped-gemm"].suggested(problem, Machine(load_machine("h100-sxm"))).expanded == 2


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("tokens", "height"), [(16, 16), (128, 16), (300, 64), (4096, 128)])
def test_suggested_tiles_fit_and_have_twice_the_rows_of_an_expert(form: str, tokens: int, height: int) -> None:
    machine = Machine(load_machine("h100-sxm"))
    problem = moe_gemm.Problem(tokens=tokens, experts=128, topk=8, dtype="bf16", n=256, k=1024, format=form)
    knobs = KERNELS["grouped-gemm"].suggested(problem, machine)
    moe_gemm.compile(problem, knobs, machine, 0)
    assert knobs.tile_m == height
    assert (knobs.tile_n < knobs.tile_k) == (height <= MANY_ROWS and not FORMATS[form].promoted)
