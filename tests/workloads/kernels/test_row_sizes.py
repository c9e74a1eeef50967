"""From options and models to the sizes and types of the kernels that take rows in tiles."""

from __future__ import annotations

from typing import Any

import pytest

from hwmodel.assembler import block
from hwmodel.machine import Machine
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from hwmodel.vector import OPERATIONS
from workloads.batch import Batch
from workloads.kernels import (
    activation,
    elementwise,
    embedding,
    kv_append,
    norm,
    residual_add,
    rope,
    sampling,
    softmax,
)
from workloads.model import load_model

NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": 3}))


def test_an_operation_with_a_scalar_reads_one_tensor_and_names_are_checked() -> None:
    sizes_of: dict[str, Any] = {"rows": 30, "columns": 64, "operation": "pow", "other": "scalar", "dtype": "fp32"}
    problem = elementwise.shape(None, None, sizes_of)
    assert problem == elementwise.Problem(30, 64, "fp32", "pow", "scalar", 2.0)
    result = simulate(elementwise.compile(problem, elementwise.Knobs(), NPU, 0), NPU)
    assert {t.name: t.load_useful_bytes for t in result.traffic} == {"x": 30 * 256, "out": 0}
    with pytest.raises(ValueError, match=r"^options: unknown operation 'gleu'; known: gelu"):
        elementwise.shape(None, None, sizes_of | {"operation": "gleu"})
    with pytest.raises(ValueError, match=r"^options: unknown dtype 'fp64'; known: fp16"):
        norm.layer_shape(None, None, {"rows": 3, "columns": 5, "dtype": "fp64"})
    assert norm.layer_shape(load_model("llama-3.1-8b"), None, {"rows": 3}) == norm.Problem(
        3, 4096, "bf16", centred=True
    )


def test_a_norm_of_fp32_converts_nothing_and_moves_twice_the_bytes() -> None:
    moved = {}
    for dtype in ("bf16", "fp32"):
        problem = softmax.shape(None, None, {"rows": 30, "columns": 64, "dtype": dtype})
        result = simulate(softmax.compile(problem, softmax.Knobs(), NPU, 0), NPU)
        moved[dtype] = sum(t.load_useful_bytes + t.store_useful_bytes for t in result.traffic)
    assert moved == {"bf16": 2 * 30 * 128, "fp32": 2 * 30 * 256}
    fp32, bf16 = ([block(name, 4, 8, dtype) for name in ("out", "x")] for dtype in ("fp32", "bf16"))
    assert OPERATIONS["softmax"].work(fp32, 4, 8).convert == 0
    assert OPERATIONS["softmax"].work(bf16, 4, 8).convert == 32


def test_sizes_come_from_the_options_or_else_from_the_model() -> None:
    llama = load_model("llama-3.1-8b")
    assert norm.shape(llama, None, {"rows": 3}) == norm.Problem(3, 4096, "bf16")
    assert norm.shape(None, None, {"rows": 3, "columns": 5, "residual": 1}) == norm.Problem(3, 5, "bf16", True)
    assert residual_add.shape(llama, None, {"rows": 2}) == residual_add.Problem(2, 4096, "bf16")
    assert activation.shape(llama, None, {"rows": 2}) == activation.Problem(2, 14336, "bf16")
    assert softmax.shape(None, None, {"rows": 2, "columns": 7}) == softmax.Problem(2, 7, "bf16")
    assert rope.shape(llama, Batch((5, 6), "test"), {}) == rope.Problem((4, 5), 40, 128, "bf16")
    with pytest.raises(ValueError, match=r"^options: size columns is missing; kernel rms-norm needs it, or a model"):
        norm.shape(None, None, {"rows": 3})
    with pytest.raises(ValueError, match=r"^options: size residual is 2; allowed: 0 or 1"):
        norm.shape(llama, None, {"rows": 3, "residual": 2})
    with pytest.raises(ValueError, match=r"^model: kernel rope needs one"):
        rope.shape(None, None, {})
    with pytest.raises(ValueError, match=r"^batch: kernel rope needs one"):
        rope.shape(llama, None, {})
    assert embedding.shape(llama, None, {"rows": 2}) == embedding.Problem(2, 128256, 4096, "bf16")
    assert sampling.shape(llama, None, {"rows": 2, "k": 5}) == sampling.Problem(2, 128256, 5, "bf16")
    appended = kv_append.shape(llama, Batch((5, 6), "test"), {"new": 2})
    assert (appended.heads_q, appended.heads_kv, appended.head_dim, appended.positions) == (32, 8, 128, (3, 4, 4, 5))
    with pytest.raises(ValueError, match=r"^batch: a context of 5 tokens is shorter than the 6 new ones"):
        kv_append.shape(llama, Batch((5, 6), "test"), {"new": 6})
    with pytest.raises(ValueError, match=r"^options: size k is 9; allowed: at most the vocabulary \(8\)"):
        sampling.shape(None, None, {"rows": 2, "k": 9, "vocabulary": 8})
    with pytest.raises(ValueError, match=r"^tokens: number 1 is 7; allowed: 0 to 6"):
        embedding.Problem(2, 7, 4, "bf16", (0, 7))
    with pytest.raises(ValueError, match=r"^model: head_dim is 7; kernel rope needs an even one"):
        rope.compile(rope.Problem((0,), 1, 7, "bf16"), rope.Knobs(), NPU, 0)
