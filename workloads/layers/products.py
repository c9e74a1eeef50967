"""Products of tokens with weights: the kernel follows from how the weights are stored and what the machine multiplies.

| weights | machine that multiplies their type | other machines |
|---|---|---|
| 16 bits | `gemv` or `gemm` | the same |
| e4m3, a scale per 128 x 128 | `gemm-w8a8-block` | `gemm-w8a16-fp8`, scales repeated per row in 16 bits |
| e4m3, a scale per matrix (or per channel, taken as that) | `gemm-fp8` | `gemm-w8a16-fp8`, a 16-bit scale per row |
| mxfp8 | `gemm-mxfp8` | `gemm-w8a16-mxfp8` |
| nvfp4 | `gemm-nvfp4` | `gemm-w4a16-nvfp4` |
| mxfp4, 4-bit integers | `gemm-w4a16-mxfp4`, `gemm-w4a16` | the same |

The kernels of the other machines, and of the last row, expand weights on the vector unit, as Marlin does. Those whose
activations are not of 16 bits have a step of their own before them that quantises these, as vLLM has without fusion; it
is not fused with the norm or activation before, not shared by products of the same activations, and finds scales also
where a checkpoint gives them. Activations in fp16, or which the checkpoint says nothing of beside narrow weights, take
the kernels of the other machines, as results of the others are bf16. Their scales are a tensor of each step. Products
in batches, of a head or a group each, have weights that serving stacks dequantise when they load them: they are read in
16 bits, and a note says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from workloads.kernels import gemm, gemm_mx, gemm_w4a16, gemm_w8a8, quantise, quantise_scaled
from workloads.kernels.tuning import products
from workloads.layers.formats import SIXTEEN, Weights
from workloads.layers.setting import Setting, Values, by_rows, fitting, noted
from workloads.sequence import Step
from workloads.values import Part


def product(
    title: str,
    setting: Setting,
    n: int,
    k: int,
    takes: str | Part = "",
    leaves: str | Part = "",
    *,
    m: int | None = None,
    batch: int | None = None,
) -> Step:
    """Return a matrix product of the new tokens (or `m` rows) with weights of `n` rows and `k` columns.

    The title says whose weights they are (`formats`). `takes`, `leaves`: the values of its rows and of what it
    computes, where they have names.
    """
    rows, weights = setting.tokens if m is None else m, setting.formats.of(title)
    values = {name: value for name, value in (("a", takes), ("c", leaves)) if value}
    if weights == SIXTEEN:
        return _plain(title, setting, gemm.Problem(rows, n, k, setting.dtype, batch), values)
    if batch is not None:
        step = _plain(title, setting, gemm.Problem(rows, n, k, setting.dtype, batch), values)
        return in_16_bits(step, title, setting)
    kernel, problem = _narrow(weights, setting, rows, n, k)
    step = fitting(title, kernel, problem, products.candidates(problem, setting.machine), setting, values)
    repeats = kernel == "gemm-w8a16-fp8" and weights.name == "fp8-block"
    return noted(step, "weights: scales of blocks are read repeated per row, in 16 bits" if repeats else "")


def in_16_bits(step: Step, title: str, setting: Setting) -> Step:
    """Return a step with the note that the weights of a module, if stored in fewer bits, are read in 16."""
    weights = setting.formats.of(title)
    why = "read in 16 bits, to which serving stacks dequantise them when they load them"
    return step if weights == SIXTEEN else noted(step, f"{title}: weights are stored as {weights.text}, {why}")


def _plain(title: str, setting: Setting, problem: gemm.Problem, values: Values) -> Step:
    """Return a product of weights of 16 bits.

    Few rows take the kernel that reads weights once, where all rows of a core's tile fit. A batch lies within each row,
    as heads do.
    """
    if problem.batch is not None:
        within = products.candidates(problem, setting.machine, layout_a="m batch k", layout_c="m batch n")
        return fitting(title, "batched-gemm", problem, within, setting, values)
    if problem.m <= products.FEW_ROWS:
        try:
            return fitting(title, "gemv", problem, products.few_rows(problem, setting.machine), setting, values)
        except ValueError:  # all rows of a core's tile must fit
            pass
    return fitting(title, "gemm", problem, products.candidates(problem, setting.machine), setting, values)


def _narrow(weights: Weights, setting: Setting, m: int, n: int, k: int) -> tuple[str, Any]:
    """Return the kernel and the problem for weights of a format."""
    matrix, dtype, name = setting.machine.spec.cores.matrix, setting.dtype, weights.name
    narrow = dtype == "bf16" and not weights.alone  # activations
    if narrow and name in ("fp8", "fp8-block") and matrix.fp8 is not None:
        if name == "fp8":
            return "gemm-fp8", gemm.Problem(m, n, k, "fp8_e4m3")
        return "gemm-w8a8-block", gemm_w8a8.Problem(m, n, k)
    scaled = {"mxfp8": matrix.fp8_scaled, "nvfp4": matrix.fp4_scaled}.get(name)
    if narrow and scaled is not None:
        return f"gemm-{name}", gemm_mx.Problem(m, n, k, name)
    stored = "fp8" if name in ("fp8", "fp8-block") else name
    group = min(weights.group or k, k)  # where k is shorter, all of it shares one scale
    return gemm_w4a16.WEIGHTS[stored].kernel, gemm_w4a16.Problem(m, n, k, dtype, group, stored)


def with_passes(steps: Iterable[Step], setting: Setting) -> Iterator[Step]:
    """Yield the steps, and before each product whose activations are not of 16 bits the pass that quantises them."""
    for step in steps:
        if step.kernel in _PASSES:
            made = _pass(step, _PASSES[step.kernel], setting)
            yield made
            step = replace(step, values={**step.values, "a": made.name})
        yield step


_PASSES = {
    "gemm-w8a8-block": "block",
    "gemm-fp8": "tensor",
    "gemm-mxfp8": "mxfp8",
    "gemm-nvfp4": "nvfp4",
}


def _pass(step: Step, per: Any, setting: Setting) -> Step:
    title, m, k = f"quantise for {step.name}", step.problem.m, step.problem.k
    values = {"q": title, **({"x": step.values["a"]} if "a" in step.values else {})}
    if per in quantise_scaled.NAMES:
        problem: Any = quantise_scaled.Problem(m, k, setting.dtype, per)
        return by_rows(title, quantise_scaled.NAMES[per], problem, quantise_scaled.Knobs, setting, values)
    problem = quantise.Problem(m, k, setting.dtype, per)
    return fitting(title, quantise.NAMES[per], problem, quantise.candidates(problem, setting.machine), setting, values)
