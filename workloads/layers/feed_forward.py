"""Feed forward: dense, or of experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from workloads.kernels import activation, moe_layer
from workloads.layers.products import product
from workloads.layers.setting import RESULT, Setting, by_rows, fitting, shrinking
from workloads.model.feed_forward import Dense, Experts
from workloads.sequence import Step

NORMED = "mlp normed"


def feed_forward_steps(f: Any, s: Setting) -> Iterator[Step]:
    """Yield the steps from the value "mlp normed" to the result."""
    if isinstance(f, Dense):
        inner = s.share(f.intermediate, "intermediate")
        yield product("gate and up", s, 2 * inner, f.hidden, NORMED, "gate and up")
        values = {"gate and up": "gate and up", "out": "activated"}
        yield by_rows("swiglu", "swiglu", activation.Problem(s.tokens, inner, s.dtype), activation.Knobs, s, values)
        yield product("down", s, f.hidden, inner, "activated", RESULT)
    elif isinstance(f, Experts):
        inner, shared = s.share(f.intermediate, "intermediate"), 0
        if f.shared_intermediate:
            shared = s.share(f.shared_intermediate, "shared_intermediate")
        yield product("router", s, f.routed, f.hidden, NORMED)
        problem = moe_layer.Problem(
            tokens=s.tokens, experts=f.routed, topk=f.top_k, dtype=s.dtype, hidden=f.hidden, inter=inner, shared=shared
        )
        tiles = (*moe_layer.candidates(problem, s.machine), *shrinking(moe_layer.Knobs()))
        yield fitting("experts", "moe", problem, tiles, s, {"x": NORMED, "out": RESULT})
    else:
        raise ValueError(f"model: feed forward {f.kind} has no kernels")
