from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from workloads.calls import BUILDERS, Call, NotModelled, Row, call_of
from workloads.calls.call import Variant
from workloads.calls.experts import FORMATS, _routing
from workloads.calls.products import quantisation
from workloads.kernels.tuning.roof import Items, Roof

H100, A100, L40S, B200 = (Machine(load_machine(name)) for name in ("h100-sxm", "a100-sxm", "l40s", "b200-sxm"))
ATTENTION = {"batch": 4, "q_len": 1, "kv_len": 4096, "heads_q": 32, "heads_kv": 8, "head_dim": 128}
PREFILL = ATTENTION | {"q_len": 512, "kv_len": 512, "causal": 1}
LATENT = {"batch": 4, "q_len": 1, "kv_len": 4096, "heads_q": 16, "head_dim": 576}
EXPERTS = {"tokens": 64, "hidden": 2048, "inter": 768, "experts": 128, "topk": 8}
ROWS = {"rows": 512, "cols": 4096}
BF16 = {"dtype": "bfloat16", "kv_dtype": "bfloat16"}
EXAMPLES: list[tuple[str, dict[str, str], dict[str, int], list[str]]] = [
    ("gemm", BF16, {"m": 512, "n": 4096, "k": 1024}, ["gemm"]),
    ("gemm", {"dtype": "float32"}, {"m": 512, "n": 4096, "k": 1024}, ["gemm-fp32"]),
    ("gemm", {"dtype": "fp8"}, {"m": 512, "n": 4096, "k": 1024}, ["quantise", "gemm-fp8"]),
    ("gemm", {"dtype": "fp8_block"}, {"m": 512, "n": 4096, "k": 1024}, ["quantise", "gemm-w8a8-block"]),
    ("gemm", {"dtype": "sq"}, {"m": 512, "n": 4096, "k": 1024}, ["quantise", "gemm-int8"]),
    ("gemm", {"dtype": "int4_wo"}, {"m": 512, "n": 4096, "k": 1024}, ["gemm-w4a16"]),
    ("gemm", {"dtype": "int8_wo"}, {"m": 512, "n": 4096, "k": 1024}, ["gemm-w8a16"]),
    ("gemm", {"dtype": "nvfp4"}, {"m": 512, "n": 4096, "k": 1024}, ["quantise", "gemm-nvfp4"]),
    ("batched_gemm", BF16, {"m": 128, "n": 128, "k": 128, "batch": 16}, ["batched-gemm"]),
    ("decode_attention", BF16, ATTENTION, ["kv-append", "decode-attention"]),
    ("decode_attention", BF16 | {"kv_dtype": "fp8"}, ATTENTION, ["kv-append", "decode-attention"]),
    ("flash_prefill", BF16, PREFILL, ["kv-append", "prefill-attention"]),
    ("flash_prefill", BF16, PREFILL | {"causal": 0}, ["prefill-attention"]),
    ("flash_prefill", {"dtype": "fp8", "kv_dtype": "fp8"}, PREFILL, ["kv-append", "prefill-attention"]),
    ("mla_decode", BF16, LATENT, ["kv-append", "mla-decode"]),
    ("mla_prefill", BF16, LATENT | {"q_len": 64, "kv_len": 64}, ["kv-append", "mla-decode"]),
    ("mla_prefill", BF16, PREFILL | {"head_dim": 192, "head_dim_v": 128}, ["kv-append", "prefill-attention"]),
    ("moe_grouped_gemm", BF16, EXPERTS, ["moe"]),
    ("moe_grouped_gemm", {"dtype": "fp8_block", "distribution": "power_law_1.2"}, EXPERTS, ["moe"]),
    ("grouped_gemm", {"dtype": "fp8_block"}, {"m": 128, "n": 512, "k": 512, "experts": 4}, ["grouped-gemm"]),
    ("rmsnorm", BF16, ROWS, ["rms-norm"]),
    ("layernorm", BF16, ROWS, ["layer-norm"]),
    ("softmax", {"dtype": "float32"}, ROWS, ["softmax"]),
    ("add", BF16, ROWS, ["residual-add"]),
    ("silu_mul", BF16, ROWS, ["swiglu"]),
    ("elementwise", BF16 | {"kernel": "gelu"}, ROWS, ["elementwise"]),
    ("fp8_quantize", {"dtype": "fp8"}, ROWS, ["quantise-static"]),
    ("fp8_absmax", {"dtype": "fp8"}, ROWS, ["absmax"]),
]


