"""The architectures whose files are understood: the name in a file's `architectures` -> what reads its stack."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from workloads.model.architectures import deepseek, deepseek_v4, hybrid, llama, windowed
from workloads.model.architectures.stack import Stack
from workloads.model.fields import Fields

ARCHITECTURES: Mapping[str, Callable[[Fields], Stack]] = {
    "LlamaForCausalLM": llama.llama,
    "MistralForCausalLM": llama.mistral,
    "MixtralForCausalLM": llama.mixtral,
    "Qwen2ForCausalLM": llama.qwen2,
    "Qwen3ForCausalLM": llama.qwen3,
    "Qwen3MoeForCausalLM": llama.qwen3_moe,
    "MiniMaxM2ForCausalLM": llama.minimax_m2,
    "DeepseekV2ForCausalLM": deepseek.deepseek_v2,
    "DeepseekV3ForCausalLM": deepseek.deepseek_v3,
    "DeepseekV32ForCausalLM": deepseek.deepseek_v32,
    "DeepseekV4ForCausalLM": deepseek_v4.deepseek_v4,
    "Qwen3NextForCausalLM": hybrid.qwen_hybrid_moe,
    "Qwen3_5MoeForConditionalGeneration": hybrid.qwen_hybrid_moe,
    "Qwen3_5MoeForCausalLM": hybrid.qwen_hybrid_moe,
    "Qwen3_5ForConditionalGeneration": hybrid.qwen_hybrid,
    "Qwen3_5ForCausalLM": hybrid.qwen_hybrid,
    "KimiLinearForCausalLM": hybrid.kimi_linear,
    "GptOssForCausalLM": windowed.gpt_oss,
    "MiMoV2FlashForCausalLM": windowed.mimo_v2_flash,
    "Llama4ForCausalLM": windowed.llama4,
    "Llama4ForConditionalGeneration": windowed.llama4,
    "Gemma4ForCausalLM": windowed.gemma4,
    "Gemma4ForConditionalGeneration": windowed.gemma4,
}
