"""Linear attention: a recurrent state per sequence in place of a cache that grows.

The state of a value head is a matrix of key x value channels; a short causal convolution over q, k and v before it
keeps its last inputs. Sources: Qwen3NextGatedDeltaNet (src/transformers/models/qwen3_next of
huggingface/transformers), KimiDeltaAttention (modeling_kimi.py of moonshotai/Kimi-Linear-48B-A3B-Instruct), and for
the sizes of the states `MambaStateShapeCalculator` (vllm/model_executor/layers/mamba/mamba_utils.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from workloads.model.attention import FP32_BYTES
from workloads.model.fields import check_part


@dataclass(frozen=True)
class LinearAttention:
    """A gated delta rule with a decay per head (Gated DeltaNet), or per channel of the keys (KDA).

    `conv_bytes`: the bytes of an element of the convolution's inputs; the recurrent state is fp32.
    KDA has key heads as value heads, and both its decays and its output gate are projected through `dim_v` channels.
    """

    hidden: int
    heads_k: int
    heads_v: int
    dim_k: int
    dim_v: int
    conv_kernel: int
    decay: Literal["head", "channel"] = "head"
    conv_bytes: int = 2

    def __post_init__(self) -> None:
        check_part(self)
        if self.heads_v % self.heads_k:
            raise ValueError(f"key heads are {self.heads_k}; allowed: a divisor of the value heads ({self.heads_v})")
        if self.decay == "channel" and self.heads_k != self.heads_v:
            raise ValueError(f"key heads are {self.heads_k}; allowed: as many as value heads ({self.heads_v})")

    @property
    def kind(self) -> str:
        """Return the name of the kind."""
        return "linear_attention" if self.decay == "head" else "kda_attention"

    @property
    def conv_channels(self) -> int:
        """The channels of q, k and v, which pass the convolution."""
        return 2 * self.heads_k * self.dim_k + self.heads_v * self.dim_v

    @property
    def parameters(self) -> int:
        """The weights of the projections, the convolution, the decays, the gate and the norm of the output."""
        values = self.heads_v * self.dim_v
        inward = self.hidden * self.conv_channels + self.conv_channels * self.conv_kernel
        update = self.hidden * self.heads_v  # beta
        out = values * self.hidden + self.dim_v
        if self.decay == "head":
            gate, decay = self.hidden * values, self.hidden * self.heads_v + 2 * self.heads_v  # a_proj, A_log, dt_bias
        else:
            keys = self.heads_k * self.dim_k
            gate = self.dim_v * (self.hidden + values)
            decay = self.dim_k * (self.hidden + keys) + self.heads_k + keys  # f_a, f_b, A_log, dt_bias
        return inward + update + out + gate + decay

    @property
    def kv_elements_per_token(self) -> int:
        """None: tokens add to the state."""
        return 0

    @property
    def window_kv_elements(self) -> int:
        """None."""
        return 0

    def kv_elements(self, context: int) -> int:
        """Return 0 at any length."""
        return 0

    @property
    def state_bytes(self) -> int:
        """The bytes of the matrices of all value heads, and of the inputs the convolution still needs."""
        matrices = self.heads_v * self.dim_k * self.dim_v * FP32_BYTES
        return matrices + self.conv_channels * (self.conv_kernel - 1) * self.conv_bytes

    @property
    def beyond_plain(self) -> tuple[str, ...]:
        """All of it."""
        return ("linear attention",)
