"""What every kernel template is made of, and the checks they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwmodel.machine import Machine
from hwmodel.program import Program
from layouts.notation import nearest_first
from workloads.batch import Batch
from workloads.model import Model


@dataclass(frozen=True)
class Kernel:
    """A template: from a model and a batch to a problem, from a problem and knobs to a program.

    `Knobs` is a frozen dataclass with a default per knob. `shape(model, batch, options)` gives the problem from
    what the kernel needs of a model, a batch and the sizes named in `options`,
    `canonical(problem, knobs)` a key that is equal for knobs of one meaning, `compile(problem, knobs, machine, seed)`
    the program.
    """

    name: str
    Knobs: type[Any]
    options: tuple[str, ...]
    shape: Callable[[Model | None, Batch | None, Mapping[str, int]], Any]
    canonical: Callable[[Any, Any], tuple[Any, ...]]
    compile: Callable[[Any, Any, Machine, int], Program]


MAX_SIZE = 1 << 24  # assumed: a problem size beyond it is a slip
MAX_KNOB = 1 << 20  # assumed, likewise


def require_options(kernel: str, options: Mapping[str, int], allowed: Sequence[str]) -> None:
    """Raise ValueError unless `options` are exactly `allowed`, each an integer of at least one."""
    for name in options:
        if name not in allowed:
            known = nearest_first(name, allowed) or "the sizes of the model and the batch"
            raise ValueError(f"kernel {kernel}: takes no size {name!r}; it takes {known}")
    for name in allowed:
        if name not in options:
            raise ValueError(f"kernel {kernel}: size {name} is missing; it needs {', '.join(allowed)}")
        value = options[name]
        if not isinstance(value, int) or not 1 <= value <= MAX_SIZE:
            raise ValueError(f"kernel {kernel}: size {name} is {value!r}; allowed: an integer from 1 to {MAX_SIZE}")


def check_counts(knobs: Any, least: Mapping[str, int]) -> None:
    """Raise ValueError if a knob is not an integer of at least its least value (and at most 2^20)."""
    for name, low in least.items():
        value = getattr(knobs, name)
        if type(value) is not int or not low <= value <= MAX_KNOB:
            raise ValueError(f"knob {name}: {value!r}; allowed: an integer from {low} to {MAX_KNOB}")


def require_16_bit(kernel: str, dtype: str) -> str:
    """Return `dtype`; raise ValueError unless it has 16 bits, the only width whose matrix rate machines describe."""
    if dtype not in ("bf16", "fp16"):
        raise ValueError(f"kernel {kernel}: dtype {dtype!r} is not modelled; allowed: bf16, fp16")
    return dtype
