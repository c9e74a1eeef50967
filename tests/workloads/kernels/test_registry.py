from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwmodel.machine import DoesNotFit, Machine, TooLarge
from hwmodel.spec import load_machine
from workloads.batch import Batch
from workloads.kernels import FAMILIES, KERNELS, quantise
from workloads.model import Experts, LatentAttention, LinearAttention, load_model

BATCH = Batch((5, 6), "test")
KERNELS_OF_ROWS = ("rms-norm", "layer-norm", "softmax", "swiglu", "residual-add", "elementwise")


@pytest.mark.parametrize("name", KERNELS)
def test_every_size_of_a_kernel_has_a_meaning_and_nothing_else_has(name: str) -> None:
    kernel = KERNELS[name]
    assert kernel.sizes.keys() >= {*kernel.options, *kernel.optional}
    for size, meaning in kernel.sizes.items():
        assert re.fullmatch(r"\w.{2,90}[^.\s]", meaning), (size, meaning)
        assert size in (*kernel.options, *kernel.optional)


def test_the_least_of_a_size_is_0_where_that_is_its_default_and_choices_are_names() -> None:
    least = KERNELS["decode-attention"].least_sizes
    assert (least["q_len"], least["window"], least["kv_fp8"], least["layer"]) == (1, 0, 0, 0)
    assert KERNELS["elementwise"].least_sizes["operation"] == "add"
    assert KERNELS["gemm"].least_sizes == {"m": 1, "n": 1, "k": 1}


def test_every_kernel_of_a_family_is_listed_once_in_its_order() -> None:
    assert list(KERNELS) == [kernel.name for family in FAMILIES.values() for kernel in family]


WIDE = {"rows": 64, "columns": 8192, "inter": 8192, "m": 4096, "k": 8192}


@pytest.mark.parametrize("machine", ["mi300x", "t4"])
@pytest.mark.parametrize("name", [*KERNELS_OF_ROWS, "quantise", "quantise-tensor", "quantise-static", "absmax"])
def test_knobs_that_are_suggested_fit_a_scratchpad_of_64_kib(name: str, machine: str) -> None:
    kernel, on = KERNELS[name], Machine(load_machine(machine))
    sizes = {size: WIDE[size] for size in (*kernel.options, *kernel.optional) if size in WIDE}
    problem = kernel.shape(None, None, sizes)
    assert kernel.compile(problem, kernel.suggested(problem, on), on, 0).phases
    if name in KERNELS_OF_ROWS:
        with pytest.raises(DoesNotFit):
            kernel.compile(problem, kernel.Knobs(), on, 0)


def test_knobs_are_looked_for_past_those_that_are_refused_but_not_where_memory_is_too_small() -> None:
    tried: list[int] = []

    def compile(problem: str, knobs: quantise.Knobs, on: Machine, seed: int) -> Any:
        tried.append(knobs.tile_m)
        if problem == "large" or knobs.tile_m < 3:
            raise TooLarge("so many bytes") if problem == "large" else ValueError("refused")

    sizes = [quantise.Knobs(tile_m=size) for size in (1, 2, 3, 4)]
    kernel = replace(KERNELS["quantise"], compile=compile, candidates=lambda problem, on: iter(sizes))
    machine = Machine(load_machine("npu-hbm3"))
    assert (kernel.suggested("small", machine).tile_m, tried) == (3, [1, 2, 3])
    tried.clear()
    assert (kernel.suggested("large", machine).tile_m, tried) == (1, [1, 2])
    assert kernel.suggested("small", machine, tile_k=256).tile_k == 256


def test_a_name_that_no_kernel_has_is_in_no_registry() -> None:
    assert "gem" not in KERNELS
    with pytest.raises(KeyError):
        KERNELS["gem"]


@pytest.fixture(scope="module")
def models(data_dir: Path) -> Path:
    return data_dir / "models"


