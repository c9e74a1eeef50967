"""Kernels: the parts of a layer of experts, and the layer."""

from __future__ import annotations

from workloads.kernels import model_sizes, moe_finalize, moe_gemm, moe_layer, moe_permute, moe_route
from workloads.kernels.base import Kernel
from workloads.kernels.tuning import experts

ROUTED = {"tokens": "tokens of the batch", "experts": "routed experts", "topk": "experts of a token"}
ROOM = {"max_rows": "rows that an expert has room for in masked groups; 0: for all tokens"}
COLUMNS = {"columns": "elements of a token; by default the model's hidden size"}
FORMAT = {"format": "types of activations and weights: 16-bit, which is the model's, or a name such as fp8"}

KERNELS = (
    Kernel(
        "moe",
        "a layer of experts: route, permute, product, SwiGLU, product, finalise; a model gives all but tokens",
        moe_layer.Knobs,
        (),
        ("tokens", "experts", "topk", "inter"),
        moe_layer.shape,
        moe_layer.canonical,
        moe_layer.compile,
        optional={"hidden": 0, "shared": 0, "max_rows": 0, "format": "16-bit"},
        candidates=experts.candidates,
        sizes={
            **ROUTED,
            **ROOM,
            **FORMAT,
            "inter": "channels inside an expert",
            "hidden": "elements of a token; by default the model's",
            "shared": "channels inside a shared expert; by default the model's, or none",
        },
        gives=model_sizes.expert_layer,
        routed=True,
        keeps=moe_layer.WEIGHTS,
    ),
    Kernel(
        "moe-route",
        "from the router's logits to the experts of every token and their weights",
        moe_route.Knobs,
        (),
        ("tokens", "experts", "topk"),
        moe_route.shape,
        moe_route.canonical,
        moe_route.compile,
        sizes=ROUTED,
        gives=model_sizes.experts,
        typed=False,
    ),
    Kernel(
        "moe-permute",
        "rows of tokens are gathered into the order of their experts",
        moe_permute.Knobs,
        (),
        ("tokens", "experts", "topk"),
        moe_permute.shape,
        moe_permute.canonical,
        moe_permute.compile,
        optional={"columns": 0, "max_rows": 0},
        sizes={**ROUTED, **ROOM, **COLUMNS},
        gives=model_sizes.expert_rows,
        routed=True,
    ),
    Kernel(
        "grouped-gemm",
        "rows of tokens times the weights of their experts, in groups; a model gives those of gate and up",
        moe_gemm.Knobs,
        (),
        ("tokens", "experts", "topk", "n", "k"),
        moe_gemm.shape,
        moe_gemm.canonical,
        moe_gemm.compile,
        optional={"max_rows": 0, "format": "16-bit"},
        candidates=experts.candidates,
        sizes={**ROUTED, **ROOM, **FORMAT, "n": "columns of the result", "k": "elements of a row that are summed over"},
        gives=model_sizes.expert_product,
        routed=True,
    ),
    Kernel(
        "moe-finalize",
        "every token gathers the rows of its experts and adds them up by their weights",
        moe_finalize.Knobs,
        (),
        ("tokens", "experts", "topk"),
        moe_finalize.shape,
        moe_finalize.canonical,
        moe_finalize.compile,
        optional={"columns": 0, "max_rows": 0},
        sizes={**ROUTED, **ROOM, **COLUMNS},
        gives=model_sizes.expert_rows,
        routed=True,
    ),
)
