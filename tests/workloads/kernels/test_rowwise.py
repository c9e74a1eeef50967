"""Every kernel that takes rows in tiles obeys the same laws: values, compulsory traffic, and a bound below the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rowwise_case import CORES, H100, NPU, Array, Case, Ran, check_values, dtypes, ran, sizes, stages, tiles, wide_too

from hwmodel.engine import simulate as compiled
from hwmodel.machine import Machine
from hwmodel.reference import simulate
from kernels_ref import activation as exact_activation
from kernels_ref import compressed as exact_compressed
from kernels_ref import norm as exact_norm
from kernels_ref import rope as exact_rope
from kernels_ref.kv_append import kv_append as exact_append
from kernels_ref.sampling import top_k as exact_top_k
from workloads.kernels import (
    KERNELS,
    activation,
    compress,
    elementwise,
    embedding,
    kv_append,
    norm,
    residual_add,
    rope,
    sampling,
    softmax,
    stream_collapse,
    stream_expand,
)

MANY = 300  # examples per kernel in the nightly run
parts = st.sampled_from([0, 1, 5, 16])  # columns of a part of a row


def draw_norm(draw: st.DrawFn) -> tuple[Any, Any]:
    problem = norm.Problem(draw(sizes), draw(sizes), draw(wide_too), draw(st.booleans()), draw(st.floats(1e-6, 1e-2)))
    layout = draw(st.sampled_from(["row column", "column row"]))
    return problem, norm.Knobs(draw(tiles), draw(stages), layout, tile_columns=draw(parts))


def expect_norm(problem: Any, _: Any, ran: Ran) -> dict[str, Array]:
    x, weight = ran.memory.read("x").astype(float), ran.memory.read("weight")[0].astype(float)
    if not problem.residual:
        return {"out": exact_norm.rms_norm(x, weight, problem.eps)}
    total = x + ran.memory.read("residual").astype(float)
    # what is normed is what is stored
    return {"total": total, "out": exact_norm.rms_norm(ran.memory.read("total").astype(float), weight, problem.eps)}


def draw_layer_norm(draw: st.DrawFn) -> tuple[Any, Any]:
    eps = draw(st.floats(1e-3, 1e-1))
    problem = norm.Problem(draw(sizes), draw(sizes), draw(wide_too), eps=eps, centred=True)
    layout = draw(st.sampled_from(["row column", "column row"]))
    return problem, norm.Knobs(draw(tiles), draw(stages), layout, tile_columns=draw(parts))


def expect_layer_norm(problem: Any, _: Any, ran: Ran) -> dict[str, Array]:
    x, weight, bias = (ran.memory.read(name).astype(float) for name in ("x", "weight", "bias"))
    return {"out": exact_norm.layer_norm(x, weight[0], bias[0], problem.eps)}


def draw_elementwise(draw: st.DrawFn) -> tuple[Any, Any]:
    operation, other = draw(st.sampled_from(elementwise.OPERATIONS)), draw(st.sampled_from(elementwise.OTHERS))
    # quotients and powers may exceed what fp16 holds
    dtype = draw(st.sampled_from(["bf16", "fp32"]) if operation in ("div", "pow") else wide_too)
    scalar = draw(st.sampled_from([2.0, 3.0, -0.75, 0.5]))
    problem = elementwise.Problem(draw(sizes), draw(sizes), dtype, operation, other, scalar)
    layout = draw(st.sampled_from(["row column", "column row"]))
    return problem, elementwise.Knobs(draw(tiles), draw(stages), draw(st.sampled_from([3, 16, 64])), layout)


FUNCTIONS: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "gelu": exact_activation.gelu,
}


def expect_elementwise(problem: Any, _: Any, ran: Ran) -> dict[str, Array]:
    x = ran.memory.read("x").astype(float)
    if problem.operation in ("relu", "tanh", "gelu"):
        return {"out": FUNCTIONS[problem.operation](x)}
    other = problem.scalar if problem.other == "scalar" else ran.memory.read("y").astype(float)
    with np.errstate(invalid="ignore"):  # powers of negative numbers, which are none in the result either
        return {"out": FUNCTIONS[problem.operation](x, other)}


def draw_add(draw: st.DrawFn) -> tuple[Any, Any]:
    layout = draw(st.sampled_from(["row column", "column row"]))
    knobs = residual_add.Knobs(draw(tiles), draw(stages), draw(st.sampled_from([3, 16, 64])), layout)
    return residual_add.Problem(draw(sizes), draw(sizes), draw(wide_too)), knobs


def expect_add(_: Any, __: Any, ran: Ran) -> dict[str, Array]:
    return {"out": ran.memory.read("x").astype(float) + ran.memory.read("residual").astype(float)}


def draw_softmax(draw: st.DrawFn) -> tuple[Any, Any]:
    problem = softmax.Problem(draw(sizes), draw(sizes), draw(wide_too), draw(st.sampled_from([1.0, 0.25, 5.0])))
    layout = draw(st.sampled_from(["row column", "column row"]))
    return problem, softmax.Knobs(draw(tiles), draw(stages), layout, tile_columns=draw(parts))


def expect_softmax(problem: Any, _: Any, ran: Ran) -> dict[str, Array]:
    return {"out": exact_norm.softmax(ran.memory.read("x"), problem.scale)}


def draw_swiglu(draw: st.DrawFn) -> tuple[Any, Any]:
    inter = draw(sizes)
    digit = next(d for d in (8, 3, 1) if inter % d == 0)
    layouts = ["row half inter", "half row inter", "row inter half", f"row inter//{digit} half inter%{digit}"]
    knobs = activation.Knobs(draw(tiles), draw(stages), draw(st.sampled_from([3, 16, 64])))
    return activation.Problem(draw(sizes), inter, draw(wide_too)), replace(knobs, layout=draw(st.sampled_from(layouts)))


def expect_swiglu(_: Any, __: Any, ran: Ran) -> dict[str, Array]:
    both = ran.memory.read("gate and up")
    return {"out": exact_activation.swiglu(both[:, 0], both[:, 1])}


def draw_rope(draw: st.DrawFn) -> tuple[Any, Any]:
    positions = draw(st.lists(st.integers(0, 50), min_size=1, max_size=20))
    problem = rope.Problem(tuple(positions), draw(st.integers(1, 5)), 2 * draw(st.integers(1, 9)), draw(dtypes))
    style, table = draw(st.sampled_from(rope.STYLES)), draw(st.sampled_from(rope.TABLES))
    layout = draw(st.sampled_from(["token head dim", "head token dim", "dim token head"]))
    return problem, rope.Knobs(draw(tiles), draw(stages), style, table, layout)


def expect_rope(problem: Any, knobs: Any, ran: Ran) -> dict[str, Array]:
    rows = ran.memory.read("angles")[list(problem.positions)]
    x = ran.memory.read("x").transpose(1, 0, 2)  # from head, token, dim
    return {"out": exact_rope.rope(x, rows[:, 0], rows[:, 1], knobs.style).transpose(1, 0, 2)}


def draw_embedding(draw: st.DrawFn) -> tuple[Any, Any]:
    layout = draw(st.sampled_from(["token column", "column token"]))
    knobs = embedding.Knobs(draw(tiles), draw(stages), draw(st.sampled_from([3, 16, 64])), layout)
    return embedding.Problem(draw(sizes), draw(sizes), draw(sizes), draw(dtypes)), knobs


def expect_embedding(_: Any, __: Any, ran: Ran) -> dict[str, Array]:
    return {"out": ran.memory.read("table")[ran.values(embedding.TOKENS)].astype(float)}


def draw_append(draw: st.DrawFn) -> tuple[Any, Any]:
    heads_kv, least = draw(st.integers(1, 3)), draw(st.integers(1, 11))
    contexts = draw(st.lists(st.integers(least, 40), min_size=1, max_size=5))
    ragged = tuple(draw(st.integers(1, context)) for context in contexts)
    new = draw(st.sampled_from([least, ragged]))
    heads_q, dim = heads_kv * draw(st.integers(1, 3)), 2 * draw(st.integers(1, 9))
    problem = kv_append.Problem(heads_q, heads_kv, dim, draw(dtypes), tuple(contexts), new)
    layouts = ["page kv token head dim", "page kv head token dim", "kv page head dim token", "head kv page token dim"]
    knobs = kv_append.Knobs(
        draw(tiles),
        draw(stages),
        draw(st.sampled_from(layouts)),
        draw(st.sampled_from([1, 3, 16])),
        draw(st.sampled_from(["contiguous", "shuffled"])),
        draw(st.sampled_from(["token head dim", "head dim token"])),
        draw(st.sampled_from(kv_append.ROPES)),
        draw(st.sampled_from(["fp32", "model"])),
        draw(st.sampled_from(kv_append.CACHES)),
    )
    return problem, knobs


def expect_append(problem: Any, knobs: Any, ran: Ran) -> dict[str, Array]:
    new = ran.memory.read("new").transpose(1, 0, 2)  # token, head, dim
    q, k, v = np.split(new, [problem.heads_q, problem.heads_q + problem.heads_kv], axis=1)
    turned = {}
    if knobs.rope != "none":
        rows = ran.memory.read("angles")[list(problem.positions)]
        q, k = (exact_rope.rope(x, rows[:, 0], rows[:, 1], knobs.rope) for x in (q, k))
        turned = {"q": q.transpose(1, 0, 2)}
    table = ran.values(kv_append.TABLE)
    slots, first = [], 0
    for context, new_tokens in zip(problem.contexts, problem.lengths, strict=True):
        for position in range(context - new_tokens, context):
            page = int(table[first + position // knobs.page_size])
            slots.append(page * knobs.page_size + position % knobs.page_size)
        first += -(-context // knobs.page_size)
    scales = None if knobs.cache_dtype == "model" else ran.memory.read("scales")[1:]
    largest = np.inf if scales is None else 448.0
    return turned | {"kv": exact_append(ran.before.read("kv"), k, v, np.array(slots), scales, largest)}


def draw_top_k(draw: st.DrawFn) -> tuple[Any, Any]:
    vocabulary = draw(st.integers(1, 90))
    problem = sampling.Problem(draw(sizes), vocabulary, draw(st.integers(1, min(9, vocabulary))), draw(dtypes))
    layout = draw(st.sampled_from(["row column", "column row"]))
    knobs = sampling.Knobs(
        draw(tiles), draw(stages), draw(st.sampled_from([4, 33])), draw(st.sampled_from([0, 5, 20, 89])), layout
    )
    return problem, knobs


def expect_top_k(problem: Any, _: Any, ran: Ran) -> dict[str, Array]:
    logits = ran.memory.read("logits")
    values, indices = exact_top_k(logits, problem.k)
    return {"values": values.astype(float), "indices": indices}


def draw_collapse(draw: st.DrawFn) -> tuple[Any, Any]:
    problem = stream_collapse.Problem(
        draw(sizes), draw(st.integers(1, 4)), draw(sizes), draw(st.sampled_from([0, 1, 20])), draw(dtypes)
    )
    layout = draw(st.sampled_from(["row stream column", "stream row column", "row column stream"]))
    return problem, stream_collapse.Knobs(draw(tiles), draw(stages), layout)


def expect_collapse(problem: Any, _: Any, ran: Ran) -> dict[str, Array]:
    """The matrix is such that the logits are those that the kernel was given."""
    streams, logits = ran.memory.read("streams").astype(float), ran.memory.read("logits").astype(float)
    weights, n = np.empty((problem.rows, problem.weights)), problem.streams
    base, scales = ran.memory.read("base")[0].astype(float), ran.memory.read("scales")[0].astype(float)
    for row in range(problem.rows):
        flat = streams[row].reshape(-1)
        fn = np.zeros((n * (2 + n), flat.size))
        fn[: problem.weights] = np.outer(logits[row], flat) / (flat @ flat)
        given = np.pad(base, (0, n * (2 + n) - len(base))), np.pad(scales, (0, 3 - len(scales)))
        made = exact_compressed.stream_weights(streams[row : row + 1], fn, *given, problem.rounds or 1, problem.eps)
        weights[row] = np.concatenate([part.reshape(-1) for part in made])[: problem.weights]
    found = {"out": exact_compressed.collapse(streams, weights[:, :n])}
    return found | ({"weights": weights} if problem.rounds else {})


def draw_expand(draw: st.DrawFn) -> tuple[Any, Any]:
    layout = draw(st.sampled_from(["row stream column", "stream row column", "row column stream"]))
    knobs = stream_expand.Knobs(draw(tiles), draw(stages), draw(st.sampled_from([3, 16, 64])), layout)
    return stream_expand.Problem(draw(sizes), draw(st.integers(1, 4)), draw(sizes), draw(dtypes)), knobs


def expect_expand(problem: Any, _: Any, ran: Ran) -> dict[str, Array]:
    n, weights = problem.streams, ran.memory.read("weights")
    how = weights[:, n : 2 * n], weights[:, 2 * n :].reshape(-1, n, n)
    return {"out": exact_compressed.expand(ran.memory.read("streams"), ran.memory.read("result"), *how)}


def draw_compress(draw: st.DrawFn) -> tuple[Any, Any]:
    windows = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    sized = draw(st.sampled_from([1, 2, 4, 9])), draw(sizes), draw(st.booleans()), draw(st.booleans())
    knobs = compress.Knobs(draw(tiles), draw(stages), draw(st.sampled_from([3, 16, 64])))
    return compress.Problem(windows, *sized, draw(dtypes)), knobs


def expect_compress(problem: Any, _: Any, ran: Ran) -> dict[str, Array]:
    """Where windows overlap, an entry of the window before a sequence's first is none of this call's."""
    found, first = [], 0
    for count in problem.windows:
        tokens = slice(first, first + problem.ratio * (count + problem.overlap))
        first = tokens.stop
        operands = ran.memory.read("kv")[tokens], ran.memory.read("gates")[tokens], ran.memory.read("bias")
        found.append(exact_compressed.compress(*operands, problem.overlap)[problem.overlap :])
    return {"out": np.concatenate(found)}


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
    "layer-norm": Case(
        norm,
        draw_layer_norm,
        expect_layer_norm,
        (norm.Problem(30, 64, "bf16", centred=True), norm.Knobs()),
        {"x": 30 * 128, "weight": CORES * 128, "bias": CORES * 128},
        {"out": 30 * 128},
        cancels=128,  # a difference with the mean, off by some 2**-22, is scaled by up to 32 and weighed
    ),
    "elementwise": Case(
        elementwise,
        draw_elementwise,
        expect_elementwise,
        (elementwise.Problem(30, 64, "fp32", "mul"), elementwise.Knobs()),
        {"x": 30 * 256, "y": 30 * 256},
        {"out": 30 * 256},
        cancels=1,
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
    "embedding": Case(
        embedding,
        draw_embedding,
        expect_embedding,
        (embedding.Problem(30, 100, 64, "bf16"), embedding.Knobs()),
        {"table": 30 * 128},
        {"out": 30 * 128},
    ),
    "kv-append": Case(
        kv_append,
        draw_append,
        expect_append,
        (
            kv_append.Problem(4, 2, 64, "bf16", tuple(range(20, 30)), 10),
            kv_append.Knobs(page_size=8, rope="neox", cache_dtype="fp8_e4m3"),
        ),
        # a head is 64 elements; an item, a sequence each, loads the scale of keys and that of values
        {"new": 100 * 8 * 128, "angles": 100 * 2 * 32 * 4, "scales": 10 * 2 * 4},
        {"kv": 100 * 4 * 64, "q": 100 * 4 * 128},
        cancels=True,
    ),
    "top-k": Case(
        sampling,
        draw_top_k,
        expect_top_k,
        (sampling.Problem(30, 64, 3, "bf16"), sampling.Knobs()),
        {"logits": 30 * 128},
        {"values": 30 * 3 * 2, "indices": 30 * 3 * 4},
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
    "collapse-streams": Case(
        stream_collapse,
        draw_collapse,
        expect_collapse,
        (stream_collapse.Problem(30, 4, 64, 20, "bf16"), stream_collapse.Knobs()),
        {"streams": 30 * 4 * 128, "logits": 30 * 24 * 2, "base": CORES * 24 * 4, "scales": CORES * 3 * 4},
        {"out": 30 * 128, "weights": 30 * 24 * 4},
        cancels=True,
    ),
    "expand-streams": Case(
        stream_expand,
        draw_expand,
        expect_expand,
        (stream_expand.Problem(30, 4, 64, "bf16"), stream_expand.Knobs()),
        {"streams": 30 * 4 * 128, "result": 30 * 128, "weights": 30 * 24 * 4},
        {"out": 30 * 4 * 128},
        cancels=True,
    ),
    "compress": Case(
        compress,
        draw_compress,
        expect_compress,
        (compress.Problem((20, 10), 4, 64, True, True, "bf16"), compress.Knobs()),
        # half of the channels of all tokens as their own, half as those of the window before; one band per sequence
        {"kv": 30 * 4 * 2 * 256, "gates": 30 * 4 * 2 * 256, "bias": 2 * 4 * 2 * 256},
        {"out": 30 * 128},
        cancels=True,
    ),
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=15)
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
@pytest.mark.parametrize("machine", [NPU, H100], ids=["npu", "h100"])
def test_every_byte_is_moved_once_and_the_bound_holds(name: str, machine: Machine) -> None:
    case = CASES[name]
    result = simulate(case.module.compile(*case.plain, machine, 0), machine)
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
        memory = ran(case.module.compile(problem, other, NPU, 0)).memory
        outputs.add(b"".join(memory.read(name).tobytes() for name in case.stored))
    assert len(outputs) == 1
    assert len({case.module.canonical(problem, other) for other in others}) == len(others)


PARTS: list[tuple[str, Any, Any, dict[str, int]]] = [  # 10 rows for each of the cores, in tiles of 4, 4 and 2
    ("rms-norm", norm, norm.Problem(30, 64, "bf16", True), {"x": 2, "residual": 2, "weight": 3}),
    ("layer-norm", norm, norm.Problem(30, 64, "bf16", centred=True), {"x": 2, "weight": 3, "bias": 3}),
    ("softmax", softmax, softmax.Problem(30, 64, "bf16"), {"x": 2}),
]


@pytest.mark.parametrize(("name", "module", "problem", "times"), PARTS, ids=[name for name, *_ in PARTS])
def test_rows_in_parts_are_loaded_twice_what_they_share_once_per_tile_and_results_are_stored_once(
    name: str, module: Any, problem: Any, times: dict[str, int]
) -> None:
    program = module.compile(problem, module.Knobs(tile_rows=4, tile_columns=24), H100, 0)
    result = simulate(program, H100)
    assert {t.name: t.load_useful_bytes for t in result.traffic if t.load_useful_bytes} == {
        tensor: count * (CORES if tensor in ("weight", "bias") else 30) * 128 for tensor, count in times.items()
    }
    assert {t.name: t.store_useful_bytes for t in result.traffic if t.store_useful_bytes} == CASES[name].stored
    assert result.bound.total_fs <= result.makespan_fs
    assert compiled(program, H100).makespan_fs == result.makespan_fs
    keys = {module.canonical(problem, module.Knobs(tile_columns=columns)) for columns in (0, 24, 32, 64, 100)}
    assert len(keys) == 3  # 0, 64 and 100 leave rows whole


@pytest.mark.parametrize("name", CASES)
def test_a_tile_that_does_not_fit_is_an_error_in_one_line(name: str) -> None:
    case = CASES[name]
    problem, knobs = case.plain
    if name == "kv-append":  # a tile has no more rows than there are new tokens of a sequence
        problem = replace(problem, contexts=(1 << 20,), new=1 << 20)
    with pytest.raises(ValueError, match=r"B more than the 2097152 B .*; sized by tile_rows=1048576, ") as error:
        case.module.compile(problem, replace(knobs, tile_rows=1 << 20), NPU, 0)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"^tile_rows: 0; allowed: an integer from 1"):
        case.module.compile(problem, replace(knobs, tile_rows=0), NPU, 0)


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_is_registered(name: str) -> None:
    kernel = KERNELS[name]
    assert kernel.compile is CASES[name].module.compile
    assert kernel.name == name


@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from([0, 30, 50]))
def test_the_parts_of_logits_cover_them_once_on_as_many_cores_as_there_are(rows: int, height: int, split: int) -> None:
    knobs = sampling.Knobs(tile_rows=height, tile_columns=20, split=split)
    phase = sampling.compile(sampling.Problem(rows, 100, 2, "bf16"), knobs, NPU, 0).phases[0]
    covered = np.zeros((rows, 100), int)
    for item in phase.tasks:
        column = dict(zip(phase.columns, item.tolist(), strict=True))
        covered[column["row"] : column["row"] + column["rows"], column["begin"] : column["end"]] += 1
        assert 1 <= column["rows"] <= height
    assert (covered == 1).all()
    parts = {0: 1, 30: 4, 50: 2}[split]
    assert len(phase.tasks) >= min(rows * parts, CORES // parts * parts)
