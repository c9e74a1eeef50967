from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwmodel.energy import instructions
from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import Program, Tensor
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from kernels_ref.mla import dequantise, mla_decode
from layouts.catalog.mla import fp8_ds_mla, mla_bf16, model1_mla
from workloads.batch import Batch
from workloads.kernels import KERNELS
from workloads.kernels.latent import Heads
from workloads.kernels.mla_decode import Knobs, Problem, canonical, compile, shape, work_items
from workloads.model import load_model

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
H100 = Machine(load_machine("h100-sxm").with_overrides({"cores.count": CORES}))
UNIT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-24}
LAYOUTS = ("page token dim", "token page dim", "page dim token", "dim//8 page token dim%8", "page token dim%4 dim//4")
GROUPS = {"fp8_ds_mla": 128, "model1": 64}


def filled(program: Program, seed: int = 3) -> Memory:
    memory = Memory(program)
    rng = np.random.default_rng(seed)
    for tensor in program.tensors:
        if tensor.name == "q" or tensor.name.startswith("cache"):
            values = rng.standard_normal([tensor.layout.size(axis) for axis in tensor.layout.axes])
            memory.write(tensor.name, np.exp2(np.rint(values)) if tensor.dtype == "e8m0" else values)
    return memory


def named_tensor(program: Program, name: str) -> Tensor:
    return next(tensor for tensor in program.tensors if tensor.name == name)