@pytest.mark.parametrize("kernel", ["mla-decode", "mla-prefill", "sparse-attention"])
def test_latent_attention_takes_its_sizes_from_a_model(models: Path, kernel: str) -> None:
    model = load_model(str(models / "deepseek-ai--DeepSeek-V3.2.json"))
    latent = model.layers[0].attention
    assert isinstance(latent, LatentAttention)
    assert latent.indexer is not None
    sizes = {"heads": latent.heads, "rank": latent.kv_rank, "rope": latent.rope_dim, "nope": latent.nope_dim}
    own = {"mla-prefill": {"value": latent.v_dim}, "sparse-attention": {"top_k": latent.indexer.top_k}}
    shape = KERNELS[kernel].shape
    assert shape(model, BATCH, {}) == shape(None, BATCH, sizes | own.get(kernel, {}))
    assert shape(model, BATCH, {"heads": 3}) == shape(None, BATCH, sizes | own.get(kernel, {}) | {"heads": 3})


def test_an_indexer_takes_its_sizes_from_a_model(models: Path) -> None:
    model = load_model(str(models / "deepseek-ai--DeepSeek-V3.2.json"))
    problem = KERNELS["indexer"].shape(model, BATCH, {"top_k": 7})
    assert (problem.heads, problem.dim, problem.top_k) == (64, 128, 7)


def test_linear_attention_takes_its_sizes_from_a_model(models: Path) -> None:
    model = load_model(str(models / "Qwen--Qwen3.5-35B-A3B.json"))
    linear = next(layer.attention for layer in model.layers if isinstance(layer.attention, LinearAttention))
    for problem in (
        KERNELS["linear-decode"].shape(model, None, {"sequences": 2}),
        KERNELS["linear-prefill"].shape(model, BATCH, {}),
    ):
        found = problem.heads, problem.key_heads, problem.key_dim, problem.value_dim
        assert found == (linear.heads_v, linear.heads_k, linear.dim_k, linear.dim_v)
    assert KERNELS["linear-prefill"].shape(model, BATCH, {"key_heads": 4}).key_heads == 4


def expert_sizes(experts: Experts) -> dict[str, Mapping[str, int]]:
    """The sizes that each kernel is to take from a layer of experts."""
    routed = {"experts": experts.routed, "topk": experts.top_k}
    inner = {"hidden": experts.hidden, "inter": experts.intermediate, "shared": experts.shared_intermediate}
    return {
        "moe": routed | inner,
        "moe-route": routed,
        "moe-permute": routed | {"columns": experts.hidden},
        "moe-finalize": routed | {"columns": experts.hidden},
        "grouped-gemm": routed | {"n": 2 * experts.intermediate, "k": experts.hidden},
    }


@pytest.mark.parametrize("file", ["deepseek-ai--DeepSeek-V3.json", "mistralai--Mixtral-8x7B-v0.1.json"])
def test_experts_take_their_sizes_from_a_model_and_options_override_them(models: Path, file: str) -> None:
    model = load_model(str(models / file))
    experts = model.layers[-1].feed_forward
    assert isinstance(experts, Experts)
    for kernel, sizes in expert_sizes(experts).items():
        shape = KERNELS[kernel].shape
        assert shape(model, None, {"tokens": 9}) == shape(None, None, {"tokens": 9, **sizes})
        assert shape(model, None, {"tokens": 9, "topk": 1}) == shape(None, None, {"tokens": 9, **sizes, "topk": 1})


def test_a_model_without_the_part_of_a_kernel_gives_none_of_its_sizes() -> None:
    llama = load_model("llama-3.1-8b")
    for name, options in {"moe": {"tokens": 4}, "mla-decode": {}, "linear-decode": {"sequences": 2}}.items():
        with pytest.raises(ValueError, match=r"^options: size \w+ is missing; .*, or a model that has them$"):
            KERNELS[name].shape(llama, BATCH, options)
