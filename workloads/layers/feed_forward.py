"""Feed forward: dense, or of experts.

The kernel of experts takes the format in which routed experts are stored, as `moe_formats` has it for the machine:
fp8 and nvfp4 with activations quantised alike where the matrix unit multiplies them, mxfp4 with activations in mxfp8
where it applies scales to those, as TensorRT-LLM has it on Blackwell, and else weights expanded to 16 bits. A shared
expert is part of the kernel where it is stored alike, and else products of its own and an addition.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from workloads.kernels import activation, moe_layer, residual_add
from workloads.kernels.base import shrinking
from workloads.kernels.moe_formats import OF_FP16
from workloads.kernels.tuning import experts as tuning
from workloads.layers.formats import SIXTEEN, Weights
from workloads.layers.products import product
from workloads.layers.setting import RESULT, Setting, by_rows, fitting, noted
from workloads.model.feed_forward import Dense, Experts
from workloads.sequence import Step

NORMED = "mlp normed"


def feed_forward_steps(f: Any, s: Setting) -> Iterator[Step]:
    """Yield the steps from the value "mlp normed" to the result."""
    if isinstance(f, Dense):
        yield from _mlp(f.hidden, s.share(f.intermediate, "intermediate"), s, RESULT)
    elif isinstance(f, Experts):
        yield product("router", s, f.routed, f.hidden, NORMED)
        shared = s.share(f.shared_intermediate, "shared_intermediate") if f.shared_intermediate else 0
        alike = {s.formats.of(title) for title in ("experts", "shared gate and up", "shared down")}
        if shared and len(alike) > 1:
            yield from _mlp(f.hidden, shared, s, "shared result", "shared ")
            yield _experts(f, s, 0, "routed result")
            added = residual_add.Problem(s.tokens, f.hidden, s.dtype)
            values = {"x": "shared result", "residual": "routed result", "out": RESULT}
            yield by_rows("shared add", "residual-add", added, residual_add.Knobs, s, values)
        else:
            yield _experts(f, s, shared, RESULT)
    else:
        raise ValueError(f"model: feed forward {f.kind} has no kernels")


def _mlp(hidden: int, inner: int, s: Setting, leaves: str, which: str = "") -> Iterator[Step]:
    both, activated = f"{which}gate and up", f"{which}activated"
    yield product(both, s, 2 * inner, hidden, NORMED, both)
    problem, values = activation.Problem(s.tokens, inner, s.dtype), {"gate and up": both, "out": activated}
    yield by_rows(f"{which}swiglu", "swiglu", problem, activation.Knobs, s, values)
    yield product(f"{which}down", s, hidden, inner, activated, leaves)


def _experts(f: Experts, s: Setting, shared: int, leaves: str) -> Step:
    weights = s.formats.of("experts")
    form, why = expert_format(weights, s)
    problem = moe_layer.Problem(
        tokens=s.tokens,
        experts=f.routed,
        topk=f.top_k,
        dtype=s.dtype,
        hidden=f.hidden,
        inter=s.share(f.intermediate, "intermediate"),
        shared=shared,
        format=form,
    )
    tiles = (*tuning.candidates(problem, s.machine), *shrinking(moe_layer.Knobs()))
    step = fitting("experts", "moe", problem, tiles, s, {"x": NORMED, "out": leaves})
    return noted(step, f"experts: weights are stored as {weights.text}, {why}" if why else "")


def expert_format(weights: Weights, s: Setting) -> tuple[str, str]:
    """Return the format of `moe_formats` for experts stored so, and what it has otherwise than they are stored."""
    matrix, bf16, alone = s.machine.spec.cores.matrix, s.dtype == "bf16", weights.alone
    if weights == SIXTEEN:
        return "16-bit", ""
    if weights.name in ("fp8", "fp8-block"):
        if bf16 and matrix.fp8 is not None and not alone:
            return ("fp8" if weights.name == "fp8" else "w8a8-block"), ""
        return "w8a16-fp8", "" if weights.name == "fp8-block" else "read with a scale per 128 of k"
    if weights.name == "int4" and weights.group not in (32, 128):
        return "16-bit", "read in 16 bits: experts have kernels for groups of 32 and of 128"
    form = {
        "mxfp8": "mxfp8",
        "mxfp4": "w4a16-mxfp4" if alone or matrix.fp8_scaled is None else "w4a8-mxfp4-mxfp8",
        "nvfp4": "w4a16-nvfp4" if alone or matrix.fp4_scaled is None else "nvfp4",
        "int4": "w4a16" if weights.group == 128 else "w4a16-g32",
    }[weights.name]
    if bf16 or form in OF_FP16:
        return form, "multiplied with activations in mxfp8" if alone and form == "mxfp8" else ""
    return "16-bit", f"read in 16 bits: no kernel multiplies them with {s.dtype}"
