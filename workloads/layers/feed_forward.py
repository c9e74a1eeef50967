"""Feed forward: dense, or of experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from workloads.kernels import activation, moe_layer
from workloads.layers.products import product
from workloads.layers.residual import rms_norm
from workloads.layers.setting import Setting, by_rows, fitting, shrinking
from workloads.model.feed_forward import Dense, Experts
from workloads.sequence import Step


def feed_forward_steps(f: Any, s: Setting, residual: bool) -> Iterator[Step]:
    yield rms_norm("mlp norm", s, f.hidden, residual=residual)
    if isinstance(f, Dense):
        inner = s.share(f.intermediate, "intermediate")
        yield product("gate and up", s, 2 * inner, f.hidden)
        yield by_rows("swiglu", "swiglu", activation.Problem(s.tokens, inner, s.dtype), activation.Knobs, s)
        yield product("down", s, f.hidden, inner)
    elif isinstance(f, Experts):
        inner, shared = s.share(f.intermediate, "intermediate"), 0
        if f.shared_intermediate:
            shared = s.share(f.shared_intermediate, "shared_intermediate")
        yield product("router", s, f.routed, f.hidden)
        problem = moe_layer.Problem(
            tokens=s.tokens, experts=f.routed, topk=f.top_k, dtype=s.dtype, hidden=f.hidden, inter=inner, shared=shared
        )
        tiles = (*moe_layer.candidates(problem, s.machine), *shrinking(moe_layer.Knobs()))
        yield fitting("experts", "moe", problem, tiles, s)
    else:
        raise ValueError(f"model: feed forward {f.kind} has no kernels")
