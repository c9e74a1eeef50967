from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explorer.evaluate import bound_columns, bound_pj, bound_us, simulate
from explorer.query import BatchSpec, Query

MACHINES = ("h100-sxm", "npu-hbm3", "npu-sram", "npu-sram-local", "rtx-4090", "tpu-v5e")
OPERANDS = st.fixed_dictionaries(
    {
        "layout_a": st.sampled_from(["m k", "k m"]),
        "tile_n": st.sampled_from([8, 32, 100]),
        "tile_k": st.sampled_from([16, 40, 64, 200]),
        "stages": st.integers(1, 3),
        "split_k": st.sampled_from([1, 2, 3]),
        "schedule": st.sampled_from(["static", "balanced", "dynamic"]),
        "unit": st.sampled_from(["matrix", "vector"]),
    }
)
KNOBS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "decode-attention": st.fixed_dictionaries(
        {
            "layout": st.sampled_from(
                ["page kv token head dim", "page kv head token dim", "kv head page dim token", "dim page kv head token"]
            ),
            "page_size": st.sampled_from([1, 4, 16, 24]),
            "page_order": st.sampled_from(["shuffled", "contiguous"]),
            "tile": st.sampled_from([4, 7, 16, 64]),
            "stages": st.integers(1, 3),
            "split_tokens": st.sampled_from([0, 16, 30, 64]),
            "schedule": st.sampled_from(["static", "balanced", "dynamic", "beside"]),
            "sram_layout": st.sampled_from(["swizzled", "row-major"]),
            "products": st.sampled_from(["fp8", "16-bit"]),
            "epilogue": st.sampled_from(["overlapped", "exposed"]),
            "placement": st.sampled_from(["interleaved", "cores"]),
        }
    ),
    "prefill-attention": st.fixed_dictionaries(
        {
            "tile_q": st.sampled_from([4, 8, 16, 64]),
            "tile_kv": st.sampled_from([8, 24, 64]),
            "packing": st.sampled_from(["group", "head"]),
            "pipeline": st.sampled_from(["two-stage", "warp-specialised"]),
            "order": st.sampled_from(["natural", "longest-first"]),
            "schedule": st.sampled_from(["static", "balanced", "dynamic"]),
            "page_size": st.sampled_from([0, 4, 16]),
            "split_tokens": st.sampled_from([0, 30, 64]),
            "products": st.sampled_from(["fp8", "16-bit"]),
        }
    ),
    "mla-decode": st.fixed_dictionaries(
        {
            "record": st.sampled_from(["plain", "fp8_ds_mla"]),
            "layout": st.sampled_from(["page token dim", "page dim token"]),
            "page_size": st.sampled_from([1, 16, 24]),
            "head_tile": st.sampled_from([1, 7, 16]),
            "tile": st.sampled_from([8, 30]),
            "stages": st.integers(2, 3),
            "split_tokens": st.sampled_from([0, 30, 64]),
            "strip": st.sampled_from([0, 1, 5]),
            "queries": st.integers(1, 2),
            "schedule": st.sampled_from(["static", "balanced", "dynamic"]),
        }
    ),
    "gemm": st.builds(lambda knobs, tile_m: knobs | {"tile_m": tile_m}, OPERANDS, st.sampled_from([1, 16, 48])),
    "gemv": OPERANDS,
}


def sizes(m: int, n: int, k: int) -> tuple[tuple[str, int], ...]:
    return ("m", m), ("n", n), ("k", k)


SIZES: dict[str, st.SearchStrategy[Any]] = {
    "decode-attention": st.tuples(
        st.builds(BatchSpec, st.integers(1, 4), st.integers(3, 150)),
        st.sampled_from([(), (("q_len", 2),), (("kv_fp8", 1),), (("window", 40),), (("sinks", 1), ("soft_cap", 30))]),
    ),
    "prefill-attention": st.tuples(
        st.builds(BatchSpec, st.integers(1, 2), st.integers(5, 100)),
        st.sampled_from([(), (("q_len", 3),), (("kv_fp8", 1),), (("window", 20),), (("bidirectional", 1),)]),
    ),
    "mla-decode": st.tuples(
        st.builds(BatchSpec, st.integers(1, 2), st.integers(4, 100)),
        st.sampled_from([(("heads", 4), ("q_len", 2)), (("heads", 10),)]),
    ),
    "gemm": st.tuples(st.none(), st.builds(sizes, *[st.integers(1, 200)] * 3)),
    "gemv": st.tuples(st.none(), st.builds(sizes, st.integers(1, 8), *[st.integers(1, 300)] * 2)),
}
CHANGES: st.SearchStrategy[Any] = st.sampled_from(
    [{}, {"machine.cores.count": "2"}, {"machine.cores.count": "7", "machine.noc.latency": "300 ns"}]
)


def queries(kernel: str) -> st.SearchStrategy[Query]:
    model = "tiny" if kernel in ("decode-attention", "prefill-attention") else None

    def query(machine: str, sizes: tuple[BatchSpec | None, tuple[tuple[str, int], ...]]) -> Query:
        return Query(machine, kernel, model, sizes[0], sizes[1])

    return st.builds(query, st.sampled_from(MACHINES), SIZES[kernel])


def at(query: Query, settings: dict[str, Any]) -> Query:
    for name, value in settings.items():
        query = query.with_knob(name, value)
    return query


