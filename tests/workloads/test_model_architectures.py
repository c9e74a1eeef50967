"""What the fields of each architecture make of the layers, and how wrong ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workloads.model import (
    CompressedAttention,
    Dense,
    Experts,
    LatentAttention,
    Model,
    Quantisation,
    SoftmaxAttention,
    load_model,
)

BASE: dict[str, Any] = {
    "num_hidden_layers": 6,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 100,
    "torch_dtype": "bfloat16",
}
MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL = {"num_local_experts": 8, "num_experts_per_tok": 2}


def read(folder: Path, architecture: str, **changes: Any) -> Model:
    path = folder / "model.json"
    path.write_text(json.dumps(BASE | {"architectures": [architecture]} | changes), encoding="utf-8")
    return load_model(path)


def published(data_dir: Path, stem: str) -> dict[str, Any]:
    (path,) = (data_dir / "models").glob(f"*--{stem}.json")
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return raw.get("text_config", {}) | {key: value for key, value in raw.items() if key != "text_config"}


def windows(model: Model) -> list[int | None]:
    attentions = [layer.attention for layer in model.layers]
    return [a.window if isinstance(a, SoftmaxAttention) else None for a in attentions]


def has_experts(model: Model) -> list[int]:
    return [int(isinstance(layer.feed_forward, Experts)) for layer in model.layers]


def test_a_mistral_without_a_window_means_4096_and_null_none(tmp_path: Path) -> None:
    assert windows(read(tmp_path, "MistralForCausalLM")) == [4096] * 6
    assert windows(read(tmp_path, "MistralForCausalLM", sliding_window=None)) == [None] * 6
    assert windows(read(tmp_path, "MixtralForCausalLM", **LOCAL)) == [None] * 6
    model = read(tmp_path, "MixtralForCausalLM", sliding_window=7, **LOCAL)
    assert windows(model) == [7] * 6
    assert (model.kv_bytes_per_token, model.window_bytes) == (0, 6 * 7 * 2 * 2 * 16 * 2)
    assert model.kv_bytes(5) * 7 == model.kv_bytes(7) * 5 == model.kv_bytes(700) * 5


@pytest.mark.parametrize("architecture", ["Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_a_qwen_has_windows_only_where_it_uses_them(tmp_path: Path, architecture: str) -> None:
    assert windows(read(tmp_path, architecture, sliding_window=9, max_window_layers=4)) == [None] * 6
    used = {"sliding_window": 9, "max_window_layers": 4, "use_sliding_window": True}
    assert windows(read(tmp_path, architecture, **used)) == [None] * 4 + [9] * 2
    kinds = ["sliding_attention", "full_attention"] * 3
    assert windows(read(tmp_path, architecture, layer_types=kinds, **used)) == [9, None] * 3


def test_biases_are_where_the_architecture_has_them(tmp_path: Path) -> None:
    def biases(architecture: str, **changes: Any) -> tuple[bool, bool]:
        (group,) = read(tmp_path, architecture, **changes).groups
        assert isinstance(group.layer.attention, SoftmaxAttention)
        return group.layer.attention.bias_qkv, group.layer.attention.bias_out

    assert biases("LlamaForCausalLM") == (False, False)
    assert biases("LlamaForCausalLM", attention_bias=True) == (True, True)
    assert biases("Qwen2ForCausalLM") == (True, False)
    plain = read(tmp_path, "LlamaForCausalLM")
    assert read(tmp_path, "LlamaForCausalLM", mlp_bias=True).parameters - plain.parameters == 6 * (2 * 96 + 64)


def test_a_qwen3_moe_has_experts_at_every_step_but_where_it_says(tmp_path: Path) -> None:
    def layout(**changes: Any) -> list[int]:
        return has_experts(read(tmp_path, "Qwen3MoeForCausalLM", **MOE, **changes))

    assert layout() == [1] * 6
    assert layout(decoder_sparse_step=2) == [0, 1] * 3
    assert layout(decoder_sparse_step=3, mlp_only_layers=[2]) == [0, 0, 0, 0, 0, 1]


def test_deepseek_has_experts_after_its_dense_layers(tmp_path: Path, data_dir: Path) -> None:
    fields = published(data_dir, "DeepSeek-V3") | {"num_hidden_layers": 6}
    assert has_experts(read(tmp_path, "", **fields)) == [0, 0, 0, 1, 1, 1]
    assert has_experts(read(tmp_path, "", **fields | {"moe_layer_freq": 2})) == [0, 0, 0, 0, 1, 0]
    assert has_experts(read(tmp_path, "", **fields | {"first_k_dense_replace": 0})) == [1] * 6
    silent = {key: value for key, value in fields.items() if key not in ("first_k_dense_replace", "n_shared_experts")}
    assert read(tmp_path, "", **silent) == read(tmp_path, "", **fields)  # 3 and 1 in its configuration class
    model = read(tmp_path, "", **fields | {"n_shared_experts": 3})
    assert model.groups[1].layer.feed_forward.parameters > 0
    routed = model.layers[5].feed_forward
    assert isinstance(routed, Experts)
    assert (routed.shared_intermediate, routed.router_bias) == (3 * 2048, True)
    no_bias = read(tmp_path, "", **fields | {"topk_method": "greedy"}).layers[5].feed_forward
    assert isinstance(no_bias, Experts)
    assert not no_bias.router_bias


def test_deepseek_v32_has_an_indexer_whose_keys_are_cached(data_dir: Path) -> None:
    v3 = load_model(data_dir / "models" / "deepseek-ai--DeepSeek-V3.json")
    v32 = load_model(data_dir / "models" / "deepseek-ai--DeepSeek-V3.2.json")
    attention = v32.layers[0].attention
    assert isinstance(attention, LatentAttention)
    assert attention.indexer is not None
    assert (attention.indexer.heads, attention.indexer.head_dim, attention.indexer.top_k) == (64, 128, 2048)
    assert v32.kv_bytes_per_token - v3.kv_bytes_per_token == 61 * 128 * 2


def test_deepseek_v4_compresses_by_the_ratio_of_each_layer(data_dir: Path) -> None:
    model = load_model(data_dir / "models" / "deepseek-ai--DeepSeek-V4-Flash.json")
    kinds = [layer.attention.kind for layer in model.layers]
    sparse, heavy = "compressed_sparse_attention", "heavily_compressed_attention"
    assert kinds[:5] == ["sliding_shared_kv_attention"] * 2 + [sparse, heavy, sparse]
    assert (kinds.count(sparse), kinds.count(heavy)) == (21, 20)
    assert [layer.feed_forward.kind for layer in model.layers[:4]] == ["hash_experts"] * 3 + ["experts"]
    assert model.kv_bytes_per_token == 2 * (21 * (512 // 4 + 128 // 4) + 20 * 512 // 128)
    assert model.window_bytes == 43 * 128 * 512 * 2
    # inference/model.py of deepseek-ai/DeepSeek-V4-Flash: kv_state and score_state of every compressor, in fp32
    overlapping = (2 * 4) * (2 * 512) + (2 * 4) * (2 * 128)
    assert model.state_bytes == 2 * 4 * (21 * overlapping + 20 * 128 * 512)
    assert len(model.mtp) == 1
    assert isinstance(model.mtp[0].attention, CompressedAttention)
    assert model.mtp[0].attention.compressor is None
    assert model.quantisation == Quantisation("fp8_e4m3", (128, 128), "e8m0", "fp4_e2m1")


def test_gpt_oss_alternates_windows_unless_its_file_says_otherwise(tmp_path: Path) -> None:
    assert windows(read(tmp_path, "GptOssForCausalLM", **LOCAL)) == [128, None] * 3
    kinds = ["full_attention"] * 5 + ["sliding_attention"]
    assert windows(read(tmp_path, "GptOssForCausalLM", layer_types=kinds, **LOCAL)) == [None] * 5 + [128]


def test_mimo_has_heads_of_their_own_in_windows(data_dir: Path) -> None:
    model = load_model(data_dir / "models" / "XiaomiMiMo--MiMo-V2-Flash.json")
    full, sliding = model.layers[0].attention, model.layers[1].attention
    assert isinstance(full, SoftmaxAttention)
    assert isinstance(sliding, SoftmaxAttention)
    assert (full.heads_kv, full.head_dim_qk, full.head_dim_v, full.window, full.sinks) == (4, 192, 128, None, False)
    assert (sliding.heads_kv, sliding.window, sliding.sinks) == (8, 128, True)
    assert windows(model).count(None) == 9
    assert has_experts(model) == [0] + [1] * 47
    assert model.kv_bytes_per_token == 9 * 4 * (192 + 128) * 2


def test_llama_4_sees_chunks_where_it_has_positions(tmp_path: Path) -> None:
    extra = LOCAL | {"intermediate_size_mlp": 128, "attention_chunk_size": 32}
    model = read(tmp_path, "Llama4ForCausalLM", **extra)
    assert windows(model) == [32, 32, 32, None, 32, 32]
    assert has_experts(model) == [1] * 6
    assert windows(read(tmp_path, "Llama4ForCausalLM", no_rope_layers=[1, 0] * 3, **extra)) == [32, None] * 3
    assert windows(read(tmp_path, "Llama4ForCausalLM", no_rope_layers=[], **extra)) == windows(model)
    assert has_experts(read(tmp_path, "Llama4ForCausalLM", interleave_moe_layer_step=3, **extra)) == [0, 0, 1, 0, 0, 1]
    silent = LOCAL | {"intermediate_size_mlp": 128}
    assert windows(read(tmp_path, "Llama4ForCausalLM", **silent)) == [8192, 8192, 8192, None, 8192, 8192]
    assert windows(read(tmp_path, "Llama4ForCausalLM", attention_chunk_size=None, **silent)) == [None] * 6
    model = read(tmp_path, "Llama4ForCausalLM", moe_layers=[4], **extra)
    assert has_experts(model) == [0, 0, 0, 0, 1, 0]
    assert model.layers[0].feed_forward == Dense(64, 128)
    routed = model.layers[4].feed_forward
    assert isinstance(routed, Experts)
    assert (routed.intermediate, routed.shared_intermediate) == (96, 96)


def test_gemma_4_has_wider_heads_and_one_projection_in_full_layers(data_dir: Path, tmp_path: Path) -> None:
    model = load_model(data_dir / "models" / "google--gemma-4-26B-A4B.json")
    sliding, full = model.layers[0].attention, model.layers[29].attention
    assert isinstance(sliding, SoftmaxAttention)
    assert isinstance(full, SoftmaxAttention)
    assert (sliding.heads_kv, sliding.head_dim_qk, sliding.window, sliding.shared_kv) == (8, 256, 1024, False)
    assert (full.heads_kv, full.head_dim_qk, full.window, full.shared_kv) == (2, 512, None, True)
    assert full.kv_elements_per_token == 2 * (512 + 512)  # keys are rotated and normed, so both are cached
    assert model.tied_embeddings
    dense = read(tmp_path, "Gemma4ForCausalLM", hidden_size_per_layer_input=0)
    assert has_experts(dense) == [0] * 6
    assert windows(dense) == [512] * 5 + [None]
    assert dense.layers[0].norms == 4
    assert dense.tied_embeddings


def test_qwen_hybrids_have_full_attention_at_an_interval(tmp_path: Path) -> None:
    delta = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8}
    delta |= {"linear_value_head_dim": 8, "shared_expert_intermediate_size": 16}
    model = read(tmp_path, "Qwen3NextForCausalLM", full_attention_interval=3, **MOE, **delta)
    assert [layer.attention.kind for layer in model.layers] == ["linear_attention"] * 2 + ["full_attention"] + [
        "linear_attention"
    ] * 2 + ["full_attention"]
    kinds = ["full_attention"] + ["linear_attention"] * 5
    named = read(tmp_path, "Qwen3NextForCausalLM", layer_types=kinds, **MOE, **delta)
    assert [layer.attention.kind for layer in named.layers] == kinds
    assert named.state_bytes == 5 * (4 * 8 * 8 * 4 + (2 * 16 + 32) * 3 * 2)
    dense = read(tmp_path, "Qwen3_5ForConditionalGeneration", **delta)
    assert has_experts(dense) == [0] * 6


REQUIRED_EVERYWHERE = {"architectures", "num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"}
LATENT = {"kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "intermediate_size"}
ROUTED = {"n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"}
INDEXED = {"q_lora_rank", "index_n_heads", "index_head_dim", "index_topk"}
REQUIRED = {
    "Qwen3-8B": {"num_key_value_heads", "intermediate_size", "torch_dtype"},
    "Mixtral-8x7B-v0.1": {"num_key_value_heads", "intermediate_size", "torch_dtype", *LOCAL},
    "Qwen3-30B-A3B": {"num_key_value_heads", "torch_dtype", *MOE},
    "MiniMax-M2.5": {"num_key_value_heads", "intermediate_size", *LOCAL},
    "DeepSeek-V3": LATENT | ROUTED,
    "DeepSeek-V3.2": LATENT | ROUTED | INDEXED,
    "DeepSeek-V4-Flash": ROUTED
    | INDEXED
    | {"head_dim", "qk_rope_head_dim", "o_groups", "o_lora_rank", "sliding_window", "compress_ratios"},
    "gpt-oss-20b": {"num_key_value_heads", "intermediate_size", *LOCAL},
    "MiMo-V2-Flash": ROUTED
    | {"num_key_value_heads", "head_dim", "v_head_dim", "intermediate_size", "sliding_window"}
    | {"swa_num_attention_heads", "swa_num_key_value_heads", "swa_head_dim", "swa_v_head_dim"}
    | {"hybrid_layer_pattern", "moe_layer_freq"},
    "Llama-4-Scout-17B-16E-Instruct": {"num_key_value_heads", "intermediate_size", "intermediate_size_mlp", *LOCAL}
    | {"torch_dtype"},
    "gemma-4-26B-A4B": {"num_key_value_heads", "intermediate_size", "moe_intermediate_size", "num_experts", "dtype"}
    | {"top_k_experts"},
    "Qwen3.5-35B-A3B": {"num_key_value_heads", "dtype", *MOE}
    | {"linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim"},
}


@pytest.mark.parametrize("stem", REQUIRED)
def test_a_missing_field_that_decides_sizes_is_named(tmp_path: Path, data_dir: Path, stem: str) -> None:
    fields, path, missing = published(data_dir, stem), tmp_path / "model.json", set()
    for key in fields:
        path.write_text(json.dumps({name: value for name, value in fields.items() if name != key}), encoding="utf-8")
        try:
            load_model(path)
        except ValueError as error:
            if str(error) == f"{path}: {key} is missing" or (key == "dtype" and "torch_dtype is missing" in str(error)):
                missing.add(key)
    assert missing == REQUIRED_EVERYWHERE | REQUIRED[stem]


@pytest.mark.parametrize(
    ("stem", "changes", "message"),
    [
        ("DeepSeek-V3", {"attention_bias": True}, "attention_bias is True; allowed: false"),
        ("DeepSeek-V3", {"topk_method": "best"}, "topk_method is 'best'; allowed: "),
        ("DeepSeek-V3", {"num_experts_per_tok": 300}, r"num_experts_per_tok is 300; allowed: at most n_routed_experts"),
        ("DeepSeek-V3", {"num_nextn_predict_layers": -1}, "num_nextn_predict_layers is -1; allowed: an integer from 0"),
        ("DeepSeek-V3.2", {"q_lora_rank": None}, "q_lora_rank is None; allowed: an integer from 1"),
        (
            "DeepSeek-V4-Flash",
            {"compress_ratios": [0] * 42},
            "compress_ratios is .*; allowed: a list of 43 to 44 entries",
        ),
        ("DeepSeek-V4-Flash", {"compress_ratios": [0] * 42 + [8]}, r"compress_ratios\[42\] is 8; allowed: 0, 4, 128"),
        ("DeepSeek-V4-Flash", {"num_key_value_heads": 2}, "num_key_value_heads is 2; allowed: 1"),
        ("DeepSeek-V4-Flash", {"o_groups": 7}, r"o_groups is 7; allowed: a divisor of the heads \(64\)"),
        ("DeepSeek-V4-Flash", {"head_dim": 516}, r"compress ratio is 128; allowed: a divisor of the width \(516\)"),
        ("DeepSeek-V4-Flash", {"expert_dtype": "fp2"}, "expert_dtype is 'fp2'; allowed: "),
        ("gpt-oss-20b", {"layer_types": ["full_attention"]}, "layer_types is .*; allowed: a list of 24 entries"),
        (
            "gpt-oss-20b",
            {"layer_types": ["full"] * 24},
            r"layer_types\[0\] is 'full'; allowed: sliding_attention, full",
        ),
        ("gpt-oss-20b", {"experts_per_token": 5}, "experts_per_token is 5; allowed: 4"),
        ("MiMo-V2-Flash", {"hybrid_layer_pattern": [True] * 48}, r"hybrid_layer_pattern\[0\] is True; allowed: 0, 1"),
        ("MiMo-V2-Flash", {"sliding_window_size": 64}, "sliding_window_size is 64; allowed: 128"),
        (
            "MiMo-V2-Flash",
            {"swa_num_key_value_heads": 5},
            r"swa_num_key_value_heads is 5; allowed: a divisor of swa_num",
        ),
        ("MiniMax-M2.5", {"attn_type_list": [1] * 61 + [0]}, r"attn_type_list\[61\] is 0; allowed: 1"),
        ("MiniMax-M2.5", {"qk_norm_type": "per_head"}, "qk_norm_type is 'per_head'; allowed: per_layer"),
        ("MiniMax-M2.5", {"shared_intermediate_size": 8}, "shared_intermediate_size is 8; allowed: 0"),
        (
            "Qwen3-30B-A3B",
            {"mlp_only_layers": [48]},
            r"mlp_only_layers is \[48\]; allowed: a list of layers from 0 to 47",
        ),
        (
            "Qwen3.5-35B-A3B",
            {"linear_num_key_heads": 5},
            r"key heads are 5; allowed: a divisor of the value heads \(32\)",
        ),
        ("Qwen3.5-35B-A3B", {"mamba_ssm_dtype": "bfloat16"}, "mamba_ssm_dtype is 'bfloat16'; allowed: float32"),
        (
            "gemma-4-26B-A4B",
            {"hidden_size_per_layer_input": None},
            "is 256 .the default where the file has none.; allow",
        ),
        ("gemma-4-26B-A4B", {"num_kv_shared_layers": 18}, "num_kv_shared_layers is 18; allowed: 0"),
        ("gemma-4-26B-A4B", {"hidden_size_per_layer_input": 256}, "hidden_size_per_layer_input is 256; allowed: 0"),
        (
            "gemma-4-26B-A4B",
            {"num_global_key_value_heads": 3},
            r"num_global_key_value_heads is 3; allowed: a divisor of",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, data_dir: Path, stem: str, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "model.json"
    path.write_text(json.dumps(published(data_dir, stem) | changes), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as refusal:
        load_model(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)
