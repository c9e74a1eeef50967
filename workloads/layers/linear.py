"""Linear attention: Gated DeltaNet and KDA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from workloads.kernels import linear_decode, linear_prefill
from workloads.kernels.tuning.chunks import by_channel, by_head, candidates
from workloads.layers.products import product
from workloads.layers.setting import RESULT, Setting, Values, fitted, fitting
from workloads.model.linear import LinearAttention
from workloads.sequence import Step


def linear_steps(a: LinearAttention, s: Setting) -> Iterator[Step]:
    key_heads, heads = s.share(a.heads_k, "heads_k"), s.share(a.heads_v, "heads_v")
    stacked = 2 * key_heads * a.dim_k + heads * a.dim_v + heads  # queries, keys, values, strengths, and what follows
    if a.decay == "head":
        width = stacked + heads * a.dim_v + heads
        yield product("in", s, width, a.hidden, "normed", "in")
    else:  # gate and decay are products of two narrow ones
        width = stacked + a.dim_k + a.dim_v
        yield product("in", s, width, a.hidden, "normed", "in")
        yield product("decay", s, key_heads * a.dim_k, a.dim_k, s.part("in", width, column=stacked))
        yield product("gate", s, heads * a.dim_v, a.dim_v, s.part("in", width, column=stacked + a.dim_k))
    for which, part in s.parts():
        begin = {"q": 0, "k": key_heads * a.dim_k, "v": 2 * key_heads * a.dim_k}
        values = {name: part.part("in", width, column=column) for name, column in begin.items()}
        values["out"] = part.part("heads", heads * a.dim_v)
        yield _attend(f"attention{which}", a, (heads, key_heads), part, values)
    yield product("out", s, a.hidden, heads * a.dim_v, "heads", RESULT)


def _attend(title: str, a: LinearAttention, heads: tuple[int, int], s: Setting, values: Values) -> Step:
    """Return the step that takes sequences on from their states. Raises ValueError for drafts."""
    if not s.work.decodes:
        problem: Any = linear_prefill.Problem(s.work.new, *heads, a.dim_k, a.dim_v, s.dtype)
        kernel, ranking = ("linear-prefill", by_head) if a.decay == "head" else ("kda-prefill", by_channel)
        return fitting(title, kernel, problem, candidates(ranking, problem, s.machine), s, values)
    if max(s.work.new) > 1:  # a state for each token that may be the last one accepted
        raise ValueError(
            f"model: attention {a.kind} has no kernel that verifies drafts; a sequence has {max(s.work.new)} new "
            "tokens, allowed: 1, or a prompt"
        )
    problem = linear_decode.Problem(len(s.work.new), *heads, a.dim_k, a.dim_v, a.decay == "channel", s.dtype)
    return fitted(title, "linear-decode", problem, linear_decode.Knobs(), s, values)