def keys_of(problem: Problem, knobs: Knobs, program: Program, memory: Memory) -> list[np.ndarray]:
    """Return the keys of every sequence as plain arrays, by the page table that the program was compiled with."""
    if knobs.record == "plain":
        pool = memory.read("cache").astype(float)
    else:
        wide = dequantise(memory.read("cache nope"), memory.read("cache scale"), GROUPS[knobs.record])
        wide = wide.astype(ml_dtypes.bfloat16).astype(float)  # a record is read as bf16
        pool = np.concatenate([wide, memory.read("cache rope").astype(float)], axis=-1)
    table = named_tensor(program, "page table").values
    assert table is not None
    keys, first = [], 0
    for context in problem.contexts:
        pages = table[first : first + -(-context // knobs.page_size)]
        first += len(pages)
        keys.append(pool[pages].reshape(-1, problem.heads.dim)[:context])
    return keys


def check_values(problem: Problem, knobs: Knobs, seed: int = 0) -> None:
    program = compile(problem, knobs, NPU, seed)
    memory = filled(program)
    keys = keys_of(problem, knobs, program, memory)
    heads = problem.heads
    q = memory.read("q").reshape(len(keys), problem.q_len, heads.count, heads.dim)
    expected = mla_decode(q, keys, heads.value_dim, heads.scale)
    run(program, memory, CORES)
    error = np.abs(memory.read("out").astype(float).reshape(expected.shape) - expected)
    for i, key in enumerate(keys):
        assert error[i].max() <= tolerance(heads, q[i].astype(float), key)


def tolerance(heads: Heads, q: np.ndarray, key: np.ndarray) -> float:
    """Return how far a result may be from the exact one.

    As for decode attention: the weights and the result are rounded to the dtype, each by at most u of the largest
    value; sums of `dim` products and over the context, exp, the rescaling per tile and the merge are fp32; fp16 also
    loses what is below its smallest number.
    """
    u, w = UNIT_ROUNDOFF[heads.dtype], UNIT_ROUNDOFF["fp32"]
    magnitude = heads.scale * float(np.abs(q).max() * np.abs(key).max()) * heads.dim
    fp32 = w * (2 * (heads.dim + 8) * magnitude + 4 * len(key) + 32)
    subnormal = 2.0**-25 * len(key) if heads.dtype == "fp16" else 0.0
    return (2 * u + u * u + fp32 + subnormal) * float(np.abs(key[:, : heads.value_dim]).max()) + subnormal


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs]:
    record = draw(st.sampled_from(["plain", "plain", "fp8_ds_mla", "model1"]))
    dtype = "bf16"
    if record == "plain":
        rank, rope = draw(st.sampled_from([(8, 8), (24, 8), (64, 16)]))
        value = draw(st.sampled_from([rank, rank + rope, 5]))
        dtype = draw(st.sampled_from(["bf16", "fp16"]))
    else:
        rank, rope, value = (512, 64, 512) if record == "fp8_ds_mla" else (448, 64, 512)
    q_len = draw(st.integers(1, 3))
    longest = 70 if record == "plain" else 30
    contexts = draw(st.lists(st.one_of(st.just(q_len), st.integers(q_len, longest)), min_size=1, max_size=3))
    heads = Heads(draw(st.integers(1, 9)), rank, rope, value, (rank + rope) ** -0.5, dtype)
    knobs = Knobs(
        record=record,
        layout=draw(st.sampled_from(LAYOUTS)),
        page_size=draw(st.sampled_from([1, 3, 16, 64])),
        page_order=draw(st.sampled_from(["contiguous", "shuffled"])),
        head_tile=draw(st.sampled_from([1, 4, 7, 64])),
        tile=draw(st.sampled_from([1, 5, 16, 64])),
        stages=draw(st.integers(2, 4)),
        split_tokens=draw(st.sampled_from([0, 0, 1, 6, 20])),
        strip=draw(st.sampled_from([0, 1, 3, 64])),
        queries=draw(st.integers(1, 2)),
        schedule=draw(st.sampled_from(["static", "balanced", "dynamic"])),
        sram_layout=draw(st.sampled_from(["row-major", "row-major", "swizzled"])),
    )
    return Problem(heads, q_len, tuple(contexts)), knobs


PLAIN = Heads(8, 24, 8, 24, 0.2, "bf16")


@settings(max_examples=12)
@given(cases(), st.integers(0, 3))
@example((Problem(PLAIN, 3, (3, 50)), Knobs(page_size=7, tile=5, head_tile=10, split_tokens=9, stages=2)), 0)
@example((Problem(PLAIN, 2, (41,)), Knobs(page_size=16, tile=8, head_tile=64, split_tokens=8, stages=2)), 1)
def test_the_program_computes_attention_within_the_roundings_of_its_dtype(
    case: tuple[Problem, Knobs], seed: int
) -> None:
    check_values(*case, seed)


@pytest.mark.nightly
@settings(max_examples=400)
@given(cases(), st.integers(0, 3))
def test_the_program_computes_attention_for_very_many(case: tuple[Problem, Knobs], seed: int) -> None:
    check_values(*case, seed)


@settings(max_examples=5)
@given(cases(), st.integers(2, 4), st.sampled_from(["static", "balanced", "dynamic"]), st.sampled_from(LAYOUTS))
def test_stages_schedule_layout_and_machine_change_no_bit(
    case: tuple[Problem, Knobs], stages: int, schedule: str, layout: str
) -> None:
    problem, knobs = case
    knobs = replace(knobs, head_tile=min(knobs.head_tile, 7), tile=min(knobs.tile, 16))
    outputs = set()
    for other, machine in (
        (knobs, NPU),
        (knobs, H100),
        (replace(knobs, stages=stages), NPU),
        (replace(knobs, schedule=schedule), NPU),
        (replace(knobs, layout=layout), NPU),
    ):
        program = compile(problem, other, machine, 0)
        memory = filled(program)
        run(program, memory, CORES)
        outputs.add(memory.read("out").tobytes())
    assert len(outputs) == 1


def test_a_wrong_mask_is_found_out() -> None:
    """The comparison can fail: a query that saw one token more would be off by more than the tolerance."""
    problem = Problem(PLAIN, 2, (9,))
    program = compile(problem, Knobs(), NPU, 0)
    memory = filled(program)
    (key,) = keys_of(problem, Knobs(), program, memory)
    q = memory.read("q").reshape(1, 2, 8, 32).astype(float)
    run(program, memory, CORES)
    sees_all = mla_decode(q[:, :1], [key], 24, PLAIN.scale)[0, 0]
    assert np.abs(memory.read("out").astype(float)[:8] - sees_all).max() > tolerance(PLAIN, q[0], key)


# --- where the bytes lie --------------------------------------------------------------------------------------------

SIZES = {"nope": 1, "scale": 4, "rope": 2}


def by_hand(record: str, page: int, token: int, field: str, number: int, page_size: int) -> int:
    if record == "fp8_ds_mla":
        start = {"nope": 0, "scale": 512, "rope": 528}[field]
        return (page * page_size + token) * 656 + start + number * SIZES[field]
    base = page * -(-page_size * 584 // 576) * 576
    if field == "scale":
        return base + page_size * 576 + token * 8 + number
    return base + token * 576 + (448 + 2 * number if field == "rope" else number)


@pytest.mark.parametrize(("record", "catalog", "rank"), [("fp8_ds_mla", fp8_ds_mla, 512), ("model1", model1_mla, 448)])
@pytest.mark.parametrize("page_size", [1, 3, 64])
def test_the_fields_of_a_record_lie_at_the_bytes_of_the_catalog(
    record: str, catalog: Any, rank: int, page_size: int
) -> None:
    heads = Heads(4, rank, 64, 512, 0.1, "bf16")
    program = compile(Problem(heads, 1, (130, 5)), Knobs(record=record, page_size=page_size), NPU, 0)
    pages = len(named_tensor(program, "page table").values)  # type: ignore[arg-type]
    known = catalog(pages, page_size)
    pool = named_tensor(program, "cache nope").base_bytes
    for field in SIZES:
        tensor = named_tensor(program, f"cache {field}")
        last = "tile" if field == "scale" else "dim"
        assert tensor.layout.axes == known.axes(field) == ("page", "token", last)
        axes = [np.arange(tensor.layout.size(axis)) for axis in tensor.layout.axes]
        coordinates = dict(zip(tensor.layout.axes, np.ix_(*axes), strict=True))
        addresses = tensor.base_bytes - pool + tensor.layout.offsets(**coordinates) * tensor.element_bytes
        np.testing.assert_array_equal(addresses, known.addresses(field, **coordinates))
        for page, token, number in ((0, 0, 0), (pages - 1, page_size - 1, len(axes[2]) - 1), (1, page_size // 2, 3)):
            assert addresses[page, token, number] == by_hand(record, page, token, field, number, page_size)


def test_a_plain_cache_lies_as_in_the_catalog() -> None:
    heads = Heads(4, 512, 64, 512, 0.1, "bf16")
    program = compile(Problem(heads, 1, (130, 5)), Knobs(page_size=64), NPU, 0)
    assert named_tensor(program, "cache").layout == mla_bf16(4, 64)


@pytest.mark.parametrize(("record", "rank", "row"), [("plain", 512, 1152), ("fp8_ds_mla", 512, 656)])
def test_traffic_is_every_token_once_per_tile_of_rows(record: str, rank: int, row: int) -> None:
    heads = Heads(32, rank, 64, 512, 0.1, "bf16")
    contexts = (200, 64, 1)
    for head_tile, times in ((32, 1), (16, 2)):
        knobs = Knobs(record=record, head_tile=head_tile)
        result = simulate(compile(Problem(heads, 1, contexts), knobs, NPU, 0), NPU)
        moved = {t.name: (t.load_useful_bytes, t.store_useful_bytes) for t in result.traffic}
        assert sum(load for name, (load, _) in moved.items() if name.startswith("cache")) == sum(contexts) * row * times
        assert moved["q"] == (3 * 32 * 576 * 2, 0)
        assert moved["out"] == (0, 3 * 32 * 512 * 2)


def test_fields_of_a_record_share_bursts_at_their_borders() -> None:
    """656 bytes are 20.5 bursts of 32: 16 + 1 + 5 for nope, scale and rope of an even token, 17 + 1 + 4 of an odd."""
    heads = Heads(16, 512, 64, 512, 0.1, "bf16")
    result = simulate(compile(Problem(heads, 1, (128,)), Knobs(record="fp8_ds_mla"), NPU, 0), NPU)
    fetched = {t.name: t.load_fetched_bytes for t in result.traffic if t.name.startswith("cache")}
    assert fetched == {"cache nope": 64 * 33 * 32, "cache scale": 128 * 32, "cache rope": 64 * 9 * 32}


def test_a_v4_record_moves_583_of_its_584_bytes_and_fetches_whole_bursts() -> None:
    heads = Heads(16, 448, 64, 512, 0.1, "bf16")
    result = simulate(compile(Problem(heads, 1, (128,)), Knobs(record="model1"), NPU, 0), NPU)
    cache = [t for t in result.traffic if t.name.startswith("cache")]
    assert sum(t.load_useful_bytes for t in cache) == 128 * (448 + 128 + 7)
    (scales,) = [t for t in cache if t.name == "cache scale"]
    assert scales.load_fetched_bytes == 128 * 8  # the byte between two tokens' scales comes with its burst


@pytest.mark.parametrize("record", ["plain", "fp8_ds_mla", "model1"])
@pytest.mark.parametrize("q_len", [1, 2])
@pytest.mark.parametrize("machine", [NPU, H100], ids=["no cache", "shared cache"])
def test_a_run_takes_no_less_than_its_bound(machine: Machine, record: str, q_len: int) -> None:
    heads = Heads(16, 448 if record == "model1" else 512, 64, 512, 0.1, "bf16")
    knobs = Knobs(record=record, split_tokens=128, head_tile=16, tile=16, stages=2)
    result = simulate(compile(Problem(heads, q_len, (300, 70)), knobs, machine, 0), machine)
    assert 0 < result.bound.total_fs <= result.makespan_fs
    assert len(result.phases) == 2


def test_a_program_does_not_grow_with_the_context() -> None:
    heads = Heads(16, 512, 64, 512, 0.1, "bf16")
    short, long = (compile(Problem(heads, 1, (n,)), Knobs(), NPU, 0).phases[0] for n in (100, 100_000))
    assert [len(queue) for queue in short.queues] == [len(queue) for queue in long.queues]
    assert len(short.tasks) == len(long.tasks) == 1


# --- items, keys and errors -----------------------------------------------------------------------------------------


@given(
    st.integers(1, 6), st.integers(1, 9), st.lists(st.integers(0, 60), min_size=1, max_size=3), st.integers(0, 40),
    st.integers(1, 20),
)  # fmt: skip
def test_items_walk_what_their_last_query_sees_once_and_no_part_is_hidden_from_a_query(
    heads: int, q_len: int, before: list[int], split: int, head_tile: int
) -> None:
    problem = Problem(replace(PLAIN, count=heads), q_len, tuple(q_len + tokens for tokens in before))
    items = work_items(problem, Knobs(split_tokens=split, head_tile=head_tile))
    walked: dict[int, list[int]] = {}
    for row, rows, first_row, begin, tokens, visible in zip(
        *(items[name].tolist() for name in ("row", "rows", "first row", "begin", "tokens", "visible")), strict=True
    ):
        assert visible + first_row // heads >= 1, "a query sees nothing of a part"
        for each in range(rows):
            walked.setdefault(row + each, []).extend(range(begin, begin + tokens))
    for row, found in walked.items():
        sequence, own = divmod(row, problem.rows)
        first = own // head_tile * head_tile
        last = min(first + head_tile, problem.rows) - 1
        seen_by_last = problem.contexts[sequence] - q_len + 1 + last // heads
        assert sorted(found) == list(range(seen_by_last))
    assert len(walked) == len(problem.contexts) * problem.rows


@pytest.mark.parametrize("split", [512, 1024, 2048])
def test_parts_are_merged_in_strips_of_rows_that_fit_the_scratchpad(split: int) -> None:
    heads = Heads(64, 512, 64, 512, 0.1, "bf16")
    knobs = Knobs(tile=32, strip=8, queries=1, split_tokens=split)
    attend, combine = compile(Problem(heads, 1, (4096,)), knobs, H100, 0).phases
    rows = combine.tasks[:, combine.columns.index("rows")]
    assert rows.sum() == 64
    assert len(attend.tasks) == 4096 // split


def test_a_prefill_multiplies_little_more_than_what_its_queries_see() -> None:
    heads = Heads(16, 512, 64, 512, 0.1, "bf16")
    program = compile(Problem(heads, 2048, (2048,)), Knobs(head_tile=32, tile=16, stages=2, queries=1), H100, 0)
    done = instructions(program)
    seen = 16 * 2048 * 2049 // 2 * (576 + 512)
    assert seen <= sum(done.macs.values()) <= 1.02 * seen


def test_canonical_keys_are_equal_exactly_for_knobs_of_one_meaning() -> None:
    problem = Problem(Heads(8, 512, 64, 512, 0.1, "bf16"), 2, (400, 9))
    key = canonical(problem, Knobs())
    assert canonical(problem, Knobs(layout="page token dim//4 dim%4")) == key
    assert canonical(problem, Knobs(split_tokens=399)) == canonical(problem, Knobs(head_tile=16)) == key
    different = [Knobs(layout="token page dim"), Knobs(split_tokens=398), Knobs(tile=32), Knobs(stages=2)]
    different += [Knobs(page_size=8), Knobs(page_order="contiguous"), Knobs(schedule="dynamic"), Knobs(head_tile=15)]
    different += [Knobs(record="fp8_ds_mla")]
    assert len({key, *(canonical(problem, knobs) for knobs in different)}) == len(different) + 1
    other = Knobs(record="fp8_ds_mla", layout="token page dim")
    assert canonical(problem, other) == canonical(problem, Knobs(record="fp8_ds_mla"))


def test_the_problem_of_deepseek_v3_has_its_published_sizes() -> None:
    problem = shape(None, Batch((5, 6), "test"), {"heads": 128})
    assert (problem.heads.dim, problem.heads.value_dim, problem.heads.dtype) == (576, 512, "bf16")
    assert problem.heads.scale == pytest.approx(192**-0.5)
    assert KERNELS["mla-decode"].optional["q_len"] == problem.q_len == 1
    assert shape(load_model("llama-3.1-8b"), Batch((5,), "test"), {"heads": 2, "value": 3}).heads.value_dim == 3


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        (None, {"heads": 8}, "^batch: kernel mla-decode needs one"),
        (Batch((5,), "test"), {}, "^options: size heads is missing"),
        (Batch((5,), "test"), {"heads": 8, "value": 600}, "^options: size value is 600; allowed: up to .* 576"),
        (Batch((5, 2), "test"), {"heads": 8, "q_len": 3}, "^batch: sequence 1 has 2 tokens; allowed: at least .* 3"),
    ],
)
def test_a_problem_that_cannot_be_is_refused(batch: Batch | None, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shape(None, batch, options)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (Knobs(tile=0), "^tile: 0; allowed: an integer from 1 to"),
        (Knobs(stages=1), "^stages: 1; allowed: an integer from 2 to"),
        (Knobs(record="fp8"), "^record: unknown 'fp8'; known: fp8_ds_mla"),
        (Knobs(record="model1"), "^record: model1 holds 448 [+] 64 columns of bf16, the problem has 32 of bf16"),
        (Knobs(layout="page token"), "^layout: notation 'page token': axis dim is missing"),
    ],
)
def test_a_knob_out_of_range_is_named_with_what_is_allowed(knobs: Knobs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compile(Problem(PLAIN, 1, (40,)), knobs, NPU, 0)


def test_buffers_that_do_not_fit_are_an_error_that_names_the_knobs() -> None:
    heads = Heads(128, 512, 64, 512, 0.1, "bf16")
    with pytest.raises(ValueError, match=r"phase attend needs .* sized by head_tile=128, tile=512, stages=3"):
        compile(Problem(heads, 1, (4000,)), Knobs(head_tile=128, tile=512, sram_layout="row-major"), NPU, 0)