def row(op: str, names: dict[str, str], sizes: dict[str, int]) -> Row:
    return Row({"op": op} | names, sizes)


@pytest.mark.parametrize(("op", "names", "sizes", "kernels"), EXAMPLES, ids=lambda value: str(value)[:40])
def test_a_row_is_a_list_of_launches_of_which_some_schedule_fits(
    op: str, names: dict[str, str], sizes: dict[str, int], kernels: list[str]
) -> None:
    call = call_of(row(op, names, sizes), H100)
    assert [launch.variants[0].kernel for launch in call.launches] == kernels
    for launch in call.launches:
        (variant, program), *_ = launch.fitting(H100, 1)
        assert program.phases
        assert variant.kernel in kernels


SMALL = [
    ("gemm", {"dtype": "fp8"}, {"m": 320, "n": 1280, "k": 8192}),
    ("gemm", {"dtype": "sq"}, {"m": 4096, "n": 512, "k": 16384}),
    ("gemm", {"dtype": "nvfp4"}, {"m": 8192, "n": 512, "k": 640}),
    *((op, BF16, {"rows": 64, "cols": 8192}) for op in ("rmsnorm", "layernorm", "softmax", "add", "silu_mul")),
    *((op, {"dtype": "float32"}, {"rows": 64, "cols": 65536}) for op in ("rmsnorm", "layernorm", "softmax")),
    *((op, {"dtype": "bfloat16"}, {"rows": 64, "cols": 65536}) for op in ("fp8_quantize", "fp8_absmax", "add")),
    ("elementwise", BF16 | {"kernel": "mul"}, {"rows": 64, "cols": 65536}),
]


@pytest.mark.parametrize("name", ["mi300x", "mi100", "t4"])
@pytest.mark.parametrize(("op", "names", "sizes"), SMALL, ids=lambda value: str(value)[:40])
def test_every_launch_has_a_schedule_where_scratchpads_have_64_kib(
    name: str, op: str, names: dict[str, str], sizes: dict[str, int]
) -> None:
    machine = Machine(load_machine(name))
    for launch in call_of(row(op, names, sizes), machine).launches:
        assert launch.fitting(machine, 1)


def test_the_less_room_a_scratchpad_has_the_less_of_activations_is_in_flight_as_they_are_quantised() -> None:
    in_flight = []
    for capacity in ("8 KiB", "16 KiB", "48 KiB", "64 KiB", "227 KiB"):
        machine = Machine(load_machine("h100-sxm").with_overrides({"cores.sram.capacity": capacity}))
        ((variant, _),) = quantisation(4096, 8192, machine).fitting(machine, 1)
        in_flight.append(variant.knobs.tile_m * variant.knobs.stages)
    assert in_flight == sorted(set(in_flight))


def test_every_operator_that_has_a_call_is_in_an_example() -> None:
    assert {op for op, *_ in EXAMPLES} == set(BUILDERS)


