"""A call: what one measured time of a library's operator is made of, as launches of kernels.

A `Launch` is one kernel of the call with the schedules that may be chosen for it, the most promising first by a
closed-form estimate (`roof`); which of them is best is for a simulation to say. `NotModelled` says why a row has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hwmodel.machine import Machine
from hwmodel.program import Program
from layouts.notation import nearest_first
from workloads.kernels import KERNELS

SIZES = (
    "m", "n", "k", "batch", "q_len", "kv_len", "heads_q", "heads_kv", "head_dim", "head_dim_v", "window", "causal",
    "tokens", "hidden", "inter", "experts", "topk", "moe_tp", "rows", "cols", "gated",
)  # fmt: skip
NAMES = ("op", "dtype", "kv_dtype", "kernel", "framework", "distribution")
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
SPELLINGS = {own: name for name, own in DTYPES.items()}  # this project's words, taken as those of measurements
MAX_SIZE = 1 << 24  # assumed: a size beyond it is a slip
MAX_RESULTS = 1 << 36  # elements of a product; assumed, four times the largest measured one
MAX_TOKENS = 1 << 28  # in all caches of a call; assumed, ten times the largest measured ones
MAX_QUERIES = 1 << 28  # times heads, of a prefill; assumed, twenty times the largest measured one
MAX_CHOICES = 1 << 27  # tokens times experts; assumed, five times the largest measured layer


class NotModelled(ValueError):
    """A row for which there is no call, and why."""


@dataclass(frozen=True)
class Row:
    """One row of a table of measured kernels: names as they stand there, sizes as integers, without what is empty."""

    names: Mapping[str, str]
    sizes: Mapping[str, int]

    @property
    def op(self) -> str:
        return self.names.get("op", "")

    @property
    def dtype(self) -> str:
        """The type in the words of measurements, `bfloat16` for `bf16`; nothing where it is missing."""
        name = self.names.get("dtype", "")
        return SPELLINGS.get(name, name)

    def need(self, *names: str) -> list[int]:
        """Return sizes. Raises NotModelled naming one that is missing or not in 1 to MAX_SIZE."""
        for name in names:
            value = self.sizes.get(name)
            if value is None or not 1 <= value <= MAX_SIZE:
                shown = "missing" if value is None else f"{value}; allowed: 1 to {MAX_SIZE}"
                raise NotModelled(f"{self.op}: {name} is {shown}")
        return [self.sizes[name] for name in names]

    def optional(self, name: str, default: int) -> int:
        """Return a size that may be missing. Raises NotModelled where it is not in 1 to MAX_SIZE."""
        return self.need(name)[0] if name in self.sizes else default

    def unknown_dtype(self, known: Iterable[str]) -> NotModelled:
        """Return what is said of a type for which there is no kernel, in this project's words."""
        name = self.names.get("dtype", "")
        said = f"{name!r} has no kernel" if name else "is missing"
        words = [DTYPES.get(one, one) for one in known]
        return NotModelled(f"{self.op}: dtype {said}; known: {nearest_first(name, words)}")

    def float_dtype(self) -> str:
        """Return the dtype of a row of 16 or 32 bits in this project's words. Raises NotModelled for others."""
        if self.dtype not in DTYPES:
            raise self.unknown_dtype(DTYPES)
        return DTYPES[self.dtype]


@dataclass(frozen=True)
class Variant:
    """A kernel with a problem and knobs, and what an estimate in closed form says it takes, in femtoseconds.

    Variants of one `family` differ in sizes that the estimate can compare; of each family the best is looked at first.
    """

    kernel: str
    problem: Any
    knobs: Any
    estimate_fs: float = 0.0
    family: str = ""

    def compile(self, machine: Machine) -> Program:
        """Return the program. Raises ValueError where it does not fit the machine."""
        return KERNELS[self.kernel].compile(self.problem, self.knobs, machine, 0)


@dataclass(frozen=True)
class Launch:
    """One kernel of a call: `variants` by estimate, best first; `macs` of `dtype` and `moved_bytes` it cannot avoid.

    `moved_bytes` are read from or written to main memory. `launches` is how many kernels it starts at least.
    """

    name: str
    variants: tuple[Variant, ...]
    dtype: str
    macs: int
    moved_bytes: int
    launches: int = 1
    on_vector: bool = False  # products are those of the vector unit

    def fitting(self, machine: Machine, most: int) -> list[tuple[Variant, Program]]:
        """Return up to `most` variants that fit, with their programs, the most promising first.

        Raises NotModelled with the last reason where none fits.
        """
        found: list[tuple[Variant, Program]] = []
        families: set[str] = set()
        reason = "no schedule"
        for variant in self.variants:
            if variant.family in families:
                continue
            try:
                program = variant.compile(machine)
            except ValueError as error:
                reason = str(error)
            else:
                assert self.launches <= len(program.phases), f"{self.name}: {len(program.phases)} phases"
                found.append((variant, program))
                families.add(variant.family)
            if len(found) == most:
                break
        if not found:
            raise NotModelled(f"{self.name}: no schedule fits {machine.spec.name}: {reason}")
        return found


@dataclass(frozen=True)
class Call:
    """Launches in order.

    `graph`: the call is a graph of kernels of its own, which takes a gap to launch and is replayed over the same
    tensors: what fits a shared cache still lies there from the time before.
    """

    launches: tuple[Launch, ...]
    graph: bool = False


def beyond_cache(size_bytes: int, machine: Machine) -> int:
    """Return what main memory surely moves of tensors that the kernel before has made or that the next one takes.

    A shared cache may keep the rest.
    """
    cache = machine.spec.shared_cache
    return max(0, size_bytes - (cache.distinct_bytes if cache else 0))


def require_within(op: str, what: str, count: int, most: int) -> None:
    """Raise NotModelled where a call is larger than what is worked on."""
    if count > most:
        raise NotModelled(f"{op}: {what} {count}; allowed: up to {most}")


def ranked(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    """Return variants, the smallest estimate first."""
    return tuple(sorted(variants, key=lambda variant: variant.estimate_fs))


Builder = Callable[[Row, Machine], Call]
