from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from kernels_ref.attention import decode_attention
from kernels_ref.mla import mla_prefill
from workloads.batch import Batch
from workloads.kernels.mla_prefill import Knobs, Problem, canonical, compile, shape

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
H100 = Machine(load_machine("h100-sxm").with_overrides({"cores.count": CORES}))
UNIT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-24}
LAYOUTS = ("token head dim", "head token dim", "head dim token", "head dim//4 token dim%4")


def filled(program: Program) -> Memory:
    memory = Memory(program)
    rng = np.random.default_rng(11)
    for tensor in program.tensors[:5]:
        size = [tensor.layout.size(axis) for axis in tensor.layout.axes]
        scale = size[-1] ** -0.5 if tensor.name.startswith("w") else 1.0
        memory.write(tensor.name, scale * rng.standard_normal(size))
    return memory


def check_values(problem: Problem, knobs: Knobs) -> None:
    """Three comparisons: the projections, attention over the projections as they are stored, and the whole.

    A projection is one rounding of a sum in fp32. Attention as for decode: two roundings and sums in fp32. The whole
    has two more: a rounded key changes a score by at most u of the sum of its products' sizes, thus a weight and the
    sum of weights by that factor each, and a rounded value the result by u of the largest.
    """
    program = compile(problem, knobs, NPU, 0)
    memory = filled(program)
    q, latent, rotary, w_uk, w_uv = (memory.read(tensor.name).astype(float) for tensor in program.tensors[:5])
    run(program, memory, CORES)
    k, v, out = (memory.read(name).astype(float) for name in ("k", "v", "out"))
    u, w = UNIT_ROUNDOFF[problem.dtype], UNIT_ROUNDOFF["fp32"]
    below = 2.0**-25
    for stored, weight in ((k, w_uk), (v, w_uv)):
        exact = np.einsum("hdr,tr->thd", weight, latent)
        sizes = np.einsum("hdr,tr->thd", np.abs(weight), np.abs(latent))
        assert (np.abs(stored - exact) <= u * np.abs(exact) + 1.02 * problem.rank * w * sizes + below).all()
    first = 0
    for tokens in problem.tokens:
        part = slice(first, first + tokens)
        first += tokens
        shared = np.broadcast_to(rotary[part, None], (tokens, problem.heads, problem.rope))
        keys = np.concatenate([k[part], shared], axis=2)
        padded = np.zeros(keys.shape)  # the formula takes keys and values of one width
        padded[:, :, : problem.value_dim] = v[part]
        seen = [[side[: t + 1] for t in range(tokens)] for side in (keys, padded)]
        expected = decode_attention(q[part], *seen, problem.scale)[:, :, : problem.value_dim]
        largest = float(np.abs(v[part]).max())
        magnitude = problem.scale * float(np.abs(q[part]).max() * np.abs(keys).max()) * keys.shape[2]
        fp32 = w * (2 * (keys.shape[2] + 8) * magnitude + 4 * tokens + 32)
        near = (2 * u + u * u + fp32 + below * tokens) * largest + below
        assert np.abs(out[part] - expected).max() <= near
        whole = mla_prefill(q[part], latent[part], rotary[part], w_uk, w_uv, problem.scale)
        weights = np.exp(2 * u * magnitude) - 1
        assert np.abs(out[part] - whole).max() <= near + 1.1 * (weights + u) * largest


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs]:
    problem = Problem(
        draw(st.integers(1, 3)),
        draw(st.sampled_from([8, 24, 33])),
        draw(st.sampled_from([4, 8])),
        draw(st.sampled_from([8, 16])),
        draw(st.sampled_from([4, 12])),  # columns of a value, no more than those of a key
        draw(st.sampled_from(["bf16", "fp16"])),
        tuple(draw(st.lists(st.integers(1, 30), min_size=1, max_size=2))),
    )
    knobs = Knobs(
        layout=draw(st.sampled_from(LAYOUTS)),
        tile_m=draw(st.sampled_from([7, 16, 128])),
        tile_k=draw(st.sampled_from([5, 8, 64])),
        tile_q=draw(st.sampled_from([3, 8, 16, 128])),
        tile=draw(st.sampled_from([3, 7, 16, 64])),
        stages=draw(st.integers(1, 3)),
        schedule=draw(st.sampled_from(["static", "balanced", "dynamic"])),
        sram_layout=draw(st.sampled_from(["row-major", "row-major", "swizzled"])),
    )
    return problem, knobs


@settings(max_examples=12)
@given(cases())
@example((Problem(2, 24, 8, 16, 12, "bf16", (37, 1, 16)), Knobs(tile_m=10, tile_k=7, tile_q=9, tile=4, stages=1)))
def test_the_program_computes_attention_within_the_roundings_of_its_dtype(case: tuple[Problem, Knobs]) -> None:
    check_values(*case)


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=3), st.sampled_from([3, 16]))
@settings(max_examples=12)
def test_a_chunk_behind_earlier_tokens_gives_what_these_tokens_give_in_a_whole_prefill(
    lengths: list[tuple[int, int]], tile_q: int
) -> None:
    tokens = tuple(new + before for new, before in lengths)
    sizes, knobs = (2, 24, 8, 16, 12, "bf16", tokens), Knobs(tile_k=8, tile_q=tile_q, tile=7)
    whole, chunk = (compile(Problem(*sizes, new), knobs, NPU, 0) for new in ((), tuple(new for new, _ in lengths)))
    inside = np.concatenate([np.arange(new + before) >= before for new, before in lengths])
    memories = filled(whole), Memory(chunk)
    for tensor in whole.tensors[:5]:
        values = memories[0].read(tensor.name)
        memories[1].write(tensor.name, values[inside] if tensor.name == "q" else values)
    for program, memory in zip((whole, chunk), memories, strict=True):
        run(program, memory, CORES)
    assert (memories[1].read("out") == memories[0].read("out")[inside]).all()