@pytest.mark.parametrize(
    ("names", "sizes", "reason"),
    [
        ({"op": "allreduce"}, {}, "allreduce: exchange between devices is not modelled"),
        ({"op": "gem"}, {}, "op 'gem' has no call; known: gemm"),
        ({}, {}, "op '' has no call"),
        ({"op": "gemm", "dtype": "bfloat16"}, {"m": 4, "n": 4}, "gemm: k is missing"),
        ({"op": "gemm", "dtype": "bfloat16"}, {"m": 4, "n": 4, "k": 0}, "gemm: k is 0; allowed: 1 to"),
        ({"op": "gemm", "dtype": "int2"}, {"m": 4, "n": 4, "k": 4}, "gemm: dtype 'int2' has no kernel"),
        ({"op": "flash_prefill"} | BF16, PREFILL | {"kv_len": 4}, "flash_prefill: q_len 512 is more than kv_len 4"),
        ({"op": "decode_attention"} | BF16 | {"kv_dtype": "int4"}, ATTENTION, "kv_dtype 'int4' has no kernel"),
        ({"op": "decode_attention", "dtype": "fp4"}, ATTENTION, "dtype 'fp4' has no kernel; known: fp8, fp16, bf16"),
        ({"op": "decode_attention", "dtype": "fp32"}, ATTENTION, "dtype 'fp32' has no kernel; known: "),
        ({"op": "moe_grouped_gemm"} | BF16, EXPERTS | {"topk": 200}, "topk 200 is more than the 128 experts"),
        ({"op": "moe_grouped_gemm"} | BF16, EXPERTS | {"moe_tp": 7}, "inter 768 is not divided by moe_tp 7"),
        (
            {"op": "moe_grouped_gemm", "distribution": "power_law_x"} | BF16,
            EXPERTS,
            "distribution 'power_law_x' is unknown",
        ),
        (
            {"op": "decode_attention"} | BF16,
            ATTENTION | {"heads_q": 4},
            "heads_q 4 is no multiple of heads_kv 8",
        ),
        (
            {"op": "decode_attention"} | BF16,
            ATTENTION | {"batch": 1 << 24},
            "tokens times KV heads are 549755813888; allowed: up to",
        ),
        ({"op": "mla_decode"} | BF16, LATENT | {"q_len": -3}, "mla_decode: q_len is -3; allowed: 1 to"),
        ({"op": "moe_grouped_gemm"} | BF16, EXPERTS | {"moe_tp": -2}, "moe_tp is -2; allowed: 1 to"),
        ({"op": "moe_grouped_gemm"} | BF16, EXPERTS | {"gated": 0}, "gated is 0; allowed: 1"),
        ({"op": "decode_attention"} | BF16, ATTENTION | {"window": -5}, "window is -5; allowed: from 0"),
        ({"op": "flash_prefill"} | BF16, PREFILL | {"batch": 1 << 23}, "tokens are 4294967296; allowed: up to"),
        ({"op": "gemm"} | BF16, {"m": 1 << 20, "n": 1 << 20, "k": 4}, "elements of the result are 1099511627776"),
        ({"op": "moe_grouped_gemm"} | BF16, EXPERTS | {"tokens": 1 << 24}, "tokens times experts are 2147483648"),
        ({"op": "elementwise", "kernel": "sin"} | BF16, ROWS, "kernel 'sin' is no known function"),
        ({"op": "fp8_absmax", "kernel": "a_minus_b"}, ROWS, "difference of two measured kernels"),
    ],
)
def test_a_row_without_a_call_says_why(names: dict[str, str], sizes: dict[str, int], reason: str) -> None:
    with pytest.raises(NotModelled) as refused:
        call_of(Row(names, sizes), H100)
    assert reason in str(refused.value)


def test_types_may_be_spelt_as_in_this_project_and_a_missing_one_is_said_to_be_missing() -> None:
    sizes = {"m": 64, "n": 64, "k": 64}
    machine = Machine(load_machine("h100-sxm"))
    calls = [call_of(row("gemm", {"dtype": dtype}, sizes), machine) for dtype in ("bf16", "bfloat16")]
    assert calls[0] == calls[1]
    with pytest.raises(NotModelled, match=r"gemm: dtype is missing; known: bf16, .*nvfp4"):
        call_of(row("gemm", {}, sizes), machine)


def test_values_are_as_long_as_the_row_or_the_models_of_such_keys_say() -> None:
    for op, sizes in (("decode_attention", ATTENTION), ("flash_prefill", PREFILL)):
        for given, expected in ({"head_dim": 192}, 128), ({"head_dim": 192, "head_dim_v": 192}, 192), ({}, 128):
            append, main = call_of(row(op, BF16, sizes | given), H100).launches
            problem = main.variants[0].problem
            assert problem.dim_v == expected
            assert append.variants[0].problem.head_dim == (problem.head_dim + expected) // 2
    short, long = (
        call_of(row("decode_attention", BF16, ATTENTION | {"head_dim": 192, "head_dim_v": dim}), H100).launches[1]
        for dim in (128, 192)
    )
    assert (6 * short.moved_bytes, 6 * short.macs) == (5 * long.moved_bytes, 5 * long.macs)


@pytest.mark.parametrize(("op", "sizes"), [("decode_attention", ATTENTION), ("flash_prefill", PREFILL)])
def test_a_cache_whose_type_is_left_out_has_that_of_the_queries(op: str, sizes: dict[str, int]) -> None:
    def called(dtype: str, **cache: str) -> Call:
        return call_of(row(op, {"dtype": dtype} | cache, sizes), H100)

    assert called("fp8") == called("fp8", kv_dtype="fp8") != called("bf16")
    assert called("bf16") == called("bf16", kv_dtype="bf16") == called("bf16", kv_dtype="bfloat16")


