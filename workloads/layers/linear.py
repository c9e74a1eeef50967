"""Linear attention: Gated DeltaNet and KDA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from workloads.kernels import kda_prefill, linear_decode, linear_prefill
from workloads.layers.products import product
from workloads.layers.setting import Setting, fitted
from workloads.model.linear import LinearAttention
from workloads.sequence import Step

KDA = "kda-prefill", kda_prefill.Knobs()


def linear_steps(a: LinearAttention, s: Setting) -> Iterator[Step]:
    key_heads, heads = s.share(a.heads_k, "heads_k"), s.share(a.heads_v, "heads_v")
    if a.decay == "head":
        yield product("in", s, 2 * key_heads * a.dim_k + 2 * heads * a.dim_v + 2 * heads, a.hidden)
    else:  # gate and decay are products of two narrow ones
        yield product("in", s, 2 * key_heads * a.dim_k + heads * a.dim_v + heads + a.dim_k + a.dim_v, a.hidden)
        yield product("decay", s, key_heads * a.dim_k, a.dim_k)
        yield product("gate", s, heads * a.dim_v, a.dim_v)
    for which, part in s.parts():
        yield _attend(f"attention{which}", a, (heads, key_heads), part)
    yield product("out", s, a.hidden, heads * a.dim_v)


def _attend(title: str, a: LinearAttention, heads: tuple[int, int], s: Setting) -> Step:
    """Return the step that takes sequences on from their states. Raises ValueError for drafts."""
    if not s.work.decodes:
        problem: Any = linear_prefill.Problem(s.work.new, *heads, a.dim_k, a.dim_v, s.dtype)
        kernel, knobs = ("linear-prefill", linear_prefill.Knobs()) if a.decay == "head" else KDA
        return fitted(title, kernel, problem, knobs, s)
    if max(s.work.new) > 1:  # a state for each token that may be the last one accepted
        raise ValueError(
            f"model: attention {a.kind} has no kernel that verifies drafts; a sequence has {max(s.work.new)} new "
            "tokens, allowed: 1, or a prompt"
        )
    problem = linear_decode.Problem(len(s.work.new), *heads, a.dim_k, a.dim_v, a.decay == "channel", s.dtype)
    return fitted(title, "linear-decode", problem, linear_decode.Knobs(), s)
