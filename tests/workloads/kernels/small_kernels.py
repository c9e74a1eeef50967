"""A small program of every kernel template, with the knobs that it suggests itself or smaller tiles that fit."""

from __future__ import annotations

from hwmodel.machine import DoesNotFit, Machine
from hwmodel.program import Program
from workloads.batch import uniform
from workloads.kernels import KERNELS
from workloads.kernels.base import shrinking
from workloads.model import load_model

SIZES = {
    "m": 40, "n": 64, "k": 128, "products": 2, "heads": 4, "prefix": 32, "rows": 20, "ratio": 4, "sequences": 2,
    "tokens": 16, "experts": 4, "topk": 2, "inter": 64, "columns": 128,
}  # fmt: skip
OPTIONAL = {"top_k": 16, "vocabulary": 256, "columns": 128, "hidden": 128}


def small_program(name: str, machine: Machine) -> Program:
    """Return a program of a kernel for a machine. Raises ValueError where they do not go together."""
    kernel = KERNELS[name]
    options = {option: SIZES[option] for option in kernel.options}
    options |= {option: size for option, size in OPTIONAL.items() if option in kernel.optional}
    options |= {"k": 8} if name == "top-k" else {}
    batch = uniform(2, 70) if "batch" in kernel.needs else None
    problem = kernel.shape(load_model("llama-3.1-8b"), batch, options)
    last: DoesNotFit | None = None
    for knobs in shrinking(kernel.suggested(problem, machine)):
        try:
            return kernel.compile(problem, knobs, machine, 1)
        except DoesNotFit as error:
            last = error
    assert last is not None
    raise last