def test_the_least_a_launch_must_move_and_multiply_is_that_of_its_shape() -> None:
    (gemm,) = call_of(row("gemm", BF16, {"m": 512, "n": 4096, "k": 1024}), H100).launches
    assert gemm.macs == 512 * 4096 * 1024
    assert gemm.moved_bytes == 2 * (512 * 1024 + 4096 * 1024)  # results may stay in the shared cache
    assert H100.spec.shared_cache is not None
    (wide,) = call_of(row("gemm", BF16, {"m": 8192, "n": 8192, "k": 64}), H100).launches
    assert wide.moved_bytes == 2 * (2 * 8192 * 64 + 8192 * 8192) - H100.spec.shared_cache.distinct_bytes
    _, decode = call_of(row("decode_attention", BF16, ATTENTION), H100).launches
    assert decode.moved_bytes == 4 * 8 * 4096 * 2 * 128 * 2
    assert decode.macs == 4 * 32 * 4096 * 2 * 128
    (encoder,) = call_of(row("flash_prefill", BF16, PREFILL | {"causal": 0}), H100).launches
    assert encoder.macs == 4 * 32 * 512 * 512 * 2 * 128
    causal = call_of(row("flash_prefill", BF16, PREFILL), H100).launches[1]
    assert causal.macs == 4 * 32 * (512 * 513 // 2) * 2 * 128


def test_schedules_come_by_their_estimates_the_best_of_each_family_first() -> None:
    (launch,) = call_of(row("gemm", BF16, {"m": 16, "n": 1024, "k": 16384}), H100).launches
    costs = [variant.estimate_fs for variant in launch.variants]
    assert costs == sorted(costs)
    found = [variant for variant, _ in launch.fitting(H100, 2)]
    assert {variant.family for variant in found} == {"whole", "split"}


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(
    ("op", "sizes"), [("moe_grouped_gemm", EXPERTS), ("grouped_gemm", {"m": 128, "n": 512, "k": 512, "experts": 4})]
)
def test_schedules_of_experts_have_tiles_as_deep_as_a_line(dtype: str, op: str, sizes: dict[str, int]) -> None:
    (launch,) = call_of(row(op, {"dtype": dtype}, sizes), B200).launches
    form = launch.variants[0].problem.form
    assert {variant.knobs.tile_k for variant in launch.variants} == {form.line(B200)}


def test_a_schedule_that_does_not_fit_is_passed_over_and_none_at_all_is_an_error() -> None:
    (launch,) = call_of(row("gemm", BF16, {"m": 512, "n": 4096, "k": 1024}), H100).launches
    best = launch.variants[0]
    huge = Variant(best.kernel, best.problem, replace(best.knobs, stages=1000), 0.0)
    (variant, _), *_ = replace(launch, variants=(huge, best)).fitting(H100, 1)
    assert variant is best
    with pytest.raises(NotModelled, match=r"^gemm: no schedule fits h100-sxm: phase multiply needs \d+ B"):
        replace(launch, variants=(huge,)).fitting(H100, 1)


def test_parts_without_fp8_widen_an_fp8_cache() -> None:
    names = BF16 | {"kv_dtype": "fp8"}
    of_a100, of_l40s = (
        call_of(row("decode_attention", names, ATTENTION), machine).launches[1] for machine in (A100, L40S)
    )
    assert {variant.knobs.products for variant in of_a100.variants} == {"16-bit"}
    assert {variant.knobs.products for variant in of_l40s.variants} == {"fp8"}


def test_balanced_routing_deals_tokens_alike_and_a_power_law_does_not() -> None:
    even = _routing(Row({"op": "x", "distribution": "balanced"}, {}), 96, 32, 4).counts
    assert set(even.tolist()) == {12}
    skewed = _routing(Row({"op": "x", "distribution": "power_law_1.2"}, {}), 96, 32, 4).counts
    assert skewed.sum() == 96 * 4
    assert np.ptp(skewed) > 12


@pytest.mark.parametrize("change", [{"macs": 10**9}, {"tile_bytes": 10**9}, {"vector_ops": 10**9}, {"loads": 10**5}])
def test_an_estimate_grows_with_what_a_tile_asks_of_a_unit(change: dict[str, Any]) -> None:
    items = Items(100, 10, 1000, "bf16", 1000, 10**6, 4)
    roof = Roof(H100)
    assert roof.phase_fs(replace(items, **change)) > 2 * roof.phase_fs(items)
