from __future__ import annotations

from functools import cache

import pytest

from explorer.predict import predict
from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from workloads.calls import Row, call_of

ROWS = {"rows": 4096, "cols": 4096}
HEADS = {"heads_q": 32, "heads_kv": 8, "head_dim": 128}


@cache
def h100() -> Machine:
    return Machine(load_machine("h100-sxm"))


@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        ("gemm bfloat16", {"m": 512, "n": 1024, "k": 2048}),
        ("gemm bfloat16", {"m": 16, "n": 4096, "k": 2048}),
        ("gemm bfloat16", {"m": 2048, "n": 2048, "k": 16}),  # results stay in the cache
        ("gemm fp8", {"m": 256, "n": 2048, "k": 4096}),
        ("gemm float32", {"m": 128, "n": 1024, "k": 1024}),
        ("batched_gemm bfloat16", {"m": 512, "n": 512, "k": 64, "batch": 32}),
        ("grouped_gemm bfloat16", {"m": 64, "n": 1024, "k": 1024, "experts": 8}),
        ("moe_grouped_gemm bfloat16", {"tokens": 64, "hidden": 512, "inter": 1024, "experts": 16, "topk": 4}),
        ("decode_attention bfloat16", {"batch": 16, "kv_len": 512, **HEADS}),
        ("decode_attention fp8", {"batch": 32, "kv_len": 1024, **HEADS}),
        ("flash_prefill bfloat16", {"batch": 1, "q_len": 1024, "kv_len": 1024, **HEADS}),
        ("mla_decode bfloat16", {"batch": 16, "kv_len": 1024, "heads_q": 64}),  # warm: its products
        ("mla_decode bfloat16", {"batch": 48, "kv_len": 1024, "heads_q": 16}),  # its bytes
        ("mla_prefill bfloat16", {"batch": 1, "q_len": 1024, "kv_len": 1024, "heads_q": 16, "head_dim": 192}),
        ("rmsnorm bfloat16", ROWS),
        ("layernorm bfloat16", ROWS),
        ("softmax bfloat16", ROWS),
        ("add bfloat16", ROWS),
        ("silu_mul bfloat16", ROWS),
        ("elementwise bfloat16 gelu", ROWS),
        ("fp8_quantize fp8", ROWS),
        ("fp8_absmax fp8", ROWS | {"rows": 8192}),
    ],
)
def test_no_launch_simulated_whole_is_faster_than_its_bound_nor_three_times_slower(
    names: str, sizes: dict[str, int]
) -> None:
    op, dtype, *kernel = names.split()
    row = Row({"op": op, "dtype": dtype} | ({"kernel": kernel[0]} if kernel else {}), sizes)
    found = predict(call_of(row, h100()), h100(), fidelity="exact")
    main = max(found.runs, key=lambda run: run.time_fs)
    assert main.simulated == "whole"
    assert 1 / 3 < main.least_fs / main.time_fs <= 1
