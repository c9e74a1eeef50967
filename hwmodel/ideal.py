"""Idealised machines: one obstacle taken away, all else as it is; what a rerun on one gains is what the obstacle cost.

From a `Machine` to another one. Most idealisations are numbers of the description, set so far out that they no longer
count; two are none, and the machine itself leaves them out. One is another map of addresses, which is a good one and
not the best: a program that was placed for the map of its machine may lose by it. The program stays as it is: what it
would do with more stages or larger tiles where a scratchpad is larger is not in it. Gains do not add up: where two
obstacles hide one another, each alone gains nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hwmodel.engine.phase import MOST_OUTSTANDING
from hwmodel.machine import Hbm, Machine
from layouts.irreducible import RULE
from layouts.notation import nearest_first

BEYOND = 1 << 20  # assumed: more per cycle than any kernel asks for, and the most that a description takes
HASHES = "hbm.address_map.hashes"


@dataclass(frozen=True)
class Ideal:
    """An idealisation. `title`: in words; `numbers`: of the description, by path; the flags are those of `Machine`."""

    title: str
    numbers: Mapping[str, int | str | tuple[str, ...] | None] = field(default_factory=dict)
    ideal_rows: bool = False
    conflict_free: bool = False

    def applies(self, machine: Machine) -> bool:
        """Return whether a machine has the obstacle."""
        rows = self.ideal_rows and machine.memory == "hbm"
        return rows or self.conflict_free or any(_has(machine, path) for path in self.numbers)


def idealised(machine: Machine, names: Iterable[str]) -> Machine:
    """Return a machine without these obstacles. Raises ValueError for a name that is not in `IDEALS`."""
    chosen = [_ideal(name) for name in names]
    numbers = {path: value for ideal in chosen for path, value in ideal.numbers.items() if _has(machine, path)}
    return Machine(
        machine.spec.with_overrides(numbers),
        ideal_rows=any(ideal.ideal_rows for ideal in chosen),
        conflict_free=any(ideal.conflict_free for ideal in chosen),
    )


def _ideal(name: str) -> Ideal:
    if name not in IDEALS:
        raise ValueError(f"idealisation: unknown {name!r}; known: {nearest_first(name, IDEALS)}")
    return IDEALS[name]


def _has(machine: Machine, path: str) -> bool:
    """Return whether a machine has the part that a number belongs to, and its addresses could be spread otherwise."""
    if path == HASHES:
        return _spreads_otherwise(machine)
    part: object = machine.spec
    for name in path.split("."):
        part = getattr(part, name, None)
    return part is not None


def _spreads_otherwise(machine: Machine) -> bool:
    """Return whether the rule `irreducible` fits a machine's address map, and puts addresses elsewhere."""
    spec = machine.spec.hbm
    if spec is None:
        return False
    address_map = spec.address_map.model_copy(update={"hashes": (RULE,)})
    try:
        spread = Hbm.of(spec.model_copy(update={"address_map": address_map}), machine.spec.where).address_map
    except ValueError:
        return False
    own = machine.address_map
    return (set(spread.hashes), set(spread.turns)) != (set(own.hashes), set(own.turns))


_MATRIX = "cores.matrix"
IDEALS: dict[str, Ideal] = {
    "dram_rows": Ideal("rows of DRAM that open at once and need no refresh", ideal_rows=True),
    "address_map": Ideal("addresses spread over channels and banks by the rule irreducible", {HASHES: (RULE,)}),
    "bank_conflicts": Ideal("no bank conflicts in the scratchpads", conflict_free=True),
    "scratchpad": Ideal("scratchpads eight times as fast", {"cores.sram.ports": 8}),
    "dma_queue": Ideal(
        f"{MOST_OUTSTANDING} requests in flight per DMA engine", {"cores.dma.max_outstanding": MOST_OUTSTANDING}
    ),
    "dma_issue": Ideal(
        "DMA descriptors, indices and requests issued in a cycle each",
        {"cores.dma.issue_cycles": 1, "cores.dma.index_cycles": 1, "cores.dma.request_cycles": 1},
    ),
    "network": Ideal(
        "a network without latency or limits of its ports and bisection",
        {"noc.port_bytes_per_cycle": BEYOND, "noc.latency": "0 s", "noc.bisection": None},
    ),
    "shared_cache": Ideal(
        "a shared cache of unlimited bandwidth, in which any number of misses wait",
        {"shared_cache.bandwidth": "1 PB/s", "shared_cache.outstanding_misses": BEYOND},
    ),
    "tlb": Ideal("addresses translated at once", {"tlb.miss_latency": "0 s"}),
    "matrix": Ideal(
        "matrix units of unlimited rate",
        {f"{_MATRIX}.macs_per_cycle": BEYOND}
        | {f"{_MATRIX}.{dtype}.macs_per_cycle": BEYOND for dtype in ("bf16", "fp8", "int8", "fp32")}
        | {f"{_MATRIX}.{dtype}_scaled.macs_per_cycle": BEYOND for dtype in ("fp8", "fp4")},
    ),
    "vector": Ideal(
        "vector units of unlimited rate",
        {f"cores.vector.{name}": BEYOND for name in ("alu", "exp", "reduce", "convert")},
    ),
    "launch": Ideal("launches that take no time", {"launch.latency": "0 s"}),
}
