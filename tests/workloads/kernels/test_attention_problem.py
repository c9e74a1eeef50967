"""Which types the operands of attention have, and which attention of a model a kernel takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from workloads.batch import Batch
from workloads.kernels import cascade_decode, decode_attention, prefill_attention
from workloads.kernels.attention_problem import Types, types_of
from workloads.model import load_model

A100, H100 = (Machine(load_machine(name).with_overrides({"cores.count": 3})) for name in ("a100-sxm", "h100-sxm"))


def test_a_canonical_key_knows_the_products_of_an_fp8_cache_only() -> None:
    for kernel, narrow in (
        (decode_attention, decode_attention.Problem(4, 2, 16, "bf16", (40,), kv_dtype="fp8_e4m3")),
        (prefill_attention, prefill_attention.Problem(4, 2, 16, "bf16", (40,), kv_dtype="fp8_e4m3")),
        (cascade_decode, cascade_decode.Problem(4, 2, 16, "bf16", (40,), 8, kv_dtype="fp8_e4m3")),
    ):
        for problem, ways in ((narrow, 2), (replace(narrow, kv_dtype=""), 1)):
            keys = {kernel.canonical(problem, kernel.Knobs(products=products)) for products in ("fp8", "16-bit")}
            assert len(keys) == ways


def test_types_follow_from_the_cache_the_queries_and_the_products() -> None:
    plain = decode_attention.Problem(4, 2, 16, "bf16", (9,))
    narrow = replace(plain, kv_dtype="fp8_e4m3")
    fp8 = "fp8_e4m3"
    assert types_of(plain, "fp8") == types_of(plain, "16-bit") == Types("bf16", "bf16", "bf16", "bf16")
    assert types_of(narrow, "fp8") == Types("bf16", "bf16", fp8, fp8)
    assert types_of(replace(narrow, q_fp8=1), "fp8") == Types("bf16", fp8, fp8, fp8)
    assert types_of(narrow, "16-bit") == Types("bf16", "bf16", fp8, "bf16")


@pytest.mark.parametrize("kernel", [decode_attention, prefill_attention])
def test_types_that_do_not_go_together_are_refused(kernel: Any) -> None:
    plain = kernel.Problem(4, 2, 16, "bf16", (9,))
    with pytest.raises(ValueError, match=r"^model: kv_dtype 'fp8_e5m2' is not modelled; allowed: bf16, fp8_e4m3"):
        replace(plain, kv_dtype="fp8_e5m2")
    with pytest.raises(ValueError, match=r"^options: size q_fp8 is 1; allowed where the cache is bf16: 0"):
        replace(plain, q_fp8=1)
    narrow = replace(plain, kv_dtype="fp8_e4m3")
    with pytest.raises(ValueError, match=r"^products: 16-bit; allowed where queries come quantised \(q_fp8\): fp8"):
        kernel.compile(replace(narrow, q_fp8=1), kernel.Knobs(products="16-bit"), H100, 0)
    with pytest.raises(ValueError, match=r"^products: fp8; allowed: 16-bit \(--set products=16-bit\), as a100"):
        kernel.compile(narrow, kernel.Knobs(), A100, 0)
    kernel.compile(narrow, kernel.Knobs(products="16-bit"), A100, 0)
    with pytest.raises(ValueError, match=r"^products: unknown 'fp16'; known: fp8, 16-bit"):
        kernel.compile(narrow, kernel.Knobs(products="fp16"), H100, 0)


BATCH = Batch((500, 600), "test")
SHAPES = (decode_attention.shape, prefill_attention.shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_type_of_the_cache_is_the_models_or_asked_for(shape: Any) -> None:
    model = load_model("llama-3.1-8b")
    assert shape(model, BATCH, {}).kv_dtype == shape(replace(model, kv_dtype="bf16"), BATCH, {}).kv_dtype == ""
    narrow = shape(replace(model, kv_dtype="fp8_e4m3"), BATCH, {})
    assert narrow == shape(model, BATCH, {"kv_fp8": 1})
    assert (narrow.kv_dtype, narrow.q_fp8) == ("fp8_e4m3", 0)
    assert shape(model, BATCH, {"kv_fp8": 1, "q_fp8": 1}).q_fp8 == 1
    with pytest.raises(ValueError, match=r"^model: kv_dtype 'fp32' is not modelled; allowed: bf16, fp8_e4m3"):
        shape(replace(model, kv_dtype="fp32"), BATCH, {})
    with pytest.raises(ValueError, match=r"^options: size kv_fp8 is 2; allowed: 0 or 1"):
        shape(model, BATCH, {"kv_fp8": 2})


@pytest.mark.parametrize("shape", SHAPES)
def test_of_a_model_with_windows_in_some_layers_the_window_or_the_layer_says_which(shape: Any) -> None:
    model = load_model("gpt-oss-20b")  # windows of 128 tokens in the first and every other layer, sinks in all
    by_window = {window: shape(model, BATCH, {"window": window}) for window in (0, 128)}
    by_layer = {layer: shape(model, BATCH, {"layer": layer}) for layer in (0, 1, 23)}
    assert by_layer[0] == by_window[128]
    assert by_layer[1] == by_layer[23] == by_window[0]
    assert [(p.window, p.sinks, p.heads_q, p.head_dim) for p in by_window.values()] == [
        (0, 1, 64, 64),
        (128, 1, 64, 64),
    ]
    assert shape(model, BATCH, {"layer": 0, "sinks": 0, "window": 64}) == replace(by_layer[0], sinks=0, window=64)
    message = r"^model: kernel .* needs one attention; gpt-oss-20b has a sliding window of 128 tokens, attention sinks "
    for options in ({}, {"window": 64}):
        with pytest.raises(
            ValueError, match=message + r"\(layer 0\); attention sinks \(layer 1\): size layer says which"
        ):
            shape(model, BATCH, options)
    with pytest.raises(ValueError, match=r"^options: size layer is 24; allowed: a layer of gpt-oss-20b, 0 to 23"):
        shape(model, BATCH, {"layer": 24})


@pytest.mark.parametrize("shape", SHAPES)
def test_published_models_give_their_attention_or_are_refused(shape: Any, data_dir: Path) -> None:
    def of(name: str, **options: int) -> Any:
        return shape(load_model(next((data_dir / "models").glob(f"*--{name}.json"))), BATCH, options)

    mimo = of("MiMo-V2-Flash", window=128)
    assert (mimo.head_dim, mimo.dim_v, mimo.sinks) == (192, 128, 1)
    assert (of("gemma-4-26B-A4B", layer=5).head_dim, of("gemma-4-26B-A4B", window=1024).head_dim) == (512, 256)
    assert of("Qwen3.5-35B-A3B", layer=3).heads_q == 16
    assert of("Llama-4-Scout-17B-16E-Instruct", layer=3).window == 0
    known = "knows softmax attention over all tokens or a window only; .* has"
    with pytest.raises(ValueError, match=f"{known} chunks of 8192 tokens"):
        of("Llama-4-Scout-17B-16E-Instruct", layer=0)
    with pytest.raises(ValueError, match=f"{known} latent attention"):
        of("DeepSeek-V3")
    with pytest.raises(ValueError, match=r"needs one attention; .* has linear attention \(layer 0\); attention over"):
        of("Qwen3.5-35B-A3B")


def test_a_cascade_takes_the_layers_of_a_model_that_have_no_window() -> None:
    model = load_model("gpt-oss-20b")
    assert cascade_decode.shape(model, BATCH, {"prefix": 100, "layer": 1}).sinks == 1
    with pytest.raises(ValueError, match=r"^model: kernel cascade-decode knows no windows; gpt-oss-20b has a sliding"):
        cascade_decode.shape(model, BATCH, {"prefix": 100, "layer": 0})
