"""Which weights of a step are narrow: what quantisation blocks exclude, and what is asked for instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workloads.layers.formats import SIXTEEN, Formats, Weights, format_notes, formats_of, weights_text
from workloads.layers.modules import MODULES
from workloads.model import Model, load_model

MOE = {"qkv", "out", "gate and up", "down", "experts"}


def published(data_dir: Path, name: str) -> Model:
    return load_model(data_dir / "models" / f"{name}.json")


def quantised(tmp_path: Path, **block: Any) -> Model:
    """Llama of two layers with a quantisation block."""
    sizes = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 512, "max_position_embeddings": 64}
    path = tmp_path / "model.json"
    fields = {"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "quantization_config": block}
    path.write_text(json.dumps(sizes | fields), encoding="utf-8")
    return load_model(path)


def texts(model: Model) -> dict[str, tuple[int, ...]]:
    return {weights_text([each], MOE): layers for each, layers in formats_of(model).items()}


def test_experts_alone_are_narrow_in_gpt_oss(data_dir: Path) -> None:
    ((formats, layers),) = formats_of(published(data_dir, "openai--gpt-oss-120b")).items()
    assert layers == tuple(range(36))
    assert weights_text([formats], {"qkv", "out", "router", "experts"}) == "mxfp4 (experts); all else 16 bits"


def test_routers_and_the_head_stay_in_16_bits_whatever_is_excluded(data_dir: Path) -> None:
    for name in ("deepseek-ai--DeepSeek-V3", "MiniMaxAI--MiniMax-M2.5", "Qwen--Qwen3-235B-A22B-FP8"):
        (formats,) = formats_of(published(data_dir, name))
        assert {formats.of(title) for title in ("router", "head", "index weights", "stream logits")} == {SIXTEEN}
        assert {formats.of(title).name for title in MOE} == {"fp8-block"}


def test_routed_experts_of_deepseek_v4_are_in_4_bits_and_its_shared_expert_in_8(data_dir: Path) -> None:
    (formats,) = formats_of(published(data_dir, "deepseek-ai--DeepSeek-V4-Flash"))
    found = {title: formats.of(title).name for title in ("experts", "shared down", "kv", "entries kv and gates")}
    assert found == {
        "experts": "mxfp4",
        "shared down": "fp8-block",
        "kv": "fp8-block",
        "entries kv and gates": "16-bit",
    }


def test_layers_that_a_block_excludes_are_apart(tmp_path: Path) -> None:
    block = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    model = quantised(tmp_path, **block, modules_to_not_convert=["model.layers.1.self_attn.o_proj", "lm_head"])
    assert texts(model) == {
        "e4m3, a scale per 128 x 128 (qkv, out, gate and up, down, experts); all else 16 bits": (0,),
        "e4m3, a scale per 128 x 128 (qkv, gate and up, down, experts); all else 16 bits": (1,),
    }


@pytest.mark.parametrize(
    ("block", "name", "group"),
    [
        ({"quant_method": "fp8"}, "fp8", 0),
        ({"quant_method": "mxfp8"}, "mxfp8", 32),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}, "int4", 128),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}, "int4", 32),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
            },
            "int4",
            32,
        ),
        (
            {
                "quant_method": "modelopt",
                "quant_algo": "NVFP4",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 16}}},
            },
            "nvfp4",
            16,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
            },
            "fp8",
            0,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "group_size": 32}}},
            },
            "mxfp8",
            32,
        ),
    ],
)
def test_blocks_of_known_methods_give_a_format(block: dict[str, Any], name: str, group: int, tmp_path: Path) -> None:
    model = quantised(tmp_path, **block)
    (formats,) = formats_of(model)
    assert (formats.of("qkv").name, formats.of("qkv").group) == (name, group)
    assert model.warnings == ()
    assert format_notes(model) == ()


@pytest.mark.parametrize("weights", [None, {"num_bits": 8, "type": "float", "group_size": 128}])
def test_groups_of_modules_in_formats_that_are_not_known_are_warned_of(weights: Any, tmp_path: Path) -> None:
    model = quantised(tmp_path, quant_method="compressed-tensors", config_groups={"group_0": {"weights": weights}})
    assert list(formats_of(model)) == [Formats()]
    (warning,) = model.warnings
    assert warning == "quantization_config.config_groups are not known: stored types are passed over"


@pytest.mark.parametrize(
    ("block", "line"),
    [
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, "fp8_e4m3 with a scale per 64 x 64"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "fp8_e5m2 with a scale per a matrix"),
        ({"quant_method": "awq", "group_size": 63}, "int4 with a scale per 63"),
    ],
)
def test_stored_weights_without_a_kernel_are_read_in_16_bits_and_a_line_says_so(
    block: dict[str, Any], line: str, tmp_path: Path
) -> None:
    model = quantised(tmp_path, **block)
    assert list(formats_of(model)) == [Formats()]
    assert format_notes(model) == (f"weights: {line} has no kernel; they are read in 16 bits",)


def groups(*targets: list[str], activations: Any = None) -> dict[str, Any]:
    """A block of groups of modules in e4m3."""
    group = {"weights": {"num_bits": 8, "type": "float"}, "input_activations": activations}
    named = {f"group_{number}": group | {"targets": of} for number, of in enumerate(targets)}
    return {"quant_method": "compressed-tensors", "config_groups": named, "ignore": ["lm_head"]}


def test_only_the_targets_of_groups_are_narrow(tmp_path: Path) -> None:
    activations = {"num_bits": 8, "type": "float"}
    model = quantised(tmp_path, **groups(["re:.*mlp.*"], ["re:.*self_attn.o_proj"], activations=activations))
    assert texts(model) == {"e4m3, a scale per matrix (out, gate and up, down, experts); all else 16 bits": (0, 1)}
    model = quantised(tmp_path, **groups(["re:.*mlp.*"], ["Linear"], activations=activations))
    assert texts(model) == {"e4m3, a scale per matrix (qkv, out, gate and up, down, experts); all else 16 bits": (0, 1)}
    assert model.warnings == format_notes(model) == ()


def test_weights_without_narrow_activations_say_so(tmp_path: Path) -> None:
    model = quantised(tmp_path, **groups(["Linear"]))
    (formats,) = formats_of(model)
    assert formats.of("qkv") == Weights("fp8", 0, alone=True)
    assert formats.of("qkv").text == "e4m3, a scale per matrix, activations in 16 bits"
    ((narrow),) = formats_of(quantised(tmp_path, **groups(["Linear"], activations={"num_bits": 8})))
    assert narrow.of("qkv") == Weights("fp8")


def test_patterns_that_are_not_understood_and_targets_that_name_nothing_are_noted(tmp_path: Path) -> None:
    block = {"quant_method": "fp8", "modules_to_not_convert": ["re:(?!mlp)", "re:.*mlp.*", "re:(a+)+$"]}
    said = "weights: patterns of excluded modules are not understood and name none: 're:(?!mlp)' and 1 more"
    assert format_notes(quantised(tmp_path, **block)) == (said,)
    lost = quantised(tmp_path, **groups(["Attention"]))
    assert list(formats_of(lost)) == [Formats(*2 * [Weights("fp8", alone=True)], frozenset(MODULES))]
    assert format_notes(lost) == ("weights: targets such as 'Attention' name no module; all are read in 16 bits",)


def test_a_study_has_its_own_formats_instead_of_the_models(data_dir: Path) -> None:
    model = published(data_dir, "openai--gpt-oss-120b")
    assert list(formats_of(model, "16-bit")) == [Formats()]
    (formats,) = formats_of(model, "nvfp4", "fp8")
    assert {formats.of(title).name for title in MODULES} == {"nvfp4"}
    assert formats.cache == "fp8_e4m3"
    for wrong in ({"weights": "fp6"}, {"cache": "int8"}):
        with pytest.raises(ValueError, match=r"unknown .(fp6|int8).; known: "):
            formats_of(model, **wrong)