def test_more_queries_than_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^batch: sequence 1: context is 3; allowed: q_len \(4\) or more$"):
        Problem(2, 24, 8, 16, 12, "bf16", (5, 3), (5, 4))


@pytest.mark.nightly
@settings(max_examples=250)
@given(cases())
def test_the_program_computes_attention_for_very_many(case: tuple[Problem, Knobs]) -> None:
    check_values(*case)


@settings(max_examples=5)
@given(cases(), st.integers(1, 3), st.sampled_from(["static", "balanced", "dynamic"]), st.sampled_from(LAYOUTS))
def test_stages_schedule_layout_and_machine_change_no_bit(
    case: tuple[Problem, Knobs], stages: int, schedule: str, layout: str
) -> None:
    problem, knobs = case
    knobs = replace(knobs, tile_q=min(knobs.tile_q, 16))
    outputs = set()
    for other, machine in (
        (knobs, NPU),
        (knobs, H100),
        (replace(knobs, stages=stages, schedule=schedule), NPU),
        (replace(knobs, layout=layout), NPU),
    ):
        program = compile(problem, other, machine, 0)
        memory = filled(program)
        run(program, memory, CORES)
        outputs.add(memory.read("out").tobytes())
    assert len(outputs) == 1


def test_traffic_is_what_the_tiles_read_by_hand() -> None:
    """100 and 30 tokens, 2 heads, tiles of 32 queries: the last query of a tile reads all tokens up to itself."""
    problem = Problem(2, 64, 16, 32, 48, "bf16", (100, 30))
    result = simulate(compile(problem, Knobs(tile_m=128, tile_q=32), NPU, 0), NPU)
    moved = {t.name: (t.load_useful_bytes, t.store_useful_bytes) for t in result.traffic}
    read = 2 * (32 + 64 + 96 + 100 + 30)  # tokens of keys, by items
    items = 2 * 2  # of the projection: tiles of 128 tokens, heads
    assert moved == {
        "q": (130 * 2 * 48 * 2, 0),
        "latent": (130 * 2 * 64 * 2, 0),  # once per head
        "rotary": (read * 16 * 2, 0),
        "w_uk": (items * 32 * 64 * 2, 0),
        "w_uv": (items * 48 * 64 * 2, 0),
        "k": (read * 32 * 2, 130 * 2 * 32 * 2),
        "v": (read * 48 * 2, 130 * 2 * 48 * 2),
        "out": (0, 130 * 2 * 48 * 2),
    }
    assert 0 < result.bound.total_fs <= result.makespan_fs
    assert len(result.phases) == 2


def test_items_cover_every_query_of_every_head_once() -> None:
    problem = Problem(3, 8, 4, 8, 4, "bf16", (50, 7, 1))
    phase = compile(problem, Knobs(tile_q=13), NPU, 0).phases[1]
    column = {name: phase.tasks[:, i].tolist() for i, name in enumerate(phase.columns)}
    covered = [
        (first + query + row, head)
        for first, head, query, rows in zip(*(column[n] for n in ("first", "head", "query", "rows")), strict=True)
        for row in range(rows)
    ]
    assert sorted(covered) == [(token, head) for token in range(58) for head in range(3)]


def test_canonical_keys_are_equal_exactly_for_knobs_of_one_meaning() -> None:
    problem = Problem(2, 64, 16, 32, 48, "bf16", (100, 30))
    key = canonical(problem, Knobs())
    same = [Knobs(tile_m=130), Knobs(tile_q=100), Knobs(layout="token head dim//8 dim%8")]
    assert [canonical(problem, knobs) == key for knobs in same] == [False, True, True]
    different = [Knobs(tile_m=64), Knobs(tile_k=32), Knobs(tile_q=64), Knobs(tile=32), Knobs(stages=2)]
    different += [Knobs(layout="head token dim"), Knobs(schedule="dynamic"), Knobs(sram_layout="row-major")]
    assert len({key, *(canonical(problem, knobs) for knobs in different)}) == len(different) + 1


def test_problems_and_knobs_out_of_range_are_named() -> None:
    problem = shape(None, Batch((5, 6), "test"), {"heads": 128})
    assert problem == Problem(128, 512, 64, 128, 128, "bf16", (5, 6))
    assert problem.scale == pytest.approx(192**-0.5)
    with pytest.raises(ValueError, match=r"^batch: kernel mla-prefill needs one"):
        shape(None, None, {"heads": 32})
    with pytest.raises(ValueError, match=r"^tile_q: 0; allowed: an integer from 1 to"):
        compile(problem, Knobs(tile_q=0), NPU, 0)
    large = replace(problem, tokens=(4000,))
    with pytest.raises(ValueError, match=r"phase attend needs .* sized by tile_q=4096, tile=64, stages=3"):
        compile(large, Knobs(tile_q=4096, sram_layout="row-major"), NPU, 0)
