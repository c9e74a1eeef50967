"""Counts of weights against published ones: exactly against stored checkpoints, within 1 % against model cards.

Checkpoints are counted by the hub from the headers of their files (`safetensors.total` of its API). Cards round;
where they give two digits, a count that rounds to the figure agrees, too.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from workloads.model import Model, load_model

LLAMA, QWEN, DEEPSEEK, OPENAI = (
    "meta-llama--Meta-Llama-3.1-",
    "Qwen--Qwen3-",
    "deepseek-ai--DeepSeek-",
    "openai--gpt-oss-",
)


def encoder(width: int, depth: int, mlp: int) -> int:
    """A vision transformer's layers: four projections and two matrices of an MLP, all with biases, two LayerNorms."""
    return depth * (4 * (width + 1) * width + (width + 1) * mlp + (mlp + 1) * width + 4 * width)


# Llama4VisionModel (patches of 3 x 14 x 14, class and 577 position embeddings, two LayerNorms) and its projections.
LLAMA4_VISION = encoder(1408, 34, 5632) + 588 * 1408 + 578 * 1408 + 4 * 1408 + (5632 + 4096 + 5120) * 4096
# Qwen3_5MoeVisionModel (patches of 3 x 2 x 16 x 16, 2304 positions) and its merger of 2 x 2 patches.
QWEN_VISION = encoder(1152, 27, 4304) + 1537 * 1152 + 2304 * 1152 + 2 * 1152 + 4609 * 4608 + 4609 * 2048


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint stores: the model, and beside it what is not in `Model.parameters`."""

    file: str
    stored: int
    mtp: bool = False
    twice: bool = False  # embedding and output head are stored with multi-token prediction again
    vision: int = 0


CHECKPOINTS = [
    Checkpoint(f"{LLAMA}8B", 8_030_261_248),
    Checkpoint(f"{LLAMA}70B", 70_553_706_496),
    Checkpoint(f"{LLAMA}405B", 405_853_388_800),
    Checkpoint("mistralai--Mixtral-8x7B-v0.1", 46_702_792_704),
    Checkpoint(f"{QWEN}8B", 8_190_735_360),
    Checkpoint(f"{QWEN}32B", 32_762_123_264),
    Checkpoint(f"{QWEN}30B-A3B", 30_532_122_624),
    Checkpoint(f"{QWEN}235B-A22B-FP8", 235_093_634_560),  # the hub's count of Qwen3-235B-A22B, without scales
    Checkpoint(f"{OPENAI}20b", 20_914_757_184),
    Checkpoint(f"{OPENAI}120b", 116_829_156_672),
    # bf16 and fp8 elements; of the 41,555,600 in fp32 the others are scales, and 256 in 59 layers router biases
    Checkpoint(f"{DEEPSEEK}V3", 3_918_786_560 + 680_571_043_840 + 59 * 256, mtp=True, twice=True),
    Checkpoint(f"{DEEPSEEK}V3.2", 685_355_329_792, mtp=True, twice=True),
    Checkpoint("moonshotai--Kimi-K2-Instruct", 1_026_408_232_448),  # summed over its 61 headers, without scales
    Checkpoint("MiniMaxAI--MiniMax-M2.5", 228_689_764_864),  # the hub's count of MiniMax-M2, of the same sizes
    Checkpoint("Qwen--Qwen3.5-35B-A3B", 35_951_822_704, mtp=True, vision=QWEN_VISION),
    Checkpoint("meta-llama--Llama-4-Scout-17B-16E-Instruct", 108_641_793_536, vision=LLAMA4_VISION),
]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda checkpoint: checkpoint.file)
def test_parameters_equal_the_stored_checkpoint(data_dir: Path, checkpoint: Checkpoint) -> None:
    model = load_model(data_dir / "models" / f"{checkpoint.file}.json")
    beside = checkpoint.vision + (model.mtp_parameters if checkpoint.mtp else 0)
    beside += 2 * model.vocabulary * model.hidden if checkpoint.twice else 0
    assert model.parameters + beside == checkpoint.stored


@dataclass(frozen=True)
class Card:
    """What a card says, in billions and as text, because the number of digits counts."""

    file: str
    total: str
    active: str
    source: str
    looked_up: bool = True  # the active weights include the table of embeddings
    vision: int = 0
    cut: bool = False  # a figure whose further digits are cut off instead of rounded


MISTRAL = "mistral.ai/news/mixtral-of-experts"
OSS_CARD = "gpt-oss model card, arXiv 2508.10925, table 1: unembedding counted as active, embedding not"
CARDS = [
    Card("mistralai--Mixtral-8x7B-v0.1", "46.7", "12.9", MISTRAL),
    Card(f"{QWEN}30B-A3B", "30.5", "3.3", "model card, of 3.353", cut=True),
    Card(f"{QWEN}235B-A22B-FP8", "235", "22", "model card"),
    Card(f"{DEEPSEEK}V3", "671", "36.6", "README_WEIGHTS.md: includes 0.9B for the output head", looked_up=False),
    Card(
        f"{DEEPSEEK}V3.2", "671", "37", "model card of DeepSeek-V3.1, whose sizes it keeps but for the indexer", False
    ),
    Card("moonshotai--Kimi-K2-Instruct", "1030", "32.6", "technical report, arXiv 2507.20534"),
    Card(f"{OPENAI}120b", "116.83", "5.13", OSS_CARD, looked_up=False),
    Card(f"{OPENAI}20b", "20.91", "3.61", OSS_CARD, looked_up=False),
    Card("google--gemma-4-26B-A4B", "25.2", "3.8", "model card, which counts the vision encoder (550M) apart"),
    Card("XiaomiMiMo--MiMo-V2-Flash", "309", "15", "model card"),
    # that these two leave out the table is inferred: with it, they would say 11 and 14
    Card("MiniMaxAI--MiniMax-M2.5", "230", "10", "model card of MiniMax-M2", looked_up=False),
    Card(f"{DEEPSEEK}V4-Flash", "284", "13", "model card", looked_up=False),
    Card("Qwen--Qwen3.5-35B-A3B", "35", "3", "model card"),
    Card(
        "meta-llama--Llama-4-Scout-17B-16E-Instruct", "109", "17", "model card, vision encoder in", vision=LLAMA4_VISION
    ),
]


def error(count: int, figure: str) -> float:
    return abs(count / 1e9 / float(figure) - 1)


def rounds_to(count: int, figure: str, cut: bool = False) -> bool:
    """Whether a count, rounded (or cut) to the digits of a figure, is the figure."""
    scale = 10 ** len(figure.partition(".")[2])
    return (math.floor if cut else round)(count / 1e9 * scale) / scale == float(figure)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.file)
def test_counts_agree_with_the_model_card(data_dir: Path, card: Card) -> None:
    model = load_model(data_dir / "models" / f"{card.file}.json")
    active = model.active_parameters - (0 if card.looked_up else model.lookup_parameters)
    assert error(model.parameters + card.vision, card.total) <= 0.01
    two_digits = len(card.active.replace(".", "")) <= 2
    assert error(active, card.active) <= 0.01 or (two_digits and rounds_to(active, card.active, card.cut)), active


def test_every_published_configuration_is_compared_and_without_a_warning(data_dir: Path) -> None:
    files = {path.stem for path in (data_dir / "models").glob("*.json")}
    assert files == {checkpoint.file for checkpoint in CHECKPOINTS} | {card.file for card in CARDS}
    assert len(files) == 19
    for file in files:
        assert load_model(data_dir / "models" / f"{file}.json").warnings == ()


def test_a_module_of_multi_token_prediction_has_the_published_size(data_dir: Path) -> None:
    model = load_model(data_dir / "models" / f"{DEEPSEEK}V3.json")
    assert len(model.mtp) == 1
    assert error(model.mtp_parameters, "11.5") <= 0.01  # README_WEIGHTS.md of deepseek-ai/DeepSeek-V3
    without = load_model(data_dir / "models" / "moonshotai--Kimi-K2-Instruct.json")
    assert (without.mtp, without.mtp_parameters) == ((), 0)


# Further architectures, by the facts of their published configurations, against the hub's counts.
MLA = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
DEEPSEEK_V2 = MLA | {
    "architectures": ["DeepseekV2ForCausalLM"],
    "vocab_size": 102400,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "torch_dtype": "bfloat16",
}
QWEN3_NEXT = {
    "architectures": ["Qwen3NextForCausalLM"],
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "vocab_size": 151936,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "torch_dtype": "bfloat16",
}
OTHERS: dict[str, tuple[dict[str, Any], int]] = {
    "DeepSeek-V2-Lite, queries without a low rank": (
        DEEPSEEK_V2
        | {"hidden_size": 2048, "num_hidden_layers": 27, "num_attention_heads": 16, "q_lora_rank": None}
        | {"intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 64, "topk_method": "greedy"},
        15_706_484_224,
    ),
    "DeepSeek-V2": (
        DEEPSEEK_V2
        | {"hidden_size": 5120, "num_hidden_layers": 60, "num_attention_heads": 128, "q_lora_rank": 1536}
        | {"intermediate_size": 12288, "moe_intermediate_size": 1536, "n_routed_experts": 160}
        | {"topk_method": "group_limited_greedy"},
        235_741_434_880,
    ),
    "Qwen3-Coder-Next": (QWEN3_NEXT, 79_674_391_296),
    "Qwen2.5-7B": (
        {"architectures": ["Qwen2ForCausalLM"], "hidden_size": 3584, "num_hidden_layers": 28, "vocab_size": 152064}
        | {"num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944, "torch_dtype": "bfloat16"},
        7_615_616_512,
    ),
    "Qwen3-Coder-480B-A35B": (
        {"architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 6144, "num_hidden_layers": 62, "vocab_size": 151936}
        | {"num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128, "torch_dtype": "bfloat16"}
        | {"num_experts": 160, "num_experts_per_tok": 8, "moe_intermediate_size": 2560},
        480_154_875_392,
    ),
}


def read(folder: Path, config: dict[str, Any]) -> Model:
    path = folder / "model.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return load_model(path)


@pytest.mark.parametrize("name", OTHERS)
def test_parameters_of_other_architectures_equal_the_stored_checkpoint(tmp_path: Path, name: str) -> None:
    config, stored = OTHERS[name]
    assert read(tmp_path, config).parameters == stored


def test_qwen3_next_stores_its_multi_token_prediction_beside_the_model(tmp_path: Path) -> None:
    model = read(tmp_path, QWEN3_NEXT | {"mtp_num_hidden_layers": 1})
    assert model.parameters + model.mtp_parameters == 81_324_862_720  # the hub's count of Qwen3-Next-80B-A3B-Instruct


def test_kimi_linear_agrees_with_the_hub(tmp_path: Path) -> None:
    full = [4, 8, 12, 16, 20, 24, 27]
    sizes = {"hidden_size": 2304, "num_hidden_layers": 27, "num_attention_heads": 32, "vocab_size": 163840}
    experts = {"num_experts": 256, "num_experts_per_token": 8, "num_shared_experts": 1, "moe_intermediate_size": 1024}
    linear = {"head_dim": 128, "num_heads": 32, "short_conv_kernel_size": 4, "full_attn_layers": full}
    other = {"intermediate_size": 9216, "first_k_dense_replace": 1, "dtype": "bfloat16"}
    config = sizes | MLA | experts | other | {"architectures": ["KimiLinearForCausalLM"], "linear_attn_config": linear}
    model = read(tmp_path, config)
    assert rounds_to(model.parameters, "49.1")  # the hub's count of Kimi-Linear-48B-A3B-Instruct
    assert rounds_to(model.active_parameters, "3")
    assert model.kv_bytes_per_token == len(full) * (512 + 64) * 2
    assert model.state_bytes == 20 * (32 * 128 * 128 * 4 + 3 * 32 * 128 * 3 * 2)


def test_llama_4_maverick_has_experts_in_every_other_layer(tmp_path: Path) -> None:
    sizes = {"hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8}
    widths = {"head_dim": 128, "intermediate_size": 8192, "intermediate_size_mlp": 16384, "vocab_size": 202048}
    experts = {"num_local_experts": 128, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2}
    config = sizes | widths | experts | {"architectures": ["Llama4ForCausalLM"], "torch_dtype": "bfloat16"}
    model = read(tmp_path, config)
    assert rounds_to(model.parameters + LLAMA4_VISION, "401.6")  # the hub's count of Llama-4-Maverick-17B-128E-Instruct
    assert [layer.feed_forward.kind for layer in model.layers[:4]] == ["dense", "experts", "dense", "experts"]