def check_run(query: Query, settings: dict[str, Any]) -> None:
    """A run takes no less time and energy than the bounds; a query that cannot run says nothing."""
    bounds = bound_columns(query, {name: [value] for name, value in settings.items()})
    assert bounds is not None
    try:
        metrics = simulate(at(query, settings)).metrics
    except ValueError:
        return
    time_us, energy_pj = metrics["time_us"], metrics["energy_pj"]
    assert isinstance(time_us, float)
    assert 0 < bounds.time_us[0] <= time_us
    if energy_pj is not None:
        assert bounds.energy_pj is not None
        assert isinstance(energy_pj, float)
        assert 0 < bounds.energy_pj[0] <= energy_pj


@pytest.mark.parametrize(
    "kernel", [pytest.param(k, marks=[] if k in ("decode-attention", "gemm") else [pytest.mark.slow]) for k in KNOBS]
)
@settings(max_examples=2)
@given(st.data())
def test_no_run_is_faster_or_takes_less_energy_than_its_bound(kernel: str, data: st.DataObject) -> None:
    check_run(data.draw(queries(kernel)), data.draw(KNOBS[kernel]) | data.draw(CHANGES))


@pytest.mark.nightly
@pytest.mark.parametrize("kernel", KNOBS)
@settings(max_examples=1000)
@given(st.data())
def test_no_run_of_a_thousand_is_below_its_bound(kernel: str, data: st.DataObject) -> None:
    check_run(data.draw(queries(kernel)), data.draw(KNOBS[kernel]) | data.draw(CHANGES))


@pytest.mark.parametrize("kernel", KNOBS)
@settings(max_examples=2)
@given(st.data())
def test_points_have_the_bounds_that_they_have_alone_whatever_their_order(kernel: str, data: st.DataObject) -> None:
    query = data.draw(queries(kernel))
    knobs = data.draw(st.lists(KNOBS[kernel], min_size=2, max_size=4))
    machine = data.draw(CHANGES)
    points = [*knobs, knobs[0]]
    order = data.draw(st.permutations(range(len(points))))
    found = columns_of(query, points, machine)
    again = columns_of(query, [points[i] for i in order], machine)
    alone = [columns_of(query, [point], machine) for point in points]
    assert found.time_us[0] == found.time_us[-1]
    assert found.time_us[order].tolist() == again.time_us.tolist()
    assert found.time_us.tolist() == [bound.time_us[0] for bound in alone]


def columns_of(query: Query, points: list[dict[str, Any]], machine: dict[str, str]) -> Any:
    columns = {name: [point[name] for point in points] for name in points[0]}
    return bound_columns(query, columns | {path: [text] * len(points) for path, text in machine.items()})


LLAMA = Query("h100-sxm", "decode-attention", "llama-3.1-8b", BatchSpec(32, 4096))


@pytest.mark.parametrize("machine", ["h100-sxm", "npu-hbm3"])
def test_of_a_streaming_decode_it_is_close_to_the_bound_of_its_program(machine: str) -> None:
    query, settings = replace(LLAMA, machine=machine), {"page_size": 64, "split_tokens": 1024}
    bounds = bound_columns(query, {name: [value] for name, value in settings.items()})
    assert bounds is not None
    assert bounds.energy_pj is not None
    assert bounds.time_us[0] == pytest.approx(bound_us(at(query, settings)), rel=0.02)
    assert bounds.energy_pj[0] == pytest.approx(bound_pj(at(query, settings)), rel=1e-3)


def test_a_layout_that_cuts_bursts_short_has_to_fetch_more() -> None:
    """Of 4 tokens next to each other in memory 8 B are asked for, and 32 B fetched: there is no cache.

    The engines' issue takes most of the time of such tiles; the energy tells.
    """
    query = Query("npu-hbm3", "decode-attention", "llama-3.1-8b", BatchSpec(16, 1024))
    columns = {"layout": ["page kv head token dim", "page kv head dim token"], "page_size": [64] * 2, "tile": [4] * 2}
    bounds = bound_columns(query, columns)
    assert bounds is not None
    assert bounds.energy_pj is not None
    assert bounds.energy_pj[1] > 2 * bounds.energy_pj[0]
    assert bounds.time_us[1] > bounds.time_us[0]


def test_numbers_of_the_machine_count_each_for_its_points() -> None:
    bounds = bound_columns(LLAMA, {"machine.hbm.stacks": ["4", "5", "4"], "tile": [64, 64, 128]})
    assert bounds is not None
    assert bounds.time_us[0] > 1.2 * bounds.time_us[1]
    assert bounds.time_us[0] == pytest.approx(bounds.time_us[2], rel=0.01)


def test_points_that_cannot_run_do_not_keep_the_others_from_their_bounds() -> None:
    columns = {
        "tile": [64, 0, "many", True, 64, 64],
        "layout": ["page kv token head dim"] * 5 + ["page kv token"],
        "machine.hbm.stacks": ["5"] * 4 + ["none at all", "5"],
    }
    bounds = bound_columns(LLAMA, columns)  # type: ignore[arg-type]
    assert bounds is not None
    assert np.isfinite(bounds.time_us).all()
    assert bounds.time_us[1:5].tolist() == [0.0] * 4
    assert bounds.time_us[0] == pytest.approx(bound_us(LLAMA), rel=0.01)


def test_a_kernel_without_a_closed_form_says_so() -> None:
    assert bound_columns(replace(LLAMA, kernel="kv-append"), {"page_size": [16]}) is None


def test_a_misspelt_knob_and_uneven_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown knob of decode-attention 'tiles'"):
        bound_columns(LLAMA, {"tiles": [64]})
    with pytest.raises(ValueError, match="columns: of "):
        bound_columns(LLAMA, {"tile": [64], "stages": [1, 2]})
