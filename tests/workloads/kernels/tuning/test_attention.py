"""Knobs of attention: no slower than the defaults, also where these do not fit, and the same as predictions take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwmodel.engine import simulate
from hwmodel.machine import DoesNotFit, Machine
from hwmodel.spec import load_machine
from workloads.calls import Row, call_of
from workloads.kernels import KERNELS, decode_attention, mla_decode, prefill_attention
from workloads.kernels.latent import Heads
from workloads.kernels.tuning import attention

H100, NPU, TPU = (Machine(load_machine(name)) for name in ("h100-sxm", "npu-hbm3", "tpu-v6e"))
LATENT = Heads(16, 512, 64, 512, 192**-0.5, "bf16")
PROBLEMS: dict[str, tuple[Any, ...]] = {
    "decode-attention": (
        decode_attention.Problem(32, 8, 128, "bf16", (1024, 3000, 500, 2048)),
        decode_attention.Problem(8, 8, 64, "bf16", (4096,)),
    ),
    "prefill-attention": (
        prefill_attention.Problem(16, 4, 128, "bf16", (1024, 300)),
        prefill_attention.Problem(8, 8, 128, "bf16", (2048, 1500), q_len=(1024, 512)),
    ),
    "mla-decode": (mla_decode.Problem(LATENT, 1, (700, 2000, 1500)),),
}
CASES = [(kernel, problem) for kernel, problems in PROBLEMS.items() for problem in problems]


def time_fs(kernel: str, problem: Any, knobs: Any, machine: Machine) -> int:
    return simulate(KERNELS[kernel].compile(problem, knobs, machine, 0), machine).makespan_fs


@pytest.mark.parametrize(
    "machine", [H100, NPU, pytest.param(TPU, marks=pytest.mark.slow)], ids=lambda machine: machine.spec.name
)
@pytest.mark.parametrize(("kernel", "problem"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_suggested_knobs_take_no_longer_than_the_defaults_where_those_fit(
    kernel: str, problem: Any, machine: Machine
) -> None:
    suggested = time_fs(kernel, problem, KERNELS[kernel].suggested(problem, machine), machine)
    try:
        default = time_fs(kernel, problem, KERNELS[kernel].Knobs(), machine)
    except DoesNotFit:
        assert (kernel, machine) == ("mla-decode", H100)
        return
    assert suggested <= 1.02 * default


def test_a_long_sequence_is_split_over_idle_cores_and_many_short_ones_are_not() -> None:
    lone, many = (decode_attention.Problem(32, 8, 128, "bf16", lengths) for lengths in ((16384,), (512,) * 64))
    knobs = [KERNELS["decode-attention"].suggested(problem, H100) for problem in (lone, many)]
    assert 0 < knobs[0].split_tokens < 16384
    assert knobs[1].split_tokens == 0


def test_without_a_shared_cache_tiles_may_be_larger() -> None:
    problem = prefill_attention.Problem(32, 8, 128, "bf16", (4096,))
    rows = [{choice.knobs.tile_q for choice in attention.prefill(problem, machine)} for machine in (H100, TPU)]
    assert max(rows[0]) == max(attention.ROWS) < max(rows[1])


def test_a_page_takes_a_descriptor_of_an_engine_that_cannot_gather() -> None:
    problem = decode_attention.Problem(32, 8, 128, "bf16", (4096,) * 8)
    small, large = (attention.decode(problem, TPU, page_size=size)[0].estimate_fs for size in (16, 256))
    assert small > 2 * large
    gathered = [attention.decode(problem, H100, page_size=size)[0].estimate_fs for size in (16, 256)]
    assert gathered[0] == gathered[1]


@pytest.mark.parametrize("depth", [16, 32, 64])
def test_the_estimate_counts_whole_steps_of_the_matrix_unit_along_keys(depth: int) -> None:
    """A tile of 16 keys takes a unit of depth 32 as long as one of 32."""
    machine = Machine(load_machine("npu-hbm3").with_overrides({"cores.matrix.k": depth}))
    problem = mla_decode.Problem(Heads(128, 512, 64, 512, 1.0, "bf16"), 1, (65536,) * 16)
    found = {each.knobs.tile: each.estimate_fs for each in reversed(attention.latent(problem, machine))}
    assert (found[16] > 1.2 * found[64]) == (depth > 16)


@pytest.mark.parametrize(("batch", "warm"), [(2, True), (64, False)])
def test_predictions_take_schedules_by_the_same_estimates(batch: int, warm: bool) -> None:
    sizes = {"batch": batch, "kv_len": 2048, "heads_q": 32, "heads_kv": 8, "head_dim": 128}
    launch = call_of(Row({"op": "decode_attention", "dtype": "bfloat16"}, sizes), H100).launches[-1]
    problem, pages = launch.variants[0].problem, {"page_size": 64, "page_order": "contiguous"}
    choices = attention.decode(problem, H100, warm, epilogue="exposed", **pages)
    assert [(each.knobs, each.estimate_fs) for each in launch.variants] == [
        (choice.knobs, choice.estimate_fs) for choice in choices
    ]


def test_scores_are_the_pairs_of_a_query_and_a_key_that_it_sees() -> None:
    for more in ({}, {"q_len": 5}, {"window": 3}, {"bidirectional": 1}):
        problem = prefill_attention.Problem(4, 4, 64, "bf16", (7, 12), **more)
        pairs = 0
        for context, queries in zip(problem.contexts, problem.lengths, strict=True):
            query, key = np.mgrid[context - queries : context, 0:context]
            seen = np.full(query.shape, True) if problem.bidirectional else key <= query
            pairs += int((seen & (key > query - (problem.window or context))).sum())
        assert attention.scores(problem) == pairs


@pytest.mark.parametrize(("record", "width"), [("plain", 1152), ("fp8_ds_mla", 656)])
def test_bytes_of_a_token_are_those_of_its_record(record: str, width: int) -> None:
    assert attention.latent_bytes(mla_decode.Problem(LATENT, 1, (64,)), record) == width


def test_latent_tiles_are_so_long_that_queries_are_not_read_from_the_scratchpad_for_few_tokens() -> None:
    """On a B200 every tile of tokens reads 64 x 576 queries again, as long as 16 tokens are multiplied."""
    machine = Machine(load_machine("b200-sxm"))
    problem = mla_decode.Problem(Heads(128, 512, 64, 512, 0.07, "bf16"), 1, (8192,) * 128)
    assert KERNELS["mla-decode"].suggested(problem, machine).tile > 16
