"""Stacks that mix linear and full attention: Qwen3-Next and Qwen3.5 (Gated DeltaNet), Kimi-Linear (KDA).

Sources: src/transformers/models/{qwen3_next,qwen3_5,qwen3_5_moe,kimi_linear} of huggingface/transformers;
modeling_kimi.py of moonshotai/Kimi-Linear-48B-A3B-Instruct.
"""

from __future__ import annotations

from workloads.model.architectures.deepseek import latent
from workloads.model.architectures.llama import sparse_steps
from workloads.model.architectures.stack import FULL, Stack, dense, depth, experts, kinds, softmax, stack
from workloads.model.attention import Attention
from workloads.model.fields import MAX_LAYERS, Fields
from workloads.model.linear import LinearAttention
from workloads.model.model import Layer

LINEAR = "linear_attention"


def qwen_hybrid_moe(fields: Fields) -> Stack:
    """Return the stack of a Qwen3-Next or Qwen3.5 with routed experts and a gated shared one."""
    width = fields.size("shared_expert_intermediate_size", 512)
    names = ("num_experts", "num_experts_per_tok", "moe_intermediate_size")
    routed = experts(fields, *names, shared_intermediate=width, shared_gate=True)
    parts = zip(_attentions(fields), sparse_steps(fields, routed), strict=True)
    layers = [Layer(attention, feed_forward) for attention, feed_forward in parts]
    return stack(fields, layers, mtp=_mtp(fields, Layer(_full(fields), routed)))


def qwen_hybrid(fields: Fields) -> Stack:
    """Return the stack of a dense Qwen3.5."""
    layers = [Layer(attention, dense(fields)) for attention in _attentions(fields)]
    return stack(fields, layers, mtp=_mtp(fields, Layer(_full(fields), dense(fields))))


def kimi_linear(fields: Fields) -> Stack:
    """Return the stack of a Kimi-Linear: KDA, and latent attention in the layers (from 1) of `full_attn_layers`."""
    layers, linear = depth(fields), fields.section("linear_attn_config")
    hidden, heads, dim = fields.size("hidden_size"), linear.size("num_heads"), linear.size("head_dim")
    delta = LinearAttention(hidden, heads, heads, dim, dim, linear.size("short_conv_kernel_size", 4), decay="channel")
    full = linear.positions("full_attn_layers", layers + 1)
    linear.positions("kda_layers", layers + 1)
    fields.has("head_dim")  # repeats what latent attention does not use
    shared = fields.size("num_shared_experts", least=0) * fields.size("moe_intermediate_size")
    names = ("num_experts", "num_experts_per_token", "moe_intermediate_size")
    routed = experts(fields, *names, shared_intermediate=shared, router_bias=True)
    first, every = fields.size("first_k_dense_replace", least=0), fields.size("moe_layer_freq", 1, most=MAX_LAYERS)
    attention, plain = latent(fields), dense(fields)
    found = [
        Layer(attention if at + 1 in full else delta, routed if at >= first and at % every == 0 else plain)
        for at in range(layers)
    ]
    fields.only("num_nextn_predict_layers", 0)
    return stack(fields, found)


def _attentions(fields: Fields) -> list[Attention]:
    layers, every = depth(fields), fields.size("full_attention_interval", 4, most=MAX_LAYERS)
    default = [FULL if (at + 1) % every == 0 else LINEAR for at in range(layers)]
    full, delta = _full(fields), _delta(fields)
    return [full if kind == FULL else delta for kind in kinds(fields, layers, (LINEAR, FULL), default)]


def _full(fields: Fields) -> Attention:
    gate = fields.flag("attn_output_gate", True)
    bias = fields.flag("attention_bias", False)
    return softmax(fields, 256, qk_norm="head", gate=gate, bias_qkv=bias, bias_out=bias)


def _delta(fields: Fields) -> LinearAttention:
    fields.choice("mamba_ssm_dtype", ("float32",), "float32")
    return LinearAttention(
        fields.size("hidden_size"),
        fields.size("linear_num_key_heads"),
        fields.size("linear_num_value_heads"),
        fields.size("linear_key_head_dim"),
        fields.size("linear_value_head_dim"),
        fields.size("linear_conv_kernel_dim", 4),
    )


def _mtp(fields: Fields, layer: Layer) -> tuple[Layer, ...]:
    return (layer,) * fields.size("mtp_num_hidden_layers", 0, least=0, most=MAX_LAYERS)
